"""Transfer: what a network says of the classes that it shares stays what it was."""

import torch

from ssd_annotated.model import ssd300_vgg16, tiny_ssd
from ssd_annotated.networks.ssdlite import ssdlite320_mobilenet_v3_large
from ssd_annotated.training.transfer import start_from

NAMES = ("background", "cat", "dog", "owl")


def test_shared_classes_keep_their_logits_and_boxes():
    torch.manual_seed(0)
    old = tiny_ssd(4, 64, (4, 4, 8, 8, 8, 8), NAMES).eval().to(memory_format=torch.channels_last)
    new = start_from(old, ("background", "emu", "owl", "cat", "fox")).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        before, after = old(images), new(images)
    assert torch.equal(before.offsets, after.offsets)
    torch.testing.assert_close(after.logits[..., [0, 2, 3]], before.logits[..., [0, 3, 1]])
    assert new.recipe.class_names == ("background", "emu", "owl", "cat", "fox")
    assert new.spec.num_classes == after.logits.shape[2] == 5


def test_new_classes_start_at_random():
    torch.manual_seed(0)
    old = tiny_ssd(4, 64, (4, 4, 8, 8, 8, 8), NAMES)
    heads = [start_from(old, ("background", "fox")).confidence_heads[0].weight for _ in range(2)]
    one, other = (head.unflatten(0, (4, 2)) for head in heads)
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.isclose(one[:, 1], other[:, 1]).any()


def test_as_many_other_classes_are_other_classes():
    torch.manual_seed(0)
    old = tiny_ssd(4, 64, (4, 4, 8, 8, 8, 8), NAMES)
    new = start_from(old, ("background", "owl", "fox", "cat"))
    before, after = (m.confidence_heads[2].bias.unflatten(0, (4, 4)) for m in (old, new))
    assert torch.equal(after[:, [0, 1, 3]], before[:, [0, 3, 1]])
    assert not torch.isclose(after[:, 2], before[:, 2]).any()


def test_a_layer_that_is_as_wide_as_all_rows_together_has_no_rows():
    # SSDLite's first head looks at 672 channels one by one: as many as six priors of 112 classes.
    names = ("background", *map(str, range(1, 112)))
    old = ssdlite320_mobilenet_v3_large(112, class_names=names, image_size=64)
    before, after = (m.state_dict() for m in (old, start_from(old, ("background", "7"))))
    name = "confidence_heads.0.0.0.weight"
    assert torch.equal(after[name], before[name])
    rows = "confidence_heads.0.1.weight"
    was, now = (x[rows].unflatten(0, (6, -1)) for x in (before, after))
    assert torch.equal(now, was[:, [0, 7]])


def test_maps_with_different_numbers_of_priors():
    torch.manual_seed(0)
    old = ssd300_vgg16(3, class_names=NAMES[:3])
    new = start_from(old, ("background", "dog"))
    for each, before, after in zip(
        (4, 6, 6, 6, 4, 4), old.confidence_heads, new.confidence_heads, strict=True
    ):
        was, now = before.weight.unflatten(0, (each, 3)), after.weight.unflatten(0, (each, 2))
        assert torch.equal(now, was[:, [0, 2]])
