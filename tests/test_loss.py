"""The loss: equations (1) to (3) in plain Python, torchvision's loss, and cases by hand."""

import math
from types import SimpleNamespace

import plain_targets as plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from torch.nn.functional import cross_entropy, smooth_l1_loss
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from examples import few
from ssd_annotated.boxes import cxcywh_to_xyxy
from ssd_annotated.loss import (
    MultiBoxLoss,
    Positives,
    assign_targets,
    check_targets,
    focal_loss,
    mine_hard_negatives,
    smooth_l1,
)
from ssd_annotated.matching import match_priors
from ssd_annotated.priors import PRESETS, make_priors, tiny_priors

CLASSES = 4
DTYPE = torch.float64
NO_OBJECT = {"boxes": torch.zeros(0, 4, dtype=DTYPE), "labels": torch.zeros(0, dtype=torch.int64)}


def random_case(objects, num_priors=40, seed=0, dtype=DTYPE):
    """Priors, predictions and targets for a batch whose images hold `objects` objects each."""
    generator = torch.Generator().manual_seed(seed)

    def boxes(count):
        rows = torch.rand(count, 4, generator=generator, dtype=dtype)
        return rows * torch.tensor([0.6, 0.6, 0.4, 0.4], dtype=dtype) + 0.2

    shape = (len(objects), num_priors)
    offsets = 3 * torch.randn(*shape, 4, generator=generator, dtype=dtype)
    logits = 2 * torch.randn(*shape, CLASSES, generator=generator, dtype=dtype)
    targets = [
        {
            "boxes": cxcywh_to_xyxy(boxes(count)),
            "labels": torch.randint(1, CLASSES, (count,), generator=generator),
        }
        for count in objects
    ]
    return boxes(num_priors), (offsets, logits), targets


# ---------------------------------------------------------------- the paper's equations, literally


def literal_smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def literal_image(priors, offsets, logits, boxes, labels, ratio):
    """Localization and confidence loss of one image, before the division, and its positives."""
    matches = match_priors(priors, boxes).tolist()
    boxes, labels = boxes.tolist(), labels.tolist()
    localization = confidence = 0.0
    negatives = []
    for i, (cx, cy, w, h) in enumerate(priors.tolist()):
        scores = [math.exp(c) for c in logits[i].tolist()]
        if matches[i] < 0:
            negatives.append(-math.log(scores[0] / sum(scores)))
            continue
        left, top, right, bottom = boxes[matches[i]]
        g_hat = [
            ((left + right) / 2 - cx) / w / 0.1,
            ((top + bottom) / 2 - cy) / h / 0.1,
            math.log((right - left) / w) / 0.2,
            math.log((bottom - top) / h) / 0.2,
        ]
        for predicted, true in zip(offsets[i].tolist(), g_hat, strict=True):
            localization += literal_smooth_l1(predicted - true)
        confidence -= math.log(scores[labels[matches[i]]] / sum(scores))
    positives = len(matches) - len(negatives)
    confidence += sum(sorted(negatives, reverse=True)[: int(ratio * positives)])
    return localization, confidence, positives


def literal_images(priors, predictions, targets, ratio=3.0):
    return [
        literal_image(priors, offsets, logits, target["boxes"], target["labels"], ratio)
        for offsets, logits, target in zip(*predictions, targets, strict=True)
    ]


def literal_loss(priors, predictions, targets, ratio=3.0, alpha=1.0):
    images = literal_images(priors, predictions, targets, ratio)
    localization, confidence, positives = (sum(part) for part in zip(*images, strict=True))
    if positives == 0:
        return 0.0, 0.0, 0.0, 0
    localization, confidence = localization / positives, confidence / positives
    return confidence + alpha * localization, localization, confidence, positives


def literal_loss_per_image(priors, predictions, targets, alpha=1.0):
    """The mean over the images; each image is divided by its own positives."""
    localization = confidence = 0.0
    positives = 0
    for image in literal_images(priors, predictions, targets):
        if image[2] > 0:
            localization += image[0] / image[2] / len(targets)
            confidence += image[1] / image[2] / len(targets)
            positives += image[2]
    return confidence + alpha * localization, localization, confidence, positives


