"""Matching: against loops that follow the rules to the letter, and against torchvision's."""

import math

import numpy as np
import plain_targets as plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from refusals import refuses
from torchvision.models.detection._utils import SSDMatcher
from torchvision.ops import box_iou

from ssd_annotated.boxes import cxcywh_to_xyxy, pairwise_iou, xyxy_to_cxcywh
from ssd_annotated.matching import bipartite_match, find_positives, match_priors
from ssd_annotated.priors import PRESETS, PriorSpec, make_priors, tiny_priors
from ssd_annotated.support.candidates import find_candidates, find_grid, paired_iou

# Corners on a grid of eighths: equal overlaps, shared best priors and misses are all common.
interval = st.tuples(st.integers(0, 7), st.integers(1, 8)).map(
    lambda pair: (min(pair[0], pair[1] - 1), max(pair[1], pair[0] + 1))
)
box = st.tuples(interval, interval).map(lambda xy: [xy[0][0], xy[1][0], xy[0][1], xy[1][1]])
some_boxes = st.lists(box, min_size=1, max_size=8)
METHODS = ("bipartite", "forced", "argmax", "first")
thresholds = st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.75, 1.0])


def corners(boxes):
    return torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4) / 8


def literal_bipartite(iou):
    """Sort nothing, store nothing: look through every pair again for each object."""
    num_objects, num_priors = len(iou), len(iou[0])
    prior_of = [-1] * num_objects
    for _ in range(num_objects):
        best, pair = 1e-6, None
        for g in range(num_objects):
            for p in range(num_priors):
                if prior_of[g] == -1 and p not in prior_of and iou[g][p] > best:
                    best, pair = iou[g][p], (g, p)
        if pair is None:
            break
        prior_of[pair[0]] = pair[1]
    return prior_of


def literal_match(iou, threshold):
    """First a prior for each object, then the threshold for each prior that is left."""
    prior_of = literal_bipartite(iou)
    object_of = []
    for p in range(len(iou[0])):
        if p in prior_of:
            object_of.append(prior_of.index(p))
            continue
        best = max(range(len(iou)), key=lambda g: iou[g][p])  # the first of equals
        object_of.append(best if iou[best][p] >= threshold else -1)
    return object_of


def literal_forced(iou, threshold):
    """Threshold first; then G times the largest number of the table takes a column and a row."""
    num_objects, num_priors = len(iou), len(iou[0])
    object_of = []
    for p in range(num_priors):
        best = max(range(num_objects), key=lambda g: iou[g][p])
        object_of.append(best if iou[best][p] >= threshold else -1)
    rows, columns = list(range(num_priors)), list(range(num_objects))
    for _ in range(min(num_objects, num_priors)):
        # Prior by prior, as a table with one row for each prior is read.
        p, g = max(((p, g) for p in rows for g in columns), key=lambda pair: iou[pair[1]][pair[0]])
        object_of[p] = g
        rows.remove(p)
        columns.remove(g)
    return object_of


def literal_first(iou, threshold):
    """Every object's best prior counts as IoU 1; then each prior asks for its best object."""
    iou = [list(row) for row in iou]
    for row in iou:
        row[row.index(max(row))] = 1.0
    object_of = []
    for p in range(len(iou[0])):
        column = [row[p] for row in iou]
        object_of.append(column.index(max(column)) if max(column) > threshold else -1)
    return object_of


def iou_table(*rows):
    return torch.tensor(rows, dtype=torch.float32)


# ---------------------------------------------------------------- the bipartite step


def test_the_collision_by_hand():
    # Both objects like prior 1 best. Object 1 overlaps it more (.8 > .7) and gets it; object 0
    # takes its next best, prior 2, although prior 0 has a lower number.
    iou = iou_table([0.1, 0.7, 0.3], [0.0, 0.8, 0.6])
    assert bipartite_match(iou).tolist() == [2, 1]


def test_greedy_is_not_the_best_sum():
    # Best pair of all first: .9 + .1 = 1.0, although .8 + .7 = 1.5 was possible.
    iou = iou_table([0.9, 0.8], [0.7, 0.1])
    assert bipartite_match(iou).tolist() == [0, 1]


def test_a_chain_of_losers_by_hand():
    # .9 gives prior 0 to object 2. Object 1 then falls from .8 to .5 on prior 1, where object 0
    # overlaps it by .6 and comes first; so object 1 goes on to .2 on prior 2.
    iou = iou_table([0.7, 0.6, 0.1], [0.8, 0.5, 0.2], [0.9, 0.0, 0.0])
    assert bipartite_match(iou).tolist() == [1, 2, 0]


