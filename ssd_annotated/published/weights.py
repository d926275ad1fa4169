"""Other people's checkpoints: their names for the same tensors, and the convention they need.

A checkpoint is only half a model. Each loader also sets the priors, the preprocessing and the
post-processing that its weights were trained for. Nothing in a file is run: a loader takes what
``torch.load(path, map_location="cpu", weights_only=True)`` returns, a `state_dict` or a dictionary
that holds one as ``"model"`` or ``"state_dict"``, as training scripts write it. A ``module.``
before every name, left by data-parallel training, is ignored. The number of classes is read off the
heads; 21 get VOC's names, 81 and 91 COCO's. Models come in eval mode.

A ValueError lists the tensors that are missing, left over or of another shape; a TypeError names
what is no tensor.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import product
from pathlib import Path

import torch
from torch import Tensor
from torchvision.models.detection import SSD300_VGG16_Weights

from ssd_annotated.checkpoint import is_ours, model_of
from ssd_annotated.model import SSD, ModelSpec, Recipe, build, class_names_of
from ssd_annotated.published.layouts import LAYOUTS, Layout
from ssd_annotated.support.storage import read_plain

#: PASCAL VOC's classes in alphabetical order, which all published VOC checkpoints use.
# fmt: off
VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)
# fmt: on

#: COCO's 91 category numbers, of which 80 have a name; torchvision's models use these numbers.
COCO_CLASSES = ("background", *SSD300_VGG16_Weights.COCO_V1.meta["categories"][1:])
#: The 80 with a name, numbered without gaps, as other codes do.
COCO_80_CLASSES = tuple(name for name in COCO_CLASSES if name != "N/A")

#: Where training scripts put the state: torchvision's and lufficc's, PyTorch Lightning's, and many
#: that follow PyTorch's tutorial.
WRAPPERS = ("model", "state_dict", "model_state_dict")


def load_checkpoint(
    source: str | Path | Mapping[str, object], say: Callable[[str], object] = print
) -> SSD:
    """Build a model from anybody's checkpoint: its names tell whose it is, and that is said.

    Parameters
    ----------
    source
        A file, or what ``torch.load`` returns: a state_dict, or something that holds one. A file of
        `save_model` is loaded as `load_model` does, and nothing is said.
    say
        Called with one line: whose checkpoint it is, and how many classes it knows.

    Raises
    ------
    ValueError
        If no layout has these names, or the file holds code beside its tensors.
    """
    content = source if isinstance(source, Mapping) else read_plain(source)
    if is_ours(content):
        return model_of(content, str(source))
    given, layout = _state_in(content, LAYOUTS.values())
    if layout is None:
        known = ", ".join(one.source for one in LAYOUTS.values())
        raise ValueError(f"no known checkpoint: {sorted(given)[:3]} ... are not those of {known}")
    model = _fill(given, layout)
    say(f"a checkpoint of {layout.source}, with {model.spec.num_classes} classes")
    return model


def load_torchvision_ssd300(state_dict: Mapping[str, object]) -> SSD:
    """Build an SSD300 from the state of torchvision's ``ssd300_vgg16``."""
    return _load(state_dict, "torchvision")


def load_torchvision_ssdlite320(state_dict: Mapping[str, object]) -> SSD:
    """Build an SSDLite from the state of torchvision's ``ssdlite320_mobilenet_v3_large``."""
    return _load(state_dict, "torchvision-ssdlite")


def load_ssd_pytorch(state_dict: Mapping[str, object]) -> SSD:
    """Build an SSD300 from amdegroot's ssd.pytorch, for instance ``ssd300_mAP_77.43_v2.pth``."""
    return _load(state_dict, "ssd.pytorch")


def load_sgrvinod(state_dict: Mapping[str, object]) -> SSD:
    """Build an SSD300 from the state of sgrvinod's tutorial model.

    Its published checkpoint is a pickled model, which only its own code can open: save
    ``checkpoint["model"].state_dict()`` there.
    """
    return _load(state_dict, "sgrvinod")


def load_lufficc(state_dict: Mapping[str, object]) -> SSD:
    """Build an SSD300 or SSD512 on VGG-16 from lufficc's SSD, whose COCO models have own priors."""
    return _load(state_dict, "lufficc-512", "lufficc")


def load_qfgaohao(state_dict: Mapping[str, object]) -> SSD:
    """Build a ``vgg16-ssd``, ``mb1-ssd`` or ``mb2-ssd-lite`` of qfgaohao or of jetson-inference."""
    return _load(state_dict, "vgg16-ssd", "mb2-ssd-lite", "mb1-ssd")


def load_nvidia(state_dict: Mapping[str, object]) -> SSD:
    """Build an SSD300 on ResNet-50 from NVIDIA's DeepLearningExamples.

    Its heads order their channels by value, then by prior: they are put in our order.
    """
    return _load(state_dict, "nvidia")


def load_d2l(state_dict: Mapping[str, object]) -> SSD:
    """Build a TinySSD for images of 256 pixels from the one in *Dive into Deep Learning*."""
    return _load(state_dict, "d2l")


