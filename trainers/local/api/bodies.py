"""JSON bodies in OpenAI's shapes: parses those of clients, and builds those of answers. guard.py limits their size."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import orjson
from starlette.datastructures import FormData, QueryParams, UploadFile
from starlette.requests import Request

from trainers.http.errors import invalid
from trainers.hyperparameters import sweep_to_lists
from trainers.local.base_files import rate_of_base
from trainers.local.job_directory import TrainingJob, read_events
from trainers.local.jobs.files import StoredFile
from trainers.local.jobs.records import JobRecord, ResultFile, Status
from trainers.local.jobs.requests import integration_body
from trainers.methods import METHODS, specs
from trainers.money import from_micros

MIN_EXPIRY_S = 3600
MAX_EXPIRY_S = 30 * 24 * 3600

Body = dict[str, Any]


def list_body(bodies: Sequence[Body], query: QueryParams, default_limit: int, max_limit: int = 100) -> Body:
    """Returns OpenAI's list object with the page of `bodies` that the query's `after` and `limit` ask for. Raises
    ApiError (400)."""
    start = 0
    after = query.get("after")
    if after:
        ids = [body["id"] for body in bodies]
        if after not in ids:
            raise invalid(f"'after' names '{after}', which is not in this list.", "after")
        start = ids.index(after) + 1
    limit = query.get("limit", str(default_limit))
    if not re.fullmatch(r"\d{1,9}", limit, re.ASCII) or not 1 <= int(limit) <= max_limit:
        raise invalid(f"'limit' must be a whole number from 1 to {max_limit}.", "limit")
    end = start + int(limit)
    shown = bodies[start:end]
    first_id = ""
    last_id = ""
    if shown:
        first_id = shown[0]["id"]
        last_id = shown[-1]["id"]
    return {
        "object": "list",
        "data": shown,
        "has_more": len(bodies) > end,
        "first_id": first_id,
        "last_id": last_id,
    }


def file_body(file: StoredFile) -> Body:
    body: Body = {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "filename": file.filename,
        "purpose": "fine-tune",
        "status": "processed",
        "sha256": file.sha256,
    }
    if file.expires_at is not None:
        body["expires_at"] = file.expires_at
    return body


def result_file_body(file: ResultFile) -> Body:
    stat = file.path.stat()
    return {
        "id": file.id,
        "object": "file",
        "bytes": stat.st_size,
        "created_at": int(stat.st_mtime),
        "filename": file.filename,
        "purpose": "fine-tune-results",
        "status": "processed",
    }


def status_of(record: JobRecord, is_running: bool) -> Status:
    """Returns the status that clients see: a job runs before its record says so."""
    if is_running and record.status in ("queued", "paused"):
        return "running"
    return record.status


def job_body(record: JobRecord, is_running: bool) -> Body:
    job = record.job
    status = status_of(record, is_running)
    winner = record.progress.winner if record.progress else None
    hyperparameters = _hyperparameters(job, winner)
    body: Body = {
        "object": "fine_tuning.job",
        "id": job.id,
        "created_at": job.created_at,
        "model": job.continues or job.base_name,
        "status": status,
        "organization_id": "local",
        "training_file": record.request.training_file,
        "validation_file": record.request.validation_file,
        "hyperparameters": hyperparameters,
        "method": {"type": job.method, job.method: {"hyperparameters": hyperparameters}},
        "seed": job.seed,
        "metadata": dict(job.metadata),
        "user_provided_suffix": job.suffix,
        "integrations": [integration_body(integration) for integration in job.integrations],
        "fine_tuned_model": None,
        "finished_at": record.finished_at,
        **_progress(record, status),
        "result_files": [file.id for file in record.result_files],
        "error": None,
    }
    if record.status == "succeeded":
        body["fine_tuned_model"] = record.model_name
    if record.failure:
        body["error"] = asdict(record.failure)
    if record.billed_seconds is not None:
        body["billed_seconds"] = record.billed_seconds
    return body


def _progress(record: JobRecord, status: Status) -> Body:
    body: Body = {
        "estimated_finish": None,
        "trained_tokens": None,
        "trained_steps": None,
        "total_steps": None,
        "stopped_early": None,
        "result_step": None,
    }
    progress = record.progress
    if progress is None:
        return body
    body["trained_steps"] = progress.step
    body["total_steps"] = progress.total_steps
    body["stopped_early"] = progress.stopped_early
    body["result_step"] = progress.result_step
    if record.is_final:
        body["trained_tokens"] = progress.trained_tokens
    finish = progress.estimated_finish
    # A time that has passed is out of date, as while a process is restarting.
    if status == "running" and finish and finish >= time.time():
        body["estimated_finish"] = finish
    return body


def _hyperparameters(job: TrainingJob, winner: int | None) -> Body:
    """Returns the resolved hyperparameters that have a value, with money in dollars as text. For a sweep these are the
    ones that all trials share; once `winner`, a trial's number, is known, those of that trial."""
    if METHODS[job.method].is_for_encoders:
        return {name: getattr(job.settings, spec.field) for name, spec in specs(job.method).items()}
    settings = job.settings
    if winner is not None:
        settings = job.trials[winner - 1]
    values = asdict(settings)
    for name in ("max_usd", "usd_per_hour"):
        micros = values.pop(f"{name}_micros")
        if micros is not None:
            values[name] = f"{from_micros(micros).normalize():f}"
    usual_rate = rate_of_base(job.base, job.method)
    if METHODS[job.method].leaves_model:
        values = {name: value for name, value in values.items() if name in specs(job.method)}
    values["learning_rate_multiplier"] = round(settings.learning_rate / usual_rate, 6)
    values["sweep"] = sweep_to_lists(job.settings.sweep) or None
    # Until a trial has won, what differs between trials has no single value to show.
    differing: set[str] = set()
    if winner is None:
        trials = [asdict(trial) for trial in job.trials]
        for trial in trials[1:]:
            differing.update(name for name in trial if trial[name] != trials[0][name])
        if "learning_rate" in differing:
            differing.add("learning_rate_multiplier")
    return {name: value for name, value in values.items() if value is not None and name not in differing}


