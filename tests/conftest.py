"""Settings of the test run: shapes in signatures are checked, examples are the same every time."""

import sys
from pathlib import Path

from hypothesis import settings
from jaxtyping import install_import_hook

# Before anything imports the package: every call then checks the shapes its signature promises.
install_import_hook("ssd_annotated", "beartype.beartype")

settings.register_profile("same-every-time", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("same-every-time")

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
