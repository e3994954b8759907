"""What makes a CPU faster must not change what a model says."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from selfevo.engines.cpu.kernels import PackedLinear, argmax, speed_up, takes_windows, windows_of


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 1100),
    seed=st.integers(0, 99),
    values=st.sampled_from([2, 5, 10_000]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_argmax_is_the_first_of_the_largest(
    rows: int, columns: int, seed: int, values: int, dtype: torch.dtype
) -> None:
    """Few distinct values, so that there are ties."""
    made = torch.randint(values, (rows, columns), generator=torch.Generator().manual_seed(seed)).to(dtype)
    expected = (made == made.amax(-1, keepdim=True)).int().argmax(-1)
    assert torch.equal(argmax(made), expected)


def test_packed_weights_give_the_same_bits() -> None:
    torch.manual_seed(0)
    for bias in (False, True):
        linear = torch.nn.Linear(96, 160, bias=bias).bfloat16()
        try:
            packed = PackedLinear(linear)
        except RuntimeError as error:
            pytest.skip(f"no bf16 matrix products here: {error}")
        for rows in (1, 7, 300):
            x = torch.randn(rows, 96).bfloat16()
            with torch.no_grad():
                assert torch.equal(packed(x), linear(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_that_was_sped_up_says_the_same(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 300}
    config = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **size)
    slow = LlamaForCausalLM(config).to(dtype).eval()
    fast = copy.deepcopy(slow)
    speed_up(fast)
    assert fast.config._attn_implementation != slow.config._attn_implementation
    ids, mask = torch.randint(300, (5, 20)), torch.ones(5, 20, dtype=torch.long)
    mask[0, :7] = 0
    with torch.no_grad():
        for given_mask in (None, mask):
            a, b = (model(ids, attention_mask=given_mask).logits[:, 8:] for model in (slow, fast))
            torch.testing.assert_close(b, a, rtol=0, atol=1e-6 if dtype == torch.float32 else 2e-2)


def test_windows_cover_every_row_and_every_column_in_use() -> None:
    mask = torch.zeros(37, 50, dtype=torch.bool)
    for row in range(37):
        mask[row, 40 - row : 45] = True
        mask[row, 42 - row : 43 - row] = False  # a gap
    windows = windows_of(mask, torch.float32)
    assert [row for window in windows for row in range(37)[window.rows]] == list(range(37))
    assert len(windows) == 4
    for window in windows:
        assert not mask[window.rows, : window.start].any()
        assert mask[window.rows, window.start].any()
        assert torch.equal(window.mask[:, 0, 0] == 0, mask[window.rows, window.start :])
    assert [(w.rows, w.start) for w in windows_of(mask[:3], torch.float32)] == [(slice(0, 3), 38)]


def test_attention_through_windows_is_attention() -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 300}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=4, num_key_value_heads=2, **size)).eval()
    speed_up(model)
    assert takes_windows(model)
    ids, mask = torch.randint(300, (20, 9)), torch.ones(20, 10, dtype=torch.bool)
    for row in range(20):
        mask[row, : row // 4] = False
    logits = []
    with torch.no_grad():
        for more in ({}, {"windows": windows_of(mask, torch.float32)}):
            cache = model(ids, attention_mask=mask[:, :9], use_cache=True).past_key_values
            logits.append(model(ids[:, :1], attention_mask=mask, past_key_values=cache, **more).logits)
    torch.testing.assert_close(logits[1], logits[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
def test_a_step_of_decoding_attends_as_the_whole_does(heads: tuple[int, int]) -> None:
    torch.manual_seed(0)
    size = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 300}
    model = LlamaForCausalLM(LlamaConfig(num_attention_heads=heads[0], num_key_value_heads=heads[1], **size)).eval()
    ids = torch.randint(300, (5, 9))
    with torch.no_grad():
        whole = model(ids).logits[:, -1]
        speed_up(model)
        cache = model(ids[:, :-1], use_cache=True).past_key_values
        mask = torch.ones(5, 9, dtype=torch.bool)
        step = model(ids[:, -1:], attention_mask=mask, past_key_values=cache, windows=windows_of(mask, torch.float32))
    torch.testing.assert_close(step.logits[:, -1], whole, rtol=0, atol=1e-5)
