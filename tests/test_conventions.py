"""Conventions: what each implementation does, written out again in its own order of steps.

Nothing here calls our matching, loss, coding or post-processing but to be compared: every rule is
in plain loops from the implementation's side, and torchvision speaks for itself.
"""

import inspect
import math
from dataclasses import fields
from functools import cache
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms
from torchvision.models.detection._utils import BoxCoder, SSDMatcher
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import box_iou

from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.matching import match_priors
from ssd_annotated.model import Recipe
from ssd_annotated.nms import postprocess
from ssd_annotated.priors import PRESETS
from ssd_annotated.published.conventions import CONVENTIONS
from ssd_annotated.transforms import prepare

CAFFES = ("paper", "caffe-voc", "caffe-coco", "caffe-voc-512", "caffe-coco-512")


def by_key(rules):
    """One rule for each key of CONVENTIONS: those that share a rule are given as a tuple."""
    return {key: rule for keys, rule in rules for key in keys}


# ---------------------------------------------------------------- what there is


def test_every_preset_has_its_convention():
    assert set(CONVENTIONS) == set(PRESETS)
    for key, convention in CONVENTIONS.items():
        assert convention.priors == PRESETS[key]


@pytest.mark.parametrize("key", sorted(CONVENTIONS))
def test_settings_are_those_of_the_loss_and_of_the_recipe(key):
    convention = CONVENTIONS[key]
    assert set(convention.loss) <= set(inspect.signature(MultiBoxLoss).parameters) - {"priors"}
    assert set(convention.recipe) <= {field.name for field in fields(Recipe)}
    recipe = Recipe(class_names=("background", "thing"), **convention.recipe)
    assert recipe.variances == (0.1, 0.2)
    assert recipe.image_size == (256 if key == "d2l" else 512 if key.endswith("512") else 300)


# ---------------------------------------------------------------- matching, rule by rule


def boxes_iou(a, b, eps=0.0):
    """Of two boxes given by their corners."""
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return wide * high / (sum(areas) - wide * high + eps)


def iou_table(priors, boxes, eps=0.0):
    """A row for each prior, a column for each object."""
    corners = [(cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2) for cx, cy, w, h in priors]
    return np.array([[boxes_iou(box, corner, eps) for box in boxes] for corner in corners])


def caffe_match(priors, boxes):
    """The best pair of all while there is one above 1e-6, then ≥ ½ for the priors that are left."""
    iou = iou_table(priors, boxes)
    object_of = [-1] * len(priors)
    waiting = set(range(len(boxes)))
    while waiting:
        pairs = [(i, j) for i in range(len(priors)) if object_of[i] == -1 for j in sorted(waiting)]
        i, j = max(pairs, key=lambda pair: iou[pair])
        if iou[i, j] <= 1e-6:
            break
        object_of[i] = j
        waiting.remove(j)
    for i in range(len(priors)):
        if object_of[i] == -1 and iou[i].max() >= 0.5:
            object_of[i] = int(iou[i].argmax())
    return object_of


def overwriting_match(priors, boxes, forced_overlap, eps=0.0):
    """Each object's best prior is written over, object by object; then what is < ½ is dropped."""
    iou = iou_table(priors, boxes, eps)
    best_object, best_overlap = iou.argmax(axis=1), iou.max(axis=1)
    best_prior = iou.argmax(axis=0)
    best_overlap[best_prior] = forced_overlap
    for j, i in enumerate(best_prior):
        best_object[i] = j
    return [-1 if best_overlap[i] < 0.5 else int(best_object[i]) for i in range(len(priors))]


def ssd_pytorch_match(priors, boxes):
    return overwriting_match(priors, boxes, forced_overlap=2)


def lufficc_match(priors, boxes):
    return overwriting_match(priors, boxes, forced_overlap=2, eps=1e-5)


def sgrvinod_match(priors, boxes):
    return overwriting_match(priors, boxes, forced_overlap=1)


def tensors(*rows):
    return [torch.tensor(row, dtype=torch.float64) for row in rows]


def corners_of(priors):
    return torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], dim=1)


