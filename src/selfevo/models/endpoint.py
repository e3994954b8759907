"""A server that speaks the OpenAI protocol: many calls at once, retried, within a budget, and without leaking the key.

Whatever a server does, each conversation gets one reply, or a fault that says why there is none. What no waiting can
mend (a refused key, an unknown model) ends everything at once; so does a server that only fails.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from selfevo.config.sections import EndpointConfig
from selfevo.errors import BudgetError, ConfigError, EngineError, MissingExtraError, SelfevoError

try:
    import openai
    from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, wait_random_exponential
except ImportError:
    raise MissingExtraError("a model behind an API needs more packages; run: pip install 'selfevo[api]'") from None

BACKOFF = wait_random_exponential(multiplier=1, max=60)  # seconds; a Retry-After of the server comes before it
PATIENCE = 20  # calls that fail one after the other, each with all its retries, before the server is given up
_BYTES_PER_TOKEN = 3  # for what is not counted yet; English text has four to five


@dataclass(frozen=True, slots=True)
class Ask:
    """One conversation: messages of role and content, and further arguments of the call."""

    messages: list[dict[str, str]]
    max_tokens: int
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """`fault` says why there is no text, "" if there is one. Tokens and dollars are those of all attempts."""

    text: str
    finish: str
    fault: str
    prompt_tokens: int
    new_tokens: int
    dollars: float


class _BadReplyError(Exception):
    """The server answered 200 with something that is no completion."""


class Endpoint:
    """Raises ConfigError when the key is missing, or when money is limited and the price unknown.

    `tokens` and `dollars` count what was spent, from what an earlier process of the same run already had.
    """

    def __init__(self, config: EndpointConfig, tokens: int = 0, dollars: float = 0.0) -> None:
        self.config, self.tokens, self.dollars = config, tokens, dollars
        self._key = os.environ.get(config.api_key_env, "") if config.api_key_env else "none"
        for name in ("httpx", "httpx2", "httpcore", "httpcore2"):  # their debug output holds headers of both sides
            logging.getLogger(name).setLevel(logging.WARNING)
        if not self._key:
            raise ConfigError(
                f"the environment variable {config.api_key_env} is not set; put the key of {config.base_url} there, "
                "name another variable with api_key_env, or set it to null for a server that asks for none"
            )
        if config.max_dollars is not None and price(config, 1, 1) is None:
            raise ConfigError(
                f"max_dollars is set, but the price of {config.model} at {config.base_url} is not known; give "
                "input_price and output_price, in dollars per million tokens"
            )

    def ask(self, asks: Sequence[Ask]) -> Iterator[list[tuple[int, Reply]]]:
        """Replies by position in `asks`, as they come; each position comes once.

        Raises BudgetError before a call that could pass the budget, ConfigError where the server refuses the key or
        does not know the model, EngineError when it only fails. What came before is given first.
        """
        with asyncio.Runner() as runner:
            client = openai.AsyncOpenAI(
                api_key=self._key, base_url=self.config.base_url, timeout=self.config.timeout_seconds, max_retries=0
            )
            try:
                yield from self._drive(runner, client, asks)
            finally:
                runner.run(client.close())

    def _drive(
        self, runner: asyncio.Runner, client: openai.AsyncOpenAI, asks: Sequence[Ask]
    ) -> Iterator[list[tuple[int, Reply]]]:
        flying: dict[asyncio.Task[tuple[Reply, bool]], tuple[int, _Cost]] = {}
        queue = [(position, ask, self._most(ask)) for position, ask in enumerate(asks)][::-1]
        failed: list[tuple[int, Reply]] = []  # held back until the server is known to work
        works = False
        while queue or flying:
            reserved = sum((cost for _, cost in flying.values()), _Cost())
            while queue and len(flying) < self.config.max_concurrency:
                reserved += queue[-1][2]
                if not self._affords(reserved):
                    break
                position, ask, cost = queue.pop()
                flying[runner.get_loop().create_task(self._reply(client, ask))] = (position, cost)
            if not flying:
                raise BudgetError(
                    f"the next call could pass the budget: {self.spent()} spent, {len(queue)} calls owed; raise "
                    "max_dollars or max_total_tokens and run the same command again"
                )
            ended, _ = runner.run(asyncio.wait(flying, return_when=asyncio.FIRST_COMPLETED))
            errors = [error for task in ended if (error := task.exception())]
            came = [(flying.pop(task)[0], task.result()) for task in ended if not task.exception()]
            final = [(position, reply) for position, (reply, mends) in came if not mends]
            failed += [(position, reply) for position, (reply, mends) in came if mends]
            works = works or bool(final)
            at_the_end = not queue and not flying
            if final or (failed and at_the_end and works and len(failed) < PATIENCE):
                yield [*final, *failed]
                failed = []
            if errors:
                raise errors[0]
            if len(failed) >= PATIENCE or (failed and at_the_end):
                raise EngineError(
                    f"{self.config.base_url} keeps failing, {len(failed)} calls without a success between them ("
                    f"{failed[-1][1].fault}); what was answered is kept, run the same command again when it is back"
                )

    async def _reply(self, client: openai.AsyncOpenAI, ask: Ask) -> tuple[Reply, bool]:
        """The reply, and whether its fault may mend with time."""
        total = _Cost()
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(1 + self.config.max_retries),
                wait=_wait,
                retry=retry_if_exception(_is_transient),
                reraise=True,
            ):
                with attempt:
                    arguments: dict[str, Any] = {"messages": ask.messages, self._limit_name(): ask.max_tokens}
                    completion = await client.chat.completions.create(
                        model=self.config.model, **arguments, **ask.options
                    )
                    text, finish, cost = self._read(completion, ask)
                    self.tokens, self.dollars = self.tokens + cost.tokens, self.dollars + cost.dollars
                    total += cost
                    if not text.strip():
                        raise _BadReplyError("the reply is empty")
                    return Reply(text, finish, "", total.prompt_tokens, total.new_tokens, total.dollars), False
        except (openai.OpenAIError, _BadReplyError, ValueError) as error:
            if fatal := self._fatal(error):
                raise fatal from None
            fault = self._clean(" ".join(f"{_short_name(error)}: {error}".split()))[:300]
            reply = Reply("", "", fault, total.prompt_tokens, total.new_tokens, total.dollars)
            return reply, _is_transient(error)
        raise AssertionError("the last attempt returns or raises")

    def _read(self, completion: Any, ask: Ask) -> tuple[str, str, _Cost]:
        try:
            choice = completion.choices[0]
            text, finish = choice.message.content or "", str(choice.finish_reason)
            assert isinstance(text, str)
        except (AttributeError, AssertionError, IndexError, TypeError):
            raise _BadReplyError(f"no completion in the body: {str(completion)[:100]!r}") from None
        usage = getattr(completion, "usage", None)
        prompt, new = getattr(usage, "prompt_tokens", None), getattr(usage, "completion_tokens", None)
        if not (isinstance(prompt, int) and isinstance(new, int)):
            prompt, new = most(ask)[0], len(text.encode("utf-8", "replace")) // _BYTES_PER_TOKEN
        text = self._clean(text).encode("utf-8", "replace").decode()  # JSON can hold half a surrogate pair
        return text, finish, _Cost(prompt, new, price(self.config, prompt, new) or 0.0)

    def _fatal(self, error: Exception) -> SelfevoError | None:
        where = f"{self.config.base_url} ({self.config.model})"
        said = self._clean(" ".join(str(error).split()))[:200]
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return ConfigError(
                f"{where} refused the key in {self.config.api_key_env}: {said}; put a valid one into that variable"
            )
        if isinstance(error, openai.NotFoundError):
            return ConfigError(f"{where} does not exist: {said}; correct base_url or model")
        if _is_used_up(error):
            return BudgetError(f"{where} says the account is used up: {said}; pay, then run the same command again")
        return None

    def _clean(self, text: str) -> str:
        """Servers repeat keys in their errors, and models what they are told."""
        return text.replace(self._key, "***") if self.config.api_key_env else text

    def _limit_name(self) -> str:
        # The old name is what other servers know; OpenAI's newer models refuse it.
        return "max_completion_tokens" if "api.openai.com" in self.config.base_url else "max_tokens"

    def _most(self, ask: Ask) -> _Cost:
        return _Cost(*most(ask), price(self.config, *most(ask)) or 0.0)

    def _affords(self, reserved: _Cost) -> bool:
        dollars, tokens = self.config.max_dollars, self.config.max_total_tokens
        return (dollars is None or self.dollars + reserved.dollars <= dollars) and (
            tokens is None or self.tokens + reserved.tokens <= tokens
        )

    def spent(self) -> str:
        known = price(self.config, 1, 1) is not None
        return f"{self.tokens:,} tokens" + (f", ${self.dollars:.4f}" if known else ", price unknown")


@dataclass(frozen=True, slots=True)
class _Cost:
    prompt_tokens: int = 0
    new_tokens: int = 0
    dollars: float = 0.0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.new_tokens

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(
            self.prompt_tokens + other.prompt_tokens, self.new_tokens + other.new_tokens, self.dollars + other.dollars
        )


def price(config: EndpointConfig, prompt_tokens: int, new_tokens: int) -> float | None:
    """Dollars of a call: the prices of the configuration, else those genai-prices knows; None if it knows none."""
    if config.input_price is not None and config.output_price is not None:
        return (config.input_price * prompt_tokens + config.output_price * new_tokens) / 1e6
    from genai_prices import Usage, calc_price

    try:
        usage = Usage(input_tokens=prompt_tokens, output_tokens=new_tokens)
        return float(calc_price(usage, model_ref=config.model, provider_api_url=config.base_url).total_price)
    except LookupError:
        return None


def most(ask: Ask) -> tuple[int, int]:
    """Tokens that a call can read and write."""
    read = sum(len(m["content"].encode("utf-8", "replace")) // _BYTES_PER_TOKEN + 8 for m in ask.messages)
    return read, ask.max_tokens


def _is_used_up(error: BaseException) -> bool:
    return getattr(error, "code", None) == "insufficient_quota"


def _is_transient(error: BaseException) -> bool:
    if isinstance(error, openai.APIStatusError):
        return (error.status_code in (408, 409, 429) or error.status_code >= 500) and not _is_used_up(error)
    broken = (openai.APIResponseValidationError, _BadReplyError, ValueError)  # ValueError: a torn body is no JSON
    return isinstance(error, (openai.APIConnectionError, *broken))


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    if (asked := _seconds(headers.get("retry-after", ""))) is not None:
        return asked
    return BACKOFF(state)


def _seconds(retry_after: str) -> float | None:
    """RFC 9110, section 10.2.3: a number of seconds, or a date."""
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _short_name(error: Exception) -> str:
    status = getattr(error, "status_code", None)
    return f"HTTP {status}" if status else type(error).__name__.strip("_").removesuffix("Error")
