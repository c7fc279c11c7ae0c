"""Request and response bodies of the fine-tuning API: what is sent to create a job, what is read into our types, and
checks of files before upload. Sends nothing. A missing id or status raises Nonsense; any other missing field
becomes None."""

from __future__ import annotations

import base64
import binascii
import csv
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from trainers.errors import Changed, Nonsense, TrainerError
from trainers.hyperparameters import sweep_to_lists
from trainers.types import (
    AliasUsage,
    Answer,
    Checkpoint,
    Event,
    Hyperparameter,
    Job,
    JobSpec,
    Message,
    Metric,
    ModelInfo,
    Provider,
    SweepArm,
)

Json = Mapping[str, object]

METADATA_KEY = "finetune_key"
PLAIN_HYPERPARAMETERS = frozenset({"n_epochs", "batch_size", "learning_rate_multiplier", "beta"})
EXPIRY_MARGIN_S = 2 * 24 * 3600
_CURE = "Does base_url point at an OpenAI-shaped API, and is nothing in between answering for it?"


def read_object(content: bytes, doing: str) -> Json:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Nonsense(f"{doing}: the answer is not JSON but {excerpt(content)}. {_CURE}") from error
    if not isinstance(value, dict):
        raise Nonsense(f"{doing}: the answer is not an object but {excerpt(content)}. {_CURE}")
    return value


def read_list(content: bytes, doing: str) -> tuple[tuple[Json, ...], bool]:
    """Returns the rows of one page, and whether more follow."""
    page = read_object(content, doing)
    rows = page.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise Nonsense(f"{doing}: the answer has no list of objects under 'data'. {_CURE}")
    return tuple(rows), page.get("has_more") is True


def read_job(content: bytes, doing: str) -> Job:
    return job(read_object(content, doing), doing)


def job(raw: Json, doing: str) -> Job:
    """Reads a job. An error is read only where the status is that it failed."""
    status = required(raw, "status", doing)
    error = raw.get("error") if status == "failed" else None
    details = error if isinstance(error, dict) else {"message": error}
    # Where a method is named, hyperparameters stand under it; some trainers have them at the top alone.
    method = raw.get("method")
    own = method.get(str(method.get("type", "supervised"))) if isinstance(method, dict) else None
    hyperparameters = own.get("hyperparameters") if isinstance(own, dict) else None
    hyperparameters = hyperparameters or raw.get("hyperparameters")
    return Job(
        id=required(raw, "id", doing),
        status=status,
        model=_text(raw, "model") or "",
        created_at=_whole(raw, "created_at") or 0,
        fine_tuned_model=_text(raw, "fine_tuned_model"),
        finished_at=_whole(raw, "finished_at"),
        estimated_finish=_whole(raw, "estimated_finish"),
        trained_tokens=_whole(raw, "trained_tokens"),
        trained_steps=_whole(raw, "trained_steps"),
        total_steps=_whole(raw, "total_steps"),
        result_files=_texts(raw, "result_files"),
        error_code=_text(details, "code"),
        error_message=_text(details, "message"),
        metadata=metadata_of(raw),
        suffix=_text(raw, "suffix"),
        training_file=_text(raw, "training_file"),
        hyperparameters=hyperparameters if isinstance(hyperparameters, dict) else {},
    )


def metadata_of(raw: Json) -> Mapping[str, str]:
    values = raw.get("metadata")
    return {key: str(value) for key, value in values.items()} if isinstance(values, dict) else {}


def event(raw: Json, doing: str) -> Event:
    data = raw.get("data")
    return Event(
        id=_text(raw, "id") or "",
        created_at=_whole(raw, "created_at") or 0,
        level=_text(raw, "level") or "info",
        message=required(raw, "message", doing),
        data=data if isinstance(data, dict) else {},
    )


