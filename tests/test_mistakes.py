"""Mistakes: every kind by hand, all of them against loops, and counts equal to the curves'."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from worlds import EMPTY, NOTHING, found, place, truth, worlds

from examples import few
from ssd_annotated.boxes import pairwise_iou
from ssd_annotated.evaluation.mistakes import KINDS, Mistake, find_mistakes, mistakes_table
from ssd_annotated.evaluation.voc import evaluate


def squares(*corners):
    """Boxes of side .2 with these upper left corners."""
    return torch.tensor([[x, y, x + 0.2, y + 0.2] for x, y in corners])


def test_each_kind_of_mistake_by_hand():
    # Two squares of side .2 that are .1 apart have an IoU of 1/3, and .15 apart .05 / .35 = 1/7.
    # Objects: a cat at (0, 0), a cat at (.5, 0), a dog at (0, .5).
    target = truth(squares((0, 0), (0.5, 0), (0, 0.5)), [1, 1, 2])
    boxes = squares((0, 0), (0.0, 0.01), (0.6, 0), (0.15, 0.5), (0.7, 0.7))
    detection = found(boxes, [0.9, 0.8, 0.7, 0.6, 0.5], [1, 1, 1, 1, 2])
    *wrong, first, second = find_mistakes([detection], [target], 3)
    assert [m.kind for m in wrong] == ["duplicate", "localization", "confusion", "background"]
    assert [m.score for m in wrong] == pytest.approx([0.8, 0.7, 0.6, 0.5])
    assert [m.iou for m in wrong] == pytest.approx([0.19 / 0.21, 1 / 3, 1 / 7, 0], abs=1e-6)
    assert [m.object_label for m in wrong] == [1, 1, 2, None]
    assert wrong[2].object_box == pytest.approx((0, 0.5, 0.2, 0.7))
    assert wrong[2].box == pytest.approx((0.15, 0.5, 0.35, 0.7))
    assert wrong[3].object_box is None
    # The second cat and the dog were missed; each comes with the detection near it.
    assert {first.kind, second.kind} == {"miss"}
    assert {(m.object_label, m.label, round(m.score, 3)) for m in (first, second)} == {
        (1, 1, 0.7),
        (2, 1, 0.6),
    }


def test_what_it_overlaps_most_decides_between_localization_and_confusion():
    # A cat inside a dog: IoU 1/4 with each other. A box called cat is nearer to one of them.
    target = truth(torch.tensor([[0, 0, 0.5, 0.5], [0, 0, 1, 1]]), [1, 2])
    boxes = torch.tensor([[0, 0, 0.9, 0.9], [0, 0, 0.75, 0.5]])  # second: .667 and .375
    kinds = [m.kind for m in find_mistakes([found(boxes, [0.9, 0.8])], [target], 3, 0.7)]
    assert kinds == ["confusion", "localization", "miss", "miss"]


def test_a_detection_of_low_score_is_no_mistake_but_explains_a_miss():
    target = truth(squares((0, 0)))
    detection = found(squares((0, 0), (0.5, 0.5)), [0.2, 0.1])
    (miss,) = find_mistakes([detection], [target], 2)
    assert miss.kind == "miss"
    assert miss.score == pytest.approx(0.2)
    assert miss.iou == pytest.approx(1)
    assert [m.kind for m in find_mistakes([detection], [target], 2, minimum_score=0.1)] == [
        "background"
    ]


def test_difficult_objects_are_neither_mistaken_nor_missed():
    target = truth(squares((0, 0), (0.5, 0.5)), difficult=[True, True])
    assert find_mistakes([found(squares((0, 0), (0, 0)), [0.9, 0.8])], [target], 2) == []


def test_the_surest_of_those_near_a_missed_object_stands_beside_it():
    # Both are dogs on a cat; the second fits better, the first is surer.
    detection = found(squares((0.1, 0), (0, 0), (0.9, 0)), [0.25, 0.2, 0.29], [2, 2, 1])
    (miss,) = find_mistakes([detection], [truth(squares((0, 0)))], 3)
    assert (miss.label, miss.score) == (2, pytest.approx(0.25))


def test_a_missed_object_with_nothing_near_stands_alone():
    assert find_mistakes([NOTHING], [truth(place(0))], 2) == [
        Mistake("miss", 0, object_box=tuple(place(0)[0].tolist()), object_label=1)
    ]
    assert find_mistakes([NOTHING], [EMPTY], 2) == []


def test_the_worst_come_first():
    targets = [truth(torch.tensor([[0, 0, s, s]])) for s in (0.1, 0.3, 0.2)]
    detections = [found(squares((0.7, 0.7)), [score]) for score in (0.4, 0.9, 0.6)]
    mistakes = find_mistakes(detections, targets, 2)
    assert [m.image for m in mistakes] == [1, 2, 0, 1, 2, 0]


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match=r"minimum_score must lie in \[0, 1\], not 1.5"):
        find_mistakes([NOTHING], [EMPTY], 2, minimum_score=1.5)
    with pytest.raises(ValueError, match=r"iou_threshold must be an IoU in \(0, 1\], not 0"):
        find_mistakes([NOTHING], [EMPTY], 2, iou_threshold=0)
    with pytest.raises(ValueError, match="label 2 is outside"):
        find_mistakes([found(place(0), [0.9], [2])], [EMPTY], 2)


def mistakes_in_words(detections, targets, iou_threshold, minimum_score):
    """The same by loops: the devkit's queue, image by image, a sentence for each mistake."""
    sentences = []
    for image, (detection, target) in enumerate(zip(detections, targets, strict=True)):
        claimed = set()
        objects = range(len(target["labels"]))
        for k in sorted(range(len(detection.scores)), key=lambda k: -detection.scores[k]):
            score, label = float(detection.scores[k]), int(detection.labels[k])
            if score < minimum_score:
                continue
            iou = {
                g: float(pairwise_iou(detection.boxes[k : k + 1], target["boxes"][g : g + 1]))
                for g in objects
            }
            own = {g: v for g, v in iou.items() if target["labels"][g] == label}
            g = max(own, key=own.get, default=None)
            if g is not None and own[g] >= iou_threshold:
                if target["difficult"][g] or g not in claimed:
                    claimed.add(g)
                    continue
                kind = "duplicate"
            elif all(v < 0.1 for v in iou.values()):
                kind = "background"
            else:
                most = max(iou.values())
                kind = "localization" if most in own.values() else "confusion"
            sentences.append((kind, image, round(score, 5)))
        sentences += [
            ("miss", image, tuple(target["boxes"][g].tolist()))
            for g in objects
            if g not in claimed and not target["difficult"][g]
        ]
    return sorted(sentences, key=str)


