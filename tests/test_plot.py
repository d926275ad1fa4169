"""Figure helpers: what they put on the axes, in which colour, and that they return nothing."""

import ast
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import same_color, to_hex, to_rgb
from matplotlib.patches import Rectangle

from ssd_annotated.drawing import plot
from ssd_annotated.evaluation.mistakes import Mistake
from ssd_annotated.evaluation.voc import PrecisionRecall
from ssd_annotated.nms import Detections

BOXES = torch.tensor([[0.25, 0.5, 0.75, 1.0], [0.0, 0.125, 0.5, 0.25]])
PHOTO = np.arange(40 * 60 * 3, dtype=np.uint8).reshape(40, 60, 3)


@pytest.fixture
def ax():
    before = mpl.get_backend()
    plt.switch_backend("agg")
    with mpl.rc_context():
        plot.use_style()
        _, ax = plt.subplots()
        yield ax
        ax.figure.draw_without_rendering()  # everything that was put there can be drawn
        plt.close(ax.figure)
    plt.switch_backend(before)


def rectangles(ax):
    return [p for p in ax.patches if isinstance(p, Rectangle)]


# ---------------------------------------------------------------- colours


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return np.dot([0.2126, 0.7152, 0.0722], linear)


def test_every_colour_stands_out_from_white_and_from_black():
    for colour in plot.COLOURS.values():
        assert 1.05 / (luminance(colour) + 0.05) >= 3
        assert (luminance(colour) + 0.05) / 0.05 >= 2.5


# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
BLINDNESS = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
    "none": np.eye(3),
}


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_no_two_colours_look_alike_to_anyone(blindness):
    color = pytest.importorskip("skimage.color")
    rgb = np.array([to_rgb(colour) for colour in plot.COLOURS.values()])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLINDNESS[blindness]).T, 0, 1)
    seen = np.where(seen <= 0.0031308, seen * 12.92, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = color.rgb2lab(seen[None])[0]
    difference = color.deltaE_ciede2000(lab[:, None], lab[None])
    assert difference[~np.eye(len(lab), dtype=bool)].min() > 12  # 1 is just noticeable


def test_every_kind_has_its_own_line_and_ordinary_curves_have_no_kinds_colour():
    assert set(plot.COLOURS) == set(plot.LINES)
    assert len({str(line) for line in plot.LINES.values()}) == len(plot.LINES)
    style = mpl.rc_params_from_file(plot._STYLE, use_default_template=False)
    cycle = {to_hex(c) for c in style["axes.prop_cycle"].by_key()["color"]}
    assert not cycle & {to_hex(c) for c in plot.COLOURS.values()}


def test_the_core_of_the_package_does_not_import_the_figures():
    package = Path(plot.__file__).parent
    for file in package.rglob("*.py"):
        if file.name in ("plot.py", "show.py", "figures.py"):
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{a.name}" for a in node.names]
            for name in names:
                assert not name.startswith(("matplotlib", "seaborn")), file.name
                assert name.split(".")[1:2] not in (["plot"], ["show"]), file.name
                # The command line draws too, but only where a figure is asked for.
                assert file.name == "cli.py" or name.split(".")[1:2] != ["figures"], file.name


# ---------------------------------------------------------------- image


def test_an_image_fills_the_unit_square_with_square_pixels(ax):
    assert plot.show_image(ax, PHOTO) is None
    (image,) = ax.images
    assert tuple(image.get_extent()) == (0, 1, 1, 0)
    assert ax.get_aspect() == 40 / 60
    assert ax.get_xlim() == (0, 1)
    assert ax.get_ylim() == (1, 0)  # y grows downwards
    assert np.array_equal(image.get_array(), PHOTO)
    assert len(ax.get_xticks()) == 0


def test_fade_margin_and_resolution(ax):
    plot.show_image(ax, PHOTO, fade=0.5, margin=0.25, resolution=30)
    (image,) = ax.images
    assert image.get_array().shape == (20, 30, 3)
    assert image.get_array().min() >= 127  # half-way to white
    assert ax.get_xlim() == (-0.25, 1.25)
    assert ax.get_ylim() == (1.25, -0.25)


def test_grey_images_are_shown_as_they_are(ax):
    plot.show_image(ax, np.full((8, 8), 100, dtype=np.uint8))
    assert ax.images[0].get_clim() == (0, 255)  # not stretched to the range of the values


@pytest.mark.parametrize(
    "image", [PHOTO / 255, PHOTO.transpose(2, 0, 1), PHOTO[None], PHOTO[0, :, 0]]
)
def test_other_images_are_refused(ax, image):
    with pytest.raises(ValueError, match=r"uint8 of shape \(H, W, 3\) or \(H, W\), not"):
        plot.show_image(ax, image)


def test_canvas(ax):
    assert plot.show_canvas(ax, height=1.0, width=2.0) is None
    assert ax.get_aspect() == 0.5
    assert ax.get_xticks().tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert rectangles(ax)[0].get_bbox().bounds == (0, 0, 1, 1)


# ---------------------------------------------------------------- boxes


@pytest.mark.parametrize("kind", plot.COLOURS)
def test_boxes_are_drawn_at_their_own_numbers_in_their_kinds_colour(ax, kind):
    assert plot.draw_boxes(ax, BOXES, kind) is None
    drawn = rectangles(ax)
    assert [r.get_bbox().extents.tolist() for r in drawn] == BOXES.tolist()
    assert all(same_color(r.get_edgecolor(), plot.COLOURS[kind]) for r in drawn)
    assert not any(r.get_fill() for r in drawn)
    assert not ax.texts


def test_a_line_can_be_overridden(ax):
    plot.draw_boxes(ax, BOXES, "positive", linewidth=5, alpha=0.5)
    assert {(r.get_linewidth(), r.get_alpha()) for r in rectangles(ax)} == {(5, 0.5)}


@pytest.mark.parametrize(
    ("labels", "scores", "names", "tags"),
    [
        (["cat", "dog"], None, None, ["cat", "dog"]),
        (torch.tensor([2, 1]), None, None, ["2", "1"]),
        (torch.tensor([2, 1]), [0.75, 0.5], ("background", "a", "b"), ["b 0.75", "a 0.50"]),
        (None, [0.75, 0.5], None, ["0.75", "0.50"]),
    ],
)
def test_tags(ax, labels, scores, names, tags):
    scores = None if scores is None else torch.tensor(scores)
    plot.draw_boxes(ax, BOXES, "detection", labels, scores, names)
    assert [t.get_text() for t in ax.texts] == tags


def tag_of(ax, box, kind):
    plot.show_canvas(ax)
    plot.draw_boxes(ax, torch.tensor([box]), kind, labels=["tag"])
    ax.figure.draw_without_rendering()
    patch = ax.texts[-1].get_bbox_patch()
    return patch.get_window_extent().transformed(ax.transData.inverted())


def test_tags_stay_within_the_image_and_outside_the_box_where_there_is_room(ax):
    room = [0.3, 0.3, 0.6, 0.6]
    assert max(tag_of(ax, room, "detection").intervaly) < 0.31  # above
    assert min(tag_of(ax, room, "ground_truth").intervaly) > 0.59  # below
    for kind in ("detection", "ground_truth"):
        for box in ([0.0, 0.0, 1.0, 1.0], [0.9, 0.0, 1.0, 0.1], [0.9, 0.9, 1.2, 1.1]):
            extent = tag_of(ax, box, kind)
            assert min(*extent.intervalx, *extent.intervaly) > -0.02
            assert max(*extent.intervalx, *extent.intervaly) < 1.02


def test_targets_and_detections(ax):
    target = {"boxes": BOXES, "labels": torch.tensor([1, 2])}
    assert plot.draw_targets(ax, target, ("background", "a", "b")) is None
    assert [t.get_text() for t in ax.texts] == ["a", "b"]
    assert same_color(rectangles(ax)[0].get_edgecolor(), plot.COLOURS["ground_truth"])
    detections = Detections(
        torch.cat([BOXES, BOXES[:1]]), torch.tensor([0.9, 0.5, 0.2]), torch.tensor([1, 2, 1])
    )
    assert plot.draw_detections(ax, detections, minimum_score=0.5) is None
    # 0.2 is left out; the best is drawn last, hence on top.
    assert [t.get_text() for t in ax.texts[2:]] == ["2 0.50", "1 0.90"]


def test_priors_are_cxcywh_and_one_collection(ax):
    priors = torch.tensor([[0.5, 0.5, 0.5, 0.25], [0.25, 0.75, 0.5, 0.5]])
    assert plot.draw_priors(ax, priors, "negative") is None
    (collection,) = ax.collections
    assert isinstance(collection, PolyCollection)
    extents = [path.get_extents().extents.tolist() for path in collection.get_paths()]
    assert extents == [[0.25, 0.375, 0.75, 0.625], [0, 0.5, 0.5, 1]]
    assert same_color(collection.get_edgecolor()[0], plot.COLOURS["negative"])


def test_no_boxes_draw_nothing(ax):
    plot.draw_boxes(ax, BOXES[:0], "positive")
    plot.draw_priors(ax, BOXES[:0], "positive")
    assert not ax.patches
    assert not any(len(c.get_paths()) and len(c.get_offsets()) for c in ax.collections[1:])


def test_grid(ax):
    assert plot.draw_grid(ax, (2, 4), highlight=[(1, 3)]) is None
    lines = [c for c in ax.collections if isinstance(c, LineCollection)]
    assert [len(c.get_segments()) for c in lines] == [5, 3]
    assert rectangles(ax)[0].get_bbox().extents.tolist() == [0.75, 0.5, 1, 1]


def test_legend_of_kinds(ax):
    assert plot.legend_of_kinds(ax, ["ground_truth", "negative"], {"negative": 3}) is None
    (legend,) = ax.figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["ground truth", "negative (3)"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plot.draw_boxes(ax, BOXES, "prior"),
        lambda ax: plot.draw_priors(ax, BOXES, "prior"),
        lambda ax: plot.legend_of_kinds(ax, ["prior"]),
        lambda ax: plot.plot_bars(ax, "ab", [1.0, 2.0], kind="prior"),
    ],
)
def test_an_unknown_kind_is_named(ax, draw):
    with pytest.raises(ValueError, match=r"kind must be one of ground_truth, .*, not 'prior'"):
        draw(ax)


