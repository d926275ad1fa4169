"""From predictions to detections: a naive loop over classes, torchvision's, and cases by hand."""

import math
from types import SimpleNamespace

import plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD

from examples import few
from ssd_annotated import nms
from ssd_annotated.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from ssd_annotated.coding import decode
from ssd_annotated.nms import postprocess

DTYPE = torch.float64


def random_case(images=2, num_priors=60, classes=4, seed=0, spread=1.0):
    """Predictions around a few places, so that there is much to suppress."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(6, 2, generator=generator, dtype=DTYPE)
    places = torch.randint(6, (num_priors,), generator=generator)
    sizes = 0.2 + 0.2 * torch.rand(num_priors, 2, generator=generator, dtype=DTYPE)
    offsets = torch.randn(images, num_priors, 4, generator=generator, dtype=DTYPE) * spread
    logits = torch.randn(images, num_priors, classes, generator=generator, dtype=DTYPE) * 2
    return (offsets, logits), torch.cat([centres[places], sizes], dim=1)


def predict(boxes, *scores):
    """Predictions of one image that decode to `boxes` with these `scores` of classes 1, 2, ..."""
    scores = torch.tensor(scores, dtype=DTYPE)
    background = 1 - scores.sum(dim=1, keepdim=True)
    logits = torch.cat([background, scores], dim=1).clamp(min=1e-12).log()[None]
    priors = xyxy_to_cxcywh(torch.tensor(boxes, dtype=DTYPE))
    return (torch.zeros(1, len(boxes), 4, dtype=DTYPE), logits), priors


# ---------------------------------------------------------------- the naive way


def literal_iou(a, b):
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    sizes = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(sizes) - wide * high)


def meets_the_image(box):
    return box[0] < 1 and box[1] < 1 and box[2] > 0 and box[3] > 0


def literal_detections(offsets, logits, priors, score, top_k, overlap, cap):
    """One image, class by class, box by box: (score, label, box) rows, best first."""
    boxes = decode(offsets, priors).tolist()
    scores = logits.softmax(dim=1).tolist()
    found = []
    for label in range(1, logits.shape[1]):
        rows = [(s[label], label, box) for s, box in zip(scores, boxes, strict=True)]
        rows = sorted((row for row in rows if row[0] > score), reverse=True)[:top_k]
        kept = []
        for row in filter(lambda row: meets_the_image(row[2]), rows):
            if all(literal_iou(row[2], better[2]) <= overlap for better in kept):
                kept.append(row)
        found += kept
    return sorted(found, reverse=True)[:cap]


def assert_is(detections, rows):
    assert detections.labels.tolist() == [label for _, label, _ in rows]
    assert detections.scores.tolist() == pytest.approx([score for score, _, _ in rows])
    expected = torch.tensor([box for _, _, box in rows], dtype=DTYPE).reshape(-1, 4)
    torch.testing.assert_close(detections.boxes, expected)


@few(25)
@given(
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.01, 0.3, 0.9]),
    st.sampled_from([1, 5, 400]),
    st.sampled_from([0.0, 0.3, 0.45, 0.8]),
    st.sampled_from([1, 10, 200]),
)
def test_postprocess_is_the_naive_loop(seed, score, top_k, overlap, cap):
    predictions, priors = random_case(seed=seed)
    limits = (score, top_k, overlap, cap)
    detections = postprocess(predictions, priors, *limits)
    for found, offsets, logits in zip(detections, *predictions, strict=True):
        assert_is(found, literal_detections(offsets, logits, priors, *limits))


def test_the_defaults_are_caffes():
    # 4 classes of 600 priors: enough for the top 400 to matter, and for the cap of 200.
    predictions, priors = random_case(1, 600, spread=3.0)
    detections = postprocess(predictions, priors)[0]
    rows = literal_detections(predictions[0][0], predictions[1][0], priors, 0.01, 400, 0.45, 200)
    assert len(rows) == 200
    assert_is(detections, rows)
    uncapped = (0.01, 400, 0.45, 10_000)
    rows = literal_detections(predictions[0][0], predictions[1][0], priors, *uncapped)
    all_of_them = (0.01, 600, 0.45, 10_000)
    assert len(rows) < len(literal_detections(*(p[0] for p in predictions), priors, *all_of_them))
    assert_is(postprocess(predictions, priors, max_detections=10_000)[0], rows)


def assert_torchvision_finds(found, offsets, logits, priors):
    """torchvision's own post-processing of the same predictions gives the same detections."""
    theirs = SSD.postprocess_detections(
        SimpleNamespace(
            box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)),
            score_thresh=0.01,
            topk_candidates=400,
            nms_thresh=0.45,
            detections_per_img=200,
        ),
        {"bbox_regression": offsets, "cls_logits": logits},
        [cxcywh_to_xyxy(priors)] * len(offsets),
        [(1, 1)] * len(offsets),
    )
    for ours, expected in zip(found, theirs, strict=True):
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(getattr(ours, name), expected[name])


