"""`selfevo eval`: measures one model, in a run directory of its own or beside nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from selfevo.config.sections import EndpointConfig, EngineConfig, TaskConfig
from selfevo.evaluation.evaluate import extract, group, measure, summarise_outcomes
from selfevo.method.protocols import Engine, Model, Progress, Trainer
from selfevo.method.records import content_id
from selfevo.models.resolve import resolve_model
from selfevo.pipeline.build import build_engine, build_sampling, describe_platform
from selfevo.rundir.files import hash_model
from selfevo.rundir.inspect import prompts_seen
from selfevo.rundir.ownership import claim, locked
from selfevo.rundir.results import Results, write_results
from selfevo.rundir.workspace import Workspace
from selfevo.tasks import load_task


def evaluate_model(
    model: str,
    task: TaskConfig,
    *,
    count: int,
    seed: int,
    max_new_tokens: int | None = None,
    consistency: int = 1,
    engine_config: EngineConfig,
    output: Path | None,
    progress: Progress,
    endpoint: EndpointConfig | None = None,
    engine: Engine | None = None,
) -> Results:
    """Measures one model on `count` problems; returns results like those of a run, with this one model.

    `model` is a folder or a hub id, or stands behind `endpoint`. Of a model in a run directory no problem is asked that
    its run had to learn from. With `output`, every row is kept there and a second call goes on where the first was
    stopped.
    """
    if endpoint is not None:
        from selfevo.engines.openai import OpenAIEngine  # an extra

        subject = Model("model", Path(model), content_id(endpoint.base_url, model))
        engine = engine or OpenAIEngine(endpoint)
        seen: frozenset[str] = frozenset()
    else:
        folder = resolve_model(model)
        subject = Model("model", folder, hash_model(folder))
        engine = engine or build_engine(engine_config)
        seen = prompts_seen(folder)
    problems = load_task(task).problems(count, 1000 * seed + 1, seen)
    sampling = build_sampling(subject.path, max_new_tokens)
    with tempfile.TemporaryDirectory() as scratch:
        root = output or Path(scratch)
        with locked(root):
            settings = {"model": model, "task": task.model_dump(mode="json"), "count": count, "seed": seed}
            settings |= {
                "max_new_tokens": {name: limits.max_new_tokens for name, limits in sampling.items()},
                "consistency": consistency,
                "engine": engine_config.model_dump(mode="json"),
            }
            settings["base_url"] = endpoint.base_url if endpoint else None
            claim(root, settings, {"platform": describe_platform()}, yaml.safe_dump(settings, sort_keys=False))
            workspace = Workspace(
                root=root,
                engine=engine,
                trainer=_nobody,
                sampling=sampling,
                seed=seed,
                progress=progress,
            )
            runner = workspace.runner("evaluate", subject)
            outcomes = measure(runner, load_task(task), problems, consistency)
            seconds = workspace.seconds("")
            results = Results(
                task=task.name,
                seed=seed,
                policy=None,
                models=(summarise_outcomes(subject.path.name, outcomes, seconds, extract(outcomes)),),
                groups=group(problems),
                seconds=round(seconds, 1),
            )
            write_results(root, results)
    return results


def _nobody(model: str) -> Trainer:
    raise AssertionError(f"nothing is trained here, {model} was to be")
