"""The door's endpoints, and what is checked before them. Everything but its health takes the key of programs."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version

from prometheus_client import Gauge
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainers.door.call_ids import CallIds
from trainers.door.calls import Calls
from trainers.door.chat import answer_chat
from trainers.door.classify import answer_classification
from trainers.door.counts import UsageCounts
from trainers.door.live_tests.canary import Canaries
from trainers.door.live_tests.shadow import Shadow
from trainers.door.names import Names
from trainers.door.ratings import Ratings
from trainers.door.responses import answer_response
from trainers.door.sampler import Sampler
from trainers.door.traces.endpoint import TraceIntake
from trainers.door.upstreams import UpstreamClient
from trainers.http.errors import ApiError
from trainers.http.guard import LimitedBody, host_problem, is_longer, is_same_key, key_missing, sent_key
from trainers.http.metrics import METRICS, RequestCounts, RequestMetrics
from trainers.log_lines import new_reference
from trainers.recipes.folder import RecipeFolder

HEALTH = "/healthz"
MODELS = "/v1/models"
ANSWERED = ("/v1/chat/completions", "/v1/responses", "/v1/classify")
FEEDBACK = "/v1/feedback"
TRACES = "/v1/traces"
MEASURED_ENDPOINTS = (*ANSWERED, FEEDBACK, TRACES, MODELS, METRICS, HEALTH)
MAX_BODY_BYTES = 32 * 1024 * 1024  # images travel in it
PREPARE_S = 1.0
CLOSE = (b"connection", b"close")
HOST_REMEDY = "Set url under [serving] in finetune.toml, or start it with --allow-host {name}."

log = logging.getLogger(__name__)


@dataclass
class DoorState:
    """`is_draining`: another process answers new connections, and this one closes each after its answer. `keeper` is
    the process that starts another worker if this one dies."""

    keeper: int = field(default_factory=os.getppid)
    is_draining: bool = False
    open_calls: int = 0


def build_app(
    folder: RecipeFolder,
    hosts: frozenset[str],
    answer_s: float,
    state: DoorState,
    clock: Callable[[], float] = time.time,
) -> Starlette:
    """Returns the app. `clock` gives the time in unix seconds by which calls are counted. Its lifespan loads what is in
    use, and at its end stores the last counts, samples and errors of canaries."""
    executor = ThreadPoolExecutor(1, thread_name_prefix="answers")
    names = Names(folder, executor)
    counts = UsageCounts(folder.root, clock)
    client = UpstreamClient(answer_s)
    ids = CallIds(names.key)
    sampler = Sampler(folder.root, names.is_sampled, names.key)
    canaries = Canaries(folder.root, names.key, names.live_tests, clock)
    calls = Calls(names, client, counts, ids, sampler, canaries)
    shadow = Shadow(calls, folder.root, clock)
    sampler.on_stored = shadow.add
    ratings = Ratings(folder.root, ids, canaries, clock)
    endpoints = Endpoints(calls, ratings, TraceIntake(names, sampler, clock), state)
    metrics = RequestCounts("door", MEASURED_ENDPOINTS)
    open_calls = Gauge("finetune_door_open_requests", "Requests under way.", registry=metrics.registry)
    open_calls.set_function(lambda: state.open_calls)

    app = Starlette(
        routes=[*endpoints.routes(), *metrics.routes()],
        middleware=[
            Middleware(RequestMetrics, counts=metrics),
            Middleware(DoorGuard, names=names, hosts=hosts, state=state),
        ],
        exception_handlers={
            ApiError: _answer_problem,
            HTTPException: _answer_http_exception,
            ClientDisconnect: _answer_disconnect,
            Exception: _answer_fault,
        },
        lifespan=_lifespan(calls, shadow),
    )
    # Many clients would follow a redirected POST with a GET, or not at all.
    app.router.redirect_slashes = False
    return app


def _lifespan(calls: Calls, shadow: Shadow) -> Callable[[Starlette], AbstractAsyncContextManager[None]]:
    """Returns what loads what is in use at the start, keeps it and what is counted up to date, and stores the rest at
    the end."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await calls.names.prepare()
        await calls.canaries.follow()
        tasks = [
            asyncio.create_task(calls.counts.keep_storing()),
            asyncio.create_task(calls.sampler.keep_storing()),
            asyncio.create_task(calls.canaries.keep_storing()),
            asyncio.create_task(shadow.keep_asking()),
            asyncio.create_task(_keep_prepared(calls.names)),
        ]
        yield
        for task in tasks:
            task.cancel()
        await calls.counts.store()
        await calls.sampler.store()
        await calls.canaries.store()
        await calls.client.close()
        calls.names.close()

    return lifespan


