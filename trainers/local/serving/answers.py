"""The code that all engines share, whichever computes the tokens: prompts as token ids, refusals, and the conversion of
tokens to text, stop texts, tool calls and the answer's end. Imports no torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainers.http.errors import ApiError
from trainers.local.serving.constraints import CallSyntax
from trainers.local.serving.values import AnswerCalls, AnswerEnd, EndReason, Likelihood, Piece, Request
from trainers.local.serving.vocabulary import Vocabulary
from trainers.local.tool_calls import ToolCall
from trainers.log_lines import new_reference

GREEDY_BELOW = 1e-3
HALF = "\ufffd"  # what a character decodes to while its last bytes are missing
# assumed length of an answer without a limit; the context may have room for 100,000 tokens
EXPECTED_TOKENS = 512
MAX_OPEN_ROWS = 256
LONGEST_RETRY_S = 60

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Preparation:
    """A request as tokens. `prompt` ends where the answer begins, which may have `limit` tokens. `grammar` is in
    constraints.py's form. `syntax` is None if the request has no tools."""

    prompt: list[int]
    limit: int
    grammar: str | None
    syntax: CallSyntax | None


def prepare(request: Request, vocabulary: Vocabulary, context: int) -> Preparation:
    """Checks a request and converts it to tokens. `context` is the most tokens that prompt and answer may have
    together. Raises ApiError (400)."""
    sampling = request.sampling
    vocabulary.check_bias(sampling.logit_bias)
    prompt = vocabulary.encode(request)
    free = context - len(prompt)
    if free < 1:
        tokens = f"{len(prompt)} tokens; this model takes {context} with its answer"
        if request.prompt is not None:
            text = f"The prompt has {tokens}. Shorten it."
            raise ApiError(400, text, "context_length_exceeded", "prompt")
        text = f"The messages have {tokens}. Shorten them."
        raise ApiError(400, text, "context_length_exceeded", "messages")
    limit = min(free, sampling.max_tokens or free)
    if not request.tools.definitions:
        return Preparation(prompt, limit, sampling.grammar, None)
    syntax = vocabulary.call_syntax(request)
    grammar = vocabulary.grammar(request, syntax)
    return Preparation(prompt, limit, grammar, syntax)


def check_queue(open_rows: int, rows: int, rows_per_second: float) -> None:
    """Raises ApiError (503) if too many answers are queued already."""
    if open_rows + rows > MAX_OPEN_ROWS:
        until_done_s = math.ceil(open_rows / rows_per_second)
        wait_s = min(LONGEST_RETRY_S, until_done_s)
        text = (
            f"{open_rows} answers are queued already; the limit is {MAX_OPEN_ROWS}. Try again in {wait_s} s."
        )
        raise busy_error(text, "queue_full", wait_s)


def busy_error(text: str, code: str, wait_s: int) -> ApiError:
    """Returns a temporary refusal, which tells the client to try again after `wait_s` seconds."""
    seconds = max(1, wait_s)
    headers = {"Retry-After": str(seconds)}
    return ApiError(503, text, code, kind="server_error", headers=headers)


def internal_error(error: BaseException) -> ApiError:
    """Logs a fault that the request didn't cause, and returns an error with a reference to the log's entry."""
    reference = new_reference()
    log.error("generating", exc_info=error, extra={"ref": reference})
    text = f"The model could not answer. The trainer's log says why, under reference {reference}."
    return ApiError(500, text, "generation_failed", kind="server_error")


