"""The inputs of a run, drawn or read before any model generates, and checked to be disjoint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from selfevo.config.run_config import PROMPTS_PER_ROUND, RunConfig
from selfevo.config.sources import (
    FileCorpus,
    FilePrompts,
    PromptsConfig,
    PromptsCorpus,
    PromptsGate,
    TaskCorpus,
    TaskGate,
    TaskPrompts,
    source_in,
)
from selfevo.data.disjoint import asked_otherwise, check_disjoint
from selfevo.data.loading import Loaded, load_corpus, load_prompts
from selfevo.data.tables import BadRow
from selfevo.errors import DataError
from selfevo.inputs.continuing import Course, course_of
from selfevo.inputs.decontamination import Decontaminator, as_text
from selfevo.inputs.repeated import Repeated
from selfevo.inputs.self_instruct import grow
from selfevo.inputs.sources import first_of
from selfevo.method.protocols import Model
from selfevo.method.records import Prompt, Refined, as_row, from_row
from selfevo.method.rows import Rows
from selfevo.models.resolve import resolve_model
from selfevo.rundir.atomic_files import read_rows
from selfevo.rundir.inspect import is_run, prompts_seen
from selfevo.rundir.layout import Layout
from selfevo.rundir.workspace import Workspace
from selfevo.tasks import load_checked_task, load_task
from selfevo.tasks.base import Problem, Task
from selfevo.tasks.own_files import OwnFile
from selfevo.tasks.sampling import GENERATED, draw

Row = TypeVar("Row", Prompt, Refined, Problem)
Read = TypeVar("Read", Prompt, Refined)
CORPUS = "corpus.path"  # the place of a row of D_meta that is in an evaluation set


@dataclass(frozen=True, slots=True)
class Seen:
    """The id of a prompt that the model had learnt from before the run, so that it measures nothing."""

    id: str


@dataclass(frozen=True, slots=True)
class Splits:
    """The inputs of a run. Only the audit may use `pool_answers`."""

    pools: list[list[Prompt]]  # one for each round, empty where the model writes its own
    pool_answers: dict[str, Problem]
    pool_tasks: dict[str, Task]
    labelled: list[Problem]
    unlabelled: list[Prompt]  # to be annotated without known answers
    d_meta: list[Refined]
    evaluation: list[Problem]
    dev: list[Problem]  # of the gate
    dev_prompts: list[Prompt]  # of a gate without answers
    audit: list[Problem]
    sft: list[Problem]  # further labels of the supervised baseline, beyond those of D_meta
    quarantined: list[BadRow]
    corpus_quarantined: list[BadRow]  # those of a recorded D_meta
    left_off: list[str]  # what of the rows of files is not asked
    blocked: Decontaminator
    course: Course
    seen: Sequence[Seen] = ()  # without a corpus: prompts that the model had learnt from before the run
    unused: Sequence[Prompt] = ()  # prompts of the pool that fewer rounds than before leave over

    @property
    def pool(self) -> list[Prompt]:
        """The prompts of all rounds."""
        return [prompt for pool in self.pools for prompt in pool]

    def to_annotate(self) -> list[Prompt]:
        return self.unlabelled or [problem.prompt for problem in self.labelled]

    @property
    def set_aside(self) -> str:
        """The rows that were set aside, in one line; "" if there are none."""
        if not self.quarantined:
            return ""
        first, count = self.quarantined[0], len(self.quarantined)
        rows = "row was" if count == 1 else "rows were"
        return f"{count} {rows} set aside, the first is line {first.line} of {first.file}: {first.reason}"

    @property
    def corpus_reasons(self) -> list[str]:
        """Why rows of a recorded D_meta were set aside, also as known to an evaluation set."""
        known = (row for row in self.quarantined if row.file == CORPUS)
        return [row.reason for row in (*self.corpus_quarantined, *known)]

    @property
    def notes(self) -> list[str]:
        """What a user should know of the files, a line for each."""
        left_off = f"not asked: {'; '.join(self.left_off)}" if self.left_off else ""
        return [line for line in (self.set_aside, left_off, self.asked_otherwise) if line]

    @property
    def asked_otherwise(self) -> str:
        """That the evaluation asks what is learnt from, if it does so under another system prompt; "" if not."""
        asked = [problem.prompt for problem in self.evaluation]
        count = asked_otherwise(asked, [*self.pool, *self.to_annotate(), *self.d_meta])
        where = f"{count} of {len(asked)} questions of the evaluation are in the pool or in D_meta, under another"
        return f"{where} system prompt; remove them from one of the two, or they measure what was learnt" * bool(count)

    def everything(self) -> list[tuple[str, Sequence[Any]]]:
        """The rows of each file of data/. A change of the number of rounds leaves earlier files as they are."""
        named: dict[str, Sequence[Any]] = {
            **dict(self.course.pool_files([*self.pool, *self.unused])),
            "labelled": self.labelled,
            "unlabelled": self.unlabelled,
            "evaluation": self.evaluation,
            "gate": self.dev or self.dev_prompts,
            "audit": self.audit,
            "sft": self.sft,
            **dict(self.course.quarantined_files(self.quarantined)),
            "seen": self.seen,
        }
        return [(name, rows) for name, rows in named.items() if rows or name.startswith("pool-")]


def draw_splits(config: RunConfig) -> Splits:
    """Draws or reads evaluation problems, labels or D_meta, and the pool. Checks that none overlap."""
    course = course_of(config)
    draws = _Draws(config, course)
    # The order matters: a task never gives a problem that an earlier split has.
    evaluation, labelled = draws.evaluation(), draws.labelled()
    unlabelled, d_meta, pools = draws.unlabelled(), draws.d_meta(), draws.pools()
    dev, dev_prompts, audit = draws.dev(), draws.dev_prompts(), draws.audit()
    sft = draws.further_labels(labelled)
    pools = draws.further_pools(pools)
    splits = Splits(
        pools=pools,
        pool_answers=draws.pool_answers,
        pool_tasks=draws.pool_tasks,
        labelled=labelled,
        unlabelled=unlabelled,
        d_meta=d_meta,
        evaluation=evaluation,
        dev=dev,
        dev_prompts=dev_prompts,
        audit=audit,
        sft=sft,
        quarantined=draws.quarantined,
        corpus_quarantined=draws.corpus_quarantined,
        left_off=draws.left_off,
        blocked=Decontaminator(
            map(as_text, [*(problem.prompt for problem in [*evaluation, *dev, *audit]), *dev_prompts, *draws.known()])
        ),
        course=course,
        seen=draws.seen,
    )
    if config.decontaminate:
        splits = _without_known(splits)
    if isinstance(config.rounds, int):
        pool, pools = splits.pools[0], course.shared_out(splits.pools[0])
        splits = replace(splits, pools=pools, unused=pool[sum(map(len, pools)) :])
    _check_disjoint(splits, config)
    return splits


class _Draws:
    """Draws one split after the other, each from its own stream of random numbers."""

    def __init__(self, config: RunConfig, course: Course) -> None:
        self.config, self.course = config, course
        self.quarantined: list[BadRow] = []
        self.corpus_quarantined: list[BadRow] = []
        self.left_off: list[str] = []
        self.pool_answers: dict[str, Problem] = {}
        self.pool_tasks: dict[str, Task] = {}
        self.seen = [] if config.corpus else learnt_from(config)
        # Ids of the prompts that may not be drawn: those drawn so far, and those that the model has learnt from.
        self._taken = frozenset(each.id for each in self.seen)

    def evaluation(self) -> list[Problem]:
        evaluation = self.config.evaluation
        if evaluation is None:
            return []
        return self._draw(load_checked_task(evaluation.task), evaluation.count, 1, "evaluation.count")

    def labelled(self) -> list[Problem]:
        corpus = self.config.corpus
        if not isinstance(corpus, TaskCorpus):
            return []
        task = load_task(corpus.task)
        problems = self._draw(task, corpus.labels, 2, "corpus.labels")
        for problem in problems if isinstance(task, OwnFile) else ():
            task.solution(problem)  # a row that nothing can be learnt from is found before anything is trained
        return problems

    def unlabelled(self) -> list[Prompt]:
        corpus = self.config.corpus
        if not isinstance(corpus, PromptsCorpus):
            return []
        prompts, count = self._prompts(corpus, "corpus.column=..."), corpus.labels
        if count == PromptsCorpus.model_fields["labels"].default:
            return prompts[:count]  # at most so many, where nobody has said another number
        return first_of(prompts, count, "corpus.labels", corpus.prompts)

    def d_meta(self) -> list[Refined]:
        corpus = self.config.corpus
        if not isinstance(corpus, FileCorpus):
            return []
        columns, system = corpus.columns.model_dump(), self.config.system
        source, wording = source_in(corpus), self.config.wording
        loaded = load_corpus(source, columns, corpus.max_bad_share, system, wording)
        self.corpus_quarantined = loaded.quarantined
        return self._read(corpus.path, loaded)

    def pools(self) -> list[list[Prompt]]:
        """The pool of each round that the run was started with. If rounds is a number: one pool for all rounds."""
        rounds, prompts = self.config.rounds, self.config.prompts
        if isinstance(rounds, int):
            return [self._pool(prompts, 3, self.course.drawn[0])]
        first = rounds[: self.course.listed[0]]
        return [self._pool(each.prompts, 3 + number) for number, each in enumerate(first)]

    def further_pools(self, pools: list[list[Prompt]]) -> list[list[Prompt]]:
        """`pools` with what was added when the number of rounds was changed. Drawn last, as further labels are."""
        rounds, prompts = self.config.rounds, self.config.prompts
        if not isinstance(rounds, int):
            return pools + [self._pool(rounds[i].prompts, 3 + i) for i in range(len(pools), len(rounds))]
        if not isinstance(prompts, TaskPrompts):
            return pools  # a file is read once, with what was added to its end
        drawn = enumerate(self.course.drawn[1:], start=903)
        further = [self._pool(prompts, stream, count) for stream, count in drawn if count]
        return [[prompt for pool in (*pools, *further) for prompt in pool]]

    def _pool(self, source: PromptsConfig | None, stream: int, count: int | None = None) -> list[Prompt]:
        """`count`: the number of problems if the source is a task; default: that of the source, or of one round."""
        if isinstance(source, TaskPrompts):
            task = load_checked_task(source.task)
            wanted = count or source.count or PROMPTS_PER_ROUND
            given, most = (wanted, None) if source.count else (None, wanted)
            problems = self._draw(task, given, stream, "prompts.count", wanted, most)
            self.pool_answers |= {p.prompt.id: p for p in problems}
            self.pool_tasks |= dict.fromkeys((p.prompt.id for p in problems), task)
            return [p.prompt for p in problems]
        if source is None:
            return []  # the model writes its prompts
        return first_of(self._prompts(source, "prompts.column=..."), source.count, "prompts.count", source.path)

    def dev(self) -> list[Problem]:
        gate = self.config.gate
        if not isinstance(gate, TaskGate):
            return []
        return self._draw(load_checked_task(gate.task), gate.count, 900, "gate.count", 200, 200)

    def dev_prompts(self) -> list[Prompt]:
        gate = self.config.gate
        if not isinstance(gate, PromptsGate):
            return []
        prompts = self._prompts(gate, "gate.column=...")[: gate.count]
        if len(prompts) < gate.count:
            raise DataError(
                f"gate: {gate.prompts} has {len(prompts)} prompts and gate.count is {gate.count}; add prompts, or "
                "lower gate.count, but then only a larger gain is significant"
            )
        return prompts

    def known(self) -> list[Prompt]:
        """The prompts of further evaluation sets, which are asked of nobody."""
        rows = []
        for each in self.config.decontaminate:
            found = load_prompts(source_in(each), each.column, each.max_bad_share, "decontaminate.column=...")
            self.quarantined += found.unusable  # a duplicate is no loss here
            rows += found.rows
        return rows

    def audit(self) -> list[Problem]:
        audit = self.config.audit
        if audit is None:
            return []
        return self._draw(load_checked_task(audit.task), audit.count, 901, "audit.count", 100, 100)

    def further_labels(self, labelled: Sequence[Problem]) -> list[Problem]:
        """Drawn last, so that a baseline with more labels does not change the other splits."""
        corpus, wanted = self.config.corpus, self.config.ablation.sft_labels
        if wanted is None or not isinstance(corpus, TaskCorpus):
            return []
        return self._draw(load_task(corpus.task), wanted - len(labelled), 902, "ablation.sft_labels")

    def _draw(
        self,
        task: Task,
        count: int | None,
        stream: int,
        setting: str,
        default: int = GENERATED,
        most: int | None = None,
    ) -> list[Problem]:
        problems = draw(task, count, 1000 * self.config.seed + stream, self._taken, setting, default, most)
        self._taken |= {problem.prompt.id for problem in problems}
        return [problem.under(self.config.system) for problem in problems]

    def _prompts(self, section: FilePrompts | PromptsCorpus | PromptsGate, setting: str) -> list[Prompt]:
        source = source_in(section)
        found = load_prompts(source, section.column, section.max_bad_share, setting, self.config.system)
        return self._read(source.path, found)

    def _read(self, path: str, loaded: Loaded[Read]) -> list[Read]:
        self.quarantined += loaded.quarantined
        self.left_off += [
            f"{what} of {count} row{'s' * (count > 1)} of {path}" for what, count in loaded.left_off.items()
        ]
        return loaded.rows


def learnt_from(config: RunConfig) -> list[Seen]:
    """The prompts that an earlier run, if one made the model, could learn from. Kept by the run when it starts."""
    path = Layout(config.output).data("seen")
    if is_run(config.output) and Layout(config.output).data("pool").exists():
        return [Seen(row["id"]) for row in read_rows(path)] if path.is_file() else []
    return [Seen(each) for each in sorted(prompts_seen(resolve_model(config.model)))]


def _without_known(splits: Splits) -> Splits:
    """The splits without prompts that are in an evaluation set."""

    def clean(rows: Sequence[Row], place: str) -> list[Row]:
        return decontaminated(rows, place, splits.blocked, splits.quarantined)

    return replace(
        splits,
        pools=[clean(pool, f"pool of round {number}") for number, pool in enumerate(splits.pools, start=1)],
        labelled=clean(splits.labelled, "labels"),
        sft=clean(splits.sft, "labels"),
        unlabelled=clean(splits.unlabelled, "corpus.prompts"),
        d_meta=clean(splits.d_meta, CORPUS),
    )


def _check_disjoint(splits: Splits, config: RunConfig) -> None:
    labelled = [problem.prompt for problem in splits.labelled + splits.sft]
    names = {"corpus": "annotated", "evaluation": "evaluation", "gate": "gate", "audit": "audit"}
    check_disjoint(
        pool=splits.pool,
        annotated=splits.unlabelled or labelled or splits.d_meta,
        evaluation=[problem.prompt for problem in splits.evaluation],
        gate=[problem.prompt for problem in splits.dev] or splits.dev_prompts,
        audit=[problem.prompt for problem in splits.audit],
        allow_empty=[names[name] for name in names if getattr(config, name) is None],
    )


def decontaminated(rows: Sequence[Row], place: str, blocked: Decontaminator, quarantined: list[BadRow]) -> list[Row]:
    """The rows whose prompt is not in an evaluation set. The others go to `quarantined` with the reason.

    Raises DataError if no row is left.
    """
    clean = []
    for line, row in enumerate(rows, start=1):
        reason = blocked.reason(as_text(row.prompt if isinstance(row, Problem) else row))
        if reason is None:
            clean.append(row)
        else:
            quarantined.append(BadRow(place, line, f"decontaminated: {reason}"))
    if rows and not clean:
        raise DataError(f"{place}: all {len(rows)} prompts are in an evaluation set; give other prompts")
    return clean


def prompt_sources(
    config: RunConfig, workspace: Workspace, splits: Splits, d_meta: Sequence[Refined]
) -> list[Callable[[Model], Rows[Prompt]]]:
    """The source of prompts for each round: a pool, or the model itself."""
    seeds = list({row.id: from_row(Prompt, as_row(row)) for row in d_meta}.values())

    def source(number: int) -> Callable[[Model], Rows[Prompt]]:
        given = prompts_of(number)
        return lambda model: Repeated(given(model), config.samples_per_prompt)

    def prompts_of(number: int) -> Callable[[Model], Rows[Prompt]]:
        if isinstance(config.rounds, int) or (own := config.rounds[number].self_instruct) is None:
            return lambda model: splits.pools[number]

        def written(model: Model) -> Rows[Prompt]:
            pools = splits.pools[: splits.course.known_to(number + 1)]
            seen = [*seeds, *(prompt for pool in pools for prompt in pool), *later]
            grown = grow(workspace, f"self-instruct-{number + 1}", model, seen, splits.blocked, own)
            later.extend(grown)
            return grown

        return written

    later: list[Prompt] = []  # prompts that earlier rounds wrote
    return [source(number) for number in range(config.round_count)]
