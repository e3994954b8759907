"""Rows of CSV files, of folders with files of several kinds, and of parts of data sets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.data.loading import load_prompts
from selfevo.data.tables import BadRow, Row, Source, read_table
from selfevo.errors import DataError


def written(path: Path, content: str | bytes) -> str:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_rows_of_a_csv_file_have_the_line_in_which_they_begin(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", '\ufeffprompt,system\r\n"two\nlines, one cell",s\r\n\r\n"a ""b""",\r\n')
    assert list(read_table(source)) == [
        Row(source, 2, {"prompt": "two\nlines, one cell", "system": "s"}),
        Row(source, 5, {"prompt": 'a "b"', "system": ""}),
    ]


@pytest.mark.parametrize(("name", "mark"), [("a.csv", ","), ("a.csv", ";"), ("a.csv", "\t"), ("a.tsv", "\t")])
def test_the_header_says_what_parts_the_cells(tmp_path: Path, name: str, mark: str) -> None:
    source = written(tmp_path / name, f'prompt{mark}system\n"1,2;3\t4"{mark}s\n')
    assert [row.values for row in read_table(source) if isinstance(row, Row)] == [{"prompt": "1,2;3\t4", "system": "s"}]


def test_a_bad_row_of_a_csv_file_costs_only_itself(tmp_path: Path) -> None:
    source = written(tmp_path / "a.csv", b'prompt,n\ngood,1\n"a"b,2\nshort\nlong,1,2\n\xff,3\na\0b,4\nlast,5\n')
    rows = list(read_table(source))
    assert [(row.line, row.reason) for row in rows if isinstance(row, BadRow)] == [
        (3, "is not CSV: ',' expected after '\"'"),
        (4, "has 1 cells, and the header has 2; put quotation marks around a cell with a comma in it"),
        (5, "has 3 cells, and the header has 2; put quotation marks around a cell with a comma in it"),
        (6, "is not UTF-8"),
    ]
    loaded = load_prompts(source, max_bad_share=0.9)
    assert [prompt.prompt for prompt in loaded.rows] == ["good", "last"]
    assert loaded.quarantined[-1] == BadRow(source, 7, "column 'prompt' holds a NUL character")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('prompt\na\n"b\nc\nd\n', "line 3 opens a quotation mark that is never closed"),
        ("prompt,prompt\na,b\n", "has the column 'prompt' twice"),
        ("prompt\na\n".encode("utf-16"), "is not UTF-8; save it again as CSV in UTF-8"),
        ("", "holds no prompts; it is empty"),
        ("prompt\n", "holds no prompts; it is empty"),
        ("question;answer\na;b\n", "has no column 'prompt'; it has 'question', 'answer'"),
    ],
)
def test_a_csv_file_that_cannot_be_read_says_why(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_prompts(written(tmp_path / "a.csv", content))


def test_spaces_in_a_header_and_capitals_in_a_suffix_hide_nothing(tmp_path: Path) -> None:
    source = written(tmp_path / "a.CSV", 'prompt, system\na, "b, c"\n')
    assert [row.values for row in read_table(source) if isinstance(row, Row)] == [{"prompt": "a", "system": "b, c"}]
    written(tmp_path / "b.JSONL", '{"prompt": "d"}\n')
    assert [prompt.prompt for prompt in load_prompts(str(tmp_path)).rows] == ["a", "d"]


def test_one_json_object_over_several_lines_is_no_table(tmp_path: Path) -> None:
    source = written(tmp_path / "a.json", json.dumps({"data": [{"prompt": "a"}]}, indent=1))
    with pytest.raises(DataError, match=r"a.json is one JSON object; write the rows as a list, \[{...}, {...}\], or"):
        load_prompts(source)


@given(st.lists(st.binary(max_size=30)))
def test_no_content_of_a_csv_file_escapes_the_accounting(
    tmp_path_factory: pytest.TempPathFactory, rows: list[bytes]
) -> None:
    source = written(tmp_path_factory.mktemp("fuzz") / "a.csv", b"prompt,n\n" + b"\n".join(rows))
    try:
        table = list(read_table(source))
        loaded = load_prompts(source, max_bad_share=1)
    except DataError:
        return
    assert len(loaded.rows) + len(loaded.quarantined) == len(table)


def test_a_folder_may_hold_files_of_every_kind(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    written(tmp_path / "a.csv", "prompt\na\n")
    written(tmp_path / "b.json", json.dumps([{"messages": [{"role": "user", "content": "b"}]}]))
    written(tmp_path / "c.jsonl", '{"conversations": [{"from": "human", "value": "c"}]}\n')
    parquet.write_table(pyarrow.table({"prompt": [[{"role": "user", "content": "d"}]]}), tmp_path / "d.parquet")
    written(tmp_path / "dataset_infos.json", '{"default": {"features": {}}}')
    written(tmp_path / "README.md", "# About")
    written(tmp_path / "statistics.json", '{\n "rows": 4\n}')
    loaded = load_prompts(str(tmp_path))
    assert [prompt.prompt for prompt in loaded.rows] == ["a", "b", "c", "d"]
    assert loaded.quarantined == []


def test_what_only_another_source_has_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", '{"prompt": "a"}\n')
    for source, message in (
        (Source(file, split="train"), "is a file, which has no splits; remove split, or give the file of 'train'"),
        (Source(file, subset="main"), "only a hub data set has a subset; remove subset, or give its name"),
        (Source(str(tmp_path), revision="v1"), "only a hub data set has a revision"),
        (Source(str(tmp_path), split="train"), "was not saved by datasets, so it has no split 'train'"),
        (Source("someone/set:test", split="train"), "names the split 'test', and the setting is 'train'"),
    ):
        with pytest.raises(DataError, match=message):
            load_prompts(source)


def test_the_split_of_a_saved_folder_is_a_setting_too(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_dict({"prompt": ["a", "b"]})
    datasets.DatasetDict(train=one, test=one.select([1])).save_to_disk(str(tmp_path / "two"))
    assert [prompt.prompt for prompt in load_prompts(Source(str(tmp_path / "two"), "test")).rows] == ["b"]
