"""One answer in the making: chooses its next token, guesses how it goes on, ends at a stop text, a limit or
a grammar's end. Imports torch."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from trainers.local.api_errors import ApiError
from trainers.local.serving.constraints import CallSyntax, Guide
from trainers.local.serving.values import Answered, Called, EndReason, Likelihood, Piece, Request
from trainers.local.serving.vocabulary import Vocabulary
from trainers.local.tool_calls import ToolCall

GREEDY_BELOW = 1e-3
HALF = "\ufffd"  # stands for a character whose last bytes are still to come
EXPECTED_TOKENS = 512  # of an answer whose caller set no limit: the context may have room for 100,000


class Row:
    """Answer number `index` to a request's prompt. `limit` in tokens. `is_plain`: its next token is the likeliest one.
    `tokens`: what it has said. `syntax` where it may call tools."""

    def __init__(
        self,
        request: Request,
        index: int,
        prompt: list[int],
        limit: int,
        vocabulary: Vocabulary,
        guide: Guide | None,
        syntax: CallSyntax | None = None,
    ) -> None:
        self.request = request
        self.prompt = prompt
        self.limit = limit
        self.is_done = False
        sampling = request.sampling
        self._is_weighed = bool(
            sampling.frequency_penalty or sampling.presence_penalty or sampling.logit_bias
        )
        self.is_plain = (
            sampling.temperature < GREEDY_BELOW
            and guide is None
            and sampling.top_logprobs is None
            and not self._is_weighed
        )
        self._index = index
        self._sampling = sampling
        self._vocabulary = vocabulary
        self._guide = guide.copy() if guide else None
        self._syntax = syntax
        self.tokens: list[int] = []
        self._likelihoods: list[tuple[int, Likelihood]] = []  # where each token's text begins
        self._sent = 0
        seed = secrets.randbits(62) if sampling.seed is None else sampling.seed
        self._dice = torch.Generator().manual_seed((seed + index) % 2**63)

    @property
    def ids(self) -> list[int]:
        """All that the model has to have read for the next token."""
        return self.prompt + self.tokens

    @property
    def size(self) -> int:
        """Tokens that it may come to; where its caller set no limit, those that it is expected to come to."""
        if self._sampling.max_tokens is not None:
            return len(self.prompt) + self.limit
        return len(self.prompt) + min(self.limit, len(self.tokens) + EXPECTED_TOKENS)

    @property
    def newest(self) -> int:
        return self.tokens[-1]

    def take(self, logits: Tensor, likeliest: int) -> None:
        """The next token: `likeliest` or another, by `logits` (vocabulary,). What is wrong with this row is told to
        its own caller, and ends the answers to the same request."""
        if self.request.ticket.is_abandoned:
            self.is_done = True
            return
        try:
            self._accept(likeliest if self.is_plain else self._choose(logits))
        except ApiError as problem:
            self.request.emit(problem)
            self.request.ticket.abandon()
            self.is_done = True

    def _choose(self, logits: Tensor) -> int:
        logits = logits.float().cpu()
        weighed = self._weigh(logits) if self._is_weighed else logits
        allowed = weighed.masked_fill(~self._guide.allowed(), -torch.inf) if self._guide else weighed
        token = self._draw(allowed)
        if self._sampling.top_logprobs is not None and token not in self._vocabulary.ends:
            self._note(token, torch.log_softmax(logits, -1), self._sampling.top_logprobs)
        return token

    def _weigh(self, logits: Tensor) -> Tensor:
        """https://platform.openai.com/docs/guides/text-generation#frequency-and-presence-penalties"""
        said = torch.bincount(torch.tensor(self.tokens, dtype=torch.long), minlength=len(logits))
        weighed = (
            logits - said * self._sampling.frequency_penalty - (said > 0) * self._sampling.presence_penalty
        )
        for token, bias in self._sampling.logit_bias.items():
            weighed[token] += bias
        return weighed

    def _accept(self, token: int) -> None:
        if token in self._vocabulary.ends:
            self._finish("stop", self._text())
        else:
            self._add(token)
            self._look_at_text()

    def _draw(self, logits: Tensor) -> int:
        """By temperature and top_p."""
        if self._sampling.temperature < GREEDY_BELOW:
            return int(logits.argmax())
        chances = torch.softmax(logits / self._sampling.temperature, -1)
        ordered, tokens = chances.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered > self._sampling.top_p] = 0  # the first always stays
        return int(tokens[torch.multinomial(ordered, 1, generator=self._dice)])

    def _note(self, token: int, logprobs: Tensor, others: int) -> None:
        values, tokens = logprobs.topk(others)
        named = tuple(
            (self._vocabulary.bytes_of(int(other)), float(value))
            for value, other in zip(values, tokens, strict=True)
        )
        likelihood = Likelihood(self._vocabulary.bytes_of(token), float(logprobs[token]), named)
        self._likelihoods.append((len(self._text().rstrip(HALF)), likelihood))

    def _add(self, token: int) -> None:
        """And all that the grammar leaves no choice about, if it leads to the end: no pass through the model."""
        self.tokens.append(token)
        if self._guide is None:
            return
        self._guide.accept(token)
        if self._sampling.stop or self._sampling.top_logprobs is not None:
            return
        rest = self._guide.rest(self.limit - len(self.tokens))
        if rest is not None:
            self.tokens += rest
            self._finish("stop", self._text())

    def _look_at_text(self) -> None:
        if self.is_done:
            return
        stops = self._sampling.stop
        text = self._text() if self.request.streams or stops else ""
        ends = [place for stop in stops if (place := text.find(stop)) >= 0]
        if ends:
            self._likelihoods = [one for one in self._likelihoods if one[0] < min(ends)]
            self._finish("stop", text[: min(ends)])
        elif len(self.tokens) >= self.limit:
            self._finish("length", self._text())
        elif self.request.streams:
            certain = text[: len(text) - _uncertain(text, stops)]
            if self._syntax is not None:
                certain = certain[: self._syntax.held_back(certain)]
            self._send(certain, len(certain))

    def _finish(self, reason: EndReason, text: str) -> None:
        """Calls are told whole: a part of one is no JSON that a program could read."""
        calls: Sequence[ToolCall] = ()
        end = len(text) + 1
        if self._syntax is not None:
            sent = text[: self._sent]
            text, calls = self._vocabulary.calls_in(text, self.request.tools)
            text = text if text.startswith(sent) else sent + text[len(sent.lstrip()) :]
        self._send(text, end)
        if calls:
            self.request.emit(Called(self._index, calls))
            reason = "tool_calls" if reason == "stop" else reason
        self.request.emit(Answered(self._index, reason, len(self.prompt), len(self.tokens)))
        self.is_done = True

    def _send(self, text: str, end: int) -> None:
        """What is new, and the likelihoods of tokens whose text begins before `end`."""
        told = tuple(one for begins, one in self._likelihoods if begins < end)
        if len(text) > self._sent or told:
            self._likelihoods = self._likelihoods[len(told) :]
            self.request.emit(Piece(self._index, text[self._sent :], told))
            self._sent = len(text)

    def _text(self) -> str:
        """With the special tokens where some of them may mark a call."""
        return self._vocabulary.text(self.tokens, with_specials=self._syntax is not None)


