"""Instructions that a program can check: words to use, an ending, a count, a list of lines.

As in IFEval (arXiv 2311.07911), the instruction states its demands and a program verifies them. So
the verdict is known although there is no single gold answer. The annotator's feedback compares, for
each demand, what is wanted with what the response has. It repeats the count of errors up to the
verdict, because a model learns a verdict better if the reason stands right before it
(experiments/notebook.md). The solution is the response with its errors corrected.

Only the form is checked. A text can meet every demand and say little.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from selfevo.errors import ConfigError
from selfevo.method.prompts import verdict_line
from selfevo.method.records import content_id
from selfevo.method.verdicts import Verdict
from selfevo.tasks.base import Problem
from selfevo.tasks.sampling import made

_TOPICS = """rain snow winter summer music bread coffee football school travel gardening fishing cooking painting
reading dancing money sleep friendship holidays traffic space history weather morning""".split()
_WORDS = """lamp river door bridge apple horse window letter mountain candle ship garden clock basket tower mirror
feather table island blanket forest ladder bottle pencil village kitchen harbor violin castle ticket""".split()
_ENDINGS = """every single day|in the old town|before the sun sets|with a warm smile|once in a while|all year round|
at the end of the road|for a good reason|when nobody is looking|more than ever before""".replace("\n", "").split("|")
_LISTS = {
    "animals": "cat dog horse cow sheep goat lion tiger bear wolf fox rabbit mouse duck eagle".split(),
    "fruits": "apple pear plum cherry grape lemon orange banana mango peach melon fig kiwi lime".split(),
    "vegetables": "carrot onion potato tomato bean pea leek spinach cabbage pepper corn radish garlic".split(),
    "colours": "red blue green yellow black white brown grey pink purple orange gold silver".split(),
    "tools": "hammer saw drill wrench axe knife file chisel ladder shovel rake clamp level".split(),
    "drinks": "water tea coffee milk juice wine beer cocoa lemonade cider soda punch".split(),
    "clothes": "shirt coat hat scarf glove sock shoe belt skirt jacket sweater dress tie".split(),
    "sports": "tennis golf rugby hockey boxing rowing skiing chess judo polo cricket football".split(),
    "instruments": "piano guitar violin flute drum trumpet harp cello horn organ banjo oboe".split(),
    "jobs": "teacher doctor baker farmer nurse pilot judge cook painter driver lawyer tailor".split(),
    "rooms": "kitchen bedroom bathroom hall attic cellar garage office library pantry study".split(),
    "trees": "oak pine birch maple willow cedar elm ash beech poplar larch".split(),
    "birds": "robin crow swan owl hawk gull finch raven stork heron dove".split(),
    "vehicles": "car bus train truck tram bicycle plane boat scooter van ferry".split(),
    "furniture": "chair table bed sofa desk shelf stool bench lamp wardrobe mirror".split(),
    "insects": "ant bee wasp fly moth beetle cricket flea louse gnat hornet".split(),
    "fish": "salmon trout cod tuna carp pike perch eel shark herring sole".split(),
    "herbs": "mint basil thyme sage dill parsley chive rosemary fennel oregano".split(),
    "shapes": "circle square triangle cube cone sphere oval star cylinder diamond".split(),
    "countries": "france spain italy china india japan brazil egypt kenya peru chile canada".split(),
}
_MARKS = {"a dash": "-", "a star": "*", "a plus": "+", "a hash": "#", "an equals sign": "=", "its number": ""}
_MOST = 7  # lines of a list
_COUNTED = 40  # words
_NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Demand:
    """One demand of an instruction, met if `given` equals `wanted`. Feedback starts with `label`."""

    part: str
    wanted: str
    given: str
    label: str = ""

    @property
    def met(self) -> bool:
        return self.wanted == self.given


def _ask_sentence(random_: random.Random) -> str:
    words = ", ".join(random_.sample(_WORDS, random_.randint(2, 4)))
    ending = f" End it with: {random_.choice(_ENDINGS)}." if random_.random() < 0.5 else ""
    topic = random_.choice(_TOPICS)
    return f"Write one sentence about {topic} with the words: {words}.{ending} Then write how many words it has."


def _ask_list(random_: random.Random) -> str:
    what = random_.choice(list(_LISTS))
    named = " and ".join(random_.sample(_LISTS[what], 2))
    return (
        f"List some {what}, one on each line, among them {named}. Begin each line with {random_.choice(list(_MARKS))}. "
        "Then write how many there are."
    )


KINDS: dict[str, Callable[[random.Random], str]] = {"words": _ask_sentence, "list": _ask_list}
_SENTENCE = re.compile(
    r"Write one sentence about (\w+) with the words: ([\w, ]+)\.(?: End it with: ([\w ]+)\.)? Then write how many"
)
_LIST = re.compile(r"List some (\w+), one on each line, among them (\w+) and (\w+)\. Begin each line with ([\w ]+)\. ")


@dataclass(frozen=True, slots=True)
class InstructionsTask:
    """Instructions of one or more kinds. A problem's `answer` is one of many right ones."""

    name: str
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"unknown kind of instruction {kind!r}; use one of {', '.join(KINDS)}")

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        return made(
            self.name,
            self.kinds,
            lambda kind, random_: KINDS[kind](random_),
            lambda kind, question: fulfil(question),
            count,
            seed,
            exclude,
            lambda question: f"{len(demands(question, ''))} demands",
        )

    def is_correct(self, problem: Problem, response: str) -> bool:
        return all(demand.met for demand in demands(problem.prompt.prompt, response))

    def solution(self, problem: Problem, response: str = "") -> str:
        return mend(problem.prompt.prompt, response)

    def explain(self, problem: Problem, response: str) -> str:
        lines: dict[str, list[str]] = {}
        wrong = 0
        for demand in demands(problem.prompt.prompt, response):
            wrong += not demand.met
            found = (
                f"{demand.label}{demand.wanted} {demand.given} {'same' if demand.met else 'different'} {wrong} wrong"
            )
            lines.setdefault(demand.part, []).append(found)
        verdict = verdict_line(Verdict.NOT_QUALIFIED if wrong else Verdict.QUALIFIED)
        return "\n".join([*(f"{part}: {', '.join(found)}" for part, found in lines.items()), verdict])


