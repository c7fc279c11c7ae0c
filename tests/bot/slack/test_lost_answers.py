"""If Slack's answer to a message is lost, the bot looks for the message before it sends it again, if it may read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot.posted_messages import message_metadata
from demo.people import ANA, TICKETS
from demo.slack_emulator import Fault, SlackEmulator, broken, cut_off, refused, too_many
from demo.slack_emulator.state import ALL_SCOPES
from storage.store import Store
from tests.bot.slack.outbox_harness import OTHERS, OutboxHarness, outbox, store

__all__ = ["outbox", "store"]

HISTORY = {"channels:history", "groups:history", "im:history"}
POST = "chat.postMessage"
LOOK = "conversations.history"
SHARE = "files.completeUploadExternal"


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator(
        channels=(replace(TICKETS, private=False), OTHERS), scopes=ALL_SCOPES | HISTORY
    ) as slack:
        yield slack


@pytest.mark.parametrize(
    "fault",
    [cut_off().after_doing(), broken(503).after_doing(), refused("fatal_error").after_doing()],
    ids=["cut off", "503", "Slack's own error"],
)
def test_a_post_whose_answer_is_lost_is_posted_once(outbox: OutboxHarness, fault: Fault) -> None:
    outbox.slack.fail(POST, fault)
    outbox.put(text="a", card="run 1")
    outbox.send_after(0)
    outbox.send_after(5)
    assert outbox.texts() == ["a"]
    assert outbox.waiting() == 0
    outbox.show("run 1", "b")
    outbox.send_after(5)
    assert outbox.texts() == ["b"], "the card is known, so it is edited"


def test_a_card_that_is_found_gets_the_text_that_came_meanwhile(outbox: OutboxHarness) -> None:
    outbox.slack.fail(POST, cut_off().after_doing())
    outbox.put(text="training", card="run 1")
    outbox.send_after(0)
    outbox.show("run 1", "done")
    outbox.send_times(3, 5)
    assert outbox.texts() == ["done"]
    assert outbox.waiting() == 0


def test_a_post_that_never_arrived_is_sent_after_the_search(outbox: OutboxHarness) -> None:
    outbox.slack.fail(POST, cut_off())
    outbox.put(text="a")
    outbox.send_after(0)
    outbox.send_after(5)
    assert outbox.texts() == ["a"]
    assert len(outbox.slack.calls(LOOK)) == 1


def test_slack_is_not_searched_if_no_answer_was_lost(outbox: OutboxHarness) -> None:
    outbox.put(text="a")
    outbox.put(text="a")
    outbox.send_after(0)
    outbox.send_after(5)
    assert outbox.texts() == ["a", "a"], "two messages with the same words are two"
    assert not outbox.slack.calls(LOOK)


def test_a_post_of_a_killed_process_is_found_by_the_next(outbox: OutboxHarness) -> None:
    outbox.slack.fail(POST, cut_off().after_doing())
    outbox.put(text="a")
    outbox.send_after(0)
    outbox.now += 60
    outbox.restart()
    assert outbox.sender.send_due() == 1
    assert outbox.texts() == ["a"]


@pytest.mark.parametrize("is_killed", [True, False], ids=["of a killed process", "of a broken line"])
def test_a_post_that_slack_shows_only_after_the_search_is_posted_once(
    outbox: OutboxHarness, is_killed: bool
) -> None:
    outbox.slack.fail(POST, cut_off())
    outbox.put(text="a", card="run 1")
    (item,) = outbox.store.outbox.due(outbox.now)
    outbox.send_after(0)
    if is_killed:
        outbox.now += 1
        outbox.restart()
    outbox.send_after(2)
    assert (outbox.texts(), outbox.waiting()) == ([], 1)
    outbox.sender.slack.chat_postMessage(channel=TICKETS.id, metadata=message_metadata(item), **item.body)
    outbox.send_after(5)
    assert (outbox.texts(), outbox.waiting()) == (["a"], 0)
    assert len(outbox.slack.calls(LOOK)) == 2


def test_a_reply_and_a_direct_message_are_found_too(outbox: OutboxHarness) -> None:
    outbox.put(text="card", card="run 1")
    outbox.send_after(0)
    outbox.slack.fail(POST, cut_off().after_doing())
    outbox.put(text="reply", thread="run 1")
    outbox.send_after(5)
    outbox.slack.fail(POST, cut_off().after_doing())
    outbox.put("direct", "for Ana", person=ANA.id)
    outbox.send_times(4, 10)
    assert outbox.texts() == ["card", "reply"]
    assert outbox.direct_texts() == ["for Ana"]


@pytest.mark.parametrize("is_done", [True, False], ids=["and stands", "and is missing"])
def test_a_file_whose_answer_is_lost_is_posted_once(
    outbox: OutboxHarness, tmp_path: Path, is_done: bool
) -> None:
    outbox.put(text="card", card="run 1")
    outbox.send_after(0)
    outbox.slack.fail(SHARE, cut_off().after_doing() if is_done else cut_off())
    put_plot(outbox, tmp_path, b"a plot", thread="run 1")
    assert (posted_files(outbox), outbox.waiting()) == (["curve.png"], 0)
    assert len(outbox.slack.calls("conversations.replies")) == 1


def test_another_file_of_the_same_name_is_not_mistaken_for_it(outbox: OutboxHarness, tmp_path: Path) -> None:
    put_plot(outbox, tmp_path / "a", b"a plot")
    outbox.slack.fail(SHARE, cut_off())
    put_plot(outbox, tmp_path / "b", b"another plot")
    assert posted_files(outbox) == ["curve.png", "curve.png"]


def put_plot(outbox: OutboxHarness, folder: Path, content: bytes, **where: str) -> None:
    """Writes and sends a plot, with time for a second try."""
    folder.mkdir(exist_ok=True)
    plot = folder / "curve.png"
    plot.write_bytes(content)
    outbox.put("file", body={"file": str(plot), "filename": plot.name, "title": "Loss"}, **where)
    outbox.send_times(3, 6)


def posted_files(outbox: OutboxHarness) -> list[str]:
    return [file.name for message in outbox.slack.messages(TICKETS.id) for file in message.files]


def test_a_message_waits_while_the_search_is_rate_limited(outbox: OutboxHarness) -> None:
    outbox.slack.fail(POST, cut_off().after_doing())
    outbox.slack.fail(LOOK, too_many(20))
    outbox.put(text="a")
    outbox.send_after(0)
    outbox.send_after(5)
    assert outbox.waiting() == 1
    outbox.send_after(21)
    assert (outbox.texts(), outbox.waiting()) == (["a"], 0)


def test_without_the_right_to_read_a_post_is_repeated_and_the_log_says_why_once(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    with SlackEmulator(channels=(TICKETS, OTHERS)) as slack:
        outbox = OutboxHarness(store, slack)
        for text in ("a", "b"):
            slack.fail(POST, cut_off().after_doing())
            outbox.put(text=text)
            outbox.send_after(5)
            outbox.send_after(5)
        assert outbox.texts() == ["a", "a", "b", "b"]
        assert len(slack.calls(LOOK)) == 1
    assert caplog.text.count("no right to read messages") == 1


def test_a_search_that_slack_refuses_holds_no_message_back(outbox: OutboxHarness) -> None:
    outbox.slack.fail(POST, cut_off())
    outbox.put(text="a")
    outbox.send_after(0)
    outbox.slack.fail(LOOK, refused("team_access_not_granted"))
    outbox.send_after(5)
    assert (outbox.texts(), outbox.waiting()) == (["a"], 0)


def test_a_message_for_a_closed_channel_goes_to_the_fallback(outbox: OutboxHarness) -> None:
    outbox.slack.fail(POST, cut_off())
    outbox.put(text="a")
    outbox.send_after(0)
    outbox.slack.fail(LOOK, refused("not_in_channel"))
    outbox.slack.fail(POST, refused("not_in_channel"))
    outbox.send_after(5)
    outbox.send_after(5)
    assert outbox.texts(OTHERS.id) == ["a"]