def test_torchvisions_postprocessing():
    # torchvision clips its boxes first; these priors and offsets stay inside the image.
    (offsets, logits), priors = random_case(3, 200, classes=6, seed=1, spread=0.2)
    priors[:, :2] = 0.3 + 0.4 * priors[:, :2]
    assert_torchvision_finds(postprocess((offsets, logits), priors), offsets, logits, priors)


# ---------------------------------------------------------------- properties


@few(15)
@given(st.integers(0, 2**31))
def test_a_second_time_suppresses_nothing_more(seed):
    predictions, priors = random_case(1, seed=seed)
    (once,) = postprocess(predictions, priors)
    # Each detection becomes a prior of its own that is sure of its one class.
    scores = torch.full((len(once.boxes), 3), 1e-9, dtype=DTYPE)
    scores[torch.arange(len(scores)), once.labels - 1] = once.scores
    again, priors = predict(once.boxes.tolist(), *scores.tolist())
    (twice,) = postprocess(again, priors)
    torch.testing.assert_close(twice.boxes, once.boxes)
    torch.testing.assert_close(twice.scores, once.scores, rtol=1e-6, atol=0)
    assert torch.equal(twice.labels, once.labels)


def test_a_batch_equals_image_by_image():
    (offsets, logits), priors = random_case(4)
    logits[2, :, 0] += 50  # nothing found in this one
    batch = postprocess((offsets, logits), priors)
    assert len(batch[2].boxes) == 0
    for i, found in enumerate(batch):
        (alone,) = postprocess((offsets[i : i + 1], logits[i : i + 1]), priors)
        assert all(torch.equal(a, b) for a, b in zip(found, alone, strict=True))


@few(15)
@given(st.integers(0, 2**31), st.integers(1, 30))
def test_best_first_and_not_more_than_the_cap(seed, cap):
    predictions, priors = random_case(1, seed=seed)
    (every,) = postprocess(predictions, priors, max_detections=10_000)
    (some,) = postprocess(predictions, priors, max_detections=cap)
    assert torch.equal(every.scores, every.scores.sort(descending=True).values)
    assert len(some.scores) == min(cap, len(every.scores))
    assert all(torch.equal(a, b[:cap]) for a, b in zip(some, every, strict=True))


# ---------------------------------------------------------------- the plain way


def assert_same(fast, slow):
    """Not only the same detections: the same bits in the same order."""
    assert len(fast) == len(slow)
    for image, (ours, expected) in enumerate(zip(fast, slow, strict=True)):
        for name in ("labels", "scores", "boxes"):
            ours_, expected_ = getattr(ours, name), getattr(expected, name)
            assert ours_.dtype == expected_.dtype
            assert torch.equal(ours_, expected_), f"{name} of image {image}"


def tied(seed=0, **how):
    """Whole and half logits: most scores are shared by many."""
    (offsets, logits), priors = random_case(seed=seed, **how)
    return (offsets, (2 * logits).round() / 2), priors


def crowded(seed=0, **how):
    """All boxes nearly alike, some of them quite: nearly everything is struck out."""
    (offsets, logits), priors = random_case(seed=seed, **how)
    offsets[:, ::2] = 0
    return (offsets * 0.1, logits), priors[:1].expand_as(priors).contiguous()


