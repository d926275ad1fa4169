"""SSD300 on a GPU: training and detection beside torchvision's, and beside what the card can do.

python benchmarks/gpu.py                # two to four minutes on a GPU
python benchmarks/gpu.py --rehearse     # the same, tiny, on the CPU: shows only that it runs
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from statistics import median

import numpy as np
import torch
import torchvision
from core import scenes
from torch import Tensor
from torchvision.models.detection import ssd300_vgg16 as torchvisions_ssd300

from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.model import ssd300_vgg16
from ssd_annotated.nms import postprocess
from ssd_annotated.training.batches import make_loader
from ssd_annotated.training.settings import Settings
from ssd_annotated.training.train import Trainer

#: Multiplications and additions of SSD300's forward pass for one image, in thousand millions.
GFLOP = 62.7
PRECISIONS = ("float32", "bfloat16")


class Photographs:
    """Images and objects that are there already, so that no data set slows the network down."""

    def __init__(self, count: int) -> None:
        random = np.random.default_rng(0)
        self.images = random.integers(0, 256, (count, 300, 300, 3), dtype=np.uint8)
        self.targets = scenes(5, count)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, dict[str, Tensor]]:
        return self.images[index], self.targets[index]


class Bench:
    """A device, and how often everything is repeated on it."""

    def __init__(self, rehearse: bool) -> None:
        self.rehearse = rehearse
        self.device = torch.device("cpu" if rehearse else "cuda")
        self.repeats, self.warm = (1, 0) if rehearse else (20, 6)

    def wait(self) -> None:
        if not self.rehearse:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], object], repeats: int | None = None) -> float:
        """The median of several calls, the device idle before and after each."""
        times = []
        for number in range(self.warm + (repeats or self.repeats)):
            self.wait()
            started = time.perf_counter()
            call()
            self.wait()
            if number >= self.warm:
                times.append(time.perf_counter() - started)
        return median(times)

    def matrix_rate(self) -> float:
        """Floating-point operations a second in a large product of bfloat16 matrices."""
        side = 256 if self.rehearse else 8192
        matrix = torch.randn(side, side, device=self.device, dtype=torch.bfloat16)
        return 2 * side**3 / self.seconds(lambda: matrix @ matrix)


def say(name: str, value: float, unit: str, more: str = "") -> None:
    print(f"{name:54} {value:10.2f} {unit:9} {more}", flush=True)


@contextmanager
def counted_waits(bench: Bench):
    """Lists the calls that make the processor wait for the GPU; torch tells each as a warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if not bench.rehearse:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            if not bench.rehearse:
                torch.cuda.set_sync_debug_mode("default")


def our_trainer(bench: Bench, batch: int, precision: str, compiled: bool = False) -> Trainer:
    """A trainer whose batches are ready: what is timed is the step, and not the data set."""
    settings = Settings(
        batch_size=batch, lr=1e-6, warmup=0, precision=precision, compile=compiled, steps=100_000
    )
    trainer = Trainer(ssd300_vgg16(21).to(bench.device), Photographs(batch), settings)
    ready = next(iter(make_loader(trainer.dataset, trainer.model, trainer.loss, settings, 0)))
    trainer._batches = iter(lambda: ready, None)
    return trainer


def torchvisions_step(bench: Bench, batch: int, precision: str) -> Callable[[], None]:
    photographs = Photographs(batch)
    model = torchvisions_ssd300(weights=None, weights_backbone=None, num_classes=21)
    model.to(bench.device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6, momentum=0.9, weight_decay=5e-4)
    images = [
        torch.from_numpy(image).permute(2, 0, 1).to(bench.device) / 255
        for image in photographs.images
    ]
    targets = [
        {
            "boxes": 300 * target["boxes"].to(bench.device),
            "labels": target["labels"].to(bench.device),
        }
        for target in photographs.targets
    ]

    def step():
        optimizer.zero_grad()
        half = precision == "bfloat16"
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=half):
            losses = model(images, targets)
        sum(losses.values()).backward()
        optimizer.step()

    return step


