"""DPO on (r^ over r): real TRL on a tiny model, with our token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from selfevo.config.loading import parse_config
from selfevo.config.sections import DPOObjective
from selfevo.config.training import TrainerConfig
from selfevo.errors import ConfigError, TrainingError
from selfevo.method.records import Example, Judged
from selfevo.method.training_examples import preference_examples, self_examples
from selfevo.models.chat_template import Chat
from selfevo.models.device import load_tokenizer
from selfevo.pipeline.build import build_trainer
from selfevo.report.progress import Silent
from selfevo.trainers.dpo import PreferenceTrainer, pairs
from selfevo.trainers.sft import TRLTrainer

CONFIG = TrainerConfig(
    device="cpu",
    dtype="float32",
    learning_rate=1e-2,
    num_train_epochs=4,
    per_device_train_batch_size=2,
)
OBJECTIVE = DPOObjective(beta=0.5)
ROWS = [Judged(str(i), f"Sort: {i} 1", f"{i} 1", "f", f"1 {i}", "v") for i in range(2, 8)]


def margin(folder: Path, example: Example) -> float:
    """log P(r^ | p) - log P(r | p)."""
    import torch
    from transformers import AutoModelForCausalLM

    model, chat = AutoModelForCausalLM.from_pretrained(folder), Chat(load_tokenizer(folder))
    prompt = chat.prompt(example.turns[:1])
    total = []
    for text in (example.turns[1], example.rejected):
        ids = chat.sequences((example.turns[0], text), (1.0,))[0][0]
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        total.append(sum(float(logs[i - 1, ids[i]]) for i in range(len(prompt), len(ids))))
    return total[0] - total[1]


def test_the_refined_answer_becomes_likelier_than_the_first(tiny_model: Path, tmp_path: Path) -> None:
    examples = preference_examples(ROWS)
    output, work = tmp_path / "out", tmp_path / "work"
    output.mkdir()
    trainer = PreferenceTrainer(CONFIG, OBJECTIVE)
    figures = trainer.train(tiny_model, examples, output, work=work, seed=0, progress=Silent())
    assert figures["sequences"] == 6
    assert figures["steps"] == 12
    assert figures["loss_last"] < figures["loss_first"]
    assert figures["tokens"] == 4 * trainer.tokens(tiny_model, examples)
    for example in examples[:2]:
        assert margin(output, example) > margin(tiny_model, example) + 0.5


def test_pairs_are_the_rows_whose_refinement_differs() -> None:
    same = Judged("9", "p", "stays", "f", " stays", "v")
    examples = preference_examples([*ROWS, same])
    assert len(examples) == 6
    assert (examples[0].turns, examples[0].rejected, examples[0].term) == (("Sort: 2 1", "1 2"), "2 1", "preference")
    assert not {e.id for e in examples} & {e.id for e in self_examples(ROWS)}
    other = Judged("2", "Sort: 2 1", "something else", "f", "1 2", "v")
    assert preference_examples([other])[0].id != examples[0].id, "what is rejected is part of the lineage"


def test_token_ids_are_those_of_every_other_training(tiny_model: Path) -> None:
    chat = Chat(load_tokenizer(tiny_model))
    example = preference_examples([Judged("1", "p", "r <|im_end|>", "f", "r^", "v")])[0]
    [row], dropped = pairs(chat, [example], 512)
    assert dropped == 0
    assert row["prompt_ids"] + row["chosen_ids"] == chat.sequences(("p", "r^"), (1.0,))[0][0]
    assert row["prompt_ids"] + row["rejected_ids"] == chat.sequences(("p", "r <|im_end|>"), (1.0,))[0][0]
    assert row["rejected_ids"].count(chat.stop_id) == 1, "a control token in a text is plain text"
    assert pairs(chat, [example], 5) == ([], 1)


def test_pairs_that_are_all_too_long_are_an_error(tiny_model: Path, tmp_path: Path) -> None:
    trainer = PreferenceTrainer(CONFIG.model_copy(update={"max_length": 5}), OBJECTIVE)
    with pytest.raises(TrainingError, match=r"all 6 pairs are longer than trainer\.max_length=5"):
        trainer.train(tiny_model, preference_examples(ROWS), tmp_path, work=tmp_path, seed=0, progress=Silent())


DATA: dict[str, Any] = {"model": "m", "output": "o", "prompts": {"path": "p"}, "corpus": {"path": "c"}}


def test_only_the_rounds_are_trained_so() -> None:
    config = parse_config({**DATA, "objective": "dpo", "policy": "continual-latest"}, "test")
    assert isinstance(build_trainer(config, "meta"), TRLTrainer)
    assert isinstance(build_trainer(config, "round-1"), PreferenceTrainer)
    assert build_trainer(config, "round-1").key() != TRLTrainer(config.trainer).key()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "objective dpo trains without L_meta, which policy restart needs"),
        ({"policy": "continual-latest", "ablation": {"refine": False}}, "makes them equal"),
    ],
)
def test_what_it_does_not_go_with_is_said(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_config({**DATA, "objective": "dpo", **change}, "test")
