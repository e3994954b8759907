"""Open-ended answers are compared by a judge: a model that sees an instruction and two answers, in both orders.

A comparison counts as a win only if the judge prefers the same answer in both orders; if its choice follows the order
instead, it flipped, and the comparison is a tie. Beside the raw win rate stands the length-controlled one: judges
prefer long answers, so the preference is modelled by length too, and read off at equal length.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from selfevo.data.conversations import read_prompt
from selfevo.data.tables import BadRow, read_table
from selfevo.errors import DataError, EngineError
from selfevo.method.normal_form import plain_characters
from selfevo.method.protocols import Engine, Generation, Request, Sampling, generate_all
from selfevo.method.records import Prompt, content_id
from selfevo.method.thinking import spoken, without_thinking
from selfevo.models.chat_template import messages
from selfevo.statistics import natural, wilson

BY = ("category", "difficulty")
Choice = Literal["first", "second", "tie", "unreadable", "no reply"]
_UNKNOWN = ("unreadable", "no reply")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One instruction, two answers, what the judge chose in each order ("first" is the answer it saw first), and its
    text. "tie": it finds both as good; "unreadable": it wrote something that names no choice, or was cut off; "no
    reply": it wrote nothing, a server failed, or the question was too long for it."""

    id: str
    prompt: str
    a: str
    b: str
    groups: Mapping[str, str]
    ab: Choice
    ba: Choice
    ab_text: str = ""
    ba_text: str = ""

    @property
    def score(self) -> float | None:
        """Of a: 1 it wins, 0 it loses, 0.5 a tie; None where a choice did not come or could not be read."""
        if self.ab in _UNKNOWN or self.ba in _UNKNOWN:
            return None
        outcomes = ({"first": 1.0, "second": 0.0}.get(self.ab, 0.5), {"first": 0.0, "second": 1.0}.get(self.ba, 0.5))
        # A win in one order and a tie in the other lean one way, so they count; a win and a loss do not.
        return 1.0 if sum(outcomes) > 1 else 0.0 if sum(outcomes) < 1 else 0.5

    @property
    def flipped(self) -> bool:
        return (self.ab, self.ba) in (("first", "first"), ("second", "second"))


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one instruction. `groups` are what results are split by, such as {"category": "writing"}."""

    prompt: str
    a: str
    b: str
    groups: Mapping[str, str] = field(default_factory=dict)


def compare_answers(
    engine: Engine, judge: Path, pairs: Sequence[Pair], max_new_tokens: int = 512, seed: int = 0
) -> list[Comparison]:
    """Has the judge compare each pair in both orders."""
    requests = [Request((text,), seed) for text in questions(pairs)]
    return comparisons_of(pairs, generate_all(engine, judge, requests, Sampling(max_new_tokens)))


def questions(pairs: Sequence[Pair]) -> list[str]:
    """What the judge is asked: two questions for each pair, one in each order."""
    return [
        question(pair.prompt, first, second) for pair in pairs for first, second in ((pair.a, pair.b), (pair.b, pair.a))
    ]


def comparisons_of(pairs: Sequence[Pair], generations: Sequence[Generation]) -> list[Comparison]:
    """The comparisons that the judge's replies to `questions` make."""
    choices = [_choice(generation) for generation in generations]
    return [
        Comparison(
            content_id(pair.prompt),
            pair.prompt,
            pair.a,
            pair.b,
            pair.groups,
            choices[2 * i],
            choices[2 * i + 1],
            generations[2 * i].text,
            generations[2 * i + 1].text,
        )
        for i, pair in enumerate(pairs)
    ]


def _choice(generation: Generation) -> Choice:
    if not generation.text.strip():
        return "no reply"
    return parse_choice(generation.text) if generation.finish == "stop" else "unreadable"


def read_pairs(a: str, b: str, column: str, questions: str = "", by: Sequence[str] = ()) -> tuple[list[Pair], int]:
    """The prompts that both files answer, and how many only one of them does.

    `by` are columns of `questions`, the file that was asked (by default `a`), in whatever case; without it, those of
    BY that are there. Raises DataError when no prompt is answered by both, a file answers a prompt twice, or a column
    of `by` is not there.
    """
    first, second = (_answers(source, column) for source in (a, b))
    asked = {row.prompt.id: row for row in _rows(questions or a)}
    columns = {name.lower() for row in asked.values() for name in row.values}
    if unknown := [name for name in by if name.lower() not in columns]:
        raise DataError(f"{questions or a} has no column {unknown[0]!r}; it has {', '.join(sorted(columns))}")
    both = [key for key in first if key in second]
    if not both:
        raise DataError(
            f"{a} and {b} answer no prompt in common; have both models answer the same file, with the same --system"
        )
    pairs = []
    for key in both:
        prompt, answer = first[key]
        row = asked.get(key) or asked.get(Prompt.of(prompt.prompt, history=prompt.history).id)  # --system added one
        found = {name.lower(): value for name, value in row.values.items()} if row else {}
        groups = {name: str(found[name.lower()]) for name in by or BY if found.get(name.lower()) not in (None, "")}
        pairs.append(Pair(shown(prompt), answer, second[key][1], groups))
    return pairs, len(first.keys() ^ second.keys())


