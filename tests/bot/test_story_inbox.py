"""A bot is killed (SIGKILL) between keeping a delivery and being done with it: the next one does it, once."""

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
from tests.bot.props import tickets_csv
from tests.bot.test_story_approval import advised_as
from tests.bot.world import DORA, Rules, World, words_of
from tests.peers.hosted import KEY

ROOT = Path(__file__).parents[2]
# `{at}` is what a listener calls; it is cut off before or after that has done its work.
DIES = """
import os, signal, sys, time
import {module} as module
whole = module.{name}
def cut_off(*args, **kwargs):
    if sys.argv[1] == "after":
        whole(*args, **kwargs)
    if sys.argv[1] == "after the ack":
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
module.{name} = cut_off
"""
OVER_HTTP = """
from bot.cli import main
main(["run"])
"""
OVER_A_SOCKET = """
import json
from slack_bolt.adapter.socket_mode.internals import run_bolt_app
from slack_sdk.socket_mode.request import SocketModeRequest
from bot.app import Service
from bot.settings import load_settings
service = Service(load_settings())
run_bolt_app(service.app, SocketModeRequest("slash_commands", "envelope-1", json.loads(sys.argv[2])))
"""
SLOW_AFTER = ["before", pytest.param("after", marks=pytest.mark.slow)]
FREEZE = ("bot.services.freeze", "freeze")