def literal_loss_per_prior(priors, predictions, targets, alpha=1.0):
    """The sums of the whole batch over the rows of the network's output."""
    images = literal_images(priors, predictions, targets)
    localization, confidence, positives = (sum(part) for part in zip(*images, strict=True))
    rows = len(targets) * len(priors)
    localization, confidence = localization / rows, confidence / rows
    return confidence + alpha * localization, localization, confidence, positives


def as_numbers(parts):
    return [part.item() for part in parts]


@few(25)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=3),
    st.integers(0, 2**31),
    st.sampled_from([0.5, 1.0, 2.5]),
    st.sampled_from([0.0, 1.0, 3.0, 100.0]),
)
def test_the_loss_is_the_papers(objects, seed, alpha, ratio):
    priors, predictions, targets = random_case(objects, 25, seed)
    loss = MultiBoxLoss(priors, alpha=alpha, negatives_per_positive=ratio)
    expected = literal_loss(priors, predictions, targets, ratio, alpha)
    assert as_numbers(loss(predictions, targets)) == pytest.approx(expected, rel=1e-9)


def test_the_defaults_are_the_papers():
    priors, predictions, targets = random_case([3, 1, 4])
    parts = MultiBoxLoss(priors)(predictions, targets)
    assert as_numbers(parts) == pytest.approx(literal_loss(priors, predictions, targets))
    assert all(part.shape == () for part in parts)
    assert parts.total.dtype == DTYPE


def test_one_image_by_hand():
    # Prior 0 is the object itself, so its true offsets are 0; the other five are far from it.
    # Its offsets are off by .5, 0, −2, 0: ½ · .25 + 0 + 1.5 + 0 = 1.625.
    # Two classes. The positive is undecided: ln 2. The negatives' logits for the object are
    # 0, 1, 2, 3, −9 against 0 for background: a loss of ln(1 + eˣ) each; 3, 2 and 1 are mined.
    priors = torch.tensor([[0.2, 0.2, 0.2, 0.2]] + [[0.8, 0.8, 0.1, 0.1]] * 5, dtype=DTYPE)
    target = {
        "boxes": torch.tensor([[0.1, 0.1, 0.3, 0.3]], dtype=DTYPE),
        "labels": torch.tensor([1]),
    }
    offsets = torch.zeros(1, 6, 4, dtype=DTYPE)
    offsets[0, 0] = torch.tensor([0.5, 0.0, -2.0, 0.0])
    logits = torch.zeros(1, 6, 2, dtype=DTYPE)
    logits[0, :, 1] = torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, -9.0])
    parts = MultiBoxLoss(priors)((offsets, logits), [target])
    confidence = math.log(2) + sum(math.log(1 + math.exp(x)) for x in (3, 2, 1))
    assert as_numbers(parts) == pytest.approx([1.625 + confidence, 1.625, confidence, 1])


def test_torchvisions_loss():
    # Short of negatives, torchvision's mining takes positives for the rest and counts them twice;
    # so no image here has more than a quarter of positives.
    priors, predictions, targets = random_case([2, 0, 4, 1], num_priors=200, dtype=torch.float32)
    corners = cxcywh_to_xyxy(priors)
    matches = [match_priors(priors, target["boxes"], method="argmax") for target in targets]
    assert max((match >= 0).sum() for match in matches) * 4 <= 200
    theirs = SSD.compute_loss(
        SimpleNamespace(box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3),
        targets,
        {"bbox_regression": predictions[0], "cls_logits": predictions[1]},
        [corners] * 4,
        matches,
    )
    ours = MultiBoxLoss(priors, method="argmax")(predictions, targets)
    torch.testing.assert_close(ours.localization, theirs["bbox_regression"], rtol=1e-4, atol=0)
    torch.testing.assert_close(ours.confidence, theirs["classification"], rtol=1e-4, atol=0)