def test_bad_boxes_and_too_few_tags_are_named(ax):
    with pytest.raises(ValueError, match="xmin <= xmax"):
        plot.draw_boxes(ax, BOXES[:, [2, 1, 0, 3]], "positive")
    with pytest.raises(ValueError, match="2 boxes, but 1 labels"):
        plot.draw_boxes(ax, BOXES, "positive", labels=["one"])


# ---------------------------------------------------------------- diagrams


def test_heatmap_writes_the_numbers_and_frames_the_highlights(ax):
    matrix = torch.tensor([[0.0, 0.25, 0.5], [0.75, 1.0, 0.125]])
    assert plot.plot_heatmap(ax, matrix, ["a", "b"], ["x", "y", "z"], highlight=[(0, 2)]) is None
    assert [t.get_text() for t in ax.texts] == ["0.00", "0.25", "0.50", "0.75", "1.00", "0.12"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y", "z"]
    assert rectangles(ax)[0].get_bbox().extents.tolist() == [2, 0, 3, 1]
    assert ax.collections[0].get_clim() == (0, 1)


def test_curves_smooth_over_neighbours_without_sagging_ends(ax):
    history = [{"step": s, "loss": v} for s, v in zip([1, 2, 3, 4], [3, 6, 0, 3], strict=True)]
    assert plot.plot_curves(ax, history, keys=["loss"], smooth=3) is None
    smooth, raw = ax.lines
    assert list(smooth.get_xdata()) == [1, 2, 3, 4]
    # (3 + 6) / 2, (3 + 6 + 0) / 3, (6 + 0 + 3) / 3, (0 + 3) / 2
    assert smooth.get_ydata().tolist() == pytest.approx([4.5, 3, 3, 1.5])
    assert raw.get_ydata().tolist() == [3, 6, 0, 3]
    assert smooth.get_label() == "loss"


def test_curves_shorter_than_the_window_and_missing_keys(ax):
    plot.plot_curves(ax, [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 4.0}], ["loss"], smooth=9)
    assert len(ax.lines[0].get_ydata()) == 2
    with pytest.raises(ValueError, match="history has no 'lr', only step, loss"):
        plot.plot_curves(ax, [{"step": 1, "loss": 2.0}], ["lr"])


def test_precision_recall_tells_hits_from_misses(ax):
    hits = torch.tensor([True, False, True])
    recall, precision = torch.tensor([0.5, 0.5, 1.0]), torch.tensor([1, 0.5, 2 / 3])
    curve = PrecisionRecall(recall, precision, torch.tensor([0.9, 0.8, 0.7]), hits)
    assert plot.plot_precision_recall(ax, curve, label="cat") is None
    area, dots = ax.collections
    faces = [to_hex(f) for f in dots.get_facecolor()]
    purple = plot.COLOURS["detection"].lower()
    assert faces == [purple, "#ffffff", purple]
    # The shaded region is the average precision: 1/2 * 1 + 1/2 * 2/3 = 5/6.
    x, y = area.get_paths()[0].vertices.T
    shoelace = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    assert shoelace == pytest.approx(5 / 6)


def test_an_empty_precision_recall_curve_can_be_drawn(ax):
    none = torch.zeros(0)
    plot.plot_precision_recall(ax, PrecisionRecall(none, none, none, none.bool()))
    assert ax.get_xlabel() == "recall"


def test_bars(ax):
    assert plot.plot_bars(ax, ["a", "b"], [0.5, 0.25], kind="detection") is None
    assert [t.get_text() for t in ax.texts] == ["0.50", "0.25"]


def test_bars_leave_a_gap_for_nan(ax):
    plot.plot_bars(ax, ["a", "b"], [0.5, float("nan")])
    ax.figure.draw_without_rendering()
    assert "nan" not in [t.get_text() for t in ax.texts if t.get_visible()]