def flat(seed=0, **how):
    """A network that knows nothing: all is a candidate, and half has one score."""
    (offsets, logits), priors = random_case(seed=seed, **how)
    logits = torch.where(logits > 0, logits * 0.01, 0)
    return (offsets, logits), priors


def degenerate(seed=0, **how):
    """Boxes without width, without end, and far outside of the image."""
    (offsets, logits), priors = random_case(seed=seed, **how)
    kinds = torch.arange(len(priors)) % 5
    offsets[:, kinds == 0, 2:] = -5e4  # e to the minus 10000: no size at all
    offsets[:, kinds == 1, 2] = 5e4  # without end
    offsets[:, kinds == 2, :2] *= 30
    return (offsets, logits), priors


CASES = {"random": random_case, "tied": tied, "crowded": crowded, "flat": flat}
CASES["degenerate"] = degenerate


@pytest.mark.parametrize("make", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("most", [nms._MOST_SCORES, 500], ids=["whole", "in parts"])
def test_postprocess_is_the_plain_way(make, dtype, most, monkeypatch):
    monkeypatch.setattr(nms, "_MOST_SCORES", most)
    found = 0
    settings = [
        {},
        {"class_agnostic": True, "top_k": 30},
        {"clip": True, "score_threshold": 0.2},
        {"max_detections": 3, "score_threshold": 0.0, "nms_threshold": 0.0},
        {"top_k": None, "max_detections": None, "nms_threshold": 0.7},
        {"top_k": 7, "max_detections": 40, "max_log_size": 1.5, "variances": (0.3, 0.1)},
    ]
    for seed, options in enumerate(settings * 2):
        (offsets, logits), priors = make(seed=seed, images=3, num_priors=150)
        logits[1, :, 0] += 4  # one image with less in it than the others
        case = ((offsets.to(dtype), logits.to(dtype)), priors.to(dtype))
        detections = postprocess(*case, **options)
        assert_same(detections, plain.postprocess(*case, **options))
        found += sum(len(image.scores) for image in detections)
    assert found > (50 if make is crowded else 500)


def test_a_crowd_needs_more_than_the_first_few_priors():
    # 2000 priors at six places and one class: the best seven do not hold five detections.
    (offsets, logits), priors = random_case(2, 2000, classes=2, spread=0.02)
    priors[:, 2:] = 0.2
    logits = logits + torch.linspace(0, 9, 2000, dtype=DTYPE)[None, :, None] * torch.eye(2)[1]
    priors = priors[priors[:, 0].argsort()]  # the best ones stand in one place
    case, options = ((offsets, logits), priors), {"max_detections": 5, "top_k": None}
    found = postprocess(*case, **options)
    assert [len(image.scores) for image in found] == [5, 5]
    assert_same(found, plain.postprocess(*case, **options))
    # With a top k of 400 the other places never come into it.
    assert_same(postprocess(*case, max_detections=5), plain.postprocess(*case, max_detections=5))


def test_of_equal_scores_the_earlier_prior_wins_then_the_lower_class():
    boxes = [[0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]]
    predictions, priors = predict(boxes, [0.25, 0.25], [0.25, 0.25], [0.25, 0.25])
    (found,) = postprocess(predictions, priors)
    assert found.labels.tolist() == [1, 2, 1, 2]
    torch.testing.assert_close(found.boxes, torch.tensor(boxes, dtype=DTYPE)[[0, 0, 2, 2]])


@pytest.mark.parametrize("level", [0.0, -3e7, 3e7])
def test_where_all_logits_lie_matters_not(level):
    # In single precision 3e7 and 3e7 + 1 are one number.
    (offsets, logits), priors = random_case()
    case = ((offsets, logits.round() + level), priors)
    assert_same(postprocess(*case), plain.postprocess(*case))


def test_a_long_chain_of_neighbours_is_decided_in_order():
    # Each overlaps only the next: every second one stays, and the last depends on the first.
    left = 0.004 * torch.arange(101, dtype=DTYPE)
    zero, one = torch.zeros(101, dtype=DTYPE), torch.full((101,), 0.5, dtype=DTYPE)
    boxes = torch.stack([left, zero, left + 0.006, one], dim=1).tolist()
    predictions, priors = predict(boxes, *[[0.9 - 0.005 * k] for k in range(101)])
    (found,) = postprocess(predictions, priors, nms_threshold=0.1)
    torch.testing.assert_close(found.boxes, torch.tensor(boxes, dtype=DTYPE)[::2])


# ---------------------------------------------------------------- by hand


def test_three_boxes_two_classes_by_hand():
    # Boxes 0 and 1 overlap by 3/5 (x 0 to .4 and .1 to .5), box 2 is elsewhere.
    # Class 1: box 0 at .7 suppresses box 1 at .5. Class 2: box 1 stays (.3), and box 2 (.6).
    boxes = [[0.0, 0.0, 0.4, 0.4], [0.1, 0.0, 0.5, 0.4], [0.6, 0.6, 0.9, 0.9]]
    predictions, priors = predict(boxes, [0.7, 0.0], [0.5, 0.3], [0.0, 0.6])
    (found,) = postprocess(predictions, priors)
    assert found.labels.tolist() == [1, 2, 2]
    assert found.scores.tolist() == pytest.approx([0.7, 0.6, 0.3])
    expected = torch.tensor([boxes[0], boxes[2], boxes[1]], dtype=DTYPE)
    torch.testing.assert_close(found.boxes, expected)


def test_a_suppressed_box_suppresses_nobody():
    # Each overlaps the next by 3/5, the first and the last by 1/3: the middle one goes, the last
    # one stays although the middle one would have beaten it.
    boxes = [[0.0, 0.0, 0.4, 0.4], [0.1, 0.0, 0.5, 0.4], [0.2, 0.0, 0.6, 0.4]]
    predictions, priors = predict(boxes, [0.9], [0.8], [0.7])
    (found,) = postprocess(predictions, priors)
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])


