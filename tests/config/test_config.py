"""A configuration that is wrong is refused in one line that names the value, the place and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from selfevo.config.loading import load_config, parse_config
from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError
from selfevo.method.filters import ByVerdict

MINIMAL: dict[str, Any] = {
    "model": "m",
    "output": "out",
    "prompts": {"path": "p.jsonl"},
    "corpus": {"path": "d.jsonl"},
}


def written(folder: Path, content: Any) -> Path:
    path = folder / "run.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message, "an error is one line"
    assert "pydantic" not in message
    return message


def test_a_minimal_configuration_is_the_papers_method(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, MINIMAL))
    assert (config.policy, config.beta, config.filter, config.rounds) == ("restart", 1.0, (ByVerdict(),), 3)
    assert config.evaluation is None
    assert config.output == Path("out")
    assert config.skills.respond.to_sampling().temperature > 0
    assert config.skills.judge.to_sampling().temperature == 0


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"polcy": "restart"}, ["unknown key 'polcy'", "did you mean 'policy'?"]),
        ({"trainer": {"learning_rte": 1e-4}}, ["unknown key 'trainer.learning_rte'", "did you mean 'learning_rate'?"]),
        ({"skills": {"respond": {"temprature": 1}}}, ["'skills.respond.temprature'", "did you mean 'temperature'?"]),
        (
            {"corpus": {"task": {"name": "demo", "pth": "x"}}},
            ["unknown key 'corpus.task.pth'", "did you mean 'path'?"],
        ),
        ({"trainer": {"lora": {"rank_of_it": 3}}}, ["'trainer.lora.rank_of_it'", "known here: r, lora_alpha"]),
        ({"zzz": 1}, ["unknown key 'zzz'", "known here: model, output"]),
        ({"rounds": "many"}, ['rounds is "many"', "give a whole number"]),
        ({"rounds": 0}, ["rounds is 0", "greater than 0"]),
        ({"beta": -1}, ["beta is -1", "greater than or equal to 0"]),
        ({"policy": "rewind"}, ['policy is "rewind"', "'restart'", "'continual-mixed'", "'continual-latest'"]),
        ({"filter": "verdcit"}, ["filter.0", 'no kind "verdcit"', "did you mean 'verdict'?"]),
        ({"trainer": {"warmup_ratio": 1.5}}, ["trainer.warmup_ratio is 1.5", "less than or equal to 1"]),
        ({"trainer": None}, ["trainer is null"]),
        ({"skills": {"judge": {"top_p": 0}}}, ["skills.judge.top_p is 0", "greater than 0"]),
        (
            {"evaluation": {"task": {"name": "demo"}, "models": ["bse"]}},
            ['evaluation.models.0 is "bse"', "'base'"],
        ),
        (
            {"evaluation": {"task": {"name": "demo"}}, "ablation": {"sft_labels": 9}},
            ["ablation.sft_labels=9", "at least corpus.labels"],
        ),
        ({"evaluation": {"count": 5}}, ["'evaluation.task' is missing"]),
        ({"prompts": {}}, ["prompts", "exactly one of path and task", "none is given"]),
        (
            {"prompts": {"path": "a", "task": {"name": "demo"}}},
            ["prompts", "exactly one of path and task", "path and task are given"],
        ),
        (
            {"corpus": {"path": "a", "task": {"name": "demo"}}},
            ["corpus", "exactly one of path, prompts and task", "path and task are given"],
        ),
        ({"corpus": {"path": "a", "columns": {"promt": "x"}}}, ["'corpus.columns.promt'", "did you mean 'prompt'?"]),
    ],
)
def test_a_wrong_value_is_named_with_its_place_and_remedy(
    tmp_path: Path, change: dict[str, Any], parts: list[str]
) -> None:
    path = written(tmp_path, {**MINIMAL, **change})
    message = refusal(path)
    for part in [str(path), *parts]:
        assert part in message


@pytest.mark.parametrize("key", ["model", "output"])
def test_a_missing_key_is_named(tmp_path: Path, key: str) -> None:
    path = written(tmp_path, {name: value for name, value in MINIMAL.items() if name != key})
    assert refusal(path) == f"{path}: {key!r} is missing; add it"


def test_several_mistakes_come_in_one_line(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, {**MINIMAL, "rounds": 0, "betta": 1}))
    assert "rounds is 0" in message
    assert "did you mean 'beta'?" in message


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ("", "NoneType"),
        ("- a\n- b\n", "list"),
        ("just words", "str"),
        ("a: [1, 2", "is not YAML"),
        ("a: b: c", "is not YAML"),
        ("a: 1\n\tb: 2", "is not YAML"),
    ],
)
def test_a_file_that_holds_no_configuration(tmp_path: Path, content: str, part: str) -> None:
    path = written(tmp_path, content)
    message = refusal(path)
    assert str(path) in message
    assert part in message


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(b"\xff\xfe\x00model")
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("name", ["absent.yaml", "."])
def test_a_missing_file_says_how_to_get_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    message = refusal(path)
    assert f"{path} does not exist" in message
    assert "selfevo init" in message


def test_overrides_win_over_the_file_and_are_read_as_yaml(tmp_path: Path) -> None:
    path = written(tmp_path, {**MINIMAL, "seed": 1, "trainer": {"learning_rate": 1e-5, "weight_decay": 0.1}})
    config = load_config(
        path,
        [
            "seed=7",
            "seed=8",
            "trainer.learning_rate=3e-4",
            "trainer.lora.r=4",
            "skills.respond.temperature=0",
            "evaluation={task: {name: demo}, count: 5}",
            "model=a=b",
            "prompts.count=null",
        ],
    )
    assert config.seed == 8
    assert config.trainer.learning_rate == 3e-4
    assert config.trainer.weight_decay == 0.1
    assert config.trainer.lora is not None
    assert config.trainer.lora.r == 4
    assert config.skills.respond.temperature == 0
    assert config.evaluation is not None
    assert config.evaluation.count == 5
    assert config.model == "a=b"
    assert config.prompts is not None
    assert config.prompts.count is None


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("seed", ["'seed'", "key.subkey=value"]),
        ("=3", ["'=3'", "key.subkey=value"]),
        ("seed.deep=3", ["'seed.deep=3'", "'seed' holds a value"]),
        ("sede=3", ["unknown key 'sede'", "did you mean 'seed'?"]),
        ("seed=x", ['seed is "x"', "give a whole number"]),
        ("seed=[1", ["'seed=[1'", "YAML"]),
        ("model={", ["'model={'", "YAML"]),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, parts: list[str]) -> None:
    message = refusal(written(tmp_path, {**MINIMAL, "seed": 1}), override)
    for part in parts:
        assert part in message


def test_the_file_itself_is_not_changed_by_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, MINIMAL)
    before = path.read_bytes()
    load_config(path, ["seed=3"])
    assert path.read_bytes() == before


def test_a_resolved_configuration_reads_back_as_itself() -> None:
    """config.yaml of a run directory can be given to `selfevo run` again."""
    config = parse_config({**MINIMAL, "trainer": {"lora": {}}, "evaluation": {"task": {"name": "demo"}}}, "x")
    assert RunConfig.model_validate(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config
