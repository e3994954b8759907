"""Intervals and tests, against values worked out by hand or taken from the literature."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.statistics import Rate, bonett_price, compare, compare_counts, mcnemar_exact, wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe 1998, table I, method 3, to four places.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # By hand: z^2 = 3.841459; p = 0.5, n = 10: 0.5 -+ 1.959964 * sqrt(0.025 + 0.00960365) / 1.3841459.
        (5, 10, 0.2366, 0.7634),
        (20, 20, 0.8389, 1.0),
        (0, 0, 0.0, 1.0),
    ],
)
def test_wilson_interval(successes: int, n: int, low: float, high: float) -> None:
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_is_a_mirrored_interval_around_the_share(counts: tuple[int, int]) -> None:
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n + 1e-12
    assert successes / n - 1e-12 <= high <= 1
    assert low < high
    mirrored = wilson(n - successes, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (6, 0, 2 / 64),
        (0, 6, 2 / 64),
        (9, 1, 2 * (1 + 10) / 1024),
        (3, 8, 2 * (1 + 11 + 55 + 165) / 2048),
        (2, 3, 1.0),
    ],
)
def test_mcnemar_is_a_fair_coin_over_the_discordant_pairs(gained: int, lost: int, p: float) -> None:
    assert mcnemar_exact(gained, lost) == pytest.approx(p)


def test_mcnemar_stands_large_counts() -> None:
    assert mcnemar_exact(3000, 1000) < 1e-200
    assert not math.isnan(mcnemar_exact(3000, 3000))


def test_a_rate_of_nothing_has_no_accuracy() -> None:
    assert (Rate(0, 0).accuracy, Rate(0, 0).ci) == (None, (0.0, 1.0))
    assert (Rate(10, 5).accuracy, Rate(10, 5).ci) == (0.5, wilson(5, 10))


def test_compare_pairs_the_problems() -> None:
    a = [True, True, False, True, False, True]
    b = [True, False, True, False, False, False]
    found = compare(a, b)
    assert found == compare_counts(3, 1, 6)
    assert (found.gained, found.lost, found.difference) == (3, 1, 2 / 6)
    # 4/8 - 2/8 -+ 1.959964 * sqrt((4/8 + 2/8 - (2/8)^2) / 8)
    assert found.ci == pytest.approx((0.25 - 0.574574, 0.25 + 0.574574), abs=1e-5)
    assert found.p_value == pytest.approx(2 * (1 + 4) / 16)
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        compare(a, b[:-1])


def test_scores_between_right_and_wrong_are_compared_by_flipping_signs() -> None:
    found = compare([0.6] * 6, [0.5] * 6)
    assert found.difference == pytest.approx(0.1)
    assert found.ci == pytest.approx((0.1, 0.1))
    assert found.p_value == pytest.approx(2 / 2**6, abs=0.01)  # all six one way or the other
    assert compare([0.5, 0.1], [0.1, 0.5]).p_value == 1.0
    assert compare([0.5], [0.5]).p_value == 1.0


def test_bonett_price_by_hand() -> None:
    """Wald's interval with one more pair gained and one more lost, for 10 and 2 of 50."""
    half = 1.959964 * math.sqrt((14 / 52 - (8 / 52) ** 2) / 52)
    assert bonett_price(10, 2, 50) == pytest.approx((8 / 52 - half, 8 / 52 + half))


@given(st.integers(0, 50), st.integers(0, 50))
def test_the_interval_of_a_difference_mirrors(gained: int, lost: int) -> None:
    low, high = bonett_price(gained, lost, 100)
    assert -1 <= low < (gained - lost + 0) / 102 + 1e-9 < high + 1e-9 <= 1 + 1e-9
    assert bonett_price(lost, gained, 100) == pytest.approx((-high, -low))
