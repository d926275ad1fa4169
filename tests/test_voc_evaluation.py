"""Average precision: by hand, against the devkit's rule written out, and against a library."""

import time

import numpy as np
import plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import EMPTY, NOTHING, found, place, random_world, truth, worlds

from examples import few
from ssd_annotated.boxes import pairwise_iou
from ssd_annotated.evaluation import voc
from ssd_annotated.evaluation.voc import (
    PrecisionRecall,
    average_precision,
    best_f1,
    class_agnostic,
    evaluate,
    evaluation_table,
)
from ssd_annotated.nms import Detections

# ---------------------------------------------------------------- the plain way


def coarse(world):
    """Boxes on a grid of tenths, scores of whole tenths, two copies of everything: all is a tie."""
    detections, targets = world
    return (
        [
            Detections(
                *(torch.cat([f, f]) for f in ((10 * b).round() / 10, (10 * s).round() / 10, labels))
            )
            for b, s, labels in detections
        ],
        [
            {name: torch.cat([thing, thing]) for name, thing in t.items()}
            | {"boxes": (10 * t["boxes"]).round().div(10).repeat(2, 1)}
            for t in targets
        ],
    )


def crowd(rng, dtype=torch.float32):
    """One image with hundreds of objects of one class, one on top of the other."""
    low = torch.tensor(rng.random((300, 2)))
    boxes = torch.cat([low, low + 0.3], dim=1).to(dtype)
    near = boxes[torch.tensor(rng.integers(0, 300, 1000))] + 0.01
    detections = [found(near, rng.random(1000), 1 + (rng.random(1000) < 0.1))]
    targets = [truth(boxes, 1 + (rng.random(300) < 0.1), rng.random(300) < 0.2)]
    return detections, targets


@pytest.mark.parametrize("method", ["area", "11point"])
@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.75, 1.0])
def test_evaluate_is_the_plain_way(method, threshold):
    rng = np.random.default_rng(0)
    cases = [random_world(rng, images, 4) for images in (1, 2, 7, 40)]
    cases += [coarse(random_world(rng, images, 4)) for images in (1, 5, 40)]
    cases += [crowd(rng), ([NOTHING, *cases[1][0]], [EMPTY, *cases[1][1]])]
    for detections, targets in cases:
        ours = evaluate(detections, targets, 4, threshold, method)
        expected = plain.evaluate(detections, targets, 4, threshold, method)
        assert torch.equal(ours.objects, expected.objects)
        torch.testing.assert_close(ours.ap, expected.ap, rtol=0, atol=0, equal_nan=True)
        assert ours.curves.keys() == expected.curves.keys()
        for label, curve in ours.curves.items():
            assert all(map(torch.equal, curve, expected.curves[label]))


def test_judge_is_the_plain_way():
    rng = np.random.default_rng(1)
    for detections, targets in (coarse(random_world(rng, 40, 4)), crowd(rng, torch.float64)):
        for image, target in zip(detections, targets, strict=True):
            ours, expected = (way.judge(image, target, 0.5) for way in (voc, plain))
            assert all(map(torch.equal, ours, expected))


# ---------------------------------------------------------------- by hand


def test_three_objects_four_detections_by_hand():
    # Objects in columns 0, 1, 2. By descending score: hit, miss, hit, miss.
    # recall     1/3  1/3  2/3  2/3        precision   1  1/2  2/3  2/4
    # Best precision at that recall or beyond: 1 up to recall 1/3, 2/3 up to 2/3, then 0.
    # area    = 1/3 * 1 + 1/3 * 2/3                       = 5/9
    # 11point = (1 at 0, .1, .2, .3; 2/3 at .4, .5, .6; 0 at .7 to 1) / 11 = (4 + 2) / 11 = 6/11
    detections = [found(place(0, 5, 1, 6), [0.9, 0.8, 0.7, 0.6])]
    targets = [truth(place(0, 1, 2))]
    result = evaluate(detections, targets, num_classes=2)
    assert result.mean_ap == pytest.approx(5 / 9)
    curve = result.curves[1]
    assert curve.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert curve.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert curve.true_positive.tolist() == [True, False, True, False]
    assert curve.scores.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.6])
    assert evaluate(detections, targets, 2, method="11point").mean_ap == pytest.approx(6 / 11)


