"""The names of models and rounds, in the run directory and in every table."""

from __future__ import annotations

import re

BASE = "base"
SFT = "sft"  # the supervised baseline
WARM_UP = "warm-up"  # a throw-away model; its right and wrong responses are annotated for D_meta
META = "meta"


def round_name(number: int) -> str:
    return f"round-{number}"


def round_number(name: str) -> int | None:
    """The number of a round, from its name. None if `name` is not the name of a round."""
    match = re.fullmatch(r"round-([1-9][0-9]*)", name)
    return int(match[1]) if match else None


def in_order(name: str) -> tuple[int, int, str]:
    """A sort key, in the order in which models are made: base, sft and warm-up, meta, the rounds."""
    number = round_number(name)
    return (2, number, "") if number is not None else (int(name == META), 0, name)
