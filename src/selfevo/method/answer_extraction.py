"""The answer in a text: how it is read, and which texts give the same one.

The one rule, for gold answers and model responses alike. The text is first brought to its normal form: a closed think
block, what cannot be seen, Markdown and the delimiters of mathematics go, LaTeX becomes plain. Then:

1. The last \\boxed{...} that holds a number counts. Without one, the last declaration does ("#### x", "answer is x",
   "answer: x", <answer>x</answer>): its first number, or the last result where it calculates ("48 + 24 = 72"), in
   its first sentence and without what explains it ("18, since ...").
2. Otherwise the last number of the text counts; one in brackets with words or behind "since" only if there is no other.

A number is digits with optional sign, currency, thousands, decimals, power of ten, denominator and scale: "-$1,234.50",
"1 234", "12,34,567", "3,5", "1.5e3", "1.5 x 10^3", "3/4", "2 1/2", "2 million"; in a declaration also words ("five").
Digits with more digits behind a colon, a dot or a dash are a time, a version or a date, and no number. Numbers are
compared exactly, as fractions: 42 = 42.0 = 84/2. Only the last MAX_CHARACTERS of a text are read, and a number longer
than MAX_NUMBER is no answer. Nothing a model writes is ever evaluated as code.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

from selfevo.method.normal_form import plain_characters
from selfevo.method.thinking import without_thinking

MAX_CHARACTERS = 20_000
MAX_NUMBER = 40
CURRENCY = "$€£¥₹₩₽₺₫฿₦₱₪¢"
DIGITS = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
ANNOTATION = re.compile(r"<<[^<>\n]*>>")  # GSM8K's calculator calls

_HEADINGS = (
    "step|part|case|phase|stage|section|method|approach|question|problem|example|option|day|check|verif|expla|note"
)
DECLARATION = re.compile(
    rf"(?<!\#)\#{{4}}(?![\#])(?!\s*(?:(?:{_HEADINGS})\w*\b|[0-9]+[.)]\s+[^\W\d]))"
    r"|\banswers?[*_]{0,3}(?:\s+(?:is|are|was|equals|would\s+be|will\s+be|comes\s+to)\b[*_]{0,3}\s*:?|\s*[:=])"
    r"|(?:(?<=\n)|^)[ \#*_]{0,9}(?:(?:the|my) )?(?:final )?answer[ *_]{0,9}(?=\n)"
    r"|<answer>"
    r"|答案(?:应该|應該)?\s*(?:是|为|為|[:\uff1a])|答え\s*(?:は|[:\uff1a])|(?:정답|답)\s*(?:은|[:\uff1a])"
    r"|\bantwort(?:\s+(?:ist|lautet)\b|\s*:)|\bréponse(?:\s+finale)?(?:\s+est\b|\s*:)"
    r"|\brespuesta(?:\s+final)?(?:\s+es\b|\s*:)|\b(?:risposta|resposta)(?:\s+finale?)?(?:\s+[eèé]\b|\s*:)|\bответ\s*:",
    re.IGNORECASE,
)

# --- the grammar of a number --------------------------------------------------------------------------------------

_THOUSANDS = (
    r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}"  # the second one is Indian
    r"|[0-9]{1,3}(?:\ [0-9]{3})+|[0-9]{1,3}(?:['\u2019][0-9]{3})+|[0-9]{1,3}(?:_[0-9]{3})+|[0-9]{1,3}(?:\.[0-9]{3}){2,}"
)
_DIGITS = (
    rf"(?:{_THOUSANDS})(?:\.[0-9]+)?"
    r"|(?:[0-9]{1,3}(?:\.[0-9]{3})+|(?<![(\[])(?:0|[0-9]+(?=,(?:[0-9]{1,2}|[0-9]{4,})(?![0-9]))))(?P<comma>,[0-9]+)"
    r"|[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
)
_NUMBER = re.compile(
    # A minus is a sign only where it cannot be an operator or a hyphen: not right after a word, a digit or a bracket.
    rf"(?P<sign>(?<![\w)\]])[-\u2212\u2013]\ ?(?=[0-9.{CURRENCY}]))?(?:[{CURRENCY}]\ ?(?P<inner>[-\u2212\u2013])?)?"
    r"(?<![\^_])"
    rf"(?P<digits>{_DIGITS})"
    r"(?:\ (?P<top>[0-9]+)/(?P<bottom>[0-9]+)"
    r"|(?P<ten>[eE][+-]?[0-9]{1,2}(?![0-9A-Za-z])|\ ?[x*×·]\ ?10\^[-\u2212]?[0-9]{1,2})?(?:\^(?P<power>-?[0-9]{1,2}))?"
    r"(?:\ ?/\ ?(?P<denominator>[0-9]+))?)"
    r"(?:\ (?P<scale>thousand|million|billion|trillion)\b)?"
    r"(?![0-9]|[.,:/'_][0-9]|[-\u2013/][0-9]{1,2}[-\u2013/][0-9])"
    # What is no number, though it has digits: exponents, indices, times, dates, versions, lists without a space.
    r"|(?P<none>[\^_]-?[0-9]+|[0-9]+(?:[-.,:/'_\u2013][0-9]+)+)",
    re.IGNORECASE,
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_WORDS = {
    **{word: n for n, word in enumerate("zero one two three four five six seven eight nine ten".split())},
    **{
        word: n
        for n, word in enumerate(
            "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split(), start=11
        )
    },
    **{word: 10 * n for n, word in enumerate("twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2)},
}
_IN_WORDS = re.compile(
    rf"\b(?:{'|'.join(_WORDS)})(?:[\s-]+(?:and\s+)?(?:{'|'.join([*_WORDS, 'hundred', *_SCALES])}))*\b", re.IGNORECASE
)


def read_number(text: str) -> Fraction | None:
    """The value of a text that is one number and nothing else but white space, a full stop, a percent or degree sign
    and marks of LaTeX and Markdown; None if it is not. "3,5" alone may be a list, and is no number here."""
    text = without_markup(text).strip().removesuffix(".").rstrip("%° ")
    match = _NUMBER.fullmatch(text)
    return _value(match) if match and not match["comma"] else None


def extract_answer(text: str) -> Fraction | None:
    """The answer of `text` by the rule at the top of this file."""
    text = _cut(text)
    value = _boxed_number(text)
    if value is not None:
        return value
    text = without_markup(text)
    declared = _declared(text)
    return _last(text) if declared is None else declared


def declared_answer(text: str) -> Fraction | None:
    """The number a text declares as its answer, None without one: strict extraction."""
    text = _cut(text)
    value = _boxed_number(text)
    return _declared(without_markup(text)) if value is None else value


def last_number(text: str) -> Fraction | None:
    """The last number of a text, declared or not: what other harnesses call flexible extraction."""
    *_, value = (None, *map(_value, _numbers(without_markup(_cut(text)))))
    return value


def answer_key(text: str) -> str:
    """What two texts must share to count as the same answer in a vote.

    The number by the rule above where the text has words around it or declares one; else, for a bare list or an answer
    without a number, what is declared or the whole text, whatever its case, spacing and markup.
    """
    text = _cut(text)
    if boxes := boxed(text):
        value = _measured(without_markup(boxes[-1]))
        return _key(boxes[-1]).replace(" ", "") if value is None else str(value)
    text = without_markup(text)
    number = read_number(text)
    declarations = list(DECLARATION.finditer(text))
    if number is None and declarations and re.match(r"\s*[\[({]", text[declarations[-1].end() :]):
        return _key(_sentence(text[declarations[-1].end() :]))  # a pair, an interval, a list: more than a number
    if number is None and (declarations or _LETTER.search(text)):
        number = extract_answer(text)
    return _key(text) if number is None else str(number)


def _key(text: str) -> str:
    return " ".join(without_markup(text).casefold().split())


_SPACES = re.compile(r"[^\S\n]+")


def _cut(text: str) -> str:
    text = ANNOTATION.sub("", plain_characters(without_thinking(text)[-MAX_CHARACTERS:]))
    return _SPACES.sub(" ", text)


# --- boxes, LaTeX and Markdown ------------------------------------------------------------------------------------

_BOX = re.compile(r"\\f?boxed?\b\s*(?:\{|(?P<bare>[^\s{}$.,;]+))")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def boxed(text: str) -> list[str]:
    """What each \\boxed holds, of boxes within boxes the innermost; one that was never closed holds the rest."""
    return [content for content, _, _ in _boxes(text)]


def boxed_places(text: str) -> list[tuple[int, int]]:
    """Where each of these boxes starts and ends."""
    return [(start, end) for _, start, end in _boxes(text)]


def _boxes(text: str) -> list[tuple[str, int, int]]:
    closes: dict[int, int] = {}
    opened: list[int] = []
    for brace in _BRACE.finditer(text):  # an escaped brace is none
        if brace.group() == "{":
            opened.append(brace.end())
        elif brace.group() == "}" and opened:
            closes[opened.pop()] = brace.start()
    boxes = list(_BOX.finditer(text))
    following = [*(box.start() for box in boxes[1:]), len(text) + 1]
    found = []
    for box, limit in zip(boxes, following, strict=False):
        end = closes.get(box.end(), len(text))
        if box["bare"]:
            found.append((box["bare"], box.start(), box.end()))
        elif end < limit:
            found.append((text[box.end() : end].strip(), box.start(), min(end + 1, len(text))))
    return found


def closing(text: str, start: int) -> int:
    """Where the brace closes that was opened just before `start`; -1 if nowhere."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace.group(), 0)
        if not depth:
            return brace.start()
    return -1


