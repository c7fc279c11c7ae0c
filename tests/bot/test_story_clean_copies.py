"""What the check found goes into the card's thread; a cleaned copy goes only where customers' words may be read."""

from __future__ import annotations

import pytest

from bot.services import clean_copies
from demo.people import ANA, BEN, TICKETS
from demo.workspace import PostedMessage, wait_until
from tests.bot.props import tickets_csv
from tests.bot.world import CLEO, DORA, GUS, PRIVATE, PUBLIC, World, words_of

CLEANED = "tickets-cleaned.csv"


def flawed_csv() -> str:
    """Sixty rows, then two copies and one without a label."""
    rows = tickets_csv().splitlines()
    return "\n".join([*rows, rows[5], rows[6], "A question that nobody answered,"]) + "\n"


def _with_file(world: World, name: str, place: str = PRIVATE.id) -> PostedMessage:
    return next(
        one for one in reversed(world.slack.messages(place)) if name in [file.name for file in one.files]
    )


def test_every_finding_stands_in_a_file_in_the_card_s_thread(world: World) -> None:
    world.upload_and_check(flawed_csv())
    (card,) = world.cards()
    assert "in the thread" in card
    listed = world.read_file("findings.txt")
    assert "line 62 repeats line 6" in listed and "line 63 repeats line 7" in listed
    assert listed.count("Delete the copies") == 1, "a cure is said once"
    assert "Order" not in listed and "a question about" not in listed, "no customer's words"
    (parent,) = [one for one in world.slack.messages(PRIVATE.id) if "ready" in one.text or "used" in one.text]
    assert _with_file(world, "findings.txt").thread_ts == parent.ts


def test_a_file_in_order_has_plots_and_no_list(world: World) -> None:
    world.upload_and_check(tickets_csv(200))
    assert set(world.files()) == {"lengths.png", "labels.png"}
    assert not world.has_button("post_cleaned")


def test_a_private_channel_gets_the_cleaned_file_in_the_thread(world: World) -> None:
    world.upload_and_check(flawed_csv())
    assert "appear in the card's thread" in world.click_and_read(CLEO, "post_cleaned")
    world.tick_until(lambda: CLEANED in world.files(), "the cleaned file")
    assert world.posted(CLEANED).splitlines() == tickets_csv().splitlines()
    message = _with_file(world, CLEANED)
    assert message.thread_ts == _with_file(world, "findings.txt").thread_ts
    words = words_of(message)
    assert "60 rows" in words and "3 lines" in words and "62, 63" in words and "duplicate" in words
    world.tick(3)
    assert world.files().count(CLEANED) == 1
    original = world.service.settings.files / str(world.dataset().sha256)
    assert original.read_text() == flawed_csv(), "the file that was sent stays"


def test_the_cleaned_file_can_be_uploaded_again(world: World) -> None:
    first = world.upload_and_check(flawed_csv())
    world.click(CLEO, "post_cleaned")
    world.tick_until(lambda: CLEANED in world.files(), "the cleaned file")
    second = world.upload_and_check(world.posted(CLEANED))
    assert (first.version, second.version, second.state) == (1, 2, "ready")


def test_in_a_public_channel_only_who_uploaded_it_gets_it(world: World) -> None:
    world.upload_and_check(flawed_csv(), channel=PUBLIC)
    said = world.click_and_read(CLEO, "post_cleaned", channel=PUBLIC)
    assert "customers' words" in said and f"<@{DORA.id}>" in said
    assert world.store.cleanings.waiting() == []
    assert "direct message" in world.click_and_read(DORA, "post_cleaned", channel=PUBLIC)
    place = world.slack.dm(DORA.id)
    world.tick_until(lambda: world.slack.messages(place), "the direct message")
    assert world.posted(CLEANED, place).splitlines() == tickets_csv().splitlines()
    assert CLEANED not in world.files(PUBLIC)
    assert "findings.txt" in world.files(PUBLIC), "lines and cures are no secret"


def test_a_channel_opened_meanwhile_does_not_see_it(world: World) -> None:
    world.upload_and_check(flawed_csv())
    world.click(CLEO, "post_cleaned")
    wait_until(world.store.cleanings.waiting, "the wish")
    world.slack.make_public(TICKETS.id)
    world.tick_until(lambda: not world.store.cleanings.waiting(), "the wish to be answered")
    world.send()
    assert CLEANED not in world.files()
    assert any("customers' words" in text for text in world.dms(CLEO))


def test_asking_twice_is_asking_once(world: World) -> None:
    world.upload_and_check(flawed_csv())
    world.click_and_read(CLEO, "post_cleaned")
    assert "already" in world.click_and_read(CLEO, "post_cleaned")
    world.tick_until(lambda: CLEANED in world.files(), "the cleaned file")
    world.tick(2)
    assert world.files().count(CLEANED) == 1


@pytest.mark.parametrize("ticks", [0, 1])
def test_a_stop_while_it_is_written_loses_nothing(world: World, ticks: int) -> None:
    world.upload_and_check(flawed_csv())
    world.click_and_read(CLEO, "post_cleaned")
    world.tick(ticks)
    world.restart()
    world.tick_until(lambda: CLEANED in world.files(), "the cleaned file")
    world.tick(2)
    assert world.files().count(CLEANED) == 1


def test_a_guest_gets_no_file(world: World) -> None:
    world.upload_and_check(flawed_csv())
    assert "Only full members" in world.click_and_read(GUS, "post_cleaned")
    assert world.store.cleanings.waiting() == []


def test_a_file_without_a_row_to_keep_says_so(world: World) -> None:
    lines = "\n".join('{"messages": [' for _ in range(12)) + "\n"
    assert world.upload_and_check(lines, file="broken.jsonl").state == "refused"
    assert not world.has_button("post_cleaned") and world.has_button("upload_again")
    clean_copies.request(
        world.service.context, world.dataset().id, ANA.id
    )  # a card from before has the button
    world.tick_until(lambda: any("no cleaned copy" in text for text in world.dms(ANA)), "the answer")
    assert not [name for name in world.files() if "cleaned" in name]


def test_who_asks_is_in_the_audit_log(world: World) -> None:
    world.upload_and_check(flawed_csv())
    world.click_and_read(BEN, "post_cleaned")
    (entry,) = [one for one in world.store.audit.entries() if one.action == "ask cleaned"]
    assert (entry.who, entry.subject) == (BEN.id, f"dataset {world.dataset().id}")