def torchvision_match(priors, boxes):
    """Its own matcher; its network does not ask it about an image without objects."""
    if not boxes:
        return [-1] * len(priors)
    priors, boxes = tensors(priors, boxes)
    return SSDMatcher(0.5)(box_iou(boxes, corners_of(priors))).clamp(min=-1).tolist()


def d2l_match(priors, boxes):
    """≥ ½ first; then, once for each object, the table's largest number; its row and column go."""
    iou = iou_table(priors, boxes)
    object_of = [int(row.argmax()) if row.max() >= 0.5 else -1 for row in iou]
    for _ in boxes:
        i, j = np.unravel_index(iou.argmax(), iou.shape)
        object_of[i] = int(j)
        iou[i, :] = -1
        iou[:, j] = -1
    return object_of


def tf2_match(priors, boxes):
    """An object's best prior gets an IoU of 1; a match needs more than ½."""
    iou = iou_table(priors, boxes)
    for j, i in enumerate(iou.argmax(axis=0)):
        iou[i, j] = 1.0
    return [int(row.argmax()) if row.max() > 0.5 else -1 for row in iou]


MATCHERS = by_key(
    [
        (CAFFES, caffe_match),
        (("torchvision",), torchvision_match),
        (("ssd.pytorch",), ssd_pytorch_match),
        (("lufficc",), lufficc_match),
        (("sgrvinod", "annotated"), sgrvinod_match),
        (("d2l",), d2l_match),
        (("tf2",), tf2_match),
    ]
)


def our_match(key, priors, boxes):
    options = {name: CONVENTIONS[key].loss.get(name) for name in ("threshold", "method")}
    options = {name: value for name, value in options.items() if value is not None}
    priors, boxes = (torch.tensor(rows, dtype=torch.float32) for rows in (priors, boxes))
    return match_priors(priors, boxes, **options).tolist()


def grid_scene(seed):
    """Boxes on a grid of eighths: overlaps of ½ exactly, shared best priors, misses.

    The first prior lies alone in a corner, the last object in another.
    """
    draw = np.random.default_rng(seed)

    def box():
        sides = [sorted(draw.choice(7, 2, replace=False) / 8) for _ in range(2)]
        return [sides[0][0], sides[1][0], sides[0][1], sides[1][1]]

    priors = [[0.0625, 0.9375, 0.125, 0.125]]
    for left, top, right, bottom in (box() for _ in range(24)):
        priors.append([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])
    objects = [box() for _ in range(draw.integers(1, 6))]
    return priors, [*objects, [0.875, 0.875, 1.0, 1.0]]


@pytest.mark.parametrize("key", sorted(set(CONVENTIONS) - {"lufficc"}))
def test_matching(key):
    for seed in range(25):
        priors, objects = grid_scene(seed)
        assert our_match(key, priors, objects) == MATCHERS[key](priors, objects), seed


def random_scene(seed):
    draw = np.random.default_rng(seed)
    boxes = np.concatenate([0.2 + 0.5 * draw.random((40, 2)), 0.1 + 0.3 * draw.random((40, 2))], 1)
    objects = [[cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] for cx, cy, w, h in boxes[30:]]
    return boxes[:30].tolist(), objects


def test_matching_of_lufficc():
    # Its IoU divides by 0.00001 more, and an overlap of ½ exactly is less than ½ to it.
    for seed in range(10):
        priors, objects = random_scene(seed)
        assert our_match("lufficc", priors, objects) == lufficc_match(priors, objects), seed


FAMILIES = {"caffe-voc": "Caffe", "ssd.pytorch": "argmax", "d2l": "d2l", "tf2": "TF2"}


@pytest.mark.parametrize("key", sorted(FAMILIES))
@pytest.mark.parametrize("other", sorted(FAMILIES))
def test_four_ways_to_match(key, other):
    same = [
        our_match(other, *scene) == MATCHERS[key](*scene) for scene in map(grid_scene, range(25))
    ]
    assert all(same) == (key == other)


