"""Writes the tables of docs/results/*.md and docs/guides/clusters.md: `python docs/generate_results.py`.

The command that prints a table stands right above it, as an indented line. What stands below such a line, up to the
next paragraph, is replaced by what the command prints.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import shlex
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted((ROOT / "docs" / "results").glob("*.md")), ROOT / "docs" / "guides" / "clusters.md"]
COMMAND = re.compile(r"    python (experiments/summarise\.py|benchmarks/(?:plans|cluster|memory)\.py) (.*)")
PRINTED = re.compile(r"\|.*|seed \d+: [\d.]+ min.*|")  # a row, the line of times, or an empty line


def render(page: str) -> str:
    """A page with the output of each command below it."""
    lines = page.splitlines()
    written: list[str] = []
    while lines:
        written.append(lines.pop(0))
        if command := COMMAND.fullmatch(written[-1]):
            while lines and PRINTED.fullmatch(lines[0]):
                del lines[0]
            written += ["", *output(command[1], shlex.split(command[2])), ""]
    return "\n".join(written).rstrip("\n") + "\n"


def output(script: str, arguments: list[str]) -> list[str]:
    """The lines that a script of this repository prints; its paths start at the root."""
    spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.chdir(ROOT):
        module.main(arguments)
    return printed.getvalue().strip("\n").splitlines()


if __name__ == "__main__":
    for path in PAGES:
        path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