def training(bench: Bench, batch: int, rate: float) -> None:
    for precision in PRECISIONS:
        ways = {
            "ours": our_trainer(bench, batch, precision).step,
            "torchvision": torchvisions_step(bench, batch, precision),
        }
        found = {name: bench.seconds(way) for name, way in ways.items()}
        for name, seconds in found.items():
            share = 3e9 * GFLOP * batch / seconds / rate
            more = f"{1e3 * seconds:.1f} ms, {share:.0%} of the matrix rate"
            say(f"training step, {precision}, {name}", batch / seconds, "images/s", more)
        say("  torchvision's time for ours", found["torchvision"] / found["ours"], "times")
        del ways
    if not bench.rehearse:
        step = our_trainer(bench, batch, "bfloat16", compiled=True).step
        say("training step, bfloat16, compiled", batch / bench.seconds(step), "images/s")
    trainer = our_trainer(bench, batch, "bfloat16")
    bench.seconds(trainer.step, 1)
    with counted_waits(bench) as waits:
        trainer.step()
    say("waits of the processor in a step", len(waits), "", "0 is the goal")


def losses(bench: Bench, batch: int) -> None:
    """The loss with targets from a worker, as in training; and what the worker does for it."""
    model = ssd300_vgg16(21)
    loss = MultiBoxLoss(model.priors.to(bench.device))
    targets = scenes(5, batch)
    positives = MultiBoxLoss(model.priors).find_positives(targets, 21)
    there = positives._replace(
        rows=positives.rows.to(bench.device),
        labels=positives.labels.to(bench.device),
        offsets=positives.offsets.to(bench.device),
    )
    predictions = tuple(
        torch.randn(batch, len(model.priors), n, device=bench.device, requires_grad=True)
        for n in (4, 21)
    )
    ready = bench.seconds(lambda: loss(predictions, there).total.backward())
    say("loss, targets from a worker", 1e3 * ready, "ms")
    found = bench.seconds(lambda: MultiBoxLoss(model.priors).find_positives(targets, 21))
    say("targets, in a worker on the CPU", 1e3 * found, "ms")


@torch.no_grad()
def detection(bench: Bench, batch: int) -> None:
    images = torch.randn(batch, 3, 300, 300, device=bench.device)
    last = images.contiguous(memory_format=torch.channels_last)
    ours = ssd300_vgg16(21).to(bench.device, memory_format=torch.channels_last).eval()
    theirs = torchvisions_ssd300(weights=None, weights_backbone=None, num_classes=21)
    theirs.to(bench.device).eval()
    rgb = list(torch.rand(batch, 3, 300, 300, device=bench.device))

    def run_ours():
        offsets, logits = ours(last)
        postprocess((offsets.float(), logits.float()), ours.priors)

    with torch.autocast(bench.device.type, torch.bfloat16):
        for name, way in {"ours": run_ours, "torchvision": lambda: theirs(rgb)}.items():
            seconds = bench.seconds(way, max(bench.repeats // 4, 1))
            say(f"images to boxes, bfloat16, {name}", batch / seconds, "images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rehearse", action="store_true")
    bench = Bench(parser.parse_args().rehearse)
    if not bench.rehearse and not torch.cuda.is_available():
        sys.exit("torch finds no GPU here; --rehearse runs a tiny version on the CPU")
    card = "a rehearsal on the CPU" if bench.rehearse else torch.cuda.get_device_name()
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, {card}")
    torch.manual_seed(0)
    rate = bench.matrix_rate()
    say("matrix rate, bfloat16", rate / 1e12, "TFLOP/s")
    for batch in (1,) if bench.rehearse else (32, 128):
        print(f"\nbatches of {batch}")
        training(bench, batch, rate)
        losses(bench, batch)
        detection(bench, batch)
        if not bench.rehearse:
            say("peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
            torch.cuda.reset_peak_memory_stats()


if __name__ == "__main__":
    main()
