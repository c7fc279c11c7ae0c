"""A row of a batch, which is one answer with its place in a grammar and its own random numbers; and guesses of how
answers continue. Imports torch."""

from __future__ import annotations

import secrets
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from trainers.http.errors import ApiError
from trainers.local.serving.answers import GREEDY_BELOW, AnswerWriter, Preparation
from trainers.local.serving.constraints import Guide
from trainers.local.serving.sampling import Choice
from trainers.local.serving.values import Likelihood, Request
from trainers.local.serving.vocabulary import Vocabulary

LONGEST = 16  # tokens of an answer that is remembered: only labels and short phrases are repeated
MOST_BEGINNINGS = 4096  # about 200 kB; beyond that all are forgotten
GUESS_END = -1
MIN_CHANCE = 0.75  # that all guessed tokens are right

TokenIds = tuple[int, ...]


class Row(AnswerWriter):
    """An answer that this process computes. `is_plain` is true if its next token is always the likeliest one."""

    def __init__(
        self,
        request: Request,
        index: int,
        preparation: Preparation,
        vocabulary: Vocabulary,
        guide: Guide | None = None,
    ) -> None:
        super().__init__(request, index, preparation, vocabulary)
        sampling = request.sampling
        self.is_plain = (
            sampling.temperature < GREEDY_BELOW
            and guide is None
            and sampling.top_logprobs is None
            and not sampling.is_weighed
        )
        self.sampling = sampling
        self.allowed: Tensor | None = None  # by the grammar, for the next token
        self._guide = guide.copy() if guide else None
        seed = sampling.seed
        if seed is None:
            seed = secrets.randbits(62)
        self._dice = torch.Generator().manual_seed((seed + index) % 2**63)

    @property
    def adapter(self) -> Path | None:
        """The folder of the adapter that answers, None for the base itself."""
        return self.request.target.adapter

    @property
    def ids(self) -> list[int]:
        """All tokens that the model must have read to compute the next one."""
        return self.prompt + self.tokens

    def prepare(self) -> None:
        """Gets ready for its next token. An error is sent to this row's caller, and ends all answers to the same
        request."""
        if self.request.ticket.is_abandoned:
            self.is_done = True
        elif self._guide is not None:
            with self._failing_alone():
                self.allowed = self._guide.allowed_tokens()

    def take(self, choice: Choice) -> None:
        """Adds the chosen token. Errors are as for `prepare`."""
        token = choice.token
        with self._failing_alone():
            forced = None
            if self._guide is not None and token not in self._vocabulary.ends:
                self._guide.accept(token)
                forced = self._forced_end(self._guide)
            if forced is None:
                self.accept(token, self._likelihood(choice))
            else:
                self.finish("stop", [token, *forced])

    def draw(self) -> float:
        """Returns a random number from 0 to below 1, the next of this row's seed."""
        return float(torch.rand(1, dtype=torch.float64, generator=self._dice))

    @contextmanager
    def _failing_alone(self) -> Iterator[None]:
        try:
            yield
        except ApiError as problem:
            self.request.emit(problem)
            self.request.ticket.abandon()
            self.is_done = True

    def _forced_end(self, guide: Guide) -> Sequence[int] | None:
        """Returns the tokens that must follow the chosen one up to the answer's end, which need no pass through the
        model. Returns None if there is a choice left, or if their text or likelihood matters."""
        if self.sampling.stop or self.sampling.top_logprobs is not None:
            return None
        room = self.limit - len(self.tokens) - 1  # less the chosen token
        return guide.forced_end(room)

    def _likelihood(self, choice: Choice) -> Likelihood | None:
        """Returns the likelihood of a chosen token with its bytes, None if the request doesn't ask for it."""
        if choice.logprob is None or choice.token in self._vocabulary.ends:
            return None
        others = tuple((self._vocabulary.bytes_of(other), logprob) for other, logprob in choice.likeliest)
        return Likelihood(self._vocabulary.bytes_of(choice.token), choice.logprob, others)


class Drafts:
    """Guesses how an answer continues from the same model's earlier answers, by counting which token followed each
    beginning of an answer.

    A pass over two or three tokens takes about as long as one over a single token, since both move all weights. So the
    guessed tokens are read in the pass that the newest token needs anyway, and those that the model would have chosen
    are kept. This is speculative decoding (Leviathan et al. 2023) with a memory instead of a smaller model. A label
    takes two passes, however many tokens it has. Answers are the same as without guesses, except for rounding below
    float32."""

    def __init__(self) -> None:
        self._next: defaultdict[TokenIds, Counter[int]] = defaultdict(Counter)

    def remember(self, answer: Sequence[int]) -> None:
        """Counts an answer, given as its tokens without the one that ended it."""
        if len(answer) > LONGEST:
            return
        if len(self._next) >= MOST_BEGINNINGS:
            self._next.clear()
        for size, token in enumerate((*answer, GUESS_END)):
            beginning = tuple(answer[:size])
            self._next[beginning][token] += 1

    def guess(self, beginning: Sequence[int]) -> TokenIds:
        """Returns the tokens that probably follow `beginning`: as many as are all right with a chance over MIN_CHANCE.

        A single case proves little, so the chance counts one more answer that continued differently. On a CPU a wrong
        guess isn't free: 32 rows of 16 guessed tokens take as long as six passes over one token. 200 answers of a base
        that doesn't know the labels took 28.9 s with every guess of a chance over one half, and 20.0 s with these.
        """
        answer = tuple(beginning)
        chance = 1.0
        while (counts := self._next.get(answer)) is not None:
            [(token, times)] = counts.most_common(1)
            chance *= times / (counts.total() + 1)
            if token == GUESS_END or chance <= MIN_CHANCE:
                break
            answer += (token,)
        return answer[len(beginning) :]


def count_agreeing(guess: Sequence[int], chosen: Sequence[int]) -> int:
    """Returns how many tokens at the start of `guess` equal those that were `chosen`."""
    for count, (guessed, own) in enumerate(zip(guess, chosen, strict=False)):
        if guessed != own:
            return count
    return len(guess)


def pad_right(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns ids and mask, both (rows, longest)."""
    longest = max(map(len, rows))
    ids = []
    mask = []
    for row in rows:
        padding = [0] * (longest - len(row))
        ids.append([*row, *padding])
        mask.append([1] * len(row) + padding)
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
