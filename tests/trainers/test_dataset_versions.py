"""A later version: what was held out stays held out, what was trained on stays in training, new rows are
drawn."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.dataset import Example, Split, split, store_chat
from trainers.dataset.near_duplicates import find_near_copies, question_text
from trainers.dataset.rows import question_key, question_keys
from trainers.dataset.versions import Diff, Previous, store_without_questions
from trainers.dataset.versions import continue_holdout as parts_of
from trainers.types import Message


def row(line: int, text: str, answer: str) -> Example:
    return Example(line, (Message("user", text), Message("assistant", answer)))


def even(count: int, labels: int = 2, begin: int = 1) -> list[Example]:
    return [row(i, f"question {i}", f"label {i % labels}") for i in range(begin, begin + count)]


def stored(folder: Path, parts: Split) -> Previous:
    shas = [store_chat(folder, side) for side in (parts.train, parts.holdout)]
    return Previous(*[folder / f"{sha}.jsonl" for sha in shas])


@dataclass(frozen=True)
class Continued:
    """A version after the one before, as it is written: held-out rows that it lacks come last."""

    split: Split
    diff: Diff


def continue_split(
    examples: Sequence[Example], previous: Previous, seed: int, groups: Sequence[int] | None = None
) -> Continued:
    parts = parts_of(previous, examples, question_keys(examples), "labels", seed, groups)
    assert parts.diff is not None
    train = tuple(e for i, e in enumerate(examples) if i not in parts.not_trained)
    held = tuple(e for i, e in enumerate(examples) if i in parts.held)
    return Continued(Split(train, (*held, *parts.earlier)), parts.diff)


def keys_of(examples: Sequence[Example]) -> set[bytes]:
    return {question_key(example) for example in examples}


def test_the_same_file_again_gives_the_same_files_and_an_empty_diff(tmp_path: Path) -> None:
    examples = even(900)
    parts = split(examples, 7)
    previous = stored(tmp_path, parts)

    continued = continue_split(examples, previous, 7)

    assert continued.split == parts
    assert stored(tmp_path, continued.split) == previous
    assert continued.diff == Diff(0, 0, 0, 0, 0, 0, (("label 0", 450, 450), ("label 1", 450, 450)))
    assert continued.diff.is_empty


def test_a_fifth_of_the_new_rows_joins_the_holdout_and_no_old_row_moves(tmp_path: Path) -> None:
    old = even(900)
    parts = split(old, 7)

    continued = continue_split([*old, *even(500, begin=2000)], stored(tmp_path, parts), 7)

    assert continued.diff.added == 500
    assert continued.diff.held_out_added == 100
    assert keys_of(parts.holdout) < keys_of(continued.split.holdout)
    assert keys_of(parts.train) < keys_of(continued.split.train)
    added = [e for e in continued.split.holdout if e.line >= 2000]
    assert Counter(e.answer for e in added) == {"label 0": 50, "label 1": 50}


def test_a_relabelled_row_is_held_out_with_its_new_answer(tmp_path: Path) -> None:
    old = even(900)
    parts = split(old, 7)
    held, trained = parts.holdout[0].line, parts.train[0].line
    new = [row(e.line, f"question {e.line}", "label 9") if e.line in (held, trained) else e for e in old]

    continued = continue_split(new, stored(tmp_path, parts), 7)

    assert [e.answer for e in continued.split.holdout if e.line == held] == ["label 9"]
    assert (continued.diff.added, continued.diff.removed, continued.diff.relabelled) == (0, 0, 2)
    assert continued.diff.held_out_relabelled == 1
    assert ("label 9", 0, 2) in continued.diff.by_label


def test_a_held_out_row_that_the_new_file_lacks_stays_held_out(tmp_path: Path) -> None:
    old = even(900)
    parts = split(old, 7)
    gone = {parts.holdout[0].line, parts.holdout[1].line, parts.train[0].line}

    continued = continue_split([e for e in old if e.line not in gone], stored(tmp_path, parts), 7)

    assert keys_of(continued.split.holdout) == keys_of(parts.holdout)
    assert (continued.diff.removed, continued.diff.held_out_missing) == (3, 2)
    assert len(continued.split.train) == len(parts.train) - 1


def test_the_holdout_grows_to_1000_and_no_further_but_for_a_new_label(tmp_path: Path) -> None:
    old = even(900)
    parts = split(old, 7)
    new = [*old, *even(20_000, begin=2000), *[row(50_000 + i, f"rare {i}", "new label") for i in range(3)]]

    held = continue_split(new, stored(tmp_path, parts), 7).split.holdout

    assert len(held) <= 1001
    assert Counter(e.answer for e in held)["new label"] == 1
    full = split(even(10_000), 7)
    more = continue_split([*even(10_000), *even(500, begin=20_000)], stored(tmp_path, full), 7)
    assert keys_of(more.split.holdout) == keys_of(full.holdout)


def test_a_near_copy_of_an_old_question_goes_where_that_one_is(tmp_path: Path) -> None:
    chance = random.Random(5)
    words = ("card", "refund", "order", "late", "parcel", "invoice", "account", "please", "today", "money")
    old = [row(i, " ".join(chance.choices(words, k=9)), "ab"[i % 2]) for i in range(1, 601)]
    groups = find_near_copies([question_text(e) for e in old], question_keys(old)).groups
    parts = split(old, 7, groups=groups)
    new = [*old, *[row(1000 + e.line, f"{e.messages[0].content}s", e.answer) for e in old]]
    near = find_near_copies([question_text(e) for e in new], question_keys(new))

    continued = continue_split(new, stored(tmp_path, parts), 7, groups=near.groups)

    sides = {e.line: "holdout" for e in continued.split.holdout} | {
        e.line: "train" for e in continued.split.train
    }
    assert all(sides[e.line] == sides[1000 + e.line] for e in old if group_is_old(e.line, near.groups, sides))
    assert continued.diff.held_out_added > 100


def group_is_old(line: int, groups: tuple[int, ...], sides: dict[int, str]) -> bool:
    """Whether all old questions of that row's group are on one side: a chain of new ones may join two."""
    return len({sides[i + 1] for i in range(600) if groups[i] == groups[line - 1]}) == 1


