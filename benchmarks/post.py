"""What comes before and after the network, beside torchvision and pycocotools: a table and JSON.

    python benchmarks/post.py [--json FILE] [--rounds N]

Everything runs on one thread. What is compared takes turns, so that a busy machine slows all of it
alike, and is measured in seconds of the processor: of each, the median. The ratios are what counts.
"""

import argparse
import contextlib
import io
import json
import statistics
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.models.detection import ssd
from torchvision.models.detection._utils import BoxCoder
from torchvision.transforms import v2

from ssd_annotated.boxes import cxcywh_to_xyxy, pairwise_iou
from ssd_annotated.coding import encode
from ssd_annotated.data.augment import AUGMENTATIONS, sample
from ssd_annotated.data.warp import apply
from ssd_annotated.evaluation.voc import evaluate
from ssd_annotated.model import Recipe
from ssd_annotated.nms import Detections, postprocess
from ssd_annotated.priors import PRESETS, make_priors
from ssd_annotated.transforms import prepare

PRIORS = make_priors(PRESETS["caffe-voc"])
CORNERS = cxcywh_to_xyxy(PRIORS)


def take_turns(ways, rounds):
    """Median processor time of each way, in milliseconds; each is warmed up once."""
    times = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if turn:
                times[name].append(1000 * (time.process_time() - start))
    return {name: statistics.median(values) for name, values in times.items()}


# --- Post-processing ------------------------------------------------------------------------------


def random_boxes(count, generator):
    size = 0.1 + 0.5 * torch.rand(count, 2, generator=generator)
    low = torch.rand(count, 2, generator=generator) * (1 - size)
    return torch.cat([low, low + size], dim=1)


def trained(batch=8, objects=5, background=9.0, seed=0):
    """Predictions as of a trained SSD300: sure of background, but for priors near an object."""
    generator = torch.Generator().manual_seed(seed)
    offsets = 0.5 * torch.randn(batch, len(PRIORS), 4, generator=generator)
    logits = torch.randn(batch, len(PRIORS), 21, generator=generator)
    logits[..., 0] += background
    for image in range(batch):
        boxes = random_boxes(objects, generator)
        labels = torch.randint(1, 21, (objects,), generator=generator)
        iou, which = pairwise_iou(CORNERS, boxes).max(dim=1)
        near = (iou > 0.3).nonzero().flatten()
        noise = 0.3 * torch.randn(len(near), 4, generator=generator)
        offsets[image, near] = encode(boxes[which[near]], PRIORS[near]) + noise
        logits[image, near, labels[which[near]]] += 20 * (iou[near] - 0.3)
    return offsets, logits


def untrained(batch=8, seed=0):
    """Predictions of a network that knows nothing: 174,640 candidates in every image."""
    generator = torch.Generator().manual_seed(seed)
    offsets = 0.3 * torch.randn(batch, len(PRIORS), 4, generator=generator)
    return offsets, 0.1 * torch.randn(batch, len(PRIORS), 21, generator=generator)


def crowded(batch=8, seed=0):
    """The same, and all boxes are one: as much as can be to suppress."""
    _, logits = untrained(batch, seed)
    centre = torch.tensor([0.5, 0.5, 0.3, 0.3]).expand(batch, len(PRIORS), 4)
    return encode(cxcywh_to_xyxy(centre), PRIORS), logits


def torchvisions_postprocess(predictions):
    offsets, logits = predictions
    settings = SimpleNamespace(
        box_coder=BoxCoder((10.0, 10.0, 5.0, 5.0)),
        score_thresh=0.01,
        topk_candidates=400,
        nms_thresh=0.45,
        detections_per_img=200,
    )
    heads = {"bbox_regression": offsets, "cls_logits": logits}
    sizes = [(1, 1)] * len(offsets)
    return ssd.SSD.postprocess_detections(settings, heads, [CORNERS] * len(offsets), sizes)


def bench_postprocess(predictions, rounds):
    return take_turns(
        {
            "ours": lambda: postprocess(predictions, PRIORS),
            "torchvision": lambda: torchvisions_postprocess(predictions),
            "softmax alone": lambda: predictions[1].softmax(dim=2),
        },
        rounds,
    )


# --- Average precision ----------------------------------------------------------------------------


def judged_world(images=4952, per_image=200, seed=0):
    """Detections of which one in seven is near an object of its class, and the objects."""
    generator = torch.Generator().manual_seed(seed)
    detections, targets = [], []
    for _ in range(images):
        objects = int(torch.randint(1, 6, (), generator=generator))
        boxes = random_boxes(objects, generator)
        labels = torch.randint(1, 21, (objects,), generator=generator)
        difficult = torch.rand(objects, generator=generator) < 0.15
        targets.append({"boxes": boxes, "labels": labels, "difficult": difficult})
        near = torch.rand(per_image, generator=generator) < 0.15
        aim = torch.randint(objects, (per_image,), generator=generator)
        guess = boxes[aim] + 0.02 * torch.randn(per_image, 4, generator=generator)
        stray = random_boxes(per_image, generator)
        found = torch.where(near[:, None], guess, stray)
        found = torch.cat(
            [found[:, :2].minimum(found[:, 2:]), found[:, :2].maximum(found[:, 2:])], 1
        )
        wrong = torch.randint(1, 21, (per_image,), generator=generator)
        scores = torch.rand(per_image, generator=generator) ** 4 * torch.where(near, 1, 0.5)
        detections.append(Detections(found, scores, torch.where(near, labels[aim], wrong)))
    return detections, targets


