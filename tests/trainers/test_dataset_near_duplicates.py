"""Near duplicates: each one reported is one, hardly any is missed, and they stay on one side of the split."""

from __future__ import annotations

import random
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.dataset import Example, Finding, read, split
from trainers.dataset.checks import Findings
from trainers.dataset.near_duplicates import (
    NEAR_SIMILARITY,
    NearCopies,
    compute_sketches,
    find_near_copies,
    question_text,
    report_near_pairs,
    shingles,
    similarity,
)
from trainers.dataset.rows import question_key, question_keys
from trainers.types import Message

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_banking77 = pytest.mark.skipif(
    not (SHARED / "banking77").is_dir(), reason="needs ../shared/data/banking77, which a plain clone lacks"
)
WORDS = ("card", "refund", "order", "late", "parcel", "invoice", "account", "please", "where", "today", "app")


def row(line: int, text: str, answer: str = "a") -> Example:
    return Example(line, (Message("system", "Sort."), Message("user", text), Message("assistant", answer)))


def near_of(texts: list[str]) -> NearCopies:
    return find_near_copies(texts, [question_key(row(1, text)) for text in texts])


def findings(texts: list[str], answers: list[str], held: int = 0) -> list[Finding]:
    found = Findings(20)
    report_near_pairs(near_of(texts), list(range(1, len(texts) + 1)), answers, found, held=held)
    return list(found.sorted())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Can I top-up any amount?", "can i top up  any amount"),
        ("How long will my transfer be pending?", "How long will my transfer be pending for?"),
        ("There is a payment I don't recognise", "There is a payment I don't recognize!"),
        (
            "注文した商品がまだ届きませんが、どうなっていますか",
            "注文した商品がまだ届きませんが、どうなっていますか?",
        ),
        ("ﬁnd my order, it is late", "FIND MY ORDER – it is late"),
        ("OK!", "ok"),
    ],
)
def test_texts_that_a_person_would_call_nearly_the_same_are(one: str, other: str) -> None:
    assert similarity(*shingles([one, other])) >= NEAR_SIMILARITY


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("I want to activate my card", "I want to cancel my card"),
        ("order 4711", "order 4712"),
        ("card lost", "cards lost"),
        ("yes", "no"),
        ("", ""),
        ("?!", "!!!"),
        ("a", "a"),
        ("カード", "コード"),
    ],
)
def test_short_texts_and_texts_of_another_meaning_are_not(one: str, other: str) -> None:
    assert similarity(*shingles([one, other])) < NEAR_SIMILARITY


def test_runs_of_four_characters_are_counted_as_by_hand() -> None:
    """card  and  cart : ' car' of ' car', 'card', 'ard ' and ' car', 'cart', 'art '."""
    assert similarity(*shingles(["Card.", "cart"])) == 1 / 5


def test_a_near_copy_is_named_with_both_lines_and_another_answer_is_a_contradiction() -> None:
    texts = [
        "Has my top up gone through?",
        "Something else",
        "Has my top-up gone through",
        "has my top up gone through",
    ]

    said = findings(texts, ["pending", "x", "reverted", "pending"])

    assert [(f.line, f.code, f.message) for f in said] == [
        (3, "near_contradiction", "Line 3 says nearly the same as line 1 but has another answer."),
        (4, "near_duplicate", "Line 4 says nearly the same as line 1."),
    ]
    assert {f.severity for f in said} == {"warns"}


def test_copies_are_no_near_copies_but_are_in_their_group() -> None:
    near = near_of(["Where is my parcel now?", "where is  MY parcel now?", "Where is my parcel now", "other"])

    assert near.groups == (0, 0, 0, 3)
    assert [(pair.earlier, pair.later) for pair in near.pairs] == [(0, 2)]


def test_what_the_frozen_holdout_nearly_asks_is_told_with_its_line() -> None:
    found = Findings(20)
    near = near_of(["Where is my parcel now?", "Where is my parcel now", "When does the shop open?"])

    report_near_pairs(near, [7, 12, 13], None, found, held=1)

    (said,) = found.sorted()
    assert (said.line, said.code) == (12, "near_overlap")
    assert said.message == "Line 12 asks nearly what the holdout asks in line 7."


