"""Everything a run is given, drawn or read before any model has written a word, and checked to be disjoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from selfevo.config.run_config import RunConfig
from selfevo.config.sections import TaskConfig
from selfevo.data.disjoint import check_disjoint
from selfevo.data.loading import load_corpus, load_prompts
from selfevo.data.tables import BadRow
from selfevo.errors import DataError
from selfevo.inputs.decontamination import Decontaminator
from selfevo.inputs.self_instruct import grow
from selfevo.method.protocols import Model
from selfevo.method.records import Prompt, Refined, as_row, content_id, from_row
from selfevo.method.rows import Rows
from selfevo.rundir.workspace import Workspace
from selfevo.tasks import load_task
from selfevo.tasks.base import Problem, Task

Row = TypeVar("Row", Prompt, Refined, Problem)


@dataclass(frozen=True, slots=True)
class Splits:
    """Everything a run is given, before any model has written a word. `pool_answers` is for the audit alone."""

    pools: list[list[Prompt]]  # one for each round, empty where the model writes its own
    pool: list[Prompt]
    pool_answers: dict[str, Problem]
    pool_tasks: dict[str, Task]
    labelled: list[Problem]
    unlabelled: list[Prompt]  # to be annotated by somebody who is not told the answers
    d_meta: list[Refined]
    evaluation: list[Problem]
    dev: list[Problem]  # of the gate
    dev_prompts: list[Prompt]  # of a gate without answers
    audit: list[Problem]
    sft: list[Problem]  # labels that the supervised baseline has beyond those of D_meta
    quarantined: list[BadRow]
    blocked: Decontaminator

    def to_annotate(self) -> list[Prompt]:
        return self.unlabelled or [problem.prompt for problem in self.labelled]

    def everything(self) -> list[tuple[str, Sequence[Any]]]:
        sets: dict[str, Sequence[Any]] = {
            "pool": self.pool,
            "labelled": self.labelled,
            "unlabelled": self.unlabelled,
            "evaluation": self.evaluation,
            "gate": self.dev or self.dev_prompts,
            "audit": self.audit,
            "sft": self.sft,
            "quarantined": self.quarantined,
        }
        return [(name, rows) for name, rows in sets.items() if rows]


def draw_splits(config: RunConfig) -> Splits:
    """Draws or reads evaluation problems, labelled problems or D_meta, and the pool, and checks that none overlap."""
    taken: frozenset[str] = frozenset()

    def draw(task: TaskConfig, count: int, stream: int) -> list[Problem]:
        nonlocal taken
        problems = load_task(task).problems(count, 1000 * config.seed + stream, taken)
        taken |= {problem.prompt.id for problem in problems}
        return problems

    evaluation = draw(config.evaluation.task, config.evaluation.count, 1) if config.evaluation else []
    corpus = config.corpus
    labelled = draw(corpus.task, corpus.labels, 2) if corpus.task else []
    quarantined: list[BadRow] = []
    d_meta: list[Refined] = []
    unlabelled: list[Prompt] = []
    if corpus.prompts:
        found = load_prompts(corpus.prompts, corpus.column, corpus.max_bad_share, "corpus.column=...")
        unlabelled, quarantined = found.rows[: corpus.labels], found.quarantined
    if corpus.path:
        loaded = load_corpus(corpus.path, corpus.columns.model_dump(), corpus.max_bad_share)
        d_meta, quarantined = loaded.rows, loaded.quarantined
    answers: dict[str, Problem] = {}
    tasks: dict[str, Task] = {}
    pools: list[list[Prompt]] = []
    sources = [config.prompts] if isinstance(config.rounds, int) else [each.prompts for each in config.rounds]
    for number, source in enumerate(sources):
        pool: list[Prompt] = []
        if source and source.task:
            problems = draw(source.task, source.count or config.default_pool // len(sources), 3 + number)
            answers |= {p.prompt.id: p for p in problems}
            tasks |= dict.fromkeys((p.prompt.id for p in problems), load_task(source.task))
            pool = [p.prompt for p in problems]
        elif source and source.path:
            read = load_prompts(source.path, source.column, source.max_bad_share)
            pool, quarantined = read.rows[: source.count], quarantined + read.quarantined
        pools.append(pool)
    gate, audit = config.gate, config.audit
    dev = draw(gate.task, gate.count, 900) if gate and gate.task else []
    dev_prompts: list[Prompt] = []
    if gate and gate.prompts:
        dev_prompts = load_prompts(gate.prompts, gate.column, setting="gate.column=...").rows[: gate.count]
        if len(dev_prompts) < gate.count:
            raise DataError(
                f"gate: {gate.prompts} has {len(dev_prompts)} prompts and gate.count is {gate.count}; add prompts, or "
                "lower gate.count, as far as a gain can still be significant"
            )
    audited = draw(audit.task, audit.count, 901) if audit else []
    # The last to be drawn: a baseline with more labels changes nothing for the rest.
    further = config.evaluation.sft_labels if config.evaluation else None
    sft = draw(corpus.task, further - len(labelled), 902) if corpus.task and further else []
    kept_apart = [*evaluation, *dev, *audited]
    blocked = Decontaminator(
        [p.prompt.prompt for p in kept_apart]
        + [prompt.prompt for prompt in dev_prompts]
        + [row.prompt for path in config.decontaminate for row in load_prompts(path).rows]
    )
    if config.decontaminate:
        places = [f"pool of round {number}" for number in range(1, len(pools) + 1)]
        pools = [decontaminated(pool, place, blocked, quarantined) for pool, place in zip(pools, places, strict=True)]
        labelled, sft = (decontaminated(rows, "labels", blocked, quarantined) for rows in (labelled, sft))
        unlabelled = decontaminated(unlabelled, "corpus.prompts", blocked, quarantined)
        d_meta = decontaminated(d_meta, "corpus.path", blocked, quarantined)
    if isinstance(config.rounds, int):
        if len(pools[0]) < config.rounds:
            raise DataError(
                f"the pool has {len(pools[0])} prompts for rounds={config.rounds}; add prompts or lower rounds"
            )
        pools = split_evenly(pools[0], config.rounds)
    pool = [prompt for each in pools for prompt in each]
    check_disjoint(
        pool=pool,
        annotated=unlabelled or [p.prompt for p in labelled + sft] or d_meta,
        evaluation=[p.prompt for p in evaluation],
        gate=[p.prompt for p in dev] or dev_prompts,
        audit=[p.prompt for p in audited],
        allow_empty=[name for name in ("evaluation", "gate", "audit") if getattr(config, name) is None],
    )
    return Splits(
        pools=pools,
        pool=pool,
        pool_answers=answers,
        pool_tasks=tasks,
        labelled=labelled,
        unlabelled=unlabelled,
        d_meta=d_meta,
        evaluation=evaluation,
        dev=dev,
        dev_prompts=dev_prompts,
        audit=audited,
        sft=sft,
        quarantined=quarantined,
        blocked=blocked,
    )


def decontaminated(rows: Sequence[Row], place: str, blocked: Decontaminator, quarantined: list[BadRow]) -> list[Row]:
    """The rows without those whose prompt an evaluation set knows; these go to `quarantined`, with the reason.

    Raises DataError where none is left.
    """
    clean = []
    for line, row in enumerate(rows, start=1):
        reason = blocked.reason(row.prompt.prompt if isinstance(row, Problem) else row.prompt)
        if reason is None:
            clean.append(row)
        else:
            quarantined.append(BadRow(place, line, f"decontaminated: {reason}"))
    if rows and not clean:
        raise DataError(f"{place}: all {len(rows)} prompts are known to an evaluation set; give others")
    return clean


def split_evenly(pool: Sequence[Prompt], rounds: int) -> list[list[Prompt]]:
    """The pool in `rounds` parts whose sizes differ by at most one."""
    return [list(pool[t * len(pool) // rounds : (t + 1) * len(pool) // rounds]) for t in range(rounds)]


@dataclass(frozen=True, slots=True)
class Repeated:
    """Each prompt so many times in a row, each time with an id of its own, and with it a seed."""

    prompts: Rows[Prompt]
    times: int

    def __len__(self) -> int:
        return self.times * len(self.prompts)

    def __iter__(self) -> Iterator[Prompt]:
        for prompt in self.prompts:
            yield prompt
            for number in range(1, self.times):
                yield replace(prompt, id=content_id(prompt.id, number))


def prompt_sources(
    config: RunConfig, workspace: Workspace, sets: Splits, d_meta: Sequence[Refined]
) -> list[Callable[[Model], Rows[Prompt]]]:
    """For each round, what gives the model its prompts: a pool, or the model itself."""
    seeds = list({row.id: from_row(Prompt, as_row(row)) for row in d_meta}.values())

    def source(number: int) -> Callable[[Model], Rows[Prompt]]:
        given = prompts_of(number)
        return lambda model: Repeated(given(model), config.samples_per_prompt)

    def prompts_of(number: int) -> Callable[[Model], Rows[Prompt]]:
        if isinstance(config.rounds, int) or (own := config.rounds[number].self_instruct) is None:
            return lambda model: sets.pools[number]

        def written(model: Model) -> Rows[Prompt]:
            grown = grow(
                workspace, f"self-instruct-{number + 1}", model, [*seeds, *sets.pool, *later], sets.blocked, own
            )
            later.extend(grown)
            return grown

        return written

    later: list[Prompt] = []  # what earlier rounds wrote
    return [source(number) for number in range(config.round_count)]
