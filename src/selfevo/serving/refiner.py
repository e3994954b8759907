"""Inference with a trained model: it answers, criticises its answer and refines it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from selfevo.data.conversations import read_prompt, text_fault
from selfevo.errors import ConfigError, DataError
from selfevo.method.answer_extraction import answer_key
from selfevo.method.inference import Draft, When, answer, criticise, elect
from selfevo.method.prompts import Wording
from selfevo.method.protocols import Engine, Finish, Generation, generate_all
from selfevo.method.records import Prompt, Turns, content_id, under
from selfevo.method.skills import RESPOND, Skill
from selfevo.method.thinking import recorded
from selfevo.method.verdicts import Verdict
from selfevo.models.resolve import resolve_model
from selfevo.pipeline.build import build_engine, build_sampling, run_system, thinking_of
from selfevo.rundir.inspect import wording_of


@dataclass(frozen=True, slots=True)
class Step:
    """One draft on the way to an answer, as it was written, whole or not.

    `finish` is "stop" for a whole text; else why it ended: "length" (cut at max_new_tokens),
    "overlong" (the prompt does not fit the context), "empty" or "failed" (no reply of a server).
    `feedback` is "" and its finish None if none was asked for. `refinement` is one that was asked
    for and did not come whole; the draft then stays.
    """

    text: str
    finish: Finish
    feedback: str
    feedback_finish: Finish | None
    verdict: Verdict
    refinement: str = ""
    refinement_finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one prompt.

    `text` is "" unless the answer is whole, that is `finish` is "stop". `partial` is what there is
    of one that is not whole. `votes` is the number of samples that agree with it. `work` holds the
    drafts of each sample; the last one is the vote of the sample.
    """

    prompt: str
    text: str
    finish: Finish
    partial: str
    verdict: Verdict
    votes: int
    work: tuple[tuple[Step, ...], ...]
    system: str = ""
    history: Turns = ()


