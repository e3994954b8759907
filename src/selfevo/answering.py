"""Stage 3, inference: a trained model answers, criticises itself and refines, with the skills it was trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from selfevo.answers import answer_key, vote
from selfevo.errors import ConfigError
from selfevo.prompts import Verdict, parse_verdict
from selfevo.protocols import Engine, Request, Sampling, generate_all
from selfevo.records import Critiqued, Drafted, Prompt, content_id
from selfevo.skills import CRITIQUE, REFINE, RESPOND, Skill

When = Literal["never", "if-judged-wrong", "always"]
In = TypeVar("In", bound=Prompt)
Out = TypeVar("Out", bound=Prompt)


@dataclass(frozen=True, slots=True)
class Step:
    """One draft on the way to an answer. `feedback` is "" where nobody asked for any."""

    text: str
    feedback: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Answer:
    """`text` is "" where the model gave none, or its prompt does not fit the context.

    `votes` of the samples agree with it. `work`: the drafts of each sample, the last of each is what it voted for.
    """

    prompt: str
    text: str
    verdict: Verdict
    votes: int
    work: tuple[tuple[Step, ...], ...]


class Refiner:
    """Answers prompts with one model, refining its own answers.

        refiner = Refiner("runs/demo-seed0/models/round-3")
        [answer] = refiner.answer(["Add 4 to each: 15 48 32"])
        print(answer.text, answer.verdict)

    `refine`: "if-judged-wrong" replaces an answer only if the feedback's verdict is "not qualified" (one that cannot be
    read says nothing), "always" whatever it says, "never" not at all. `rounds`: refinements in a row at most.
    `consistency`: samples whose majority is the answer; ties go to the better verdicts. `key` says which texts are the
    same answer. With consistency 1 decoding is greedy, else the responses are sampled at `temperature`.

    Raises ConfigError when the model is not there, EngineError when it cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        refine: When = "if-judged-wrong",
        rounds: int = 1,
        consistency: int = 1,
        temperature: float = 0.7,
        max_new_tokens: int = 256,
        seed: int = 0,
        key: Callable[[str], str] = answer_key,
        engine: Engine | None = None,
    ) -> None:
        if refine not in ("never", "if-judged-wrong", "always"):
            raise ConfigError(f"refine is {refine!r}; give never, if-judged-wrong or always")
        if rounds < 1 or consistency < 1:
            raise ConfigError(f"rounds is {rounds} and consistency {consistency}; give 1 or more of each")
        from selfevo.launch import build_engine, resolve_model  # here: they load torch

        self.model, self.engine = resolve_model(str(model)), engine or build_engine()
        self.refine, self.rounds, self.consistency, self.seed, self.key = refine, rounds, consistency, seed, key
        self.greedy = Sampling(max_new_tokens)
        self.sampling = replace(self.greedy, temperature=temperature if consistency > 1 else 0.0)

    def answer(self, prompts: Iterable[str]) -> list[Answer]:
        """One answer per prompt, in order."""
        asked = [Prompt.of(text) for text in prompts]
        rows = [prompt for prompt in asked for _ in range(self.consistency)]
        texts = self._ask(RESPOND, rows, self.sampling)
        work: list[list[Step]] = [[Step(text, "", Verdict.UNKNOWN)] for text in texts]
        going = [i for i, text in enumerate(texts) if text and self.refine != "never"]
        for _ in range(self.rounds):
            self._criticise(rows, work, going)
            going = [i for i in going if self.refine == "always" or work[i][-1].verdict is Verdict.NOT_QUALIFIED]
            going = self._improve(rows, work, going)
        unsure = [i for i, steps in enumerate(work) if steps[-1].text and not steps[-1].feedback]
        if self.refine == "never":  # then a verdict is only worth its price where the votes are even
            unsure = [i for i in unsure if self._is_tied(work, i // self.consistency)]
        self._criticise(rows, work, unsure)
        k = self.consistency
        return [self._elect(prompt, work[i * k : (i + 1) * k]) for i, prompt in enumerate(asked)]

    def _is_tied(self, work: Sequence[list[Step]], number: int) -> bool:
        samples = work[number * self.consistency : (number + 1) * self.consistency]
        counts = Counter(self.key(steps[-1].text) for steps in samples if steps[-1].text).most_common(2)
        return len(counts) == 2 and counts[0][1] == counts[1][1]

    def _criticise(self, rows: Sequence[Prompt], work: list[list[Step]], which: Sequence[int]) -> None:
        drafts = [Drafted(rows[i].id, rows[i].prompt, work[i][-1].text) for i in which]
        for i, feedback in zip(which, self._ask(CRITIQUE, drafts, self.greedy), strict=True):
            work[i][-1] = Step(work[i][-1].text, feedback, parse_verdict(feedback))

    def _improve(self, rows: Sequence[Prompt], work: list[list[Step]], which: Sequence[int]) -> list[int]:
        """Refines; returns which came back with a text. The others keep what they had."""
        lasts = [work[i][-1] for i in which]
        drafts = [
            Critiqued(rows[i].id, rows[i].prompt, last.text, last.feedback)
            for i, last in zip(which, lasts, strict=True)
        ]
        refined = dict(zip(which, self._ask(REFINE, drafts, self.greedy), strict=True))
        for i, text in refined.items():
            if text:
                work[i].append(Step(text, "", Verdict.UNKNOWN))
        return [i for i, text in refined.items() if text]

    def _elect(self, prompt: Prompt, samples: Sequence[list[Step]]) -> Answer:
        lasts = [steps[-1] for steps in samples]
        keys = [self.key(last.text) for last in lasts]
        elected = vote(keys, [last.verdict for last in lasts])
        chosen = lasts[elected]
        return Answer(prompt.prompt, chosen.text, chosen.verdict, keys.count(keys[elected]), tuple(map(tuple, samples)))

    def _ask(self, skill: Skill[In, Out], rows: Sequence[In], sampling: Sampling) -> list[str]:
        """What the model says, "" where it did not come to an end."""
        requests = [
            Request(skill.turns(row), int(content_id(self.seed, skill.name, i, row.id), 16))
            for i, row in enumerate(rows)
        ]
        generations = generate_all(self.engine, self.model, requests, sampling)
        return [generation.text if generation.finish == "stop" else "" for generation in generations]
