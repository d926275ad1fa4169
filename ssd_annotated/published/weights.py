"""Other people's checkpoints: their names for the same 71 tensors, and the convention they need.

A checkpoint is only half a model. Each loader also sets the priors, the preprocessing and the
post-processing that its weights were trained for. Nothing is unpickled here: a loader takes what
``torch.load(path, map_location="cpu", weights_only=True)`` returns, a `state_dict` or a dictionary
that holds one as ``"model"`` or ``"state_dict"``, as training scripts write it.
"""

from collections.abc import Mapping

from torch import Tensor
from torchvision.models.detection import SSD300_VGG16_Weights

from ssd_annotated.model import SSD, ModelSpec, Recipe, build
from ssd_annotated.published.conventions import CONVENTIONS

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

#: Where training scripts put the state: torchvision's and lufficc's, PyTorch Lightning's.
WRAPPERS = ("model", "state_dict")
_MAPS = range(6)
_CONV4 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
_CONV5 = (24, 26, 28)
#: Layers of an SSD300, in an order that all tables below share.
_OURS = (
    *(f"trunk.to_conv4_3.{i}" for i in _CONV4),
    *(f"trunk.to_pool5.{i}" for i in _CONV5),
    *("trunk.conv6", "trunk.conv7"),
    *(f"extras.{block}.{i}" for block in range(4) for i in (0, 2)),
    *(f"localization_heads.{k}" for k in _MAPS),
    *(f"confidence_heads.{k}" for k in _MAPS),
)
_TORCHVISION = (
    *(f"backbone.features.{i}" for i in _CONV4),
    *(f"backbone.extra.0.{i}" for i in (1, 3, 5)),
    *("backbone.extra.0.7.1", "backbone.extra.0.7.3"),
    *(f"backbone.extra.{block}.{i}" for block in range(1, 5) for i in (0, 2)),
    *(f"head.regression_head.module_list.{k}" for k in _MAPS),
    *(f"head.classification_head.module_list.{k}" for k in _MAPS),
)
_SSD_PYTORCH = (
    *(f"vgg.{i}" for i in (*_CONV4, *_CONV5, 31, 33)),
    *(f"extras.{i}" for i in range(8)),
    *(f"loc.{k}" for k in _MAPS),
    *(f"conf.{k}" for k in _MAPS),
)
_SGRVINOD_MAPS = ("conv4_3", "conv7", "conv8_2", "conv9_2", "conv10_2", "conv11_2")
_SGRVINOD = (
    *(f"base.conv{k}_{i + 1}" for k, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(n)),
    *("base.conv6", "base.conv7"),
    *(f"aux_convs.conv{k}_{i}" for k in range(8, 12) for i in (1, 2)),
    *(f"pred_convs.loc_{name}" for name in _SGRVINOD_MAPS),
    *(f"pred_convs.cl_{name}" for name in _SGRVINOD_MAPS),
)


def load_torchvision_ssd300(state_dict: Mapping[str, object]) -> SSD:
    """Build an SSD300 from the state of torchvision's ``ssd300_vgg16``, in eval mode.

    The number of classes is read off the heads; with 91 they get COCO's names, with 21 VOC's. A
    ``module.`` before every name, left by data-parallel training, is ignored.

    Raises
    ------
    ValueError
        If tensors are missing, left over or of another shape; the message lists them.
    TypeError
        If this is not a state_dict, or something in it is not a tensor.

    Notes
    -----
    torchvision/models/detection/ssd.py, version 0.29.
    """
    return _load(state_dict, "torchvision", _TORCHVISION, "backbone.scale_weight")


def load_ssd_pytorch(state_dict: Mapping[str, object]) -> SSD:
    """Build an SSD300 from the state of amdegroot's ssd.pytorch, in eval mode.

    For instance its ``ssd300_mAP_77.43_v2.pth``. Classes and errors are as in
    `load_torchvision_ssd300`.

    Notes
    -----
    github.com/amdegroot/ssd.pytorch, ssd.py.
    """
    return _load(state_dict, "ssd.pytorch", _SSD_PYTORCH, "L2Norm.weight")


def load_sgrvinod(state_dict: Mapping[str, object]) -> SSD:
    """Build an SSD300 from the state of sgrvinod's tutorial model, in eval mode.

    Its published checkpoint is a pickled model, which only its own code can open: save
    ``checkpoint["model"].state_dict()`` there. Classes and errors are as in
    `load_torchvision_ssd300`.

    Notes
    -----
    github.com/sgrvinod/a-PyTorch-Tutorial-to-Object-Detection, model.py.
    """
    return _load(state_dict, "sgrvinod", _SGRVINOD, "rescale_factors")


def _load(
    state_dict: Mapping[str, object], convention: str, layers: tuple[str, ...], scale: str
) -> SSD:
    """Rename every tensor, build the model that the heads imply, and fill it."""
    state_dict = _unwrap(state_dict)
    names = {
        f"{theirs}.{part}": f"{ours}.{part}"
        for theirs, ours in zip(layers, _OURS)
        for part in ("weight", "bias")
    }
    names[scale] = "trunk.l2norm.scale"
    given = {str(name).removeprefix("module."): value for name, value in state_dict.items()}
    _check_names(given, names, convention)
    state = {ours: given[theirs] for theirs, ours in names.items()}
    # sgrvinod keeps the scale as (1, 512, 1, 1).
    state["trunk.l2norm.scale"] = state["trunk.l2norm.scale"].flatten()
    model = _empty_model(convention, state, {ours: theirs for theirs, ours in names.items()})
    model.load_state_dict(state)
    return model.eval()


def _unwrap(content: object) -> Mapping[str, Tensor]:
    """The state_dict in what a training script saved, beside the optimizer's state and so on."""
    if isinstance(content, Mapping):
        content = next((content[key] for key in WRAPPERS if key in content), content)
    if not isinstance(content, Mapping):
        raise TypeError(
            f"expected a state_dict (names and tensors), not a {type(content).__name__}"
        )
    return content


def _check_names(given: Mapping[str, Tensor], names: Mapping[str, str], convention: str) -> None:
    missing, unexpected = sorted(names.keys() - given), sorted(given.keys() - names)
    if missing or unexpected:
        raise ValueError(
            f"this is not an SSD300 state_dict of {convention}: missing {missing or 'nothing'}, "
            f"unexpected {unexpected or 'nothing'}"
        )
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} is not a tensor but a {type(value).__name__}")


def _empty_model(convention: str, state: dict[str, Tensor], theirs: dict[str, str]) -> SSD:
    """A model with as many classes as the heads have; a ValueError if a shape is wrong."""
    settings = CONVENTIONS[convention]
    head, per_cell = "confidence_heads.0.bias", settings.priors.boxes_per_cell[0]
    channels = state[head].numel()
    if channels % per_cell or channels < 2 * per_cell:
        raise ValueError(
            f"{theirs[head]} has {channels} channels, not a number of classes for {per_cell} priors"
        )
    names = _names_of(channels // per_cell)
    spec = ModelSpec("ssd300_vgg16", len(names), (), settings.priors)
    model = build(spec, Recipe(class_names=names, **settings.recipe))
    wrong = [
        f"{theirs[name]} {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in model.state_dict().items()
        if state[name].shape != tensor.shape
    ]
    if wrong:
        raise ValueError(f"tensors of the wrong shape in this {convention} state_dict: {wrong}")
    return model


def _names_of(num_classes: int) -> tuple[str, ...]:
    known = {len(names): names for names in (VOC_CLASSES, COCO_CLASSES)}
    return known.get(num_classes, ("background", *map(str, range(1, num_classes))))
