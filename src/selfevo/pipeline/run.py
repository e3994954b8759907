"""Runs the whole loop from a configuration.

The order of a run: problems and prompts are drawn and checked to be disjoint; an annotator writes
D_meta (or it is read); the baselines are measured; `evolution.evolve` runs; every new model is
measured. results.json and report.html are written after each measurement, so they are useful before
the run ends.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from selfevo.config.cluster import ClusterConfig
from selfevo.config.own_parts import part_files
from selfevo.config.run_config import RunConfig
from selfevo.config.sections import EndpointConfig, EvaluationConfig, MonitorsConfig
from selfevo.config.sources import PromptsCorpus, TaskCorpus, TaskGate
from selfevo.inputs.annotation import STAGE, altered, annotate, gold_examples, taken, to_be_annotated
from selfevo.inputs.continuing import amendment
from selfevo.inputs.corpus_check import check_sound, count
from selfevo.inputs.splits import Splits, draw_splits, prompt_sources
from selfevo.method.evolution import evolve
from selfevo.method.names import BASE, SFT
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Engine, Model, Progress, Trainer
from selfevo.method.records import Example, Refined
from selfevo.method.training_examples import answer_examples, meta_examples
from selfevo.models.resolve import noted_revision, origin, resolve_model
from selfevo.models.template_settings import run_template, start_day, template_file, write_base
from selfevo.pipeline.build import (
    build_engine,
    build_filters,
    build_objective,
    build_teacher,
    build_trainer,
    describe_platform,
)
from selfevo.pipeline.judging import warn_of_family
from selfevo.pipeline.observe import Observer
from selfevo.report.model_card import write_cards
from selfevo.report.terminal import complain
from selfevo.rundir.atomic_files import hash_model, read_marker, read_rows, write_atomic
from selfevo.rundir.inspect import costs
from selfevo.rundir.layout import Layout
from selfevo.rundir.ledger import Ledger
from selfevo.rundir.ownership import changed_parts, claim, locked, note_start
from selfevo.rundir.workspace import Workspace
from selfevo.tasks import load_task
from selfevo.trainers.packages import check_settings

# Keys that may differ on a resume, because they do not change finished rows. An annotator's text depends on the last
# four of its keys, so each row records those that it was made with. In half precision the engine's may change the last
# bit of a number, as another machine does.
RESUMABLE = (
    *(f"engine.{key}" for key in ("batch_size", "kv_cache_gib", "gpu_memory_utilization", "device")),
    *("engine.workers", "engine.tensor_parallel_size", "cluster"),
    *(f"cluster.{key}" for key in ClusterConfig.model_fields),
    *(f"corpus.annotator.{key}" for key in ("max_concurrency", "timeout_seconds", "max_retries")),
    *(f"corpus.annotator.{key}" for key in ("max_dollars", "max_total_tokens", "input_price", "output_price")),
    *(f"corpus.annotator.{key}" for key in ("api_key_env", "limit_name")),
    *(f"corpus.annotator.{key}" for key in ("response_format", "temperature", "max_new_tokens")),
    *(f"corpus.{key}" for key in ("max_doubtful_share", "max_one_verdict")),
    # The key of each judgement has what it depends on: the judge, the question and the limit.
    *(
        f"{section}.task.options.endpoint.{key}"
        for section in ("evaluation", "gate")
        for key in EndpointConfig.model_fields
        if key not in ("model", "base_url")
    ),
    *(f"trainer.{key}" for key in ("report_to", "launcher")),
    *(f"monitors.{key}" for key in MonitorsConfig.model_fields),
)


def run_loop(
    config: RunConfig,
    progress: Progress,
    engine: Engine | None = None,
    trainer: Trainer | None = None,
    shared: tuple[Path, ...] = (),
) -> Path:
    """Starts or resumes the run of `config`. Returns its directory.

    `engine` and `trainer` replace those of the configuration, for tests and trials. `shared` are
    other run directories: identical finished stages and models are taken from them.
    """
    filters, objective = build_filters(config), build_objective(config)  # built first, so that a mistake is found now
    if trainer is None:
        check_settings(config.trainer)
    with open_run(config, progress, engine, trainer, shared) as (workspace, base, splits):
        d_meta: list[Refined] = []
        if config.corpus:
            recorded = taken(splits.d_meta, config.ablation.label_share, config.seed)
            written = recorded or write_d_meta(config, workspace, base, splits)
            check_corpus(config, workspace, splits, written)
            d_meta = altered(written, config.ablation, config.seed, config.wording)
            workspace.save_rows("d_meta", d_meta)
        observer = Observer(config, workspace, splits, filters, base)
        measured = config.evaluation.models if config.evaluation else ()
        if BASE in measured and config.first_model != BASE:
            observer.measure(base)
        if SFT in measured:
            further = (
                gold_examples(load_task(config.corpus.task), splits.sft)
                if isinstance(config.corpus, TaskCorpus)
                else []
            )
            examples = baseline_examples(
                d_meta, further, config.beta, base.path, workspace.trainer(SFT), config.wording
            )
            observer.measure(workspace.train(SFT, base, examples))
        evolve(
            observer.evolving,
            base,
            d_meta,
            prompt_sources(config, workspace, splits, d_meta),
            beta=config.beta,
            policy=config.policy,
            filters=filters,
            observer=observer,
            refine=config.ablation.refine,
            learn=objective,
        )
        observer.write()
        if not observer.alarmed:  # after an alarm the run can go on with another bound
            workspace.finish(config.round_count)
        write_cards(config.output)
        note(workspace.layout.manifest, costs=costs(config.output))
        return config.output


def build_d_meta(config: RunConfig, progress: Progress, engine: Engine | None = None) -> tuple[Path, list[Refined]]:
    """Only the first part of a run: writes D_meta, returns its file and rows. `run_loop` goes on."""
    to_be_annotated(config)
    with open_run(config, progress, engine, None) as (workspace, base, splits):
        d_meta = altered(write_d_meta(config, workspace, base, splits), config.ablation, config.seed, config.wording)
        workspace.save_rows("d_meta", d_meta)
        return workspace.layout.data("d_meta"), d_meta


@contextmanager
def open_run(
    config: RunConfig,
    progress: Progress,
    engine: Engine | None,
    trainer: Trainer | None,
    shared: tuple[Path, ...] = (),
) -> Iterator[tuple[Workspace, Model, Splits]]:
    """The locked run directory, the base model and the splits."""
    with locked(config.output) as killed:
        if killed:
            complain(what_killed_says(config, killed))
        # What is slow to import comes last: the engine, and the versions of the packages.
        base_path = resolve_model(config.model, noted_revision(config.output, config.model))
        splits = draw_splits(config)
        engine = engine or build_engine(config.engine, config.cluster)
        settings, day = config.model_dump(mode="json"), start_day(config.output)
        template = run_template(base_path, config, day)
        parts = {**part_files(config), **template_file(config)}
        manifest: dict[str, Any] = {
            "selfevo": importlib.metadata.version("selfevo"),
            "platform": describe_platform(),
            **origin(base_path),
            **({"date": day.isoformat()} if template is not None else {}),
        }
        course = splits.course
        claim(
            config.output,
            settings,
            manifest,
            yaml.safe_dump(settings, sort_keys=False),
            (*RESUMABLE, *course.may_change),
            parts,
            amendment(config, course) if course.changed else {},
        )
        if changed := note_start(config.output, manifest["platform"], config.round_count):
            complain(
                f"{config.output} was started with {'; '.join(changed)}; texts may differ from here on. Install the "
                "earlier versions to avoid that"
            )
        if template is not None:
            base_path = write_base(base_path, Layout(config.output).base, template, config.eos_token)
        workspace = Workspace(
            root=config.output,
            engine=engine,
            trainer=lambda name: trainer or build_trainer(config, name),
            sampling={name: getattr(config.skills, name).to_sampling() for name in type(config.skills).model_fields},
            seed=config.seed,
            progress=progress,
            wording=config.wording,
            thinking=config.thinking,
            shared=tuple(root for root in shared if not changed_parts(root, parts)),
        )
        base = Model(BASE, base_path, hash_model(base_path))
        if course.changed:
            complain(what_goes_on(config, splits))
        for section in (config.evaluation, config.gate):
            if isinstance(section, EvaluationConfig | TaskGate):
                warn_of_family(section.task, config.model)
        if splits.set_aside:
            several = "*" * bool(course.past)
            complain(f"{splits.set_aside}; each is in {workspace.layout.data(f'quarantined{several}')}")
        for note in splits.notes[bool(splits.set_aside) :]:
            complain(note)
        for name, rows in splits.everything():
            workspace.save_rows(name, rows)
        try:
            yield workspace, base, splits
        finally:
            engine.release()  # the next run of this process may need the memory


def what_killed_says(config: RunConfig, work: str) -> str:
    """The message after a kill: where the last process stood, and what to lower if memory was short."""
    lower = (
        "trainer.per_device_train_batch_size (a new output directory is needed)"
        if work.startswith("train ")
        else "engine.batch_size"
    )
    return (
        f"the last process in {config.output} left no error and was killed at: {work}. If that happens again, memory "
        f"is probably short: lower {lower}"
    )


def what_goes_on(config: RunConfig, splits: Splits) -> str:
    """The message of a start that changes the number of rounds."""
    rounds, before = config.round_count, splits.course.past[-1].rounds
    sizes = ", ".join(str(len(pool)) for pool in splits.pools)
    unused = f"; {len(splits.unused)} prompts of its pool stay unused" if splits.unused else ""
    return f"{config.output} goes on with {rounds} rounds instead of {before}; prompts of each round: {sizes}{unused}"


def write_d_meta(config: RunConfig, workspace: Workspace, base: Model, splits: Splits) -> list[Refined]:
    """Lets the annotator of the configuration write D_meta. Returns its rows."""
    corpus = config.corpus
    assert isinstance(corpus, TaskCorpus | PromptsCorpus)  # the rows of a file need no annotator
    problems = {problem.prompt.id: problem for problem in splits.labelled}
    teacher = build_teacher(corpus, problems, Ledger(workspace.root, STAGE), config.wording)
    task = load_task(corpus.task) if isinstance(corpus, TaskCorpus) else None
    prompts = taken(splits.to_annotate(), config.ablation.label_share, config.seed)
    return annotate(workspace, base, corpus, prompts, teacher, task, problems)


def check_corpus(config: RunConfig, workspace: Workspace, splits: Splits, d_meta: Sequence[Refined]) -> None:
    """Notes in the manifest what is odd about D_meta. Raises DataError where that is too much."""
    path = workspace.layout.stage(*STAGE.split("/"))
    rows = read_rows(path) if path.is_file() else ()
    quarantined = [row["reason"] for row in rows if row["status"] == "quarantined"]
    counts = count(d_meta, config.wording, quarantined or splits.corpus_reasons)
    note(workspace.layout.manifest, d_meta=counts.as_json())
    check_sound(counts, config.corpus)


def note(manifest: Path, **facts: Any) -> None:
    """Adds facts to a manifest."""
    write_atomic(manifest, json.dumps({**read_marker(manifest), **facts}, indent=2))


def baseline_examples(
    d_meta: Sequence[Refined],
    further: Sequence[Example],
    beta: float,
    base: Path,
    trainer: Trainer,
    wording: Wording = ENGLISH,
) -> list[Example]:
    """The examples of the supervised baseline: D_QA and `further` answers.

    They are repeated until the baseline trains on at least as many tokens as meta-skill learning,
    for a fair comparison.
    """
    answers = [*answer_examples(d_meta), *further]
    budget = trainer.tokens(base, meta_examples(d_meta, beta, wording))
    return answers * max(1, math.ceil(budget / max(1, trainer.tokens(base, answers))))
