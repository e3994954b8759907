"""The run directory: every row and every model in a write-once place, so that a killed run goes on where it stopped.

    RUN/
      config.yaml            the resolved configuration; a resume with another one is refused
      manifest.json          versions, platform, base model
      events.jsonl           what was done and how long it took, one line per committed piece of work
      data/*.jsonl           prompts, problems, D_meta
      stages/ROOM/SKILL.jsonl    one row per input row, in input order; ROOM/filter.jsonl: kept or rejected, with reason
      stages/ROOM/SKILL.done.json   counts and SHA-256 of the file beside it, written last: without it, rows are owed
      models/NAME/           a plain transformers folder with a selfevo.json that is written before the folder appears
      results.json, report.html

Rows are committed batch by batch to SKILL.partial.jsonl and put in input order when the stage ends, so a
killed run ends with the same bytes as one that was not. A row is known by the hash of the weights, the skill, the
conversation, the sampling and the seed: a later round can never be served an earlier round's answer.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from selfevo.errors import DataError, EngineError, RunError, TrainingError
from selfevo.filters import Filter
from selfevo.protocols import Engine, Generation, Model, Progress, Request, Sampling, Trainer
from selfevo.records import Example, Judged, Prompt, Quarantined, content_id
from selfevo.skills import Skill

In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


def write_atomic(path: Path, text: str) -> None:
    """All of `text` is at `path` or nothing is, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    _sync_folder(path.parent)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file we wrote. A torn last line, left by a kill, is skipped: its row is owed again."""
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                yield json.loads(line)


def hash_weights(folder: Path) -> str:
    """SHA-256 over the safetensors files of a model folder, by name. Raises DataError when there are none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise DataError(f"{folder} holds no *.safetensors file; give a folder that save_pretrained() wrote")
    total = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            total.update(f"{path.name}:{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def differing_keys(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Dotted keys whose values differ between two nested configurations, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted(old.keys() | new.keys())
        return [d for k in keys for d in differing_keys(old.get(k), new.get(k), f"{prefix}.{k}" if prefix else k)]
    return [] if old == new else [f"{prefix}: {old!r} in the run, {new!r} now"]


@dataclass(slots=True)
class Run:
    """One run directory with the engine and the trainer that work in it. The caller holds its lock (`locked`)."""

    root: Path
    engine: Engine
    trainer: Callable[[str], Trainer]  # by the name of the model to be made
    sampling: dict[str, Sampling]
    seed: int
    progress: Progress

    def room(self, name: str, model: Model) -> Room:
        return Room(self, name, model)

    def model(self, name: str, start: Model, examples: Sequence[Example]) -> Model:
        """The model `name`, trained from `start` on `examples` unless it already stands in the run directory."""
        final = self.root / "models" / name
        lineage = content_id(start.id, [example.id for example in examples], self.seed)
        if final.is_dir():
            marker = json.loads((final / "selfevo.json").read_text(encoding="utf-8"))
            if marker["lineage"] != lineage:
                raise RunError(f"{final} was trained from other rows than this run now has; use a new --output")
            return Model(name, final, str(marker["weights"]))
        if not examples:
            raise TrainingError(f"nothing to train {name} on: every row was rejected; see {self.root / 'stages'}")
        work, temporary = self.root / "models" / f".{name}.work", self.root / "models" / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        work.mkdir(exist_ok=True)
        self.engine.release()
        started = time.monotonic()
        figures = self.trainer(name).train(
            start.path, examples, temporary, work=work, seed=self.seed, progress=_Named(self.progress, f"train {name}")
        )
        seconds = time.monotonic() - started
        marker = {
            "name": name,
            "weights": hash_weights(temporary),
            "start": start.name,
            "start_weights": start.id,
            "lineage": lineage,
            "examples": {term: sum(e.term == term for e in examples) for term in sorted({e.term for e in examples})},
            "seed": self.seed,
            "seconds": round(seconds, 3),
            "figures": figures,
        }
        write_atomic(temporary / "selfevo.json", json.dumps(marker, indent=2))
        for path in temporary.iterdir():
            _sync_file(path)
        temporary.rename(final)
        _sync_folder(final.parent)
        shutil.rmtree(work, ignore_errors=True)
        self.event("train", stage=name, seconds=seconds, **figures)
        return Model(name, final, marker["weights"])

    def event(self, kind: str, *, stage: str, seconds: float, **figures: float) -> None:
        line = json.dumps({"event": kind, "stage": stage, "seconds": round(seconds, 3), **figures})
        with (self.root / "events.jsonl").open("a+b") as file:
            if file.tell() > 0:  # a kill may have left half a line
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode() + b"\n")

    def seconds(self, stage: str) -> float:
        """Seconds of work on a stage so far, over all the processes that worked on it; "" is the whole run."""
        path = self.root / "events.jsonl"
        events = read_rows(path) if path.exists() else iter(())
        return sum(float(e["seconds"]) for e in events if f"{e['stage']}/".startswith(f"{stage}/" if stage else ""))

    def save_rows(self, name: str, rows: Iterable[Any]) -> None:
        """Writes records under data/, once: a resume must find the same content."""
        path = self.root / "data" / f"{name}.jsonl"
        text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
        if path.exists():
            if path.read_text(encoding="utf-8") != text:
                raise RunError(f"{path} holds other rows than the configuration now gives; use a new --output")
            return
        write_atomic(path, text)


