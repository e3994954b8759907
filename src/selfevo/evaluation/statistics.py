"""Intervals and paired tests: Wilson, Bonett-Price, McNemar, sign flips."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts numbers within names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def compare(name_a: str, a: Sequence[float], name_b: str, b: Sequence[float], mode: str) -> dict[str, Any]:
    """Paired comparison of two models on the same problems: the difference of their means, its 95 % interval, a p.

    Right or wrong: McNemar's exact test, interval of Bonett and Price (2012). Scores in between: a sign-flip test of
    the mean difference, normal interval.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    gained, lost, n = sum(d > 0 for d in differences), sum(d < 0 for d in differences), len(differences)
    if all(value in (0, 1) for value in (*a, *b)):
        p_value, interval = mcnemar_exact(gained, lost), bonett_price(gained, lost, n)
    else:
        p_value, interval = sign_flip(differences), normal_interval(differences)
    return {
        "a": name_a,
        "b": name_b,
        "mode": mode,
        "difference": sum(differences) / n,
        "ci": list(interval),
        "gained": gained,
        "lost": lost,
        "p_value": p_value,
    }


def rate(values: Sequence[bool]) -> dict[str, Any]:
    return {
        "n": len(values),
        "correct": sum(values),
        "accuracy": share(values),
        "ci": list(wilson(sum(values), len(values))),
    }


def share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval for a proportion, 95 % by default (Wilson 1927). (0, 1) when n is 0: nothing is known."""
    if n == 0:
        return (0.0, 1.0)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)  # exactly: rounding leaves 1e-18
    return (low, 1.0 if successes == n else min(1.0, centre + half))


def bonett_price(gained: int, lost: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval for a difference of paired proportions, 95 % by default: Wald's with one more pair on each side."""
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def normal_interval(differences: Sequence[float], z: float = 1.959964) -> tuple[float, float]:
    """Of the mean of paired differences, 95 % by default."""
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / max(1, len(differences) - 1)
    half = z * math.sqrt(variance / len(differences))
    return mean - half, mean + half


def sign_flip(differences: Sequence[float], flips: int = 10_000) -> float:
    """Two-sided p-value of the mean of paired differences: under the null hypothesis their signs are fair coins."""
    values = np.array([d for d in differences if d])
    if not len(values):
        return 1.0
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (flips, len(values)))
    as_far = np.abs(signs @ values) >= abs(values.sum()) - 1e-12
    return float((as_far.sum() + 1) / (flips + 1))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided exact McNemar test: the discordant pairs are a fair coin under the null hypothesis (McNemar 1947)."""
    n, k = gained + lost, min(gained, lost)
    return float(min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n))
