"""A server that speaks the OpenAI protocol: many calls at once, retried, within a budget, and without leaking the key.

Whatever a server does, each conversation gets one reply, or a fault that says why there is none. What no waiting can
mend (a refused key, an empty account, a setting that is not taken) ends everything at once; so does a server that only
fails. Every call is in the ledger before it is made, and its bill before anything else becomes of it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from selfevo.config.sections import EndpointConfig
from selfevo.errors import BudgetError, ConfigError, EngineError, MissingExtraError, SelfevoError
from selfevo.models.server_replies import (
    Completion,
    Sent,
    ServerError,
    read_completion,
    read_error,
    read_json,
    read_usage,
    retry_after,
)
from selfevo.rundir.ledger import Cost, Ledger

try:
    import openai
    from tenacity import (
        AsyncRetrying,
        RetryCallState,
        retry_if_exception,
        stop_after_attempt,
        stop_when_event_set,
        wait_random_exponential,
    )
except ImportError:
    raise MissingExtraError("a model behind an API needs more packages; run: pip install 'selfevo[api]'") from None

logger = logging.getLogger(__name__)

BACKOFF = wait_random_exponential(multiplier=1, max=60)  # seconds; a Retry-After of the server comes before it
LONG_WAIT, LONGEST_WAIT = 30.0, 300.0  # seconds; of the first the user is told, beyond the second BACKOFF decides
PATIENCE = 20  # calls that fail one after the other, each with all its retries, before the server is given up
_FRAME = (256, 16)  # tokens that a chat template may add to a call, with a system prompt of its own, and to a message


@dataclass(frozen=True, slots=True)
class Ask:
    """One conversation: messages of role and content, and further arguments of the call.

    `may_be_empty`: a reply without a character is an answer, else a fault to try again.
    """

    messages: list[dict[str, str]]
    max_tokens: int
    options: dict[str, Any] = field(default_factory=dict)
    may_be_empty: bool = False


@dataclass(frozen=True, slots=True)
class Reply:
    """`fault` says why there is no text, "" if there is one; one that `mends` may be gone when it is asked again.

    `finish` is "length" where the text is cut off. Tokens and dollars are those of all attempts.
    """

    text: str
    finish: str
    fault: str
    prompt_tokens: int
    new_tokens: int
    dollars: float
    mends: bool = False


class _ShortError(Exception):
    """The budget does not reach for another attempt."""


class Endpoint:
    """Raises ConfigError when the key is missing, or when money is limited and the price unknown.

    `ledger` knows what was spent, also by earlier processes of the same run.
    """

    def __init__(self, config: EndpointConfig, ledger: Ledger | None = None) -> None:
        self.config, self.ledger = config, ledger or Ledger()
        self._key = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else "none"
        # A secret can stand in no text by chance, unlike "1", "EMPTY" or "ollama".
        self._secret = len(self._key) >= 16 and bool(re.search(r"[0-9].*[A-Za-z]|[A-Za-z].*[0-9]", self._key))
        self._works = False  # a text has come with these settings
        self._told = False  # that the server asks to wait long
        self._flying: dict[asyncio.Task[Reply], tuple[int, Cost]] = {}
        for name in ("httpx", "httpx2", "httpcore", "httpcore2"):  # their debug output holds headers of both sides
            logging.getLogger(name).setLevel(logging.WARNING)
        if not self._key:
            raise ConfigError(
                f"the environment variable {config.api_key_env} is not set; put the key of {config.base_url} there, "
                "name another variable with api_key_env, or set it to null for a server that asks for none"
            )
        if not (self._key.isascii() and self._key.isprintable()):
            raise ConfigError(
                f"the environment variable {config.api_key_env} holds characters that no key has; copy it again"
            )
        if config.max_dollars is not None and price(config, 1, 1) is None:
            raise ConfigError(
                f"max_dollars is set, but the price of {config.model} at {config.base_url} is not known; give "
                "input_price and output_price, in dollars per million tokens"
            )

    def ask(self, asks: Sequence[Ask]) -> Iterator[list[tuple[int, Reply]]]:
        """Replies by position in `asks`, as they come; each position comes once.

        Raises BudgetError before a call that could pass the budget or where the account is empty, ConfigError where the
        server refuses the key or a setting or does not know the model, EngineError when it only fails. The calls in
        flight are waited for, and what came is given first.
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
        ending = asyncio.Event()  # set: no further attempt is made
        end: SelfevoError | _ShortError | None = None
        self._flying = {}
        queue = [(position, ask, self._most(ask)) for position, ask in enumerate(asks)][::-1]
        failed: list[tuple[int, Reply]] = []  # held back until the server is known to work
        owed, works = len(asks), False
        while self._flying or (queue and not ending.is_set()):
            while queue and not ending.is_set() and len(self._flying) < self.config.max_concurrency:
                position, ask, most = queue[-1]
                if not self._affords(most):
                    break
                queue.pop()
                self._flying[runner.get_loop().create_task(self._reply(client, ask, most, ending))] = (position, most)
            if not self._flying:
                end = _ShortError()
                break
            ended, _ = runner.run(asyncio.wait(self._flying, return_when=asyncio.FIRST_COMPLETED))
            final: list[tuple[int, Reply]] = []
            for task in ended:
                position, _ = self._flying.pop(task)
                error = task.exception()
                if error is None:
                    (failed if task.result().mends else final).append((position, task.result()))
                elif isinstance(error, SelfevoError | _ShortError):
                    end = end or error
                else:
                    raise error
            works = works or bool(final)
            at_the_end = not queue and not self._flying and end is None
            if final or (failed and at_the_end and works and len(failed) < PATIENCE):
                if not ending.is_set() and end is None:
                    final, failed = [*final, *failed], []
                owed -= len(final)
                yield final
            if end is None and (len(failed) >= PATIENCE or (failed and at_the_end)):
                end = EngineError(
                    f"{self.config.base_url} keeps failing, {len(failed)} calls without a success between them ("
                    f"{failed[-1][1].fault}); when it is back, {self.again}"
                )
            if end is not None:
                ending.set()
        if isinstance(end, _ShortError):
            raise BudgetError(
                f"the next call could pass the budget: {self.spent()} spent, {owed} calls owed; raise "
                "max_dollars or max_total_tokens and run the same command again"
            )
        if end is not None:
            raise end

    async def _reply(self, client: openai.AsyncOpenAI, ask: Ask, most: Cost, ending: asyncio.Event) -> Reply:
        """The reply, after as many attempts as it takes and is allowed."""
        bills: list[Cost] = []
        try:
            async for attempt in AsyncRetrying(
                stop=stop_after_attempt(1 + self.config.max_retries) | stop_when_event_set(ending),  # type: ignore[arg-type]  # of asyncio
                wait=self._wait,
                sleep=lambda seconds: _pause(seconds, ending),
                retry=retry_if_exception(lambda error: isinstance(error, ServerError) and error.kind == "again"),
                reraise=True,
            ):
                with attempt:
                    if bills and not self._affords(Cost()):
                        raise _ShortError
                    completion = await self._attempt(client, ask, most, bills)
                    total = sum(bills, Cost())
                    self._works = True
                    text = self._clean(completion.text, written=True)
                    return Reply(text, completion.finish, "", total.prompt_tokens, total.new_tokens, total.dollars)
        except ServerError as error:
            total, words = sum(bills, Cost()), self._clean(error.words)
            if error.kind in ("again", "row") or (error.kind == "setting" and self._works):
                mends = error.kind == "again"
                return Reply("", "", words[:300], total.prompt_tokens, total.new_tokens, total.dollars, mends)
            raise self._fatal(error, words[:300]) from None
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, client: openai.AsyncOpenAI, ask: Ask, most: Cost, bills: list[Cost]) -> Completion:
        """One call, on record before and after. One whose bill did not come counts with the most it can have cost."""
        number, cost = self.ledger.call(most), most
        words = "\n".join(message["content"] for message in ask.messages)
        sent = Sent(words, ask.max_tokens, {*ask.options, "max_new_tokens"})
        whole = [{**message, "content": _whole(message["content"])} for message in ask.messages]
        arguments: dict[str, Any] = {"messages": whole, self._limit_name(): ask.max_tokens}
        try:
            async with asyncio.timeout(self.config.timeout_seconds):  # the client's own is for each read
                response = await client.chat.completions.with_raw_response.create(
                    model=self.config.model, **arguments, **ask.options
                )
            body = self._read(response.content)
            if usage := read_usage(body):
                cost = self._priced(*usage)
            elif isinstance(body, dict) and body.get("error"):
                cost = Cost()
            completion = read_completion(body, sent)
            if not completion.text.strip() and completion.finish == "stop" and not ask.may_be_empty:
                thoughts = f" but for thoughts: {completion.thoughts}" if completion.thoughts else ""
                raise ServerError("again", f"the reply is empty{thoughts}")
            return completion
        except openai.APIStatusError as error:
            body = self._read(error.response.content)
            cost = self._priced(*(read_usage(body) or (0, 0)))
            fault = read_error(error.status_code, body, sent)
            raise _WaitingError(fault, error.response.headers.get("retry-after", "")) from None
        except (TimeoutError, openai.APIConnectionError) as error:
            cause = type(error.__cause__).__name__
            if cause in ("ConnectError", "ConnectTimeout", "PoolTimeout"):  # it never got there
                cost = Cost()
            if isinstance(error, TimeoutError | openai.APITimeoutError):
                raise ServerError("again", f"Timeout: no whole reply in {self.config.timeout_seconds:g} s") from None
            said = " ".join(f"{cause}: {error.__cause__}".split())
            raise ServerError("again", f"no connection, or it broke: {said}") from None
        except openai.OpenAIError as error:
            raise ServerError("again", f"{type(error).__name__}: {' '.join(str(error).split())}") from None
        finally:
            self.ledger.bill(number, cost)
            bills.append(cost)

    def _fatal(self, error: ServerError, said: str) -> SelfevoError:
        where = f"{self.config.base_url} ({self.config.model})"
        match error.kind:
            case "key":
                if self.config.api_key_env is None:
                    return ConfigError(f"{where} asks for a key: {said}; name its variable with api_key_env")
                remedy = f"put a valid one into that variable, then {self.again}"
                return ConfigError(f"{where} refused the key in {self.config.api_key_env}: {said}; {remedy}")
            case "funds":
                return BudgetError(f"{where} says the account is used up: {said}; pay, then {self.again}")
            case "setting":
                return ConfigError(
                    f"{where} does not take {error.setting}: {said}; {_REMEDY[error.setting]}, then {self.again}"
                )
        return ConfigError(f"{where} does not exist: {said}; correct base_url or model")

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = retry_after(error.header) if isinstance(error, _WaitingError) else None
        seconds = asked if asked is not None and asked <= LONGEST_WAIT else BACKOFF(state)
        if asked is not None and asked > LONG_WAIT and not self._told:
            self._told = True
            logger.warning("%s asks to wait %.0f s; it is asked again in %.0f s", self.config.base_url, asked, seconds)
        return seconds

    def _read(self, content: bytes) -> Any:
        """A body; a secret goes before anything is cut to a length, which could leave half of it."""
        return read_json(content.replace(self._key.encode(), b"***") if self._secret else content)

    def _clean(self, text: str, written: bool = False) -> str:
        """Servers repeat keys in their errors, and models what they are told: `written` is text of a model, where only
        a secret is looked for."""
        if self._secret:
            return text.replace(self._key, "***")
        if written or not self.config.api_key_env:
            return text
        return re.sub(rf"(?<![A-Za-z0-9]){re.escape(self._key)}(?![A-Za-z0-9])", "***", text)

    def _limit_name(self) -> str:
        # The old name is what other servers know; OpenAI's newer models refuse it.
        known = "max_completion_tokens" if "api.openai.com" in self.config.base_url else "max_tokens"
        return self.config.limit_name or known

    def _most(self, ask: Ask) -> Cost:
        return self._priced(*most(ask))

    def _priced(self, prompt_tokens: int, new_tokens: int) -> Cost:
        return Cost(prompt_tokens, new_tokens, price(self.config, prompt_tokens, new_tokens) or 0.0)

    def _affords(self, further: Cost) -> bool:
        """Whether a further call fits beside all that is spent and all that is in flight, at its most each."""
        total = sum((most for _, most in self._flying.values()), self.ledger.spent + further)
        dollars, tokens = self.config.max_dollars, self.config.max_total_tokens
        return (dollars is None or total.dollars <= dollars) and (tokens is None or total.tokens <= tokens)

    def spent(self) -> str:
        known = price(self.config, 1, 1) is not None
        spent = self.ledger.spent
        return f"{spent.tokens:,} tokens" + (f", ${spent.dollars:.4f}" if known else ", price unknown")

    @property
    def again(self) -> str:
        """The end of a message: whether a second call finds what came before."""
        return "run the same command again" + (": what was answered is kept" if self.ledger.root else "")


