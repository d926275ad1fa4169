"""ONNX around a network: from 8-bit images to its input, and from its output to detections.

What `prepare` and `postprocess` do, in ONNX's own operators.
"""

from collections.abc import Callable

import numpy as np

from ssd_annotated.model import Recipe

FLOAT, INT64, UINT8 = 1, 7, 2  # as ONNX numbers the types


class Nodes:
    """A graph that grows: ``nodes.Add(x, y)`` adds a node and returns the name of its output.

    Inputs are names, or numbers, which become constants.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix, self.nodes, self.constants = prefix, [], []

    def __getattr__(self, operator: str) -> Callable[..., str | list[str]]:
        def add(*inputs: object, outputs: int = 1, **attributes: object) -> str | list[str]:
            made = [f"{self.prefix}_{len(self.nodes)}_{k}" for k in range(outputs)]
            self.add(operator, list(map(self._name, inputs)), made, **attributes)
            return made[0] if outputs == 1 else made

        return add

    def add(self, operator: str, inputs: list[str], outputs: list[str], **how: object) -> None:
        """Add a node between names."""
        from onnx.helper import make_node

        self.nodes.append(make_node(operator, inputs, outputs, **how))

    def _name(self, value: object) -> str:
        """The name of an input, a constant's included: floats in single precision."""
        from onnx.numpy_helper import from_array

        if isinstance(value, str):
            return value
        array = np.asarray(value)
        array = array.astype(np.float32 if array.dtype.kind == "f" else np.int64)
        self.constants.append(from_array(array, f"{self.prefix}_constant_{len(self.constants)}"))
        return self.constants[-1].name


def add_preparation(nodes: Nodes, images: str, recipe: Recipe) -> str:
    """From 8-bit RGB (B, H, W, 3) to the network's input: see `prepare`."""
    levels = nodes.Transpose(nodes.Cast(images, to=FLOAT), perm=[0, 3, 1, 2])
    side, count = [recipe.image_size], nodes.Shape(images, start=0, end=1)
    if recipe.resize == "pillow":  # which rounds after each axis, and shrinks smoothly
        smooth = {"antialias": 1, "exclude_outside": 1}
        height = nodes.Shape(images, start=1, end=2)
        levels = _resize(nodes, levels, [count, [3], height, side], round_=True, **smooth)
        levels = _resize(nodes, levels, [count, [3], side, side], round_=True, **smooth)
    else:
        rounds = recipe.resize == "opencv"
        levels = _resize(nodes, levels, [count, [3], side, side], round_=rounds)
    mean, std = (np.reshape(x, (3, 1, 1)) * 255.0 for x in (recipe.mean, recipe.std))
    return nodes.Div(nodes.Sub(levels, mean), std)


def _resize(nodes: Nodes, levels: str, sizes: list, *, round_: bool, **how: int) -> str:
    """Resize bilinearly, to whole levels if asked for: a half rounds up."""
    size = nodes.Concat(*sizes, axis=0)
    levels = nodes.Resize(levels, "", "", size, mode="linear", **how)
    return nodes.Floor(nodes.Add(levels, 0.5)) if round_ else levels


def most_detections(recipe: Recipe, num_priors: int) -> int:
    """The most detections that an image can have."""
    classes = len(recipe.class_names) - 1
    spoken = num_priors if recipe.class_agnostic else num_priors * classes
    limits = (spoken, recipe.max_detections, recipe.top_k and recipe.top_k * classes)
    return min(limit for limit in limits if limit is not None)


def add_search(
    nodes: Nodes, boxes: str, scores: str, recipe: Recipe, num_priors: int
) -> tuple[str, str, str]:
    """From boxes (B, P, 4) and scores (B, P, C) to each image's detections: see `postprocess`."""
    classes = len(recipe.class_names) - 1
    table = nodes.Transpose(nodes.Slice(scores, [1], [classes + 1], [2]), perm=[0, 2, 1])
    if recipe.class_agnostic:
        best = nodes.ArgMax(table, axis=1, keepdims=1)
        table = _keep_only(nodes, table, nodes.ReduceMax(table, [1]), best, axis=1)
    if recipe.top_k is not None and recipe.top_k < num_priors:
        table = _keep_only(nodes, table, *nodes.TopK(table, [recipe.top_k], outputs=2), axis=2)
    if recipe.class_agnostic:
        table = nodes.ReduceMax(table, [1])
    kept = _suppress(nodes, boxes, table, recipe, num_priors)
    rows = nodes.Reshape(nodes.Transpose(kept, perm=[0, 2, 1]), [0, -1])
    most = most_detections(recipe, num_priors)
    found, place = nodes.TopK(rows, [most], outputs=2)
    prior, label = nodes.Div(place, classes), nodes.Mod(place, classes)
    if recipe.class_agnostic:
        prior, label = place, nodes.GatherElements(nodes.Squeeze(best, [1]), place, axis=1)
    there = nodes.Greater(found, 0.0)
    chosen = nodes.GatherND(boxes, nodes.Unsqueeze(prior, [2]), batch_dims=1)
    return (
        nodes.Where(nodes.Unsqueeze(there, [2]), chosen, 0.0),
        found,
        nodes.Where(there, nodes.Add(label, 1), 0),
    )


def _keep_only(nodes: Nodes, table: str, values: str, places: str, axis: int) -> str:
    """A table of zeros but for these values at these places."""
    return nodes.ScatterElements(_zeros_like(nodes, table), places, values, axis=axis)


def _zeros_like(nodes: Nodes, table: str) -> str:
    from onnx.helper import make_tensor

    zero = make_tensor("zero", FLOAT, [1], [0.0])  # the default, which OpenCV does not know
    return nodes.ConstantOfShape(nodes.Shape(table), value=zero)


def _suppress(nodes: Nodes, boxes: str, table: str, recipe: Recipe, num_priors: int) -> str:
    """The table (B, classes, P), with 0 for what does not meet the image or is suppressed."""
    low, high = nodes.Split(boxes, axis=2, num_outputs=2, outputs=2)
    starts = nodes.Less(nodes.ReduceMax(low, [2], keepdims=0), 1.0)
    ends = nodes.Greater(nodes.ReduceMin(high, [2], keepdims=0), 0.0)
    table = nodes.Where(nodes.Unsqueeze(nodes.And(starts, ends), [1]), table, 0.0)
    near = nodes.Clip(boxes, -4.0, 5.0)
    limits = [num_priors], [recipe.nms_threshold], [recipe.score_threshold]
    stays = nodes.NonMaxSuppression(near, table, *limits)
    return nodes.ScatterND(_zeros_like(nodes, table), stays, nodes.GatherND(table, stays))
