"""Finds the folder of a model by its name, and the folder for what can be made again."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

from selfevo.errors import ConfigError
from selfevo.rundir.adapter_folder import HUB_FILES, is_adapter
from selfevo.rundir.atomic_files import check_folder, exists, from_user
from selfevo.rundir.inspect import best_model, is_run


def resolve_model(name: str, weights: bool = True) -> Path:
    """The folder of a model. `name` is that folder, a run directory (its best model) or a hub id.

    Without `weights`, those of a hub id are not fetched. Raises ConfigError if `name` is none of
    these, RunError if a run's model is not as it was made.
    """
    path = from_user(name)
    if exists(path) and path.is_dir():
        if is_run(path):
            path = best_model(path)
        check_folder(path)
        if not is_adapter(path) and not (path / "config.json").is_file():
            raise ConfigError(f"model: {path} has no config.json; give a folder that save_pretrained() wrote")
        return path.resolve()
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ConfigError(f"model: folder {name} does not exist; give a model folder or a hub id like owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = [pattern for pattern in HUB_FILES if weights or "safetensors" not in pattern]
    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"model: {name} is not a folder and cannot be loaded from the hub ({reason}); correct the name"
        ) from None


def cache_directory() -> Path:
    """$SELFEVO_CACHE, else selfevo in the user's cache directory (on Linux in $XDG_CACHE_HOME or ~/.cache)."""
    return Path(os.environ.get("SELFEVO_CACHE") or user_cache_path("selfevo", appauthor=False))
