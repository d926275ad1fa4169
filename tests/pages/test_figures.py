"""The interactive figures show the package's own numbers, whoever moves them and by what."""

import math
import random
from itertools import pairwise

import pytest
import torch
import try_data

from ssd_annotated import PRESETS, make_priors, match_priors, pairwise_iou, postprocess, pretrained
from ssd_annotated.boxes import cxcywh_to_xyxy
from ssd_annotated.transforms import collate

CODE = try_data.TARGET.parent
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 2,
}
#: Where the priors for VOC end, beyond the image.
LEFTMOST = cxcywh_to_xyxy(make_priors(PRESETS["caffe-voc"], torch.float64))[:, 0].min().item()
SSD300 = [name for name, spec in PRESETS.items() if sum(spec.counts) == 8732]


def figure(page, site, name):
    """The figure called `name` on the page that holds all of them, in view and loaded."""
    page.set_default_timeout(120_000)  # a busy machine is no fault of the page
    if not page.url.startswith(site.url):
        page.goto(f"{site.url}book/try.html", wait_until="domcontentloaded")
    page.locator(f'[data-try="{name}"]').scroll_into_view_if_needed()
    found = page.locator(f'.try-ready[data-try="{name}"]')
    found.wait_for()
    return found


def state(found, *names):
    """Some of the numbers that a figure shows."""
    return found.evaluate(
        "(element, names) => names.map((name) => element.tryState[name])", list(names)
    )


def seen(found):
    """The words on the screen, without those that a screen reader hears half a second later."""
    return found.evaluate(
        """element => Array.from(element.children).filter((child) => !child.matches("[aria-live]"))
             .map((child) => child.innerText).join("\\n")"""
    )


def double(numbers):
    """A tensor with the precision that JavaScript has."""
    return torch.tensor(numbers, dtype=torch.float64)


def boxes_of(found):
    return found.locator(".try-box")


def corner(box, name):
    """The handle on a corner of a box: "nw", "ne", "sw" or "se"."""
    return box.locator(".try-handle").nth(("nw", "ne", "sw", "se").index(name))


def drag(page, handle, dx, dy):
    """Drag the middle of something by so many pixels of the screen."""
    handle.scroll_into_view_if_needed()
    place = handle.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx / 2, y + dy / 2)
    page.mouse.move(x + dx, y + dy)
    page.mouse.up()


