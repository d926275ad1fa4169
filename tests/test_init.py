"""The names that `ssd_annotated` itself offers: each is its module's own and loads when used."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import ssd_annotated


@pytest.mark.parametrize("name", ssd_annotated.__all__)
def test_a_name_is_its_modules_own(name):
    module = import_module(f"ssd_annotated.{ssd_annotated._HOME[name]}")
    assert getattr(ssd_annotated, name) is vars(module)[name]
    assert name in dir(ssd_annotated)


def test_no_name_is_a_module_too():
    # `from ssd_annotated import name` would mean one or the other, as the imports before it went.
    folder = Path(ssd_annotated.__path__[0])
    modules = {file.stem for file in folder.glob("*.py")}
    modules |= {file.parent.name for file in folder.glob("*/__init__.py")}
    assert {"boxes", "data"} <= modules
    assert not modules & set(ssd_annotated.__all__)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'ssd_annotated' has no attribute 'detector'"):
        _ = ssd_annotated.detector


def test_the_import_alone_loads_nothing_heavy():
    code = "import sys, ssd_annotated; print({'torch', 'cv2', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
