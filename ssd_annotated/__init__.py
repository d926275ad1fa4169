"""The Single Shot MultiBox Detector (Liu et al., 2016), small enough to read in an evening.

``from ssd_annotated import detect, pretrained`` works for the names that people use most. Each is
imported from its module when it is first asked for: ``import ssd_annotated`` alone loads nothing.
"""

from importlib import import_module

__version__ = "0.2.0"

_HOMES = {
    "boxes": ("pairwise_iou",),
    "priors": ("PRESETS", "PriorSpec", "make_priors"),
    "coding": ("decode", "encode"),
    "matching": ("match_priors",),
    "loss": ("MultiBoxLoss",),
    "nms": ("Detections", "postprocess"),
    "model": ("register_architecture", "ssd300_vgg16", "ssd512_vgg16", "tiny_ssd"),
    "detection": ("detect",),
    "checkpoint": ("load_model", "pretrained", "save_model"),
    "networks.ssdlite": ("ssdlite320_mobilenet_v3_large",),
    "published.weights": (
        *("load_checkpoint", "load_d2l", "load_lufficc", "load_nvidia", "load_qfgaohao"),
        *("load_sgrvinod", "load_ssd_pytorch"),
        *("load_torchvision_ssd300", "load_torchvision_ssdlite320"),
    ),
    "data.coco": ("COCOFolder",),
    "data.folder": ("open_data",),
    "data.graffiti": ("GraffitiDigits",),
    "data.voc": ("VOCFolder",),
    "training.train": ("train",),
    "evaluation.voc": ("evaluate",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> object:
    """Import one of the names in `__all__` from its module."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