def _load(content: object, *names: str) -> SSD:
    """Read a state in the first of these layouts whose signature it has, or the last."""
    layouts = [LAYOUTS[name] for name in names]
    given, layout = _state_in(content, layouts)
    return _fill(given, layout or layouts[-1])


def _fill(given: Mapping[str, Tensor], layout: Layout) -> SSD:
    """Rename every tensor, build the model that the heads imply, and fill it."""
    state = {layout.rename(name) or name: value for name, value in given.items()}
    _check_names(state, [name for name in layout.widths if name not in state], [], layout)
    widths = tuple(len(state[name]) for name in layout.widths)
    with torch.device("meta"):  # names and shapes without numbers
        expected = _build(layout, 2, widths).state_dict()
    # Files older than PyTorch 0.4.1 do not count the batches of batch normalisation.
    counters = {
        k: torch.zeros_like(v, device="cpu")
        for k, v in expected.items()
        if k.endswith("num_batches_tracked")
    }
    state = {**counters, **state}
    _check_names(state, expected.keys() - state, state.keys() - expected, layout)
    model = _build(layout, _count_classes(state, layout), widths)
    state = {name: _in_our_shape(name, value, layout, model) for name, value in state.items()}
    _check_shapes(state, model.state_dict(), layout)
    model.load_state_dict(state)
    return model.eval()


def _state_in(
    content: object, layouts: Iterable[Layout]
) -> tuple[dict[str, Tensor], Layout | None]:
    """The first state_dict with a layout's signature, and the layout; what else there is if none.

    Wrappers put something before every name: ``module.`` (several GPUs, averages of weights),
    ``_orig_mod.`` (`torch.compile`), ``model.`` (PyTorch Lightning). It is left out, and so is
    what stands beside the network.
    """
    for state, layout in product(_dictionaries(content), layouts):
        whole = next((n for n in state if f".{n}".endswith(f".{layout.signature}")), None)
        if whole is not None:
            before = whole.removesuffix(layout.signature)
            ours = {n.removeprefix(before): v for n, v in state.items() if n.startswith(before)}
            return ours, layout
    return _names_and_tensors(content), None


def _dictionaries(content: object, depth: int = 3) -> Iterator[dict[str, object]]:
    """A dictionary, and those in it."""
    if isinstance(content, Mapping) and depth:
        yield {str(name): value for name, value in content.items()}
        for part in content.values():
            yield from _dictionaries(part, depth - 1)


def _names_and_tensors(content: object) -> dict[str, Tensor]:
    """The state_dict in what a training script saved, beside the optimizer's state and so on."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if key in content), content)
    if not isinstance(content, Mapping):
        raise TypeError(
            f"expected a state_dict (names and tensors), not a {type(content).__name__}"
        )
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _build(layout: Layout, num_classes: int, widths: tuple[int, ...]) -> SSD:
    """The network that the layout is for, with random weights and the layout's convention."""
    convention = (num_classes == 81 and layout.coco) or layout.convention
    spec = ModelSpec(layout.architecture, num_classes, widths, convention.priors)
    known = {len(names): names for names in (VOC_CLASSES, COCO_CLASSES, COCO_80_CLASSES)}
    names = class_names_of(num_classes, known.get(num_classes))
    return build(spec, Recipe(class_names=names, **convention.recipe))


def _check_names(
    state: Mapping[str, object], missing: Iterable[str], left_over: Iterable[str], layout: Layout
) -> None:
    """Raise a ValueError that lists, as they call it, what is missing and what is left over."""
    lists = [sorted(map(layout.original, names)) for names in (missing, left_over)]
    if any(lists):
        raise ValueError(
            f"this is not a state_dict of {layout.source}: missing {lists[0] or 'nothing'}, "
            f"unexpected {lists[1] or 'nothing'}"
        )
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{layout.original(name)} is not a tensor but a {type(value).__name__}")


def _count_classes(state: Mapping[str, Tensor], layout: Layout) -> int:
    """Read the number of classes off the first head's last bias."""
    head = max(k for k in state if k.startswith("confidence_heads.0.") and k.endswith("bias"))
    channels, per_cell = state[head].numel(), layout.convention.priors.boxes_per_cell[0]
    if channels % per_cell or channels < 2 * per_cell:
        raise ValueError(
            f"{layout.original(head)} has {channels} channels, not a number of classes for "
            f"{per_cell} priors"
        )
    return channels // per_cell


def _in_our_shape(name: str, value: Tensor, layout: Layout, model: SSD) -> Tensor:
    """A tensor as our network keeps it: the same numbers."""
    if name == "trunk.l2norm.scale":  # sgrvinod keeps it as (1, 512, 1, 1)
        return value.flatten()
    part, number, *_ = name.split(".")
    if layout.head is None or part not in ("localization_heads", "confidence_heads"):
        return value
    return layout.head(value, model.spec.priors.boxes_per_cell[int(number)])


def _check_shapes(
    state: Mapping[str, Tensor], expected: Mapping[str, Tensor], layout: Layout
) -> None:
    wrong = [
        f"{layout.original(name)} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if state[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"tensors of the wrong shape for {layout.source}: {wrong}")
