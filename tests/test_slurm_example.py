"""The job for SLURM in examples/: bash can read it, and what it names is there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer.main
from torch.distributed.run import get_args_parser

from selfevo.cli.app import app
from selfevo.config.loading import load_config
from selfevo.pipeline import training_job
from selfevo.trainers.processes import JOB, launched

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples/slurm/job.sh"
GIVEN = {"SLURM_CPUS_PER_TASK": "32", "SLURM_NNODES": "2", "SLURM_JOB_ID": "7"}  # by SLURM


@pytest.fixture
def words() -> list[str]:
    """The command that ends the script."""
    lines = SCRIPT.read_text(encoding="utf-8").splitlines()
    return shlex.split(lines[-1])


def test_bash_reads_the_script() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_it_uses_only_variables_that_are_set() -> None:
    text = SCRIPT.read_text(encoding="utf-8")
    exported = set(re.findall(r"^export (\w+)=", text, re.MULTILINE))
    assert set(re.findall(r"\$\{?(\w+)", text)) <= exported | GIVEN.keys()


def test_its_command_and_its_configuration_exist(words: list[str]) -> None:
    replaced, program, command, path = words
    assert (replaced, program) == ("exec", "selfevo")
    assert command in typer.main.get_command(app).commands  # type: ignore[attr-defined]
    config = load_config(ROOT / path)
    assert (ROOT / str(config.prompts.path)).is_file() if config.prompts and hasattr(config.prompts, "path") else False


def test_its_launcher_starts_as_many_processes(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**GIVEN, "SELFEVO_HEAD": "first:29500"}.items():
        monkeypatch.setenv(name, value)
    trainer = load_config(ROOT / words[-1]).trainer
    assert trainer.launcher is not None
    command = launched(trainer.launcher)
    place = command.index("torchrun")
    assert command[0] == "srun"
    torchrun = get_args_parser().parse_args([*command[place + 1 :], *JOB, "job.json"])
    assert int(torchrun.nnodes) * int(torchrun.nproc_per_node) == trainer.processes
    assert torchrun.rdzv_endpoint == "first:29500"
    assert torchrun.module and torchrun.training_script == training_job.__spec__.name
    script = SCRIPT.read_text(encoding="utf-8")
    assert f"--nodes={torchrun.nnodes}\n" in script
    assert f"--gpus-per-node={torchrun.nproc_per_node}\n" in script
