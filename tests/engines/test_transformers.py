"""The engine against transformers' own generate, and the promises that the run directory builds on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfevo.engines.batch import group
from selfevo.engines.transformers import TransformersEngine, _pick
from selfevo.errors import ConfigError, DataError, EngineError
from selfevo.method.protocols import Request, Sampling
from selfevo.method.records import Drafted, Prompt, extended
from selfevo.method.skills import CRITIQUE, RESPOND
from selfevo.models.chat_template import Chat

LENGTHS = [1, 40, 3, 17, 9, 60, 2, 25, 5, 11, 33, 7, 50, 4, 21, 13, 6, 45, 8, 29, 10, 37, 15, 19]
PROMPTS = [("sort 12 7 " * length + str(length)).strip() for length in LENGTHS]
REQUESTS = [Request((prompt,), seed=i) for i, prompt in enumerate(PROMPTS)]
SAMPLED = Sampling(max_new_tokens=24, temperature=1.0)
GREEDY = Sampling(max_new_tokens=24)


def engine_of(batch_size: int = 24, device: str = "cpu") -> TransformersEngine:
    return TransformersEngine(batch_size=batch_size, dtype="float32", device=device)


@pytest.fixture(scope="module")
def stopping(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model, changed so that greedy answers end after a few tokens or many, one by one."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.get_output_embeddings().weight[model.config.eos_token_id] *= 2
    folder = tmp_path_factory.mktemp("stopping")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def reference(model: Any, chat: Chat, prompt: str, limit: int) -> tuple[list[int], bool]:
    """New tokens of transformers' generate for one prompt by itself, and whether it stopped."""
    ids = torch.tensor([chat.prompt((prompt,))])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False)
    new = out[0, ids.shape[1] :].tolist()
    stopped = chat.stop_id in new
    return new[: new.index(chat.stop_id)] if stopped else new, stopped


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_greedy_text_is_that_of_transformers_generate(stopping: Path, device: str) -> None:
    """Token by token, with prompts of all lengths in one batch, rows that stop early and rows that do not."""
    model = AutoModelForCausalLM.from_pretrained(stopping).eval()
    chat = Chat(AutoTokenizer.from_pretrained(stopping))
    got = engine_of(device=device).generate(stopping, REQUESTS, Sampling(40))
    finishes = set()
    for request, generation in zip(REQUESTS, got, strict=True):
        tokens, stopped = reference(model, chat, request.turns[0], 40)
        assert generation.text == chat.text(tokens)
        assert generation.new_tokens == len(tokens)
        assert generation.prompt_tokens == len(chat.prompt(request.turns))
        assert generation.finish == (("stop" if chat.text(tokens) else "empty") if stopped else "length")
        finishes.add(generation.finish)
    assert {"stop", "length"} <= finishes, "the model of this test must do both, else it shows little"


def test_finished_rows_leave_the_batch_and_the_others_do_not_notice(
    stopping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    engine = engine_of()
    got = engine.generate(stopping, REQUESTS, Sampling(40))
    forward = engine._model.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        sizes.append(len(kwargs["input_ids"]))
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine._model, "forward", watched)
    assert engine.generate(stopping, REQUESTS, Sampling(40)) == got
    assert sizes[0] == len(REQUESTS)
    assert 0 < sizes[-1] < len(REQUESTS), "no row was dropped, so this test shows nothing"
    assert sizes == sorted(sizes, reverse=True)
    alone = engine_of(1)
    assert [alone.generate(stopping, [request], Sampling(40))[0] for request in REQUESTS] == got


@pytest.mark.parametrize("batch_size", [1, 5])
def test_sampled_text_is_a_property_of_the_row(stopping: Path, batch_size: int) -> None:
    """Also where batch mates end early and leave the batch."""
    sampled = Sampling(max_new_tokens=80, temperature=1.0)
    together = engine_of().generate(stopping, REQUESTS, sampled)
    early = sum(generation.new_tokens < 40 for generation in together)
    assert len(REQUESTS) / 3 < early < len(REQUESTS), "too few end early to leave the batch; this shows little"
    order = [7, 3, 11, 0, 5, 17, 20, 1, 14]
    apart = engine_of(batch_size).generate(stopping, [REQUESTS[i] for i in order], sampled)
    assert apart == [together[i] for i in order]


def test_the_seed_of_a_row_decides_its_text(tiny_model: Path) -> None:
    requests = [Request(("same question",), seed=seed) for seed in (1, 2, 1, 2**64 - 1)]
    texts = [g.text for g in engine_of().generate(tiny_model, requests, SAMPLED)]
    assert texts[0] == texts[2]
    assert len(set(texts)) == 3


