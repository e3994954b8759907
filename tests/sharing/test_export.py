"""Rows of a run as JSONL: what TRL reads, every row accounted for."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.api import RunResult
from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError, DataError, RunError
from selfevo.method.prompts import CRITIQUE, ENGLISH, REFINE, Wording
from selfevo.method.records import Judged
from selfevo.rundir.atomic_files import read_rows
from selfevo.sharing.export import _as, export_rows


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def judged(config: RunConfig, number: int) -> list[dict[str, Any]]:
    return list(read_rows(config.output / f"stages/round-{number}/filter.jsonl"))


@pytest.mark.parametrize("rows", ["kept", "all"])
@pytest.mark.parametrize("form", ["sft", "preference", "trajectories"])
def test_every_row_is_written_or_left_out_with_its_reason(
    finished: RunConfig, tmp_path: Path, form: Any, rows: Any
) -> None:
    found = export_rows(finished.output, form, tmp_path / "rows.jsonl", rows=rows)
    written = lines(tmp_path / "rows.jsonl")
    assert found.rows == 24 == found.written + sum(found.left_out.values())
    assert found.written == len(written) > 0
    assert found.rounds == (1, 2, 3)
    expected = [
        (row["id"], number, row["kept"])
        for number in (1, 2, 3)
        for row in judged(finished, number)
        if (row["kept"] or rows == "all")
        and (form != "preference" or row["refinement"].strip() != row["response"].strip())
    ]
    assert [(row["id"], row["round"], row["kept"]) for row in written] == expected
    rejected = Counter(row["reason"] for number in (1, 2, 3) for row in judged(finished, number) if not row["kept"])
    assert {reason: found.left_out.get(reason, 0) for reason in rejected} == (
        rejected if rows == "kept" else dict.fromkeys(rejected, 0)
    )
    assert any(reason.endswith(": cut at max_new_tokens") for reason in found.left_out)


def test_rounds_can_be_chosen(finished: RunConfig, tmp_path: Path) -> None:
    found = export_rows(finished.output, "sft", tmp_path / "rows.jsonl", rounds=[3, 1, 3])
    assert (found.rounds, found.rows) == ((1, 3), 16)
    assert {row["round"] for row in lines(tmp_path / "rows.jsonl")} == {1, 3}
    with pytest.raises(RunError, match="no filtered rows of round 7; it has those of rounds 1, 2, 3"):
        export_rows(finished.output, "sft", tmp_path / "other.jsonl", rounds=[2, 7])
    assert not (tmp_path / "other.jsonl").exists()


def test_trl_reads_each_form(finished: RunConfig, tmp_path: Path, tiny_model: Path) -> None:
    from datasets import load_dataset
    from transformers import AutoTokenizer
    from trl.data_utils import apply_chat_template, is_conversational

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    forms: tuple[Any, ...] = ("sft", "preference", "trajectories")
    for form in forms:
        path = tmp_path / f"{form}.jsonl"
        export_rows(finished.output, form, path)
        example = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))[0]
        assert is_conversational(example)
        texts = apply_chat_template(example, tokenizer)
        assert all(example[key] for key in ("id", "round"))
        assert "<|im_start|>assistant" in "".join(texts.values())


def test_what_a_reasoning_model_was_trained_on_is_exported_with_its_thinking() -> None:
    """Past turns are asked without it."""
    thought, again = "<think>Hm.</think>\n\n3", "<think>Ah.</think>\n\n4"
    row = Judged("id", "p", thought, "f", again, "v")
    chosen = {"role": "assistant", "content": again}
    forms: tuple[Any, ...] = ("sft", "preference", "trajectories")
    found = {form: _as(form, row, ENGLISH) for form in forms}
    assert found["sft"] == {"messages": [{"role": "user", "content": "p"}, chosen]}
    assert found["preference"] is not None
    assert found["preference"]["chosen"] == [chosen]
    assert found["preference"]["rejected"] == [{"role": "assistant", "content": thought}]
    assert found["trajectories"] is not None
    assert [turn["content"] for turn in found["trajectories"]["messages"]] == ["p", "3", CRITIQUE, "f", REFINE, again]
    assert _as("preference", Judged("id", "p", thought, "f", "<think>So.</think>3", "v"), ENGLISH) is None


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@given(TEXT, TEXT, TEXT, TEXT, TEXT, st.lists(TEXT, max_size=2).filter(lambda turns: len(turns) != 1))
def test_system_prompt_and_history_are_kept(p: str, r: str, f: str, refined: str, system: str, said: list[str]) -> None:
    row = Judged("id", p, r, f, refined, "v", system=system, history=tuple(said))
    before = [("system", system), *zip(("user", "assistant"), said, strict=False), ("user", p)]

    def turns(found: list[dict[str, str]]) -> list[tuple[str, str]]:
        return [(each["role"], each["content"]) for each in found]

    sft, pair, whole = (_as(form, row, ENGLISH) for form in ("sft", "preference", "trajectories"))
    assert sft is not None
    assert whole is not None
    assert turns(sft["messages"]) == [*before, ("assistant", refined)]
    later = [("assistant", r), ("user", CRITIQUE), ("assistant", f), ("user", REFINE), ("assistant", refined)]
    assert turns(whole["messages"]) == [*before, *later]
    assert (pair is None) == (r.strip() == refined.strip())
    if pair is not None:
        assert turns(pair["prompt"]) == before
        assert (turns(pair["chosen"]), turns(pair["rejected"])) == ([("assistant", refined)], [("assistant", r)])


def test_trajectories_ask_in_the_words_of_the_run(copy: RunConfig, tmp_path: Path) -> None:
    path = copy.output / "config.json"
    words = {"critique": "Prüfe das.", "refine": "Besser, bitte."}
    path.write_text(json.dumps({**json.loads(path.read_text()), "wording": Wording(**words).learnt}))
    export_rows(copy.output, "trajectories", tmp_path / "rows.jsonl")
    for row in lines(tmp_path / "rows.jsonl"):
        assert [each["content"] for each in row["messages"] if each["role"] == "user"][1:] == list(words.values())


def test_nothing_is_overwritten_and_nothing_half_written(copy: RunConfig, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("precious")
    with pytest.raises(ConfigError, match=r"rows\.jsonl exists; give another name"):
        export_rows(copy.output, "sft", path)
    assert path.read_text() == "precious"
    filtered = copy.output / "stages/round-2/filter.jsonl"
    filtered.write_text(filtered.read_text() + "\n")
    with pytest.raises(RunError, match=r"filter\.jsonl was changed after it was finished .* selfevo verify"):
        export_rows(copy.output, "sft", tmp_path / "new.jsonl")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["rows.jsonl", "run"]


def test_what_cannot_be_exported_is_said(copy: RunConfig, tmp_path: Path) -> None:
    forms: tuple[Any, Any] = ("dpo", "some")
    with pytest.raises(ConfigError, match="format is 'dpo'; give one of sft, preference, trajectories"):
        export_rows(copy.output, forms[0], tmp_path / "rows.jsonl")
    with pytest.raises(ConfigError, match="rows is 'some'; give one of kept, all"):
        export_rows(copy.output, "sft", tmp_path / "rows.jsonl", rows=forms[1])
    with pytest.raises(RunError, match="is not a run directory"):
        export_rows(tmp_path, "sft", tmp_path / "rows.jsonl")
    for path in copy.output.glob("stages/round-*/filter.*"):
        path.unlink()
    with pytest.raises(RunError, match="no filtered rows of round 1; it has none yet"):
        export_rows(copy.output, "sft", tmp_path / "rows.jsonl")


def test_a_round_without_such_a_row_is_an_error(copy: RunConfig, tmp_path: Path) -> None:
    from selfevo.rundir.atomic_files import write_done

    path = copy.output / "stages/round-1/filter.jsonl"
    rows = [{**row, "kept": False, "reason": "verdict not qualified"} for row in read_rows(path)]
    write_done(path, map(json.dumps, rows), lambda: {"rows": {"in": len(rows)}})
    with pytest.raises(DataError, match=r"no row can be written as sft: .*\d+ verdict not qualified"):
        export_rows(copy.output, "sft", tmp_path / "rows.jsonl", rounds=[1])
    assert export_rows(copy.output, "sft", tmp_path / "rows.jsonl", rounds=[1], rows="all").written == len(rows)


def test_python_has_it_too(finished: RunConfig, tmp_path: Path) -> None:
    found = RunResult(finished.output).export("preference", tmp_path / "pairs.jsonl")
    assert found.written == len(lines(tmp_path / "pairs.jsonl"))
