"""The notebook is what its plain form says, and runs."""

from __future__ import annotations

import shutil
from pathlib import Path

import jupytext
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def cells(path: Path) -> list[tuple[str, str]]:
    return [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]


def test_the_notebook_is_its_plain_form() -> None:
    """After a change: jupytext --to ipynb examples/quickstart.py"""
    assert cells(EXAMPLES / "quickstart.ipynb") == cells(EXAMPLES / "quickstart.py")


def test_the_notebook_runs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    code = [source for kind, source in cells(EXAMPLES / "quickstart.ipynb") if kind == "code"]
    hub = '"HuggingFaceTB/SmolLM2-135M-Instruct"'
    assert code[0].count(hub) == 1
    for source in code:
        exec(compile(source.replace(hub, repr(str(tiny_model))), "quickstart.ipynb", "exec"), names)
    printed = capsys.readouterr().out
    assert "base: direct 0%" in printed and "round-2: direct" in printed
    assert "direct 0 of 12" in printed
    assert (tmp_path / "runs/quickstart/report.html").is_file()
