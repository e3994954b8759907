"""Finds the folder of a model by its name, and the folder for what can be made again."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from selfevo.errors import ConfigError, DataError, RunError
from selfevo.rundir.adapter_folder import is_adapter
from selfevo.rundir.atomic_files import check_folder, exists, from_user, read_marker
from selfevo.rundir.hub import parse, reference, snapshot
from selfevo.rundir.inspect import best_model, is_run
from selfevo.rundir.layout import Layout


def resolve_model(name: str, revision: str | None = None, weights: bool = True) -> Path:
    """The folder of a model. `name` is that folder, a run directory (its best model) or owner/name on the hub.

    owner/name@revision is a branch, tag or commit there. `revision` goes before it.

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
    identifier, asked = parse(name)
    if path.is_absolute() or name.startswith(".") or identifier.count("/") != 1:
        raise ConfigError(f"model: folder {name} does not exist; give a model folder or a hub id like owner/name")
    try:
        return snapshot(identifier, revision or asked, weights)
    except DataError as error:
        raise ConfigError(f"model: {name} is not a folder and cannot be loaded from the hub: {error}") from None


def origin(folder: Path) -> dict[str, Any]:
    """What the manifest of a run notes of its base model, if that came from the hub."""
    found = reference(folder)
    return {"hub": {"model": found[0], "revision": found[1]}} if found else {}


def noted_revision(root: Path, name: str) -> str | None:
    """The commit with which the run in `root` started from the model `name`, whatever has been published since."""
    with suppress(RunError, AttributeError):
        hub = read_marker(Layout(root).manifest).get("hub") or {}
        if hub.get("model") == parse(name)[0] and isinstance(hub.get("revision"), str):
            return str(hub["revision"])
    return None


def cache_directory() -> Path:
    """$SELFEVO_CACHE, else selfevo in the user's cache directory (on Linux in $XDG_CACHE_HOME or ~/.cache)."""
    return Path(os.environ.get("SELFEVO_CACHE") or user_cache_path("selfevo", appauthor=False))
