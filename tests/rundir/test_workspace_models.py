"""A model is trained once, from the weights it says, and does not exist before it is whole."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from runs import KilledError, judged, open_run, scripted
from selfevo.errors import DataError, RunError, TrainingError
from selfevo.method.protocols import Model
from selfevo.method.records import Example
from selfevo.method.training_examples import self_examples
from selfevo.rundir.atomic_files import hash_model
from selfevo.trainers.scripted import ScriptedTrainer

EXAMPLES = self_examples([judged(1, "v"), judged(2, "v")])


@pytest.fixture
def base(tmp_path: Path) -> Model:
    folder = tmp_path / "base-model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    return Model("base", folder, hash_model(folder))


def test_a_model_is_trained_once(root: Path, base: Model) -> None:
    trainer = ScriptedTrainer()
    first = open_run(root, scripted(), trainer).train("meta", base, EXAMPLES)
    again = open_run(root, scripted(), trainer).train("meta", base, EXAMPLES)
    assert first == again == Model("meta", root / "models/meta", hash_model(root / "models/meta"))
    assert len(trainer.calls) == 1
    marker = json.loads((root / "models/meta/selfevo.json").read_text())
    assert (marker["start"], marker["start_weights"], marker["examples"]) == ("base", base.id, {"self": 2})


def test_a_training_that_dies_leaves_no_model_and_is_done_again(root: Path, base: Model) -> None:
    def die(path: Path, examples: Sequence[Example]) -> None:
        raise KilledError

    with pytest.raises(KilledError):
        open_run(root, scripted(), ScriptedTrainer(before=die)).train("meta", base, EXAMPLES)
    assert not (root / "models/meta").exists()
    trainer = ScriptedTrainer()
    open_run(root, scripted(), trainer).train("meta", base, EXAMPLES)
    assert len(trainer.calls) == 1
    assert sorted(path.name for path in (root / "models").iterdir()) == ["meta"]


def test_a_folder_that_was_left_half_written_does_not_count(root: Path, base: Model) -> None:
    """KilledError while saving: what lies there has no marker and may lack half of its weights."""
    torn = root / "models/.meta.tmp"
    torn.mkdir(parents=True)
    (torn / "model-00001-of-00002.safetensors").write_bytes(b"half")
    model = open_run(root, scripted(), ScriptedTrainer()).train("meta", base, EXAMPLES)
    assert sorted(p.name for p in model.path.iterdir()) == [
        "config.json",
        "examples.jsonl",
        "model.safetensors",
        "selfevo.json",
    ]
    assert not torn.exists()


def test_scratch_space_survives_a_kill_so_that_training_can_go_on(root: Path, base: Model) -> None:
    class Checkpointing(ScriptedTrainer):
        def train(
            self, base: Path, examples: Sequence[Example], output: Path, *, work: Path, **rest: Any
        ) -> dict[str, float]:
            if not (work / "checkpoint").exists():
                (work / "checkpoint").write_text("half way")
                raise KilledError
            found.append((work / "checkpoint").read_text())
            return super().train(base, examples, output, work=work, **rest)

    found: list[str] = []
    with pytest.raises(KilledError):
        open_run(root, scripted(), Checkpointing()).train("meta", base, EXAMPLES)
    open_run(root, scripted(), Checkpointing()).train("meta", base, EXAMPLES)
    assert found == ["half way"]
    assert not (root / "models/.meta.work").exists()


def test_the_time_of_a_training_that_a_signal_stopped_counts(root: Path, base: Model) -> None:
    def stop(path: Path, examples: Sequence[Example]) -> None:
        time.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_run(root, scripted(), ScriptedTrainer(before=stop)).train("meta", base, EXAMPLES)
    workspace = open_run(root, scripted(), ScriptedTrainer())
    before = workspace.seconds("meta")
    assert before >= 0.02
    workspace.train("meta", base, EXAMPLES)
    assert workspace.seconds("meta") >= before


@pytest.mark.parametrize("change", ["examples", "start", "seed"])
def test_a_model_of_another_lineage_is_refused(root: Path, base: Model, change: str) -> None:
    open_run(root, scripted()).train("meta", base, EXAMPLES)
    run = open_run(root, scripted())
    run.seed = 1 if change == "seed" else 0
    start = Model("base", base.path, "other weights") if change == "start" else base
    with pytest.raises(RunError, match=r"models/meta was trained on other rows .* use a new output directory"):
        run.train("meta", start, EXAMPLES[:1] if change == "examples" else EXAMPLES)


def test_nothing_to_train_on_is_said_before_training(root: Path, base: Model) -> None:
    trainer = ScriptedTrainer()
    with pytest.raises(TrainingError, match="round-1 has no training examples, because no kept row gives one"):
        open_run(root, scripted(), trainer).train("round-1", base, [])
    assert trainer.calls == []


def test_a_trainer_that_saves_no_safetensors_is_refused(root: Path, base: Model) -> None:
    class Pickling(ScriptedTrainer):
        def train(self, *args: Path, **rest: object) -> dict[str, float]:  # type: ignore[override]
            return {}

    with pytest.raises(DataError, match="safetensors"):
        open_run(root, scripted(), Pickling()).train("meta", base, EXAMPLES)
    assert not (root / "models/meta").exists()


def test_weights_are_known_by_their_bytes(tmp_path: Path) -> None:
    def folder(name: str, **files: bytes) -> str:
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / f"{file}.safetensors").write_bytes(content)
        (tmp_path / name / "config.json").write_text("{}")
        return hash_model(tmp_path / name)

    one = folder("a", model=b"123")
    assert folder("b", model=b"123") == one
    assert len({one, folder("c", model=b"124"), folder("d", m1=b"1", m2=b"23"), folder("e", m1=b"12", m2=b"3")}) == 4
    with pytest.raises(DataError, match=r"holds no \*\.safetensors file"):
        folder("f")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "special_tokens_map.json",
        ),
        *(
            "vocab.json",
            "vocab.txt",
            "merges.txt",
            "added_tokens.json",
            "tokenizer.model",
            "spiece.model",
            "x.tiktoken",
        ),
        *("chat_template.json", "chat_template.jinja", "additional_chat_templates/tools.jinja"),
    ],
)
def test_another_template_or_tokenizer_is_another_model(base: Model, name: str) -> None:
    (base.path / name).parent.mkdir(exist_ok=True)
    (base.path / name).write_text("one")
    one = hash_model(base.path)
    (base.path / name).write_text("other")
    assert len({base.id, one, hash_model(base.path)}) == 3


@pytest.mark.parametrize("name", ["README.md", "selfevo.json", "LICENSE", "eval_results.json", ".gitattributes"])
def test_what_lies_beside_a_model_does_not_change_it(base: Model, name: str) -> None:
    (base.path / name).write_text("one")
    assert hash_model(base.path) == base.id