def demands(question: str, response: str) -> list[Demand]:
    """The demands of an instruction, read from its text, each with what `response` has."""
    if match := _SENTENCE.match(question):
        return _sentence(match[1], match[2].split(", "), match[3], response)
    match = _LIST.match(question)
    assert match is not None, question
    return _list([match[2], match[3]], _MARKS[match[4]], response)


def mend(question: str, response: str) -> str:
    """`response` with its errors corrected, or another right text if that is not possible."""
    found = demands(question, response)
    *others, count = found
    if match := _LIST.match(question):
        lines = [demand.wanted for demand in others if demand.part == "Lines"]
        missing = [word for word in (match[2], match[3]) if not _has("\n".join(lines), word)]
        sign = _MARKS[match[4]]
        lines += [f"{sign or f'{len(lines) + i}.'} {word}" for i, word in enumerate(missing, start=1)]
        return "\n".join([*lines, str(len(lines))])
    if not all(demand.met for demand in others):
        return fulfil(question)
    return f"{_split(response)[0]} {count.wanted}"


def fulfil(question: str) -> str:
    """A text that meets every demand. The same instruction gives the same text."""
    random_ = random.Random(content_id(question))
    if match := _LIST.match(question):
        others = [item for item in _LISTS[match[1]] if item not in (match[2], match[3])]
        items = [match[2], match[3], *random_.sample(others, random_.randint(1, _MOST - 2))]
        return mend(question, "\n".join(random_.sample(items, len(items))))
    match = _SENTENCE.match(question)
    assert match is not None, question
    *first, last = (f"the {word}" for word in match[2].split(", "))
    verb = random_.choice(["can go with", "can be like", "may bring to mind", "may need"])
    sentence = f"{match[1].capitalize()} {verb} {', '.join(first)} and {last}{f' {match[3]}' if match[3] else ''}."
    return f"{sentence} {len(_words(sentence))}"


def _has(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){word}(?!\w)", text, re.IGNORECASE) is not None


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _split(response: str) -> tuple[str, str]:
    """The sentence, and the number after it ("" if there is none)."""
    match = re.search(r"(?<!\w)(\d+)\W*$", response)
    return (response[: match.start()].strip(), match[1]) if match else (response.strip(), "")


def _sentence(topic: str, words: list[str], ending: str | None, response: str) -> list[Demand]:
    sentence, number = _split(response)
    found = []
    for word in (topic, *words):
        found.append(Demand("Words", word, word if _has(sentence, word) else _NOTHING))
    written = _words(sentence)
    if ending is not None:
        last = " ".join(written[-len(ending.split()) :])
        found.append(Demand("End", ending, ending if last.casefold() == ending else last[:60] or _NOTHING))
    parts = [part for part in re.split(r"[.!?]+(?:\s|$)|\n", sentence) if re.search(r"\w", part)]
    found.append(Demand("Sentences", "1", str(min(len(parts), 99))))
    counted = " ".join(f"{i} {word[:20]}" for i, word in enumerate(written[:_COUNTED], start=1))
    return [*found, Demand("Count", str(len(written)), number[:9] or _NOTHING, f"{counted}: ")]


def _list(named: list[str], mark: str, response: str) -> list[Demand]:
    lines = [" ".join(line.split()) for line in response.split("\n") if line.strip()]
    number = lines.pop() if lines and lines[-1].isdecimal() else ""
    found = [Demand("Words", word, word if _has(response, word) else _NOTHING) for word in named]
    for place, given in enumerate(lines, start=1):
        sign = mark or f"{place}."
        item = re.sub(r"^(?:\d+\.|\W)+", "", given)
        if re.fullmatch(rf"{re.escape(sign)} ?{re.escape(item)}", given):
            given = f"{sign} {item}".strip()  # "+apple" begins with a plus as well
        found.append(Demand("Lines", f"{sign} {item or 'one'}", given, f"{place} "))
    return [*found, Demand("Count", str(len(lines)), number[:9] or _NOTHING)]