def _boxed_number(text: str) -> Fraction | None:
    values = (_claimed(without_markup(box)) for box in reversed(boxed(text)))
    return next((value for value in values if value is not None), None)


_SIMPLE = r"(?:\{\s*(-?[^{}\\]*)\s*\}|([0-9A-Za-z]))"
_MARKUP: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\[!]|\{,\}(?=[0-9])|\\(?:left|right|displaystyle|limits|big|Big)\b\s*|\\quad", ""),
        (r"\\[,;: ]|~", " "),
        (r"\\([$%#&_])", r"\1"),
        (r"\\[()\[\]]|\$\$", " "),
        (r"\\(?:text|textbf|textit|mathrm|mathbf|mathit|mathsf|operatorname|mbox|rm)\s*\{([^{}]*)\}", r" \1 "),
        (rf"(?<=[0-9])\s*\\[dtc]?frac\s*{_SIMPLE}\s*{_SIMPLE}", r" \1\2/\3\4"),
        (rf"\\[dtc]?frac\s*{_SIMPLE}\s*{_SIMPLE}", r"\1\2/\3\4"),
        (r"\\times\b|\\ast\b", "×"),
        (r"\\cdot\b", "·"),
        (r"\\div\b", "÷"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b", "°"),
        (r"([\^_])\s*\{\s*(-?\w+)\s*\}", r"\1\2"),
        (r"\\\\", "\n"),
        # Markdown: where ** and __ cannot be a power or a blank to fill in.
        (r"(?<![\w)])\*{1,3}(?=[^\s*])|(?<=[^\s*])\*{1,3}(?!\w|[(*])|`+", ""),
        (r"(?<![^\W_])__(?=[^\s_])|(?<=[^\s_])__(?![^\W_])", ""),
        (r"\$(?!\s?[-\u2212\u2013]?\s?[0-9.])", " "),
        (r"\b([kcdm]?m|ft|in|yd|mi)[23]\b|(?<=[A-Za-z])\^[23]\b", r"\1"),  # of a unit
    )
)
_FRACTIONS = re.compile(r"([0-9]?)\s?([¼-¾⅐-⅞])")
_RAISED = re.compile(r"[⁰¹²³⁴-⁹⁻]+")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