def test_more_than_one_half_is_not_one_half():
    # Without its threshold the TF2 convention would take an overlap of ½ for enough.
    def at_least_half(priors, objects):
        priors, objects = (torch.tensor(rows) for rows in (priors, objects))
        return match_priors(priors, objects, method="first").tolist()

    priors, objects = [[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]], [[0.0, 0.0, 0.5, 1.0]]
    assert tf2_match(priors, objects) == our_match("tf2", priors, objects) == [0, -1]
    assert at_least_half(priors, objects) == [0, 0]


# ---------------------------------------------------------------- losses, rule by rule


def offsets_of(box, prior, tiny=0.0):
    """What the network should say: variances .1 and .2 everywhere, or factors 10 and 5."""
    cx, cy, w, h = prior
    left, top, right, bottom = box
    return [
        10 * ((left + right) / 2 - cx) / w,
        10 * ((top + bottom) / 2 - cy) / h,
        5 * math.log(tiny + (right - left) / w),
        5 * math.log(tiny + (bottom - top) / h),
    ]


def cross_entropy(logits, label):
    return math.log(sum(math.exp(logit) for logit in logits)) - logits[label]


def smooth_l1(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def images_of(case, match, tiny=0.0):
    """For each image: errors of the positives' offsets, cross-entropy and background's, labels."""
    priors, offsets, logits, targets = case
    for predicted, rows, (boxes, names) in zip(offsets, logits, targets):
        object_of = match(priors, boxes)
        labels = [0 if j < 0 else names[j] for j in object_of]
        errors = []
        for i, j in enumerate(object_of):
            if j >= 0:
                true = offsets_of(boxes[j], priors[i], tiny)
                errors += [mine - right for mine, right in zip(predicted[i], true)]
        losses = [cross_entropy(row, label) for row, label in zip(rows, labels)]
        background = [cross_entropy(row, 0) for row in rows]
        yield errors, losses, background, labels


def caffe_loss(case):
    """Per image the hardest negatives, three for a positive; all over max(1, N) of the batch."""
    localization = confidence = 0.0
    matched = 0
    for errors, losses, _, labels in images_of(case, caffe_match):
        localization += sum(map(smooth_l1, errors))
        positives = [loss for loss, label in zip(losses, labels) if label > 0]
        negatives = sorted(
            (loss for loss, label in zip(losses, labels) if label == 0), reverse=True
        )
        confidence += sum(positives) + sum(negatives[: min(3 * len(positives), len(negatives))])
        matched += len(positives)
    return confidence / max(1, matched) + 1.0 * localization / max(1, matched)


def as_targets(case):
    return [
        {
            "boxes": torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }
        for boxes, labels in case[3]
    ]


def torchvision_loss(case):
    """Its own matcher and its own loss."""
    priors, offsets, logits = tensors(*case[:3])
    losses = SSD.compute_loss(
        SimpleNamespace(box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)), neg_to_pos_ratio=3),
        as_targets(case),
        {"bbox_regression": offsets, "cls_logits": logits},
        [corners_of(priors)] * len(case[3]),
        [torch.tensor(torchvision_match(case[0], boxes)) for boxes, _ in case[3]],
    )
    return sum(losses.values()).item()


def ssd_pytorch_loss(case):
    """Positives count as 0 in the ranking, of which the first min(3 N_b, P − 1) are mined."""
    localization = confidence = 0.0
    matched = 0
    for errors, losses, _, labels in images_of(case, ssd_pytorch_match):
        localization += sum(map(smooth_l1, errors))
        positives = sum(label > 0 for label in labels)
        hardness = [0.0 if label > 0 else loss for loss, label in zip(losses, labels)]
        order = sorted(range(len(labels)), key=lambda i: -hardness[i])
        mined = order[: min(3 * positives, len(labels) - 1)]
        chosen = {i for i, label in enumerate(labels) if label > 0} | set(mined)
        confidence += sum(losses[i] for i in chosen)
        matched += positives
    return localization / matched + confidence / matched