@pytest.mark.parametrize(("threshold", "kept"), [(0.5, 2), (0.4999, 1)])
def test_an_overlap_of_exactly_the_threshold_is_allowed(threshold, kept):
    # The second box is the upper half of the first: IoU ½.
    predictions, priors = predict([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5]], [0.9], [0.8])
    (found,) = postprocess(predictions, priors, nms_threshold=threshold)
    assert len(found.boxes) == kept


@pytest.mark.parametrize(("threshold", "kept"), [(0.5, 0), (0.4999, 1)])
def test_a_score_of_exactly_the_threshold_is_too_low(threshold, kept):
    # Two equal logits: a score of ½ exactly.
    priors = torch.tensor([[0.5, 0.5, 0.5, 0.5]])
    (found,) = postprocess((torch.zeros(1, 1, 4), torch.zeros(1, 1, 2)), priors, threshold)
    assert len(found.boxes) == kept


def test_top_k_counts_each_class_by_itself_and_before_suppression():
    # Class 1 scores .9, .8, .7 with box 1 on top of box 0: its best two leave one detection. The
    # third box never had a chance. Class 2 has two candidates of its own.
    boxes = [[0.0, 0.0, 0.4, 0.4], [0.0, 0.0, 0.4, 0.4], [0.6, 0.6, 0.9, 0.9]]
    predictions, priors = predict(boxes, [0.9, 0.05], [0.8, 0.02], [0.7, 0.06])
    (found,) = postprocess(predictions, priors, top_k=2)
    assert found.labels.tolist() == [1, 2, 2]
    assert found.scores.tolist() == pytest.approx([0.9, 0.06, 0.05])


def test_background_is_never_found():
    priors = torch.rand(5, 4)
    logits = torch.tensor([9.0, 0.0, 0.0]).expand(1, 5, 3)
    (found,) = postprocess((torch.zeros(1, 5, 4), logits), priors)
    assert len(found.labels) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_detection_gives_empty_tensors(dtype):
    logits = torch.tensor([50.0, 0.0, 0.0], dtype=dtype).expand(2, 5, 3)
    found = postprocess((torch.zeros(2, 5, 4, dtype=dtype), logits), torch.rand(5, 4, dtype=dtype))
    assert len(found) == 2
    for image in found:
        assert image.boxes.shape == (0, 4)
        assert image.scores.shape == image.labels.shape == (0,)
        assert image.boxes.dtype == image.scores.dtype == dtype
        assert image.labels.dtype == torch.int64