def checkpoint(raw: Json, doing: str) -> Checkpoint:
    metrics = raw.get("metrics")
    figures = metrics if isinstance(metrics, dict) else {}
    full = _number(figures, "full_valid_loss")
    step = _whole(raw, "step_number")
    if step is None:
        raise Nonsense(f"{doing}: a checkpoint has no 'step_number'. {_CURE}")
    return Checkpoint(
        id=required(raw, "id", doing),
        step=step,
        fine_tuned_model=_text(raw, "fine_tuned_model_checkpoint"),
        created_at=_whole(raw, "created_at") or 0,
        train_loss=_number(figures, "train_loss"),
        valid_loss=_number(figures, "valid_loss" if full is None else "full_valid_loss"),
        files=_texts(raw, "result_files"),
    )


def model_info(raw: Json, doing: str) -> ModelInfo:
    """Reads a model. Its end is a date as text, or seconds since 1970; OpenRouter has another name for it."""
    key = "shutdown_date" if raw.get("shutdown_date") else "expiration_date"
    text, seconds = _text(raw, key), _whole(raw, key)
    end: date | None = None
    try:
        if text is not None:
            end = date.fromisoformat(text[:10])
        elif seconds:
            end = datetime.fromtimestamp(seconds, UTC).date()
    except (ValueError, OverflowError, OSError) as error:
        raise Nonsense(f"{doing}: {raw[key]!r} is not a date. {_CURE}") from error
    return ModelInfo(required(raw, "id", doing), end)


def chat_message(message: Message) -> dict[str, object]:
    """Returns a message in OpenAI's form. One that only calls tools has no text: null, as some refuse an empty one."""
    extra = json.loads(message.extra) if message.extra else {}
    is_call = "tool_calls" in extra or "function_call" in extra
    return {
        "role": message.role,
        "content": None if is_call and not message.content else message.content,
        **extra,
    }


def alias_usage(raw: Json, doing: str) -> AliasUsage:
    return AliasUsage(
        day=required(raw, "day", doing),
        model=required(raw, "model", doing),
        calls=_whole(raw, "calls") or 0,
        prompt_tokens=_whole(raw, "prompt_tokens") or 0,
        completion_tokens=_whole(raw, "completion_tokens") or 0,
    )


def chat_answer(raw: Json, doing: str, seconds: float) -> Answer:
    """Reads an answer: its text, then the calls of tools as JSON on a line of their own, as rows of data have them. A
    refusal counts as its text, and `content: null` as an empty one: a model that thought until its tokens were spent
    sends that. Without token counts nothing can be costed, which raises Nonsense."""
    choices = raw.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    usage = raw.get("usage")
    if not isinstance(message, dict) or not isinstance(usage, dict):
        raise Nonsense(f"{doing}: the answer lacks 'choices' with a message, or 'usage'. {_CURE}")
    text = message.get("content") if message.get("content") is not None else message.get("refusal") or ""
    prompt, completion = _whole(usage, "prompt_tokens"), _whole(usage, "completion_tokens")
    if not isinstance(text, str) or prompt is None or completion is None:
        raise Nonsense(
            f"{doing}: the answer's text is none, or it does not say how many tokens it took. {_CURE}"
        )
    calls = message.get("tool_calls") or message.get("function_call")
    if calls:
        text = f"{text}\n{json.dumps(calls, ensure_ascii=False)}".lstrip("\n")
    return Answer(text, prompt, completion, seconds)


