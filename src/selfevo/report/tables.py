"""Tables that fit the terminal: one with too many columns is printed as several, one below the other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from selfevo.report.terminal import printable

NARROW = 24  # a text may be broken into lines that are as wide as this,
NAME = 36  # and the name of a row into lines as wide as this
FRAME = 3  # what a column needs beside its content: a line and two spaces


@dataclass(slots=True)
class Column:
    """A column by its title. Texts are broken where there is no room, numbers never."""

    title: str
    is_text: bool = False
    narrow: int = NARROW
    cells: list[str] = field(default_factory=list)

    @property
    def natural(self) -> int:
        """The width of its longest cell, or of its title, which may be broken at spaces above numbers."""
        title = [self.title] if self.is_text else self.title.split()
        return max(cell_len(printable(cell)) for cell in (*title, *self.cells))

    @property
    def least(self) -> int:
        words = (cell_len(printable(cell)) for cell in (*self.title.split(), *self.cells))
        return min(max(words), self.narrow) if self.is_text else self.natural

    @property
    def header(self) -> str:
        return self.title if self.is_text else textwrap.fill(self.title, self.least, break_on_hyphens=False)


def print_table(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", texts: Sequence[str] = ()
) -> None:
    """Prints rows, whose first cell is their name. `texts`: the titles of the other columns that hold texts.

    A column of numbers in which no row has any is left out.
    """
    made = [Column(name, not i or name in texts, NARROW if i else NAME) for i, name in enumerate(columns)]
    for row in rows:
        for column, cell in zip(made, row, strict=True):
            column.cells.append(cell)
    shown = [column for column in made if column.is_text or any(column.cells) or not rows]
    for number, block in enumerate(_blocks(shown, console.width)):
        table = Table(title=title if not number else None, title_justify="left")
        for column, width in zip(block, _widths(block, console.width), strict=True):
            table.add_column(
                column.header,
                width=width,
                justify="left" if column.is_text else "right",
                no_wrap=not column.is_text,
                overflow="fold" if column.is_text else "ellipsis",
            )
        for cells in zip(*(column.cells for column in block), strict=True):
            table.add_row(*cells)
        console.print(table)


def print_properties(console: Console, values: Mapping[str, str], title: str = "") -> None:
    """Prints names and texts, a line each or more."""
    table = Table(title=title or None, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in values.items():
        table.add_row(name, value)
    console.print(table)


def _blocks(columns: Sequence[Column], width: int) -> Iterator[list[Column]]:
    """The columns in groups that fit, each with the first column, which names the rows."""
    name, *others = columns
    block = [name]
    for column in others:
        if len(block) > 1 and _needed((*block, column)) > width:
            yield block
            block = [name]
        block.append(column)
    yield block


def _widths(block: Sequence[Column], width: int) -> list[int | None]:
    """The width of each column: what is left over goes to the texts, from the left. None: it does not fit at all."""
    left = width - _needed(block)
    if left < 0:
        return [None] * len(block)
    widths: list[int | None] = []
    for column in block:
        more = min(left, column.natural - column.least)
        widths.append(column.least + more)
        left -= more
    return widths


def _needed(block: Sequence[Column]) -> int:
    return sum(column.least + FRAME for column in block) + 1
