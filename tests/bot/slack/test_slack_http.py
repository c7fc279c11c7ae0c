"""HTTP mode: requests without a fresh signature, and bodies too large or too slow, are refused before they are read.
Socket mode's connection is at the end."""

from __future__ import annotations

import http.client
import os
import resource
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from urllib.parse import urlsplit

import pytest
from slack_sdk.errors import SlackApiError

from bot.app import HTTP_STEP, _HttpConnection, _SocketConnection
from bot.scheduler import RECONCILE, SEND
from bot.slack.http import CONNECTIONS, MAX_BODY
from bot.slack.inbox import replay
from demo.slack_emulator import broken, refused
from demo.slack_emulator.delivery import BotClient, signature
from tests.bot.world import GUS, Rules, World
from tests.patience import PATIENCE_S, wait_until

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
def test_a_body_that_slack_would_not_send_is_refused(world: World, body: bytes, kind: str) -> None:
    unsigned = BotClient(world.service.address, "another secret").deliver("raw", body, kind)
    assert unsigned.status == 401
    signed = BotClient(world.service.address, world.slack.access.signing_secret).deliver("raw", body, kind)
    assert signed.status in (400, 401, 404) and b"Traceback" not in signed.answer


@pytest.mark.parametrize(
    "view", [None, [], {"callback_id": "upload"}, {"callback_id": "upload", "blocks": [1]}]
)
def test_a_form_without_its_blocks_is_answered(world: World, view: object) -> None:
    payload = {"type": "view_submission", "user": {"id": GUS.id}, "team": {"id": "T0"}, "view": view}
    sent = BotClient(world.service.address, world.slack.access.signing_secret).payload(payload)
    assert sent.status in (200, 400, 404), sent.answer


@pytest.mark.parametrize(("age", "answer"), [(290, 200), (310, 401), (-310, 401)])
def test_a_signature_is_good_for_five_minutes(world: World, age: int, answer: int) -> None:
    signed = signature(world.slack.access.signing_secret, HELP, int(time.time()) - age)
    assert status(world, HELP, signed) == answer


def test_a_signature_is_for_these_bytes_alone(world: World) -> None:
    signed = signature(world.slack.access.signing_secret, HELP)
    assert status(world, HELP.replace(b"help", b"runs"), signed) == 401


