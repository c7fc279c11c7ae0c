"""Near copies: all of them and no others are found, reported, and kept on one side of a split."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.dataset.builders import make_row, needs_banking77, read_banking77
from trainers.dataset import Finding, near_duplicates, split
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

WORDS = ("card", "refund", "order", "late", "parcel", "invoice", "account", "please", "where", "today", "app")


def find_near(texts: list[str]) -> NearCopies:
    return find_near_copies(texts, [question_key(make_row(1, text)) for text in texts])


def report(
    near: NearCopies, lines: Sequence[int], answers: Sequence[str] | None, held: int = 0
) -> list[Finding]:
    findings = Findings(5_000)
    report_near_pairs(near, lines, answers, findings, held=held)
    return list(findings.sorted())


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Can I top-up any amount?", "can i top up  any amount"),
        ("How long will my transfer be pending?", "How long will my transfer be pending for?"),
        ("There is a payment I don't recognise", "There is a payment I don't recognize!"),
        ("注文した商品がまだ届きませんが、どうですか", "注文した商品がまだ届きませんが、どうですか?"),
        ("ﬁnd my order, it is late", "FIND MY ORDER – it is late"),
        ("OK!", "ok"),
    ],
)
def test_texts_that_a_person_would_call_nearly_the_same_are_near_copies(text: str, other: str) -> None:
    assert similarity(*shingles([text, other])) >= NEAR_SIMILARITY


@pytest.mark.parametrize(
    ("text", "other"),
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
def test_short_texts_and_texts_with_another_meaning_are_not_near_copies(text: str, other: str) -> None:
    assert similarity(*shingles([text, other])) < NEAR_SIMILARITY


def test_similarity_compares_runs_of_four_characters() -> None:
    """Of ' car', 'card', 'ard ' and ' car', 'cart', 'art ' the texts share one in five."""
    assert similarity(*shingles(["Card.", "cart"])) == 1 / 5


def test_a_near_copy_is_reported_with_both_lines_and_another_answer_as_a_contradiction() -> None:
    texts = [
        "Has my top up gone through?",
        "Something else",
        "Has my top-up gone through",
        "has my top up gone through",
    ]

    findings = report(find_near(texts), range(1, 5), ["pending", "x", "reverted", "pending"])

    assert [(f.line, f.code, f.message) for f in findings] == [
        (3, "near_contradiction", "Line 3 says nearly the same as line 1 but has another answer."),
        (4, "near_duplicate", "Line 4 says nearly the same as line 1."),
    ]
    assert {f.severity for f in findings} == {"warns"}


def test_copies_are_not_reported_as_near_copies_but_are_in_their_group() -> None:
    near = find_near(
        ["Where is my parcel now?", "where is  MY parcel now?", "Where is my parcel now", "other"]
    )
    assert near.groups == (0, 0, 0, 3)
    assert [(pair.earlier, pair.later) for pair in near.pairs] == [(0, 2)]


def test_a_near_copy_of_a_held_out_question_is_reported_with_both_lines() -> None:
    near = find_near(["Where is my parcel now?", "Where is my parcel now", "When does the shop open?"])
    (finding,) = report(near, [7, 12, 13], None, held=1)
    assert (finding.line, finding.code) == (12, "near_overlap")
    assert finding.message == "Line 12 asks nearly what the holdout asks in line 7."


def make_sentences(chance: random.Random, count: int) -> list[str]:
    """Makes sentences of which half differ in one word from an earlier one."""
    texts: list[str] = []
    for _ in range(count):
        if texts and chance.random() < 0.5:
            words = chance.choice(texts).split()
            words[chance.randrange(len(words))] = chance.choice(WORDS)
            texts.append(" ".join(words))
        else:
            texts.append(" ".join(chance.choices(WORDS, k=chance.randrange(1, 16))))
    return texts


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 60))
def test_all_near_copies_and_no_others_are_grouped_in_any_order(seed: int, count: int) -> None:
    chance = random.Random(seed)
    texts = make_sentences(chance, count)
    sets = shingles(texts)

    near = find_near(texts)

    for pair in near.pairs:
        assert similarity(sets[pair.earlier], sets[pair.later]) == pair.similarity >= NEAR_SIMILARITY
        assert near.groups[pair.earlier] == near.groups[pair.later]
    for i in range(count):
        for j in range(i):
            if similarity(sets[i], sets[j]) >= NEAR_SIMILARITY:
                assert near.groups[i] == near.groups[j]
    order = chance.sample(range(count), count)
    again = find_near([texts[i] for i in order])
    assert as_sets([again.groups[order.index(i)] for i in range(count)]) == as_sets(near.groups)


def as_sets(groups: list[int] | tuple[int, ...]) -> set[frozenset[int]]:
    return {frozenset(i for i, other in enumerate(groups) if other == group) for group in groups}


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(3, 80))
def test_near_copies_are_on_the_same_side_of_a_split(seed: int, count: int) -> None:
    chance = random.Random(seed)
    examples = [make_row(i, t, chance.choice("ab")) for i, t in enumerate(make_sentences(chance, count), 1)]
    keys = question_keys(examples)
    near = find_near_copies([question_text(e) for e in examples], keys)

    parts = split(examples, seed, keys=keys, groups=near.groups)

    train, held = (shingles([question_text(e) for e in side]) for side in (parts.train, parts.holdout))
    assert all(similarity(row, other) < NEAR_SIMILARITY for row in train for other in held)
    held_keys = {question_key(e) for e in parts.holdout}
    assert [e for e in examples if question_key(e) not in held_keys] == list(parts.train)
    order = chance.sample(range(count), count)
    again = split(
        [examples[i] for i in order],
        seed,
        groups=find_near_copies([question_text(examples[i]) for i in order], [keys[i] for i in order]).groups,
    )
    assert {question_key(e) for e in again.holdout} == held_keys


@given(st.lists(st.text(max_size=40), max_size=12))
@settings(max_examples=50, deadline=None)
def test_shingles_of_a_text_do_not_depend_on_other_texts(texts: list[str]) -> None:
    assert shingles(texts) == [shingles([text])[0] for text in texts]
    assert len(compute_sketches(texts)) == len(texts)


def test_many_rows_of_one_template_take_bounded_work_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_COMPARED_AT_LEAST", 1_000)
    chance = random.Random(3)
    texts = [
        f"dear shop where is my order today {' '.join(chance.choices(WORDS, k=3))} {i}" for i in range(500)
    ]
    sketches, keys = compute_sketches(texts), [question_key(make_row(1, text)) for text in texts]
    tracemalloc.start()

    near = find_near_copies(texts, keys, [sketches])

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4_000_000
    assert len(near.pairs) > 50 and not near.all_compared
    assert "near_not_all_compared" in {f.code for f in report(near, range(500), None)}


@needs_banking77
def test_banking77_has_near_contradictions_beside_its_copies() -> None:
    train = read_banking77("train")
    keys = question_keys(train)
    near = find_near_copies([question_text(e) for e in train], keys)
    codes = [f.code for f in report(near, [e.line for e in train], [e.answer for e in train])]
    assert near.all_compared
    assert len(keys) - len(set(keys)) == 4
    assert all(keys[pair.earlier] != keys[pair.later] for pair in near.pairs)
    assert codes.count("near_contradiction") == 5
    assert codes.count("near_duplicate") == 261


@needs_banking77
def test_banking77s_official_test_has_more_near_copies_than_copies_in_train() -> None:
    train, test = read_banking77("train"), read_banking77("test")
    rows = [*test, *train]
    near = find_near_copies([question_text(e) for e in rows], question_keys(rows))

    findings = report(near, [e.line for e in rows], None, held=len(test))

    near_lines = {f.line for f in findings if f.code == "near_overlap"}
    held = {question_key(e) for e in test}
    exact = {e.line for e in train if question_key(e) in held}
    assert len(exact) == 7
    assert near_lines.isdisjoint(exact)
    assert len(near_lines) > 100
