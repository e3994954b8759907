"""Runs stages and trainings in a run directory, and resumes them after a kill.

Every row and every model is written once (layout.py has the paths). A model's folder gets its name
when it is complete. The key of a row is the hash of the model, the skill, the conversation, the
sampling and the seed, so a round can never get an answer of an earlier round.
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

from selfevo.errors import EngineError, RowsError, RunError, SelfevoError, TrainingError
from selfevo.method.filters import Filter, apply
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Engine, Generation, Model, Progress, Request, Sampling, Trainer, stream
from selfevo.method.records import Example, Judged, Prompt, Quarantined, Turns, as_row, content_id, from_row
from selfevo.method.rows import Rows
from selfevo.method.skills import Skill, continued
from selfevo.method.thinking import Thinking, recorded
from selfevo.rundir.atomic_files import (
    MADE,
    MODEL_MARKER,
    check_folder,
    check_present,
    file_fault,
    folder_faults,
    hash_model,
    link,
    make_folder,
    move,
    read_counts,
    read_marker,
    read_rows,
    seal,
    space_for,
    write_done,
)
from selfevo.rundir.layout import Layout, done
from selfevo.rundir.ledger import finished_rounds, read_events, write_event
from selfevo.rundir.ownership import note_work
from selfevo.rundir.stage_file import WINDOW, StageFile, windows

# An engine with several workers is given this many times the rows that it works on at a time: near the end of what it
# is given, some of its workers have nothing to do.
ROUNDS_AHEAD = 4

In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


@dataclass(slots=True)
class Workspace:
    """One run directory with its engine and its trainer. The caller must hold its lock (`locked`)."""

    root: Path
    engine: Engine
    trainer: Callable[[str], Trainer]  # by the name of the new model
    sampling: Mapping[str, Sampling]  # by the name of the skill
    seed: int
    progress: Progress
    wording: Wording = ENGLISH
    thinking: Thinking = "drop"  # what becomes of the thinking in the model's texts
    shared: tuple[Path, ...] = ()  # other run directories: identical finished stages and models are taken from them

    @property
    def layout(self) -> Layout:
        return Layout(self.root)

    def runner(self, name: str, model: Model, sampling: Mapping[str, Sampling] | None = None) -> StageRunner:
        """The runner for stages/NAME. `sampling` replaces the workspace's settings, skill by skill."""
        return StageRunner(self, name, model, {**self.sampling, **(sampling or {})})

    def train(self, name: str, start: Model, examples: Sequence[Example]) -> Model:
        """The model `name`. Trains it from `start` on `examples` unless it exists already."""
        final = self.layout.model(name)
        trainer = self.trainer(name)
        ids = [example.id for example in examples]
        lineage = content_id(start.id, ids, self.seed, trainer.key(), *self.wording.identity)
        if not final.is_dir():
            self._take_over(name, lineage)
        if final.is_dir():
            marker = read_marker(final / MODEL_MARKER, **MADE)
            if marker["lineage"] != lineage:
                raise RunError(
                    f"{final} was trained on other rows or from another model than this run now has; use a new output "
                    "directory"
                )
            if "removed" not in marker:
                check_folder(final)
            return Model(name, final, str(marker["weights"]))
        if not examples:
            raise TrainingError(
                f"{name} has no training examples, because no kept row gives one; see {self.layout.stages}"
            )
        check_present(start.path)
        work, temporary = self.layout.models / f".{name}.work", self.layout.models / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        self.engine.release()
        progress = _Named(self.progress, f"train {name}")
        note_work(self.root, progress.name)
        started = time.monotonic()
        try:
            with space_for(final, sum(path.stat().st_size for path in start.path.glob("*.safetensors"))):
                make_folder(temporary)
                work.mkdir(exist_ok=True)
                figures = trainer.train(start.path, examples, temporary, work=work, seed=self.seed, progress=progress)
                seconds = time.monotonic() - started
                sealed = {
                    "name": name,
                    "weights": hash_model(temporary),
                    "start": start.name,
                    "start_weights": start.id,
                    "lineage": lineage,
                    "examples": dict(sorted(Counter(example.term for example in examples).items())),
                    "seed": self.seed,
                    "wording": self.wording.learnt,
                    "seconds": round(seconds, 3),
                    "figures": figures,
                }
                seal(temporary, sealed)
        except BaseException as error:
            if isinstance(error, SelfevoError):
                shutil.rmtree(temporary, ignore_errors=True)  # frees its space
            elif not isinstance(
                error, Exception
            ):  # a signal: the steps so far stay in a checkpoint, and their time here
                self.event("train", stage=name, seconds=time.monotonic() - started)
            raise
        move(temporary, final)
        shutil.rmtree(work, ignore_errors=True)
        self.event("train", stage=name, seconds=seconds, **figures)
        return Model(name, final, str(sealed["weights"]))

    def _take_over(self, name: str, lineage: str) -> None:
        """Links the files of the same model from another run, if there is one."""
        temporary = self.layout.models / f".{name}.tmp"
        for folder in (Layout(root).model(name) for root in self.shared):
            if not (folder / MODEL_MARKER).is_file():
                continue
            try:
                marker = read_marker(folder / MODEL_MARKER, **MADE)
            except RunError:
                continue  # damaged there, so it is trained here
            if marker["lineage"] == lineage and "removed" not in marker and not folder_faults(folder, marker):
                shutil.rmtree(temporary, ignore_errors=True)
                make_folder(temporary)
                for path in [folder / name for name in (*marker["files"], MODEL_MARKER)]:
                    link(path, temporary / path.relative_to(folder))
                move(temporary, self.layout.model(name))
                return

    def event(self, kind: str, *, stage: str, seconds: float, **figures: float) -> None:
        write_event(self.root, kind, stage=stage, seconds=seconds, **figures)

    def finish(self, rounds: int) -> None:
        """Notes that nothing is owed any more of so many rounds."""
        if finished_rounds(self.root) != rounds:
            self.event("finish", stage="", seconds=0, rounds=rounds)

    def seconds(self, stage: str) -> float:
        """Seconds of work on a stage so far, over all the processes that worked on it; "" is the whole run."""
        events = read_events(self.root)
        return sum(float(e["seconds"]) for e in events if f"{e['stage']}/".startswith(f"{stage}/" if stage else ""))

    def save_rows(self, name: str, rows: Rows[Any]) -> None:
        """Writes records under data/ once. Raises RunError if a resume has other content."""
        path = self.layout.data(name)
        marker = done(path)
        if not marker.exists():
            lines = (json.dumps(as_row(row), ensure_ascii=False) for row in rows)
            write_done(path, lines, lambda: {"rows": {"in": len(rows)}})
            return
        digest = hashlib.sha256()
        for row in rows:
            digest.update(json.dumps(as_row(row), ensure_ascii=False).encode() + b"\n")
        if fault := file_fault(path, read_marker(marker, sha256=str)["sha256"]):
            raise RunError(f"{fault}; restore it, or delete {marker} to have it written again")
        if read_marker(marker, sha256=str)["sha256"] != digest.hexdigest():
            raise RunError(
                f"{path} holds other rows than the files and settings of the configuration give now; restore those, or "
                "use a new output directory"
            )


