"""Every symbol of the page is explained where it first appears, whatever a run has."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import SHAPES
from selfevo.report.page import write_report
from selfevo.report.symbols import MEANINGS, Symbols

TEXTS_OF_MODELS = {"pre", "svg", "style", "title", "bdi class=headline"}


class Parts(HTMLParser):
    """The text of each part of the page (header, banner, section), and the symbols that it explains."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.parts: list[tuple[list[str], set[str]]] = [([], set())]
        self.open, self.explains = list[str](), False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        kind = dict(attrs).get("class")
        self.open.append(f"{tag} class={kind}" if kind else tag)
        if tag in ("section", "header") or kind == "banner":
            self.parts.append(([], set()))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop().split()[0] != tag:
            pass
        if tag == "div" and "header" in self.open and self.open[-1] == "header":
            self.parts.append(([], set()))  # after the banner

    def handle_data(self, data: str) -> None:
        texts, explained = self.parts[-1]
        if "dfn" in self.open:
            explained.add(data)
        elif not TEXTS_OF_MODELS & {*self.open} and "span class=symbol" not in self.open:
            texts.append(data.replace("\u2011", "-"))


def symbols(text: str) -> set[str]:
    return {each for each in MEANINGS if re.search(rf"(?<![\w^-]){re.escape(each)}(?![\w^]|-\w)", text)}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_symbol_is_explained_where_it_first_appears(tmp_path: Path, shape: str) -> None:
    SHAPES[shape](tmp_path / "run")
    known = set[str]()
    for texts, explained in Parts(write_report(tmp_path / "run").read_text(encoding="utf-8")).parts:
        assert not explained & known, "once is enough"
        known |= explained
        shown = " ".join(texts)
        assert symbols(shown) <= known, shown


def test_a_symbol_is_explained_once_and_without_other_symbols() -> None:
    explain = Symbols().explain
    assert [symbol for symbol, _ in explain("v decides on r^ (p-value 0.1)")] == ["p-value", "r^", "v"]
    assert [symbol for symbol, _ in explain("r and r^, v again")] == ["r"]
    assert not any(symbols(meaning) for meaning in MEANINGS.values())


@given(st.text(st.sampled_from("prfv^ -.,()_aβ")))
def test_words_are_no_symbols(text: str) -> None:
    found = {symbol for symbol, _ in Symbols().explain(text)}
    assert symbols(text) == found
    assert Symbols().explain("a prefix-free var, an f-score, r^2, D_meta-2") == []
