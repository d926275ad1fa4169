"""Plant small faults in the core, one at a time, and count how many the fast tests notice.

A *mutant* is the package with one fault: ``<`` became ``<=``, ``+`` became ``-``, 3 became 4, a
check is gone. A test that fails kills it. A mutant that survives is either *equivalent*, a change
that no test could see (``equivalent_mutants.toml`` says why), or a test is missing.

Nothing is written to disk. For each module one process imports torch, collects the module's own
tests and runs them once. Then each mutant is a fork of that process: the child exchanges the code
of one function, runs the tests, the fastest first, and stops at the first that fails. ::

    python tools/mutants.py                     # all mutants of all modules (hours)
    python tools/mutants.py --sample 40 nms     # 40 of one module, drawn by --seed
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import os
import random
import resource
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "ssd_annotated"
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")
#: The modules, and the test files that answer for each.
TESTS = {
    "boxes": ["test_boxes.py"],
    "coding": ["test_coding.py"],
    "priors": ["test_priors.py"],
    "matching": ["test_matching.py"],
    "loss": ["test_loss.py"],
    "nms": ["test_nms.py", "test_fast_post.py"],
    "evaluation/voc": ["test_voc_evaluation.py"],
}
CONTROL = "nothing"
KILLED, SURVIVED, INVALID = 0, 1, 2  # how a child ends; by a signal, if it ran too long
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
    """A module with one fault: its tree, the function it lies in, and the line before and after."""

    tree: ast.Module
    where: str
    change: str


def mutants(source: str) -> list[Mutant]:
    """Every fault that `source` can be given, in the order of its lines."""
    found = []
    tree = ast.parse(source)
    for where, statement, node in _places(tree, "", None):
        for field, value in _variants(node):
            memo: dict = {}
            twin = copy.deepcopy(tree, memo)
            setattr(memo[id(node)], field, copy.deepcopy(value, memo))
            change = f"{_line(statement)}  =>  {_line(memo[id(statement)])}"
            found.append(Mutant(twin, where, change))
        for field, place in _removable(node):
            memo = {}
            twin = copy.deepcopy(tree, memo)
            block = getattr(memo[id(node)], field)
            change = f"{_line(block[place])}  =>  nothing"
            block[place] = ast.copy_location(ast.Pass(), block[place])
            found.append(Mutant(twin, where, change))
    return found


def _places(node: ast.AST, where: str, statement: ast.stmt | None) -> Iterator[tuple]:
    """Each node that may change, with the function and the statement it lies in; no annotations."""
    for name, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if name in ("annotation", "returns", "decorator_list") or not isinstance(
                child, ast.AST
            ):
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
            if not isinstance(test, ast.Compare):  # a comparison has mutants of its own
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
    """Exchange, in this process, the code of the module's functions, their defaults, its values."""
    name = "ssd_annotated." + module.replace("/", ".")
    live = sys.modules[name].__dict__
    file = live["__file__"]
    compiled = compile(ast.fix_missing_locations(mutant.tree), file, "exec")
    codes = {code.co_qualname: code for code in _codes(compiled)}
    defaults = dict(_defaults(mutant.tree, "", live))
    for function in [x for x in gc.get_objects() if type(x) is FunctionType]:
        if function.__code__.co_filename == file and (
            code := codes.get(function.__code__.co_qualname)
        ):
            function.__code__ = code
            function.__defaults__, function.__kwdefaults__ = defaults.get(
                code.co_qualname, (function.__defaults__, function.__kwdefaults__)
            )
    for statement in mutant.tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            _assign(statement, live, file)


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _defaults(node: ast.AST, path: str, live: dict) -> Iterator[tuple[str, tuple]]:
    """The defaults of each function and method, for its qualified name."""
    for child in getattr(node, "body", []):
        if isinstance(child, ast.ClassDef):
            yield from _defaults(child, f"{path}{child.name}.", live)
        elif isinstance(child, ast.FunctionDef):
            values = tuple(_value(default, live) for default in child.args.defaults)
            yield path + child.name, (values or None, None)


def _value(expression: ast.expr, live: dict) -> object:
    return eval(compile(ast.Expression(expression), "<default>", "eval"), live)


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


