"""What the door stores of a live test: the candidate's answers, which go with their calls, and the errors of a
canary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tests.trainers.recipes.test_samples import CALL
from trainers.recipes import canary_events, samples, shadow_answers
from trainers.recipes.canary_events import CanaryEvent
from trainers.recipes.samples import SampledCall
from trainers.recipes.shadow_answers import ShadowAnswer

SECRET = "the candidate's words"


def call(number: int) -> SampledCall:
    return replace(CALL, id=f"call-{number}")


def answer(number: int, at: float = 5.0) -> ShadowAnswer:
    return ShadowAnswer(1, call(number).id, SECRET, 10, 2, at)


def test_an_answer_is_stored_once_and_only_beside_its_call(tmp_path: Path) -> None:
    assert shadow_answers.read(tmp_path, 1) == ()
    assert not shadow_answers.add(tmp_path, answer(1))
    samples.add(tmp_path, [call(1), call(2)])
    assert shadow_answers.add(tmp_path, answer(1, at=7.0))
    assert not shadow_answers.add(tmp_path, answer(1))
    assert shadow_answers.add(tmp_path, answer(2, at=6.0))
    assert [each.at for each in shadow_answers.read(tmp_path, 1)] == [6.0, 7.0]
    assert shadow_answers.read(tmp_path, 1, since=6.5) == (answer(1, at=7.0),)
    assert shadow_answers.get(tmp_path, 1, call(2).id) == answer(2, at=6.0)
    assert shadow_answers.get(tmp_path, 2, call(2).id) is None
    assert shadow_answers.read(tmp_path, 2) == ()


def test_an_answer_is_deleted_with_its_call_to_the_last_byte(tmp_path: Path) -> None:
    samples.add(tmp_path, [call(1)])
    shadow_answers.add(tmp_path, answer(1))
    assert SECRET.encode() in (tmp_path / samples.FILE).read_bytes()
    samples.forget_name(tmp_path, call(1).name, now=1e12)
    assert shadow_answers.read(tmp_path, 1) == ()
    for path in tmp_path.iterdir():
        assert SECRET.encode() not in path.read_bytes()


def test_a_conversation_counts_once_in_a_live_test(tmp_path: Path) -> None:
    assert canary_events.read(tmp_path, 1) == ()
    first = CanaryEvent(1, "aa", True, "error", 2.0)
    second = CanaryEvent(1, "bb", False, "slow", 1.0)
    canary_events.add(tmp_path, [first, second, CanaryEvent(1, "aa", True, "down", 3.0)])
    canary_events.add(tmp_path, [CanaryEvent(2, "aa", True, "down", 3.0)])
    assert canary_events.read(tmp_path, 1) == (second, first)


def test_stops_are_remembered_until_the_live_test_is_over(tmp_path: Path) -> None:
    assert canary_events.stopped(tmp_path) == {}
    canary_events.forget(tmp_path, [])
    canary_events.stop(tmp_path, 1, 5.0)
    canary_events.stop(tmp_path, 1, 6.0)
    canary_events.add(tmp_path, [CanaryEvent(1, "aa", True, "error", 2.0)])
    canary_events.stop(tmp_path, 2, 7.0)
    assert canary_events.stopped(tmp_path) == {1: 5.0, 2: 7.0}
    canary_events.forget(tmp_path, [2])
    assert canary_events.stopped(tmp_path) == {2: 7.0}
    assert canary_events.read(tmp_path, 1) == ()