# ---------------------------------------------------------------- the plain version


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha": 0.5, "beta": 0.2, "negatives_per_positive": 2.5},
        {"negatives_per_positive": 1000.0},
        {"localization": "l1", "normalize": "images", "threshold": 0.4},
        {"confidence": "focal", "gamma": 1.5, "normalize": "priors"},
        {"confidence": "focal", "normalize": "images", "method": "argmax"},
    ],
)
@pytest.mark.parametrize("preset", ["caffe-voc", "tf2"])
def test_values_and_gradients_are_those_of_the_plain_loss(preset, options):
    priors = make_priors(PRESETS[preset], DTYPE)
    _, predictions, targets = random_case([3, 0, 8, 1], len(priors), seed=2)
    for tensor in predictions:
        tensor.requires_grad_()
    loss = MultiBoxLoss(priors, **options)
    rest = {k: v for k, v in options.items() if k not in ("threshold", "method")}
    ratio = rest.pop("negatives_per_positive", 3.0)
    true_offsets, labels = plain.assign_targets(
        priors, targets, loss.threshold, loss.method, loss.variances
    )
    for ours, theirs in zip(
        assign_targets(priors, targets, loss.threshold, loss.method), (true_offsets, labels)
    ):
        assert torch.equal(ours, theirs)
    expected = plain.multibox_loss(*predictions, true_offsets, labels, ratio, **rest)
    parts = loss(predictions, targets)
    torch.testing.assert_close(parts[:3], expected, rtol=1e-9, atol=0)
    for ours, theirs in zip(
        torch.autograd.grad(parts.total, predictions),
        torch.autograd.grad(expected[0], predictions),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_targets_or_their_positives():
    priors, predictions, targets = random_case([3, 0, 2])
    loss = MultiBoxLoss(priors)
    positives = loss.find_positives(targets, CLASSES)
    assert isinstance(positives, Positives)
    assert positives.counts == [sum(0 <= r - 40 * b < 40 for r in positives.rows) for b in range(3)]
    assert as_numbers(loss(predictions, positives)) == as_numbers(loss(predictions, targets))
    with refuses("predictions for 3 images, but 2 targets"):
        loss(predictions, positives._replace(counts=[1, 2]))


# ---------------------------------------------------------------- what the parts depend on


@pytest.mark.parametrize("images", [1, 3])
def test_without_a_positive_loss_and_gradient_are_zero(images):
    priors, predictions, _ = random_case([0] * images)
    for tensor in predictions:
        tensor.requires_grad_()
    # An object that overlaps no prior is not a positive either.
    lost = {
        "boxes": torch.tensor([[1.7, 1.7, 1.9, 1.9]], dtype=DTYPE),
        "labels": torch.tensor([1]),
    }
    for targets in ([NO_OBJECT] * images, [lost] * images):
        parts = MultiBoxLoss(priors)(predictions, targets)
        assert as_numbers(parts) == [0, 0, 0, 0]
        gradients = torch.autograd.grad(parts.total, predictions)
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_an_empty_image_contributes_nothing():
    priors, (offsets, logits), targets = random_case([3, 0])
    loss = MultiBoxLoss(priors)
    offsets.requires_grad_()
    logits.requires_grad_()
    both = loss((offsets, logits), targets)
    alone = loss((offsets[:1], logits[:1]), targets[:1])
    assert as_numbers(both) == as_numbers(alone)
    for gradient in torch.autograd.grad(both.total, (offsets, logits)):
        assert gradient[0].any()
        assert not gradient[1].any()


def test_a_batch_is_the_mean_of_its_images_weighted_by_their_positives():
    priors, (offsets, logits), targets = random_case([3, 1, 5])
    loss = MultiBoxLoss(priors)
    batch = loss((offsets, logits), targets)
    single = [loss((offsets[i : i + 1], logits[i : i + 1]), targets[i : i + 1]) for i in range(3)]
    positives = sum(parts.num_positives for parts in single)
    assert batch.num_positives == positives
    for name in ("total", "localization", "confidence"):
        weighted = sum(getattr(parts, name) * parts.num_positives for parts in single)
        torch.testing.assert_close(getattr(batch, name), weighted / positives)


@pytest.mark.parametrize("classes", [2, 4, 21])
def test_zero_logits_cost_4_ln_c(classes):
    # 40 priors, and a few positives among them: every positive brings three negatives along.
    priors, (offsets, _), targets = random_case([2, 1])
    targets = [t | {"labels": torch.ones_like(t["labels"])} for t in targets]
    parts = MultiBoxLoss(priors)((offsets, torch.zeros(2, 40, classes, dtype=DTYPE)), targets)
    assert parts.num_positives * 4 <= 40
    assert parts.confidence.item() == pytest.approx(4 * math.log(classes))


def test_perfect_offsets_cost_nothing():
    priors, (_, logits), targets = random_case([4, 2])
    true_offsets, _ = assign_targets(priors, targets)
    assert MultiBoxLoss(priors)((true_offsets, logits), targets).localization == 0


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"localization": "l1", "alpha": 2.0},
        {"beta": 0.1},
        {"confidence": "focal"},
        {"confidence": "focal", "gamma": 0.0},
        {"negatives_per_positive": 1.0, "method": "argmax", "variances": (1.0, 1.0)},
        {"normalize": "images"},
        {"normalize": "priors", "confidence": "focal", "gamma": 0.0},
    ],
)
def test_gradients_are_those_of_finite_differences(options):
    priors, (offsets, logits), targets = random_case([2, 1, 0], num_priors=12, seed=1)
    loss = MultiBoxLoss(priors, **options)
    inputs = (offsets.requires_grad_(), logits.requires_grad_())
    assert torch.autograd.gradcheck(
        lambda o, c: loss((o, c), targets).total, inputs, fast_mode=True
    )


