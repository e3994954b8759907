"""Turns conversations into token ids, in the same way for training and inference.

The chat template gives the role markers and stop tokens. Each text between them is tokenised on its
own, with special tokens off. So `<|im_end|>` in a prompt or an answer is plain text, never a
control token.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from selfevo.errors import DataError
from selfevo.method.records import Turns

# Private-use characters: no template trims them, and no tokenizer merges them with other text.
_SLOT = "\ue000{}\ue001"


@dataclass(slots=True)
class Chat:
    """One tokenizer, a transformers PreTrainedTokenizerBase, with its chat template."""

    tokenizer: Any
    _frames: dict[tuple[int, bool], list[list[int]]] = field(default_factory=dict)
    _characters: int = 0

    def __post_init__(self) -> None:
        if not self.tokenizer.chat_template:
            raise DataError(
                f"the tokenizer of {self.tokenizer.name_or_path} has no chat template; "
                "save one with the model (tokenizer.chat_template)"
            )

    @property
    def stop_id(self) -> int:
        """The token after an assistant turn. It is trained with the turn, and generation ends there."""
        return self._frame(2, False)[2][0]

    def stop_ids(self, eos: int | list[int] | None) -> list[int]:
        """The tokens that end generation: the template's, and those of the model's generation_config."""
        return sorted({self.stop_id, *(eos if isinstance(eos, list) else [] if eos is None else [eos])})

    def prompt(self, turns: Turns, system: str = "", room: int | None = None) -> list[int]:
        """Token ids of a conversation that ends in a user turn, up to the start of the assistant's turn.

        `room` is the size of the context in tokens. A conversation with too many characters for it
        is not tokenised, because that takes minutes for megabytes. Then the result is a list of
        zeros, as long as a lower bound of the number of tokens.
        """
        least = sum(map(len, (system, *turns))) // self._longest()
        if room is not None and least > room:
            return [0] * least
        frame = self._frame(len(turns), bool(system))
        return frame[0] + [token for words, after in self._pieces(turns, system, frame) for token in words + after]

    def sequence(self, turns: Turns, weights: tuple[float, ...], system: str = "") -> tuple[list[int], list[float]]:
        """Token ids of a conversation that ends in an assistant turn, and the loss weight of each.

        The text of the i-th assistant turn and the stop token after it have `weights[i]`. All other
        tokens have 0.
        """
        frame = self._frame(len(turns), bool(system))
        ids, loss = list(frame[0]), [0.0] * len(frame[0])
        for place, (words, after) in enumerate(self._pieces(turns, system, frame), start=-1 if system else 0):
            written = place % 2 == 1 and place > 0
            weight = weights[place // 2] if written else 0.0
            ids += words + after
            loss += [weight] * len(words) + ([weight] if written else [0.0]) + [0.0] * (len(after) - 1)
        end = len(ids) - len(frame[-1]) + 1  # nothing after the last stop token is in the loss
        return ids[:end], loss[:end]

    def words(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text.strip(), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return ids

    def text(self, ids: list[int]) -> str:
        """The text of `ids`, without control tokens."""
        decoded: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return decoded.strip()

    def _longest(self) -> int:
        """The number of characters in the longest token."""
        if not self._characters:
            self._characters = max(map(len, self.tokenizer.get_vocab()))
        return self._characters

    def _pieces(self, turns: Turns, system: str, frame: list[list[int]]) -> list[tuple[list[int], list[int]]]:
        """The tokens of each text (system prompt, turns), with the template's tokens after it."""
        texts = (system, *turns) if system else turns
        return [(self.words(text), after) for text, after in zip(texts, frame[1:], strict=True)]

    def _frame(self, count: int, system: bool) -> list[list[int]]:
        """The template's tokens before, between and after the texts of `count` turns."""
        if (count, system) not in self._frames:
            slots = [_SLOT.format(i) for i in range(count + system)]
            asked = messages(tuple(slots[system:]), slots[0] if system else "")
            rest = self.tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=bool(count % 2))
            pieces = []
            for slot in slots:
                before, found, rest = rest.partition(slot)
                if not found:
                    raise DataError(
                        f"the chat template of {self.tokenizer.name_or_path} drops or reorders turns of a "
                        f"conversation with {count}{' and a system prompt' * system}; it cannot hold a trajectory; "
                        "save another template with the model"
                    )
                pieces.append(before)
            pieces.append(rest)
            frame = [self.tokenizer(piece, add_special_tokens=False)["input_ids"] for piece in pieces]
            if not all(frame[2 + system :: 2]):
                raise DataError(
                    f"the chat template of {self.tokenizer.name_or_path} does not close an assistant turn; "
                    "save one that does with the model"
                )
            self._frames[count, system] = frame
        return self._frames[count, system]


def messages(turns: Turns, system: str = "") -> list[dict[str, str]]:
    """A conversation as chat templates and servers expect it: `role` and `content` of each text."""
    said = [{"role": "assistant" if i % 2 else "user", "content": turn} for i, turn in enumerate(turns)]
    return [{"role": "system", "content": system}, *said] if system else said
