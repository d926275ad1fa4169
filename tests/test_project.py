"""The files around the book agree with each other."""

import re
import tomllib
from pathlib import Path

import pages
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
PINNED = {re.match(r"[\w.-]+", line)[0].lower() for line in LOCK if "==" in line}
EXTRAS = PROJECT["optional-dependencies"]


def names(requirements):
    """Distribution names of a list of requirements, without the project itself."""
    found = {re.match(r"[\w.-]+", line)[0].lower() for line in requirements}
    return found - {PROJECT["name"]}


def test_table_of_contents_and_pages_agree():
    assert pages.missing(ROOT) == []
    assert pages.unlisted(ROOT) == []


def test_missing_and_forgotten_pages_are_found(tmp_path):
    (tmp_path / "book").mkdir()
    (tmp_path / "book/here.md").touch()
    (tmp_path / "book/forgotten.ipynb").touch()
    toc = {"root": "book/here", "parts": [{"chapters": [{"file": "book/gone"}]}]}
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(toc))
    assert pages.missing(tmp_path) == ["book/gone"]
    assert pages.unlisted(tmp_path) == ["forgotten.ipynb"]


def test_lock_pins_every_line_and_names_no_host():
    lines = [line for line in LOCK if line.strip()]
    assert all(re.match(r"[\w.-]+==[\w.!+-]+( ; .+)?$", line) for line in lines)
    assert not any("://" in line or line.startswith("-") for line in lines)


def test_lock_holds_every_direct_dependency():
    asked = names(PROJECT["dependencies"]).union(*(names(extra) for extra in EXTRAS.values()))
    assert asked <= PINNED


def test_lock_pins_each_package_once():
    named = [re.match(r"[\w.-]+", line)[0] for line in LOCK if line.strip()]
    assert len(named) == len(set(named))


def test_package_without_extras_stays_light():
    heavy = {"jupyter-book", "jupyterlab", "matplotlib", "seaborn", "scikit-learn", "pytest"}
    assert not heavy & names(PROJECT["dependencies"])


def test_conda_and_docker_use_the_lock_and_a_supported_python():
    conda = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, from_pip = conda["dependencies"]
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    version = re.search(r"python:(\d\.\d+)-slim", image)[1]
    assert python == f"python={version}"
    assert pip == "pip"
    assert "-r requirements.txt" in from_pip["pip"]
    assert "pip install -r requirements.txt" in image
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_version_is_said_alike_everywhere():
    import ssd_annotated

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert ssd_annotated.__version__ == citation["version"] == PROJECT["version"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_every_command_that_is_documented_is_a_target(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = (ROOT / name).read_text(encoding="utf-8")
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ {0,4}(make .+)$", text, re.MULTILINE)
    commands = [c.partition("#")[0].split()[1:] for c in code if c.startswith("make ")]
    used = {word for words in commands for word in words if "=" not in word}
    assert used
    assert used <= targets


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_links_to_files_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r'src="([^":]+)"', text)
    assert all((ROOT / link).exists() for link in links)


def test_bibliography_has_no_key_twice():
    text = (ROOT / "book/references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    assert len(keys) == len(set(keys))
