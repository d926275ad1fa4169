"""What saves time changes nothing: detection without torchvision, painting only what is seen."""

import subprocess
import sys

import numpy as np
import torch
from lots import many_cases

from ssd_annotated.data.warp import apply, distort, move, warp


def test_detection_starts_without_torchvision():
    code = "import sys; from ssd_annotated import *; sys.exit('torchvision' in sys.modules)"
    names = "detect, evaluate, postprocess, pretrained, tiny_ssd, train, VOCFolder"
    assert subprocess.run([sys.executable, "-c", code.replace("*", names)]).returncode == 0


def test_painting_only_what_is_seen_changes_nothing():
    # The whole image painted and then warped, against the part that the result can see.
    compared, differences = 0, []
    for image, target, plan in many_cases(300):
        result, moved = apply(image, target, plan)
        whole = warp(distort(image, plan.distortion), plan.geometry)
        assert torch.equal(moved["boxes"], move(target, plan.geometry)["boxes"])
        # A place half-way between two nearest pixels, or two of Lanczos' 32, may go either way.
        if plan.geometry.interpolation in ("linear", "area", "cubic"):
            differences.append(np.abs(result.astype(int) - whole).max())
            compared += result.size
    assert compared > 100_000
    assert max(differences) <= 3
