"""The holdout: no question on both sides, the same for the same rows, and in each label's proportion."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.dataset.builders import BANKING77, make_row, make_rows, needs_banking77, read_banking77
from trainers.dataset import Example, overlap, read, split, store_chat
from trainers.dataset.rows import question_key
from trainers.types import Message


@pytest.mark.parametrize(
    ("count", "held"),
    [(10, 3), (100, 33), (600, 200), (850, 200), (1000, 200), (1500, 300), (5000, 1000), (6000, 1000)],
)
def test_the_holdout_is_a_fifth_from_200_to_1000_rows_and_at_most_a_third(count: int, held: int) -> None:
    parts = split(make_rows(count, 1), seed=7)
    assert len(parts.holdout) == held
    assert len(parts.train) == count - held


def test_rare_labels_do_not_make_the_holdout_exceed_its_cap() -> None:
    rare = [make_row(9000 + i, f"rare {i}", f"rare {i // 3}") for i in range(30)]
    held = split([*make_rows(6000, 2), *rare], seed=7).holdout
    assert len(held) == 1000
    assert len({example.answer for example in held}) == 12


def test_copies_are_held_out_once_and_not_trained_on() -> None:
    copied = [make_row(i, f"copied {i // 10}", f"label {i // 10 % 4}") for i in range(1000)]
    parts = split(copied, seed=7)
    assert len(parts.holdout) == len({question_key(example) for example in parts.holdout}) == 32
    assert len(parts.train) == 680
    assert overlap(parts.train, parts.holdout) == set()


def test_a_rare_label_whose_every_question_has_a_copy_is_held_out_too() -> None:
    copied = [make_row(9000 + i, f"copied {i // 3}", "copied") for i in range(9)]
    held = Counter(example.answer for example in split([*make_rows(6000, 2), *copied], seed=7).holdout)
    assert held["copied"] == 1


def test_one_question_under_two_instructions_stays_on_one_side() -> None:
    instructions = [Message("system", "Sort it."), Message("developer", "Sort it well.")]
    examples = [
        Example(2 * i + n, (instruction, *make_row(0, f"question {i}").messages))
        for i in range(300)
        for n, instruction in enumerate(instructions, 1)
    ]

    parts = split(examples, seed=7)

    assert len(parts.holdout) == 100
    assert {(example.line - 1) // 2 for example in parts.train}.isdisjoint(
        (example.line - 1) // 2 for example in parts.holdout
    )


def test_new_rows_move_few_of_the_old_ones() -> None:
    old, new = make_rows(3000, 3), make_rows(3300, 3)
    before = {question_key(example) for example in split(old, seed=7).holdout}
    after = {question_key(example) for example in split(new, seed=7).holdout}
    assert len(before & after) >= 0.9 * len(before)


QUESTIONS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 5), st.booleans()), min_size=1, max_size=150
)


@settings(max_examples=80, deadline=None)
@given(rows=QUESTIONS, seed=st.integers(-(2**40), 2**40), shuffle=st.randoms(use_true_random=False))
def test_any_rows_are_split_without_a_leak_and_regardless_of_their_order(
    rows: list[tuple[int, int, bool]], seed: int, shuffle: random.Random
) -> None:
    examples = [
        make_row(line, f"Question  {number}" if loud else f"question {number}", f"label {label}")
        for line, (number, label, loud) in enumerate(rows, 1)
    ]
    parts = split(examples, seed)
    shuffled = examples[:]
    shuffle.shuffle(shuffled)

    held = {question_key(e) for e in parts.holdout}
    assert [e for e in examples if question_key(e) not in held] == list(parts.train)
    held_rows = {(question_key(e), e.answer) for e in parts.holdout}
    assert held_rows == {(question_key(e), e.answer) for e in examples if question_key(e) in held}
    assert len(held_rows) == len(parts.holdout) and 3 * len(parts.holdout) <= len(examples)
    again = split(shuffled, seed)
    assert {(question_key(e), e.answer) for e in again.holdout} == held_rows


@settings(max_examples=50, deadline=None)
@given(sizes=st.lists(st.integers(1, 120), min_size=1, max_size=12), seed=st.integers(0, 99))
def test_any_labels_are_held_out_in_proportion(sizes: list[int], seed: int) -> None:
    examples = [
        make_row(i, f"q {i} of {label}", f"l{label}") for label, size in enumerate(sizes) for i in range(size)
    ]
    held = Counter(example.answer for example in split(examples, seed).holdout)
    share = sum(held.values()) / len(examples)

    for label, size in enumerate(sizes):
        count = held[f"l{label}"]
        assert count <= size // 3
        assert count >= 1 or size < 3
        assert count >= min(int(share * size) - 1, size // 3)


def test_free_text_is_split_as_one_stratum() -> None:
    examples = [make_row(i, f"q {i}", f"a long answer {i}") for i in range(1, 31)]
    assert len(split(examples, 7, "free_text").holdout) == 10
    assert len(split(examples, 7, "labels").holdout) == 0


def test_a_part_is_named_by_its_hash_and_can_be_read_back(tmp_path: Path) -> None:
    raw = b'{"messages":[],"tools":[]}'
    examples = [make_row(1, "où?", "a\nb"), Example(2, (Message("user", "q"), Message("assistant", "a", 1)))]

    sha256 = store_chat(tmp_path / "new", examples)

    path = tmp_path / "new" / f"{sha256}.jsonl"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == sha256
    assert path.stat().st_mode & 0o077 == 0
    assert [e.messages for e in read(path, "x").examples] == [e.messages for e in examples]
    assert list(path.parent.iterdir()) == [path]
    sha256 = store_chat(tmp_path, [Example(1, examples[0].messages, raw)])
    assert (tmp_path / f"{sha256}.jsonl").read_bytes() == raw + b"\n"


def test_a_question_on_both_sides_is_found() -> None:
    train = [make_row(4, "Where is it?", "a"), make_row(5, "other", "b")]
    holdout = [make_row(9, "where  IS it?", "c"), make_row(10, "third", "b")]
    assert overlap(train, holdout) == {4}


@needs_banking77
def test_banking77_has_the_expected_copies_and_overlaps() -> None:
    train = read_banking77("train")
    test = read_banking77("test")
    assert (len(train), len(test)) == (10_003, 3_080)
    assert len(train) - len({question_key(example) for example in train}) == 4
    assert len(overlap(test, train)) == 7


@needs_banking77
def test_banking77_is_held_out_evenly() -> None:
    train = read_banking77("train")
    labels = json.loads((BANKING77 / "categories.json").read_text())
    parts = split(train, seed=7)
    sizes, held = Counter(e.answer for e in train), Counter(e.answer for e in parts.holdout)
    assert len(parts.holdout) == 1000
    assert set(held) == set(labels)
    assert all(abs(held[label] - sizes[label] / 10) <= 1 for label in labels)