def environment(world: World) -> Mapping[str, str]:
    door = world.slack.access
    return {
        **os.environ,
        "SLACK_BOT_TOKEN": door.bot_token,
        "SLACK_SIGNING_SECRET": door.signing_secret,
        "FINETUNE_CONFIG": str(world.folder / "finetune.toml"),
        "ACME_KEY": KEY,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


@contextmanager
def doomed(world: World, at: tuple[str, str], when: str) -> Iterator[None]:
    """A bot of its own on the same data, over HTTP, that dies at that call."""
    world.stop()
    code = DIES.format(module=at[0], name=at[1]) + OVER_HTTP
    command = [sys.executable, "-c", code, when]
    with subprocess.Popen(
        command, env=environment(world), cwd=world.folder, stdout=subprocess.PIPE, text=True
    ) as bot:
        assert bot.stdout is not None
        said = bot.stdout.readline()
        world.slack.deliver_to(said.split(" · ")[1])
        try:
            yield
            assert bot.wait(20) == -signal.SIGKILL
        finally:
            bot.kill()  # one that lives would be waited for without end


def boot_again(world: World) -> None:
    world.clock = time.time()
    world.boot()
    replay(world.service.app, world.service.context)
    world.tick(2)


def type_in_vain(world: World, line: str) -> None:
    with suppress(NotAnswered):
        world.slack.command(BEN.id, TICKETS.id, line)
    world.unacked_deliveries += 1


@pytest.mark.parametrize("when", SLOW_AFTER)
def test_a_command_that_killed_its_bot_before_or_after_its_effect_is_done_once(
    world: World, when: str
) -> None:
    with doomed(world, FREEZE, when):
        type_in_vain(world, "/finetune freeze the bill looks odd")
    boot_again(world)
    assert world.store.freezes.current().reason == "the bill looks odd"
    assert [one.action for one in world.store.audit.entries("freeze 1")] == ["freeze"]
    assert len([text for text in world.texts() if "Spending frozen by" in text]) == 1
    assert not any("already frozen" in words_of(one) for one in world.slack.ephemerals(BEN.id))
    assert world.store.inbox.waiting() == []


def test_an_event_that_was_acked_before_its_bot_was_killed_is_answered(world: World) -> None:
    """Bolt acks events before anybody handles them, so Slack will not bring this one again."""
    with doomed(world, ("bot.cards.help", "card"), "after the ack"):
        world.slack.say(ANA.id, TICKETS.id, f"<@{world.slack.access.bot_user}> help")
    assert world.slack.deliveries[-1].acked
    boot_again(world)
    world.tick_until(lambda: helps(world) == 1, "the answer")
    assert world.store.inbox.waiting() == []
    replay(world.service.app, world.service.context)
    world.tick()
    assert helps(world) == 1


def test_a_refusal_whose_bot_was_killed_after_the_ack_reaches_who_clicked(
    make_world: Callable[[Rules], World],
) -> None:
    """A verdict of go needs no form, so that the budget is asked in the approval's own transaction."""
    world = make_world(Rules(budget="0.01"))
    advised_as(world, "go")
    with doomed(world, ("bot.slack.actions", "_show_refusal"), "after the ack"):
        world.approve()
    assert world.slack.deliveries[-1].acked and world.slack.ephemerals(BEN.id) == ()
    boot_again(world)
    world.tick_until(lambda: world.slack.ephemerals(BEN.id), "the refusal")
    assert "is left" in words_of(world.slack.ephemerals(BEN.id)[-1])
    assert world.run().state == "awaiting_approval" and world.store.inbox.waiting() == []


def helps(world: World) -> int:
    answers = map(words_of, world.slack.ephemerals(ANA.id))
    return len([text for text in answers if "/finetune upload" in text])


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_form_that_was_sent_as_its_bot_was_killed_makes_one_dataset(world: World, when: str) -> None:
    world.slack.command(DORA.id, TICKETS.id, "/finetune upload")
    file = world.put_file("tickets.csv", tickets_csv())
    with doomed(world, ("bot.services.datasets", "receive"), when):
        with suppress(NotAnswered):
            world.fill_upload(DORA, {"file": file, "name": "tickets"})
        world.unacked_deliveries += 1
    boot_again(world)
    assert [(one.name, one.version) for one in world.store.datasets.all()] == [("tickets", 1)]


def a_freeze(world: World) -> dict[str, Any]:
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
def test_over_a_socket_it_is_done_once_whoever_comes_first(world: World, when: str, first: str) -> None:
    """Slack brings an envelope that was not acked again, over the next connection."""
    world.stop()
    body = a_freeze(world)
    code = DIES.format(module=FREEZE[0], name=FREEZE[1]) + OVER_A_SOCKET
    ended = subprocess.run(
        [sys.executable, "-c", code, when, json.dumps(body)], env=environment(world), timeout=30
    )
    assert ended.returncode == -signal.SIGKILL
    world.clock = time.time()
    world.boot()
    envelope = SocketModeRequest("slash_commands", "envelope-1", body, retry_attempt=1)
    if first == "redelivered":
        assert run_bolt_app(world.service.app, envelope).status == 200
        replay(world.service.app, world.service.context)
    else:
        replay(world.service.app, world.service.context)
        assert run_bolt_app(world.service.app, envelope).status == 200
    world.tick(2)
    assert [one.action for one in world.store.audit.entries()] == ["freeze"]
    assert len([text for text in world.texts() if "Spending frozen by" in text]) == 1


def test_a_command_s_answer_reaches_who_typed_it_after_the_kill(world: World) -> None:
    body = {**a_freeze(world), "text": "status 7"}
    world.store.inbox.receive("trigger x", body, now=world.clock)
    world.restart()
    boot_once(world)
    assert "There is no run 7" in words_of(world.slack.ephemerals(BEN.id)[-1])


def boot_once(world: World) -> None:
    replay(world.service.app, world.service.context)
    world.tick(2)


def test_what_is_an_hour_old_or_kills_each_time_is_told_and_not_done(world: World) -> None:
    world.store.inbox.receive("trigger old", a_freeze(world), now=world.clock - STALE_S - 1)
    world.store.inbox.receive("trigger bad", {**a_freeze(world), "text": "unfreeze"}, now=world.clock)
    for _ in range(MOST_TRIES):
        world.store.inbox.count_try("trigger bad")
    world.restart()
    boot_once(world)
    assert world.store.freezes.current() is None and world.store.inbox.waiting() == []
    said = "\n".join(words_of(one) for one in world.slack.ephemerals(BEN.id))
    assert "/finetune freeze the bill looks odd" in said and "/finetune unfreeze" in said
    assert said.count("nothing was done") >= 2


def test_what_is_done_leaves_nothing_of_what_it_said(world: World) -> None:
    world.type("/finetune freeze canary-words", user=BEN)
    rows = world.store.database.rows("SELECT body FROM deliveries")
    assert rows and all(row["body"] is None for row in rows)
