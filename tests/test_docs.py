"""What the documentation says is true of the code."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from selfevo.cli import TEMPLATE
from selfevo.config_file import load_config

ROOT = Path(__file__).parents[1]


def test_configuration_reference_is_what_the_types_say() -> None:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate_configuration.py")
    assert spec is not None and spec.loader is not None
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == generate.render(), "run: python docs/generate_configuration.py"


def test_the_template_of_init_is_a_valid_configuration() -> None:
    config = load_config(TEMPLATE)
    assert config.policy == "restart" and config.rounds == 3


def test_every_file_the_readme_links_to_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in (part.split(")")[0] for part in readme.split("](")[1:]):
        assert target.startswith("http") or (ROOT / target).exists(), target