def test_of_equal_pairs_the_first_wins():
    assert bipartite_match(iou_table([0.5, 0.5], [0.5, 0.5])).tolist() == [0, 1]
    assert bipartite_match(iou_table([0.2, 0.5, 0.5], [0.5, 0.5, 0.5])).tolist() == [1, 0]


@pytest.mark.parametrize(("overlap", "prior"), [(0.0, -1), (1e-6, -1), (1.1e-6, 0)])
def test_an_overlap_of_more_than_a_millionth_is_needed(overlap, prior):
    assert bipartite_match(torch.tensor([[overlap]], dtype=torch.float64)).tolist() == [prior]


def test_more_objects_than_priors():
    # Two priors go to the best pairs, .9 and .6; the objects between them get nothing.
    iou = iou_table([0.5, 0.6], [0.8, 0.1], [0.9, 0.5], [0.4, 0.3])
    assert bipartite_match(iou).tolist() == [1, -1, 0, -1]


def test_the_table_is_left_as_it_was():
    iou = iou_table([0.5, 0.6], [0.8, 0.1])
    before = iou.clone()
    bipartite_match(iou)
    assert torch.equal(iou, before)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
@pytest.mark.parametrize("smallest", [1e-6, None])
def test_an_empty_table_matches_nothing(shape, smallest):
    assert bipartite_match(torch.zeros(shape), smallest).tolist() == [-1] * shape[0]


def test_without_a_smallest_overlap_every_object_is_served_while_priors_last():
    # Object 1 takes prior 0; the others overlap nothing free and take what is left, in order.
    iou = iou_table([0.3, 0.0, 0.0], [0.8, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0])
    assert bipartite_match(iou).tolist() == [-1, 0, -1, -1]
    assert bipartite_match(iou, None).tolist() == [1, 0, 2, -1]
    assert bipartite_match(iou, 0.8).tolist() == [-1] * 4


# Few levels, so that nearly every table has ties.
@given(st.data(), st.integers(1, 6), st.integers(1, 6))
def test_bipartite_is_the_literal_loop_and_stable(data, num_objects, num_priors):
    level = st.sampled_from([0.0, 1e-7, 0.2, 0.25, 0.5, 0.5, 0.9, 1.0])
    rows = st.lists(level, min_size=num_priors, max_size=num_priors)
    iou = data.draw(st.lists(rows, min_size=num_objects, max_size=num_objects))
    prior_of = bipartite_match(torch.tensor(iou, dtype=torch.float64)).tolist()
    assert prior_of == literal_bipartite(iou)
    given_away = [p for p in prior_of if p >= 0]
    assert len(set(given_away)) == len(given_away), "two objects share a prior"
    for g in range(num_objects):
        for p in range(num_priors):
            if p not in given_away:
                # A free prior: its turn came and went, so an unmatched object does not overlap it.
                own = iou[g][prior_of[g]] if prior_of[g] >= 0 else 1e-6
                assert iou[g][p] <= own
            else:
                # A taken prior: its object overlaps it as much, or g has something as good.
                holder = iou[prior_of.index(p)][p]
                own = iou[g][prior_of[g]] if prior_of[g] >= 0 else 0
                assert iou[g][p] <= max(holder, own)


# ---------------------------------------------------------------- both steps


def test_three_objects_and_five_priors_by_hand():
    #          prior: 0: x 0-4   1: x 2-6   2: x 4-8   3: x 0-8   4: x 0-1    (eighths, full height)
    # object 0, 0-4:  4/4 = 1    2/6        0          4/8        1/4
    # object 1, 4-8:  0          2/6        1          4/8        0
    # object 2, 1-4:  3/4        2/5        0          3/8        0
    # Pairs by falling IoU: (0, 0), (1, 2), then object 2 on the free priors: .4 on prior 1.
    # Threshold: prior 3 has exactly ½ with objects 0 and 1, the first has it; prior 4 has ¼: −1.
    spans = [(0, 4), (2, 6), (4, 8), (0, 8), (0, 1)]
    priors = xyxy_to_cxcywh(corners([[left, 0, right, 8] for left, right in spans]))
    objects = corners([[0, 0, 4, 8], [4, 0, 8, 8], [1, 0, 4, 8]])
    assert match_priors(priors, objects).tolist() == [0, 2, 1, 0, -1]
    # argmax: object 2 also wants prior 0, and as the later one takes it from object 0, which
    # keeps only its ½ on prior 3.
    assert match_priors(priors, objects, method="argmax").tolist() == [2, -1, 1, 0, -1]
    # first: object 0 keeps prior 0, and object 2 is left with none.
    assert match_priors(priors, objects, method="first").tolist() == [0, -1, 1, 0, -1]
    # forced: as bipartite, for every object finds an overlap.
    assert match_priors(priors, objects, method="forced").tolist() == [0, 2, 1, 0, -1]


