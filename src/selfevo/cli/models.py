"""The commands that use a model: `eval`, `answer` and `compare`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from selfevo.cli.ending import finish
from selfevo.cli.files import check_target
from selfevo.cli.options import AsJson, Quiet, progress
from selfevo.config.base import OwnPart
from selfevo.config.loading import apply_overrides, explained, load_wording, parse, parse_engine
from selfevo.config.sections import EndpointConfig, EngineConfig, MeasureConfig, TransformersSettings
from selfevo.config.task import TaskConfig
from selfevo.errors import ALARMS, ConfigError
from selfevo.method.records import Prompt, as_row
from selfevo.report.terminal import complain, console

if TYPE_CHECKING:
    from selfevo.serving.refiner import Answer

app = typer.Typer()

BaseUrl = Annotated[str | None, typer.Option(help="Address of a server with the model (OpenAI protocol).")]
LIMIT = "Token limit of each text; default: that of the run that made the model."
WORDING = "YAML whose section `wording` the model is asked in; default: the words it was trained with."
SYSTEM = "System prompt of prompts that have none; default: that of the run that made the model."
KeyName = Annotated[str | None, typer.Option(help="With --base-url: the environment variable with the key.")]


def _endpoint(model: str, base_url: str, api_key_env: str | None) -> EndpointConfig:
    return parse(EndpointConfig, {"model": model, "base_url": base_url, "api_key_env": api_key_env}, "--base-url")


def _engine(kind: str, batch_size: int | None = None) -> EngineConfig:
    """The engine `kind`. Your own engine ignores `batch_size`, because it has its own."""
    size = {} if batch_size is None or ":" in kind else {"batch_size": batch_size}
    return parse_engine({"kind": kind, **size}, "--engine")


@app.command(
    name="eval",
    epilog="Examples: `selfevo eval runs/demo-seed0/models/round-3 --task demo`   "
    "`selfevo eval my-model --task gsm8k --path gsm8k/test.jsonl --count 200`   "
    "`selfevo eval my-model --task exact --path mine.jsonl --set columns.answer=gold`   "
    "`selfevo eval my-name --base-url http://localhost:8000/v1 --task svamp --path svamp.json`   "
    "`selfevo eval my-model --harness gsm8k,ifeval --count 200`",
)
def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder or a hub id.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="exact, choice, regex, number, math, python:MODULE:FUNCTION, gsm8k, svamp, demo, gym:NAME, ..."
        ),
    ] = None,
    harness: Annotated[
        str | None, typer.Option(help="Instead of --task: tasks of lm-evaluation-harness, separated by commas.")
    ] = None,
    num_fewshot: Annotated[int | None, typer.Option(min=0, help="With --harness: examples in each prompt.")] = None,
    path: Annotated[Path | None, typer.Option(help="File with the problems, for tasks on files and --harness.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of the task: columns.answer=gold, options.ignore_case=true. Repeatable."),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="Number of problems; default: all of a file, 300 of any other task.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Draws the problems.")] = 0,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help=LIMIT)] = None,
    system: Annotated[str | None, typer.Option(help=SYSTEM)] = None,
    wording: Annotated[Path | None, typer.Option(help=WORDING)] = None,
    consistency: Annotated[
        int, typer.Option(min=1, help="Above 1: this many samples vote, as well as the greedy answer.")
    ] = 1,
    check_extractors: Annotated[
        bool, typer.Option("--check-extractors", help="Show how much the accuracy depends on how numbers are read.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    engine: Annotated[str, typer.Option(help="transformers, vllm, or your own, package.module:Name.")] = "transformers",
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder for every row and results.json; give the same one to resume.")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measures a model: direct and refined accuracy, precision and recall of its own verdict.

    Exit code 7: nearly all answers are incomplete, so the accuracy says little; the last lines say why.
    """
    from selfevo.models.resolve import resolve_model
    from selfevo.pipeline.evaluate_model import evaluate_model
    from selfevo.report.console import print_extractors, print_harness, print_results
    from selfevo.report.documents import HarnessDocument, ResultsDocument, print_document

    if (task is None) == (harness is None):
        raise ConfigError("give exactly one of --task and --harness")
    engine_settings = _engine(engine, batch_size)
    if harness is not None:
        if base_url or isinstance(engine_settings, OwnPart):
            raise ConfigError(
                "--harness loads the model itself; leave out --base-url and your own --engine, or call lm-eval with "
                "the server"
            )
        from selfevo.evaluation.lm_eval_harness import run_harness
        from selfevo.pipeline.build import build_sampling, run_system

        folder = resolve_model(model)
        figures = run_harness(
            folder,
            harness.split(","),
            path=path,
            limit=count,
            num_fewshot=num_fewshot,
            max_new_tokens=build_sampling(folder, max_new_tokens)["respond"].max_new_tokens,
            system=run_system(folder) if system is None else system,
            engine=engine_settings,
            output=output,
        )
        if as_json:
            print_document(HarnessDocument.of(figures))
        else:
            print_harness(console, figures)
        return
    assert task is not None
    problems = parse(TaskConfig, apply_overrides({"name": task, "path": path}, settings or ()), "--task")
    endpoint = _endpoint(model, base_url, api_key_env) if base_url else None
    with explained(MeasureConfig, "selfevo eval"):
        measure = MeasureConfig(
            task=problems,
            count=count,
            seed=seed,
            consistency=consistency,
            max_new_tokens=max_new_tokens,
            system=system,
            wording=load_wording(wording),
            engine=engine_settings,
            endpoint=endpoint,
        )
    results = evaluate_model(model, measure, output=output, progress=progress(quiet, as_json))
    if as_json:
        print_document(ResultsDocument.of(results))
    else:
        print_results(console, results)
        if check_extractors:
            print_extractors(console, results.models[0])
    finish(results.alarms)


