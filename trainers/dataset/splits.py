"""Reserves the holdout (stratified, without copies, with near copies on one side) and the validation rows. The same
rows and seed always give the same split.

The order in which questions are drawn depends only on a hash of seed and question. It doesn't change when other rows
are added or removed, so later versions of a dataset can follow the same rule. Validation rows, a tenth of the training
rows (20 to 200), are drawn in the same way; with them, early stopping and sweeps don't need the holdout.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from trainers.dataset.near_duplicates import UnionFind
from trainers.dataset.rows import (
    Example,
    Task,
    at,
    distinct_indices,
    most_frequent,
    question_key,
    question_keys,
)

HOLDOUT_SHARE = 0.2
HOLDOUT_MOST = 1000  # rows

_64_BITS = (1 << 64) - 1


@dataclass(frozen=True)
class Split:
    """Training rows and held-out rows, in the order of the file."""

    train: tuple[Example, ...]
    holdout: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class _Groups:
    """Rows that must stay on one side. Each group is named by its first row; `further` has the other rows of groups
    with more than one, since most rows are alone and a list for each would take much memory."""

    firsts: Sequence[int]
    further: Mapping[int, Sequence[int]]

    def rows(self, first: int) -> list[int]:
        return [first, *self.further.get(first, ())]

    def count(self, firsts: Sequence[int]) -> int:
        """Returns the number of rows of these groups."""
        count = len(firsts)
        for first in firsts:
            count += len(self.further.get(first, ()))
        return count


def split(
    examples: Sequence[Example],
    seed: int,
    task: Task = "labels",
    *,
    keys: Sequence[bytes] | None = None,
    groups: Sequence[int] | None = None,
) -> Split:
    """Splits rows by `draw_held_rows`. `keys` are the examples' question_keys, if already known."""
    keys = keys or question_keys(examples)
    labels = strata_labels(examples, task)
    held = draw_held_rows(keys, labels, seed, groups=groups)
    held_keys = {keys[index] for index in held}
    train: list[Example] = []
    holdout: list[Example] = []
    for index, (example, key) in enumerate(zip(examples, keys, strict=True)):
        # A copy of a held-out row is in neither part.
        if index in held:
            holdout.append(example)
        elif key not in held_keys:
            train.append(example)
    return Split(tuple(train), tuple(holdout))


def strata_labels(examples: Iterable[Example], task: Task) -> list[str]:
    """Returns the label of each row, or "" for free text, which is a single stratum."""
    if task == "labels":
        return [example.answer.strip() for example in examples]
    return ["" for _ in examples]


def draw_held_rows(
    keys: Sequence[bytes],
    labels: Sequence[str],
    seed: int,
    *,
    groups: Sequence[int] | None = None,
    share: float = HOLDOUT_SHARE,
    at_least: int = 200,
    at_most: int = HOLDOUT_MOST,
    served: Collection[str] = (),
) -> frozenset[int]:
    """Returns the numbers, from 0, of the rows to hold out. `keys`, `labels` and `groups` have an entry for each row.

    Draws `share` of the rows, but between `at_least` and `at_most`, and never more than a third of all rows or of a
    label. Of each label with at least three different questions, at least one is drawn, even if that exceeds `at_most`,
    unless the label is `served`, that is, has rows held out already. Rows with the same key or the same number in
    `groups` (near copies) stay on one side. Of copies, which have the same key and label, only the first is drawn: the
    others would be no further evidence, but must not be trained on either.
    """
    distinct = distinct_indices(keys, labels)
    if len(distinct) < len(keys):
        keys = at(distinct, keys)
        labels = at(distinct, labels)
        if groups is not None:
            groups = at(distinct, groups)

    marks: Sequence[bytes | int] = keys
    if groups is not None:
        marks = _merge_groups(keys, groups)
    together = _groups(marks)
    strata = _strata(together, keys, labels, seed)
    sizes = {label: together.count(firsts) for label, firsts in strata.items()}
    wanted = round(share * len(keys))
    wanted = min(max(wanted, at_least), at_most)
    quotas = _quotas(sizes, wanted, served)

    held: set[int] = set()
    for label, firsts in strata.items():
        is_served = label in served
        drawn = _draw_groups(together, firsts, quotas[label], one_at_least=not is_served)
        held.update(at(drawn, distinct))
    return frozenset(held)


