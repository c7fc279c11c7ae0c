"""Files as people send them, and a faulty Slack: bad files are refused with the fix; nothing is lost or repeated."""

from __future__ import annotations

import json

import pytest

from bot.cards.datasets import check_reports
from demo.people import ANA, BEN, TICKETS
from demo.slack_emulator import Fault, broken, cut_off, refused, slow, too_many
from demo.slack_emulator.delivery import BotClient
from tests.bot.props import tickets_csv
from tests.bot.world import DORA, JOBS, START, World


def _lines(count: int) -> list[str]:
    chats = [
        [
            {"role": "user", "content": f"question {number}, please"},
            {"role": "assistant", "content": f"reply {number}"},
        ]
        for number in range(count)
    ]
    return [json.dumps({"messages": messages}) for messages in chats]


def _jsonl(line: int, instead: str) -> str:
    lines = _lines(30)
    lines[line - 1] = instead
    return "\n".join(lines) + "\n"


STRANGE_ROLE = json.dumps(
    {"messages": [{"role": "wizard", "content": "x"}, {"role": "assistant", "content": "y"}]}
)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 4

BAD_FILES = [
    ("notes.jsonl", _jsonl(7, '{"messages": [}'), ("7", "JSON")),
    ("roles.jsonl", _jsonl(12, STRANGE_ROLE), ("12", "unknown role", "user, assistant")),
    ("few.jsonl", "\n".join(_lines(3)) + "\n", ("3 usable rows", "14 is the minimum")),
    ("empty.jsonl", "\n", ("empty",)),
    ("photo.jsonl", PNG, ("PNG picture", "JSONL, CSV")),
    ("plain.csv", "text\n" + "\n".join(f"sentence {number}" for number in range(30)), ("column",)),
]


@pytest.mark.deep
@pytest.mark.parametrize(("name", "content", "parts"), BAD_FILES, ids=[name for name, *_ in BAD_FILES])
def test_a_bad_file_is_refused_with_its_reason(
    world: World, name: str, content: str | bytes, parts: tuple[str, ...]
) -> None:
    assert world.upload(name, content).accepted
    world.tick_until(lambda: world.dataset().state not in ("received", "checking"), "the check")
    world.send()
    (card,) = world.cards()
    for part in parts:
        assert part in card, card
    assert world.dataset().state == "refused"
    answer = world.type(START)
    assert "can't be used" in answer and "/finetune upload" in answer
    assert world.store.runs.newest() == []


def test_details_have_the_numbers_that_the_card_has_no_room_for(world: World) -> None:
    world.upload("tickets.csv", tickets_csv())
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    (card,) = world.cards()
    assert "Tokens per row" not in card and "Rows per label" not in card
    world.click(DORA, check_reports.DETAILS)
    details = world.read_form(DORA)
    for part in ("What the check found", "Tokens per row", "Rows per label", "Tokens in total"):
        assert part in details


def test_a_file_of_210_mb_is_refused_without_a_download(world: World) -> None:
    path = world.file("big.csv", b"")
    with path.open("wb") as file:
        file.truncate(210_000_000)
    world.slack.upload(DORA.id, path, channel=TICKETS.id)
    message = world.slack.messages(TICKETS.id)[-1]
    world.slack.message_shortcut(DORA.id, TICKETS.id, message.ts, "use_as_training_data")
    assert world.fill_upload(DORA, {}).closed
    world.tick()
    assert world.dataset().state == "refused" and world.dataset().name == "big"
    card = world.find_message("the limit is")
    assert "210 MB" in card and "Send less: a sample of a few thousand rows" in card
    assert world.slack.calls("download") == ()


def test_a_file_deleted_before_its_download_is_reported(world: World) -> None:
    world.slack.fail("files.info", refused("file_deleted"), times=None)
    world.upload("tickets.csv", tickets_csv())
    world.tick()
    assert "Upload again" in world.find_message("was deleted", "invite @Finetune")
    assert world.has_button("upload_again")