def test_a_version_before_that_is_not_what_was_written_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "x.jsonl"
    broken.write_text("{")

    with pytest.raises(ValueError, match=r"the previous version 'x\.jsonl'"):
        continue_split(even(20), Previous(broken, broken), 7)


ROWS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=90)


@settings(max_examples=50, deadline=None)
@given(old=ROWS, new=ROWS, seed=st.integers(0, 2**40), shuffle=st.randoms(use_true_random=False))
def test_any_two_versions_share_no_question_across_and_keep_the_holdout(
    old: list[tuple[int, int]], new: list[tuple[int, int]], seed: int, shuffle: random.Random
) -> None:
    before = [row(i, f"Question {n}", f"label {a}") for i, (n, a) in enumerate(old, 1)]
    after = [row(i, f"question  {n}", f"label {a}") for i, (n, a) in enumerate(new, 1)]
    parts = split(before, seed)
    shuffled = shuffle.sample(after, len(after))

    continued, again, same = continued_in_a_folder(parts, seed, after, shuffled, before)

    train, held = keys_of(continued.split.train), keys_of(continued.split.holdout)
    assert train.isdisjoint(held)
    assert keys_of(parts.holdout) <= held
    assert train.isdisjoint(keys_of(parts.holdout)) and held.isdisjoint(keys_of(parts.train))
    rows = [(question_key(e), e.answer) for e in (*continued.split.train, *continued.split.holdout)]
    assert {(question_key(e), e.answer) for e in after} == {row for row in rows if row[0] in keys_of(after)}
    assert keys_of(again.split.holdout) == held
    assert again.diff == continued.diff
    assert same.split == parts and same.diff.is_empty
    difference = continued.diff
    kept = [e for e in continued.split.holdout if question_key(e) not in keys_of(after)]
    assert len(kept) == difference.held_out_missing
    assert sum(count for _, count, _ in difference.by_label) == len(parts.train) + len(parts.holdout)


def continued_in_a_folder(parts: Split, seed: int, *versions: Sequence[Example]) -> list[Continued]:
    with tempfile.TemporaryDirectory() as name:
        previous = stored(Path(name), parts)
        return [continue_split(examples, previous, seed) for examples in versions]


def test_a_part_is_written_again_without_the_rows_of_a_question(tmp_path: Path) -> None:
    twice = [row(1, "where is it?", "a"), row(2, "Where  is it?", "b")]
    sha256 = store_chat(tmp_path, [*twice, *even(3, begin=3)])
    before = (tmp_path / f"{sha256}.jsonl").read_bytes().splitlines()

    smaller = store_without_questions(tmp_path, sha256, {question_key(twice[0])})

    after = (tmp_path / f"{smaller}.jsonl").read_bytes()
    assert after.splitlines() == before[2:], "the other rows keep their bytes"
    assert hashlib.sha256(after).hexdigest() == smaller
    assert store_without_questions(tmp_path, smaller, {question_key(twice[0])}) == smaller, (
        "nothing is left to take out"
    )


def test_held_out_rows_with_an_address_that_are_gone_are_dropped_and_replaced(tmp_path: Path) -> None:
    examples = [
        row(i, f"mail user{i}@example.com about question {i}", f"label {i % 2}") for i in range(1, 901)
    ]
    first = split(examples, 7)
    masked = [row(e.line, f"mail <address> about question {e.line}", e.answer) for e in examples]

    second = continue_split(masked, stored(tmp_path, first), 7)

    assert not any("@" in e.messages[0].content for e in (*second.split.train, *second.split.holdout))
    assert len(second.split.holdout) == len(first.holdout), "as many new questions take their place"
    assert (second.diff.held_out_dropped, second.diff.held_out_missing) == (len(first.holdout), 0)
    assert Counter(e.answer for e in second.split.holdout).keys() == {"label 0", "label 1"}


def test_a_held_out_row_that_is_gone_for_another_reason_stays(tmp_path: Path) -> None:
    examples = [
        *even(60),
        row(61, "mail jo@example.com", "label 0"),
        row(62, "mail kim@example.com", "label 1"),
    ]
    held = (examples[0], examples[60])
    first = Split(tuple(e for e in examples if e not in held), held)

    second = continue_split(examples[1:60], stored(tmp_path, first), 7)

    assert keys_of(second.split.holdout) >= keys_of([examples[0]])
    assert not keys_of(second.split.holdout) & keys_of([examples[60]])
    assert (second.diff.held_out_dropped, second.diff.held_out_missing) == (1, 1)