def lufficc_loss(case):
    """Ranked by −log p(background), positives last of all."""
    localization = confidence = 0.0
    matched = 0
    for errors, losses, background, labels in images_of(case, lufficc_match):
        localization += sum(map(smooth_l1, errors))
        positives = sum(label > 0 for label in labels)
        hardness = [-math.inf if label > 0 else loss for loss, label in zip(background, labels)]
        order = sorted(range(len(labels)), key=lambda i: -hardness[i])
        for rank, i in enumerate(order):
            if labels[i] > 0 or rank < 3 * positives:
                confidence += losses[i]
        matched += positives
    return localization / matched + confidence / matched


def sgrvinod_loss(case):
    """The mean absolute error over all coordinates, plus a confidence loss over N."""
    errors, hard, easy = [], 0.0, 0.0
    matched = 0
    for image_errors, losses, _, labels in images_of(case, sgrvinod_match):
        errors += image_errors
        positives = sum(label > 0 for label in labels)
        matched += positives
        easy += sum(loss for loss, label in zip(losses, labels) if label > 0)
        negatives = [0.0 if label > 0 else loss for loss, label in zip(losses, labels)]
        hard += sum(sorted(negatives, reverse=True)[: 3 * positives])
    return (hard + easy) / matched + 1.0 * sum(map(abs, errors)) / len(errors)


def d2l_loss(case):
    """Per image two means over every anchor, matched or not; then the mean of the images."""
    images = []
    for errors, losses, _, labels in images_of(case, d2l_match, tiny=1e-6):
        classes = sum(losses) / len(labels)
        boxes = sum(map(abs, errors)) / (4 * len(labels))
        images.append(classes + boxes)
    return sum(images) / len(images)


def tf2_losses(case):
    """One number for each image: both sums over its own positives, times the batch size."""
    images = []
    for errors, losses, _, labels in images_of(case, tf2_match):
        positives = sum(label > 0 for label in labels)
        hardness = [0.0 if label > 0 else loss for loss, label in zip(losses, labels)]
        mined = sum(sorted(hardness, reverse=True)[: 3 * positives])
        own = sum(loss for loss, label in zip(losses, labels) if label > 0)
        divisor = positives if positives > 0 else 1e-6
        localization = 1.0 * len(case[3]) * sum(map(smooth_l1, errors)) / divisor
        images.append(localization + len(case[3]) * (own + mined) / divisor)
    return images


def tf2_loss(case):
    """The mean of what the post returns, without its factor of the batch size."""
    images = tf2_losses(case)
    return sum(images) / len(images) / len(images)


LOSSES = by_key(
    [
        (CAFFES, caffe_loss),
        (("torchvision",), torchvision_loss),
        (("ssd.pytorch",), ssd_pytorch_loss),
        (("lufficc",), lufficc_loss),
        (("sgrvinod", "annotated"), sgrvinod_loss),
        (("d2l",), d2l_loss),
        (("tf2",), tf2_loss),
    ]
)


def training_case(seed, counts=(2, 4, 1)):
    """Priors, offsets, logits and (boxes, labels) of a batch, as plain lists.

    In the first image two more objects share their best prior, in the second one overlaps none.
    """
    draw = np.random.default_rng(seed)

    def boxes(count):
        return np.concatenate(
            [0.2 + 0.4 * draw.random((count, 2)), 0.1 + 0.3 * draw.random((count, 2))], 1
        )

    priors = [*boxes(120).tolist(), [0.91, 0.15, 0.1, 0.1], [0.95, 0.15, 0.1, 0.1]]
    targets = []
    for image, count in enumerate(counts):
        objects = [
            [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] for cx, cy, w, h in boxes(count)
        ]
        if image == 0:
            objects += [[0.86, 0.1, 0.95, 0.2], [0.86, 0.1, 0.94, 0.2]]
        if image == 1:
            objects.append([0.9, 0.85, 1.0, 0.95])
        targets.append((objects, draw.integers(1, 5, len(objects)).tolist()))
    offsets = 3 * draw.standard_normal((len(counts), len(priors), 4))
    logits = 2 * draw.standard_normal((len(counts), len(priors), 5))
    return priors, offsets.tolist(), logits.tolist(), targets


