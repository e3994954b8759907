"""Which annotator teaches a critic that knows right from wrong: meta-skill training, the same labels for each.

python experiments/mathematics/critics.py COMMAND --model M --data gsm8k/train.jsonl --output DIR

COMMAND is `sample` first, then `rewrite` (for own workings) or `long` (for workings at length), each once; then
`train --annotator A`, for each annotator, with `--problems 80` if further problems are to be measured.

`sample` records answers of the untrained model, in the style of three examples: to --labels problems (3 each) and
to --recorded others. `rewrite` has it write solutions in that style with the gold one in view, `long` has it answer
in its own, with --problems also further ones, which are the row to beat.
`train` writes D_meta with the annotator from these records, trains, and has the model criticise as many right as wrong
of the answers to the --recorded problems, which no training sees; with --problems it is measured on so many further
ones. --refinement says what it is taught to refine to: another short answer of its own, the calculations of the
working (`short`), or the whole `working`. A killed command goes on. Questions come from the training file alone.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from recording import SEED, Sizes, at_length, problems_of, read, rewrite, sample
from worked import WorkedTeacher
from workings import short_form

from selfevo.config.training import LoraSettings, TrainerConfig
from selfevo.engines.transformers import TransformersEngine
from selfevo.evaluation.evaluate import measure, summarise_outcomes
from selfevo.method import prompts
from selfevo.method.answer_extraction import extract_answer, read_number
from selfevo.method.prompts import parse_verdict
from selfevo.method.protocols import Model, Sampling
from selfevo.method.records import Critiqued, Drafted, Example, Refined, content_id
from selfevo.method.skills import CRITIQUE, REFINE, RESPOND
from selfevo.method.training_examples import answer_examples
from selfevo.method.verdicts import Verdict
from selfevo.report.progress import Live
from selfevo.report.terminal import console
from selfevo.rundir.atomic_files import hash_model, write_atomic
from selfevo.rundir.ownership import locked
from selfevo.rundir.workspace import Workspace
from selfevo.statistics import wilson
from selfevo.tasks.base import Problem
from selfevo.tasks.word_problems import WordProblems
from selfevo.teachers.base import Teacher
from selfevo.teachers.oracle import OracleTeacher
from selfevo.trainers.sft import TRLTrainer

ANNOTATORS = ("oracle", "verdict", "gold", "own", "self", "long")
NO_ANNOTATOR = ("sft", "sft-long")  # for comparison: the model learns its own right answers alone, short or at length


@dataclass(frozen=True, slots=True)
class Records:
    """What was recorded on the labelled problems: usable texts by prompt id."""

    right: dict[str, list[str]]
    wrong: dict[str, list[str]]
    rewritten: dict[str, str]
    long: dict[str, list[str]]
    refinement: str

    @staticmethod
    def of(task: WordProblems, labelled: Sequence[Problem], output: Path, refinement: str = "own") -> Records:
        samples = read(output / "samples.jsonl")
        right, wrong, long = {}, {}, {}

        def usable(name: str) -> dict[str, str]:
            answered = {problem.prompt.id: problem for problem in labelled}
            texts = {s.id: s.text.strip() for s in read(output / name) if s.usable and s.id in answered}
            return {id: text for id, text in texts.items() if task.is_correct(answered[id], text)}

        at_length = [s for s in read(output / "long.jsonl") if s.finish == "stop"]
        for problem in labelled:
            own = [s.text.strip() for s in samples if s.id == problem.prompt.id and s.usable]
            texts = list(dict.fromkeys(own))
            right[problem.prompt.id] = [text for text in texts if task.is_correct(problem, text)]
            wrong[problem.prompt.id] = [text for text in texts if not task.is_correct(problem, text)]
            whole = [s.text.strip() for s in at_length if s.id == problem.prompt.id]
            long[problem.prompt.id] = [text for text in whole if task.is_correct(problem, text)]
        return Records(right, wrong, usable("rewritten.jsonl"), long, refinement)

    def solution(self, task: WordProblems, problem: Problem) -> str:
        """The refinement of a wrong response."""
        long = self.long[problem.prompt.id][:1]
        if self.refinement == "working" and long:
            return f"{long[0]}\n#### {problem.answer}"
        short = [short_form(text, problem.answer) for text in long if self.refinement == "short"]
        return next(filter(None, [*short, *self.workings(problem.prompt.id)]), task.solution(problem))

    def workings(self, id: str, annotator: str = "own") -> list[str]:
        """Right solutions in the model's own words: those it found itself, then the one it wrote with the gold one in
        view. "self" is the latter alone, "long" begins with those found at length, "gold" has none: the gold solution
        stands in where there is no other."""
        found = self.right[id] if annotator == "own" else self.long[id] if annotator == "long" else []
        return [*found, *([self.rewritten[id]] if id in self.rewritten and annotator != "gold" else [])]


def answers_of(labelled: Sequence[Problem], found: dict[str, list[str]]) -> list[Refined]:
    """An answer to learn for each labelled problem of which the model has found one: other people's words, even
    nearly its own, cost it accuracy."""
    solved = [(p.prompt, found[p.prompt.id][0]) for p in labelled if found[p.prompt.id]]
    return [Refined(prompt.id, prompt.prompt, text, "", text) for prompt, text in solved]


def d_meta(annotator: str, task: WordProblems, labelled: Sequence[Problem], records: Records) -> list[Refined]:
    """Up to two right and two wrong responses to each problem, as far as there are; the same ones, and the same
    refinements, for every annotator: only the feedback differs."""
    problems = {problem.prompt.id: problem for problem in labelled}
    teacher: Teacher
    if annotator not in ("oracle", "verdict"):
        teacher = WorkedTeacher(task, problems, {id: records.workings(id, annotator) for id in problems})
    else:
        teacher = OracleTeacher(task, problems)
    rows = []
    for problem in labelled:
        id, text = problem.prompt.id, problem.prompt.prompt
        if not records.long[id]:
            continue  # "long" would teach to cut corners with a short working, and the others are given the same rows
        solution = records.solution(task, problem)
        drafts = [Drafted(id, text, response) for response in (*records.right[id][:2], *records.wrong[id][:2])]
        for batch in teacher.annotate(drafts):
            for position, note in batch:
                draft, feedback = drafts[position], note.feedback
                if annotator == "verdict":
                    feedback = feedback.splitlines()[-1]
                right = task.is_correct(problem, draft.response)
                rows.append(Refined(id, text, draft.response, feedback, draft.response if right else solution))
    return rows


def skill_examples(rows: Sequence[Refined]) -> list[Example]:
    """L_meta without the refinement of qualified responses, which repeats them: half of the examples teaching to copy,
    the model copied always, whatever its feedback said."""
    examples = []
    for row in rows:
        turns: tuple[str, ...] = (*prompts.critique(row, row.response), row.feedback)
        weights: tuple[float, ...] = (0.0, 1.0)
        if parse_verdict(row.feedback) is Verdict.NOT_QUALIFIED:
            turns, weights = (*turns, prompts.REFINE, row.refinement), (0.0, 1.0, 1.0)
        examples.append(Example(content_id(turns, weights, "skills"), turns, weights, "skills"))
    return examples


def recorded_set(
    task: WordProblems, recorded: Sequence[Problem], output: Path, most: int
) -> list[tuple[Drafted, Problem, bool]]:
    """As many right as wrong answers, up to `most` of each, to the recorded problems, in an order that is theirs."""
    problems = {problem.prompt.id: problem for problem in recorded}
    drafts: dict[tuple[str, str], bool] = {}
    for each in read(output / "samples.jsonl"):
        if each.id in problems and each.usable:
            drafts[each.id, each.text.strip()] = task.is_correct(problems[each.id], each.text)
    groups = [[key for key, right in drafts.items() if right is wanted] for wanted in (True, False)]
    for group in groups:
        random.Random(SEED).shuffle(group)
    size = min(most, *map(len, groups))
    chosen = [key for group in groups for key in group[:size]]
    return [(Drafted(id, problems[id].prompt.prompt, text), problems[id], drafts[id, text]) for id, text in chosen]


def criticise(
    workspace: Workspace, model: Model, task: WordProblems, answers: list[tuple[Drafted, Problem, bool]]
) -> dict[str, Any]:
    """What the critic says of the recorded answers, and what becomes of them."""
    runner = workspace.runner("recorded", model)
    feedbacks = runner.generations(CRITIQUE, [draft for draft, _, _ in answers])
    verdicts = [parse_verdict(g.text) if g.finish == "stop" else Verdict.UNKNOWN for g in feedbacks]
    doubtful = [i for i, verdict in enumerate(verdicts) if verdict is Verdict.NOT_QUALIFIED]
    critiqued = [Critiqued(d.id, d.prompt, d.response, feedbacks[i].text) for i in doubtful for d in (answers[i][0],)]
    refined = dict(zip(doubtful, runner.generations(REFINE, critiqued), strict=True))
    figures: dict[str, Any] = {}
    for name, wanted in (("right", True), ("wrong", False)):
        own = [i for i, (_, _, right) in enumerate(answers) if right is wanted]
        count = Counter(verdicts[i].value for i in own)
        worked = [i for i in own if "Compare:" in feedbacks[i].text]
        figures[name] = {
            "answers": len(own),
            **{verdict.value: count[verdict.value] for verdict in Verdict},
            "right_afterwards": sum(
                task.is_correct(answers[i][1], refined[i].text) and refined[i].finish == "stop"
                if i in refined
                else wanted
                for i in own
            ),
            # The critic's own result, where it works one out.
            "worked": len(worked),
            "worked_right": sum(
                extract_answer(feedbacks[i].text.partition("Compare:")[2].partition(",")[0])
                == read_number(answers[i][1].answer)
                for i in worked
            ),
        }
    right, wrong = figures["right"], figures["wrong"]
    hits, rejected = right["qualified"] / right["answers"], wrong["not qualified"] / wrong["answers"]
    return figures | {
        "balanced_accuracy": (hits + rejected) / 2,
        "hits_ci": wilson(right["qualified"], right["answers"]),
        "rejected_ci": wilson(wrong["not qualified"], wrong["answers"]),
        "feedback_tokens": sum(g.new_tokens for g in feedbacks) / len(feedbacks),
    }


def train(options: argparse.Namespace, task: WordProblems) -> None:
    labelled, recorded, measured = problems_of(task, sizes_of(options), options.problems)
    records = Records.of(task, labelled, options.output, options.refinement)
    skilled = options.annotator in ANNOTATORS
    rows = d_meta(options.annotator, task, labelled, records) if skilled else []
    verdicts = Counter(parse_verdict(row.feedback).value for row in rows)
    print(f"{options.annotator}: {len(rows)} rows, {dict(verdicts)}", flush=True)
    base = Model("base", options.model, hash_model(options.model))
    root = options.output / (options.name or options.annotator)
    config = TrainerConfig(
        learning_rate=options.rate,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.rows,
        gradient_accumulation_steps=options.accumulate,
        max_length=768,
        lora=LoraSettings(r=32, lora_alpha=32),
    )
    limits = {
        RESPOND.name: options.respond_tokens,
        CRITIQUE.name: options.critique_tokens,
        REFINE.name: options.refine_tokens,
    }
    with locked(root):
        workspace = Workspace(
            root=root,
            engine=TransformersEngine(batch_size=options.batch, kv_cache_gib=options.kv_cache_gib),
            trainer=lambda name: TRLTrainer(config),
            sampling={name: Sampling(limit) for name, limit in limits.items()},
            seed=SEED,
            progress=Live(console),
        )
        workspace.save_rows("d_meta", rows)
        answers = records.long if options.annotator == "sft-long" else records.right
        lessons = skill_examples(rows) + answer_examples(answers_of(labelled, answers), options.beta)
        model = workspace.train("meta", base, lessons)
        if options.train_only:  # the memory of training goes back with its process
            return
        drafts = recorded_set(task, recorded, options.output, options.answers)
        results: dict[str, Any] = {"annotator": options.annotator, "labels": len(labelled), "rows": dict(verdicts)}
        results["recorded"] = criticise(workspace, model, task, drafts)
        if measured:
            results["measured"] = summarise_outcomes(
                "meta", measure(workspace.runner("measured", model), task, measured), 0
            ).model_dump()
        results["minutes"] = workspace.seconds("") / 60
        write_atomic(root / "results.json", json.dumps(results, indent=2))
        print(json.dumps(results["recorded"], indent=1))
        if measured:
            print(json.dumps(results["measured"]))
        print(f"{results['minutes']:.1f} minutes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("sample", "rewrite", "long", "train"))
    for name in ("model", "data", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--annotator", choices=(*ANNOTATORS, *NO_ANNOTATOR), default="own")
    parser.add_argument("--name", help="of the run's folder in --output; by default the annotator's")
    parser.add_argument("--problems", type=int, default=0)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--rate", type=float, default=2e-4)
    parser.add_argument("--rows", type=int, default=2, help="of a micro-batch")
    parser.add_argument("--accumulate", type=int, default=2)
    parser.add_argument("--refinement", choices=("own", "short", "working"), default="own")
    parser.add_argument("--respond-tokens", type=int, default=200)
    parser.add_argument("--refine-tokens", type=int, default=220)
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--critique-tokens", type=int, default=260)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--labels", type=int, default=96)
    parser.add_argument("--recorded", type=int, default=240)
    parser.add_argument("--answers", type=int, default=40, help="recorded, to criticise: of each kind")
    parser.add_argument("--kv-cache-gib", type=float, default=0.5)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    options.output.mkdir(parents=True, exist_ok=True)
    task = WordProblems("gsm8k", options.data)
    if options.command == "train":
        train(options, task)
        return
    model, sizes = options.model.resolve(), sizes_of(options)
    if options.command == "long":
        at_length(model, task, options.output, sizes, options.problems)
    else:
        {"sample": sample, "rewrite": rewrite}[options.command](model, task, options.output, sizes)


def sizes_of(options: argparse.Namespace) -> Sizes:
    return Sizes(options.labels, options.recorded, options.batch)


if __name__ == "__main__":
    main()