@given(some_boxes, some_boxes, thresholds)
def test_bipartite_matching_is_the_literal_loop(prior_boxes, objects, threshold):
    priors, objects = xyxy_to_cxcywh(corners(prior_boxes)), corners(objects)
    iou = pairwise_iou(objects, cxcywh_to_xyxy(priors))
    matches = match_priors(priors, objects, threshold)
    assert matches.dtype == torch.int64
    assert matches.tolist() == literal_match(iou.tolist(), threshold)
    for g in range(len(objects)):
        # An object is absent only if every prior that it overlaps went to another's first turn.
        if g not in matches:
            touched = (iou[g] > 1e-6).nonzero().flatten().tolist()
            assert set(touched) <= set(literal_bipartite(iou.tolist()))


@given(some_boxes, some_boxes, thresholds)
def test_argmax_matching_is_torchvisions(prior_boxes, objects, threshold):
    priors, objects = corners(prior_boxes), corners(objects)
    theirs = SSDMatcher(threshold)(box_iou(objects, priors))
    ours = match_priors(xyxy_to_cxcywh(priors), objects, threshold, method="argmax")
    assert ours.tolist() == theirs.clamp(min=-1).tolist()


@given(some_boxes, some_boxes, thresholds)
def test_forced_matching_is_the_literal_loop(prior_boxes, objects, threshold):
    priors, objects = xyxy_to_cxcywh(corners(prior_boxes)), corners(objects)
    iou = pairwise_iou(objects, cxcywh_to_xyxy(priors))
    matches = match_priors(priors, objects, threshold, method="forced").tolist()
    assert matches == literal_forced(iou.tolist(), threshold)
    # Every object gets a prior while there are enough priors, at any overlaps.
    assert len(set(matches) - {-1}) >= min(len(objects), len(priors))


@given(some_boxes, some_boxes, st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 0.75]))
def test_first_matching_is_the_literal_loop(prior_boxes, objects, threshold):
    priors, objects = xyxy_to_cxcywh(corners(prior_boxes)), corners(objects)
    iou = pairwise_iou(objects, cxcywh_to_xyxy(priors)).tolist()
    # The loop needs more than the threshold; `match_priors` needs only as much.
    matches = match_priors(priors, objects, math.nextafter(threshold, 1), method="first").tolist()
    assert matches == literal_first(iou, threshold)


@given(some_boxes, some_boxes, thresholds)
def test_first_and_argmax_are_mirror_images(prior_boxes, objects, threshold):
    # Both start from the same first priors; they differ only where two objects share one.
    priors, objects = xyxy_to_cxcywh(corners(prior_boxes)), corners(objects)
    wanted = pairwise_iou(objects, cxcywh_to_xyxy(priors)).argmax(dim=1).tolist()
    first = match_priors(priors, objects, threshold, method="first").tolist()
    last = match_priors(priors, objects, threshold, method="argmax").tolist()
    for p in range(len(priors)):
        claims = [g for g, prior in enumerate(wanted) if prior == p]
        if claims:
            assert (first[p], last[p]) == (claims[0], claims[-1])
        else:
            assert first[p] == last[p]


def test_many_overlapping_objects_among_many_priors():
    torch.manual_seed(0)
    # Forty objects crowded around the middle, 300 priors everywhere, in single precision.
    objects = cxcywh_to_xyxy(torch.rand(40, 4) * 0.2 + 0.4)
    priors = torch.rand(300, 4) * 0.6 + 0.2
    iou = pairwise_iou(objects, cxcywh_to_xyxy(priors))
    matches = match_priors(priors, objects)
    assert matches.tolist() == literal_match(iou.tolist(), 0.5)
    assert set(range(40)) <= set(matches.tolist()), "some object was lost"
    lossy = match_priors(priors, objects, method="argmax")
    assert lossy.tolist() == SSDMatcher(0.5)(iou).clamp(min=-1).tolist()
    assert not set(range(40)) <= set(lossy.tolist()), "argmax loses some here"


