"""The files around the book agree with each other."""

import json
import re
import tomllib
from itertools import chain
from pathlib import Path

import pages
import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
PINNED = {re.match(r"[\w.-]+", line)[0].lower() for line in LOCK if "==" in line}
EXTRAS = PROJECT["optional-dependencies"]
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))  # oldest first
WORKFLOWS = ROOT / ".github/workflows"  # an image holds none


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


def test_every_pin_lies_in_its_range():
    pins = dict(line.partition(" ;")[0].split("==") for line in LOCK if "==" in line)
    asked = [Requirement(r) for r in PROJECT["dependencies"] + [*chain(*EXTRAS.values())]]
    ranges = [r for r in asked if r.name != PROJECT["name"]]
    assert len(ranges) > 20
    assert all(r.specifier.contains(pins[r.name.lower()]) for r in ranges)


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
    assert version in PYTHONS


@pytest.mark.skipif(not WORKFLOWS.exists(), reason="an image holds no workflows")
def test_workflows_use_the_oldest_and_the_newest_python():
    oldest, newest = PYTHONS[0], PYTHONS[-1]
    assert PROJECT["requires-python"] == f">={oldest}"
    jobs = yaml.safe_load((WORKFLOWS / "ci.yml").read_text(encoding="utf-8"))["jobs"]
    assert python_of(jobs["oldest"]) == oldest
    assert {python_of(job) for name, job in jobs.items() if name != "oldest"} == {newest}


def python_of(job):
    """The Python that a job of a workflow sets up."""
    (step,) = (s for s in job["steps"] if s.get("uses", "").startswith("actions/setup-python@"))
    return step["with"]["python-version"]


def test_version_is_said_alike_everywhere():
    import ssd_annotated

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert ssd_annotated.__version__ == citation["version"] == PROJECT["version"]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "RELIABILITY.md"])
def test_every_command_that_is_documented_is_a_target(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    text = (ROOT / name).read_text(encoding="utf-8")
    code = re.findall(r"`([^`\n]+)`", text) + re.findall(r"^ {0,4}(make .+)$", text, re.MULTILINE)
    commands = [c.partition("#")[0].split()[1:] for c in code if c.startswith("make ")]
    used = {word for words in commands for word in words if "=" not in word}
    assert used
    assert used <= targets


def test_every_test_that_holds_a_promise_exists():
    text = (ROOT / "RELIABILITY.md").read_text(encoding="utf-8")
    named = re.findall(r"(tests/\w+\.py)::(\w+)", text)
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), test


def test_the_memory_that_is_told_is_what_was_measured():
    text = (ROOT / "RELIABILITY.md").read_text(encoding="utf-8")
    stored = json.loads((ROOT / "benchmarks/memory.json").read_text())
    pictures, video = (list(stored[name].values()) for name in ("pictures", "video"))
    assert max(pictures) - max(pictures[:-1]) > 20  # the last batch
    for amount in (max(pictures[:-1]), max(pictures) - max(pictures[:-1]), max(video)):
        assert re.search(rf"(held|another) {amount} MiB", text), amount


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_links_to_files_lead_somewhere(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r'src="([^":]+)"', text)
    # A badge: from a page of the repository, two folders up, to the runs of one of its workflows.
    badges = {link for link in links if link.startswith("../../actions/")}
    files = [ROOT / link for link in links if link not in badges]
    if WORKFLOWS.exists():
        files += [WORKFLOWS / Path(badge.removesuffix("/badge.svg")).name for badge in badges]
    assert all(file.exists() for file in files)


def test_bibliography_has_no_key_twice():
    text = (ROOT / "book/references.bib").read_text(encoding="utf-8")
    keys = re.findall(r"^@\w+\{([^,]+),", text, re.MULTILINE)
    assert len(keys) == len(set(keys))
