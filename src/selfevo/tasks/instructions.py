"""Instructions whose fulfilment a program can check: words to use, an ending, capitals, a list of so many lines.

In the manner of IFEval (arXiv 2311.07911): what is demanded is stated in the instruction and verified in the text, so
there are gold verdicts without one gold answer. The annotator's feedback goes through the demands one by one, says what
is wrong with each, and carries the count of errors along to the verdict.

What is checked is form alone. A text can meet every demand and say little.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from selfevo.errors import ConfigError
from selfevo.prompts import Verdict, verdict_line
from selfevo.protocols import Problem
from selfevo.records import content_id
from selfevo.tasks.drawing import made

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
    "countries": "france spain italy china india japan brazil egypt kenya peru chile canada".split(),
}
_MARKS = {"a dash": "-", "a star": "*", "a plus": "+"}
_MOST = 5  # lines of a list


@dataclass(frozen=True, slots=True)
class Demand:
    """`fault(response)` says what is wrong, "" if nothing is."""

    label: str
    fault: Callable[[str], str]


def _ask_sentence(random_: random.Random, words: int, ending: bool, capitals: bool) -> str:
    question = f"Write one sentence about {random_.choice(_TOPICS)}. "
    question += f"Use the words: {', '.join(random_.sample(_WORDS, words))}."
    if ending:
        question += f" End with: {random_.choice(_ENDINGS)}."
    return question + (" Write in capital letters." if capitals else "")


def _ask_list(random_: random.Random) -> str:
    count, what = random_.randint(2, _MOST), random_.choice(list(_LISTS))
    question = f"List {count} {what}, one on each line. Begin each line with {random_.choice(list(_MARKS))}."
    if random_.random() < 0.5:
        question += " Go from A to Z."
    return question + (" Write in capital letters." if random_.random() < 0.5 else "")


KINDS: dict[str, Callable[[random.Random], str]] = {
    "words": lambda random_: _ask_sentence(random_, 3, ending=False, capitals=False),
    "words-ending": lambda random_: _ask_sentence(random_, 2, ending=True, capitals=False),
    "words-capitals": lambda random_: _ask_sentence(random_, 2, ending=False, capitals=True),
    "list": _ask_list,
}


@dataclass(frozen=True, slots=True)
class InstructionsTask:
    """Instructions of one or several kinds, in turn. `answer` of a problem is one text of many that fulfil it."""

    name: str
    kinds: tuple[str, ...]

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise ConfigError(f"unknown kind of instruction {kind!r}; there are {', '.join(KINDS)}")

    def problems(self, count: int, seed: int, exclude: frozenset[str]) -> list[Problem]:
        return made(
            self.name,
            self.kinds,
            lambda kind, random_: KINDS[kind](random_),
            lambda kind, question: fulfil(question),
            count,
            seed,
            exclude,
            lambda question: f"{len(demands(question))} demands",
        )

    def is_correct(self, problem: Problem, response: str) -> bool:
        return not any(demand.fault(response) for demand in demands(problem.prompt.prompt))

    def solution(self, problem: Problem) -> str:
        return problem.answer

    def explain(self, problem: Problem, response: str) -> str:
        lines, wrong = [], 0
        for demand in demands(problem.prompt.prompt):
            fault = demand.fault(response)
            wrong += bool(fault)
            lines.append(f"{demand.label}: {fault or 'yes'}, {wrong} wrong")
        verdict = verdict_line(Verdict.NOT_QUALIFIED if wrong else Verdict.QUALIFIED)
        return "\n".join([*lines, verdict])


def demands(question: str) -> list[Demand]:
    """What an instruction of KINDS asks for, read from its words."""
    found: list[Demand] = []
    if match := re.match(r"Write one sentence about (\w+)\. Use the words: ([\w, ]+)\.", question):
        found += [_word(word) for word in (match[1], *match[2].split(", "))]
        found.append(Demand("One sentence", _more_sentences))
    if match := re.match(r"List (\d+) \w+, one on each line\. Begin each line with ([\w ]+)\.", question):
        found += [_lines(int(match[1])), _marks(_MARKS[match[2]])]
    if " Go from A to Z." in question:
        found.append(Demand("A to Z", _disorder))
    if match := re.search(r"End with: ([\w ]+)\.", question):
        found.append(_ends(match[1]))
    if question.endswith("Write in capital letters."):
        found.append(Demand("Capitals", _small_letters))
    return found


def fulfil(question: str) -> str:
    """A text that meets every demand of the instruction; always the same."""
    random_ = random.Random(content_id(question))
    if match := re.match(r"Write one sentence about (\w+)\. Use the words: ([\w, ]+)\.", question):
        *first, last = (f"a {word}" for word in match[2].split(", "))
        verb = random_.choice(["makes me think of", "is like", "goes well with", "reminds us of"])
        text = f"{match[1].capitalize()} {verb} {', '.join(first)} and {last}"
        if ending := re.search(r"End with: ([\w ]+)\.", question):
            text += f" {ending[1]}"
        text += "."
    else:
        match = re.match(r"List (\d+) (\w+), one on each line\. Begin each line with ([\w ]+)\.", question)
        assert match is not None, question
        items = random_.sample(_LISTS[match[2]], int(match[1]))
        if " Go from A to Z." in question:
            items.sort()
        text = "\n".join(f"{_MARKS[match[3]]} {item}" for item in items)
    return text.upper() if question.endswith("Write in capital letters.") else text


def _word(word: str) -> Demand:
    def fault(response: str) -> str:
        return "" if re.search(rf"(?<!\w){word}(?!\w)", response, re.IGNORECASE) else "missing"

    return Demand(f"Word {word}", fault)


def _ends(phrase: str) -> Demand:
    def fault(response: str) -> str:
        words = re.findall(r"\w+", response)[-len(phrase.split()) :]
        return "" if [w.casefold() for w in words] == phrase.split() else f"ends with {' '.join(words) or 'nothing'}"

    return Demand(f"Ends with {phrase}", fault)


def _lines(count: int) -> Demand:
    def fault(response: str) -> str:
        lines = len(_filled(response))
        return "" if lines == count else f"has {min(lines, 10 * _MOST)}"

    return Demand(f"{count} lines", fault)


def _marks(mark: str) -> Demand:
    def fault(response: str) -> str:
        for line in _filled(response):
            if not re.match(rf"{re.escape(mark)}\s*\w", line):
                return f"not {line[:30]}"
        return ""

    return Demand(f"Each begins with {mark}", fault)


def _disorder(response: str) -> str:
    items = [item.casefold() for item in re.findall(r"^\W*(\w.*?)\W*$", response, re.MULTILINE)]
    wrong = next((pair for pair in pairwise(items) if pair[0] > pair[1]), None)
    return f"{wrong[0][:30]} before {wrong[1][:30]}" if wrong else ""


def _more_sentences(response: str) -> str:
    sentences = [part for part in re.split(r"[.!?]+(?:\s|$)|\n", response) if re.search(r"\w", part)]
    return "" if len(sentences) == 1 else f"has {min(len(sentences), 99)}"


def _small_letters(response: str) -> str:
    small = next((word for word in response.split() if any(letter.islower() for letter in word)), "")
    if not small and not any(letter.isupper() for letter in response):
        return "no letters"
    return f"not {small[:30]}" if small else ""


def _filled(response: str) -> list[str]:
    return [line.strip() for line in response.split("\n") if line.strip()]
