"""Rates with Wilson intervals, and paired tests: McNemar, sign flips, the Bonett-Price interval."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Rate:
    """`correct` right answers out of `n`. Where answers are compared in pairs, a tie is half of one."""

    n: int
    correct: float

    @property
    def accuracy(self) -> float | None:
        """In [0, 1]; None if n is 0."""
        return self.correct / self.n if self.n else None

    @property
    def ci(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy; (0, 1) if n is 0."""
        return wilson(self.correct, self.n)


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Two models on the same problems: difference of mean scores, its 95 % interval, two-sided p.

    `gained` counts the problems on which the first model scores higher, `lost` those on which it
    scores lower.
    """

    difference: float
    ci: tuple[float, float]
    gained: int
    lost: int
    p_value: float


def compare(a: Sequence[float], b: Sequence[float]) -> PairedTest:
    """Compares two models by their scores on the same problems. At least one problem is needed.

    If all scores are 0 or 1: McNemar's exact test, with the interval of Bonett and Price (2012).
    Else: a sign-flip test of the mean difference, with a normal interval. Raises ValueError if the
    numbers of scores differ.
    """
    differences = [x - y for x, y in zip(a, b, strict=True)]
    gained, lost = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    if all(value in (0, 1) for value in (*a, *b)):
        return compare_counts(gained, lost, len(differences))
    mean = sum(differences) / len(differences)
    return PairedTest(mean, normal_interval(differences), gained, lost, sign_flip(differences))


def compare_counts(gained: int, lost: int, n: int) -> PairedTest:
    """The same from counts, if each of the `n` problems is answered right or wrong."""
    return PairedTest((gained - lost) / n, bonett_price(gained, lost, n), gained, lost, mcnemar_exact(gained, lost))


def natural(name: str) -> list[tuple[int, str]]:
    """A sort key that orders numbers inside names by value."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def wilson(successes: float, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval for a proportion, 95 % by default (Wilson 1927). (0, 1) if n is 0."""
    if n == 0:
        return (0.0, 1.0)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if successes == 0 else max(0.0, centre - half)  # exactly: rounding leaves 1e-18
    return (low, 1.0 if successes == n else min(1.0, centre + half))


def bonett_price(gained: int, lost: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Interval for a difference of paired proportions, 95 % by default (Bonett and Price 2012).

    It is the Wald interval with one pair added to each side.
    """
    up, down = (gained + 1) / (n + 2), (lost + 1) / (n + 2)
    half = z * math.sqrt((up + down - (up - down) ** 2) / (n + 2))
    return max(-1.0, up - down - half), min(1.0, up - down + half)


def normal_interval(differences: Sequence[float], z: float = 1.959964) -> tuple[float, float]:
    """Normal interval for the mean of paired differences, 95 % by default."""
    mean = sum(differences) / len(differences)
    variance = sum((d - mean) ** 2 for d in differences) / max(1, len(differences) - 1)
    half = z * math.sqrt(variance / len(differences))
    return mean - half, mean + half


def sign_flip(differences: Sequence[float], flips: int = 10_000) -> float:
    """Two-sided p-value of the mean of paired differences.

    Under the null hypothesis each sign is a fair coin.
    """
    values = np.array([d for d in differences if d])
    if not len(values):
        return 1.0
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (flips, len(values)))
    as_far = np.abs(signs @ values) >= abs(values.sum()) - 1e-12
    return float((as_far.sum() + 1) / (flips + 1))


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p-value of the exact McNemar test (McNemar 1947).

    Under the null hypothesis each discordant pair is a fair coin.
    """
    n, k = gained + lost, min(gained, lost)
    return float(min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n))