def sentences(chance: random.Random, count: int) -> list[str]:
    """Some new, some a little changed from one before."""
    texts: list[str] = []
    for _ in range(count):
        if texts and chance.random() < 0.5:
            words = chance.choice(texts).split()
            words[chance.randrange(len(words))] = chance.choice(WORDS)
            texts.append(" ".join(words))
        else:
            texts.append(" ".join(chance.choices(WORDS, k=chance.randrange(1, 16))))
    return texts


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 60))
def test_every_pair_of_near_copies_and_no_other_is_grouped_in_any_order(seed: int, count: int) -> None:
    chance = random.Random(seed)
    texts = sentences(chance, count)
    known = shingles(texts)

    near = near_of(texts)

    for pair in near.pairs:
        assert similarity(known[pair.earlier], known[pair.later]) == pair.similarity >= NEAR_SIMILARITY
        assert near.groups[pair.earlier] == near.groups[pair.later]
    for i in range(count):
        for j in range(i):
            if similarity(known[i], known[j]) >= NEAR_SIMILARITY:
                assert near.groups[i] == near.groups[j]
    order = chance.sample(range(count), count)
    again = near_of([texts[i] for i in order])
    assert same_groups([again.groups[order.index(i)] for i in range(count)]) == same_groups(near.groups)


def test_of_few_rows_all_are_compared() -> None:
    assert near_of([f"hello there {i}" for i in range(200)]).all_compared


def same_groups(groups: list[int] | tuple[int, ...]) -> set[frozenset[int]]:
    return {frozenset(i for i, other in enumerate(groups) if other == group) for group in groups}


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(3, 80))
def test_no_near_copy_is_on_the_other_side_of_a_split(seed: int, count: int) -> None:
    chance = random.Random(seed)
    examples = [row(i, t, chance.choice("ab")) for i, t in enumerate(sentences(chance, count), 1)]
    keys = question_keys(examples)
    near = find_near_copies([question_text(e) for e in examples], keys)

    parts = split(examples, seed, keys=keys, groups=near.groups)

    train, held = (shingles([question_text(e) for e in side]) for side in (parts.train, parts.holdout))
    assert all(similarity(one, other) < NEAR_SIMILARITY for one in train for other in held)
    asked = {question_key(e) for e in parts.holdout}
    assert [e for e in examples if question_key(e) not in asked] == list(parts.train)
    order = chance.sample(range(count), count)
    again = split(
        [examples[i] for i in order],
        seed,
        groups=find_near_copies([question_text(examples[i]) for i in order], [keys[i] for i in order]).groups,
    )
    assert {question_key(e) for e in again.holdout} == asked


@given(st.lists(st.text(max_size=40), max_size=12))
@settings(max_examples=100, deadline=None)
def test_any_text_is_cut_as_if_it_stood_alone(texts: list[str]) -> None:
    assert shingles(texts) == [shingles([text])[0] for text in texts]
    assert len(compute_sketches(texts)) == len(texts)


def test_three_thousand_rows_of_one_template_take_bounded_work_and_memory() -> None:
    chance = random.Random(3)
    texts = [
        f"dear shop where is my order today {' '.join(chance.choices(WORDS, k=3))} {i}" for i in range(3_000)
    ]
    sketched = compute_sketches(texts)
    keys = [question_key(row(1, text)) for text in texts]
    tracemalloc.start()

    near = find_near_copies(texts, keys, [sketched])

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert len(near.pairs) > 100
    found = Findings(20)
    report_near_pairs(near, range(3_000), None, found)
    assert ("near_not_all_compared" in {f.code for f in found.sorted()}) is not near.all_compared


@needs_banking77
def test_banking77_has_near_contradictions_beside_its_copies() -> None:
    train = read(SHARED / "banking77" / "train.csv", "train.csv").examples
    keys = question_keys(train)
    near = find_near_copies([question_text(e) for e in train], keys)
    found = Findings(1000)
    report_near_pairs(near, [e.line for e in train], [e.answer for e in train], found)

    codes = [f.code for f in found.sorted()]
    assert near.all_compared
    assert len(keys) - len(set(keys)) == 4
    assert all(keys[pair.earlier] != keys[pair.later] for pair in near.pairs)
    assert codes.count("near_contradiction") == 5
    assert codes.count("near_duplicate") == 261


@needs_banking77
def test_banking77s_official_test_is_nearly_asked_in_train_more_often_than_exactly() -> None:
    train = read(SHARED / "banking77" / "train.csv", "train.csv").examples
    test = read(SHARED / "banking77" / "test.csv", "test.csv").examples
    both = [*test, *train]
    near = find_near_copies([question_text(e) for e in both], question_keys(both))
    found = Findings(5000)

    report_near_pairs(near, [e.line for e in both], None, found, held=len(test))

    near_lines = {f.line for f in found.sorted() if f.code == "near_overlap"}
    held = {question_key(e) for e in test}
    exact = {e.line for e in train if question_key(e) in held}
    assert len(exact) == 7
    assert near_lines.isdisjoint(exact)
    assert len(near_lines) > 100
