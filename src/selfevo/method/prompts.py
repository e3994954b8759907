"""The words that the model is asked with, in any language. Training and inference both come here.

A trajectory is ONE conversation that grows; turns alternate user, assistant, user, ...:

    user p   assistant r   user CRITIQUE   assistant f   user REFINE   assistant r^
    user p   assistant r^  user CRITIQUE   assistant v

Earlier turns of the prompt come first, and its system prompt is the same all along.
"""

from __future__ import annotations

import unicodedata
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from selfevo.method.records import Prompt, Turns
from selfevo.method.verdicts import Grammar, Verdict, grammar, plain

CRITIQUE = "Check this answer: name each error, then give your verdict."
REFINE = "Write the improved answer."
LONGEST_WORD = 40  # characters of the label or of a verdict


class Wording(BaseModel):
    """The words of a run, in any language. A model learns them, so they are saved with it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    critique: str = Field(CRITIQUE, description="the request for feedback on an answer, and for the verdict on r^")
    refine: str = Field(REFINE, description="the request for the refined answer")
    verdict: str = Field("Verdict", description="the label of the line that a feedback ends in")
    qualified: str = Field("qualified", description="the verdict yes")
    not_qualified: str = Field("not qualified", description="the verdict no")
    rubric: str = Field(
        "", description="what a good answer has; follows the request for feedback and the annotator's instruction"
    )
    annotator: str = Field(
        "",
        description="the instruction of an annotator behind a server, in place of the one in English: it asks for a "
        "JSON object with the keys feedback, verdict and refinement, and names both verdicts",
    )
    new_prompt: str = Field(
        "",
        description="the request for a new prompt (self_instruct), in place of the one in English; {examples} stands "
        "for the numbered examples",
    )

    @field_validator("*")
    @classmethod
    def _text(cls, value: str) -> str:
        if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("it holds a NUL character or half a surrogate pair; remove it")
        return unicodedata.normalize("NFC", value).strip() if not value.isascii() else value.strip()

    @field_validator("critique", "refine")
    @classmethod
    def _something(cls, value: str) -> str:
        if not value:
            raise ValueError("it is empty; write the request")
        return value

    @field_validator("verdict", "qualified", "not_qualified")
    @classmethod
    def _word(cls, value: str) -> str:
        if len(value.splitlines()) > 1:
            raise ValueError(f"{value[:LONGEST_WORD]!r} has a line break; write it in one line")
        word = " ".join(value.split())
        if not word or len(word) > LONGEST_WORD:
            raise ValueError(f"{word[:LONGEST_WORD]!r} has {len(word)} characters; give 1 to {LONGEST_WORD}")
        if unicodedata.category(word[0])[0] not in "LN" or unicodedata.category(word[-1])[0] not in "LNM":
            raise ValueError(
                f"{word!r} does not begin and end with a letter or digit; leave out quotes, colons and other marks"
            )
        if not plain(word):
            raise ValueError(f"{word!r} shows no letter or digit; give a word that can be seen")
        return word

    @model_validator(mode="after")
    def _is_clear(self) -> Wording:
        if self.critique == self.refine:
            raise ValueError("critique and refine are the same request; word them differently")
        lines = {verdict: self.line(verdict) for verdict in (Verdict.QUALIFIED, Verdict.NOT_QUALIFIED)}
        if any(self.parse(f"1.\n\n{line}.") is not verdict for verdict, line in lines.items()):
            raise ValueError(
                f"the lines {' and '.join(map(repr, lines.values()))} cannot be told apart, or not be read; give two "
                "plain words or short phrases that differ in more than case, accents and marks"
            )
        names = ("feedback", "verdict", "refinement", self.qualified, self.not_qualified)
        if self.annotator and (missing := [name for name in names if name not in self.annotator]):
            raise ValueError(
                f"annotator does not name {missing[0]!r}; ask for a JSON object with the keys feedback, verdict and "
                f"refinement, and for the verdict {self.qualified!r} or {self.not_qualified!r}"
            )
        if self.new_prompt and "{examples}" not in self.new_prompt:
            raise ValueError("new_prompt has no {examples}; write it where the examples are to stand")
        return self

    def line(self, verdict: Verdict) -> str:
        """The last line of a feedback, as annotators write it and the model learns it."""
        words = {Verdict.QUALIFIED: self.qualified, Verdict.NOT_QUALIFIED: self.not_qualified}
        script = unicodedata.name(self.verdict[-1], "").split(" ")[0]
        colon = "：" if script in ("CJK", "HIRAGANA", "KATAKANA") else ": "
        return f"{self.verdict}{colon}{words.get(verdict, verdict.value)}"

    def parse(self, feedback: str) -> Verdict:
        """The verdict that a feedback ends in: verdicts.py has the grammar."""
        return self._grammar.parse(feedback)

    def without_verdict(self, feedback: str) -> str:
        """The words of a feedback, without the lines that give its verdict and without fences and rules at its end."""
        return self._grammar.without_verdict(feedback)

    def restated(self, feedback: str) -> str:
        """`feedback`, with its verdict in these words where it is in English, as the tasks of this package write it."""
        verdict = ENGLISH.parse(feedback)
        if verdict is Verdict.UNKNOWN or self.parse(feedback) is not Verdict.UNKNOWN:
            return feedback
        return f"{ENGLISH.without_verdict(feedback)}\n{self.line(verdict)}".lstrip()

    @property
    def _grammar(self) -> Grammar:
        return grammar(self.verdict, self.qualified, self.not_qualified)

    @property
    def feedback_request(self) -> str:
        """What the model is asked with for feedback: the request and the rubric."""
        return f"{self.critique}\n\n{self.rubric}" if self.rubric else self.critique

    @property
    def learnt(self) -> dict[str, str]:
        """All that a model learns, as it is saved with it."""
        return self.model_dump(exclude={"annotator", "new_prompt"})

    @property
    def identity(self) -> tuple[Any, ...]:
        """Its part of a key: nothing for the default words."""
        return () if self.learnt == ENGLISH.learnt else (self.learnt,)


ENGLISH = Wording()


def respond(prompt: Prompt) -> Turns:
    return (*prompt.history, prompt.prompt)


def critique(prompt: Prompt, response: str, wording: Wording = ENGLISH) -> Turns:
    return (*respond(prompt), response, wording.feedback_request)


def refine(prompt: Prompt, response: str, feedback: str, wording: Wording = ENGLISH) -> Turns:
    return (*critique(prompt, response, wording), feedback, wording.refine)


def verdict_line(verdict: Verdict, wording: Wording = ENGLISH) -> str:
    """The last line of a feedback, as annotators write it and the model learns it."""
    return wording.line(verdict)


def parse_verdict(feedback: str, wording: Wording = ENGLISH) -> Verdict:
    """The verdict that a feedback ends in. UNKNOWN where its last line is not exactly a verdict, or it gives two."""
    return wording.parse(feedback)


def without_verdict(feedback: str, wording: Wording = ENGLISH) -> str:
    """The words of a feedback, without the lines that give its verdict and without fences and rules at its end."""
    return wording.without_verdict(feedback)
