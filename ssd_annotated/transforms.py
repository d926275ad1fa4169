"""From photographs and their boxes to the tensors that the network takes."""

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from ssd_annotated.model import Recipe


def prepare(image: UInt8[np.ndarray, "h w 3"], recipe: Recipe) -> Float[Tensor, "3 H W"]:
    """Resize an RGB image to the recipe's size and normalise it: (value / 255 − mean) / std.

    Boxes need no change: fractions stay what they are. All three ways to resize are bilinear;
    ``"opencv"`` and ``"pillow"`` round to 8 bits before normalising, ``"torch"`` normalises first,
    and only ``"pillow"`` smooths what it shrinks.

    Raises
    ------
    ValueError
        If the image is not (height, width, 3) of 8-bit integers, or is empty, or the recipe's way
        to resize is unknown.
    TypeError
        If it is no array: OpenCV, for one, returns None for a file it cannot read.
    """
    check_image(image)
    side = recipe.image_size
    resized = _resize(image, side, recipe.resize)
    table = _normalised_levels(tuple(recipe.mean), tuple(recipe.std))
    normalised = torch.from_numpy(cv2.LUT(np.ascontiguousarray(resized), table)).permute(2, 0, 1)
    if normalised.shape[1:] == (side, side):
        return normalised
    return interpolate(normalised[None], (side, side), mode="bilinear", align_corners=False)[0]


@lru_cache
def _normalised_levels(mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """What becomes of each of the 256 levels of red, green and blue: one table of (1, 256, 3)."""
    levels = torch.arange(256, dtype=torch.float32, device="cpu")[:, None] / 255
    mean, std = levels.new_tensor(mean), levels.new_tensor(std)
    return ((levels - mean) / std)[None].numpy()


def check_image(image: np.ndarray) -> None:
    """Refuse what is no 8-bit RGB array (height, width, 3) with at least one pixel."""
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image must be a NumPy array, not {type(image).__name__}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"an image must have shape (height, width, 3), not {image.shape}")
    if image.dtype != np.uint8:
        raise ValueError(f"an image must be uint8 RGB, not {image.dtype}")


def _resize(image: UInt8[np.ndarray, "h w 3"], side: int, how: str) -> UInt8[np.ndarray, "H W 3"]:
    """Resize in 8 bits, unless that is left to torch."""
    if how not in ("opencv", "pillow", "torch"):
        raise ValueError(f"resize must be 'opencv', 'pillow' or 'torch', not {how!r}")
    if how == "torch" or image.shape[:2] == (side, side):
        return image
    if how == "opencv":
        return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def collate(
    samples: list[tuple[np.ndarray, dict[str, Tensor]]], recipe: Recipe
) -> tuple[Float[Tensor, "B 3 H W"], list[dict[str, Tensor]]]:
    """Join samples to a batch: one tensor of images, and the targets as they are.

    Targets stay a list, because images hold different numbers of objects.
    """
    images, targets = zip(*samples)
    return torch.stack([prepare(image, recipe) for image in images]), list(targets)
