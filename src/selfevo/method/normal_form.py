"""Text as a person sees it: the one normal form that answers, verdicts, choices and prompts are read in.

What cannot be seen is taken out, digits and punctuation of other writings become ASCII. Letters are left alone.
"""

from __future__ import annotations

import unicodedata
from functools import cache

import regex

_UNSEEN = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}\u2800]")
_CONTROL = regex.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f]")
_MARKS = str.maketrans({"。": ".", "｡": ".", "．": ".", "、": ",", "﹕": ":", "︓": ":", "٫": ".", "٬": ","})


def without_unseen(text: str) -> str:
    """Without characters that take no space on a screen, controls included; white space stays."""
    return _CONTROL.sub("", _UNSEEN.sub("", text))


def plain_characters(text: str) -> str:
    """Digits of all scripts, full-width forms and unusual spaces as ASCII; what cannot be seen is taken out."""
    text = without_unseen(text)
    return text if text.isascii() else "".join(map(_plain, text)).translate(_MARKS)


@cache
def _plain(character: str) -> str:
    if "\uff01" <= character <= "\uff5e":  # full-width forms
        return chr(ord(character) - 0xFEE0)
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    return " " if category == "Zs" else character
