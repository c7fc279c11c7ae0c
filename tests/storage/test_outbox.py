"""The outbox: each message goes once, only the newest edit of a card waits, and nothing is lost in between."""

from __future__ import annotations

from typing import Any

from storage.messages import PATIENT_TRIES, RETRY_S
from storage.records import Card, Draft, OutboxItem, OutboxKind
from storage.store import Store
from tests.storage.threads import run_at_once


def show(store: Store, card: str, text: str, *, now: float = 1.0, **rest: Any) -> None:
    store.outbox.show(card, "C1", {"text": text}, now=now, **rest)


def put(store: Store, kind: OutboxKind = "post", text: str = "x", *, now: float = 1.0, **rest: Any) -> None:
    values = {"kind": kind, "channel": "C1", "body": {"text": text}, "topic": "results", **rest}
    store.outbox.put(Draft(**values), now=now)


def due(store: Store, now: float = 10.0) -> list[tuple[str, str]]:
    return [(item.kind, item.body["text"]) for item in store.outbox.due(now)]


def send_all(store: Store, now: float = 10.0) -> list[str]:
    """Sends everything that is due, lane by lane, and returns the texts in their order."""
    texts = []
    while heads := store.outbox.due(now):
        texts += [item.body["text"] for item in heads]
        for item in heads:
            store.outbox.mark_sent(item, channel=item.channel, ts="1.1")
    return texts


def only(store: Store, now: float = 10.0) -> OutboxItem:
    (item,) = store.outbox.due(now)
    return item


def post_card(store: Store, card: str = "run 1") -> None:
    put(store, text="card", card=card, dedupe=card)
    store.outbox.mark_sent(only(store), channel="C1", ts="1.1")


def test_messages_go_in_order_once_they_are_due(store: Store) -> None:
    put(store, text="a", now=5.0)
    put(store, text="b", now=3.0)
    put(store, text="later", now=11.0)
    assert store.outbox.waiting() == 3
    assert send_all(store) == ["a", "b"]
    assert send_all(store, 11.0) == ["later"]


def test_a_busy_channel_delays_no_other(store: Store) -> None:
    for number in range(120):
        put(store, text=f"busy {number}")
    put(store, text="elsewhere", channel="C2")
    put(store, "direct", "alone", person="U1")
    assert due(store) == [("post", "busy 0"), ("post", "elsewhere"), ("direct", "alone")]


def test_a_message_that_keeps_failing_goes_to_the_end_of_its_lane(store: Store) -> None:
    for text in ("cursed", "a", "b"):
        put(store, text=text)
    for _ in range(PATIENT_TRIES):
        assert due(store) == [("post", "cursed")]
        store.outbox.postpone(only(store), due_at=5.0, error="internal_error")
    assert send_all(store) == ["a", "b", "cursed"]


def test_an_edit_with_a_decision_goes_before_those_with_progress(store: Store) -> None:
    for card in ("run 1", "run 2", "plan 3"):
        post_card(store, card)
    show(store, "run 1", "10%", progress=True)
    show(store, "run 2", "20%", progress=True)
    show(store, "plan 3", "approved")
    show(store, "run 2", "cancelled")
    assert send_all(store) == ["cancelled", "approved", "10%"]


def test_a_second_draft_of_the_same_message_does_nothing(store: Store) -> None:
    run_at_once(16, lambda n: put(store, text=f"draft {n}", dedupe="result 1"))
    assert store.outbox.waiting() == 1
    store.outbox.mark_sent(only(store), channel="C1", ts="1.1")
    put(store, text="again", dedupe="result 1")
    assert due(store) == []


def test_each_draft_without_a_dedupe_is_a_message(store: Store) -> None:
    put(store)
    put(store)
    assert len(send_all(store)) == 2


def test_a_card_is_remembered_by_its_name(store: Store) -> None:
    put(store, card="run 1")
    assert store.outbox.is_waiting("run 1")
    assert store.outbox.card("run 1") is None
    store.outbox.mark_sent(only(store), channel="C1", ts="1.1")
    assert store.outbox.card("run 1") == Card("run 1", "C1", "1.1")
    assert not store.outbox.is_waiting("run 1")


