"""Reads a run directory: lists what it holds, verifies it, and finds what can be removed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfevo.errors import RunError
from selfevo.method.names import BASE, META, round_number
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.records import Prompt
from selfevo.rundir.atomic_files import (
    CURVE,
    MODEL_MARKER,
    added_files,
    exists,
    file_fault,
    files_in,
    folder_faults,
    from_user,
    is_temporary,
    read_marker,
    read_rows,
    write_atomic,
)
from selfevo.rundir.layout import Layout, done
from selfevo.rundir.ledger import finished_rounds, read_events
from selfevo.rundir.ownership import check_format, in_use, locked
from selfevo.rundir.results import read_results
from selfevo.rundir.stage_order import places

_UNFINISHED = ("partial.jsonl", "growing.jsonl")  # what the file of a stage is called before


@dataclass(slots=True)
class Entry:
    """One stage or one training.

    `rows` = `out` + the sum of `lost`, which counts rejected and quarantined rows by reason.
    `seconds` is wall-clock time, `device_seconds` the part in which the device generated or
    trained. `prompt_tokens` and `new_tokens` were read and written by the model or the annotator.
    `dollars` is the cost of the annotator in US dollars.
    """

    name: str
    status: str = "done"
    rows: int = 0
    out: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    device_seconds: float = 0.0
    prompt_tokens: int = 0
    new_tokens: int = 0
    trained_tokens: int = 0
    dollars: float = 0.0

    def cost(self) -> dict[str, float]:
        names = ("seconds", "device_seconds", "prompt_tokens", "new_tokens", "trained_tokens", "dollars")
        return {name: round(getattr(self, name), 6) for name in names}


@dataclass(frozen=True, slots=True)
class Summary:
    """A run in one line. `status` is running, finished or stopped. `last` is the newest model, if any."""

    root: Path
    status: str
    model: str
    seed: int
    last: str | None
    accuracy: float | None
    seconds: float
    size: int


def find_runs(folder: Path) -> list[Path]:
    """The run directories in `folder`, by name; `folder` itself too if it is one."""
    return [path for path in (folder, *sorted(folder.iterdir())) if is_run(path)] if folder.is_dir() else []


def is_run(path: Path) -> bool:
    try:
        return Layout(path).config.is_file() and Layout(path).manifest.is_file()
    except OSError:  # this user may not look into it
        return False


def summarise(root: Path) -> Summary:
    config = read_marker(Layout(require_run(root)).config, model=str, seed=int)
    results = read_results(root)
    models = _models(root)
    measured = results.model(models[-1].name) if results and models else None
    return Summary(
        root=root,
        status=_status(root),
        model=config["model"],
        seed=config["seed"],
        last=models[-1].name if models else None,
        accuracy=measured.direct.accuracy if measured else None,
        seconds=sum(event["seconds"] for event in read_events(root)),
        size=size_of(root),
    )


def entries(root: Path) -> list[Entry]:
    """Every stage and training, in the order in which they started."""
    found = {entry.name: entry for entry in _stages(require_run(root))}
    order: list[str] = []
    for event in read_events(root):
        entry = found.setdefault(event["stage"], Entry(event["stage"]))
        _add(entry, event)
        if event["event"] == "train":
            entry.rows = entry.out = int(event.get("sequences", 0))
        order.append(event["stage"])
    place = places(found, order)
    return sorted((entry for entry in found.values() if entry.name), key=lambda entry: place[entry.name])


def costs(root: Path) -> dict[str, dict[str, float]]:
    """The cost of each stage and training (see Entry), in the order of their start, and the "total"."""
    found: dict[str, Entry] = {}
    total = Entry("total")
    for event in read_events(root):
        for entry in (found.setdefault(event["stage"], Entry(event["stage"])), total):
            _add(entry, event)
    return {
        entry.name: entry.cost() for entry in (*found.values(), total) if entry is total or any(entry.cost().values())
    }


def verify(root: Path) -> tuple[int, list[str]]:
    """Checks finished files and models against their SHA-256: how many, and what is wrong with them.

    Finds too what a run did not write into data/, stages/ and models/. Each fault comes with its
    remedy. What a process is writing now is no fault.
    """
    running, layout = in_use(require_run(root)), Layout(root)
    markers = sorted(root.glob("data/*.done.json")) + sorted(root.glob("stages/*/*.done.json"))
    faults = [fault for marker in markers if (fault := _fault(marker))]
    odd = [fault for path in files_in(root / "data", layout.stages) if (fault := _without_marker(root, path))]
    models = sorted(path for path in layout.models.glob("[!.]*") if path.is_dir())
    odd += [f"{path} is no file of a run; delete it" for path in layout.models.glob("*") if not path.is_dir()]
    for folder in models:
        try:
            marker = read_marker(folder / MODEL_MARKER)
            faults += folder_faults(folder, marker)
            odd += added_files(folder, marker)
        except RunError as error:
            faults.append(str(error))
    odd += _missing(root)
    return len(markers) + len(models), faults if running or in_use(root) else [*faults, *odd]


def _fault(marker: Path) -> str | None:
    path = marker.with_name(marker.name.replace(".done.json", ".jsonl"))
    remedy = f"restore it, or delete it and {marker}, and run the command of its run again"
    try:
        fault = file_fault(path, read_marker(marker, sha256=str)["sha256"])
    except RunError as error:
        return str(error)
    return f"{fault}; {remedy}" if fault else None


def _without_marker(root: Path, path: Path) -> str | None:
    """What is wrong with a file of data/ or stages/ that no marker covers. None if it is as a run leaves it."""
    name, _, kind = path.name.partition(".")
    marker = done(path.with_name(f"{name}.jsonl"))
    in_place = path.parent == root / "data" or path.parent.parent == Layout(root).stages
    if is_temporary(path) or (in_place and name and kind in ("jsonl", "done.json") and marker.exists()):
        return None
    if in_place and name and kind in _UNFINISHED and not marker.exists():
        return None  # the run goes on from it
    if in_place and name and kind == "jsonl" and path.is_file():
        remedy = "run the command of its run again to have it written; if it is not, delete the file"
        return f"{path} has no {marker.name} beside it; {remedy}"
    return f"{path} is no file of a run; delete it"


def _missing(root: Path) -> Iterator[str]:
    """The models and stage files that the run has made, as its events say, and that are not there at all."""
    for kind, name in sorted({(event["event"], event["stage"]) for event in read_events(root)}):
        if kind == "train":
            path = Layout(root).model(name)
            there = exists(path)
        elif kind == "generate":
            path = Layout(root).stages / f"{name}.jsonl"
            there = any(exists(path.with_suffix(f".{form}")) for form in ("jsonl", "done.json", *_UNFINISHED))
        else:
            continue
        if not there:
            yield f"{path} is missing; restore it, or run the command of its run again to have it made again"


def best_model(root: Path) -> Path:
    """The model of a run to use: the gate's best, else the last one trained on D_meta or a round.

    The gate's best may be the model that a run without a corpus started from. Raises RunError if
    there is none yet.
    """
    models = {model.name: model for model in _models(root) if model.name == META or round_number(model.name)}
    results = read_results(root)
    best = (results.gate.best if results and results.gate else "") or next(reversed(models), None)
    if best is None:
        raise RunError(f"{root} has no finished model yet; resume the run, or give the folder of a model")
    if best == BASE:
        return _started_from(root)
    if best not in models:
        raise RunError(f"{Layout(root).model(best)}, the best model, is missing; run the command of its run again")
    return models[best]


def _started_from(root: Path) -> Path:
    name = str(read_marker(Layout(root).config, model=str)["model"])
    path = from_user(name)
    if not exists(path):
        raise RunError(f"no round of {root} is better than the model that it started from; give that one: {name}")
    return best_model(path) if is_run(path) else path


def run_settings(model: Path) -> dict[str, Any]:
    """The configuration of the run that made the folder `model`, or asks it as its base; empty if no run made it."""
    place = model.resolve()
    root = place.parent if place.name == Layout(place.parent).base.name else place.parent.parent
    return read_marker(Layout(root).config) if is_run(root) else {}


def wording_of(model: Path) -> Wording:
    """The words that the model in a folder was trained with; the default for a model that no run made.

    They are in the folder itself, so that they go where it goes.
    """
    marker = model / MODEL_MARKER
    return read_wording(marker) if marker.is_file() else ENGLISH


def read_wording(path: Path) -> Wording:
    """The wording in a selfevo.json or config.json. Raises RunError if it is damaged."""
    said = read_marker(path).get("wording", {})
    try:
        return Wording.model_validate(said)
    except ValueError:
        raise RunError(f"{path} is damaged: its wording is {json.dumps(said)[:80]}; restore it") from None


def prompts_seen(model: Path) -> frozenset[str]:
    """Ids of the prompts that a model's run could learn from, with and without a system prompt; empty if no run made
    the model."""
    root = model.resolve().parent.parent
    if not is_run(root):
        return frozenset()
    # More rounds have further files of the pool; "seen" is what the model had learnt from before the run.
    names = ("labelled", "sft", "unlabelled", "d_meta", "pool", "pool-*", "seen")
    paths = (path for name in names for path in sorted(root.glob(f"data/{name}.jsonl")))
    rows = (row for path in paths for row in read_rows(path))
    seen = set[str]()
    for row in rows:
        prompt = row["prompt"] if isinstance(row.get("prompt"), dict) else row  # a problem holds its prompt
        seen.add(prompt["id"])
        if prompt.get("system"):
            seen.add(Prompt.of(prompt["prompt"], history=tuple(prompt.get("history", ()))).id)
    return frozenset(seen)


def kept_models(root: Path) -> list[Path]:
    """The models that `gc` keeps: the last one, and the best one (see `best_model`)."""
    models = _models(root)
    with suppress(RunError):  # there is no best one yet
        return [model for model in models if model in (best_model(root), models[-1])]
    return models[-1:]


def removable(root: Path) -> list[Path]:
    """The folders that `gc` empties: models that it does not keep, and scratch folders."""
    kept = kept_models(root)
    # A gc that was stopped may have left files of a model that its marker calls removed.
    models = [
        model
        for model in _models(root)
        if (model not in kept and "removed" not in read_marker(model / MODEL_MARKER)) or _is_half_removed(model)
    ]
    scratch = sorted(path for path in Layout(root).models.glob(".*") if path.is_dir())
    return [*models, *scratch]


def _is_half_removed(model: Path) -> bool:
    return "removed" in read_marker(model / MODEL_MARKER) and any(
        path.name not in (MODEL_MARKER, CURVE) for path in model.iterdir()
    )


def collect(root: Path) -> int:
    """Empties the `removable` folders and returns the bytes freed.

    A model's marker and its curve stay, so the rows that the model wrote still count. Raises RunError if the run
    is in use, or may be on another host.
    """
    freed = 0
    with locked(require_run(root)):
        for folder in removable(root):
            freed += size_of(folder)
            marker = folder / MODEL_MARKER
            if marker.is_file():
                write_atomic(marker, json.dumps({**read_marker(marker), "removed": True}, indent=2))
                for path in folder.iterdir():
                    if path not in (marker, folder / CURVE):
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            else:
                shutil.rmtree(folder)
    return freed


def size_of(folder: Path) -> int:
    """Bytes of the files in `folder`."""
    size = 0
    for path in files_in(folder):
        with suppress(OSError):  # it vanished meanwhile
            size += path.lstat().st_size
    return size


def require_run(root: Path) -> Path:
    """`root` itself. Raises RunError if it is not a run directory, or one of another format."""
    if not is_run(root):
        raise RunError(f"{root} is not a run directory of selfevo; `selfevo runs FOLDER` lists the runs in FOLDER")
    check_format(root)
    return root


def _stages(root: Path) -> Iterator[Entry]:
    files = Layout(root).stages.glob("*/[!.]*.jsonl")
    for path in sorted({path.with_name(f"{path.name.partition('.')[0]}.jsonl") for path in files}):
        finished = done(path).exists()
        # A run that goes on copies the rows of the partial file to the growing one, then gives that its last name.
        waiting = set() if finished else {row.get("key") for row in _rows(path.with_suffix(".partial.jsonl"))}
        count, lost = 0, Counter[str]()
        for row in _rows(path, path.with_suffix(".growing.jsonl"), path):
            count += 1
            waiting.discard(row.get("key"))
            lost.update(_lost(row))
        status = "done" if finished else "begun"
        yield Entry(f"{path.parent.name}/{path.stem}", status, count + len(waiting), count - lost.total(), lost)


def _lost(row: dict[str, Any]) -> list[str]:
    """The reason why a row went no further; none if it did."""
    return [str(row.get("reason"))] if row.get("status") == "quarantined" or row.get("kept") is False else []


def lost_rows(*files: Path) -> Counter[str]:
    """The rows that these files quarantined or rejected, by reason. A file that is not there has none."""
    return Counter(reason for path in files if path.is_file() for row in read_rows(path) for reason in _lost(row))


def _rows(*paths: Path) -> Iterator[dict[str, Any]]:
    """The rows of the first of these files that is there when its turn comes."""
    for path in paths:
        with suppress(FileNotFoundError):
            if path.is_file():
                yield from read_rows(path)
                return


def _models(root: Path) -> list[Path]:
    """The finished models, in the order in which they are made."""
    return Layout(require_run(root)).finished_models()


def _add(entry: Entry, event: dict[str, Any]) -> None:
    entry.seconds += event["seconds"]
    entry.prompt_tokens += int(event.get("prompt_tokens", 0))
    entry.new_tokens += int(event.get("new_tokens", 0))
    entry.dollars += event.get("dollars", 0.0)
    if event["event"] in ("generate", "train"):
        entry.device_seconds += event["seconds"]
    if event["event"] == "train":
        entry.trained_tokens += int(event.get("tokens", 0))


def is_finished(root: Path) -> bool:
    return _status(root) == "finished"


def _status(root: Path) -> str:
    if in_use(root):  # asked first: a run that ends meanwhile has written that it is finished
        return "running"
    return "stopped" if finished_rounds(root) is None else "finished"