@given(worlds(), st.sampled_from([0.3, 0.5, 0.75]), st.sampled_from([0.0, 0.3]))
def test_mistakes_are_those_of_the_loops(world, iou_threshold, minimum_score):
    mistakes = find_mistakes(*world, 3, iou_threshold, minimum_score)
    said = [
        (m.kind, m.image, m.object_box if m.kind == "miss" else round(m.score, 5)) for m in mistakes
    ]
    assert sorted(said, key=str) == mistakes_in_words(*world, iou_threshold, minimum_score)


@few(20)
@given(worlds())
def test_mistakes_and_curves_count_the_same(world):
    curves = evaluate(*world, num_classes=3).curves
    mistakes = find_mistakes(*world, num_classes=3, minimum_score=0)
    for label, c in curves.items():
        wrong = [m for m in mistakes if m.kind != "miss" and m.label == label]
        missed = [m for m in mistakes if m.kind == "miss" and m.object_label == label]
        assert len(wrong) == int((~c.true_positive).sum())
        total = evaluate(*world, num_classes=3).objects[label]
        assert len(missed) == int(total) - int(c.true_positive.sum())


def test_the_table_of_mistakes():
    box = (0.0, 0.0, 1.0, 1.0)
    mistakes = [
        Mistake("confusion", 0, 0.9, box, 1, 0.95, box, 2),
        Mistake("confusion", 1, 0.9, box, 1, 0.5, box, 2),
        *(Mistake("background", 2, 0.0, box, label, 0.25) for label in (3, 1, 4, 2, 4, 2, 3, 2)),
        Mistake("miss", 3, 0.9, box, 1, 0.75, box, 2),
    ]
    names = ("background", "cat", "dog", "cow", "hen")
    assert mistakes_table(mistakes, names).splitlines() == [
        "kind          count  highest score  most often",
        "duplicate         0",
        "localization      0",
        "confusion         2           0.95  dog called cat (2)",
        "background        8           0.25  dog (3), cow (2), hen (2)",
        "miss              1                 dog (1)",
    ]
    assert [line.split()[0] for line in mistakes_table([], names).splitlines()[1:]] == list(KINDS)
