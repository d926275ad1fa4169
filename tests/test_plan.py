"""The package's plan: imports go one way, and the figure shows every module."""

import ast
import re

import plan

#: The imports that are allowed; any other import is an error.
ALLOWED = {
    "support": set(),
    plan.CORE: {"support"},
    "data": {plan.CORE, "support"},
    "networks": {plan.CORE, "support"},
    "published": {plan.CORE, "support", "networks"},
    "evaluation": {plan.CORE, "support"},
    "training": {plan.CORE, "support", "data", "evaluation"},
    "drawing": {plan.CORE, "evaluation"},
    "notebook": {plan.CORE, "drawing"},
    "app": {plan.CORE, "support", "data", "evaluation", "training", "drawing", "published"},
}
#: The core's modules in order: each may import those before it.
ORDER = (
    *("boxes", "priors", "coding", "matching", "loss", "nms"),
    *("vgg", "model", "checkpoint", "transforms", "detection"),
)


def test_imports_go_one_way():
    assert {(a, b) for a, below in ALLOWED.items() for b in below} == plan.arrows()


def test_the_core_builds_on_what_comes_before():
    assert sorted(ORDER) == plan.modules()[plan.CORE]
    for index, name in enumerate(ORDER):
        source = (plan.PACKAGE / f"{name}.py").read_text(encoding="utf-8")
        below = {module.split(".")[1] for module in plan.imported(source)} - {"support"}
        assert below <= set(ORDER[:index]), name


def test_imports_are_seen_wherever_they_stand():
    source = (
        "def f():\n    from ssd_annotated.app.cli import main\nfrom ssd_annotated import boxes\n"
    )
    assert set(plan.imported(source)) == {"ssd_annotated.app.cli.main", "ssd_annotated.boxes"}
    assert plan.part_of("ssd_annotated.app.cli.main") == "app"
    assert plan.part_of("ssd_annotated.boxes") == plan.CORE


def test_the_figure_names_every_module_and_draws_every_needed_arrow():
    figure = plan.draw()
    words = set(re.findall(r"[a-z_0-9]+", re.sub(r"<style>.*?</style>", "", figure, flags=re.S)))
    assert {name for names in plan.modules().values() for name in names} <= words
    drawn = plan.visible(plan.arrows())
    assert figure.count("marker-end") == len(drawn) >= 5
    for upper, lower in drawn:
        (row, left, right), (below, other_left, other_right) = map(plan.PLACES.get, (upper, lower))
        assert below == row + 1  # so no arrow crosses a box
        assert max(left, other_left) < min(right, other_right)


def test_what_a_neighbour_imports_needs_no_arrow_of_its_own():
    pairs = {("app", "training"), ("training", "data"), ("app", "data")}
    assert plan.visible(pairs) == [("app", "training"), ("training", "data")]


def test_the_core_is_small_and_no_function_is_long():
    lines, longest = 0, ("", 0)
    for file in plan.PACKAGE.rglob("*.py"):
        source = file.read_text(encoding="utf-8")
        lines += len(source.splitlines()) if file.parent == plan.PACKAGE else 0
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef):
                length = statements(node)
                longest = max(longest, (f"{file.stem}.{node.name}", length), key=lambda x: x[1])
    assert lines <= 2000
    assert longest[1] <= 40, longest


def statements(node):
    """Lines of a function without decorators and docstring."""
    length = node.end_lineno - node.lineno + 1
    first = node.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        length -= first.end_lineno - first.lineno + 1
    return length
