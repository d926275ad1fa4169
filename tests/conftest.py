"""Settings of the test run: it checks shapes in signatures, and its examples never change."""

import sys
from pathlib import Path

import torch
from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports the package: every call then checks the shapes its signature promises.
# (The "tower" lets an int stand for a float, as Python does.)
install_import_hook(
    "ssd_annotated", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))"
)

settings.register_profile("same-every-time", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("same-every-time")

# Most tensors here are small, and threads that wait for each other cost more than they gain.
torch.set_num_threads(1)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