def test_the_envelope_lifts_an_early_mistake():
    # Miss, then hit, hit: precision 0, 1/2, 2/3; from the right the best is 2/3 everywhere.
    recall, precision = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.0, 1 / 2, 2 / 3])
    assert average_precision(recall, precision) == pytest.approx(2 / 3)
    assert average_precision(recall, precision, "11point") == pytest.approx(2 / 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("tenths", range(1, 11))
def test_recall_of_exactly_k_tenths_reaches_its_level(tenths, dtype):
    # Levels 0, ..., k/10 are reached, k + 1 of 11, also where 3 * 0.1 > 3/10 in floating point.
    recall = torch.tensor([tenths], dtype=dtype) / 10
    ap = average_precision(recall, torch.ones(1, dtype=dtype), "11point")
    assert ap == pytest.approx((tenths + 1) / 11)


def test_no_detections_score_zero_by_both_methods():
    for method in ("area", "11point"):
        assert average_precision(torch.zeros(0), torch.zeros(0), method) == 0
        result = evaluate([NOTHING], [truth(place(0))], 2, method=method)
        assert result.mean_ap == 0
        assert len(result.curves[1].recall) == 0


def test_a_second_claim_is_a_false_positive_even_if_it_fits_better():
    # The first, looser box (IoU .8) takes the object; the exact one comes second and is wrong.
    loose = torch.tensor([[0.0, 0.0, 0.1, 0.08]])
    result = evaluate([found(torch.cat([place(0), loose]), [0.5, 0.9])], [truth(place(0, 1))], 2)
    assert result.curves[1].true_positive.tolist() == [True, False]
    assert result.mean_ap == pytest.approx(1 / 2)  # recall stops at 1/2, precision 1 up to there


def test_a_claim_does_not_pass_on_to_the_next_best_object():
    # Objects A = [0, 1] and B = [.2, 1.2] wide. Both detections overlap A most; B is not handed on
    # although the second detection has IoU (1.05 - .2) / 1.2 = .708 with it.
    a, b = torch.tensor([[0, 0, 1, 1.0]]), torch.tensor([[0.2, 0, 1.2, 1]])
    second = torch.tensor([[0.05, 0, 1.05, 1]])
    result = evaluate([found(torch.cat([a, second]), [0.9, 0.8])], [truth(torch.cat([a, b]))], 2)
    assert result.curves[1].true_positive.tolist() == [True, False]


def test_difficult_objects_are_neither_found_nor_missed():
    # Columns 0 (difficult) and 1. The two detections of column 0 vanish from the ranking, so
    # the hit on column 1 stands alone: precision 1, recall 1 of 1.
    target = truth(place(0, 1), difficult=[True, False])
    result = evaluate([found(place(0, 0, 1), [0.9, 0.8, 0.7])], [target], 2)
    assert result.mean_ap == 1
    assert result.curves[1].true_positive.tolist() == [True]
    # Without the flag they are a hit and a duplicate: 1, 1/2, 2/3 at recall 1/2, 1/2, 1.
    del target["difficult"]
    result = evaluate([found(place(0, 0, 1), [0.9, 0.8, 0.7])], [target], 2)
    assert result.mean_ap == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_a_class_with_only_difficult_objects_is_left_out_of_the_mean():
    target = truth(place(0, 1), labels=[1, 2], difficult=[False, True])
    result = evaluate([found(place(0), [0.9])], [target], 4)
    assert result.ap.isnan().tolist() == [True, False, True, True]
    assert result.mean_ap == 1
    assert set(result.curves) == {1}


def test_no_objects_at_all_gives_nan():
    result = evaluate([found(place(0), [0.9]), NOTHING], [EMPTY, EMPTY], 3)
    assert np.isnan(result.mean_ap)
    assert result.ap.isnan().all()
    assert np.isnan(evaluate([], [], 3).mean_ap)


def test_the_threshold_is_reached_by_equality():
    # Half of the object: intersection 1/2, union 1, exact in binary.
    half, whole = torch.tensor([[0, 0, 0.5, 1.0]]), torch.tensor([[0, 0, 1, 1.0]])
    assert evaluate([found(half, [0.9])], [truth(whole)], 2).mean_ap == 1
    assert evaluate([found(half, [0.9])], [truth(whole)], 2, iou_threshold=0.51).mean_ap == 0


def test_equal_scores_keep_the_order_of_images_and_of_listing():
    right, wrong = found(place(0), [0.5]), found(place(5), [0.5])
    assert evaluate([right, wrong], [truth(place(0)), EMPTY], 2).mean_ap == 1
    assert evaluate([wrong, right], [EMPTY, truth(place(0))], 2).mean_ap == 1 / 2
    assert evaluate([found(place(0, 5), [0.5, 0.5])], [truth(place(0))], 2).mean_ap == 1
    assert evaluate([found(place(5, 0), [0.5, 0.5])], [truth(place(0))], 2).mean_ap == 1 / 2


def test_classes_and_images_do_not_mix():
    # Class 1: right place. Class 2: right place of class 1, and its own object in another image.
    detections = [found(place(0, 0), [0.9, 0.8], [1, 2]), found(place(3), [0.7], [2])]
    targets = [truth(place(0), [1]), truth(place(3, 4), [2, 3])]
    result = evaluate(detections, targets, 4)
    # Class 2: miss, hit of 1: best precision 1/2 at recall 1. Class 3: no detections.
    assert result.ap[1:].tolist() == pytest.approx([1, 1 / 2, 0])
    assert result.mean_ap == pytest.approx(1 / 2)


def test_class_agnostic_asks_only_where():
    detections = [found(place(0, 1), [0.9, 0.8], [2, 1])]
    targets = [truth(place(0, 1), [1, 2], difficult=[False, False])]
    assert evaluate(detections, targets, 3).mean_ap == 0
    assert evaluate(*class_agnostic(detections, targets), num_classes=2).mean_ap == 1
    assert detections[0].labels.tolist() == [2, 1]  # the arguments are left as they were
    assert targets[0]["labels"].tolist() == [1, 2]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": []}, r"1 images of detections but 0 targets"),
        ({"num_classes": 1}, r"at least 2, not 1"),
        ({"num_classes": 2, "labels": [2]}, r"detections\[0\]: label 2 is outside 1\.\.1"),
        ({"labels": [0]}, r"label 0 is outside 1\.\.2"),
        ({"true_labels": [0]}, r"targets\[0\]: label 0 is outside 1\.\.2"),
        ({"scores": [1.5]}, r"score 1\.5 is outside \[0, 1\]"),
        ({"scores": [float("nan")]}, r"score nan is outside \[0, 1\]"),
        ({"scores": [0.5, 0.4]}, r"1 boxes, scores \(2,\)"),
        ({"labels": [1, 1]}, r"1 boxes, labels \(2,\)"),
        ({"difficult": [True, False]}, r"1 boxes, difficult \(2,\)"),
        ({"iou_threshold": 0.0}, r"iou_threshold must be an IoU in \(0, 1\], not 0\.0"),
        ({"method": "coco"}, r"not 'coco'"),
        ({"boxes": torch.tensor([[0.5, 0, 0.1, 1]])}, r"detections\[0\] boxes\[0\]"),
    ],
)
def test_bad_input_is_named(change, message):
    detections = [
        found(change.get("boxes", place(0)), change.get("scores", [0.9]), change.get("labels", [1]))
    ]
    targets = change.get(
        "targets", [truth(place(0), change.get("true_labels", [1]), change.get("difficult"))]
    )
    settings = {k: change[k] for k in ("iou_threshold", "method") if k in change}
    with pytest.raises(ValueError, match=message):
        evaluate(detections, targets, change.get("num_classes", 3), **settings)


