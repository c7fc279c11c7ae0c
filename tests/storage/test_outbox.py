"""The outbox: each message once, only a card's newest edit, and nothing lost between the two."""

from __future__ import annotations

from typing import Any

from storage.messages import PATIENT_TRIES, RETRY_S
from storage.records import Card, Draft, OutboxItem, OutboxKind
from storage.store import Store
from tests.storage.test_database import at_once


def show(store: Store, card: str, text: str, *, now: float = 1.0, **rest: Any) -> None:
    store.outbox.show(card, "C1", {"text": text}, now=now, **rest)


def put(store: Store, kind: OutboxKind = "post", text: str = "x", *, now: float = 1.0, **rest: Any) -> None:
    store.outbox.put(Draft(**{"kind": kind, "channel": "C1", "body": {"text": text}, **rest}), now=now)


def due(store: Store, now: float = 10.0) -> list[tuple[str, str]]:
    return [(item.kind, item.body["text"]) for item in store.outbox.due(now)]


def in_order(store: Store, now: float = 10.0) -> list[str]:
    """Everything that is due, each sent when it is the head of its lane."""
    texts = []
    while heads := store.outbox.due(now):
        texts += [item.body["text"] for item in heads]
        for item in heads:
            store.outbox.mark_sent(item, channel=item.channel, ts="1.1")
    return texts


def only(store: Store, now: float = 10.0) -> OutboxItem:
    (item,) = store.outbox.due(now)
    return item


def posted(store: Store, card: str = "run 1") -> None:
    """The card stands in the channel."""
    put(store, text="card", card=card, dedupe=card)
    store.outbox.mark_sent(only(store), channel="C1", ts="1.1")


def test_messages_go_in_their_order_when_their_time_has_come(store: Store) -> None:
    put(store, text="a", now=5.0)
    put(store, text="b", now=3.0)
    put(store, text="later", now=11.0)
    assert store.outbox.waiting() == 3
    assert in_order(store) == ["a", "b"]
    assert in_order(store, 11.0) == ["later"]


def test_one_busy_channel_hides_no_other(store: Store) -> None:
    for number in range(120):
        put(store, text=f"busy {number}")
    put(store, text="elsewhere", channel="C2")
    put(store, "direct", "alone", person="U1")
    assert due(store) == [("post", "busy 0"), ("post", "elsewhere"), ("direct", "alone")]


def test_what_failed_again_and_again_goes_behind_the_others_of_its_lane(store: Store) -> None:
    for text in ("cursed", "a", "b"):
        put(store, text=text)
    for _ in range(PATIENT_TRIES):
        assert due(store) == [("post", "cursed")]
        store.outbox.postpone(only(store), due_at=5.0, error="internal_error")
    assert in_order(store) == ["a", "b", "cursed"]


def test_a_decision_s_edit_goes_before_those_that_tell_of_progress(store: Store) -> None:
    for card in ("run 1", "run 2", "plan 3"):
        posted(store, card)
    show(store, "run 1", "10%", progress=True)
    show(store, "run 2", "20%", progress=True)
    show(store, "plan 3", "approved")
    show(store, "run 2", "cancelled")
    assert in_order(store) == ["cancelled", "approved", "10%"]


def test_a_second_draft_of_the_same_message_does_nothing(store: Store) -> None:
    at_once(16, lambda n: put(store, text=f"draft {n}", dedupe="result 1"))
    assert store.outbox.waiting() == 1
    store.outbox.mark_sent(only(store), channel="C1", ts="1.1")
    put(store, text="again", dedupe="result 1")
    assert due(store) == []


def test_drafts_without_a_dedupe_are_each_a_message(store: Store) -> None:
    put(store)
    put(store)
    assert len(in_order(store)) == 2


def test_a_card_is_remembered_by_its_name(store: Store) -> None:
    put(store, card="run 1")
    assert store.outbox.is_waiting("run 1")
    assert store.outbox.card("run 1") is None
    store.outbox.mark_sent(only(store), channel="C1", ts="1.1")
    assert store.outbox.card("run 1") == Card("run 1", "C1", "1.1")
    assert not store.outbox.is_waiting("run 1")


def test_only_the_newest_edit_waits(store: Store) -> None:
    posted(store)
    for text in ("10%", "20%", "30%"):
        show(store, "run 1", text)
    assert due(store) == [("edit", "30%")]


def test_a_card_is_not_edited_to_what_it_says_already(store: Store) -> None:
    posted(store)
    show(store, "run 1", "card")
    assert due(store) == []
    show(store, "run 1", "10%")
    show(store, "run 1", "10%")
    assert in_order(store) == ["10%"]
    show(store, "run 1", "10%")
    assert due(store) == []
    show(store, "run 1", "card")
    assert due(store) == [("edit", "card")]


def test_edits_of_two_cards_do_not_meet(store: Store) -> None:
    posted(store, "run 1")
    posted(store, "run 2")
    show(store, "run 1", "one")
    show(store, "run 2", "two")
    assert in_order(store) == ["one", "two"]


def test_an_edit_of_a_card_not_yet_posted_is_posted_in_its_place(store: Store) -> None:
    put(store, text="queued", card="run 1", dedupe="run 1")
    show(store, "run 1", "training")
    assert due(store) == [("post", "training")]


def test_an_edit_keeps_the_wait_that_slack_asked_for(store: Store) -> None:
    posted(store)
    show(store, "run 1", "10%")
    store.outbox.postpone(only(store), due_at=30.0, error="ratelimited")
    show(store, "run 1", "20%", now=12.0)
    assert due(store, 29.0) == []
    assert due(store, 30.0) == [("edit", "20%")]
    assert only(store, 30.0).tries == 1