@app.command(
    epilog="Examples: `selfevo answer runs/demo-seed0/models/round-3 'Add 4 to each: 15 48 32' --show-work`   "
    "`selfevo answer my-model --file prompts.jsonl --consistency 5 --json > answers.jsonl`   "
    "`cat question.txt | selfevo answer my-model`"
)
def answer(
    model: Annotated[str, typer.Argument(help="A model folder or a hub id.")],
    prompt: Annotated[str | None, typer.Argument(help="The prompt; default, or -: standard input.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Several prompts or conversations: JSONL, CSV, parquet, a folder or a data set.")
    ] = None,
    column: Annotated[str, typer.Option(help="With --file: the column of the prompts.")] = "prompt",
    refine: Annotated[str, typer.Option(help="never, if-judged-wrong or always.")] = "if-judged-wrong",
    rounds: Annotated[int, typer.Option(min=1, help="Most refinements in a row.")] = 1,
    consistency: Annotated[int, typer.Option(min=1, help="Samples whose majority is the answer.")] = 1,
    temperature: Annotated[float, typer.Option(min=0, help="With --consistency: sampling temperature.")] = 0.7,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help=LIMIT)] = None,
    system: Annotated[str | None, typer.Option(help=SYSTEM)] = None,
    wording: Annotated[Path | None, typer.Option(help=WORDING)] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Draws the samples.")] = 0,
    engine: Annotated[str, typer.Option(help="transformers, vllm, or your own, package.module:Name.")] = "transformers",
    show_work: Annotated[bool, typer.Option("--show-work", help="Print drafts and feedback too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per prompt, with all drafts.")] = False,
) -> None:
    """Answers with a trained model, which criticises its answers and refines those it judges wrong.

    An answer that was cut is printed as far as it goes, with the limit. Exit code 7: no answer is whole.
    """
    from selfevo.data.loading import load_prompts
    from selfevo.evaluation.alarms import why
    from selfevo.pipeline.build import build_engine
    from selfevo.report.documents import escaped
    from selfevo.serving.refiner import Refiner

    if file is not None and prompt is not None:
        raise ConfigError(f"both a prompt and --file {file} are given; give one of them")
    if file is not None:
        loaded = load_prompts(file, column, setting="--column")
        prompts = loaded.rows
        if loaded.quarantined:
            first = loaded.quarantined[0]
            complain(f"{len(loaded.quarantined)} rows are left out; the first is line {first.line}: {first.reason}")
        for what, count in loaded.left_off.items():
            complain(f"{what} of {count} rows is not asked")
    else:
        text = _read_input() if prompt is None or prompt == "-" else prompt
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ConfigError("the prompt is not UTF-8; give it in that encoding")
        if not text.strip():
            raise ConfigError(
                "the prompt is empty; give one as an argument or on standard input, or several with --file"
            )
        prompts = [Prompt.of(text)]
    settings = _engine(engine)
    refiner = Refiner(
        model,
        refine=refine,  # type: ignore[arg-type]  # Refiner checks it
        rounds=rounds,
        consistency=consistency,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        system=system,
        wording=load_wording(wording),
        seed=seed,
        # Refiner makes this one when it has found the model, because it is slow to import.
        engine=None if isinstance(settings, TransformersSettings) else build_engine(settings),
    )
    limits = {name: f"--max-new-tokens above {sampling.max_new_tokens}" for name, sampling in refiner.sampling.items()}
    incomplete = Counter[str]()
    for start in range(0, len(prompts), refiner.engine.batch_size):
        for answer in refiner.answer(prompts[start : start + refiner.engine.batch_size]):
            incomplete.update([answer.finish] if answer.finish != "stop" else [])
            if as_json:
                line = json.dumps(as_row(answer), ensure_ascii=False, default=lambda verdict: verdict.value)
                print(escaped(line))
            else:
                _print_answer(answer, limits, show_work, alone=len(prompts) == 1)
    for reason, count in incomplete.most_common():
        complain(f"{count} of {len(prompts)} answers not whole: {why(reason, limits['respond'])}")
    if incomplete.total() == len(prompts):
        raise typer.Exit(ALARMS)


