"""The loss: piece by piece it is the same number, with the same gradients, as with all logits at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from selfevo.models.loading import load_model
from selfevo.trainers import loss
from selfevo.trainers.loss import labelled_loss


def batch(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Token ids, mask and weights of three rows, of which one is padded; some weights are 0, some are not 1."""
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(vocabulary, (3, 20), generator=random)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    weights = torch.rand((3, 19), generator=random).where(mask[:, 1:] > 0, torch.tensor(0.0))
    weights[:, :5] = 0
    return ids, mask, weights


def tuned(folder: Path, how: str) -> Any:
    model = load_model(folder, torch.float32)
    if how == "untied":
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.1)
    torch.manual_seed(0)
    more: dict[str, Any] = {"adapter": {}, "head": {"modules_to_save": ["lm_head"]}}
    if how in more:
        model = get_peft_model(
            model, LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", **more[how])
        )
    return model.train()


@pytest.mark.parametrize("how", ["all", "untied", "adapter", "head"])
@pytest.mark.parametrize("rows", [1, 7, 38, 39])
def test_pieces_give_the_loss_and_gradients_of_the_whole(
    how: str, rows: int, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for size in (2**40, rows * 400):
        monkeypatch.setattr(loss, "PIECE", size)
        model = tuned(tiny_model, how)
        value = labelled_loss(model, *batch(model.config.vocab_size), short=True)
        torch.autograd.backward(value / 7)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        assert all(gradient is not None for gradient in gradients.values())
        found.append((float(value.detach()), gradients))
    (whole, expected), (pieces, got) = found
    assert pieces == pytest.approx(whole, rel=1e-6)
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)


def test_at_most_a_piece_of_logits_is_held(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tuned(tiny_model, "all")
    sizes = []
    model.get_output_embeddings().register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
    monkeypatch.setattr(loss, "PIECE", 5 * model.config.vocab_size)
    ids, mask, weights = batch(model.config.vocab_size)
    labelled_loss(model, ids, mask, weights, short=True)
    with torch.no_grad():
        labelled_loss(model, ids, mask, weights, short=True)
    labelled = int((weights > 0).sum())
    assert len(sizes) == 2 * -(-labelled // 5)
    assert max(sizes) == 5 * model.config.vocab_size


def test_without_gradients_the_loss_is_the_same(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tuned(tiny_model, "adapter").eval()
    inputs = batch(model.config.vocab_size)
    with torch.no_grad():
        whole = labelled_loss(model, *inputs, short=True)
        assert float(labelled_loss(model, *inputs, short=False)) == pytest.approx(float(whole), rel=1e-6)
        monkeypatch.setattr(loss, "PIECE", 1)
        assert float(labelled_loss(model, *inputs, short=True)) == pytest.approx(float(whole), rel=1e-6)


def test_under_autocast_pieces_train_what_the_whole_trains(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for size in (2**40, 7 * 400):
        monkeypatch.setattr(loss, "PIECE", size)
        model = tuned(tiny_model, "all")
        with torch.autocast("cpu", torch.bfloat16):
            value = labelled_loss(model, *batch(model.config.vocab_size), short=True)
        torch.autograd.backward(value)
        found.append(model.get_output_embeddings().weight.grad)
    assert found[1].dtype == torch.float32
    assert float((found[0] - found[1]).norm()) < 0.02 * float(found[0].norm())
