"""What a training leaves: weights or an adapter that give the logits they gave before, and the curve."""

from __future__ import annotations

import gc
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from selfevo.errors import TrainingError
from selfevo.models.logits import distances
from selfevo.rundir.adapter_folder import weights_folder, write_adapter_config
from selfevo.rundir.atomic_files import CURVE, write_atomic

LARGEST_FILE = "5GB"  # of weights; what the hub and slow disks take well
LOGGED = ("loss", "learning_rate", "grad_norm", "eval_loss")  # of every step, kept in the run directory
# The most that logits may differ, as a share of how much they vary; the median over the tokens of the probe. Merging in
# float32 only reorders sums. In half precision it rounds each weight to 8 (bf16) or 11 bits: 0.12 was measured for
# SmolLM2-135M, of 30 layers. Merging with a wrong scale or into wrong weights is off by the order of one. A model that
# is loaded again has the same weights and the same arithmetic, but for kernels such as Liger's.
_FLOAT32, _HALF, _HALF_LOADED = 1e-3, 0.5, 0.05


def write_curve(history: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes what was logged at each step. A checkpoint holds the history up to it, so no step is lost or doubled."""
    steps: dict[int, dict[str, float]] = {}
    for entry in history:
        found = {name: entry[name] for name in ("epoch", *LOGGED) if name in entry}
        if found.keys() & set(LOGGED):
            steps.setdefault(entry["step"], {"step": entry["step"]}).update(found)
    lines = (json.dumps(steps[step]) + "\n" for step in sorted(steps))
    write_atomic(output / CURVE, "".join(lines))


def check_finite(model: Any) -> None:
    """Raises TrainingError for a weight that is not a number."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise TrainingError(f"after training, {name} holds non-finite values; lower learning_rate")


def keep_settings(model: Any) -> None:
    """Lets the generation_config of `model` be saved with settings that have no effect, such as a temperature without
    do_sample. transformers saves these only as they were loaded, and a training changes the tokens beside them.
    """
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    try:
        model.generation_config.validate(strict=True)
    except ValueError:
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "generation_config.json").write_text(model.generation_config.to_json_string())
            model.generation_config = GenerationConfig.from_pretrained(folder)


def write_model(model: Any, output: Path, largest: str = LARGEST_FILE) -> None:
    """Saves a plain transformers folder; weights above the size `largest` in several files, with their index."""
    model.save_pretrained(output, max_shard_size=largest)


def write_adapter(model: Any, base: Path, output: Path) -> None:
    """Saves the adapter of a PeftModel as PEFT does. `base` is the folder of the model that it was trained from."""
    model.save_pretrained(output, selected_adapters=["default"], save_embedding_layers=False)
    (output / "README.md").unlink(missing_ok=True)  # PEFT's; our model card comes later
    write_adapter_config(output, weights_folder(base))
    model.get_base_model().generation_config.save_pretrained(output)


def check_same(
    before: torch.Tensor, after: torch.Tensor, precision: torch.dtype, what: str, half: float = _HALF
) -> None:
    """Raises TrainingError if logits differ by more than rounding to `precision` explains."""
    most = _FLOAT32 if torch.finfo(precision).bits >= 32 else half
    # The median: in a mixture of experts rounding alone may send single tokens to another expert.
    apart = float(distances(before, after).median())
    if not apart <= most:
        raise TrainingError(
            f"{what} the model gives other logits than it was trained to (apart by {apart:.2g} of their spread, "
            f"{most:g} is rounding); train it without trainer.lora.modules_to_save, or all its weights (without lora)"
        )


def check_loaded(before: torch.Tensor, after: torch.Tensor, precision: torch.dtype) -> None:
    """As check_same, for a model that computes in `precision` before it was saved and after it was loaded again."""
    check_same(before, after, precision, "loaded again from the disk,", _HALF_LOADED)


def emptied(trainer: Any, model: Any) -> None:
    """Gives the memory of a trainer and its model back, although others still refer to them."""
    trainer.optimizer = trainer.lr_scheduler = None
    model.to("meta")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
