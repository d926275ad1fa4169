"""What leaves the repository: the wheel, the copy with its address, and the workflows."""

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import nbformat
import publish
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"
HERE = publish.Address("ada/seen-once", "main", COMMIT)
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
needs_git = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="no version control here")
needs_workflows = pytest.mark.skipif(not WORKFLOWS, reason="an image holds no workflows")


# --- The address ------------------------------------------------------------------------------


def test_address_is_read_off_a_workflows_environment():
    environment = {
        "GITHUB_REPOSITORY": "ada/seen-once",
        "GITHUB_REF_NAME": "main",
        "GITHUB_SHA": COMMIT,
    }
    assert publish.address(environment) == HERE
    assert HERE.url == "https://github.com/ada/seen-once"


def test_pages_of_a_person_have_no_path():
    assert HERE._replace(repository="Ada/ada.github.io").pages == "https://ada.github.io/"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GITHUB_REPOSITORY", "ada"),
        ("GITHUB_REPOSITORY", 'ada/x"; import os; "'),
        ("GITHUB_REF_NAME", "main branch"),
        ("GITHUB_SHA", "0123"),
    ],
)
def test_strange_address_is_refused(name, value):
    good = {"GITHUB_REPOSITORY": "a/b", "GITHUB_REF_NAME": "main", "GITHUB_SHA": COMMIT}
    with pytest.raises(ValueError, match=f"{name} is "):
        publish.address(good | {name: value})


def test_missing_address_is_refused():
    with pytest.raises(ValueError, match="GITHUB_REPOSITORY is None"):
        publish.address({})


@needs_workflows
def test_repository_names_no_address():
    places = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "_config.yml", "Makefile")]
    ours = re.compile(r"github\.com/[\w.-]+/[\w.-]*(?:annotated-ssd|ssd-annotated)|github\.io")
    for path in [*places, ROOT / "pyproject.toml", ROOT / "CITATION.cff", *WORKFLOWS]:
        assert not ours.search(path.read_text(encoding="utf-8")), path.name


# --- The book's pages -------------------------------------------------------------------------


def test_local_book_has_neither_address_nor_buttons():
    assert CONFIG["repository"] == {"url": ""}
    assert not any(value for name, value in CONFIG["html"].items() if name.startswith("use_"))
    assert CONFIG["launch_buttons"] == {"notebook_interface": "jupyterlab"}


def test_published_book_has_both():
    config = publish.with_buttons(CONFIG, HERE)
    assert config["repository"] == {
        "url": "https://github.com/ada/seen-once",
        "branch": publish.LAUNCH_BRANCH,
    }
    assert sum(value is True for value in config["html"].values()) == 3
    assert {"binderhub_url", "colab_url"} <= set(config["launch_buttons"])


def test_published_book_differs_in_nothing_else():
    config = publish.with_buttons(CONFIG, HERE)
    context = config["sphinx"]["config"]["html_context"]
    for name in ("edit_page_provider_name", "edit_page_url_template"):
        del context[name]
    for name in ("repository", "html", "launch_buttons"):
        assert CONFIG[name].keys() <= config.pop(name).keys()
    assert config == {name: value for name, value in CONFIG.items() if name in config}


def test_buttons_reach_the_theme():
    """Without this line Sphinx's options replace those that Jupyter Book derives from the rest."""
    from jupyter_book.config import get_final_config

    config = publish.with_buttons(CONFIG, HERE)
    final, _ = get_final_config(user_yaml=config, cli_config={"latex_individualpages": False})
    theme = final["html_theme_options"]
    assert theme["repository_url"] == "https://github.com/ada/seen-once"
    assert theme["launch_buttons"]["colab_url"] == "https://colab.research.google.com"
    assert theme["logo"] == {"text": "The Annotated SSD"}
    assert final["html_baseurl"] == "https://ada.github.io/seen-once/"
    assert "CC BY 4.0" in theme["extra_footer"]


@pytest.mark.parametrize(
    ("page", "source"),
    [("book/03-priors.ipynb", "book/text/03-priors.md"), ("book/intro.md", "book/intro.md")],
)
def test_edit_link_leads_to_the_text_that_people_edit(page, source):
    import jinja2

    context = publish.with_buttons(CONFIG, HERE)["sphinx"]["config"]["html_context"]
    link = jinja2.Template(context["edit_page_url_template"]).render(file_name=page)
    assert link == f"https://github.com/ada/seen-once/edit/main/{source}"
    assert (ROOT / source).is_file()


# --- The notebooks ----------------------------------------------------------------------------