def test_an_empty_batch_gives_an_empty_list():
    assert postprocess((torch.zeros(0, 5, 4), torch.zeros(0, 5, 3)), torch.rand(5, 4)) == []


def test_the_variances_are_those_of_decode():
    predictions, priors = random_case(1, num_priors=1)
    (found,) = postprocess(predictions, priors, 0.0, variances=(0.5, 0.7))
    expected = decode(predictions[0][0], priors, (0.5, 0.7)).expand(3, 4)
    torch.testing.assert_close(found.boxes, expected)


def test_boxes_are_not_clipped():
    predictions, priors = predict([[-0.2, -0.1, 0.5, 1.25]], [0.9])
    (found,) = postprocess(predictions, priors)
    torch.testing.assert_close(found.boxes, torch.tensor([[-0.2, -0.1, 0.5, 1.25]], dtype=DTYPE))


# ---------------------------------------------------------------- far away


def test_classes_never_meet_left_of_the_image():
    # Their copies must not meet either, wherever a suppression that moves classes apart puts them.
    for left in (-0.9, -1.9, -3.9):
        boxes = [[0.0, 0.0, 1.0, 1.0], [left, left, 0.1, 0.1], [left, left, 0.1, 0.1]]
        predictions, priors = predict(boxes, [0.9, 0.0], [0.0, 0.8], [0.7, 0.0])
        assert postprocess(predictions, priors)[0].labels.tolist() == [1, 2, 1]


@pytest.mark.parametrize("box", [[0.9, 0.9, 5.0, 5.0], [-4.0, -4.0, 0.1, 0.1]])
def test_duplicates_up_to_four_sides_beyond_the_image_are_still_duplicates(box):
    predictions, priors = predict([box, box], [0.9], [0.8])
    (found,) = postprocess(predictions, priors)
    assert found.scores.tolist() == pytest.approx([0.9])


@pytest.mark.parametrize("far", [5.0, -4.0])
def test_what_lies_more_than_four_sides_beyond_the_image_does_not_count(far):
    # To `far` alike, or from there on alike: IoU 1. A little before it the boxes still differ.
    near, sign = (0.9, 1) if far > 0 else (0.1, -1)
    cases = {far + sign: 1, far - sign * 0.2: 2}
    for other, kept in cases.items():
        boxes = [sorted([near, far]), sorted([near, other])]
        boxes = [[low, low, high, high] for low, high in boxes]
        predictions, priors = predict(boxes, [0.9], [0.8])
        (found,) = postprocess(predictions, priors, nms_threshold=0.95)
        assert len(found.boxes) == kept


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    "outside",
    [
        [1.0, 0.2, 1.5, 0.8],  # its edge is the image's edge
        [-0.5, 0.2, 0.0, 0.8],
        [0.2, 1.2, 0.8, 1.4],
        [0.2, -9.0, 0.8, -0.001],
        [1.5, 1.0, 1.5, 1.0],  # a published face detector says this of a cat, with a score of .80
    ],
)
def test_what_does_not_meet_the_image_is_no_detection(outside, clip):
    inside = [0.999, 0.2, 1.499, 0.8]
    predictions, priors = predict([outside, inside], [0.9], [0.8])
    (found,) = postprocess(predictions, priors, clip=clip)
    assert found.scores.tolist() == pytest.approx([0.8])


def test_what_does_not_meet_the_image_suppresses_nothing():
    # They overlap by far more than .45, and the better one cannot be seen.
    predictions, priors = predict([[-0.4, 0.2, 0.0, 0.8], [-0.39, 0.2, 0.01, 0.8]], [0.9], [0.8])
    (found,) = postprocess(predictions, priors)
    torch.testing.assert_close(found.boxes, torch.tensor([[-0.39, 0.2, 0.01, 0.8]], dtype=DTYPE))


