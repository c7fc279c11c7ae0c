"""The check's findings go into the card's thread; a cleaned copy goes only where customers' words may be read."""

from __future__ import annotations

from bot.services.datasets import clean_copies
from demo.people import ANA, BEN, TICKETS
from demo.slack_emulator import too_many
from demo.workspace import PostedMessage
from tests.bot.props import tickets_csv
from tests.bot.world import CLEO, DORA, GUS, HR, PRIVATE, PUBLIC, World, words_of
from tests.patience import wait_until

CLEANED = "tickets-cleaned.csv"


def flawed_csv() -> str:
    """Sixty rows, then two copies and one without a text."""
    rows = tickets_csv().splitlines()
    return "\n".join([*rows, rows[5], rows[6], ",refund"]) + "\n"


def test_a_private_channel_gets_the_findings_and_one_cleaned_copy_in_the_thread(world: World) -> None:
    first = world.upload_and_check(flawed_csv())
    (card,) = world.cards()
    assert "in the thread" in card
    findings = world.read_file("findings.txt")
    assert "line 62 repeats line 6" in findings and "line 63 repeats line 7" in findings
    assert findings.count("Delete the copies") == 1, "a fix is named once"
    assert "Order" not in findings and "a question about" not in findings, "no customer's words"
    parent = world.find_button("post_cleaned")
    assert _message_with_file(world, "findings.txt").thread_ts == parent.ts

    assert "Only full members" in world.click_and_read(GUS, "post_cleaned")
    assert world.store.cleanings.waiting() == []
    assert "appear in the card's thread" in world.click_and_read(BEN, "post_cleaned")
    assert "already" in world.click_and_read(BEN, "post_cleaned")
    world.tick_until(lambda: CLEANED in world.files(), "the cleaned file")
    world.tick(3)
    assert world.files().count(CLEANED) == 1
    assert world.read_file(CLEANED).splitlines() == tickets_csv().splitlines()
    message = _message_with_file(world, CLEANED)
    words = words_of(message)
    assert message.thread_ts == parent.ts
    assert "60 rows" in words and "3 lines" in words and "62, 63" in words and "duplicate" in words
    original = world.service.settings.files / str(first.sha256)
    assert original.read_text() == flawed_csv(), "the uploaded file is kept"
    (entry,) = [entry for entry in world.store.audit.entries() if entry.action == "ask cleaned"]
    assert (entry.who, entry.subject) == (BEN.id, f"dataset {first.id}")

    second = world.upload_and_check(world.read_file(CLEANED))
    assert (first.version, second.version, second.state) == (1, 2, "ready")


def test_a_valid_file_gets_plots_but_neither_findings_nor_a_cleaned_copy(world: World) -> None:
    world.upload_and_check(tickets_csv())
    assert set(world.files()) == {"lengths.png", "labels.png"}
    assert not world.has_button("post_cleaned")


def test_in_a_public_channel_only_the_uploader_gets_the_cleaned_file(world: World) -> None:
    world.upload_and_check(flawed_csv(), channel=PUBLIC)
    refusal = world.click_and_read(CLEO, "post_cleaned", channel=PUBLIC)
    assert "customers' words" in refusal and f"<@{DORA.id}>" in refusal
    assert world.store.cleanings.waiting() == []
    assert "direct message" in world.click_and_read(DORA, "post_cleaned", channel=PUBLIC)
    place = world.slack.dm(DORA.id)
    world.tick_until(lambda: world.slack.messages(place), "the direct message")
    assert world.read_file(CLEANED, place).splitlines() == tickets_csv().splitlines()
    assert CLEANED not in world.files(PUBLIC)
    assert "findings.txt" in world.files(PUBLIC), "lines and fixes are no secret"


def test_no_cleaned_file_is_posted_once_the_channel_became_public(world: World) -> None:
    world.upload_and_check(flawed_csv())
    world.click(CLEO, "post_cleaned")
    wait_until(world.store.cleanings.waiting, "the request")
    world.slack.make_public(TICKETS.id)
    world.tick_until(lambda: not world.store.cleanings.waiting(), "the request to be answered")
    world.send()
    assert CLEANED not in world.files()
    assert any("customers' words" in text for text in world.dms(CLEO))


def test_restarts_while_a_cleaned_file_is_written_lose_and_repeat_nothing(world: World) -> None:
    world.upload_and_check(flawed_csv())
    world.click_and_read(CLEO, "post_cleaned")
    world.restart()
    world.tick()
    world.restart()
    world.tick_until(lambda: CLEANED in world.files(), "the cleaned file")
    world.tick(2)
    assert world.files().count(CLEANED) == 1


def test_two_waiting_cleaned_files_go_each_into_its_own_channel(world: World) -> None:
    world.upload_and_check(flawed_csv())
    world.upload("hr.csv", flawed_csv().replace("Order", "Absence"), channel=HR, called="hr")
    world.tick_until(lambda: world.dataset().state == "refused", "the second check")
    world.send()
    world.slack.fail("files.getUploadURLExternal", too_many(60))
    world.click(DORA, "post_cleaned", channel=HR)
    world.tick_until(
        lambda: not world.store.cleanings.waiting() and world.store.outbox.waiting(), "the first file"
    )
    world.click(CLEO, "post_cleaned")
    world.tick_until(lambda: CLEANED in world.files(), "the second file")
    assert "hr-cleaned.csv" not in world.files(HR)
    world.pass_time(60)
    world.tick_until(lambda: "hr-cleaned.csv" in world.files(HR), "the first file's second try")
    assert "Absence" not in world.read_file(CLEANED)
    assert "Order" not in world.read_file("hr-cleaned.csv", HR.id)
    world.tick()
    assert list((world.service.settings.data / "cleaned").iterdir()) == [], "sent files are deleted"


def test_a_file_without_a_valid_row_gets_no_cleaned_copy(world: World) -> None:
    lines = "\n".join('{"messages": [' for _ in range(12)) + "\n"
    assert world.upload_and_check(lines, file="broken.jsonl").state == "refused"
    assert not world.has_button("post_cleaned") and world.has_button("upload_again")
    # An older card may still have the button.
    clean_copies.request(world.service.context, world.dataset().id, ANA.id)
    world.tick_until(lambda: any("no cleaned copy" in text for text in world.dms(ANA)), "the answer")
    assert not [name for name in world.files() if "cleaned" in name]


def _message_with_file(world: World, name: str) -> PostedMessage:
    messages = reversed(world.slack.messages(PRIVATE.id))
    return next(message for message in messages if name in [file.name for file in message.files])