def _read_input() -> str:
    """The prompt on standard input."""
    if sys.stdin is None:
        return ""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input is not UTF-8 at byte {error.start + 1}; give it in that encoding") from None


def _print_answer(answer: Answer, limits: Mapping[str, str], show_work: bool, alone: bool) -> None:
    """Prints an answer. A text that is not whole is printed as far as it goes, with the reason behind it."""
    from selfevo.evaluation.alarms import why

    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, soft_wrap=True)

    def show(text: str, finish: str | None, skill: str, style: str = "") -> None:
        if text:
            say(text, style)
        if finish not in (None, "stop"):
            say(f"[not whole: {why(finish, limits[skill])}]", "yellow")

    if not alone:
        say(f"> {answer.prompt}", "bold")
    if show_work:
        for number, steps in enumerate(answer.work, start=1):
            for draft, step in enumerate(steps, start=1):
                say(f"sample {number}, draft {draft}", "dim")
                show(step.text, step.finish, "respond" if draft == 1 else "refine")
                show(step.feedback, step.feedback_finish, "critique", "cyan")
                if step.refinement_finish:
                    say("its refinement, which does not replace it", "dim")
                    show(step.refinement, step.refinement_finish, "refine")
        say(f"elected by {answer.votes} of {len(answer.work)}, verdict {answer.verdict.value}", "dim")
    show(answer.text or answer.partial, answer.finish, "respond")


@app.command(
    epilog="Example: `selfevo answer runs/r/models/round-3 --file vicuna.jsonl --json > new.jsonl`, the same with "
    "`models/sft` > old.jsonl, then `selfevo compare new.jsonl old.jsonl --judge gpt-4.1-mini "
    "--base-url https://api.openai.com/v1 --api-key-env OPENAI_API_KEY`"
)
def compare(
    a: Annotated[Path, typer.Argument(help="Answers of one model, as written by `answer --json`.")],
    b: Annotated[Path, typer.Argument(help="Answers of the other model to the same prompts.")],
    judge: Annotated[
        str, typer.Option(help="A model folder or hub id; with --base-url the model's name on the server.")
    ],
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    column: Annotated[str, typer.Option(help="The column of the answers.")] = "text",
    questions: Annotated[
        Path | None, typer.Option(help="File with the prompts, for the columns of --by; default: A.")
    ] = None,
    by: Annotated[
        list[str] | None,
        typer.Option(help="Columns to group the results by; default: category and difficulty, if present."),
    ] = None,
    candidate: Annotated[
        str, typer.Option(help="Name of the model that answered, to warn of a judge of the same family.")
    ] = "",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Token limit of one judgement.")] = 512,
    output: Annotated[
        Path | None, typer.Option(help="File for all comparisons, with the judge's text, as JSONL.")
    ] = None,
) -> None:
    """Lets a judge compare two models' answers in both orders: win rate, raw and at equal length."""
    from selfevo.evaluation.pairwise import as_rows, compare_answers, read_pairs, same_family, summarise_comparisons
    from selfevo.method.protocols import Engine
    from selfevo.models.resolve import resolve_model
    from selfevo.pipeline.build import build_engine
    from selfevo.report.console import print_comparisons
    from selfevo.rundir.atomic_files import write_atomic

    if output is not None:
        check_target(output)
    pairs, left_out = read_pairs(str(a), str(b), column, str(questions or ""), by or ())
    if left_out:
        complain(f"{left_out} prompts have an answer in only one of the files, so they are left out")
    if family := same_family(judge, candidate or f"{a} {b}"):
        complain(f"judge and candidate are both of the family {family!r}, so the judge may prefer the candidate")
    engine: Engine
    if base_url:
        from selfevo.engines.openai import OpenAIEngine

        engine, folder = OpenAIEngine(_endpoint(judge, base_url, api_key_env)), Path(judge)
    else:
        folder, engine = resolve_model(judge), build_engine()
    comparisons = compare_answers(engine, folder, pairs, max_new_tokens)
    if output is not None:
        write_atomic(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in as_rows(comparisons)))
    summary = summarise_comparisons(comparisons)
    print_comparisons(console, a.stem, b.stem, summary)
    if summary.no_reply:
        complain(
            f"the judge gave no reply in {summary.no_reply} of {len(comparisons)} comparisons, which are left out "
            "of these figures; run the same command again when its server answers"
        )
