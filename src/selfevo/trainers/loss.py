"""The loss of a training: cross-entropy at the labelled tokens, without ever holding all logits.

Most tokens of a sequence are prompt, and a vocabulary may have 200,000 entries: the logits of a
batch would be larger than the model. They are computed for labelled tokens alone, a piece at a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.fsdp import FSDPModule
from torch.nn.functional import cross_entropy, linear

PIECE = 2**25  # logits that are held at once: 128 MiB in float32


def labelled_loss(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    weights: torch.Tensor,
    short: bool,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """The sum of weight times negative log-likelihood, a float32 scalar, over the tokens with a weight above 0.

    `ids` and `mask` are (rows, columns), `weights` (rows, columns - 1): of each token but the first.
    The `short` way computes only the logits of these tokens (see short_way_is_right).
    """
    labelled = weights > 0
    targets, wanted = ids[:, 1:][labelled], weights[labelled]
    if not short:
        logits = logits_at(model, ids, mask, labelled, short, positions)
        return weighted_loss(logits, targets, wanted)
    head = _bare(model).get_output_embeddings()
    return loss_in_pieces(_hidden(model, ids, mask, labelled, positions), targets, wanted, head)


def logits_at(
    model: Any,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    labelled: torch.Tensor,
    short: bool,
    positions: torch.Tensor | None = None,
) -> torch.Tensor:
    """Logits (labelled tokens, vocabulary) for the tokens at `labelled`, a mask (rows, columns - 1)."""
    if short:
        logits: torch.Tensor = _bare(model).get_output_embeddings()(_hidden(model, ids, mask, labelled, positions))
        return logits
    seen = {"attention_mask": mask} if positions is None else {"position_ids": positions}
    return _at(model(input_ids=ids, use_cache=False, **seen).logits, labelled)


def give_loss(model: Any, short: bool) -> None:
    """Has the model's own forward pass return labelled_loss where it is given weights. What wraps a model, to train it
    by several processes, sees only calls of its forward pass."""
    whole = model.forward

    def forward(*arguments: Any, weights: torch.Tensor | None = None, **inputs: Any) -> Any:
        if weights is None:
            return whole(*arguments, **inputs)
        model.forward = whole  # for the long way, which calls it
        try:
            ids, mask, positions = inputs["input_ids"], inputs["attention_mask"], inputs.get("position_ids")
            return labelled_loss(model, ids, mask, weights, short, positions)
        finally:
            model.forward = forward

    model.forward = forward


@torch.no_grad()
def short_way_is_right(model: Any, ids: list[int]) -> bool:
    """Whether both ways of logits_at give the same for `ids`, by a try.

    They do not for a model that scales, caps or transforms after its last layer.
    """
    training, tensor = model.training, torch.tensor([ids[:64]], device=model.device)
    mask = torch.ones_like(tensor)
    model.eval()
    try:
        short, whole = (logits_at(model, tensor, mask, mask[:, 1:] > 0, way).float() for way in (True, False))
    except torch.OutOfMemoryError:
        raise
    except Exception:  # whatever a model's code raises that was not made for this
        return False
    finally:
        model.train(training)
    most = 1e-4 if torch.finfo(model.dtype).bits >= 32 else 0.02
    return short.shape == whole.shape and float((short - whole).norm()) <= most * float(whole.norm())


def _bare(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _hidden(
    model: Any, ids: torch.Tensor, mask: torch.Tensor | None, labelled: torch.Tensor, positions: torch.Tensor | None
) -> torch.Tensor:
    """The last hidden states (labelled tokens, size) that predict the tokens at `labelled`."""
    seen = {"attention_mask": mask} if positions is None else {"position_ids": positions}
    return _at(_bare(model).base_model(input_ids=ids, use_cache=False, **seen).last_hidden_state, labelled)


def _at(values: torch.Tensor, labelled: torch.Tensor) -> torch.Tensor:
    """Rows of `values` (rows, columns, size) that predict a labelled token.

    values[mask] would be slow: its backward pass on a CPU scatters element by element.
    """
    flat = values[:, :-1].reshape(-1, values.shape[-1])
    return flat.index_select(0, labelled.reshape(-1).nonzero()[:, 0])


def weighted_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (cross_entropy(logits.float(), targets, reduction="none") * weights).sum()


def loss_in_pieces(hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, head: Any) -> torch.Tensor:
    """The weighted loss of head(hidden), with at most PIECE logits at a time."""
    entries = head.weight.shape[0] if hasattr(head, "weight") else 0
    rows = max(1, PIECE // max(1, entries))
    if len(hidden) <= rows:
        return weighted_loss(head(hidden), targets, weights)
    if issubclass(type(head), FSDPModule):  # a call of it takes part in the backward pass of the whole model
        if type(head).forward is not torch.nn.Linear.forward:
            return weighted_loss(head(hidden), targets, weights)
        nothing: torch.Tensor = head(hidden[:0])  # gathers its weights, which stay until the backward pass
        return _pieces(hidden, targets, weights, _Linear(head), rows) + nothing.sum()
    return _pieces(hidden, targets, weights, head, rows)


def _pieces(hidden: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, head: Any, rows: int) -> torch.Tensor:
    if not torch.is_grad_enabled():
        parts = [slice(start, start + rows) for start in range(0, len(hidden), rows)]
        return torch.stack([weighted_loss(head(hidden[part]), targets[part], weights[part]) for part in parts]).sum()
    trained = [parameter for parameter in head.parameters() if parameter.requires_grad]
    loss: torch.Tensor = _Pieces.apply(hidden, targets, weights, head, rows, *trained)  # type: ignore[no-untyped-call]
    return loss


class _Linear:
    """A linear layer as a function of its gathered weights."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return linear(hidden, self.layer.weight, self.layer.bias)

    def parameters(self) -> Iterator[torch.Tensor]:
        return iter(self.layer.parameters())


class _Pieces(torch.autograd.Function):
    """Each piece's gradients are computed with its logits, which are then given back: as they are linear in the
    gradient of the sum, the backward pass only scales them. Nothing is computed twice."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        head: Any,
        rows: int,
        *trained: torch.Tensor,
    ) -> torch.Tensor:
        total = torch.zeros((), device=hidden.device)
        of_hidden = torch.empty_like(hidden)
        of_trained = [torch.zeros_like(parameter) for parameter in trained]
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            with torch.enable_grad():
                piece = hidden[part].detach().requires_grad_()
                loss = weighted_loss(head(piece), targets[part], weights[part])
            of_hidden[part], *found = torch.autograd.grad(loss, (piece, *trained))
            for sum_, gradient in zip(of_trained, found, strict=True):
                sum_ += gradient
            total += loss.detach()
        ctx.save_for_backward(of_hidden, *of_trained)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        [scale] = gradients
        of_hidden, *of_trained = ctx.saved_tensors
        return (of_hidden * scale, None, None, None, None, *(gradient * scale for gradient in of_trained))
