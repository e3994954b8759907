"""Models of the hub: each revision has a folder of its own in the hub's cache, which is shared by all runs."""

from __future__ import annotations

from pathlib import Path

from selfevo.errors import DataError

FILES = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")  # of a model; no pickles, no code


def parse(name: str) -> tuple[str, str | None]:
    """The id and the revision in owner/name or owner/name@revision."""
    identifier, _, revision = name.partition("@")
    return identifier, revision or None


def snapshot(identifier: str, revision: str | None, weights: bool = True) -> Path:
    """The folder of a model in the hub's cache: a branch, tag or commit, by default what is newest.

    Fetches what is missing, also after a download that was interrupted. Without the hub the cache
    will do if it holds all of it. Without `weights`, those are not fetched. Raises DataError with
    the reason and the remedy.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RevisionNotFoundError,
    )

    files = [pattern for pattern in FILES if weights or "safetensors" not in pattern]
    try:
        return Path(snapshot_download(identifier, revision=revision, allow_patterns=files))
    except LocalEntryNotFoundError as error:
        remedy = "it is not whole in the cache; connect to the hub, and run the same command again"
        reason: Exception = error
    except RevisionNotFoundError as error:
        remedy, reason = f"correct the revision {revision!r}", error
    except GatedRepoError as error:
        remedy, reason = "ask for access on its page, then log in with `hf auth login`", error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        remedy, reason = "correct the name", error
    said = next((line for line in str(reason).splitlines() if line.strip()), type(reason).__name__)
    raise DataError(f"{said.strip()}; {remedy}") from None


def reference(folder: Path) -> tuple[str, str] | None:
    """The id and the commit of a folder in the hub's cache. None for any other folder."""
    folder = folder.resolve()
    kind, _, name = folder.parent.parent.name.partition("--")
    if folder.parent.name == "snapshots" and kind == "models" and name.count("--") == 1:
        return name.replace("--", "/"), folder.name
    return None
