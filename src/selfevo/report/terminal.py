"""Prints to the terminal. Every text is data: no markup, no emoji, no control sequences from a model or a file name."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# Control characters but for the line feed and the tab, half surrogates, and those that turn the direction of writing.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """`text` with what a terminal would obey, or could not show, written out: "\\x1b" for the escape character."""
    return _CONTROL.sub(lambda match: match.group().encode("unicode_escape", "surrogatepass").decode(), text)


class PlainConsole(Console):
    """A console that prints strings, also in tables, as they are. Style comes from `style` and from Text."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        return super().render_str(printable(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """All that is printed comes by here, also what is no string: Text, paths, a bar's name."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def _width() -> int | None:
    """The width of tables without a terminal, for example in a log, unless COLUMNS says it; None: the terminal's."""
    given = os.environ.get("COLUMNS", "")
    if re.fullmatch("[0-9]{2,4}", given) and int(given) >= 20:
        return int(given)
    return None if sys.stdout and sys.stdout.isatty() else 140


console = PlainConsole(width=_width())


def complain(message: str) -> None:
    """Prints a warning or an error as one line on standard error."""
    error = PlainConsole(stderr=True, width=80)  # of no effect on a line, but COLUMNS=0 would hide it
    with suppress(OSError):  # nobody reads it any more
        error.show_cursor()  # a progress bar may have hidden it
        error.print(f"selfevo: {message}".replace("\n", " "), style="red", soft_wrap=True)


class WarningLines(logging.Handler):
    """Prints what the package logs as `complain` does: it may quote a server."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(record.getMessage())
