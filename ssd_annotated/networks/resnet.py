"""NVIDIA's SSD300 on ResNet-50, of its DeepLearningExamples: for its checkpoints.

The trunk is torchvision's ResNet-50 up to its third stage, which no longer halves the map. It gives
one map of 38 × 38 cells; five extra blocks with batch normalisation give the others.
"""

from torch import nn

from ssd_annotated.model import SSD, ModelSpec, Recipe, TinyTrunk, register_architecture


def _build(spec: ModelSpec, recipe: Recipe) -> SSD:
    from torchvision.models import resnet50  # torchvision takes seconds to import

    *layers, _, _, _ = resnet50().children()
    first = layers[-1][0]
    for layer in (first.conv1, first.conv2, first.downsample[0]):
        layer.stride = (1, 1)
    channels = (1024, 512, 512, 256, 256, 256)
    squeezed = (256, 256, 128, 128, 128)
    extras = [
        _extra_block(inputs, middle, outputs, halve=k < 3)
        for k, (inputs, middle, outputs) in enumerate(zip(channels, squeezed, channels[1:]))
    ]
    return SSD(TinyTrunk(*layers), extras, channels, spec, recipe)


def _extra_block(inputs: int, middle: int, outputs: int, halve: bool) -> nn.Sequential:
    """Squeeze the channels, then shrink the map: to half of it, or by a cell on every side."""
    from torchvision.ops import Conv2dNormActivation

    stride, padding = (2, 1) if halve else (1, 0)
    squeeze = Conv2dNormActivation(inputs, middle, 1)
    return nn.Sequential(*squeeze, *Conv2dNormActivation(middle, outputs, 3, stride, padding))


register_architecture("ssd300_resnet50", _build)
