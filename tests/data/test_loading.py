"""What the readers promise: every row is kept or set aside with its place and reason, and errors say what to do."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.data.loading import Loaded, load_corpus, load_prompts
from selfevo.data.tables import BadRow, Row, Source, read_table
from selfevo.errors import DataError
from selfevo.method.records import Prompt, Refined

QUALIFIED = "Good.\nVerdict: qualified"


def lines(path: Path, rows: Sequence[Any]) -> str:
    """Writes JSONL; bytes go in as they are."""
    path.write_bytes(b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows))
    return str(path)


def many(extra: Sequence[Any], count: int = 300) -> list[Any]:
    """`extra` after so many good rows that a bad one or three are below the limit."""
    return [*({"prompt": f"question {i}"} for i in range(count)), *extra]


def texts(loaded: Loaded[Prompt]) -> list[str]:
    return [prompt.prompt for prompt in loaded.rows]


def test_prompts_keep_their_order_and_their_text(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", [{"q": " zwei "}, {"q": "eins"}, b"   ", {"q": "drei\u2028vier"}])
    loaded = load_prompts(source, "q")
    assert texts(loaded) == ["zwei", "eins", "drei\u2028vier"]
    assert loaded.quarantined == []


def test_duplicates_name_the_line_they_repeat(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", [{"prompt": "a"}, {"prompt": "b"}, {"prompt": " a\n"}])
    loaded = load_prompts(source)
    assert texts(loaded) == ["a", "b"]
    assert loaded.quarantined == [BadRow(source, 3, "duplicate of line 1")]


def test_duplicates_across_files_name_the_file(tmp_path: Path) -> None:
    first = lines(tmp_path / "1.jsonl", [{"prompt": "a"}])
    second = lines(tmp_path / "2.jsonl", [{"prompt": "a"}])
    assert load_prompts(str(tmp_path)).quarantined == [BadRow(second, 1, f"duplicate of line 1 of {first}")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"prompt": "torn', "is not JSON"),
        (b'{"prompt": "a\0b"}', "is not JSON"),
        (b'{"prompt": "a\\u0000b"}', "NUL"),
        (b'{"prompt": "a\\ud800b"}', "surrogate"),
        (b'{"prompt": "\xff\xfe"}', "is not UTF-8"),
        (b'{"prompt": ' + b"9" * 5000 + b"}", "is not usable JSON"),
        (b"[" * 100_000, "is not usable JSON"),
        (b'["prompt"]', "holds list"),
        (b"null", "holds NoneType"),
        (b'{"prompt": 7}', "holds int, not text"),
        (b'{"prompt": ["a"]}', "message 1 is str, not an object"),
        (b'{"prompt": null}', "is empty"),
        (b'{"prompt": " "}', "is empty"),
        (b'{"question": "a"}', "is missing"),
        (b'\xef\xbb\xbf{"prompt": "a BOM in the middle"}', "is not JSON"),
    ],
)
def test_a_hostile_line_costs_only_itself(tmp_path: Path, line: bytes, reason: str) -> None:
    loaded = load_prompts(lines(tmp_path / "a.jsonl", many([line, {"prompt": "last"}])))
    assert len(loaded.rows) == 301
    assert [(row.line, reason in row.reason) for row in loaded.quarantined] == [(301, True)]


def test_a_line_of_fifty_megabytes_is_set_aside_without_being_read(tmp_path: Path) -> None:
    long = b'{"prompt": "' + b"x" * 50_000_000 + b'"}'
    loaded = load_prompts(lines(tmp_path / "a.jsonl", many([long, {"prompt": "last"}])))
    assert texts(loaded)[-1] == "last"
    (row,) = loaded.quarantined
    assert (row.line, row.reason) == (301, "is 50,000,015 bytes long; at most 33,554,432 are allowed")


def test_a_thousand_good_rows_survive_every_kind_of_bad_one(tmp_path: Path) -> None:
    bad = [b'{"prompt": "torn', b'{"prompt": "a\\u0000b"}', b'{"prompt": "a\\ud800b"}', b'{"prompt": 7}', b"\xff"]
    bad += [b'\xef\xbb\xbf{"prompt": "a BOM in the middle"}', b'{"prompt": "' + b"x" * 50_000_000 + b'"}']
    rows: list[Any] = [{"prompt": f"question {i}"} for i in range(1000)]
    for i, line in enumerate([*bad, {"prompt": "question 5"}]):
        rows.insert(100 * (i + 1), line)
    rows.append(b'{"prompt": "torn at the end')
    loaded = load_prompts(lines(tmp_path / "a.jsonl", rows))
    assert texts(loaded) == [f"question {i}" for i in range(1000)]
    assert [row.line for row in loaded.quarantined] == [*range(101, 802, 100), 1009]
    assert all(row.file.endswith("a.jsonl") and row.reason for row in loaded.quarantined)
    with pytest.raises(DataError, match=r"8 of 1009 rows cannot be used, more than 0\.5%; .* raise max_bad_share"):
        load_prompts(str(tmp_path / "a.jsonl"), max_bad_share=0.005)


def test_a_byte_order_mark_at_the_start_is_no_fault(tmp_path: Path) -> None:
    loaded = load_prompts(lines(tmp_path / "a.jsonl", [b'\xef\xbb\xbf{"prompt": "a"}', {"prompt": "b"}]))
    assert texts(loaded) == ["a", "b"]


@given(
    st.lists(st.one_of(st.binary(max_size=30), st.text(max_size=20).map(lambda t: json.dumps({"prompt": t}).encode())))
)
def test_no_content_of_a_file_escapes_the_accounting(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "a.jsonl"
    path.write_bytes(b"\n".join(rows))
    expected = sum(bool(line.strip()) for line in path.read_bytes().split(b"\n"))
    assert len(list(read_table(str(path)))) == expected
    try:
        loaded = load_prompts(str(path))
    except DataError:
        return
    assert len(loaded.rows) + len(loaded.quarantined) == expected


def test_many_bad_rows_stop_with_the_first_three(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", many([b"{", b"{", b"{", b"{"]))
    with pytest.raises(DataError, match=r"4 of 304 rows .*line 301.*line 302.*line 303.*\.\.\.$") as error:
        load_prompts(source)
    assert "304:" not in str(error.value)


def test_one_bad_row_in_a_hundred_is_still_allowed(tmp_path: Path) -> None:
    assert len(load_prompts(lines(tmp_path / "a.jsonl", many([b"{"], 99))).quarantined) == 1
    with pytest.raises(DataError, match="1 of 99 rows"):
        load_prompts(lines(tmp_path / "b.jsonl", many([b"{"], 98)))


def test_a_missing_column_names_column_file_and_columns(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(
        DataError, match=r"a\.jsonl has no column 'prompt'; it has 'question', 'answer'.*prompts\.column"
    ):
        load_prompts(source)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"[]"])
def test_an_empty_source_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="holds no prompts; it is empty"):
        load_prompts(str(path))


@pytest.mark.parametrize(
    "name", ["missing.jsonl", "sub/folder/missing", "./missing", "/nowhere:train", "a.jsonl:train"]
)
def test_a_missing_file_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    lines(tmp_path / "a.jsonl", [{"prompt": "a"}])
    with pytest.raises(DataError, match="does not exist; correct the path"):
        load_prompts(name)


def test_an_unknown_kind_of_file_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_text("prompt\na\n")
    with pytest.raises(DataError, match=r"unknown suffix '\.xlsx'; use one of \.jsonl"):
        load_prompts(str(tmp_path / "a.xlsx"))


def test_a_json_list_counts_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff [{"prompt": "a"}, 3]', encoding="utf-8")
    assert list(read_table(str(path))) == [
        Row(str(path), 1, {"prompt": "a"}),
        BadRow(str(path), 2, "holds int, not a JSON object"),
    ]


@pytest.mark.parametrize("content", [b"[{", b"[" * 100_000, b"\xff\xfe[\0"])
def test_a_damaged_json_list_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        load_prompts(str(tmp_path / "a.json"))


def test_json_lines_under_the_name_json_are_read(tmp_path: Path) -> None:
    assert texts(load_prompts(lines(tmp_path / "a.json", [{"prompt": "a"}, {"prompt": "b"}]))) == ["a", "b"]


def write_parquet(path: Path, prompts: Sequence[str | None]) -> str:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"prompt": prompts}), path)
    return str(path)


def test_parquet_and_a_folder_of_files(tmp_path: Path) -> None:
    source = write_parquet(tmp_path / "b.parquet", ["one", "two"])
    assert list(read_table(source)) == [Row(source, 1, {"prompt": "one"}), Row(source, 2, {"prompt": "two"})]
    lines(tmp_path / "a.jsonl", [{"prompt": "zero"}])
    (tmp_path / "README.md").write_text("not data")
    assert texts(load_prompts(str(tmp_path))) == ["zero", "one", "two"]


def test_damaged_parquet_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no file of \.jsonl, "):
        load_prompts(str(tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read"):
        load_prompts(str(tmp_path))
    with pytest.raises(DataError, match="no split 'train'"):
        load_prompts(f"{tmp_path}:train")


def test_folders_saved_by_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"prompt": ["a", "b"]})
    one.save_to_disk(str(tmp_path / "one"))
    assert texts(load_prompts(str(tmp_path / "one"))) == ["a", "b"]
    with pytest.raises(DataError, match="has no splits"):
        load_prompts(f"{tmp_path / 'one'}:train")
    datasets.DatasetDict(train=one, test=one.select([1])).save_to_disk(str(tmp_path / "two"))
    assert texts(load_prompts(f"{tmp_path / 'two'}:test")) == ["b"]
    with pytest.raises(DataError, match=r"several splits; append one of :train, :test"):
        load_prompts(str(tmp_path / "two"))
    with pytest.raises(DataError, match=r"no split 'dev'; append one of :train, :test"):
        load_prompts(f"{tmp_path / 'two'}:dev")


def test_hub_data_sets_are_asked_for_by_name_and_split(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(name: str, subset: str | None, **settings: str) -> list[dict[str, str]]:
        asked.append((name, subset, settings))
        return [{"prompt": "a"}]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert list(read_table("someone/some-set")) == [Row("someone/some-set", 1, {"prompt": "a"})]
    assert list(read_table("some_set:test")) == [Row("some_set:test", 1, {"prompt": "a"})]
    assert texts(load_prompts(Source("some_set:test", "test"))) == ["a"]
    assert texts(load_prompts(Source("some_set", "test", "main", "v1.0"))) == ["a"]
    assert asked == [
        ("someone/some-set", None, {"split": "train"}),
        ("some_set", None, {"split": "test"}),
        ("some_set", None, {"split": "test"}),
        ("some_set", "main", {"split": "test", "revision": "v1.0"}),
    ]


def test_an_unreachable_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def load_dataset(name: str, subset: str | None, **settings: str) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=r"someone/set is not a file or folder here.*offline.*download the file"):
        load_prompts("someone/set")
    with pytest.raises(DataError, match=r"\(split 'train', subset 'main', revision 'v1'\)"):
        load_prompts(Source("someone/set", subset="main", revision="v1"))


def corpus_row(**changes: str) -> dict[str, str]:
    return {"prompt": "p", "response": "r", "feedback": QUALIFIED, "refinement": "s"} | changes


def test_a_corpus_becomes_trajectories(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", [corpus_row(prompt=" p\n", response=" r "), corpus_row(response="other")])
    loaded = load_corpus(source, {})
    assert loaded.rows == [
        Refined(Prompt.of("p").id, "p", "r", QUALIFIED, "s"),
        Refined(Prompt.of("p").id, "p", "other", QUALIFIED, "s"),
    ]


def test_corpus_columns_are_mapped(tmp_path: Path) -> None:
    row = {"question": "p", "response": "r", "critique": QUALIFIED, "refinement": "s"}
    source = lines(tmp_path / "a.jsonl", [row])
    with pytest.raises(DataError, match=r"no column 'feedback'.*map it with corpus\.columns\.feedback="):
        load_corpus(source, {"prompt": "question"})
    assert len(load_corpus(source, {"prompt": "question", "feedback": "critique"}).rows) == 1


def test_feedback_without_a_verdict_is_set_aside(tmp_path: Path) -> None:
    source = lines(tmp_path / "a.jsonl", [corpus_row(), corpus_row(feedback="Looks fine to me.")])
    loaded = load_corpus(source, {}, max_bad_share=0.5)
    assert len(loaded.rows) == 1
    assert loaded.quarantined[0].line == 2
    with pytest.raises(DataError, match=r"1 of 2 rows cannot be used.*line 2: .*no readable verdict"):
        load_corpus(source, {})
    assert "'Verdict: qualified' or 'Verdict: not qualified'" in loaded.quarantined[0].reason


def test_a_corpus_without_any_verdict_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 of 2 rows cannot be used.*no readable verdict.*your own words in wording"):
        load_corpus(lines(tmp_path / "a.jsonl", [corpus_row(feedback="fine")] * 2), {})


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi?"}]}, "Hi?"),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, "Add.\n\n1 2"),
        ({"instruction": "Add 1 and 2.", "input": "", "output": "3"}, "Add 1 and 2."),
        ({"idx": 1, "Skill": "Math", "Difficulty": 2, "Instruction": "Prove it."}, "Prove it."),
        ({"question_id": 1, "category": "writing", "turns": ["Write.", "Rewrite."]}, "Write."),
        ({"prompt": "mine", "instruction": "theirs"}, "mine"),
    ],
)
def test_known_layouts_of_instruction_sets_are_read(tmp_path: Path, row: dict[str, Any], prompt: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert [p.prompt for p in load_prompts(str(path)).rows] == [prompt]


def test_another_layout_is_told_by_its_columns(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no column 'prompt'; it has 'x'"):
        load_prompts(lines(tmp_path / "a.jsonl", [{"x": 1}]))


def test_it_counts_what_is_read_and_what_is_left_off(tmp_path: Path) -> None:
    user, assistant = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    rows = [{"messages": [user]}, {"messages": [{**user, "content": "c"}, assistant]}, {"messages": [user, assistant]}]
    loaded = load_prompts(lines(tmp_path / "a.jsonl", [*rows, {"turns": ["d", "e"]}]))
    assert texts(loaded) == ["a", "c", "d"]
    assert loaded.layouts == {("messages", ("messages",)): 2, ("turns", ("turns",)): 1}
    assert loaded.left_off == {"the assistant's turn at the end": 1, "the turns after the first": 1}
    assert loaded.quarantined == [BadRow(str(tmp_path / "a.jsonl"), 3, "duplicate of line 1")]


def test_what_cannot_be_asked_counts_as_unusable(tmp_path: Path) -> None:
    tool = {"messages": [{"role": "user", "content": "a"}], "tools": [{"type": "function"}]}
    assert len(load_prompts(lines(tmp_path / "a.jsonl", many([tool]))).quarantined) == 1
    with pytest.raises(DataError, match=r"4 of 304 rows cannot be used.*column 'tools' has tools"):
        load_prompts(lines(tmp_path / "b.jsonl", many([tool] * 4)))


def test_a_corpus_holds_conversations(tmp_path: Path) -> None:
    user, response = {"role": "user", "content": "p"}, {"role": "assistant", "content": "r"}
    system, early = {"role": "system", "content": "s"}, [{"role": "user", "content": "h"}, response]
    rest = {"response": "r", "feedback": QUALIFIED, "refinement": "t"}
    talk = {"prompt": "p", "system": "s", "history": ["h", "r"]}
    rows = [
        {"messages": [system, *early, user], **rest},
        {"messages": [system, *early, user, response], **rest},
        {
            "prompt": [system, *early, user],
            **rest,
            "response": [response],
            "refinement": [{**response, "content": "t"}],
        },
        {**talk, **rest},
        {**{name: value for name, value in talk.items() if name != "system"}, **rest},
    ]
    loaded = load_corpus(lines(tmp_path / "a.jsonl", rows), {}, system="s")
    prompt = Prompt.of("p", system="s", history=("h", "r"))
    assert loaded.rows == [Refined(prompt.id, "p", "r", QUALIFIED, "t", system="s", history=("h", "r"))] * 5
    assert not loaded.left_off, "the answer at the end is the response"
    other = {"messages": [user, {"role": "assistant", "content": "another"}], **rest}
    with pytest.raises(DataError, match="the messages end in an answer that is not in 'response'"):
        load_corpus(lines(tmp_path / "b.jsonl", [other]), {})
