"""Whether two answers of mathematics are the same, by their text: fractions, intervals, sets, matrices, units, words.

One normal form, then the shape: lists, sets, tuples, intervals, unions, matrices and equations are taken apart, and
their parts compared one by one. Equal text is right before anything else, words are compared as words, numbers exactly.
Only what is left, one expression against another, goes to the computer algebra that the caller gives.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

from selfevo.method.answer_extraction import boxed, closing, read_number
from selfevo.method.normal_form import plain_characters

Algebra = Callable[[str, str], bool]  # whether two expressions in LaTeX, gold and given, are equal

MAX_ANSWER = 2000  # characters; of longer ones only the text is compared
MAX_EXPRESSION = 500  # characters that are handed to the computer algebra
MAX_PARTS = 16  # of a list whose order does not matter
_NOISE = Fraction(1, 10**9)  # of a value that is written in decimals: 1/12 = 0.0833333333333333


def same_answer(gold: str, given: str, algebra: Algebra) -> bool:
    """Whether `given` is the answer `gold`; `algebra` is asked where reading does not tell."""
    gold, given = gold.strip(), given.strip()
    if not gold or not given:
        return False
    if gold == given or max(len(gold), len(given)) > MAX_ANSWER:
        return gold == given
    return _same(normal(gold), normal(given), algebra)


# --- the normal form ----------------------------------------------------------------------------------------------

_ARGUMENT = r"(?:\{([^{}]*)\}|([0-9A-Za-z]))"
_VULGAR = dict(zip("½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞", "12 13 23 14 34 15 25 35 45 16 56 18 38 58 78".split(), strict=True))
_SYMBOLS = {
    **{
        "\u2212": "-",
        "\u2013": "-",
        "\u00d7": r"\times ",
        "·": r"\cdot ",
        "÷": r"\div ",
        "π": r"\pi ",
        "∞": r"\infty ",
    },
    **{"√": r"\sqrt ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in "},
    **{"±": r"\pm ", "∅": r"\emptyset ", "θ": r"\theta ", "…": r"\ldots ", "\u2032": "'"},
    **{character: rf"\frac{{{pair[0]}}}{{{pair[1]}}}" for character, pair in _VULGAR.items()},
    **{character: f"^{digit}" for digit, character in enumerate("⁰¹²³⁴⁵⁶⁷⁸⁹")},
}
_NORMAL: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\\[$!,;: ]|~|\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits|q?quad)(?![A-Za-z])", " "),
        (r"(?<=\\\\)\s*\[-?[0-9.]+[a-z]{2}\]|(?<!\\)\\[()\[\]]|\$", " "),
        (r"\{,\}", ","),
        (r"\\(?:bf|it|rm|sf|em)(?![A-Za-z])|\\(?:text)?color\s*\{[^{}]*\}|(?<!\\)\\\s*$", " "),
        (r"(?:(?<=^)|(?<=[(\[,{=]))\s*\+(?=\\infty|[0-9])", ""),
        (r"\\mathbb\s*\{?\s*R\s*\}?|\\R(?![A-Za-z])", r"(-\\infty,\\infty)"),
        (r"\{:\}|\\colon(?![A-Za-z])", ":"),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\%", "%"),
        (r"\*\*", "^"),
        (r"\^\s*\{?\s*\\circ\s*\}?|\\degree(?![A-Za-z])", "°"),
        (r"\\leq(?:slant)?(?![A-Za-z])|<=", r"\\le "),
        (r"\\geq(?:slant)?(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq(?![A-Za-z])", r"\\ne "),
        (r"\\[ct]?dots[a-z]?(?![A-Za-z])|\.\.\.", r"\\ldots "),
        (r"\\varnothing(?![A-Za-z])", r"\\emptyset "),
        (r"\\(?:mathrm|mathbf|mathit|mathsf|boldsymbol|operatorname|rm)\s*\{([^{}]*)\}", r"\1"),
        (r"\\sqrt\s*([0-9A-Za-z])", r"\\sqrt{\1}"),
        (rf"\\frac\s*{_ARGUMENT}\s*{_ARGUMENT}", r"\\frac{\1\2}{\3\4}"),
        (rf"\\frac\s*{_ARGUMENT}\s*(?=\{{)", r"\\frac{\1\2}"),
        (r"([_^])\s*\{\s*([0-9A-Za-z])\s*\}", r"\1\2"),
        (r"(?<![0-9,./])([0-9]{1,3})((?:,\s?[0-9]{3})+)(?![0-9,])(?![^()\[\]]*[)\]])", r"\1\2"),
        (r"(?<![0-9/.])([0-9]+)\s+([0-9]+)\s?/\s?([0-9]+)(?![0-9/])", r"\1\\frac{\2}{\3}"),
    )
)
_THOUSANDS = re.compile(r"(?<![0-9,.])([0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,3}(?: [0-9]{3})+)(?![0-9,])")
_THOUSANDS_SPACED = re.compile(r"(?<![0-9,.])[0-9]{1,3}(?:, [0-9]{3})+(?![0-9,])")
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textnormal|mbox)\s*\{")
_OR = re.compile(r",?\s*(?:\\text\s*\{\s*(?:and|or)\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z]))\s*,?|;")


_REPEATING = re.compile(r"([0-9]*)\.([0-9]*)\\(?:overline|bar|dot)\s*\{?([0-9]+)\}?")
_BASES = dict(zip("two three four five six seven eight nine".split(), (f"_{n}" for n in range(2, 10)), strict=True))
_BASE = re.compile(r"_\{?\\?(?:text)?\s*\{?\s*(" + "|".join(_BASES) + r")\s*\}?\}?", re.IGNORECASE)


def _fraction(match: re.Match[str]) -> str:
    """0.1\\overline{6} as 1/6."""
    whole, before, again = match[1] or "0", match[2], match[3]
    value = Fraction(int(whole + before + again) - int(whole + before), 10 ** len(before) * (10 ** len(again) - 1))
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


def normal(text: str) -> str:
    """An answer without delimiters, boxes, spacing commands and the freedoms of LaTeX."""
    # LaTeX writes thousands with a thin space or a negative one: 1\,000 and 10,\!000.
    text = re.sub(r"(?<=[0-9])\\[,;: ](?=[0-9]{3}(?![0-9]))|\\!", "", plain_characters(text))
    text = (boxed(text) or [text])[-1]
    text = "".join(_SYMBOLS.get(character, character) for character in text)
    for _ in range(2):  # an argument may have been brought to order only in the first
        for pattern, replacement in _NORMAL:
            text = pattern.sub(replacement, text)
    text = _BASE.sub(lambda match: _BASES[match[1].lower()], _REPEATING.sub(_fraction, text))
    text = _OR.sub(",", text)
    text = _THOUSANDS.sub(lambda match: re.sub("[, ]", "", match[1]), text)
    return re.sub(r"[.,;:]+$", "", text.strip()).strip()


def _tokens(text: str) -> list[str]:
    return re.findall(r"\\(?:begin|end)\{[a-z]*\*?\}|\\[A-Za-z]+|\\.|\S", text)


def _unwrapped(text: str) -> str:
    r"""What \text{...} holds, in its place."""
    while match := _TEXT.search(text):
        end = closing(text, match.end())
        inner = text[match.end() : len(text) if end < 0 else end]
        text = f"{text[: match.start()]} {inner} {'' if end < 0 else text[end + 1 :]}"
    return text


def _key(text: str) -> str:
    """The answer without white space, but where it ends a command."""
    return re.sub(r"(\\[A-Za-z]+)\0(?![A-Za-z])|\0", r"\1", "\0".join(_tokens(_unwrapped(text)))) if text else ""


# --- words, units, angles -----------------------------------------------------------------------------------------

_FUNCTION = re.compile(r"(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln|exp|max|min|gcd|lcm|det|dim|mod|deg|arg|cis")
_TRIGONOMETRY = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)")
_CHOICE = re.compile(r"\s*(?:\(([A-Za-z])\)|([A-Z])(?=[.):]|\s*$))")
_UNITS = {  # those that are mixed up: where both answers name one of these, it must be the same
    name: unit
    for unit, names in {
        "mm": "mm millimeter millimetre",
        "cm": "cm centimeter centimetre",
        "m": "m meter metre",
        "km": "km kilometer kilometre",
        "inch": "in inch inche",
        "foot": "ft foot feet",
        "mile": "mi mile",
        "second": "s sec second",
        "minute": "min minute",
        "hour": "h hr hour",
        "day": "day",
        "g": "g gram",
        "kg": "kg kilogram",
        "dollar": "dollar",
        "cent": "cent",
        "percent": "percent",
    }.items()
    for name in names.split()
}
_UNIT = re.compile(
    r"(?:(?<=[^\s(,=])\s*\\(?:text|textrm|mbox)\s*\{(?P<text>[^{}]*)\}"
    r"|(?<=[0-9})%!])(?:(?P<space>\s+)|(?<=[0-9]))(?P<bare>[A-Za-z.]+(?:\s[A-Za-z.]+)*))"
    r"(?P<more>\s*(?:\^\{?-?[1-3]\}?|/?\\text\s*\{[^{}]*\}|/[a-z]+)*)$"
)


def _without_unit(text: str) -> tuple[str, str]:
    """The answer and its unit, "" where it has none or one that nobody mixes up."""
    match = _UNIT.search(text.rstrip())
    if match is None:
        return text, ""
    name = (match["text"] if match["text"] is not None else match["bare"]).strip().strip(".").lower()
    unit = _UNITS.get(name.rstrip("s"), _UNITS.get(name, ""))
    letters = re.sub("[^a-z]", "", name)
    if match["bare"]:  # 5x and 5 x have none, and neither has 5m
        known = unit and (match["space"] or len(letters) > 1)
        if not known and not (match["space"] and len(letters) > 3):
            return text, ""
    power = re.sub(r"[^1-3]", "", match["more"])
    return text[: match.start()], unit + power if unit else ""


def _is_words(text: str) -> bool:
    """Whether an answer is, or has in it, words rather than a product of variables."""
    wrapped = _TEXT.search(text) is not None
    runs = re.findall(r"[^\W\d_]+", re.sub(r"\\(?:begin|end)\{[a-z]*\}|\\[A-Za-z]+", " ", _unwrapped(text)))
    return any(len(run) > (1 if wrapped else 3) and not _FUNCTION.fullmatch(run) for run in runs)


def _angles(text: str) -> str:
    """Degrees as radians where a function asks for them, else as plain numbers."""
    if _TRIGONOMETRY.search(text):
        return re.sub(r"([0-9.]+)\s*°", r"(\1\\pi/180)", text)
    return text.replace("°", "")


# --- shape --------------------------------------------------------------------------------------------------------

_OPENING = {"(", "[", "{", "\\{", "\\langle", "\\lfloor", "\\lceil"}
_CLOSING = {")", "]", "}", "\\}", "\\rangle", "\\rfloor", "\\rceil"}
_RELATIONS = ("<", ">", "\\le", "\\ge", "\\ne", "\\lt", "\\gt")
_NAME = re.compile(
    r"\\?[A-Za-z]+'*(?:_\w|_\{[^{}]*\})?'*(?:\([^()]*\))?|\([A-Za-z](?:,[A-Za-z])+\)|\\angle ?[A-Za-z]+|\|[A-Za-z]+\|"
)
_MATRIX = re.compile(r"\\begin\{([a-zB]*matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}")


def _split(text: str, *separators: str) -> list[str]:
    """The text cut at those of `separators` that stand in no bracket."""
    parts, depth = [""], 0
    for token in _tokens(text):
        depth += (token in _OPENING or token.startswith("\\begin")) - (token in _CLOSING or token.startswith("\\end"))
        if not depth and token in separators:
            parts.append("")
        else:
            parts[-1] += token + (" " if re.fullmatch(r"\\[A-Za-z]+", token) else "")
    return parts


def _listed(text: str) -> tuple[str, list[str]] | None:
    """The brackets and the parts of a list, a set, a tuple or an interval; None where the text is none of them."""
    text = re.sub(r"^\s*[A-Za-z]\s*\\in(?![A-Za-z])", "", text)
    if len(parts := _split(text, ",")) > 1:
        return "", [part for part in parts if part.strip()]
    tokens = _tokens(text)
    if len(tokens) > 1 and tokens[0] in ("(", "[", "\\{", "\\langle") and tokens[-1] in (")", "]", "\\}", "\\rangle"):
        inner = text.strip()[len(tokens[0]) : -len(tokens[-1])]
        if all(depth >= 0 for depth in _depths(inner)):
            parts = _split(inner, ",")
            if len(parts) > 1 or tokens[0] == "\\{":
                return tokens[0] + tokens[-1], parts
    return None


def _depths(text: str) -> Iterator[int]:
    depth = 0
    for token in _tokens(text):
        depth += (token in _OPENING) - (token in _CLOSING)
        yield depth


def _either(text: str) -> str:
    """Both values of what has one plus-minus, as a list."""
    tokens = [token for token in _tokens(text) if token in ("\\pm", "\\mp")]
    return f"{text.replace(tokens[0], '+')},{text.replace(tokens[0], '-')}" if len(tokens) == 1 else text


# --- comparison ---------------------------------------------------------------------------------------------------


def _same(gold: str, given: str, algebra: Algebra) -> bool:
    if _key(gold) == _key(given):
        return bool(_key(gold))
    if choice := _CHOICE.fullmatch(_unwrapped(gold).strip()):
        chosen = _CHOICE.match(_unwrapped(given))
        return chosen is not None and (chosen[1] or chosen[2]) == (choice[1] or choice[2])
    if any(len(_split(text, *_RELATIONS)) > 1 for text in (gold, given)):
        return not _is_words(gold + given) and _asked(algebra, gold, given)
    sides = [_split(text, "=") if len(_split(text, ",")) == 1 else [text] for text in (gold, given)]
    if any(len(each) > 1 for each in sides):
        return _same_equation(gold, given, sides[0], sides[1], algebra)
    gold, given = _either(gold), _either(given)
    lists = _listed(gold), _listed(given)
    if lists[0] and lists[1]:
        return _same_list(lists[0], lists[1], algebra)
    for one, other in ((lists[0], given), (lists[1], gold)):
        if one:
            pair = (one[1][0], other) if one is lists[0] else (other, one[1][0])
            return one[0] == "\\{\\}" and len(one[1]) == 1 and _same(*pair, algebra)
    unions = [_split(text, "\\cup") for text in (gold, given)]
    if len(unions[0]) > 1 or len(unions[1]) > 1:
        return _same_list(("", unions[0]), ("", unions[1]), algebra)
    matrices = [_MATRIX.fullmatch(text.strip()) for text in (gold, given)]
    if matrices[0] and matrices[1]:
        return _same_matrix(matrices[0], matrices[1], algebra)
    return _same_value(gold, given, algebra)


def _same_equation(gold: str, given: str, wanted: Sequence[str], said: Sequence[str], algebra: Algebra) -> bool:
    """x = 5 is 5, and 36 = 6^2 is 36; 3x - y = 0 is 6x - 2y = 0, and neither is 0."""
    if len(wanted) == 1:  # but a curve, x + y - 5 = 0, is not 0
        names = _NAME.fullmatch(_key(said[0])) is not None or not re.search("[A-Za-z]", said[0])
        return (names or _key(said[-1]) != "0") and _same(gold, said[-1], algebra)
    if len(said) == 1:
        return _NAME.fullmatch(_key(wanted[0])) is not None and _same(wanted[-1], given, algebra)
    if _key(wanted[0]) == _key(said[0]) and _same(wanted[-1], said[-1], algebra):
        return True
    return not _is_words(gold + given) and len(wanted) == len(said) == 2 and _asked(algebra, gold, given)


def _same_list(wanted: tuple[str, list[str]], said: tuple[str, list[str]], algebra: Algebra) -> bool:
    brackets = {wanted[0], said[0]}
    if len(wanted[1]) != len(said[1]) or (len(brackets) > 1 and brackets not in ({"", "()"}, {"", "\\{\\}"})):
        return False
    if brackets <= {"", "\\{\\}"} and len(wanted[1]) <= MAX_PARTS and "\\ldots" not in "".join(wanted[1]):
        left = list(said[1])
        for part in wanted[1]:
            found = next((i for i, other in enumerate(left) if _same(part, other, algebra)), None)
            if found is None:
                return False
            del left[found]
        return True
    return all(_same(part, other, algebra) for part, other in zip(wanted[1], said[1], strict=True))


def _same_matrix(gold: re.Match[str], given: re.Match[str], algebra: Algebra) -> bool:
    kinds = {kind if kind == "vmatrix" else "matrix" for kind in (gold[1], given[1])}  # a determinant is no matrix
    rows = [[_split(row, "&") for row in _split(match[2], "\\\\") if row.strip()] for match in (gold, given)]
    if len(kinds) > 1 or [len(row) for row in rows[0]] != [len(row) for row in rows[1]]:
        return False
    cells = [[cell for row in each for cell in row] for each in rows]
    return all(_same(cell, other, algebra) for cell, other in zip(*cells, strict=True))


def _same_value(gold: str, given: str, algebra: Algebra) -> bool:
    (gold, unit), (given, other) = _without_unit(gold), _without_unit(given)
    if unit and other and unit != other:
        return False
    if _is_words(gold) or _is_words(given):
        return _folded(gold) == _folded(given) != ""
    gold, given = _angles(gold), _angles(given)
    if _key(gold) == _key(given):
        return bool(_key(gold))
    shares = [_key(text).endswith("%") or name == "percent" for text, name in ((gold, unit), (given, other))]
    gold, given = (text.strip().removesuffix("%") for text in (gold, given))
    values = read_number(_key(gold)), read_number(_key(given))
    if values[0] is not None and values[1] is not None:
        scales = (
            {Fraction(1)} | ({Fraction(1, 100)} if shares[0] else set()) | ({Fraction(100)} if shares[1] else set())
        )
        scales = {Fraction(1)} if all(shares) else scales
        exact = "." not in gold + given
        return any(_equal(values[0] * scale, values[1], exact) for scale in scales)
    if any(re.search(r"[0-9]:[0-9]|^[0-9A-Fa-f]+_|\\ldots", _key(text)) for text in (gold, given)):
        return False  # times, ratios, numerals of another base: their text is what they are
    return _asked(algebra, gold, given)


def _equal(gold: Fraction, given: Fraction, exact: bool) -> bool:
    return gold == given or (not exact and abs(gold - given) <= _NOISE * abs(gold))


def _folded(text: str) -> str:
    return re.sub(r"[\W_]+", "", _unwrapped(text).casefold())


_HUGE = re.compile(r"\^\{?[0-9]{6,}|(?:(?<![0-9A-Za-z.])[0-9.]+|\))\^\{?[0-9.]+\^\{?[0-9.]+\^")
_TOWER = re.compile(r"(?<![0-9A-Za-z.])([0-9]+)\^\{?([0-9]+)\^\{?([0-9]+)")


def _asked(algebra: Algebra, gold: str, given: str) -> bool:
    """The answer of the computer algebra, which is not asked what would cost it hours."""
    gold, given = (_powers(_key(text)) for text in (gold, given))
    return not any(len(text) > MAX_EXPRESSION or _is_huge(text) for text in (gold, given)) and algebra(gold, given)


def _powers(text: str) -> str:
    """2^3^2 with the braces that LaTeX asks for."""
    return re.sub(r"\^([0-9A-Za-z])\^(\{[^{}]*\}|[0-9A-Za-z])", r"^{\1^\2}", text)


def _is_huge(text: str) -> bool:
    towers = (tuple(map(int, match.groups())) for match in _TOWER.finditer(text.replace("{", "{").replace("(", "")))
    high = any(exponent * math.log10(max(base, 1)) > 5 for _, base, exponent in towers)
    return high or _HUGE.search(text) is not None