def test_an_edit_replaced_while_under_way_stays_due(store: Store) -> None:
    posted(store)
    show(store, "run 1", "10%")
    under_way = only(store)
    show(store, "run 1", "20%")
    store.outbox.mark_sent(under_way, channel="C1", ts="1.1")
    assert due(store) == [("edit", "20%")]
    store.outbox.mark_sent(only(store), channel="C1", ts="1.1")
    assert store.outbox.waiting() == 0


def test_a_post_replaced_while_under_way_goes_on_as_an_edit_of_its_card(store: Store) -> None:
    put(store, text="queued", card="run 1", dedupe="run 1")
    under_way = only(store)
    show(store, "run 1", "training")
    store.outbox.mark_sent(under_way, channel="C1", ts="1.1")
    assert due(store) == [("edit", "training")]
    assert store.outbox.card("run 1") == Card("run 1", "C1", "1.1")
    put(store, text="queued", card="run 1", dedupe="run 1")
    assert due(store) == [("edit", "training")], "the same draft of the post does nothing still"


def test_giving_up_an_edit_keeps_the_newer_one(store: Store) -> None:
    posted(store)
    show(store, "run 1", "too long")
    under_way = only(store)
    show(store, "run 1", "short")
    store.outbox.give_up(under_way, error="msg_too_long")
    assert due(store) == [("edit", "short")]


def test_what_was_given_up_is_not_due_and_says_why(store: Store) -> None:
    put(store, text="bad")
    store.outbox.give_up(only(store), error="invalid_blocks")
    assert (due(store), store.outbox.waiting()) == ([], 0)
    assert store.database.row("SELECT state, error FROM outbox") == {
        "state": "dead",
        "error": "invalid_blocks",
    }


def test_a_reply_waits_for_its_card_s_post(store: Store) -> None:
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


def test_an_edit_of_a_card_that_never_came_to_stand_is_its_post(store: Store) -> None:
    put(store, text="refused", card="run 1", dedupe="run 1")
    store.outbox.give_up(only(store), error="invalid_blocks")
    show(store, "run 1", "20%")
    show(store, "run 1", "30%")
    assert due(store, RETRY_S + 10.0) == [("post", "30%")]
    store.outbox.mark_sent(only(store, RETRY_S + 10.0), channel="C1", ts="1.1")
    assert store.outbox.card("run 1") == Card("run 1", "C1", "1.1")


def test_a_lost_card_is_posted_anew_under_its_name(store: Store) -> None:
    posted(store)
    show(store, "run 1", "50%")
    store.outbox.repost(only(store), now=12.0)
    assert due(store, 11.0) == []
    assert due(store, 12.0) == [("post", "50%")]
    assert store.outbox.card("run 1") is None
    show(store, "run 1", "60%")
    store.outbox.mark_sent(only(store, 12.0), channel="C1", ts="9.9")
    assert store.outbox.card("run 1") == Card("run 1", "C1", "9.9")
    assert store.outbox.waiting() == 0


def test_a_closed_channel_s_message_goes_elsewhere_and_into_no_thread(store: Store) -> None:
    posted(store)
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


def test_what_one_person_was_to_see_never_becomes_a_post_for_all(store: Store) -> None:
    put(store, "ephemeral", "your text", person="U1")
    store.outbox.reroute(only(store), channel="C9", now=2.0)
    assert (only(store).kind, only(store).person) == ("direct", "U1")


def test_waiting_longer_counts_a_try_unless_it_is_not_the_message_s_fault(store: Store) -> None:
    put(store)
    store.outbox.postpone(only(store), due_at=20.0, error="HTTP 500")
    assert (only(store, 20.0).tries, only(store, 20.0).due_at) == (1, 20.0)
    store.outbox.postpone(only(store, 20.0), due_at=30.0, error="token_revoked", counts=False)
    assert only(store, 30.0).tries == 1


def test_a_draft_goes_with_the_transaction_that_makes_it_true(store: Store) -> None:
    try:
        with store.transaction():
            put(store)
            raise RuntimeError
    except RuntimeError:
        pass
    assert store.outbox.waiting() == 0


def test_of_what_was_sent_only_its_dedupe_is_kept(store: Store) -> None:
    put(store, text="a customer's words", dedupe="once")
    assert in_order(store) == ["a customer's words"]
    assert store.database.rows("SELECT * FROM outbox") == []
    assert store.outbox.was_put("once")
    put(store, text="a customer's words", dedupe="once")
    assert due(store) == []


def test_a_card_that_was_given_up_is_posted_again_by_its_next_draft(store: Store) -> None:
    put(store, text="queued", card="run 1", dedupe="run 1")
    store.outbox.give_up(only(store), error="not_in_channel")
    put(store, text="training", card="run 1", dedupe="run 1", now=2.0)
    put(store, text="training", card="run 1", dedupe="run 1", now=3.0)
    assert due(store, RETRY_S) == [], "what Slack refused is not asked of it each second"
    assert due(store, RETRY_S + 3.0) == [("post", "training")]


def test_a_card_that_was_given_up_is_posted_once_though_an_edit_and_a_post_follow(store: Store) -> None:
    put(store, text="queued", card="run 1", dedupe="run 1")
    store.outbox.give_up(only(store), error="not_in_channel")
    show(store, "run 1", "training")
    put(store, text="done", card="run 1", dedupe="run 1")
    assert in_order(store, RETRY_S + 10.0) == ["training"]


def test_a_message_that_was_given_up_and_is_no_card_stays_so(store: Store) -> None:
    put(store, text="end", dedupe="end 1")
    store.outbox.give_up(only(store), error="invalid_blocks")
    put(store, text="end", dedupe="end 1", now=2.0)
    assert due(store, 1_000.0) == []
