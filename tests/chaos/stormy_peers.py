"""The fake provider and the fake Slack of the storms: with weather, with records, and with points to be killed at.

A *point* is passed when a request arrives, and again when it was carried out but not answered yet; a listener may
kill the bot there. The weather is random by a seed: requests fail before or after they are carried out, and answers are
lost, late or cut off. Definite refusals are not part of it, since a refused run is rightly not started.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.slack_emulator import SlackEmulator, payloads
from demo.slack_emulator import faults as slack_faults
from demo.slack_emulator.server import Handler
from demo.slack_emulator.state import Json
from tests.chaos.records import Record
from tests.peers.hosted import (
    BUSY,
    COMMIT_THEN_500,
    COMMIT_THEN_CUT,
    COMMIT_THEN_HANG,
    COMMIT_THEN_RESET,
    HANG,
    NOTHING_BUT_500,
    RESET,
    SIGNED,
    WAIT_503,
    Fault,
    Hosted,
)
from tests.peers.service import Query, Reply, Service, StoredJob
from trainers.client.payloads import METADATA_KEY

PassPoint = Callable[[str], None]

DONE_BUT_UNANSWERED = (COMMIT_THEN_500, COMMIT_THEN_RESET, COMMIT_THEN_CUT, COMMIT_THEN_HANG)
NOT_DONE = (NOTHING_BUT_500, RESET, HANG, BUSY, WAIT_503)
PROVIDER_FAULTS = (*DONE_BUT_UNANSWERED, *NOT_DONE)
SLACK_FAULTS = (
    slack_faults.too_many(1),
    slack_faults.broken(500),
    slack_faults.broken(503),
    slack_faults.cut_off(),
    slack_faults.refused("internal_error"),
    slack_faults.slow(0.1),
)
HANG_S = 2.0


@dataclass
class Weather:
    """`posts` is the share of changing requests to the provider that go wrong, and `slack` that of messages to Slack. A
    create may be carried out up to `late_s` seconds after it arrived."""

    chance: random.Random
    posts: float = 0.0
    slack: float = 0.0
    late_s: float = 0.0

    def provider_fault(self, route: str) -> Fault | None:
        is_stop = route.startswith("DELETE") and ("/deployments/" in route or "/endpoints/" in route)
        is_sending = route.startswith("PUT") and SIGNED in route
        is_change = is_stop or is_sending or (route.startswith("POST") and "chat" not in route)
        if is_change and self.strikes(self.posts):
            return self.chance.choice(PROVIDER_FAULTS)
        return None

    def slack_fault(self, method: str) -> slack_faults.Fault | None:
        is_message = method.startswith(("chat.", "files.", "conversations.open"))
        if is_message and self.strikes(self.slack):
            return self.chance.choice(SLACK_FAULTS)
        return None

    def strikes(self, share: float) -> bool:
        return self.chance.random() < share

    def clear_up(self) -> None:
        self.posts = self.slack = self.late_s = 0.0


@dataclass
class RecordedService(Service):
    """Records which jobs and files were created, which jobs succeeded or were cancelled, and which chats were
    answered."""

    record: Record | None = None
    weather: Weather | None = None
    pass_point: PassPoint = lambda point: None
    _succeeded: set[str] = field(default_factory=set)

    def answer_to(self, method: str, path: str, query: Query, headers: Any, body: dict[str, Any]) -> Reply:
        route = f"{method} {path}"
        self.pass_point(f"{route} arrived")
        is_start = method == "POST" and path.endswith("/deployments")
        if (is_start or route == self.create_route) and self.weather and self.weather.late_s:
            time.sleep(self.weather.chance.choice((0.0, 0.0, self.weather.late_s)))
        reply = super().answer_to(method, path, query, headers, body)
        self.pass_point(f"{route} done")
        return reply

    def _create(self, headers: Any, body: dict[str, Any]) -> Reply:
        reply = super()._create(headers, body)
        if reply[0] == 200 and isinstance(reply[1], dict):
            self._write("created", **self._facts(reply[1], body))
        return reply

    def _facts(self, created: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        """Returns whose job was created, by its metadata."""
        metadata = body.get("metadata") or {}
        return {
            "job": created["id"],
            "key": metadata.get(METADATA_KEY),
            "plan": metadata.get("plan"),
            "run": metadata.get("run"),
            "model": f"{body.get('suffix')}-{metadata.get('run')}",
        }

    def _tokens_of(self, job: StoredJob) -> int:
        return self.trained_tokens

    def _upload(self, form: dict[str, Any]) -> Reply:
        reply = super()._upload(form)
        self._write("uploaded", name=form.get("file", ("",))[0], status=reply[0])
        return reply

    def _cancel(self, job: StoredJob) -> Reply:
        reply = super()._cancel(job)
        self._write("cancelled", job=job.id, status=reply[0])
        return reply

    def _status(self, job: StoredJob) -> str:
        status = super()._status(job)
        if status == "succeeded" and job.id not in self._succeeded:
            self._succeeded.add(job.id)
            self._write("succeeded", job=job.id, tokens=self._tokens_of(job))
        return status

    def _chat(self, body: dict[str, Any]) -> Reply:
        reply = super()._chat(body)
        if reply[0] == 200 and isinstance(reply[1], dict):
            self._write("chatted", model=body["model"], **reply[1]["usage"])
        return reply

    def _write(self, what: str, **facts: object) -> None:
        if self.record:
            self.record.add(what, **facts)


@dataclass
class StormyHosted(Hosted):
    weather: Weather | None = None
    _last_changed: float = 0.0

    @property
    def last_active(self) -> float:
        """When the last changing request came, or now while a job is running. Looks don't count: they come as long as
        the bot lives."""
        with self.service._lock:
            jobs = self.service.jobs.values()
            is_busy = any(self.service._status(job) not in ("succeeded", "cancelled") for job in jobs)
        return time.monotonic() if is_busy else self._last_changed

    def next_fault(self, route: str) -> Fault | None:
        if not route.startswith("GET"):
            self._last_changed = time.monotonic()
        return super().next_fault(route) or (self.weather.provider_fault(route) if self.weather else None)

    def wait_for_the_end(self) -> None:
        self._closing.wait(HANG_S)


class _StormyFaults(slack_faults.Faults):
    def __init__(self, weather: Weather) -> None:
        super().__init__()
        self._weather = weather

    def next_for(self, method: str, args: Mapping[str, Any]) -> slack_faults.Fault | None:
        planned = super().next_for(method, args)
        if planned or method == "auth.test":
            return planned
        fault = self._weather.slack_fault(method)
        if fault is None or fault.status == 429:  # which Slack sends before doing anything
            return fault
        return fault.after_doing() if self._weather.strikes(0.5) else fault


class StormySlack(SlackEmulator):
    """Records every call that was carried out with its answer, every click with whether it was acked, and what only the
    person then read (`whispered`, by the click's `answer_at`)."""

    def __init__(self, record: Record, weather: Weather, pass_point: PassPoint, **more: Any) -> None:
        super().__init__(**more)
        self.record, self.pass_point = record, pass_point
        self.last_called = 0.0
        self._faults = self._server.faults = _StormyFaults(weather)
        self._server.RequestHandlerClass = _recording_handler(self)

    def answer_to(self, user: str, channel: str, line: str) -> Json:
        """Returns what a person who types a command reads in its ack, or {}."""
        with self._state.lock:
            form = payloads.slash_command(self._state, user, self._state.channel(channel), line)
        return self._acked(self._bot().form(form["command"], form)).ack

    def _interact(self, payload: Json) -> Any:
        action = (payload.get("actions") or [{}])[0]
        form = payload["view"] if payload["type"] == "view_submission" else {}
        facts = {
            "user": payload["user"]["id"],
            "action": action.get("action_id") or form.get("callback_id"),
            "value": action.get("value") or form.get("private_metadata"),
            "answer_at": payload.get("response_url", "").rpartition("/")[2],
        }
        try:
            delivery = super()._interact(payload)
        except Exception:
            self.record.add("delivered", acked=False, **facts)
            raise
        self.record.add("delivered", acked=not delivery.ack.get("errors"), **facts)
        return delivery


def _recording_handler(slack: StormySlack) -> type[Handler]:
    class RecordingHandler(Handler):
        def _answer(self, method: str, args: Json) -> Json:
            slack.pass_point(f"{method} arrived")
            answer = super()._answer(method, args)
            if method.startswith(("chat.", "files.complete")):
                slack.last_called = time.monotonic()
                slack.record.add(
                    "called", method=method, args=args, ts=answer.get("ts"), error=answer.get("error")
                )
            slack.pass_point(f"{method} done")
            return answer

        def _respond(self, name: str, body: bytes) -> None:
            slack.record.add("whispered", answer_at=name, args=self._args(body))
            super()._respond(name, body)

    return RecordingHandler


def record_paths(folder: Path) -> tuple[Path, Path]:
    """The provider's record and Slack's."""
    return folder / "provider.jsonl", folder / "slack.jsonl"