def _groups(marks: Sequence[bytes | int]) -> _Groups:
    """Groups the rows with equal marks."""
    if len(set(marks)) == len(marks):
        return _Groups(range(len(marks)), {})
    first: dict[bytes | int, int] = {}
    further: dict[int, list[int]] = defaultdict(list)
    for row, mark in enumerate(marks):
        earlier = first.setdefault(mark, row)
        if earlier != row:
            further[earlier].append(row)
    return _Groups(list(first.values()), dict(further))


def _strata(
    groups: _Groups,
    keys: Sequence[bytes],
    labels: Sequence[str],
    seed: int,
) -> Mapping[str, list[int]]:
    """Returns the groups of each label in the order in which they are drawn. A group's position depends on its smallest
    key, so the order of the rows doesn't matter."""
    # Multiplying 64-bit hashes by an odd number that depends on the seed gives each seed another order.
    salt = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    factor = int.from_bytes(salt, "little") | 1
    # A key is two numbers of 64 bits; the first of them is enough.
    joined = b"".join(keys)
    numbers = struct.unpack(f"<{2 * len(keys)}Q", joined)
    hashes = numbers[::2]
    orders = [number * factor & _64_BITS for number in hashes]
    for first in groups.further:
        smallest = min(groups.rows(first), key=keys.__getitem__)
        orders[first] = orders[smallest]

    strata: dict[str, list[int]] = defaultdict(list)
    for first in sorted(groups.firsts, key=orders.__getitem__):
        label = labels[first]
        if first in groups.further:
            of_group = at(groups.rows(first), labels)
            label = most_frequent(Counter(of_group))
        strata[label].append(first)
    return strata


def _merge_groups(keys: Sequence[bytes], groups: Sequence[int]) -> list[int]:
    """Returns for each row the first row to which it is connected by shared keys or groups, in any number of steps."""
    sets = UnionFind(len(keys))
    seen: dict[bytes | int, int] = {}
    for row, marks in enumerate(zip(keys, groups, strict=True)):
        for mark in marks:
            first = seen.setdefault(mark, row)
            if first != row:
                sets.join(first, row)
    return [sets.first(row) for row in range(len(keys))]


def _quotas(
    sizes: Mapping[str, int],
    wanted: int,
    served: Collection[str],
) -> Mapping[str, int]:
    """Returns how many rows to draw of each label: proportionally, by largest remainder, at least 1 (if there are 3
    rows) and at most a third."""
    total = sum(sizes.values())
    remainders: dict[str, float] = {}
    most: dict[str, int] = {}
    least: dict[str, int] = {}
    quotas: dict[str, int] = {}
    for label, size in sizes.items():
        exact = wanted * size / total
        proportional = int(exact)
        remainders[label] = exact - proportional
        most[label] = size // 3
        least[label] = 0
        if label not in served:
            least[label] = min(1, most[label])
        quota = max(proportional, least[label])
        quotas[label] = min(quota, most[label])

    missing = wanted - sum(quotas.values())
    by_remainder = sorted(sizes, key=lambda label: (-remainders[label], label))
    _adjust_quotas(missing, 1, quotas, by_remainder, most)
    surplus = sum(quotas.values()) - wanted
    by_size = sorted(sizes, key=lambda label: (-sizes[label], label))
    _adjust_quotas(surplus, -1, quotas, by_size, least)
    return quotas


def _adjust_quotas(
    rows: int,
    step: int,
    quotas: dict[str, int],
    order: Sequence[str],
    bounds: Mapping[str, int],
) -> None:
    """Adds `step` to quotas `rows` times in all, going round the labels in this order, and skips quotas at their
    bounds."""
    while rows > 0:
        free = [label for label in order if quotas[label] != bounds[label]]
        if not free:
            return
        for label in free[:rows]:
            quotas[label] += step
        rows -= len(free)


def _draw_groups(
    groups: _Groups,
    firsts: Sequence[int],
    quota: int,
    *,
    one_at_least: bool,
) -> list[int]:
    """Draws groups in the order of `firsts` until the quota is reached, skipping groups that don't fit."""
    drawn: list[int] = []
    for first in firsts:
        if len(drawn) == quota:
            break
        rows = groups.rows(first)
        if len(drawn) + len(rows) <= quota:
            drawn.extend(rows)
    if drawn or not one_at_least or len(firsts) < 3:
        return drawn
    smallest = min(firsts, key=lambda first: len(groups.rows(first)))
    # at most a third, since the two other questions have at least as many rows
    return groups.rows(smallest)


