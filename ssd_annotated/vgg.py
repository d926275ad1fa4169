"""VGG-16 as SSD uses it: without its classifier, whose two large layers become convolutions.

The trunk gives two feature maps: conv4_3, scaled by its L2 norm, and conv7, which was layer fc7.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import relu

from ssd_annotated.support.downloads import pretrained_state

#: Channels of VGG-16's convolutions; M halves the map.
_LAYERS = (64, 64, "M", 128, 128, "M", *[256] * 3, "M", *[512] * 3, "M", *[512] * 3, "M")


class L2Norm(nn.Module):
    """Scale each cell's vector of channels to length 1, then every channel by a learned factor.

    Parameters
    ----------
    channels
        Channels of the map.
    scale
        Initial value of every factor.

    Notes
    -----
    Section 3.1 of the paper, after ParseNet (Liu, Rabinovich and Berg 2015). A cell whose channels
    are all 0 stays 0; without the smallest length the result would be 0 / 0.
    """

    smallest_length = 1e-12

    def __init__(self, channels: int, scale: float = 20.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), float(scale)))

    def forward(self, maps: Float[Tensor, "B c h w"]) -> Float[Tensor, "B c h w"]:
        """The maps, normalised cell by cell."""
        # In half precision a sum of 512 squares can overflow, and 1e-12 becomes 0.
        wide = torch.promote_types(maps.dtype, torch.float32)
        length = torch.linalg.vector_norm(maps, dim=1, keepdim=True, dtype=wide)
        unit = maps / length.clamp(min=self.smallest_length)
        return (self.scale[:, None, None] * unit).to(maps.dtype)


class VGGTrunk(nn.Module):
    """VGG-16 up to conv5_3, then fc6 and fc7 as the convolutions conv6 and conv7.

    conv6 is *atrous*: its 3×3 taps lie 6 cells apart. Pool5 no longer halves the map, which puts
    two cells where fc6 saw one, and `decimate` keeps every third of fc6's taps: 2 · 3 = 6.
    """

    def __init__(self) -> None:
        super().__init__()
        features = vgg16_features()
        self.to_conv4_3, self.to_pool5 = features[:23], features[23:]
        self.conv6 = nn.Conv2d(512, 1024, kernel_size=3, padding=6, dilation=6)
        self.conv7 = nn.Conv2d(1024, 1024, kernel_size=1)
        self.l2norm = L2Norm(512)
        xavier_init(self.conv6)
        xavier_init(self.conv7)

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """The maps of conv4_3 (1/8 of the image's side) and conv7 (1/16)."""
        conv4_3 = self.to_conv4_3(images)  # (B, 512, 38, 38) of 300 pixels
        conv5_3 = self.to_pool5(conv4_3)  # (B, 512, 19, 19)
        conv7 = relu(self.conv7(relu(self.conv6(conv5_3))))  # (B, 1024, 19, 19)
        return [self.l2norm(conv4_3), conv7]


def vgg16_features() -> nn.Sequential:
    """VGG-16's convolutions in torchvision's order, pooled as SSD needs it, randomly initialised.

    Pool3 rounds up, so that 75 cells become 38; pool5 looks at 3×3 cells and no longer halves.
    """
    layers: list[nn.Module] = []
    inputs = 3
    with torch.device("meta"):  # PyTorch's own random weights would be drawn for nothing
        for outputs in _LAYERS:
            if outputs == "M":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = outputs
    features = nn.Sequential(*layers).to_empty(device=torch.get_default_device())
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            # Xavier's weights would let the signal fade in sixteen layers of ReLU (He et al. 2015).
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
    features[16].ceil_mode = True
    features[30] = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)
    return features


def xavier_init(module: nn.Module) -> None:
    """Draw the weights of all convolutions from Glorot's uniform distribution; biases are 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def fc_to_conv(weight: Float[Tensor, "o i"], channels: int) -> Float[Tensor, "o c k k"]:
    """Read a fully connected layer over a flattened (channels, k, k) map as a k×k convolution.

    Raises
    ------
    ValueError
        If its inputs are not `channels` square maps.
    """
    outputs, inputs = weight.shape
    side = math.isqrt(inputs // channels)
    if channels * side**2 != inputs:
        raise ValueError(f"{inputs} inputs are not {channels} channels of a square map")
    return weight.reshape(outputs, channels, side, side)


def decimate(weight: Tensor, steps: tuple[int, ...]) -> Tensor:
    """Keep every m-th element along each dimension; `steps` holds the m of each.

    Notes
    -----
    Section 3 of the paper: "subsample parameters from fc6 and fc7".
    """
    if len(steps) != weight.ndim or min(steps) < 1:
        raise ValueError(f"steps must be {weight.ndim} positive numbers, not {steps}")
    return weight[tuple(slice(None, None, step) for step in steps)]


def reduce_vgg16(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Make the state of a `VGGTrunk`, except the L2 norm's scale, from torchvision's `vgg16`.

    fc6 keeps every fourth of its 4096 outputs and every third of its 7×7 taps; fc7 keeps every
    fourth of its inputs and outputs.
    """
    features = {k: v for k, v in state_dict.items() if k.startswith("features.")}
    parts = {k: "to_conv4_3" if int(k.split(".")[1]) < 23 else "to_pool5" for k in features}
    state = {k.replace("features", parts[k]): v for k, v in features.items()}
    fc6 = fc_to_conv(state_dict["classifier.0.weight"], channels=512)  # (4096, 512, 7, 7)
    fc7 = fc_to_conv(state_dict["classifier.3.weight"], channels=4096)  # (4096, 4096, 1, 1)
    state["conv6.weight"] = decimate(fc6, (4, 1, 3, 3))  # (1024, 512, 3, 3)
    state["conv6.bias"] = decimate(state_dict["classifier.0.bias"], (4,))
    state["conv7.weight"] = decimate(fc7, (4, 4, 1, 1))  # (1024, 1024, 1, 1)
    state["conv7.bias"] = decimate(state_dict["classifier.3.bias"], (4,))
    return state


def load_imagenet(trunk: VGGTrunk) -> None:
    """Load torchvision's ImageNet weights of VGG-16, downloaded once, into a trunk."""
    from torchvision.models import VGG16_Weights  # torchvision takes seconds to import

    state_dict = pretrained_state(VGG16_Weights.IMAGENET1K_V1)
    trunk.load_state_dict({**reduce_vgg16(state_dict), "l2norm.scale": trunk.l2norm.scale})