class _WaitingError(ServerError):
    """An error of a server that may say how long to wait."""

    def __init__(self, error: ServerError, header: str) -> None:
        super().__init__(error.kind, error.words, error.setting)
        self.header = header


_REMEDY = {
    "response_format": "set response_format to json_object or text",
    "temperature": "leave temperature out, or give one that it takes",
    "max_new_tokens": "change max_new_tokens, or what it is called there, with limit_name",
    "top_p": "choose a server that takes it",
    "seed": "choose a server that takes it",
}


async def _pause(seconds: float, ending: asyncio.Event) -> None:
    """Waits, unless everything ends before."""
    try:
        await asyncio.wait_for(ending.wait(), seconds)
    except TimeoutError:
        return
    raise ServerError("again", "everything ended before it was asked again")


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
    """Tokens that a call can read and write: no tokenizer makes more tokens of a text than it has bytes."""
    texts = [message["content"] for message in ask.messages]
    if "response_format" in ask.options:  # the server tells the model of it
        texts.append(json.dumps(ask.options["response_format"]))
    frame, message = _FRAME
    return frame + sum(message + _bytes(text) for text in texts), ask.max_tokens


def _whole(text: str) -> str:
    """Without half surrogate pairs, which cannot be sent."""
    return text.encode("utf-8", "replace").decode()


def _bytes(text: str) -> int:
    """Of a text, or of its normal form, which a tokenizer may make of it first."""
    return max(len(form.encode("utf-8", "replace")) for form in (text, unicodedata.normalize("NFKC", text)))