@pytest.fixture
def first_cell():
    """The first cell of a published notebook."""
    notebook = new_notebook(cells=[new_code_cell("1 + 1", id="b")])
    published = publish.with_first_cell(notebook, HERE)
    assert [cell.source for cell in published.cells[1:]] == ["1 + 1"]
    nbformat.validate(published)
    return published.cells[0]


@pytest.fixture
def calls(monkeypatch):
    """Record the programs that a cell would start."""
    made = []
    monkeypatch.setattr(subprocess, "check_call", made.append)
    return made


def hide(monkeypatch, *modules):
    """Make modules look as if they were not installed."""
    see = find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in modules else see(name)
    )


def test_first_cell_does_nothing_where_the_book_is_installed(first_cell, calls):
    names = {}
    exec(first_cell.source, names)
    assert calls == []
    assert names["missing"] == []


def test_first_cell_installs_the_commit_it_was_published_from(first_cell, calls, monkeypatch):
    hide(monkeypatch, "ssd_annotated", "myst_nb")
    exec(first_cell.source, {})
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    package = f"git+https://github.com/ada/seen-once@{COMMIT}"
    assert calls == [[*pip, f"ssd-annotated[coco,graffiti,plot] @ {package}", "myst-nb"]]


def test_first_cell_installs_only_what_is_missing(first_cell, calls, monkeypatch):
    hide(monkeypatch, "myst_nb")
    exec(first_cell.source, {})
    assert [command[5:] for command in calls] == [["myst-nb"]]


def test_first_cell_is_no_part_of_the_page(first_cell):
    assert first_cell.metadata.tags == ["remove-cell"]


@pytest.mark.usefixtures("calls")
def test_first_cell_fetches_the_files_that_the_chapter_reads(monkeypatch, tmp_path):
    fetched = []
    monkeypatch.setattr("urllib.request.urlretrieve", lambda *names: fetched.append(names))
    (tmp_path / "content").mkdir()
    (tmp_path / "there.json").touch()
    monkeypatch.chdir(tmp_path / "content")
    code = 'Path("../there.json").read_text() + Path("../benchmarks/new.json").read_text()'
    notebook = new_notebook(cells=[new_code_cell(code, id="b")])
    exec(publish.with_first_cell(notebook, HERE).cells[0].source, {})
    name = "benchmarks/new.json"
    assert fetched == [(f"https://github.com/ada/seen-once/raw/{COMMIT}/{name}", f"../{name}")]
    assert (tmp_path / "benchmarks").is_dir()


def test_files_that_chapters_read_are_in_the_repository():
    sources = "".join(path.read_text(encoding="utf-8") for path in ROOT.glob("book/text/*.md"))
    files = publish.READ.findall(sources)
    assert files
    assert {name.removeprefix("../") for name in files} <= set(publish.tracked(ROOT))
    assert len(files) == sources.count('"../')


