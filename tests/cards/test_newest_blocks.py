"""Which blocks are sent: a setting chooses newest or classic ones; classic ones replace those that Slack refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slack_sdk import WebClient

from bot.cards.common.blocks import Message
from bot.outbox_sender import OutboxSender
from bot.settings import Blocks
from demo.people import ANA, TICKETS
from demo.slack_emulator import SlackEmulator, broken, refused
from storage.records import Draft
from storage.store import Store
from tests.cards.all_cards import messages

BOTH = {name: message for name, message in messages().items() if message.newest}


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator() as slack:
        yield slack


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "finetune.db")
    yield store
    store.close()


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def create_sender(store: Store, slack: SlackEmulator, blocks: Blocks, clock: Clock) -> OutboxSender:
    client = WebClient(slack.access.bot_token, base_url=slack.access.api_url, retry_handlers=[])
    return OutboxSender(store, client, blocks=blocks, clock=clock)


def post(store: Store, clock: Clock, message: Message, **more: Any) -> None:
    clock.now += 60
    draft: dict[str, Any] = {"kind": "post", "channel": TICKETS.id, "topic": "results", **more}
    store.outbox.put(Draft(body=message.letter(), **draft), now=clock.now)


def sent_types(slack: SlackEmulator) -> list[list[str]]:
    return [block_types(message.blocks) for message in slack.messages(TICKETS.id)]


def block_types(blocks: Any) -> list[str]:
    return [block["type"] for block in blocks]


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_the_setting_chooses_the_form_that_is_sent(store: Store, slack: SlackEmulator, clock: Clock) -> None:
    forms: tuple[Blocks, ...] = ("newest", "classic")
    for blocks in forms:
        sender = create_sender(store, slack, blocks, clock)
        for message in BOTH.values():
            post(store, clock, message)
            assert sender.send_due() == 1
    newest = [block_types(message.newest) for message in BOTH.values()]
    assert sent_types(slack) == [*newest, *(block_types(message.blocks) for message in BOTH.values())]
    assert all("newest" not in call.args for call in slack.calls())


def test_refused_newest_blocks_are_resent_as_classic_ones_from_then_on(
    store: Store, slack: SlackEmulator, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    sender = create_sender(store, slack, "newest", clock)
    slack.fail("chat.postMessage", refused("invalid_blocks"))
    message = BOTH["run-training"]
    post(store, clock, message, card="run 7")
    assert sender.send_due() == 1
    assert "classic ones from now on" in caplog.text
    clock.now += 60
    store.outbox.show("run 7", TICKETS.id, BOTH["run-measuring"].letter(), now=clock.now)
    assert sender.send_due() == 1
    assert sent_types(slack) == [block_types(BOTH["run-measuring"].blocks)]
    assert len(slack.calls("chat.postMessage")) == 2 and len(slack.calls("chat.update")) == 1


def test_an_outage_does_not_switch_to_classic_blocks(
    store: Store, slack: SlackEmulator, clock: Clock
) -> None:
    sender = create_sender(store, slack, "newest", clock)
    slack.fail("chat.postMessage", broken(500))
    post(store, clock, BOTH["run-training"])
    assert sender.send_due() == 0
    clock.now += 60
    assert sender.send_due() == 1
    assert sent_types(slack) == [block_types(BOTH["run-training"].newest)]


def test_an_ephemeral_message_falls_back_to_classic_blocks_too(
    store: Store, slack: SlackEmulator, clock: Clock
) -> None:
    slack.fail("chat.postEphemeral", refused("invalid_blocks"))
    post(store, clock, BOTH["prices"], kind="ephemeral", person=ANA.id)
    assert create_sender(store, slack, "newest", clock).send_due() == 1
    (message,) = slack.ephemerals(ANA.id)
    assert block_types(message.blocks) == block_types(BOTH["prices"].blocks)
