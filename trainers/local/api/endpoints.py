"""The endpoints of the API, one class per noun: files, jobs, models with their chats, aliases. Each parses its request,
asks the stores and answers in OpenAI's shape. Those without `async` run in Starlette's threads, since they read files.

Extensions of OpenAI's API: jobs can be paused, resumed and deleted, and /v1/aliases holds names that programs call,
each with the model behind it. PUT /v1/aliases/team/tickets {"model": "ft:…"} is idempotent. GET
/v1/aliases/team/tickets/usage?since=2026-11-01 returns how much an alias was called."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from trainers.http.errors import ApiError, invalid, not_found
from trainers.local.alias_usage import AliasCounts, CountingEngine
from trainers.local.api import (
    bodies,
    chat_completions,
    chat_requests,
    embeddings,
    responses,
    text_completions,
)
from trainers.local.api.stored_responses import StoredResponses, owner_of
from trainers.local.base_files import rate_of_base
from trainers.local.checks import method_refusal, quantization_refusal
from trainers.local.engines.compatibility import find_refusal
from trainers.local.jobs.backends import Backend, backend_refusal
from trainers.local.jobs.files import Files
from trainers.local.jobs.job_queue import JobQueue
from trainers.local.jobs.records import JobRecord, Jobs
from trainers.local.jobs.requests import (
    adapt_to_base,
    check_integrations,
    parse_job_request,
    request_fingerprint,
)
from trainers.local.models import Alias, Aliases, Model, Models
from trainers.local.serving.values import GenerationEngine, Target
from trainers.methods import METHODS
from trainers.models.base_models import why_untrainable
from trainers.rentals.prices import read_rental

FILES_PER_PAGE = 10_000
JOBS_PER_PAGE = 20
EVENTS_PER_PAGE = 20
CHECKPOINTS_PER_PAGE = 10
DAY = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)

AnswerRequest = Callable[[Request, GenerationEngine, Target, Any], Awaitable[Response]]


@dataclass(frozen=True)
class FileEndpoints:
    """`forget_texts` drops the prompts and answers that are in memory, which may have rows of what is deleted."""

    files: Files
    jobs: Jobs
    forget_texts: Callable[[], None]

    def routes(self) -> list[Route]:
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.index),
            Route("/v1/files/{id}", self.retrieve),
            Route("/v1/files/{id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self.content),
        ]

    async def upload(self, request: Request) -> Response:
        async with request.form(max_files=1, max_fields=16) as form:
            file = bodies.read_upload(form)
            expires_after_s = bodies.read_expiry(form)
            name = (file.filename or "upload.jsonl")[:255]
            stored = await run_in_threadpool(self.files.add, file.file, name, expires_after_s)
        return JSONResponse(bodies.file_body(stored))

    def index(self, request: Request) -> Response:
        query = request.query_params
        purpose = query.get("purpose")
        shown: list[bodies.Body] = []
        # Uploads for training, and the results that jobs have written.
        if purpose in (None, "fine-tune"):
            shown += [bodies.file_body(file) for file in self.files.all()]
        if purpose in (None, "", "fine-tune-results"):
            results = (file for record in self.jobs.all() for file in record.result_files)
            shown += [bodies.result_file_body(file) for file in results]
        shown.sort(key=lambda body: (body["created_at"], body["id"]), reverse=query.get("order") != "asc")
        return JSONResponse(bodies.list_body(shown, query, FILES_PER_PAGE, max_limit=FILES_PER_PAGE))

    def retrieve(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        result = self.jobs.find_result_file(file_id)
        if result is not None:
            return JSONResponse(bodies.result_file_body(result))
        return JSONResponse(bodies.file_body(self.files.get(file_id)))

    def content(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        result = self.jobs.find_result_file(file_id)
        if result is not None:
            return FileResponse(result.path, media_type="text/csv")
        return FileResponse(self.files.content(file_id), media_type="application/octet-stream")

    def delete(self, request: Request) -> Response:
        file_id = request.path_params["id"]
        if self.jobs.find_result_file(file_id) is not None:
            text = "A job's result file can't be deleted on its own. Delete the job instead."
            raise ApiError(403, text, "file_not_deletable")
        self.files.delete(file_id)
        self.forget_texts()
        return JSONResponse({"id": file_id, "object": "file", "deleted": True})


@dataclass(frozen=True)
class JobEndpoints:
    """`forget_model` drops the texts that are in memory once a job's model is deleted."""

    files: Files
    jobs: Jobs
    models: Models
    queue: JobQueue
    aliases: Aliases
    engines: Path
    forget_model: Callable[[str], None]

    def routes(self) -> list[Route]:
        root = "/v1/fine_tuning/jobs"
        return [
            Route(root, self.create, methods=["POST"]),
            Route(root, self.index),
            Route(root + "/{id}", self.retrieve),
            Route(root + "/{id}", self.delete, methods=["DELETE"]),
            Route(root + "/{id}/cancel", self.cancel, methods=["POST"]),
            Route(root + "/{id}/pause", self.pause, methods=["POST"]),
            Route(root + "/{id}/resume", self.resume, methods=["POST"]),
            Route(root + "/{id}/events", self.events),
            Route(root + "/{id}/checkpoints", self.checkpoints),
        ]

    async def create(self, request: Request) -> Response:
        body = await bodies.read_object(request)
        key = request.headers.get("idempotency-key")
        if key is not None and not 1 <= len(key) <= 255:
            raise invalid("The Idempotency-Key must have 1 to 255 characters.", "Idempotency-Key")
        record = await run_in_threadpool(self._create, body, key)
        self.queue.wake()
        return self._answer(record)

    def _create(self, body: bodies.Body, key: str | None) -> JobRecord:
        # Before all checks: a create that was accepted stays so, even if it would now be refused.
        if key:
            earlier = self.jobs.find_by_key(key, request_fingerprint(body))
            if earlier is not None:
                return earlier
        job_request = parse_job_request(body)
        hyperparameters = job_request.hyperparameters
        check_integrations(job_request.integrations)
        if complaint := quantization_refusal(hyperparameters.values.get("quantization", "none")):
            raise invalid(complaint, "hyperparameters.quantization", "quantization_unavailable")
        if complaint := method_refusal(job_request.method):
            raise invalid(complaint, "method.type", "method_unavailable")
        start = self.models.starting_point(job_request.model)
        job_request = adapt_to_base(job_request, start.base_name, is_encoder=start.is_encoder)
        hyperparameters = job_request.hyperparameters
        backend = self._backend_for(job_request.metadata)
        if start.is_encoder and not backend.is_here:
            text = (
                "This trainer's jobs run on a cluster, which can't train encoders. Leave --executor ray out."
            )
            raise invalid(text, "model", "base_not_trainable")
        learns_all = METHODS[job_request.method].leaves_model
        if learns_all and not backend.is_here:
            text = (
                "Training all weights leaves a model of gigabytes, which has to be trained where it is served, and "
                "this job would train on another machine. Leave 'method' out, which trains an adapter."
            )
            raise invalid(text, "method.type", "method_unavailable")
        if not start.is_encoder and (complaint := why_untrainable(start.base, learns_all=learns_all)):
            raise invalid(complaint, "model", "base_not_trainable")
        training = self._known_file(job_request.training_file, "training_file")
        validation = None
        if job_request.validation_file:
            validation = self._known_file(job_request.validation_file, "validation_file")

        # Only now, since "auto" depends on the number of rows, on the base, and on where it is trained.
        examples = self.files.get(job_request.training_file).lines
        rate = rate_of_base(start.base, job_request.method)
        processes = 1 if start.is_encoder else backend.processes
        resolved = hyperparameters.resolve(examples, rate, processes)
        settings = start.settings(hyperparameters, resolved)
        refusal = backend_refusal(backend, settings) or find_refusal(self.engines, settings)
        if refusal:
            raise invalid(refusal.message, f"hyperparameters.{refusal.param}", refusal.code)
        if shortage := backend.shortage():
            raise invalid(shortage, None, "too_few_nodes")
        trials = hyperparameters.trials(examples, rate, processes)
        return self.jobs.create(job_request, start, settings, training, validation, key=key, trials=trials)

    def _backend_for(self, metadata: Mapping[str, str]) -> Backend:
        """Returns where a job with this metadata trains. Raises ApiError (400) if it asks for a machine that can't be
        rented."""
        backend = self.queue.backend_of(metadata)
        try:
            if read_rental(metadata) is None or backend.rents:
                return backend
        except ValueError as error:
            raise invalid(f"The metadata of a rented machine are wrong: {error}.", "metadata") from error
        text = "This trainer rents no machines: start it with --hf-image, or leave hf_hardware out of the metadata."
        raise invalid(text, "metadata", "renting_unavailable")

    def index(self, request: Request) -> Response:
        query = request.query_params
        filters = {}
        for name, value in query.items():
            match = re.fullmatch(r"metadata\[(.+)\]", name)
            if match is not None:
                filters[match[1]] = value
        by_id = {}
        for record in self.jobs.all():
            # A job is listed if it has all pairs of the filter.
            if filters.items() <= record.job.metadata.items():
                by_id[record.job.id] = record
        # Only the jobs of this page are written out, since that reads their files.
        entries = [{"id": job_id} for job_id in by_id]
        page = bodies.list_body(entries, query, JOBS_PER_PAGE)
        shown = []
        for entry in page["data"]:
            record = by_id[entry["id"]]
            shown.append(self._body(record))
        return JSONResponse({**page, "data": shown})

    def retrieve(self, request: Request) -> Response:
        return self._answer(self._record(request))

    def delete(self, request: Request) -> Response:
        """Deletes a job with its rows, events, checkpoints and model."""
        record = self._record(request)
        if not record.is_final or self.queue.is_running(record.job.id):
            text = f"{record.job.id} has not ended, so it can't be deleted. Cancel it, or wait for its end."
            raise ApiError(400, text, "job_not_final")
        complaint = self.queue.backend_of(record.job.metadata).discard(record)
        if complaint is not None:
            raise ApiError(503, complaint, "storage_away", kind="server_error")
        self.aliases.delete_job(self.jobs, record)
        self.forget_model(record.model_name)
        return JSONResponse({"id": record.job.id, "object": "fine_tuning.job", "deleted": True})

    def cancel(self, request: Request) -> Response:
        """Cancels a job. One that is cancelled already is returned as it is, so a second click does no harm."""
        record = self._record(request)
        if record.status in ("succeeded", "failed"):
            text = f"{record.job.id} has already {record.status}, so it can't be cancelled."
            raise ApiError(400, text, "job_already_final")
        if record.status != "cancelled" and not self.queue.cancel(record):
            text = f"The training process of {record.job.id} could not be ended. Try again in a minute."
            raise ApiError(503, text, "cancel_failed", kind="server_error")
        return self._answer(self._record(request))

    def pause(self, request: Request) -> Response:
        """Pauses a job. One that is paused already is returned as it is."""
        record = self._active_record(request, "paused")
        if self.queue.backend_of(record.job.metadata).rents:
            text = f"{record.job.id} trains on a rented machine, which costs money while it waits. Cancel it instead."
            raise ApiError(400, text, "rented_machine")
        if not self.queue.pause(record):
            text = f"The training process of {record.job.id} could not be ended. Try again in a minute."
            raise ApiError(503, text, "pause_failed", kind="server_error")
        return self._answer(self._record(request))

    def resume(self, request: Request) -> Response:
        """Resumes a job. One that isn't paused is returned as it is."""
        record = self._active_record(request, "resumed")
        self.queue.resume(record)
        return self._answer(self._record(request))

    def events(self, request: Request) -> Response:
        record = self._record(request)
        events = bodies.event_bodies(record)
        page = bodies.list_body(events, request.query_params, EVENTS_PER_PAGE)
        return JSONResponse(page)

    def checkpoints(self, request: Request) -> Response:
        record = self._record(request)
        checkpoints = bodies.checkpoint_bodies(record)
        page = bodies.list_body(checkpoints, request.query_params, CHECKPOINTS_PER_PAGE)
        return JSONResponse(page)

    def _record(self, request: Request) -> JobRecord:
        job_id = request.path_params["id"]
        record = self.jobs.get(job_id)
        if record is None:
            raise not_found("fine-tuning job", job_id)
        return record

    def _active_record(self, request: Request, what: str) -> JobRecord:
        record = self._record(request)
        if record.is_final:
            text = f"{record.job.id} has {record.status}, so it can't be {what}."
            raise ApiError(400, text, "job_already_final")
        return record

    def _body(self, record: JobRecord) -> bodies.Body:
        return bodies.job_body(record, self.queue.is_running(record.job.id))

    def _answer(self, record: JobRecord) -> Response:
        return JSONResponse(self._body(record))

    def _known_file(self, file_id: str, param: str) -> Path:
        try:
            return self.files.content(file_id)
        except ApiError as problem:
            text = f"There is no file '{file_id}' on this trainer. Upload it first."
            raise invalid(text, param, "file_not_found") from problem


