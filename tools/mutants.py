"""Plant small faults in the core, one at a time, and count how many the fast tests notice.

A *mutant* is the package with one fault: ``<`` became ``<=``, ``+`` became ``-``, 3 became 4, a
check is gone. A test that fails kills it. A mutant that survives is either *equivalent*, a change
that no test could see (``equivalent_mutants.toml`` says why), or a test is missing.

Nothing is written to disk. For each module one process imports torch, collects the module's own
tests and runs them once. Then each mutant is a fork of that process: the child exchanges the code
of the functions, runs the tests and stops at the first that fails. The test that killed last comes
first, then the fastest: most mutants are killed by a few tests. ::

    python tools/mutants.py                     # all mutants of all modules (hours)
    python tools/mutants.py --sample 40 nms     # 40 of one module, drawn by --seed
"""

from __future__ import annotations

import argparse
import ast
import gc
import json
import os
import random
import resource
import signal
import sys
import time
import tomllib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ssd_annotated"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
#: The modules, and the test file that answers for each.
TESTS = {
    "boxes": "test_boxes.py",
    "coding": "test_coding.py",
    "priors": "test_priors.py",
    "matching": "test_matching.py",
    "loss": "test_loss.py",
    "nms": "test_nms.py",
    "evaluation/voc": "test_voc_evaluation.py",
}
KILLED, SURVIVED, EQUAL, UNPLANTED = "killed", "survived", "equivalent", "unplanted"
MORE_MEMORY = 4 << 30  # a mutant may take, in bytes

# ---------------------------------------------------------------- making mutants

COMPARISONS = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.And: ast.Or,
    ast.Or: ast.And,
}
PAIRS = (("min", "max"), ("minimum", "maximum"), ("amin", "amax"), ("any", "all"))
PAIRS += (("argmin", "argmax"), ("cummax", "cummin"), ("low", "high"))
NAMES = dict(PAIRS) | {b: a for a, b in PAIRS}
METHODS = NAMES | {"ceil": "floor", "floor": "ceil"}


class Mutant(NamedTuple):
    """One fault: a field of a node of the module's tree, and the value that it gets instead."""

    tree: ast.Module
    node: ast.AST
    field: str
    value: object
    name: str  # the function it lies in, the line before and after


def mutants(source: str) -> list[Mutant]:
    """Every fault that `source` can be given, in the order of its lines."""
    found = []
    tree = ast.parse(source)
    for where, statement, node in _places(tree, "", None):
        for field, value in _variants(node):
            before, line = getattr(node, field), _line(statement)
            setattr(node, field, value)
            name = f"{where}: {line}  =>  {_line(statement)}"
            setattr(node, field, before)
            found.append(Mutant(tree, node, field, value, name))
        for field, place in _removable(node):
            block = getattr(node, field)
            rest = [*block[:place], ast.Pass(), *block[place + 1 :]]
            name = f"{where}: {_line(block[place])}  =>  nothing"
            found.append(Mutant(tree, node, field, rest, name))
    return found


def _places(node: ast.AST, where: str, statement: ast.stmt | None) -> Iterator[tuple]:
    """Each node that may change, with the function and the statement it lies in; no annotations."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            inside = child if isinstance(child, ast.stmt) else statement
            path = where
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                path = f"{where}.{child.name}".lstrip(".")
            yield path, inside, child
            yield from _places(child, path, inside)


def _variants(node: ast.AST) -> Iterator[tuple[str, object]]:
    """Fields of a node, each with another value that it may take."""
    match node:
        case ast.Compare(ops=[operator]):
            yield from (("ops", [other()]) for other in COMPARISONS[type(operator)])
        case ast.BinOp(op=operator) | ast.BoolOp(op=operator) | ast.AugAssign(op=operator):
            if type(operator) in OPERATORS:
                yield "op", OPERATORS[type(operator)]()
        case ast.Constant(value=bool(value)):
            yield "value", not value
        case ast.Constant(value=int(value) | float(value)):
            yield "value", value + 1
        case ast.Name(id=name) if name in NAMES:
            yield "id", NAMES[name]
        case ast.Attribute(attr=name) if name in METHODS:
            yield "attr", METHODS[name]
        case ast.keyword(arg=name) if name in NAMES:
            yield "arg", NAMES[name]
        case ast.If(test=test) | ast.IfExp(test=test):
            # A comparison has mutants of its own, and a `not` loses it below.
            if not isinstance(test, ast.Compare | ast.UnaryOp):
                yield "test", ast.UnaryOp(ast.Not(), test)
    for field in ("operand", "left", "right", "value", "test"):  # a `not`, a minus or a `~` goes
        operand = getattr(node, field, None)
        if isinstance(operand, ast.UnaryOp) and not isinstance(operand.operand, ast.Constant):
            yield field, operand.operand


def _removable(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Statements of a node's blocks without which the module runs and does something else."""
    for field in ("body", "orelse"):
        block = getattr(node, field, None)
        for place, statement in enumerate(block if isinstance(block, list) else []):
            match statement:
                case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Continue() | ast.Raise():
                    yield field, place
                case ast.Assign(targets=[ast.Subscript()]):
                    yield field, place