@pytest.mark.parametrize(
    ("height", "match"),
    [
        (1.0, 0),  # the object is the upper half of the prior: IoU ½ exactly, and that is enough
        (1.0 + 1e-6, -1),  # ½ / (1 + 10⁻⁶): just short
        (1.0 - 1e-6, 0),
    ],
)
def test_the_threshold_is_inclusive(height, match):
    objects = torch.tensor([[0.0, 0.0, 1.0, 0.5]])
    priors = torch.tensor([[0.5, 0.25, 1.0, 0.5], [0.5, height / 2, 1.0, height]])
    assert match_priors(priors, objects).tolist() == [0, match]


def test_the_default_threshold_is_one_half():
    objects = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    # Strips of the image: IoU .45, .5, .55 and .95; the last is its object's own prior.
    heights = (0.45, 0.5, 0.55, 0.95)
    priors = torch.tensor([[0.5, height / 2, 1.0, height] for height in heights])
    assert match_priors(priors, objects).tolist() == [-1, 0, 0, 0]
    assert match_priors(priors, objects, threshold=0.6).tolist() == [-1, -1, -1, 0]


@pytest.mark.parametrize(
    ("method", "matches"),
    [
        ("bipartite", [0, 0, -1]),
        ("argmax", [1, 0, -1]),
        ("first", [0, 0, -1]),
        ("forced", [0, 1, -1]),
    ],
)
def test_an_object_that_overlaps_nothing(method, matches):
    # Object 0 is prior 0 itself and overlaps prior 1 by ⅗; object 1 is nowhere near a prior.
    # Bipartite leaves it out. The argmax of zeros is prior 0: there the later object drives the
    # earlier one out, unless the first one wins. Forced, it takes the first free prior.
    priors = torch.tensor([[0.2, 0.2, 0.4, 0.2], [0.3, 0.2, 0.4, 0.2], [0.8, 0.2, 0.2, 0.2]])
    objects = torch.tensor([[0.0, 0.1, 0.4, 0.3], [0.4, 0.8, 0.6, 1.0]])
    assert match_priors(priors, objects, method=method).tolist() == matches


def test_a_point_is_no_object_to_learn():
    priors = torch.tensor([[0.5, 0.5, 0.2, 0.2]])
    assert match_priors(priors, torch.tensor([[0.5, 0.5, 0.5, 0.5]])).tolist() == [-1]


@pytest.mark.parametrize("method", METHODS)
def test_an_image_without_objects_is_all_background(method):
    matches = match_priors(torch.rand(7, 4), torch.zeros(0, 4), method=method)
    assert matches.dtype == torch.int64
    assert matches.tolist() == [-1] * 7


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_image_by_image(method):
    torch.manual_seed(0)
    priors = torch.rand(50, 4) * 0.5 + 0.25
    images = [cxcywh_to_xyxy(torch.rand(n, 4) * 0.5 + 0.25) for n in (3, 0, 60, 1)]
    rows, objects = find_positives(priors, images, 0.4, method)
    batch = torch.full((4 * 50,), -1)
    batch[rows] = torch.from_numpy(objects)
    for number, (matches, boxes) in enumerate(zip(batch.view(4, 50), images, strict=True)):
        before = sum(map(len, images[:number]))
        alone = match_priors(priors, boxes, 0.4, method)
        assert torch.equal(matches, torch.where(alone < 0, -1, alone + before))
    assert rows.tolist() == sorted(set(rows.tolist()))


# ---------------------------------------------------------------- priors on a grid

#: Of these presets some priors are clipped at the border, and so do not repeat from cell to cell.
NO_GRID = {"ssd.pytorch", "lufficc", "tf2"}


