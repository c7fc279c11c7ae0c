"""Shows if the process is healthy: a heartbeat for every step of a tick, a watchdog, and `/healthz` and `/metrics`,
which give counts only, no names and no texts.

A tick that hangs would leave a process that runs but does nothing. The watchdog ends it, after writing every thread's
stack to the log, so that a supervisor can start it again. As with a kill at any line, nothing is lost.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from bot.rules import units
from bot.settings import Settings, SettingsProblems
from storage.driver import sqlite3
from storage.store import Store, read_metrics
from trainers.money import from_micros

EXIT_HUNG = 70  # sysexits.h: EX_SOFTWARE
HEARTBEAT_FILE = "heartbeat"
PATIENCE = 12  # times the limit for a provider's thread: an upload may be slow, and nothing else waits for it
TOUCHED_EVERY_S = 1.0

_mark: ContextVar[Callable[[], None] | None] = ContextVar("_mark", default=None)
log = logging.getLogger(__name__)
HOST = "127.0.0.1"
TEXT = "text/plain; version=0.0.4; charset=utf-8"  # Prometheus' text format
PROBE = 1 << 18
HEALTHY: Mapping[str, Any] = {
    "ticks": "come",
    "slack": "reaches us",
    "slack_api": "answers",
    "database": "answers",
    "messages": "get through",
    "disk": "takes writes",
    "troubles": {},
}
LOOPBACK_NAMES = ("127.0.0.1", "localhost")


def mark_step() -> None:
    """Records that the current tick began another step. Does nothing outside of a watched tick."""
    mark = _mark.get()
    if mark:
        mark()


class Heartbeat:
    """Records when each tick in `names` last took a step. `limit_s` 0 means no watchdog. `clock` is monotonic."""

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...],
        limit_s: float,
        *,
        end: Callable[[int], None] = os._exit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = folder / HEARTBEAT_FILE
        self._limit_s = limit_s
        self._end = end
        self._clock = clock
        self._ticks = names
        self._last = dict.fromkeys(names, clock())
        self._touched = float("-inf")
        self._stopping = threading.Event()

    def watched(self, name: str, tick: Callable[[], None]) -> Callable[[], None]:
        """Wraps a tick so that it beats when it begins, at each of its steps, and when it ends."""

        def run() -> None:
            token = _mark.set(lambda: self.beat(name))
            self.beat(name)
            try:
                tick()
            finally:
                self.beat(name)
                _mark.reset(token)

        return run

    def watch_while_running(self, name: str, work: Callable[[], None]) -> None:
        """Runs work under the watchdog, with PATIENCE times the limit."""
        try:
            self.watched(name, work)()
        finally:
            self._last.pop(name, None)

    def beat(self, name: str) -> None:
        self._last[name] = now = self._clock()
        if now - self._touched >= TOUCHED_EVERY_S:
            self._touched = now
            with suppress(
                OSError
            ):  # the watchdog reads memory, not the file: a full disk must not stop the ticks
                os.utime(self._file)

    def ages(self) -> dict[str, float]:
        """Returns the seconds since each tick's last step."""
        now = self._clock()
        return {name: now - last for name, last in list(self._last.items())}

    @property
    def is_healthy(self) -> bool:
        for name, age in self.ages().items():
            patience = 1 if name in self._ticks else PATIENCE
            if self._limit_s and age > self._limit_s * patience:
                return False
        return True

    def start(self) -> None:
        self._file.write_text(f"{os.getpid()}\n", encoding="utf-8")
        for name in self._last:
            self.beat(name)
        if self._limit_s:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        self._stopping.set()
        self._file.unlink(missing_ok=True)

    def _watch(self) -> None:
        while self.is_healthy:
            if self._stopping.wait(min(self._limit_s / 10, 5.0)):
                return
        text = ", ".join(f"{name} {age:.0f} s ago" for name, age in self.ages().items())
        log.critical(
            "a tick hangs (last steps: %s; the limit is %.0f s): ending this process, so that its supervisor restarts "
            "it. The stacks of all threads follow",
            text,
            self._limit_s,
        )
        faulthandler.dump_traceback()
        self._end(EXIT_HUNG)


def seconds_since_tick(folder: Path, now: float) -> float | None:
    """Returns the seconds since the last heartbeat of the bot that runs on this data folder, None if none runs. `now`
    is unix time."""
    file = folder / HEARTBEAT_FILE
    try:
        process, touched = int(file.read_text(encoding="utf-8")), file.stat().st_mtime
        with suppress(PermissionError):  # the process exists, but belongs to another user
            os.kill(process, 0)
    except (OSError, ValueError):
        return None
    return max(now - touched, 0.0)