class Refiner:
    """Answers prompts with one model, refining its own answers.

        refiner = Refiner("runs/demo-seed0/models/round-3")
        [answer] = refiner.answer(["Add 4 to each: 15 48 32"])
        print(answer.text, answer.verdict)

    `refine`: "if-judged-wrong" refines an answer only if its verdict is "not qualified" (an
    unreadable verdict does not count), "always" refines every answer, "never" none. `rounds` is the
    most refinements in a row.

    `consistency` is the number of samples; their majority is the answer, and ties go to the better
    verdicts. Texts with the same `key` are the same answer. With consistency 1 decoding is greedy,
    else responses are sampled at `temperature`.

    `system` is the system prompt of prompts that have none; by default that of the run that made the
    model.

    `max_new_tokens` limits each text. By default each skill has the limit of the run that made the
    model, or of `selfevo run`.

    `wording` holds the words that the model is asked with, by default those it was trained with.

    Raises ConfigError if the model is not found, EngineError if it cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        refine: When = "if-judged-wrong",
        rounds: int = 1,
        consistency: int = 1,
        temperature: float = 0.7,
        max_new_tokens: int | None = None,
        system: str | None = None,
        seed: int = 0,
        key: Callable[[str], str] = answer_key,
        wording: Wording | None = None,
        engine: Engine | None = None,
    ) -> None:
        if refine not in get_args(When):
            raise ConfigError(f"refine is {refine!r}; use never, if-judged-wrong or always")
        if rounds < 1 or consistency < 1:
            raise ConfigError(f"rounds is {rounds} and consistency {consistency}; give 1 or more of each")
        if consistency > 1 and not 0 < temperature < math.inf:
            raise ConfigError(
                f"temperature is {temperature}; consistency above 1 needs a finite one above 0, or all the samples are "
                "the same"
            )
        if seed < 0:
            raise ConfigError(f"seed is {seed}; give 0 or more")
        if system and system.strip() and (fault := text_fault(system)):
            raise ConfigError(f"system {fault}; correct it, or leave it out")
        self.model = resolve_model(str(model))
        self.engine = engine or build_engine()
        self.refine, self.rounds, self.consistency, self.key = refine, rounds, consistency, key
        self.temperature, self.seed = temperature, seed
        self.wording = wording or wording_of(self.model)
        self.sampling = build_sampling(self.model, max_new_tokens)
        self.system = run_system(self.model) if system is None else system
        self.thinking = thinking_of(self.model)

    def answer(self, prompts: Sequence[str | Prompt | Sequence[Mapping[str, Any]]]) -> list[Answer]:
        """One answer per prompt, in order. A prompt is a text, a conversation as a list of messages
        ({"role": ..., "content": ...}), or a `Prompt`.

        Raises DataError for a conversation that cannot be asked.
        """
        if isinstance(prompts, str):
            raise ConfigError(f"prompts is the text {prompts[:40]!r}; give a list of prompts, [{prompts[:10]!r}...]")
        asked = [under(_prompt(prompt, place), self.system) for place, prompt in enumerate(prompts, start=1)]
        samples = self._samples(asked)
        elected = elect(
            self._ask, asked, [[drafts[-1] for drafts in several] for several in samples], self.key, self.wording
        )
        if self.refine != "never":  # an answer with feedback also has a verdict
            elected = self._with_verdict(asked, elected)
        return [
            self._answer(prompt, several, position, draft)
            for prompt, several, (position, draft) in zip(asked, samples, elected, strict=True)
        ]

    def _samples(self, prompts: Sequence[Prompt]) -> list[list[tuple[Draft, ...]]]:
        """For each prompt: the drafts of each sample."""
        count = self.consistency
        rows = [
            replace(prompt, id=prompt.id if not number else content_id(prompt.id, number))
            for prompt in prompts
            for number in range(count)
        ]
        drafts = answer(self._ask, rows, self.refine, self.rounds, wording=self.wording)
        return [drafts[i : i + count] for i in range(0, len(drafts), count)]

    def _with_verdict(self, prompts: Sequence[Prompt], elected: Sequence[tuple[int, Draft]]) -> list[tuple[int, Draft]]:
        open_ = [i for i, (_, draft) in enumerate(elected) if draft.feedback is None]
        judged = criticise(self._ask, [prompts[i] for i in open_], [elected[i][1] for i in open_], self.wording)
        found = dict(zip(open_, judged, strict=True))
        return [(position, found.get(i, draft)) for i, (position, draft) in enumerate(elected)]

    def _answer(self, prompt: Prompt, samples: Sequence[tuple[Draft, ...]], position: int, draft: Draft) -> Answer:
        keys = [self.key(drafts[-1].text) for drafts in samples]
        work = [[_step(each) for each in drafts] for drafts in samples]
        work[position][-1] = _step(draft)
        votes = keys.count(keys[position])
        return Answer(
            prompt=prompt.prompt,
            text=draft.text,
            finish=draft.generation.finish,
            partial="" if draft.text else draft.generation.text,
            verdict=draft.verdict,
            votes=votes,
            work=tuple(map(tuple, work)),
            system=prompt.system,
            history=prompt.history,
        )

    def _ask(self, skill: Skill[Any, Any], rows: Sequence[Any]) -> list[Generation]:
        sampling = self.sampling[skill.name]
        if skill is RESPOND and self.consistency > 1:
            sampling = replace(sampling, temperature=self.temperature)
        seeds = [int(content_id(self.seed, skill.name, row.id), 16) for row in rows]
        requests = [skill.request(row, seed, self.wording) for row, seed in zip(rows, seeds, strict=True)]
        found = generate_all(self.engine, self.model, requests, sampling)
        return [replace(each, text=recorded(each.text, self.thinking)) for each in found]


def _prompt(given: str | Prompt | Sequence[Mapping[str, Any]], place: int) -> Prompt:
    if isinstance(given, str):
        return Prompt.of(given)
    if isinstance(given, Prompt):
        return given
    if isinstance(given, Mapping):
        raise ConfigError("prompts is one conversation; give a list of conversations, [[{...}, {...}]]")
    read = read_prompt({"messages": given})
    if isinstance(read, str):
        raise DataError(f"prompt {place}: {read}")
    return read


def _step(draft: Draft) -> Step:
    text, feedback, refinement = draft.generation, draft.feedback, draft.refinement
    return Step(
        text=text.text,
        finish=text.finish,
        feedback=feedback.text if feedback else "",
        feedback_finish=feedback.finish if feedback else None,
        verdict=draft.verdict,
        refinement=refinement.text if refinement else "",
        refinement_finish=refinement.finish if refinement else None,
    )