def our_loss(key, case):
    priors, offsets, logits = tensors(*case[:3])
    loss = CONVENTIONS[key].make_loss(priors)
    return loss((offsets, logits), as_targets(case)).total.item()


@pytest.mark.parametrize("key", sorted(CONVENTIONS))
def test_loss(key):
    for seed in range(3):
        case = training_case(seed)
        # d2l adds a millionth within its logarithm.
        tolerance = 1e-5 if key == "d2l" else 1e-9
        assert our_loss(key, case) == pytest.approx(LOSSES[key](case), rel=tolerance)


LOSS_GROUPS = ("caffe-voc", "torchvision", "sgrvinod", "d2l", "tf2")


@pytest.mark.parametrize("key", LOSS_GROUPS)
def test_no_other_convention_has_this_loss(key):
    case = training_case(0)
    theirs = LOSSES[key](case)
    for other in LOSS_GROUPS:
        assert (our_loss(other, case) == pytest.approx(theirs, rel=1e-3)) == (other == key), other


@pytest.mark.parametrize("key", LOSS_GROUPS)
def test_no_setting_of_a_loss_is_idle(key):
    # Without any one of its keywords a convention is another one.
    case = training_case(0)
    theirs = LOSSES[key](case)
    priors, *predictions = tensors(*case[:3])
    for name in set(CONVENTIONS[key].loss) - {"threshold"}:
        rest = {k: value for k, value in CONVENTIONS[key].loss.items() if k != name}
        total = MultiBoxLoss(priors, **rest)(tuple(predictions), as_targets(case)).total.item()
        assert total != pytest.approx(theirs, rel=1e-3), f"{name} makes no difference here"


@pytest.mark.parametrize("key", ["caffe-voc", "torchvision"])
def test_an_empty_image_beside_others(key):
    # It contributes nothing. (The other implementations raise an error, or invent an object.)
    priors, offsets, logits, targets = training_case(0)
    case = (priors, offsets, logits, [*targets[:2], ([], [])])
    without = LOSSES[key]((priors, offsets[:2], logits[:2], targets[:2]))
    assert our_loss(key, case) == pytest.approx(without)
    if key == "torchvision":
        assert torchvision_loss(case) == pytest.approx(without)


# ---------------------------------------------------------------- what no setting reproduces


def test_the_posts_factor_of_the_batch_size():
    case = training_case(0)
    assert sum(tf2_losses(case)) / 3 == pytest.approx(3 * our_loss("tf2", case))


def test_an_overlap_of_one_half_to_lufficc():
    # The object is the left half of the second prior; the first is the object itself.
    priors, objects = [[0.25, 0.5, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]], [[0.0, 0.0, 0.5, 1.0]]
    assert lufficc_match(priors, objects) == [0, -1]
    assert our_match("lufficc", priors, objects) == [0, 0]


def test_torchvision_counts_positives_twice_where_negatives_run_out():
    # One prior in two is matched: there are not three negatives for each.
    case = ([[0.25, 0.5, 0.5, 1.0], [0.75, 0.5, 0.5, 1.0]], [[[0.0] * 4] * 2], [[[0.0, 0.0]] * 2])
    case = (*case, [([[0.0, 0.0, 0.5, 1.0]], [1])])
    assert our_loss("torchvision", case) == pytest.approx(2 * math.log(2))
    assert torchvision_loss(case) == pytest.approx(3 * math.log(2))


# ---------------------------------------------------------------- inference, rule by rule


def decoded(case):
    """Boxes by their corners, as they come."""
    offsets, _, priors = case
    centres = priors[:, :2] + offsets[:, :2] / 10 * priors[:, 2:]
    sizes = np.exp(offsets[:, 2:] / 5) * priors[:, 2:]
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)


def softmax(logits):
    scores = np.exp(logits)
    return scores / scores.sum(axis=1, keepdims=True)


