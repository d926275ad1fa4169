"""Settings of the test run: it checks shapes in signatures, and its examples never change."""

import sys
from pathlib import Path

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

from examples import USUAL

# Before anything imports the package: every call then checks the shapes its signature promises.
# (The "tower" lets an int stand for a float, as Python does.)
install_import_hook(
    "ssd_annotated", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

settings.register_profile(USUAL, deadline=None, derandomize=True, max_examples=50)
# New examples every time; what fails is printed as a line to paste: make test-long
settings.register_profile("long", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile(USUAL)

# Most tensors here are small, and threads that wait for each other cost more than they gain.
torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