def _line(statement: ast.AST | None) -> str:
    """A statement on one line; of one with a block, its head."""
    if statement is None:
        return ""
    if isinstance(getattr(statement, "body", None), list):
        parts = dict(ast.iter_fields(statement))
        gone = {name: [] for name in ("decorator_list", "orelse", "finalbody") if name in parts}
        head = type(statement)(**(parts | gone | {"body": [ast.Pass()]}))
        return " ".join(ast.unparse(ast.fix_missing_locations(head)).removesuffix("pass").split())
    return " ".join(ast.unparse(statement).split())


# ---------------------------------------------------------------- putting a mutant in its place


def plant(mutant: Mutant, module: str) -> None:
    """Give the module, in this process, its fault."""
    setattr(mutant.node, mutant.field, mutant.value)
    exchange(ast.fix_missing_locations(mutant.tree), module)


def exchange(tree: ast.Module, module: str) -> None:
    """Exchange the code of the module's functions, their defaults, and its values."""
    live = sys.modules["ssd_annotated." + module.replace("/", ".")].__dict__
    file = live["__file__"]
    codes = {code.co_qualname: code for code in _codes(compile(tree, file, "exec"))}
    functions = defaultdict(list)
    for function in [x for x in gc.get_objects() if type(x) is FunctionType]:
        name = function.__code__.co_qualname
        if function.__code__.co_filename == file and name in codes:
            function.__code__ = codes[name]
            functions[name].append(function)
    # As in the module: a value may call the functions above it, a default may use such a value.
    for statement in tree.body:
        for name, defaults in _defaults(statement, "", live):
            for function in functions[name]:
                function.__defaults__ = defaults
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            _assign(statement, live, file)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _defaults(node: ast.stmt, path: str, live: dict) -> Iterator[tuple[str, tuple | None]]:
    """The defaults of each function and method of a statement, for its qualified name."""
    if isinstance(node, ast.ClassDef):
        for child in node.body:
            yield from _defaults(child, f"{path}{node.name}.", live)
    elif isinstance(node, ast.FunctionDef):
        values = (ast.Expression(default) for default in node.args.defaults)
        yield (
            path + node.name,
            tuple(eval(compile(value, "<default>", "eval"), live) for value in values) or None,
        )


def _assign(statement: ast.Assign | ast.AnnAssign, live: dict, file: str) -> None:
    """Assign a module's value again, there and wherever it was imported."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
    names = {
        node.id for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)
    }
    old = {name: live[name] for name in names}
    exec(compile(ast.Module([statement], []), file, "exec"), live)
    for module in list(sys.modules.values()):
        for name in names:
            if getattr(module, "__dict__", {}).get(name, live) is old[name]:
                setattr(module, name, live[name])


# ---------------------------------------------------------------- running the tests


def fork(job: Callable[[], object]) -> tuple[int, int]:
    """Do a job in a copy of this process: its number, and where `answer` finds what it returned."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            os.write(write, json.dumps(job()).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write)
    return pid, read


def answer(read: int) -> object:
    """What a job returned; None if it failed, or was ended."""
    with os.fdopen(read) as pipe:
        text = pipe.read()
    return json.loads(text) if text else None


