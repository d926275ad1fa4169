"""The network: a trunk, extra blocks that shrink its map step by step, and two heads on every map.

Nothing here knows what an object is. Every cell of every map answers, for each of its priors, "what
is it?" (C logits) and "where exactly?" (4 offsets), by one 3×3 convolution each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import count, pairwise
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ssd_annotated.coding import VARIANCES
from ssd_annotated.priors import PRESETS, PriorSpec, make_priors, tiny_priors
from ssd_annotated.support.checks import check_at_least, check_choice, check_limits, check_numbers
from ssd_annotated.vgg import VGGTrunk, load_imagenet, xavier_init


class Predictions(NamedTuple):
    """What the network says about every prior: where the box is, and what is in it."""

    offsets: Float[Tensor, "B P 4"]
    logits: Float[Tensor, "B P C"]


@dataclass(frozen=True)
class ModelSpec:
    """What to build: the architecture's name, its classes (with background), widths and priors.

    `widths` are the channels of TinySSD's blocks; an SSD on VGG-16 has no widths to choose. Other
    networks may keep in them what else was chosen.
    """

    architecture: str
    num_classes: int
    widths: tuple[int, ...]
    priors: PriorSpec


@dataclass(frozen=True)
class Recipe:
    """What surrounds the network: how images come in and how detections come out.

    `mean` and `std` are those of RGB values in [0, 1]; `image_size` is in pixels. `prepare`
    explains `resize`, `encode` explains `variances`, and `postprocess` explains the fields from
    `score_threshold` on.
    """

    image_size: int
    class_names: tuple[str, ...]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    resize: Literal["opencv", "pillow", "torch"] = "opencv"
    variances: tuple[float, float] = VARIANCES
    score_threshold: float = 0.01
    top_k: int | None = 400
    nms_threshold: float = 0.45
    max_detections: int | None = 200
    max_log_size: float | None = None
    clip: bool = False
    class_agnostic: bool = False

    def __post_init__(self) -> None:
        check_at_least("image_size in pixels", self.image_size, 1)
        check_numbers("mean", self.mean, 3, above=-torch.inf)
        check_numbers("std", self.std, 3)
        check_numbers("variances", self.variances, 2)
        limits = (self.score_threshold, self.nms_threshold, self.top_k, self.max_detections)
        check_limits(*limits)


class SSD(nn.Module):
    """Trunk, extra blocks and heads: images in, offsets and logits for every prior out.

    Parameters
    ----------
    trunk
        Maps images (B, 3, H, W) to a list of one or more feature maps.
    extras
        Blocks applied one after the other, each to the map before, each giving one more map.
    channels
        Channels of every map, those of the trunk first.
    spec, recipe
        What was built, and what surrounds it; both are saved with the weights.
    head
        Makes a head of (channels in, channels out); by default one 3×3 convolution.

    Attributes
    ----------
    priors
        (P, 4) ``cxcywh`` fractions, in the order of the outputs.
    """

    def __init__(
        self,
        trunk: nn.Module,
        extras: list[nn.Module],
        channels: tuple[int, ...],
        spec: ModelSpec,
        recipe: Recipe,
        head: Callable[[int, int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        if (named := len(recipe.class_names)) != spec.num_classes:
            raise ValueError(f"{named} class names for {spec.num_classes} classes")
        self.spec, self.recipe = spec, recipe
        self.trunk = trunk
        self.extras = nn.ModuleList(extras)
        sizes = list(zip(channels, spec.priors.boxes_per_cell))
        head = head or conv3x3
        self.localization_heads = nn.ModuleList(head(c, 4 * n) for c, n in sizes)
        self.confidence_heads = nn.ModuleList(head(c, spec.num_classes * n) for c, n in sizes)
        self.register_buffer("priors", make_priors(spec.priors), persistent=False)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> Predictions:
        """Predict offsets and logits for every prior of a batch of normalised images."""
        maps = self.trunk(images)
        self._check_maps(maps, images)
        for block in self.extras:
            maps.append(block(maps[-1]))
        offsets = [head(m) for head, m in zip(self.localization_heads, maps)]
        logits = [head(m) for head, m in zip(self.confidence_heads, maps)]
        return Predictions(
            channels_to_rows(offsets, 4), channels_to_rows(logits, self.spec.num_classes)
        )

    def _check_maps(self, maps: list[Tensor], images: Tensor) -> None:
        """Compare sides, not counts: 128 × 512 pixels make as many cells as 256 × 256."""
        sides = [tuple(m.shape[2:]) for m in maps]
        expected = self.spec.priors.grids[: len(maps)]
        if sides != expected:
            height, width, side = *images.shape[2:], self.recipe.image_size
            raise ValueError(
                f"images of {height} x {width} pixels give feature maps of {sides} cells, but the "
                f"priors are made for {side} x {side} pixels and {expected} cells"
            )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for a while, then restore the mode of each of its parts."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    """The paper's head."""
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


