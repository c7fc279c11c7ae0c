"""Which of a message's two forms is sent: the setting chooses, and what Slack refuses is sent in the other
one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from slack_sdk import WebClient

from bot.cards.blocks import Message
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
    """Stands still until somebody moves it."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


def notices(store: Store, slack: SlackEmulator, blocks: Blocks, clock: Clock) -> OutboxSender:
    client = WebClient(slack.access.bot_token, base_url=slack.access.api_url, retry_handlers=[])
    return OutboxSender(store, client, blocks=blocks, clock=clock)


def post(store: Store, clock: Clock, message: Message, **more: Any) -> None:
    clock.now += 60
    draft: dict[str, Any] = {"kind": "post", "channel": TICKETS.id, **more}
    store.outbox.put(Draft(body=message.letter(), **draft), now=clock.now)


def kinds(slack: SlackEmulator) -> list[list[str]]:
    return [[block["type"] for block in message.blocks] for message in slack.messages(TICKETS.id)]


def types(blocks: Any) -> list[str]:
    return [block["type"] for block in blocks]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("name", BOTH)
def test_the_setting_chooses_the_form(name: str, store: Store, slack: SlackEmulator, clock: Clock) -> None:
    for blocks in ("newest", "classic"):
        post(store, clock, BOTH[name])
        assert notices(store, slack, blocks, clock).send_due() == 1
    assert kinds(slack) == [types(BOTH[name].newest), types(BOTH[name].blocks)]
    assert all("newest" not in call.args for call in slack.calls())


def test_refused_newest_blocks_are_sent_as_classic_ones_at_once_and_from_then_on(
    store: Store, slack: SlackEmulator, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    sender = notices(store, slack, "newest", clock)
    slack.fail("chat.postMessage", refused("invalid_blocks"))
    message = BOTH["run-training"]
    post(store, clock, message, card="run 7")
    assert sender.send_due() == 1
    assert "classic ones from now on" in caplog.text
    clock.now += 60
    store.outbox.show("run 7", TICKETS.id, BOTH["run-measuring"].letter(), now=clock.now)
    assert sender.send_due() == 1
    assert kinds(slack) == [types(BOTH["run-measuring"].blocks)]
    assert len(slack.calls("chat.postMessage")) == 2 and len(slack.calls("chat.update")) == 1


def test_another_trouble_is_no_reason_for_the_classic_form(
    store: Store, slack: SlackEmulator, clock: Clock
) -> None:
    sender = notices(store, slack, "newest", clock)
    slack.fail("chat.postMessage", broken(500))
    post(store, clock, BOTH["run-training"])
    assert sender.send_due() == 0
    clock.now += 60
    assert sender.send_due() == 1
    assert kinds(slack) == [types(BOTH["run-training"].newest)]


def test_what_only_one_person_sees_has_both_forms_too(
    store: Store, slack: SlackEmulator, clock: Clock
) -> None:
    slack.fail("chat.postEphemeral", refused("invalid_blocks"))
    post(store, clock, BOTH["prices"], kind="ephemeral", person=ANA.id)
    assert notices(store, slack, "newest", clock).send_due() == 1
    (told,) = slack.ephemerals(ANA.id)
    assert types(told.blocks) == types(BOTH["prices"].blocks)
