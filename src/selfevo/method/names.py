"""What models and rounds are called, in the run directory and in every table."""

from __future__ import annotations

import re

BASE = "base"
SFT = "sft"  # the supervised baseline
WARM_UP = "warm-up"  # a throw-away model that gives D_meta right and wrong responses
META = "meta"


def round_name(number: int) -> str:
    return f"round-{number}"


def round_number(name: str) -> int | None:
    """The number in the name of a round, or of the model that it makes; None for other names."""
    match = re.fullmatch(r"round-([1-9][0-9]*)", name)
    return int(match[1]) if match else None


def in_order(name: str) -> tuple[int, int, str]:
    """Sorts models as they are made: helpers and baselines, meta, then the rounds by number."""
    number = round_number(name)
    return (2, number, "") if number is not None else (int(name == META), 0, name)
