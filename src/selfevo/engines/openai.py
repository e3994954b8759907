"""Generation by any server that speaks the OpenAI protocol: for a model that stands there already.

A server cannot be handed the weights of the next round, so a run does not use this engine; `selfevo eval` and a judge
do. Chat template and control tokens are the server's affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfevo.config.sections import EndpointConfig
from selfevo.method.protocols import Finish, Generation, Request, Sampling
from selfevo.models.chat_template import messages
from selfevo.models.endpoint import Ask, Endpoint, Reply


class OpenAIEngine:
    """Answers with the model that `config` names, whatever folder is given."""

    def __init__(self, config: EndpointConfig) -> None:
        self.endpoint = Endpoint(config)

    @property
    def batch_size(self) -> int:
        return 4 * self.endpoint.config.max_concurrency

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        asks = [_ask(request, sampling) for request in requests]
        replies = dict(reply for batch in self.endpoint.ask(asks) for reply in batch)
        return [_generation(replies[i]) for i in range(len(requests))]

    def release(self) -> None:
        """Holds nothing."""


def _ask(request: Request, sampling: Sampling) -> Ask:
    options = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": request.seed % 2**31}
    return Ask(messages(request.turns, request.system), sampling.max_new_tokens, options)


def _generation(reply: Reply) -> Generation:
    text = reply.text.strip()
    finish: Finish = "stop" if text else "empty"
    if reply.fault:
        finish = "failed"
    elif reply.finish == "length":
        finish = "length"
    return Generation(text, finish, reply.prompt_tokens, reply.new_tokens)