@dataclass(frozen=True, slots=True)
class Room:
    """Where one model works through rows, stage by stage, in stages/NAME."""

    run: Run
    name: str
    model: Model

    def rows(self, skill: Skill[In, Out], rows: Sequence[In]) -> list[Out]:
        """Runs `skill` on every row and returns those that came back whole; the others are on disk, quarantined."""
        generations = self.generations(skill, rows)
        return [skill.build(row, g.text) for row, g in zip(rows, generations, strict=True) if g.finish == "stop"]

    def generations(self, skill: Skill[In, Out], rows: Sequence[In]) -> list[Generation]:
        """One generation per row, in order, from disk where it is already there."""
        sampling = self.run.sampling[skill.name]
        turns = [skill.turns(row) for row in rows]
        seeds = [int(content_id(self.run.seed, self.name, skill.name, row.id), 16) for row in rows]
        keys = [
            content_id(self.model.id, skill.name, t, asdict(sampling), s) for t, s in zip(turns, seeds, strict=True)
        ]
        final = self._path(skill.name, "jsonl")
        marker = self._path(skill.name, "done.json")
        if marker.exists():
            self._check_marker(marker, final, keys)
            self._path(skill.name, "partial.jsonl").unlink(missing_ok=True)
            return [Generation(**row["generation"]) for row in read_rows(final)]
        partial = self._path(skill.name, "partial.jsonl")
        partial.parent.mkdir(parents=True, exist_ok=True)
        done = {row["key"]: Generation(**row["generation"]) for row in read_rows(partial)} if partial.exists() else {}
        done = {key: done[key] for key in keys if key in done}
        self._rewrite(partial, done)
        # Rows of like length share a batch, and the grain of a commit is the batch: what is in flight is all a kill
        # can cost. Batches are cut before looking at what is done, so that a resume forms the very same ones.
        known = {
            key: text for row, key in zip(rows, keys, strict=True) if (text := self._known(skill, row)) is not None
        }
        asked = [i for i in range(len(rows)) if keys[i] not in known]
        order = sorted(asked, key=lambda i: (sum(map(len, turns[i])), keys[i]))
        size = self.run.engine.batch_size
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        self.run.progress.start(f"{self.name} {skill.name}", len(asked), len(done))
        for batch in batches:
            owed = [i for i in batch if keys[i] not in done]
            if not owed:
                continue
            started = time.monotonic()
            requests = [Request(turns[i], seeds[i]) for i in owed]
            answers = self.run.engine.generate(self.model.path, requests, sampling)
            seconds = time.monotonic() - started
            if len(answers) != len(owed):
                raise EngineError(f"the engine returned {len(answers)} answers to {len(owed)} requests; none was kept")
            with partial.open("a", encoding="utf-8") as file:
                for i, generation in zip(owed, answers, strict=True):
                    done[keys[i]] = generation
                    file.write(
                        json.dumps({"key": keys[i], "generation": asdict(generation)}, ensure_ascii=False) + "\n"
                    )
                file.flush()
                os.fsync(file.fileno())
            tokens = sum(g.new_tokens for g in answers)
            self.run.event(
                "generate",
                stage=f"{self.name}/{skill.name}",
                seconds=seconds,
                rows=len(owed),
                prompt_tokens=sum(g.prompt_tokens for g in answers),
                new_tokens=tokens,
            )
            self.run.progress.advance(len(owed), f"{tokens / max(seconds, 1e-9):.0f} tokens/s")
        done |= {key: Generation(text, "stop", 0, 0) for key, text in known.items()}
        generations = [done[key] for key in keys]
        self._finish(skill, rows, keys, generations)
        partial.unlink()
        bad = sum(g.finish != "stop" for g in generations)
        self.run.progress.finish(f"{len(rows)} in, {len(rows) - bad} out, {bad} quarantined")
        return generations

    def keep(self, rows: Sequence[Judged], filter: Filter) -> list[Judged]:
        """Applies a filter; kept and rejected rows both stay on disk, the rejected with the reason."""
        reasons = [filter(row) for row in rows]
        lines = [
            json.dumps({**asdict(row), "kept": reason is None, "reason": reason}, ensure_ascii=False)
            for row, reason in zip(rows, reasons, strict=True)
        ]
        write_atomic(self._path("filter", "jsonl"), "".join(line + "\n" for line in lines))
        return [row for row, reason in zip(rows, reasons, strict=True) if reason is None]

    def _known(self, skill: Skill[In, Out], row: In) -> str | None:
        """The text of a conversation that an earlier skill has already continued, the same way and greedily."""
        source = skill.known(row)
        sampling = self.run.sampling[skill.name]
        same = source is not None and sampling.temperature == 0 and self.run.sampling[source[0]] == sampling
        return source[1] if source is not None and same else None

    def _finish(self, skill: Skill[In, Out], rows: Sequence[In], keys: list[str], answers: list[Generation]) -> None:
        lines = []
        for row, key, generation in zip(rows, keys, answers, strict=True):
            whole = generation.finish == "stop"
            record = skill.build(row, generation.text) if whole else Quarantined(row.id, generation.finish)
            status = "ok" if whole else "quarantined"
            lines.append(
                json.dumps(
                    {**asdict(record), "status": status, "key": key, "generation": asdict(generation)},
                    ensure_ascii=False,
                )
                + "\n"
            )
        text = "".join(lines)
        write_atomic(self._path(skill.name, "jsonl"), text)
        quarantined = sum(g.finish != "stop" for g in answers)
        marker = {
            "rows": {"in": len(rows), "out": len(rows) - quarantined, "quarantined": quarantined},
            "model": self.model.id,
            "keys": content_id(keys),
            "sha256": hashlib.sha256(text.encode("utf-8")).hexdigest(),
        }
        write_atomic(self._path(skill.name, "done.json"), json.dumps(marker, indent=2))

    def _check_marker(self, marker: Path, final: Path, keys: list[str]) -> None:
        expected = json.loads(marker.read_text(encoding="utf-8"))
        if not final.exists() or hashlib.sha256(final.read_bytes()).hexdigest() != expected["sha256"]:
            raise RunError(
                f"{final} is missing or was changed after it was finished (SHA-256 differs from {marker.name}); "
                f"restore it, or delete {marker.name} to have its rows generated again"
            )
        if expected["keys"] != content_id(keys):
            raise RunError(
                f"{marker.parent} holds answers to other prompts, from another model or with other sampling than "
                "this run now asks for; use a new --output"
            )

    def _rewrite(self, partial: Path, done: dict[str, Generation]) -> None:
        """Cuts a torn tail off, so that the next row does not grow onto it."""
        rows = ({"key": key, "generation": asdict(generation)} for key, generation in done.items())
        write_atomic(partial, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    def _path(self, stage: str, suffix: str) -> Path:
        return self.run.root / "stages" / self.name / f"{stage}.{suffix}"


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One process per run directory. The lock dies with its owner, however that dies."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    with (root / ".lock").open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            raise RunError(f"{root} is in use by process {owner}; wait for it, or give another --output") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def claim(root: Path, config: dict[str, Any], manifest: dict[str, Any], config_text: str) -> None:
    """Makes `root` the run directory of this configuration, or checks that it already is.

    Raises RunError when it belongs to another configuration (the message lists the keys) or to something else.
    """
    path = root / "config.json"
    if path.exists():
        differences = differing_keys(json.loads(path.read_text(encoding="utf-8")), config)
        if differences:
            raise RunError(
                f"{root} was started with another configuration ({'; '.join(differences)}); "
                "use the same one to resume, or a new --output"
            )
        return
    # What a run leaves that was killed in its first moment does not count.
    foreign = [p.name for p in root.iterdir() if p.name not in (".lock", "config.yaml", "manifest.json")]
    if any(not (name.startswith(".") and name.endswith(".tmp")) for name in foreign):
        raise RunError(f"{root} is not empty and not a selfevo run; give a new --output")
    write_atomic(root / "config.yaml", config_text)
    write_atomic(root / "manifest.json", json.dumps(manifest, indent=2))
    write_atomic(path, json.dumps(config, indent=2))


@dataclass(frozen=True, slots=True)
class _Named:
    """Gives a trainer's progress the name of the model it makes."""

    inner: Progress
    name: str

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self.inner.start(self.name, total, done, unit)

    def advance(self, amount: int, detail: str = "") -> None:
        self.inner.advance(amount, detail)

    def finish(self, summary: str = "") -> None:
        self.inner.finish(summary)


def _sync_file(path: Path) -> None:
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
