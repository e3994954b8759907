"""The run directory at work: every row and every model in a write-once place (layout.py has the places), so that a
killed run goes on where it stopped.

A model's folder appears under its name when it is whole. A row is known by the hash of the model, the skill, the
conversation, the sampling and the seed: a later round can never be served an earlier round's answer.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from selfevo.errors import EngineError, RunError, SelfevoError, TrainingError
from selfevo.method.filters import Filter, apply
from selfevo.method.protocols import Engine, Generation, Model, Progress, Request, Sampling, Trainer, stream
from selfevo.method.records import Example, Judged, Prompt, Quarantined, as_row, content_id, from_row
from selfevo.method.rows import Rows
from selfevo.method.skills import Skill, continued
from selfevo.rundir.atomic_files import (
    MODEL_MARKER,
    file_fault,
    folder_faults,
    hash_model,
    link,
    read_marker,
    read_rows,
    seal,
    space_for,
    sync,
    write_done,
)
from selfevo.rundir.layout import Layout, done
from selfevo.rundir.ledger import write_event
from selfevo.rundir.stage_file import StageFile

In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


@dataclass(slots=True)
class Workspace:
    """One run directory with the engine and the trainer that work in it. The caller holds its lock (`locked`)."""

    root: Path
    engine: Engine
    trainer: Callable[[str], Trainer]  # by the name of the model to be made
    sampling: Mapping[str, Sampling]  # by the name of the skill
    seed: int
    progress: Progress
    shared: tuple[Path, ...] = ()  # other run directories: what they have finished and is the same is taken over

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def runner(self, name: str, model: Model, sampling: Mapping[str, Sampling] | None = None) -> StageRunner:
        """For the stages in stages/NAME; `sampling` takes the place of the workspace's, skill by skill."""
        return StageRunner(self, name, model, {**self.sampling, **(sampling or {})})

    def train(self, name: str, start: Model, examples: Sequence[Example]) -> Model:
        """The model `name`, trained from `start` on `examples` unless it already stands in the run directory."""
        final = self.layout.model(name)
        trainer = self.trainer(name)
        lineage = content_id(start.id, [example.id for example in examples], self.seed, trainer.key())
        if not final.is_dir():
            self._take_over(name, lineage)
        if final.is_dir():
            marker = read_marker(final / MODEL_MARKER)
            if marker["lineage"] != lineage:
                raise RunError(f"{final} was trained from other rows than this run now has; use a new --output")
            if faults := folder_faults(final, marker):
                raise RunError(f"{'; '.join(faults)}; restore it, or delete {final} to have it trained again")
            return Model(name, final, str(marker["weights"]))
        if not examples:
            raise TrainingError(
                f"nothing to train {name} on: no kept row gives a training example; see {self.layout.stages}"
            )
        check_present(start)
        work, temporary = self.layout.models / f".{name}.work", self.layout.models / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        self.engine.release()
        progress = _Named(self.progress, f"train {name}")
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

    def _take_over(self, name: str, lineage: str) -> None:
        """The same model of another run, its files linked."""
        temporary = self.layout.models / f".{name}.tmp"
        for folder in (Layout(root).model(name) for root in self.shared):
            if not (folder / MODEL_MARKER).is_file():
                continue
            try:
                marker = read_marker(folder / MODEL_MARKER)
            except RunError:
                continue  # damaged there; it is trained here
            if marker["lineage"] == lineage and "removed" not in marker and not folder_faults(folder, marker):
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir(parents=True)
                for path in [folder / name for name in (*marker["files"], MODEL_MARKER)]:
                    link(path, temporary / path.relative_to(folder))
                temporary.rename(self.layout.model(name))
                return

    def event(self, kind: str, *, stage: str, seconds: float, **figures: float) -> None:
        write_event(self.root, kind, stage=stage, seconds=seconds, **figures)

    def finish(self) -> None:
        """Notes that nothing is owed any more."""
        path = self.layout.events
        events = read_rows(path) if path.exists() else iter(())  # none where all was taken over from other runs
        if not any(event["event"] == "finish" for event in events):
            self.event("finish", stage="", seconds=0)

    def seconds(self, stage: str) -> float:
        """Seconds of work on a stage so far, over all the processes that worked on it; "" is the whole run."""
        path = self.layout.events
        events = read_rows(path) if path.exists() else iter(())
        return sum(float(e["seconds"]) for e in events if f"{e['stage']}/".startswith(f"{stage}/" if stage else ""))

    def save_rows(self, name: str, rows: Rows[Any]) -> None:
        """Writes records under data/, once: a resume must find the same content."""
        path = self.layout.data(name)
        marker = done(path)
        if not marker.exists():
            lines = (json.dumps(as_row(row), ensure_ascii=False) for row in rows)
            write_done(path, lines, lambda: {"rows": {"in": len(rows)}})
            return
        digest = hashlib.sha256()
        for row in rows:
            digest.update(json.dumps(as_row(row), ensure_ascii=False).encode() + b"\n")
        if fault := file_fault(path, read_marker(marker)["sha256"]):
            raise RunError(f"{fault}; restore it, or delete {marker} to have it written again")
        if read_marker(marker)["sha256"] != digest.hexdigest():
            raise RunError(f"{path} holds other rows than the configuration now gives; use a new --output")


