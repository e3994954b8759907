"""The dry run shows what will be asked and trained, also without colour, and finds mistakes in your own parts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from test_doctor import configuration

from commands import Selfevo
from selfevo.checks.preview import preview
from selfevo.errors import ConfigError
from selfevo.report.terminal import PlainConsole


def shown(config: object, width: int = 80) -> str:
    console = PlainConsole(file=io.StringIO(), width=width)
    preview(config, console)  # type: ignore[arg-type]
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_loss_mask_is_there_without_colour(tiny_model: Path, tmp_path: Path) -> None:
    text = shown(configuration(tiny_model, tmp_path))
    assert "Training sequences: ⟦in the loss⟧, not in the loss; ⏎ ends a line" in text
    assert "<|im_start|>user⏎\nSort: 9 8<|im_end|>⏎\n<|im_start|>assistant⏎\n⟦8 9<|im_end|>⟧" in text
    assert "⟦Wrong order.⏎\nVerdict: not qualified<|im_end|>⟧⏎\n" in text
    assert text.count("⟦") == text.count("⟧")


def test_the_first_prompts_of_the_pool_are_shown_as_they_will_be_asked(tiny_model: Path, tmp_path: Path) -> None:
    text = shown(configuration(tiny_model, tmp_path))
    asked = text[text.index("asked: respond, the first prompts of the pool") :]
    for number in range(3):
        assert f"<|im_start|>user⏎\nSort: {number} 1<|im_end|>⏎\n<|im_start|>assistant⏎\n" in asked
    assert "Sort: 3 1" not in asked
    assert max(map(len, text[text.index("estimate") :].splitlines())) <= 80


@pytest.mark.parametrize(
    ("section", "part", "message"),
    [
        ("filter", "class Part:\n    pass\n", "a filter needs"),
        ("filter", "1 / 0\n", "ZeroDivisionError"),
        ("engine", "class Part:\n    pass\n", "an engine needs"),
        ("objective", "def Part():\n    return []\n", "an objective needs"),
        ("corpus", "class Part:\n    pass\n", "an annotator needs"),
    ],
)
def test_a_mistake_in_your_own_part_is_found(
    section: str, part: str, message: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = f"mine_{section}_{len(part)}"
    (tmp_path / f"{module}.py").write_text(part)
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps({"prompt": f"Order: {i}"}) + "\n" for i in range(3)))
    name = {"kind": f"{module}:Part"}
    more = {"corpus": {"prompts": "labels.jsonl", "annotator": name}} if section == "corpus" else {section: name}
    with pytest.raises(ConfigError, match=message):
        shown(configuration(tiny_model, tmp_path, **more))


def test_no_color_is_heeded(
    selfevo: Selfevo, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configuration(tiny_model, tmp_path)
    (tmp_path / "run.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    monkeypatch.setenv("NO_COLOR", "1")
    code, out, _ = selfevo("run", "run.yaml", "--dry-run")
    assert code == 0
    assert "\x1b" not in out and "⟦8 9" in out
