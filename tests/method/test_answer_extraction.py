"""How the answer of a text is read, and which texts are one vote."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfevo.method.answer_extraction import answer_key, extract_answer, read_number, write_number

CASES = Path(__file__).parents[1] / "cases"

numbers = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=1000)
plain = st.text(alphabet=st.characters(exclude_categories=["N"], exclude_characters="#=/.,-\u2212$€£¥₹")).filter(
    lambda text: "answer" not in text.lower()
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 42.", "42"),
        ("The answer is 42.0", "42"),
        ("#### 1,234.50", "1234.5"),
        ("3 apples, so the ANSWER is: **$1,080** in 2 days", "1080"),
        ("Answer: 48 + 24 = 72 clips. That is 3 times 24.", "72"),
        ("Answer:\n\n 7", "7"),
        ("The answer is 5. No, the answer is 6.", "6"),
        ("The answer is 5. Checking: x = 3.", "5"),
        ("#### 5\nThe answer is unknown", "5"),
        ("She has 3 and then 4", "4"),
        ("It costs 10-5", "5"),
        ("It is -5", "-5"),
        ("a loss of -$5", "-5"),
        ("a loss of $-5", "-5"),
        ("a loss of \u22125.", "-5"),
        ("room (2)-3", "3"),
        ("they get 2/3.", "2/3"),
        ("they get 3/4.", "0.75"),
        ("12 <<6*2=13>>", "12"),
        ("1,2 and 3,45", "3.45"),  # a decimal comma, which is how most of Europe writes
        (".5", "0.5"),
        ("2.5e3", "2500"),
        ("no number", None),
        ("", None),
        ("the answer is", None),
        ("3/0", None),
        ("7 or " + "9" * 41, None),
    ],
)
def test_the_answer_of_a_text(text: str, expected: str | None) -> None:
    answer = extract_answer(text)
    assert (None if answer is None else write_number(answer)) == expected


NUMBERS = [
    json.loads(line)
    for name in ("numbers.jsonl", "answers.jsonl")
    for line in (CASES / name).read_text("utf-8").splitlines()
]


@pytest.mark.parametrize("case", NUMBERS, ids=range(len(NUMBERS)))
def test_numbers_are_read_as_a_person_reads_them(case: dict[str, str | None]) -> None:
    value = extract_answer(str(case["text"]))
    assert value == (None if case["value"] is None else Fraction(case["value"]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("#### Step 2\n\nSo 3 + 4 = 7 eggs", "7"),
        ("#### 2. Add up\nThe total is 7", "7"),
        ("The answer is 18, since 16 - 3 - 4 = 9", "18"),
        ("18, since 16 - 3 - 4 = 9", "18"),
        ("3.5 hours (210 minutes)", "3.5"),
        ("2 1/2", "2.5"),
        ("The answer is 2½.", "2.5"),
        ("The answer is 12,34,567.", "1234567"),
        ("The answer is 1.234,56", "1234.56"),
        ("The answer is 10^3", "1000"),
        ("The answer is 12 500.", "12500"),
        ("The area is 42 cm²", "42"),
        ("It holds 42 m3", "42"),
        ("It is version 1.2.3", None),
        ("on 3/4/2021", None),
        ("The answer is 1,2,3", None),
        ("The answer is 3 × 4 = 12, so 12 × 2 = 24.", "24"),
        ("\\boxed{18}\n\nCheck: the answer is consistent with 16 eggs", "18"),
        ("\\boxed{\\text{18 apples}}", "18"),
        ("The answer is forty-two", "42"),
        ("the answer is two hundred and six thousand", "206000"),
        ("The answer is -\\$5", "-5"),
        ("답은 42입니다", "42"),
        ("Die Antwort lautet: 42", "42"),
        ("### Final Answer\n\n**42** of 60", "42"),
        ("The final answer is 18 (not 20).", "18"),
        ("The answer is 4\u200b2", "42"),
        ("\\boxed{} The answer is 5", "5"),
    ],
)
def test_brothers_of_these(text: str, expected: str | None) -> None:
    value = extract_answer(text)
    assert (None if value is None else write_number(value)) == expected


@pytest.mark.parametrize(
    "votes",
    [
        (
            "18",
            "**18**",
            "$18$",
            "`18`",
            "18.",
            "\\boxed{18}",
            "The answer is 18.",
            "$\\boxed{\\text{18}}$",
            "18 apples",
        ),
        ("1/2", "0.5", "\\frac{1}{2}", "½", "\\boxed{\\dfrac12}"),
        ("1,000", "1000", "1{,}000", "1 000", "$1,000.00"),
        ("\\boxed{(1, 2)}", "so \\boxed{(1,2)}"),
        ("\\boxed{x+1}", "It is \\boxed{x + 1}."),
    ],
)
def test_one_answer_is_one_vote(votes: tuple[str, ...]) -> None:
    assert len({answer_key(vote) for vote in votes}) == 1


def test_different_answers_are_different_votes() -> None:
    votes = [
        "18",
        "-18",
        "(1, 2)",
        "(1, 3)",
        "\\boxed{(1,4)}",
        "\\boxed{x+1}",
        "1 2 3",
        "1 2 4",
        "The answer is (1, 5)",
    ]
    assert len({answer_key(vote) for vote in votes}) == len(votes)


@given(
    st.integers(1, 10**9),
    st.sampled_from(["{:,}", "{:_}"]),
    st.sampled_from([",", "{,}", "\u00a0", "\u202f", " ", "'", "\u2019", "_", ",\\!", "\\,"]),
    st.sampled_from(
        ["The answer is {}.", "#### {}", "\\boxed{{{}}}", "**Answer:** {}", "<think>3</think>{}", "It is ${}$."]
    ),
)
def test_thousands_of_all_kinds(n: int, plain: str, mark: str, form: str) -> None:
    assert extract_answer(form.format(plain.format(n).replace(",", mark).replace("_", mark))) == n


@given(numbers)
def test_a_written_number_reads_as_itself(value: Fraction) -> None:
    assert read_number(write_number(value)) == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 5), st.sampled_from(["", "$", "€"]), st.sampled_from(["", "."]))
def test_commas_currency_zeros_and_full_stop_make_no_difference(n: int, zeros: int, currency: str, stop: str) -> None:
    sign = "-" if n < 0 else ""
    written = f"{sign}{currency}{abs(n):,}{'.' + '0' * zeros if zeros else ''}{stop}"
    assert read_number(written) == n
    assert extract_answer(f"It makes {written}") == n


@given(plain, numbers, st.sampled_from(["#### ", "The answer is ", "Answer: "]), plain)
def test_a_declared_answer_counts_wherever_it_stands(before: str, value: Fraction, declared: str, after: str) -> None:
    assert extract_answer(f"{before} 17\n{declared}{write_number(value)}\n{after} 99") == value


@given(plain, numbers, numbers, plain)
def test_otherwise_the_last_number_counts(before: str, first: Fraction, last: Fraction, after: str) -> None:
    assert extract_answer(f"{before} {write_number(first)} and {write_number(last)} {after}") == last
