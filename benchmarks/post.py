"""What comes before and after the network, beside torchvision and pycocotools."""

import contextlib
import io
from functools import partial
from itertools import count
from statistics import fmean
from types import SimpleNamespace

import cv2
import numpy as np
import torch
from PIL import Image
from timing import Goal, Row, Ways
from torch import Tensor
from torchvision import tv_tensors
from torchvision.models.detection import ssd
from torchvision.models.detection._utils import BoxCoder
from torchvision.transforms import v2

from ssd_annotated.boxes import cxcywh_to_xyxy, pairwise_iou
from ssd_annotated.coding import encode
from ssd_annotated.data.augment import AUGMENTATIONS, sample
from ssd_annotated.data.warp import apply, cut, distort, move, warp
from ssd_annotated.evaluation.voc import evaluate
from ssd_annotated.model import Recipe
from ssd_annotated.nms import Detections, postprocess
from ssd_annotated.priors import PRESETS, make_priors
from ssd_annotated.transforms import prepare

PRIORS = make_priors(PRESETS["caffe-voc"])
CORNERS = cxcywh_to_xyxy(PRIORS)


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


def postprocessing(predictions) -> Ways:
    return {
        "ours": lambda: postprocess(predictions, PRIORS),
        "torchvision": lambda: torchvisions_postprocess(predictions),
        "softmax alone": lambda: predictions[1].softmax(dim=2),
    }


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


def average_precision(images: int = 4952, per_image: int = 200) -> Ways:
    detections, targets = judged_world(images, per_image)
    scores = torch.cat([found.scores for found in detections])
    return {
        "ours": lambda: evaluate(detections, targets, 21),
        "sorting all scores alone": lambda: scores.sort(descending=True, stable=True),
        "pycocotools": coco_evaluation(detections, targets),
    }


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


def pixels_and_boxes(photo):
    height, width = photo.shape[:2]
    corners = BOXES * torch.tensor([width, height, width, height])
    return {"format": "XYXY", "canvas_size": (height, width)}, corners


class Augmenters:
    """Ours and torchvision's, each of which draws anew whenever it is called."""

    def __init__(self, photo):
        self.form, self.corners = pixels_and_boxes(photo)
        self.numbers = count()
        self.transforms = {k: torchvisions_augmentation(k) for k in (tv_tensors.Image, Image.Image)}

    def theirs(self, image):
        kind = tv_tensors.Image if isinstance(image, Tensor) else Image.Image
        boxes = tv_tensors.BoundingBoxes(self.corners, **self.form)
        return self.transforms[kind](image, {"boxes": boxes, "labels": TARGET["labels"]})

    def ours(self, image):
        rng = np.random.default_rng((1, next(self.numbers)))
        height, width = image.shape[:2]
        plan = sample(rng, AUGMENTATIONS["caffe"], (width, height), BOXES, 300)
        return prepare(apply(image, TARGET, plan)[0], RECIPE)


def augmentation(width: int = 500) -> Ways:
    photo = cv2.resize(photograph(), (width, 3 * width // 4))
    augment, picture = Augmenters(photo), Image.fromarray(photo)
    tensor = tv_tensors.Image(torch.from_numpy(photo).permute(2, 0, 1))
    return {
        "ours": lambda: augment.ours(photo),
        "torchvision v2, PIL": lambda: augment.theirs(picture),
        "torchvision v2, tensor": lambda: augment.theirs(tensor),
        "resize alone": lambda: cv2.resize(photo, (300, 300)),
    }


def parts_of_augmentation(plans: int = 400) -> Ways:
    """Each of the package's steps by itself, on what the step before gives to it."""
    photo, drawn = photograph(), []
    for number in range(plans):
        rng = np.random.default_rng((1, number))
        plan = sample(rng, AUGMENTATIONS["caffe"], (500, 375), BOXES, 300)
        seen, geometry = cut(photo, plan.geometry)
        drawn.append((plan, seen, distort(seen, plan.distortion), geometry))
    numbers, augment, small = count(), Augmenters(photo), cv2.resize(photo, (300, 300))

    def draw_plan():
        rng = np.random.default_rng((1, next(numbers)))
        sample(rng, AUGMENTATIONS["caffe"], (500, 375), BOXES, 300)

    def each(step):
        which = count()
        return lambda: step(*drawn[next(which) % plans])

    return {
        "ours": lambda: augment.ours(photo),
        "drawing the plan": draw_plan,
        "colours": each(lambda plan, seen, distorted, geometry: distort(seen, plan.distortion)),
        "resizing": each(lambda plan, seen, distorted, geometry: warp(distorted, geometry)),
        "boxes": each(lambda plan, seen, distorted, geometry: move(TARGET, plan.geometry)),
        "tensor of floats": lambda: prepare(small, RECIPE),
    }


def from_jpeg() -> Ways:
    """As data sets read their files: the package by OpenCV, torchvision's by Pillow."""
    photo = photograph()
    jpeg = cv2.imencode(".jpg", photo[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    augment = Augmenters(photo)

    def decoded():
        return cv2.cvtColor(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)

    def decoded_by_pillow():
        return Image.open(io.BytesIO(jpeg)).convert("RGB")

    return {
        "ours": lambda: augment.ours(decoded()),
        "torchvision v2, PIL": lambda: augment.theirs(decoded_by_pillow()),
        "decoding alone": decoded,
    }


def postprocessing_row(make, *goals, **more) -> Row:
    return Row(lambda: postprocessing(make()), goals, images=8, **more)


#: Every draw is another: the mean of many, and not the median of a few, is what a data set takes.
DRAWN = {"of": fmean, "rounds": 60}
ROWS = {
    "post-processing, batch of 8, trained": postprocessing_row(trained, Goal("torchvision", 3)),
    "post-processing, batch of 8, untrained": postprocessing_row(
        untrained, Goal("torchvision", 7), seconds=6
    ),
    # A crowd may take longer than torchvision, but not without end.
    "post-processing, batch of 8, crowded": postprocessing_row(
        crowded, Goal("torchvision", 0.4), seconds=6
    ),
    "average precision, 4952 images × 200 detections": Row(
        average_precision, (Goal("pycocotools", 20),), rounds=2, images=4952
    ),
    "average precision, 400 images × 200 detections": Row(
        partial(average_precision, 400), (Goal("pycocotools", 20),), rounds=3, images=400
    ),
    "augmentation, 500 × 375 to 300 × 300": Row(
        augmentation,
        (Goal("torchvision v2, PIL", 6), Goal("torchvision v2, tensor", 6), Goal("", 1, 1.5)),
        seconds=15,
        **DRAWN,
    ),
    "augmentation, step by step": Row(parts_of_augmentation, seconds=4, **DRAWN),
    "JPEG to augmented image": Row(from_jpeg, (Goal("", 1, 2.5),), seconds=10, **DRAWN),
}
