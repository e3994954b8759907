"""The report in headless Chromium: nothing is cut off at any width, in the dark, on paper, in any script."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from reports import SHAPES
from selfevo.report.page import write_report

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

WIDTHS = (390, 768, 1280)
PAPER = 718  # pixels between the margins of A4
NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")

# What a reader would not see whole, each with its place. A pixel is left for rounding.
CUT_OFF = """() => {
  const faults = [], width = document.documentElement.clientWidth;
  const say = (what, each) => faults.push(`${what}: ${each.outerHTML.slice(0, 120)}`);
  if (document.documentElement.scrollWidth > width) faults.push('the page scrolls to the side');
  for (const each of document.querySelectorAll('body *')) {
    const box = each.getBoundingClientRect(), head = each.closest('thead');
    if (!box.width || (head && getComputedStyle(head).position === 'absolute')) continue;  // labels of cells instead
    if (box.left < -1 || box.right > width + 1) say('beyond the page', each);
    if (!each.matches('.wide, td, th, pre, p, dd, li, summary, figcaption')) continue;
    if (each.scrollWidth > each.clientWidth + 1) say('wider than its place', each);
    if (each.scrollHeight > each.clientHeight + 2) say('higher than its place', each);
  }
  for (const figure of document.querySelectorAll('figure')) {
    const place = figure.getBoundingClientRect();
    for (const each of figure.querySelectorAll('svg text, svg circle, svg path, svg line, svg polyline')) {
      const box = each.getBoundingClientRect();
      if (!each.getClientRects().length) continue;
      if (box.left < place.left - 1 || box.right > place.right + 1 || box.top < place.top - 1 ||
          box.bottom > place.bottom + 1) say('beyond its chart', each);
    }
    const texts = [...figure.querySelectorAll('.name:not([transform]), .value')]
      .filter(each => each.getClientRects().length);
    texts.forEach((each, i) => texts.slice(i + 1).forEach(other => {
      const a = each.getBoundingClientRect(), b = other.getBoundingClientRect();
      if (a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 3 && b.top < a.bottom - 3)
        say('under another text', each);
    }));
  }
  return faults;
}"""

# Texts that are hard to read: a contrast below 4.5 (WCAG 2.2, level AA).
FAINT = """() => {
  const parts = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => {
    const [r, g, b] = parts(color).map(part => part / 255)
      .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = each => {
    const own = getComputedStyle(each).backgroundColor;
    return (parts(own)[3] ?? 1) > 0 ? own : behind(each.parentElement);
  };
  const faults = new Set();
  for (const each of document.querySelectorAll('main *')) {
    const own = [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim());
    if (!own || !each.getClientRects().length || each.matches('title, desc')) continue;
    const style = getComputedStyle(each);
    const ink = light(each.closest('svg') ? style.fill : style.color), paper = light(behind(each));
    const contrast = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (contrast < 4.5) faults.add(`${contrast.toFixed(1)}: ${each.outerHTML.slice(0, 100)}`);
  }
  return [...faults];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found, f"none of {', '.join(NAMES)} is on the PATH; on Debian: apt-get install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, paths = tmp_path_factory.mktemp("reports"), {}
    for name, write in SHAPES.items():
        write(folder / name)
        paths[name] = write_report(folder / name)
    return paths


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page whose console must stay empty and that may ask for one file only."""
    page = browser.new_page()
    said, asked = list[str](), list[str]()
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    yield page
    page.close()
    assert said == []
    assert len(set(asked)) == 1, "one self-contained file"


def show(page: Page, path: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(path.as_uri())


def open_all(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_cut_off(page: Page, reports: dict[str, Path], shape: str, width: int) -> None:
    show(page, reports[shape], width)
    assert page.evaluate(CUT_OFF) == []
    open_all(page)
    assert page.evaluate(CUT_OFF) == []


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_cut_off_on_paper(page: Page, reports: dict[str, Path], shape: str) -> None:
    page.emulate_media(media="print")
    show(page, reports[shape], PAPER)
    open_all(page)
    assert page.evaluate(CUT_OFF) == []


def test_a_table_that_is_cut_off_would_be_found(page: Page, reports: dict[str, Path]) -> None:
    show(page, reports["plain"], 390)
    page.add_style_tag(content="table * { white-space: nowrap !important; } tr { display: table-row !important; }")
    assert page.evaluate(CUT_OFF) != []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("shape", ["twelve_rounds", "plain"])
def test_every_text_stands_out(page: Page, reports: dict[str, Path], shape: str, scheme: str) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    show(page, reports[shape], 1280)
    open_all(page)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    assert dark == (scheme == "dark")
    assert page.evaluate(FAINT) == []


def test_the_keyboard_opens_and_closes_every_part(page: Page, reports: dict[str, Path]) -> None:
    show(page, reports["plain"], 768)
    parts = page.locator("summary").count()
    assert parts > 5
    seen = []
    for _ in range(parts):
        page.keyboard.press("Tab")
        part = page.evaluate("document.activeElement.textContent")
        before = page.evaluate("document.activeElement.parentElement.open")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.parentElement.open") != before
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        seen.append(part)
    assert seen == page.locator("summary").all_text_contents()


def test_letters_keep_their_size_and_arabic_runs_from_the_right(page: Page, reports: dict[str, Path]) -> None:
    show(page, reports["scripts"], 390)
    assert page.evaluate("document.querySelector('.chart text').getBoundingClientRect().height") >= 12
    directions = page.evaluate("[...document.querySelectorAll('pre')].map(each => getComputedStyle(each).direction)")
    assert {"ltr", "rtl"} == set(directions)