def test_logits_too_large_for_exp_stay_finite():
    priors, (offsets, logits), targets = random_case([2])
    logits = (1e4 * logits).requires_grad_()
    for confidence in ("cross_entropy", "focal"):
        total = MultiBoxLoss(priors, confidence=confidence)((offsets, logits), targets).total
        (gradient,) = torch.autograd.grad(total, logits)
        assert total.isfinite()
        assert gradient.isfinite().all()


def test_difficult_objects_are_learnt_like_others():
    priors, predictions, targets = random_case([3])
    marked = [targets[0] | {"difficult": torch.ones(3, dtype=torch.bool)}]
    loss = MultiBoxLoss(priors)
    assert as_numbers(loss(predictions, marked)) == as_numbers(loss(predictions, targets))


# ---------------------------------------------------------------- options


def test_l1_counts_each_error_once():
    priors, predictions, targets = random_case([2, 3])
    true_offsets, labels = assign_targets(priors, targets)
    errors = (predictions[0] - true_offsets)[labels > 0].abs()
    parts = MultiBoxLoss(priors, localization="l1")(predictions, targets)
    assert parts.localization.item() == pytest.approx(errors.sum().item() / (labels > 0).sum())


def test_beta_is_that_of_smooth_l1():
    priors, predictions, targets = random_case([2, 3])
    true_offsets, labels = assign_targets(priors, targets)
    positive = labels > 0
    expected = smooth_l1_loss(
        predictions[0][positive], true_offsets[positive], reduction="sum", beta=1 / 9
    )
    parts = MultiBoxLoss(priors, beta=1 / 9)(predictions, targets)
    torch.testing.assert_close(parts.localization, expected / positive.sum())


def test_focal_loss_sums_over_all_priors():
    priors, predictions, targets = random_case([2, 3])
    _, labels = assign_targets(priors, targets)
    scores = predictions[1].softmax(dim=2)
    expected = 0.0
    for image, prior in torch.cartesian_prod(torch.arange(2), torch.arange(40)).tolist():
        p = scores[image, prior, labels[image, prior]].item()
        expected -= (1 - p) ** 1.5 * math.log(p)
    parts = MultiBoxLoss(priors, confidence="focal", gamma=1.5)(predictions, targets)
    assert parts.confidence.item() == pytest.approx(expected / (labels > 0).sum().item())


def test_focal_loss_without_a_positive_is_the_sum_over_the_background():
    priors, (offsets, logits), _ = random_case([0])
    background = focal_loss(logits, torch.zeros(1, 40, dtype=torch.int64)).sum()
    parts = MultiBoxLoss(priors, confidence="focal")((offsets, logits), [NO_OBJECT])
    assert as_numbers(parts) == pytest.approx([background.item(), 0, background.item(), 0])


def test_threshold_method_and_variances_reach_the_targets():
    priors, predictions, targets = random_case([12, 12])
    options = {"threshold": 0.3, "method": "argmax", "variances": (1.0, 0.5)}
    true_offsets, labels = assign_targets(priors, targets, **options)
    for name, usual in (("threshold", 0.5), ("method", "bipartite"), ("variances", (0.1, 0.2))):
        other_offsets, _ = assign_targets(priors, targets, **(options | {name: usual}))
        assert not torch.equal(other_offsets, true_offsets), f"{name} makes no difference here"
    parts = MultiBoxLoss(priors, localization="l1", **options)(predictions, targets)
    errors = (predictions[0] - true_offsets)[labels > 0].abs()
    assert parts.num_positives == (labels > 0).sum()
    assert parts.localization.item() == pytest.approx(errors.sum().item() / (labels > 0).sum())


