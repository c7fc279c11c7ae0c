"""Counts the trainer's requests for Prometheus, and serves `/metrics`; docs/operations.md lists the metrics.

No label names a model, a file or a job. What a job itself reports (its loss, its steps) is not here but in its events
and result files.
"""

from __future__ import annotations

import collections
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    Metric,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainers.local.api.guard import CALLS, METRICS, MODELS
from trainers.local.jobs.records import Status

# Every path begins with one of these, or is counted as "other": the label must not grow with what clients ask for.
ENDPOINTS = (*CALLS, MODELS, METRICS, "/v1/fine_tuning/jobs", "/v1/files", "/v1/aliases")
OTHER = "other"


class Metrics:
    """One server's numbers. `statuses` gives the status of each job."""

    def __init__(self, statuses: Callable[[], Iterable[Status]]) -> None:
        disable_created_metrics()  # a second series for each counter, which nobody reads
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        self._registry.register(_Jobs(statuses))
        build = Info(
            "finetune_trainer_build", "The trainer's version, and Python's.", registry=self._registry
        )
        build.info({"version": version("finetune-bot"), "python": platform.python_version()})
        self.requests = Counter(
            "finetune_trainer_requests",
            "Requests, by the beginning of their path and by HTTP status.",
            ["endpoint", "code"],
            registry=self._registry,
        )
        self.seconds = Histogram(
            "finetune_trainer_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ["endpoint"],
            buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=self._registry,
        )

    def routes(self) -> list[Route]:
        return [Route(METRICS, self.show)]

    def show(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), headers={"content-type": kind})


class _Jobs(Collector):
    def __init__(self, statuses: Callable[[], Iterable[Status]]) -> None:
        self._statuses = statuses

    def collect(self) -> Iterator[Metric]:
        counts = collections.Counter(self._statuses())
        family = GaugeMetricFamily("finetune_trainer_jobs", "Jobs, by status.", labels=["status"])
        for status in get_args(Status):
            family.add_metric([status], counts[status])
        yield family


@dataclass(frozen=True)
class RequestMetrics:
    """Middleware that counts and times each request. It is outermost, so that it also sees what the guard refuses."""

    app: ASGIApp
    metrics: Metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        code = 500  # if nothing was answered

        async def note_status(message: Message) -> None:
            nonlocal code
            if message["type"] == "http.response.start":
                code = message["status"]
            await send(message)

        started = time.monotonic()
        try:
            await self.app(scope, receive, note_status)
        finally:
            endpoint = endpoint_of(scope["path"])
            self.metrics.requests.labels(endpoint, str(code)).inc()
            self.metrics.seconds.labels(endpoint).observe(time.monotonic() - started)


def endpoint_of(path: str) -> str:
    for endpoint in ENDPOINTS:
        if path == endpoint or path.startswith(f"{endpoint}/"):
            return endpoint
    return OTHER
