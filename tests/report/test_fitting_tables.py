"""Tables fit the terminal, whatever is in them, and no number is broken or cut off."""

from __future__ import annotations

import io

from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len

from selfevo.report.tables import print_properties, print_table
from selfevo.report.terminal import PlainConsole

TEXT = st.text(st.characters(codec="utf-8"), max_size=60)
NUMBER = st.text("0123456789.%–+ ", max_size=18).map(lambda text: " ".join(text.split()))


def printed(width: int, columns: list[str], rows: list[list[str]], texts: tuple[str, ...]) -> list[str]:
    console = PlainConsole(file=io.StringIO(), width=width, legacy_windows=False)
    print_table(console, columns, rows, "a title", texts)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().split("\n")


@given(
    width=st.integers(80, 140),
    numbers=st.lists(st.lists(NUMBER, min_size=14, max_size=14), min_size=1, max_size=3),
    name=TEXT,
    reason=TEXT,
)
@example(width=80, numbers=[["123456789012345678"] * 14], name="模型" * 30, reason="a\tb\nc\x1b[31m")
def test_no_line_is_wider_than_the_terminal_and_every_number_is_whole(
    width: int, numbers: list[list[str]], name: str, reason: str
) -> None:
    columns = ["model", "reason", *(f"figure {i}" for i in range(14))]
    rows = [[name, reason, *each] for each in numbers]
    lines = printed(width, columns, rows, ("reason",))
    table = [line for line in lines if line[:1] in set("┏┃┡│└")]
    assert max(map(cell_len, lines)) <= width
    assert {line[-1] for line in table} <= set("┓┃┩│┘")
    for cell in (cell for each in numbers for cell in each):
        assert any(cell in line for line in table)


def test_a_table_that_fits_is_one_and_columns_without_numbers_are_left_out() -> None:
    lines = printed(80, ["run", "in", "$", "status"], [["a", "1", "", ""], ["b", "2", "", ""]], ("status",))
    assert "\n".join(lines).count("run") == 1
    assert not any("$" in line for line in lines)
    assert any("status" in line for line in lines), "a text that nobody has says something"


def test_properties_are_broken_into_lines() -> None:
    console = PlainConsole(file=io.StringIO(), width=40)
    print_properties(console, {"D_meta": "20 trajectories, 1903 tokens, 0 longer than max_length=2048"})
    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 40 and len(lines) > 3
