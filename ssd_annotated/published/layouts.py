"""Layouts: how published checkpoints name the parts of a network, and what surrounds the network.

The facts come from the sources named below; the names are theirs, the code is not.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ssd_annotated.networks.jetson import PRIORS as MOBILE_PRIORS
from ssd_annotated.networks.ssdlite import NAME as SSDLITE
from ssd_annotated.networks.ssdlite import RECIPE, ssdlite_priors
from ssd_annotated.priors import PRESETS
from ssd_annotated.published.conventions import CONVENTIONS, Convention


@dataclass(frozen=True)
class Layout:
    """One kind of published checkpoint.

    Parameters
    ----------
    source
        Whose it is, as `load_checkpoint` says it.
    signature
        Name of a tensor that no layout listed after this one has.
    modules
        Their name of each module or tensor, and ours. What a tensor belongs to is the longest of
        their names with which its own begins.
    convention
        Priors, loss, preprocessing and post-processing.
    architecture
        What `build` calls the network.
    coco
        The convention for COCO's 80 classes, if it is another.
    widths
        Our names of tensors whose first dimensions are the model's widths.
    head
        Puts the channels of a head, of so many priors in a cell, into our order.
    """

    source: str
    signature: str
    modules: Mapping[str, str]
    convention: Convention
    architecture: str = "ssd300_vgg16"
    coco: Convention | None = None
    widths: tuple[str, ...] = ()
    head: Callable[[Tensor, int], Tensor] | None = None

    def rename(self, name: str) -> str | None:
        """Our name of their tensor; None if there is none."""
        return _replace_start(name, self.modules)

    def original(self, name: str) -> str:
        """Their name of our tensor."""
        return _replace_start(name, {ours: theirs for theirs, ours in self.modules.items()}) or name


def _replace_start(name: str, table: Mapping[str, str]) -> str | None:
    """Replace the longest start of a dotted name that is in the table; None if none is."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        start = ".".join(parts[:length])
        if start in table:
            return table[start] + name[len(start) :]
    return None


# --- Names ----------------------------------------------------------------------------------------

_CONV4 = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21)
_CONV5 = (24, 26, 28)
_BLOCKS = range(4)
_MAPS = range(6)


def _heads(localization: str, confidence: str, maps: Iterable[int | str]) -> dict[str, str]:
    """The heads, whose names hold the name of their map in place of ``{}``."""
    names = {localization: "localization_heads", confidence: "confidence_heads"}
    return {a.format(m): f"{b}.{k}" for a, b in names.items() for k, m in enumerate(maps)}


def _vgg(start: str) -> dict[str, str]:
    """VGG's layers as one list: conv6 is its layer 31, conv7 its layer 33."""
    conv4 = {f"{start}.{i}": f"trunk.to_conv4_3.{i}" for i in _CONV4}
    conv5 = {f"{start}.{i}": f"trunk.to_pool5.{i}" for i in _CONV5}
    return {**conv4, **conv5, f"{start}.31": "trunk.conv6", f"{start}.33": "trunk.conv7"}


def _flat_extras(start: str, blocks: int = 4) -> dict[str, str]:
    """The extra blocks' convolutions as one list, without the ReLUs between them."""
    return {f"{start}.{2 * k + i}": f"extras.{k}.{2 * i}" for k in range(blocks) for i in (0, 1)}


