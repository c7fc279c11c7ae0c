"""Topics that a person or a channel has switched off: what the outbox drops, for whom, and that it stays dropped."""

from __future__ import annotations

from storage.records import Draft, Topic
from storage.store import Store


def switch(store: Store, place: str, topic: Topic = "results", *, is_on: bool = False) -> bool:
    return store.message_settings.set(place, topic, is_on=is_on, by="U1", now=5.0)


def put(store: Store, once: str | None = "a", *, channel: str = "C1", topic: Topic = "results") -> None:
    store.outbox.put(Draft("post", channel, {"text": "x"}, dedupe=once, topic=topic), now=1.0)


def put_direct(store: Store, person: str, topic: Topic = "problems") -> None:
    store.outbox.put(Draft("direct", "C1", {"text": "x"}, person=person, topic=topic), now=1.0)


def places(store: Store) -> list[str]:
    return [item.person or item.channel for item in store.outbox.due(10.0)]


def test_everything_is_on_until_somebody_switches_it_off(store: Store) -> None:
    assert store.message_settings.of("C1") == {} and store.message_settings.is_on("C1", "results")
    assert switch(store, "C1")
    (setting,) = store.message_settings.of("C1").values()
    assert (setting.topic, setting.is_on, setting.person, setting.at) == ("results", False, "U1", 5.0)
    assert store.message_settings.is_on("C1", "money") and store.message_settings.is_on("C2", "results")


def test_a_switch_that_changes_nothing_keeps_who_set_it(store: Store) -> None:
    assert not switch(store, "C1", is_on=True), "it is on without a setting"
    assert switch(store, "C1")
    assert not store.message_settings.set("C1", "results", is_on=False, by="U2", now=9.0)
    assert store.message_settings.of("C1")["results"].person == "U1"
    assert switch(store, "C1", is_on=True) and store.message_settings.is_on("C1", "results")


def test_a_channel_gets_only_the_topics_that_it_wants(store: Store) -> None:
    switch(store, "C1")
    put(store, None)
    put(store, "money", topic="money")
    put(store, "elsewhere", channel="C2")
    assert places(store) == ["C1", "C2"]


def test_a_direct_message_is_the_persons_choice_and_not_the_channels(store: Store) -> None:
    switch(store, "C1", "problems")
    switch(store, "U2", "problems")
    put_direct(store, "U1")
    put_direct(store, "U2")
    assert places(store) == ["U1"]


def test_what_was_dropped_is_not_sent_once_the_topic_is_on_again(store: Store) -> None:
    switch(store, "C1")
    put(store, "old")
    assert store.outbox.was_put("old"), "so that nobody prepares it again at each tick"
    switch(store, "C1", is_on=True)
    put(store, "old")
    put(store, "new")
    assert [item.dedupe for item in store.outbox.due(10.0)] == ["new"]


def test_what_one_channel_dropped_is_still_sent_to_another(store: Store) -> None:
    switch(store, "C1")
    put(store, "same")
    put(store, "same", channel="C2")
    assert places(store) == ["C2"]


def test_a_card_is_shown_whatever_is_off_unless_it_has_a_topic_of_its_own(store: Store) -> None:
    switch(store, "C1")
    store.outbox.show("run 1", "C1", {"text": "training"}, now=1.0)
    store.outbox.show("result 1", "C1", {"text": "better"}, now=1.0, topic="results")
    assert [item.card for item in store.outbox.due(10.0)] == ["run 1"]
    assert store.outbox.is_shown("run 1") and not store.outbox.is_shown("result 1")
    switch(store, "C1", is_on=True)
    store.outbox.show("result 1", "C1", {"text": "in use"}, now=2.0, topic="results")
    assert not store.outbox.is_shown("result 1"), (
        "its first text was dropped, so a later one isn't news either"
    )


def test_a_card_that_is_posted_is_edited_although_its_topic_is_off_by_now(store: Store) -> None:
    store.outbox.show("result 1", "C1", {"text": "better"}, now=1.0, topic="results")
    (item,) = store.outbox.due(10.0)
    store.outbox.mark_sent(item, channel="C1", ts="1.1")
    switch(store, "C1")
    store.outbox.show("result 1", "C1", {"text": "in use"}, now=2.0, topic="results")
    assert [(item.kind, item.body["text"]) for item in store.outbox.due(10.0)] == [("edit", "in use")]