@dataclass(frozen=True, slots=True)
class Stored(Generic[Out]):
    """The rows of a finished file that go on. They are read anew each time, to save memory."""

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
    """Runs the stages of one model, in stages/NAME."""

    workspace: Workspace
    name: str
    model: Model
    sampling: Mapping[str, Sampling]

    @property
    def wording(self) -> Wording:
        return self.workspace.wording

    def generate(self, skill: Skill[In, Out], rows: Rows[In]) -> Stored[Out]:
        """Runs `skill` on every row. Returns the complete ones; the others are quarantined on disk."""
        path = self._fill(skill, rows)
        return Stored(path, skill.record, read_counts(done(path))["out"])

    def generations(self, skill: Skill[In, Out], rows: Rows[In]) -> list[Generation]:
        """One generation per row, in order."""
        found = (Generation(**row["generation"]) for row in read_rows(self._fill(skill, rows)))
        return [replace(each, text=recorded(each.text, self.workspace.thinking)) for each in found]

    def sample(self, skill: Skill[In, Out], rows: Rows[In], times: int, temperature: float) -> list[list[Generation]]:
        """`times` sampled texts for each row. Each sample has its own folder."""
        warm = {skill.name: replace(self.sampling[skill.name], temperature=temperature)}
        runners = [self.beside(f"again-{number}", warm) for number in range(1, times + 1)]
        return [list(several) for several in zip(*(runner.generations(skill, rows) for runner in runners), strict=True)]

    def beside(self, suffix: str, sampling: Mapping[str, Sampling]) -> StageRunner:
        """The same model in stages/NAME-SUFFIX, with another `sampling` for some skills."""
        return replace(self, name=f"{self.name}-{suffix}", sampling={**self.sampling, **sampling})

    def filter(self, rows: Rows[Judged], filters: Sequence[Filter]) -> Stored[Judged]:
        """Applies filters. Kept and rejected rows are both on disk, rejected ones with the reason."""
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
        sampling, wording, thinking = self.sampling[skill.name], self.wording, self.workspace.thinking
        kept = () if thinking == "drop" else ({"thinking": thinking},)

        def key(row: In) -> str:
            system = (row.system,) if row.system else ()
            seed = self._seed(skill, row)
            turns = skill.turns(row, wording)
            return content_id(self.model.id, skill.name, turns, sampling.key(), seed, *system, *kept)

        def line(row: In, generation: Mapping[str, Any]) -> Mapping[str, Any]:
            whole = generation["finish"] == "stop"
            text = recorded(generation["text"], thinking)
            record = skill.build(row, text) if whole else Quarantined(row.id, generation["finish"])
            return {**as_row(record), "status": "ok" if whole else "quarantined", "generation": generation}

        path, root = self._path(skill.name), self.workspace.root
        shared = [other / path.relative_to(root) for other in self.workspace.shared]
        engine = self.workspace.engine
        ahead = ROUNDS_AHEAD * getattr(engine, "slices_at_once", 0) * engine.batch_size
        StageFile(path, key, line, {"model": self.model.id}, shared).fill(
            rows,
            lambda window, done: self._generate(skill, sampling, window, done),
            self.workspace.progress,
            at_once=max(1, -(-ahead // WINDOW)),
        )
        return path

    def _generate(
        self, skill: Skill[In, Out], sampling: Sampling, window: Mapping[str, In], done: Mapping[str, Any]
    ) -> Iterator[tuple[dict[str, Any], str]]:
        """The missing generations of some windows, batch by batch.

        Rows of similar length share a batch, which is a slice for the engine. Each slice is written
        to disk when it comes, so a kill loses only unfinished slices. Batches are formed from all
        rows of a window, done or not, so that a resume forms the same batches.
        """
        known = {
            key: asdict(Generation(text, "stop", 0, 0))
            for key, row in window.items()
            if (text := self._known(skill, row)) is not None
        }
        if known.keys() - done.keys():
            yield {key: known[key] for key in known.keys() - done.keys()}, ""
        turns = {key: skill.turns(row, self.wording) for key, row in window.items() if key not in known}
        slices = [batch for each in windows(window) for batch in self._batches(each, turns, done)]
        if slices:
            check_present(self.model.path)
            note_work(self.workspace.root, f"{self.name}/{skill.name}")
        asked = [[self._request(skill, window[key]) for key in owed] for owed in slices]
        started = time.monotonic()
        for place, answers in self._streamed(asked, slices, window, sampling):
            owed, seconds = slices[place], time.monotonic() - started
            if len(answers) != len(owed):
                raise EngineError(
                    f"{self.name}/{skill.name}: the engine returned {len(answers)} answers to {len(owed)} requests, so "
                    "none was kept; correct the engine's generate(): it must return one generation per request"
                )
            tokens = sum(generation.new_tokens for generation in answers)
            rate = f"{tokens / max(seconds, 1e-9):.0f} tokens/s"
            yield {key: asdict(generation) for key, generation in zip(owed, answers, strict=True)}, rate
            figures = {"prompt_tokens": sum(each.prompt_tokens for each in answers), "new_tokens": tokens}
            accounted = getattr(self.workspace.engine, "keeps_account", False)
            self.workspace.event(
                "rows" if accounted else "generate",
                stage=f"{self.name}/{skill.name}",
                seconds=seconds,
                rows=len(owed),
                **({} if accounted else figures),
            )
            started = time.monotonic()

    def _batches(
        self, window: Sequence[str], turns: Mapping[str, Turns], done: Mapping[str, Any]
    ) -> Iterator[list[str]]:
        """What is owed of each batch of a window."""
        order = sorted((key for key in window if key in turns), key=lambda key: (sum(map(len, turns[key])), key))
        size = self.workspace.engine.batch_size
        owed = ([key for key in order[i : i + size] if key not in done] for i in range(0, len(order), size))
        return (batch for batch in owed if batch)

    def _streamed(
        self, asked: list[list[Request]], slices: list[list[str]], names: Mapping[str, In], sampling: Sampling
    ) -> Iterator[tuple[int, list[Generation]]]:
        """What the engine gives. An error about some rows names them."""
        try:
            yield from stream(self.workspace.engine, self.model.path, asked, sampling)
        except RowsError as error:
            ids = [names[slices[place][i]].id for place, i in error.rows]
            raise EngineError(f"{error}. The rows: {', '.join(ids)}") from None

    def _request(self, skill: Skill[In, Out], row: In) -> Request:
        return skill.request(row, self._seed(skill, row), self.wording)

    def _seed(self, skill: Skill[In, Out], row: In) -> int:
        return int(content_id(self.workspace.seed, self.name, skill.name, row.id), 16)

    def _known(self, skill: Skill[In, Out], row: In) -> str | None:
        """The text that an earlier skill wrote for the same conversation, if both decode greedily."""
        sampling = self.sampling[skill.name]
        found = continued(skill, row) if sampling.temperature == 0 else None
        return found[1] if found and self.sampling[found[0].name] == sampling else None

    def _path(self, stage: str) -> Path:
        return self.workspace.layout.stage(self.name, stage)


@dataclass(frozen=True, slots=True)
class _Named:
    """A Progress that shows the name of the model in training."""

    inner: Progress
    name: str

    def start(self, name: str, total: int, done: int = 0, unit: str = "rows") -> None:
        self.inner.start(self.name, total, done, unit)

    def advance(self, amount: int, detail: str = "") -> None:
        self.inner.advance(amount, detail)

    def finish(self, summary: str = "") -> None:
        self.inner.finish(summary)