def _uncertain(text: str, stops: Sequence[str]) -> int:
    """How many last characters may still change: half a character, or what may become a stop text."""
    if text.endswith(HALF):
        return len(text) - len(text.rstrip(HALF))
    sizes = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return max(sizes, default=0)


# Guesses at how an answer goes on, from what the same model has answered before.
#
# A pass over one token and a pass over a few take about as long, since both move all weights. So the
# guessed tokens are read in the pass that the newest token needs anyway, and those that the model would
# have said itself are kept: speculative decoding (Leviathan et al. 2023), with a memory in the place of
# the smaller model. A label is said in two passes, however many tokens it has. Answers are the same with
# and without, but for rounding below float32. Pure.


LONGEST = 16  # tokens of an answer that is worth remembering: labels and short phrases come again
MOST_BEGINNINGS = 4096  # some 200 kB; then the memory begins anew
GUESS_END = -1

TokenIds = tuple[int, ...]


class Drafts:
    """Of one model. Counts what followed on each beginning of an answer."""

    def __init__(self) -> None:
        self._next: defaultdict[TokenIds, Counter[int]] = defaultdict(Counter)

    def remember(self, answer: Sequence[int]) -> None:
        """`answer`: its tokens without the one that ends it."""
        if len(answer) > LONGEST:
            return
        if len(self._next) >= MOST_BEGINNINGS:
            self._next.clear()
        for place, token in enumerate((*answer, GUESS_END)):
            self._next[tuple(answer[:place])][token] += 1

    def guess(self, begun: Sequence[int]) -> TokenIds:
        """What follows on `begun`, as far as one continuation was more often right than wrong."""
        whole, start = tuple(begun), len(begun)
        while (token := self._likeliest(whole)) is not None:
            whole += (token,)
        return whole[start:]

    def _likeliest(self, begun: TokenIds) -> int | None:
        followed = self._next.get(begun)
        if followed is None:
            return None
        ((token, times),) = followed.most_common(1)
        return token if token != GUESS_END and 2 * times > followed.total() else None


def count_agreeing(guess: Sequence[int], chosen: Sequence[int]) -> int:
    """How many tokens of `guess` are those that were `chosen` at their places."""
    pairs = enumerate(zip(guess, chosen, strict=False))
    return next((place for place, (guessed, own) in pairs if guessed != own), len(guess))
