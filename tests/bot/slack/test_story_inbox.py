"""A bot is killed (SIGKILL) between storing a delivery and handling it: the next one handles it, once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from slack_bolt.adapter.socket_mode.internals import run_bolt_app
from slack_sdk.socket_mode.request import SocketModeRequest

from bot.slack.inbox import MOST_TRIES, STALE_S, replay
from demo.people import ANA, BEN, TICKETS
from demo.workspace import NotAnswered
from tests.bot.decisions.test_story_approval import set_verdict
from tests.bot.props import tickets_csv
from tests.bot.world import DORA, Rules, World, words_of
from tests.peers.hosted import KEY

ROOT = Path(__file__).parents[3]
DYING_BOT = (sys.executable, "-m", "tests.bot.slack.dying_bot")
SLOW_AFTER = ["before", pytest.param("after", marks=pytest.mark.slow)]
FREEZE = ("bot.services.decisions.freeze", "freeze")


def environment(world: World) -> Mapping[str, str]:
    access = world.slack.access
    return {
        **os.environ,
        "SLACK_BOT_TOKEN": access.bot_token,
        "SLACK_SIGNING_SECRET": access.signing_secret,
        "FINETUNE_CONFIG": str(world.folder / "finetune.toml"),
        "ACME_KEY": KEY,
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def bot_that_dies(world: World, at: tuple[str, str], when: str) -> Iterator[None]:
    """Run another bot on the same data, over HTTP, that is killed at that call."""
    world.stop()
    command = [*DYING_BOT, *at, when]
    with subprocess.Popen(
        command, env=environment(world), cwd=world.folder, stdout=subprocess.PIPE, text=True
    ) as bot:
        assert bot.stdout is not None
        line = bot.stdout.readline()
        world.slack.deliver_to(line.split(" · ")[1])
        try:
            yield
            assert bot.wait(20) == -signal.SIGKILL
        finally:
            bot.kill()  # otherwise a bot that is still alive would be waited for forever


def boot_again(world: World) -> None:
    world.clock = time.time()
    world.boot()
    boot_once(world)


def type_unanswered(world: World, line: str) -> None:
    """The ack comes before the command is carried out, but the bot may be killed before it is sent."""
    try:
        world.slack.command(BEN.id, TICKETS.id, line)
    except NotAnswered:
        world.unacked_deliveries += 1


@pytest.mark.parametrize("when", SLOW_AFTER)
def test_a_command_whose_bot_is_killed_before_or_after_its_effect_is_done_once(
    world: World, when: str
) -> None:
    with bot_that_dies(world, FREEZE, when):
        type_unanswered(world, "/finetune freeze the bill looks odd")
    boot_again(world)
    assert world.store.freezes.current().reason == "the bill looks odd"
    assert [entry.action for entry in world.store.audit.entries("freeze 1")] == ["freeze"]
    assert len([text for text in world.texts() if "Spending frozen by" in text]) == 1
    assert not any("already frozen" in words_of(reply) for reply in world.slack.ephemerals(BEN.id))
    assert world.store.inbox.waiting() == []


def test_an_event_that_was_acked_before_the_kill_is_answered(world: World) -> None:
    """Bolt acks events before they are handled, so Slack doesn't repeat them."""
    with bot_that_dies(world, ("bot.cards.common.help", "card"), "after the ack"):
        world.slack.say(ANA.id, TICKETS.id, f"<@{world.slack.access.bot_user}> help")
    assert world.slack.deliveries[-1].acked
    boot_again(world)
    world.tick_until(lambda: count_helps(world) == 1, "the answer")
    assert world.store.inbox.waiting() == []
    replay(world.service.app, world.service.context)
    world.tick()
    assert count_helps(world) == 1


def test_a_refusal_reaches_the_clicker_although_the_bot_was_killed_after_the_ack(
    make_world: Callable[[Rules], World],
) -> None:
    """A verdict of go needs no form, so the budget is checked in the approval's own transaction."""
    world = make_world(Rules(budget="0.01"))
    set_verdict(world, "go")
    with bot_that_dies(world, ("bot.slack.actions", "_show_refusal"), "after the ack"):
        world.approve()
    assert world.slack.deliveries[-1].acked and world.slack.ephemerals(BEN.id) == ()
    boot_again(world)
    world.tick_until(lambda: world.slack.ephemerals(BEN.id), "the refusal")
    assert "is left" in words_of(world.slack.ephemerals(BEN.id)[-1])
    assert world.run().state == "awaiting_approval" and world.store.inbox.waiting() == []


