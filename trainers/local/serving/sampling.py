"""Chooses the next tokens of a batch's rows by their sampling and grammar, on the device that has the logits. Imports
torch.

Each step is one call for all rows, and only the tokens are sent to the CPU: copying and sorting a row's logits there
took 11 ms for 128,000 words, so 32 rows took longer than the model's pass on a GPU. A row draws with one random number
from a generator of its own, so a seed gives the same answer alone and in a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from trainers.local.serving.answers import GREEDY_BELOW
from trainers.local.serving.values import Sampling

# The likeliest tokens usually have a chance of top_p together within this many, so the others need no sorting.
USUAL_NUCLEUS = 1024

# The log-probability of the chosen token, and the ids and log-probabilities of the likeliest ones.
Likelihood = tuple[float, Sequence[tuple[int, float]]]


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
    weighed = _penalize_repetition(own, rows)
    weighed = _add_biases(weighed, rows)
    weighed = _forbid(weighed, rows)
    tokens = weighed.argmax(-1)
    numbers = _numbers_of(rows, _is_sampled)
    if numbers:
        index = _index(numbers, logits)
        sampled = [rows[number] for number in numbers]
        tokens[index] = _draw(sampled, weighed[index])
    likelihoods = _likelihoods(rows, own, tokens)
    choices = []
    for number, token in enumerate(tokens.tolist()):
        logprob, likeliest = likelihoods.get(number, (None, ()))
        choices.append(Choice(token, logprob, likeliest))
    return choices


def _numbers_of(rows: Sequence[Chooser], applies: Callable[[Chooser], bool]) -> list[int]:
    """Returns the numbers of the rows to which something applies."""
    return [number for number, row in enumerate(rows) if applies(row)]


def _is_sampled(row: Chooser) -> bool:
    sampling = row.sampling
    if sampling.temperature < GREEDY_BELOW:
        return False
    return sampling.top_p > 0 and sampling.top_k != 1


# Weights and grammar


def _penalize_repetition(logits: Tensor, rows: Sequence[Chooser]) -> Tensor:
    """Divides the positive logits of tokens that were in the prompt or the answer, and multiplies the negative ones, as
    vLLM and transformers do (Keskar et al. 2019, https://arxiv.org/abs/1909.05858)."""
    numbers = _numbers_of(rows, lambda row: row.sampling.repetition_penalty != 1)
    if not numbers:
        return logits
    weighed = logits.clone()
    for number in numbers:
        row = rows[number]
        penalty = row.sampling.repetition_penalty
        tokens = sorted({*row.prompt, *row.tokens})
        present = _index(tokens, logits)
        values = weighed[number, present]
        weighed[number, present] = torch.where(values > 0, values / penalty, values * penalty)
    return weighed


def _add_biases(logits: Tensor, rows: Sequence[Chooser]) -> Tensor:
    """Adds biases and the penalties of frequency and presence, each to the few tokens that it concerns."""
    places: list[tuple[int, int]] = []
    changes: list[float] = []
    for number, row in enumerate(rows):
        for token, change in _changes(row).items():
            places.append((number, token))
            changes.append(change)
    if not places:
        return logits
    index = torch.tensor(places, device=logits.device)
    values = torch.tensor(changes, dtype=logits.dtype, device=logits.device)
    return logits.index_put((index[:, 0], index[:, 1]), values, accumulate=True)


def _changes(row: Chooser) -> Mapping[int, float]:
    """Returns what is added to the logits of tokens, by OpenAI's formula:
    https://platform.openai.com/docs/guides/text-generation#frequency-and-presence-penalties."""
    sampling = row.sampling
    changes = dict(sampling.logit_bias)
    if not sampling.frequency_penalty and not sampling.presence_penalty:
        return changes
    for token, count in Counter(row.tokens).items():
        penalty = count * sampling.frequency_penalty + sampling.presence_penalty
        changes[token] = changes.get(token, 0.0) - penalty
    return changes


def _forbid(logits: Tensor, rows: Sequence[Chooser]) -> Tensor:
    """Leaves only the tokens that each row's grammar allows."""
    numbers = _numbers_of(rows, lambda row: row.allowed is not None)
    if not numbers:
        return logits
    masks = torch.stack([row.allowed for row in rows if row.allowed is not None])
    index = _index(numbers, logits)
    allowed = torch.ones(logits.shape, dtype=torch.bool, device=logits.device)
    allowed[index] = masks.to(logits.device)
    return logits.masked_fill(~allowed, -torch.inf)


# Chance


def _draw(rows: Sequence[Chooser], logits: Tensor) -> Tensor:
    """Draws a token for each row at its temperature, after min_p, top_k and top_p in this order, as vLLM does. Of
    equally likely tokens at a limit all stay, so that the result doesn't depend on an order."""
    temperatures = _column([row.sampling.temperature for row in rows], logits)
    scaled = logits / temperatures
    scaled = _keep_probable(rows, scaled)
    scaled = _keep_top_k(rows, scaled)
    chances = torch.softmax(scaled, -1)
    chances = _keep_nucleus(rows, chances)

    # In float32, the sum over a large vocabulary would lose the rare tokens. MPS has nothing wider.
    exact = torch.float64
    if logits.device.type == "mps":
        exact = torch.float32
    cumulative = chances.cumsum(-1, dtype=exact)
    total = cumulative[:, -1:]
    random_numbers = _column([row.draw() for row in rows], cumulative)
    just_below = torch.nextafter(total, torch.zeros_like(total))
    drawn = torch.minimum(random_numbers * total, just_below)
    # To the right, so that a token without a chance is never drawn.
    return torch.searchsorted(cumulative, drawn, right=True)[:, 0]


def _index(numbers: Sequence[int], like: Tensor) -> Tensor:
    """Returns numbers of rows or words, for indexing, on the device of `like`."""
    return torch.tensor(numbers, device=like.device)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Returns a value for each row, (rows, 1), on the device and in the precision of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]