def test_only_the_newest_edit_waits(store: Store) -> None:
    post_card(store)
    for text in ("10%", "20%", "30%"):
        show(store, "run 1", text)
    assert due(store) == [("edit", "30%")]


def test_a_card_is_not_edited_to_its_present_text(store: Store) -> None:
    post_card(store)
    show(store, "run 1", "card")
    assert due(store) == []
    show(store, "run 1", "10%")
    show(store, "run 1", "10%")
    assert send_all(store) == ["10%"]
    show(store, "run 1", "10%")
    assert due(store) == []
    show(store, "run 1", "card")
    assert due(store) == [("edit", "card")]


def test_edits_of_two_cards_are_independent(store: Store) -> None:
    post_card(store, "run 1")
    post_card(store, "run 2")
    show(store, "run 1", "one")
    show(store, "run 2", "two")
    assert send_all(store) == ["one", "two"]


def test_an_edit_of_a_card_that_is_not_posted_yet_replaces_its_post(store: Store) -> None:
    put(store, text="queued", card="run 1", dedupe="run 1")
    show(store, "run 1", "training")
    assert due(store) == [("post", "training")]


def test_an_edit_keeps_the_wait_that_slack_asked_for(store: Store) -> None:
    post_card(store)
    show(store, "run 1", "10%")
    store.outbox.postpone(only(store), due_at=30.0, error="ratelimited")
    show(store, "run 1", "20%", now=12.0)
    assert due(store, 29.0) == []
    assert due(store, 30.0) == [("edit", "20%")]
    assert only(store, 30.0).tries == 1


def test_an_edit_that_is_replaced_while_it_is_sent_stays_due(store: Store) -> None:
    post_card(store)
    show(store, "run 1", "10%")
    sent = only(store)
    show(store, "run 1", "20%")
    store.outbox.mark_sent(sent, channel="C1", ts="1.1")
    assert due(store) == [("edit", "20%")]
    store.outbox.mark_sent(only(store), channel="C1", ts="1.1")
    assert store.outbox.waiting() == 0


def test_a_post_that_is_replaced_while_it_is_sent_is_followed_by_an_edit(store: Store) -> None:
    put(store, text="queued", card="run 1", dedupe="run 1")
    sent = only(store)
    show(store, "run 1", "training")
    store.outbox.mark_sent(sent, channel="C1", ts="1.1")
    assert due(store) == [("edit", "training")]
    assert store.outbox.card("run 1") == Card("run 1", "C1", "1.1")
    put(store, text="queued", card="run 1", dedupe="run 1")
    assert due(store) == [("edit", "training")], "the same draft of the post still does nothing"


def test_giving_up_an_edit_keeps_the_newer_one(store: Store) -> None:
    post_card(store)
    show(store, "run 1", "too long")
    sent = only(store)
    show(store, "run 1", "short")
    store.outbox.give_up(sent, error="msg_too_long")
    assert due(store) == [("edit", "short")]


def test_a_message_that_was_given_up_is_not_due_and_has_its_error(store: Store) -> None:
    put(store, text="bad")
    store.outbox.give_up(only(store), error="invalid_blocks")
    assert (due(store), store.outbox.waiting()) == ([], 0)
    assert store.database.row("SELECT state, error FROM outbox") == {
        "state": "dead",
        "error": "invalid_blocks",
    }


def test_a_reply_waits_for_its_cards_post(store: Store) -> None:
    put(store, text="card", card="result 1", now=20.0)
    put(store, "file", "plot", thread="result 1", now=5.0)
    assert due(store, 10.0) == []
    (card,) = [item for item in store.outbox.due(20.0) if item.card]
    assert due(store, 20.0) == [("post", "card")]
    store.outbox.mark_sent(card, channel="C1", ts="1.1")
    assert due(store, 20.0) == [("file", "plot")]


def test_a_reply_whose_card_was_given_up_still_goes(store: Store) -> None:
    put(store, text="card", card="result 1")
    put(store, text="rows", thread="result 1")
    store.outbox.give_up(only(store), error="invalid_blocks")
    assert due(store) == [("post", "rows")]