@pytest.mark.parametrize(
    ("stamp", "signed"), [("", ""), ("x", "v0=1"), ("9" * 400, "v0=1"), ("1", "v0=\xe9"), ("-1", "v0=1")]
)
def test_headers_that_slack_would_not_send_are_refused(world: World, stamp: str, signed: str) -> None:
    assert status(world, HELP, {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": signed}) == 401


@pytest.mark.parametrize(
    ("announced", "signed", "answered"),
    [(MAX_BODY + 1, True, b" 413 "), (900_000_000, False, b" 413 "), (MAX_BODY, False, b" 401 ")],
)
def test_an_unacceptable_body_is_refused_by_its_headers(
    world: World, announced: int, signed: bool, answered: bytes
) -> None:
    headers = signature(world.slack.access.signing_secret, HELP) if signed else {}
    with connection(world) as client:
        client.sendall(head(world, {**headers, "Content-Length": str(announced)}))
        assert answered in read_to_end(client).splitlines()[0]


def test_a_body_without_a_length_is_cut_off(world: World) -> None:
    signed = signature(world.slack.access.signing_secret, HELP)
    part = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    with connection(world) as client:
        client.sendall(head(world, {**signed, "Transfer-Encoding": "chunked"}) + part * 16)
        assert b" 413 " in read_to_end(client).splitlines()[0]


def test_a_request_that_trickles_in_is_given_up(make_world: Callable[[Rules], World]) -> None:
    world = make_world(Rules())
    listener = world.service.connection
    assert isinstance(listener, _HttpConnection)
    listener._server.adj.channel_timeout = 0.5
    signed = signature(world.slack.access.signing_secret, HELP)
    with connection(world) as client:
        client.sendall(head(world, {**signed, "Content-Length": "100000"}))
        client.settimeout(0.05)
        for _ in range(600):
            try:
                client.send(b"x")
                if client.recv(1000) == b"":
                    return
            except TimeoutError:
                continue
            except ConnectionError:
                return
    pytest.fail("still open after 30 s")


def test_slack_gets_through_many_silent_connections(world: World) -> None:
    with ExitStack() as stack:
        for _ in range(CONNECTIONS + 130):
            stack.enter_context(connection(world))
        assert "/finetune start" in world.type("/finetune help")


def connection(world: World) -> socket.socket:
    parts = urlsplit(world.service.address)
    return socket.create_connection((parts.hostname, parts.port), timeout=30)


def head(world: World, headers: Mapping[str, str]) -> bytes:
    lines = [f"POST {urlsplit(world.service.address).path} HTTP/1.1", "Host: x", f"Content-Type: {FORM}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


def read_to_end(client: socket.socket) -> bytes:
    """Reads until the other side closes; fails after 30 s."""
    answer = b""
    while part := client.recv(65536):
        answer += part
    return answer


def test_a_delivery_that_bolt_cannot_handle_prevents_no_later_start(world: World) -> None:
    payload = {"type": "block_actions", "user": {"id": GUS.id}, "trigger_id": "t1", "actions": None}
    sent = BotClient(world.service.address, world.slack.access.signing_secret).payload(payload)
    assert sent.status == 400
    world.restart()
    replay(world.service.app, world.service.context)
    assert world.store.inbox.waiting() == []


def test_a_process_with_more_open_files_than_select_can_number_still_answers(world: World) -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < MANY_FILES + 200:
        pytest.skip(f"a process may have only {soft} files open here")
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(MANY_FILES)]
    try:
        assert "/finetune start" in world.type("/finetune help")
    finally:
        for descriptor in opened:
            os.close(descriptor)


def test_a_broken_listener_counts_as_a_tick_that_hangs(make_world: Callable[[Rules], World]) -> None:
    world = make_world(Rules(more="[service]\nwatchdog_s = 60\n"))
    beat = world.service.heartbeat
    assert beat.is_healthy
    listener = world.service.connection
    assert isinstance(listener, _HttpConnection) and listener.is_connected
    listener._closing.set()
    listener._thread.join(5)
    assert not listener.is_connected
    beat._clock = lambda: time.monotonic() + 61
    for name in (RECONCILE, SEND):
        beat.beat(name)
    assert not beat.is_healthy and max(beat.ages(), key=beat.ages().__getitem__) == HTTP_STEP


def test_a_socket_connects_later_if_slack_is_away_but_not_if_slack_refuses(
    world: World,
) -> None:
    slack = replace(world.service.settings.slack, mode="socket", app_token="xapp-1-A-1-x")
    listener = _SocketConnection(world.service.app, slack)
    world.slack.fail("apps.connections.open", broken(503))
    listener.open()
    assert not listener.is_connected
    listener.close(PATIENCE_S)
    world.slack.fail("apps.connections.open", refused("invalid_auth"))
    with pytest.raises(SlackApiError, match="invalid_auth"):
        _SocketConnection(world.service.app, slack).open()


def test_a_socket_goes_on_trying_if_slack_refuses_the_token_after_an_outage(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("bot.app.CONNECT_AGAIN_S", 0.01)
    slack = replace(world.service.settings.slack, mode="socket", app_token="xapp-1-A-1-x")
    listener = _SocketConnection(world.service.app, slack)
    world.slack.fail("apps.connections.open", broken(503))
    world.slack.fail("apps.connections.open", refused("invalid_auth"), times=None)
    listener.open()
    wait_until(lambda: caplog.text.count("it refuses SLACK_APP_TOKEN (invalid_auth)") > 1, "a second try")
    listener.close(PATIENCE_S)


def test_a_socket_that_is_not_connected_reports_so(world: World) -> None:
    slack = replace(world.service.settings.slack, mode="socket", app_token="xapp-1-A-1-x")
    listener = _SocketConnection(world.service.app, slack)
    assert not listener.is_connected
    listener.close(PATIENCE_S)
