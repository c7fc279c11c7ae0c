"""Samples of calls are read as they were stored, within their limits, and leave nothing once they are deleted."""

from __future__ import annotations

import json
import random
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from trainers.dataset.rows import Example
from trainers.recipes import samples
from trainers.recipes.samples import CountKey, SampleCounts, SampledCall
from trainers.recipes.values import Published, Sampling
from trainers.types import Message

DAY = 24 * 3600.0
NOON = 1_796_040_000.0  # 2026-11-30 12:00
KEY = CountKey("team/tickets", "2026-11-30")
CALL = SampledCall(
    id="call-1",
    name="team/tickets",
    promotion=3,
    recipe="a" * 64,
    at=NOON,
    messages='[{"role": "user", "content": "Where is my parcel?"}]',
    answer="delivery",
    prompt_tokens=30,
    completion_tokens=None,
    is_masked=False,
    fallback_from=None,
    conversation="c1",
)


def asking(*turns: str, system: str = "") -> str:
    messages = [{"role": "user", "content": turn} for turn in turns]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    return json.dumps(messages)


def row(*turns: str) -> Example:
    return Example(1, (*(Message("user", turn) for turn in turns), Message("assistant", "x")))


def bytes_under(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_what_was_published_before_there_were_samples_can_be_read() -> None:
    assert Published.from_json('{"name": "team/tickets", "recipe": "a"}').sampling is None
    sampled = Published("team/tickets", "a", 1, sampling=Sampling(0.05, "mask"))
    assert Published.from_json(sampled.to_json()) == sampled


def test_calls_are_read_as_they_were_stored(tmp_path: Path) -> None:
    assert samples.read(tmp_path, CALL.name) == ()
    assert samples.get(tmp_path, CALL.id) is None
    assert (samples.count(tmp_path, CALL.name), samples.counts(tmp_path)) == (0, {})
    later = replace(CALL, id="call-2", at=NOON + 60, is_masked=True, fallback_from="too_slow")
    other = replace(CALL, id="call-3", name="team/other")
    samples.add(tmp_path, [later, CALL, other])
    assert samples.read(tmp_path, CALL.name) == (CALL, later)
    assert samples.read(tmp_path, CALL.name, limit=1) == (CALL,)
    assert samples.read(tmp_path, CALL.name, since=NOON + 1) == (later,)
    assert samples.read(tmp_path, CALL.name, until=NOON + 1) == (CALL,)
    assert samples.ids(tmp_path, CALL.name) == ("call-1", "call-2")
    assert samples.get(tmp_path, "call-2") == later
    assert samples.count(tmp_path, CALL.name, since=NOON + 1) == 1
    assert CALL.example.answer == "delivery"
    assert [message.content for message in CALL.example.prompt] == ["Where is my parcel?"]
    assert stat.S_IMODE((tmp_path / samples.FILE).stat().st_mode) == 0o600


def test_counts_of_all_writers_add_up(tmp_path: Path) -> None:
    def add(number: int) -> None:
        samples.add(tmp_path, [replace(CALL, id=f"call-{number}")], {KEY: SampleCounts(secret=1, personal=2)})

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(add, number) for number in range(12)]:
            future.result()
    counted = samples.counts(tmp_path)[KEY]
    assert counted == SampleCounts(stored=12, secret=12, personal=24)
    assert (counted.drawn, counted.left_out) == (48, 36)
    assert samples.counts(tmp_path, since="2026-12-01") == {}


def test_calls_beyond_the_room_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MOST_A_DAY", 2)
    calls = [replace(CALL, id=f"call-{number}") for number in range(5)]
    tomorrow = replace(CALL, id="tomorrow", at=NOON + DAY)
    samples.add(tmp_path, [*calls, tomorrow, replace(CALL, id="other", name="team/other")])
    assert samples.counts(tmp_path)[KEY] == SampleCounts(stored=2, no_room=3)
    assert samples.ids(tmp_path, CALL.name) == ("call-0", "call-1", "tomorrow")
    assert samples.count(tmp_path, "team/other") == 1
    monkeypatch.setattr(samples, "MOST_BYTES", 4096)
    samples.add(tmp_path, [replace(CALL, id="late", at=NOON + 2 * DAY)])
    assert samples.counts(tmp_path)[replace(KEY, day="2026-12-02")] == SampleCounts(no_room=1)


