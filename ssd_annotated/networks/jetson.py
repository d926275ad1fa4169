"""The SSDs of qfgaohao's pytorch-ssd, which NVIDIA's jetson-inference trains: for its checkpoints.

All take images of 300 pixels. ``mb1_ssd`` is an SSD on MobileNet (Howard et al. 2017),
``mb2_ssd_lite`` an SSDLite on MobileNetV2, which is torchvision's own, and ``vgg16_ssd_bn`` an
SSD300 with batch normalisation in place of the L2 norm.
"""

import math
from dataclasses import replace

from torch import nn

from ssd_annotated.model import SSD, ModelSpec, Recipe, build, extra_block, register_architecture
from ssd_annotated.networks.ssdlite import TwoMaps
from ssd_annotated.priors import PriorSpec

_SIZES_PX = (60, 105, 150, 195, 240, 285, 330)
#: Of both MobileNets: twice as large as the paper's, for there is no map of 38 × 38 cells.
PRIORS = PriorSpec(
    feature_maps=(19, 10, 5, 3, 2, 1),
    sizes=tuple(size / 300 for size in _SIZES_PX[:-1]),
    ratios=((2.0, 3.0),) * 6,
    last_extra=math.sqrt(285 * 330) / 300,
    centres="steps",
    steps=tuple(step / 300 for step in (16, 32, 64, 100, 150, 300)),
    clip="cxcywh",
)


def _mb1_ssd(spec: ModelSpec, recipe: Recipe) -> SSD:
    widths = (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
    strides = (1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1)
    layers = [_conv(3, 32, 3, stride=2)]
    layers += [_separable(i, o, s) for i, o, s in zip(widths, widths[1:], strides)]
    trunk = TwoMaps(nn.Sequential(*layers[:12]), nn.Sequential(*layers[12:]))
    blocks = ((1024, 256, 512), (512, 128, 256), (256, 128, 256), (256, 128, 256))
    extras = [extra_block(*block, kernel=3, stride=2, padding=1) for block in blocks]
    return SSD(trunk, extras, (512, 1024, 512, 256, 256, 256), spec, recipe)


def _separable(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """A 3×3 convolution of every channel by itself, then a 1×1 convolution of all."""
    return nn.Sequential(*_conv(inputs, inputs, 3, stride, inputs), *_conv(inputs, outputs, 1))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Module:
    from torchvision.ops import Conv2dNormActivation

    return Conv2dNormActivation(inputs, outputs, kernel, stride, groups=groups)


def _mb2_ssd_lite(spec: ModelSpec, recipe: Recipe) -> SSD:
    from torchvision.models import mobilenet_v2  # torchvision takes seconds to import
    from torchvision.models.mobilenetv2 import InvertedResidual

    layers = mobilenet_v2().features
    wide = layers[14].conv  # widens 96 channels to 576, then halves the map
    trunk = TwoMaps(nn.Sequential(*layers[:14], wide[0]), nn.Sequential(wide[1:], *layers[15:]))
    channels = (576, 1280, 512, 256, 256, 64)
    squeezed = (0.2, 0.25, 0.5, 0.25)
    extras = [
        InvertedResidual(inputs, outputs, stride=2, expand_ratio=ratio)
        for inputs, outputs, ratio in zip(channels[1:], channels[2:], squeezed)
    ]
    return SSD(trunk, extras, channels, spec, recipe, head=_lite_head)


def _lite_head(inputs: int, outputs: int) -> nn.Module:
    """A separable convolution with biases; on the last map, a single cell, only its 1×1 part."""
    mix = nn.Conv2d(inputs, outputs, kernel_size=1)
    if inputs == 64:
        return mix
    depthwise = nn.Conv2d(inputs, inputs, kernel_size=3, padding=1, groups=inputs)
    return nn.Sequential(depthwise, nn.BatchNorm2d(inputs), nn.ReLU6(), mix)


def _vgg16_ssd_bn(spec: ModelSpec, recipe: Recipe) -> SSD:
    model = build(replace(spec, architecture="ssd300_vgg16"), recipe)
    model.spec, model.trunk.l2norm = spec, nn.BatchNorm2d(512)
    return model


register_architecture("mb1_ssd", _mb1_ssd)
register_architecture("mb2_ssd_lite", _mb2_ssd_lite)
register_architecture("vgg16_ssd_bn", _vgg16_ssd_bn)