def imports(code):
    """Top-level names of the modules that a piece of Python imports."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_first_cell_installs_all_that_chapters_import(first_cell):
    asked = re.search(r"ssd-annotated\[([\w,]+)\]", first_cell.source)[1].split(",")
    extras = [PROJECT["optional-dependencies"][extra] for extra in asked]
    listed = [*PROJECT["dependencies"], *(line for extra in extras for line in extra), "myst-nb"]
    there = {re.match(r"[\w.-]+", line)[0].lower() for line in listed}
    there |= {"scipy", "ipython"}  # scikit-learn brings SciPy; Colab is IPython
    modules = {
        name
        for path in ROOT.glob("book/*.ipynb")
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code"
        for name in imports(cell.source)
    }
    if "ssd_annotated.evaluation.coco" in modules:
        modules.add("pycocotools")
    assert not any(name.startswith("ssd_annotated.app.export") for name in modules)  # needs onnx
    brings = packages_distributions()
    outside = {name.partition(".")[0] for name in modules} - {"ssd_annotated"}
    for module in outside - sys.stdlib_module_names:
        assert there & {name.lower() for name in brings[module]}, module


# --- The README and the metadata ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("link", "absolute"),
    [
        ("[a](LICENSE)", "[a](https://github.com/ada/seen-once/blob/{}/LICENSE)"),
        ("![a](book/b.jpg)", "![a](https://github.com/ada/seen-once/raw/{}/book/b.jpg)"),
        ('<img src="b.svg">', '<img src="https://github.com/ada/seen-once/raw/{}/b.svg">'),
        ("[a](https://example.org/b)", "[a](https://example.org/b)"),
        (
            "[![ci](../../actions/workflows/ci.yml/badge.svg)](../../actions/workflows/ci.yml)",
            "[![ci](https://github.com/ada/seen-once/actions/workflows/ci.yml/badge.svg)]"
            "(https://github.com/ada/seen-once/actions/workflows/ci.yml)",
        ),
    ],
    ids=["file", "image", "html", "elsewhere", "badge"],
)
def test_links_of_the_readme_become_absolute(link, absolute):
    assert publish.with_absolute_links(link, HERE) == absolute.format(COMMIT)


def test_readme_keeps_no_relative_link():
    text = publish.with_absolute_links((ROOT / "README.md").read_text(encoding="utf-8"), HERE)
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text)
    assert links
    assert all(re.match(r"https://|#", link) for link in links)


def test_metadata_links_to_the_source():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(publish.with_source_link(text, HERE))["project"]
    assert project.pop("urls")["Source"] == "https://github.com/ada/seen-once"
    assert project == PROJECT


def test_copy_is_written_and_the_original_left_alone(tmp_path):
    files = ["README.md", "pyproject.toml", "_config.yml", "LICENSE", "book/02-boxes.ipynb"]
    before = {name: (ROOT / name).read_bytes() for name in files}
    publish.publish(ROOT, files, tmp_path / "copy", HERE)
    copies = {name: (tmp_path / "copy" / name).read_bytes() for name in files}
    assert [name for name in files if before[name] == copies[name]] == ["LICENSE"]
    assert all(b"ada/seen-once" in copies[name] for name in files if name != "LICENSE")
    assert {name: (ROOT / name).read_bytes() for name in files} == before


@needs_git
def test_copy_has_what_binder_builds_from_and_nothing_that_it_would_prefer():
    """repo2docker takes the first of these that exists: binder/, Dockerfile, environment.yml."""
    files = publish.tracked(ROOT)
    assert {"environment.yml", "requirements.txt", "pyproject.toml", "README.md"} <= set(files)
    assert not {"Dockerfile", "binder", ".binder", ".github"} & {f.split("/")[0] for f in files}


# --- The image --------------------------------------------------------------------------------


@needs_git
def test_image_is_made_of_what_is_under_version_control():
    """A new file at the top level must be listed here: does an image hold it?"""
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in ignore if not line.startswith("#")]
    taken = {line.removeprefix("!") for line in rules if line.startswith("!")}
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()
    assert rules[0] == "*"
    assert taken == {name.split("/")[0] for name in listed if not name.startswith(".")}


@pytest.fixture
def started(tmp_path):
    """Start the image's entry point; return what it starts, its folder and its home."""
    (tmp_path / "bin").mkdir()
    for name in ("python", "jupyter", "make", "ssd-annotated", "nvidia-smi"):
        program = tmp_path / "bin" / name
        program.write_text('#!/bin/sh\necho "${0##*/} $* in $PWD, at home in $HOME"\n')
        program.chmod(0o755)

    def start(*words, home=tmp_path):
        command = [str(ROOT / "docker/entrypoint.sh"), *words]
        path = f"{tmp_path / 'bin'}:/usr/bin:/bin"
        environment = {"PATH": path, "HOME": str(home), "TMPDIR": str(tmp_path)}
        said = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
        return said.strip().removesuffix(f" in {tmp_path}, at home in {home}")

    return start


def test_image_runs_the_books_targets_wherever_it_is_asked_to_work(started, tmp_path):
    make = f"make -C {ROOT} BIN={tmp_path / 'bin'}"
    for word in ("test", "test-gpu", "book"):
        assert started(word) == f"{make} {word}"
    assert f"--notebook-dir={ROOT / 'book'}" in started("lab")
    assert started() == started("lab")


def test_image_knows_every_command_and_any_other_program(started):
    from ssd_annotated.app import cli

    for command in cli.main.commands:
        assert started(command, "a b", "--help") == f"ssd-annotated {command} a b --help"
    assert started("nvidia-smi", "-L") == "nvidia-smi -L"


def test_image_never_turns_the_token_off(started):
    assert not re.search("token|password|allow", started("lab"))