def test_a_file_waits_until_a_missing_scope_is_granted(world: World) -> None:
    world.slack.fail("files.info", refused("missing_scope"), times=2)
    world.upload("tickets.csv", tickets_csv())
    world.tick()
    assert world.dataset().state == "received"
    world.pass_time(300)
    world.tick()
    world.pass_time(300)
    world.tick_until(lambda: world.dataset().state == "ready", "the check")


@pytest.mark.deep
@pytest.mark.parametrize(
    ("method", "fault"),
    [("files.info", too_many(2)), ("files.info", cut_off()), ("download", broken()), ("download", cut_off())],
    ids=str,
)
def test_a_failed_fetch_is_repeated(world: World, method: str, fault: Fault) -> None:
    world.slack.fail(method, fault, times=2)
    world.upload("tickets.csv", tickets_csv())
    world.tick()
    assert world.dataset().state == "received" and world.dataset().tries == 1
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    assert len(world.cards()) == 1


def test_a_file_that_slack_never_delivers_is_given_up_with_a_message(world: World) -> None:
    world.slack.fail("download", broken(503), times=None)
    world.upload("tickets.csv", tickets_csv())
    for _ in range(10):
        world.tick()
        world.pass_time(200)
    assert world.dataset().state == "refused"
    assert "Gave up after" in world.find_message("can't be used")


@pytest.mark.parametrize("fault", [too_many(2), broken()], ids=str)
def test_a_faulty_slack_loses_and_repeats_no_message(world: World, fault: Fault) -> None:
    for method in ("chat.postMessage", "chat.update", "conversations.open"):
        world.slack.fail(method, fault, times=3)
    world.start()
    world.tick_until(lambda: world.has_button("approve_plan"), "the approval card")
    world.approve()
    world.tick_until_state("training")
    world.pass_time(60)
    world.tick_until(lambda: any("approved" in text for text in world.dms()), "the message to the requester")
    world.tick_until(lambda: not world.has_button("approve_plan"), "the card to be edited")
    assert len([text for text in world.texts() if "Approved by" in text]) == 1
    assert len(world.cards()) == 1
    assert world.jobs() == 1


def test_an_archived_channel_stops_no_run(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.slack.archive(TICKETS.id)
    world.tick_until_state("evaluating")
    assert world.jobs() == 1


def test_a_delivery_that_slack_repeats_is_handled_once(world: World) -> None:
    world.upload("tickets.csv", tickets_csv())
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    assert world.slack.repeat(world.slack.deliveries[-1]).acked  # the form
    world.type(START)
    assert world.slack.repeat(world.slack.deliveries[-1]).acked  # the command
    world.send()
    world.approve()
    assert world.slack.repeat(world.slack.deliveries[-1], retry=2).acked  # the click
    world.tick_until_state("training")
    assert len(world.store.datasets.all()) == len(world.store.runs.newest()) == 1
    assert world.jobs() == 1 and world.provider.count(f"POST {JOBS}") == 1
    assert world.slack.ephemerals(BEN.id) == ()


def test_the_same_mention_twice_is_answered_once(world: World) -> None:
    world.slack.say(ANA.id, TICKETS.id, f"<@{world.slack.access.bot_user}> hello")
    assert world.slack.repeat(world.slack.deliveries[-1]).acked
    world.tick_until(lambda: world.slack.ephemerals(ANA.id), "the answer")
    world.tick(3)
    assert len(world.slack.ephemerals(ANA.id)) == 1


def test_a_slow_slack_delays_no_ack(world: World) -> None:
    world.start()
    world.slack.fail("users.info", slow(5), times=None)
    assert "Slack didn't say who you are" in world.click_and_read(BEN, "approve_plan")
    world.slack.clear_faults()
    assert world.run().state == "awaiting_approval"


def test_a_request_that_slack_did_not_sign_is_refused(world: World) -> None:
    stranger = BotClient(world.service.address, "another secret")
    assert stranger.form("/finetune", {"command": "/finetune", "text": "help"}).status == 401


def test_names_and_labels_from_files_are_escaped(world: World) -> None:
    content = tickets_csv().replace("refund", "<!channel> *x*")
    world.upload("a <!here> b.csv", content, called="<@U1> Tickets")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    (card,) = world.cards()
    assert "<!channel>" not in card and "<!here>" not in card and world.dataset().name == "u1-tickets"
