"""A message whose answer got lost is looked for before it is sent again: with the right to read it stands
once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.outbox_sender import OutboxSender, message_metadata
from demo.people import ANA, TICKETS
from demo.slack_emulator import Fault, SlackEmulator, broken, cut_off, refused, too_many
from demo.slack_emulator.state import ALL_SCOPES
from storage.store import Store
from tests.bot.test_outbox_sender import OTHERS, Desk
from tests.bot.test_outbox_sender import desk as desk

HISTORY = {"channels:history", "groups:history", "im:history"}
POST, LOOK, SHARE = "chat.postMessage", "conversations.history", "files.completeUploadExternal"


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator(channels=(TICKETS, OTHERS), scopes=ALL_SCOPES | HISTORY) as slack:
        yield slack


@pytest.mark.parametrize(
    "fault",
    [cut_off().after_doing(), broken(503).after_doing(), refused("fatal_error").after_doing()],
    ids=["cut off", "503", "Slack's own error"],
)
def test_a_post_whose_answer_got_lost_stands_once(desk: Desk, fault: Fault) -> None:
    desk.slack.fail(POST, fault)
    desk.put(text="a", card="run 1")
    desk.later(0)
    desk.later(5)
    assert desk.texts() == ["a"]
    assert desk.store.outbox.waiting() == 0
    desk.show("run 1", "b")
    desk.later(5)
    assert desk.texts() == ["b"], "the card is known, so it is edited"


def test_a_card_that_is_found_gets_the_words_that_came_meanwhile(desk: Desk) -> None:
    desk.slack.fail(POST, cut_off().after_doing())
    desk.put(text="training", card="run 1")
    desk.later(0)
    desk.show("run 1", "done")
    for _ in range(3):
        desk.later(5)
    assert desk.texts() == ["done"]
    assert desk.store.outbox.waiting() == 0


def test_a_post_that_never_arrived_is_sent_after_the_look(desk: Desk) -> None:
    desk.slack.fail(POST, cut_off())
    desk.put(text="a")
    desk.later(0)
    desk.later(5)
    assert desk.texts() == ["a"]
    assert len(desk.slack.calls(LOOK)) == 1


def test_nobody_is_asked_where_nothing_was_lost(desk: Desk) -> None:
    desk.put(text="a")
    desk.put(text="a")
    desk.later(0)
    desk.later(5)
    assert desk.texts() == ["a", "a"], "two messages with the same words are two"
    assert not desk.slack.calls(LOOK)


def test_what_a_killed_process_had_sent_is_found_by_the_next(desk: Desk) -> None:
    desk.slack.fail(POST, cut_off().after_doing())
    desk.put(text="a")
    desk.later(0)
    desk.now += 60
    desk.notices = successor(desk)
    assert desk.notices.send_due() == 1
    assert desk.texts() == ["a"]


@pytest.mark.parametrize("is_killed", [True, False], ids=["of a killed process", "of a broken line"])
def test_a_post_that_slack_shows_only_after_the_look_stands_once(desk: Desk, is_killed: bool) -> None:
    desk.slack.fail(POST, cut_off())
    desk.put(text="a", card="run 1")
    (item,) = desk.store.outbox.due(desk.now)
    desk.later(0)
    if is_killed:
        desk.now += 1
        desk.notices = successor(desk)
    desk.later(2)
    assert (desk.texts(), desk.store.outbox.waiting()) == ([], 1)
    desk.notices.slack.chat_postMessage(channel=TICKETS.id, metadata=message_metadata(item), **item.body)
    desk.later(5)
    assert (desk.texts(), desk.store.outbox.waiting()) == (["a"], 0)
    assert len(desk.slack.calls(LOOK)) == 2


def successor(desk: Desk) -> OutboxSender:
    """Of a process that was killed."""
    return OutboxSender(desk.store, desk.notices.slack, clock=lambda: desk.now)


def test_a_reply_and_a_direct_message_are_found_too(desk: Desk) -> None:
    desk.put(text="card", card="run 1")
    desk.later(0)
    desk.slack.fail(POST, cut_off().after_doing())
    desk.put(text="reply", thread="run 1")
    desk.later(5)
    desk.slack.fail(POST, cut_off().after_doing())
    desk.put("direct", "for Ana", person=ANA.id)
    for _ in range(4):
        desk.later(10)
    assert desk.texts() == ["card", "reply"]
    assert desk.texts(desk.slack.dm(ANA.id)) == ["for Ana"]


@pytest.mark.parametrize("is_done", [True, False], ids=["and stands", "and is missing"])
def test_a_file_whose_answer_got_lost_stands_once(desk: Desk, tmp_path: Path, is_done: bool) -> None:
    desk.put(text="card", card="run 1")
    desk.later(0)
    desk.slack.fail(SHARE, cut_off().after_doing() if is_done else cut_off())
    put_plot(desk, tmp_path, b"a plot", thread="run 1")
    assert (shown(desk), desk.store.outbox.waiting()) == (["curve.png"], 0)
    assert len(desk.slack.calls("conversations.replies")) == 1


def test_another_file_of_that_name_is_not_taken_for_it(desk: Desk, tmp_path: Path) -> None:
    put_plot(desk, tmp_path / "a", b"a plot")
    desk.slack.fail(SHARE, cut_off())
    put_plot(desk, tmp_path / "b", b"another plot")
    assert shown(desk) == ["curve.png", "curve.png"]


def put_plot(desk: Desk, folder: Path, content: bytes, **where: str) -> None:
    """Written and sent, with time for a second try."""
    folder.mkdir(exist_ok=True)
    plot = folder / "curve.png"
    plot.write_bytes(content)
    desk.put("file", body={"file": str(plot), "filename": plot.name, "title": "Loss"}, **where)
    for _ in range(3):
        desk.later(6)


def shown(desk: Desk) -> list[str]:
    return [file.name for message in desk.slack.messages(TICKETS.id) for file in message.files]


def test_where_slack_lets_nobody_look_for_now_the_message_waits(desk: Desk) -> None:
    desk.slack.fail(POST, cut_off().after_doing())
    desk.slack.fail(LOOK, too_many(20))
    desk.put(text="a")
    desk.later(0)
    desk.later(5)
    assert desk.store.outbox.waiting() == 1
    desk.later(21)
    assert (desk.texts(), desk.store.outbox.waiting()) == (["a"], 0)


def test_without_the_right_to_read_it_is_sent_again_and_the_log_says_why_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with SlackEmulator(channels=(TICKETS, OTHERS)) as slack:
        store = Store(tmp_path / "finetune.db")
        desk = Desk(store, slack)
        for text in ("a", "b"):
            slack.fail(POST, cut_off().after_doing())
            desk.put(text=text)
            desk.later(5)
            desk.later(5)
        assert desk.texts() == ["a", "a", "b", "b"]
        assert len(slack.calls(LOOK)) == 1
        store.close()
    assert caplog.text.count("no right to read messages") == 1


def test_a_look_that_slack_refuses_for_a_reason_of_its_own_keeps_no_message_back(desk: Desk) -> None:
    desk.slack.fail(POST, cut_off())
    desk.put(text="a")
    desk.later(0)
    desk.slack.fail(LOOK, refused("team_access_not_granted"))
    desk.later(5)
    assert (desk.texts(), desk.store.outbox.waiting()) == (["a"], 0)


def test_a_channel_that_is_closed_to_us_is_left_for_the_fallback(desk: Desk) -> None:
    desk.slack.fail(POST, cut_off())
    desk.put(text="a")
    desk.later(0)
    desk.slack.fail(LOOK, refused("not_in_channel"))
    desk.slack.fail(POST, refused("not_in_channel"))
    desk.later(5)
    desk.later(5)
    assert desk.texts(OTHERS.id) == ["a"]