def test_answers_come_in_the_order_of_the_requests(tiny_model: Path) -> None:
    forward = engine_of(4).generate(tiny_model, REQUESTS, Sampling(4))
    assert engine_of(4).generate(tiny_model, REQUESTS[::-1], Sampling(4)) == forward[::-1]


def test_an_answer_that_does_not_end_is_cut_and_says_so(tiny_model: Path) -> None:
    (generation,) = engine_of().generate(tiny_model, REQUESTS[:1], Sampling(3))
    assert (generation.finish, generation.new_tokens) == ("length", 3)


def test_a_prompt_that_leaves_no_room_is_not_cut_but_returned(tiny_model: Path) -> None:
    """The tiny model has 512 positions."""
    chat = Chat(AutoTokenizer.from_pretrained(tiny_model))
    long = "q" * 400
    size = len(chat.prompt((long,)))
    requests = [Request((long,), 0), Request(("short",), 0)]
    fits = engine_of().generate(tiny_model, requests, Sampling(512 - size))
    assert [g.finish == "overlong" for g in fits] == [False, False]
    over = engine_of().generate(tiny_model, requests, Sampling(512 - size + 1))
    assert (over[0].finish, over[0].text, over[0].prompt_tokens, over[0].new_tokens) == ("overlong", "", size, 0)
    assert over[1].finish != "overlong"
    only = engine_of().generate(tiny_model, requests[:1], Sampling(512))
    assert [g.finish for g in only] == ["overlong"]


def test_a_prompt_of_ten_megabytes_costs_only_itself(tiny_model: Path) -> None:
    texts = ["short", "q w " * 2_500_000, "x" * 10_000_000, "\u05e9\u05dc\u05d5\u05dd \u202eabc\u202c 12"]
    got = engine_of().generate(tiny_model, [Request((text,), 0) for text in texts], Sampling(4))
    assert [generation.finish == "overlong" for generation in got] == [False, True, True, False]
    assert all(generation.prompt_tokens > 512 for generation in got[1:3])


