"""What the model has read of earlier prompts and answers, kept so that the next prompt that begins alike isn't read
from its first token. Imports torch; runs no model.

A cache of attention layers that keep every token can be cut at any token, since what is kept of a token depends only on
the tokens before it. Layers with a sliding window or a state have dropped what a shorter beginning would need, so their
caches are used as they are, by prompts that begin with all of their tokens."""

from __future__ import annotations

import copy
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from trainers.local.serving.values import Ids

# Shorter beginnings save less than finding and copying them costs.
MIN_TOKENS_REUSED = 16
MIN_TOKENS_KEPT = 64
# Of the memory that is free besides.
SHARE_OF_FREE_MEMORY = 1 / 8
# On systems that don't say how much memory is free.
USUAL_BYTES = 512 * 1024**2
# Prompts are people's texts, so they don't stay in memory for longer than another question is likely.
UNUSED_S = 30 * 60.0


@dataclass(frozen=True, eq=False)
class CachedPrefix:
    """The first tokens of some prompts with their cache, a batch of one row. With `can_cut`, the first part of the
    cache can be used alone."""

    ids: Ids
    cache: DynamicCache
    can_cut: bool

    def fits(self, prompt: Ids) -> bool:
        """True if `prompt` begins with all of these tokens and has another one."""
        size = len(self.ids)
        return len(prompt) > size and prompt[:size] == self.ids

    def nbytes(self) -> int:
        # A tensor may be a part of a larger one, all of which stays in memory.
        storages = [tensor.untyped_storage() for tensor in _tensors(self.cache)]
        sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
        return sum(sizes.values())

    def copy(self) -> DynamicCache:
        """Returns a cache that a model may go on writing into. State layers write in place."""
        return copy.deepcopy(self.cache)


@dataclass(frozen=True)
class Start:
    """The first `size` tokens of `prefix`, from which a prompt is read on. Without a prefix it is read from its first
    token."""

    prefix: CachedPrefix | None = None
    size: int = 0


@dataclass
class Entry:
    prefix: CachedPrefix
    nbytes: int
    used_at: float = field(default_factory=time.monotonic)


class PrefixStore:
    """The kept prefixes of a base, by adapter, of which the least recently used go first. `room` returns how many bytes
    all of them may take, from the bytes that they take now."""

    def __init__(self, room: Callable[[int], int]) -> None:
        self._room = room
        self._entries: dict[Path | None, list[Entry]] = {}

    @property
    def nbytes(self) -> int:
        return sum(entry.nbytes for entry in self._all())

    def find(self, adapter: Path | None, prompt: Ids) -> Start:
        """Returns the longest kept beginning of `prompt`, which leaves at least its last token to be read."""
        best: Entry | None = None
        most = MIN_TOKENS_REUSED - 1
        for entry in self._entries.get(adapter, ()):
            prefix = entry.prefix
            if prefix.can_cut:
                size = common_length(prefix.ids, prompt[:-1])
            elif prefix.fits(prompt):
                size = len(prefix.ids)
            else:
                continue
            if size > most:
                best = entry
                most = size
        if best is None:
            return Start()
        best.used_at = time.monotonic()
        return Start(best.prefix, most)

    def shared_length(self, adapter: Path | None, prompt: Ids) -> int:
        """Returns how many first tokens `prompt` shares with any kept prefix, whether or not that can be cut there."""
        entries = self._entries.get(adapter, ())
        read = prompt[:-1]
        sizes = [common_length(entry.prefix.ids, read) for entry in entries]
        return max(sizes, default=0)

    def keep(self, adapter: Path | None, prefix: CachedPrefix) -> None:
        """Keeps a prefix if there is room, instead of those that are a beginning of it and can be cut from it."""
        entry = Entry(prefix, prefix.nbytes())
        present = self._entries.get(adapter, [])
        staying = [other for other in present if not _replaces(prefix, other.prefix)]
        self._entries[adapter] = [*staying, entry]
        self._make_room()

    def drop(self, adapter: Path | None) -> None:
        """Drops the prefixes that were read with an adapter, None for the base alone."""
        self._entries.pop(adapter, None)

    def drop_unused(self) -> bool:
        """Drops what nobody has used for a while. Returns True if that freed memory."""
        oldest = time.monotonic() - UNUSED_S
        return self._keep_only(lambda entry: entry.used_at >= oldest)

    def clear(self) -> None:
        self._entries.clear()

    def _make_room(self) -> None:
        held = self.nbytes
        room = self._room(held)
        oldest_first = sorted(self._all(), key=lambda entry: entry.used_at)
        leaving = set()
        for entry in oldest_first:
            if held <= room:
                break
            leaving.add(id(entry))
            held -= entry.nbytes
        self._keep_only(lambda entry: id(entry) not in leaving)

    def _keep_only(self, stays: Callable[[Entry], bool]) -> bool:
        before = len(self._all())
        remaining: dict[Path | None, list[Entry]] = {}
        for adapter, entries in self._entries.items():
            staying = [entry for entry in entries if stays(entry)]
            if staying:
                remaining[adapter] = staying
        self._entries = remaining
        return len(self._all()) < before

    def _all(self) -> list[Entry]:
        return [entry for entries in self._entries.values() for entry in entries]


