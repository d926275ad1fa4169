"""The tool that plants faults: what it changes, that it changes it, and its list of exceptions."""

import importlib.util
import sys
import tomllib

import mutants
import pytest

SOURCE = '''\
"""A module."""
LIMIT = 3
def check(x: float = 2) -> None:
    """Not 2."""
    if not x < LIMIT:
        raise ValueError(f"{x}")
def times(x, by=2):
    check(x)
    return min(x, 2.5) * by
def most(limit=LIMIT):
    return limit
'''
NAMES = {
    ": LIMIT = 3  =>  LIMIT = 4",
    "check: def check(x: float=2) -> None:  =>  def check(x: float=3) -> None:",
    "check: if not x < LIMIT:  =>  if x < LIMIT:",
    "check: if not x < LIMIT:  =>  if not x <= LIMIT:",
    "check: if not x < LIMIT:  =>  if not x >= LIMIT:",
    "check: raise ValueError(f'{x}')  =>  nothing",
    "times: def times(x, by=2):  =>  def times(x, by=3):",
    "times: check(x)  =>  nothing",
    "times: return min(x, 2.5) * by  =>  return max(x, 2.5) * by",
    "times: return min(x, 2.5) * by  =>  return min(x, 3.5) * by",
    "times: return min(x, 2.5) * by  =>  return min(x, 2.5) / by",
}


def test_every_fault_is_made_and_neither_docstrings_nor_annotations_change():
    assert {mutant.name for mutant in mutants.mutants(SOURCE)} == NAMES


def behaviour(module):
    """All that a caller can see of the module."""

    def outcome(function, *arguments):
        try:
            return function(*arguments)
        except ValueError as error:
            return str(error)

    answers = [outcome(module.times, x) for x in (1, 2, 2.9, 3, 4)]
    return [*answers, outcome(module.check), outcome(module.check, 3), module.most()]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_planted_fault_is_seen_by_whoever_imported_the_function(tmp_path, monkeypatch, name):
    file = tmp_path / "fake.py"
    file.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("ssd_annotated.fake", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "ssd_annotated.fake", module)
    spec.loader.exec_module(module)
    before = behaviour(module)
    (mutant,) = (m for m in mutants.mutants(SOURCE) if m.name == name)
    mutants.plant(mutant, "fake")
    assert behaviour(module) != before


def test_the_list_of_exceptions_names_mutants_that_exist_and_says_why():
    entries = tomllib.loads(mutants.EQUIVALENT.read_text("utf-8"))["equivalent"]
    for module in {entry["mutant"].partition(":")[0] for entry in entries}:
        source = (mutants.PACKAGE / f"{module}.py").read_text("utf-8")
        names = {f"{module}:{mutant.name}" for mutant in mutants.mutants(source)}
        listed = [entry for entry in entries if entry["mutant"].startswith(f"{module}:")]
        assert {entry["mutant"] for entry in listed} <= names
        assert all(len(entry["reason"]) > 20 for entry in listed)