def suppressed(boxes, scores, overlap):
    """Indices of what is left, best first: nothing overlaps a better one by more than `overlap`."""
    kept = []
    for i in np.argsort(-scores):
        if kept:
            others = boxes[kept]
            low, high = (
                np.maximum(boxes[i, :2], others[:, :2]),
                np.minimum(boxes[i, 2:], others[:, 2:]),
            )
            shared = (high - low).clip(min=0).prod(axis=1)
            areas = [(b[..., 2:] - b[..., :2]).prod(axis=-1) for b in (boxes[i], others)]
            if (shared / (areas[0] + areas[1] - shared) > overlap).any():
                continue
        kept.append(i)
    return kept


def per_class(case, candidates, per_class_cap=None):
    """(score, label, box) of each class: score > .01, its best `candidates`, suppression at .45."""
    boxes, scores = decoded(case), softmax(case[1])
    found = []
    for label in range(1, scores.shape[1]):
        chosen = [i for i in np.argsort(-scores[:, label]) if scores[i, label] > 0.01][:candidates]
        kept = suppressed(boxes[chosen], scores[chosen, label], 0.45)[:per_class_cap]
        found += [(scores[chosen[i], label], label, boxes[chosen[i]]) for i in kept]
    return sorted(found, key=lambda row: -row[0])


def caffe_detections(case):
    return per_class(case, candidates=400)[:200]


def ssd_pytorch_detections(case):
    return per_class(case, candidates=200, per_class_cap=200)


def lufficc_detections(case):
    return per_class(case, candidates=None)[:100]


def sgrvinod_detections(case):
    return per_class(case, candidates=None)[:200]


def d2l_detections(case):
    """The best class of each anchor, one suppression for all; unsure ones are dropped last."""
    boxes, scores = decoded(case), softmax(case[1])
    labels, best = 1 + scores[:, 1:].argmax(axis=1), scores[:, 1:].max(axis=1)
    kept = suppressed(boxes, best, 0.5)
    return [(best[i], labels[i], boxes[i]) for i in kept if not best[i] < 0.009999999]


def torchvision_detections(case):
    """Its own method, with the defaults of its own class."""
    names = ("score_thresh", "topk_candidates", "nms_thresh", "detections_per_img")
    defaults = {name: inspect.signature(SSD).parameters[name].default for name in names}
    offsets, logits, priors = map(torch.from_numpy, case)
    (found,) = SSD.postprocess_detections(
        SimpleNamespace(box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)), **defaults),
        {"bbox_regression": offsets[None], "cls_logits": logits[None]},
        [corners_of(priors)],
        [(1, 1)],
    )
    return list(zip(*(found[name].numpy() for name in ("scores", "labels", "boxes"))))


DETECTIONS = by_key(
    [
        ((*CAFFES, "tf2"), caffe_detections),
        (("torchvision",), torchvision_detections),
        (("ssd.pytorch",), ssd_pytorch_detections),
        (("lufficc",), lufficc_detections),
        (("sgrvinod", "annotated"), sgrvinod_detections),
        (("d2l",), d2l_detections),
    ]
)


def crowded():
    """Five hundred priors in one heap that are all sure of class 1, and 400 all over the image.

    So 400 candidates of class 1 are one detection, without a limit there are many more; classes 2
    and 3 have hundreds each.
    """
    draw = np.random.default_rng(0)
    heap = np.array([0.5, 0.5, 0.2, 0.2]) + 0.004 * draw.random((500, 4))
    rows, columns = np.meshgrid(np.linspace(0, 1, 20), np.linspace(0, 1, 20))
    places = np.stack([rows.ravel(), columns.ravel()], axis=1) + 0.02 * draw.random((400, 2))
    spread = np.concatenate([places, 0.04 + 0.03 * draw.random((400, 2))], axis=1)
    logits = draw.standard_normal((900, 4))
    logits[:500, 1] += 6
    return 0.1 * draw.standard_normal((900, 4)), logits, np.concatenate([heap, spread])


