"""Measures a model with lm-evaluation-harness: its tasks, prompts and scores.

Our own score of the same outputs is reported too. It needs an extra: pip install
'selfevo[harness]'.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from selfevo.config.sections import TransformersSettings, VLLMSettings
from selfevo.errors import ConfigError, DataError, MissingExtraError
from selfevo.method.answer_extraction import extract_answer, read_number
from selfevo.rundir.adapter_folder import weights_folder
from selfevo.rundir.atomic_files import write_atomic
from selfevo.tasks.word_problems import read_problem


@dataclass(frozen=True, slots=True)
class HarnessScores:
    """One task: the harness's scores, {"metric,filter": share}, and the number of documents.

    `ours` is the share of the same outputs that answer_extraction.py finds right. None: an answer
    is not a number.
    """

    scores: Mapping[str, float]
    documents: int
    ours: float | None


def run_harness(
    model: Path,
    tasks: Sequence[str],
    *,
    path: Path | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    max_new_tokens: int = 256,
    system: str = "",
    engine: TransformersSettings | VLLMSettings = TransformersSettings(),  # noqa: B008  (frozen)
    output: Path | None = None,
) -> dict[str, HarnessScores]:
    """Runs tasks of lm-evaluation-harness on a model folder, on the first `limit` documents of each.

    The prompts use the model's chat template, and `system` as the system prompt if there is one.
    `path` is a JSONL file that replaces the hub data set of a single task; few-shot examples then
    come from the same file, without the document itself. Returns the scores by task. With `output`,
    scores go to harness.json in that folder, with every sample beside it.

    Raises MissingExtraError without the package, ConfigError for an unknown task, DataError if its
    data cannot be loaded.
    """
    if find_spec("lm_eval") is None:
        raise MissingExtraError("--harness needs lm-evaluation-harness; run: pip install 'selfevo[harness]'")
    import lm_eval
    from lm_eval.tasks import TaskManager

    from selfevo.models.device import pick_device

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager()
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        raise ConfigError(f"lm-evaluation-harness has no task {unknown[0]!r}; `lm-eval ls tasks` lists its tasks")
    if path is not None and (len(tasks) > 1 or not path.is_file()):
        raise ConfigError(
            f"--path is {path} and --harness {','.join(tasks)}; give the documents of one task, and that task"
        )
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)  # now, so that a mistake costs no evaluation
    base = weights_folder(model)
    arguments = {"pretrained": str(base), "dtype": engine.dtype, "trust_remote_code": False}
    if base != model:
        arguments |= {"lora_local_path": str(model)} if isinstance(engine, VLLMSettings) else {"peft": str(model)}
        arguments["tokenizer"] = str(model)
    try:
        with tempfile.TemporaryDirectory() as folder:
            specs = [own_data(name, path.resolve(), manager, Path(folder)) if path else name for name in tasks]
            loaded = list(manager.load(specs)["tasks"].values())
        _check_limit(loaded, limit)
        found = lm_eval.simple_evaluate(
            model="vllm" if isinstance(engine, VLLMSettings) else "hf",
            model_args=arguments,
            tasks=loaded,
            num_fewshot=num_fewshot,
            batch_size=engine.batch_size,
            device=str(pick_device("auto" if isinstance(engine, VLLMSettings) else engine.device)),
            limit=limit,
            apply_chat_template=True,
            system_instruction=system or None,
            gen_kwargs={"max_gen_toks": max_new_tokens},
            task_manager=manager,
        )
    except (OSError, KeyError, ValueError) as error:  # raised by datasets if it cannot load the data
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise DataError(f"lm-evaluation-harness failed on {', '.join(tasks)}: {reason}") from error
    assert found is not None  # only other ranks get None
    results = {name: _scores(name, found) for name in found["samples"]}
    if output is not None:
        scores = {name: asdict(own) for name, own in results.items()}
        write_atomic(output / "harness.json", json.dumps(scores, indent=2))
        for name, samples in found["samples"].items():
            lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in samples)
            write_atomic(output / f"samples_{name}.jsonl", "".join(lines))
    return results


def _check_limit(tasks: Sequence[Any], limit: int | None) -> None:
    """Raises DataError if a task has fewer documents than are asked for; the harness would say nothing."""
    for task in tasks:
        if limit is not None and limit > (size := len(list(task.eval_docs))):
            raise DataError(
                f"--count is {limit}, and {task.config.task} has {size} documents; lower it, or leave it out"
            )


def own_data(name: str, path: Path, manager: Any, folder: Path) -> str:
    """Writes the file of a task like `name` that reads its documents from `path`."""
    definition = manager.task_index[name].yaml_path
    if definition is None:
        raise ConfigError(f"task {name!r} is a program and takes no --path; leave --path out")
    splits = {"training_split": None, "validation_split": None, "test_split": "test", "fewshot_split": "test"}
    data = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": {"test": str(path)}}}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"include": str(definition), "task": name, **data, **splits}), encoding="utf-8")
    return str(file)


def score(document: Mapping[str, Any], response: str) -> bool | None:
    """Whether `response` is right by our own rule. None if the gold answer is not a number."""
    try:
        _, gold, _, _ = read_problem(document)
    except ValueError:
        return None
    return extract_answer(response) == read_number(gold)


def _scores(name: str, found: Mapping[str, Any]) -> HarnessScores:
    scores = {key: value for key, value in found["results"][name].items() if isinstance(value, float)}
    samples = {
        sample["doc_id"]: sample for sample in found["samples"][name]
    }.values()  # it has each sample once per filter
    texts = [(sample["doc"], sample["resps"][0][0]) for sample in samples]
    ours = [score(document, text) if isinstance(text, str) else None for document, text in texts]
    known = [right for right in ours if right is not None]
    return HarnessScores(scores, len(ours), sum(known) / len(known) if known else None)