def _answers(source: str, column: str) -> dict[str, tuple[Prompt, str]]:
    """Prompt and answer of each row, by the id of the prompt."""
    rows: dict[str, _Row] = {}
    for row in _rows(source):
        first = rows.setdefault(row.prompt.id, row)
        if first is not row:
            raise DataError(
                f"{row.place} answers the same prompt as {first.place}: {row.prompt.prompt[:60]!r} stands twice in the "
                "file; keep one of its answers"
            )
    return {key: (row.prompt, row.text(column)) for key, row in rows.items()}


def shown(prompt: Prompt) -> str:
    """The prompt as the judge sees it: its text, or the whole conversation as JSON."""
    said = messages(prompt.conversation[1:], prompt.system)
    return json.dumps(said, ensure_ascii=False) if len(said) > 1 else prompt.prompt


@dataclass(frozen=True, slots=True)
class _Row:
    prompt: Prompt
    place: str
    values: Mapping[str, Any]

    def text(self, column: str) -> str:
        """The answer, without the thinking before it."""
        if not isinstance(self.values.get(column), str):
            raise DataError(f"{self.place}: no text in column {column!r}; name it with --column")
        return spoken(self.values[column])


def _rows(source: str) -> Iterator[_Row]:
    for row in read_table(source):
        if isinstance(row, BadRow):
            raise DataError(f"{row.file} line {row.line}: {row.reason}; repair or remove it")
        prompt, place = read_prompt(row.values), f"{row.file} line {row.line}"
        if isinstance(prompt, str):
            raise DataError(f"{place}: {prompt}")
        yield _Row(prompt, place, row.values)


def question(prompt: str, first: str, second: str) -> str:
    """What the judge is asked. The answers stand between marks that no answer can contain."""
    mark = content_id(prompt, first, second)
    return QUESTION.format(mark=mark, prompt=prompt, first=first, second=second)


_CHOICES: dict[str, Choice] = {"a": "first", "b": "second", "tie": "tie", "c": "tie"}
_LINE = re.compile(
    r"(?:(?:the |my )?(?:final )?(?:choice|verdict|answer|decision)\W+)?"
    r"better\s*(?:answer|one)?\s*(?::|is\b)\s*(?:(?:answer|assistant)\s*)?[(\[\"']?(?P<choice>a|b|tie)[)\]\"']?",
    re.IGNORECASE,
)
_MARKED = re.compile(
    r"\[\[\s*(?:(?P<single>a|b|c|tie)|(?P<better>a|b)\s*>{1,2}\s*[ab]|(?P<worse>a|b)\s*<{1,2}\s*[ab]"
    r"|[ab]\s*=\s*[ab])\s*\]\]",
    re.IGNORECASE,
)
_ALONE = re.compile(r"(?:answer |assistant )?(?P<choice>a|b|tie)", re.IGNORECASE)


def parse_choice(text: str) -> Choice:
    """What a judge chose.

    Normal form: behind its thinking; lines without the marks of Markdown, of a list or a heading, and without a closing
    "." or "!". Grammar: the last line reads "Better: A", "B" or "tie" ("Better: Answer A" too), or ends in [[A]],
    [[B]], [[C]] for a tie, as MT-Bench has them, or [[A>B]]; or the whole reply is the letter. Another
    line that chooses must choose the same.
    """
    lines = [line for raw in without_thinking(text).splitlines() if (line := _bare(raw))]
    chosen = [choice for line in lines if (choice := _chosen(line))]
    if len(lines) == 1 and not chosen and (alone := _ALONE.fullmatch(lines[0])):
        return _CHOICES[alone["choice"].lower()]
    if not chosen or _chosen(lines[-1]) is None or len(set(chosen)) > 1:
        return "unreadable"
    return chosen[-1]


def _chosen(line: str) -> Choice | None:
    """The choice that a line announces; "unreadable" for one that announces some other thing."""
    if match := _LINE.fullmatch(line):
        return _CHOICES[match["choice"].lower()]
    marks = list(_MARKED.finditer(line))
    if marks and not line[marks[-1].end() :].strip(" .!"):
        return _marked(marks[-1]) if len({_marked(mark) for mark in marks}) == 1 else "unreadable"
    return "unreadable" if line.casefold().startswith("better:") else None


def _marked(mark: re.Match[str]) -> Choice:
    if mark["single"]:
        return _CHOICES[mark["single"].lower()]
    if mark["better"]:
        return _CHOICES[mark["better"].lower()]
    return _CHOICES[{"a": "b", "b": "a"}.get((mark["worse"] or "").lower(), "tie")]


