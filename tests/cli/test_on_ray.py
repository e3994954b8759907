"""What a user sees of `engine.workers`: the same run, and one line with an exit code where there is no cluster."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import Selfevo, configuration, one_line
from runs import tree
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ALARMS

pytestmark = pytest.mark.cluster
ray = pytest.importorskip("ray", reason="the extra is not installed: pip install 'selfevo[ray]'")

MINE = """
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import ALARMS

def answer(model, turns):
    if len(turns) == 3:
        return "Verdict: qualified" if len(turns[0]) % 3 else "Verdict: not qualified"
    return f"{model.name} says {len(turns[-1])}"

def make(batch_size=2):
    return ScriptedEngine(answer, batch_size)
"""


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    ray.shutdown()


def test_a_run_with_workers_has_the_files_of_a_run_without(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    path = configuration(tmp_path, engine={"kind": "mine:make", "options": {"batch_size": 2}})
    alone = selfevo("run", path, "--quiet")
    assert alone[0] in (0, ALARMS)
    code, out, err = selfevo("run", path, "--quiet", "--set", "output=two", "--set", "engine.workers=2")
    assert (code, err) == (alone[0], alone[2].replace("out/", "two/"))
    assert len(out.splitlines()) == len(alone[1].splitlines()), "Ray itself says nothing"
    assert tree(tmp_path / "two") == tree(tmp_path / "out")
    again = selfevo("run", path, "--quiet", "--set", "engine.workers=1", "--set", "cluster.num_cpus=2")
    assert again[0] == alone[0], "these may change on a resume"


def test_no_cluster_is_one_line(selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = configuration(tmp_path, engine={"workers": 2}, cluster={"address": address})
    code, _, err = selfevo("run", path, "--quiet")
    assert code == 4
    assert f"there is no cluster at cluster.address {address} (Connection refused); start one" in one_line(err)


def test_a_python_that_is_not_there_is_a_mistake_of_the_configuration(
    selfevo: Selfevo, scripted: ScriptedEngine, tmp_path: Path
) -> None:
    path = configuration(tmp_path, engine={"workers": 2}, cluster={"py_executable": "/no/python"})
    code, _, err = selfevo("run", path, "--quiet")
    assert code == 2
    assert "cluster.py_executable is /no/python, which is no file; correct the path" in one_line(err)