@dataclass(frozen=True, slots=True)
class Stored(Generic[Out]):
    """The rows of a finished file that went on, read anew each time: they need not fit into memory."""

    path: Path
    record: type[Out]
    count: int
    went_on: tuple[str, Any] = ("status", "ok")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Out]:
        column, value = self.went_on
        return (from_row(self.record, row) for row in read_rows(self.path) if row[column] == value)


@dataclass(frozen=True, slots=True)
class StageRunner:
    """Takes rows through one stage after the other with one model, in stages/NAME."""

    workspace: Workspace
    name: str
    model: Model
    sampling: Mapping[str, Sampling]

    def generate(self, skill: Skill[In, Out], rows: Rows[In]) -> Stored[Out]:
        """Runs `skill` on every row and gives those that came back whole; the others are on disk, quarantined."""
        path = self._fill(skill, rows)
        return Stored(path, skill.record, read_marker(done(path))["rows"]["out"])

    def generations(self, skill: Skill[In, Out], rows: Rows[In]) -> list[Generation]:
        """One generation per row, in order."""
        return [Generation(**row["generation"]) for row in read_rows(self._fill(skill, rows))]

    def sample(self, skill: Skill[In, Out], rows: Rows[In], times: int, temperature: float) -> list[list[Generation]]:
        """For each row, `times` sampled texts, each time in a folder of its own."""
        warm = {skill.name: replace(self.sampling[skill.name], temperature=temperature)}
        runners = [self.beside(f"again-{number}", warm) for number in range(1, times + 1)]
        return [list(several) for several in zip(*(runner.generations(skill, rows) for runner in runners), strict=True)]

    def beside(self, suffix: str, sampling: Mapping[str, Sampling]) -> StageRunner:
        """The same model in stages/NAME-SUFFIX, with another `sampling` of some skills."""
        return replace(self, name=f"{self.name}-{suffix}", sampling={**self.sampling, **sampling})

    def filter(self, rows: Rows[Judged], filters: Sequence[Filter]) -> Stored[Judged]:
        """Applies filters; kept and rejected rows both stay on disk, the rejected with the reason."""
        counts = {"in": 0, "kept": 0, "rejected": 0}

        def lines() -> Iterator[str]:
            decide = apply(filters, self, rows)
            for row in rows:
                reason = decide(row)
                counts["in"] += 1
                counts["kept" if reason is None else "rejected"] += 1
                yield json.dumps({**as_row(row), "kept": reason is None, "reason": reason}, ensure_ascii=False)

        path = self._path("filter")
        write_done(path, lines(), lambda: {"rows": counts})
        return Stored(path, Judged, counts["kept"], ("kept", True))

    def _fill(self, skill: Skill[In, Out], rows: Rows[In]) -> Path:
        sampling = self.sampling[skill.name]

        def key(row: In) -> str:
            system = (row.system,) if row.system else ()
            seed = self._seed(skill, row)
            return content_id(self.model.id, skill.name, skill.turns(row), asdict(sampling), seed, *system)

        def line(row: In, generation: Mapping[str, Any]) -> Mapping[str, Any]:
            whole = generation["finish"] == "stop"
            record = skill.build(row, generation["text"]) if whole else Quarantined(row.id, generation["finish"])
            return {**as_row(record), "status": "ok" if whole else "quarantined", "generation": generation}

        path, root = self._path(skill.name), self.workspace.root
        shared = [other / path.relative_to(root) for other in self.workspace.shared]
        StageFile(path, key, line, {"model": self.model.id}, shared).fill(
            rows, lambda window, done: self._generate(skill, sampling, window, done), self.workspace.progress
        )
        return path

    def _generate(
        self, skill: Skill[In, Out], sampling: Sampling, window: Mapping[str, In], done: Mapping[str, Any]
    ) -> Iterator[tuple[dict[str, Any], str]]:
        """The owed generations of a window, batch by batch.

        Rows of like length share a batch, a slice for the engine, and a slice is what is committed when it comes: what
        is in flight is all that a kill can cost. Batches are cut before looking at what is done, so that a resume forms
        the very same ones.
        """
        known = {
            key: asdict(Generation(text, "stop", 0, 0))
            for key, row in window.items()
            if (text := self._known(skill, row)) is not None
        }
        if known.keys() - done.keys():
            yield {key: known[key] for key in known.keys() - done.keys()}, ""
        turns = {key: skill.turns(row) for key, row in window.items() if key not in known}
        order = sorted(turns, key=lambda key: (sum(map(len, turns[key])), key))
        size = self.workspace.engine.batch_size
        batches = ([key for key in order[i : i + size] if key not in done] for i in range(0, len(order), size))
        slices = [batch for batch in batches if batch]
        if slices:
            check_present(self.model)
        asked = [[self._request(skill, window[key]) for key in owed] for owed in slices]
        started = time.monotonic()
        for place, answers in stream(self.workspace.engine, self.model.path, asked, sampling):
            owed, seconds = slices[place], time.monotonic() - started
            if len(answers) != len(owed):
                raise EngineError(f"the engine returned {len(answers)} answers to {len(owed)} requests; none was kept")
            tokens = sum(generation.new_tokens for generation in answers)
            rate = f"{tokens / max(seconds, 1e-9):.0f} tokens/s"
            yield {key: asdict(generation) for key, generation in zip(owed, answers, strict=True)}, rate
            self.workspace.event(
                "generate",
                stage=f"{self.name}/{skill.name}",
                seconds=seconds,
                rows=len(owed),
                prompt_tokens=sum(generation.prompt_tokens for generation in answers),
                new_tokens=tokens,
            )
            started = time.monotonic()

    def _request(self, skill: Skill[In, Out], row: In) -> Request:
        return Request(skill.turns(row), self._seed(skill, row), row.system, len(row.history) + 1)

    def _seed(self, skill: Skill[In, Out], row: In) -> int:
        return int(content_id(self.workspace.seed, self.name, skill.name, row.id), 16)

    def _known(self, skill: Skill[In, Out], row: In) -> str | None:
        """The text of a conversation that an earlier skill has already continued, the same way and greedily."""
        sampling = self.sampling[skill.name]
        found = continued(skill, row) if sampling.temperature == 0 else None
        return found[1] if found and self.sampling[found[0].name] == sampling else None

    def _path(self, stage: str) -> Path:
        return self.workspace.layout.stage(self.name, stage)


def check_present(model: Model) -> None:
    """Raises RunError when the weights of `model` are needed and `selfevo gc` has removed them."""
    marker = model.path / MODEL_MARKER
    if marker.is_file() and "removed" in read_marker(marker):
        raise RunError(
            f"{model.path} is needed again, but its files were removed by selfevo gc; delete the folder to have it "
            "trained again"
        )


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
