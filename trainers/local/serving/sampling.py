"""Chooses the next tokens of a batch's rows by their sampling and grammar, on the device that has the logits. Imports
torch.

Each step is one call for all rows, and only the tokens are sent to the CPU: copying and sorting a row's logits there
took 11 ms for 128,000 words, so 32 rows took longer than the model's pass on a GPU. A row draws with one random number
from a generator of its own, so a seed gives the same answer alone and in a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainers.local.serving.answers import GREEDY_BELOW
from trainers.local.serving.values import Sampling

# The likeliest tokens usually have a chance of top_p together within this many, so the others need no sorting.
USUAL_NUCLEUS = 1024

RawLikelihood = tuple[float, list[tuple[int, float]]]


class Chooser(Protocol):
    """A row as this module sees it. `tokens` are those of the answer so far. `allowed` is a mask (vocabulary,) on the
    CPU of the tokens that a grammar allows, None without one."""

    prompt: list[int]
    tokens: list[int]
    allowed: Tensor | None

    @property
    def sampling(self) -> Sampling: ...

    def draw(self) -> float:
        """Returns the next random number of this row, from 0 to below 1."""
        ...


@dataclass(frozen=True)
class Choice:
    """A chosen token. If the row asks for log-probabilities, `logprob` is the token's, and `likeliest` are the ids and
    log-probabilities of the likeliest tokens: the model's own, before weights and grammar."""

    token: int
    logprob: float | None = None
    likeliest: Sequence[tuple[int, float]] = ()


def choose(rows: Sequence[Chooser], logits: Tensor) -> list[Choice]:
    """Chooses a token for each row by `logits` (rows, vocabulary)."""
    own = logits.float()
    weighed = _forbid(_weigh(own, rows), rows)
    tokens = weighed.argmax(-1)
    sampled = [number for number, row in enumerate(rows) if not _is_greedy(row.sampling)]
    if sampled:
        index = torch.tensor(sampled, device=logits.device)
        tokens[index] = _draw([rows[number] for number in sampled], weighed[index])
    return _choices(rows, own, tokens)


def _is_greedy(sampling: Sampling) -> bool:
    return sampling.temperature < GREEDY_BELOW or sampling.top_p == 0 or sampling.top_k == 1


def _weigh(logits: Tensor, rows: Sequence[Chooser]) -> Tensor:
    """Applies penalties and biases, each to the few tokens that it concerns.

    Frequency and presence by OpenAI's formula:
    https://platform.openai.com/docs/guides/text-generation#frequency-and-presence-penalties. Repetition as vLLM and
    transformers do (Keskar et al. 2019, https://arxiv.org/abs/1909.05858): it divides a positive logit and multiplies a
    negative one, of the prompt's tokens too.
    """
    weighed = logits
    for number, row in enumerate(rows):
        if row.sampling.repetition_penalty == 1:
            continue
        if weighed is logits:
            weighed = logits.clone()
        penalty = row.sampling.repetition_penalty
        seen = torch.tensor(sorted({*row.prompt, *row.tokens}), device=logits.device)
        values = weighed[number, seen]
        weighed[number, seen] = torch.where(values > 0, values / penalty, values * penalty)

    places: list[tuple[int, int]] = []
    changes: list[float] = []
    for number, row in enumerate(rows):
        for token, change in _changes(row).items():
            places.append((number, token))
            changes.append(change)
    if not places:
        return weighed
    at = torch.tensor(places, device=logits.device).T
    values = torch.tensor(changes, dtype=logits.dtype, device=logits.device)
    return weighed.index_put((at[0], at[1]), values, accumulate=True)


def _changes(row: Chooser) -> Mapping[int, float]:
    """Returns what is added to the logits of tokens."""
    sampling = row.sampling
    changes = dict(sampling.logit_bias)
    if not sampling.frequency_penalty and not sampling.presence_penalty:
        return changes
    for token in set(row.tokens):
        penalty = row.tokens.count(token) * sampling.frequency_penalty + sampling.presence_penalty
        changes[token] = changes.get(token, 0.0) - penalty
    return changes


def _forbid(logits: Tensor, rows: Sequence[Chooser]) -> Tensor:
    """Leaves only the tokens that each row's grammar allows."""
    numbers = [number for number, row in enumerate(rows) if row.allowed is not None]
    if not numbers:
        return logits
    masks = torch.stack([row.allowed for row in rows if row.allowed is not None])
    index = torch.tensor(numbers, device=logits.device)
    allowed = torch.ones(logits.shape, dtype=torch.bool, device=logits.device)
    allowed[index] = masks.to(logits.device)
    return logits.masked_fill(~allowed, -torch.inf)


