"""Export to ONNX: one file that finds objects without torch and without this package."""

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssd_annotated.app.around import (
    FLOAT,
    INT64,
    UINT8,
    Nodes,
    add_preparation,
    add_search,
    most_detections,
)
from ssd_annotated.app.writers import describe
from ssd_annotated.coding import decode
from ssd_annotated.model import SSD
from ssd_annotated.support.extras import need
from ssd_annotated.support.files import whole

if TYPE_CHECKING:
    from onnx import ModelProto

#: Key of the file's metadata; its value is the model's `describe`, as JSON.
METADATA = "ssd_annotated"
OPSET = 18  # version of ONNX's operators: the first that `nms` can be written in


class Decoded(nn.Module):
    """A network with the arithmetic that follows it: boxes and scores in place of raw outputs."""

    def __init__(self, model: SSD) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Float[Tensor, "B 3 H W"]
    ) -> tuple[Float[Tensor, "B P 4"], Float[Tensor, "B P C"]]:
        """``xyxy`` fractions and softmax scores of every prior, column 0 for background."""
        offsets, logits = self.model(images)
        recipe = self.model.recipe
        boxes = decode(offsets, self.model.priors, recipe.variances, recipe.max_log_size)
        return boxes.clamp(0, 1) if recipe.clip else boxes, logits.softmax(dim=2)


class GlobalMax(nn.Module):
    """`nn.AdaptiveMaxPool2d(1)` as a reduction; before 2.13 torch cannot export the layer."""

    def forward(self, maps: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C 1 1"]:
        """The largest value of every channel."""
        return maps.amax(dim=(2, 3), keepdim=True)


def export_onnx(model: SSD, path: str | Path, nms: bool = False) -> None:
    """Write a network as ONNX: normalised images in, a box and scores for every prior out.

    The input is ``images`` (B, 3, H, W), for any B, normalised as `prepare` does. The outputs are
    ``boxes`` (B, P, 4), decoded ``xyxy`` fractions, and ``scores`` (B, P, C), after softmax, with
    column 0 for background. What remains is a score threshold and non-maximum suppression; the
    metadata hold the recipe for preparation and post-processing, as JSON.

    With `nms` nothing remains. The input is ``images`` (B, H, W, 3), uint8 RGB, of any size. The
    outputs are ``boxes`` (B, D, 4), ``scores`` (B, D) and ``labels`` (B, D), best first, for the D
    detections that the recipe allows; where there are fewer, the last labels and scores are 0.

    Parameters
    ----------
    model
        Exported in single precision and eval mode; the model itself does not change.
    path
        One file, weights included, written whole or not at all.
    nms
        Include `prepare` and `postprocess`, as ONNX's ``Resize`` and ``NonMaxSuppression``.

    Raises
    ------
    ImportError
        If the extra ``onnx`` is not installed.
    ValueError
        If `path` does not end in ``.onnx``.

    Examples
    --------
    Detection with onnxruntime and OpenCV alone:

    >>> import json, cv2, numpy as np, onnxruntime
    >>> session = onnxruntime.InferenceSession("model.onnx")
    >>> about = json.loads(session.get_modelmeta().custom_metadata_map["ssd_annotated"])
    >>> recipe = about["recipe"]
    >>> image = cv2.cvtColor(cv2.imread("photo.png"), cv2.COLOR_BGR2RGB)
    >>> pixels = cv2.resize(image, (recipe["image_size"], recipe["image_size"])) / 255
    >>> images = ((pixels - recipe["mean"]) / recipe["std"]).transpose(2, 0, 1)[None]
    >>> boxes, scores = session.run(None, {"images": images.astype(np.float32)})
    >>> corners = np.hstack([boxes[0, :, :2], boxes[0, :, 2:] - boxes[0, :, :2]])  # x, y, w, h
    >>> for label, name in list(enumerate(recipe["class_names"]))[1:]:
    ...     for best in cv2.dnn.NMSBoxes(corners, scores[0, :, label], 0.5, 0.45):
    ...         print(name, scores[0, best, label], boxes[0, best])

    The programs in ``examples`` show how short it becomes with `nms`.

    Notes
    -----
    Where images are resized, whole levels are rounded differently here and there: see the tests.
    OpenCV's DNN module (version 5) runs both kinds of file, but it ignores the smooth resizing of
    recipes with ``resize="pillow"``.
    """
    if Path(path).suffix.lower() != ".onnx":
        raise ValueError(f"{path}: expected a name that ends in .onnx")
    onnx, _ = (need(name, "onnx", "export to ONNX") for name in ("onnx", "onnxscript"))
    plain = _exportable(model)
    file = _whole_way(plain) if nms else _network(plain, "images", ["boxes", "scores"])
    about = describe(model.spec.architecture, model.recipe)
    file.metadata_props.add(key=METADATA, value=json.dumps(about))
    with whole(Path(path)) as partial:
        onnx.save(file, partial)


def _network(model: SSD, images: str, outputs: list[str]) -> "ModelProto":
    """The network and `decode`, from normalised images on."""
    side = model.recipe.image_size
    return torch.onnx.export(
        Decoded(model).eval(),
        # Two images: a batch of one would be taken for a constant.
        (torch.zeros(2, 3, side, side, device="cpu"),),
        dynamo=True,
        opset_version=OPSET,
        input_names=[images],
        output_names=outputs,
        dynamic_shapes={"images": {0: "batch"}},
        verbose=False,
    ).model_proto


def _whole_way(model: SSD) -> "ModelProto":
    """The network with preparation before it and the search for detections behind it."""
    from onnx.helper import make_tensor_value_info as value

    recipe, count = model.recipe, len(model.priors)
    file = _network(model, "prepared", ["boxes_of_all", "scores_of_all"])
    before, after, graph = Nodes("prepare"), Nodes("find"), file.graph
    images = value("images", UINT8, ["batch", "height", "width", 3])
    shape = ["batch", most_detections(recipe, count)]
    outputs = [
        value("boxes", FLOAT, [*shape, 4]),
        value("scores", FLOAT, shape),
        value("labels", INT64, shape),
    ]
    before.add("Identity", [add_preparation(before, images.name, recipe)], ["prepared"])
    found = add_search(after, "boxes_of_all", "scores_of_all", recipe, count)
    for name, output in zip(found, outputs):
        after.add("Identity", [name], [output.name])
    nodes = [*before.nodes, *graph.node, *after.nodes]
    for field, content in (graph.node, nodes), (graph.input, [images]), (graph.output, outputs):
        del field[:]
        field.extend(content)
    graph.initializer.extend([*before.constants, *after.constants])
    return file


def _exportable(model: SSD) -> SSD:
    """A copy in single precision and eval mode, of operators that can be exported."""
    plain = copy.deepcopy(model).cpu().float().eval()
    for name, part in list(plain.named_modules()):
        if isinstance(part, nn.AdaptiveMaxPool2d) and part.output_size == 1:
            plain.set_submodule(name, GlobalMax())
    return plain
