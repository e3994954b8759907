"""The section `trainer`. Names are those of transformers' TrainingArguments, trl.SFTConfig and peft.LoraConfig."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from selfevo.config.base import Positive, Share, Strict, unless_default

Scheduler = Literal[
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
    "reduce_lr_on_plateau",
    "cosine_with_min_lr",
    "cosine_warmup_with_min_lr",
    "warmup_stable_decay",
    "greedy",
]
# Those of transformers' OptimizerNames that need no arguments of their own, without the layerwise ones, which change
# the loop.
Optimizer = Literal[
    "adamw_torch_fused",
    "adamw_torch",
    "adamw_torch_8bit",
    "adamw_torch_4bit",
    "adafactor",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "rmsprop",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
    "adagrad",
    "sgd",
]
SHARDED_OPTIMIZERS = ("adamw_torch_fused", "adamw_torch", "rmsprop", "adagrad", "sgd")  # the others read whole tensors
Tracker = Literal["wandb", "mlflow", "trackio", "tensorboard"]
Pattern = dict[str, Positive]


class LoraSettings(Strict):
    """The names are those of peft.LoraConfig, but for `merge`."""

    r: Positive = 16
    lora_alpha: Positive = 32
    lora_dropout: Share = 0.0
    target_modules: str | list[str] = Field(
        "all-linear", description="a list of ends of names of linear layers, or a regular expression for whole names"
    )
    merge: bool = unless_default(
        True, description="false: save the adapter alone, as PEFT does; the base stays where it is and is needed"
    )
    use_dora: bool = unless_default(False, description="direction and size of the weights apart (DoRA)")
    use_rslora: bool = unless_default(False, description="scale by lora_alpha / sqrt(r) instead of lora_alpha / r")
    exclude_modules: str | list[str] | None = unless_default(None, description="layers that get no adapter")
    layers_to_transform: list[int] | None = unless_default(None, description="the blocks that get adapters, from 0")
    modules_to_save: list[str] | None = unless_default(
        None, description="modules that are trained as a whole and saved with the adapter"
    )
    rank_pattern: Pattern = unless_default({}, description="another r for some layers, by their names")
    alpha_pattern: Pattern = unless_default({}, description="another lora_alpha for some layers, by their names")

    @field_validator("target_modules")
    @classmethod
    def _can_be_trained(cls, value: str | list[str]) -> str | list[str]:
        names = [value] if isinstance(value, str) else value
        if not names or "" in names:
            raise ValueError("a name is missing; give names of modules, such as q_proj, or all-linear")
        if "lm_head" in names:
            raise ValueError("lm_head is the output layer, whose adapter would not be trained; remove it")
        return value

    @field_validator("target_modules", "exclude_modules")
    @classmethod
    def _an_expression(cls, value: str | list[str] | None) -> str | list[str] | None:
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"{value!r} is no regular expression ({error}); correct it, or give a list") from None
        return value

    @model_validator(mode="after")
    def _blocks_of_a_list(self) -> LoraSettings:
        if self.layers_to_transform is not None and isinstance(self.target_modules, str):
            raise ValueError("layers_to_transform needs target_modules as a list of names; give one, such as [q_proj]")
        return self

    def peft(self) -> dict[str, Any]:
        """The arguments of peft.LoraConfig."""
        return self.model_dump(exclude={"merge"})


class TrainerConfig(Strict):
    """Settings of every training of the run. The names are those of trl.SFTConfig."""

    learning_rate: float = Field(2e-5, gt=0)
    num_train_epochs: float = Field(3, gt=0)
    round_epochs: float | None = Field(None, gt=0, description="num_train_epochs of the rounds; default: the same")
    round_learning_rate: float | None = Field(None, gt=0, description="learning_rate of the rounds; default: the same")
    max_steps: Positive | None = unless_default(None, description="optimizer steps, instead of num_train_epochs")
    per_device_train_batch_size: Positive = 8
    gradient_accumulation_steps: Positive = 1
    optim: Optimizer = unless_default("adamw_torch_fused", description="the optimizer")
    lr_scheduler_type: Scheduler = "linear"
    lr_scheduler_kwargs: dict[str, Any] | None = unless_default(
        None, description="further arguments of the scheduler, such as {num_cycles: 2} or {min_lr_rate: 0.1}"
    )
    warmup_ratio: Share = 0.1
    weight_decay: float = Field(0.0, ge=0)
    adam_beta2: float = Field(0.999, gt=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0)
    neftune_noise_alpha: float | None = unless_default(
        None, gt=0, description="noise on the embeddings in training (NEFTune); usually 5 to 15"
    )
    max_length: Positive = Field(2048, description="in tokens; a longer sequence is left out and counted, never cut")
    packing: bool = unless_default(
        False, description="SFT: several sequences share one of max_length tokens, and do not see each other"
    )
    gradient_checkpointing: bool = False
    use_liger_kernel: bool = unless_default(False, description="faster kernels on a GPU; needs liger-kernel")
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"] | None = (
        unless_default(None, description="default: sdpa, but eager on a CPU for batches of up to 256 columns")
    )
    load_in_4bit: bool = unless_default(
        False, description="load the base in 4 bits (NF4) to train adapters on it (QLoRA); needs bitsandbytes and CUDA"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field("auto", description="precision of matrix products")
    device: str = Field("auto", description="auto, cpu, cuda or mps")
    processes: Positive = unless_default(
        1,
        description="processes that train together, one device each; the global batch is "
        "per_device_train_batch_size x gradient_accumulation_steps x processes",
    )
    launcher: str | None = unless_default(
        None,
        description="a command that starts the processes on several machines, such as srun with torchrun, and to which "
        "`-m selfevo.pipeline.training_job JOB.json` is added; default: all on this machine",
    )
    sharding: Literal["none", "fsdp2"] = unless_default(
        "none",
        description="fsdp2: each of several processes holds a part of the model, its gradients and the optimizer; "
        "none: each holds all",
    )
    lora: LoraSettings | None = Field(
        None, description="train low-rank adapters, merged before saving; default: train all weights"
    )
    eval_share: float = unless_default(
        0.0, ge=0, lt=1, description="SFT and DPO: share of the prompts that is held out to measure the loss on"
    )
    eval_strategy: Literal["epoch", "steps"] = unless_default("epoch", description="when held-out loss is measured")
    eval_steps: Positive | None = unless_default(None, description="with eval_strategy steps: every so many steps")
    report_to: tuple[Tracker, ...] = unless_default(
        (), description="trackers that every step is reported to: tensorboard, trackio, wandb, mlflow"
    )
    save_minutes: float = Field(
        10, gt=0, description="minutes between the checkpoints from which a killed training resumes"
    )

    @field_validator("report_to", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A list of trackers. One without a list is allowed, and TRL's word for none."""
        return () if value in ("none", None) else (value,) if isinstance(value, str) else value

    def deciding(self) -> dict[str, Any]:
        """The settings that decide which model comes of a training."""
        return self.model_dump(mode="json", exclude={"save_minutes", "report_to", "launcher"})

    @model_validator(mode="after")
    def _can_go_together(self) -> TrainerConfig:
        default = TrainerConfig.model_fields["num_train_epochs"].default
        if self.max_steps is not None and (self.round_epochs is not None or self.num_train_epochs != default):
            raise ValueError("max_steps and epochs are given; one decides how long a training is, so remove the other")
        if self.launcher is not None and self.processes == 1:
            raise ValueError("launcher starts several processes, and processes is 1; set processes to their number")
        if self.load_in_4bit and self.lora is None:
            raise ValueError("load_in_4bit needs adapters, because 4-bit weights cannot be trained; add lora: {}")
        if self.sharding != "none":
            self._check_sharded()
        if self.eval_steps is not None and self.eval_strategy != "steps":
            raise ValueError("eval_steps is for eval_strategy: steps; set that, or remove eval_steps")
        if self.eval_strategy == "steps" and self.eval_steps is None:
            raise ValueError("eval_strategy: steps needs eval_steps; add it")
        if self.eval_steps is not None and not self.eval_share:
            raise ValueError("eval_steps is given, but nothing is held out; set eval_share, such as 0.1")
        if self.lr_scheduler_type == "reduce_lr_on_plateau" and not self.eval_share:
            raise ValueError("lr_scheduler_type reduce_lr_on_plateau follows the held-out loss; set eval_share")
        return self

    def _check_sharded(self) -> None:
        if self.processes == 1:
            raise ValueError(
                f"sharding {self.sharding} spreads a model over several processes, and processes is 1; set processes "
                "to the number of devices, or leave sharding out"
            )
        if self.load_in_4bit:
            raise ValueError(
                f"sharding {self.sharding} cannot spread 4-bit weights; leave load_in_4bit out, or sharding"
            )
        if self.optim not in SHARDED_OPTIMIZERS:
            raise ValueError(
                f"optim {self.optim} does not work with sharding {self.sharding}; take one of "
                f"{', '.join(SHARDED_OPTIMIZERS)}, or leave sharding out"
            )
