"""FSDP2: each process holds a part of every weight, gradient and optimizer state, and the whole of few at a time.

accelerate shards the model and writes the checkpoints, each process its part. A finished model is put
together again on the first process, as a plain one.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import LoraConfig, PeftModel, get_peft_model
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from selfevo.config.training import TrainerConfig
from selfevo.errors import TrainingError


def sharded_settings(config: TrainerConfig) -> dict[str, Any]:
    """The settings of TRL's trainers for `trainer.sharding`."""
    if config.sharding == "none":
        return {}
    return {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "SHARDED_STATE_DICT"}}


class Sharded:
    """A base of trainers, before the one of TRL: FSDP2 on every device, and gradients added up in float32."""

    args: Any
    accelerator: Any
    model: Any
    is_fsdp_enabled: bool

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        if not self.args.fsdp:
            return
        state, half = self.accelerator.state, self.accelerator.mixed_precision
        if not self.is_fsdp_enabled:  # on a CPU accelerate passes over the setting, and says nothing
            state.fsdp_plugin = FullyShardedDataParallelPlugin(**self.args.fsdp_plugin_args)
            state.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.is_fsdp_enabled = True
        if half != "no":
            dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[half]
            state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(dtype, torch.float32)

    def _prepare_for_training(self, *arguments: Any) -> Any:
        prepared = super()._prepare_for_training(*arguments)  # type: ignore[misc]
        if self.args.fsdp and not isinstance(self.model, FSDPModule):
            raise TrainingError("trainer.sharding is fsdp2, and accelerate has not sharded the model; set it to none")
        return prepared


@torch.no_grad()
def whole_model(model: Any) -> Any:
    """A plain model on the CPU with the weights of a sharded one; None except on the first process.

    All processes must call it. Tensor by tensor, so that a device holds one whole weight at a time.
    """
    first, state = torch.distributed.get_rank() == 0, {}
    for name, tensor in model.state_dict().items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if first:
            state[name] = full.cpu()
    if not first:
        return None
    bare = model.get_base_model() if isinstance(model, PeftModel) else model
    with torch.device("meta"):
        plain = AutoModelForCausalLM.from_config(bare.config, attn_implementation=bare.config._attn_implementation)
        plain.generation_config = bare.generation_config
        if isinstance(model, PeftModel):
            settings = model.peft_config["default"]
            assert isinstance(settings, LoraConfig)
            plain = get_peft_model(plain, settings)
    plain.load_state_dict(state, assign=True)
    for name, buffer in model.named_buffers():  # what is in no state, such as the frequencies of positions
        module, _, last = name.rpartition(".")
        plain.get_submodule(module)._buffers[last] = buffer.cpu()
    (plain.get_base_model() if isinstance(plain, PeftModel) else plain).tie_weights()
    return plain