@dataclass(frozen=True)
class ModelEndpoints:
    models: Models
    aliases: Aliases
    engine: GenerationEngine
    usage: AliasCounts
    stored: StoredResponses

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", self.index),
            Route("/v1/models/{name:path}", self.retrieve),
            Route("/v1/models/{name:path}", self.delete, methods=["DELETE"]),
            self._engine_route("/v1/chat/completions", chat_requests.parse_chat, chat_completions.complete),
            Route("/v1/responses", self.respond, methods=["POST"]),
            Route("/v1/responses/{id}", self.retrieve_response),
            Route("/v1/responses/{id}", self.delete_response, methods=["DELETE"]),
            self._engine_route(
                "/v1/completions", text_completions.parse_text, text_completions.continue_text
            ),
            self._engine_route("/v1/embeddings", embeddings.parse_embedding, embeddings.embed),
        ]

    def index(self, request: Request) -> Response:
        bodies_of_all = [_model_body(model) for model in self.models.all()]
        for alias in self.aliases.all():
            # An alias with the name of a base model is never called: the base model answers.
            if self.aliases.get(alias.name):
                bodies_of_all.append(_alias_model_body(alias))
        return JSONResponse({"object": "list", "data": bodies_of_all})

    def retrieve(self, request: Request) -> Response:
        name = request.path_params["name"]
        alias = self.aliases.get(name)
        if alias:
            return JSONResponse(_alias_model_body(alias))
        return JSONResponse(_model_body(self.models.get(name)))

    def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.aliases.delete_model(name)
        self.forget_model(name)
        return JSONResponse({"id": name, "object": "model", "deleted": True})

    def forget_model(self, name: str) -> None:
        """Drops what a deleted model has answered, and the prompts and answers of all models that are in memory, since
        the rows that it learnt from may be among them."""
        self.engine.forget_texts()
        self.stored.delete_of_model(name)

    def _engine_route(self, path: str, parse: Callable[[bodies.Body], Any], answer: AnswerRequest) -> Route:
        """Returns the route of an endpoint that asks a model."""

        async def ask(request: Request) -> Response:
            # In a thread, since checking a grammar may take a second.
            body = await bodies.read_object(request)
            params = await run_in_threadpool(parse, body)
            return await self._answer(request, params, answer)

        return Route(path, ask, methods=["POST"])

    async def respond(self, request: Request) -> Response:
        body = await bodies.read_object(request)
        before = self.stored.items_before(owner_of(request), body)
        params = await run_in_threadpool(responses.parse_response, body, before)
        return await self._answer(request, params, partial(responses.respond, self.stored))

    async def _answer(self, request: Request, params: Any, answer: AnswerRequest) -> Response:
        """Asks a model. A call of an alias is counted, and its answer names the model behind it."""
        model, target = await run_in_threadpool(self.aliases.find, params.model)
        engine = self.engine
        if params.model != model:
            engine = CountingEngine(engine, self.usage, params.model, model)
        return await answer(request, engine, target, replace(params, model=model))

    def retrieve_response(self, request: Request) -> Response:
        response = self.stored.get(owner_of(request), request.path_params["id"])
        return JSONResponse(response.body)

    def delete_response(self, request: Request) -> Response:
        response_id = request.path_params["id"]
        self.stored.delete(owner_of(request), response_id)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})