class AnswerWriter:
    """Writes answer number `index` to a request, token by token. `tokens` are those so far, without the one that ends
    the answer; `cached_tokens` is how many of the prompt's were read for an earlier request."""

    def __init__(
        self,
        request: Request,
        index: int,
        preparation: Preparation,
        vocabulary: Vocabulary,
    ) -> None:
        self.request = request
        self.prompt = preparation.prompt
        self.limit = preparation.limit
        self.is_done = False
        self.tokens: list[int] = []
        self.index = index
        self.cached_tokens = 0
        self._vocabulary = vocabulary
        self._syntax = preparation.syntax
        # Each with the position where its token's text begins.
        self._likelihoods: list[tuple[int, Likelihood]] = []
        self._sent = 0  # characters

    @property
    def size(self) -> int:
        """The most tokens that prompt and answer take. Without a limit from the caller, an expected number."""
        if self.request.sampling.max_tokens is not None:
            return len(self.prompt) + self.limit
        expected = len(self.tokens) + EXPECTED_TOKENS
        return len(self.prompt) + min(self.limit, expected)

    def count_cached(self, size: int) -> None:
        """Notes that the first `size` tokens were read earlier, unless the answer itself has begun."""
        if not self.tokens:
            self.cached_tokens = size

    def accept(self, token: int, likelihood: Likelihood | None = None) -> None:
        """Adds the next token, sends the text that can no longer change, and ends the answer if it is complete."""
        if token in self._vocabulary.ends:
            self.finish("stop")
            return
        if likelihood is not None:
            complete = self._text().rstrip(HALF)
            self._likelihoods.append((len(complete), likelihood))
        self.tokens.append(token)
        stops = self.request.sampling.stop
        text = ""
        if self.request.streams or stops:  # otherwise the text is decoded once, at the end
            text = self._text()
        end = _find_stop(text, stops)
        if end is not None:
            self._likelihoods = [(begins, pair) for begins, pair in self._likelihoods if begins < end]
            self._finish("stop", text[:end])
        elif len(self.tokens) >= self.limit:
            self.finish("length")
        elif self.request.streams:
            n_certain = len(text) - _count_uncertain(text, stops)
            certain = text[:n_certain]
            if self._syntax is not None:
                n_plain = self._syntax.end_of_text(certain)
                certain = certain[:n_plain]
            self._send(certain, len(certain))

    def finish(self, reason: EndReason, tokens: Sequence[int] = ()) -> None:
        """Adds `tokens` and ends the answer."""
        self.tokens += tokens
        self._finish(reason, self._text())

    def _finish(self, reason: EndReason, text: str) -> None:
        calls: Sequence[ToolCall] = ()
        end = len(text) + 1
        if self._syntax is not None:
            # Calls are sent at the end, since no program could parse a part of one.
            sent = text[: self._sent]
            text, calls = self._vocabulary.extract_calls(text, self.request.tools)
            if not text.startswith(sent):  # white space at the beginning was sent, and is now stripped
                n_kept = len(sent.lstrip())
                text = sent + text[n_kept:]
        self._send(text, end)
        if calls:
            self.request.emit(AnswerCalls(self.index, calls))
            if reason == "stop":
                reason = "tool_calls"
        self.is_done = True  # before its caller, who may ask again at once, gets the end
        ending = AnswerEnd(
            self.index, reason, len(self.prompt), len(self.tokens), cached_tokens=self.cached_tokens
        )
        self.request.emit(ending)

    def _send(self, text: str, end: int) -> None:
        """Sends the new part of `text`, and the likelihoods of tokens whose text begins before `end`."""
        likelihoods = tuple(likelihood for begins, likelihood in self._likelihoods if begins < end)
        new_text = text[self._sent :]
        if new_text or likelihoods:
            self._likelihoods = self._likelihoods[len(likelihoods) :]
            self.request.emit(Piece(self.index, new_text, likelihoods))
            self._sent = len(text)

    def _text(self) -> str:
        """Returns the text so far, with special tokens if they may mark calls."""
        return self._vocabulary.text(self.tokens, with_specials=self._syntax is not None)


def _find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Returns where the first stop text begins, or None if there is none."""
    begins = []
    for stop in stops:
        begin = text.find(stop)
        if begin >= 0:
            begins.append(begin)
    return min(begins, default=None)


def _count_uncertain(text: str, stops: Sequence[str]) -> int:
    """Returns how many characters at the end may still change: an incomplete one, or the beginning of a stop text."""
    if text.endswith(HALF):
        return len(text) - len(text.rstrip(HALF))
    most = 0
    for stop in stops:
        for size in range(1, len(stop)):
            if text.endswith(stop[:size]):
                most = max(most, size)
    return most