def coco_evaluation(detections, targets):
    """pycocotools on the same, at an IoU of .5 and all sizes only; its data sets exist already."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def data_set(images):
        number, coco = count(1), COCO()
        coco.dataset = {
            "images": [{"id": index} for index in range(len(images))],
            "categories": [{"id": label} for label in range(1, 21)],
            "annotations": [
                {**record, "id": next(number), "image_id": index}
                for index, records in enumerate(images)
                for record in records
            ],
        }
        coco.createIndex()
        return coco

    def record(box, label, **more):
        x0, y0, x1, y1 = box
        size = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0)}
        return {**size, "category_id": label, "iscrowd": 0, **more}

    with contextlib.redirect_stdout(io.StringIO()):
        truth = data_set(
            [
                [
                    record(box, label, iscrowd=int(crowd))
                    for box, label, crowd in zip(
                        *(t[k].tolist() for k in ("boxes", "labels", "difficult")), strict=True
                    )
                ]
                for t in targets
            ]
        )
        found = data_set(
            [
                [
                    record(box, label, score=score)
                    for box, score, label in zip(*(f.tolist() for f in d), strict=True)
                ]
                for d in detections
            ]
        )

    def run():
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation = COCOeval(truth, found, "bbox")
            evaluation.params.iouThrs = np.array([0.5])
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.maxDets = [200]
            evaluation.evaluate()
            evaluation.accumulate()

    return run


def bench_average_precision(images, rounds):
    detections, targets = judged_world(images)
    ways = {"ours": lambda: evaluate(detections, targets, 21)}
    try:
        ways["pycocotools"] = coco_evaluation(detections, targets)
    except ImportError:
        print("pycocotools is not installed: its column stays empty", file=sys.stderr)
    return take_turns(ways, rounds)


# --- Augmentation ---------------------------------------------------------------------------------

RECIPE = Recipe(300, ("background", "a", "b", "c"))
BOXES = torch.tensor([[0.13, 0.03, 0.92, 0.90], [0.05, 0.2, 0.38, 0.6], [0.54, 0.1, 0.6, 0.2]])
TARGET = {"boxes": BOXES, "labels": torch.tensor([1, 2, 3])}


def photograph():
    """500 × 375 pixels that a JPEG makes as large as a photograph's."""
    coarse = np.random.default_rng(0).integers(0, 256, (38, 50, 3), dtype=np.uint8)
    fine = np.random.default_rng(1).normal(0, 8, (375, 500, 3))
    image = cv2.resize(coarse, (500, 375), interpolation=cv2.INTER_CUBIC)
    return np.clip(image + fine, 0, 255).astype(np.uint8)


def torchvisions_augmentation(kind):
    """Its reference recipe for SSD, in version 2 of the transforms."""
    fill = {kind: (123, 117, 104), "others": 0}
    return v2.Compose(
        [
            v2.RandomPhotometricDistort(),
            v2.RandomZoomOut(fill=fill),
            v2.RandomIoUCrop(),
            v2.RandomHorizontalFlip(),
            v2.Resize((300, 300), antialias=True),
            v2.ToImage(),
            v2.SanitizeBoundingBoxes(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(RECIPE.mean, RECIPE.std),
        ]
    )


def bench_augmentation(draws):
    """Mean over the draws, since every draw is another: milliseconds an image."""
    photo, numbers = photograph(), count()
    jpeg = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    pixels = {"format": "XYXY", "canvas_size": (375, 500)}
    corners = BOXES * torch.tensor([500, 375, 500, 375])
    tensor, picture = (
        tv_tensors.Image(torch.from_numpy(photo).permute(2, 0, 1)),
        Image.fromarray(photo),
    )
    on_tensors = torchvisions_augmentation(tv_tensors.Image)
    on_pictures = torchvisions_augmentation(Image.Image)

    def theirs(transform, image):
        boxes = tv_tensors.BoundingBoxes(corners, **pixels)
        return transform(image, {"boxes": boxes, "labels": TARGET["labels"]})

    def ours(image):
        rng = np.random.default_rng((1, next(numbers)))
        plan = sample(rng, AUGMENTATIONS["caffe"], (500, 375), BOXES, 300)
        return prepare(apply(image, TARGET, plan)[0], RECIPE)

    def decoded():
        return cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    ways = {
        "ours": lambda: ours(photo),
        "torchvision v2, PIL": lambda: theirs(on_pictures, picture),
        "torchvision v2, tensor": lambda: theirs(on_tensors, tensor),
        "resize alone": lambda: cv2.resize(photo, (300, 300)),
        "ours from JPEG": lambda: ours(decoded()),
        "decoding alone": decoded,
    }
    times = dict.fromkeys(ways, 0.0)
    for draw in range(draws + 5):
        for name, way in ways.items():
            start = time.process_time()
            way()
            times[name] += 1000 * (time.process_time() - start) * (draw >= 5)
    return {name: total / draws for name, total in times.items()}


# --- All of it ------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--images", type=int, default=4952)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    results = {}
    for make in (trained, untrained, crowded):
        name = f"post-processing, batch 8, {make.__name__}"
        results[name] = bench_postprocess(make(), options.rounds)
    name = f"average precision, {options.images} images × 200"
    results[name] = bench_average_precision(options.images, 3)
    results["augmentation, 500 × 375 to 300 × 300"] = bench_augmentation(20 * options.rounds)
    for name, times in results.items():
        ours, rest = times["ours"], {k: v for k, v in times.items() if k != "ours"}
        print(f"{name}: {ours:.2f} ms")
        for other, value in rest.items():
            print(f"    {other:24} {value:9.2f} ms   {value / ours:6.2f} ×")
    if options.json:
        text = {"torch": torch.__version__, "milliseconds": results}
        options.json.write_text(json.dumps(text, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
