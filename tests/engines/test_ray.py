"""Generation by workers of a real local Ray cluster: the same bytes as without, whatever dies."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest

import selfevo
from selfevo.config.cluster import ClusterConfig
from selfevo.config.sections import VLLMSettings
from selfevo.errors import EngineError, RowsError
from selfevo.method.protocols import Generation, Request, Sampling, stream

pytestmark = pytest.mark.cluster
ray = pytest.importorskip("ray", reason="the extra is not installed: pip install 'selfevo[ray]'")
# ruff: noqa: E402
import on_ray
from on_ray import ROWS, engine, four_stages, stage_files, workers_of
from runs import open_run
from selfevo.engines.ray.engine import RayEngine
from selfevo.method.protocols import Model
from selfevo.method.records import Prompt
from selfevo.method.skills import RESPOND
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer
from selfevo.pipeline.build import build_engine

TESTS = Path(__file__).parents[1]
GREEDY, PATIENT = Sampling(8), ClusterConfig(timeout_seconds=on_ray.PATIENCE)


@pytest.fixture(autouse=True, scope="module")
def importable() -> Iterator[None]:
    """Workers import what the tests share. The cluster of the tests ends with them."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS), *([before] if before else [])])
    yield
    ray.shutdown()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="module")
def alone(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The stage files of one process without Ray."""
    root = tmp_path_factory.mktemp("alone")
    four_stages(root, engine(0), tiny_model)
    return stage_files(root)


def asked(*prompts: str, size: int = 2) -> list[list[Request]]:
    requests = [Request((prompt,), i) for i, prompt in enumerate(prompts)]
    return [requests[i : i + size] for i in range(0, len(requests), size)]


def test_two_workers_write_the_same_bytes_and_losing_one_changes_none(
    tiny_model: Path, tmp_path: Path, alone: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    two = engine(2)
    four_stages(tmp_path / "calm", two, tiny_model)
    assert stage_files(tmp_path / "calm") == alone

    requests = [[Request((row.prompt,), i) for i, row in enumerate(ROWS[start : start + 4])] for start in (0, 4, 8, 12)]
    expected = dict(stream(engine(0), tiny_model, requests * 8, Sampling(24, temperature=1.0)))
    found: dict[int, list[Generation]] = {}
    for place, generations in stream(two, tiny_model, requests * 8, Sampling(24, temperature=1.0)):
        if not found:
            workers_of(os.getpid())[-1].kill()
        found[place] = generations
    assert found == expected
    assert "is lost" in caplog.text and "another one does its rows" in caplog.text
    four_stages(tmp_path / "after", two, tiny_model)
    assert stage_files(tmp_path / "after") == alone
    both_are_there(two, tiny_model)  # the lost one was replaced
    two.release()
    assert two._crew.members == [], "a training has all there is"


def test_a_driver_that_is_killed_goes_on(tiny_model: Path, tmp_path: Path, alone: dict[str, bytes]) -> None:
    command = [sys.executable, str(TESTS / "on_ray.py"), str(tmp_path / "run"), str(tiny_model), "2"]
    process = subprocess.Popen(command)
    partial = tmp_path / "run/stages/round-1/critique.partial.jsonl"
    deadline = time.monotonic() + 120
    while not (partial.is_file() and partial.stat().st_size) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not (tmp_path / "run/stages/round-1/judge.done.json").exists(), "it was killed on the way"
    four_stages(tmp_path / "run", engine(1), tiny_model)
    assert stage_files(tmp_path / "run") == alone


def test_each_slice_is_on_disk_when_it_comes(tmp_path: Path) -> None:
    partial, seen = tmp_path / "stages/round-1/respond.partial.jsonl", []

    class Watched(RayEngine):
        def stream(self, *given: Any) -> Iterator[tuple[int, list[Generation]]]:
            for number, come in enumerate(super().stream(*given)):
                seen.append((number, len(partial.read_text().splitlines())))
                yield come

    run = open_run(tmp_path, Watched(on_ray.slow, 4, 2, PATIENT))
    prompts = [Prompt.of(f"question {i}") for i in range(40)]
    run.runner("round-1", Model("base", Path("base"), "weights")).generate(RESPOND, prompts)
    assert seen == [(number, 4 * number) for number in range(10)]


def test_rows_that_kill_every_worker_are_named_and_the_others_done(tmp_path: Path) -> None:
    prompts = [Prompt.of(f"question {i}" + " poison" * (i == 21)) for i in range(40)]
    run = open_run(tmp_path, RayEngine(on_ray.slow, 4, 2, PATIENT))
    with pytest.raises(EngineError, match=rf"3 workers died.* same 4 rows .*The rows: .*{prompts[21].id}") as caught:
        run.runner("round-1", Model("base", Path("base"), "weights")).generate(RESPOND, prompts)
    assert "\n" not in str(caught.value)
    assert len((tmp_path / "stages/round-1/respond.partial.jsonl").read_text().splitlines()) == 36


def test_what_an_engine_raises_ends_the_run_and_what_breaks_it_is_tried_elsewhere() -> None:
    one = RayEngine(on_ray.faulty, 2, 1, PATIENT)
    with pytest.raises(EngineError, match=r"^this prompt is refused$"):
        list(one.stream(Path("m"), asked("a", "b", "c", "refuse"), GREEDY))
    with pytest.raises(RowsError, match=r"RuntimeError: CUDA error: an illegal memory access") as caught:
        dict(one.stream(Path("m"), asked("a", "b", "crash", "d", "e", "f"), GREEDY))
    assert caught.value.rows == [(1, 0), (1, 1)]
    with pytest.raises(EngineError, match="0 answers to 2 requests"):
        list(one.stream(Path("m"), asked("a", "few"), GREEDY))
    assert [g.text for g in one.generate(Path("m"), asked("a", "b", "c", size=3)[0], GREEDY)] == [
        "a gives 1", "b gives 1", "c gives 1",
    ]  # fmt: skip
    assert list(one.stream(Path("m"), [], GREEDY)) == []


def test_a_conversation_goes_on_where_its_states_are(tiny_model: Path) -> None:
    """The texts are replaced, because the tiny model's are no words, and are cut into tokens in another way."""
    two, one = engine(2, kv_cache_gib=1), engine(0, kv_cache_gib=1)
    chat, sampling = Chat(load_tokenizer(tiny_model)), Sampling(16, temperature=1.0)
    both_are_there(two, tiny_model)
    turns: list[tuple[str, ...]] = [(row.prompt,) for row in ROWS]
    before: list[list[int]] = [[] for _ in turns]
    needed, already = 0, two.prefilled
    for skill in range(4):
        order = sorted(range(len(turns)), key=lambda i: (sum(map(len, turns[i])), i))
        requests = [Request(turns[i], 100 * skill + i) for i in order]
        slices = [requests[i : i + 4] for i in range(0, len(requests), 4)]
        found = dict(stream(two, tiny_model, slices, sampling))
        assert found == dict(stream(one, tiny_model, slices, sampling))
        for i in order:
            ids = chat.prompt(turns[i])
            needed += len(ids) - sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, before[i])))  # noqa: B905
            before[i], turns[i] = ids, (*turns[i], "1 2 3", "Check this answer.")
    assert (two.prefilled - already) / needed <= 1.2