OTHER_NORMALS = {"images": literal_loss_per_image, "priors": literal_loss_per_prior}


@few(15)
@given(
    st.sampled_from(sorted(OTHER_NORMALS)),
    st.lists(st.integers(0, 5), min_size=1, max_size=4),
    st.integers(0, 2**31),
    st.sampled_from([0.5, 1.0, 2.5]),
)
def test_the_other_normalizations_are_the_literal_ones(normalize, objects, seed, alpha):
    priors, predictions, targets = random_case(objects, 25, seed)
    parts = MultiBoxLoss(priors, alpha=alpha, normalize=normalize)(predictions, targets)
    expected = OTHER_NORMALS[normalize](priors, predictions, targets, alpha)
    assert as_numbers(parts) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("normalize", sorted(OTHER_NORMALS))
def test_the_other_normalizations_with_an_empty_image_among_others(normalize):
    case = random_case([4, 0, 1])
    parts = MultiBoxLoss(case[0], normalize=normalize)(*case[1:])
    assert as_numbers(parts) == pytest.approx(OTHER_NORMALS[normalize](*case))
    # All three differ here, or the comparison would prove nothing.
    assert OTHER_NORMALS[normalize](*case)[0] != pytest.approx(literal_loss(*case)[0], rel=0.05)


@pytest.mark.parametrize("normalize", sorted(OTHER_NORMALS))
@pytest.mark.parametrize("images", [1, 3])
def test_no_normalization_divides_by_zero(normalize, images):
    priors, predictions, _ = random_case([0] * images)
    for tensor in predictions:
        tensor.requires_grad_()
    parts = MultiBoxLoss(priors, normalize=normalize)(predictions, [NO_OBJECT] * images)
    assert as_numbers(parts) == [0, 0, 0, 0]
    for gradient in torch.autograd.grad(parts.total, predictions):
        assert torch.equal(gradient, torch.zeros_like(gradient))


def test_one_image_has_nothing_to_average_with():
    priors, predictions, targets = random_case([4])
    own = MultiBoxLoss(priors, normalize="images")(predictions, targets)
    batch = MultiBoxLoss(priors)(predictions, targets)
    assert as_numbers(own) == pytest.approx(as_numbers(batch), rel=1e-12)


def test_per_image_a_batch_is_the_plain_mean_of_its_images():
    # Normalised by the batch, the image of five objects would weigh more than that of one.
    priors, (offsets, logits), targets = random_case([5, 1, 0])
    loss = MultiBoxLoss(priors, normalize="images")
    single = [loss((offsets[i : i + 1], logits[i : i + 1]), targets[i : i + 1]) for i in range(3)]
    batch = loss((offsets, logits), targets)
    for name in ("total", "localization", "confidence"):
        mean = sum(getattr(parts, name) for parts in single) / 3
        torch.testing.assert_close(getattr(batch, name), mean)


def test_per_prior_normalization_by_hand():
    # Two images of two priors with two classes and zero logits: ln 2 from each of the four rows
    # (no mining), over four rows. The one positive is off by 2 in one coordinate: 2 / 4.
    priors = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.1, 0.1]], dtype=DTYPE)
    target = {
        "boxes": torch.tensor([[0.1, 0.1, 0.3, 0.3]], dtype=DTYPE),
        "labels": torch.tensor([1]),
    }
    offsets = torch.zeros(2, 2, 4, dtype=DTYPE)
    offsets[0, 0, 3] = -2.0
    predictions = (offsets, torch.zeros(2, 2, 2, dtype=DTYPE))
    options = {"confidence": "focal", "gamma": 0.0, "localization": "l1", "alpha": 0.25}
    parts = MultiBoxLoss(priors, normalize="priors", **options)(predictions, [target, NO_OBJECT])
    expected = [math.log(2) + 0.25 * 0.5, 0.5, math.log(2), 1]
    assert as_numbers(parts) == pytest.approx(expected)


