"""HTTP mode's front: who did not sign, or signed too long ago, is turned away before anything of it is read."""

from __future__ import annotations

import http.client
import os
import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from bot.app import DOOR, _SocketDoor
from bot.demo.stand_in.delivery import Courier, signature
from bot.listeners.http import MAX_BODY
from bot.listeners.replay import replay
from bot.watcher import RECONCILE, SEND
from tests.bot.world import GUS, Rules, World

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
MANY_FILES = 1100
HELP = b"command=%2Ffinetune&text=help&user_id=U0ANA&channel_id=C0TICKETS"


def status(world: World, body: bytes, headers: Mapping[str, str]) -> int:
    parts = urlsplit(world.service.address)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    connection.request("POST", parts.path, body, {"Content-Type": FORM, **headers})
    answer = connection.getresponse().status
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b'{"type": "event_callback", "e', JSON),
        (b"payload=@", FORM),
        (b"payload=[1]", FORM),
        (b"[]", JSON),
        (b"\xff\xfe", FORM),
        (b"[" * 100_000 + b"]" * 100_000, JSON),
        (b'payload={"type": "block_actions", "actions": null}', FORM),
    ],
    ids=["cut short", "no payload", "a list", "a bare list", "not UTF-8", "nested deep", "no actions"],
)
def test_a_body_in_no_form_of_slack_s_is_turned_away(world: World, body: bytes, kind: str) -> None:
    unsigned = Courier(world.service.address, "another secret").bring("raw", body, kind)
    assert unsigned.status == 401
    signed = Courier(world.service.address, world.slack.door.signing_secret).bring("raw", body, kind)
    assert signed.status in (400, 401, 404) and b"Traceback" not in signed.answer


@pytest.mark.parametrize(
    "view", [None, [], {"callback_id": "upload"}, {"callback_id": "upload", "blocks": [1]}]
)
def test_a_form_without_its_blocks_is_answered(world: World, view: object) -> None:
    payload = {"type": "view_submission", "user": {"id": GUS.id}, "team": {"id": "T0"}, "view": view}
    sent = Courier(world.service.address, world.slack.door.signing_secret).payload(payload)
    assert sent.status in (200, 400, 404), sent.answer


@pytest.mark.parametrize(("age", "answered"), [(0, 200), (290, 200), (310, 401), (-310, 401), (86_400, 401)])
def test_a_signature_is_good_for_five_minutes(world: World, age: int, answered: int) -> None:
    signed = signature(world.slack.door.signing_secret, HELP, int(time.time()) - age)
    assert status(world, HELP, signed) == answered


def test_a_signature_is_for_these_bytes_alone(world: World) -> None:
    signed = signature(world.slack.door.signing_secret, HELP)
    assert status(world, HELP.replace(b"help", b"runs"), signed) == 401


@pytest.mark.parametrize(
    ("stamp", "signed"), [("", ""), ("x", "v0=1"), ("9" * 400, "v0=1"), ("1", "v0=\xe9"), ("-1", "v0=1")]
)
def test_headers_that_no_slack_sends_are_turned_away(world: World, stamp: str, signed: str) -> None:
    assert status(world, HELP, {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": signed}) == 401


def test_a_body_beyond_a_megabyte_is_turned_away(world: World) -> None:
    body = b"x" * (MAX_BODY + 1)
    assert status(world, body, signature(world.slack.door.signing_secret, body)) == 401


def test_a_delivery_that_bolt_cannot_handle_stops_no_later_start(world: World) -> None:
    payload = {"type": "block_actions", "user": {"id": GUS.id}, "trigger_id": "t1", "actions": None}
    sent = Courier(world.service.address, world.slack.door.signing_secret).payload(payload)
    assert sent.status == 400
    world.restart()
    replay(world.service.app, world.service.desk)
    assert world.store.inbox.waiting() == []


def test_a_process_with_more_files_open_than_select_can_number_still_hears(world: World) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MANY_FILES + 200:
        pytest.skip(f"a process may have only {soft} files open here")
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(MANY_FILES)]
    try:
        assert "/finetune start" in world.type("/finetune help")
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_a_door_that_breaks_is_a_tick_that_hangs(make_world: Callable[[Rules], World]) -> None:
    world = make_world(Rules(more="[service]\nwatchdog_s = 60\n"))
    beat = world.service.heartbeat
    assert beat.is_well
    door = world.service.door
    assert door.hears
    door._closing.set()
    door._thread.join(5)
    assert not door.hears
    beat._clock = lambda: time.monotonic() + 61
    for name in (RECONCILE, SEND):
        beat.beat(name)
    assert not beat.is_well and max(beat.ages(), key=beat.ages().__getitem__) == DOOR


def test_a_socket_that_is_not_connected_hears_nothing(world: World) -> None:
    slack = replace(world.service.settings.slack, mode="socket", app_token="xapp-1-A-1-x")
    door = _SocketDoor(world.service.app, slack)
    assert not door.hears
    door.close()
