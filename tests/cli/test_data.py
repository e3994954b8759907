"""`selfevo data` shows what a file is read as, and the files of examples/layouts are all read as the same prompts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from commands import Selfevo, configuration, one_line
from commands import scripted as scripted  # fixtures
from commands import selfevo as selfevo
from selfevo.cli.app import TEMPLATE
from selfevo.data.conversations import COLUMNS
from selfevo.data.loading import load_corpus, load_prompts
from selfevo.data.tables import Row, read_table
from selfevo.engines.scripted import ScriptedEngine
from selfevo.method.records import Prompt

LAYOUTS = Path(__file__).parents[2] / "examples" / "layouts"
SYSTEM = "Answer with one number."
EARLIER = ("Mina has 9 stickers and gives 4 of them to her brother. How many stickers does she keep?", "5")
PROMPTS = [
    Prompt.of(
        "A bakery sells 8 loaves in the morning and 5 in the afternoon. How many loaves does it sell that day?",
        system=SYSTEM,
    ),
    Prompt.of("Add these numbers.\n\n3 8 11", system=SYSTEM),
    Prompt.of("And if she gives him 2 more?", system=SYSTEM, history=EARLIER),
]
FILES = sorted(path.name for path in LAYOUTS.iterdir())
SHOWN: list[tuple[str, str, set[str], dict[str, int]]] = [
    ("alpaca.json", "Alpaca", {"instruction", "system", "input", "history"}, {}),
    ("messages.jsonl", "messages", {"messages"}, {"the assistant's turn at the end": 3}),
    ("parts.jsonl", "messages", {"messages"}, {}),
    ("sharegpt.json", "ShareGPT", {"conversations", "system"}, {"the assistant's turn at the end": 3}),
    ("text.csv", "text", {"prompt", "system", "history"}, {}),
    ("text.jsonl", "text", {"prompt", "system", "history"}, {}),
    ("trl.jsonl", "messages", {"prompt"}, {}),
    ("turns.jsonl", "turns", {"turns"}, {"the turns after the first": 2}),
]


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("turns")])
def test_every_layout_of_the_examples_is_the_same_prompts(name: str) -> None:
    assert load_prompts(str(LAYOUTS / name)).rows == PROMPTS


def test_turns_have_neither_a_system_prompt_nor_earlier_turns() -> None:
    assert load_prompts(str(LAYOUTS / "turns.jsonl"), system=SYSTEM).rows == PROMPTS[:2]


def test_the_folder_of_the_examples_is_the_same_prompts_too() -> None:
    loaded = load_prompts(str(LAYOUTS), system=SYSTEM)
    assert loaded.rows == PROMPTS
    assert not loaded.unusable


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".json", ".jsonl"))])
def test_in_parquet_and_in_a_data_set_each_layout_is_the_same(name: str, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    values = [row.values for row in read_table(str(LAYOUTS / name)) if isinstance(row, Row)]
    names = {name for row in values for name in row}
    table = datasets.Dataset.from_list([{name: row.get(name) for name in names} for row in values])
    table.to_parquet(tmp_path / "a.parquet")
    table.save_to_disk(tmp_path / "saved")
    for source in (tmp_path / "a.parquet", tmp_path / "saved"):
        assert load_prompts(str(source), system=SYSTEM).rows == PROMPTS[: len(values)]


@pytest.mark.parametrize(("name", "layout", "columns", "left_off"), SHOWN)
def test_it_shows_what_each_example_is_read_as(
    selfevo: Selfevo, name: str, layout: str, columns: set[str], left_off: dict[str, int]
) -> None:
    code, out, err = selfevo("data", LAYOUTS / name, "--json")
    found = json.loads(out)
    rows = 2 if name == "turns.jsonl" else 3
    assert (code, err) == (0, "")
    assert (found["rows"], found["kept"], found["duplicates"], found["quarantined"]) == (rows, rows, 0, [])
    [read] = found["layouts"]
    assert (read["layout"], set(read["columns"]), read["rows"]) == (layout, columns, rows)
    assert found["left_off"] == left_off
    assert found["with_system"] == (0 if name == "turns.jsonl" else 3)
    assert found["with_history"] == (0 if name == "turns.jsonl" else 1)
    assert found["first"][-1] == {"role": "user", "content": PROMPTS[0].prompt}


def test_no_file_of_the_examples_is_left_out() -> None:
    assert sorted(each[0] for each in SHOWN) == FILES


def written(rows: list[Any]) -> str:
    Path("a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "a.jsonl"


def test_it_prints_counts_reasons_places_and_the_first_conversation(selfevo: Selfevo) -> None:
    tools = {"messages": [{"role": "user", "content": "u"}], "tools": [{"type": "function"}]}
    rows: list[Any] = [{"prompt": "p", "system": "Be [red]brief[/red].\x1b[2J", "history": ["u", "a"]}]
    rows += [{"prompt": f"p{i}"} for i in range(700)] + [{"prompt": "p1"}]
    code, out, err = selfevo("data", written([*rows, tools, {"prompt": ""}, tools]))
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[:8] == [
        "read as prompts, 701 of 705 rows",
        "layout text, from prompt, history, system: 701",
        "with system prompt 1",
        "with earlier turns 1",
        "duplicates 1",
        "quarantined 3",
        "2: column 'tools' has tools, which are not asked here; remove it to ask without (lines 703, 705 of a.jsonl)",
        "1: column 'prompt' is empty (line 704 of a.jsonl)",
    ]
    assert lines[9:] == ["system", "Be [red]brief[/red].\\x1b[2J", "user", "u", "assistant", "a", "user", "p"]


def test_a_file_that_a_run_would_not_take_is_shown_and_then_an_error(selfevo: Selfevo) -> None:
    user = {"role": "user", "content": "u"}
    source = written([{"messages": [user]}, {"messages": [user, user]}])
    for arguments in ((), ("--json",)):
        code, out, err = selfevo("data", source, *arguments)
        assert code == 2
        assert "messages 1 and 2 are both the user's" in out
        assert "a.jsonl: 1 of 2 rows cannot be used" in one_line(err)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "none.jsonl does not exist"),
        (["a.jsonl", "--column", "chat"], "a.jsonl has no column 'chat'; it has 'prompt'; name the column"),
        (["a.jsonl", "--split", "train"], "a.jsonl is a file, which has no splits"),
        (["a.jsonl", "--subset", "main"], "only a hub data set has a subset"),
        (["empty.jsonl"], "empty.jsonl holds no prompts; it is empty"),
    ],
)
def test_a_mistake_is_one_line(selfevo: Selfevo, arguments: list[str], message: str) -> None:
    written([{"prompt": "p"}])
    Path("empty.jsonl").touch()
    code, out, err = selfevo("data", *arguments)
    assert (code, out) == (2, "")
    assert message in one_line(err)


def test_d_meta_is_shown_as_such(selfevo: Selfevo) -> None:
    verdict = "Fine.\nVerdict: qualified"
    row = {"messages": [{"role": "user", "content": "u"}], "response": "r", "feedback": verdict, "refinement": "r"}
    code, out, _ = selfevo("data", written([row, row]), "--system", "s", "--json")
    found = json.loads(out)
    assert (code, found["read_as"], found["kept"], found["with_system"]) == (0, "D_meta", 2, 2)
    assert [each["role"] for each in found["first"]] == ["system", "user", "response", "feedback", "refinement"]
    assert "D_meta, 2 of 2 rows" in selfevo("data", "a.jsonl")[1]


def test_the_guide_shows_rows_that_are_read_and_every_file_of_the_examples(tmp_path: Path) -> None:
    guide = (LAYOUTS.parents[1] / "docs" / "guides" / "data.md").read_text(encoding="utf-8")
    [row] = re.findall(r"^```json\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    (tmp_path / "a.jsonl").write_text(row)
    [read] = load_corpus(str(tmp_path / "a.jsonl"), {}).rows
    assert Prompt(read.id, read.prompt, system=read.system) == PROMPTS[1]
    assert [name for name in FILES if f"`{name}`" not in guide] == []
    columns = [*COLUMNS, "system", "system_prompt", "history", "input", "context", "tools"]
    assert [name for name in columns if f"`{name}`" not in guide] == []


def test_answer_and_eval_take_conversations_and_a_system_prompt(selfevo: Selfevo, scripted: ScriptedEngine) -> None:
    configuration(Path())
    code, out, err = selfevo("answer", "base", "--file", LAYOUTS / "messages.jsonl", "--refine", "never", "--json")
    assert code == 0
    assert one_line(err) == "selfevo: the assistant's turn at the end of 3 rows is not asked"
    answers = [json.loads(line) for line in out.splitlines()]
    assert [(a["prompt"], a["system"]) for a in answers] == [(p.prompt, SYSTEM) for p in PROMPTS]
    assert [a.get("history", []) for a in answers] == [[], [], list(EARLIER)]
    assert [request.turns for _, request in scripted.calls] == [(*p.history, p.prompt) for p in PROMPTS]
    scripted.calls.clear()
    assert selfevo("answer", "base", "p", "--system", "Sing.", "--refine", "never")[0] == 0
    assert selfevo("eval", "base", "--task", "add-to-each", "--count", 2, "--system", "Sing.")[0] == 0
    assert {request.system for _, request in scripted.calls} == {"Sing."}
    for command in (("answer", "base", "p"), ("eval", "base", "--task", "demo", "--count", 1)):
        code, out, err = selfevo(*command, "--system", "a\0b")
        assert (code, out) == (2, "")
        assert "system" in one_line(err) and "holds a NUL character; correct it" in err


def test_the_template_of_init_names_the_command() -> None:
    assert "selfevo data" in TEMPLATE.read_text(encoding="utf-8")