def test_an_unknown_method_and_unequal_curves_are_named():
    with pytest.raises(ValueError, match="not 'coco'"):
        average_precision(torch.zeros(0), torch.zeros(0), "coco")
    with pytest.raises(ValueError, match="not 'coco'"):
        evaluate([], [], 3, method="coco")
    with pytest.raises(ValueError, match="2 recalls but 1 precisions"):
        average_precision(torch.zeros(2), torch.zeros(1))


# ---------------------------------------------------------------- properties


def devkit(detections, targets, num_classes, iou_threshold, method):
    """The rule of the VOC devkit, one detection at a time."""
    results = {}
    for label in range(1, num_classes):
        claimed, objects = set(), 0
        for target in targets:
            for cls, hard in zip(target["labels"], target["difficult"], strict=True):
                objects += int(cls == label and not hard)
        if objects == 0:
            continue
        queue = []
        for image, detection in enumerate(detections):
            for k in range(len(detection.scores)):
                if detection.labels[k] == label:
                    queue.append((float(detection.scores[k]), image, detection.boxes[k]))
        queue.sort(key=lambda entry: -entry[0])
        right, wrong, recalls, precisions = 0, 0, [], []
        for _, image, box in queue:
            best, best_object = -1.0, None
            for g in range(len(targets[image]["labels"])):
                if targets[image]["labels"][g] != label:
                    continue
                iou = float(pairwise_iou(box[None], targets[image]["boxes"][g][None]))
                if iou > best:
                    best, best_object = iou, g
            if best >= iou_threshold:
                if targets[image]["difficult"][best_object]:
                    continue
                if (image, best_object) in claimed:
                    wrong += 1
                else:
                    right += 1
                    claimed.add((image, best_object))
            else:
                wrong += 1
            recalls.append(right / objects)
            precisions.append(right / (right + wrong))
        results[label] = literal_ap(recalls, precisions, method)
    return results


