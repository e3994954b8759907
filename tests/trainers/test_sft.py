"""Training on the tiny model: what is in the loss, by how much, what is saved, and what a kill costs."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfevo.config.training import LoraSettings
from selfevo.engines.transformers import TransformersEngine
from selfevo.errors import DataError, TrainingError
from selfevo.method.protocols import Request, Sampling
from selfevo.method.records import Example, Refined
from selfevo.method.training_examples import meta_examples
from selfevo.models.chat_template import Chat
from selfevo.trainers.loss import logits_at, short_way_is_right
from selfevo.trainers.sft import IGNORED, _Collator, tokenise
from trainings import EXAMPLES, state, train


def test_running_out_of_memory_says_what_to_lower(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    monkeypatch.setattr("selfevo.trainers.sft._WeightedTrainer.training_step", full)
    with pytest.raises(TrainingError, match=r"out of memory in training; lower trainer\.per_device_train_batch_size"):
        train(tiny_model, tmp_path)
    assert not (tmp_path / "out/model.safetensors").exists()


def loss_by_hand(base: Path, examples: Sequence[Example]) -> tuple[float, int]:
    """Cross-entropy of full logits, one sequence at a time and without padding; and how many tokens were weighed."""
    model, chat = AutoModelForCausalLM.from_pretrained(base).eval(), Chat(AutoTokenizer.from_pretrained(base))
    total, count = 0.0, 0
    for example in examples:
        [(ids, weights)] = chat.sequences(example.turns, example.weights)
        with torch.no_grad():
            log_probabilities = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
        for position in range(1, len(ids)):
            total -= weights[position] * log_probabilities[position - 1, ids[position]].item()
            count += weights[position] > 0
    return total / count, count


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_the_loss_is_a_weighted_cross_entropy_over_the_labelled_tokens(
    tiny_model: Path, tmp_path: Path, device: str
) -> None:
    expected, count = loss_by_hand(tiny_model, EXAMPLES)
    figures = train(tiny_model, tmp_path, device=device)
    assert figures["steps"] == 1
    assert figures["loss_first"] == pytest.approx(expected, abs=1e-3)
    assert figures["labelled_tokens"] == count


@pytest.mark.parametrize("accumulation", [2, 3])
def test_accumulating_gradients_is_the_same_training(tiny_model: Path, tmp_path: Path, accumulation: int) -> None:
    """The average is over the labels of the step, not an average of averages."""
    expected, _ = loss_by_hand(tiny_model, EXAMPLES)
    figures = train(
        tiny_model,
        tmp_path,
        per_device_train_batch_size=math.ceil(3 / accumulation),
        gradient_accumulation_steps=accumulation,
    )
    assert figures["steps"] == 1
    assert figures["loss_first"] == pytest.approx(expected, abs=1e-3)
    train(tiny_model, tmp_path / "whole")
    whole, parts = state(tmp_path / "whole/out"), state(tmp_path / "out")
    moved = max((whole[name] - start).abs().max().item() for name, start in state(tiny_model).items())
    assert max((whole[name] - parts[name]).abs().max().item() for name in whole) < 0.05 * moved


def test_training_lowers_the_loss_and_the_model_says_what_it_was_taught(tiny_model: Path, tmp_path: Path) -> None:
    examples = [EXAMPLES[0], Example("4", ("Sort: 8 6", "6 8"), (1.0,), "self")]
    figures = train(tiny_model, tmp_path, examples, num_train_epochs=40)
    assert figures["loss_last"] < 0.1 < 2 < figures["loss_first"]
    assert loss_by_hand(tmp_path / "out", examples)[0] < 0.1

    # That it stops shows that the stop token was trained, too.
    engine = TransformersEngine(dtype="float32", device="cpu")
    answers = engine.generate(tmp_path / "out", [Request(e.turns[:1], 0) for e in examples], Sampling(16))
    assert [(g.text, g.finish) for g in answers] == [("1 2", "stop"), ("6 8", "stop")]


def test_labels_are_the_weighted_turns_with_their_stop_token(tiny_model: Path) -> None:
    chat = Chat(AutoTokenizer.from_pretrained(tiny_model))
    rows, dropped = tokenise(chat, EXAMPLES, 512)
    assert dropped == 0
    batch = _Collator(0)(rows)
    labels = [row[row != IGNORED].tolist() for row in batch["labels"]]
    assert labels == [
        [*chat.words("1 2"), chat.stop_id],
        [*chat.words("3 5 9"), chat.stop_id],
        [*chat.words("Verdict: not qualified"), chat.stop_id, *chat.words("4 7"), chat.stop_id],
    ]
    assert batch["attention_mask"].sum(1).tolist() == [len(row["input_ids"]) for row in rows]
    assert not (batch["weights"] * (1 - batch["attention_mask"])).any(), "padding is never learnt"
    assert (batch["labels"][batch["weights"] > 0] == batch["input_ids"][batch["weights"] > 0]).all()


def test_a_padding_token_that_is_also_the_stop_token_hides_no_label(tiny_model: Path) -> None:
    """Many tokenizers pad with their stop token; masking by id would untrain it."""
    chat = Chat(AutoTokenizer.from_pretrained(tiny_model))
    rows, _ = tokenise(chat, EXAMPLES, 512)
    labels = _Collator(chat.stop_id)(rows)["labels"]
    assert (labels == chat.stop_id).sum(1).tolist() == [1, 1, 2]


def test_logits_where_the_labels_are_are_those_of_the_whole_model(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    batch = _Collator(0)(tokenise(Chat(AutoTokenizer.from_pretrained(tiny_model)), EXAMPLES, 512)[0])
    labelled = batch["weights"][:, 1:] > 0
    full = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1][labelled]
    for short in (True, False):
        some = logits_at(model, batch["input_ids"], batch["attention_mask"], labelled, short)
        torch.testing.assert_close(some, full)
    assert short_way_is_right(model, batch["input_ids"][0].tolist())


def test_a_model_that_scales_its_logits_takes_the_long_way(tiny_model: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    forward = model.forward

    def scaled(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = out.logits * 0.9
        return out

    model.forward = scaled
    assert model.train().training
    assert not short_way_is_right(model, list(range(20)))
    assert model.training, "the try leaves the model as it was"


def test_a_draft_of_weight_zero_is_read_but_not_learnt(tiny_model: Path, tmp_path: Path) -> None:
    """The gradient of the step is the one of the labelled turns alone, to the last parameter."""
    example = EXAMPLES[2]
    train(tiny_model, tmp_path, [example], max_grad_norm=1e9)
    model, chat = AutoModelForCausalLM.from_pretrained(tiny_model), Chat(AutoTokenizer.from_pretrained(tiny_model))
    [(ids, _)] = chat.sequences(example.turns, example.weights)
    log_probabilities = torch.log_softmax(model(torch.tensor([ids])).logits[0], -1)
    spans = [("Verdict: not qualified", 1.0), ("4 7", 0.5)]
    loss, count = torch.tensor(0.0), 0
    for text, weight in spans:
        wanted = [*chat.words(text), chat.stop_id]
        (start,) = (i for i in range(len(ids)) if ids[i : i + len(wanted)] == wanted)
        for offset, token in enumerate(wanted):
            loss = loss - weight * log_probabilities[start + offset - 1, token]
        count += len(wanted)
    torch.autograd.backward(loss / count)
    # The first step of Adam moves every weight by the learning rate against the sign of its gradient.
    after = state(tmp_path / "out")
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        clear = parameter.grad.abs() > 1e-5
        expected = parameter.detach() - 1e-2 * parameter.grad.sign()
        torch.testing.assert_close(after[name][clear], expected[clear], atol=2e-4, rtol=0)


def test_over_long_sequences_are_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    chat = Chat(AutoTokenizer.from_pretrained(tiny_model))
    size = len(chat.sequences(EXAMPLES[1].turns, (1.0,))[0][0])
    assert [row["length"] for row in tokenise(chat, EXAMPLES, size)[0]][1] == size, "exactly max_length fits"
    figures = train(tiny_model, tmp_path, max_length=size)
    assert (figures["sequences"], figures["dropped_overlong"]) == (2, 1)
    assert figures["loss_first"] == pytest.approx(loss_by_hand(tiny_model, EXAMPLES[:2])[0], abs=1e-3)


def test_nothing_but_over_long_sequences_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"all 3 training sequences are longer than trainer\.max_length=5"):
        train(tiny_model, tmp_path, max_length=5)
    assert not any((tmp_path / "out").iterdir())


def test_a_training_that_diverges_keeps_nothing(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"lower learning_rate"):
        train(tiny_model, tmp_path, learning_rate=1e30, num_train_epochs=4, max_grad_norm=1e9)
    assert not any((tmp_path / "out").iterdir())


def test_a_batch_without_a_label_names_its_rows(tiny_model: Path, tmp_path: Path) -> None:
    masked = [Example(f"masked-{i}", ("Sort: 2 1", "1 2"), (0.0,), "answer") for i in range(2)]
    with pytest.raises(TrainingError, match=r"no token of a batch has a weight above 0.*: masked-[01], masked-[01]$"):
        train(tiny_model, tmp_path, masked)
    assert not any((tmp_path / "out").iterdir())


def test_a_loss_that_is_not_finite_names_the_rows(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss became inf at step 0; lower learning_rate.*: heavy$"):
        train(tiny_model, tmp_path, [Example("heavy", ("Sort: 2 1", "1 2"), (3e38,), "self")])
    assert not any((tmp_path / "out").iterdir())


def test_a_gradient_that_is_not_finite_names_the_rows(tiny_model: Path, tmp_path: Path) -> None:
    """The loss is a number still; the norm of its gradient is not."""
    with pytest.raises(TrainingError, match=r"the gradient became (inf|nan) at step 1; lower learning_rate.*: steep$"):
        train(tiny_model, tmp_path, [Example("steep", ("Sort: 2 1", "1 2"), (1e33,), "self")])
    assert not any((tmp_path / "out").iterdir())


def test_weights_that_are_not_finite_are_not_saved(tiny_model: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.get_input_embeddings().weight[7] = torch.nan  # a token that no example holds
    model.save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(base)
    with pytest.raises(TrainingError, match=r"(non-finite|became nan)"):
        train(base, tmp_path)
    assert not any((tmp_path / "out").iterdir())


def test_a_base_that_is_no_model_is_an_error(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base/model.safetensors").unlink()
    with pytest.raises(DataError, match="cannot load a model from"):
        train(tmp_path / "base", tmp_path)


def test_a_base_without_a_chat_template_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base/chat_template.jinja").unlink()
    with pytest.raises(DataError, match="has no chat template"):
        train(tmp_path / "base", tmp_path)


@pytest.mark.parametrize("lora", [None, LoraSettings(r=4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plain_folder_is_saved_in_the_precision_of_the_base(
    tiny_model: Path, tmp_path: Path, dtype: torch.dtype, lora: LoraSettings | None
) -> None:
    base = tmp_path / "base"
    AutoModelForCausalLM.from_pretrained(tiny_model).to(dtype).save_pretrained(base)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(base)
    train(base, tmp_path, lora=lora, num_train_epochs=2, learning_rate=5e-2)
    before = AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    assert after.keys() == before.keys(), "no adapters beside the weights"
    assert {tensor.dtype for tensor in after.values()} == {dtype}
    assert any((after[name].float() - before[name].float()).abs().max() > 1e-3 for name in after)
    assert not list((tmp_path / "out").glob("adapter*"))
    assert list((tmp_path / "out").glob("*.safetensors"))
    saved = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert saved.chat_template == AutoTokenizer.from_pretrained(tiny_model).chat_template
    assert Chat(saved).prompt(("a b",)) == Chat(AutoTokenizer.from_pretrained(tiny_model)).prompt(("a b",))


def test_adapters_touch_no_more_than_their_targets(tiny_model: Path, tmp_path: Path) -> None:
    train(tiny_model, tmp_path, lora=LoraSettings(r=4, target_modules=["q_proj"]), num_train_epochs=2)
    before, after = state(tiny_model), state(tmp_path / "out")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}


def test_beta_halves_the_pull_of_the_answer_term(tiny_model: Path) -> None:
    """From D_meta to the loss: the term of log P(r^ | p) weighs beta."""
    d_meta = [Refined("1", "Sort: 2 1", "2 1", "Verdict: not qualified", "1 2")]

    def answer_term(beta: float) -> float:
        examples = [e for e in meta_examples(d_meta, beta) if e.term == "answer"]
        return loss_by_hand(tiny_model, examples)[0]

    assert answer_term(0.5) == pytest.approx(answer_term(1.0) / 2)
