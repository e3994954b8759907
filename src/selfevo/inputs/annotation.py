"""D_meta: the model that will learn answers, an annotator criticises and refines.

Every response that is annotated is on disk with what became of it, in stages/d_meta/annotate.jsonl; those that came
back whole are data/d_meta.jsonl, which any run can take as `corpus.path`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeVar

from selfevo.config.run_config import RunConfig
from selfevo.config.sections import AblationConfig
from selfevo.config.sources import CorpusConfig, FileCorpus, PromptsCorpus, TaskCorpus
from selfevo.errors import ConfigError, DataError
from selfevo.method.names import WARM_UP
from selfevo.method.prompts import ENGLISH, Wording
from selfevo.method.protocols import Model, Sampling
from selfevo.method.records import Drafted, Example, Prompt, Refined, as_row, content_id, extended
from selfevo.method.skills import RESPOND
from selfevo.method.thinking import spoken
from selfevo.method.training_examples import answer_examples
from selfevo.method.verdicts import Verdict
from selfevo.rundir.atomic_files import read_counts, read_rows
from selfevo.rundir.inspect import lost_rows
from selfevo.rundir.layout import Layout, done
from selfevo.rundir.stage_file import StageFile
from selfevo.rundir.workspace import Stored, Workspace
from selfevo.tasks.base import AnnotatedTask, Problem
from selfevo.teachers.base import Annotation, Teacher

FOLDER = "d_meta"
STAGE = f"{FOLDER}/annotate"
AnyPrompt = TypeVar("AnyPrompt", bound=Prompt)


def to_be_annotated(config: RunConfig) -> TaskCorpus | PromptsCorpus:
    """The corpus that an annotator has to write. Raises ConfigError if there is none."""
    if config.corpus is None:
        raise ConfigError("corpus is missing, so there is nothing to annotate; give corpus.task or corpus.prompts")
    if isinstance(config.corpus, FileCorpus):
        raise ConfigError("corpus.path is annotated already; give corpus.task or corpus.prompts instead")
    return config.corpus


def annotate(
    workspace: Workspace,
    base: Model,
    corpus: TaskCorpus | PromptsCorpus,
    prompts: Sequence[Prompt],
    teacher: Teacher,
    task: AnnotatedTask | None,
    problems: Mapping[str, Problem],
) -> list[Refined]:
    """The rows of D_meta for `prompts`. Raises DataError when not one of them could be annotated."""
    drafts = list(_chosen(workspace, base, corpus, prompts, task, problems))
    path = workspace.layout.stage(FOLDER, "annotate")

    def line(draft: Drafted, result: Mapping[str, Any]) -> dict[str, Any]:
        row = as_row(Refined(**as_row(draft), feedback=result["feedback"], refinement=result["refinement"]))
        return {**row, "status": "quarantined" if result["reason"] else "ok", **result}

    def work(window: Mapping[str, Drafted], done: Mapping[str, Any]) -> Iterator[tuple[dict[str, dict[str, Any]], str]]:
        owed = [key for key in window if key not in done]
        dollars, started = 0.0, time.monotonic()
        for batch in teacher.annotate([window[key] for key in owed]):
            annotations = [annotation for _, annotation in batch]
            dollars += sum(annotation.dollars for annotation in annotations)
            rows = {owed[position]: _stated(annotation, workspace.wording) for position, annotation in batch}
            yield rows, f"${dollars:.2f}" if dollars else ""
            now = time.monotonic()
            workspace.event("rows", stage=STAGE, seconds=now - started, rows=len(annotations))
            started = now

    shared = [root / path.relative_to(workspace.root) for root in workspace.shared]
    StageFile(path, teacher.key, line, shared=shared).fill(drafts, work, workspace.progress)
    rows = list(Stored(path, Refined, read_counts(done(path))["out"]))
    if not rows:
        reasons = Counter(row["reason"] for row in read_rows(path))
        raise DataError(
            f"not one of {len(drafts)} responses was annotated: "
            + "; ".join(f"{count} times {reason}" for reason, count in reasons.most_common(3))
            + f"; the replies are in {path}; delete {path.parent} to have them asked again with other settings"
        )
    return rows


def unannotated(layout: Layout, corpus: CorpusConfig | None) -> tuple[int, Counter[str]]:
    """Of the responses that were to be annotated in a run: their number, and the reasons of those that gave no row.

    Without a task each prompt has one response, which may be incomplete. (0, none) if the corpus is read from a file.
    """
    path = layout.stage(FOLDER, "annotate")
    if corpus is None or isinstance(corpus, FileCorpus) or not done(path).exists():
        return 0, Counter()
    responses = layout.stage(f"{FOLDER}-1", RESPOND.name)
    asked = responses if isinstance(corpus, PromptsCorpus) else path
    return read_counts(done(asked))["in"], lost_rows(*dict.fromkeys((asked, path)))


def taken(rows: Sequence[AnyPrompt], share: float, seed: int) -> list[AnyPrompt]:
    """The rows of a share of the prompts. Which they are hangs on their ids and the seed: half holds the quarter."""
    ids = sorted({row.id for row in rows}, key=lambda each: content_id(seed, "share", each))
    chosen = set(ids[: max(1, round(share * len(ids)))])
    return [row for row in rows if row.id in chosen]


def altered(rows: Sequence[Refined], ablation: AblationConfig, seed: int, wording: Wording = ENGLISH) -> list[Refined]:
    """D_meta as it is used: with some verdicts turned round, or without words, as ablations ask.

    Which rows are changed hangs on their ids and the seed.
    """
    by_chance = sorted(rows, key=lambda row: content_id(seed, "flipped", row.id, row.response))
    flipped = {(row.id, row.response) for row in by_chance[: round(ablation.flipped_verdicts * len(rows))]}
    result = []
    for row in rows:
        is_flipped = (row.id, row.response) in flipped
        feedback = row.feedback.strip()
        if is_flipped or ablation.verdict_only:
            qualified = (wording.parse(feedback) is Verdict.QUALIFIED) != is_flipped
            words = "" if ablation.verdict_only else wording.without_verdict(feedback)
            feedback = f"{words}\n{wording.line(Verdict.QUALIFIED if qualified else Verdict.NOT_QUALIFIED)}".strip()
        result.append(replace(row, feedback=feedback))
    return result


def _stated(annotation: Annotation, wording: Wording) -> dict[str, Any]:
    """With the verdict in the words of the run; tasks of this package give it in English. Checked if it has none."""
    feedback, reason = wording.restated(annotation.feedback), annotation.reason
    if not reason and wording.parse(feedback) is Verdict.UNKNOWN:
        reason = "the feedback has no readable verdict"
    if not reason and not annotation.refinement.strip():
        reason = "the refinement is empty"
    return {**asdict(annotation), "feedback": feedback, "reason": reason}


def _chosen(
    workspace: Workspace,
    base: Model,
    corpus: TaskCorpus | PromptsCorpus,
    prompts: Sequence[Prompt],
    task: AnnotatedTask | None,
    problems: Mapping[str, Problem],
) -> Iterator[Drafted]:
    """The responses worth annotating. Where answers are known, a right and a wrong one for each prompt.

    An untrained base model may not answer in the right form at all, and feedback on that teaches little. So a
    throw-away model first learns from the gold solutions of a share of the labels; on that share it is mostly right,
    on the rest mostly wrong, and D_meta gets both. No label is spent twice: SFT is given the same ones.
    """
    author, samples = base, 1
    if task is not None and isinstance(corpus, TaskCorpus):
        samples = corpus.samples_per_prompt
        taught = random.Random(workspace.seed).sample(prompts, round(len(prompts) * corpus.warmup_share))
        lessons = gold_examples(task, [problems[prompt.id] for prompt in taught])
        author = workspace.train(WARM_UP, base, lessons) if lessons else base
    limit = workspace.sampling[RESPOND.name].max_new_tokens
    warm = {RESPOND.name: Sampling(limit, corpus.temperature)}
    drafts: dict[str, dict[str, Drafted]] = {prompt.id: {} for prompt in prompts}
    for sample in range(samples):
        for draft in workspace.runner(f"{FOLDER}-{sample + 1}", author, warm).generate(RESPOND, prompts):
            heard = replace(draft, response=spoken(draft.response))  # an annotator never sees thinking
            drafts[draft.id].setdefault(heard.response, heard)
    for prompt in prompts:
        if task is None:
            yield from drafts[prompt.id].values()
            continue
        problem = problems[prompt.id]
        right = [d for d in drafts[prompt.id].values() if task.is_correct(problem, d.response)]
        wrong = [d for d in drafts[prompt.id].values() if not task.is_correct(problem, d.response)]
        # One of each: a critic that has seen six wrong answers for a right one learns to always say no. Where no
        # sample was right, the gold solution stands in, as the answer the model will give once it has learnt.
        yield right[0] if right else _solved(task, problem)
        yield from wrong[:1]


def gold_examples(task: AnnotatedTask, problems: Iterable[Problem]) -> list[Example]:
    """Pairs of prompt and gold solution, for plain fine-tuning."""
    solved = [_solved(task, problem) for problem in problems]
    return answer_examples(Refined(**as_row(draft), feedback="", refinement=draft.response) for draft in solved)


def _solved(task: AnnotatedTask, problem: Problem) -> Drafted:
    return extended(Drafted, problem.prompt, task.solution(problem))