def metrics(content: bytes, doing: str) -> tuple[Metric, ...]:
    """Reads a result file: CSV with at least a column `step`, as it is or wrapped in base64."""
    try:
        rows = list(csv.reader(_plain(content, doing).splitlines()))
    except csv.Error as error:
        raise Nonsense(f"{doing}: the result file is not CSV ({error}).") from error
    if not rows or "step" not in rows[0]:
        raise Nonsense(f"{doing}: the result file has no column 'step' but begins {excerpt(content)}.")
    metrics = []
    for cells in rows[1:]:
        if not any(cells):
            continue
        row = dict(zip(rows[0], cells, strict=False))
        step = _cell(row, "step", doing)
        if step is None:
            raise Nonsense(f"{doing}: a line of the result file has no step: {row}.")
        metrics.append(
            Metric(
                step=int(step),
                train_loss=_cell(row, "train_loss", doing),
                train_accuracy=_either(row, "train_accuracy", "train_mean_token_accuracy", doing),
                valid_loss=_either(row, "valid_loss", "full_valid_loss", doing),
                valid_accuracy=_either(
                    row, "valid_mean_token_accuracy", "full_valid_mean_token_accuracy", doing
                ),
            )
        )
    return tuple(metrics)


def is_sweep_table(content: bytes) -> bool:
    """Says whether a result file has the arms of a sweep instead of steps."""
    return content.startswith(b"arm,")


def sweep_arms(content: bytes, doing: str) -> tuple[SweepArm, ...]:
    """Reads the table of a sweep. Columns between 'arm' and 'step' are what was swept."""
    head, *rows = list(csv.reader(content.decode("utf-8-sig", "replace").splitlines()))
    if "step" not in head or any(len(row) != len(head) for row in rows):
        raise Nonsense(f"{doing}: the sweep's table begins {excerpt(content)}, which is not ours.")
    swept = head[1 : head.index("step")]
    return tuple(_arm(dict(zip(head, row, strict=True)), swept, doing) for row in rows)