def _replaces(new: CachedPrefix, old: CachedPrefix) -> bool:
    size = len(old.ids)
    if new.ids[:size] != old.ids:
        return False
    return new.can_cut or len(new.ids) == size


def prefix_room(free: int | None, held: int) -> int:
    """Returns how many bytes kept prefixes may take if they take `held` now and `free` are free besides, None if the
    machine doesn't tell."""
    if free is None:
        return USUAL_BYTES
    return int(SHARE_OF_FREE_MEMORY * (free + held))


def common_length(first: Ids, second: Ids) -> int:
    """Returns with how many tokens both begin alike."""

    def differs_within(size: int) -> bool:
        # Comparing slices is quick, comparing tokens in Python isn't.
        return first[:size] != second[:size]

    most = min(len(first), len(second))
    return bisect_left(range(1, most + 1), True, key=differs_within)


def groups_that_begin_alike(prompts: Iterable[Ids]) -> list[list[Ids]]:
    """Groups prompts so that reading each group's common beginning once saves the most tokens."""
    return _divide(sorted(prompts))


def _divide(prompts: list[Ids]) -> list[list[Ids]]:
    """Divides sorted prompts where neighbours have the least in common, if both parts together save more."""
    if len(prompts) < 3:
        return [prompts]
    common = [common_length(*pair) for pair in pairwise(prompts)]
    cut = common.index(min(common)) + 1
    parts = [*_divide(prompts[:cut]), *_divide(prompts[cut:])]
    if sum(map(_saved, parts)) > _saved(prompts):
        return parts
    return [prompts]


def _saved(prompts: Sequence[Ids]) -> int:
    return shared_length(prompts) * (len(prompts) - 1)


def shared_length(prompts: Sequence[Ids]) -> int:
    """Returns with how many tokens all prompts begin. The last token of the shortest doesn't count, since each prompt
    must have a token left that is read by itself."""
    common = common_length(min(prompts), max(prompts))
    return min(common, min(map(len, prompts)) - 1)


def cut_row(cache: DynamicCache, row: int, places: Tensor) -> DynamicCache:
    """Returns a row of a cache whose layers keep every token, with its positions `places` (tokens,). The result shares
    no memory with the batch."""
    own = copy.copy(cache)
    own.layers = [_cut_layer(layer, row, places) for layer in cache.layers]
    return own


def _cut_layer(layer: Any, row: int, places: Tensor) -> Any:
    own = type(layer)()
    if layer.get_seq_length():  # a layer may read another's cache and have none
        own.lazy_initialization(layer.keys, layer.values)
        own.keys = layer.keys[row, :, places][None]
        own.values = layer.values[row, :, places][None]
    return own


def stack_starts(empty: DynamicCache, starts: Sequence[Start]) -> DynamicCache:
    """Returns `empty`, filled with a row for each of `starts`, padded in front to the longest. All their prefixes can
    be cut."""
    if any(start.size for start in starts):
        for number, layer in enumerate(empty.layers):
            _fill_layer(layer, number, starts)
    return empty


def _fill_layer(target: Any, number: int, starts: Sequence[Start]) -> None:
    """Fills a layer of an empty cache with what the prefixes of `starts` have of this layer, by its number."""
    layers = [start.prefix.cache.layers[number] for start in starts if start.prefix is not None]
    first: Any = layers[0]
    if not first.get_seq_length():  # it reads another layer's cache
        return
    target.lazy_initialization(first.keys, first.values)
    if len(set(starts)) == 1:  # the model's first pass copies it for each row
        keys, values = _beginning(first, starts[0].size)
        target.keys = keys.expand(len(starts), -1, -1, -1)
        target.values = values.expand(len(starts), -1, -1, -1)
        return
    keys_of_rows = []
    values_of_rows = []
    for start in starts:
        layer: Any = first  # without a prefix nothing is taken of it
        if start.prefix is not None:
            layer = start.prefix.cache.layers[number]
        keys, values = _beginning(layer, start.size)
        keys_of_rows.append(keys)
        values_of_rows.append(values)
    target.keys = join_rows(keys_of_rows)
    target.values = join_rows(values_of_rows)


def _beginning(layer: Any, size: int) -> tuple[Tensor, Tensor]:
    """Returns the keys and values of the first `size` positions."""
    keys: Tensor = layer.keys[:, :, :size]
    values: Tensor = layer.values[:, :, :size]
    return keys, values


def join_rows(tensors: Sequence[Tensor]) -> Tensor:
    """Joins the rows of tensors (rows, heads, positions, D), padded in front to the most positions."""
    most = max(tensor.shape[2] for tensor in tensors)
    return torch.cat([pad_front(tensor, most, dim=2) for tensor in tensors])


def pad_front(tensor: Tensor, length: int, dim: int) -> Tensor:
    """Adds zeros in front, up to the size `length` along `dim`."""
    missing = length - tensor.shape[dim]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[dim] = missing
    padding = tensor.new_zeros(shape)
    return torch.cat([padding, tensor], dim)


def _tensors(cache: DynamicCache) -> list[Tensor]:
    """Returns all tensors of a cache: keys and values, and the states of layers that have some."""
    tensors = []
    for layer in cache.layers:
        for value in vars(layer).values():
            parts = [value]
            if isinstance(value, dict):
                parts = [*value.values()]
            tensors += [part for part in parts if isinstance(part, Tensor)]
    return tensors