def event_bodies(record: JobRecord) -> list[Body]:
    """Returns the events, newest first. An event's id is built from its place in the file, so it never changes."""
    short_id = record.job.id.removeprefix("ftjob-")
    bodies = [
        {
            "object": "fine_tuning.job.event",
            "id": f"ftevent-{short_id}-{number:06d}",
            "created_at": event["created_at"],
            "level": event["level"],
            "type": event["type"],
            "message": event["message"],
            "data": event["data"],
        }
        for number, event in enumerate(read_events(record.folder))
    ]
    return bodies[::-1]


def checkpoint_bodies(record: JobRecord) -> list[Body]:
    """Returns the checkpoints, newest first. Their metrics are the latest reported at or before the checkpoint's
    step."""
    short_id = record.job.id.removeprefix("ftjob-")
    winner = record.progress.winner if record.progress else None
    events = [event["data"] for event in read_events(record.folder) if event["type"] == "metrics"]
    measured = [data for data in events if "step" in data and data.get("arm") == winner]
    # By number: the names have six digits only up to step 999,999.
    folders = {
        int(path.name.removeprefix("step-")): path for path in record.folder.glob("checkpoints/step-*[0-9]")
    }
    written = "adapter_config.json"
    if METHODS[record.job.method].leaves_model:
        written = "config.json"
    bodies = []
    for step, folder in sorted(folders.items(), reverse=True):
        try:  # the folder itself changes once more at the job's end, when state.pt goes
            saved_at = int((folder / written).stat().st_mtime)
        except FileNotFoundError:  # it is being deleted, to be replaced by a newer one
            continue
        metrics: Body = {"step": step}
        for data in measured:
            if int(data["step"]) <= step:
                metrics.update({name: data[name] for name in data if name.startswith(("train_", "valid_"))})
        bodies.append(
            {
                "object": "fine_tuning.job.checkpoint",
                "id": f"ftckpt-{short_id}-{step}",
                "created_at": saved_at,
                "fine_tuning_job_id": record.job.id,
                "fine_tuned_model_checkpoint": f"{record.model_name}:ckpt-step-{step}",
                "step_number": step,
                "metrics": metrics,
            }
        )
    return bodies


async def read_object(request: Request) -> dict[str, Any]:
    """Returns a request's JSON object. Raises ApiError (400), also for NaN, lone surrogates and broken UTF-8."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, character {error.colno}"
        raise invalid(f"The request's body is not valid JSON at {place}.", None, "invalid_json") from error
    if not isinstance(body, dict):
        raise invalid("The request's body must be a JSON object.", None, "invalid_json")
    return body


def read_upload(form: FormData) -> UploadFile:
    """Returns the part 'file' of a form whose purpose is 'fine-tune'. Raises ApiError (400)."""
    file = form.get("file")
    if not isinstance(file, UploadFile):
        text = "Send the file as the part 'file' of a multipart form."
        raise invalid(text, "file", "missing_required_parameter")
    purpose = form.get("purpose")
    if purpose != "fine-tune":
        text = f"'purpose' is {str(purpose)[:64]!r}; this trainer takes files for 'fine-tune' only."
        raise invalid(text, "purpose")
    return file


def read_expiry(form: FormData) -> int | None:
    """Returns after how many seconds the file expires, or None if it doesn't. Raises ApiError (400)."""
    raw = form.get("expires_after[seconds]")
    anchor = form.get("expires_after[anchor]")
    if raw is None and anchor is None:
        return None
    if anchor != "created_at":
        raise invalid("'expires_after.anchor' must be 'created_at'.", "expires_after")
    fits = isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 10
    if not fits or not MIN_EXPIRY_S <= int(str(raw)) <= MAX_EXPIRY_S:
        text = f"'expires_after.seconds' must be a whole number from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}."
        raise invalid(text, "expires_after")
    return int(str(raw))