def many_calls(marks: Sequence[str]) -> list[SampledCall]:
    """Calls whose texts are long and short, so that SQLite moves them between pages."""
    chance = random.Random(7)
    return [
        replace(
            CALL,
            id=f"call-{number}",
            name=f"team/{number % 2}",
            at=NOON + number,
            messages=asking(f"{mark} " * chance.choice((1, 5, 40, 700))),
            answer=f"answer {mark}",
        )
        for number, mark in enumerate(marks)
    ]


@pytest.mark.parametrize("way", ["name", "day", "rows"])
def test_what_is_deleted_leaves_no_byte(tmp_path: Path, way: str) -> None:
    marks = [f"mark{number:04}x" for number in range(600)]
    calls = many_calls(marks)
    for start in range(0, len(calls), 50):
        samples.add(tmp_path, calls[start : start + 50])
    match way:
        case "name":
            gone = [call for call in calls if call.name == "team/1"]
            assert samples.forget_name(tmp_path, "team/1", now=NOON + DAY) == len(gone)
            assert samples.counts(tmp_path).keys() == {replace(KEY, name="team/0")}
        case "day":
            gone = [call for call in calls if call.at < NOON + 200]
            assert samples.forget_before(tmp_path, NOON + 200) == len(gone)
        case _:
            gone = calls[::3]
            assert samples.forget_rows(tmp_path, [call.example for call in gone]) == len(gone)
    stored = bytes_under(tmp_path)
    left = {call.id for call in calls} - {call.id for call in gone}
    for mark, call in zip(marks, calls, strict=True):
        assert (mark.encode() in stored) == (call.id in left), call.id
    assert {*samples.ids(tmp_path, "team/0"), *samples.ids(tmp_path, "team/1")} == left


def test_copies_that_sqlite_has_left_of_moved_rows_go_too(tmp_path: Path) -> None:
    """Without a VACUUM these rows, deleted in this order, leave one behind."""
    chance = random.Random(4)
    marks = [f"mark{number:04}x" for number in range(900)]
    calls = [
        replace(
            CALL,
            id=f"call-{number}",
            name=f"team/{chance.choice('abcdef')}",
            at=NOON + number,
            messages=asking(f"{mark} " * chance.choice((20,))),
            answer=mark,
        )
        for number, mark in enumerate(marks)
    ]
    for start in range(0, len(calls), 30):
        samples.add(tmp_path, calls[start : start + 30])
    for letter in "abcde":
        samples.forget_name(tmp_path, f"team/{letter}", now=NOON + DAY)
    stored = bytes_under(tmp_path)
    left = [call.name for mark, call in zip(marks, calls, strict=True) if mark.encode() in stored]
    assert set(left) == {"team/f"}


def test_a_forgotten_name_gets_none_of_its_earlier_calls_back(tmp_path: Path) -> None:
    """The door may still have some in memory, and the file may not be there yet."""
    samples.forget_name(tmp_path, CALL.name, now=NOON + 1)
    samples.add(tmp_path, [CALL, replace(CALL, id="new", at=NOON + 2)])
    assert samples.ids(tmp_path, CALL.name) == ("new",)
    assert samples.counts(tmp_path)[KEY].drawn == 1
    assert b"call-1" not in bytes_under(tmp_path)


@pytest.mark.parametrize(
    ("messages", "is_deleted"),
    [
        (asking("where is  my parcel?"), True),
        (asking("Where is my parcel?", system="Be brief."), True),
        (asking("Where is my parcel?", "And when?"), True),
        (asking("Hello", "Where is my parcel?"), False),
        (asking("Where is my parcel now?"), False),
        (asking("My card is [payment card]"), True),
    ],
)
def test_rows_are_found_by_their_question_also_if_the_call_was_masked(
    tmp_path: Path, messages: str, is_deleted: bool
) -> None:
    samples.add(tmp_path, [replace(CALL, messages=messages)])
    card = "4111 1111 " + "1111 1111"
    rows = [row("Where is my parcel?"), row(f"My card is {card}")]
    assert samples.forget_rows(tmp_path, rows) == is_deleted
    assert samples.count(tmp_path, CALL.name) == (not is_deleted)


def test_a_deletion_that_a_kill_ended_is_completed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(database: object) -> None:
        raise KeyboardInterrupt

    samples.add(tmp_path, many_calls([f"mark{number:04}x" for number in range(300)]))
    with monkeypatch.context() as patched:
        patched.setattr(samples, "_clean", killed)
        with pytest.raises(KeyboardInterrupt):
            samples.forget_before(tmp_path, NOON + 100)
    assert samples.forget_before(tmp_path, NOON) == 0
    stored = bytes_under(tmp_path)
    left = [number for number in range(300) if f"mark{number:04}x".encode() in stored]
    assert left == list(range(100, 300))