def test_focal_loss_per_image_counts_an_empty_one_as_if_it_held_one_object():
    priors, (offsets, logits), targets = random_case([2, 0])
    _, labels = assign_targets(priors, targets)
    sums = focal_loss(logits, labels).sum(dim=1) / torch.tensor([(labels[0] > 0).sum(), 1])
    loss = MultiBoxLoss(priors, confidence="focal", normalize="images")
    torch.testing.assert_close(loss((offsets, logits), targets).confidence, sums.mean())


@given(st.lists(st.floats(-5, 5, width=32), min_size=1), st.sampled_from([0.1, 0.5, 1.0, 2.0]))
def test_smooth_l1_is_torchs(values, beta):
    x = torch.tensor(values, dtype=DTYPE)
    expected = smooth_l1_loss(x, torch.zeros_like(x), reduction="none", beta=beta)
    torch.testing.assert_close(smooth_l1(x, beta), expected)


def test_smooth_l1_by_hand():
    x = torch.tensor([0.0, 0.5, -0.5, 1.0, -3.0])
    torch.testing.assert_close(smooth_l1(x), torch.tensor([0.0, 0.125, 0.125, 0.5, 2.5]))
    # σ = 3, β = 1/9: ½ (3 · .1)² = .045 within 1/9, |x| − 1/18 beyond.
    expected = torch.tensor([0.045, 0.5 - 1 / 18])
    torch.testing.assert_close(smooth_l1(torch.tensor([0.1, -0.5]), 1 / 9), expected)


def test_focal_loss_without_focus_is_cross_entropy():
    _, (_, logits), _ = random_case([1, 1])
    labels = torch.randint(CLASSES, (2, 40), generator=torch.Generator().manual_seed(0))
    expected = cross_entropy(logits.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(focal_loss(logits, labels, 0.0), expected)


def test_focal_loss_by_hand():
    # Scores ¾ and ¼ for the true label, γ = 2: −(¼)² ln ¾ = .01798 and −(¾)² ln ¼ = .77979.
    logits = torch.tensor([[[math.log(3), 0.0], [0.0, math.log(3)]]])
    labels = torch.zeros(1, 2, dtype=torch.int64)
    expected = torch.tensor([[-math.log(0.75) / 16, -math.log(0.25) * 9 / 16]])
    torch.testing.assert_close(focal_loss(logits, labels), expected)


# ---------------------------------------------------------------- mining


def test_mining_by_hand():
    # One positive (the highest loss of all, which must not count as a negative): 3 negatives.
    # No positive: none. Three positives: 9 wanted, only 3 to be had.
    loss = torch.tensor(
        [
            [0.1, 9.0, 0.5, 0.3, 0.2, 0.4],
            [0.1, 9.0, 0.5, 0.3, 0.2, 0.4],
            [0.1, 9.0, 0.5, 0.3, 0.2, 0.4],
        ]
    )
    positive = torch.zeros(3, 6, dtype=torch.bool)
    positive[0, 1] = True
    positive[2, :3] = True
    mined = [row.nonzero().flatten().tolist() for row in mine_hard_negatives(loss, positive)]
    assert mined == [[2, 3, 5], [], [3, 4, 5]]


@given(st.data(), st.integers(1, 4), st.integers(1, 12), st.sampled_from([0, 1, 2, 3]))
def test_mining_takes_exactly_the_hardest(data, images, num_priors, ratio):
    rows = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0]), min_size=num_priors, max_size=num_priors)
    flags = st.lists(st.booleans(), min_size=num_priors, max_size=num_priors)
    loss = torch.tensor([data.draw(rows) for _ in range(images)])
    positive = torch.tensor([data.draw(flags) for _ in range(images)])
    mined = mine_hard_negatives(loss, positive, float(ratio))
    assert not (mined & positive).any()
    for image in range(images):
        negatives = ~positive[image]
        count = min(ratio * int(positive[image].sum()), int(negatives.sum()))
        assert mined[image].sum() == count
        hardest = sorted(loss[image][negatives].tolist(), reverse=True)[:count]
        assert sorted(loss[image][mined[image]].tolist(), reverse=True) == hardest


def test_mining_is_per_image():
    # The second image's negatives are all harder, but it has only one positive of its own.
    positive = torch.zeros(2, 10, dtype=torch.bool)
    positive[0, :2] = positive[1, 0] = True
    loss = torch.stack([torch.linspace(0, 1, 10), torch.linspace(5, 6, 10)])
    assert mine_hard_negatives(loss, positive).sum(dim=1).tolist() == [6, 3]