def overlap(train: Iterable[Example], holdout: Iterable[Example]) -> set[int]:
    """Returns the lines of `train` with a question of `holdout`, ignoring case, spacing and instructions."""
    held = set(question_keys(holdout))
    lines = set()
    for example in train:
        if question_key(example) in held:
            lines.add(example.line)
    return lines


def store_chat(folder: Path, examples: Iterable[Example]) -> str:
    """Writes FOLDER/SHA256.jsonl and returns the sha256."""
    return _store_rows(folder, map(chat_row, examples))


def _store_rows(folder: Path, rows: Iterable[bytes]) -> str:
    with ChatFile(folder) as file:
        for row in rows:
            file.write(row)
        return file.close()


def chat_row(example: Example) -> bytes:
    # The line as it was uploaded, for rows that have more than roles and texts.
    if example.row is not None:
        return example.row
    messages: list[dict[str, str | int]] = []
    for message in example.messages:
        written: dict[str, str | int] = {"role": message.role, "content": message.content}
        if message.weight is not None:
            written["weight"] = message.weight
        messages.append(written)
    return orjson.dumps({"messages": messages})


VALIDATION_LEAST_ROWS = 100  # of training rows
VALIDATION_SHARE = 10  # one row of so many
VALIDATION_FEWEST = 20
VALIDATION_MOST = 200


@dataclass(frozen=True)
class ValidationSplit:
    """Two stored files, SHA256.jsonl each: the `fitted` rows, which are trained on, and the validation rows."""

    fitted_sha256: str
    validation_sha256: str
    n_fitted: int
    n_validation: int


def split_validation(files: Path, train_sha256: str, seed: int) -> ValidationSplit | None:
    """Splits the training rows. Returns None if there are fewer than 100, or if nearly all have the same question."""
    with (files / f"{train_sha256}.jsonl").open("rb") as file:
        rows = [line.rstrip(b"\n") for line in file if line.strip()]
    if len(rows) < VALIDATION_LEAST_ROWS:
        return None
    draws = [_validation_draw(row, seed) for row in rows]
    n_wanted = validation_rows(len(rows))
    last = sorted(draws)[n_wanted - 1]
    validation: list[bytes] = []
    fitted: list[bytes] = []
    for row, draw in zip(rows, draws, strict=True):
        # Rows with the same question have the same draw, so they are on one side.
        if draw <= last:
            validation.append(row)
        else:
            fitted.append(row)
    if len(fitted) < len(rows) // 2:
        return None
    return ValidationSplit(
        fitted_sha256=_store_rows(files, fitted),
        validation_sha256=_store_rows(files, validation),
        n_fitted=len(fitted),
        n_validation=len(validation),
    )


def _validation_draw(row: bytes, seed: int) -> bytes:
    """Returns a hash of seed and question: the rows with the smallest are drawn."""
    content = orjson.loads(row)
    chat = content.get("input", content)  # of a preference pair, or the row itself
    request = [message for message in chat["messages"] if message["role"] != "assistant"]
    salt = b"validation:%d:" % seed
    question = orjson.dumps(request, option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(salt + question).digest()


def validation_rows(rows: int) -> int:
    """Returns the number of validation rows for a number of training rows. The split has a few more if several rows ask
    the same question."""
    share = rows // VALIDATION_SHARE
    capped = min(share, VALIDATION_MOST)
    return max(capped, VALIDATION_FEWEST)


class ChatFile:
    """A file of chat rows that is renamed to FOLDER/SHA256.jsonl when closed, so that equal rows give the same file.
    Only its owner can read it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        prefix = f"unnamed-{os.getpid()}-{threading.get_ident()}-"
        descriptor, name = tempfile.mkstemp(dir=folder, prefix=prefix, suffix=".tmp")
        self._file = os.fdopen(descriptor, "wb")
        self._path = Path(name)
        self._digest = hashlib.sha256()
        self._is_closed = False

    def __enter__(self) -> ChatFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._is_closed:
            self._path.unlink(missing_ok=True)

    def write(self, row: bytes) -> None:
        self.write_part(row + b"\n")

    def write_part(self, part: bytes) -> None:
        self._digest.update(part)
        self._file.write(part)

    def close(self) -> str:
        """Renames the file to its sha256, and returns it."""
        # Before the file gets its name, which promises this content.
        self._file.flush()
        os.fsync(self._file.fileno())
        sha256 = self._digest.hexdigest()
        final = self._path.with_name(f"{sha256}.jsonl")
        self._path.replace(final)
        self._is_closed = True
        return sha256