def literal_ap(recalls, precisions, method):
    if method == "11point":
        best = [
            max([p for r, p in zip(recalls, precisions, strict=True) if r >= t / 10], default=0)
            for t in range(11)
        ]
        return sum(best) / 11
    total, previous = 0.0, 0.0
    for k, recall in enumerate(recalls):
        total += (recall - previous) * max(precisions[k:])
        previous = recall
    return total


@given(worlds(), st.sampled_from(["area", "11point"]), st.sampled_from([0.3, 0.5, 0.75]))
def test_equal_to_the_devkit_written_out(world, method, iou_threshold):
    result = evaluate(*world, num_classes=3, method=method, iou_threshold=iou_threshold)
    expected = devkit(*world, 3, iou_threshold, method)
    assert set(result.curves) == set(expected)
    for label in range(3):
        if label in expected:
            assert float(result.ap[label]) == pytest.approx(expected[label])
            assert 0 <= result.ap[label] <= 1
        else:
            assert result.ap[label].isnan()


@few(40)
@given(worlds(), st.sampled_from([torch.sqrt, torch.square, lambda s: 0.2 + s / 2]))
def test_only_the_ranking_counts(world, monotone):
    detections, targets = world
    changed = [d._replace(scores=monotone(d.scores.double())) for d in detections]
    before, after = evaluate(detections, targets, 3), evaluate(changed, targets, 3)
    assert torch.equal(before.ap.nan_to_num(-1), after.ap.nan_to_num(-1))


@few(40)
@given(worlds(max_images=6), st.randoms(use_true_random=False))
def test_the_order_of_the_images_does_not_matter(world, random):
    pairs = list(zip(*world, strict=True))
    before = evaluate(*world, num_classes=3)
    random.shuffle(pairs)
    after = evaluate([d for d, _ in pairs], [t for _, t in pairs], 3)
    assert torch.equal(before.ap.nan_to_num(-1), after.ap.nan_to_num(-1))


@few(40)
@given(worlds())
def test_the_truth_itself_scores_one(world):
    _, targets = world
    told = [
        Detections(t["boxes"], torch.full((len(t["boxes"]),), 0.5), t["labels"]) for t in targets
    ]
    ap = evaluate(told, targets, 3).ap
    assert (ap[~ap.isnan()] - 1).abs().sum() < 1e-12


@few(40)
@given(worlds(), st.sampled_from(["area", "11point"]))
def test_a_last_false_positive_is_free_and_a_first_one_is_not(world, method):
    detections, targets = world
    stray = torch.tensor([[5.0, 5, 6, 6]])

    def with_stray(score):
        first = detections[0]
        worse = Detections(
            torch.cat([first.boxes, stray]),
            torch.cat([first.scores, torch.tensor([score])]),
            torch.cat([first.labels, torch.tensor([1])]),
        )
        return evaluate([worse, *detections[1:]], targets, 3, method=method).ap[1]

    before = evaluate(detections, targets, 3, method=method).ap[1]
    if before.isnan():
        return
    # Another term, though zero, lets torch add in another order: the last digit may differ.
    assert with_stray(0.0).item() == pytest.approx(before.item(), abs=1e-12)
    assert with_stray(1.0) < before or before == 0


# ---------------------------------------------------------------- a library


def torchmetrics_precision(detections, targets, recall_levels):
    """Mean over `recall_levels` of COCO's interpolated precision at IoU 0.5, per class."""
    from torchmetrics.detection import MeanAveragePrecision

    metric = MeanAveragePrecision(
        iou_thresholds=[0.5],
        rec_thresholds=recall_levels,
        max_detection_thresholds=[1, 10, 100],
        class_metrics=True,
        backend="pycocotools",
    )
    metric.warn_on_many_detections = False
    metric.update(
        [d._asdict() for d in detections],
        [{"boxes": t["boxes"], "labels": t["labels"]} for t in targets],
    )
    result = metric.compute()
    per_class = result["map_per_class"].reshape(-1).tolist()
    return dict(zip(result["classes"].reshape(-1).tolist(), per_class, strict=True))