def _draw(rows: Sequence[Chooser], logits: Tensor) -> Tensor:
    """Draws a token for each row at its temperature, after min_p, top_k and top_p in this order, as vLLM does. Of
    equally likely tokens at a limit all stay, so that the result doesn't depend on an order."""
    device = logits.device
    temperatures = torch.tensor([row.sampling.temperature for row in rows], device=device)
    scaled = logits / temperatures[:, None]
    scaled = _keep_probable(rows, scaled)
    scaled = _keep_top_k(rows, scaled)
    chances = torch.softmax(scaled, -1)
    chances = _keep_nucleus(rows, chances)
    # In float32, the sum over a large vocabulary would lose the rare tokens.
    exact = torch.float64 if device.type != "mps" else torch.float32
    cumulative = chances.cumsum(-1, dtype=exact)
    total = cumulative[:, -1:]
    drawn = torch.tensor([[row.draw()] for row in rows], dtype=exact, device=device) * total
    below_total = torch.nextafter(total, torch.zeros_like(total))
    # To the right, so that a token without a chance is never drawn.
    return torch.searchsorted(cumulative, torch.minimum(drawn, below_total), right=True)[:, 0]


def _keep_probable(rows: Sequence[Chooser], scaled: Tensor) -> Tensor:
    """Drops tokens that are less likely than min_p times the likeliest."""
    shares = torch.tensor([row.sampling.min_p for row in rows], device=scaled.device)
    if not any(row.sampling.min_p for row in rows):
        return scaled
    least = scaled.amax(-1) + shares.log()
    return scaled.masked_fill(scaled < least[:, None], -torch.inf)


def _keep_top_k(rows: Sequence[Chooser], scaled: Tensor) -> Tensor:
    width = scaled.shape[-1]
    counts = [min(row.sampling.top_k or width, width) for row in rows]
    limited = [count for count in counts if count < width]
    if not limited:
        return scaled
    likeliest = scaled.topk(max(limited), -1).values
    last = torch.tensor([min(count, max(limited)) - 1 for count in counts], device=scaled.device)
    least = likeliest.gather(-1, last[:, None])
    is_unlimited = torch.tensor([count == width for count in counts], device=scaled.device)
    least[is_unlimited] = -torch.inf
    return scaled.masked_fill(scaled < least, -torch.inf)


def _keep_nucleus(rows: Sequence[Chooser], chances: Tensor) -> Tensor:
    """Keeps the likeliest tokens that have a chance of top_p together."""
    numbers = [number for number, row in enumerate(rows) if row.sampling.top_p < 1]
    if not numbers:
        return chances
    index = torch.tensor(numbers, device=chances.device)
    shares = torch.tensor([rows[number].sampling.top_p for number in numbers], device=chances.device)
    own = chances[index]
    likeliest = own.topk(min(USUAL_NUCLEUS, own.shape[-1]), -1).values
    least = _least_of_nucleus(likeliest, shares)
    is_wider = likeliest.double().sum(-1) <= shares
    if is_wider.any():
        ordered = own[is_wider].sort(-1, descending=True).values
        least[is_wider] = _least_of_nucleus(ordered, shares[is_wider])
    kept_chances = own.masked_fill(own < least[:, None], 0)
    return chances.index_copy(0, index, kept_chances)


def _least_of_nucleus(ordered: Tensor, shares: Tensor) -> Tensor:
    """Returns the chance of the last token of each nucleus, (rows,), from chances in descending order."""
    chance_before = ordered.cumsum(-1) - ordered
    counts = (chance_before <= shares[:, None]).sum(-1).clamp(min=1)  # the likeliest always stays
    return ordered.gather(-1, counts[:, None] - 1)[:, 0]


def _choices(rows: Sequence[Chooser], logits: Tensor, tokens: Tensor) -> list[Choice]:
    chosen = tokens.tolist()
    choices = [Choice(token) for token in chosen]
    numbers = [number for number, row in enumerate(rows) if row.sampling.top_logprobs is not None]
    if not numbers:
        return choices
    index = torch.tensor(numbers, device=logits.device)
    own = logits[index]
    most = max(rows[number].sampling.top_logprobs or 0 for number in numbers)
    total = own.logsumexp(-1, keepdim=True)
    logprobs = (own.gather(-1, tokens[index][:, None]) - total)[:, 0].tolist()
    top = own.topk(most, -1)
    values = (top.values - total).tolist()
    ids = top.indices.tolist()
    for place, number in enumerate(numbers):
        count = rows[number].sampling.top_logprobs or 0
        likeliest = list(zip(ids[place], values[place], strict=True))[:count]
        choices[number] = Choice(chosen[number], logprobs[place], likeliest)
    return choices
