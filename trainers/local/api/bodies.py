"""JSON bodies in OpenAI's shapes: reads and limits what clients send, and writes our values as answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, TypeVar

import orjson
from starlette.datastructures import FormData, QueryParams, UploadFile
from starlette.requests import Request

from trainers.hyperparameters import sweep_to_lists
from trainers.local.api_errors import invalid
from trainers.local.job_directory import TrainingJob, read_events
from trainers.local.jobs.files import StoredFile
from trainers.local.jobs.records import JobRecord, Progress, ResultFile
from trainers.local.jobs.requests import integration_body
from trainers.local.training.base_files import rate_of_base
from trainers.money import from_micros

Body = dict[str, Any]
T = TypeVar("T")


def select_page(
    items: Sequence[T], query: QueryParams, identify: Callable[[T], str], default: int, most: int = 100
) -> Sequence[T]:
    """What follows the item `after`, at most `limit` and one more, which says that there is more."""
    start = 0
    after = query.get("after")
    if after:
        positions = [number for number, item in enumerate(items) if identify(item) == after]
        if not positions:
            raise invalid(f"'after' names '{after}', which is not in this list.", "after")
        start = positions[0] + 1
    return items[start : start + _limit(query, default, most) + 1]


def listing(bodies: Sequence[Body], query: QueryParams, default: int, most: int = 100) -> Body:
    """OpenAI's list out of what `page` gave."""
    limit = _limit(query, default, most)
    shown = bodies[:limit]
    return {
        "object": "list",
        "data": shown,
        "has_more": len(bodies) > limit,
        "first_id": shown[0]["id"] if shown else "",
        "last_id": shown[-1]["id"] if shown else "",
    }


def _limit(query: QueryParams, default: int, most: int) -> int:
    raw = query.get("limit", str(default))
    if not raw.isascii() or not raw.isdigit() or not 1 <= int(raw) <= most:
        raise invalid(f"'limit' must be a whole number from 1 to {most}.", "limit")
    return int(raw)


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
    return body if file.expires_at is None else {**body, "expires_at": file.expires_at}


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


def job_body(record: JobRecord, is_running: bool) -> Body:
    job, progress, failure = record.job, record.progress, record.failure
    status = "running" if is_running and record.status in ("queued", "paused") else record.status
    hyperparameters = _hyperparameters(job, progress.winner if progress else None)
    return {
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
        "integrations": [integration_body(each) for each in job.integrations],
        "fine_tuned_model": record.model_name if record.status == "succeeded" else None,
        "finished_at": record.finished_at,
        "estimated_finish": _estimated_finish(progress) if progress and status == "running" else None,
        "trained_tokens": progress.trained_tokens if progress and record.is_final else None,
        "trained_steps": progress.step if progress else None,
        "total_steps": progress.total_steps if progress else None,
        "stopped_early": progress.stopped_early if progress else None,
        "result_step": progress.result_step if progress else None,
        "result_files": [file.id for file in record.result_files],
        "error": asdict(failure) if failure else None,
    }


def _hyperparameters(job: TrainingJob, winner: int | None) -> Body:
    """As resolved, money in dollars as text, without what was left open. Of a sweep what all arms share, and once
    one of them has won, its own."""
    settings = job.settings if winner is None else job.arms[winner - 1]
    values = asdict(settings)
    for name in ("max_usd", "usd_per_hour"):
        micros = values.pop(f"{name}_micros")
        values[name] = None if micros is None else f"{from_micros(micros).normalize():f}"
    values["learning_rate_multiplier"] = round(settings.learning_rate / rate_of_base(job.base, job.method), 6)
    values["sweep"] = sweep_to_lists(job.settings.sweep) or None
    special = set() if winner is not None else _special(job)
    return {name: value for name, value in values.items() if value is not None and name not in special}


def _special(job: TrainingJob) -> set[str]:
    """In what the arms of a sweep differ."""
    arms = [asdict(arm) for arm in job.arms]
    names = {name for arm in arms for name in arm if arm[name] != arms[0][name]}
    return names | {"learning_rate_multiplier"} if "learning_rate" in names else names


def _estimated_finish(progress: Progress) -> int | None:
    """None where the moment has passed, as while a process starts again."""
    finish = progress.estimated_finish
    return finish if finish and finish >= time.time() else None


def event_bodies(record: JobRecord) -> list[Body]:
    """Newest first. The id is the event's place in the file, so that it stays."""
    bodies = [
        {
            "object": "fine_tuning.job.event",
            "id": f"ftevent-{record.job.id.removeprefix('ftjob-')}-{number:06d}",
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
    """Newest first. Metrics are the last that events named at or before the checkpoint's step."""
    winner = record.progress.winner if record.progress else None
    events = [event["data"] for event in read_events(record.folder) if event["type"] == "metrics"]
    measured = [data for data in events if "step" in data and data.get("arm") == winner]
    folders = sorted(record.folder.glob("checkpoints/step-*[0-9]"), reverse=True)
    return [
        _checkpoint_body(record, int(f.name.removeprefix("step-")), int(f.stat().st_mtime), measured)
        for f in folders
    ]


def _checkpoint_body(record: JobRecord, step: int, created_at: int, measured: list[Body]) -> Body:
    metrics: Body = {"step": step}
    for data in measured:
        if int(data["step"]) <= step:
            metrics.update({name: data[name] for name in data if name.startswith(("train_", "valid_"))})
    return {
        "object": "fine_tuning.job.checkpoint",
        "id": f"ftckpt-{record.job.id.removeprefix('ftjob-')}-{step}",
        "created_at": created_at,
        "fine_tuning_job_id": record.job.id,
        "fine_tuned_model_checkpoint": f"{record.model_name}:ckpt-step-{step}",
        "step_number": step,
        "metrics": metrics,
    }


# Reads what clients send: JSON bodies and multipart uploads, each to its cap (guard.py).


MIN_EXPIRY_S = 3600
MAX_EXPIRY_S = 30 * 24 * 3600


async def read_object(request: Request) -> dict[str, Any]:
    """Raises Problem (400). NaN, lone surrogates and broken UTF-8 are no JSON."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, character {error.colno}"
        raise invalid(
            f"The request's body is not valid JSON from {place} on.", None, "invalid_json"
        ) from error
    if not isinstance(body, dict):
        raise invalid("The request's body must be a JSON object.", None, "invalid_json")
    return body


def read_upload(form: FormData) -> UploadFile:
    """The one part called 'file', of purpose 'fine-tune'. Raises Problem (400)."""
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise invalid(
            "Send the file as the part 'file' of a multipart form.", "file", "missing_required_parameter"
        )
    if purpose != "fine-tune":
        text = f"'purpose' is {str(purpose)[:64]!r}; this trainer takes files for 'fine-tune' only."
        raise invalid(text, "purpose")
    return file


def read_expiry(form: FormData) -> int | None:
    """Seconds from now. Raises Problem (400)."""
    raw, anchor = form.get("expires_after[seconds]"), form.get("expires_after[anchor]")
    if raw is None and anchor is None:
        return None
    if anchor != "created_at":
        raise invalid("'expires_after.anchor' must be 'created_at'.", "expires_after")
    fits = isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 10
    if not fits or not MIN_EXPIRY_S <= int(str(raw)) <= MAX_EXPIRY_S:
        text = f"'expires_after.seconds' must be a whole number from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}."
        raise invalid(text, "expires_after")
    return int(str(raw))
