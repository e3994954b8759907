"""A run is killed, stopped and starved of disk in every stage, and ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from runs import results, small_demo, student, timeless, tree
from selfevo.config.loading import parse_config
from selfevo.config.run_config import RunConfig
from selfevo.engines.scripted import ScriptedEngine
from selfevo.errors import RunError, SelfevoError
from selfevo.method.protocols import Generation, Progress, Request, Sampling
from selfevo.method.records import Example
from selfevo.pipeline.run import run_loop
from selfevo.report.progress import Silent
from selfevo.trainers.scripted import ScriptedTrainer

BATCH = 8


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("faults")
    return small_demo(folder, folder / "uninterrupted")


@pytest.fixture(scope="module")
def uninterrupted(config: RunConfig) -> dict[str, bytes]:
    run_loop(config, Silent(), ScriptedEngine(student(config), batch_size=BATCH), ScriptedTrainer())
    return tree(config.output)


def elsewhere(config: RunConfig, folder: Path) -> RunConfig:
    return config.model_copy(update={"output": folder})


# --- kill -9 ------------------------------------------------------------------------------------------------------


class Clock(Silent):
    """Notes each moment at which a process may die, by stage, and dies at the moment `deadly`: (stage, which of it)."""

    def __init__(self, log: Path, deadly: tuple[str, int] | None) -> None:
        self.log, self.deadly, self.seen, self.stage = log, deadly, Counter[str](), "data"

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self.stage = name

    def tick(self) -> None:
        self.seen[self.stage] += 1
        with self.log.open("a") as log:
            log.write(f"{self.stage}\n")
        if (self.stage, self.seen[self.stage]) == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(config: RunConfig, asked: Path, moments: Path, deadly: tuple[str, int] | None = None) -> int:
    """Runs `config` in a process of its own that dies at moment `deadly`; returns its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    status = 1
    try:
        clock, fsync, replace = Clock(moments, deadly), os.fsync, os.replace

        def slow(call: Callable[..., Any]) -> Callable[..., Any]:
            def both(*arguments: Any) -> Any:
                clock.tick()
                result = call(*arguments)
                clock.tick()
                return result

            return both

        os.fsync, os.replace = slow(fsync), slow(replace)
        answer = student(config)

        class Engine(ScriptedEngine):
            def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
                with asked.open("a") as log:
                    log.writelines(f"{json.dumps([model.name, r.turns, r.seed])}\n" for r in requests)
                clock.tick()
                return ScriptedEngine.generate(self, model, requests, sampling)

        class Trainer(ScriptedTrainer):
            def train(
                self,
                base: Path,
                examples: Sequence[Example],
                output: Path,
                *,
                work: Path,
                seed: int,
                progress: Progress,
            ) -> dict[str, float]:
                progress.start("train", 1)
                clock.tick()
                figures = ScriptedTrainer.train(self, base, examples, output, work=work, seed=seed, progress=progress)
                clock.tick()
                return figures

        run_loop(config, clock, Engine(answer, batch_size=BATCH), Trainer())
        status = 0
    finally:
        os._exit(status)


def test_kill_9_in_every_stage_costs_no_more_than_the_batch_in_flight(
    config: RunConfig, uninterrupted: dict[str, bytes], tmp_path: Path
) -> None:
    assert in_a_process(elsewhere(config, tmp_path / "counted"), tmp_path / "asked", tmp_path / "moments") == 0
    moments = Counter((tmp_path / "moments").read_text().splitlines())
    assert len(moments) >= 20, "a stage is missing from the list of those to die in"
    once = Counter((tmp_path / "asked").read_text().splitlines())
    dice, stages, runs = random.Random(0), list(moments), 10
    for number in range(runs):
        killed, asked = elsewhere(config, tmp_path / f"killed-{number}"), tmp_path / f"asked-{number}"
        deaths = stages[number::runs]
        assert len(deaths) >= 2
        for stage in deaths:
            deadly = (stage, dice.randint(1, moments[stage]))
            assert in_a_process(killed, asked, tmp_path / "ignored", deadly) == -signal.SIGKILL, deadly
        assert in_a_process(killed, asked, tmp_path / "ignored") == 0
        assert tree(killed.output) == uninterrupted, deaths
        assert timeless(results(killed)) == timeless(results(config)), deaths
        all_asked = Counter(asked.read_text().splitlines())
        assert all_asked.keys() == once.keys()
        assert all_asked.total() - once.total() <= len(deaths) * BATCH, deaths


# --- signals ------------------------------------------------------------------------------------------------------

STOPPED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import yaml
import selfevo.engines.transformers, selfevo.pipeline.run
from runs import student
from selfevo.cli import app as cli
from selfevo.config.loading import load_config
from selfevo.engines.scripted import ScriptedEngine
from selfevo.trainers.scripted import ScriptedTrainer

class Slow(ScriptedEngine):
    def generate(self, *arguments):
        time.sleep(0.2)
        return super().generate(*arguments)

