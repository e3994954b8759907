"""`selfevo eval`: measures one model, in a run directory of its own or beside nothing."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import yaml

from selfevo.config.own_parts import part_files
from selfevo.config.sections import MeasureConfig
from selfevo.evaluation.alarms import of_evaluation
from selfevo.evaluation.evaluate import extract, group, measure, summarise_outcomes
from selfevo.evaluation.judge import Judge
from selfevo.method.protocols import Engine, Model, Progress, Trainer
from selfevo.method.records import content_id
from selfevo.method.skills import RESPOND
from selfevo.models.resolve import resolve_model
from selfevo.pipeline.build import build_engine, build_sampling, describe_platform, run_system, thinking_of
from selfevo.pipeline.judging import Grading, warn_of_unread
from selfevo.report.terminal import complain
from selfevo.rundir.atomic_files import hash_model
from selfevo.rundir.inspect import prompts_seen, wording_of
from selfevo.rundir.ledger import Ledger
from selfevo.rundir.ownership import claim, locked
from selfevo.rundir.results import Results, write_results
from selfevo.rundir.workspace import Workspace
from selfevo.tasks import load_checked_task
from selfevo.tasks.base import FiniteTask
from selfevo.tasks.sampling import draw


def evaluate_model(
    model: str,
    config: MeasureConfig,
    *,
    output: Path | None,
    progress: Progress,
    engine: Engine | None = None,
) -> Results:
    """Measures one model as `config` says; returns results like those of a run, with this one model.

    `model` is a folder or a hub id, or stands behind the endpoint. Of a model in a run directory no problem is asked
    that its run had to learn from. With `output`, every row is kept there and a second call goes on where the first was
    stopped. `engine` takes the place of the one that is configured.
    """
    if (endpoint := config.endpoint) is not None:
        subject = Model("model", Path(model), content_id(endpoint.base_url, model))
        seen: frozenset[str] = frozenset()
    else:
        folder = resolve_model(model)
        subject = Model("model", folder, hash_model(folder))
        seen = prompts_seen(folder)
    task = load_checked_task(config.task)
    system = run_system(subject.path) if config.system is None else config.system
    problems = [each.under(system) for each in draw(task, config.count, 1000 * config.seed + 1, seen, "count")]
    if isinstance(task, FiniteTask) and config.count is None and len(problems) < (known := task.available(frozenset())):
        complain(f"{known - len(problems)} of {known} problems are left out: the run of {model} has learnt from them")
    sampling = build_sampling(subject.path, config.max_new_tokens)
    wording = config.wording or wording_of(subject.path)
    with tempfile.TemporaryDirectory() as scratch:
        root = output or Path(scratch)
        with locked(root):
            settings = {
                "model": model,
                **config.model_dump(mode="json", exclude={"endpoint"}),
                "system": system,
                "max_new_tokens": {name: limits.max_new_tokens for name, limits in sampling.items()},
                "wording": wording.learnt,
                "base_url": endpoint.base_url if endpoint else None,
            }
            text = yaml.safe_dump(settings, sort_keys=False)
            claim(root, settings, {"platform": describe_platform()}, text, parts=part_files(config))
            if endpoint is not None and engine is None:
                from selfevo.engines.openai import OpenAIEngine  # an extra

                engine = OpenAIEngine(endpoint, Ledger(output, "evaluate/server") if output else None)
            workspace = Workspace(
                root=root,
                engine=engine or build_engine(config.engine),
                trainer=_nobody,
                sampling=sampling,
                seed=config.seed,
                progress=progress,
                wording=wording,
                thinking=thinking_of(subject.path),
            )
            runner = workspace.runner("evaluate", subject)
            grading = Grading(config.task, problems, workspace, None, replace(subject, name=subject.path.name))
            grader = grading.of(runner.name)
            outcomes = measure(runner, grader, problems, config.consistency)
            seconds = workspace.seconds("")
            compared = grader.compared if isinstance(grader, Judge) else {}
            measured = summarise_outcomes(subject.path.name, outcomes, seconds, extract(outcomes), compared)
            results = Results(
                task=config.task.name,
                seed=config.seed,
                policy=None,
                judge=grading.results(),
                models=(measured,),
                groups=group(problems),
                alarms=tuple(of_evaluation(measured, f"max_new_tokens above {sampling[RESPOND.name].max_new_tokens}")),
                seconds=round(seconds, 1),
            )
            warn_of_unread(results.models[0])
            write_results(root, results)
    return results


def _nobody(model: str) -> Trainer:
    raise AssertionError(f"nothing is trained here, {model} was to be")
