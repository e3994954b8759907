"""The architecture, held by tests: imports point one way, and the algorithm cannot reach a gold answer."""

from __future__ import annotations

import ast
import dataclasses
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import selfevo
from selfevo import records

SOURCE = Path(selfevo.__file__).parent
MODULES = {
    ".".join(("selfevo", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in SOURCE.rglob("*.py")
}
# Lower may not import higher, and modules of one layer do not import each other.
LAYERS = [
    {"errors"},
    {"records", "prompts", "progress", "files"},
    {"answers", "protocols", "chat", "data", "torch_setup", "skills"},
    {"examples", "stage"},
    {"filters"},
    {"sections", "claim"},
    {"config", "endpoint"},
    {"config_file"},
    {"variants"},
    {"run", "tasks", "engines", "trainers", "teachers"},
    {"annotation", "selfinstruct", "evaluate", "evolution", "ledger", "monitors"},
    {"report", "table", "judging", "gate"},
    {"sets", "card"},
    {"watch"},
    {"launch"},
    {"preview", "demo", "answering", "harness", "ablate"},
    {"doctor"},
    {"cli_models"},
    {"cli"},
]
ADAPTERS = {"engines", "trainers", "tasks", "teachers"}
WIRING = {"launch", "watch", "sets", "preview", "cli", "cli_models", "demo", "harness", "doctor"}
ALGORITHM = ["evolution", "skills", "examples", "filters", "run"]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


@cache
def imports(module: str) -> frozenset[str]:
    """Modules of selfevo that `module` names in an import, wherever it stands."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(name for name in found if name in MODULES) - {"selfevo"}


def unit(module: str) -> str:
    """The file or the folder right under selfevo that a module belongs to."""
    return module.split(".")[1]


def reachable(module: str) -> set[str]:
    seen, todo = set[str](), [module]
    while todo:
        for name in imports(todo.pop()):
            if name not in seen:
                seen.add(name)
                todo.append(name)
    return seen


INNER = sorted(MODULES.keys() - {"selfevo", "selfevo.__main__"})


def test_every_module_has_a_layer() -> None:
    assert {unit(module) for module in INNER} <= RANK.keys(), "give the new module a layer, the lowest that fits"
    assert RANK.keys() <= {unit(module) for module in INNER}, "a layer names a module that is gone"


@pytest.mark.parametrize("module", INNER)
def test_nothing_imports_upward(module: str) -> None:
    own = unit(module)
    for other in imports(module):
        target = unit(other)
        assert RANK[target] < RANK[own] or target == own, f"{module} imports {other}"


@pytest.mark.parametrize("module", INNER)
def test_only_the_wiring_imports_adapters(module: str) -> None:
    own = unit(module)
    for other in imports(module):
        if unit(other) in ADAPTERS:
            assert own in WIRING or own == unit(other), f"{module} imports {other}"


@pytest.mark.parametrize("name", ALGORITHM)
def test_the_algorithm_cannot_reach_whoever_holds_the_answers(name: str) -> None:
    holders = {"tasks", "teachers", "annotation", "evaluate", "launch", "sets", "preview", "cli", "cli_models", "demo"}
    reached = {unit(module) for module in reachable(f"selfevo.{name}")}
    assert not reached & holders
    tree = ast.parse(MODULES[f"selfevo.{name}"].read_text(encoding="utf-8"))
    named = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    named |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
    # Annotations may be strings.
    named |= {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert not named & {"Problem", "Task", "Teacher"}


def test_no_record_has_room_for_a_gold_answer() -> None:
    types = [t for t in vars(records).values() if dataclasses.is_dataclass(t) and isinstance(t, type)]
    assert len(types) >= 7
    for record in types:
        assert hasattr(record, "__slots__")
        assert not hasattr(record("", *[""] * (len(dataclasses.fields(record)) - 1)), "__dict__"), "no back pocket"
        for field in dataclasses.fields(record):
            for word in ("answer", "gold", "label", "target", "solution", "correct", "meta", "extra"):
                assert word not in field.name, f"{record.__name__}.{field.name}"


def test_importing_the_package_is_cheap() -> None:
    """Best of three, in seconds of CPU so that a busy machine is no failure."""
    code = (
        "import time; start = time.process_time(); import selfevo; print(time.process_time() - start); import sys; "
        "print(sorted({'torch', 'transformers', 'trl', 'peft', 'datasets', 'numpy', 'pydantic'} & sys.modules.keys()))"
    )
    times = []
    for _ in range(3):
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ.copy()
        ).stdout.splitlines()
        assert out[1] == "[]"
        times.append(float(out[0]))
    assert min(times) < 0.3


def test_the_command_line_starts_without_torch() -> None:
    """`selfevo --help` and a mistake in a configuration answer at once."""
    code = "import selfevo.cli, sys; print(sorted({'torch', 'transformers', 'trl'} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_exported_names_exist_and_are_sorted() -> None:
    assert [name for name in selfevo.__all__ if not hasattr(selfevo, name)] == []
    assert sorted(set(selfevo.__all__)) == list(selfevo.__all__)
