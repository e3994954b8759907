"""`selfevo doctor --plan`: nothing is loaded, and what does not fit is one line with the smallest change that does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_doctor import configuration

from commands import Selfevo
from selfevo.checks.machine import Machine, parse_machine
from selfevo.checks.plan import make_plan, plan_of
from selfevo.checks.throughput import measured, modelled
from selfevo.checks.workload import Workload, stages_of
from selfevo.config.loading import load_config
from selfevo.config.run_config import RunConfig
from selfevo.errors import ConfigError
from selfevo.report.documents import PlanDocument
from selfevo.trainers.training_memory import Batch

ROOT = Path(__file__).parents[2]
CLUSTERS = ROOT / "examples" / "clusters"
MACHINES = {
    "one-gpu": "H100 80GB",
    "one-gpu-4bit": "H100 80GB",
    "eight-gpus": "8 x H100 80GB",
    "eight-gpus-fsdp2": "8 x H100 80GB",
    "two-nodes": "2 nodes x 8 x H100 80GB",
}
WORK = Workload(d_meta=100, trajectory=900, pair=400, pool=1000, written=800, measured=50, batch=Batch(4, 2048, 4096))


@pytest.fixture
def paper(tiny_model: Path, tmp_path: Path) -> RunConfig:
    """A run of a model of which only config.json is there."""
    config, folder = configuration(tiny_model, tmp_path), tmp_path / "paper"
    folder.mkdir()
    shutil.copy(tiny_model / "config.json", folder)
    return config.model_copy(update={"model": str(folder)})


def planned(name: str, shape: str, machine: str, price: float | None = None, **trainer: Any) -> PlanDocument:
    config = load_config(CLUSTERS / f"{name}.yaml")
    config = config.model_copy(update={"trainer": config.trainer.model_copy(update=trainer)})
    return make_plan(config, CLUSTERS / "shapes" / shape, parse_machine(machine), WORK, price)


@pytest.mark.parametrize("name", MACHINES)
def test_each_example_fits_its_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(CLUSTERS / f"{name}.yaml")
    assert MACHINES[name] in (CLUSTERS / f"{name}.yaml").read_text(encoding="utf-8"), "the comment shows the command"
    plan = plan_of(config, parse_machine(MACHINES[name]), 2.5)
    assert (plan.fault, plan.training.devices) == ("", parse_machine(MACHINES[name]).devices)
    assert plan.generation.devices == plan.training.devices
    assert [stage.name for stage in plan.stages] == ["meta", "round-1", "round-2", "round-3"]


def test_every_example_has_a_machine() -> None:
    assert {path.stem for path in CLUSTERS.glob("*.yaml")} == MACHINES.keys()


@pytest.mark.parametrize(("shape", "millions"), [("1.5b", 1543.7), ("7b", 7615.6), ("32b", 32763.9), ("70b", 70553.7)])
def test_the_shapes_have_the_parameters_that_are_published(shape: str, millions: float) -> None:
    assert planned("one-gpu", shape, "B200").parameters / 1e6 == pytest.approx(millions, abs=0.1)


def test_dollars_are_those_of_all_devices() -> None:
    plan = planned("eight-gpus", "7b", "8 x H100 80GB", 2.0)
    for stage in plan.stages:
        assert stage.dollars == pytest.approx((stage.generate_hours + stage.train_hours) * 8 * 2.0)
    assert all(stage.dollars is None for stage in planned("eight-gpus", "7b", "8 x H100 80GB").stages)


def test_eight_devices_take_an_eighth_of_the_time() -> None:
    one, eight = planned("one-gpu", "7b", "H100 80GB"), planned("eight-gpus", "7b", "8 x H100 80GB")
    for before, after in zip(one.stages, eight.stages, strict=True):
        assert after.train_hours == pytest.approx(before.train_hours / 8)
        assert after.generate_hours == pytest.approx(before.generate_hours / 8)


@pytest.mark.parametrize(
    ("name", "shape", "machine", "trainer", "remedy"),
    [
        ("one-gpu", "7b", "H100 80GB", {"lora": None}, "set trainer: {lora: {}}, which needs "),
        ("one-gpu", "32b", "H100 80GB", {}, "set trainer: {per_device_train_batch_size: 1, gradient_acc"),
        ("one-gpu", "7b", "L40S", {"gradient_checkpointing": False}, "set trainer: {gradient_checkpointing: true}"),
        ("one-gpu", "70b", "H200", {}, " on a device, and H200 has 126.9 GiB to use; take a card with more memory"),
        ("one-gpu", "70b", "2 x H100 80GB", {}, "set engine: {kind: vllm, tensor_parallel_size: 2}, or take"),
        ("one-gpu", "32b", "A10G", {}, "on a device, and A10G has 21.6 GiB to use; take a card with more memory"),
        ("eight-gpus", "7b", "8 x H100 80GB", {"lora": None}, "set trainer: {sharding: fsdp2, processes: 8}, which"),
        ("eight-gpus-fsdp2", "32b", "8 x H100 80GB", {}, "set trainer: {lora: {}}, which"),
        ("one-gpu", "7b", "L4", {"lora": None}, "set trainer: {lora: {}"),
    ],
)
def test_what_does_not_fit_names_the_smallest_change(
    name: str, shape: str, machine: str, trainer: dict[str, Any], remedy: str
) -> None:
    fault = planned(name, shape, machine, **trainer).fault
    assert remedy in fault
    assert "\n" not in fault


def test_devices_that_do_nothing_are_said() -> None:
    notes = planned("one-gpu", "7b", "8 x H100 80GB").notes
    assert "training uses 1 of 8 devices: trainer.processes: 8" in notes
    assert "generation uses 1 of 8 devices: engine.workers: 8" in notes
    assert not any("devices:" in note for note in planned("eight-gpus", "7b", "8 x H100 80GB").notes)


def test_more_processes_than_devices_are_refused() -> None:
    for machine in ("4 x H100 80GB", "2 nodes x 4 x H100 80GB"):  # without a launcher they are those of one node
        with pytest.raises(ConfigError, match=r"trainer\.processes is 8, and .*4 x H100 80GB has 4 devices"):
            planned("eight-gpus", "7b", machine)
    with pytest.raises(ConfigError, match=r"trainer\.processes is 16, and 8 x H100 80GB has 8 devices"):
        planned("two-nodes", "70b", "8 x H100 80GB")


def test_the_stages_train_what_the_policies_say(paper: RunConfig) -> None:
    def tokens(**changes: Any) -> list[float]:
        config = paper.model_copy(update=changes)
        return [stage.trained for stage in stages_of(config, WORK)]

    meta = 3 * 100 * (900 + 400)
    kept = 3 * 500 * 400
    assert tokens() == [meta, meta + kept, meta + 2 * kept]
    assert tokens(policy="continual-latest") == [meta, kept, kept]
    steps = paper.trainer.model_copy(update={"max_steps": 10})
    assert tokens(trainer=steps)[0] == 10 * 8 * (900 + 400) / 2


def test_a_faster_card_is_faster_and_bandwidth_is_for_generation(paper: RunConfig) -> None:
    def speed(machine: str) -> Any:
        return modelled(paper, Path(paper.model), parse_machine(machine).card, WORK, 8, 1)

    slow, wide = speed("Mine 80GB 100TFLOPS 1TB/s"), speed("Mine 80GB 100TFLOPS 2TB/s")
    quick = speed("Mine 80GB 200TFLOPS 1TB/s")
    assert quick.train == 2 * slow.train == 2 * wide.train
    assert wide.generate > 1.5 * slow.generate


def test_a_run_gives_its_own_speed(finished: RunConfig, tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="is no run directory"):
        measured(tiny_model, tiny_model)
    with pytest.raises(ConfigError, match="--measured"):
        measured(finished.output, tiny_model)  # its scripted models have no shape


def test_the_command(selfevo: Selfevo, paper: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(json.dumps(paper.model_dump(mode="json")))
    code, out, err = selfevo("doctor", "run.yaml", "--plan", "2 x A100 40GB", "--price", "1.5")
    assert (code, err) == (0, "")
    assert "of which a device gives 36.0 GiB" in out and "round-2" in out and "four characters" in out
    code, out, _ = selfevo("doctor", "run.yaml", "--plan", "2 x A100 40GB", "--json")
    assert json.loads(out)["machine"] == "2 x A100 40GB"
    for arguments, message in (
        (("--plan", "8 x H900"), "is no known card"),
        (("--price", "2"), "--price is for a plan; add --plan MACHINE"),
        (("--measured", "runs/x"), "--measured is for a plan"),
        (("--plan", "H100", "--measured", "nowhere"), "--measured nowhere is no run directory"),
        (("--plan", "H100", "--set", "trainer.processes=2"), "trainer.processes is 2, and 1 x H100 80GB has 1"),
        (("--plan", "H100", "--set", "model=nowhere/at/all"), "model: folder nowhere/at/all does not exist"),
    ):
        code, _, err = selfevo("doctor", "run.yaml", *arguments)
        assert code == 2
        assert message in err and err.count("\n") == 1, err


def test_texts_that_are_not_known_yet_are_as_long_as_they_may_become(paper: RunConfig, tmp_path: Path) -> None:
    known = plan_of(paper, Machine(1, 1, parse_machine("H100").card))
    unknown = plan_of(paper.model_copy(update={"corpus": None}), Machine(1, 1, parse_machine("H100").card))
    assert unknown.training.columns > 3 * 64 > known.training.columns
    assert [stage.name for stage in unknown.stages] == ["round-1", "round-2"]
