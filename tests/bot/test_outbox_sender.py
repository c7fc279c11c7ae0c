"""The outbox's sender against the Slack emulator, with a clock of the test's own: nothing sleeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slack_sdk import WebClient

from bot.outbox_sender import MAX_TRIES, OutboxSender
from demo.people import ANA, BEN, BOT, TICKETS
from demo.slack_emulator import Fault, SlackEmulator, broken, cut_off, refused, slow, too_many
from demo.slack_emulator.state import ALL_SCOPES
from demo.workspace import Channel, PostedMessage, wait_until
from storage.records import Draft, OutboxKind
from storage.store import Store

OTHERS = Channel("C0OPS", "ml-ops", (ANA.id, BOT.id))
PNG = b"\x89PNG\r\n\x1a\n" + bytes(500)


class Desk:
    """A store, a Slack and a clock that only `later` moves."""

    def __init__(self, store: Store, slack: SlackEmulator, fallback: str | None = OTHERS.id) -> None:
        self.now = 1_000.0
        self.store = store
        self.slack = slack
        access = slack.access
        client = WebClient(access.bot_token, base_url=access.api_url, timeout=5, retry_handlers=[])
        self.notices = OutboxSender(store, client, fallback, clock=lambda: self.now)

    def put(self, kind: OutboxKind = "post", text: str = "x", **rest: Any) -> None:
        values: dict[str, Any] = {"channel": TICKETS.id, "body": {"text": text}, **rest}
        self.store.outbox.put(Draft(kind=kind, **values), now=self.now)

    def show(self, card: str, text: str, *, channel: str = TICKETS.id, progress: bool = False) -> None:
        self.store.outbox.show(card, channel, {"text": text}, now=self.now, progress=progress)

    def later(self, seconds: float) -> int:
        self.now += seconds
        return self.notices.send_due()

    def texts(self, channel: str = TICKETS.id) -> list[str]:
        return [message.text for message in self.slack.messages(channel)]


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator(channels=(TICKETS, OTHERS)) as slack:
        yield slack


@pytest.fixture
def desk(tmp_path: Path, slack: SlackEmulator) -> Iterator[Desk]:
    store = Store(tmp_path / "finetune.db")
    yield Desk(store, slack)
    store.close()


def only(messages: tuple[PostedMessage, ...]) -> PostedMessage:
    assert len(messages) == 1, messages
    return messages[0]


def test_a_message_is_posted_once(desk: Desk) -> None:
    desk.put(text="hello", dedupe="hello")
    assert desk.later(0) == 1
    desk.put(text="hello", dedupe="hello")
    assert [desk.later(60) for _ in range(3)] == [0, 0, 0]
    assert desk.texts() == ["hello"]
    assert desk.store.outbox.waiting() == 0


def test_one_card_is_edited_in_place(desk: Desk) -> None:
    desk.put(text="queued", card="run 1", dedupe="run 1")
    desk.later(0)
    for text in ("10%", "20%", "done"):
        desk.show("run 1", text)
        desk.later(5)
    card = only(desk.slack.messages(TICKETS.id))
    assert (card.text, card.edits) == ("done", 3)


def test_edits_that_come_fast_are_sent_as_one(desk: Desk) -> None:
    desk.put(text="queued", card="run 1")
    desk.later(0)
    for percent in range(100):
        desk.show("run 1", f"{percent}%")
        desk.later(0.01)
    desk.later(5)
    card = only(desk.slack.messages(TICKETS.id))
    assert (card.text, card.edits) == ("99%", 3)


def test_posts_into_one_channel_keep_their_pace_and_order(desk: Desk) -> None:
    for text in "abc":
        desk.put(text=text)
    desk.put(text="elsewhere", channel=OTHERS.id)
    assert [desk.later(seconds) for seconds in (0, 0.5, 0.6, 1.1)] == [2, 0, 1, 1]
    assert desk.texts() == ["a", "b", "c"]
    assert desk.texts(OTHERS.id) == ["elsewhere"]


def test_a_limit_puts_it_back_for_as_long_as_slack_says(desk: Desk) -> None:
    desk.slack.fail("chat.postMessage", too_many(30))
    desk.put(text="a")
    desk.put(text="b")
    desk.later(0)
    assert [desk.later(seconds) for seconds in (10, 19.9)] == [0, 0]
    assert len(desk.slack.calls("chat.postMessage")) == 1, "nothing is asked within Retry-After"
    desk.later(0.2)
    desk.later(2)
    assert desk.texts() == ["a", "b"]


def test_a_channel_that_is_limited_for_long_loses_nothing_though_others_get_through(desk: Desk) -> None:
    desk.slack.fail("chat.postMessage", too_many(30), times=40, channel=TICKETS.id)
    desk.put(text="a")
    for _ in range(45):
        desk.put(text="elsewhere", channel=OTHERS.id)
        desk.later(31)
    for _ in range(60):
        desk.later(31)
    assert desk.texts() == ["a"]
    assert desk.texts(OTHERS.id) == ["elsewhere"] * 45


@pytest.mark.parametrize(
    "fault",
    [broken(500), broken(503), cut_off(), refused("internal_error"), refused("service_unavailable")],
    ids=["500", "503", "cut", "internal_error", "unavailable"],
)
def test_a_passing_fault_is_tried_again_ever_more_slowly(desk: Desk, fault: Fault) -> None:
    desk.slack.fail("chat.postMessage", fault, times=3)
    desk.put(text="a")
    assert [desk.later(seconds) for seconds in (0, 1.1, 2.1, 4.1)] == [0, 0, 0, 1]
    assert desk.texts() == ["a"]
    assert len(desk.slack.calls("chat.postMessage")) == 4


def test_a_slack_that_hangs_is_left_after_the_timeout_and_asked_again(desk: Desk) -> None:
    desk.notices.slack.timeout = 0.1  # type: ignore[assignment]
    desk.slack.fail("chat.update", slow(0.3))
    desk.put(text="queued", card="run 1")
    desk.later(0)
    desk.show("run 1", "10%")
    assert desk.later(5) == 0
    wait_until(lambda: desk.slack.calls("chat.update"), "the late answer")
    desk.notices.slack.timeout = 5
    assert desk.later(5) == 1
    assert only(desk.slack.messages(TICKETS.id)).text == "10%"


def test_a_slack_that_is_not_there_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "finetune.db")
    with SlackEmulator() as slack:
        desk = Desk(store, slack)
    desk.put(text="a")
    assert [desk.later(10) for _ in range(3)] == [0, 0, 0]
    assert store.outbox.waiting() == 1
    store.close()


@pytest.mark.parametrize("code", ["message_not_found", "cant_update_message", "edit_window_closed"])
def test_a_card_that_cannot_be_edited_is_posted_anew(desk: Desk, code: str) -> None:
    desk.put(text="queued", card="run 1")
    desk.later(0)
    desk.slack.fail("chat.update", refused(code))
    desk.show("run 1", "10%")
    desk.later(5)
    desk.later(5)
    assert desk.texts() == ["queued", "10%"]
    desk.show("run 1", "20%")
    desk.later(5)
    assert desk.texts() == ["queued", "20%"], "edits go to the new card"


def test_an_archived_channel_s_messages_go_to_the_fallback(desk: Desk) -> None:
    desk.put(text="queued", card="run 1")
    desk.later(0)
    desk.slack.archive(TICKETS.id)
    desk.show("run 1", "10%")
    desk.put(text="the result", card="result 1")
    desk.later(5)
    desk.later(5)
    desk.later(5)
    assert sorted(desk.texts(OTHERS.id)) == ["10%", "the result"]
    desk.show("run 1", "20%")
    desk.later(5)
    assert sorted(desk.texts(OTHERS.id)) == ["20%", "the result"]


def test_a_reply_follows_its_card_to_where_it_stands(desk: Desk) -> None:
    desk.slack.fail("chat.postMessage", refused("not_in_channel"))
    desk.put(text="the result", card="result 1")
    desk.put(text="the rows", thread="result 1")
    for _ in range(4):
        desk.later(5)
    card, reply = desk.slack.messages(OTHERS.id)
    assert (card.text, reply.text, reply.thread_ts) == ("the result", "the rows", card.ts)
    assert desk.texts() == []


def test_without_a_fallback_a_closed_channel_s_message_is_told_to_its_person_and_waits(
    tmp_path: Path, slack: SlackEmulator
) -> None:
    store = Store(tmp_path / "finetune.db")
    desk = Desk(store, slack, fallback=None)
    slack.remove_bot(TICKETS.id)
    desk.put(text="Run 7 asks for approval", card="plan 7", dedupe="plan 7", concerns=ANA.id)
    for _ in range(5):
        desk.later(60)
    told = only(slack.messages(slack.dm(ANA.id))).text
    assert f"<#{TICKETS.id}>" in told and "not_in_channel" in told and "/invite @Finetune" in told
    assert "Run 7 asks for approval" in told
    slack.add_bot(TICKETS.id)
    desk.later(300)
    assert desk.texts() == ["Run 7 asks for approval"]
    assert store.outbox.waiting() == 0
    store.close()


def test_a_closed_channel_s_message_is_given_up_after_a_day(desk: Desk) -> None:
    desk.notices.fallback_channel = None
    desk.slack.archive(TICKETS.id)
    desk.put(text="a")
    for _ in range(MAX_TRIES):
        desk.later(301)
    assert desk.store.outbox.waiting() == 0
    assert desk.store.database.value("SELECT error FROM outbox WHERE state = 'dead'") == "is_archived"


def test_a_revoked_token_loses_nothing_and_is_shown(desk: Desk) -> None:
    desk.slack.fail("*", refused("token_revoked"), times=None)
    desk.put(text="a", dedupe="a")
    desk.put("direct", "b", person=ANA.id, channel=OTHERS.id)
    for _ in range(MAX_TRIES + 5):
        desk.later(61)
    assert desk.notices.locked_out == "token_revoked"
    assert desk.store.outbox.waiting() == 2
    desk.slack.clear_faults()
    desk.slack.fail("chat.postMessage", broken(500))
    for seconds in (61, 301, 301):
        desk.later(seconds)
    assert (desk.texts(), desk.texts(desk.slack.dm(ANA.id))) == (["a"], ["b"])
    assert desk.notices.locked_out is None


def test_a_message_that_slack_refuses_for_good_is_given_up_and_the_rest_goes_on(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.put(body={"text": "a", "blocks": [{"type": "chart"}]})
    desk.put(text="b")
    desk.later(0)
    desk.later(2)
    assert desk.texts() == ["b"]
    assert desk.store.outbox.waiting() == 0
    assert "is given up: invalid_blocks" in caplog.text
    assert "invalid_blocks" in only(desk.slack.messages(OTHERS.id)).text, "and somebody hears of it"


def test_a_message_that_always_fails_holds_up_no_other_and_is_told(desk: Desk) -> None:
    desk.slack.fail("chat.postMessage", refused("internal_error"), times=None, text='"text": "cursed"')
    desk.put(text="cursed", card="result 1")
    desk.put(text="the rows", thread="result 1")
    for number in range(60):
        desk.put(text=f"text {number}")
    for _ in range(80):
        desk.later(1.1)
    assert len(desk.texts()) == 60, "within the time that they take anyway, and a few seconds"
    for _ in range(60):
        desk.put(text="more")
        desk.later(2)
        desk.later(58)
    told = only(desk.slack.messages(OTHERS.id)).text
    assert f"<#{TICKETS.id}>" in told and "internal_error" in told
    assert "the rows" in desk.texts(), "what belonged under it is shown without it"
    assert desk.store.outbox.waiting() == 0


def test_a_thread_never_overtakes_its_card(desk: Desk) -> None:
    desk.slack.fail("chat.postMessage", broken(500), times=5, text="the result")
    desk.put(text="the result", card="result 1")
    desk.put(text="the rows", thread="result 1")
    for _ in range(60):
        desk.later(2)
    card, reply = desk.slack.messages(TICKETS.id)
    assert (card.text, reply.text, reply.thread_ts) == ("the result", "the rows", card.ts)


def test_without_im_write_channels_go_on_and_it_is_said_once_a_day(tmp_path: Path) -> None:
    store = Store(tmp_path / "finetune.db")
    with SlackEmulator(channels=(TICKETS, OTHERS), scopes=ALL_SCOPES - {"im:write"}) as slack:
        desk = Desk(store, slack, fallback=None)
        for number in range(60):
            desk.put("direct", f"for you {number}", person=ANA.id)
        desk.put(text="the result")
        desk.put(text="elsewhere", channel=OTHERS.id)
        for _ in range(200):
            desk.later(2)
        assert desk.texts(OTHERS.id) == ["elsewhere"]
        result, told = desk.texts()
        assert result == "the result" and "im:write" in told and "manifest.yml" in told
        assert desk.notices.locked_out is None, "the token is good"
        slack.grant("im:write")
        for _ in range(400):
            desk.later(2)
        assert len(desk.texts(slack.dm(ANA.id))) == 60
    store.close()


def test_sixty_plots_without_files_write_mute_no_channel(tmp_path: Path) -> None:
    plot = tmp_path / "loss.png"
    plot.write_bytes(PNG)
    store = Store(tmp_path / "finetune.db")
    with SlackEmulator(channels=(TICKETS, OTHERS), scopes=ALL_SCOPES - {"files:write"}) as slack:
        desk = Desk(store, slack)
        for _ in range(60):
            desk.put("file", body={"file": str(plot), "filename": "loss.png"})
        desk.put(text="a")
        desk.put(text="b", channel=OTHERS.id)
        for _ in range(70):
            desk.later(2)
        assert desk.texts() == ["a"]
        assert desk.texts(OTHERS.id)[0] == "b" and "files:write" in desk.texts(OTHERS.id)[1]
        assert len(desk.texts(OTHERS.id)) == 2, "said once, not for each plot"
    store.close()


def test_what_a_person_alone_was_to_get_is_told_elsewhere_without_its_words(desk: Desk) -> None:
    desk.slack.fail("conversations.open", refused("user_disabled"), times=None)
    desk.put("direct", "their words", person=ANA.id)
    for _ in range(3):
        desk.later(2)
    told = only(desk.slack.messages(OTHERS.id)).text
    assert f"<@{ANA.id}>" in told and "user_disabled" in told and "their words" not in told


@pytest.mark.parametrize("fallback", [OTHERS.id, None])
def test_an_answer_to_one_person_that_is_given_up_is_told_without_its_words(
    slack: SlackEmulator, tmp_path: Path, fallback: str | None
) -> None:
    desk = Desk(Store(tmp_path / "finetune.db"), slack, fallback)
    desk.put("ephemeral", "90% right on acquisition-of-globex", person=ANA.id)
    slack.fail("chat.postEphemeral", refused("user_not_found"))
    for _ in range(5):
        desk.later(2)
    said = desk.texts(fallback or TICKETS.id)
    assert len(said) == 1 and f"<@{ANA.id}>" in said[0] and "user_not_found" in said[0]
    assert "globex" not in said[0]
    desk.store.close()


def test_all_edits_together_keep_slack_s_limit_and_are_fair_by_channel(desk: Desk) -> None:
    for number in range(100):
        desk.put(text="queued", card=f"run {number}")
    desk.put(text="asked", card="plan")
    desk.put(text="queued", card="elsewhere", channel=OTHERS.id)
    for _ in range(110):
        desk.later(1.1)
    for second in range(120):
        for number in range(100):
            desk.show(f"run {number}", f"{second}", progress=True)
        desk.show("elsewhere", f"{second}", channel=OTHERS.id, progress=True)
        if second == 60:
            desk.show("plan", "approved")
        desk.later(1.0)
        if second == 63:
            assert "approved" in desk.texts()
    assert 78 <= len(desk.slack.calls("chat.update")) <= 82
    assert int(desk.texts(OTHERS.id)[0]) >= 115, "the only card of its channel is as fresh as any"
    assert desk.store.database.value("SELECT count(*) FROM outbox") <= 101


def test_a_limit_on_edits_pauses_those_of_all_cards(desk: Desk) -> None:
    for card in ("run 1", "run 2"):
        desk.put(text="queued", card=card)
        desk.later(2)
    for card in ("run 1", "run 2"):
        desk.show(card, "10%")
    desk.slack.fail("chat.update", too_many(30))
    for _ in range(14):
        desk.later(2)
    assert len(desk.slack.calls("chat.update")) == 1
    for _ in range(3):
        desk.later(2)
    assert desk.texts() == ["10%", "10%"]


def test_a_message_that_always_fails_is_given_up_in_the_end(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.slack.fail("chat.postMessage", broken(500), times=None)
    desk.put(text="a")
    for _ in range(MAX_TRIES + 1):
        desk.later(301)
    tried = [call for call in desk.slack.calls("chat.postMessage") if call.args["text"] == "a"]
    assert len(tried) == MAX_TRIES
    assert desk.store.outbox.waiting() == 1, "what tells of it"
    assert f"after {MAX_TRIES} tries" in caplog.text


def test_an_ephemeral_is_seen_by_its_person_only(desk: Desk) -> None:
    desk.put("ephemeral", "for you", person=ANA.id)
    assert desk.later(0) == 1
    assert only(desk.slack.ephemerals(ANA.id)).text == "for you"
    assert desk.texts() == []


@pytest.mark.parametrize("fallback", [OTHERS.id, None])
def test_an_ephemeral_into_a_closed_channel_reaches_its_person_directly(
    tmp_path: Path, slack: SlackEmulator, fallback: str | None
) -> None:
    store = Store(tmp_path / "finetune.db")
    desk = Desk(store, slack, fallback)
    slack.remove_bot(TICKETS.id)
    desk.put("ephemeral", "for you", person=ANA.id)
    desk.later(0)
    desk.later(2)
    assert desk.texts(slack.dm(ANA.id)) == ["for you"]
    assert desk.texts(OTHERS.id) == []
    store.close()


def test_a_direct_message_opens_the_conversation(desk: Desk) -> None:
    desk.put("direct", "it is done", person=BEN.id)
    assert desk.later(0) == 1
    assert desk.texts(desk.slack.dm(BEN.id)) == ["it is done"]
    assert desk.texts() == []


def test_a_plot_goes_into_its_card_s_thread(desk: Desk, tmp_path: Path) -> None:
    plot = tmp_path / "loss.png"
    plot.write_bytes(PNG)
    desk.put(text="the result", card="result 1")
    body = {"file": str(plot), "filename": "loss.png", "title": "Loss", "alt_txt": "The loss falls."}
    desk.put("file", thread="result 1", body=body)
    desk.later(0)
    desk.later(2)
    card, reply = desk.slack.messages(TICKETS.id)
    assert reply.thread_ts == card.ts
    assert [(file.name, file.mimetype, file.size) for file in reply.files] == [
        ("loss.png", "image/png", len(PNG))
    ]
    assert desk.slack.calls("files.getUploadURLExternal")[0].args["alt_txt"] == "The loss falls."


def test_a_plot_that_is_gone_is_given_up_by_its_name(
    desk: Desk, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk.put("file", body={"file": str(tmp_path / "loss.png"), "filename": "loss.png"})
    desk.put(text="b")
    desk.later(0)
    desk.later(2)
    assert desk.store.outbox.waiting() == 0
    assert "loss.png" in caplog.text
    assert desk.texts() == ["b"]


def test_customers_words_never_follow_a_card_into_the_fallback_channel(desk: Desk) -> None:
    desk.slack.archive(TICKETS.id)
    desk.put(text="result", card="result 1")
    desk.put(text="rows that changed", thread="result 1", private=True)
    desk.put(text="customers' words", private=True)

    for _ in range(5):
        desk.later(60)

    result, *told = desk.texts(OTHERS.id)
    assert result == "result" and len(told) == 2
    assert not [text for text in told if "rows that changed" in text or "customers' words" in text]
    assert desk.store.outbox.waiting() == 0


def test_a_file_for_one_person_reaches_them_alone(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "cleaned.csv"
    path.write_bytes(b"text,label\nx,y\n")
    body = {
        "file": str(path),
        "filename": path.name,
        "title": "Cleaned",
        "initial_comment": "2 rows left out",
    }
    desk.put("file", person=ANA.id, body=body, private=True, dedupe="cleaned")
    assert desk.later(5) == 1
    assert desk.slack.messages(TICKETS.id) == ()
    got = only(desk.slack.messages(desk.slack.dm(ANA.id)))
    assert (got.files[0].name, got.text) == ("cleaned.csv", "2 rows left out")
    assert desk.slack.messages(desk.slack.dm(BEN.id)) == ()


def test_what_stands_already_is_not_posted_again_though_the_clock_was_put_back(tmp_path: Path) -> None:
    scopes = ALL_SCOPES | {"channels:history", "groups:history"}
    with SlackEmulator(channels=(TICKETS, OTHERS), scopes=scopes) as slack:
        store = Store(tmp_path / "finetune.db")
        killed = Desk(store, slack)
        killed.put(text="the result")
        (item,) = store.outbox.due(killed.now)
        killed.notices._deliver(item)  # and before it is noted the process is killed
        begun = Desk(store, slack)
        begun.now = killed.now - 600
        begun.notices = OutboxSender(store, begun.notices.slack, clock=lambda: begun.now)
        assert begun.later(1_000) == 1
        assert begun.texts() == ["the result"]
        assert store.outbox.waiting() == 0
        store.close()
