"""A model's words: messages → token ids, ids → text and bytes, and guides through a grammar. Knows no weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from trainers.local.problems import Problem
from trainers.local.serving.constraints import Guide
from trainers.local.serving.values import ChatMessage
from trainers.local.training.data import TEMPLATE_OPTIONS

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class Vocabulary:
    """`ends`: ids that end a turn. `width`: tokens of the model's head, which may be more than the tokenizer's."""

    def __init__(self, tokenizer: Any, ends: frozenset[int], width: int) -> None:
        self.ends = ends
        self._tokenizer = tokenizer
        self._width = width
        self._bytes: LLTokenizer | None = None

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids up to where the answer begins. A 'developer' message is written as 'system'."""
        if not self._tokenizer.chat_template:
            text = "This model has no chat template, so it cannot chat. Choose an instruct or chat model."
            raise Problem(400, text, "no_chat_template", "model")
        turns = [
            {"role": "system" if each.role == "developer" else each.role, "content": each.content}
            for each in messages
        ]
        try:
            text = self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **TEMPLATE_OPTIONS
            )
        except TemplateError as error:
            text = f"This model's chat template refuses these messages: {error}"
            raise Problem(400, text, "invalid_value", "messages") from error
        return list(self._tokenizer(text, add_special_tokens=False).input_ids)

    def text(self, tokens: Sequence[int]) -> str:
        return str(
            self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def bytes_of(self, token: int) -> bytes:
        """A token may be a part of a character; a special one has no text."""
        if not self.text([token]):
            return b""
        return bytes(self._by_bytes().decode_bytes([token]))

    def guide(self, grammar: str) -> Guide:
        """Raises Problem (400) where the grammar cannot be kept by this model."""
        from llguidance import LLMatcher

        return Guide(LLMatcher(self._by_bytes(), grammar, log_level=0), self._width, sorted(self.ends))

    def _by_bytes(self) -> LLTokenizer:
        """Made at first use: it takes a second for 49,000 tokens."""
        if self._bytes is None:
            from llguidance.hf import from_tokenizer

            try:
                self._bytes = from_tokenizer(self._tokenizer, self._width, sorted(self.ends))
            except ValueError as error:
                text = f"This model's tokenizer hides its tokens' bytes ({error}): no constraints and no logprobs."
                raise Problem(400, text, "unsupported_value", "model") from error
        return self._bytes


def end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(int(each) for each in [*ends, tokenizer.eos_token_id] if each is not None)