def both_are_there(engine: RayEngine, model: Path) -> None:
    """Asks until both workers have come: a short work is over before the second one has."""
    while engine._crew is None or len(engine._crew.ready) < 2:
        engine.generate(model, asked("Hello", size=1)[0], GREEDY)


def test_the_worker_has_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfevo.engines.ray.crew.versions", lambda: {"selfevo": "0.0.9 (aaaaaaaa)", "torch": "1.0"})
    other = RayEngine(on_ray.slow, 4, 1, PATIENT)
    with pytest.raises(EngineError, match=r"the worker on .* has selfevo .*, and this process 0\.0\.9") as caught:
        other.generate(Path("m"), asked("a")[0], GREEDY)
    assert "\n" not in str(caught.value)


def test_no_worker_comes() -> None:
    many = RayEngine(on_ray.slow, 4, 1, ClusterConfig(num_cpus=4096, timeout_seconds=1))
    with pytest.raises(EngineError, match=r"no worker came within 1 seconds: each needs 4096 CPUs and 0 GPUs, and the"):
        many.generate(Path("m"), asked("a")[0], GREEDY)


def test_no_worker_can_be_started(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH= exec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    bare = RayEngine(on_ray.slow, 4, 1, ClusterConfig(py_executable=str(python), timeout_seconds=15))
    with pytest.raises(EngineError, match=r"no worker (can be started|came within)") as caught:
        bare.generate(Path("m"), asked("a")[0], GREEDY)
    assert "\n" not in str(caught.value)


@pytest.fixture
def elsewhere(tiny_model: Path, tmp_path: Path) -> Path:
    """A Python whose processes do not see the tiny model, as on a machine of their own."""
    hidden = ["unshare", "-rm", "sh", "-c", f'mount -t tmpfs none {tiny_model} && exec {sys.executable} "$@"', "sh"]
    if shutil.which("unshare") is None or subprocess.run([*hidden, "-c", ""], capture_output=True).returncode:
        pytest.skip("this system does not let a user hide a folder from a process (unshare -rm)")
    python = tmp_path / "python"
    cache = tmp_path / "cache"
    python.write_text(f'#!/bin/sh\nSELFEVO_CACHE={cache} exec {shlex.join(hidden)} "$@"\n')
    python.chmod(0o755)
    return python


def test_a_model_that_is_not_on_the_machine_is_copied_there(tiny_model: Path, elsewhere: Path) -> None:
    far = engine(2, py_executable=str(elsewhere))
    copies, expected = elsewhere.parent / "cache/weights", engine(0).generate(tiny_model, asked("a", "b")[0], GREEDY)
    copies.parent.write_text("no folder")
    with pytest.raises(EngineError, match=rf"the model {tiny_model} is not on .*, and cannot be copied to {copies}"):
        far.generate(tiny_model, asked("a")[0], GREEDY)
    copies.parent.unlink()
    assert dict(stream(far, tiny_model, asked("a", "b") * 6, GREEDY)) == dict.fromkeys(range(6), expected)
    assert len([path for path in copies.iterdir() if path.is_dir()]) == 1


FAKE_VLLM = """
import os
from pathlib import Path
from types import SimpleNamespace as Simple

TESTS = Path(__file__).parents[1]
HERE = Path(__file__).parent
class LLM:
    def __init__(self, model, **settings):
        (HERE / "settings").write_text(f"{model} {settings}")
        self.llm_engine = Simple(model_config=Simple(max_model_len=512))

    def generate(self, prompts, parameters, use_tqdm, lora_request):
        if (HERE / "die").exists():
            (HERE / "die").unlink()
            os._exit(1)
        def written(prompt, settings):
            return Simple(token_ids=[*prompt["prompt_token_ids"][:3], settings["stop_token_ids"][0]],
                          finish_reason="stop")
        return [Simple(outputs=[written(*pair)]) for pair in zip(prompts, parameters)]

SamplingParams = TokensPrompt = dict
"""


def test_vllm_runs_in_an_environment_of_its_own_and_may_die_there(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    venv.create(tmp_path / "venv", symlinks=True)
    [packages] = (tmp_path / "venv/lib").glob("python*/site-packages")
    others = [path for path in sys.path if path.endswith("-packages")]
    (packages / "others.pth").write_text("\n".join([*others, str(Path(selfevo.__file__).parents[1])]))
    (packages / "vllm").mkdir()
    (packages / "vllm/__init__.py").write_text(FAKE_VLLM)
    (packages / "vllm/platforms.py").write_text(
        "current_platform = type('Platform', (), {'is_cpu': staticmethod(lambda: False)})"
    )
    settings = VLLMSettings(batch_size=2, workers=2, tensor_parallel_size=2)
    two = build_engine(settings, ClusterConfig(py_executable=str(tmp_path / "venv/bin/python"), timeout_seconds=300))
    (packages / "vllm/die").touch()
    found = dict(stream(two, tiny_model, asked("a", "b", "c", "d", "e", "f"), GREEDY))
    assert [g.finish for place in range(3) for g in found[place]] == ["stop"] * 6
    assert "the process of vLLM ended" in caplog.text and "another one does its rows" in caplog.text
    assert "'tensor_parallel_size': 2, 'distributed_executor_backend': 'mp'" in (packages / "vllm/settings").read_text()
