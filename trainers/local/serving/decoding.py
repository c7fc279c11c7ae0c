"""The decoding loop: one batch of prompts, token by token. Imports torch; knows neither HTTP nor adapters.

Rows leave the batch as they finish, so that the rest goes faster, and it ends with the last one.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trainers.local.serving.reading import Beginning, Prompts, read_beginning, read_prompts
from trainers.local.serving.serve import Answered, Emit, Piece, Sampling, Ticket

GREEDY_BELOW = 1e-3


class Row:
    """A prompt and its answer so far. `limit` in tokens."""

    def __init__(
        self,
        prompt: list[int],
        limit: int,
        sampling: Sampling,
        streams: bool,
        tokenizer: Any,
        emit: Emit,
        ticket: Ticket,
    ) -> None:
        self.prompt = prompt
        self.is_done = False
        self.is_greedy = sampling.temperature < GREEDY_BELOW
        self.sampling = sampling
        self._limit = limit
        self._streams = streams
        self._tokenizer = tokenizer
        self._emit = emit
        self._ticket = ticket
        self._tokens: list[int] = []
        self._sent = 0
        self._dice = torch.Generator().manual_seed(
            secrets.randbits(63) if sampling.seed is None else sampling.seed % 2**63
        )

    def choose(self, logits: Tensor) -> int:
        """A token by temperature and top_p. `logits`: (vocabulary,)"""
        chances = torch.softmax(logits.float().cpu() / self.sampling.temperature, -1)
        ordered, tokens = chances.sort(descending=True)
        ordered[ordered.cumsum(-1) - ordered > self.sampling.top_p] = 0  # the first always stays
        return int(tokens[torch.multinomial(ordered, 1, generator=self._dice)])

    def accept(self, token: int, is_end: bool) -> None:
        if self._ticket.is_abandoned:
            self.is_done = True
        elif is_end:
            self._finish("stop", self._text())
        else:
            self._tokens.append(token)
            self._look_at_text()

    def _look_at_text(self) -> None:
        text = self._text() if self._streams or self.sampling.stop else ""
        ends = [place for stop in self.sampling.stop if (place := text.find(stop)) >= 0]
        if ends:
            self._finish("stop", text[: min(ends)])
        elif len(self._tokens) >= self._limit:
            self._finish("length", self._text())
        elif self._streams:
            self._send(text[: len(text) - _uncertain(text, self.sampling.stop)])

    def _finish(self, reason: Any, text: str) -> None:
        self._send(text)
        self._emit(Answered(reason, len(self.prompt), len(self._tokens)))
        self.is_done = True

    def _send(self, text: str) -> None:
        if len(text) > self._sent:
            self._emit(Piece(text[self._sent :]))
            self._sent = len(text)

    def _text(self) -> str:
        return str(
            self._tokenizer.decode(self._tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )


def _uncertain(text: str, stops: Sequence[str]) -> int:
    """How many last characters may still change: half a character, or what may become a stop text."""
    if text.endswith("\ufffd"):
        return len(text) - len(text.rstrip("\ufffd"))
    sizes = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
    return max(sizes, default=0)


@torch.inference_mode()
def decode(
    model: Any,
    end_tokens: frozenset[int],
    device: torch.device,
    rows: Sequence[Row],
    earlier: Beginning | None,
) -> Beginning | None:
    """Answers all rows; returns when the last is done.

    `earlier` is what the last call for the same model returned: in a row of batches with the same long beginning
    (examples in the prompt) it is read once.
    """
    prompts = [row.prompt for row in rows]
    beginning = read_beginning(model, prompts, earlier, device)
    _write(model, end_tokens, rows, read_prompts(model, prompts, beginning, device))
    return beginning


def _write(model: Any, end_tokens: frozenset[int], rows: Sequence[Row], read: Prompts) -> None:
    alive, cache, mask, positions, logits = list(rows), read.cache, read.mask, read.positions, read.logits
    while True:
        tokens = _next_tokens(logits, alive)
        for row, token in zip(alive, tokens, strict=True):
            row.accept(token, token in end_tokens)
        staying = [place for place, row in enumerate(alive) if not row.is_done]
        if not staying:
            return
        if len(staying) < len(alive):
            kept = torch.tensor(staying, device=mask.device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
            alive = [alive[place] for place in staying]
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], -1)
        logits = model(
            input_ids=torch.tensor([[tokens[place]] for place in staying], device=mask.device),
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
        ).logits[:, -1]
        positions = positions + 1


def _next_tokens(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """`logits`: (rows, vocabulary)."""
    likeliest = logits.argmax(-1).tolist()
    return [
        best if row.is_greedy else row.choose(logits[place])
        for place, (row, best) in enumerate(zip(rows, likeliest, strict=True))
    ]
