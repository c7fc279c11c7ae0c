"""The trainer's HTTP server, with OpenAI's endpoints for files, fine-tuning jobs, models and chats, and one for
aliases.

Assembles the parts and turns errors into answers. Every answer is derived from the data folder and the queue of jobs.
Training runs in child processes, generation in a thread, and no module imported here imports torch.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from trainers.host import ENGINES_FOLDER
from trainers.http.errors import ApiError
from trainers.http.metrics import METRICS, RequestCounts, RequestMetrics
from trainers.local import turns
from trainers.local.alias_usage import USAGE_FOLDER, AliasCounts
from trainers.local.api import bodies
from trainers.local.api.endpoints import AliasEndpoints, FileEndpoints, JobEndpoints, ModelEndpoints
from trainers.local.api.guard import CALLS, MODELS, Guard
from trainers.local.api.stored_responses import StoredResponses
from trainers.local.job_directory import is_disk_full
from trainers.local.jobs.backends import Backend, LocalBackend
from trainers.local.jobs.files import Files
from trainers.local.jobs.job_queue import JobQueue
from trainers.local.jobs.records import Jobs, Status
from trainers.local.models import ALIASES_FILE, Aliases, Models
from trainers.local.ray.backend import RayBackend, RayOptions
from trainers.local.ray.head import RayHead
from trainers.local.rentals.backend import RentedBackend
from trainers.local.rentals.machines import RentingOptions
from trainers.local.serving.encoder_engine import EncoderEngine
from trainers.local.serving.generator import Generator
from trainers.local.serving.values import GenerationEngine
from trainers.log_lines import new_reference

MEASURED_ENDPOINTS = (*CALLS, MODELS, METRICS, "/v1/fine_tuning/jobs", "/v1/files", "/v1/aliases")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Config:
    """`models` maps names of base models to local folders or hub ids, and `encoders` those of encoders, as
    trainers/encoders names them. `hosts`, `key` and `call_key` are Guard's.

    `gpus` are named as in CUDA_VISIBLE_DEVICES, and each job gets `gpus_per_job` of them. With () the processes see all
    that the machine has. `train_command` replaces the real one in tests. With `ray`, jobs run on that cluster instead
    of this machine; with `rented`, jobs that name hardware run on rented machines."""

    data: Path
    key: str
    models: Mapping[str, str]
    call_key: str = ""
    slots: int = 1
    hosts: frozenset[str] = field(default=frozenset())
    train_command: tuple[str, ...] | None = None
    gpus: tuple[str, ...] = ()
    gpus_per_job: int = 1
    serving_engine: Literal["builtin", "vllm"] = "builtin"
    ray: RayOptions | None = None
    rented: RentingOptions | None = None
    encoders: Mapping[str, str] = field(default_factory=dict)


def build_app(config: Config) -> Starlette:
    """Returns the app. Its lifespan starts the queue of jobs, and at its end stops the training processes."""
    files = Files(config.data / "files")
    jobs = Jobs(config.data / "jobs")
    jobs.remove_leftovers()
    models = Models(config.models, jobs, config.encoders)
    aliases = Aliases(config.data / ALIASES_FILE, models)
    usage = AliasCounts(config.data / USAGE_FOLDER)
    engines = config.data / ENGINES_FOLDER
    queue = _create_queue(config, jobs)
    engine = _create_engine(config, lambda: queue.is_busy)

    model_endpoints = ModelEndpoints(models, aliases, engine, usage, StoredResponses())

    def job_statuses() -> list[Status]:
        return [bodies.status_of(record, queue.is_running(record.job.id)) for record in jobs.all()]

    metrics = RequestCounts("trainer", MEASURED_ENDPOINTS)
    metrics.registry.register(JobCounts(job_statuses))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        queue.start()
        yield
        # Together: each may have to wait ten seconds for its processes.
        await asyncio.gather(run_in_threadpool(queue.stop), run_in_threadpool(engine.stop))

    app = Starlette(
        routes=[
            *FileEndpoints(files, jobs, engine.forget_texts).routes(),
            *JobEndpoints(
                files, jobs, models, queue, aliases, engines, model_endpoints.forget_model
            ).routes(),
            *model_endpoints.routes(),
            *AliasEndpoints(aliases, usage).routes(),
            *metrics.routes(),
        ],
        middleware=[
            Middleware(RequestMetrics, counts=metrics),
            Middleware(Guard, key=config.key, call_key=config.call_key, hosts=config.hosts),
        ],
        exception_handlers={
            ApiError: _answer_problem,
            HTTPException: _answer_http_exception,
            OSError: _answer_os_error,
            ClientDisconnect: _answer_disconnect,
            Exception: _answer_fault,
        },
        lifespan=lifespan,
    )
    # Many clients would follow a redirected POST with a GET, or not at all.
    app.router.redirect_slashes = False
    return app


class JobCounts(Collector):
    """Jobs by status, for Prometheus. What a job itself reports (its loss, its steps) is in its events and files."""

    def __init__(self, statuses: Callable[[], Iterable[Status]]) -> None:
        self._statuses = statuses

    def collect(self) -> Iterator[Metric]:
        counts = Counter(self._statuses())
        family = GaugeMetricFamily("finetune_trainer_jobs", "Jobs, by status.", labels=["status"])
        for status in get_args(Status):
            family.add_metric([status], counts[status])
        yield family


def _create_queue(config: Config, jobs: Jobs) -> JobQueue:
    backend: Backend = LocalBackend(
        config.train_command, config.gpus, config.gpus_per_job, config.data / turns.FOLDER
    )
    if config.ray is not None:
        backend = RayBackend(RayHead(config.ray.address), config.ray, config.data / "jobs")
    rented = None
    if config.rented:
        rented = RentedBackend(config.rented, config.data)
    return JobQueue(jobs, config.slots, backend, rented)


def _create_engine(config: Config, is_training: Callable[[], bool]) -> GenerationEngine:
    """Returns the engine for encoders, which passes requests for other models on to the one that writes text."""
    engine: GenerationEngine = Generator(is_training, config.data / turns.FOLDER)
    if config.serving_engine == "vllm":
        # Imported late, with the hub's client: 10 MB, which other trainers do without while idle.
        from trainers.local.serving.vllm_engine import VllmEngine

        gpu = config.gpus[0] if config.gpus else None
        engine = VllmEngine(config.data / ENGINES_FOLDER, engine, is_training, gpu)
    return EncoderEngine(engine)


async def _answer_disconnect(request: Request, error: Exception) -> Response:
    """The client hung up while it was sending, which is not the server's fault: the log gets no traceback."""
    return ApiError(400, "The request ended before it was complete.", "cut_off").response()