class Runner:
    """A plugin of pytest: in place of one run, one for each mutant, each in its own process."""

    def __init__(self, module: str, chosen: list[Mutant], jobs: int) -> None:
        self.module, self.chosen, self.jobs = module, chosen, jobs
        self.verdicts: list[int] = []

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run the unchanged tests once, sort them by their time, and let the mutants loose."""
        order, seconds = _times(session.items)
        self.limit = int(3 * seconds + 10)
        items = [session.items[index] for index in order]
        running: dict[int, int] = {}
        verdicts = {}
        for number, mutant in enumerate(self.chosen):
            if len(running) == self.jobs:
                self._wait(running, verdicts)
            pid = os.fork()
            if pid == 0:
                self._be(mutant, items)
            running[pid] = number
        while running:
            self._wait(running, verdicts)
        self.verdicts = [verdicts[number] for number in range(len(self.chosen))]
        return True

    def _wait(self, running: dict[int, int], verdicts: dict[int, int]) -> None:
        pid, status = os.wait()
        number = running.pop(pid)
        code = os.waitstatus_to_exitcode(status)
        verdicts[number] = code if code in (SURVIVED, INVALID) else KILLED
        if verdicts[number] == SURVIVED and self.chosen[number].change != CONTROL:
            print(f"survived: {name_of(self.module, self.chosen[number])}", flush=True)

    def _be(self, mutant: Mutant, items: list[pytest.Item]) -> None:
        """Plant the mutant and leave with its verdict; a limit of CPU time ends an endless loop."""
        resource.setrlimit(resource.RLIMIT_CPU, (self.limit, self.limit))
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + MORE_MEMORY,) * 2)
        verdict = KILLED  # as it stays if the module does not even run
        try:
            plant(mutant, self.module)
            verdict = SURVIVED if all(map(_passes, items)) else KILLED
        except ValueError as error:
            verdict = INVALID if "free vars" in str(error) else KILLED
        finally:
            os._exit(verdict)


def _times(items: list[pytest.Item]) -> tuple[list[int], float]:
    """The order of tests by their time, and the time of all, from a run in a process of its own."""
    read, write = os.pipe()
    if (pid := os.fork()) == 0:
        times = []
        for item in items:
            start = time.process_time()
            if not _passes(item):
                os.write(write, f"{item.nodeid} fails without any fault".encode())
                os._exit(1)
            times.append(time.process_time() - start)
        order = sorted(range(len(items)), key=times.__getitem__)
        os.write(write, " ".join(map(str, [sum(times), *order])).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    if os.waitpid(pid, 0)[1]:
        raise SystemExit(text)
    seconds, *order = text.split()
    return [int(index) for index in order], float(seconds)


def _passes(item: pytest.Item) -> bool:
    """Run one test, with its fixtures, and say whether nothing failed."""
    from _pytest.runner import runtestprotocol

    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def name_of(module: str, mutant: Mutant) -> str:
    return f"{module}:{mutant.where}: {mutant.change}"


def run(module: str, arguments: argparse.Namespace) -> Counter:
    """Try the mutants of one module; the equivalent ones are counted, not tried."""
    source = (PACKAGE / f"{module}.py").read_text(encoding="utf-8")
    everything = mutants(source)
    if arguments.sample and arguments.sample < len(everything):
        everything = random.Random(arguments.seed).sample(everything, arguments.sample)
    known = {
        entry["mutant"] for entry in tomllib.loads(EQUIVALENT.read_text("utf-8"))["equivalent"]
    }
    chosen = [mutant for mutant in everything if name_of(module, mutant) not in known]
    if arguments.only:
        chosen = [mutant for mutant in chosen if arguments.only in name_of(module, mutant)]
    # The first is no mutant: the same code must survive, or the exchange itself does harm.
    runner = Runner(module, [Mutant(ast.parse(source), "", CONTROL), *chosen], arguments.jobs)
    files = [str(ROOT / "tests" / file) for file in TESTS[module]]
    pytest.main(
        [
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:warnings",
            "--hypothesis-profile",
            "mutants",
            *files,
        ],
        [runner],
    )
    control, *verdicts = runner.verdicts
    if control != SURVIVED:
        raise SystemExit(f"{module}: the tests fail on unchanged code that was exchanged")
    counts = Counter(verdicts)
    counts["equivalent"] = len(everything) - len(chosen) if not arguments.only else 0
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", help=f"of {', '.join(TESTS)}; by default all")
    parser.add_argument("--sample", type=int, help="try so many of each module; by default all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--only", help="mutants whose name contains this")
    arguments = parser.parse_args()
    # An example that fails kills: none is made small, which would take the time of 100 mutants.
    phases = (Phase.explicit, Phase.generate)
    settings.register_profile(
        "mutants", settings(phases=phases, max_examples=10, deadline=None, derandomize=True)
    )
    print(f"{'module':15} killed survived equivalent  share", flush=True)
    total = Counter()
    for module in arguments.modules or TESTS:
        counts = run_apart(module, arguments)
        print(row(module, counts), flush=True)
        total += counts
    print(row("all", total))
    return 0


def run_apart(module: str, arguments: argparse.Namespace) -> Counter:
    """`run` in a process of its own: each module's tests want a fresh package."""
    read, write = os.pipe()
    if os.fork() == 0:
        counts = run(module, arguments)
        names = (KILLED, SURVIVED, "equivalent")
        os.write(write, " ".join(str(counts[name]) for name in names).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        numbers = pipe.read().split()
    os.wait()
    if not numbers:
        raise SystemExit(f"{module}: its tests did not run")
    return Counter(dict(zip(("killed", "survived", "equivalent"), map(int, numbers))))


def row(module: str, counts: Counter) -> str:
    tried = counts["killed"] + counts["survived"]
    share = f"{counts['killed'] / tried:6.1%}" if tried else "      "
    numbers = "{killed:6} {survived:8} {equivalent:10}".format_map(
        {name: counts[name] for name in ("killed", "survived", "equivalent")}
    )
    return f"{module:15} {numbers} {share}"


if __name__ == "__main__":
    sys.exit(main())
