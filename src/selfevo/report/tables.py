"""Tables that fit the terminal: one with too many columns is printed as several, one below the other."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from selfevo.report.terminal import printable

NARROW = 24  # a text may be broken into lines that are as wide as this, or as its longest word
FRAME = 3  # what a column needs beside its content: a line and two spaces


@dataclass(slots=True)
class Column:
    """A column by its title. Texts are broken where there is no room, numbers never."""

    title: str
    cells: list[str] = field(default_factory=list)
    is_text: bool = False

    @property
    def least(self) -> int:
        """The least width that it needs: its title may be broken at spaces."""
        widest = max(cell_len(printable(cell)) for cell in (*self.title.split(), *self.cells))
        return min(widest, NARROW) if self.is_text else widest

    @property
    def header(self) -> str:
        return self.title if self.is_text else textwrap.fill(self.title, self.least, break_on_hyphens=False)


def print_table(
    console: Console, columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "", texts: Sequence[str] = ()
) -> None:
    """Prints rows, whose first cell is their name. `texts`: the titles of the other columns that hold texts."""
    made = [Column(name, is_text=not i or name in texts) for i, name in enumerate(columns)]
    for row in rows:
        for column, cell in zip(made, row, strict=True):
            column.cells.append(cell)
    for number, block in enumerate(_blocks(made, console.width)):
        table = Table(title=title if not number else None, title_justify="left")
        for column in block:
            table.add_column(
                column.header,
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
        if len(block) > 1 and sum(each.least + FRAME for each in (*block, column)) + 1 > width:
            yield block
            block = [name]
        block.append(column)
    yield block
