"""Make a copy of the repository in which its address is written wherever a reader needs it.

The repository itself names no address, so a fork works at once. A workflow knows where it runs
(``GITHUB_REPOSITORY``, ``GITHUB_REF_NAME``, ``GITHUB_SHA``), and publishes from such a copy:

- the book's pages get links to their source, buttons that open them on Colab and on Binder, a link
  to report a mistake, and pictures for the sites that link to them;
- the notebooks get a first cell that installs what is missing (on Colab, everything), and fetches
  the files of the repository that the chapter reads;
- the README's links, and the package's page on PyPI, lead to the repository.
"""

from __future__ import annotations

import argparse
import copy
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urljoin

import nbformat
import yaml
from editions import read_notebook, write_notebook
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
#: The branch that holds the copy, for Colab and Binder: both open files of a repository.
LAUNCH_BRANCH = "launch"
# What the chapters import: the module, and the requirement that provides it.
CELL = """\
# Installs what this chapter needs if it is missing, as on Colab.
import importlib.util
import subprocess
import sys

needed = {{
    "ssd_annotated": "ssd-annotated[coco,graffiti,plot] @ git+{url}@{commit}",
    "myst_nb": "myst-nb",
}}
missing = [needed[module] for module in needed if importlib.util.find_spec(module) is None]
if missing:
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", *missing])"""
FETCH = """\

from pathlib import Path
from urllib.request import urlretrieve

for name in {files}:
    if not Path(name).exists():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        urlretrieve("{url}/raw/{commit}/" + name.removeprefix("../"), name)"""
#: How a chapter names a file outside its own folder.
READ = re.compile(r'Path\("(\.\./[^"]+)"\)')
# People edit a chapter's text, never the notebook that is made from it.
EDIT = (
    "{url}/edit/{branch}/{{{{ file_name if file_name.endswith('.md') else "
    "file_name.replace('book/', 'book/text/').replace('.ipynb', '.md') }}}}"
)
LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:!\[[^]]*\]\([^)]*\)|[^]])*)\]\((?P<to>[^)\s]+)\)")
IMAGE = re.compile(r"""(?<=src=")[^"]+""")


class Address(NamedTuple):
    """Where the repository lives: ``owner/name``, the branch people edit, the commit at hand."""

    repository: str
    branch: str
    commit: str

    @property
    def url(self) -> str:
        """The page of the repository."""
        return f"https://github.com/{self.repository}"

    @property
    def pages(self) -> str:
        """Where GitHub Pages publishes the book."""
        owner, name = self.repository.split("/")
        host = f"{owner.lower()}.github.io"
        return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def address(environment: Mapping[str, str]) -> Address:
    """Read the address from a workflow's environment."""
    rules = {
        "GITHUB_REPOSITORY": r"[\w.-]+/[\w.-]+",
        "GITHUB_REF_NAME": r"[\w./-]+",
        "GITHUB_SHA": r"[0-9a-f]{40}",
    }
    for name, rule in rules.items():
        if not re.fullmatch(rule, environment.get(name, "")):
            raise ValueError(f"{name} is {environment.get(name)!r}: expected {rule}")
    return Address(*(environment[name] for name in rules))


# --- What changes -----------------------------------------------------------------------------


def with_buttons(config: dict, here: Address) -> dict:
    """The book's configuration with links to the source, and with launch buttons."""
    config = copy.deepcopy(config)
    config["repository"] = {"url": here.url, "branch": LAUNCH_BRANCH}
    shown = ("use_edit_page_button", "use_repository_button", "use_issues_button")
    config["html"].update(dict.fromkeys(shown, True), baseurl=here.pages)
    config["launch_buttons"] |= {
        "binderhub_url": "https://mybinder.org",
        "colab_url": "https://colab.research.google.com",
    }
    config["sphinx"]["config"]["html_context"] |= {
        "edit_page_provider_name": "GitHub",
        "edit_page_url_template": EDIT.format(url=here.url, branch=here.branch),
    }
    return config


def with_first_cell(notebook: NotebookNode, here: Address) -> NotebookNode:
    """The notebook with a first cell that gets what is missing; the book's page hides it."""
    source = CELL.format(url=here.url, commit=here.commit)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    if files := sorted(set(READ.findall(code))):
        source += FETCH.format(files=files, url=here.url, commit=here.commit)
    first = nbformat.v4.new_code_cell(source, id="install", metadata={"tags": ["remove-cell"]})
    notebook = copy.deepcopy(notebook)
    notebook.cells.insert(0, first)
    return notebook


def with_absolute_links(text: str, here: Address) -> str:
    """The README with links that work away from the repository, for example on PyPI."""
    raw, blob = (f"{here.url}/{kind}/{here.commit}/" for kind in ("raw", "blob"))

    def absolute(link: re.Match[str]) -> str:
        inner = LINK.sub(absolute, link["text"])
        to = urljoin(raw if link["image"] else blob, link["to"])
        return f"{link['image']}[{inner}]({to})"

    return IMAGE.sub(lambda image: urljoin(raw, image[0]), LINK.sub(absolute, text))


def with_source_link(pyproject: str, here: Address) -> str:
    """The package's metadata with a link to its source."""
    return f'{pyproject}\n[project.urls]\nSource = "{here.url}"\nIssues = "{here.url}/issues"\n'


# --- The copy ---------------------------------------------------------------------------------


def publish(root: Path, files: Iterable[str], target: Path, here: Address) -> None:
    """Copy ``files`` of ``root`` into the new folder ``target``, and write the address there."""
    target.mkdir(parents=True)
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, target / name)
    edits = {"README.md": with_absolute_links, "pyproject.toml": with_source_link}
    for name, edit in edits.items():
        text = (target / name).read_text(encoding="utf-8")
        (target / name).write_text(edit(text, here), encoding="utf-8")
    config = yaml.safe_load((target / "_config.yml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(with_buttons(config, here), sort_keys=False)
    (target / "_config.yml").write_text(text, encoding="utf-8")
    for path in target.glob("book/*.ipynb"):
        write_notebook(with_first_cell(read_notebook(path), here), path)


def tracked(root: Path) -> list[str]:
    """The files under version control, except the workflows and the Dockerfile.

    The copy runs no workflow, and Binder would use a Dockerfile instead of environment.yml.
    """
    listed = subprocess.check_output(["git", "ls-files", "-z"], cwd=root, text=True)
    left_out = (".github/", "Dockerfile")
    return [name for name in listed.split("\0") if name and not name.startswith(left_out)]


def main() -> None:
    """Read the command line and the environment."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("target", type=Path, help="a folder that does not exist yet")
    target = parser.parse_args().target
    publish(ROOT, tracked(ROOT), target, address(os.environ))


if __name__ == "__main__":
    main()