def test_landscape_puts_width_across_and_height_up(ax):
    widths, heights = torch.tensor([10.0, 20, 40]), torch.tensor([10.0, 30])
    values = torch.arange(6.0).reshape(2, 3)
    assert plot.plot_landscape(ax, widths, heights, values, "positives") is None
    assert ax.collections[0].get_array().tolist() == values.tolist()
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("width", "height")


# ---------------------------------------------------------------- a data set

PRIORS = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.2, 0.4], [0.5, 0.5, 0.8, 0.8]])


def test_shapes_of_objects_lie_at_their_width_and_height_below_those_of_the_priors(ax):
    shapes = {"cat": torch.tensor([[0.1, 0.3]]), "owl": torch.zeros(0, 2), "dog": torch.rand(3, 2)}
    assert plot.plot_shapes(ax, shapes, PRIORS) is None
    dogs, cats, priors = ax.collections
    np.testing.assert_array_equal(dogs.get_offsets(), shapes["dog"])
    np.testing.assert_array_equal(cats.get_offsets(), shapes["cat"])
    np.testing.assert_allclose(priors.get_offsets(), [[0.2, 0.4], [0.8, 0.8]], rtol=1e-6)
    assert priors.get_zorder() > max(dogs.get_zorder(), cats.get_zorder())
    assert not same_color(dogs.get_facecolor()[0], cats.get_facecolor()[0])
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["dog", "cat", "priors"]
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")


def test_many_classes_share_a_grey_and_many_objects_are_thinned(ax):
    shapes = {f"class {n}": torch.rand(10 - n, 2) for n in range(8)} | {"most": torch.rand(9000, 2)}
    plot.plot_shapes(ax, shapes)
    grey, most, *others = ax.collections
    assert len(grey.get_offsets()) == 6 + 5 + 4 + 3
    assert 2000 <= len(most.get_offsets()) < 3000
    assert [len(some.get_offsets()) for some in others] == [10, 9, 8, 7]
    assert [t.get_text() for t in ax.get_legend().get_texts()][:2] == ["4 other classes", "most"]


def test_uncovered_classes_are_sorted_worst_on_top(ax):
    shares = {"a": 0.25, "b": 1.0, "c": 0.0}
    assert plot.plot_uncovered(ax, shares, most=2) is None
    assert [r.get_width() for r in rectangles(ax)] == [0.25, 1.0]  # bars are stacked upwards
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    assert [t.get_text() for t in ax.texts] == ["25%", "100%"]


# ---------------------------------------------------------------- mistakes


def test_a_mistake_is_cropped_and_drawn_where_it_stands(ax):
    image = np.zeros((100, 200, 3), dtype=np.uint8)
    # In pixels: an object from (120, 40) to (140, 60), a detection from (130, 40) to (160, 60).
    mistake = Mistake("confusion", 0, 0.25, (0.65, 0.4, 0.8, 0.6), 1, 0.5, (0.6, 0.4, 0.7, 0.6), 2)
    assert plot.draw_mistake(ax, image, mistake, ("background", "cat", "dog")) is None
    # Both span 40 × 20 pixels round (140, 50): a window of 60 × 60 from (110, 20).
    assert ax.images[0].get_array().shape[:2] == (60, 60)
    true, found = rectangles(ax)
    assert np.allclose(true.get_bbox().extents, np.array([10, 20, 30, 40]) / 60, atol=1e-6)
    assert np.allclose(found.get_bbox().extents, np.array([20, 20, 50, 40]) / 60, atol=1e-6)
    assert same_color(true.get_edgecolor(), plot.COLOURS["ground_truth"])
    assert same_color(found.get_edgecolor(), plot.COLOURS["detection"])
    assert [t.get_text() for t in ax.texts] == ["dog", "cat 0.50"]
    assert ax.get_title(loc="left") + ax.get_title() == "confusion"


def test_a_mistake_without_object_or_detection_and_beyond_the_image(ax):
    image = np.zeros((50, 80, 3), dtype=np.uint8)
    plot.draw_mistake(ax, image, Mistake("background", 0, 0, (-0.5, -0.5, 2.0, 2.0), 1, 0.9))
    assert ax.images[0].get_array().shape[:2] == (50, 80)
    assert [t.get_text() for t in ax.texts] == ["1 0.90"]
    ax.clear()
    miss = Mistake("miss", 0, object_box=(0.98, 0.98, 1.0, 1.0), object_label=3)
    plot.draw_mistake(ax, image, miss)
    # At least a quarter of the shorter side, moved inside: 13 pixels, the last ones.
    assert ax.images[0].get_array().shape[:2] == (13, 13)
    assert [t.get_text() for t in ax.texts] == ["3"]
    (box,) = rectangles(ax)
    assert np.allclose(box.get_bbox().extents[2:], 1, atol=1e-6)
