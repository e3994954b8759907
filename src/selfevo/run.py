"""The run directory: every row and every model in a write-once place, so that a killed run goes on where it stopped.

    RUN/
      config.yaml            the resolved configuration; a resume with another one is refused
      manifest.json          versions, platform, base model
      events.jsonl           what was done and how long it took, one line per committed piece of work
      data/*.jsonl           prompts, problems, D_meta
      stages/ROOM/SKILL.jsonl    one row per input row, in input order; ROOM/filter.jsonl: kept or rejected, with reason
      models/NAME/           a plain transformers folder; its selfevo.json holds the SHA-256 of each file
      results.json, report.html

Beside each X.jsonl of data/ and stages/ an X.done.json with its counts and SHA-256 is written last: without it, rows
are owed. A model's folder appears under its name when it is whole.

Rows are committed batch by batch to SKILL.partial.jsonl and put in input order when the stage ends, so a
killed run ends with the same bytes as one that was not. A row is known by the hash of the weights, the skill, the
conversation, the sampling and the seed: a later round can never be served an earlier round's answer.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from selfevo.errors import EngineError, RunError, SelfevoError, TrainingError
from selfevo.files import (
    MODEL_MARKER,
    file_fault,
    folder_faults,
    hash_model,
    read_marker,
    read_rows,
    seal,
    space_for,
    sync,
    write_atomic,
    write_done,
)
from selfevo.filters import Filter
from selfevo.protocols import Engine, Generation, Model, Progress, Request, Sampling, Trainer
from selfevo.records import Example, Judged, Prompt, Quarantined, content_id
from selfevo.skills import Skill

In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


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
            marker = read_marker(final / MODEL_MARKER)
            if marker["lineage"] != lineage:
                raise RunError(f"{final} was trained from other rows than this run now has; use a new --output")
            if faults := folder_faults(final, marker):
                raise RunError(f"{'; '.join(faults)}; restore it, or delete {final} to have it trained again")
            return Model(name, final, str(marker["weights"]))
        if not examples:
            raise TrainingError(f"nothing to train {name} on: every row was rejected; see {self.root / 'stages'}")
        check_present(start)
        work, temporary = self.root / "models" / f".{name}.work", self.root / "models" / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        self.engine.release()
        trainer, progress = self.trainer(name), _Named(self.progress, f"train {name}")
        started = time.monotonic()
        try:
            with space_for(final, sum(path.stat().st_size for path in start.path.glob("*.safetensors"))):
                temporary.mkdir(parents=True)
                work.mkdir(exist_ok=True)
                figures = trainer.train(start.path, examples, temporary, work=work, seed=self.seed, progress=progress)
                seconds = time.monotonic() - started
                marker = {
                    "name": name,
                    "weights": hash_model(temporary),
                    "start": start.name,
                    "start_weights": start.id,
                    "lineage": lineage,
                    "examples": dict(sorted(Counter(example.term for example in examples).items())),
                    "seed": self.seed,
                    "seconds": round(seconds, 3),
                    "figures": figures,
                }
                seal(temporary, marker)
        except SelfevoError:
            shutil.rmtree(temporary, ignore_errors=True)  # gives its space back
            raise
        temporary.rename(final)
        sync(final.parent)
        shutil.rmtree(work, ignore_errors=True)
        self.event("train", stage=name, seconds=seconds, **figures)
        return Model(name, final, str(marker["weights"]))

    def event(self, kind: str, *, stage: str, seconds: float, **figures: float) -> None:
        line = json.dumps({"event": kind, "stage": stage, "seconds": round(seconds, 3), **figures})
        path = self.root / "events.jsonl"
        with space_for(path, len(line)), path.open("a+b") as file:
            if file.tell() > 0:  # a kill may have left half a line
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write(line.encode() + b"\n")

    def finish(self) -> None:
        """Notes that nothing is owed any more."""
        path = self.root / "events.jsonl"
        if not any(event["event"] == "finish" for event in read_rows(path)):
            self.event("finish", stage="", seconds=0)

    def seconds(self, stage: str) -> float:
        """Seconds of work on a stage so far, over all the processes that worked on it; "" is the whole run."""
        path = self.root / "events.jsonl"
        events = read_rows(path) if path.exists() else iter(())
        return sum(float(e["seconds"]) for e in events if f"{e['stage']}/".startswith(f"{stage}/" if stage else ""))

    def save_rows(self, name: str, rows: Iterable[Any]) -> None:
        """Writes records under data/, once: a resume must find the same content."""
        path = self.root / "data" / f"{name}.jsonl"
        lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows]
        text = "".join(lines)
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise RunError(f"{path} holds other rows than the configuration now gives; use a new --output")
        if not path.with_suffix(".done.json").exists():
            write_done(path, text, {"rows": {"in": len(lines)}})


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
            check_present(self.model)
            requests = [Request(turns[i], seeds[i]) for i in owed]
            answers = self.run.engine.generate(self.model.path, requests, sampling)
            seconds = time.monotonic() - started
            if len(answers) != len(owed):
                raise EngineError(f"the engine returned {len(answers)} answers to {len(owed)} requests; none was kept")
            lines = [_partial_line(keys[i], generation) for i, generation in zip(owed, answers, strict=True)]
            with space_for(partial, sum(map(len, lines))), partial.open("a", encoding="utf-8") as file:
                file.writelines(lines)
                file.flush()
                os.fsync(file.fileno())
            done |= {keys[i]: generation for i, generation in zip(owed, answers, strict=True)}
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
        kept = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
        counts = {"in": len(rows), "kept": len(kept), "rejected": len(rows) - len(kept)}
        write_done(self._path("filter", "jsonl"), "".join(line + "\n" for line in lines), {"rows": counts})
        return kept

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
        quarantined = sum(g.finish != "stop" for g in answers)
        counts = {"in": len(rows), "out": len(rows) - quarantined, "quarantined": quarantined}
        marker = {"rows": counts, "model": self.model.id, "keys": content_id(keys)}
        write_done(self._path(skill.name, "jsonl"), "".join(lines), marker)

    def _check_marker(self, marker: Path, final: Path, keys: list[str]) -> None:
        expected = read_marker(marker)
        if fault := file_fault(final, expected["sha256"]):
            raise RunError(f"{fault}; restore it, or delete {marker} to have its rows generated again")
        if expected["keys"] != content_id(keys):
            raise RunError(
                f"{marker.parent} holds answers to other prompts, from another model or with other sampling than "
                "this run now asks for; use a new --output"
            )

    def _rewrite(self, partial: Path, done: dict[str, Generation]) -> None:
        """Cuts a torn tail off, so that the next row does not grow onto it."""
        write_atomic(partial, "".join(_partial_line(key, generation) for key, generation in done.items()))

    def _path(self, stage: str, suffix: str) -> Path:
        return self.run.root / "stages" / self.name / f"{stage}.{suffix}"


def check_present(model: Model) -> None:
    """Raises RunError when the weights of `model` are needed and `selfevo gc` has removed them."""
    marker = model.path / MODEL_MARKER
    if marker.is_file() and "removed" in read_marker(marker):
        raise RunError(
            f"{model.path} is needed again, but its files were removed by selfevo gc; delete the folder to have it "
            "trained again"
        )


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """One process per run directory. The lock dies with its owner, however that dies."""
    import fcntl

    root.mkdir(parents=True, exist_ok=True)
    path = root / ".lock"
    with path.open("a+b", buffering=0) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read().decode().strip() or "unknown"
            minutes = (time.time() - os.fstat(file.fileno()).st_mtime) / 60
            raise RunError(
                f"{root} is in use by process {owner} for {minutes:.0f} minutes; wait for it, or give another --output"
            ) from None
        with space_for(path, 8):
            file.truncate(0)
            file.write(str(os.getpid()).encode())
        yield


def in_use(root: Path) -> bool:
    """Whether a process holds the lock of `root` at this moment."""
    import fcntl

    try:
        with (root / ".lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def claim(root: Path, config: dict[str, Any], manifest: dict[str, Any], config_text: str) -> None:
    """Makes `root` the run directory of this configuration, or checks that it already is.

    Raises RunError when it belongs to another configuration (the message lists the keys) or to something else.
    """
    path = root / "config.json"
    if path.exists():
        # Where it stands is no part of a run: one that was moved or copied goes on.
        old = {**read_marker(path), "output": config.get("output")}
        differences = differing_keys(old, config)
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


def _partial_line(key: str, generation: Generation) -> str:
    return json.dumps({"key": key, "generation": asdict(generation)}, ensure_ascii=False) + "\n"
