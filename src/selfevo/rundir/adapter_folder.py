"""The folder of a LoRA adapter, as PEFT writes it: adapter_config.json names the base model it sits on."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from selfevo.errors import DataError
from selfevo.rundir import hub

ADAPTER_CONFIG = "adapter_config.json"
_BASE = "base_model_name_or_path"


def is_adapter(folder: Path) -> bool:
    """Whether `folder` holds an adapter alone, without its base."""
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def read_adapter(folder: Path) -> dict[str, Any]:
    """The content of adapter_config.json. Raises DataError if it names no base."""
    path = folder / ADAPTER_CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it") from None
    if not isinstance(found, dict) or not isinstance(found.get(_BASE), str) or not found[_BASE]:
        raise DataError(f"{path} has no {_BASE}; write the folder or hub id of the adapter's base model there")
    return found


def weights_folder(folder: Path) -> Path:
    """The folder with config.json and whole weights: the base of an adapter, else `folder` itself.

    Raises DataError if the base is not there, or is an adapter too.
    """
    return base_folder(folder) if is_adapter(folder) else folder


def base_folder(folder: Path) -> Path:
    """The base of the adapter in `folder`. Raises DataError if it is not there, or is an adapter too."""
    found = read_adapter(folder)
    name = found[_BASE]
    base = Path(name)
    if not base.is_dir():
        remedy = f"put that model back, or merge the two: selfevo merge {folder} NEW --base FOLDER"
        if base.is_absolute():
            raise DataError(f"{folder} is an adapter on {name}, which is not there; {remedy}")
        try:
            base = hub.snapshot(name, found.get("revision"))
        except DataError as error:
            raise DataError(
                f"{folder} is an adapter on {name}, which is no folder and cannot be loaded from the hub: {error}, or "
                f"{remedy}"
            ) from None
    if not (base / "config.json").is_file():
        raise DataError(f"{folder} is an adapter on {base}, which has no config.json; give an adapter on a whole model")
    return base


def base_reference(base: Path) -> tuple[str, str | None]:
    """How an adapter names its base: the hub id and the revision if `base` came from the hub, else its path."""
    base = _original(base.resolve())
    return hub.reference(base) or (str(base), None)


def _original(base: Path) -> Path:
    """The model whose weights `base` links to, as the base of a run with a chat template of its own does.

    An adapter has that template itself, and a run with its base can be moved, deleted, or pushed to the hub.
    """
    weights = [base / "config.json", *base.glob("*.safetensors")]
    folders = {(base / path.readlink()).parent if path.is_symlink() else base for path in weights}
    found = folders.pop()
    return found if not folders and (found / "config.json").is_file() else base


def portable(folder: Path) -> bytes:
    """What adapter_config.json says of the adapter itself. Where its base lies does not count, what it is does."""
    found = {key: value for key, value in read_adapter(folder).items() if key not in (_BASE, "revision")}
    return json.dumps(found, sort_keys=True).encode()


def adapter_digest(folder: Path, base: str) -> str:
    """SHA-256 over the configuration of the adapter and the hash of its base."""
    return hashlib.sha256(portable(folder) + base.encode()).hexdigest()


def write_adapter_config(folder: Path, base: Path) -> None:
    """Names `base` in adapter_config.json. Sorts its lists of names, which PEFT writes in any order."""
    path = folder / ADAPTER_CONFIG
    found = json.loads(path.read_text(encoding="utf-8"))
    name, revision = base_reference(base)
    found |= {_BASE: name, "revision": revision, "inference_mode": True}
    for key, value in found.items():
        if isinstance(value, list) and all(isinstance(each, str) for each in value):
            found[key] = sorted(value)
    path.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