def test_one_wild_box_does_not_save_the_duplicates():
    # e²⁰ prior sizes: beside it, in single precision, the others would shrink to points.
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.2]] * 3)
    offsets = torch.zeros(1, 3, 4)
    offsets[0, 2, 2:] = 20 / 0.2
    logits = torch.tensor([[[0.0, 9.0, 0.0], [0.0, 8.0, 0.0], [0.0, -9.0, 9.0]]])
    (found,) = postprocess((offsets, logits), priors, score_threshold=0.1)
    assert sorted(found.labels.tolist()) == [1, 2]


# ---------------------------------------------------------------- what other implementations do

everything = {"top_k": None, "max_detections": None}


def rows_of(predictions, priors, **limits):
    """The naive loop's rows for the only image."""
    settings = {"score": 0.01, "top_k": None, "overlap": 0.45, "cap": None} | limits
    return literal_detections(predictions[0][0], predictions[1][0], priors, **settings)


def test_without_a_top_k_every_candidate_enters():
    # 700 priors at a score above .01 in each of two classes: 400 would leave some out.
    predictions, priors = random_case(1, 700, classes=3, spread=3.0)
    rows = rows_of(predictions, priors)
    assert len(rows) > len(rows_of(predictions, priors, top_k=400)) > 200
    assert_is(postprocess(predictions, priors, **everything)[0], rows)
    assert_is(postprocess(predictions, priors, top_k=None)[0], rows[:200])
    few = rows_of(predictions, priors, top_k=300)
    assert len(few) > 200
    assert_is(postprocess(predictions, priors, top_k=300, max_detections=None)[0], few)


@pytest.mark.parametrize("top_k", [60, 61, None])
def test_a_top_k_of_all_priors_is_none(top_k):
    predictions, priors = random_case(1)
    rows = rows_of(predictions, priors)
    assert_is(postprocess(predictions, priors, top_k=top_k, max_detections=None)[0], rows)


def literal_clip(box):
    return [min(max(value, 0.0), 1.0) for value in box]


def test_clipping_comes_before_suppression():
    # Both boxes begin outside, left of the image. Whole, they overlap by a third (.4 of 1.2), and
    # both stay. What lies in the image is x 0 to .4 and x 0 to .3: three quarters, one goes.
    boxes = [[-0.8, 0.0, 0.4, 1.0], [-0.1, 0.0, 0.3, 1.0]]
    predictions, priors = predict(boxes, [0.9], [0.8])
    (whole,) = postprocess(predictions, priors)
    torch.testing.assert_close(whole.boxes, torch.tensor(boxes, dtype=DTYPE))
    (clipped,) = postprocess(predictions, priors, clip=True)
    torch.testing.assert_close(clipped.boxes, torch.tensor([[0.0, 0.0, 0.4, 1.0]], dtype=DTYPE))


def test_clipping_can_save_a_box_too():
    # What the two share lies outside: .65 of .8. Of what lies inside they share a quarter.
    boxes = [[0.0, -0.6, 0.2, 0.2], [0.0, -0.6, 0.2, 0.05]]
    predictions, priors = predict(boxes, [0.9], [0.8])
    assert len(postprocess(predictions, priors)[0].boxes) == 1
    assert len(postprocess(predictions, priors, clip=True)[0].boxes) == 2


@few(15)
@given(st.integers(0, 2**31), st.sampled_from([0.3, 0.45, 0.8]))
def test_clipping_is_that_of_the_literal_loop(seed, overlap):
    predictions, priors = random_case(1, seed=seed)
    boxes = decode(predictions[0], priors)[0].tolist()
    # Boxes that are cut already, as priors with offsets of zero.
    cut = torch.tensor([literal_clip(box) for box in boxes], dtype=DTYPE)
    still = (torch.zeros_like(predictions[0]), predictions[1])
    rows = rows_of(still, xyxy_to_cxcywh(cut), overlap=overlap)
    (found,) = postprocess(
        predictions, priors, nms_threshold=overlap, clip=True, score_threshold=0.01, **everything
    )
    assert_is(found, rows)