def without_markup(text: str) -> str:
    """The text with LaTeX and Markdown taken off: fractions as 3/4, powers as ^2, no delimiters, no emphasis."""
    text = plain_characters(text)
    text = _FRACTIONS.sub(lambda match: f"{match[1]}{' ' * bool(match[1])}{_vulgar(match[2])}", text)
    text = _RAISED.sub(lambda match: "^" + match.group().translate(_LOWERED), text)
    for pattern, replacement in _MARKUP:
        text = pattern.sub(replacement, text)
    return _SPACES.sub(" ", text)


def _vulgar(character: str) -> str:
    return unicodedata.normalize("NFKC", character).replace("\u2044", "/")


# --- where the answer stands --------------------------------------------------------------------------------------

_END = re.compile(r"\.(?:\s|$)|</answer>|\n")
_BREAK = re.compile(
    r"[;,]?\s+\(?(?:since|because|as|where|given|not|instead|rather|out\s+of)\b"
    r"|[;,]\s+|[;,]?\s+(?=(?:so|and|then|thus)\b)"
)
_GOES_ON = re.compile(r"(?:so|and|then|thus|therefore|hence|which|giving|that)\b", re.IGNORECASE)
_REMARK = re.compile(r"\([^()\n]*\)")
_LETTER = re.compile(r"[^\W\d_]")
_SINCE = re.compile(r",? (?:since|because)\b[^.\n]*", re.IGNORECASE)


