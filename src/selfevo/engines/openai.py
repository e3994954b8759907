"""Generation by any server that speaks the OpenAI protocol: for a model that stands there already.

A server cannot be handed the weights of the next round, so a run does not use this engine; `selfevo eval` and a judge
do. Chat template and control tokens are the server's affair.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfevo.config.sections import EndpointConfig
from selfevo.errors import EngineError
from selfevo.method.protocols import FURTHER, Finish, Generation, Request, Sampling, generate_all
from selfevo.method.thinking import reopened
from selfevo.models.chat_template import messages
from selfevo.models.endpoint import Ask, Endpoint, Reply
from selfevo.rundir.ledger import Ledger

logger = logging.getLogger(__name__)


class OpenAIEngine:
    """Answers with the model that `config` names, whatever folder is given."""

    keeps_account = True  # its ledger has the tokens of every call, so a stage need not count them again
    batch_size = 1  # each answer is kept when it comes; the endpoint sees to it that many are asked for at once

    def __init__(self, config: EndpointConfig, ledger: Ledger | None = None) -> None:
        self.endpoint = Endpoint(config, ledger)

    def generate(self, model: Path, requests: Sequence[Request], sampling: Sampling) -> list[Generation]:
        return generate_all(self, model, requests, sampling)

    def stream(
        self, model: Path, slices: Sequence[Sequence[Request]], sampling: Sampling
    ) -> Iterator[tuple[int, list[Generation]]]:
        """A request that the server refuses has "failed". One that it only fails at is no answer of the model: it is
        left out, and EngineError says so when all others have come."""
        places = [(place, i) for place, requests in enumerate(slices) for i in range(len(requests))]
        come: list[dict[int, Generation]] = [{} for _ in slices]
        failed, refused = [], []
        for replies in self.endpoint.ask([_ask(slices[place][i], sampling) for place, i in places]):
            for position, reply in replies:
                place, i = places[position]
                if reply.mends:
                    failed.append(reply.fault)
                    continue
                if reply.fault:
                    refused.append(reply.fault)
                come[place][i] = _generation(reply)
                if len(come[place]) == len(slices[place]):
                    yield place, [come[place][i] for i in range(len(slices[place]))]
        if refused:
            logger.warning(
                "%s refused %d of %d requests (%s); each counts as a failed answer",
                self.endpoint.config.base_url, len(refused), len(places), refused[0],
            )  # fmt: skip
        if failed:
            raise EngineError(
                f"{self.endpoint.config.base_url} failed at {len(failed)} of {len(places)} requests ({failed[0]}); "
                f"they are owed; {self.endpoint.again}"
            )

    def release(self) -> None:
        """Holds nothing."""


def _ask(request: Request, sampling: Sampling) -> Ask:
    further = {name: value for name, value in sampling.key().items() if name in FURTHER}
    if further:
        name, value = next(iter(further.items()))
        raise EngineError(
            f"{name} is {value}, which the protocol of OpenAI does not have; leave it out, or set it at the server"
        )
    options: dict[str, Any] = {"temperature": sampling.temperature}
    if sampling.temperature > 0:  # else they decide nothing, and not every server takes them
        options |= {"top_p": sampling.top_p, "seed": request.seed % 2**31}
    return Ask(messages(request.turns, request.system), sampling.max_new_tokens, options, may_be_empty=True)


def _generation(reply: Reply) -> Generation:
    text = reopened(reply.text.strip())
    finish: Finish = "stop" if text else "empty"
    if reply.fault:
        finish = "failed"
    elif reply.finish == "length":
        finish = "length"
    return Generation(text, finish, reply.prompt_tokens, reply.new_tokens)
