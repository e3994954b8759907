"""Reads a run directory: lists what it holds, verifies it, and finds what can be removed."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from selfevo.errors import RunError
from selfevo.method.names import META, round_number
from selfevo.rundir.atomic_files import MODEL_MARKER, file_fault, folder_faults, read_marker, read_rows, write_atomic
from selfevo.rundir.layout import Layout, done
from selfevo.rundir.ownership import check_format, in_use, locked
from selfevo.rundir.results import read_results


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
    return Layout(path).config.is_file() and Layout(path).manifest.is_file()


def summarise(root: Path) -> Summary:
    config = read_marker(Layout(require_run(root)).config)
    results = read_results(root)
    models = _models(root)
    events = list(_events(root))
    return Summary(
        root=root,
        status=_status(root, events),
        model=str(config.get("model")),
        seed=int(config.get("seed", 0)),
        last=models[-1].name if models else None,
        accuracy=results.models[-1].direct.accuracy if results and results.models else None,
        seconds=sum(event["seconds"] for event in events),
        size=size_of(root),
    )


def entries(root: Path) -> list[Entry]:
    """Every stage and training, in the order in which they started."""
    found = {entry.name: entry for entry in _stages(require_run(root))}
    order: list[str] = []
    for event in _events(root):
        entry = found.setdefault(event["stage"], Entry(event["stage"]))
        _add(entry, event)
        if event["event"] == "train":
            entry.rows = entry.out = int(event.get("sequences", 0))
        order.append(event["stage"])
    place = {name: i for i, name in reversed(list(enumerate(order)))}
    for name in found:  # a filter leaves no event: it comes right after the stages whose rows it filters
        if name.endswith("/filter"):
            place[name] = max((i for other, i in place.items() if other.startswith(name[:-6])), default=-1)
    return sorted(
        (entry for entry in found.values() if entry.name),
        key=lambda entry: (place.get(entry.name, len(order)), entry.name.endswith("/filter")),
    )


def costs(root: Path) -> dict[str, dict[str, float]]:
    """The cost of each stage and training (see Entry), in the order of their start, and the "total"."""
    found: dict[str, Entry] = {}
    total = Entry("total")
    for event in _events(root):
        for entry in (found.setdefault(event["stage"], Entry(event["stage"])), total):
            _add(entry, event)
    return {
        entry.name: entry.cost() for entry in (*found.values(), total) if entry is total or any(entry.cost().values())
    }


def verify(root: Path) -> tuple[int, list[str]]:
    """Checks finished files and models against their SHA-256: how many, and what is wrong with them.

    Each fault comes with its remedy. A run that goes on meanwhile has no faults for it.
    """
    checked, faults = 0, list[str]()
    running = in_use(require_run(root))
    layout = Layout(root)
    for marker in sorted(root.glob("data/*.done.json")) + sorted(root.glob("stages/*/*.done.json")):
        checked += 1
        remedy = f"restore it, or delete it and {marker}, and run the same command again"
        faults += [f"{fault}; {remedy}" for fault in _fault(marker)]
    for path in sorted(path for folder in ("data", "stages") for path in (root / folder).rglob("*")):
        if fault := _unfinished(path) if path.is_file() and not running else None:
            faults.append(fault)
    for folder in sorted(path for path in layout.models.glob("[!.]*") if path.is_dir()):
        checked += 1
        remedy = f"restore the folder, or delete {folder} and run the same command again"
        try:
            faults += [f"{fault}; {remedy}" for fault in folder_faults(folder, read_marker(folder / MODEL_MARKER))]
        except RunError as error:
            faults.append(str(error))
    return checked, faults


def _unfinished(path: Path) -> str | None:
    """What is wrong with a file of data/ or stages/ that has no marker."""
    name, _, kind = path.name.partition(".")
    marker = done(path.with_name(f"{name}.jsonl"))
    if kind in ("partial.jsonl", "growing.jsonl") and not marker.exists():
        return None  # the run goes on from it
    if kind == "jsonl" and not marker.exists():
        return f"{path} has no {marker.name} beside it; run the same command again to have it written"
    expected = kind in ("jsonl", "done.json") or path.name.endswith(".tmp")
    return None if expected else f"{path} is no file of a run; delete it"


def best_model(root: Path) -> Path:
    """The model of a run to use: the gate's best, else the last one trained on D_meta or a round.

    Raises RunError if there is none yet.
    """
    models = [model for model in _models(root) if model.name == META or round_number(model.name)]
    best = _gates_best(root)
    chosen = next((model for model in reversed(models) if model.name == best or not best), None)
    if chosen is None:
        raise RunError(f"{root} has no finished model yet; resume the run, or give the folder of a model")
    return chosen


def run_settings(model: Path) -> dict[str, Any]:
    """The configuration of the run that made the folder `model`; empty if no run made it."""
    root = model.resolve().parent.parent
    return read_marker(Layout(root).config) if is_run(root) else {}


def prompts_seen(model: Path) -> frozenset[str]:
    """Ids of the prompts that a model's run could learn from; empty if no run made the model."""
    root = model.resolve().parent.parent
    if not is_run(root):
        return frozenset()
    paths = (Layout(root).data(name) for name in ("labelled", "sft", "unlabelled", "d_meta", "pool"))
    rows = (row for path in paths if path.is_file() for row in read_rows(path))
    return frozenset(row["id"] if "id" in row else row["prompt"]["id"] for row in rows)