answer = student(load_config(Path(sys.argv[2])))
selfevo.engines.transformers.TransformersEngine = lambda **settings: Slow(answer, batch_size={batch})
selfevo.pipeline.run.build_trainer = lambda *settings: ScriptedTrainer()
cli.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_a_run_within_seconds_and_it_goes_on(
    config: RunConfig, uninterrupted: dict[str, bytes], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    stopped = elsewhere(config, tmp_path / "run")
    (tmp_path / "run.yaml").write_text(json.dumps(stopped.model_dump(mode="json")))
    script = STOPPED.format(tests=str(Path(__file__).parents[1]), batch=BATCH)
    command = [sys.executable, "-c", textwrap.dedent(script), "run", str(tmp_path / "run.yaml"), "--no-check"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("run/stages/*/*.partial.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    begun = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - begun < 10
    assert (process.returncode, err) == (code, "selfevo: stopped; run the same command again to resume\n")
    assert tree(stopped.output) != uninterrupted
    run_loop(stopped, Silent(), ScriptedEngine(student(stopped), batch_size=BATCH), ScriptedTrainer())
    assert tree(stopped.output) == uninterrupted


# --- a full disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a file system here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


class Heavy(ScriptedTrainer):
    """Its models take half a megabyte."""

    def train(self, base: Path, examples: Sequence[Example], output: Path, **more: Any) -> dict[str, float]:
        figures = ScriptedTrainer.train(self, base, examples, output, **more)
        (output / "ballast.bin").write_bytes(b"0" * 500_000)
        return figures


def test_a_full_disk_is_named_and_costs_nothing(config: RunConfig, tmp_path: Path, small_disk: Path) -> None:
    """The disk is full from the start, and gets a little more space each time the run has failed."""
    roomy, cramped = elsewhere(config, tmp_path / "roomy"), elsewhere(config, small_disk / "run")

    def run(config: RunConfig) -> None:
        run_loop(config, Silent(), ScriptedEngine(student(config), batch_size=BATCH), Heavy())

    run(roomy)
    filler = small_disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"0" * 4096)
    places = []
    while True:
        try:
            run(cramped)
            break
        except SelfevoError as error:
            assert isinstance(error, RunError)
            message = str(error)
        assert "\n" not in message
        assert "no space left on the disk for" in message
        assert "bytes and" in message
        places.append(Path(message.partition("disk for ")[2].partition(": ")[0]).relative_to(cramped.output))
        good = tree(cramped.output)
        assert all(
            tree(roomy.output)[name] == content
            for name, content in good.items()
            if not any(word in name for word in ("partial", "growing", "/."))
        )
        os.truncate(filler, max(0, filler.stat().st_size - pages_to_free(places) * 4096))
    assert tree(cramped.output) == tree(roomy.output)
    assert timeless(results(cramped)) == timeless(results(roomy))
    assert {"data", "stages", "models"} <= {place.parts[0] for place in places}
    assert len(places) >= 10


def pages_to_free(places: Sequence[Path]) -> int:
    """After the failures at `places`: few, and many after a model, which needs them."""
    return 30 if places[-1].parts[0] == "models" else 1 + len(places) % 8


# --- names --------------------------------------------------------------------------------------------------------

HOSTILE = [
    *("../escape", "../../escape", "a/../../escape", "/escape", "//escape", "~/escape", "~root/escape", "./../escape"),
    *("$(touch escape)", "`touch escape`", "; touch escape", "| touch escape", "&& touch escape", "> escape"),
    *("$HOME/escape", "${IFS}escape", "a\nescape", "a\0escape", "a\tescape", "\u202eescape", "\u200bescape"),
    *("C:\\escape", "..\\escape", "\\\\server\\escape", "file:///escape", "http://escape/", "s3://escape/a"),
    *("%2e%2e%2fescape", "..%2fescape", "....//escape", "..;/escape", "-escape", "--output=escape", "*", "?", "[a-z]"),
    *("con", "nul", ".", "..", "...", "/", "a" * 300, "é/../../escape", "．．/escape", "{}", "{0}", "%s%n", "'", '"'),
    *("<script>escape</script>", "__import__('os').system('touch escape')", "!!python/object/apply:os.system [escape]"),
]


def unreachable(name: str, **options: object) -> None:
    raise ConnectionError("no network")


@pytest.mark.parametrize("key", ["model", "prompts.path", "corpus.path", "evaluation.task.path", "task"])
def test_hostile_names_write_nothing_outside_the_run(tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(set(HOSTILE)) >= 50
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text("{}")
    (tmp_path / "base/model.safetensors").write_bytes(b"weights")
    (tmp_path / "pool.jsonl").write_text('{"prompt": "1+1"}\n')
    row = {"prompt": "7+7", "response": "3", "feedback": "Verdict: not qualified", "refinement": "14"}
    (tmp_path / "d_meta.jsonl").write_text(json.dumps(row) + "\n")
    before = sorted(tmp_path.rglob("*"))
    for name in HOSTILE:
        settings: dict[str, Any] = {
            "model": str(tmp_path / "base"),
            "output": str(tmp_path / "run"),
            "prompts": {"path": str(tmp_path / "pool.jsonl")},
            "corpus": {"path": str(tmp_path / "d_meta.jsonl")},
            "rounds": 1,
        }
        if key == "task":
            settings["evaluation"] = {"task": {"name": name}}
        elif key == "evaluation.task.path":
            settings["evaluation"] = {"task": {"name": "gsm8k", "path": name}}
        else:
            *sections, last = key.split(".")
            place = settings
            for section in sections:
                place = place[section]
            place[last] = name
        with pytest.raises(SelfevoError) as caught:
            run_loop(parse_config(settings, "test"), Silent(), ScriptedEngine(lambda *_: ""), ScriptedTrainer())
        assert str(caught.value)
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert sorted(tmp_path.rglob("*")) == before, name


def test_a_key_in_the_environment_is_in_no_file_of_a_run(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "hf_canary0123456789"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "WANDB_API_KEY"):
        monkeypatch.setenv(name, canary)
    secret = elsewhere(config, tmp_path / "run")
    run_loop(secret, Silent(), ScriptedEngine(student(secret)), ScriptedTrainer())
    files = [path for path in secret.output.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if canary.encode() in path.read_bytes()] == []
