"""README, CONTRIBUTING and the pages of docs/: links lead somewhere, commands exist, files that are named are there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from selfevo.cli.app import app
from selfevo.config.loading import parse_config

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOK = ROOT / "experiments" / "notebook.md"
GENERATED = [ROOT / "docs" / "reference" / name for name in ("command-line.md", "configuration.md", "results.md")]
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """Without fenced blocks, in which nothing is a link or a heading."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", [*PAGES, NOTEBOOK], ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(page))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(read(file)), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    pattern = r"`((?:src|tests|docs|examples|experiments|benchmarks)/[\w./-]+)`"
    assert [path for path in re.findall(pattern, read(page)) if not (ROOT / path).exists()] == []


def test_every_page_that_the_code_names_is_there() -> None:
    files = [path for folder in ("src", "experiments", "benchmarks") for path in (ROOT / folder).rglob("*")]
    for file in (path for path in files if path.suffix in (".py", ".yaml", ".sh", ".jinja")):
        for page in re.findall(r"docs/[\w/-]+\.md", read(file)):
            assert (ROOT / page).is_file(), f"{name_of(file)} names {page}"


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every call of selfevo that a page shows, in blocks and in the text, without its pipes and comments."""
    for page in PAGES:
        text = read(page)
        shown = [line for block in blocks(text, "shell") for line in block.replace("\\\n", " ").splitlines()]
        for line in [*shown, *re.findall(r"`(selfevo [^`]+)`", prose(text))]:
            for part in re.split(r"[|>&]", re.sub(r"(^|\s)#.*", "", line)):
                words = shlex.split(part)
                if "selfevo" in words:
                    yield name_of(page), words[words.index("selfevo") + 1 :]


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: str(value)[:60])
def test_every_command_that_a_page_shows_exists(page: str, words: list[str]) -> None:
    if words[0] in ("--help", "--version", "COMMAND"):
        return
    assert words[0] in COMMANDS, f"{page}: there is no command {words[0]}"
    known = {name for each in COMMANDS[words[0]].params for name in (*each.opts, *each.secondary_opts)} | {"--help"}
    assert {word for word in words if word.startswith("--")} <= known, f"{page}: {words}"


def test_every_goal_of_make_that_a_page_shows_exists() -> None:
    goals = set(re.findall(r"^(\w+):", read(ROOT / "Makefile"), re.MULTILINE))
    shown = {goal for page in PAGES for goal in re.findall(r"(?:`|^)make (\w+)", read(page), re.MULTILINE)}
    assert {"demo", "test", "docs"} <= shown <= goals


MINIMAL: dict[str, Any] = {
    "model": "m",
    "output": "o",
    "prompts": {"path": "pool.jsonl"},
    "corpus": {"path": "d_meta.jsonl"},
}


@pytest.mark.parametrize("page", [p for p in PAGES if "```yaml" in read(p)], ids=name_of)
def test_every_configuration_that_a_page_shows_is_one(page: Path) -> None:
    for block in blocks(read(page), "yaml"):
        shown: dict[str, Any] = {}
        # Alternatives stand below each other with the same key: each counts.
        for part in re.split(r"^(?=\w)", block, flags=re.MULTILINE):
            settings = yaml.safe_load(part)
            if settings is None:
                continue
            shown |= settings
            given = {**MINIMAL, **shown}
            if isinstance(given.get("rounds"), list):
                del given["prompts"]
            parse_config(given, f"{name_of(page)}: {part}")


def test_the_readme_is_short() -> None:
    lines = read(README).splitlines()
    assert len(lines) <= 120
    assert [line for line in lines if len(line) > 100] == []
    assert len([line for line in lines if re.fullmatch(r"\|[-|: ]+\|", line)]) == 1, "one table"


@pytest.mark.parametrize("page", [path for path in PAGES if path not in GENERATED], ids=name_of)
def test_prose_is_wrapped(page: Path) -> None:
    lines = [line for line in prose(read(page)).splitlines() if not line.startswith(("#", "|", "    "))]
    assert [line for line in lines if len(line) > 100] == []


def test_contributing_shows_the_tree_as_it_is() -> None:
    [tree] = [block for block in blocks(read(ROOT / "CONTRIBUTING.md"), "text") if block.startswith("src/selfevo/")]
    named = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    assert named == {path.name for path in (ROOT / "src" / "selfevo").iterdir() if (path / "__init__.py").exists()}


def test_every_page_is_on_the_map() -> None:
    pages = set(re.findall(r"^\s*- ([\w/-]+\.md)$", read(ROOT / "mkdocs.yml"), re.MULTILINE))
    there = {str(page.relative_to(ROOT / "docs")) for page in PAGES if ROOT / "docs" in page.parents}
    assert pages == there