def test_a_model_that_says_nothing_is_empty_and_not_stopped(tiny_model: Path, tmp_path: Path) -> None:
    """The stop token as the first token: no text, so nothing that a round may learn."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.model.norm.weight.zero_()  # all logits are equal, greedy takes the lowest id
    model.generation_config.eos_token_id = 0
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path)
    (generation,) = engine_of().generate(tmp_path, REQUESTS[:1], Sampling(8))
    assert (generation.finish, generation.text, generation.new_tokens) == ("empty", "", 0)


def test_the_stop_token_of_the_template_stops_also_where_the_model_does_not_list_it(
    stopping: Path, tmp_path: Path
) -> None:
    """Many base models have another eos in their generation_config than their chat template ends turns with."""
    shutil.copytree(stopping, tmp_path / "m")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    model.generation_config.eos_token_id = 0
    model.save_pretrained(tmp_path / "m")
    expected = engine_of().generate(stopping, REQUESTS, Sampling(40))
    got = engine_of().generate(tmp_path / "m", REQUESTS, Sampling(40))
    assert [g for g in got if g.finish == "stop"]
    assert got == expected


def test_another_model_is_loaded_when_another_folder_is_given(tiny_model: Path, stopping: Path) -> None:
    engine = engine_of()
    first = engine.generate(tiny_model, REQUESTS[:4], Sampling(40))
    second = engine.generate(stopping, REQUESTS[:4], Sampling(40))
    engine.release()
    assert engine.generate(tiny_model, REQUESTS[:4], Sampling(40)) == first
    assert engine_of().generate(stopping, REQUESTS[:4], Sampling(40)) == second
    assert first != second


def test_no_requests_no_answers(tiny_model: Path) -> None:
    assert engine_of().generate(tiny_model, [], Sampling(8)) == []


def test_a_folder_without_a_model_is_an_engine_error(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(DataError, match="cannot load a tokenizer from"):
        engine_of().generate(tmp_path, REQUESTS[:1], Sampling(8))


def test_a_model_without_a_chat_template_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_model, tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "m")
    tokenizer.chat_template = None
    (tmp_path / "m/chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(tmp_path / "m")
    with pytest.raises(DataError, match="has no chat template"):
        engine_of().generate(tmp_path / "m", REQUESTS[:1], Sampling(8))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_named(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match=r"device is 'cuda', but torch sees no CUDA device; use device: auto"):
        TransformersEngine(device="cuda").generate(tiny_model, REQUESTS[:1], Sampling(8))


def test_a_device_that_does_not_exist_is_named(tiny_model: Path) -> None:
    with pytest.raises(ConfigError, match="device is 'gpu'"):
        TransformersEngine(device="gpu").generate(tiny_model, REQUESTS[:1], Sampling(8))


# --- the choice of a token ----------------------------------------------------------------------------------------

LOGITS = torch.log(torch.tensor([[0.1, 0.5, 0.05, 0.35]]))


@pytest.mark.parametrize(
    ("draw", "token"), [(0.0, 0), (0.09, 0), (0.11, 1), (0.59, 1), (0.61, 2), (0.64, 2), (0.66, 3), (0.9999999, 3)]
)
def test_sampling_inverts_the_distribution(draw: float, token: int) -> None:
    assert _pick(LOGITS, torch.tensor([draw]), Sampling(1, temperature=1.0)).tolist() == [token]


@pytest.mark.parametrize(("top_p", "tokens"), [(0.4, {1}), (0.6, {1, 3}), (0.84, {1, 3}), (0.9, {0, 1, 3})])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, tokens: set[int]) -> None:
    draws = torch.linspace(0, 0.9999999, 2001)
    picked = _pick(LOGITS.expand(len(draws), -1), draws, Sampling(1, temperature=1.0, top_p=top_p))
    assert set(picked.tolist()) == tokens
    kept = {token: LOGITS[0, token].exp().item() for token in tokens}
    for token, probability in kept.items():
        share = (picked == token).float().mean().item()
        assert share == pytest.approx(probability / sum(kept.values()), abs=2e-3)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.7, 1.0, 2.0]), st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_a_token_of_the_vocabulary_is_picked_whatever_is_drawn(seed: int, temperature: float, top_p: float) -> None:
    random_ = np.random.default_rng(seed)
    logits = torch.tensor(random_.normal(0, 8, (4, 50)), dtype=torch.float32)
    draws = torch.tensor([0.0, 1 - 2**-24, random_.random(), 0.5], dtype=torch.float32)
    picked = _pick(logits, draws, Sampling(1, temperature=temperature, top_p=top_p))
    assert ((picked >= 0) & (picked < 50)).all()
    if top_p < 1:
        assert picked[0] == logits[0].argmax(), "the draw 0 is the most likely token"


@pytest.mark.parametrize("top_p", [1.0, 0.99])
@pytest.mark.parametrize("draw", [0.0, 0.5, 1 - 2**-24])
def test_a_token_without_probability_is_never_picked(draw: float, top_p: float) -> None:
    logits = torch.tensor([[-torch.inf, -torch.inf, 1.0, -torch.inf, 2.0, -torch.inf]])
    picked = _pick(logits, torch.tensor([draw]), Sampling(1, temperature=1.0, top_p=top_p))
    assert picked.tolist()[0] in (2, 4)


def test_a_low_temperature_sharpens_and_zero_is_greedy() -> None:
    draws = torch.linspace(0, 0.9999999, 2001)
    many = LOGITS.expand(len(draws), -1)
    shares = [(_pick(many, draws, Sampling(1, temperature=t)) == 1).float().mean().item() for t in (2.0, 1.0, 0.5, 0.0)]
    assert shares == sorted(shares)
    assert shares[1] == pytest.approx(0.5, abs=2e-3)
    assert shares[2] == pytest.approx(0.25 / (0.01 + 0.25 + 0.0025 + 0.1225), abs=2e-3)
    assert shares[3] == 1.0


# --- states kept from stage to stage ------------------------------------------------------------------------------


def trajectories(engine: TransformersEngine, model: Path, sampling: Sampling = GREEDY) -> list[list[str]]:
    """Texts of the four skills for 64 prompts of mixed length, one conversation each."""
    prompts = [f"{prompt} {i}" for i in range(3) for prompt in PROMPTS][:64]
    conversations: list[tuple[str, ...]] = [(prompt,) for prompt in prompts]
    texts: list[list[str]] = []

    def ask() -> list[str]:
        got = engine.generate(model, [Request(turns, i) for i, turns in enumerate(conversations)], sampling)
        texts.append([generation.text for generation in got])
        return texts[-1]

    for question in ("Check.", "Mend."):
        conversations = [(*turns, text, question) for turns, text in zip(conversations, ask(), strict=True)]
    conversations = [(prompt, text, "Check.") for prompt, text in zip(prompts, ask(), strict=True)]
    ask()
    return texts


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
@pytest.mark.parametrize("batch_size", [7, 64])
def test_what_is_kept_changes_no_text(
    stopping: Path, sampling: Sampling, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sampling == SAMPLED:  # in float32 a draw may fall between the last bits that matrices of other shapes give
        monkeypatch.setattr("selfevo.engines.transformers.pick_dtype", lambda *_: torch.float64)
    without = TransformersEngine(batch_size, "float32", "cpu", kv_cache_gib=0)
    with_ = TransformersEngine(batch_size, "float32", "cpu")
    assert trajectories(with_, stopping, sampling) == trajectories(without, stopping, sampling)
    assert with_.prefilled < 0.7 * without.prefilled


def test_states_are_found_by_the_whole_prompt_and_not_by_its_first_turn(stopping: Path) -> None:
    """Eight prompts begin with the same turns: each finds its own states again, and no text changes."""
    histories = [(f"tail {i}", "yes " * i) for i in range(8)]
    prompts = [
        Prompt.of("last", system="sort these numbers " * 10, history=("sort 12 7 " * 20, "ok", *end))
        for end in histories
    ]
    engine, without = engine_of(), TransformersEngine(24, "float32", "cpu", kv_cache_gib=0)
    drafted = [extended(Drafted, prompt, "7 12") for prompt in prompts]
    for conversations in (map(RESPOND.turns, prompts), map(CRITIQUE.turns, drafted)):
        requests = [Request(turns, 0, prompts[0].system, 5) for turns in conversations]
        before = engine.prefilled
        written = engine.generate(stopping, requests, GREEDY)
        assert written == without.generate(stopping, requests, GREEDY)
        assert all(generation.finish in ("stop", "length") for generation in written)
    chat = Chat(AutoTokenizer.from_pretrained(stopping))
    shared = [len(chat.prompt(RESPOND.turns(prompt), prompt.system)) for prompt in prompts]
    assert engine.prefilled - before < 0.5 * sum(shared), "the prompts themselves were not computed again"


def test_every_stage_is_what_generate_writes(stopping: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(stopping).eval()
    chat = Chat(AutoTokenizer.from_pretrained(stopping))
    engine = engine_of()
    for turns in (("sort 12 7",), ("sort 12 7", "7 12", "Check."), ("sort 12 7", "7 12", "Check.", "good", "Mend.")):
        (generation,) = engine.generate(stopping, [Request(turns, 0)], Sampling(40))
        ids = torch.tensor([chat.prompt(turns)])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, do_sample=False)
        new = out[0, ids.shape[1] :].tolist()
        assert generation.text == chat.text(new[: new.index(chat.stop_id)] if chat.stop_id in new else new)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=200))
def test_groups_hold_every_row_once_in_order_within_the_limit(sizes: list[int]) -> None:
    sizes = sorted(sizes)
    groups = group(sizes)
    assert [i for part in groups for i in part] == list(range(len(sizes)))
    for part in groups:
        padded, needed = len(part) * sizes[part[-1]], sum(sizes[part[0] : part[-1] + 1])
        assert len(part) == 1 or padded <= 4096
        assert padded <= 1.05 * needed or needed - sizes[part[-1]] < 256


def test_memory_is_bounded_and_given_back(stopping: Path) -> None:
    engine = TransformersEngine(64, "float32", "cpu", kv_cache_gib=2**-12)
    without = TransformersEngine(64, "float32", "cpu", kv_cache_gib=0)
    assert trajectories(engine, stopping) == trajectories(without, stopping)
    assert 0 < engine._memory.used <= 2**18
    engine.release()
    assert engine._memory.used == 0


def test_another_model_starts_from_nothing(tiny_model: Path, stopping: Path) -> None:
    engine = engine_of()
    first = engine.generate(tiny_model, REQUESTS, Sampling(8))
    engine.generate(stopping, REQUESTS, Sampling(8))
    assert engine.generate(tiny_model, REQUESTS, Sampling(8)) == first


def test_out_of_memory_halves_the_batch_and_says_so(
    stopping: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine, expected = engine_of(), engine_of().generate(stopping, REQUESTS, Sampling(24))
    engine._load(stopping)
    forward = engine._model.forward

    def small(*args: Any, **kwargs: Any) -> Any:
        if len(kwargs["input_ids"]) > 6:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(engine._model, "forward", small)
    assert engine.generate(stopping, REQUESTS, Sampling(24)) == expected
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with 24 rows in parallel; continuing with 12",
        "out of memory with 12 rows in parallel; continuing with 6",
    ]


def test_out_of_memory_with_one_row_is_an_error(stopping: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    engine._load(stopping)

    def never(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(engine._model, "forward", never)
    with pytest.raises(EngineError, match="out of memory with one prompt of"):
        engine.generate(stopping, REQUESTS[:2], Sampling(4))
