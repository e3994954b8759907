"""Turns conversations into token ids, in the same way for training and inference.

The chat template gives the role markers and stop tokens. Each text between them is tokenised on its
own, with control tokens off. So `<|im_end|>` in a prompt or an answer is plain text, never a
control token.

A labelled turn is trained behind exactly the tokens that it is asked with: the conversation before
it with the template's generation prompt. Its words follow at once, then the stop token. Where a
template writes a past turn otherwise than it was trained, each labelled turn has a sequence of its
own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from tokenizers import AddedToken

from selfevo.errors import DataError
from selfevo.method.records import Turns
from selfevo.method.thinking import closing, divided, heard, is_tag, opening

# Private-use characters: no template trims them, and no tokenizer merges them with other text.
_SLOT = "\ue000{}\ue001"
# A template with this line says that the tokenizer's eos_token ends an assistant turn, whatever it writes itself.
ENDS_WITH_EOS = "{% set turns_end_with_eos_token = true %}"


@dataclass(slots=True)
class Chat:
    """One tokenizer, a transformers PreTrainedTokenizerBase, with its chat template.

    `stop_id` is the token that ends an assistant turn. It is trained with the turn, and generation
    ends there. `between` is what the template writes between a prompt and its last answer when it
    renders both; "" if nothing. `opening` is the tag with which a prompt opens the thinking of the
    answer, if it does.

    Raises DataError if the template cannot hold a trajectory, or ends a turn with ordinary text.
    """

    tokenizer: Any
    stop_id: int = field(init=False)
    between: str = field(init=False)
    opening: str = field(init=False)
    _plain: Any = field(init=False)  # the tokenizer that writes control tokens out
    _bridge: list[int] = field(init=False)  # `between` in tokens, where it has a special one
    _tags: dict[int, str] = field(init=False)  # special tokens that open or close thinking
    _frames: dict[tuple[int, bool], list[list[int]]] = field(default_factory=dict)
    _characters: int = 0

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise DataError(
                f"the tokenizer of {self._name} has no chat template; save one with the model "
                "(tokenizer.chat_template), or set chat_template"
            )
        first = self._rendered_somehow(2)
        asked = self._rendered_somehow(1)
        goes_on = first[:-2] == asked[:-1] and first[-2].startswith(asked[-1])
        self.between = first[-2].removeprefix(asked[-1]) if goes_on else ""
        self.opening = opening(asked[-1])
        added = self.tokenizer.added_tokens_decoder
        special = {*self.tokenizer.all_special_ids, *(id for id, token in added.items() if token.special)}
        control = special | {id for id, token in added.items() if token.content.strip()}
        self.stop_id = self._stop(first[-1], control)
        between = self._framed(self.between)
        self._bridge = between if not special.isdisjoint(between) and not divided(self.between) else []
        self._tags = {id: str(added[id].content) for id in special if id in added and is_tag(added[id].content)}
        # A tokenizer writes special tokens out if asked to; others that a frame has must become special for that.
        used = {id for piece in (*first, *asked, *self._rendered_somehow(3)) for id in self._framed(piece)}
        self._plain = self.tokenizer
        if others := sorted((control & used) - special):
            self._plain = copy.deepcopy(self.tokenizer)
            tokens = [AddedToken(added[id].content, special=True, normalized=False) for id in others]
            self._plain.add_tokens(tokens, special_tokens=True)

    def stop_ids(self, eos: int | list[int] | None) -> list[int]:
        """The tokens that end generation: the template's, and those of the model's generation_config."""
        return sorted({self.stop_id, *(eos if isinstance(eos, list) else [] if eos is None else [eos])})

    def prompt(self, turns: Turns, system: str = "", room: int | None = None) -> list[int]:
        """Token ids of a conversation that ends in a user turn, up to the start of the assistant's turn.

        Earlier turns of the assistant come without their thinking.

        `room` is the size of the context in tokens. A conversation with too many characters for it
        is not tokenised, because that takes minutes for megabytes. Then the result is a list of
        zeros, as long as a lower bound of the number of tokens.
        """
        turns = heard(turns)
        least = sum(map(len, (system, *turns))) // self._longest()
        if room is not None and least > room:
            return [0] * least
        frame = self._frame(len(turns), bool(system))
        texts = (system, *turns) if system else turns
        pieces = (self.words(text) + after for text, after in zip(texts, frame[1:], strict=True))
        return frame[0] + [token for piece in pieces for token in piece]

    def sequences(
        self, turns: Turns, weights: Sequence[float], system: str = ""
    ) -> list[tuple[list[int], list[float]]]:
        """Training sequences of a conversation that ends in an assistant turn: token ids, and the loss weight of each.

        The text of the i-th assistant turn and the stop token after it have `weights[i]`. All other
        tokens have 0. There is one sequence, unless the template writes a labelled turn otherwise
        when it is past; then the turns that follow start anew.
        """
        found: list[tuple[list[int], list[float]]] = []
        for i, weight in enumerate(weights):
            last = i == len(weights) - 1
            if not weight and not last:
                continue
            *asked, text = turns[: 2 * i + 2]
            prompt = self.prompt(tuple(asked), system)
            if not found or prompt[: len(found[-1][0])] != found[-1][0]:
                if found and not weight:
                    continue
                found.append(([], []))
            ids, loss = found[-1]
            ids += prompt[len(ids) :]
            loss += [0.0] * (len(ids) - len(loss))
            ids += self.answer(text)
            loss += [weight] * (len(ids) - len(loss))
        return found

    def answer(self, text: str) -> list[int]:
        """Token ids of an assistant turn behind its prompt: its thinking if it has any, the words, the stop token."""
        parts = divided(text)
        if parts and (self.opening or len(self._framed(parts[0])) == 1):
            opened, thought, closed, said = parts
            ids = [] if self.opening else self._framed(opened)
            ids += self._written(thought.removeprefix(self.opening.removeprefix(opened)))
            # What the prompt opened is closed with the same tag, whatever the annotator's model writes.
            ids += self._framed(closing(self.opening) or closed) + self._written(said.rstrip())
        else:  # thinking that the prompt opened is closed first
            ids = self._framed(self.skipped) + self.words(text)
        return [*ids, self.stop_id]

    @property
    def skipped(self) -> str:
        """What is trained before the words of an answer without thinking, because its prompt opens thinking."""
        if not self.opening:
            return ""
        return self.between if closing(self.opening) in self.between else f"{closing(self.opening)}\n\n"

    @property
    def has_channels(self) -> bool:
        """Whether thinking stands in a channel, as in gpt-oss. There only the answer can be trained."""
        return bool(self._bridge)

    def words(self, text: str) -> list[int]:
        return self._written(text.strip())

    def text(self, ids: list[int]) -> str:
        """The text of `ids`, without control tokens. What the model thought before it stands between tags."""
        size = len(self._bridge)
        if size and (places := [i for i in range(len(ids) - size + 1) if ids[i : i + size] == self._bridge]):
            thought, said = ids[: places[-1]], ids[places[-1] + size :]
            mark = f"<think>\n{self._read(thought)}\n</think>\n\n" if self._read(thought).strip() else ""
            return (mark + self._read(said)).strip()
        text = self._read(ids)
        return (text if text.lstrip().startswith(self.opening.strip()) else self.opening + text).strip()

    @property
    def _name(self) -> str:
        return str(self.tokenizer.name_or_path)

    def _read(self, ids: list[int]) -> str:
        """The text of `ids`, without control tokens but those that open and close thinking."""
        pieces: list[str] = []
        for tag, several in groupby(ids, lambda token: self._tags.get(token, "")):
            part = list(several)
            text = tag or self.tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            pieces.append(text)
        return "".join(pieces)

    def _written(self, text: str) -> list[int]:
        """Token ids of a text, control tokens in it written out."""
        ids: list[int] = self._plain(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def _framed(self, text: str) -> list[int]:
        """Token ids of a text of the template, with its control tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _longest(self) -> int:
        """The number of characters in the longest token."""
        if not self._characters:
            self._characters = max(map(len, self.tokenizer.get_vocab()))
        return self._characters

    def _stop(self, end: str, control: set[int]) -> int:
        """The token that ends an assistant turn, `end` being what the template writes behind it."""
        if ENDS_WITH_EOS in self.tokenizer.get_chat_template():
            if self.tokenizer.eos_token_id is None:
                raise DataError(f"the tokenizer of {self._name} has no eos_token to end a turn with; set eos_token")
            return int(self.tokenizer.eos_token_id)
        for token in self._framed(end):
            if token in control:
                return token
        how = (
            f"ends an assistant turn with {end!r}, which is ordinary text"
            if end
            else "does not close an assistant turn"
        )
        raise DataError(
            f"the chat template of {self._name} {how}, so a model could not learn to stop there; set eos_token to the "
            "token that is to end a turn, or chat_template to a template that writes one"
        )

    def _frame(self, count: int, system: bool) -> list[list[int]]:
        """The template's tokens before, between and after the texts of `count` turns."""
        if (count, system) not in self._frames:
            pieces = self._rendered(count, system)
            if not all(pieces[2 + system : -1 : 2]):
                raise DataError(
                    f"the chat template of {self._name} does not close an assistant turn that a question follows; set "
                    "chat_template to one that does"
                )
            self._frames[count, system] = [self._framed(piece) for piece in pieces]
        return self._frames[count, system]

    def _rendered_somehow(self, count: int) -> list[str]:
        """As _rendered, without a system prompt, or with one where the template insists on it."""
        try:
            return self._rendered(count, False)
        except DataError:
            try:
                before, after, *rest = self._rendered(count, True)
            except DataError:
                pass
            else:
                return [before + after, *rest]
            raise

    def _rendered(self, count: int, system: bool) -> list[str]:
        """What the template writes before, between and after the texts of `count` turns."""
        slots = [_SLOT.format(i) for i in range(count + system)]
        asked = messages(tuple(slots[system:]), slots[0] if system else "")
        what = f"a conversation with {count}{' and a system prompt' * system}"
        try:
            rest = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=bool(count % 2))
        except Exception as error:  # whatever a template raises
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            remedy = "leave the system prompt out" if system else "give a system prompt if it wants one"
            raise DataError(
                f"the chat template of {self._name} refuses {what} ({reason}); {remedy}, or set "
                "chat_template to another"
            ) from None
        pieces = []
        for slot in slots:
            before, found, rest = rest.partition(slot)
            if not found or slot in rest:
                raise DataError(
                    f"the chat template of {self._name} {'repeats' if found else 'drops or reorders'} turns of {what}; "
                    "it cannot hold a trajectory; set chat_template to another"
                )
            pieces.append(before)
        return [*pieces, rest]


def messages(turns: Turns, system: str = "") -> list[dict[str, str]]:
    """A conversation as chat templates and servers expect it: `role` and `content` of each text."""
    said = [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(heard(turns))]
    return [{"role": "system", "content": system}, *said] if system else said
