"""Numbers at their limits: finite, or refused with a sentence, and so are their gradients."""

import math
from itertools import product

import pytest
import torch

from ssd_annotated.boxes import cxcywh_to_xyxy
from ssd_annotated.coding import decode, encode
from ssd_annotated.evaluation.voc import evaluate
from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.matching import match_priors
from ssd_annotated.nms import Detections, postprocess
from ssd_annotated.priors import make_priors, tiny_priors

PRIORS = make_priors(tiny_priors(64))  # 344
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
OPTIONS = (
    {},
    {"confidence": "focal"},
    {"localization": "l1", "normalize": "priors"},
    {"normalize": "images", "method": "argmax"},
)


def some_objects(count, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    low, span = torch.tensor([0.2, 0.2, 0.05, 0.05]), torch.tensor([0.6, 0.6, 0.3, 0.3])
    boxes = cxcywh_to_xyxy(low + span * torch.rand(count, 4, generator=generator))
    return {"boxes": boxes, "labels": torch.randint(1, classes, (count,), generator=generator)}


def extreme_predictions(images, classes, dtype):
    """Logits of −10,000, 0 and 10,000, and offsets as far out as a network's first steps."""
    generator = torch.Generator().manual_seed(1)
    offsets = 10 * torch.randn(images, len(PRIORS), 4, generator=generator)
    signs = torch.randint(-1, 2, (images, len(PRIORS), classes), generator=generator)
    return offsets.to(dtype).requires_grad_(), (1e4 * signs).to(dtype).requires_grad_()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("images", "classes"), [(1, 2), (2, 1001)])
def test_the_loss_of_extreme_logits_is_finite_and_so_is_its_gradient(images, classes, dtype):
    for options, count in product(OPTIONS, (0, 3)):
        offsets, logits = extreme_predictions(images, classes, dtype)
        targets = [some_objects(count, classes, seed) for seed in range(images)]
        total = MultiBoxLoss(PRIORS, **options)((offsets, logits), targets).total
        total.backward()
        assert total.isfinite(), options
        assert offsets.grad.isfinite().all(), options
        assert logits.grad.isfinite().all(), options


def test_a_sum_beyond_half_precision_is_that_of_single_precision():
    # Eight negatives of 20,000 each, over two positives: 80,000, and half precision ends at 65,504.
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 2 + [[0.1, 0.1, 0.1, 0.1]] * 8)
    target = {"boxes": cxcywh_to_xyxy(priors[:1]), "labels": torch.tensor([1])}
    logits = torch.tensor([[[-1e4, 1e4]] * 10], dtype=torch.float16)
    loss = MultiBoxLoss(priors, negatives_per_positive=4)
    parts = loss((torch.zeros(1, 10, 4, dtype=torch.float16), logits), [target])
    assert parts.num_positives == 2
    assert parts.confidence.item() == pytest.approx(80_000, rel=1e-3)
    assert parts.confidence.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [2, 1001])
def test_detections_of_extreme_logits_are_finite(classes, dtype):
    predictions = [part.detach() for part in extreme_predictions(2, classes, dtype)]
    for found in postprocess(tuple(predictions), PRIORS.to(dtype), score_threshold=1e-3):
        assert len(found.scores) > 0
        assert found.boxes.isfinite().all()
        assert ((found.scores > 0) & (found.scores <= 1)).all()


@pytest.mark.parametrize("method", ["bipartite", "forced", "argmax", "first"])
def test_an_object_without_area_is_left_out_or_makes_a_loss_that_no_run_accepts(method):
    # The other methods give every object a prior, and the logarithm of its width is −∞.
    point = {"boxes": torch.tensor([[0.3, 0.3, 0.3, 0.4]]), "labels": torch.tensor([1])}
    predictions = (torch.zeros(1, len(PRIORS), 4), torch.zeros(1, len(PRIORS), 2))
    loss = MultiBoxLoss(PRIORS, method=method)
    if method == "bipartite":
        assert [part.item() for part in loss(predictions, [point])] == [0, 0, 0, 0]
    else:
        assert loss(predictions, [point]).total == math.inf


def test_boxes_without_area_have_no_iou_and_so_no_match_and_no_hit():
    points = torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.1, 0.2, 0.9, 0.2]])
    assert (match_priors(PRIORS, points) == -1).all()
    target = {"boxes": points, "labels": torch.tensor([1, 1])}
    same = Detections(points, torch.tensor([0.9, 0.8]), torch.tensor([1, 1]))
    assert evaluate([same], [target], 2).mean_ap == 0


def test_ten_thousand_objects():
    # There are only 344 priors, so each of them learns an object and most objects are left out.
    target = some_objects(10_000, 4)
    matches = match_priors(PRIORS, target["boxes"])
    assert (matches >= 0).all()
    assert len(matches.unique()) == len(PRIORS)
    predictions = (torch.zeros(1, len(PRIORS), 4), torch.zeros(1, len(PRIORS), 4))
    parts = MultiBoxLoss(PRIORS, method="argmax")(predictions, [target])
    assert parts.total.isfinite()


@pytest.mark.parametrize("max_log_size", [None, 1.0])
def test_the_gradients_of_coding_are_those_of_finite_differences(max_log_size):
    generator = torch.Generator().manual_seed(0)
    priors = 0.2 + 0.3 * torch.rand(5, 4, generator=generator, dtype=torch.float64)
    offsets = 3 * torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    boxes = decode(offsets, priors).requires_grad_()
    offsets.requires_grad_()
    assert torch.autograd.gradcheck(lambda b: encode(b, priors), (boxes,))
    assert torch.autograd.gradcheck(
        lambda o: decode(o, priors, max_log_size=max_log_size), (offsets,)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_there_and_back_in_half_precision(dtype):
    # A corner is off by a few units in the last place of 1.
    boxes = cxcywh_to_xyxy(PRIORS).to(dtype)
    back = decode(encode(boxes, PRIORS.to(dtype)), PRIORS.to(dtype))
    assert back.dtype == dtype
    assert (back - boxes).abs().max() <= 4 * torch.finfo(dtype).eps