# ---------------------------------------------------------------- targets


def test_targets_by_hand():
    # Prior 0 is the object shifted by half its width: (.1 / .2) / .1 = 5, same size. Prior 1 is
    # elsewhere. The second image is empty.
    priors = torch.tensor([[0.2, 0.3, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2]])
    box = torch.tensor([[0.2, 0.2, 0.4, 0.4]])
    targets = [
        {"boxes": box, "labels": torch.tensor([3])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    offsets, labels = assign_targets(priors, targets)
    expected = torch.zeros(2, 2, 4)
    expected[0, 0, 0] = 5
    torch.testing.assert_close(offsets, expected, rtol=0, atol=1e-5)
    assert labels.tolist() == [[3, 0], [0, 0]]
    assert labels.dtype == torch.int64


def test_targets_are_larger_where_variances_are_smaller():
    priors, _, targets = random_case([4])
    usual, _ = assign_targets(priors, targets)
    plain, _ = assign_targets(priors, targets, variances=(1.0, 1.0))
    torch.testing.assert_close(usual * torch.tensor([0.1, 0.1, 0.2, 0.2]).double(), plain)


def test_each_prior_learns_the_label_of_its_own_object():
    priors, _, targets = random_case([6, 0, 3])
    offsets, labels = assign_targets(priors, targets)
    assert offsets.isfinite().all()
    for image, target in enumerate(targets):
        matches = match_priors(priors, target["boxes"])
        for prior, match in enumerate(matches.tolist()):
            if match < 0:
                assert labels[image, prior] == 0
                assert not offsets[image, prior].any()
            else:
                assert labels[image, prior] == target["labels"][match]


def test_the_priors_are_no_weights():
    loss = MultiBoxLoss(random_case([1])[0])
    assert not list(loss.parameters())
    assert not loss.state_dict()
    assert loss.to(torch.float32).priors.dtype == torch.float32


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"localization": "l2"}, "localization must be 'smooth_l1' or 'l1', not 'l2'"),
        ({"confidence": "bce"}, "confidence must be 'cross_entropy' or 'focal', not 'bce'"),
        ({"normalize": "batch"}, "normalize must be 'positives', 'images' or .*, not 'batch'"),
        ({"normalize": None}, "normalize must be .*, not None"),
        ({"beta": 0.0}, "beta must be positive and finite, not 0.0"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with refuses(message):
        MultiBoxLoss(torch.rand(3, 4), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, r"threshold must be an IoU in \(0, 1\], not 1.5"),
        ({"method": "best"}, "method must be 'bipartite', .* or 'first', not 'best'"),
    ],
)
def test_options_of_the_matching_are_refused_by_the_matching(options, message):
    priors, predictions, targets = random_case([1])
    with refuses(message):
        MultiBoxLoss(priors, **options)(predictions, targets)


@pytest.mark.parametrize("label", [0, -1, CLASSES])
def test_a_label_that_is_no_object_is_refused(label):
    priors, predictions, targets = random_case([2])
    targets[0]["labels"][1] = label
    with refuses(rf"labels\[1\] = {label}: an object's label lies in 1..3 \(0 is background\)"):
        MultiBoxLoss(priors)(predictions, targets)


def test_boxes_and_labels_must_pair_up():
    priors, predictions, targets = random_case([2])
    targets[0]["labels"] = torch.tensor([1, 2, 3])
    with refuses(r"2 boxes need as many labels, not \(3,\)"):
        MultiBoxLoss(priors)(predictions, targets)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ([0.9, 0.0, 0.5, 0.5], r"boxes\[0\] = \[0.9, 0.0, 0.5, 0.5\] .* xmin <= xmax"),
        ([0.1, 0.1, math.nan, 0.5], "nan"),
    ],
)
def test_a_box_that_is_none_is_refused(box, message):
    priors, predictions, targets = random_case([1])
    targets[0]["boxes"] = torch.tensor([box], dtype=DTYPE)
    with refuses(message):
        MultiBoxLoss(priors)(predictions, targets)


