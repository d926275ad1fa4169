"""The network, forward and in training, beside torchvision's and beside its convolutions alone.

No code can be faster than its convolutions: what is left above them is what code can lose.
"""

import numpy as np
import torch
from core import scenes
from timing import Goal, Row, Ways
from torch import Tensor, nn
from torchvision.models.detection import ssd300_vgg16 as torchvisions_ssd300

from ssd_annotated.data.graffiti import GraffitiDigits
from ssd_annotated.model import ssd300_vgg16, tiny_ssd
from ssd_annotated.training.settings import QUICK, Settings
from ssd_annotated.training.train import Trainer


def convolutions(model: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, Tensor]]:
    """All convolutions of a network, each with the input that it gets."""
    calls = []
    hooks = [
        layer.register_forward_hook(lambda layer, given, _: calls.append((layer, given[0])))
        for layer in model.modules()
        if isinstance(layer, nn.Conv2d)
    ]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return calls


def forward(batch: int = 1) -> Ways:
    ours = ssd300_vgg16(21).to(memory_format=torch.channels_last).eval()
    theirs = torchvisions_ssd300(weights=None, weights_backbone=None, num_classes=21).eval()
    images = torch.randn(batch, 3, 300, 300)
    calls = convolutions(ours, images)

    @torch.no_grad()
    def run_ours():
        ours(images)

    @torch.no_grad()
    def run_torchvision():
        theirs.head(list(theirs.backbone(images).values()))

    @torch.no_grad()
    def run_convolutions():
        for layer, given in calls:
            layer(given)

    return {
        "ours": run_ours,
        "torchvision": run_torchvision,
        "convolutions alone": run_convolutions,
    }


def training_step(batch: int = 4) -> Ways:
    """A whole step of each: images in, matching, loss, gradients, a step of SGD."""
    torch.manual_seed(0)
    pixels = np.random.default_rng(0).integers(0, 256, (batch, 300, 300, 3), dtype=np.uint8)
    targets = scenes(5, batch)
    ours = ssd300_vgg16(21)
    settings = Settings(batch_size=batch, lr=1e-6, warmup=0)
    trainer = Trainer(ours, list(zip(pixels, targets, strict=True)), settings)
    theirs = torchvisions_ssd300(weights=None, weights_backbone=None, num_classes=21).train()
    optimizer = torch.optim.SGD(theirs.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)
    images = [torch.from_numpy(image).permute(2, 0, 1) / 255 for image in pixels]
    in_pixels = [{**target, "boxes": 300 * target["boxes"]} for target in targets]
    calls = convolutions(ours, torch.stack(images))

    def run_torchvision():
        optimizer.zero_grad()
        sum(theirs(images, in_pixels).values()).backward()
        optimizer.step()

    def run_convolutions():
        for number, (layer, given) in enumerate(calls):
            result = layer(given.detach().requires_grad_(number > 0))
            result.backward(torch.ones_like(result))
        ours.zero_grad()

    return {
        "ours": trainer.step,
        "torchvision": run_torchvision,
        "convolutions alone": run_convolutions,
    }


def tiny_training(batch: int = 32) -> Ways:
    """TinySSD on scenes drawn before, beside the network with the cheapest loss there is."""
    torch.manual_seed(0)
    scenes = list(map(GraffitiDigits("train", length=4 * batch).__getitem__, range(4 * batch)))
    settings = {**vars(QUICK), "batch_size": batch}
    trainer = Trainer(tiny_ssd(11, 128), scenes, Settings(**settings))
    bare = tiny_ssd(11, 128).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(bare.parameters(), lr=1e-6, fused=True)
    images = torch.randn(batch, 3, 128, 128).to(memory_format=torch.channels_last)

    def network_alone():
        optimizer.zero_grad()
        sum(part.sum() for part in bare(images)).backward()
        optimizer.step()

    return {"ours": trainer.step, "network and optimizer alone": network_alone}


#: On one thread: two of them lose more to other programs than any code could win.
ROWS = {
    "SSD300, forward, one image": Row(
        forward, (Goal("torchvision"), Goal("convolutions alone", 1 / 1.03)), seconds=20
    ),
    "SSD300, training step, 4 images": Row(
        training_step, (Goal("torchvision"),), seconds=20, rounds=2, images=4
    ),
    "TinySSD, training step, 32 images": Row(tiny_training, seconds=20, images=32),
}