def count_helps(world: World) -> int:
    answers = map(words_of, world.slack.ephemerals(ANA.id))
    return len([text for text in answers if "/finetune upload" in text])


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_form_submitted_as_the_bot_is_killed_makes_one_dataset(world: World, when: str) -> None:
    world.slack.command(DORA.id, TICKETS.id, "/finetune upload")
    file = world.put_file("tickets.csv", tickets_csv())
    with bot_that_dies(world, ("bot.services.datasets.datasets", "receive"), when):
        with suppress(NotAnswered):
            world.fill_upload(DORA, {"file": file, "name": "tickets"})
        world.unacked_deliveries += 1
    boot_again(world)
    assert [(dataset.name, dataset.version) for dataset in world.store.datasets.all()] == [("tickets", 1)]


def freeze_payload(world: World) -> dict[str, Any]:
    return {
        "command": "/finetune",
        "text": "freeze the bill looks odd",
        "user_id": BEN.id,
        "channel_id": TICKETS.id,
        "team_id": "T0",
        "trigger_id": "13345224609.738474920.8088930838d88f008e0",
        "response_url": f"{world.slack.access.api_url}nowhere",
        "api_app_id": "A0",
    }


@pytest.mark.parametrize("when", SLOW_AFTER)
@pytest.mark.parametrize("first", ["redelivered", pytest.param("replayed", marks=pytest.mark.slow)])
def test_a_command_over_a_socket_is_done_once_whoever_handles_it_first(
    world: World, when: str, first: str
) -> None:
    """Slack repeats an envelope that was not acked over the next connection."""
    world.stop()
    body = freeze_payload(world)
    command = [*DYING_BOT, *FREEZE, when, json.dumps(body)]
    process = subprocess.run(command, env=environment(world), timeout=30)
    assert process.returncode == -signal.SIGKILL
    world.clock = time.time()
    world.boot()
    envelope = SocketModeRequest("slash_commands", "envelope-1", body, retry_attempt=1)
    if first == "redelivered":
        assert run_bolt_app(world.service.app, envelope).status == 200
        replay(world.service.app, world.service.context)
    else:
        replay(world.service.app, world.service.context)
        assert run_bolt_app(world.service.app, envelope).status == 200
    world.wait_until_idle()
    world.tick(2)
    assert [entry.action for entry in world.store.audit.entries()] == ["freeze"]
    assert len([text for text in world.texts() if "Spending frozen by" in text]) == 1


def test_a_commands_answer_reaches_its_author_after_the_kill(world: World) -> None:
    body = {**freeze_payload(world), "text": "status 7"}
    world.store.inbox.receive("trigger x", body, now=world.clock)
    world.restart()
    boot_once(world)
    assert "There is no run 7" in words_of(world.slack.ephemerals(BEN.id)[-1])


def boot_once(world: World) -> None:
    replay(world.service.app, world.service.context)
    world.wait_until_idle()
    world.tick(2)


def test_a_delivery_that_is_an_hour_old_or_kills_each_time_is_reported_not_handled(world: World) -> None:
    world.store.inbox.receive("trigger old", freeze_payload(world), now=world.clock - STALE_S - 1)
    world.store.inbox.receive("trigger bad", {**freeze_payload(world), "text": "unfreeze"}, now=world.clock)
    for _ in range(MOST_TRIES):
        world.store.inbox.count_try("trigger bad")
    world.restart()
    boot_once(world)
    assert world.store.freezes.current() is None and world.store.inbox.waiting() == []
    replies = "\n".join(words_of(reply) for reply in world.slack.ephemerals(BEN.id))
    assert "/finetune freeze the bill looks odd" in replies and "/finetune unfreeze" in replies
    assert replies.count("nothing was done") >= 2


def test_a_handled_delivery_keeps_none_of_its_words(world: World) -> None:
    world.type("/finetune freeze canary-words", user=BEN)
    rows = world.store.database.rows("SELECT body FROM deliveries")
    assert rows and all(row["body"] is None for row in rows)