class Health:
    """Serves `/healthz` and `/metrics` in threads of its own, so that it can report a tick that hangs. Raises
    SettingsProblems if the port is taken."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        heartbeat: Heartbeat,
        is_connected: Callable[[], bool],
        clock: Callable[[], float],
        troubles: Callable[[], Mapping[str, str]] = dict,
        slack_answers: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings, self._store, self._heartbeat, self._clock = settings, store, heartbeat, clock
        self._is_connected, self._troubles = is_connected, troubles
        self._slack_answers = slack_answers
        port = settings.service.health_port
        host = settings.service.health_host
        self.is_on_loopback = host in LOOPBACK_NAMES
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(self))
        except OSError as error:
            taken = (
                f"[service] health_host = {host!r}, health_port = {port}: {error.strerror}. Choose others, or port 0 "
                "for none."
            )
            raise SettingsProblems((taken,)) from error

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.2,), name="health", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def healthz(self) -> tuple[int, str]:
        """Returns 200 if everything works, else 503, and a line of JSON that shows which part doesn't."""
        values: dict[str, Any] = {"ticks": "come" if self._heartbeat.is_healthy else "hang"}
        values["tick_age_s"] = {name: round(age, 1) for name, age in self._heartbeat.ages().items()}
        values["slack"] = "reaches us" if self._is_connected() else "doesn't reach us"
        values["slack_api"] = "answers" if self._slack_answers() else "doesn't answer"
        try:
            counts = read_metrics(self._store.database, self._clock())
            values["database"] = "answers"
            values["messages"] = f"{counts.stuck} fail again and again" if counts.stuck else "get through"
            values["given_up"] = counts.given_up
            values["deployments"] = counts.deployments
        except sqlite3.Error as error:
            values["database"] = str(error)
        values["disk"] = _probe_disk(self._settings.data)
        values["troubles"] = dict(self._troubles())
        is_healthy = HEALTHY.items() <= values.items()
        return (200 if is_healthy else 503), json.dumps(
            {"status": "ok" if is_healthy else "unwell", **values}
        ) + "\n"

    def metrics(self) -> str:
        now = self._clock()
        month = units.month_of(now)
        metrics, held = read_metrics(self._store.database, now), self._store.ledger.commitments(month)
        money = {
            "limit": f"{self._settings.budget.monthly_usd:f}",
            "spent": f"{from_micros(sum(commitment.spent_micros for commitment in held)):f}",
            "reserved": f"{from_micros(sum(commitment.reserved_micros for commitment in held)):f}",
        }
        ages = self._heartbeat.ages().items()
        return "".join(
            (
                _gauge(
                    "runs", "Runs by state.", [({"state": name}, str(n)) for name, n in metrics.runs.items()]
                ),
                _gauge("measurements_open", "Measurements under way.", [({}, str(metrics.measurements))]),
                _gauge("deployments", "Models that run by the hour.", [({}, str(metrics.deployments))]),
                _gauge(
                    "slack_answers", "1 while Slack's API answers.", [({}, str(int(self._slack_answers())))]
                ),
                _gauge("outbox_waiting", "Messages to Slack that wait.", [({}, str(metrics.waiting))]),
                _gauge(
                    "outbox_oldest_seconds", "How long the oldest waits.", [({}, f"{metrics.oldest_s:.1f}")]
                ),
                _gauge("outbox_given_up", "Messages that never got through.", [({}, str(metrics.given_up))]),
                _gauge(
                    "tick_age_seconds",
                    "Since the last step of each tick.",
                    [({"tick": name}, f"{age:.1f}") for name, age in ages],
                ),
                _gauge(
                    "budget_usd",
                    "US dollars of the month (UTC).",
                    [({"month": month, "kind": kind}, usd) for kind, usd in money.items()],
                ),
            )
        )

    def answer(self, path: str) -> tuple[int, str, str]:
        """Returns status, content type and body. Closes this thread's database connection, as the thread ends then."""
        try:
            match path:
                case "/healthz":
                    status, body = self.healthz()
                    return status, "application/json", body
                case "/metrics":
                    return 200, TEXT, self.metrics()
                case _:
                    return 404, TEXT, "Only /healthz and /metrics are served here.\n"
        except sqlite3.Error as error:
            log.error("answering %s: %s", path, error)
            return 503, TEXT, f"The database does not answer: {error}\n"
        finally:
            self._store.database.close_connection()


def _probe_disk(folder: Path) -> str:
    """Writes a file to see if that works: free space doesn't show a quota or a read-only file system."""
    try:
        with NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(bytes(PROBE))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return f"takes no writes: {error.strerror}"
    return "takes writes"


def _gauge(name: str, description: str, values: Iterable[tuple[Mapping[str, str], str]]) -> str:
    full = f"finetune_{name}"
    lines = []
    for labels, value in values:
        # All labels are ours, so that nothing needs escaping.
        pairs = ",".join(f'{label}="{text}"' for label, text in labels.items())
        lines.append(f"{full}{{{pairs}}} {value}" if pairs else f"{full} {value}")
    return "\n".join([f"# HELP {full} {description}", f"# TYPE {full} gauge", *lines, ""])


def _handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version, sys_version = "finetune", ""

        def do_GET(self) -> None:
            # DNS rebinding: a web page whose host name points at this machine sends that name
            host = self.headers.get("Host", HOST).rsplit(":", 1)[0]
            if health.is_on_loopback and host not in LOOPBACK_NAMES:
                self._send(403, TEXT, "Use 127.0.0.1 or localhost as the host.\n")
                return
            self._send(*health.answer(self.path.partition("?")[0]))

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _send(self, status: int, kind: str, body: str) -> None:
            self.send_response(status)
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(body.encode())))):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body.encode())

    return Handler