def removable(root: Path) -> list[Path]:
    """The folders that `gc` empties: scratch folders, and models.

    It keeps the last model, the one with the best direct accuracy, and the gate's best.
    """
    emptied = [model for model in _models(root) if "removed" in read_marker(model / MODEL_MARKER)]
    models = [model for model in _models(root) if model not in emptied]
    kept = {models[-1].name} if models else set()
    results = read_results(root)
    measured = {model.name: model.direct.correct for model in results.models} if results else {}
    if names := [model.name for model in reversed(models) if model.name in measured]:
        kept.add(max(names, key=lambda name: measured[name]))  # among equals the latest
    kept.add(_gates_best(root))
    scratch = sorted(path for path in Layout(root).models.glob(".*") if path.is_dir())
    left = [model for model in emptied if any(path.name != MODEL_MARKER for path in model.iterdir())]  # gc was killed
    return [*left, *(model for model in models if model.name not in kept), *scratch]


def collect(root: Path) -> int:
    """Empties the `removable` folders and returns the bytes freed.

    A model's marker stays, so the rows that the model wrote still count.
    """
    freed = 0
    with locked(require_run(root)):
        for folder in removable(root):
            freed += size_of(folder)
            marker = folder / MODEL_MARKER
            if marker.is_file():
                write_atomic(marker, json.dumps({**read_marker(marker), "removed": True}, indent=2))
                for path in folder.iterdir():
                    if path != marker:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()
            else:
                shutil.rmtree(folder)
    return freed


def size_of(folder: Path) -> int:
    """Bytes of the files in `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def require_run(root: Path) -> Path:
    """`root` itself. Raises RunError if it is not a run directory, or one of another format."""
    if not is_run(root):
        raise RunError(f"{root} is not a run directory of selfevo; `selfevo runs FOLDER` lists the runs in FOLDER")
    check_format(root)
    return root


def _stages(root: Path) -> Iterator[Entry]:
    begun: dict[str, Entry] = {}
    for path in sorted(Layout(root).stages.glob("*/*.jsonl")):
        name = f"{path.parent.name}/{path.name.partition('.')[0]}"
        if done(path).exists():
            rows, lost = _lost(path)
            yield Entry(name, "done", rows, rows - lost.total(), lost)
        elif path.name.endswith(".partial.jsonl"):
            begun.setdefault(name, Entry(name, "begun")).rows += sum(1 for _ in read_rows(path))
        else:
            rows, lost = _lost(path)
            entry = begun.setdefault(name, Entry(name, "begun"))
            entry.rows, entry.out, entry.lost = entry.rows + rows, rows - lost.total(), lost
    yield from begun.values()


def _lost(path: Path) -> tuple[int, Counter[str]]:
    """The number of rows in a stage file, and of its rejected or quarantined rows by reason."""
    rows, lost = 0, Counter[str]()
    for row in read_rows(path):
        rows += 1
        if row.get("status") == "quarantined" or row.get("kept") is False:
            lost[row["reason"]] += 1
    return rows, lost


def _models(root: Path) -> list[Path]:
    """The finished models, in the order in which they are made."""
    return Layout(require_run(root)).finished_models()


def _fault(marker: Path) -> list[str]:
    try:
        fault = file_fault(
            marker.with_name(marker.name.replace(".done.json", ".jsonl")), read_marker(marker, sha256=str)["sha256"]
        )
    except RunError as error:
        return [str(error)]
    return [fault] if fault else []


def _add(entry: Entry, event: dict[str, Any]) -> None:
    entry.seconds += event["seconds"]
    entry.prompt_tokens += int(event.get("prompt_tokens", 0))
    entry.new_tokens += int(event.get("new_tokens", 0))
    entry.dollars += event.get("dollars", 0.0)
    if event["event"] in ("generate", "train"):
        entry.device_seconds += event["seconds"]
    if event["event"] == "train":
        entry.trained_tokens += int(event.get("tokens", 0))


def _gates_best(root: Path) -> str:
    """The name of the gate's best model; "" without a gate."""
    results = read_results(root)
    return results.gate.best if results and results.gate else ""


def _events(root: Path) -> Iterator[dict[str, Any]]:
    path = Layout(root).events
    return read_rows(path) if path.is_file() else iter(())


def is_finished(root: Path) -> bool:
    return _status(root, list(_events(root))) == "finished"


def _status(root: Path, events: list[dict[str, Any]]) -> str:
    if in_use(root):
        return "running"
    return "finished" if any(event["event"] == "finish" for event in events) else "stopped"