_TORCHVISION_HEADS = _heads(
    "head.regression_head.module_list.{}", "head.classification_head.module_list.{}", _MAPS
)
_TORCHVISION = {
    **{f"backbone.features.{i}": f"trunk.to_conv4_3.{i}" for i in _CONV4},
    **{f"backbone.extra.0.{i - 23}": f"trunk.to_pool5.{i}" for i in _CONV5},
    "backbone.extra.0.7.1": "trunk.conv6",
    "backbone.extra.0.7.3": "trunk.conv7",
    **{f"backbone.extra.{k + 1}": f"extras.{k}" for k in range(4)},
    "backbone.scale_weight": "trunk.l2norm.scale",
    **_TORCHVISION_HEADS,
}
_SSDLITE = {
    "backbone.features.0": "trunk.to_c4",
    "backbone.features.1": "trunk.to_c5",
    "backbone.extra": "extras",
    **_TORCHVISION_HEADS,
}
_SSD_PYTORCH = {
    **_vgg("vgg"),
    **_flat_extras("extras"),
    "L2Norm.weight": "trunk.l2norm.scale",
    **_heads("loc.{}", "conf.{}", _MAPS),
}
_SGRVINOD_CONVS = [f"{k}_{i + 1}" for k, n in enumerate((2, 2, 3, 3, 3), 1) for i in range(n)]
_SGRVINOD_MAPS = ("conv4_3", "conv7", "conv8_2", "conv9_2", "conv10_2", "conv11_2")
_SGRVINOD = {
    **{f"base.conv{n}": name for n, name in zip((*_SGRVINOD_CONVS, 6, 7), _vgg("").values())},
    **{f"aux_convs.conv{k + 8}_{i + 1}": f"extras.{k}.{2 * i}" for k in _BLOCKS for i in (0, 1)},
    "rescale_factors": "trunk.l2norm.scale",
    **_heads("pred_convs.loc_{}", "pred_convs.cl_{}", _SGRVINOD_MAPS),
}
_LUFFICC = {
    **_vgg("backbone.vgg"),
    "backbone.l2_norm.weight": "trunk.l2norm.scale",
    **_flat_extras("backbone.extras", blocks=5),
    **_heads("box_head.predictor.reg_headers.{}", "box_head.predictor.cls_headers.{}", range(7)),
}
_D2L = {
    "blk_0": "trunk",
    **{f"blk_{k + 1}": f"extras.{k}" for k in range(3)},
    **_heads("bbox_{}", "cls_{}", range(5)),
}
_JETSON_HEADS = _heads("regression_headers.{}", "classification_headers.{}", _MAPS)
_JETSON_VGG = {
    **_vgg("base_net"),
    "extras": "extras",
    "source_layer_add_ons.0": "trunk.l2norm",
    **_JETSON_HEADS,
}
_JETSON_MB1 = {
    **{f"base_net.{i}": f"trunk.to_c4.{i}" for i in range(12)},
    **{f"base_net.{i}": f"trunk.to_c5.{i - 12}" for i in (12, 13)},
    "extras": "extras",
    **_JETSON_HEADS,
}
#: The layers of a residual block, which they keep in one list and torchvision in lists in a list.
_RESIDUAL = {0: "0.0", 1: "0.1", 3: "1.0", 4: "1.1", 6: "2", 7: "3"}
_RESIDUAL_BLOCKS = {
    **{f"base_net.{i}": f"trunk.to_c4.{i}" for i in range(2, 14)},
    **{f"base_net.{i}": f"trunk.to_c5.{i - 14}" for i in (15, 16, 17)},
    **{f"extras.{k}": f"extras.{k}" for k in _BLOCKS},
}
_JETSON_MB2 = {
    "base_net.0": "trunk.to_c4.0",
    # The first block does not widen its channels, and the fourteenth is cut in two.
    **{f"base_net.1.conv.{k}": f"trunk.to_c4.1.conv.0.{k}" for k in (0, 1)},
    **{f"base_net.1.conv.{k}": f"trunk.to_c4.1.conv.{k - 2}" for k in (3, 4)},
    **{f"base_net.14.conv.{k}": f"trunk.to_c5.0.{v}" for k, v in _RESIDUAL.items() if k > 1},
    **{f"base_net.14.conv.{k}": f"trunk.to_c4.14.{k}" for k in (0, 1)},
    **{
        f"{theirs}.conv.{k}": f"{ours}.conv.{place}"
        for theirs, ours in _RESIDUAL_BLOCKS.items()
        for k, place in _RESIDUAL.items()
    },
    "base_net.18": "trunk.to_c5.4",
    **_JETSON_HEADS,
}
_NVIDIA = {
    "feature_extractor.feature_extractor": "trunk",
    "additional_blocks": "extras",
    **_heads("loc.{}", "conf.{}", _MAPS),
}

# --- What surrounds them --------------------------------------------------------------------------

_PLAIN = CONVENTIONS["lufficc"]


def _like_lufficc(priors: str, **recipe: object) -> Convention:
    """lufficc's convention with these priors, limited to [0, 1], and these changes."""
    return Convention(replace(PRESETS[priors], clip="cxcywh"), _PLAIN.loss, _PLAIN.recipe | recipe)