def scene(kind, priors, seed=0):
    """Objects of a kind that is hard to match, in the priors' precision."""
    draw = torch.Generator().manual_seed(seed)
    small, large, count = {
        "usual": (0.05, 0.9, 12),
        "tiny": (0.002, 0.08, 25),
        "large": (0.5, 1.0, 8),
        "many": (0.04, 0.5, 60),
        "crowd": (0.1, 0.4, 5),
        "copies": (0.05, 0.9, 12),
        "odd": (0.05, 0.9, 6),
    }[kind]
    random = torch.rand(count, 4, generator=draw, dtype=torch.float64)
    size = small * (large / small) ** random[:, 2:]
    boxes = cxcywh_to_xyxy(torch.cat([random[:, :2], size], dim=1)).clamp(0, 1).to(priors)
    if kind == "crowd":  # each object many times, and one that is a prior, bit for bit
        boxes = torch.cat([boxes.repeat(8, 1), cxcywh_to_xyxy(priors[[77, 77, 78]])])
    if kind == "copies":  # every overlap is 1 somewhere, and many are equal
        boxes = cxcywh_to_xyxy(priors[torch.randperm(len(priors), generator=draw)[:30]])
    if kind == "odd":  # points, lines, all the image, more than it, and outside of it
        boxes[0, 2:], boxes[1, 2] = boxes[0, :2], boxes[1, 0]
        whole = [[0, 0, 1, 1], [-0.5, -0.5, 1.5, 1.5], [1.2, 1.2, 1.9, 1.9], [0.5, 0.5, 0.5, 0.5]]
        boxes = torch.cat([boxes, boxes.new_tensor(whole)])
    return boxes


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("preset", PRESETS)
def test_all_presets_match_as_the_plain_search_does(preset, dtype):
    priors = make_priors(PRESETS[preset], dtype)
    assert (find_grid(priors.numpy()) is None) == (preset in NO_GRID)
    for seed, kind in enumerate(("usual", "tiny", "large", "many", "crowd", "copies", "odd")):
        boxes = scene(kind, priors, seed)
        for method in METHODS:
            threshold = (0.5, 0.35, 0.7)[seed % 3]
            matches = match_priors(priors, boxes, threshold, method)
            expected = plain.match_priors(priors, boxes, threshold, method)
            assert torch.equal(matches, expected), (kind, method)


ODD_SPECS = {
    "faces": PriorSpec(
        ((30, 40), (15, 20), (8, 10), (4, 5)),
        sizes=tuple(
            tuple((px / 320, px / 240) for px in some)
            for some in ((10, 16, 24), (32, 48), (64, 96), (128, 192, 256))
        ),
        ratios=((),) * 4,
        centres="steps",
        steps=tuple((step / 240, step / 320) for step in (8, 16, 32, 64)),
    ),
    "three": PriorSpec(
        (9, 5), sizes=((0.1, (0.28, 0.14), (0.14, 0.28)), (0.5,)), ratios=((), (2.0,))
    ),
    "wide": PriorSpec(((2, 7), (1, 4)), sizes=(0.2, 0.5), ratios=((2.0,), ()), last_extra=0.7),
}


@pytest.mark.parametrize("name", ODD_SPECS)
def test_other_maps_and_shapes_match_as_the_plain_search_does(name):
    priors = make_priors(ODD_SPECS[name])
    assert find_grid(priors.numpy()) is not None
    for seed, kind in enumerate(("usual", "tiny", "large", "odd")):
        boxes = scene(kind, priors, seed)
        for method in METHODS:
            expected = plain.match_priors(priors, boxes, 0.5, method)
            assert torch.equal(match_priors(priors, boxes, 0.5, method), expected), (kind, method)


@pytest.mark.parametrize("priors_dtype", [torch.float32, torch.float64])
def test_priors_and_objects_of_different_precision(priors_dtype):
    priors = make_priors(tiny_priors(64), priors_dtype)
    other = torch.float32 if priors_dtype == torch.float64 else torch.float64
    for seed, kind in enumerate(("usual", "crowd", "odd")):
        boxes = scene(kind, priors, seed).to(other)
        expected = plain.match_priors(priors, boxes)
        assert torch.equal(match_priors(priors, boxes), expected)


def test_priors_far_too_small_for_their_objects():
    # Every prior within an object overlaps it as much as the next; only the last bit decides.
    priors = make_priors(PriorSpec((40,), sizes=((0.02, 0.03),), ratios=((2.0,),)))
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.05, 0.05, 0.96, 0.98], [0.1, 0.0, 1.0, 0.95]])
    for method in METHODS:
        expected = plain.match_priors(priors, boxes, method=method)
        assert torch.equal(match_priors(priors, boxes, method=method), expected)
    assert len(find_candidates(priors, [boxes], 0.5).rows) == 0, "thousands would be listed"


def test_a_ranking_is_no_longer_than_needed():
    priors = make_priors(PriorSpec((40,), sizes=((0.02, 0.03),), ratios=((2.0,),)))
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(7, 1)
    for method in METHODS:
        expected = plain.match_priors(priors, boxes, method=method)
        assert torch.equal(match_priors(priors, boxes, method=method), expected)
    candidates = find_candidates(priors, [boxes[:3], boxes], 0.5)
    iou = pairwise_iou(boxes[:1], cxcywh_to_xyxy(priors))[0]
    order = iou.argsort(descending=True, stable=True)
    assert [row for _, row in candidates.ranking(2)] == order[:3].tolist()
    assert [row for _, row in candidates.ranking(3)] == (order[:7] + len(priors)).tolist()