def test_equal_to_torchmetrics_where_the_definitions_meet():
    # COCO's AP is another number: it lets a late claim pass on to the next best object, has crowds
    # instead of difficult objects, and samples p̂ at recall 0, .01, ..., 1. Objects that do not
    # overlap leave at most one of IoU > 1/2 per detection; no object here is difficult. Then the
    # curves are the same, and we choose the library's levels: eleven tenths are our
    # "11point"; the levels 1/n, ..., n/n, where n objects' recall can rise, are exactly the "area".
    rng = np.random.default_rng(0)
    num_classes = 4
    detections, targets = random_world(rng, 30, num_classes, disjoint=True, difficult=0)
    counts = torch.cat([t["labels"] for t in targets]).bincount(minlength=num_classes).tolist()

    eleven = torchmetrics_precision(detections, targets, [k / 10 for k in range(11)])
    ours = evaluate(detections, targets, num_classes, method="11point").ap
    assert {c: float(ours[c]) for c in range(1, num_classes)} == pytest.approx(eleven, abs=1e-6)

    ours = evaluate(detections, targets, num_classes, method="area").ap
    for label in range(1, num_classes):
        n = counts[label]
        library = torchmetrics_precision(detections, targets, [k / n for k in range(1, n + 1)])
        assert float(ours[label]) == pytest.approx(library[label], abs=1e-6)
        assert 0.2 < ours[label] < 0.95  # the case is worth comparing


# ---------------------------------------------------------------- tables


def curve(*rows):
    """Rows of (recall, precision, score)."""
    recall, precision, scores = torch.tensor(rows).reshape(-1, 3).double().T
    return PrecisionRecall(recall, precision, scores, torch.ones(len(rows), dtype=torch.bool))


def test_best_f1_by_hand():
    # F1: 2 * .25 / 1.25 = .4, 2 * .5 * .8 / 1.3 = .615, 2 * .75 * .6 / 1.35 = .667, .571
    point = best_f1(curve((0.25, 1, 0.9), (0.5, 0.8, 0.7), (0.75, 0.6, 0.4), (1, 0.4, 0.1)))
    assert point == pytest.approx((0.4, 0.6, 0.75, 2 / 3))


def test_best_f1_does_not_part_equal_scores():
    # The first of three equal scores would be perfect, but no threshold parts it from the others.
    point = best_f1(curve((1, 1, 0.5), (1, 0.5, 0.5), (1, 1 / 3, 0.5)))
    assert point == pytest.approx((0.5, 1 / 3, 1, 0.5))


def test_best_f1_of_nothing_and_of_nothing_right():
    nothing = best_f1(curve())
    assert np.isnan(nothing.score)
    assert nothing.f1 == nothing.recall == 0
    assert best_f1(curve((0, 0, 0.9), (0, 0, 0.8))).f1 == 0


def test_the_table_by_hand():
    # Cats: hit, miss, hit of 3, as above. Dogs: one object, no detection. Birds: only difficult.
    detections = [found(place(0, 5, 1, 6), [0.9, 0.8, 0.7, 0.6])]
    targets = [
        truth(place(0, 1, 2, 3, 4), [1, 1, 1, 2, 3], difficult=[False] * 4 + [True]),
    ]
    names = ("background", "cat", "dog", "bird")
    assert evaluation_table(evaluate(detections, targets, 4), names).splitlines() == [
        "class    objects  detections     AP     F1  at score  precision  recall",
        "cat            3           4  0.556  0.667     0.700      0.667   0.667",
        "dog            1           0  0.000  0.000       nan        nan   0.000",
        "bird           0",
        "mean AP        4           4  0.278",
    ]


def test_a_table_needs_a_name_for_each_class():
    with pytest.raises(ValueError, match="2 class_names for 3 classes"):
        evaluation_table(evaluate([NOTHING], [EMPTY], 3), ("background", "cat"))


def test_a_score_of_zero_is_not_taken_for_the_fault_of_another_image():
    fine = found(place(0), [0.0])
    with pytest.raises(ValueError, match=r"detections\[1\]: label 3 is outside 1..2"):
        evaluate([fine, found(place(0), [0.5], [3])], [EMPTY, EMPTY], 3)
    with pytest.raises(ValueError, match=r"targets\[1\] boxes\[0\] = "):
        evaluate([fine, fine], [EMPTY, truth(-place(0), [1])], 3)


# ---------------------------------------------------------------- cost


def test_ten_times_the_detections_cost_about_ten_times_the_time():
    def seconds(images):
        rng = np.random.default_rng(1)
        world = random_world(rng, images, num_classes=21)
        start = time.perf_counter()
        evaluate(*world, num_classes=21)
        return time.perf_counter() - start

    seconds(10)  # the first use also loads kernels
    small = min(seconds(100) for _ in range(3))
    assert seconds(1000) < 30 * small