def _model_body(model: Model) -> bodies.Body:
    return {"id": model.name, "object": "model", "created": model.created, "owned_by": model.owner}


def _alias_model_body(alias: Alias) -> bodies.Body:
    body = {"id": alias.name, "object": "model", "created": alias.set_at, "owned_by": "local-alias"}
    return {**body, "stands_for": alias.model}


@dataclass(frozen=True)
class AliasEndpoints:
    aliases: Aliases
    counts: AliasCounts

    def routes(self) -> list[Route]:
        return [
            Route("/v1/aliases", self.index),
            Route("/v1/aliases/{name:path}/usage", self.usage),
            Route("/v1/aliases/{name:path}", self.put, methods=["PUT"]),
            Route("/v1/aliases/{name:path}", self.delete, methods=["DELETE"]),
        ]

    def index(self, request: Request) -> Response:
        data = [_alias_body(alias) for alias in self.aliases.all()]
        return JSONResponse({"object": "list", "data": data})

    async def put(self, request: Request) -> Response:
        body = await bodies.read_object(request)
        for name in body:
            if name != "model":
                raise invalid(f"An alias has no '{name}'. Send the model alone.", name, "unknown_parameter")
        model = chat_requests.read_model_name(body)
        alias = await run_in_threadpool(self.aliases.point, request.path_params["name"], model)
        return JSONResponse(_alias_body(alias))

    def usage(self, request: Request) -> Response:
        name = request.path_params["name"]
        since = request.query_params.get("since", "")
        names = {alias.name for alias in self.aliases.all()}
        if name not in names:
            raise not_found("alias", name, "alias_not_found", "name")
        if since and not DAY.fullmatch(since):
            raise invalid("'since' must be a day, like 2026-11-01.", "since")
        data = [{"object": "alias.usage", **asdict(day)} for day in self.counts.usage_since(name, since)]
        return JSONResponse({"object": "list", "data": data})

    def delete(self, request: Request) -> Response:
        name = request.path_params["name"]
        self.aliases.remove(name)
        self.counts.forget(name)
        return JSONResponse({"id": name, "object": "alias", "deleted": True})


def _alias_body(alias: Alias) -> bodies.Body:
    return {"id": alias.name, "object": "alias", "model": alias.model, "set_at": alias.set_at}