def _sentence(text: str) -> str:
    text = text.lstrip(" \n\t:>*_")
    return _END.split(text, maxsplit=1)[0]


def _declared(text: str) -> Fraction | None:
    end = len(text)
    for declaration in reversed(list(DECLARATION.finditer(text))):
        value = _claimed(text[declaration.end() : end])
        if value is not None:
            return value
        end = declaration.start()
    return None


def _claimed(text: str) -> Fraction | None:
    """The number that a declaration claims, `text` being what follows it."""
    sentence = _sentence(text)
    found: Fraction | None = None
    calculates = False
    for clause in _clauses(sentence):
        if found is not None and not (calculates and _GOES_ON.match(clause) and "=" in clause):
            break
        numbers = list(_numbers(clause))
        results = [match for match in numbers if match.start() > clause.rfind("=")]
        if chosen := (results or numbers)[:1]:
            found, calculates = _value(chosen[0]), "=" in clause
    return _spelled(sentence) if found is None and not re.search("[0-9]", sentence) else found


def _clauses(sentence: str) -> Iterator[str]:
    start = 0
    for match in _BREAK.finditer(sentence):
        yield sentence[start : match.start()]
        start = match.end()
        if match.group().strip(" ,;("):  # what follows explains and claims nothing
            return
    yield sentence[start:]


def _measured(text: str) -> Fraction | None:
    """The value of a number with nothing but a unit in words behind it."""
    match = _NUMBER.match(text.strip())
    if match is None or re.search(r"[^\s\w.%°/^-]|[0-9]", text.strip()[match.end() :]):
        return None
    return _value(match)


def _last(text: str) -> Fraction | None:
    bare = _REMARK.sub(lambda match: " " if _LETTER.search(match.group()) else match.group(), text)
    bare = _SINCE.sub(lambda match: " " if _starts_with_number(bare, match.start()) else match.group(), bare)
    for version in (bare, text):
        if matches := list(_numbers(version)):
            return _value(matches[-1])
    return None


def _starts_with_number(text: str, end: int) -> bool:
    start = max(text.rfind("\n", 0, end), text.rfind(". ", 0, end)) + 1
    return next(_numbers(text[start:end]), None) is not None


def _numbers(text: str) -> Iterator[re.Match[str]]:
    return (match for match in _NUMBER.finditer(text) if match["none"] is None)


def _value(match: re.Match[str]) -> Fraction | None:
    if len(match.group()) > MAX_NUMBER or match["none"] is not None:
        return None
    digits = match["digits"]
    if match["comma"]:
        digits = digits.replace(".", "").replace(",", ".")
    if digits.count(".") > 1:  # 1.234.567
        digits = digits.replace(".", "")
    value = Fraction(re.sub(r"[,'\u2019_ ]", "", digits))
    if ten := match["ten"]:
        value *= Fraction(10) ** int(re.split(r"[eE^]", ten.replace("\u2212", "-"))[-1])
    power = int(match["power"] or 1)
    if power != 1 and (not value or len(str(value)) * abs(power) > 10 * MAX_NUMBER):
        return None
    below = int(match["bottom"] or match["denominator"] or 1)
    if not below:
        return None
    value = Fraction(value**power)
    value = value + Fraction(int(match["top"]), below) if match["top"] else value / below
    value *= _SCALES.get((match["scale"] or "").lower(), 1)
    return -value if match["sign"] or match["inner"] else value


def _spelled(text: str) -> Fraction | None:
    """The first number in words: "five", "forty-two", "two hundred and six thousand"."""
    match = _IN_WORDS.search(text)
    if match is None:
        return None
    total = part = 0
    for word in re.split(r"[\s-]+", match.group().lower()):
        if word == "hundred":
            part = 100 * max(part, 1)
        elif word in _SCALES:
            total, part = total + max(part, 1) * _SCALES[word], 0
        else:
            part += _WORDS.get(word, 0)
    return Fraction(total + part)


# --- writing ------------------------------------------------------------------------------------------------------


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
