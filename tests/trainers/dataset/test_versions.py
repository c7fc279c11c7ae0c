"""A later version keeps the sides of old questions, and draws held-out rows among the new ones."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.dataset.builders import make_row, make_rows
from trainers.dataset import CheckSettings, Columns, Example, Split, check_file, split, store_chat
from trainers.dataset.near_duplicates import find_near_copies, question_text
from trainers.dataset.rows import question_key, question_keys
from trainers.dataset.versions import Diff, Previous, read_stored, store_without_questions
from trainers.dataset.versions import continue_holdout as parts_of


def store_split(folder: Path, parts: Split) -> Previous:
    train, holdout = (folder / f"{store_chat(folder, side)}.jsonl" for side in (parts.train, parts.holdout))
    return Previous(train, holdout)


@dataclass(frozen=True)
class Continued:
    """A later version as it is written: held-out rows that its file lacks come last."""

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


def test_the_same_file_gives_the_same_parts_and_an_empty_diff(tmp_path: Path) -> None:
    examples = make_rows(900)
    parts = split(examples, 7)
    previous = store_split(tmp_path, parts)
    continued = continue_split(examples, previous, 7)
    assert continued.split == parts
    assert store_split(tmp_path, continued.split) == previous
    assert continued.diff == Diff(0, 0, 0, 0, 0, 0, (("label 0", 450, 450), ("label 1", 450, 450)))
    assert continued.diff.is_empty


def test_a_fifth_of_the_new_rows_joins_the_holdout_and_no_old_row_moves(tmp_path: Path) -> None:
    old = make_rows(900)
    parts = split(old, 7)
    continued = continue_split([*old, *make_rows(500, first=2000)], store_split(tmp_path, parts), 7)
    assert continued.diff.added == 500
    assert continued.diff.held_out_added == 100
    assert keys_of(parts.holdout) < keys_of(continued.split.holdout)
    assert keys_of(parts.train) < keys_of(continued.split.train)
    added = [e for e in continued.split.holdout if e.line >= 2000]
    assert Counter(e.answer for e in added) == {"label 0": 50, "label 1": 50}


def test_a_question_that_a_model_has_learnt_is_never_held_out(tmp_path: Path) -> None:
    examples = make_rows(400)
    learnt = tmp_path / f"{store_chat(tmp_path, examples[:300])}.jsonl"
    every = tmp_path / f"{store_chat(tmp_path, examples)}.jsonl"
    first = check_file(every, every.name, Columns(), tmp_path, 7, CheckSettings(learnt_files=(learnt,)))
    held = read_stored(tmp_path / f"{first.holdout_sha256}.jsonl", "reading")
    assert len(held) == 32 and keys_of(held) <= keys_of(examples[300:])

    before = store_split(tmp_path, split(examples[:200], 7))
    keys = question_keys(examples)
    newer = parts_of(before, examples, keys, "labels", 7, learnt=frozenset(keys[200:300]), n_sealed=20)
    drawn = {place for place in newer.held | newer.sealed if place >= 200}
    assert drawn and all(place >= 300 for place in drawn)


def test_where_a_model_has_learnt_every_question_nothing_can_test_it(tmp_path: Path) -> None:
    path = tmp_path / f"{store_chat(tmp_path, make_rows(40))}.jsonl"
    report = check_file(path, path.name, Columns(), tmp_path, 7, CheckSettings(learnt_files=(path,)))
    assert [finding.code for finding in report.findings if finding.blocks] == ["all_learnt"]


def test_a_relabelled_held_out_row_has_its_new_answer(tmp_path: Path) -> None:
    old = make_rows(900)
    parts = split(old, 7)
    held, trained = parts.holdout[0].line, parts.train[0].line
    new = [make_row(e.line, f"question {e.line}", "label 9") if e.line in (held, trained) else e for e in old]
    continued = continue_split(new, store_split(tmp_path, parts), 7)
    assert [e.answer for e in continued.split.holdout if e.line == held] == ["label 9"]
    assert (continued.diff.added, continued.diff.removed, continued.diff.relabelled) == (0, 0, 2)
    assert continued.diff.held_out_relabelled == 1
    assert ("label 9", 0, 2) in continued.diff.by_label


def test_the_holdout_grows_to_1000_rows_and_beyond_only_for_a_new_label(tmp_path: Path) -> None:
    old = make_rows(900)
    parts = split(old, 7)
    new = [
        *old,
        *make_rows(4_500, first=2000),
        *[make_row(50_000 + i, f"rare {i}", "new label") for i in range(3)],
    ]

    held = continue_split(new, store_split(tmp_path, parts), 7).split.holdout

    assert 1000 <= len(held) <= 1001
    assert Counter(e.answer for e in held)["new label"] == 1
    full = split(make_rows(5_000), 7)
    assert len(full.holdout) == 1000
    more = continue_split([*make_rows(5_000), *make_rows(500, first=20_000)], store_split(tmp_path, full), 7)
    assert keys_of(more.split.holdout) == keys_of(full.holdout)


def test_a_near_copy_of_an_old_question_is_on_its_side(tmp_path: Path) -> None:
    chance = random.Random(5)
    words = ("card", "refund", "order", "late", "parcel", "invoice", "account", "please", "today", "money")
    old = [make_row(i, " ".join(chance.choices(words, k=9)), "ab"[i % 2]) for i in range(1, 301)]
    groups = find_near_copies([question_text(e) for e in old], question_keys(old)).groups
    parts = split(old, 7, groups=groups)
    new = [*old, *[make_row(1000 + e.line, f"{e.messages[0].content}s", e.answer) for e in old]]
    near = find_near_copies([question_text(e) for e in new], question_keys(new))

    continued = continue_split(new, store_split(tmp_path, parts), 7, groups=near.groups)

    sides = {e.line: "holdout" for e in continued.split.holdout} | {
        e.line: "train" for e in continued.split.train
    }
    # A chain of new questions may join old ones of both sides; these are left out.
    sides_of_group = defaultdict(set)
    for group, row in zip(near.groups, old, strict=False):
        sides_of_group[group].add(sides[row.line])
    compared = [row for group, row in zip(near.groups, old, strict=False) if len(sides_of_group[group]) == 1]
    assert len(compared) > 200
    assert all(sides[row.line] == sides[1000 + row.line] for row in compared)
    assert continued.diff.held_out_added > 50


def test_a_damaged_previous_version_is_reported(tmp_path: Path) -> None:
    broken = tmp_path / "x.jsonl"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"the previous version 'x\.jsonl'"):
        continue_split(make_rows(20), Previous(broken, broken), 7)


ROWS = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 3)), min_size=1, max_size=90)


@settings(max_examples=50, deadline=None)
@given(old=ROWS, new=ROWS, seed=st.integers(0, 2**40), shuffle=st.randoms(use_true_random=False))
def test_any_two_versions_keep_the_holdout_and_share_no_question_across_sides(
    old: list[tuple[int, int]], new: list[tuple[int, int]], seed: int, shuffle: random.Random
) -> None:
    before = [make_row(i, f"Question {n}", f"label {a}") for i, (n, a) in enumerate(old, 1)]
    after = [make_row(i, f"question  {n}", f"label {a}") for i, (n, a) in enumerate(new, 1)]
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
    missing = [e for e in continued.split.holdout if question_key(e) not in keys_of(after)]
    assert len(missing) == difference.held_out_missing
    assert sum(count for _, count, _ in difference.by_label) == len(parts.train) + len(parts.holdout)


def continued_in_a_folder(parts: Split, seed: int, *versions: Sequence[Example]) -> list[Continued]:
    with tempfile.TemporaryDirectory() as name:
        previous = store_split(Path(name), parts)
        return [continue_split(examples, previous, seed) for examples in versions]


def test_a_part_is_rewritten_without_the_rows_of_a_question(tmp_path: Path) -> None:
    copies = [make_row(1, "where is it?", "a"), make_row(2, "Where  is it?", "b")]
    sha256 = store_chat(tmp_path, [*copies, *make_rows(3, first=3)])
    before = (tmp_path / f"{sha256}.jsonl").read_bytes().splitlines()

    smaller = store_without_questions(tmp_path, sha256, {question_key(copies[0])})

    after = (tmp_path / f"{smaller}.jsonl").read_bytes()
    assert after.splitlines() == before[2:], "the other rows keep their bytes"
    assert hashlib.sha256(after).hexdigest() == smaller
    assert store_without_questions(tmp_path, smaller, {question_key(copies[0])}) == smaller, (
        "nothing is left to take out"
    )


def test_held_out_rows_whose_address_was_masked_are_dropped_and_replaced(tmp_path: Path) -> None:
    examples = [
        make_row(i, f"mail user{i}@example.com about question {i}", f"label {i % 2}") for i in range(1, 901)
    ]
    first = split(examples, 7)
    masked = [make_row(e.line, f"mail <address> about question {e.line}", e.answer) for e in examples]

    second = continue_split(masked, store_split(tmp_path, first), 7)

    assert not any("@" in e.messages[0].content for e in (*second.split.train, *second.split.holdout))
    assert len(second.split.holdout) == len(first.holdout), "as many new questions take their place"
    assert (second.diff.held_out_dropped, second.diff.held_out_missing) == (len(first.holdout), 0)
    assert Counter(e.answer for e in second.split.holdout).keys() == {"label 0", "label 1"}


def test_a_missing_held_out_row_without_personal_data_stays(tmp_path: Path) -> None:
    examples = [
        *make_rows(60),
        make_row(61, "mail jo@example.com", "label 0"),
        make_row(62, "mail kim@example.com", "label 1"),
    ]
    held = (examples[0], examples[60])
    first = Split(tuple(e for e in examples if e not in held), held)

    second = continue_split(examples[1:60], store_split(tmp_path, first), 7)

    assert keys_of(second.split.holdout) >= keys_of([examples[0]])
    assert not keys_of(second.split.holdout) & keys_of([examples[60]])
    assert (second.diff.held_out_dropped, second.diff.held_out_missing, second.diff.removed) == (1, 1, 3)
