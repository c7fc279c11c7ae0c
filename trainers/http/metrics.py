"""Counts and times a server's requests for Prometheus, and serves `/metrics`; docs/operations.md lists the metrics.

No label names a model, a file or a job.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

METRICS = "/metrics"
OTHER = "other"


class RequestCounts:
    """One server's numbers, whose names begin with `finetune_` and its name. Every path begins with one of `endpoints`,
    or is counted as "other": the label must not grow with what clients ask for."""

    def __init__(self, server: str, endpoints: Sequence[str]) -> None:
        disable_created_metrics()  # a second series for each counter, which nobody reads
        self._endpoints = endpoints
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        build = Info(
            f"finetune_{server}_build", f"The {server}'s version, and Python's.", registry=self.registry
        )
        build.info({"version": version("finetune-bot"), "python": platform.python_version()})
        self.requests = Counter(
            f"finetune_{server}_requests",
            "Requests, by the beginning of their path and by HTTP status.",
            ["endpoint", "code"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            f"finetune_{server}_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ["endpoint"],
            buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
            registry=self.registry,
        )

    def routes(self) -> list[Route]:
        return [Route(METRICS, self.show)]

    def show(self, request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self.registry), headers={"content-type": kind})

    def note(self, path: str, code: int, seconds: float) -> None:
        endpoint = self._endpoint_of(path)
        self.requests.labels(endpoint, str(code)).inc()
        self.seconds.labels(endpoint).observe(seconds)

    def _endpoint_of(self, path: str) -> str:
        for endpoint in self._endpoints:
            if path == endpoint or path.startswith(f"{endpoint}/"):
                return endpoint
        return OTHER


@dataclass(frozen=True)
class RequestMetrics:
    """Middleware that counts and times each request. It is outermost, so that it also sees what the guard refuses."""

    app: ASGIApp
    counts: RequestCounts

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
            self.counts.note(scope["path"], code, time.monotonic() - started)
