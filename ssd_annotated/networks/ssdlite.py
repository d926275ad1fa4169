"""SSDLite: SSD for phones, after MobileNetV2 (Sandler et al. 2018, section 6.2).

A *depthwise separable* convolution looks at 3×3 cells of one channel at a time, and then mixes the
channels cell by cell. The trunk, MobileNetV3 (Howard et al. 2019), is torchvision's own.
"""

import math
from functools import partial
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from ssd_annotated.model import (
    SSD,
    ModelSpec,
    Recipe,
    check_maps,
    class_names_of,
    register_architecture,
)
from ssd_annotated.priors import PriorSpec, paper_scales
from ssd_annotated.support.checks import check_at_least, check_choice
from ssd_annotated.support.downloads import pretrained_state

NAME = "ssdlite320_mobilenet_v3_large"
_norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
#: What surrounds torchvision's network, but for its way to resize, which is slow for photographs.
RECIPE = {
    "mean": (0.5,) * 3,
    "std": (0.5,) * 3,
    "max_log_size": math.log(1000 / 16),
    "clip": True,
    "score_threshold": 0.001,
    "top_k": 300,
    "nms_threshold": 0.55,
    "max_detections": 300,
}


def ssdlite_priors(image_size: int = 320) -> PriorSpec:
    """Priors of torchvision's SSDLite: sizes .2 to .95 on six maps, six shapes in every cell.

    At 320 pixels the maps have 20, 10, 5, 3, 2 and 1 cells a side and P = 3234.
    """
    maps = tuple(math.ceil(image_size / 2**k) for k in range(4, 10))
    sizes = tuple(paper_scales(6, 0.2, 0.95))
    return PriorSpec(maps, sizes, ((2.0, 3.0),) * 6, math.sqrt(0.95), clip="wh")


def ssdlite320_mobilenet_v3_large(
    num_classes: int = 21,
    weights: Literal["imagenet"] | None = None,
    class_names: tuple[str, ...] | None = None,
    priors: PriorSpec | None = None,
    image_size: int = 320,
) -> SSD:
    """Build torchvision's SSDLite: MobileNetV3-Large, four extra blocks, separable heads, P = 3234.

    Parameters
    ----------
    num_classes
        Classes including background.
    weights
        ``"imagenet"`` starts the trunk from its ImageNet weights (downloaded by torch.hub), None
        from random weights. As in torchvision, a trunk that is not trained on ImageNet has a last
        stage of half the width: there are fewer classes to tell apart.
    class_names
        `num_classes` names, the first for background; "1", "2", ... if not given.
    priors
        Priors for the feature maps of `ssdlite_priors(image_size)`, which are the default.
    image_size
        Side of the square input in pixels, at least 32.

    Raises
    ------
    ValueError
        If the priors are for other maps, or the class names do not fit.
    OSError
        If the weights cannot be downloaded; the message says what to do instead.
    """
    check_choice("weights", weights, ("imagenet", None))
    check_at_least("image_size in pixels", image_size, 32)
    names = class_names_of(num_classes, class_names)
    width = 480 if weights is None else 960
    spec = ModelSpec(NAME, num_classes, (width,), priors or ssdlite_priors(image_size))
    model = _build(spec, Recipe(image_size, names, **RECIPE))
    if weights == "imagenet":
        from torchvision.models import MobileNet_V3_Large_Weights

        model.trunk = mobilenet_v3_trunk(width, MobileNet_V3_Large_Weights.IMAGENET1K_V1)
    return model


def _build(spec: ModelSpec, recipe: Recipe) -> SSD:
    check_maps(spec, recipe, ssdlite_priors(recipe.image_size).feature_maps)
    (width,) = spec.widths
    channels = (672, width, 512, 256, 256, 128)
    extras = [_extra_block(*channels[k : k + 2]) for k in range(1, 5)]
    model = SSD(mobilenet_v3_trunk(width), extras, channels, spec, recipe, head=separable_head)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=0.03)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


class TwoMaps(nn.Module):
    """A trunk in two parts, each of which gives a map."""

    def __init__(self, to_c4: nn.Module, to_c5: nn.Module) -> None:
        super().__init__()
        self.to_c4, self.to_c5 = to_c4, to_c5

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """The maps of 1/16 and 1/32 of the image's side."""
        c4 = self.to_c4(images)
        return [c4, self.to_c5(c4)]


def mobilenet_v3_trunk(width: int, weights: object = None) -> TwoMaps:
    """torchvision's MobileNetV3-Large, cut in the middle of its fourteenth layer.

    That layer widens its 112 channels to 672 before it halves the map: the wide map is the first
    that SSDLite looks at. `width` is 960, or 480 for a last stage of half the width.
    """
    from torchvision.models import mobilenet_v3_large  # torchvision takes seconds to import

    check_choice("the width of the trunk", width, (480, 960))
    network = mobilenet_v3_large(norm_layer=_norm, reduced_tail=width == 480)
    if weights is not None:
        network.load_state_dict(pretrained_state(weights))
    layers, halving = network.features, network.features[13].block
    to_c4, to_c5 = (*layers[:13], halving[0]), (halving[1:], *layers[14:])
    return TwoMaps(nn.Sequential(*to_c4), nn.Sequential(*to_c5))


def _extra_block(inputs: int, outputs: int) -> nn.Sequential:
    """Squeeze the channels, halve the map with a depthwise convolution, and widen it again."""
    middle = outputs // 2
    return nn.Sequential(
        _conv(inputs, middle, kernel_size=1),
        _conv(middle, middle, kernel_size=3, stride=2, groups=middle),
        _conv(middle, outputs, kernel_size=1),
    )


def separable_head(inputs: int, outputs: int) -> nn.Sequential:
    """A 3×3 convolution of every channel by itself, and a 1×1 convolution of all together."""
    return nn.Sequential(
        _conv(inputs, inputs, kernel_size=3, groups=inputs), nn.Conv2d(inputs, outputs, 1)
    )


def _conv(inputs: int, outputs: int, **options: int) -> nn.Sequential:
    """Convolution, batch normalisation, and ReLU up to 6."""
    from torchvision.ops import Conv2dNormActivation

    return Conv2dNormActivation(
        inputs, outputs, norm_layer=_norm, activation_layer=nn.ReLU6, **options
    )


register_architecture(NAME, _build)