async def _answer_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)  # noqa: S101  Starlette's type for handlers takes any exception
    return error.response()


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answers what Starlette itself refuses: an unknown route or method, or a malformed multipart form."""
    assert isinstance(error, HTTPException)  # noqa: S101
    where = f"{request.method} {request.url.path}"
    if error.status_code == 404:
        return ApiError(404, f"This trainer has no endpoint {where}.", "unknown_url").response()
    if error.status_code == 405:
        text = f"This trainer has no endpoint {where}."
        return ApiError(405, text, "method_not_allowed", headers=error.headers or {}).response()
    return ApiError(error.status_code, f"{where}: {error.detail}").response()


async def _answer_os_error(request: Request, error: Exception) -> Response:
    """Names a full disk; any other OSError is a fault of the server."""
    if isinstance(error, OSError) and is_disk_full(error):
        where = f"{request.method} {request.url.path}"
        text = f"The trainer's disk is full, so {where} failed. Free some space there, and try again."
        return ApiError(507, text, "disk_full", kind="server_error").response()
    return await _answer_fault(request, error)


async def _answer_fault(request: Request, error: Exception) -> Response:
    reference = new_reference()
    log.error("%s %s", request.method, request.url.path, exc_info=error, extra={"ref": reference})
    text = f"The trainer failed unexpectedly. Its log has the details, under reference {reference}."
    return ApiError(500, text, "internal_error", kind="server_error").response()