def test_an_edit_of_a_card_whose_post_was_given_up_posts_it(store: Store) -> None:
    put(store, text="refused", card="run 1", dedupe="run 1")
    store.outbox.give_up(only(store), error="invalid_blocks")
    show(store, "run 1", "20%")
    show(store, "run 1", "30%")
    assert due(store, RETRY_S + 10.0) == [("post", "30%")]
    store.outbox.mark_sent(only(store, RETRY_S + 10.0), channel="C1", ts="1.1")
    assert store.outbox.card("run 1") == Card("run 1", "C1", "1.1")


def test_a_lost_card_is_posted_again_under_its_name(store: Store) -> None:
    post_card(store)
    show(store, "run 1", "50%")
    store.outbox.repost(only(store), now=12.0)
    assert due(store, 11.0) == []
    assert due(store, 12.0) == [("post", "50%")]
    assert store.outbox.card("run 1") is None
    show(store, "run 1", "60%")
    store.outbox.mark_sent(only(store, 12.0), channel="C1", ts="9.9")
    assert store.outbox.card("run 1") == Card("run 1", "C1", "9.9")
    assert store.outbox.waiting() == 0


def test_a_closed_channels_message_goes_elsewhere_outside_any_thread(store: Store) -> None:
    post_card(store)
    show(store, "run 1", "50%")
    put(store, "post", "rows", thread="run 1")
    for item in store.outbox.due(10.0):
        store.outbox.reroute(item, channel="C9", now=12.0)
    assert due(store, 11.0) == []
    edit = only(store, 12.0)
    assert (edit.kind, edit.channel, edit.card) == ("post", "C9", "run 1")
    store.outbox.mark_sent(edit, channel="C9", ts="2.1")
    reply = only(store, 12.0)
    assert (reply.kind, reply.channel, reply.thread) == ("post", "C9", None)


def test_a_rerouted_ephemeral_becomes_a_direct_message(store: Store) -> None:
    put(store, "ephemeral", "your text", person="U1")
    store.outbox.reroute(only(store), channel="C9", now=2.0)
    assert (only(store).kind, only(store).person) == ("direct", "U1")


def test_postponing_counts_a_try_unless_the_message_is_not_at_fault(store: Store) -> None:
    put(store)
    store.outbox.postpone(only(store), due_at=20.0, error="HTTP 500")
    assert (only(store, 20.0).tries, only(store, 20.0).due_at) == (1, 20.0)
    store.outbox.postpone(only(store, 20.0), due_at=30.0, error="token_revoked", counts=False)
    assert only(store, 30.0).tries == 1


def test_a_draft_is_rolled_back_with_its_transaction(store: Store) -> None:
    try:
        with store.transaction():
            put(store)
            raise RuntimeError
    except RuntimeError:
        pass
    assert store.outbox.waiting() == 0


def test_only_the_dedupe_of_a_sent_message_is_kept(store: Store) -> None:
    put(store, text="a customer's words", dedupe="once")
    assert send_all(store) == ["a customer's words"]
    assert store.database.rows("SELECT * FROM outbox") == []
    assert store.outbox.was_put("once")
    put(store, text="a customer's words", dedupe="once")
    assert due(store) == []


def test_a_card_that_was_given_up_is_posted_again_by_its_next_draft(store: Store) -> None:
    put(store, text="queued", card="run 1", dedupe="run 1")
    store.outbox.give_up(only(store), error="not_in_channel")
    put(store, text="training", card="run 1", dedupe="run 1", now=2.0)
    put(store, text="training", card="run 1", dedupe="run 1", now=3.0)
    assert due(store, RETRY_S) == [], "a refused message is not repeated each second"
    assert due(store, RETRY_S + 3.0) == [("post", "training")]


def test_a_card_that_was_given_up_is_posted_once_after_an_edit_and_a_post(store: Store) -> None:
    put(store, text="queued", card="run 1", dedupe="run 1")
    store.outbox.give_up(only(store), error="not_in_channel")
    show(store, "run 1", "training")
    put(store, text="done", card="run 1", dedupe="run 1")
    assert send_all(store, RETRY_S + 10.0) == ["training"]


def test_a_message_without_a_card_stays_given_up(store: Store) -> None:
    put(store, text="end", dedupe="end 1")
    store.outbox.give_up(only(store), error="invalid_blocks")
    put(store, text="end", dedupe="end 1", now=2.0)
    assert due(store, 1_000.0) == []