def test_priors_moved_from_their_grid_are_searched():
    priors = make_priors(tiny_priors(128))
    moved = priors.clone()
    moved[700, 0] += 0.01
    shuffled = priors[torch.randperm(len(priors), generator=torch.Generator().manual_seed(0))]
    columns = make_priors(PriorSpec((8, 2), (0.2, 0.5), ((2.0,), ()), 0.8, order="tf2"))
    for others in (moved, shuffled, columns):
        assert find_grid(others.numpy()) is None
        boxes = scene("usual", others)
        assert torch.equal(match_priors(others, boxes), plain.match_priors(others, boxes))


def test_priors_changed_in_place_are_seen():
    priors = make_priors(tiny_priors(64))
    boxes = scene("usual", priors)
    match_priors(priors, boxes)
    priors.mul_(0.9)
    assert torch.equal(match_priors(priors, boxes), plain.match_priors(priors, boxes))


@pytest.mark.parametrize("method", METHODS)
def test_more_objects_than_the_grid_has_priors(method):
    priors = make_priors(PriorSpec((2, 1), (0.3, 0.6), ((), ()), 0.8))
    boxes = scene("many", priors)
    assert len(boxes) > len(priors)
    expected = plain.match_priors(priors, boxes, method=method)
    assert torch.equal(match_priors(priors, boxes, method=method), expected)


def test_few_priors_are_looked_at():
    priors = make_priors(PRESETS["caffe-voc"])
    boxes = scene("usual", priors)
    candidates = find_candidates(priors, [boxes], 0.5)
    assert len(candidates.rows) < 0.01 * len(boxes) * len(priors)


@given(some_boxes, some_boxes)
def test_paired_iou_is_that_of_the_table(first, second):
    for dtype in (torch.float32, torch.float64):
        a, b = (corners(boxes).to(dtype) / 3 for boxes in (first, second))
        paired = paired_iou(a.T.numpy()[:, :, None], b.T.numpy()[:, None])
        assert np.array_equal(paired, pairwise_iou(a, b).numpy())
        assert torch.equal(pairwise_iou(a, b), plain.pairwise_iou(a, b))


def test_positives_are_counted_through_the_batch():
    priors = torch.tensor([[0.2, 0.2, 0.2, 0.2], [0.8, 0.8, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2]])
    boxes = cxcywh_to_xyxy(priors)
    rows, objects = find_positives(priors, [boxes[[1]], boxes[:0], boxes[[2, 0]]])
    assert rows.tolist() == [1, 6, 8]
    assert objects.tolist() == [0, 2, 1]


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("threshold", [0.0, -0.5, 1.01, float("nan")])
def test_a_threshold_outside_0_to_1_is_refused(threshold):
    with refuses(rf"threshold must be an IoU in \(0, 1\], not {threshold}"):
        match_priors(torch.rand(3, 4), torch.zeros(0, 4), threshold)


def test_an_unknown_method_is_refused():
    expected = "method must be 'bipartite', 'forced', 'argmax' or 'first', not 'hungarian'"
    with refuses(expected):
        match_priors(torch.rand(3, 4), torch.zeros(0, 4), method="hungarian")


def test_a_batch_of_no_images_is_refused():
    with refuses("a batch needs at least one image, not 0"):
        find_positives(torch.rand(3, 4), [])


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (torch.zeros(2, 5), r"boxes must have shape \(N, 4\), not \(2, 5\)"),
        (
            torch.tensor([[0.0, 0, 1, 1], [0.5, 0, 0.25, 1]]),
            r"boxes\[1\] = \[0.5, 0.0, 0.25, 1.0\]",
        ),
        (torch.tensor([[0, 0, 100, 100]]), "must be floats .* not torch.int64"),
    ],
)
def test_boxes_that_are_none_are_refused(boxes, message):
    with refuses(message):
        match_priors(torch.rand(3, 4), boxes)


def test_one_infinite_edge_among_finite_boxes_is_refused():
    boxes = [torch.tensor([[0.1, 0.1, 0.4, 0.4]]), torch.tensor([[0.0, 0.0, math.inf, 1.0]])]
    with refuses(r"must be finite xyxy"):
        find_positives(make_priors(tiny_priors(64)), boxes)
