"""What the documentation says is true of the code."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from selfevo.cli.app import TEMPLATE
from selfevo.config.loading import load_config

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results.md"


def script(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_configuration_reference_is_what_the_types_say() -> None:
    generate = script("docs/generate_configuration.py")
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == generate.render(), "run: python docs/generate_configuration.py"


def test_the_template_of_init_is_a_valid_configuration() -> None:
    config = load_config(TEMPLATE)
    assert config.policy == "restart" and config.rounds == 3


def test_every_file_the_readme_links_to_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in (part.split(")")[0] for part in readme.split("](")[1:]):
        assert target.startswith("http") or (ROOT / target).exists(), target


@pytest.mark.parametrize(
    "command", re.findall(r"^    python experiments/summarise.py (.*)$", RESULTS.read_text(encoding="utf-8"), re.M)
)
def test_the_tables_of_the_results_are_in_their_files(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    script("experiments/summarise.py").main(shlex.split(command))
    printed = [line for line in capsys.readouterr().out.splitlines() if line]
    written = RESULTS.read_text(encoding="utf-8").splitlines()
    assert printed and not [line for line in printed if line not in written]
