"""A model's words: messages → token ids, ids → text and bytes, and guides through a grammar. Knows no
weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from trainers.chat_templates import OPTIONS
from trainers.local.api_errors import ApiError, invalid
from trainers.local.serving.constraints import CallSyntax, Guide, grammar_of_calls, syntax_of
from trainers.local.serving.values import ChatMessage, Request, Tools
from trainers.local.tool_calls import ToolCall, chat_for_template, parse_tool_calls, render_chat, template_of

if TYPE_CHECKING:
    from llguidance import LLTokenizer


class Vocabulary:
    """`ends`: ids that end a turn. `width`: tokens of the model's head, which may be more than the tokenizer's."""

    def __init__(self, tokenizer: Any, ends: frozenset[int], width: int) -> None:
        self.ends = ends
        self._tokenizer = tokenizer
        self._width = width
        self._bytes: LLTokenizer | None = None

    def encode(self, request: Request) -> list[int]:
        """Token ids up to where the answer begins. Raises Problem (400)."""
        if request.prompt is None:
            text = self._written(request, _turns(request.messages))
            return list(self._tokenizer(text, add_special_tokens=False).input_ids)
        if isinstance(request.prompt, str):
            return list(self._tokenizer(request.prompt).input_ids)
        if any(token >= self._width for token in request.prompt):
            raise invalid(f"'prompt' has a token id beyond this model's {self._width:,} tokens.", "prompt")
        return list(request.prompt)

    def check_bias(self, biases: Mapping[int, float]) -> None:
        """Raises Problem (400)."""
        if any(token >= self._width for token in biases):
            text = f"'logit_bias' has a token id beyond this model's {self._width:,} tokens."
            raise invalid(text, "logit_bias")

    def call_syntax(self, request: Request) -> CallSyntax:
        """How this model would write a call as its answer."""
        turns = _turns(request.messages)
        prompt = self._written(request, turns)
        ends = [str(self._tokenizer.convert_ids_to_tokens(end)) for end in self.ends]
        return syntax_of(turns, prompt, lambda each: self._rendered(request, each), ends)

    def grammar(self, request: Request, syntax: CallSyntax) -> str | None:
        """What an answer to this chat is held to."""
        return grammar_of_calls(request.tools, syntax, self._specials(), request.sampling.grammar)

    def calls_in(self, text: str, tools: Tools) -> tuple[str, Sequence[ToolCall]]:
        """What an answer says beside its calls, and these."""
        own = getattr(self._tokenizer, "response_template", None)
        template = template_of(self._tokenizer, tools.definitions)
        sentence, calls = parse_tool_calls(text, template, tools.definitions, own)
        for special in self._specials():
            sentence = sentence and sentence.replace(special, "")
        return sentence or "", calls

    def text(self, tokens: Sequence[int], *, with_specials: bool = False) -> str:
        return str(
            self._tokenizer.decode(
                list(tokens), skip_special_tokens=not with_specials, clean_up_tokenization_spaces=False
            )
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

    def _specials(self) -> dict[str, int]:
        added = self._tokenizer.added_tokens_decoder.items()
        return {token.content: number for number, token in added if token.special}

    def _written(self, request: Request, turns: Sequence[dict[str, Any]]) -> str:
        if not self._tokenizer.chat_template:
            text = "This model has no chat template, so it cannot chat. Choose an instruct or chat model."
            raise ApiError(400, text, "no_chat_template", "model")
        try:
            return self._rendered(request, turns, asks=True)
        except (TemplateError, TypeError) as error:
            text = f"This model's chat template refuses these messages: {error}"
            raise ApiError(400, text, "invalid_value", "messages") from error

    def _rendered(self, request: Request, turns: Sequence[dict[str, Any]], *, asks: bool = False) -> str:
        tools = list(request.tools.definitions) or None
        return render_chat(self._tokenizer, turns, tools=tools, add_generation_prompt=asks, **OPTIONS)

    def _by_bytes(self) -> LLTokenizer:
        """Made at first use: it takes a second for 49,000 tokens."""
        if self._bytes is None:
            from llguidance.hf import from_tokenizer

            try:
                self._bytes = from_tokenizer(self._tokenizer, self._width, sorted(self.ends))
            except ValueError as error:
                text = f"This model's tokenizer hides its tokens' bytes ({error}): no constraints and no logprobs."
                raise ApiError(400, text, "unsupported_value", "model") from error
        return self._bytes


def _turns(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    return chat_for_template([_in_openai_form(each) for each in messages])


def _in_openai_form(message: ChatMessage) -> dict[str, Any]:
    calls = [
        {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call_id, call in message.calls.items()
    ]
    texts_by_name = {"role": message.role, "content": message.content, "tool_calls": calls or None}
    return {**texts_by_name, "tool_call_id": message.call_id, "name": message.name}


def end_tokens(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    configured = generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(int(each) for each in [*ends, tokenizer.eos_token_id] if each is not None)
