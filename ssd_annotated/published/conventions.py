"""Conventions: what each published SSD decides differently, as settings of this package.

Same network, same 8732 rows, and still not the same model: a checkpoint is right only with the
priors, the preprocessing and the post-processing it was trained for. A loss curve can be compared
only with one of the same normalisation. The chapter *Many SSDs* shows what each difference does.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from ssd_annotated.loss import MultiBoxLoss
from ssd_annotated.priors import PRESETS, PriorSpec


@dataclass(frozen=True)
class Convention:
    """One implementation's choices.

    Parameters
    ----------
    priors
        Its default boxes.
    loss
        Its matching and loss: keyword arguments of `MultiBoxLoss`.
    recipe
        Its preprocessing and post-processing: fields of `Recipe`.
    """

    priors: PriorSpec
    loss: Mapping[str, object]
    recipe: Mapping[str, object]

    def make_loss(self, priors: Float[Tensor, "P 4"]) -> MultiBoxLoss:
        """Its loss over the given priors, which need not be its own."""
        return MultiBoxLoss(priors, **self.loss)


#: Levels of 0 to 255 that are not divided by anything.
_LEVELS = {"mean": (0.0, 0.0, 0.0), "std": (1 / 255, 1 / 255, 1 / 255)}
_IMAGENET_INPUT = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}

_CAFFE = {
    "image_size": 300,
    **_LEVELS,
    "mean": (123 / 255, 117 / 255, 104 / 255),
    "score_threshold": 0.01,
    "top_k": 400,
    "nms_threshold": 0.45,
    "max_detections": 200,
}
_TORCHVISION = {
    **_CAFFE,
    "mean": (0.48235, 0.45882, 0.40784),
    "resize": "torch",
    "max_log_size": math.log(1000 / 16),
    "clip": True,
}
# Suppression gets at most 200 boxes of each class, and keeps at most 200 of each class.
_SSD_PYTORCH = {**_CAFFE, "top_k": 200, "max_detections": None}
_LUFFICC = {**_CAFFE, "top_k": None, "max_detections": 100}
_SGRVINOD = {**_CAFFE, **_IMAGENET_INPUT, "resize": "pillow", "top_k": None}
# Its threshold comes after suppression, which changes nothing: a box is never suppressed by a
# worse one.
_D2L = {
    "image_size": 256,
    **_LEVELS,
    "score_threshold": 0.009999999,
    "top_k": None,
    "nms_threshold": 0.5,
    "max_detections": None,
    "class_agnostic": True,
}

_ARGMAX = {"method": "argmax"}
# The mean over the four coordinates of every positive is a quarter of the sum over N.
_MEAN_L1 = {"method": "argmax", "localization": "l1", "alpha": 0.25}
# A mean over all priors (of four coordinates each), without mining: gamma 0 is cross-entropy.
_MEAN_OF_ALL = {
    "method": "forced",
    "localization": "l1",
    "alpha": 0.25,
    "confidence": "focal",
    "gamma": 0.0,
    "normalize": "priors",
}
# An IoU of exactly 0.5 is not enough; the smallest single-precision number above it is enough.
_ABOVE_HALF = np.nextafter(np.float32(0.5), np.float32(1)).item()
# The post also multiplies both terms by the batch size, which a learning rate can undo.
_TF2_LOSS = {"method": "first", "threshold": _ABOVE_HALF, "normalize": "images"}
# It divides levels of 0 to 255 by the image's width. It shows no post-processing: this is Caffe's.
_TF2 = {**_CAFFE, "mean": (0.0, 0.0, 0.0), "std": (300 / 255,) * 3}

#: What each published SSD does, under the names of `PRESETS`.
CONVENTIONS: dict[str, Convention] = {
    # Liu et al. 2016: sections 2.2 and 3.1 of the paper; where it is silent, the authors' code.
    "paper": Convention(PRESETS["paper"], {}, _CAFFE),
    # The authors' Caffe code (its networks want BGR where we feed RGB).
    "caffe-voc": Convention(PRESETS["caffe-voc"], {}, _CAFFE),
    "caffe-coco": Convention(PRESETS["caffe-coco"], {}, _CAFFE),
    "caffe-voc-512": Convention(PRESETS["caffe-voc-512"], {}, {**_CAFFE, "image_size": 512}),
    "caffe-coco-512": Convention(PRESETS["caffe-coco-512"], {}, {**_CAFFE, "image_size": 512}),
    # torchvision.models.detection.ssd300_vgg16
    "torchvision": Convention(PRESETS["torchvision"], _ARGMAX, _TORCHVISION),
    # amdegroot/ssd.pytorch
    "ssd.pytorch": Convention(PRESETS["ssd.pytorch"], _ARGMAX, _SSD_PYTORCH),
    # lufficc/SSD (whose IoU adds 1e-5 to the union, so that exactly 0.5 is not enough)
    "lufficc": Convention(PRESETS["lufficc"], _ARGMAX, _LUFFICC),
    # sgrvinod/a-PyTorch-Tutorial-to-Object-Detection, and what was built on its code
    "sgrvinod": Convention(PRESETS["sgrvinod"], _MEAN_L1, _SGRVINOD),
    # "Annotated SSD with PyTorch", a post with incomplete code; the missing parts are sgrvinod's
    "annotated": Convention(PRESETS["annotated"], _MEAN_L1, _SGRVINOD),
    # Zhang et al., Dive into Deep Learning: TinySSD
    "d2l": Convention(PRESETS["d2l"], _MEAN_OF_ALL, _D2L),
    # usmanr149's post "Implementing a Single Shot Detector Model in Tensorflow 2.0". (It matches
    # priors cut at the corners, but counts offsets from priors limited in cxcywh.)
    "tf2": Convention(PRESETS["tf2"], _TF2_LOSS, _TF2),
}