def test_predictions_must_fit_the_priors_and_the_targets():
    priors, (offsets, logits), targets = random_case([1, 1])
    loss = MultiBoxLoss(priors)
    with refuses(r"offsets have shape \(2, 39, 4\), expected \(B, 40, 4\)"):
        loss((offsets[:, :39], logits), targets)
    with refuses(r"logits have shape \(2, 39, 4\), expected \(2, 40, C\)"):
        loss((offsets, logits[:, :39]), targets)
    with refuses("predictions for 2 images, but 1 targets"):
        loss((offsets, logits), targets[:1])
    # One column would be broadcast over all four without an error.
    with refuses(r"offsets have shape \(2, 40, 1\), expected \(B, 40, 4\)"):
        loss((offsets[..., :1], logits), targets)


def test_all_targets_are_checked_not_the_first_alone():
    _, _, targets = random_case([2, 1, 3])
    check_targets(targets, CLASSES)
    targets[2]["labels"][1] = CLASSES
    with refuses(rf"labels\[4\] = {CLASSES}"):
        check_targets(targets, CLASSES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": torch.tensor([[10.0, 20.0, 100.0, 200.0]])}, "fractions .* found 200: divide"),
        ({"labels": torch.tensor([1.0])}, "labels must be integers, not torch.float32"),
        ({"labels": None}, r"a target needs boxes and labels: \['labels'\] missing"),
    ],
)
def test_a_target_in_other_units_or_types_is_refused(change, message):
    priors, predictions, (target,) = random_case([1])
    target = {key: value for key, value in (target | change).items() if value is not None}
    with refuses(message):
        MultiBoxLoss(priors)(predictions, [target])


def test_a_batch_without_an_image_is_refused():
    check_targets([], CLASSES)  # nothing is wrong with any target
    priors, (offsets, logits), _ = random_case([1])
    with refuses("a batch needs at least one image, not 0"):
        MultiBoxLoss(priors)((offsets[:0], logits[:0]), [])


def test_a_box_may_stick_out_by_one_image_but_not_by_more():
    labels = torch.tensor([1])
    check_targets([{"boxes": torch.tensor([[-2.0, 0.5, 2.0, 1.0]]), "labels": labels}], CLASSES)
    for box in ([0.0, 0.0, 2.01, 1.0], [0.0, -2.01, 1.0, 1.0]):
        with refuses("boxes must be fractions of the image, found 2.01: divide"):
            check_targets([{"boxes": torch.tensor([box]), "labels": labels}], CLASSES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "hungarian"}, "method must be .* not 'hungarian'"),
        ({"normalize": "sum"}, "normalize must be .* not 'sum'"),
        ({"threshold": 7.0}, r"threshold must be an IoU in \(0, 1\], not 7.0"),
        ({"alpha": -1.0}, "alpha must be 0 or more, and finite, not -1.0"),
        ({"gamma": -2.0}, "gamma must be 0 or more, and finite, not -2.0"),
        ({"negatives_per_positive": -3.0}, "negatives_per_positive must be 0 or more, .* not -3.0"),
        ({"variances": (0.0, 0.2)}, "variances must be positive and finite, not 0.0"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_when_it_is_made(options, message):
    with refuses(message):
        MultiBoxLoss(torch.tensor([[0.5, 0.5, 0.2, 0.2]]), **options)


def test_the_layout_of_the_predictions_does_not_matter():
    torch.manual_seed(0)
    priors = make_priors(tiny_priors(64))
    targets = [
        {"boxes": torch.rand(3, 2).repeat(1, 2) + torch.tensor([0, 0, 0.3, 0.4])} for _ in "ab"
    ]
    targets = [{"boxes": t["boxes"] / 2, "labels": torch.tensor([1, 2, 3])} for t in targets]
    offsets, logits = torch.randn(2, len(priors), 4), torch.randn(2, len(priors), 5)
    loss = MultiBoxLoss(priors)
    expected = loss((offsets, logits), targets)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (offsets, logits)]
    assert not turned[1].is_contiguous()
    torch.testing.assert_close(tuple(loss(tuple(turned), targets)), tuple(expected))
    positive = torch.rand(4, 2) > 0.7
    errors = torch.rand(4, 2)
    mined = mine_hard_negatives(errors.t(), positive.t())
    assert torch.equal(
        mined, mine_hard_negatives(errors.t().contiguous(), positive.t().contiguous())
    )
