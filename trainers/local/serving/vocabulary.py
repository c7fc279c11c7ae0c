"""Converts messages to token ids, and ids to text and bytes, with one model's tokenizer and chat template. Also makes
guides through a grammar. Loads no weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainers.http.errors import ApiError, invalid
from trainers.local.chat_renderer import (
    BREAK,
    break_special_tokens,
    chat_for_template,
    read_chat_template,
    render_chat,
    special_texts,
)
from trainers.local.serving.constraints import CallSyntax, Guide, grammar_of_calls, infer_call_syntax
from trainers.local.serving.values import ChatMessage, Request, Tools
from trainers.local.tool_calls import ToolCall, parse_tool_calls
from trainers.models.chat_templates import answer_prefix, template_variables, variables_read

if TYPE_CHECKING:
    from llguidance import LLTokenizer

# What a template reads, but is not a request's to set.
SET_BY_TRAINER = frozenset(
    {
        *("messages", "tools", "add_generation_prompt", "raise_exception", "strftime_now"),
        *("bos_token", "eos_token", "pad_token", "unk_token"),
    }
)


class Vocabulary:
    """`ends` are the ids that end a turn. `width` is the size of the model's head in tokens, which may be larger than
    the tokenizer's vocabulary."""

    def __init__(self, tokenizer: Any, ends: frozenset[int], width: int) -> None:
        self.ends = ends
        self._tokenizer = tokenizer
        self._special = special_texts(tokenizer)
        self._width = width
        self._bytes: LLTokenizer | None = None

    def encode(self, request: Request) -> list[int]:
        """Returns the token ids up to where the answer begins. Raises ApiError: 400 about the request, 500 about the
        model's tokenizer."""
        if request.prompt is None:
            tokens: list[int] = []
            # In parts, so that the text of a special token in a message becomes plain tokens.
            for part in self._prompt(request, self._turns(request)).split(BREAK):
                tokens += self._tokenizer(part, add_special_tokens=False).input_ids
            self._check_known(tokens)
            return tokens
        if isinstance(request.prompt, str):
            tokens = list(self._tokenizer(request.prompt).input_ids)
            self._check_known(tokens)
            return tokens
        if any(token >= self._width for token in request.prompt):
            raise invalid(f"'prompt' has a token id beyond this model's {self._width:,} tokens.", "prompt")
        return list(request.prompt)

    def _check_known(self, tokens: Sequence[int]) -> None:
        """Raises ApiError (500) if the tokenizer has written a token that the model doesn't know."""
        unknown = max(tokens, default=0)
        if unknown >= self._width:
            text = (
                f"This model's tokenizer writes the token {unknown:,}, but it knows only {self._width:,} tokens: "
                "they don't belong together. Put the model's own tokenizer into its folder and restart the trainer."
            )
            raise ApiError(500, text, "tokenizer_too_large", "model", kind="server_error")

    def check_bias(self, biases: Mapping[int, float]) -> None:
        """Raises ApiError (400) if a token doesn't exist."""
        if any(token >= self._width for token in biases):
            text = f"'logit_bias' has a token id beyond this model's {self._width:,} tokens."
            raise invalid(text, "logit_bias")

    def call_syntax(self, request: Request) -> CallSyntax:
        """Returns how this model writes a call as its answer to the request."""
        turns = self._turns(request)
        prompt = self._prompt(request, turns)
        ends = [str(self._tokenizer.convert_ids_to_tokens(end)) for end in self.ends]
        return infer_call_syntax(turns, prompt, lambda messages: self._render(request, messages), ends)

    def grammar(self, request: Request, syntax: CallSyntax) -> str | None:
        """Returns the grammar of an answer that may call tools, or None if any text is allowed."""
        return grammar_of_calls(request.tools, syntax, self._specials(), request.sampling.grammar)

    def extract_calls(self, text: str, tools: Tools) -> tuple[str, Sequence[ToolCall]]:
        """Returns an answer's text without its calls, and the calls."""
        response_template = getattr(self._tokenizer, "response_template", None)
        template = read_chat_template(self._tokenizer, tools.definitions)
        content, calls = parse_tool_calls(text, template, tools.definitions, response_template)
        for special in self._specials():
            content = content and content.replace(special, "")
        return content or "", calls

    def text(self, tokens: Sequence[int], *, with_specials: bool = False) -> str:
        # Without the cleaning, which would change text that was already sent once more tokens follow.
        text = self._tokenizer.decode(
            list(tokens), skip_special_tokens=not with_specials, clean_up_tokenization_spaces=False
        )
        return str(text)

    def bytes_of(self, token: int) -> bytes:
        """Returns a token's bytes, which may be a part of a character; none for a special token."""
        if not self.text([token]):
            return b""
        return bytes(self._byte_tokenizer().decode_bytes([token]))

    def guide(self, grammar: str) -> Guide:
        """Raises ApiError (400) if this model can't keep to the grammar."""
        from llguidance import LLMatcher

        return Guide(LLMatcher(self._byte_tokenizer(), grammar, log_level=0), self._width, sorted(self.ends))

    def _specials(self) -> dict[str, int]:
        added = self._tokenizer.added_tokens_decoder.items()
        return {token.content: number for number, token in added if token.special}

    def _turns(self, request: Request) -> Any:
        return break_special_tokens(self._special, _turns(request.messages))

    def _prompt(self, request: Request, turns: Sequence[dict[str, Any]]) -> str:
        from jinja2 import TemplateError

        if not self._tokenizer.chat_template:
            text = "This model has no chat template, so it cannot chat. Choose an instruct or chat model."
            raise ApiError(400, text, "no_chat_template", "model")
        self._check_template_options(request)
        try:
            return self._render(request, turns, asks=True)
        except (TemplateError, TypeError) as error:
            text = f"This model's chat template refuses these messages: {error}"
            raise ApiError(400, text, "invalid_value", "messages") from error

    def _render(self, request: Request, turns: Sequence[dict[str, Any]], *, asks: bool = False) -> str:
        tools = list(request.tools.definitions) or None
        # The text of a special token in a value becomes plain tokens, as in a message.
        options = break_special_tokens(self._special, request.template_options)
        return render_chat(self._tokenizer, turns, tools=tools, add_generation_prompt=asks, **options)

    def _check_template_options(self, request: Request) -> None:
        """Raises ApiError (400) about an option that would change nothing. One that asks for what is done anyway, such
        as not to think, is accepted."""
        tools = list(request.tools.definitions) or None
        template = str(self._tokenizer.get_chat_template(tools=tools))
        usual = template_variables(template)
        variables = variables_read(template) - SET_BY_TRAINER
        if answer_prefix(template, tools):
            variables -= {"reasoning_effort"}  # answers begin after the thoughts
        for name, value in request.template_options.items():
            if name in variables or (name in usual and usual[name] == value):
                continue
            readable = ", ".join(sorted(variables)) or "none"
            text = (
                f"This model's chat template can't be given '{name}'. Leave it out. The variables that it reads are: "
                f"{readable}."
            )
            raise invalid(text, f"chat_template_kwargs.{name}", "unsupported_value")

    def _byte_tokenizer(self) -> LLTokenizer:
        """Returns llguidance's tokenizer. It is made at first use, since it takes a second for 49,000 tokens."""
        if self._bytes is None:
            from llguidance.hf import from_tokenizer

            try:
                self._bytes = from_tokenizer(self._tokenizer, self._width, sorted(self.ends))
            except ValueError as error:
                text = f"This model has no constraints or logprobs: its tokenizer hides its tokens' bytes ({error})."
                raise ApiError(400, text, "unsupported_value", "model") from error
        return self._bytes


def _turns(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Converts messages to the form of chat templates."""
    raw_messages = []
    for message in messages:
        calls = [
            {"id": call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call_id, call in message.calls.items()
        ]
        raw_messages.append(
            {
                "role": message.role,
                "content": message.content,
                "tool_calls": calls or None,
                "tool_call_id": message.call_id,
                "name": message.name,
            }
        )
    return chat_for_template(raw_messages)


def end_tokens(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Returns the ids that end a turn."""
    ends = generation_config.eos_token_id
    if not isinstance(ends, list):
        ends = [ends]
    return frozenset(int(end) for end in [*ends, tokenizer.eos_token_id] if end is not None)
