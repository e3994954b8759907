"""What is printed is data, however it comes to the console: as a string, a styled text, a path, a table, a bar."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from commands import Selfevo
from selfevo.errors import ConfigError
from selfevo.report.progress import Live
from selfevo.report.terminal import PlainConsole

HOSTILE = "[bold]a[/] :smile: \x1b[2J\x1b]0;title\x9c\x9b31m\u202eb"
SHOWN = "[bold]a[/] :smile: \\x1b[2J\\x1b]0;title\\x9c\\x9b31m\\u202eb"


def a_table(console: PlainConsole, text: str) -> None:
    table = Table(title=text)
    table.add_column(text)
    table.add_row(Text(text))
    console.print(table)


def a_bar(console: PlainConsole, text: str) -> None:
    live = Live(console)
    live.start(text, 2)
    live.advance(1, text)
    live.finish(text)


WAYS: dict[str, Callable[[PlainConsole, str], None]] = {
    "a string": lambda console, text: console.print(text),
    "a styled text": lambda console, text: console.print(Text(text, "red")),
    "an assembled text": lambda console, text: console.print(Text.assemble(("x", "red"), text)),
    "a path": lambda console, text: console.print(Path(text)),
    "a list": lambda console, text: console.print([text]),
    "a rule": lambda console, text: console.rule(text),
    "a table": a_table,
    "a bar": a_bar,
}


def printed(way: str, text: str, terminal: bool) -> str:
    file = io.StringIO()
    # Without colours, the only control sequences are those of a bar: it moves up a line, erases it, hides the cursor.
    console = PlainConsole(file=file, width=400, force_terminal=terminal, color_system=None)
    WAYS[way](console, text)
    said = file.getvalue()
    for own in ("\x1b[1A", "\x1b[2K", "\x1b[?25l", "\x1b[?25h", "\r") if way == "a bar" else ():
        said = said.replace(own, "")
    return said


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_no_way_to_print_reads_or_sends_anything(way: str, terminal: bool) -> None:
    said = printed(way, HOSTILE, terminal)
    assert SHOWN in said
    assert not set(said) & set("\x1b\x07\x9b\u202e")


@pytest.mark.parametrize("way", WAYS)
@given(text=st.text(st.characters(exclude_characters="\r")))
def test_nor_with_any_text(way: str, text: str) -> None:
    assert not {c for c in printed(way, text, terminal=False) if (c < " " and c != "\n") or "\x7f" <= c <= "\x9f"}


def test_a_warning_that_is_logged_is_one_line_of_data(selfevo: Selfevo, monkeypatch: pytest.MonkeyPatch) -> None:
    def logs(path: Path, overrides: object) -> None:
        logging.getLogger("selfevo.engines.transformers").warning("%s is slow", path)
        raise ConfigError("no model")

    monkeypatch.setattr("selfevo.cli.app.load_config", logs)
    _, _, err = selfevo("run", f"{HOSTILE}\n")
    assert err.splitlines() == [f"selfevo: {SHOWN}  is slow", "selfevo: no model"]
