"""Gated layers (SwiGLU) that keep one tensor less for the backward pass: the activated gate, computed again there.

It is as large as the largest that a layer holds, and takes a hundredth of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def lean_gates(model: Any, active: bool = True) -> Iterator[None]:
    """Has the layers of `model` that are down(activation(gate(x)) * up(x)) compute the same with less memory."""
    changed = [part for part in model.modules() if active and _is_gated(part)]
    for part in changed:
        part.forward = _lean(part)
    try:
        yield
    finally:
        for part in changed:
            del part.forward


def _lean(part: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        product = _Gated.apply(part.act_fn, part.gate_proj(x), part.up_proj(x))  # type: ignore[no-untyped-call]
        down: torch.Tensor = part.down_proj(product)
        return down

    return forward


@torch.no_grad()
def _is_gated(part: Any) -> bool:
    """By its parts, and by a try: some models scale or clip in between."""
    if not all(hasattr(part, name) for name in ("gate_proj", "up_proj", "down_proj", "act_fn")):
        return False
    training = part.training
    part.eval()
    try:
        weight = next(part.parameters())
        x = torch.linspace(-3, 3, 2 * part.gate_proj.in_features, device=weight.device, dtype=weight.dtype)
        x = x.view(1, 2, -1)
        return torch.equal(part(x), _lean(part)(x))
    except Exception:  # whatever a model's code raises that was not made for this
        return False
    finally:
        part.train(training)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, activation: Callable[[torch.Tensor], torch.Tensor], gate: torch.Tensor, up: torch.Tensor
    ) -> torch.Tensor:
        ctx.activation = activation
        ctx.save_for_backward(gate, up)
        return activation(gate) * up

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        [gradient], (gate, up) = gradients, ctx.saved_tensors
        with torch.enable_grad():
            gate = gate.detach().requires_grad_()
            activated = ctx.activation(gate)
        [of_gate] = torch.autograd.grad(activated, gate, gradient * up)
        return None, of_gate, gradient * activated.detach()
