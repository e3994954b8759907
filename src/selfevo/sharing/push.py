"""`selfevo push`: a model of a run, with its card, to the hub, in one commit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
)
from huggingface_hub.errors import HTTPError as HTTPError  # type: ignore[attr-defined]  # that of its client

from selfevo.errors import ConfigError, HubError, RunError
from selfevo.report.model_card import hub_id
from selfevo.rundir.atomic_files import MODEL_MARKER, check_folder, files_in, is_temporary, read_marker
from selfevo.rundir.inspect import best_model, require_run
from selfevo.rundir.layout import Layout

ADAPTER = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Pushed:
    """A model on the hub. `size` is in bytes."""

    url: str
    model: str
    files: int
    size: int


def push_model(
    run: Path, repo: str, *, model: str | None = None, private: bool = False, revision: str | None = None
) -> Pushed:
    """Uploads a model of `run`, by default the best, to the hub's `repo`, which is created if it is missing.

    `revision` is a branch, which is created too. The token is the one of the environment variable HF_TOKEN, or of `hf
    auth login`. Raises ConfigError without a token, offline, for a bad name, and if `private` is asked for and the repo
    is public; RunError if there is no such model; HubError if the hub refuses or cannot be reached.
    """
    folder = best_model(require_run(run)) if model is None else Layout(require_run(run)).model(model)
    if model is not None and not (folder / MODEL_MARKER).is_file():
        there = ", ".join(path.name for path in Layout(run).finished_models())
        raise RunError(f"{run} has no model {model!r}; it has {there or 'none yet'}")
    if folder.parent != Layout(run).models:
        raise RunError(f"no round of {run} is better than the model that it started from; choose a round with --model")
    check_folder(folder)
    if constants.is_offline_mode():
        raise ConfigError("HF_HUB_OFFLINE is set, so nothing can be pushed; unset it")
    if not get_token():
        raise ConfigError("there is no token for the hub; run `hf auth login`, or put it in HF_TOKEN")
    operations, size = _files(run, folder)
    api = HfApi()
    try:
        repo = api.create_repo(repo, private=private or None, exist_ok=True).repo_id
        if private and not api.repo_info(repo).private:
            raise ConfigError(f"{repo} is public on the hub; make it private there, or leave out --private")
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo, operations, commit_message=f"Upload {folder.name} with selfevo push", revision=revision
        )
    except HFValidationError as error:
        raise ConfigError(f"{repo!r} is no name for the hub; give owner/name ({_line(error)})") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        remedy = (
            "give a token that may write there"
            if status in (401, 403)
            else "correct this, or try again in some minutes"
        )
        raise HubError(f"the hub refuses {repo} ({status}: {_line(error)}); {remedy}") from None
    except (HTTPError, OfflineModeIsEnabled, OSError) as error:
        raise HubError(
            f"the hub at {api.endpoint} cannot be reached ({type(error).__name__}: {_line(error)}); check the network, "
            "then give the same command again"
        ) from None
    except (ValueError, RuntimeError) as error:  # what the hub says about a file
        raise HubError(f"{repo} could not be uploaded ({_line(error)}); try again, or report it") from None
    return Pushed(str(commit.repo_url), folder.name, len(operations), size)


def _files(run: Path, folder: Path) -> tuple[list[CommitOperationAdd], int]:
    """The files of a model, and their size. None of them names a folder of this machine."""
    contents: dict[str, bytes | str] = {
        path.relative_to(folder).as_posix(): str(path) for path in files_in(folder) if not is_temporary(path)
    }
    if ADAPTER in contents:
        contents[ADAPTER] = changed = _public(run, folder / ADAPTER)
        marker = read_marker(folder / MODEL_MARKER, files=dict)
        hashes = {**marker["files"], ADAPTER: hashlib.sha256(changed).hexdigest()}
        contents[MODEL_MARKER] = json.dumps({**marker, "files": hashes}, indent=2).encode()
    operations = [CommitOperationAdd(name, content) for name, content in contents.items()]
    return operations, sum((folder / name).stat().st_size for name in contents)


def _public(run: Path, path: Path) -> bytes:
    """adapter_config.json with the hub id of the base. Raises ConfigError if the base is a folder here."""
    base = hub_id(str(read_marker(Layout(run).config, model=str)["model"]))
    if base is None:
        raise ConfigError(
            f"{path.parent} is an adapter of a model that is a folder here, so nobody else could load it; "
            "selfevo merge gives a whole model to upload"
        )
    settings = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps({**settings, "base_model_name_or_path": base}, indent=2).encode()


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