def _bare(line: str) -> str:
    line = re.sub(r"[*_`#]+|-{3,}", "", " ".join(plain_characters(line).split()))
    line = re.sub(r"^(?:[-+\u2022] |[0-9]{1,3}[.)] )?", "", line.strip())
    return line.strip().removesuffix(".").removesuffix("!").strip()


@dataclass(frozen=True, slots=True)
class WinRates:
    """How often the judge prefers a, in shares of the comparisons that could be read. The rest are
    `unreadable`, or have `no_reply` to one of their questions.

    `win_rate`: wins, and half of the ties, with a 95 % interval. `length_controlled`: the same at equal length (see
    length_controlled). `flipped`: share in which the choice followed the order. `by`: win rates by column and group.
    """

    comparisons: int
    unreadable: int
    no_reply: int
    wins: int
    ties: int
    losses: int
    win_rate: float
    win_rate_ci: tuple[float, float]
    length_controlled: float
    flipped: float
    by: Mapping[str, Mapping[str, float]]


def summarise_comparisons(comparisons: Sequence[Comparison]) -> WinRates:
    """The win rates of a. Raises DataError when no choice could be read, EngineError when none came."""
    scored = [(c, c.score) for c in comparisons if c.score is not None]
    silent = sum("no reply" in (c.ab, c.ba) for c in comparisons)
    if not scored:
        if silent == len(comparisons):
            raise EngineError(f"the judge gave no reply in any of {silent} comparisons; see that its server answers")
        raise DataError(
            f"the judge's choice could not be read in any of {len(comparisons)} comparisons"
            + (f", in {silent} of which it gave no reply" if silent else "")
            + "; see its text with --output, or try another judge"
        )
    scores = [score for _, score in scored if score is not None]
    wins, ties = scores.count(1.0), scores.count(0.5)
    columns = list(dict.fromkeys(name for c in comparisons for name in c.groups))
    return WinRates(
        comparisons=len(comparisons),
        unreadable=len(comparisons) - len(scored) - silent,
        no_reply=silent,
        wins=wins,
        ties=ties,
        losses=scores.count(0.0),
        win_rate=sum(scores) / len(scores),
        win_rate_ci=wilson(wins + ties / 2, len(scores)),
        length_controlled=length_controlled(scores, [(len(c.a), len(c.b)) for c, _ in scored]),
        flipped=sum(c.flipped for c, _ in scored) / len(scored),
        by={
            column: {
                group: _share([s for c, s in scored if c.groups.get(column) == group and s is not None])
                for group in sorted({c.groups[column] for c in comparisons if column in c.groups}, key=natural)
            }
            for column in columns
        },
    )


def length_controlled(scores: Sequence[float], lengths: Sequence[tuple[int, int]]) -> float:
    """The win rate of a if both answers had the same length, in [0, 1].

    Fits log odds(a is preferred) = t + w * tanh(d / s) by logistic regression, d = len(a) - len(b) in characters and s
    its standard deviation, and returns the probability at d = 0. AlpacaEval 2's estimator (arXiv 2404.04475) without
    its term for the difficulty of each instruction. A ridge of 1e-2 on w keeps it finite where length decides all.
    """
    d = np.array([a - b for a, b in lengths], dtype=float)
    spread = d.std()
    y = np.array(scores, dtype=float)
    if spread == 0:
        return float(y.mean())
    x = np.stack([np.ones_like(d), np.tanh(d / spread)], axis=1)
    weights, ridge = np.zeros(2), np.diag([1e-4, 1e-2])
    for _ in range(50):  # Newton
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (p - y) + ridge @ weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x + ridge
        step = np.linalg.solve(hessian, gradient)
        weights = weights - np.clip(step, -4, 4)
        if np.abs(step).max() < 1e-9:
            break
    return 1 / (1 + math.exp(-weights[0]))


def same_family(judge: str, candidate: str) -> str | None:
    """The family that two model names share ("llama", "qwen", ...), a reason not to trust the judge; else None."""
    families = (_family(judge), _family(candidate))
    return families[0] if families[0] and families[0] == families[1] else None


_FAMILIES = """claude command deepseek falcon gemini gemma glm gpt granite grok kimi llama mistral mixtral nemotron olmo
opt phi pythia qwen smollm vicuna""".split()


def _family(name: str) -> str | None:
    words = re.split(r"[^a-z]+", name.casefold())
    return next((family for family in _FAMILIES if any(word.startswith(family) for word in words)), None)


def as_rows(comparisons: Sequence[Comparison]) -> list[Mapping[str, Any]]:
    """What is kept of each comparison."""
    return [{**asdict(c), "score": c.score, "flipped": c.flipped} for c in comparisons]


def _share(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores) if scores else math.nan


QUESTION = """Two assistants have answered the same instruction. Decide which answer is better: which
follows the instruction, is correct, and helps more. Their order and their length mean nothing.

[instruction {mark}]
{prompt}
[answer A {mark}]
{first}
[answer B {mark}]
{second}
[end {mark}]

Say in a few sentences what is good and bad in each. Then end with one line, which reads "Better: A", "Better: B" or
"Better: tie"."""
