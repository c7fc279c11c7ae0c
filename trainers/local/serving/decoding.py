"""The decoding loop: one batch of prompts, token by token. Imports torch; knows neither HTTP nor adapters.

The tokens that all prompts begin with are read once for all rows. Rows leave the batch as they finish, so
that the rest goes faster, and it ends with the last one.
"""

from __future__ import annotations

import copy
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from trainers.local.serving.serve import Answered, Emit, Piece, Sampling, Ticket

GREEDY_BELOW = 1e-3
# Reading the common beginning by itself costs one more pass over the weights; under so many tokens saved
# over all rows it does not pay.
MIN_TOKENS_SAVED = 64


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


@dataclass(frozen=True)
class Beginning:
    """Tokens that prompts began with, as the model keeps them in its cache: a batch of one row."""

    ids: list[int]
    cache: DynamicCache

    def fits(self, prompts: Sequence[list[int]]) -> bool:
        size = len(self.ids)
        return all(len(prompt) > size and prompt[:size] == self.ids for prompt in prompts)


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
    beginning = _beginning(model, [row.prompt for row in rows], earlier, device)
    shared = len(beginning.ids) if beginning else 0
    cache = copy.deepcopy(beginning.cache) if beginning else DynamicCache(config=model.config)
    if beginning:
        cache.batch_repeat_interleave(len(rows))
    _decode_rest(model, end_tokens, device, rows, cache, shared)
    return beginning


def _decode_rest(
    model: Any,
    end_tokens: frozenset[int],
    device: torch.device,
    rows: Sequence[Row],
    cache: DynamicCache,
    shared: int,
) -> None:
    ids, mask = _pad_left([row.prompt[shared:] for row in rows], device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0) + shared
    mask = torch.cat([mask.new_ones(len(rows), shared), mask], -1)
    alive = list(rows)
    # As an index, not as the number 1: that leaves a view, for which torch copies the frozen head once for each row
    # (a batch of 16 prompts of 49 tokens took 3 times as long).
    last = torch.tensor([-1], device=device)
    while True:
        logits = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            logits_to_keep=last,
        ).logits[:, -1]
        tokens = _next_tokens(logits, alive)
        for row, token in zip(alive, tokens, strict=True):
            row.accept(token, token in end_tokens)
        staying = [place for place, row in enumerate(alive) if not row.is_done]
        if not staying:
            return
        if len(staying) < len(alive):
            kept = torch.tensor(staying, device=device)
            cache.batch_select_indices(kept)
            mask, positions = mask[kept], positions[kept]
            alive = [alive[place] for place in staying]
        ids = torch.tensor([[tokens[place]] for place in staying], device=device)
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(alive), 1)], -1)


def _beginning(
    model: Any, prompts: Sequence[list[int]], earlier: Beginning | None, device: torch.device
) -> Beginning | None:
    """What all prompts begin with; None where reading it by itself doesn't pay."""
    shortest = min(map(len, prompts)) - 1
    differing = (place for place in range(shortest) if any(p[place] != prompts[0][place] for p in prompts))
    shared = next(differing, shortest)
    known = len(earlier.ids) if earlier and earlier.fits(prompts) else 0
    if earlier and known and (shared - known) * (len(prompts) - 1) < MIN_TOKENS_SAVED:
        return earlier
    if shared * (len(prompts) - 1) < MIN_TOKENS_SAVED:
        return None
    cache = DynamicCache(config=model.config)
    ids = prompts[0][:shared]
    model(input_ids=torch.tensor([ids], device=device), cache=cache, use_cache=True, logits_to_keep=1)
    return Beginning(ids, cache)


def _pad_left(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and mask, (rows, longest). What stands at a padded place is never looked at."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _next_tokens(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """`logits`: (rows, vocabulary)."""
    likeliest = logits.argmax(-1).tolist()
    return [
        best if row.is_greedy else row.choose(logits[place])
        for place, (row, best) in enumerate(zip(rows, likeliest, strict=True))
    ]
