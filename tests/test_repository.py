"""What people use to help themselves: the commands exist, the files can be read, the version is one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))
CALLERS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / ".ci/run", *GITHUB]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def read(path: str | Path) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", CALLERS, ids=lambda path: path.name)
def test_every_make_target_that_is_named_exists(file: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:^|run: |`|then )make ([a-z-]+)", file.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


def test_the_workflow_calls_what_a_person_calls() -> None:
    jobs = read(".github/workflows/ci.yml")["jobs"]
    commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
    assert "make test" in commands
    assert all(re.fullmatch(r"make [a-z-]+", command) for command in commands), "no second way to test"


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_a_form_asks_and_each_question_has_a_name_of_its_own(name: str) -> None:
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"] and form["description"]
    ids = [question["id"] for question in form["body"]]
    assert ids and len(set(ids)) == len(ids)
    assert all(question["attributes"]["label"] for question in form["body"])


def test_hooks_call_tools_that_the_project_installs() -> None:
    (source,) = read(".pre-commit-config.yaml")["repos"]
    assert source["repo"] == "local", "nothing is fetched"
    tools = {hook["entry"].split()[0].removeprefix(".venv/bin/") for hook in source["hooks"]}
    assert tools <= {Requirement(line).name for line in PROJECT["optional-dependencies"]["dev"]}


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = read("CITATION.cff")
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert citation["repository-code"] == PROJECT["urls"]["Homepage"]
    (paper,) = citation["references"]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    assert len(paper["authors"]) == 12


def test_every_dependency_has_a_tested_version() -> None:
    tested = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, _, number = line.partition("==")
            tested[name.lower().replace("_", "-")] = number
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for line in [*PROJECT["dependencies"], *extras]:
        wanted = Requirement(line)
        number = tested[wanted.name.lower().replace("_", "-")]
        assert wanted.specifier.contains(number), f"{wanted} is not tested with {number}"