def required(raw: Json, key: str, doing: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value:
        raise Nonsense(f"{doing}: the answer has no {key!r}. {_CURE}")
    return value


def excerpt(content: bytes) -> str:
    """Quotes how an unreadable answer begins, on one line, for a message."""
    text = " ".join(content[:400].decode("utf-8", "replace").split())
    shown = "".join(char for char in text if char.isprintable())[:80]
    if shown.lower().startswith(("<!doctype", "<html")):
        return "a web page"
    return repr(shown) if shown else "empty"


def _plain(content: bytes, doing: str) -> str:
    """Returns the text of a CSV. Base64 has no comma, and base64 that begins with 'step' is not that of a CSV."""
    try:
        text = content.decode("utf-8-sig")
        if "," in text or text.startswith("step"):
            return text
        return base64.b64decode("".join(text.split()), validate=True).decode("utf-8-sig")
    except (UnicodeDecodeError, binascii.Error) as error:
        raise Nonsense(f"{doing}: the result file is neither CSV nor base64: {excerpt(content)}.") from error


def _arm(row: Mapping[str, str], swept: Sequence[str], doing: str) -> SweepArm:
    return SweepArm(
        number=int(_cell(row, "arm", doing) or 0),
        chosen=tuple((name, row[name]) for name in swept),
        step=int(_cell(row, "step", doing) or 0),
        total_steps=int(_cell(row, "total_steps", doing) or 0),
        valid_loss=_cell(row, "valid_loss", doing),
        valid_accuracy=_cell(row, "valid_mean_token_accuracy", doing),
        seconds=_cell(row, "seconds", doing) or 0.0,
        outcome=row.get("outcome", ""),
    )


def _either(row: Mapping[str, str], first: str, second: str, doing: str) -> float | None:
    value = _cell(row, first, doing)
    return _cell(row, second, doing) if value is None else value


def _cell(row: Mapping[str, str], column: str, doing: str) -> float | None:
    """Returns a cell's number; None where it is empty or NaN, because nothing was measured at that step."""
    text = row.get(column, "").strip()
    try:
        value = float(text) if text else math.nan
    except ValueError as error:
        raise Nonsense(f"{doing}: {text[:40]!r} under {column!r} in the result file is no number.") from error
    return value if math.isfinite(value) else None


def _text(raw: Json, key: str) -> str | None:
    value = raw.get(key)
    return value if isinstance(value, str) and value else None


def _texts(raw: Json, key: str) -> tuple[str, ...]:
    values = raw.get(key)
    return tuple(value for value in values if isinstance(value, str)) if isinstance(values, list) else ()


def _whole(raw: Json, key: str) -> int | None:
    value = _number(raw, key)
    return None if value is None else int(value)


def _number(raw: Json, key: str) -> float | None:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value


def sent_hyperparameters(
    provider: Provider, wanted: Mapping[str, Hyperparameter]
) -> dict[str, Hyperparameter]:
    """Returns what of `wanted` this provider gets; a plan freezes this, so that people approve what is trained."""
    takes_all = provider.can("extra_hyperparameters")
    return {key: value for key, value in wanted.items() if takes_all or key in PLAIN_HYPERPARAMETERS}


def job_body(provider: Provider, spec: JobSpec) -> dict[str, object]:
    """Returns all of the request but model and training_file, in the shape that this provider takes."""
    hyperparameters: dict[str, object] = {**sent_hyperparameters(provider, spec.hyperparameters)}
    if spec.sweep:
        hyperparameters["sweep"] = sweep_to_lists(spec.sweep)
    body: dict[str, object] = {"seed": spec.seed}
    if provider.can("method"):
        body["method"] = {"type": spec.method, spec.method: {"hyperparameters": hyperparameters}}
    else:
        body["hyperparameters"] = hyperparameters
    if provider.can("metadata"):
        body["metadata"] = {**spec.metadata, METADATA_KEY: spec.key}
    if provider.can("suffix"):
        # For a trainer that keeps no metadata the suffix, of at most 64 characters, says whose job it is.
        marked = f"{spec.suffix[:47]}-{_mark(spec.key)}"
        body["suffix"] = spec.suffix if provider.can("metadata") else marked
    if spec.validation_file:
        body["validation_file"] = spec.validation_file
    return body


def _mark(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def key_reader(keys: Collection[str]) -> Callable[[Json], str | None]:
    """Returns a reader of a listed job's key: the one in its metadata, else the one of `keys` that its suffix is marked
    with."""
    marks = {_mark(key): key for key in keys}

    def read(row: Json) -> str | None:
        key = metadata_of(row).get(METADATA_KEY)
        suffix = row.get("suffix")
        mark = suffix.rpartition("-")[2] if isinstance(suffix, str) else ""
        return key if key is not None else marks.get(mark)

    return read


def has_key(row: Json, key: str) -> bool:
    suffix = row.get("suffix")
    return _has_key(metadata_of(row), suffix if isinstance(suffix, str) else None, key)


def job_has_key(job: Job, key: str) -> bool:
    return _has_key(job.metadata, job.suffix, key)


def _has_key(metadata: Mapping[str, str], suffix: str | None, key: str) -> bool:
    is_marked = suffix is not None and suffix.endswith("-" + _mark(key))
    return is_marked or metadata.get(METADATA_KEY) == key


def is_upload_usable(row: Json, name: str, size: int) -> bool:
    """Says whether an upload is complete, ours, of the right purpose, and not about to expire under a job that
    waits."""
    expires = row.get("expires_at")
    lasts = not isinstance(expires, int) or expires > time.time() + EXPIRY_MARGIN_S
    is_named_so = row.get("filename") == name and row.get("purpose") == "fine-tune"
    return is_named_so and lasts and row.get("bytes") in (size, None) and row.get("status") != "error"


def file_size(path: Path, doing: str) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TrainerError(f"{doing}: the file cannot be read: {error.strerror}.") from error


def check_sha256(path: Path, sha256: str) -> None:
    """Raises Changed where the file has other bytes, and OSError as open() does."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise Changed(path.name)


class HashingFile(io.FileIO):
    """A file opened for reading that hashes what is read, and so what was sent."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._digest = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(-1 if size is None else size) or b""
        self._digest.update(content)
        return content

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
