"""Sections that are told apart, by their source or by their kind, and sections that are given in part."""

from __future__ import annotations

from typing import Any

import pytest

from selfevo.config.base import OwnPart, Strict
from selfevo.config.loading import apply_overrides, parse_config, parse_engine
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import (
    DPOObjective,
    EndpointConfig,
    GRPOObjective,
    OwnEngine,
    SFTObjective,
    SkillsConfig,
    TransformersSettings,
    VLLMSettings,
)
from selfevo.config.sources import FilePrompts, PromptsCorpus, PromptsGate, TaskCorpus, TaskGate, TaskPrompts
from selfevo.errors import ConfigError
from selfevo.method.filters import ByVerdict, ByVotes, KeepAll, Length

MINIMAL: dict[str, Any] = {"model": "m", "output": "o", "prompts": {"path": "p"}, "corpus": {"path": "c"}}
DEMO = {"task": {"name": "demo"}}


def read(**changes: Any) -> RunConfig:
    return parse_config({**MINIMAL, **changes}, "x.yaml")


def refusal(**changes: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        read(**changes)
    return str(raised.value)


def test_a_section_that_is_given_in_part_keeps_the_other_defaults() -> None:
    defaults = SkillsConfig()
    skills = read(skills={"respond": {"max_new_tokens": 512}, "critique": {"temperature": 0.2}}).skills
    assert skills.respond == defaults.respond.model_copy(update={"max_new_tokens": 512})
    assert skills.respond.temperature == 0.7
    assert skills.critique == defaults.critique.model_copy(update={"temperature": 0.2})
    assert skills.critique.max_new_tokens == 512
    assert (skills.refine, skills.judge) == (defaults.refine, defaults.judge)


def test_it_does_so_at_every_depth() -> None:
    class Inner(Strict):
        a: int = 1
        b: int = 2

    class Middle(Strict):
        inner: Inner = Inner()
        c: int = 3

    class Outer(Strict):
        middle: Middle = Middle(inner=Inner(a=10), c=30)

    assert Outer.model_validate({"middle": {"inner": {"b": 20}}}) == Outer(middle=Middle(inner=Inner(a=10, b=20), c=30))


@pytest.mark.parametrize(
    ("key", "given", "kind"),
    [
        ("prompts", {"path": "p", "column": "text"}, FilePrompts),
        ("prompts", {**DEMO, "count": 9}, TaskPrompts),
        ("prompts", {"path": None, **DEMO}, TaskPrompts),
        ("corpus", {**DEMO, "labels": 9, "annotator": {"model": "m"}}, TaskCorpus),
        ("corpus", {"prompts": "p", "annotator": {"kind": "a.b:C", "options": {"x": 1}}}, PromptsCorpus),
        ("gate", {**DEMO, "mode": "refined"}, TaskGate),
        ("gate", {"prompts": "p", "samples": 3}, PromptsGate),
        ("engine", "vllm", VLLMSettings),
        ("engine", {"batch_size": 3}, TransformersSettings),
        ("engine", {"kind": "a.b:C", "options": {"x": 1}}, OwnEngine),
        ("objective", "sft", SFTObjective),
        ("objective", {"kind": "sft"}, SFTObjective),
        ("objective", "a.b:c", OwnPart),
    ],
)
def test_which_section_it_is_says_its_source_or_kind(key: str, given: Any, kind: type) -> None:
    config = read(**{key: given})
    assert type(getattr(config, key)) is kind
    assert parse_config(config.model_dump(mode="json"), "again") == config


@pytest.mark.parametrize("objective", [DPOObjective(beta=0.5), GRPOObjective(num_generations=4, beta=0.1)])
def test_an_objective_has_settings_of_its_own(objective: Any) -> None:
    written = objective.model_dump()
    assert read(objective=written, policy="continual-latest").objective == objective
    assert "continual-latest" in refusal(objective=written)


@pytest.mark.parametrize(
    ("written", "filters"),
    [
        ("verdict", (ByVerdict(),)),
        ("none", (KeepAll(),)),
        (["verdict", {"kind": "length", "max_characters": 9}], (ByVerdict(), Length(max_characters=9))),
        ({"kind": "verdict-votes", "votes": 3}, (ByVotes(votes=3),)),
        (["a.b:C", "distinct"], None),
    ],
)
def test_filters_in_a_configuration(written: Any, filters: Any) -> None:
    config = read(filter=written)
    if filters is not None:
        assert config.filter == filters
    else:
        assert config.filter[0] == OwnPart(kind="a.b:C") and config.filter[1].kind == "distinct"
    assert parse_config(config.model_dump(mode="json"), "again") == config


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"filter": "verdcit"}, "x.yaml: filter.0: there is no kind \"verdcit\"; did you mean 'verdict'?"),
        ({"filter": {"votes": 3}}, 'x.yaml: filter.0 is {"votes": 3}; add its kind'),
        ({"filter": []}, "filter is []; give one or more"),
        (
            {"filter": {"kind": "length", "max": 3}},
            "unknown key 'filter.0.max'; known here: kind, min_characters, max_",
        ),
        ({"filter": {"kind": "verdict-votes", "votess": 3}}, "'filter.0.votess'; did you mean 'votes'?"),
        ({"filter": {"kind": "verdict-votes", "share": 2}}, "filter.0.share is 2; give a number less than"),
        ({"filter": {"kind": "a.b:C", "option": {}}}, "unknown key 'filter.0.option'; did you mean 'options'?"),
        ({"filter": "gold"}, 'filter.0: there is no kind "gold"; known here: verdict, verdict-votes'),
        ({"prompts": {}}, "prompts: give exactly one of path and task; none is given"),
        ({"prompts": {**DEMO, "column": "x"}}, "unknown key 'prompts.column'; did you mean 'count'?"),
        ({"prompts": {"path": "p", "colum": "x"}}, "unknown key 'prompts.colum'; did you mean 'column'?"),
        ({"prompts": 3}, "prompts is 3; give keys and values"),
        ({"corpus": {"path": "c", **DEMO}}, "exactly one of path, prompts and task; path and task are given"),
        (
            {"corpus": {"path": "c", "share": 0.5}},
            "'corpus.share'; known here: max_doubtful_share, max_one_verdict, path, split, subset, "
            "revision, columns, max_bad_share",
        ),
        ({"corpus": {"path": "c", "labels": 3}}, "unknown key 'corpus.labels'"),
        ({"corpus": {"prompts": "p"}}, "'corpus.annotator' is missing; add it"),
        ({"corpus": {"prompts": "p", "annotator": {"modl": "m"}}}, "'corpus.annotator.modl'; did you mean 'model'?"),
        ({"corpus": {"task": {"name": "demo", "pth": "x"}}}, "'corpus.task.pth'; did you mean 'path'?"),
        ({"gate": {**DEMO, "samples": 3}}, "unknown key 'gate.samples'"),
        ({"gate": {"prompts": "p", "mode": "direct"}}, "unknown key 'gate.mode'"),
        ({"engine": "vlm"}, "engine: there is no kind \"vlm\"; did you mean 'vllm'?"),
        ({"engine": {"kind": "vllm", "device": "cpu"}}, "unknown key 'engine.device'"),
        ({"engine": "my-package:Name"}, "engine.kind: 'my-package:Name' does not have the form package.module:Name"),
        ({"objective": "ddpo"}, "objective: there is no kind \"ddpo\"; did you mean 'dpo'?"),
        ({"objective": {"kind": "dpo", "bta": 1}}, "unknown key 'objective.bta'; did you mean 'beta'?"),
        ({"ablation": {"refin": True}}, "unknown key 'ablation.refin'; did you mean 'refine'?"),
        ({"ablation": {"sft_labels": 300}}, "ablation.sft_labels is for a baseline, which needs an evaluation"),
        (
            {"prompts": None, "rounds": [{"prompts": "p"}, {}]},
            "rounds.1: give exactly one of prompts and self_instruct",
        ),
        ({"prompts": None, "rounds": [{"prompts": {"path": "p", "colum": "x"}}]}, "'rounds.0.prompts.colum'; did you"),
        (
            {"evaluation": {"task": {"name": "a.b:C", "path": "x"}}},
            "evaluation.task: path x is only for tasks of this package",
        ),
    ],
)
def test_a_mistake_is_told_of_the_section_at_hand_alone(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(**changes)


def test_an_engine_alone_is_explained_as_in_a_configuration() -> None:
    assert parse_engine({"kind": "vllm", "batch_size": 3}, "--engine") == VLLMSettings(batch_size=3)
    with pytest.raises(ConfigError, match="--engine: there is no kind \"vlm\"; did you mean 'vllm'"):
        parse_engine({"kind": "vlm"}, "--engine")


@pytest.mark.parametrize("url", ["http://localhost:8000/v1", "https://[::1]:8000/v1", "http://h_x/v1/", "http://ü.de"])
def test_the_address_of_a_server_is_taken(url: str) -> None:
    assert EndpointConfig(model="m", base_url=url).base_url == url.rstrip("/")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "//x",
        "http://",
        "http:h",
        "ftp://x",
        "http://[::1",
        "http://[v1.x]/",
        "http://a:99999999/v1",
        "http://h:-1/",
        "http://h:abc/v1",
        "http://h:65536",
        "http://a b/v1",
        " http://h/v1",
        "http://h/\tv1",
        "http://h\n/v1",
        "http://\x7f/",
        "http://ü\\/v1",
        "http://..a/v1",
        "http://999.1.1.1/v1",
        "http://\ud83d/v1",
        f"http://{'a' * 64}.de/v1",
        f"http://{'é' * 70}.de/v1",
    ],
)
def test_what_no_client_can_call_is_refused_before_a_call(url: str) -> None:
    said = refusal(corpus={"prompts": "p", "annotator": {"model": "m", "base_url": url}})
    assert said == (
        "x.yaml: corpus.annotator.base_url: not the address of a server; give one such as http://localhost:8000/v1"
    )


def test_what_nests_without_end_is_refused() -> None:
    itself: dict[str, Any] = {}
    itself["again"] = [itself]
    deep: dict[str, Any] = {}
    for _ in range(60):
        deep = {"a": deep}
    for options in (itself, deep):
        said = refusal(prompts={"task": {"name": "my.module:Task", "options": options}})
        assert said == "x.yaml: it has more than 50 levels, or holds itself; make it flatter"
    with pytest.raises(ConfigError, match="more than 50 levels"):
        parse_config(apply_overrides(MINIMAL, [f"{'a.' * 3000}b=1"]), "x.yaml")