def touch_drag(page, handle, dx, dy):
    """The same with a finger."""
    handle.scroll_into_view_if_needed()
    place = handle.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    finger = page.context.new_cdp_session(page)
    for kind, part in (("touchStart", 0), ("touchMove", 0.5), ("touchMove", 1), ("touchEnd", None)):
        points = [] if part is None else [{"x": x + part * dx, "y": y + part * dy}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def slide(found, label, value):
    """Move a slider."""
    slider = found.get_by_label(label)
    slider.evaluate(
        "(input, value) => { input.value = value; input.dispatchEvent(new Event('input')); }", value
    )


def choose(found, label, option):
    found.get_by_label(label).select_option(option)


def random_boxes(rng, count):
    """Boxes anywhere, on a coarse grid (so that IoUs tie), twice the same, or hardly in sight."""
    kind = rng.choice(("anywhere", "grid", "tiny", "far away", "sliver", "twice"))
    boxes = []
    for _ in range(count):
        draw = (lambda: rng.randrange(13) / 12) if kind == "grid" else rng.random
        (x0, x1), (y0, y1) = sorted((draw(), draw())), sorted((draw(), draw()))
        if kind == "tiny":
            x1, y1 = x0 + (x1 - x0) / 50, y0 + (y1 - y0) / 50
        if kind == "far away":
            x0, x1 = x0 + 3, x1 + 3
        if kind == "sliver":  # an IoU just above or below the smallest that counts
            x0, x1, y0, y1 = LEFTMOST - 0.5, LEFTMOST + 1e-5 * x0, 0, 1
        boxes.append([x0, y0, x1, y1])
    return boxes[:1] * count if kind == "twice" else boxes


def random_threshold(rng, priors, boxes):
    """Often the very IoU that some prior has, which is enough for it."""
    overlaps = pairwise_iou(double(boxes), cxcywh_to_xyxy(priors))
    reached = overlaps[overlaps > 0.2].tolist()
    return rng.choice([0.3, 0.5, 0.7, *rng.sample(reached, min(6, len(reached)))])


# --- The arithmetic -------------------------------------------------------------------------------


def test_priors_are_the_package_s(page, site):
    found = figure(page, site, "priors")
    assert found.get_by_label("Priors").locator("option").all_text_contents() == SSD300
    for preset in SSD300:
        priors = page.evaluate(
            """async (name) => AnnotatedSSD.makePriors(
                 (await AnnotatedSSD.dataset("presets"))[name])""",
            preset,
        )
        assert priors == make_priors(PRESETS[preset], torch.float64).tolist()


@pytest.mark.parametrize("method", ["bipartite", "argmax"])
def test_matching_is_the_package_s(page, site, method):
    figure(page, site, "priors")
    rng = random.Random(method)
    scenes = [random_boxes(rng, rng.randint(1, 4)) for _ in range(40)]
    priors = make_priors(PRESETS["caffe-voc"], torch.float64)
    thresholds = [random_threshold(rng, priors, boxes) for boxes in scenes]
    theirs = page.evaluate(
        """async ([scenes, thresholds, method]) => {
             const { makePriors, toCorners, match } = AnnotatedSSD;
             const presets = await AnnotatedSSD.dataset("presets");
             const priors = makePriors(presets["caffe-voc"]).map(toCorners);
             return scenes.map((boxes, k) => {
               const matches = match(priors, boxes, thresholds[k], method).matches;
               return [...matches.entries()].filter(([, object]) => object >= 0);
             });
           }""",
        [scenes, thresholds, method],
    )
    for boxes, threshold, found in zip(scenes, thresholds, theirs):
        matches = match_priors(priors, double(boxes), threshold, method).tolist()
        assert found == [[prior, j] for prior, j in enumerate(matches) if j >= 0]
    assert any(len(found) > 20 for found in theirs)
    assert any(found == [] for found in theirs) or method == "argmax"


def test_iou_is_the_package_s(page, site):
    figure(page, site, "iou")
    rng = random.Random(1)
    pairs = [random_boxes(rng, 2) for _ in range(300)]
    theirs = page.evaluate(
        "pairs => pairs.map(([a, b]) => AnnotatedSSD.iou(a, b))", [*pairs, [[0] * 4] * 2]
    )
    ours = [pairwise_iou(*double(pair)[:, None]).item() for pair in pairs]
    assert theirs == [*ours, 0]


# --- Figure 1 -------------------------------------------------------------------------------------


def check_priors(found):
    """What the figure shows is what the package says of the same boxes."""
    preset, boxes, threshold, method, matches, per_map, counts, best = state(
        found, "preset", "boxes", "threshold", "method", "matches", "perMap", "counts", "best"
    )
    spec = PRESETS[preset]
    priors, objects = make_priors(spec, torch.float64), double(boxes)
    ours = match_priors(priors, objects, threshold, method)
    maps = ours.split(list(spec.counts))
    assert matches == ours.tolist()
    assert per_map == [[int((m == k).sum()) for m in maps] for k in range(len(boxes))]
    assert counts == [sum(row) for row in per_map]
    overlap = pairwise_iou(objects, cxcywh_to_xyxy(priors)).amax(dim=1)
    assert best == overlap.tolist()
    for k, row in enumerate(found.locator("tr").all()[1:]):
        shown = row.locator("td").all_text_contents()
        assert shown == [*map(str, per_map[k]), str(counts[k]), f"{best[k]:.2f}"]
    assert found.locator(".try-prior").count() == sum(counts)
    return boxes, counts


def size_of(box):
    return ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5


def check_landscape(found):
    """Each point of the curve is the package's count for the reader's box in that size."""
    preset, boxes, threshold, best, landscape = state(
        found, "preset", "boxes", "threshold", "best", "landscape"
    )
    priors = make_priors(PRESETS[preset], torch.float64)
    sizes = double([each["box"] for each in landscape])
    learners = (pairwise_iou(sizes / 300, cxcywh_to_xyxy(priors)) >= threshold).sum(dim=1)
    assert [each["learners"] for each in landscape] == learners.tolist()
    for k in range(0, len(sizes), 8):  # it is what matching gives, but for the prior by force
        matched = int((match_priors(priors, sizes[k : k + 1] / 300, threshold) >= 0).sum())
        assert matched == max(1, learners[k])

    # One shape in one place, from small to large, as far as the picture reaches.
    span = sizes[:, 2:] - sizes[:, :2]
    torch.testing.assert_close(span[:, 0] / span[:, 1], (span[0, 0] / span[0, 1]).expand(len(span)))
    assert all(a <= b + 1e-9 for a, b in pairwise(map(size_of, sizes.tolist())))
    assert sizes.min() > -1e-9
    assert sizes.max() < 300 + 1e-9
    assert span[-1].max().item() == pytest.approx(300)
    middles = sizes[:, :2] + sizes[:, 2:]
    free = (sizes[:, :2] > 1e-9) & (sizes[:, 2:] < 300 - 1e-9)
    assert ((middles - middles[0]).abs()[free] < 1e-9).all()

    # The dot is on the curve, where the reader's box is.
    [now] = [size_of(box) * 300 for box in boxes]
    count = int((pairwise_iou(double(boxes), cxcywh_to_xyxy(priors)) >= threshold).sum())
    assert (count == 0) == (best[0] < threshold)
    assert (found.locator(".try-big").inner_text() == "Nobody, but by force") == (count == 0)
    top = int(found.locator(".try-columns text").nth(2).text_content())  # of the rows
    assert top >= learners.max()
    x, y = (float(found.locator(".try-dot").get_attribute(name)) for name in ("cx", "cy"))
    assert x == pytest.approx(270 * math.log(now / 4) / math.log(75), abs=0.06)
    assert y == pytest.approx(150 * (1 - count / top), abs=0.06)
    return count, now, landscape


def test_the_landscape_is_the_package_s(page, site):
    found = figure(page, site, "priors")
    for name, preset, threshold in (
        ("head", "paper", 0.5),
        ("mission patch", "tf2", 0.62),
        ("smile", "caffe-coco", 0.2),
        ("rocket booster", "torchvision", 0.5),
    ):
        choose(found, "Priors", preset)
        slide(found, "Threshold", threshold)
        found.get_by_role("button", name=name).click()
        count, _, landscape = check_landscape(found)
        taught = [size_of(each["box"]) for each in landscape if each["learners"]]
        if name == "head":  # the law of the half area, chapter 3
            assert count == 12
            assert 450**0.5 <= min(taught) < 25
            assert f"needs about {round(min(taught))} px" in seen(found)
        if name == "rocket booster":  # the law of nine quarters
            assert not taught
            assert "is not taught in any size" in seen(found)


def test_shrink_the_box_until_nobody_is_taught(page, site):
    found = figure(page, site, "priors")
    slider, heading = found.get_by_label("Size of A"), found.locator(".try-big")
    _, before, landscape = check_landscape(found)
    slider.focus()
    told = [heading.inner_text()]
    while told[-1] != "Nobody, but by force":
        page.keyboard.press("ArrowLeft")
        told.append(heading.inner_text())
    assert told[0] == "12 priors"
    count, now, same = check_landscape(found)
    assert (count, same) == (0, landscape)  # what it walks on stays where it is
    assert 20 < now < 450**0.5 < before
    assert slider.get_attribute("aria-valuetext") == f"{round(now)} px"
    assert found.locator(".try-forced").count() == 1
    found.locator("[aria-live]").get_by_text("Nobody, but by force.").wait_for(state="attached")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert check_landscape(found)[0] > 0
    page.keyboard.press("End")
    _, largest, _ = check_landscape(found)
    assert largest > 250
    # A box in the hand is another box, with a landscape of its own.
    drag(page, corner(boxes_of(found).first, "nw"), 90, 40)
    assert check_landscape(found)[2] != landscape
    found.get_by_role("button", name="Add a second box").click()
    assert not slider.is_visible()  # two boxes have no landscape


@pytest.mark.parametrize("context_options", [PHONE])
def test_a_finger_shrinks_the_box(page, site):
    found = figure(page, site, "priors")
    _, before, _ = check_landscape(found)
    found.get_by_label("Size of A").scroll_into_view_if_needed()
    place = found.get_by_label("Size of A").bounding_box()
    page.touchscreen.tap(place["x"] + place["width"] / 5, place["y"] + place["height"] / 2)
    count, now, _ = check_landscape(found)
    assert now < before / 2
    assert count == 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_box_is_dragged_and_stretched_by_mouse(page, site):
    found = figure(page, site, "priors")
    box = boxes_of(found).first
    before, counts = check_priors(found)
    assert counts == [12]  # the head, as chapter 3 says
    rng = random.Random(3)
    for name in ("nw", "ne", "sw", "se"):
        drag(page, box.locator(".try-name"), rng.randint(-90, 90), rng.randint(0, 120))
        drag(page, corner(box, name), rng.randint(-40, 40), rng.randint(-40, 40))
        after, _ = check_priors(found)
        check_landscape(found)
        assert after != before
        before = after


def test_a_box_is_moved_and_stretched_by_keyboard(page, site):
    found = figure(page, site, "priors")
    box = boxes_of(found).first
    box.focus()
    [[x0, y0, x1, y1]] = (double(state(found, "boxes")[0]) * 300).tolist()
    for key, change in {
        "ArrowLeft": (-1, 0, -1, 0),
        "ArrowDown": (0, 1, 0, 1),
        "PageDown": (0, 10, 0, 10),
        "End": (10, 0, 10, 0),
        "Shift+ArrowRight": (0, 0, 1, 0),
        "Shift+PageUp": (0, 0, 0, -10),
    }.items():
        page.keyboard.press(key)
        x0, y0, x1, y1 = (a + b for a, b in zip((x0, y0, x1, y1), change))
        boxes, _ = check_priors(found)
        assert [v * 300 for v in boxes[0]] == pytest.approx([x0, y0, x1, y1])
    for key in ("Home", "PageUp") * 30:  # as far as it goes
        page.keyboard.press(key)
    assert state(found, "boxes")[0][0][:2] == [0, 0]
    assert "left 0, top 0" in box.get_attribute("aria-label")


def test_a_small_box_is_taught_by_force_only(page, site):
    found = figure(page, site, "priors")
    found.get_by_role("button", name="mission patch").click()
    assert check_priors(found)[1] == [8]
    boxes_of(found).first.focus()
    for key in ("Shift+Home", "Shift+PageUp") * 3:
        page.keyboard.press(key)
    _, counts = check_priors(found)
    assert counts == [1]
    assert "by force" in seen(found)
    assert found.locator(".try-forced").count() == 1


def test_two_boxes_quarrel(page, site):
    found = figure(page, site, "priors")
    found.get_by_role("button", name="smile").click()
    found.get_by_role("button", name="Add a second box").click()
    choose(found, "Priors", "caffe-coco")
    boxes, _ = check_priors(found)
    assert len(boxes) == 2
    choose(found, "First prior", "argmax (torchvision)")
    check_priors(found)
    # Put B exactly on A: argmax lets the later one win, and the first is left with none.
    slide(found, "Threshold", 0.9)
    boxes_of(found).last.focus()
    while state(found, "boxes")[0][1][0] > state(found, "boxes")[0][0][0]:
        page.keyboard.press("ArrowLeft")
    _, counts = check_priors(found)
    assert counts == [0, 1]
    assert "loses: nobody" in seen(found)
    choose(found, "First prior", "bipartite (Caffe)")
    assert check_priors(found)[1] == [1, 1]
    found.get_by_role("button", name="Remove box B").click()
    assert len(check_priors(found)[0]) == 1


def test_presets_and_thresholds(page, site):
    found = figure(page, site, "priors")
    for preset in ("caffe-voc", "torchvision", "sgrvinod", "tf2"):
        choose(found, "Priors", preset)
        counts = []
        for threshold in (0.3, 0.5, 0.62, 0.9):
            slide(found, "Threshold", threshold)
            assert state(found, "preset", "threshold") == [preset, threshold]
            counts.append(check_priors(found)[1][0])
        assert all(a >= b for a, b in pairwise(counts))
        assert counts[0] > counts[-1] == 1


@pytest.mark.parametrize("context_options", [PHONE])
def test_a_finger_moves_a_box_and_scrolls_beside_it(page, site):
    found = figure(page, site, "priors")
    before, _ = check_priors(found)
    touch_drag(page, boxes_of(found).first.locator(".try-name"), -30, 80)
    moved, _ = check_priors(found)
    touch_drag(page, corner(boxes_of(found).first, "se"), 25, 40)
    stretched, _ = check_priors(found)
    assert moved[0][0] < before[0][0]
    assert moved[0][3] > before[0][3]
    assert stretched[0][:2] == moved[0][:2]
    assert stretched[0][2] > moved[0][2]
    actions = found.evaluate(
        "element => [...element.querySelectorAll('*')].filter("
        "node => getComputedStyle(node).touchAction !== 'auto').map(node => node.className)"
    )
    assert all("try-box" in name or "try-handle" in name for name in actions)
    assert actions


# --- Figure 2 -------------------------------------------------------------------------------------


def check_iou(found):
    """The number, the areas and the curve through the present place."""
    a, b, iou, shared, covered, far = state(
        found, "object", "answer", "iou", "shared", "covered", "far"
    )
    one, other = double([[a], [b]])
    assert iou == pairwise_iou(one, other).item()
    assert shared / covered == pytest.approx(iou)
    assert found.locator(".try-big").inner_text() == f"IoU {iou:.2f}"
    assert found.evaluate(f"element => element.tryState.at({far})") == pytest.approx(iou)
    # 150 units of the plot are an IoU of 1.
    assert float(found.locator(".try-dot").get_attribute("cy")) == pytest.approx(
        150 * (1 - iou), abs=0.06
    )
    return iou


def test_four_pixels_off(page, site):
    found = figure(page, site, "iou")
    for name, iou in {
        "head": 0.85,
        "mission patch": 0.70,
        "rocket booster": 0.49,
        "smile": 0.37,
    }.items():
        found.get_by_role("button", name=name).click()
        assert check_iou(found) == pytest.approx(iou, abs=0.005)  # as chapter 2 says
        assert ("has missed" in seen(found)) == (iou < 0.5)


def test_iou_follows_mouse_and_keyboard(page, site):
    found = figure(page, site, "iou")
    found.get_by_role("button", name="mission patch").click()
    rng, seen = random.Random(5), set()
    for _ in range(4):
        for box in boxes_of(found).all():
            drag(page, box.locator(".try-name"), rng.randint(-40, 40), rng.randint(-40, 40))
            seen.add(check_iou(found))
        drag(page, corner(box, "sw"), rng.randint(-20, 20), rng.randint(-20, 20))
        page.keyboard.press(rng.choice(("ArrowUp", "Shift+End", "Home")))
        seen.add(check_iou(found))
    assert len(seen) > 6


def test_the_curve_is_the_formula_of_chapter_2(page, site):
    found = figure(page, site, "iou")
    at = "(element, [box, answer, d]) => AnnotatedSSD.iou(box, answer.map((v) => v + d))"
    for side in (16, 200):
        square = [0, 0, side, side]
        iou = found.evaluate(at, [square, square, 4])
        assert iou == pytest.approx((side - 4) ** 2 / (2 * side**2 - (side - 4) ** 2))
    # A square of 30 with a shift of 4 right and down: the whole curve of the figure.
    found.get_by_role("button", name="smile").click()
    (a, b), curve = (
        state(found, "object", "answer"),
        found.evaluate("element => [0, 2, 4, 8, 30].map(element.tryState.at)"),
    )
    w, h = a[2] - a[0], a[3] - a[1]
    for d, iou in zip((0, 2, 4, 8, 30), curve):
        both = max(0, w - d) * max(0, h - d)
        assert iou == pytest.approx(both / (2 * w * h - both))
    assert [y - x for x, y in zip(a, b)] == pytest.approx([4] * 4)


# --- Figure 3 -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def said():
    """What the network says of each scene: its raw output, not the figure's data."""
    model, raw = pretrained(), {}
    for name, (variant, index) in try_data.SCENES.items():
        item = try_data.GraffitiDigits("test", variant, length=index + 1, image_size=256)[index]
        with torch.no_grad():
            raw[name] = model(collate([item], model.recipe)[0])
    return raw, model.priors


def indices(answers):
    """Where answers stand in the figure's data."""
    return [answer["index"] for answer in answers]


def check_survivors(found, raw, priors):
    """The survivors are the package's detections, in the same order."""
    scene, score, overlap, together, steps = state(
        found, "scene", "score", "overlap", "together", "steps"
    )
    survivors = indices(step["kept"] for step in steps)
    (ours,) = postprocess(raw[scene], priors, score, None, overlap, None, class_agnostic=together)
    data = found.evaluate(
        "async (_, name) => (await AnnotatedSSD.dataset('scenes')).scenes[name]", scene
    )
    assert [data["labels"][k] for k in survivors] == ours.labels.tolist()
    theirs = torch.tensor([[*data["boxes"][k], data["scores"][k]] for k in survivors])
    expected = torch.cat([ours.boxes, ours.scores[:, None]], dim=1)
    torch.testing.assert_close(theirs.reshape(-1, 5), expected, rtol=0, atol=1e-6)
    assert f", {len(survivors)} survive" in found.locator(".try-big").inner_text()
    return len(survivors)


@pytest.mark.parametrize("scene", try_data.SCENES)
def test_survivors_are_the_package_s(page, site, said, scene):
    found = figure(page, site, "nms")
    choose(found, "Scene", scene)
    counts = {}
    for together in ("class by class", "all classes together"):
        choose(found, "Suppress", together)
        for score in (0.01, 0.05, 0.3, 0.77):
            slide(found, "Score above", score)
            for overlap in (0, 0.2, 0.45, 0.8, 1):
                slide(found, "IoU above", overlap)
                counts[together, score, overlap] = check_survivors(found, *said)
    apart = "class by class"
    assert counts[apart, 0.01, 0.45] > counts["all classes together", 0.01, 0.45]
    assert counts[apart, 0.01, 0] < counts[apart, 0.01, 0.45] < counts[apart, 0.01, 1]


def test_steps_are_greedy_suppression(page, site):
    found = figure(page, site, "nms")
    choose(found, "Scene", "a crowd of twins")
    slide(found, "Score above", 0.1)
    data = found.evaluate(
        "async () => (await AnnotatedSSD.dataset('scenes')).scenes['a crowd of twins']"
    )
    boxes, labels = torch.tensor(data["boxes"]), data["labels"]
    waiting, kept = map(indices, state(found, "waiting", "kept"))
    assert kept == []
    assert waiting == sorted(waiting)
    forward = found.get_by_role("button", name="Next")
    while forward.is_enabled():
        best, *others = waiting
        struck = [
            k
            for k in others
            if labels[k] == labels[best] and pairwise_iou(boxes[[best]], boxes[[k]]) > 0.45
        ]
        waiting = [k for k in others if k not in struck]
        kept.append(best)
        forward.click()
        *now, last = state(found, "waiting", "kept", "last")
        assert [*map(indices, now), indices(last["struck"])] == [waiting, kept, struck]
    assert waiting == []
    assert indices(step["kept"] for step in state(found, "steps")[0]) == kept
    assert found.locator(".try-tag").count() == len(kept) > 3
    found.get_by_role("button", name="Previous").click()
    assert indices(state(found, "kept")[0]) == kept[:-1]
    found.get_by_role("button", name="Restart").click()
    assert state(found, "position") == [0]
    found.get_by_role("button", name="To the end").press("Enter")
    assert state(found, "position") == [len(kept)]


def test_sliders_answer_to_the_keyboard(page, site):
    found = figure(page, site, "nms")
    found.get_by_label("IoU above").focus()
    page.keyboard.press("ArrowRight")
    assert state(found, "overlap") == [0.46]
    assert found.get_by_label("IoU above").get_attribute("aria-valuetext") == "0.46"


# --- All of them ----------------------------------------------------------------------------------


def test_a_figure_loads_when_the_reader_comes_near(page, site):
    asked = []
    page.on("request", lambda request: asked.append(request.url.split("?")[0].split("/")[-1]))
    page.goto(f"{site.url}book/try.html")
    page.wait_for_load_state("networkidle")
    assert "base.js" in asked
    assert "nms.js" not in asked
    figure(page, site, "nms")
    assert asked.count("nms.js") == asked.count("scenes.js") == asked.count("maths.js") == 1


def test_figures_work_from_files(page, site):
    page.goto((site.folder / "book" / "try.html").as_uri())
    for name in ("iou", "priors", "nms"):
        page.locator(f'[data-try="{name}"]').scroll_into_view_if_needed()
        page.locator(f'.try-ready[data-try="{name}"]').wait_for()


def test_figures_turn_dark_with_the_page(page, site):
    found = figure(page, site, "iou")
    stroke = "element => getComputedStyle(element.querySelector('.try-curve')).stroke"
    strokes = []
    for theme in ("light", "dark"):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        strokes.append(found.evaluate(stroke))
    assert strokes[0] != strokes[1]


@pytest.mark.parametrize("name", ["iou", "priors", "nms"])
def test_figures_speak_when_the_hand_rests(page, site, name):
    found = figure(page, site, name)
    voice = found.locator("[aria-live=polite]")
    voice.get_by_text("").wait_for(state="attached")
    if name == "nms":
        found.get_by_role("button", name="Next").click()
    else:
        boxes_of(found).first.press("ArrowRight")
    shown = found.locator(".try-big").inner_text()
    page.wait_for_function(
        "([node, text]) => node.textContent.startsWith(text)", arg=[voice.element_handle(), shown]
    )


@pytest.mark.parametrize("context_options", [{"java_script_enabled": False}])
def test_without_scripts_nothing_empty_is_seen(page, site, problems):
    problems.expected.append("csp")  # the browser says so of each script that it does not run
    page.goto(f"{site.url}book/try.html")
    for place in page.locator(".try").all():
        assert not place.is_visible()


def test_nothing_is_printed(page, site):
    found = figure(page, site, "iou")
    page.emulate_media(media="print")
    assert not found.is_visible()


def test_the_code_is_small_and_asks_nobody():
    files = [*CODE.glob("*.js"), *CODE.glob("*.css")]
    assert len(files) == 8
    assert sum(file.stat().st_size for file in files) <= 60_000
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "http" not in text.replace("http://www.w3.org/2000/svg", ""), file.name