def test_torchvisions_postprocessing_with_its_clipping_and_its_limit():
    # Log sizes of some 6 and more, where ln 62.5 is 4.1; and priors so small that 62.5 of them do
    # not fill the image. Many boxes cross the border.
    (offsets, logits), priors = random_case(2, 150, classes=5, seed=4)
    offsets[..., 2:] *= 30
    priors[:, 2:] /= 60
    settings = {"max_log_size": math.log(1000 / 16), "clip": True}
    found = postprocess((offsets, logits), priors, **settings)
    assert_torchvision_finds(found, offsets, logits, priors)
    for idle in ({"max_log_size": None}, {"clip": False}):
        without = postprocess((offsets, logits), priors, **(settings | idle))
        assert not torch.equal(found[0].boxes, without[0].boxes), f"{idle} changes nothing here"


def test_the_limit_is_that_of_decode():
    predictions, priors = random_case(1, num_priors=1, spread=10.0)
    (found,) = postprocess(predictions, priors, 0.0, max_log_size=0.5)
    expected = decode(predictions[0][0], priors, max_log_size=0.5)
    assert not torch.allclose(expected, decode(predictions[0][0], priors))
    torch.testing.assert_close(found.boxes, expected.expand(3, 4))


def literal_class_agnostic(offsets, logits, priors, score, overlap):
    """Each prior's best class that is not background, then one heap for all classes."""
    boxes, scores = decode(offsets, priors).tolist(), logits.softmax(dim=1).tolist()
    best = [max(range(1, len(row)), key=row.__getitem__) for row in scores]
    rows = [(s[label], label, box) for s, label, box in zip(scores, best, boxes, strict=True)]
    kept = []
    for row in sorted(rows, reverse=True):
        seen = row[0] > score and meets_the_image(row[2])
        if seen and all(literal_iou(row[2], better[2]) <= overlap for better in kept):
            kept.append(row)
    return kept


@few(15)
@given(st.integers(0, 2**31), st.sampled_from([0.01, 0.3]), st.sampled_from([0.3, 0.5, 0.8]))
def test_class_agnostic_suppression_is_the_naive_loop(seed, score, overlap):
    predictions, priors = random_case(2, seed=seed)
    detections = postprocess(
        predictions, priors, score, nms_threshold=overlap, class_agnostic=True, **everything
    )
    for found, offsets, logits in zip(detections, *predictions, strict=True):
        assert_is(found, literal_class_agnostic(offsets, logits, priors, score, overlap))


def test_class_agnostic_by_hand():
    # Three boxes as above: 0 and 1 overlap by 3/5. Box 1's best is class 2, and box 0 of class 1
    # is better; box 1 has gone although no other box of class 2 is near. Box 2 scores .6 and .3,
    # but is counted only once.
    boxes = [[0.0, 0.0, 0.4, 0.4], [0.1, 0.0, 0.5, 0.4], [0.6, 0.6, 0.9, 0.9]]
    predictions, priors = predict(boxes, [0.7, 0.1], [0.3, 0.5], [0.3, 0.6])
    (found,) = postprocess(predictions, priors, class_agnostic=True)
    assert found.labels.tolist() == [1, 2]
    assert found.scores.tolist() == pytest.approx([0.7, 0.6])
    (usual,) = postprocess(predictions, priors)
    assert usual.labels.tolist() == [1, 2, 2, 1]


def test_class_agnostic_priors_speak_once():
    # Even where nothing is suppressed, and before the best of each class are counted: of class 2
    # the best is box 1, because box 0 counts for class 1.
    boxes = [[0.0, 0.0, 0.4, 0.4], [0.1, 0.0, 0.5, 0.4]]
    predictions, priors = predict(boxes, [0.5, 0.4], [0.1, 0.3])
    for limits in ({"nms_threshold": 1.0}, {"nms_threshold": 0.7, "top_k": 1}):
        (found,) = postprocess(predictions, priors, class_agnostic=True, **limits)
        assert found.labels.tolist() == [1, 2]
        assert found.scores.tolist() == pytest.approx([0.5, 0.3])