def channels_to_rows(maps: list[Float[Tensor, "B _ _ _"]], width: int) -> Float[Tensor, "B P w"]:
    """Read (B, K · width, h, w) head outputs as rows of `width`, cell by cell, and join the maps.

    The K priors of a cell follow one another, as they do in `make_priors`.
    """
    return torch.cat([m.permute(0, 2, 3, 1).reshape(m.shape[0], -1, width) for m in maps], dim=1)


class TinyTrunk(nn.Sequential):
    """Three down-sampling blocks in a row, whose only feature map has a stride of 8 pixels."""

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B c h w"]]:
        """One feature map, in a list."""
        return [super().forward(images)]


def down_block(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3×3 convolutions, each with batch normalisation and ReLU, then halve the map."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, kernel_size=3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.MaxPool2d(2))


def tiny_ssd(
    num_classes: int = 11,
    image_size: int = 256,
    widths: tuple[int, ...] = (16, 32, 64, 128, 128, 128),
    class_names: tuple[str, ...] | None = None,
    priors: PriorSpec | None = None,
) -> SSD:
    """Build d2l's TinySSD: six down-sampling blocks and a global pooling, heads on five maps.

    Parameters
    ----------
    num_classes
        Classes including background.
    image_size
        Side of the square input in pixels, at least 64 so that every block has something to halve.
    widths
        Channels of the six blocks.
    class_names
        `num_classes` names, the first for background; "1", "2", ... if not given.
    priors
        Priors for the feature maps of `tiny_priors(image_size)`, which are d2l's and the default.

    Notes
    -----
    Zhang et al., *Dive into Deep Learning*, section "Single Shot Multibox Detection". With the
    default sizes P = 5444.
    """
    check_at_least("image_size in pixels", image_size, 64)
    names = class_names_of(num_classes, class_names)
    spec = ModelSpec("tiny_ssd", num_classes, tuple(widths), priors or tiny_priors(image_size))
    return _build_tiny(spec, Recipe(image_size, names))


def class_names_of(num_classes: int, names: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names given, or numbers."""
    if num_classes < 2:
        raise ValueError(f"num_classes counts background too: at least 2, not {num_classes}")
    return tuple(names or ("background", *map(str, range(1, num_classes))))


def check_maps(spec: ModelSpec, recipe: Recipe, maps: tuple[int, ...]) -> None:
    """Raise a ValueError unless the priors are made for the maps that the network has."""
    if tuple(spec.priors.feature_maps) != maps:
        raise ValueError(
            f"{spec.architecture} has feature maps of {maps} cells a side at {recipe.image_size} "
            f"pixels, but the priors are for {spec.priors.feature_maps}"
        )


def _build_tiny(spec: ModelSpec, recipe: Recipe) -> SSD:
    if len(spec.widths) != 6 or min(spec.widths) < 1:
        raise ValueError(f"widths must be six positive numbers of channels, not {spec.widths}")
    check_maps(spec, recipe, tiny_priors(recipe.image_size).feature_maps)
    inputs = (3, *spec.widths)
    blocks = [down_block(i, o) for i, o in pairwise(inputs)]
    extras = [*blocks[3:], nn.AdaptiveMaxPool2d(1)]
    channels = (*spec.widths[2:], spec.widths[-1])
    return SSD(TinyTrunk(*blocks[:3]), extras, channels, spec, recipe)


def ssd300_vgg16(
    num_classes: int = 21,
    weights: Literal["imagenet"] | None = None,
    class_names: tuple[str, ...] | None = None,
    priors: PriorSpec = PRESETS["caffe-voc"],
    image_size: int = 300,
) -> SSD:
    """Build the paper's SSD300: VGG-16, four extra blocks, heads on six maps, P = 8732.

    Parameters
    ----------
    num_classes
        Classes including background; 21 for PASCAL VOC.
    weights
        ``"imagenet"`` starts the trunk from VGG-16's ImageNet weights (downloaded by torch.hub),
        None from random weights.
    class_names
        `num_classes` names, the first for background; "1", "2", ... if not given.
    priors
        Priors for feature maps of 38, 19, 10, 5, 3 and 1 cells a side.
    image_size
        Side of the square input in pixels. At another size the maps have other numbers of cells,
        and the priors' centres are spread evenly over them; their sizes remain.

    Raises
    ------
    ValueError
        If the priors or the class names do not fit, or nothing is left of the last map.
    OSError
        If the weights cannot be downloaded; the message says what to do instead.

    Notes
    -----
    Section 3.1 of the paper. New layers start from Glorot's uniform distribution ("xavier").
    """
    return _vgg_ssd("ssd300_vgg16", num_classes, weights, class_names, priors, image_size, 300)


def ssd512_vgg16(
    num_classes: int = 21,
    weights: Literal["imagenet"] | None = None,
    class_names: tuple[str, ...] | None = None,
    priors: PriorSpec = PRESETS["caffe-voc-512"],
    image_size: int = 512,
) -> SSD:
    """Build the paper's SSD512: as `ssd300_vgg16`, with one more extra block and P = 24,564.

    The seven maps have 64, 32, 16, 8, 4, 2 and 1 cells a side. For parameters see `ssd300_vgg16`.
    """
    return _vgg_ssd("ssd512_vgg16", num_classes, weights, class_names, priors, image_size, 512)


#: (channels squeezed to, channels out, kernel, stride, padding) of each extra block.
_VGG_EXTRAS = {
    "ssd300_vgg16": ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), *[(128, 256, 3, 1, 0)] * 2),
    "ssd512_vgg16": ((256, 512, 3, 2, 1), *[(128, 256, 3, 2, 1)] * 3, (128, 256, 4, 1, 1)),
}


def _vgg_ssd(
    architecture: str,
    num_classes: int,
    weights: str | None,
    class_names: tuple[str, ...] | None,
    priors: PriorSpec,
    image_size: int,
    usual_size: int,
) -> SSD:
    check_choice("weights", weights, ("imagenet", None))
    if not isinstance(priors, PriorSpec):
        raise TypeError(f"priors must be a PriorSpec, such as PRESETS['paper'], not {priors!r}")
    recipe = Recipe(image_size, class_names_of(num_classes, class_names))
    if image_size != usual_size:
        maps = _vgg_maps(architecture, image_size)
        priors = replace(priors, feature_maps=maps, centres="fmap", steps=None)
    model = _build_vgg(ModelSpec(architecture, num_classes, (), priors), recipe)
    if weights == "imagenet":
        load_imagenet(model.trunk)
    return model


def _vgg_maps(architecture: str, image_size: int) -> tuple[int, ...]:
    """Cells along a side of each map; a ValueError names the least size that leaves some."""

    def cells(pixels: int) -> tuple[int, ...]:
        first = -(-(pixels // 4) // 2)  # pool1 and pool2 round down, pool3 rounds up
        sides = [first, first // 2]
        for *_, kernel, stride, padding in _VGG_EXTRAS[architecture]:
            sides.append((sides[-1] + 2 * padding - kernel) // stride + 1)
        return tuple(sides)

    least = next(pixels for pixels in count(image_size) if min(cells(pixels)) > 0)
    if least > image_size:
        raise ValueError(f"{architecture} needs at least {least} pixels a side, not {image_size}")
    return cells(image_size)


def _build_vgg(spec: ModelSpec, recipe: Recipe) -> SSD:
    check_maps(spec, recipe, _vgg_maps(spec.architecture, recipe.image_size))
    plan = _VGG_EXTRAS[spec.architecture]
    channels = (512, 1024, *(outputs for _, outputs, *_ in plan))
    extras = [extra_block(i, *block) for i, block in zip(channels[1:], plan)]
    model = SSD(VGGTrunk(), extras, channels, spec, recipe)
    for part in (model.extras, model.localization_heads, model.confidence_heads):
        xavier_init(part)
    return model


def extra_block(
    inputs: int, squeezed: int, outputs: int, kernel: int, stride: int, padding: int
) -> nn.Sequential:
    """A 1×1 convolution squeezes the channels, then another shrinks the map; each has a ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, squeezed, kernel_size=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(squeezed, outputs, kernel, stride, padding),
        nn.ReLU(inplace=True),
    )


#: What `build` can build, by name; `register_architecture` adds to it.
ARCHITECTURES = {"tiny_ssd": _build_tiny, **dict.fromkeys(_VGG_EXTRAS, _build_vgg)}


def register_architecture(name: str, builder: Callable[[ModelSpec, Recipe], SSD]) -> None:
    """Make an architecture of your own known to `build`, and so to `load_model`.

    Do this before loading too: a file holds the architecture's name, not its code.

    Raises
    ------
    ValueError
        If the name already stands for another architecture.
    """
    if ARCHITECTURES.setdefault(name, builder) is not builder:
        raise ValueError(f"another architecture is already called {name!r}")


def check_architecture(name: str) -> None:
    """Raise a ValueError unless `build` knows this architecture."""
    import_module("ssd_annotated.networks")  # where networks register that no chapter builds
    if name not in ARCHITECTURES:
        raise ValueError(
            f"unknown architecture {name!r}: expected one of {sorted(ARCHITECTURES)}, or one added "
            f"by register_architecture({name!r}, ...)"
        )


def build(spec: ModelSpec, recipe: Recipe) -> SSD:
    """Build the architecture that `spec` names, with random weights."""
    check_architecture(spec.architecture)
    return ARCHITECTURES[spec.architecture](spec, recipe)
