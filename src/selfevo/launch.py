"""From a configuration to a finished run: what it names is built here, and nowhere else.

The order of a run: problems and prompts are drawn and checked to be disjoint; an annotator writes D_meta (or it is
read); the baselines are measured; `evolution.evolve` runs; every model it makes is measured; results.json and
report.html are written anew after each, so that a run is worth looking at before it ends.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from selfevo.annotation import altered, annotate, gold_examples, spent, taken
from selfevo.card import write_cards
from selfevo.claim import claim, locked
from selfevo.config import RunConfig
from selfevo.engines.transformers import TransformersEngine
from selfevo.errors import ConfigError
from selfevo.evaluate import extractors, measure, summary
from selfevo.evolution import evolve
from selfevo.examples import answer_examples, meta_examples, preference_examples, prompt_examples, self_examples
from selfevo.files import exists, hash_model, read_marker, write_atomic
from selfevo.ledger import best_model, costs, is_run, prompts_seen
from selfevo.protocols import Engine, Model, Progress, Sampling, Teacher, Trainer
from selfevo.records import Example, Judged, Refined, content_id
from selfevo.run import Run
from selfevo.sections import EndpointConfig, EngineConfig, MonitorsConfig, TaskConfig, TrainerConfig
from selfevo.sets import Sets, draw_sets, sources_of_prompts
from selfevo.skills import CRITIQUE, REFINE, RESPOND
from selfevo.tasks import load_task
from selfevo.teachers.oracle import OracleTeacher
from selfevo.watch import Watch

# What may be changed between a start and a resume: none of it decides what a row says.
RESUMABLE = (
    *(f"corpus.annotator.{key}" for key in ("max_concurrency", "timeout_seconds", "max_retries")),
    *(f"corpus.annotator.{key}" for key in ("max_dollars", "max_total_tokens", "api_key_env")),
    *(f"monitors.{key}" for key in MonitorsConfig.model_fields),
)


def launch(
    config: RunConfig,
    progress: Progress,
    engine: Engine | None = None,
    trainer: Trainer | None = None,
    shared: tuple[Path, ...] = (),
) -> Path:
    """Starts or resumes the run of `config` and returns its directory.

    `engine` and `trainer` replace the ones the configuration names: for tests, and for trying things out. `shared` are
    run directories from which finished stages and models are taken over where they are the same.
    """
    with begin(config, progress, engine, trainer, shared) as (run, base, sets):
        d_meta = altered(sets.d_meta or write_d_meta(config, run, base, sets), config.corpus, config.seed)
        run.save_rows("d_meta", d_meta)
        watch = Watch(config, run, sets)
        stages = config.evaluation.stages if config.evaluation else ()
        if "base" in stages:
            watch.model(base)
        if "sft" in stages:
            further = gold_examples(load_task(config.corpus.task), sets.sft) if config.corpus.task else []
            examples = baseline_examples(d_meta, further, config.beta, base.path, run.trainer("sft"))
            watch.model(run.model("sft", base, examples))
        evolve(
            run,
            base,
            d_meta,
            sources_of_prompts(config, run, sets, d_meta),
            beta=config.beta,
            policy=config.policy,
            filters=watch.filters(),
            watch=watch,
            refine=config.refine,
            learn=LEARN[config.objective],
        )
        watch.write()
        if not watch.alarmed:  # else it goes on when a bound is changed
            run.finish()
        write_cards(config.output)
        path = config.output / "manifest.json"
        write_atomic(path, json.dumps({**read_marker(path), "costs": costs(config.output)}, indent=2))
        return config.output


def build_d_meta(config: RunConfig, progress: Progress, engine: Engine | None = None) -> tuple[Path, list[Refined]]:
    """The beginning of a run alone: writes D_meta and returns its file and rows. `launch` goes on from there."""
    if config.corpus.path:
        raise ConfigError("corpus.path is annotated already; give corpus.task or corpus.prompts to have it annotated")
    with begin(config, progress, engine, None) as (run, base, sets):
        d_meta = altered(write_d_meta(config, run, base, sets), config.corpus, config.seed)
        run.save_rows("d_meta", d_meta)
        return config.output / "data" / "d_meta.jsonl", d_meta


@contextmanager
def begin(
    config: RunConfig,
    progress: Progress,
    engine: Engine | None,
    trainer: Trainer | None,
    shared: tuple[Path, ...] = (),
) -> Iterator[tuple[Run, Model, Sets]]:
    """The run directory, held by this process, with the base model and everything that is given."""
    with locked(config.output):
        base_path = resolve_model(config.model)
        settings = config.model_dump(mode="json")
        manifest = {"selfevo": importlib.metadata.version("selfevo"), "platform": describe_platform()}
        claim(config.output, settings, manifest, yaml.safe_dump(settings, sort_keys=False), RESUMABLE)
        run = Run(
            root=config.output,
            engine=engine or build_engine(config.engine),
            trainer=lambda name: trainer or build_trainer(config, name),
            sampling={name: getattr(config.skills, name).to_sampling() for name in type(config.skills).model_fields},
            seed=config.seed,
            progress=progress,
            shared=shared,
        )
        base = Model("base", base_path, hash_model(base_path))
        sets = draw_sets(config)
        for name, rows in sets.everything():
            run.save_rows(name, rows)
        yield run, base, sets


def write_d_meta(config: RunConfig, run: Run, base: Model, sets: Sets) -> list[Refined]:
    """Has D_meta written by the annotator that the configuration names."""
    corpus = config.corpus
    task = load_task(corpus.task) if corpus.task else None
    problems = {problem.prompt.id: problem for problem in sets.labelled}
    teacher: Teacher
    if corpus.annotator:
        from selfevo.endpoint import Endpoint  # an extra
        from selfevo.teachers.openai import OpenAITeacher

        teacher = OpenAITeacher(corpus.annotator, Endpoint(corpus.annotator, *spent(run)), task, problems)
    else:
        assert task is not None  # CorpusConfig sees to it
        teacher = OracleTeacher(task, problems)
    return annotate(run, base, corpus, taken(sets.to_annotate(), corpus.share, config.seed), teacher, task, problems)


def build_engine(config: EngineConfig = EngineConfig()) -> Engine:  # noqa: B008  (frozen)
    """The engine a configuration names. Raises MissingExtraError where it is not installed."""
    if config.kind == "vllm":
        from selfevo.engines.vllm import VLLMEngine  # an extra

        return VLLMEngine(config.batch_size, config.dtype, config.gpu_memory_utilization, config.kv_cache_gib)
    return TransformersEngine(config.batch_size, config.dtype, config.device, config.kv_cache_gib)


def baseline_examples(
    d_meta: Sequence[Refined], further: Sequence[Example], beta: float, base: Path, trainer: Trainer
) -> list[Example]:
    """D_QA and `further` answers for plain SFT, repeated until it trains on at least as many tokens as meta-skill
    learning does: else it is no fair baseline."""
    answers = [*answer_examples(d_meta), *further]
    budget = trainer.tokens(base, meta_examples(d_meta, beta))
    return answers * max(1, math.ceil(budget / max(1, trainer.tokens(base, answers))))


def build_trainer(config: RunConfig, name: str) -> Trainer:
    """The trainer of the model `name`, imported here: who only asks a model need not wait for TRL."""
    settings = trainer_of(config, name)
    if config.objective == "sft" or not name.startswith("round-"):
        from selfevo.trainers.trl import TRLTrainer

        return TRLTrainer(settings)
    if config.objective == "dpo":
        from selfevo.trainers.dpo import PreferenceTrainer

        return PreferenceTrainer(settings)
    from selfevo.trainers.grpo import VerdictRewardTrainer

    return VerdictRewardTrainer(settings, config.skills, lambda: build_engine(config.engine))


LEARN: dict[str, Callable[[Iterable[Judged]], list[Example]]] = {
    "sft": self_examples,
    "dpo": preference_examples,
    "grpo": prompt_examples,
}


def trainer_of(config: RunConfig, name: str) -> TrainerConfig:
    """The trainer's settings for the model `name`: the warm-up and the rounds may have their own.

    What is said of the rounds is in none of them any more: two runs that differ in it alone share their other models.
    """
    trainer = config.trainer
    own: dict[str, float | None] = {}
    if name == "warm-up":
        own = {"num_train_epochs": config.corpus.warmup_epochs}
    elif name.startswith("round-"):
        own = {"num_train_epochs": trainer.round_epochs, "learning_rate": trainer.round_learning_rate}
    used = {key: value for key, value in own.items() if value is not None}
    return trainer.model_copy(update={**used, "round_epochs": None, "round_learning_rate": None})


def resolve_model(name: str) -> Path:
    """The folder of a model: itself, the best one of a run directory, or the local copy of a hub id.

    Raises ConfigError when there is none of these.
    """
    path = Path(name).expanduser()
    if exists(path) and path.is_dir():
        if is_run(path):
            path = best_model(path)
        if not (path / "config.json").is_file():
            raise ConfigError(f"model: {path} has no config.json; give a folder that save_pretrained() wrote")
        return path.resolve()
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise ConfigError(f"model: folder {name} does not exist; give a model folder or a hub id like owner/name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"model: {name} is neither a folder nor a hub model that can be had ({reason})") from None


def describe_platform() -> dict[str, str]:
    """What a reader needs to judge a timing, and nothing that names the machine or its owner."""
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    versions = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "system": platform.system(), "machine": platform.machine(), **versions}


def evaluate_model(
    model: str,
    task: TaskConfig,
    *,
    count: int,
    seed: int,
    max_new_tokens: int,
    consistency: int = 1,
    engine_config: EngineConfig,
    output: Path | None,
    progress: Progress,
    endpoint: EndpointConfig | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """Measures one model on `count` problems; returns what results.json of a run has, with one stage.

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
    limits = Sampling(max_new_tokens)
    with tempfile.TemporaryDirectory() as scratch:
        root = output or Path(scratch)
        with locked(root):
            settings = {"model": model, "task": task.model_dump(mode="json"), "count": count, "seed": seed}
            settings |= {
                "max_new_tokens": max_new_tokens,
                "consistency": consistency,
                "engine": engine_config.model_dump(mode="json"),
            }
            settings["base_url"] = endpoint.base_url if endpoint else None
            claim(root, settings, {"platform": describe_platform()}, yaml.safe_dump(settings, sort_keys=False))
            run = Run(
                root=root,
                engine=engine,
                trainer=_nobody,
                sampling={skill.name: limits for skill in (RESPOND, CRITIQUE, REFINE)},
                seed=seed,
                progress=progress,
            )
            room = run.room("evaluate", subject)
            outcomes = measure(room, load_task(task), problems, consistency)
            stage = {"name": subject.path.name, **summary(outcomes), "extractors": extractors(outcomes)}
            stage |= {"rows": None, "audit": None, "seconds": round(run.seconds(""), 1)}
            results = {"task": task.name, "seed": seed, "policy": None, "stages": [stage], "comparisons": []}
            write_atomic(root / "results.json", json.dumps(results, indent=2))
    return results


def _nobody(model: str) -> Trainer:
    raise AssertionError(f"nothing is trained here, {model} was to be")