def test_a_background_that_beats_every_class_does_not_silence_a_prior():
    # Its best class is the best of the objects' classes.
    predictions, priors = predict([[0.0, 0.0, 0.4, 0.4]], [0.2, 0.3])
    (found,) = postprocess(predictions, priors, class_agnostic=True)
    assert (found.labels.tolist(), found.scores.tolist()) == ([2], [pytest.approx(0.3)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_classes_of_small_boxes_are_suppressed_exactly(dtype):
    # Ten boxes of a hundredth of the image or less, two and two beside each other. Shifted by x of
    # their width they overlap by (1 − x) / (1 + x), which is .45 for x = 11 / 29: these just miss
    # or pass it. All ten stand in each of 90 classes, moved apart for suppression, one class a
    # whole image further than the last: in single precision too few digits would be left.
    generator = torch.Generator().manual_seed(0)
    priors = 0.1 + 0.8 * torch.rand(5, 4, generator=generator, dtype=dtype)
    priors[:, 2:] /= 90
    shifted = priors.clone()
    shifted[:, 0] += priors[:, 2] * (11 / 29 + torch.tensor([-0.005, -0.002, 0.001, 0.002, 0.005]))
    priors = torch.cat([priors, shifted])
    logits = torch.randn(1, 10, 91, generator=generator, dtype=dtype)
    offsets = torch.zeros(1, 10, 4, dtype=dtype)
    (found,) = postprocess((offsets, logits), priors, 0.0, **everything)
    # The naive loop counts in double precision from the same boxes and scores.
    boxes = decode(offsets, priors)[0].tolist()
    scores = logits.softmax(dim=2)[0].tolist()
    kept = set()
    for label in range(1, 91):
        chosen = []
        for p in sorted(range(10), key=lambda p: scores[p][label], reverse=True):
            if all(literal_iou(boxes[p], boxes[q]) <= 0.45 for q in chosen):
                chosen.append(p)
        kept |= {(scores[p][label], label) for p in chosen}
    # Of each pair one goes in the first two places, none in the others.
    assert len(kept) == 90 * 8
    assert {*zip(found.scores.tolist(), found.labels.tolist(), strict=True)} == kept


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"score_threshold": 1.2}, r"score_threshold must lie in \[0, 1\], not 1.2"),
        ({"score_threshold": -0.1}, r"score_threshold must lie in \[0, 1\], not -0.1"),
        ({"nms_threshold": 45.0}, r"nms_threshold must lie in \[0, 1\], not 45.0"),
        ({"nms_threshold": math.nan}, "nms_threshold .* not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"max_detections": -1}, "max_detections must be at least 1, not -1"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    predictions, priors = random_case()
    with refuses(message):
        postprocess(predictions, priors, **setting)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("part", "name"), [(0, "offsets"), (1, "logits")])
def test_predictions_that_are_no_numbers_are_refused(part, name, value):
    predictions, priors = random_case()
    predictions[part][1, 5, 2] = value
    with refuses(f"the predictions contain NaN or infinity, in their {name}"):
        postprocess(predictions, priors)


def test_predictions_for_other_priors_are_refused():
    (offsets, logits), priors = random_case()
    with refuses(r"offsets have shape \(2, 60, 4\), expected \(B, 59, 4\)"):
        postprocess((offsets, logits), priors[:59])
    # One row would be broadcast over all priors without an error.
    with refuses(r"offsets have shape \(2, 1, 4\), expected \(B, 60, 4\)"):
        postprocess((offsets[:, :1], logits[:, :1]), priors)
    # An image without its logits would be lost.
    with refuses(r"logits have shape \(1, 60, 4\), expected \(2, 60, C\)"):
        postprocess((offsets, logits[:1]), priors)
    with refuses(r"logits have shape \(2, 59, 4\)"):
        postprocess((offsets, logits[:, :59]), priors)
    with refuses(r"offsets have shape \(60, 4\)"):
        postprocess((offsets[0], logits[0]), priors)


def test_of_two_equal_scores_a_prior_speaks_for_the_first_class_only():
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.82, 0.8, 0.2, 0.2]])
    logits = torch.tensor([[[0.0, 1.0, 1.0], [0.0, 3.0, 0.0]]])
    found = postprocess(
        (torch.zeros(1, 2, 4), logits), priors, nms_threshold=1.0, class_agnostic=True
    )[0]
    assert found.labels.tolist() == [1, 1]
    assert len(found.scores) == 2
