"""Steps of ticks, the watchdog that ends a process whose tick hangs, and health and metrics over HTTP."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families

from bot import process_health
from bot.app import OLD_TASK_S
from bot.embedded_trainer import free_port
from bot.process_health import EXIT_HUNG, PATIENCE, Heartbeat, seconds_since_tick
from bot.reconciler import maintain, reconcile
from bot.settings import SettingsProblems, load_settings
from bot.slack.api import ASK_AGAIN_S, ASK_ANYWAY_S, SILENT_AFTER_S
from demo.people import ANA, BEN
from demo.slack_emulator import broken, refused
from demo.slack_emulator.faults import too_many
from tests.bot.world import GUS, PRIVATE, Rules, World
from tests.prometheus_text import complaints, listed_metrics, read_families, read_values

HANGS = """
import sys, time
from pathlib import Path
from bot.process_health import Heartbeat
from bot.scheduler import Scheduler
def tick_that_hangs():
    time.sleep(60)
beat = Heartbeat(Path(sys.argv[1]), ("reconcile",), 0.3)
scheduler = Scheduler(beat.watched("reconcile", tick_that_hangs), lambda: None, seconds=0.05)
beat.start()
scheduler.start()
time.sleep(60)
"""

MakeWorld = Callable[[Rules], World]


class ManualClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.deep
def test_a_tick_that_hangs_ends_the_process_and_the_log_says_where(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", HANGS, str(tmp_path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert process.returncode == EXIT_HUNG
    assert "a tick hangs (last steps: reconcile 0 s ago" in process.stderr
    assert "in tick_that_hangs" in process.stderr


def test_a_long_tick_that_takes_steps_is_no_hang(tmp_path: Path) -> None:
    clock = ManualClock()
    beat = Heartbeat(tmp_path, ("reconcile", "send"), 60, clock=clock)
    ages: list[float] = []

    def long_tick() -> None:
        for _ in range(5):
            clock.now += 40
            ages.append(beat.ages()["reconcile"])
            process_health.mark_step()

    beat.watched("reconcile", long_tick)()
    assert ages == [40] * 5
    assert beat.ages() == {"reconcile": 0, "send": 200}
    assert not beat.is_healthy, "the other took none"
    process_health.mark_step()  # outside of a tick it belongs to none


def test_a_providers_thread_may_upload_for_long_but_not_forever(tmp_path: Path) -> None:
    clock = ManualClock()
    beat = Heartbeat(tmp_path, ("reconcile",), 60, clock=clock)
    healthy: list[bool] = []

    def long_upload() -> None:
        for _ in range(2):
            clock.now += 60 * PATIENCE
            beat.beat("reconcile")
            healthy.append(beat.is_healthy)

    beat.watch_while_running("provider acme", long_upload)
    assert healthy == [True, False]
    assert beat.is_healthy


def test_the_steps_of_both_real_ticks_are_marks(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    beat = world.service.heartbeat
    world.start_approved()
    marks: list[str] = []
    monkeypatch.setattr(beat, "beat", marks.append)
    beat.watched("reconcile", lambda: reconcile(world.service.context))()
    beat.watched("send", lambda: world.send())()
    assert marks.count("reconcile") > 2, "more than its beginning and its end"
    assert marks.count("send") > 2


def test_only_a_living_process_has_a_heartbeat(tmp_path: Path) -> None:
    assert seconds_since_tick(tmp_path, time.time()) is None
    beat = Heartbeat(tmp_path, ("reconcile",), 0)
    beat.start()
    assert seconds_since_tick(tmp_path, time.time() + 7) == pytest.approx(7, abs=2)
    os.utime(tmp_path / "heartbeat", (1, 1))
    beat._touched = 0
    beat.beat("reconcile")
    assert seconds_since_tick(tmp_path, time.time() + 7) == pytest.approx(7, abs=2)
    (tmp_path / "heartbeat").write_text("999999999\n")
    assert seconds_since_tick(tmp_path, time.time()) is None
    beat.stop()
    beat._touched = 0
    beat.beat("reconcile")  # without a file no tick fails
    assert not (tmp_path / "heartbeat").exists()


def get(port: int, path: str, host: str = "127.0.0.1", accept: str = "*/*") -> tuple[int, str]:
    headers = {"Host": host, "Accept": accept}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@contextmanager
def serve_health(make_world: Callable[[Rules], World], more: str = "") -> Iterator[tuple[World, int]]:
    port = free_port()
    world = make_world(Rules(more=f"[service]\nhealth_port = {port}\n{more}\n"))
    health = world.service.health
    assert health is not None
    health.start()
    try:
        yield world, port
    finally:
        health.stop()
        world.service.health = None


def test_the_metrics_count_runs_messages_money_and_what_people_ask(make_world: MakeWorld) -> None:
    """Counters go on from one test to the next, so their changes are compared."""
    with serve_health(make_world) as (world, port):
        before = read_values(get(port, "/metrics")[1])
        for line in ("/finetune budget", "/finetune budget 7 of what", "/finetune dance"):
            world.type(line)
        world.type("/finetune budget", user=GUS)
        world.start_approved()
        values = read_values(get(port, "/metrics")[1])
        month = time.strftime("%Y-%m", time.gmtime(world.clock))
        assert (values["finetune_runs", "approved"], values["finetune_runs", "done"]) == (1, 0)
        assert values["finetune_outbox_waiting",] > 0
        reserved = world.run().reserved_micros
        assert reserved > 0
        budget = {kind: values["finetune_budget_usd", kind, month] for kind in ("limit", "spent", "reserved")}
        assert budget == {"limit": 20, "spent": 0, "reserved": reserved / 1e6}
        world.store.runs.book(world.run(), "settle", 1_230_000, month=month, now=world.clock)
        world.slack.fail("chat.update", too_many())
        world.pass_time(30)
        world.send()
        world.tick()
        world.type("/finetune start tickets target=acme/no-such-model")  # is refused only after the ack
        status, text = get(port, "/metrics")
        after = read_values(text)
        assert status == 200
        assert after["finetune_budget_usd", "reserved", month] == 0
        assert after["finetune_budget_usd", "spent", month] == 1.23
        in_open_metrics = get(port, "/metrics", accept="application/openmetrics-text; version=1.0.0")[1]

    def grown(*name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grown("finetune_commands_total", "budget", "answered") == 1
    assert grown("finetune_commands_total", "budget", "misread") == 1
    assert grown("finetune_commands_total", "budget", "refused") == 1
    assert grown("finetune_commands_total", "unknown", "misread") == 1
    assert grown("finetune_commands_total", "start", "answered") == 1
    assert grown("finetune_commands_total", "start", "refused") == 1
    assert grown("finetune_clicks_total", "approve_plan", "answered") == 1
    assert grown("finetune_ack_duration_seconds_count", "command") >= 5
    assert grown("finetune_answer_duration_seconds_count", "command") >= 5
    assert grown("finetune_slack_rate_limited_total", "chat.update") == 1
    assert grown("finetune_message_failures_total", "postponed") == 1
    assert grown("finetune_messages_sent_total", "post") >= 1
    assert grown("finetune_provider_request_duration_seconds_count", "acme") >= 1
    people = {person.id for person in (ANA, BEN, GUS)}
    assert {*people, "tickets", PRIVATE.id}.isdisjoint(re.findall(r"\w+", text))
    assert complaints(text) == []
    assert list(openmetrics_families(in_open_metrics)), "Prometheus asks for this format first"
    shown = {name for name in read_families(text) if name.startswith("finetune_")}
    assert listed_metrics("bot") == shown


def test_health_is_200_while_ticks_come_and_503_when_they_hang(make_world: Callable[[Rules], World]) -> None:
    with serve_health(make_world) as (world, port):
        status, body = get(port, "/healthz")
        assert (status, json.loads(body)["status"]) == (200, "ok")
        clock = ManualClock()
        clock.now = time.monotonic() + 301
        world.service.heartbeat._clock = clock
        status, body = get(port, "/healthz")
        assert (status, json.loads(body)["ticks"]) == (503, "hang")
        assert get(port, "/nothing")[0] == 404
        assert get(port, "/metrics", host="evil.example")[0] == 403
        world.service.health.is_on_loopback = False  # as with a health_host for probes from outside
        assert get(port, "/metrics", host="bot.example")[0] == 200


def read_unwell(port: int) -> dict[str, Any]:
    status, body = get(port, "/healthz")
    assert status == 503
    health: dict[str, Any] = json.loads(body)
    assert health["status"] == "unwell"
    return health


def test_health_is_503_on_a_full_disk_and_200_once_there_is_space(make_world: MakeWorld) -> None:
    with serve_health(make_world) as (_, port):
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, most))  # nothing longer can be written
        try:
            assert "takes no writes" in read_unwell(port)["disk"]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        assert get(port, "/healthz")[0] == 200


def test_health_is_503_while_messages_fail_and_counts_those_given_up(make_world: MakeWorld) -> None:
    with serve_health(make_world) as (world, port):
        world.slack.fail("chat.postMessage", refused("not_in_channel"), times=None)
        world.start()
        for _ in range(2):
            assert get(port, "/healthz")[0] == 200
            world.pass_time(301)
            world.send()
        assert read_unwell(port)["messages"] == "1 fail again and again"
        world.slack.clear_faults()
        world.slack.fail("chat.postMessage", refused("msg_too_long"))
        world.pass_time(301)
        world.send()
        status, body = get(port, "/healthz")
        assert (status, json.loads(body)["given_up"], json.loads(body)["deployments"]) == (200, 1, 0)


def test_health_names_a_missing_scope_until_it_is_granted(make_world: MakeWorld) -> None:
    with serve_health(make_world) as (world, port):
        world.slack.revoke("im:write", "files:write")
        world.service.notices.note_scopes(world.service.notices.slack.auth_test().headers)
        assert read_unwell(port)["troubles"] == {"scopes": "missing: files:write, im:write"}
        world.slack.grant("im:write", "files:write")
        world.start()
        assert get(port, "/healthz")[0] == 200


def test_health_sees_that_slack_is_silent_or_refuses_the_token_and_that_it_is_over(
    make_world: MakeWorld,
) -> None:
    with serve_health(make_world) as (world, port):
        answers, client = world.service.answers, world.service.notices.slack
        world.pass_time(ASK_ANYWAY_S)
        assert answers.should_be_asked, "an idle bot asks too"
        world.slack.fail("auth.test", broken(503), times=None)
        answers.ask(client)
        assert get(port, "/healthz")[0] == 200, "one failed request is no outage"
        world.pass_time(SILENT_AFTER_S)
        assert answers.should_be_asked
        assert read_unwell(port)["slack_api"] == "doesn't answer"
        assert read_values(get(port, "/metrics")[1])["finetune_slack_answers",] == 0
        world.slack.clear_faults()
        world.slack.fail("auth.test", refused("token_revoked"))
        answers.ask(client)
        assert read_unwell(port)["troubles"] == {"token": "token_revoked"}
        world.pass_time(ASK_AGAIN_S)
        assert answers.should_be_asked
        answers.ask(client)
        assert get(port, "/healthz")[0] == 200


@pytest.mark.deep
def test_health_is_503_while_backups_fail_or_a_workers_task_is_old(make_world: MakeWorld) -> None:
    with serve_health(make_world) as (world, port):
        folder = world.service.settings.backups
        folder.write_text("in the way")
        maintain(world.service.context)
        assert "backups" in read_unwell(port)["troubles"]["backup"]
        folder.unlink()
        maintain(world.service.context)
        assert get(port, "/healthz")[0] == 200
        world.workers.poll("old", time.sleep, 0)
        next(iter(world.workers._tasks.values())).asked -= OLD_TASK_S + 1
        world.workers._tasks["old"].future = None
        assert "s old" in read_unwell(port)["troubles"]["workers"]


@pytest.mark.deep
def test_health_is_503_from_a_nightly_check_that_finds_damage_until_a_clean_one(
    make_world: MakeWorld,
) -> None:
    with serve_health(make_world, "backups_kept = 0") as (world, port):
        context, database = world.service.context, world.store.database
        maintain(context)
        assert get(port, "/healthz")[0] == 200
        database.change("CREATE TABLE probe (word TEXT)")
        database.change("CREATE INDEX probe_word ON probe (word)")
        database.change("PRAGMA writable_schema = ON")
        definition = database.value("SELECT sql FROM sqlite_schema WHERE name = 'probe_word'")
        database.change("UPDATE sqlite_schema SET sql = sql || ' WHERE 0' WHERE name = 'probe_word'")
        database.change("PRAGMA writable_schema = RESET")
        database.change("INSERT INTO probe VALUES ('a')")
        database.change("PRAGMA writable_schema = ON")
        database.change("UPDATE sqlite_schema SET sql = ? WHERE name = 'probe_word'", (definition,))
        database.change("PRAGMA writable_schema = RESET")
        maintain(context)
        assert get(port, "/healthz")[0] == 200, "it was checked this night"
        world.pass_time(24 * 3600)
        maintain(context)
        assert "damaged" in read_unwell(port)["troubles"]["database"]
        database.change("REINDEX")
        maintain(context)
        assert get(port, "/healthz")[0] == 200


def test_a_health_port_in_use_is_reported_with_the_setting(make_world: Callable[[Rules], World]) -> None:
    with serve_health(make_world) as (world, _), pytest.raises(SettingsProblems, match="health_port"):
        type(world.service.health)(  # type: ignore[misc]
            world.service.settings, world.store, world.service.heartbeat, lambda: True, time.time
        )


def test_a_watchdog_shorter_than_a_slow_request_is_refused(tmp_path: Path) -> None:
    (tmp_path / "finetune.toml").write_text("[service]\nwatchdog_s = 20\n")
    with pytest.raises(SettingsProblems, match=r"should be 0 \(off\) or at least 60, not 20"):
        load_settings({}, tmp_path / "finetune.toml", need_slack=False)
