"""The answer in a text: how it is read, and which texts give the same one.

The one rule, for gold answers and model responses alike:

1. If the text declares an answer ("#### x", "answer is x", "answer: x"), the last declaration that holds a number
   counts: its first number, or the first after its last "=", within its first sentence.
2. Otherwise the last number of the text counts.

A number is ASCII digits with optional sign, currency sign, thousands commas, decimals, exponent and denominator
("-$1,234.50", "3/4"). Numbers are compared exactly, as fractions: 42 = 42.0 = 84/2. Only the last MAX_CHARACTERS of a
text are read, and a number longer than MAX_NUMBER is no answer. Nothing a model writes is ever evaluated as code.
"""

from __future__ import annotations

import re
from fractions import Fraction

MAX_CHARACTERS = 20_000
MAX_NUMBER = 40
CURRENCY = "$€£¥₹"
DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_NUMBER = re.compile(
    # A minus is a sign only where it cannot be an operator or a hyphen: not right after a word, a digit or a bracket.
    rf"(?P<sign>(?<![\w)\]])[-\u2212])?(?:[{CURRENCY}](?P<inner>[-\u2212])?)?"
    rf"(?P<digits>{DIGITS}(?:[eE][+-]?[0-9]{{1,2}}(?![0-9A-Za-z]))?)(?:/(?P<denominator>[0-9]+))?"
)
DECLARATION = re.compile(r"####|\banswer(?:\s+is\b\s*:?|\s*:)", re.IGNORECASE)
ANNOTATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator calls


def read_number(text: str) -> Fraction | None:
    """The value of a text that is one number and nothing else but white space and a full stop; None if it is not."""
    match = _NUMBER.fullmatch(text.strip().removesuffix("."))
    return _value(match) if match else None


def extract_answer(text: str) -> Fraction | None:
    """The answer of `text` by the rule at the top of this file."""
    match = _declared(text) or _last(text)
    return _value(match) if match else None


def declared_answer(text: str) -> Fraction | None:
    """The number a text declares as its answer, None without one: strict extraction."""
    match = _declared(text)
    return _value(match) if match else None


def last_number(text: str) -> Fraction | None:
    """The last number of a text, declared or not: what other harnesses call flexible extraction."""
    match = _last(text)
    return _value(match) if match else None


def _declared(text: str) -> re.Match[str] | None:
    text = _read(text)
    end = len(text)
    for declaration in reversed(list(DECLARATION.finditer(text))):
        line = text[declaration.end() : end].lstrip().partition("\n")[0]
        sentence = re.split(r"\.(?:\s|$)", line, maxsplit=1)[0]
        if match := _NUMBER.search(sentence, sentence.rfind("=") + 1) or _NUMBER.search(sentence):
            return match
        end = declaration.start()
    return None


def _last(text: str) -> re.Match[str] | None:
    return next(reversed(list(_NUMBER.finditer(_read(text)))), None)


def _read(text: str) -> str:
    return ANNOTATION.sub("", text[-MAX_CHARACTERS:])


def write_number(value: Fraction) -> str:
    """The number exactly: whole, with decimals where they end, else as a fraction."""
    for places in range(MAX_NUMBER):
        if 10**places % value.denominator == 0:
            return decimal(value, places)
    return str(value)


def decimal(value: Fraction, places: int) -> str:
    """Rounded to `places` decimals, in integers: a float would overflow on what a model can write."""
    digits = str(abs(round(value * 10**places))).zfill(places + 1)
    whole, part = digits[: len(digits) - places], digits[len(digits) - places :]
    return ("-" if value < 0 else "") + whole + ("." + part if part else "")


def answer_key(text: str) -> str:
    """What two texts must share to count as the same answer in a vote.

    The number by the rule above where the text has words around it or declares one; else, for a bare list or an answer
    without a number, the whole text, whatever its case and spacing.
    """
    number = read_number(text)
    if DECLARATION.search(text) or re.search(r"[^\W\d_]", text):
        number = extract_answer(text)
    if number is not None:
        return str(number)
    return " ".join(text.casefold().split())


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > MAX_NUMBER:
        return None
    denominator = int(match["denominator"] or 1)
    if not denominator:
        return None
    value = Fraction(match["digits"].replace(",", "")) / denominator
    return -value if match["sign"] or match["inner"] else value
