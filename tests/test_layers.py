"""The house rules: imports go down only, `method` sees nothing that can hold an answer, and importing is cheap."""

from __future__ import annotations

import ast
import dataclasses
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import selfevo
from selfevo.method import records

SOURCE = Path(selfevo.__file__).parent
FLOORS = [
    {"errors", "statistics"},
    {"method"},
    {"rundir"},
    {"data"},
    {"config"},
    {"models", "tasks"},
    {"engines", "trainers", "teachers", "evaluation"},
    {"inputs", "report"},
    {"pipeline"},
    {"checks", "serving", "sharing"},
    {"api"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py") if path.parent != SOURCE)


def imported(file: Path) -> Iterator[str]:
    """Modules of selfevo that a file imports, wherever the import stands."""
    for node in ast.walk(ast.parse((SOURCE / file).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("selfevo"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("selfevo."))


def room(module: str) -> str:
    return module.split(".")[1]


def test_every_folder_has_a_floor_and_the_top_holds_few_files() -> None:
    assert {path.parts[0] for path in FILES} == FLOOR.keys() - {"errors", "statistics", "api"}
    assert len([path for path in SOURCE.iterdir() if path.is_file()]) <= 6


@pytest.mark.parametrize("file", FILES, ids=str)
def test_imports_go_down(file: Path) -> None:
    for module in imported(file):
        own, other = file.parts[0], room(module)
        assert own == other or FLOOR[other] < FLOOR[own], f"{file} imports {module}, which is not below it"


def test_the_method_imports_itself_and_errors_alone() -> None:
    rooms = {room(module) for file in FILES if file.parts[0] == "method" for module in imported(file)}
    assert rooms <= {"method", "errors"}


def test_no_file_imports_itself_through_others() -> None:
    files = {".".join(("selfevo", *file.with_suffix("").parts)).removesuffix(".__init__"): file for file in FILES}
    uses = {name: {m if m in files else m.rpartition(".")[0] for m in imported(file)} for name, file in files.items()}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join((*path, name))}"
        if name not in done:
            for other in sorted(uses.get(name, ())):
                visit(other, (*path, name))
            done.add(name)

    done: set[str] = set()
    for name in files:
        visit(name, ())


@pytest.mark.parametrize(
    "file", [path for path in Path(__file__).parents[1].rglob("*.py") if ".venv" not in path.parts], ids=str
)
def test_no_file_is_long(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, f"{file.name} asks for a split"


def test_no_record_has_room_for_a_gold_answer() -> None:
    types: list[Any] = [t for t in vars(records).values() if dataclasses.is_dataclass(t) and isinstance(t, type)]
    assert len(types) >= 7
    for record in types:
        assert hasattr(record, "__slots__")
        assert not hasattr(
            record("", *[""] * (sum(not field.kw_only for field in dataclasses.fields(record)) - 1)), "__dict__"
        ), "no back pocket"
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
    code = "import selfevo.cli.app, sys; print(sorted({'torch', 'transformers', 'trl'} & sys.modules.keys()))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_exported_names_exist_and_are_sorted() -> None:
    assert [name for name in selfevo.__all__ if not hasattr(selfevo, name)] == []
    assert sorted(set(selfevo.__all__)) == list(selfevo.__all__)
