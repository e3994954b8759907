"""How much memory a training step takes, found without the weights.

Weights, gradients and optimizer states are counted on the meta device, so tied embeddings, experts and adapters count
as they are. What a step keeps and works with comes from the model's own code, which runs on tensors without content:
forward, loss and backward pass of a model of one and of two layers tell what each further layer adds.
"""

from __future__ import annotations

import copy
import logging
import re
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from selfevo.config.training import TrainerConfig
from selfevo.errors import ConfigError
from selfevo.rundir.adapter_folder import weights_folder
from selfevo.trainers.attention import attention_for
from selfevo.trainers.loss import loss_in_pieces, weighted_loss

# A CPU's heap keeps pieces that were freed, so a process grows beyond what lives in it: by 0.2 to 0.8 of what comes and
# goes (docs/results/benchmark-memory.json). A GPU's allocator gives them out again.
_HEAP = 1.4
# Bytes of optimizer state for each trained number. Adafactor keeps a row and a column of each matrix.
_STATES = {"adafactor": 0.0, "sgd": 0.0, "adagrad": 4, "rmsprop": 4, "lion": 4, "ademamix": 12, "adam": 8}
_FOUR_BIT = 0.5 + 1 / 64 + 4 / (64 * 256)  # NF4: half a byte, and a scale for each 64, which is quantised too


@dataclass(frozen=True, slots=True)
class Batch:
    """A micro-batch: rows of so many columns, of which so many tokens are labelled in all."""

    rows: int
    columns: int
    labelled: int


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Bytes on one device.

    `activations`: what the backward pass needs, with logits. `work`: what comes and goes beside it.
    `followed`: whether the model's code could be followed without weights; if not, both are 0.
    """

    parameters: int
    trained: int
    weights: float
    gradients: float
    optimizer: float
    activations: float
    work: float
    accumulates: bool
    followed: bool = True

    @property
    def total(self) -> float:
        """At the peak. Gradients take the place of activations, unless those of an earlier micro-batch are there."""
        step = self.gradients + self.activations if self.accumulates else max(self.gradients, self.activations)
        return self.weights + self.optimizer + step + self.work

    def parts(self, batch: Batch) -> str:
        """What it is made of, in words."""
        kept = f"weights {gib(self.weights)}, gradients {gib(self.gradients)}, optimizer {gib(self.optimizer)}"
        if not self.followed:
            return f"{kept}, without activations, because this model's code cannot be followed without its weights"
        return (
            f"{kept}, activations and logits of {batch.rows} x {batch.columns} tokens "
            f"{gib(self.activations + self.work)}"
        )


def training_memory(
    folder: Path, trainer: TrainerConfig, batch: Batch, device: str, half: torch.dtype, shards: int = 1
) -> TrainingMemory:
    """What SFT needs on a `device` of this type for micro-batches of this size, with matrix products in `half`.

    With `shards` above 1, so many processes share weights, gradients and optimizer states (FSDP2).
    Raises ConfigError if transformers cannot read the model's config, or PEFT takes no adapters on it.
    """
    config = read_config(folder)
    bare = skeleton(folder)
    layers = _alike(config, bare, trainer)
    weights, trained = _grown(config, layers, lambda part: _sizes(part, trainer, half))
    step = _step(config, layers, trainer, batch, device, half)
    held, work = step or (0.0, 0.0)
    if shards > 1:  # whole in half precision: what is in no layer, a layer that computes, and the next one
        block = max((sum(map(torch.Size.numel, each.values())) for each in _layers(bare).values()), default=0)
        rest = count_parameters(bare) - block * len(_layers(bare))
        held -= 0 if trainer.lora else min(held, half.itemsize * trained)  # autocast has nothing to copy
        work += half.itemsize * (rest + 2 * block) + 4 * (rest + block) * (trainer.lora is None)  # and gradients
    copies = 2 if trainer.processes > 1 and shards == 1 else 1  # DDP sends gradients from buckets of its own
    heap = _HEAP if device == "cpu" else 1.0
    return TrainingMemory(
        parameters=count_parameters(bare),
        trained=round(trained),
        weights=weights / shards,
        gradients=4.0 * trained * copies / shards,  # adapters too are in float32
        optimizer=state_size(trainer.optim) * trained / shards,
        activations=heap * held,
        work=heap * work,
        accumulates=trainer.gradient_accumulation_steps > 1,
        followed=step is not None,
    )


def active_parameters(folder: Path) -> float:
    """The parameters that compute one token: of the experts of a layer only those that a token is sent to."""
    config = read_config(folder).get_text_config()
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    experts = next((number for name in names if (number := getattr(config, name, None))), None)
    share = config.num_experts_per_tok / experts if experts else 1
    routed = re.compile(r"\bexperts\.")
    return float(
        sum(share ** bool(routed.search(name)) * each.numel() for name, each in skeleton(folder).named_parameters())
    )


def state_bytes(folder: Path) -> int:
    """Bytes of keys and values that generation in half precision keeps for each token."""
    config = read_config(folder).get_text_config()
    heads = getattr(config, "num_attention_heads", None) or 0
    if not heads:
        return 0
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(2 * 2 * config.num_hidden_layers * (getattr(config, "num_key_value_heads", None) or heads) * size)


def read_config(folder: Path) -> Any:
    """The configuration of the model in `folder`. Raises ConfigError if transformers cannot read it."""
    folder = weights_folder(folder)
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _unreadable(folder, error) from None


def skeleton(folder: Path) -> Any:
    """The model without its weights. Raises ConfigError if transformers cannot read the model's config."""
    config = read_config(folder)
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError) as error:
        raise _unreadable(weights_folder(folder), error) from None


