"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from selfevo.method.protocols import Progress
from selfevo.report.progress import Live, Silent
from selfevo.report.terminal import PlainConsole, console

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a key: a.b=value. Repeatable.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Print results, warnings and errors only, no progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document (docs/reference/json.md), no text.")]


def progress(quiet: bool, as_json: bool = False) -> Progress:
    """What shows how far a command is; with --json on standard error."""
    if quiet:
        return Silent()
    return Live(PlainConsole(stderr=True) if as_json else console)