def sparse():
    """Forty priors with scores around .01; the first ten are tiny and grow out of bounds."""
    draw = np.random.default_rng(1)
    priors = np.concatenate([draw.random((40, 2)), 0.2 + 0.2 * draw.random((40, 2))], axis=1)
    priors[:10, 2:] = 0.001 + 0.001 * draw.random((10, 2))
    offsets = draw.standard_normal((40, 4))
    offsets[:10, 2:] = 20 + 5 * draw.random((10, 2))  # log sizes from 4 to 5; ln 62.5 is 4.1
    logits = draw.standard_normal((40, 4))
    logits[:, 0] += 4.5
    return offsets, logits, priors


CASES = {"crowded": crowded(), "sparse": sparse()}


@cache
def their_detections(key, name):
    return DETECTIONS[key](CASES[name])


def our_detections(case, settings):
    offsets, logits, priors = map(torch.from_numpy, case)
    (found,) = postprocess((offsets[None], logits[None]), priors, **settings)
    return list(zip(*(x.numpy() for x in (found.scores, found.labels, found.boxes))))


def inference_settings(key):
    known = set(inspect.signature(postprocess).parameters)
    return {name: value for name, value in CONVENTIONS[key].recipe.items() if name in known}


def agree(ours, theirs):
    if len(ours) != len(theirs):
        return False
    return all(
        a[1] == b[1] and abs(a[0] - b[0]) < 1e-12 and np.allclose(a[2], b[2], rtol=1e-9, atol=1e-9)
        for a, b in zip(ours, theirs)
    )


@pytest.mark.parametrize("key", sorted(CONVENTIONS))
@pytest.mark.parametrize("name", sorted(CASES))
def test_inference(key, name):
    ours = our_detections(CASES[name], inference_settings(key))
    assert agree(ours, their_detections(key, name))


def test_how_much_each_cap_leaves():
    found = {key: their_detections(key, "crowded") for key in CONVENTIONS}
    assert len(found["caffe-voc"]) == len(found["torchvision"]) == len(found["sgrvinod"]) == 200
    assert len(found["lufficc"]) == 100
    labels = [label for _, label, _ in found["ssd.pytorch"]]
    assert [labels.count(label) <= 200 for label in (1, 2, 3)] == [True] * 3
    assert len(labels) > 200
    assert len(found["d2l"]) > 200


INFERENCE_GROUPS = ("caffe-voc", "torchvision", "ssd.pytorch", "lufficc", "sgrvinod", "d2l")


@pytest.mark.parametrize("key", INFERENCE_GROUPS)
def test_no_other_convention_finds_the_same(key):
    theirs = their_detections(key, "crowded")
    for other in INFERENCE_GROUPS:
        ours = our_detections(CASES["crowded"], inference_settings(other))
        assert agree(ours, theirs) == (other == key), other


#: Another value for each setting, which must change what is found.
OTHERWISE = {
    "score_threshold": lambda value: value + 0.002,
    "top_k": lambda value: {200: 400, 400: None, None: 400}[value],
    "nms_threshold": lambda value: 0.95 - value,
    "max_detections": lambda value: {100: 200, 200: None, None: 200}[value],
    "max_log_size": lambda value: None if value else math.log(62.5),
    "clip": lambda value: not value,
    "class_agnostic": lambda value: not value,
}


@pytest.mark.parametrize("key", INFERENCE_GROUPS)
@pytest.mark.parametrize("setting", sorted(OTHERWISE))
def test_every_setting_of_inference_bites(key, setting):
    usual = {"max_log_size": None, "clip": False, "class_agnostic": False}
    settings = usual | inference_settings(key)
    settings[setting] = OTHERWISE[setting](settings[setting])
    same = [
        agree(our_detections(case, settings), their_detections(key, name))
        for name, case in CASES.items()
    ]
    assert not all(same)


# ---------------------------------------------------------------- preprocessing, rule by rule


def caffe_pixels(image, side):
    """BGR levels minus (104, 117, 123), as OpenCV reads and resizes them; here as RGB again."""
    bgr = cv2.resize(np.ascontiguousarray(image[..., ::-1]), (side, side))
    return (bgr.astype(np.float32) - np.float32([104, 117, 123]))[..., ::-1].transpose(2, 0, 1)


