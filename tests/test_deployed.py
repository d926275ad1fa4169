"""The network outside of eager single precision: exported and compiled by torch, and on a GPU."""

import pytest
import torch
from children import Child
from squares import Squares, small

from ssd_annotated.detection import detect
from ssd_annotated.model import evaluating


def trained_like(model):
    """Louder heads, so that an untrained network makes up its mind."""
    with torch.no_grad():
        for head in model.confidence_heads:
            head.weight *= 10
    return model.eval()


@torch.no_grad()
def gap_after_export(build):
    """The largest difference between a network and itself, exported, for other numbers of images.

    It runs in a child, which has no shape checks: they are no part of the network.
    """
    torch.manual_seed(0)
    model = build().eval()
    side = model.recipe.image_size
    shapes = {"images": {0: torch.export.Dim("batch", min=1, max=64)}}
    program = torch.export.export(model, (torch.zeros(2, 3, side, side),), dynamic_shapes=shapes)
    gaps = []
    for batch in (1, 3):
        images = torch.randn(batch, 3, side, side)
        pairs = zip(model(images), program.module()(images), strict=True)
        gaps += [(one - other).abs().max().item() for one, other in pairs]
    return max(gaps)


def test_torch_exports_the_network():
    status, gap = Child(gap_after_export, small).end()
    assert status == 0
    assert gap < 1e-5


def detections_when_compiled(backend):
    """Detections of a network, and of itself compiled to one whole graph."""
    model = trained_like(small())
    images = [Squares(4)[k][0] for k in range(4)]
    eager = detect(model, images, score_threshold=0.2)
    model.compile(backend=backend, fullgraph=True)
    return eager, detect(model, images, score_threshold=0.2)


def test_torch_compiles_the_network():
    # "aot_eager" traces the network as "inductor" does, and needs no C++ compiler.
    status, (eager, compiled) = Child(detections_when_compiled, "aot_eager").end()
    assert status == 0
    count = 0
    for one, other in zip(eager, compiled, strict=True):
        count += len(one.scores)
        torch.testing.assert_close(tuple(one), tuple(other), rtol=0, atol=1e-5)
    assert count > 10


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision_finds_the_same_on_a_gpu(kind):
    # Eleven and eight bits: a score of 0.5 moves by a few thousandths, a box by a few hundredths
    # of its side.
    model, images = trained_like(small()), [Squares(6)[k][0] for k in range(6)]
    single = detect(model, images, score_threshold=0.4)
    halved = detect(model.to("cuda", kind), images, score_threshold=0.4)
    for one, other in zip(single, halved, strict=True):
        for box, score, label in zip(*one):
            same = other.labels.cpu() == label
            gap = (other.boxes.cpu()[same] - box).abs().amax(dim=1)
            assert gap.min() < 0.05
            assert (other.scores.cpu()[same][gap.argmin()] - score).abs() < 0.05
    with evaluating(model), torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64).to(model.priors)).logits.dtype == kind
