"""Training through a launcher: two "nodes" of this machine, and what can be wrong with them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from test_processes import ANSWERS, Watching, furthest, process_of, run_config, trained

from groups import job_file
from selfevo.config.loading import parse_config
from selfevo.config.training import TrainerConfig
from selfevo.errors import ClusterError, ConfigError, SelfevoError
from selfevo.pipeline import training_job
from selfevo.pipeline.build import build_trainer
from selfevo.trainers.packages import check_settings
from selfevo.trainers.processes import FIGURES, HELD, GroupTrainer

TORCHRUN = f"{sys.executable} -m torch.distributed.run"
TWO_NODES = (
    f"{sys.executable} {Path(__file__).parents[1] / 'two_nodes.py'} {TORCHRUN} --nnodes 2 --nproc-per-node 1 "
    "--rdzv-backend c10d --rdzv-endpoint $HEAD"
)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address at which nobody is yet, in the variable HEAD."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("HEAD", address)
    return address


@pytest.mark.cluster
def test_two_nodes_train_what_one_process_trains(tiny_model: Path, tmp_path: Path, head: str) -> None:
    """A process of one node is killed: a fresh group goes on. Ctrl-C stops it. Then one machine goes on."""
    one = build_trainer(run_config(tiny_model, tmp_path, gradient_accumulation_steps=2), "round-1")
    trained(one, tiny_model, tmp_path / "one", ANSWERS)
    work = tmp_path / "nodes/work"
    config = run_config(tiny_model, tmp_path, processes=2, save_minutes=1e-9, launcher=TWO_NODES)
    watching = Watching()

    def act() -> None:
        if len(watching.begun) > 1:
            raise KeyboardInterrupt
        os.kill(process_of(work, 1), 9)
        watching.losses.clear()

    watching.after, watching.act = 3, act
    with pytest.raises(KeyboardInterrupt):
        trained(build_trainer(config, "round-1"), tiny_model, tmp_path / "nodes", ANSWERS, watching)
    assert [begun > 0 for begun, _ in watching.begun] == [False, True]
    with pytest.raises(AssertionError, match="no process of rank 0"):
        process_of(work, 0)
    here = run_config(tiny_model, tmp_path, processes=2)
    last = Watching()
    trained(build_trainer(here, "round-1"), tiny_model, tmp_path / "nodes", ANSWERS, last)
    assert last.begun[0][0] > watching.begun[1][0]
    assert furthest(tmp_path / "one/out", tmp_path / "nodes/out") < 1e-5


@pytest.mark.cluster
def test_the_job_file_under_torchrun(tiny_model: Path, tmp_path: Path) -> None:
    """By hand, and without a standard input, as in a batch job."""
    trainer = build_trainer(run_config(tiny_model, tmp_path, processes=2, num_train_epochs=0.5), "round-1")
    assert isinstance(trainer, GroupTrainer)
    job = job_file(tmp_path, trainer, tiny_model, ANSWERS)
    command = [*TORCHRUN.split(), "--nproc-per-node", "2", "-m", "selfevo.pipeline.training_job", str(job)]
    subprocess.run(command, stdin=subprocess.DEVNULL, check=True)
    assert json.loads((job.parent / FIGURES).read_text())["steps"] == 2
    assert (tmp_path / "out/model.safetensors").is_file()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The job of two processes; this one is the second."""
    monkeypatch.chdir(tmp_path)
    trainer = build_trainer(run_config(tmp_path / "base", tmp_path, processes=2), "round-1")
    assert isinstance(trainer, GroupTrainer)
    here = {"RANK": 1, "LOCAL_RANK": 1, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    for name, value in here.items():
        monkeypatch.setenv(name, str(value))
    return job_file(tmp_path, trainer, tmp_path / "base", ANSWERS)


def said(job: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the process says, in one line that the parent gets too."""
    line = capsys.readouterr().err
    assert line.startswith("selfevo: ")
    assert line.count("\n") == 1
    if job.parent.is_dir():
        rank = os.environ.get("RANK", 0)
        assert json.loads((job.parent / f"error-{rank}.json").read_text())[1] == line.removeprefix("selfevo: ").rstrip()
    return line


def test_another_number_of_processes(job: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert training_job.main(job) == 2
    assert "4 processes were started, and trainer.processes is 2; make the launcher start as many" in said(job, capsys)


def test_more_processes_than_devices_on_a_node(job: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    data = json.loads(job.read_text())
    data["config"]["trainer"]["device"] = "cuda"
    job.write_text(json.dumps(data))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert training_job.main(job) == 2
    line = said(job, capsys)
    assert f"2 processes were started on {socket.gethostname()}, where torch sees 1 CUDA devices" in line


def test_a_node_with_other_packages(job: Path, capsys: Any) -> None:
    data = json.loads(job.read_text())
    data["versions"] |= {"torch": "1.0", "trl": "0.1"}
    job.write_text(json.dumps(data))
    assert training_job.main(job) == 4
    assert f"{socket.gethostname()} has torch 2." in (line := said(job, capsys))
    assert "instead of 1.0, trl " in line


def test_a_node_with_another_configuration(job: Path, capsys: Any) -> None:
    data = json.loads(job.read_text())
    data["config"]["trainer"]["no_such_setting"] = 1
    job.write_text(json.dumps(data))
    assert training_job.main(job) == 2
    assert "no_such_setting" in said(job, capsys)


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_job(job: Path, content: str, capsys: Any) -> None:
    job.write_text(content)
    assert training_job.main(job) == 4
    assert f"cannot read the job {job}" in said(job, capsys)


def test_without_torchrun(job: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("RANK")
    assert training_job.main(job) == 2
    assert "RANK is not set; start the job with torchrun" in said(job, capsys)


@pytest.mark.parametrize("missing", ["job", "work"])
def test_a_node_that_does_not_share_the_disk(job: Path, missing: str, capsys: Any) -> None:
    if missing == "work":
        (job.parents[1] / "work").rmdir()
    path = job.parents[1] / "nowhere/job.json" if missing == "job" else job
    assert training_job.main(path) == 4
    assert "the run directory must be on a disk that all machines share" in said(path, capsys)


def test_the_first_process_cannot_be_reached(
    job: Path, head: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    for name, value in zip(("MASTER_ADDR", "MASTER_PORT"), head.split(":"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(training_job, "WAIT_SECONDS", 1)
    assert training_job.main(job) == 4
    assert f"process 1 on {socket.gethostname()} cannot reach process 0 at {head} within 1 s (" in said(job, capsys)


def test_a_process_that_does_not_come(job: Path, head: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    for name, value in zip(("MASTER_ADDR", "MASTER_PORT"), head.split(":"), strict=True):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(training_job, "WAIT_SECONDS", 1)
    assert training_job.main(job) == 4
    assert f"does not see the other 1 at {head} within 1 s (Timed out" in said(job, capsys)


def test_a_launcher_that_starts_two_groups(job: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv(HELD, "1")
    monkeypatch.setattr(training_job, "_meet", lambda config, seconds: None)
    (job.parent / "claimed").touch()
    assert training_job.main(job) == 4
    assert "several groups of processes that do not know each other" in said(job, capsys)


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("srun --nodes $NO_SUCH_NAME torchrun", r"names \$NO_SUCH_NAME, which is not set in the environment"),
        ("srun --nodes ${NO_SUCH_NAME} torchrun", r"names \$\{NO_SUCH_NAME\}, which is not set"),
        ("srun 'torchrun", "no closing quotation; correct it"),
        ("no-such-command torchrun", "and no-such-command is no command; correct it"),
        ("", "and it is no command; correct it"),
    ],
)
def test_a_launcher_that_cannot_work(launcher: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_settings(TrainerConfig(device="cpu", processes=2, launcher=launcher))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("launcher", "message"),
    [
        ("true", "launcher ended before the training did; the command must start all processes and wait"),
        ("sh -c 'echo queued' --", r"ended before the training did \(queued\); the command must start all processes"),
        (
            "sh -c 'echo selfevo: why; echo noise; exit 3' --",
            r"ended with exit code 3 \(selfevo: why\), 3 times",
        ),
        ("sh -c 'kill -9 $PPID_OF_NONE$$' --", "names .PPID_OF_NONE, which is not set"),
        ("/", r"launcher: / cannot be started \(permission denied\); correct it"),
    ],
)
def test_a_launcher_that_starts_nothing(tmp_path: Path, launcher: str, message: str) -> None:
    trainer = build_trainer(run_config(tmp_path / "base", tmp_path, processes=2, launcher=launcher), "round-1")
    with pytest.raises(SelfevoError, match=message) as caught:
        trained(trainer, tmp_path / "base", tmp_path, ANSWERS)
    assert "\n" not in str(caught.value)


def test_a_launcher_does_not_decide_the_weights() -> None:
    assert TrainerConfig(processes=2, launcher="srun").deciding() == TrainerConfig(processes=2).deciding()
    data: dict[str, Any] = {"model": "m", "output": "o", "prompts": {"path": "p"}, "corpus": {"path": "c"}}
    with pytest.raises(ConfigError, match="launcher starts several processes, and processes is 1"):
        parse_config({**data, "trainer": {"launcher": "srun"}}, "test")


def test_an_error_of_the_cluster_has_its_exit_code() -> None:
    assert ClusterError.exit_code == 4
