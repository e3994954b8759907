"""What a trainer's settings need beside this package, found before a run starts. Imports nothing heavy by itself."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec

from selfevo.config.training import TrainerConfig
from selfevo.errors import ConfigError, MissingExtraError
from selfevo.trainers.processes import launched

_FLASH = {
    "flash_attention_2": ("flash_attn", "flash-attn"),
    "flash_attention_3": ("flash_attn_interface", "flash-attn-3"),
}
_PLAIN = ("linear", "cosine", "constant", "constant_with_warmup")


def check_settings(config: TrainerConfig) -> None:
    """Raises MissingExtraError for a package that is not there, ConfigError for settings that cannot work here."""
    needs: dict[str, tuple[str, str]] = {f"trainer.report_to: {name}": (name, name) for name in config.report_to}
    if config.use_liger_kernel:
        needs["trainer.use_liger_kernel"] = ("liger_kernel", "liger-kernel")
    if config.load_in_4bit:
        needs["trainer.load_in_4bit"] = ("bitsandbytes", "bitsandbytes")
    if re.search("bnb|lion|ademamix|paged|adamw_8bit", config.optim):
        needs[f"trainer.optim: {config.optim}"] = ("bitsandbytes", "bitsandbytes")
    if config.optim in ("adamw_torch_8bit", "adamw_torch_4bit"):
        needs[f"trainer.optim: {config.optim}"] = ("torchao", "torchao")
    if config.attn_implementation in _FLASH:
        needs[f"trainer.attn_implementation: {config.attn_implementation}"] = _FLASH[config.attn_implementation]
    for setting, (module, package) in needs.items():
        if find_spec(module) is None and (module != "tensorboard" or find_spec("tensorboardX") is None):
            raise MissingExtraError(f"{setting} needs {package}, which is not installed; run: pip install {package}")
    _check_device(config)
    if config.processes > 1:
        _check_processes(config)
    if config.lr_scheduler_type not in _PLAIN or config.lr_scheduler_kwargs:
        _check_scheduler(config)


def _check_device(config: TrainerConfig) -> None:
    on_cuda = {
        "load_in_4bit": config.load_in_4bit,
        "use_liger_kernel": config.use_liger_kernel,
        f"attn_implementation: {config.attn_implementation}": config.attn_implementation in _FLASH,
    }
    wanted = [setting for setting, given in on_cuda.items() if given]
    if wanted:
        from selfevo.models.device import pick_device  # torch takes a second, and few runs need it here

        device = pick_device(config.device)
        if device.type != "cuda":
            raise ConfigError(f"trainer.{wanted[0]} needs a CUDA device, and the trainer's is {device}; leave it out")


def _check_processes(config: TrainerConfig) -> None:
    """Each process takes the device of its own number."""
    import torch

    from selfevo.models.device import pick_device

    device = pick_device(config.device)
    if device.index is not None or device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"trainer.processes is {config.processes} and trainer.device is {config.device}, one device for all of "
            "them; set trainer.device to cuda or cpu"
        )
    if config.sharding != "none" and device.type == "cpu" and torch.cuda.is_available():
        raise ConfigError(  # torch would shard over the GPUs all the same
            f"trainer.sharding is {config.sharding} and trainer.device is cpu, and torch sees a CUDA device; set "
            "trainer.device to cuda, or hide the devices (CUDA_VISIBLE_DEVICES=)"
        )
    if config.launcher is not None:
        command = launched(config.launcher)[:1]
        if not command or shutil.which(command[0]) is None:
            raise ConfigError(
                f"trainer.launcher is {config.launcher!r}, and {''.join(command) or 'it'} is no command; correct it"
            )
    elif device.type == "cuda" and torch.cuda.device_count() < config.processes:
        raise ConfigError(
            f"trainer.processes is {config.processes}, and torch sees {torch.cuda.device_count()} CUDA devices; lower "
            "it, so that each process has a device of its own"
        )


def _check_scheduler(config: TrainerConfig) -> None:
    """Makes the scheduler once, for an optimizer of one number."""
    import torch
    from transformers import get_scheduler

    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
    try:
        get_scheduler(config.lr_scheduler_type, optimizer, 1, 10, dict(config.lr_scheduler_kwargs or {}))
    except (TypeError, ValueError) as error:
        reason = re.sub(r"^\w+\(\)\s*", "", " ".join(str(error).split()))
        raise ConfigError(
            f"trainer.lr_scheduler_type {config.lr_scheduler_type} with lr_scheduler_kwargs "
            f"{dict(config.lr_scheduler_kwargs or {})}: {reason}; correct lr_scheduler_kwargs"
        ) from None