async def _keep_prepared(names: Names) -> None:
    """Loads each second what was promoted, until it is cancelled."""
    while True:
        # Candidates in live tests come after the start, which they must neither delay nor end.
        await names.prepare_live_tests()
        await asyncio.sleep(PREPARE_S)
        await names.prepare()


@dataclass(frozen=True)
class Endpoints:
    calls: Calls
    ratings: Ratings
    traces: TraceIntake
    state: DoorState

    def routes(self) -> list[Route]:
        return [
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/responses", self.response, methods=["POST"]),
            Route("/v1/classify", self.classification, methods=["POST"]),
            Route(FEEDBACK, self.ratings.answer, methods=["POST"]),
            Route(TRACES, self.traces.answer, methods=["POST"]),
            Route(MODELS, self.models),
            Route(f"{MODELS}/{{name:path}}", self.model),
            Route(HEALTH, self.health),
        ]

    async def chat(self, request: Request) -> Response:
        return await self.calls.answer(request, answer_chat)

    async def response(self, request: Request) -> Response:
        return await self.calls.answer(request, answer_response)

    async def classification(self, request: Request) -> Response:
        return await self.calls.answer(request, answer_classification)

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": self._models_in_use()})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        for model in self._models_in_use():
            if model["id"] == name:
                return JSONResponse(model)
        raise ApiError(404, f"Nothing is in use as '{name}'.", "model_not_found", "model")

    def _models_in_use(self) -> list[dict[str, object]]:
        return [
            {"id": published.name, "object": "model", "created": 0, "owned_by": "team"}
            for published in self.calls.names.all()
            if published.recipe is not None
        ]

    async def health(self, request: Request) -> Response:
        return JSONResponse(
            {
                "status": "ok",
                "version": version("finetune-bot"),
                "pid": self.state.keeper,
                "worker": os.getpid(),
                "is_kept": os.getppid() == self.state.keeper,
            }
        )


@dataclass(frozen=True)
class DoorGuard:
    """Checks Host header, key and size before an endpoint, and closes connections while the door drains."""

    app: ASGIApp
    names: Names
    hosts: frozenset[str]
    state: DoorState

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        problem = host_problem(headers, self.hosts, "server", HOST_REMEDY)
        if (
            problem is None
            and scope["path"] != HEALTH
            and not is_same_key(sent_key(headers), self.names.key())
        ):
            problem = key_missing(
                "Incorrect API key. Send the key in call.key as 'Authorization: Bearer KEY'."
            )
        if problem is None and is_longer(headers, MAX_BODY_BYTES):
            problem = _too_large()

        async def send_closing(message: Message) -> None:
            if self.state.is_draining and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), CLOSE]
            await send(message)

        if problem is not None:
            return await problem.response()(scope, receive, send_closing)
        self.state.open_calls += 1
        try:
            await self.app(scope, LimitedBody(receive, MAX_BODY_BYTES, _too_large()), send_closing)
        finally:
            self.state.open_calls -= 1


def _too_large() -> ApiError:
    megabytes = MAX_BODY_BYTES // 1024**2
    return ApiError(
        413, f"The request's body is too large. The limit is {megabytes} MB.", "request_too_large"
    )


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  Starlette's type for handlers takes any exception
    return error.response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answers what Starlette itself refuses: an unknown route or method."""
    assert isinstance(error, HTTPException)  # noqa: S101
    text = (
        f"There is no endpoint {request.method} {request.url.path} here. Programs can POST to /v1/chat/completions, "
        "/v1/responses, /v1/classify and /v1/feedback, and GET /v1/models."
    )
    code = "unknown_url"
    if error.status_code == 405:
        code = "method_not_allowed"
    return ApiError(error.status_code, text, code, headers=error.headers or {}).response()


async def _answer_disconnect(request: Request, error: Exception) -> Response:
    """The program hung up, so nobody reads this."""
    return ApiError(400, "The request ended before it was complete.", "cut_off").response()


async def _answer_fault(request: Request, error: Exception) -> Response:
    reference = new_reference()
    log.error("%s %s", request.method, request.url.path, exc_info=error, extra={"ref": reference})
    text = f"This server failed unexpectedly. Its log has the details, under reference {reference}."
    return ApiError(500, text, "internal_error", kind="server_error").response()
