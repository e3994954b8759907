"""What the documentation says is true of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from selfevo.cli.app import TEMPLATE
from selfevo.config.loading import load_config

ROOT = Path(__file__).parents[1]
RESULTS = [*sorted((ROOT / "docs" / "results").glob("*.md")), ROOT / "docs" / "guides" / "clusters.md"]


def script(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_reference_is_what_the_types_say() -> None:
    generate = script("docs/generate_configuration.py")
    written = generate.TARGET.read_text(encoding="utf-8")
    assert written == generate.render(), "run: python docs/generate_configuration.py"


def test_results_reference_is_what_the_types_say() -> None:
    generate = script("docs/generate_results_reference.py")
    for name, text in generate.pages().items():
        written = (ROOT / "docs" / "reference" / name).read_text(encoding="utf-8")
        assert written == text, "run: python docs/generate_results_reference.py"


def test_command_line_reference_is_what_the_commands_say() -> None:
    generate = script("docs/generate_command_line.py")
    written = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    assert written == generate.render(), "run: python docs/generate_command_line.py"


def test_the_template_of_init_is_a_valid_configuration() -> None:
    config = load_config(TEMPLATE)
    assert config.policy == "restart" and config.rounds == 3


@pytest.mark.parametrize("page", RESULTS, ids=lambda page: page.stem)
def test_the_tables_of_the_results_are_what_their_commands_print(page: Path) -> None:
    written = page.read_text(encoding="utf-8")
    assert script("docs/generate_results.py").render(written) == written, "run: python docs/generate_results.py"


def test_a_table_that_is_not_what_its_command_prints_is_replaced_and_the_text_around_it_kept() -> None:
    generate = script("docs/generate_results.py")
    command = "    python experiments/summarise.py docs/results/questions.json dpo:meta"
    table = generate.output("experiments/summarise.py", ["docs/results/questions.json", "dpo:meta"])
    assert len(table) == 3 and table[2].startswith("| dpo against meta | +11.0 ")
    wrong = f"# Title\n\n{command}\n\n| comparison |\n|---|\n| invented |\n\nseed 0: 1.0 min\n\nText.\n"
    assert generate.render(wrong) == "\n".join(["# Title", "", command, "", *table, "", "Text.", ""])


def test_the_results_have_tables() -> None:
    """A pattern that matches no command any more would let every page through."""
    command = script("docs/generate_results.py").COMMAND
    lines = [line for page in RESULTS for line in page.read_text(encoding="utf-8").splitlines()]
    assert sum(bool(command.fullmatch(line)) for line in lines) > 30
