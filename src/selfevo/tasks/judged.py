"""Prompts whose answers a judge compares with others: there is no right one. evaluation/judge.py has the judge."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from selfevo.config.base import Positive, Strict
from selfevo.config.sections import EndpointConfig
from selfevo.method.records import Prompt
from selfevo.tasks.golds import allowed, as_text
from selfevo.tasks.rules import Gold


class JudgeRule(Strict):
    """Who compares, and how. Without a model the base model judges, for `selfevo eval` the model itself."""

    model: str | None = Field(None, description="a model that judges: a folder or a hub id")
    endpoint: EndpointConfig | None = Field(None, description="a server with a model that judges")
    max_new_tokens: Positive = Field(512, description="token limit of one judgement")

    @model_validator(mode="after")
    def _one_judge(self) -> JudgeRule:
        if self.model is not None and self.endpoint is not None:
            raise ValueError("both model and endpoint are given; give one of them, the name on the server in endpoint")
        return self

    def read(self, prompt: Prompt, answer: Any, choices: Any) -> Gold:
        if answer is None:
            return Gold(prompt, None, "")
        recorded = allowed(answer)
        if len(recorded) > 1:
            raise ValueError(f"there are {len(recorded)} recorded answers; give one")
        return Gold(prompt, as_text(recorded[0]), as_text(recorded[0]))

    def is_right(self, gold: Gold, response: str) -> bool:
        raise NotImplementedError("a judge compares many answers at a time")

    def found(self, gold: Gold, response: str) -> str:
        raise NotImplementedError("a judge compares many answers at a time")
