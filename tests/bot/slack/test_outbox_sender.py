"""The outbox's sender against the Slack emulator: pace, order, retries, fallbacks and what is given up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bot.cards.common.blocks import Elsewhere, Headline, Message, Text
from bot.outbox_sender import MAX_TRIES
from demo.people import ANA, BEN, BOT, TICKETS
from demo.slack_emulator import Fault, SlackEmulator, broken, cut_off, refused, slow, too_many
from demo.slack_emulator.state import ALL_SCOPES
from demo.workspace import Channel, PostedMessage
from storage.store import Store
from tests.bot.slack.outbox_harness import OTHERS, OutboxHarness, outbox, store
from tests.patience import wait_until

__all__ = ["outbox", "store"]
MEMBERS = Channel("C0HR", "hr", (ANA.id, BOT.id), private=True)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(500)


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator(channels=(replace(TICKETS, private=False), OTHERS, MEMBERS)) as slack:
        yield slack


def only(messages: tuple[PostedMessage, ...]) -> PostedMessage:
    assert len(messages) == 1, messages
    return messages[0]


def test_a_message_is_posted_once(outbox: OutboxHarness) -> None:
    outbox.put(text="hello", dedupe="hello")
    assert outbox.send_after(0) == 1
    outbox.put(text="hello", dedupe="hello")
    assert [outbox.send_after(60) for _ in range(3)] == [0, 0, 0]
    assert outbox.texts() == ["hello"]
    assert outbox.waiting() == 0


def test_one_card_is_edited_in_place(outbox: OutboxHarness) -> None:
    outbox.put(text="queued", card="run 1", dedupe="run 1")
    outbox.send_after(0)
    for text in ("10%", "20%", "done"):
        outbox.show("run 1", text)
        outbox.send_after(5)
    card = only(outbox.slack.messages(TICKETS.id))
    assert (card.text, card.edits) == ("done", 3)


def test_fast_edits_are_sent_as_one(outbox: OutboxHarness) -> None:
    outbox.put(text="queued", card="run 1")
    outbox.send_after(0)
    for percent in range(100):
        outbox.show("run 1", f"{percent}%")
        outbox.send_after(0.01)
    outbox.send_after(5)
    card = only(outbox.slack.messages(TICKETS.id))
    assert (card.text, card.edits) == ("99%", 3)


def test_posts_to_one_channel_keep_their_pace_and_order(outbox: OutboxHarness) -> None:
    for text in "abc":
        outbox.put(text=text)
    outbox.put(text="elsewhere", channel=OTHERS.id)
    assert [outbox.send_after(seconds) for seconds in (0, 0.5, 0.6, 1.1)] == [2, 0, 1, 1]
    assert outbox.texts() == ["a", "b", "c"]
    assert outbox.texts(OTHERS.id) == ["elsewhere"]


def test_a_rate_limit_postpones_posts_for_as_long_as_slack_asks(outbox: OutboxHarness) -> None:
    outbox.slack.fail("chat.postMessage", too_many(30))
    outbox.put(text="a")
    outbox.put(text="b")
    outbox.send_after(0)
    assert [outbox.send_after(seconds) for seconds in (10, 19.9)] == [0, 0]
    assert len(outbox.slack.calls("chat.postMessage")) == 1, "no call within Retry-After"
    outbox.send_after(0.2)
    outbox.send_after(2)
    assert outbox.texts() == ["a", "b"]


def test_a_channel_that_is_limited_for_long_loses_nothing(outbox: OutboxHarness) -> None:
    outbox.slack.fail("chat.postMessage", too_many(30), times=40, channel=TICKETS.id)
    outbox.put(text="a")
    for _ in range(45):
        outbox.put(text="elsewhere", channel=OTHERS.id)
        outbox.send_after(31)
    outbox.send_times(60, 31)
    assert outbox.texts() == ["a"]
    assert outbox.texts(OTHERS.id) == ["elsewhere"] * 45


@pytest.mark.parametrize(
    "fault",
    [broken(500), broken(503), cut_off(), refused("internal_error"), refused("service_unavailable")],
    ids=["500", "503", "cut", "internal_error", "unavailable"],
)
def test_a_temporary_fault_is_retried_with_growing_pauses(outbox: OutboxHarness, fault: Fault) -> None:
    outbox.slack.fail("chat.postMessage", fault, times=3)
    outbox.put(text="a")
    assert [outbox.send_after(seconds) for seconds in (0, 1.1, 2.1, 4.1)] == [0, 0, 0, 1]
    assert outbox.texts() == ["a"]
    assert len(outbox.slack.calls("chat.postMessage")) == 4


def test_a_call_that_hangs_is_retried_after_the_timeout(outbox: OutboxHarness) -> None:
    outbox.sender.slack.timeout = 0.1  # type: ignore[assignment]
    outbox.slack.fail("chat.update", slow(0.3))
    outbox.put(text="queued", card="run 1")
    outbox.send_after(0)
    outbox.show("run 1", "10%")
    assert outbox.send_after(5) == 0
    wait_until(lambda: outbox.slack.calls("chat.update"), "the late answer")
    outbox.sender.slack.timeout = 5
    assert outbox.send_after(5) == 1
    assert only(outbox.slack.messages(TICKETS.id)).text == "10%"


def test_a_slack_that_cannot_be_reached_loses_nothing(store: Store) -> None:
    with SlackEmulator() as slack:
        outbox = OutboxHarness(store, slack)
    outbox.put(text="a")
    assert [outbox.send_after(10) for _ in range(3)] == [0, 0, 0]
    assert outbox.waiting() == 1


@pytest.mark.parametrize("code", ["message_not_found", "cant_update_message", "edit_window_closed"])
def test_a_card_that_cannot_be_edited_is_posted_again(outbox: OutboxHarness, code: str) -> None:
    outbox.put(text="queued", card="run 1")
    outbox.send_after(0)
    outbox.slack.fail("chat.update", refused(code))
    outbox.show("run 1", "10%")
    outbox.send_after(5)
    outbox.send_after(5)
    assert outbox.texts() == ["queued", "10%"]
    outbox.show("run 1", "20%")
    outbox.send_after(5)
    assert outbox.texts() == ["queued", "20%"], "edits go to the new card"


def test_an_archived_channels_messages_go_to_the_fallback(outbox: OutboxHarness) -> None:
    outbox.put(text="queued", card="run 1")
    outbox.send_after(0)
    outbox.slack.archive(TICKETS.id)
    outbox.show("run 1", "10%")
    outbox.put(text="the result", card="result 1")
    outbox.send_times(3, 5)
    assert sorted(outbox.texts(OTHERS.id)) == ["10%", "the result"]
    outbox.show("run 1", "20%")
    outbox.send_after(5)
    assert sorted(outbox.texts(OTHERS.id)) == ["20%", "the result"]


def test_a_reply_follows_its_card_into_the_fallback_channel(outbox: OutboxHarness) -> None:
    outbox.slack.fail("chat.postMessage", refused("not_in_channel"))
    outbox.put(text="the result", card="result 1")
    outbox.put(text="the rows", thread="result 1")
    outbox.send_times(4, 5)
    card, reply = outbox.slack.messages(OTHERS.id)
    assert (card.text, reply.text, reply.thread_ts) == ("the result", "the rows", card.ts)
    assert outbox.texts() == []


def test_without_a_fallback_a_closed_channels_message_waits_and_its_person_is_told(
    store: Store, slack: SlackEmulator
) -> None:
    outbox = OutboxHarness(store, slack, fallback=None)
    slack.remove_bot(TICKETS.id)
    outbox.put(text="Run 7 asks for approval", card="plan 7", dedupe="plan 7", concerns=ANA.id)
    outbox.send_times(5, 60)
    report = only(slack.messages(slack.dm(ANA.id))).text
    assert f"<#{TICKETS.id}>" in report and "not_in_channel" in report and "/invite @Finetune" in report
    assert "Run 7 asks for approval" in report
    slack.add_bot(TICKETS.id)
    outbox.send_after(300)
    assert outbox.texts() == ["Run 7 asks for approval"]
    assert outbox.waiting() == 0


def test_a_closed_channels_message_is_given_up_after_a_day(outbox: OutboxHarness) -> None:
    outbox.sender.fallback_channel = None
    outbox.slack.archive(TICKETS.id)
    outbox.put(text="a")
    outbox.set_tries(MAX_TRIES - 2)
    outbox.send_after(301)
    assert outbox.waiting() == 1
    outbox.send_after(301)
    assert outbox.waiting() == 0
    assert outbox.store.database.value("SELECT error FROM outbox WHERE state = 'dead'") == "is_archived"


def test_a_revoked_token_loses_nothing_and_is_shown(outbox: OutboxHarness) -> None:
    outbox.slack.fail("*", refused("token_revoked"), times=None)
    outbox.put(text="a", dedupe="a")
    outbox.put("direct", "b", person=ANA.id, channel=OTHERS.id)
    outbox.set_tries(MAX_TRIES - 2)
    outbox.send_times(3, 61)
    assert outbox.answers.refusal == "token_revoked"
    assert outbox.waiting() == 2
    outbox.slack.clear_faults()
    outbox.slack.fail("chat.postMessage", broken(500))
    for seconds in (61, 301, 301):
        outbox.send_after(seconds)
    assert (outbox.texts(), outbox.direct_texts()) == (["a"], ["b"])
    assert outbox.answers.refusal is None


def test_a_message_that_slack_refuses_for_good_holds_up_no_other(
    outbox: OutboxHarness, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.put(body={"text": "a", "blocks": [{"type": "chart"}]})
    outbox.put(text="b")
    outbox.send_after(0)
    outbox.send_after(2)
    assert outbox.texts() == ["b"]
    assert outbox.waiting() == 0
    assert "is given up: invalid_blocks" in caplog.text
    assert "invalid_blocks" in only(outbox.slack.messages(OTHERS.id)).text, "and somebody is told"


def test_a_message_that_always_fails_holds_up_no_other_and_is_reported(outbox: OutboxHarness) -> None:
    outbox.slack.fail("chat.postMessage", refused("internal_error"), times=None, text='"text": "cursed"')
    outbox.put(text="cursed", card="result 1")
    outbox.put(text="the rows", thread="result 1")
    for number in range(60):
        outbox.put(text=f"text {number}")
    outbox.send_times(80, 1.1)
    assert len(outbox.texts()) == 60, "within the time that they take anyway, and a few seconds"
    for _ in range(60):
        outbox.put(text="more")
        outbox.send_after(2)
        outbox.send_after(58)
    report = only(outbox.slack.messages(OTHERS.id)).text
    assert f"<#{TICKETS.id}>" in report and "internal_error" in report
    assert "the rows" in outbox.texts(), "its reply is shown without it"
    assert outbox.waiting() == 0


def test_a_thread_never_overtakes_its_card(outbox: OutboxHarness) -> None:
    outbox.slack.fail("chat.postMessage", broken(500), times=5, text="the result")
    outbox.put(text="the result", card="result 1")
    outbox.put(text="the rows", thread="result 1")
    outbox.send_times(60, 2)
    card, reply = outbox.slack.messages(TICKETS.id)
    assert (card.text, reply.text, reply.thread_ts) == ("the result", "the rows", card.ts)


def test_without_im_write_channels_work_and_the_scope_is_named_once_a_day(store: Store) -> None:
    with SlackEmulator(channels=(TICKETS, OTHERS), scopes=ALL_SCOPES - {"im:write"}) as slack:
        outbox = OutboxHarness(store, slack, fallback=None)
        for number in range(20):
            outbox.put("direct", f"for you {number}", person=ANA.id)
        outbox.put(text="the result")
        outbox.put(text="elsewhere", channel=OTHERS.id)
        outbox.send_times(70, 2)
        assert outbox.texts(OTHERS.id) == ["elsewhere"]
        result, report = outbox.texts()
        assert result == "the result" and "im:write" in report and "manifest.yml" in report
        assert outbox.answers.refusal is None, "the token is good"
        slack.grant("im:write")
        outbox.send_times(400, 2)
        assert len(outbox.direct_texts()) == 20


def test_plots_without_files_write_mute_no_channel(store: Store, tmp_path: Path) -> None:
    plot = tmp_path / "loss.png"
    plot.write_bytes(PNG)
    with SlackEmulator(channels=(TICKETS, OTHERS), scopes=ALL_SCOPES - {"files:write"}) as slack:
        outbox = OutboxHarness(store, slack)
        for _ in range(60):
            outbox.put("file", body={"file": str(plot), "filename": "loss.png"})
        outbox.put(text="a")
        outbox.put(text="b", channel=OTHERS.id)
        outbox.send_times(70, 2)
        assert outbox.texts() == ["a"]
        assert outbox.texts(OTHERS.id)[0] == "b" and "files:write" in outbox.texts(OTHERS.id)[1]
        assert len(outbox.texts(OTHERS.id)) == 2, "said once, not for each plot"


def test_an_undeliverable_direct_message_is_reported_without_its_text(outbox: OutboxHarness) -> None:
    outbox.slack.fail("conversations.open", refused("user_disabled"), times=None)
    outbox.put("direct", "their words", person=ANA.id)
    outbox.send_times(3, 2)
    report = only(outbox.slack.messages(OTHERS.id)).text
    assert f"<@{ANA.id}>" in report and "user_disabled" in report and "their words" not in report


@pytest.mark.parametrize("fallback", [OTHERS.id, None])
def test_an_ephemeral_that_is_given_up_is_reported_without_its_text(
    store: Store, slack: SlackEmulator, fallback: str | None
) -> None:
    outbox = OutboxHarness(store, slack, fallback)
    outbox.put("ephemeral", "90% right on acquisition-of-globex", person=ANA.id)
    slack.fail("chat.postEphemeral", refused("user_not_found"))
    outbox.send_times(5, 2)
    (report,) = outbox.texts(fallback or TICKETS.id)
    assert f"<@{ANA.id}>" in report and "user_not_found" in report and "globex" not in report


def test_all_edits_together_keep_slacks_limit_and_are_fair_by_channel(outbox: OutboxHarness) -> None:
    for number in range(50):
        outbox.put(text="queued", card=f"run {number}")
    outbox.put(text="asked", card="plan")
    outbox.put(text="queued", card="elsewhere", channel=OTHERS.id)
    outbox.send_times(55, 1.1)
    for second in range(60):
        for number in range(50):
            outbox.show(f"run {number}", f"{second}", progress=True)
        outbox.show("elsewhere", f"{second}", channel=OTHERS.id, progress=True)
        if second == 30:
            outbox.show("plan", "approved")
        outbox.send_after(1.0)
        if second == 33:
            assert "approved" in outbox.texts()
    assert 38 <= len(outbox.slack.calls("chat.update")) <= 42
    assert int(outbox.texts(OTHERS.id)[0]) >= 55, "the only card of its channel is as fresh as any"
    assert outbox.store.database.value("SELECT count(*) FROM outbox") <= 51


def test_a_limit_on_edits_pauses_those_of_all_cards(outbox: OutboxHarness) -> None:
    for card in ("run 1", "run 2"):
        outbox.put(text="queued", card=card)
        outbox.send_after(2)
    for card in ("run 1", "run 2"):
        outbox.show(card, "10%")
    outbox.slack.fail("chat.update", too_many(30))
    outbox.send_times(14, 2)
    assert len(outbox.slack.calls("chat.update")) == 1
    outbox.send_times(3, 2)
    assert outbox.texts() == ["10%", "10%"]


def test_a_message_that_always_fails_is_given_up_eventually(
    outbox: OutboxHarness, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.slack.fail("chat.postMessage", broken(500), times=None)
    outbox.put(text="a")
    outbox.set_tries(MAX_TRIES - 3)
    outbox.send_times(4, 301)
    tries = [call for call in outbox.slack.calls("chat.postMessage") if call.args["text"] == "a"]
    assert len(tries) == 3
    assert outbox.waiting() == 1, "the message that reports it"
    assert f"after {MAX_TRIES} tries" in caplog.text


def test_an_ephemeral_reaches_its_person_alone(outbox: OutboxHarness) -> None:
    outbox.put("ephemeral", "for you", person=ANA.id)
    assert outbox.send_after(0) == 1
    assert only(outbox.slack.ephemerals(ANA.id)).text == "for you"
    assert outbox.texts() == []


@pytest.mark.parametrize("fallback", [OTHERS.id, None])
def test_an_ephemeral_into_a_closed_channel_reaches_its_person_directly(
    store: Store, slack: SlackEmulator, fallback: str | None
) -> None:
    outbox = OutboxHarness(store, slack, fallback)
    slack.remove_bot(TICKETS.id)
    outbox.put("ephemeral", "for you", person=ANA.id)
    outbox.send_after(0)
    outbox.send_after(2)
    assert outbox.direct_texts() == ["for you"]
    assert outbox.texts(OTHERS.id) == []


def test_a_direct_message_opens_the_conversation(outbox: OutboxHarness) -> None:
    outbox.put("direct", "it is done", person=BEN.id)
    assert outbox.send_after(0) == 1
    assert outbox.direct_texts(BEN.id) == ["it is done"]
    assert outbox.texts() == []


def test_a_plot_is_posted_in_its_cards_thread(outbox: OutboxHarness, tmp_path: Path) -> None:
    plot = tmp_path / "loss.png"
    plot.write_bytes(PNG)
    outbox.put(text="the result", card="result 1")
    body = {"file": str(plot), "filename": "loss.png", "title": "Loss", "alt_txt": "The loss falls."}
    outbox.put("file", thread="result 1", body=body)
    outbox.send_after(0)
    outbox.send_after(2)
    card, reply = outbox.slack.messages(TICKETS.id)
    assert reply.thread_ts == card.ts
    assert [(file.name, file.mimetype, file.size) for file in reply.files] == [
        ("loss.png", "image/png", len(PNG))
    ]
    assert outbox.slack.calls("files.getUploadURLExternal")[0].args["alt_txt"] == "The loss falls."


def test_a_plot_whose_file_is_gone_is_given_up_with_its_name_in_the_log(
    outbox: OutboxHarness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox.put("file", body={"file": str(tmp_path / "loss.png"), "filename": "loss.png"})
    outbox.put(text="b")
    outbox.send_after(0)
    outbox.send_after(2)
    assert outbox.waiting() == 0
    assert "loss.png" in caplog.text
    assert outbox.texts() == ["b"]


def test_what_a_private_channel_owns_waits_and_is_not_shown_in_the_fallback_channel(
    outbox: OutboxHarness, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    path.write_text("salaries")
    outbox.put(text="queued", card="run 1", channel=MEMBERS.id)
    outbox.send_after(0)
    outbox.slack.archive(MEMBERS.id)
    outbox.put(text="salaries: 90%", card="result 1", channel=MEMBERS.id, concerns=ANA.id)
    outbox.put(text="a stranger's 90%", card="result 2", channel=MEMBERS.id, concerns=BEN.id)
    outbox.put("file", channel=MEMBERS.id, thread="run 1", body={"file": str(path), "filename": "r.html"})
    outbox.show("run 1", "salaries: 10%", channel=MEMBERS.id)
    outbox.send_times(8, 60)

    public = outbox.texts(OTHERS.id)
    assert public and all("could not be delivered" in text and "10%" not in text for text in public)
    assert "salaries: 90%" in outbox.direct_texts(ANA.id)[0]
    assert "90%" not in outbox.direct_texts(BEN.id)[0], "he is no member"

    outbox.slack.unarchive(MEMBERS.id)
    outbox.send_times(8, 301)
    assert "salaries: 90%" in outbox.texts(MEMBERS.id) and outbox.waiting() == 0


def test_rows_that_waited_are_not_posted_once_their_channel_is_public(outbox: OutboxHarness) -> None:
    without = Elsewhere(MEMBERS.id, (Headline("ready"), Text("no row")))
    card = Message("ready", (Headline("ready"), Text("a customer's words")), without)
    outbox.put(text="rows", channel=MEMBERS.id, private=True, concerns=ANA.id)
    outbox.store.outbox.show("dataset 1", MEMBERS.id, card.letter(), now=outbox.now)
    outbox.slack.make_public(MEMBERS.id)

    outbox.send_times(5, 60)

    (shown,) = outbox.slack.messages(MEMBERS.id)
    assert "no row" in str(shown.blocks) and "customer" not in str(shown.blocks)
    assert "no longer private" in str([*outbox.texts(OTHERS.id), *outbox.direct_texts(ANA.id)])


def test_rows_for_a_person_who_left_the_channel_are_not_sent(outbox: OutboxHarness) -> None:
    outbox.put("direct", "rows", person=BEN.id, channel=MEMBERS.id, private=True)
    outbox.send_times(3, 60)
    assert outbox.direct_texts(BEN.id) == [] and outbox.waiting() == 0


def test_rows_wait_while_slack_does_not_say_who_is_in_their_channel(outbox: OutboxHarness) -> None:
    outbox.put("direct", "rows", person=ANA.id, channel=MEMBERS.id, private=True)
    outbox.slack.fail("conversations.members", refused("internal_error"), times=3)
    outbox.send_times(3, 60)
    assert outbox.direct_texts(ANA.id) == [] and outbox.waiting() == 1
    outbox.send_after(60)
    assert outbox.direct_texts(ANA.id) == ["rows"] and outbox.waiting() == 0


def test_customers_words_never_follow_a_card_into_the_fallback_channel(outbox: OutboxHarness) -> None:
    outbox.slack.archive(TICKETS.id)
    outbox.put(text="result", card="result 1")
    outbox.put(text="rows that changed", thread="result 1", private=True)
    outbox.put(text="customers' words", private=True)

    outbox.send_times(5, 60)

    result, *reports = outbox.texts(OTHERS.id)
    assert result == "result" and len(reports) == 2
    assert not [text for text in reports if "rows that changed" in text or "customers' words" in text]
    assert outbox.waiting() == 0

    outbox.slack._change(TICKETS.id, archived=False, private=True)
    outbox.put(text="a row of what is private now", thread="result 1", private=True)
    outbox.send_times(5, 60)
    assert not [text for text in outbox.texts(OTHERS.id) if "a row of" in text] and outbox.waiting() == 0


def show_card(outbox: OutboxHarness, card: Message) -> None:
    outbox.store.outbox.show("dataset 1", TICKETS.id, card.letter(), now=outbox.now)


@pytest.mark.parametrize("is_posted", [False, True])
def test_a_card_goes_to_the_fallback_channel_without_its_row(outbox: OutboxHarness, is_posted: bool) -> None:
    """The channel is archived before the card is posted, or between its post and an edit."""
    without = Elsewhere(TICKETS.id, (Headline("ready"), Text("no row")))
    card = Message("ready", (Headline("ready"), Text("a customer's words")), without)
    if is_posted:
        outbox.show("dataset 1", "checking")
        outbox.send_after(5)
    outbox.slack.archive(TICKETS.id)
    show_card(outbox, card)
    outbox.send_times(5, 60)
    (shown,) = outbox.slack.messages(OTHERS.id)
    assert "no row" in str(shown.blocks) and "customer" not in str(shown.blocks)


def test_a_card_in_its_own_channel_has_its_row(outbox: OutboxHarness) -> None:
    without = Elsewhere(MEMBERS.id, (Headline("ready"), Text("no row")))
    card = Message("ready", (Headline("ready"), Text("a customer's words")), without)
    outbox.store.outbox.show("dataset 1", MEMBERS.id, card.letter(), now=outbox.now)
    outbox.send_after(5)
    (shown,) = outbox.slack.messages(MEMBERS.id)
    assert "a customer's words" in str(shown.blocks)


def test_a_file_for_one_person_reaches_them_alone(outbox: OutboxHarness, tmp_path: Path) -> None:
    path = tmp_path / "cleaned.csv"
    path.write_bytes(b"text,label\nx,y\n")
    body = {
        "file": str(path),
        "filename": path.name,
        "title": "Cleaned",
        "initial_comment": "2 rows left out",
    }
    outbox.put("file", person=ANA.id, body=body, private=True, dedupe="cleaned")
    assert outbox.send_after(5) == 1
    assert outbox.slack.messages(TICKETS.id) == ()
    message = only(outbox.slack.messages(outbox.slack.dm(ANA.id)))
    assert (message.files[0].name, message.text) == ("cleaned.csv", "2 rows left out")
    assert outbox.slack.messages(outbox.slack.dm(BEN.id)) == ()


def test_a_posted_message_is_not_repeated_after_a_kill_with_the_clock_set_back(store: Store) -> None:
    scopes = ALL_SCOPES | {"channels:history", "groups:history"}
    with SlackEmulator(channels=(TICKETS, OTHERS), scopes=scopes) as slack:
        killed = OutboxHarness(store, slack)
        killed.put(text="the result")
        (item,) = store.outbox.due(killed.now)
        killed.sender._deliver(item)  # the process is killed before it records that
        restarted = OutboxHarness(store, slack)
        restarted.now = killed.now - 600
        assert restarted.send_after(1_000) == 1
        assert restarted.texts() == ["the result"]
        assert restarted.waiting() == 0