def lufficc_pixels(image, side):
    return (cv2.resize(image, (side, side)).astype(np.float32) - [123, 117, 104]).transpose(2, 0, 1)


def torchvision_pixels(image, side):
    """Its transform with the means that its builder of SSD300 sets."""
    mean, std = [0.48235, 0.45882, 0.40784], [1.0 / 255.0] * 3
    transform = GeneralizedRCNNTransform(side, side, mean, std, 1, fixed_size=(side, side)).eval()
    batch, _ = transform([transforms.functional.to_tensor(image)])
    return batch.tensors[0].numpy()


def sgrvinod_pixels(image, side):
    pipeline = transforms.Compose(
        [
            transforms.Resize((side, side)),
            transforms.ToTensor(),
            transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
        ]
    )
    return pipeline(Image.fromarray(image)).numpy()


def d2l_pixels(image, _):
    """Levels as they are: its images have the right size already."""
    return image.astype(np.float32).transpose(2, 0, 1)


def tf2_pixels(image, side):
    """Levels over the width of the image. The post does not say how it was resized."""
    return image.astype(np.float32).transpose(2, 0, 1) / side


PIXELS = by_key(
    [
        ((*CAFFES, "ssd.pytorch"), caffe_pixels),
        (("lufficc",), lufficc_pixels),
        (("torchvision",), torchvision_pixels),
        (("sgrvinod", "annotated"), sgrvinod_pixels),
        (("d2l",), d2l_pixels),
        (("tf2",), tf2_pixels),
    ]
)


def photograph(key, height=400, width=550):
    """Noise; of the input's own size where the source does not say how to resize."""
    side = CONVENTIONS[key].recipe["image_size"]
    shape = (side, side, 3) if key in ("d2l", "tf2") else (height, width, 3)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def our_pixels(key, image, side):
    settings = CONVENTIONS[key].recipe | {"image_size": side}
    return prepare(image, Recipe(class_names=("background", "thing"), **settings)).numpy()


@pytest.mark.parametrize("key", sorted(CONVENTIONS))
def test_preprocessing(key):
    image, side = photograph(key), CONVENTIONS[key].recipe["image_size"]
    ours, theirs = our_pixels(key, image, side), PIXELS[key](image, side)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)


PIXEL_GROUPS = ("caffe-voc", "torchvision", "sgrvinod", "d2l", "tf2")


@pytest.mark.parametrize("key", PIXEL_GROUPS)
def test_no_other_convention_sees_the_same(key):
    # Resized where that is said; else already of the right size.
    image = photograph(key, 300, 400)
    side = CONVENTIONS[key].recipe["image_size"]
    theirs = PIXELS[key](image, side)
    for other in PIXEL_GROUPS:
        same = np.allclose(our_pixels(other, image, side), theirs, rtol=0, atol=2e-4)
        assert same == (other == key), other


def test_the_means_are_levels_of_red_green_and_blue():
    for key in (*CAFFES, "ssd.pytorch", "lufficc", "torchvision"):
        recipe = CONVENTIONS[key].recipe
        levels = [255 * mean for mean in recipe["mean"]]
        # torchvision's are rounded to five places: 122.99925, 116.9991, 103.9992.
        assert levels == pytest.approx([123, 117, 104], abs=1e-3)
        assert [255 * std for std in recipe["std"]] == pytest.approx([1, 1, 1])
    assert CONVENTIONS["torchvision"].recipe["mean"] == (0.48235, 0.45882, 0.40784)


def test_d2ls_score_threshold_is_a_hair_below_one_hundredth():
    scores = torch.tensor([0.0099999995, 0.0099999985], dtype=torch.float64)
    logits = torch.stack([1 - scores, scores], dim=1).log()[None]
    priors = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1]], dtype=torch.float64)
    counts = {
        key: len(
            postprocess(
                (torch.zeros(1, 2, 4, dtype=torch.float64), logits),
                priors,
                score_threshold=CONVENTIONS[key].recipe["score_threshold"],
            )[0].scores
        )
        for key in ("d2l", "caffe-voc")
    }
    assert counts == {"d2l": 1, "caffe-voc": 0}
