"""Serves `/healthz` and `/metrics`: counts and times only, no names of people or data, and no texts."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from prometheus_client import REGISTRY, Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from bot.process_health import Heartbeat
from bot.rules import units
from bot.settings import Settings, SettingsProblems
from storage.driver import sqlite3
from storage.store import Store, read_metrics
from trainers.money import from_micros

log = logging.getLogger(__name__)
HOST = "127.0.0.1"
TEXT = "text/plain; charset=utf-8"
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


class Health(Collector):
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
        programs: Callable[[], str] = lambda: "off",
    ) -> None:
        self._settings = settings
        self._store = store
        self._heartbeat = heartbeat
        self._is_connected = is_connected
        self._clock = clock
        self._troubles = troubles
        self._slack_answers = slack_answers
        self._programs = programs
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
        values: dict[str, Any] = {}
        values["ticks"] = "come" if self._heartbeat.is_healthy else "hang"
        values["tick_age_s"] = {name: round(age, 1) for name, age in self._heartbeat.ages().items()}
        values["slack"] = "reaches us" if self._is_connected() else "doesn't reach us"
        values["slack_api"] = "answers" if self._slack_answers() else "doesn't answer"
        try:
            counts = read_metrics(self._store.database, self._clock())
            values["database"] = "answers"
            values["messages"] = "get through"
            if counts.stuck:
                values["messages"] = f"{counts.stuck} fail again and again"
            values["given_up"] = counts.given_up
            values["deployments"] = counts.deployments
        except sqlite3.Error as error:
            values["database"] = str(error)
        values["programs"] = self._programs()
        values["disk"] = _probe_disk(self._settings.data)
        values["troubles"] = dict(self._troubles())
        if HEALTHY.items() <= values.items():
            return 200, _json_line({"status": "ok", **values})
        return 503, _json_line({"status": "unwell", **values})

    def collect(self) -> Iterator[Metric]:
        """Yields what the process counted, then what the database says now."""
        yield from REGISTRY.collect()
        now = self._clock()
        counts = read_metrics(self._store.database, now)
        yield _gauge("runs", "Runs, by state.", counts.runs, "state")
        yield _gauge("measurements_open", "Measurements under way.", counts.measurements)
        yield _gauge("deployments", "Models that run on a vendor's machine by the hour.", counts.deployments)
        yield _gauge("slack_answers", "1 while Slack's API answers, else 0.", self._slack_answers())
        yield _gauge("outbox_waiting", "Messages to Slack that wait.", counts.waiting)
        yield _gauge("outbox_oldest_seconds", "How long the oldest of them has waited.", counts.oldest_s)
        yield _gauge("outbox_given_up", "Stored messages that never got through.", counts.given_up)
        ages = self._heartbeat.ages()
        yield _gauge("tick_age_seconds", "Time since the last step of each tick.", ages, "tick")
        yield self._budget(units.month_of(now))

    def _budget(self, month: str) -> Metric:
        held = self._store.ledger.commitments(month)
        spent_micros = sum(commitment.spent_micros for commitment in held)
        reserved_micros = sum(commitment.reserved_micros for commitment in held)
        usd = {
            "limit": self._settings.budget.monthly_usd,
            "spent": from_micros(spent_micros),
            "reserved": from_micros(reserved_micros),
        }
        family = GaugeMetricFamily(
            "finetune_budget_usd", "US dollars of the month (UTC), by kind.", labels=["month", "kind"]
        )
        for kind, amount in usd.items():
            family.add_metric([month, kind], float(amount))  # Prometheus knows no other numbers
        return family

    def answer(self, path: str, accept: str = "") -> tuple[int, str, str]:
        """Returns status, content type and body. `accept` is the header in which Prometheus names its formats. Closes
        this thread's database connection, as the thread ends then."""
        try:
            match path:
                case "/healthz":
                    status, body = self.healthz()
                    return status, "application/json", body
                case "/metrics":
                    encode, kind = choose_encoder(accept)
                    return 200, kind, encode(self).decode()
                case _:
                    return 404, TEXT, "Only /healthz and /metrics are served here.\n"
        except sqlite3.Error as error:
            log.error("answering %s: %s", path, error)
            return 503, TEXT, f"The database does not answer: {error}\n"
        finally:
            self._store.database.close_connection()


def _json_line(values: Mapping[str, Any]) -> str:
    return json.dumps(values) + "\n"


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


def _gauge(
    name: str, description: str, value: float | Mapping[str, float], label: str | None = None
) -> GaugeMetricFamily:
    """Returns a gauge with one value, or with one for each value of its label."""
    full = f"finetune_{name}"
    if not isinstance(value, Mapping):
        return GaugeMetricFamily(full, description, value=value)
    family = GaugeMetricFamily(full, description, labels=[label or ""])
    for text, number in value.items():
        family.add_metric([text], number)
    return family


def _handler(health: Health) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version = "finetune"
        sys_version = ""  # by default the answers' head names Python's version

        def do_GET(self) -> None:
            # DNS rebinding: a web page whose host name points at this machine sends that name
            host = self.headers.get("Host", HOST).rsplit(":", 1)[0]
            if health.is_on_loopback and host not in LOOPBACK_NAMES:
                self._send(403, TEXT, "Use 127.0.0.1 or localhost as the host.\n")
                return
            path = self.path.partition("?")[0]
            self._send(*health.answer(path, self.headers.get("Accept", "")))

        def log_message(self, format: str, *args: object) -> None:
            pass

        def _send(self, status: int, kind: str, body: str) -> None:
            content = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