class Runner:
    """A plugin of pytest: in place of one run, one for each mutant, each in its own process."""

    def __init__(self, module: str, chosen: list[Mutant], jobs: int) -> None:
        self.module, self.chosen, self.jobs = module, chosen, jobs
        self.counts: Counter[str] = Counter()

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the unchanged tests once, sort them by their time, and let the mutants loose."""
        pid, read = fork(lambda: self._times(session.items))
        times = answer(read)
        os.waitpid(pid, 0)
        if times is None:
            return True
        order = sorted(range(len(times)), key=times.__getitem__)
        self.items = [session.items[index] for index in order]
        self.limit = int(3 * sum(times) + 10)
        running: dict[int, tuple[Mutant, int]] = {}
        for mutant in self.chosen:
            if len(running) == self.jobs:
                self._wait(running)
            pid, read = fork(lambda mutant=mutant: self._try(mutant))
            running[pid] = mutant, read
        while running:
            self._wait(running)
        return True

    def _times(self, items: list[pytest.Item]) -> list[float]:
        """What each test takes of the processor, in seconds, with the same code in its place."""
        exchange(self.chosen[0].tree, self.module)
        times = []
        for item in items:
            start = time.process_time()
            if not _passes(item):
                raise SystemExit(f"{item.nodeid} fails without any fault")
            times.append(time.process_time() - start)
        return times

    def _wait(self, running: dict[int, tuple[Mutant, int]]) -> None:
        """Take one verdict; a test that killed comes first from now on."""
        mutant, read = running.pop(os.wait()[0])
        verdict, killer = answer(read) or (KILLED, None)  # by a limit
        self.counts[verdict] += 1
        self.items.sort(key=lambda item: item.nodeid != killer)  # the others stay in their order
        if verdict != KILLED:
            print(f"{verdict}: {self.module}:{mutant.name}", flush=True)

    def _try(self, mutant: Mutant) -> tuple[str, str | None]:
        """Plant the mutant and run the tests: a verdict, and which test killed it."""
        resource.setrlimit(resource.RLIMIT_CPU, (self.limit, self.limit))  # an endless loop
        signal.alarm(20 * self.limit)  # an endless sleep
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MORE_MEMORY,) * 2)
        try:
            plant(mutant, self.module)
        except Exception as error:
            # Code without the variables of the function around it cannot be exchanged. Anything
            # else would happen while the module is imported.
            return (UNPLANTED if "free vars" in str(error) else KILLED), None
        killer = next((item.nodeid for item in self.items if not _passes(item)), None)
        return (KILLED if killer else SURVIVED), killer


def _passes(item: pytest.Item) -> bool:
    """Run one test, with its fixtures, and say whether nothing failed."""
    from _pytest.runner import runtestprotocol

    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def run(module: str, sample: int | None, seed: int, jobs: int, only: str) -> Counter[str]:
    """Try the mutants of one module; the equivalent ones are counted, not tried."""
    chosen = mutants((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    chosen = [mutant for mutant in chosen if only in f"{module}:{mutant.name}"]
    if sample and sample < len(chosen):
        chosen = random.Random(seed).sample(chosen, sample)
    equal = {entry["mutant"] for entry in tomllib.loads(EQUIVALENT.read_text("utf-8"))[EQUAL]}
    tried = [mutant for mutant in chosen if f"{module}:{mutant.name}" not in equal]
    counts = Counter({EQUAL: len(chosen) - len(tried)})
    if tried:
        runner = Runner(module, tried, jobs)
        options = "-qq -p no:cacheprovider -p no:warnings --hypothesis-profile mutants"
        pytest.main([*options.split(), str(ROOT / "tests" / TESTS[module])], [runner])
        if runner.counts.total() != len(tried):
            raise SystemExit(f"{module}: its tests did not run")
        counts += runner.counts
    return counts


def row(module: str, counts: Counter[str]) -> str:
    tried = counts[KILLED] + counts[SURVIVED]
    share = f"{counts[KILLED] / tried:6.1%}" if tried else ""
    return f"{module:15} {counts[KILLED]:6} {counts[SURVIVED]:8} {counts[EQUAL]:10} {share}"


def main() -> int:
    """Read the command line; each module has a process of its own, since it wants fresh tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)}; by default all")
    parser.add_argument("--sample", type=int, help="try so many of each module; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--only", default="", help="mutants whose name contains this")
    arguments = vars(parser.parse_args())
    # An example that fails kills: none is made small, which would take the time of 100 mutants.
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile(
        "mutants", settings(phases=phases, max_examples=10, deadline=None, derandomize=True)
    )
    print(f"{'module':15} killed survived equivalent  share", flush=True)
    total: Counter[str] = Counter()
    for module in arguments.pop("modules") or TESTS:
        pid, read = fork(lambda module=module: run(module, **arguments))
        counts = answer(read)
        os.waitpid(pid, 0)
        if counts is None:
            return 1
        print(row(module, Counter(counts)), flush=True)
        total += Counter(counts)
    print(row("all", total))
    return 0


if __name__ == "__main__":
    sys.exit(main())