_LITE = Convention(
    ssdlite_priors(), {"method": "argmax"}, {"image_size": 320, **RECIPE, "resize": "torch"}
)
_VOC_512, _COCO_512 = (_like_lufficc(f"caffe-{x}-512", image_size=512) for x in ("voc", "coco"))
_JETSON = _like_lufficc("caffe-voc", top_k=200, max_detections=None)
_MOBILE_INPUT = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
_MOBILE = Convention(MOBILE_PRIORS, _PLAIN.loss, {**_JETSON.recipe, **_MOBILE_INPUT})
_NVIDIAS = Convention(
    replace(PRESETS["caffe-coco"], clip="cxcywh"),
    {**CONVENTIONS["tf2"].loss, "method": "argmax"},  # an IoU above 0.5; each image by itself
    {**CONVENTIONS["sgrvinod"].recipe, "score_threshold": 0.05, "top_k": 200},
)


def _values_first(value: Tensor, per_cell: int) -> Tensor:
    """Where the channels of a head are ordered by value, then by prior: by prior, then by value."""
    return value.unflatten(0, (-1, per_cell)).transpose(0, 1).flatten(0, 1)


_D2L_WIDTHS = tuple(f"{part}.{k}.0.weight" for part in ("trunk", "extras") for k in range(3))
#: All layouts, those with a more special signature first.
LAYOUTS: dict[str, Layout] = {
    # torchvision/models/detection of version 0.29: ssdlite.py and ssd.py
    "torchvision-ssdlite": Layout(
        f"torchvision's {SSDLITE}",
        "backbone.features.1.0.1.0.weight",
        _SSDLITE,
        _LITE,
        SSDLITE,
        widths=("trunk.to_c5.3.0.weight",),
    ),
    "torchvision": Layout(
        "torchvision's ssd300_vgg16",
        "backbone.scale_weight",
        _TORCHVISION,
        CONVENTIONS["torchvision"],
    ),
    # github.com/lufficc/SSD, ssd/modeling and configs
    "lufficc-512": Layout(
        "lufficc's SSD512",
        "backbone.extras.9.weight",
        _LUFFICC,
        _VOC_512,
        "ssd512_vgg16",
        _COCO_512,
    ),
    "lufficc": Layout(
        "lufficc's SSD300",
        "backbone.l2_norm.weight",
        _LUFFICC,
        _PLAIN,
        coco=_like_lufficc("caffe-coco"),
    ),
    # github.com/amdegroot/ssd.pytorch, ssd.py
    "ssd.pytorch": Layout(
        "amdegroot's ssd.pytorch", "L2Norm.weight", _SSD_PYTORCH, CONVENTIONS["ssd.pytorch"]
    ),
    # github.com/sgrvinod/a-PyTorch-Tutorial-to-Object-Detection, model.py
    "sgrvinod": Layout(
        "sgrvinod's tutorial", "rescale_factors", _SGRVINOD, CONVENTIONS["sgrvinod"]
    ),
    # github.com/qfgaohao/pytorch-ssd, vision/ssd and vision/nn
    "vgg16-ssd": Layout(
        "qfgaohao's vgg16-ssd",
        "source_layer_add_ons.0.running_mean",
        _JETSON_VGG,
        _JETSON,
        "vgg16_ssd_bn",
    ),
    "mb2-ssd-lite": Layout(
        "qfgaohao's mb2-ssd-lite", "base_net.17.conv.7.weight", _JETSON_MB2, _MOBILE, "mb2_ssd_lite"
    ),
    "mb1-ssd": Layout(
        "qfgaohao's mb1-ssd", "base_net.13.3.weight", _JETSON_MB1, _MOBILE, "mb1_ssd"
    ),
    # github.com/NVIDIA/DeepLearningExamples, PyTorch/Detection/SSD/ssd
    "nvidia": Layout(
        "NVIDIA's SSD300 on ResNet-50",
        "additional_blocks.0.0.weight",
        _NVIDIA,
        _NVIDIAS,
        "ssd300_resnet50",
        head=_values_first,
    ),
    # Zhang et al., Dive into Deep Learning: TinySSD
    "d2l": Layout(
        "d2l's TinySSD",
        "blk_0.0.0.weight",
        _D2L,
        CONVENTIONS["d2l"],
        "tiny_ssd",
        widths=_D2L_WIDTHS,
    ),
}
