"""A part from outside is imported, made and checked; whatever is wrong with it is one ConfigError that names it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest

from selfevo.config.loading import parse_config
from selfevo.config.own_parts import find_part, make_part, part_files
from selfevo.errors import ConfigError, DataError

SOURCE = """
from selfevo.errors import DataError

number = 3

class Whole:
    size = 1
    def __init__(self, size=2): self.size = size
    def count(self, rows, *, seed): return self.size

class NoMethod:
    size = 1

class NoProperty:
    def count(self, rows, *, seed): return 0

class OtherArguments:
    size = 1
    def count(self, rows): return 0

class Refuses:
    def __init__(self, size): raise DataError("nothing to count")

class Breaks:
    def __init__(self, size): raise ZeroDivisionError("by zero")

def make(size): return Whole(size)

def doubled(rows, times=2): return times * list(rows)

def none(): return []
"""


class Counter(Protocol):
    @property
    def size(self) -> int: ...

    def count(self, rows: list[int], *, seed: int) -> int: ...


class Change(Protocol):
    def __call__(self, rows: list[int], /) -> list[int]: ...


@pytest.fixture(autouse=True)
def _outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "outside.py").write_text(SOURCE)
    (tmp_path / "broken.py").write_text("import selfevo\n\nnumber = 1 / 0\n")
    (tmp_path / "wanting.py").write_text("import not_installed_anywhere\n")
    yield
    for module in ("outside", "broken", "wanting", "json_of_mine"):
        sys.modules.pop(module, None)


def make(name: str, protocol: type = Counter, **options: Any) -> Any:
    return make_part(name, options, protocol, "a counter")


def test_a_class_or_a_function_makes_the_part_with_its_options() -> None:
    assert make("outside:Whole").size == 2
    assert make("outside:Whole", size=5).size == make("outside:make", size=5).size == 5


def test_where_a_function_is_asked_for_a_function_is_the_part() -> None:
    assert make("outside:doubled", Change)([1]) == [1, 1]
    assert make("outside:doubled", Change, times=3)([1]) == [1, 1, 1]


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("absent:Whole", {}, "absent:Whole: there is no module absent in the working directory, "),
        ("outside.deeper:Whole", {}, "outside.deeper:Whole: "),
        ("broken:Whole", {}, "broken:Whole: ZeroDivisionError: division by zero (broken.py, line 3)"),
        ("wanting:Whole", {}, "wanting:Whole: ModuleNotFoundError: No module named 'not_installed_anywhere'"),
        ("outside:Hole", {}, "outside.py has no Hole"),
        ("outside:number", {}, "outside:number is int, so it cannot be a counter"),
        ("outside:Whole", {"sise": 2}, "outside:Whole does not take these options: got an unexpected keyword argument"),
        ("outside:Whole", {"sise": 2}, "it takes (size=2)"),
        ("outside:make", {}, "outside:make does not take these options: missing a required argument: 'size'"),
        (
            "outside:Breaks",
            {"size": 2},
            "outside:Breaks could not be created with {'size': 2}: ZeroDivisionError: by zero",
        ),
        (
            "outside:NoMethod",
            {},
            "outside:NoMethod has no method count(rows, seed); a counter needs size, count(rows, ",
        ),
        ("outside:NoProperty", {}, "outside:NoProperty has no attribute size; a counter needs size, count(rows, seed)"),
        ("outside:OtherArguments", {}, "outside:OtherArguments: count takes (rows); a counter needs count(rows, seed)"),
    ],
)
def test_what_is_wrong_is_named(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        make(name, **options)
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_function_that_takes_other_arguments_is_named() -> None:
    with pytest.raises(ConfigError, match=r"outside:none: .*takes \(\); a counter needs .*\(rows\)"):
        make("outside:none", Change)


def test_an_error_of_ours_passes_as_it_is() -> None:
    with pytest.raises(DataError, match="nothing to count"):
        make("outside:Refuses", size=1)


def test_a_file_of_the_working_directory_never_takes_the_place_of_a_library(tmp_path: Path) -> None:
    (tmp_path / "yaml.py").write_text("class Whole: pass\n")
    with pytest.raises(ConfigError, match="has no Whole"):
        find_part("yaml:Whole")


def test_the_files_of_all_the_parts_of_a_configuration(tmp_path: Path) -> None:
    data: dict[str, Any] = {
        "model": "m",
        "output": "o",
        "rounds": [{"prompts": {"task": {"name": "outside:Whole"}}}, {"prompts": {"task": {"name": "gym:chain_sum"}}}],
        "corpus": {"prompts": "p", "annotator": "outside:make"},
        "filter": ["verdict", "outside:NoMethod"],
        "gate": {"task": {"name": "instructions:words"}},
    }
    file = tmp_path / "outside.py"
    names = ("outside:NoMethod", "outside:Whole", "outside:make")
    assert part_files(parse_config(data, "x")) == dict.fromkeys(names, file)
    built_in = {**data, "corpus": {"path": "c"}, "filter": "verdict", "rounds": [{"prompts": "p"}]}
    assert part_files(parse_config(built_in, "x")) == {}


def test_what_was_changed_since_it_was_imported_is_read_anew(tmp_path: Path) -> None:
    assert make("outside:Whole").size == 2
    (tmp_path / "outside.py").write_text(SOURCE.replace("size=2", "size=12345"))
    assert make("outside:Whole").size == 12345