def _keep_probable(rows: Sequence[Chooser], scaled: Tensor) -> Tensor:
    """Drops tokens that are less likely than min_p times the likeliest."""
    shares = [row.sampling.min_p for row in rows]
    if not any(shares):
        return scaled
    likeliest = scaled.amax(-1, keepdim=True)
    least = likeliest + _column(shares, scaled).log()
    return scaled.masked_fill(scaled < least, -torch.inf)


def _keep_top_k(rows: Sequence[Chooser], scaled: Tensor) -> Tensor:
    """Drops all but the top_k likeliest tokens; 0 drops none."""
    words = scaled.shape[-1]
    counts = [row.sampling.top_k or words for row in rows]
    limited = [count for count in counts if count < words]
    if not limited:
        return scaled
    most = max(limited)
    likeliest = scaled.topk(most, -1).values
    last = _index([min(count, most) - 1 for count in counts], scaled)
    least = likeliest.gather(-1, last[:, None])
    unlimited = [number for number, count in enumerate(counts) if count >= words]
    least[unlimited] = -torch.inf
    return scaled.masked_fill(scaled < least, -torch.inf)


def _keep_nucleus(rows: Sequence[Chooser], chances: Tensor) -> Tensor:
    """Keeps the likeliest tokens that have a chance of top_p together."""
    numbers = _numbers_of(rows, lambda row: row.sampling.top_p < 1)
    if not numbers:
        return chances
    index = _index(numbers, chances)
    own = chances[index]
    shares = _column([rows[number].sampling.top_p for number in numbers], own)
    usual = min(USUAL_NUCLEUS, own.shape[-1])
    likeliest = own.topk(usual, -1).values
    least = _least_of_nucleus(likeliest, shares)
    is_wider = likeliest.double().sum(-1) <= shares[:, 0]
    if is_wider.any():
        ordered = own[is_wider].sort(-1, descending=True).values
        least[is_wider] = _least_of_nucleus(ordered, shares[is_wider])
    remaining = own.masked_fill(own < least, 0)
    return chances.index_copy(0, index, remaining)


def _least_of_nucleus(ordered: Tensor, shares: Tensor) -> Tensor:
    """Returns the chance of the last token of each nucleus, (rows, 1), from chances in descending order."""
    chance_before = ordered.cumsum(-1) - ordered
    counts = (chance_before <= shares).sum(-1, keepdim=True)
    last = counts.clamp(min=1) - 1  # the likeliest always stays
    return ordered.gather(-1, last)


# What is reported


def _likelihoods(rows: Sequence[Chooser], logits: Tensor, tokens: Tensor) -> Mapping[int, Likelihood]:
    """Returns the likelihoods of the rows that ask for them, by the row's number."""
    numbers = _numbers_of(rows, lambda row: row.sampling.top_logprobs is not None)
    if not numbers:
        return {}
    index = _index(numbers, logits)
    own = logits[index]
    counts = [rows[number].sampling.top_logprobs or 0 for number in numbers]
    total = own.logsumexp(-1, keepdim=True)
    of_chosen = own.gather(-1, tokens[index][:, None]) - total
    top = own.topk(max(counts), -1)
    ids = top.indices.tolist()
    logprobs = (top.values - total).tolist()
    likelihoods = {}
    for place, number in enumerate(numbers):
        likeliest = list(zip(ids[place], logprobs[place], strict=True))
        likelihoods[number] = (float(of_chosen[place]), likeliest[: counts[place]])
    return likelihoods