def _unreadable(folder: Path, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split())[:200]
    return ConfigError(f"model: transformers cannot read {folder / 'config.json'}: {reason}")


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"


def count_parameters(model: Any) -> int:
    """The number of parameters. One that two layers share counts once, adapters do not."""
    return int(sum(each.numel() for name, each in model.named_parameters() if "lora_" not in name))


def with_adapters(model: Any, trainer: TrainerConfig) -> Any:
    """The model with the adapters of `trainer`. Raises ConfigError if PEFT takes none on it."""
    if trainer.lora is None:
        return model
    try:
        with warnings.catch_warnings():  # the training gives them
            warnings.simplefilter("ignore")
            return get_peft_model(model, LoraConfig(**trainer.lora.peft(), task_type="CAUSAL_LM"))
    except ValueError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"trainer.lora: PEFT takes no such adapters on this model ({reason}); correct it") from None


def state_size(optimizer: str) -> float:
    """Bytes of state that `trainer.optim` keeps for each trained number."""
    [full] = [size for name, size in _STATES.items() if name in optimizer][:1]
    bits = 8 if "8bit" in optimizer else 4 if "4bit" in optimizer else 32
    return full * bits / 32


def _sizes(config: Any, trainer: TrainerConfig, half: torch.dtype) -> tuple[float, float]:
    """Bytes of the weights, and the number of those that are trained."""
    with torch.device("meta"):
        bare = AutoModelForCausalLM.from_config(config, dtype=half if trainer.lora else torch.float32)
    model = with_adapters(bare, trainer)
    sizes = {name: each.numel() * each.element_size() for name, each in model.named_parameters()}
    if trainer.load_in_4bit:
        output = model.get_output_embeddings()
        for name, part in model.named_modules():
            if isinstance(part, torch.nn.Linear | Conv1D) and part is not output and "lora_" not in name:
                sizes[f"{name}.weight"] = part.weight.numel() * _FOUR_BIT
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    return float(sum(sizes.values())), float(trained)


def _step(
    config: Any, layers: int, trainer: TrainerConfig, batch: Batch, device: str, half: torch.dtype
) -> tuple[float, float] | None:
    """Bytes held at the end of a forward pass, and bytes above the larger of these and the gradients.

    None if the model's code does something that needs numbers.
    """
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level, works = log.level, list[float]()
    log.setLevel(logging.CRITICAL)

    def held(part: Any) -> tuple[float, ...]:
        kept, gradients, peak = _traced(part, trainer, batch, device, half)
        works.append(peak - max(kept, gradients))
        return (kept,)

    try:
        [kept] = _grown(config, layers, held)
        return kept, works[-1]
    except Exception:  # whatever a model's code raises that was not made for this
        return None
    finally:
        log.setLevel(level)


def _grown(config: Any, layers: int, measure: Callable[[Any], tuple[float, ...]]) -> tuple[float, ...]:
    """What `measure` gives for a model of so many like layers, by what the second one adds; 0: measures the whole."""
    if not layers:
        return measure(config)
    one, two = (measure(_of_layers(config, number)) for number in (1, 2))
    return tuple(first + (layers - 1) * (second - first) for first, second in zip(one, two, strict=True))