def test_health_check_asks_only_where_jupyterlab_serves(started, tmp_path):
    (check,) = re.findall(r"^  CMD (test .+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "TMPDIR": str(tmp_path)}
    (tmp_path / "bin/python").write_text("#!/bin/sh\nexit 1\n")  # no server answers
    for word, status in (("train", 0), ("lab", 1)):
        started(word)
        assert subprocess.run(["sh", "-c", check], env=environment).returncode == status


def test_image_gives_a_home_to_a_user_without_one(started):
    assert started("train", home="/nowhere").endswith(", at home in /tmp")


# --- The wheel --------------------------------------------------------------------------------


def test_wheel_holds_the_package_and_nothing_else(tmp_path):
    pytest.importorskip("hatchling", reason="hatchling builds the wheel, and is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    package = (path for path in ROOT.glob("ssd_annotated/**/*") if path.is_file())
    package = {str(path.relative_to(ROOT)) for path in package if path.suffix != ".pyc"}
    info = f"ssd_annotated-{PROJECT['version']}.dist-info"
    metadata = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}
    assert "ssd_annotated/pretrained/tiny-graffiti.pt" in package
    assert held == package | {f"{info}/{name}" for name in metadata}


# --- The workflows ----------------------------------------------------------------------------


def workflow(name):
    """One workflow, parsed; the word `on` is not a boolean there."""
    text = (ROOT / f".github/workflows/{name}.yml").read_text(encoding="utf-8")
    return yaml.load(text, Loader=yaml.BaseLoader)


def python_of(job):
    """The Python version that a job asks for."""
    (asked,) = (s["with"]["python-version"] for s in job["steps"] if "python-version" in str(s))
    return asked


@needs_workflows
def test_ci_runs_the_oldest_and_the_newest_python_that_pyproject_names():
    jobs = workflow("ci")["jobs"]
    line = "Programming Language :: Python :: 3."
    minors = [int(c.removeprefix(line)) for c in PROJECT["classifiers"] if c.startswith(line)]
    assert PROJECT["requires-python"] == f">=3.{min(minors)}"
    assert python_of(jobs["oldest"]) == f"3.{min(minors)}"
    assert {python_of(jobs[name]) for name in ("lint", "newest", "wheel")} == {f"3.{max(minors)}"}
    assert set(jobs["newest"]["strategy"]["matrix"]["os"]) == {"ubuntu-latest", "macos-latest"}


@needs_workflows
def test_ci_takes_the_oldest_packages_from_pyproject():
    steps = str(workflow("ci")["jobs"]["oldest"]["steps"])
    assert "--resolution lowest-direct" in steps
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    lines = [line for lines in lists for line in lines if not line.startswith(PROJECT["name"])]
    assert [line for line in lines if ">=" not in line] == []


@needs_workflows
def test_nightly_tries_no_older_python_than_ci():
    jobs = workflow("ci")["jobs"], workflow("nightly")["jobs"]
    ci, nightly = (python_of(job) for job in (jobs[0]["newest"], jobs[1]["test"]))
    assert tuple(map(int, nightly.split("."))) >= tuple(map(int, ci.split(".")))


@needs_workflows
def test_nightly_reports_what_takes_too_long():
    """A job past its time counts as cancelled, not as failed; a step past its time fails."""
    jobs = workflow("nightly")["jobs"]
    assert jobs["report"]["if"] == "failure()"
    steps = [step for step in jobs["test"]["steps"] if "run" in step]
    total = sum(int(step["timeout-minutes"]) for step in steps)
    assert total < int(jobs["test"]["timeout-minutes"])


@needs_workflows
@pytest.mark.parametrize("name", ["release", "image"])
@pytest.mark.parametrize(("tag", "status"), [("v{}", 0), ("v{}.1", 1), ("{}", 1)])
def test_tag_must_be_the_version(name, tag, status):
    (step,) = (s for s in workflow(name)["jobs"]["build"]["steps"] if "the tag" in s.get("run", ""))
    environment = {"PATH": os.environ["PATH"], "GITHUB_REF_NAME": tag.format(PROJECT["version"])}
    done = subprocess.run(["bash", "-ec", step["run"]], cwd=ROOT, env=environment)
    assert done.returncode == status


@needs_workflows
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_may_do_little_and_ends(path):
    parsed = workflow(path.stem)
    assert parsed["permissions"] == {}
    assert "concurrency" in parsed
    for job in parsed["jobs"].values():
        assert "permissions" in job
        assert "timeout-minutes" in job or "uses" in job


@needs_workflows
@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_keeps_no_password_and_pastes_nothing_into_a_shell(path):
    for job in workflow(path.stem)["jobs"].values():
        for step in job.get("steps", []):
            assert "${{" not in step.get("run", "")
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] == "false"


@needs_workflows
def test_actions_stand_at_version_tags():
    text = "\n".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    used = [use for use in re.findall(r"uses: (\S+)", text) if not use.startswith("./")]
    assert used
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+(\.\d+\.\d+)?", use) for use in used)


@needs_workflows
def test_workflows_run_targets_and_files_that_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in WORKFLOWS)
    made = re.findall(r"\bmake (?:[^\n]*\" )?([a-z-]+)$", text, re.MULTILINE)
    used = {"setup", "lint", "book", "pdf", "test", "test-pages", "test-gpu", "docker-test"}
    assert used == set(made) <= targets
    assert all((ROOT / name).is_file() for name in re.findall(r"\btools/\w+\.py", text))
