"""Shift of calls: levels, both tests on calls that differ and that don't, words, and new calls."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from trainers.monitoring.changed_words import changed_words, count_words
from trainers.monitoring.shift import (
    FEWEST_CALLS,
    FEWEST_DRAWS,
    MOST_CALLS,
    Shift,
    TooFewCalls,
    alarm_level,
    choose_new,
    label_shift,
    vector_shift,
)

LEVEL = 0.05 / 520
Vectors = NDArray[np.float32]


def draw(count: int, seed: int, moved: int = 0) -> Vectors:
    """Returns vectors of which the first `moved` lie elsewhere."""
    vectors = np.random.default_rng(seed).standard_normal((count, 24), dtype=np.float32)
    vectors[:moved, 0] += 4
    return vectors


def compared(result: Shift | TooFewCalls) -> Shift:
    assert isinstance(result, Shift)
    return result


def test_the_level_divides_a_years_error_by_all_tests() -> None:
    assert alarm_level(1) == pytest.approx(0.05 / 52)
    assert alarm_level(10) == pytest.approx(LEVEL)
    assert alarm_level(10, tests=2) == pytest.approx(LEVEL / 2)
    for datasets, tests in ((0, 1), (1, 0), (101, 1), (51, 2)):
        with pytest.raises(ValueError, match="tests a week are possible"):
            alarm_level(datasets, tests)


@pytest.mark.parametrize("datasets", [1, 10, 100])
def test_draws_are_enough_for_an_alarm_at_any_level(datasets: int) -> None:
    level = alarm_level(datasets)
    shift = compared(label_shift({"a": 300}, {"b": 300}, level))
    assert shift.is_alarm and shift.draws >= FEWEST_DRAWS
    assert shift.p == 1 / (shift.draws + 1) <= level / 2


def test_vectors_that_differ_alarm_and_others_do_not() -> None:
    reference = draw(400, 1)
    same = compared(vector_shift(reference, draw(200, 2), LEVEL))
    assert not same.is_alarm and 0.6 < same.distance < 1.4
    moved = compared(vector_shift(reference, draw(200, 3, moved=60), LEVEL))
    assert moved.is_alarm and moved.distance > 2


def test_p_is_the_share_of_draws_that_differ_as_much() -> None:
    """Drawing ends early, with ten such draws."""
    shift = compared(vector_shift(draw(200, 1), draw(200, 2), LEVEL))
    assert shift.draws < 2_000 and shift.p == 10 / shift.draws


def test_the_same_calls_and_seed_give_the_same_result_and_a_shift_of_all_changes_nothing() -> None:
    reference = draw(250, 1)
    recent = draw(250, 2, moved=10)
    first = compared(vector_shift(reference, recent, LEVEL))
    assert vector_shift(reference, recent, LEVEL) == first
    assert vector_shift(reference, recent, LEVEL, seed=1) != first
    moved = compared(vector_shift(reference + 1, recent + 1, LEVEL))
    assert moved.p == first.p
    scaled = compared(vector_shift(reference * 2, recent * 2, LEVEL))
    assert scaled.p == first.p and scaled.distance == pytest.approx(first.distance, rel=1e-4)


def test_equal_vectors_are_no_shift() -> None:
    shift = compared(vector_shift(np.ones((200, 3), np.float32), np.ones((200, 3), np.float32), LEVEL))
    assert shift.p == 1 and shift.distance == 1


def test_many_calls_are_thinned() -> None:
    shift = compared(vector_shift(draw(MOST_CALLS + 500, 1), draw(300, 2), LEVEL))
    assert (shift.reference, shift.recent) == (MOST_CALLS, 300)


def test_too_few_calls_are_not_compared() -> None:
    few = vector_shift(draw(FEWEST_CALLS - 1, 1), draw(300, 2), LEVEL)
    assert few == TooFewCalls(reference=199, recent=300)
    empty = np.zeros((0, 24), np.float32)
    assert vector_shift(draw(300, 1), empty, LEVEL) == TooFewCalls(reference=300, recent=0)
    assert label_shift({}, {}, LEVEL) == TooFewCalls(reference=0, recent=0)


def test_vectors_that_can_not_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="same width"):
        vector_shift(draw(200, 1), draw(200, 1)[:, :3], LEVEL)
    with pytest.raises(ValueError, match="same width"):
        choose_new(draw(200, 1)[0], draw(200, 1))
    infinite = draw(200, 1)
    infinite[3, 3] = np.inf
    with pytest.raises(ValueError, match="not finite"):
        vector_shift(infinite, draw(200, 1), LEVEL)


def test_label_shares_that_differ_alarm_and_others_do_not() -> None:
    before = {"billing": 200, "login": 150, "refund": 50}
    assert not compared(label_shift(before, {"billing": 100, "login": 75, "refund": 25}, LEVEL)).is_alarm
    more = compared(label_shift(before, {"billing": 60, "login": 75, "refund": 65}, LEVEL))
    assert more.is_alarm and (more.reference, more.recent) == (400, 200)


def test_spellings_of_a_label_are_one_label() -> None:
    shift = compared(label_shift({"Login": 150, "login.": 100}, {" LOGIN": 300}, LEVEL))
    assert shift.p == 1 and not shift.is_alarm
    with pytest.raises(ValueError, match="-1 calls"):
        label_shift({"a": -1}, {}, LEVEL)


def test_words_that_more_texts_have_are_named_and_two_in_a_row_before_each_of_them() -> None:
    before = ["My card was charged twice", "I can't log in", "Where is my order?"] * 40
    now = [*before[:60], *[f"The invoice app crashed on day {day}" for day in range(30)]]
    words = changed_words(count_words(before), now)
    assert words[0].words in {"invoice app", "the invoice", "app crashed"}
    assert words[0].share == pytest.approx(30 / 90)
    assert words[0].share_before == 2 / 120, "a word that fewer than three texts have may have been in two"
    assert len(words) <= 5 and not any("day 1" in word.words for word in words)


def test_a_word_of_fewer_than_three_sources_is_not_named() -> None:
    before = ["a usual question"] * 300
    now = ["zebra crossing"] * 30 + ["a usual question"] * 100
    sources = ["one person"] * 15 + ["another"] * 15 + [f"person {place}" for place in range(100)]
    assert changed_words(count_words(before), now, sources) == ()
    sources[0] = "a third"
    assert [word.words for word in changed_words(count_words(before), now, sources)] == ["zebra crossing"]
    assert changed_words(count_words(before), now) == ()  # one text, however often it was sent
    with pytest.raises(ValueError, match="130 texts have 2 sources"):
        changed_words(count_words(before), now, ["one", "two"])


def test_addresses_links_and_numbers_are_no_words() -> None:
    before = ["hello"] * 300
    now = [f"ann@example.com https://x.example/{place} order4711 42 c_d" for place in range(50)]
    assert changed_words(count_words(before), now) == ()


def test_growth_by_chance_is_not_named() -> None:
    before = [f"question about {'refunds' if place % 10 == 0 else 'cards'}" for place in range(400)]
    now = [f"question about {'refunds' if place % 8 == 0 else 'cards'} {place}" for place in range(200)]
    assert changed_words(count_words(before), now) == ()
    assert changed_words(count_words([]), now) == () and changed_words(count_words(before), []) == ()


def test_new_calls_are_those_that_no_earlier_one_is_near_to() -> None:
    generator = np.random.default_rng(1)
    usual = generator.standard_normal((400, 24), dtype=np.float32) * 0.2
    usual[:, 0] += 1
    recent = generator.standard_normal((100, 24), dtype=np.float32) * 0.2
    recent[:, 0] += 1
    recent[40:60] *= 0.2
    recent[40:60, 1] += 1  # another direction
    new = choose_new(usual, recent)
    assert len(new) == len(set(new)) == 20
    assert sum(40 <= place < 60 for place in new) >= 15 and 40 <= new[0] < 60
    assert choose_new(usual, recent, count=3) == new[:3]
    assert choose_new(usual, usual[:50]) == []
    assert choose_new(usual, usual[:0]) == []
    with pytest.raises(ValueError, match="no earlier ones"):
        choose_new(usual[:0], usual)


@given(st.lists(st.text(max_size=60), max_size=12), st.lists(st.text(max_size=60), max_size=12))
def test_any_texts_are_compared(before: list[str], now: list[str]) -> None:
    for word in changed_words(count_words(before), now):
        assert 0 <= word.share_before < word.share <= 1
        assert not any(letter.isdigit() or letter == "@" for letter in word.words)