def _alike(config: Any, model: Any, trainer: TrainerConfig) -> int:
    """The number of layers if all are alike, else 0."""
    named = trainer.lora and (trainer.lora.layers_to_transform or trainer.lora.rank_pattern)
    shapes = [frozenset(each.items()) for each in _layers(model).values()]
    count: int = getattr(config.get_text_config(), "num_hidden_layers", 0)
    return count if count == len(shapes) > 2 and len(set(shapes)) == 1 and not named else 0


def _of_layers(config: Any, number: int) -> Any:
    short = copy.deepcopy(config)
    text = short.get_text_config()
    text.num_hidden_layers = number
    if isinstance(vars(text).get("layer_types"), list):
        text.layer_types = text.layer_types[:number]
    return short


def _layers(model: Any) -> dict[str, dict[str, torch.Size]]:
    """The shapes of the parameters of each layer."""
    layers: dict[str, dict[str, torch.Size]] = {}
    for name, each in model.named_parameters():
        if found := re.match(r"(.*?\.\d+)\.(.*)", name):
            layers.setdefault(found[1], {})[found[2]] = each.shape
    return layers


def _traced(
    config: Any, trainer: TrainerConfig, batch: Batch, device: str, half: torch.dtype
) -> tuple[float, float, float]:
    """A training step on tensors without content: bytes after the forward pass, of gradients, and at the peak."""
    attention = attention_for(trainer.attn_implementation, device, batch.columns)
    routed = hasattr(config.get_text_config(), "num_experts_per_tok")  # torch multiplies groups in bfloat16 only
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=half if trainer.lora else torch.bfloat16 if routed else torch.float32,
            attn_implementation=attention if attention in ("eager", "sdpa") else "sdpa",
        )
    model = with_adapters(model, trainer).train()
    with FakeTensorMode(), torch.device("cpu"):
        _make_fake(model)
        if trainer.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            if trainer.lora:
                model.enable_input_require_grads()
        ids = torch.zeros(batch.rows, batch.columns, dtype=torch.long)
        targets = torch.zeros(batch.labelled, dtype=torch.long)
        weights, places = torch.ones(batch.labelled), torch.arange(batch.labelled)
        with Live(model) as live:
            with torch.autocast("cpu", dtype=half, enabled=half is not torch.float32):
                inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
                if _changes_logits(config):
                    logits = model(**inputs).logits.flatten(0, 1).index_select(0, places)
                    loss = weighted_loss(logits, targets, weights)
                    del logits
                else:
                    bare = model.get_base_model() if trainer.lora else model
                    hidden = bare.base_model(**inputs).last_hidden_state.flatten(0, 1).index_select(0, places)
                    loss = loss_in_pieces(hidden, targets, weights, bare.get_output_embeddings())
                    del hidden
                held = live.bytes  # here, where autocast still keeps its copies of the weights
            loss.backward()  # type: ignore[no-untyped-call]
            return held, live.bytes, live.peak


def _changes_logits(config: Any) -> bool:
    """Whether a model caps or scales what its output layer gives: then the loss needs all logits (loss.py)."""
    names = ("final_logit_softcapping", "logit_scale", "logits_scaling")
    return any(getattr(config.get_text_config(), name, None) not in (None, 1) for name in names)


def _make_fake(model: Any) -> None:
    """Moves a model from the meta device to a CPU without content. Autocast knows no meta device."""
    made: dict[int, torch.Tensor] = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, each in tensors.items():
                if each is not None and id(each) not in made:
                    fake = torch.empty(each.shape, dtype=each.dtype)
                    is_parameter = isinstance(each, torch.nn.Parameter)
                    made[id(each)] = torch.nn.Parameter(fake, each.requires_grad) if is_parameter else fake
                if each is not None:
                    tensors[name] = made[id(each)]


class Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of all tensors that are made within it, as long as they live. Those of `model` do not count."""

    def __init__(self, model: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self.known = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for each in tree_leaves(made):
            if isinstance(each, torch.Tensor) and (key := each.untyped_storage()._cdata) not in self.known:
                storage = each.untyped_storage()
                self.known.add(key)
                self.bytes += storage.nbytes()
                self.peak = max(self.peak, self.bytes)
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        return made

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.bytes -= size
