"""Request and response bodies of the fine-tuning API: builds the bodies of requests, and reads responses into our
types. Sends nothing.

A missing id or status raises InvalidResponse; any other missing field becomes None.
"""

from __future__ import annotations

import base64
import binascii
import csv
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal

from trainers.client.uploads import MARK_LENGTH, key_mark
from trainers.errors import InvalidResponse
from trainers.hyperparameters import sweep_to_lists
from trainers.models.chat_parameters import ChatParameters
from trainers.money import is_payable
from trainers.types import (
    AliasUsage,
    Answer,
    Event,
    Hyperparameter,
    Job,
    JobEstimate,
    JobSpec,
    Message,
    Metric,
    ModelInfo,
    Provider,
    SweepTrial,
)

Json = Mapping[str, object]

METADATA_KEY = "finetune_key"
PLAIN_HYPERPARAMETERS = frozenset({"n_epochs", "batch_size", "learning_rate_multiplier", "beta"})
_CURE = "Check that base_url points to an OpenAI-compatible API, and that no proxy answers in its place."


def read_object(content: bytes, action: str) -> Json:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InvalidResponse(f"{action}: the answer is not JSON but {excerpt(content)}. {_CURE}") from error
    if not isinstance(value, dict):
        raise InvalidResponse(f"{action}: the answer is not an object but {excerpt(content)}. {_CURE}")
    return value


def read_list(content: bytes, action: str) -> tuple[tuple[Json, ...], bool]:
    """Returns the rows of one page, and whether more follow."""
    page = read_object(content, action)
    return rows_under(page, "data", action), page.get("has_more") is True


def rows_under(page: Json, key: str, action: str) -> tuple[Json, ...]:
    rows = page.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidResponse(f"{action}: the answer has no list of objects under {key!r}. {_CURE}")
    return tuple(rows)


def optional_rows(page: Json, key: str, action: str) -> tuple[Json, ...]:
    """Like `rows_under`, for vendors that leave out an empty list."""
    if not page.get(key):
        return ()
    return rows_under(page, key, action)


def read_job(content: bytes, action: str) -> Job:
    return job(read_object(content, action), action)


def job(raw: Json, action: str) -> Job:
    """Reads a job. Its error is read only if its status is "failed"."""
    status = required(raw, "status", action)
    details: Json = {}
    if status == "failed":
        error = raw.get("error")
        if isinstance(error, dict):
            details = error
        else:  # some vendors send only the sentence
            details = {"message": error}
    billed = raw.get("billed_usd")
    if not isinstance(billed, Decimal):  # a dialect adds a Decimal; what the JSON itself has here is unknown
        billed = None
    return Job(
        id=required(raw, "id", action),
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
        suffix=suffix_of(raw),
        training_file=_text(raw, "training_file"),
        hyperparameters=_hyperparameters(raw),
        percent=_whole(raw, "percent"),
        billed_usd=billed,
        billed_seconds=_whole(raw, "billed_seconds"),
    )


def _hyperparameters(raw: Json) -> Json:
    """Returns a job's hyperparameters. They are nested in its method; some trainers have them at the top level only."""
    method = _object(raw, "method")
    kind = str(method.get("type", "supervised"))
    own = _object(method, kind)
    return _object(own, "hyperparameters") or _object(raw, "hyperparameters")


def metadata_of(raw: Json) -> Mapping[str, str]:
    metadata = _object(raw, "metadata")
    return {key: str(value) for key, value in metadata.items()}


def suffix_of(raw: Json) -> str | None:
    """Returns a job's suffix. OpenAI returns it under another name than the request has, or only in the model's
    name."""
    suffix = _text(raw, "user_provided_suffix") or _text(raw, "suffix")
    if suffix:
        return suffix
    model = _text(raw, "fine_tuned_model") or ""
    tuned = model.split(":")
    if tuned[0] == "ft" and len(tuned) == 5:  # ft:BASE:ORGANISATION:SUFFIX:ID
        return tuned[3] or None
    return None


def event(raw: Json, action: str) -> Event:
    return Event(
        id=_text(raw, "id") or "",
        created_at=_whole(raw, "created_at") or 0,
        level=_text(raw, "level") or "info",
        message=required(raw, "message", action),
        data=_object(raw, "data"),
    )


def newest_first(events: Iterable[Event]) -> tuple[Event, ...]:
    """Sorts events, because some vendors change the order of the list between calls. Events of the same second are
    ordered by the number at the end of their ids."""

    def order(event: Event) -> tuple[int, int]:
        number = re.search(r"-(\d+)$", event.id)
        if number is None:
            return event.created_at, 0
        return event.created_at, int(number[1])

    return tuple(sorted(events, key=order, reverse=True))


def model_info(raw: Json, action: str) -> ModelInfo:
    """Reads a model. Its shutdown is an ISO date or unix seconds, and OpenRouter calls it expiration_date."""
    key = "shutdown_date"
    if not raw.get(key):
        key = "expiration_date"
    text = _text(raw, key)
    seconds = _whole(raw, key)
    end: date | None = None
    try:
        if text is not None:
            end = date.fromisoformat(text[:10])
        elif seconds:
            end = datetime.fromtimestamp(seconds, UTC).date()
    except (ValueError, OverflowError, OSError) as error:
        raise InvalidResponse(f"{action}: {raw[key]!r} is not a date. {_CURE}") from error
    is_trainable = raw.get("fine_tuning_available")
    if not isinstance(is_trainable, bool):
        is_trainable = None
    model_id = required(raw, "id", action)
    return ModelInfo(model_id, end, _text(raw, "model_name"), is_trainable)


def job_estimate(raw: Json, action: str) -> JobEstimate:
    """Reads an estimate in dollars from the first field whose name contains "price" or "cost", because the field's name
    is not documented."""
    amount: int | float | str | None = None
    for key, value in raw.items():
        if "price" not in key and "cost" not in key:
            continue
        if isinstance(value, int | float | str):
            amount = value
            break
    try:
        usd = Decimal(str(amount))
    except ArithmeticError:
        usd = Decimal(-1)
    if isinstance(amount, bool) or not is_payable(usd):
        raise InvalidResponse(f"{action}: the answer has no price. {_CURE}")
    return JobEstimate(usd)


def metric_series(raw: Json, action: str) -> tuple[Metric, ...]:
    """Reads losses that come as one series each. A point without a step counts by its position in the series."""
    train: dict[int, float] = {}
    valid: dict[int, float] = {}
    for row in _objects(raw, "metrics"):
        name = row.get("metric_name")
        for number, point in enumerate(_objects(row, "data"), start=1):
            value = _number(point, "value")
            step = _whole(point, "step")
            if value is None:
                continue
            if name == "ev_loss":
                train[step or number] = value
            elif name == "ev_eval_loss" and step:  # measured every few steps, so its position says nothing
                valid[step] = value
    steps = sorted(train.keys() | valid.keys())
    metrics = [Metric(step, train.get(step), valid_loss=valid.get(step)) for step in steps]
    return tuple(metrics)


def chat_body(
    model: str, messages: Sequence[Message], tools: str, parameters: ChatParameters
) -> dict[str, object]:
    """Returns the request for an answer. `tools` is JSON, '' for none."""
    body: dict[str, object] = {
        "model": model,
        "messages": [chat_message(message) for message in messages],
    }
    if tools:
        body["tools"] = json.loads(tools)
    for name in parameters.sent:
        body[name] = getattr(parameters, name)
    return body


def chat_message(message: Message) -> dict[str, object]:
    """Returns a message in OpenAI's form. The text of a message that only calls tools is null, because some vendors
    refuse an empty text."""
    extra = json.loads(message.extra or "{}")
    content: str | None = message.content
    has_calls = "tool_calls" in extra or "function_call" in extra
    if has_calls and not content:
        content = None
    return {"role": message.role, "content": content, **extra}


def alias_usage(raw: Json, action: str) -> AliasUsage:
    return AliasUsage(
        day=required(raw, "day", action),
        model=required(raw, "model", action),
        calls=_whole(raw, "calls") or 0,
        prompt_tokens=_whole(raw, "prompt_tokens") or 0,
        completion_tokens=_whole(raw, "completion_tokens") or 0,
    )


def chat_answer(raw: Json, action: str, seconds: float) -> Answer:
    """Reads an answer as its text followed by its tool calls, as JSON on a line of their own, as in rows of data.

    A refusal counts as text. `content: null` counts as an empty text; models send it if thinking used up all tokens.
    Raises InvalidResponse without token counts, since the answer's cost would be unknown.
    """
    choices = _objects(raw, "choices")
    message: object = None
    if choices:
        message = choices[0].get("message")
    usage = raw.get("usage")
    if not isinstance(message, dict) or not isinstance(usage, dict):
        raise InvalidResponse(f"{action}: the answer lacks 'choices' with a message, or 'usage'. {_CURE}")
    text = message.get("content")
    if text is None:
        text = message.get("refusal") or ""
    prompt = _whole(usage, "prompt_tokens")
    completion = _whole(usage, "completion_tokens")
    if not isinstance(text, str) or prompt is None or completion is None:
        raise InvalidResponse(
            f"{action}: the answer has no text, or does not say how many tokens it used. {_CURE}"
        )
    calls = message.get("tool_calls") or message.get("function_call")
    if calls:
        written = json.dumps(calls, ensure_ascii=False)
        text = f"{text}\n{written}".lstrip("\n")
    return Answer(text, prompt, completion, seconds)


def metrics(content: bytes, action: str) -> tuple[Metric, ...]:
    """Reads a result file: CSV with at least a column `step`, plain or in base64."""
    text = _decode_csv(content, action)
    try:
        rows = list(csv.reader(text.splitlines()))
    except csv.Error as error:
        raise InvalidResponse(f"{action}: the result file is not CSV ({error}).") from error
    if not rows or "step" not in rows[0]:
        raise InvalidResponse(
            f"{action}: the result file has no column 'step'; it begins with {excerpt(content)}."
        )
    head, *lines = rows
    metrics = []
    for cells in lines:
        if any(cells):
            row = dict(zip(head, cells, strict=False))
            metrics.append(_metric(row, action))
    return tuple(metrics)


def _metric(row: Mapping[str, str], action: str) -> Metric:
    step = _cell(row, "step", action)
    if step is None:
        raise InvalidResponse(f"{action}: a line of the result file has no step: {row}.")
    return Metric(
        step=int(step),
        train_loss=_cell(row, "train_loss", action),
        train_accuracy=_either(row, "train_accuracy", "train_mean_token_accuracy", action),
        valid_loss=_either(row, "valid_loss", "full_valid_loss", action),
        valid_accuracy=_either(row, "valid_mean_token_accuracy", "full_valid_mean_token_accuracy", action),
        # Our own trainer's name, then OpenAI's.
        train_reward=_either(row, "train_reward_mean", "train_mean_reward", action),
        valid_reward=_either(row, "valid_reward_mean", "full_valid_mean_reward", action),
        train_preference_accuracy=_cell(row, "train_reward_accuracy", action),
        valid_preference_accuracy=_cell(row, "valid_reward_accuracy", action),
        train_reward_margin=_cell(row, "train_reward_margin", action),
        valid_reward_margin=_cell(row, "valid_reward_margin", action),
    )


def is_sweep_table(content: bytes) -> bool:
    """True if a result file lists the trials of a sweep instead of steps."""
    # Files keep a trial's older name, since a newer version may continue an older one's job.
    return content.startswith(b"arm,")


def sweep_trials(content: bytes, action: str) -> tuple[SweepTrial, ...]:
    """Reads the table of a sweep. The columns between 'arm' and 'step' are the swept hyperparameters."""
    text = content.decode("utf-8-sig", "replace")
    head, *rows = csv.reader(text.splitlines())
    if "step" not in head or any(len(row) != len(head) for row in rows):
        raise InvalidResponse(
            f"{action}: the sweep's table has an unknown format; it begins with {excerpt(content)}."
        )
    swept = head[1 : head.index("step")]
    trials = []
    for cells in rows:
        row = dict(zip(head, cells, strict=True))
        trials.append(_trial(row, swept, action))
    return tuple(trials)


def required(raw: Json, key: str, action: str) -> str:
    value = raw.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidResponse(f"{action}: the answer has no {key!r}. {_CURE}")
    return value


def excerpt(content: bytes) -> str:
    """Quotes the beginning of an unreadable answer on one line, for an error message."""
    # More bytes than are shown, as control characters and repeated spaces go.
    text = content[:400].decode("utf-8", "replace")
    line = " ".join(text.split())
    printable = [character for character in line if character.isprintable()]
    shown = "".join(printable)[:80]
    if shown.lower().startswith(("<!doctype", "<html")):
        return "a web page"
    if not shown:
        return "empty"
    return repr(shown)


def _decode_csv(content: bytes, action: str) -> str:
    """Returns the text of a CSV file that may be in base64. Base64 has no commas, and the base64 of a CSV with this
    header doesn't begin with 'step'."""
    try:
        text = content.decode("utf-8-sig")
        if "," in text or text.startswith("step"):
            return text
        compact = "".join(text.split())
        return base64.b64decode(compact, validate=True).decode("utf-8-sig")
    except (UnicodeDecodeError, binascii.Error) as error:
        raise InvalidResponse(
            f"{action}: the result file is neither CSV nor base64: {excerpt(content)}."
        ) from error


def _trial(row: Mapping[str, str], swept: Sequence[str], action: str) -> SweepTrial:
    return SweepTrial(
        number=int(_cell(row, "arm", action) or 0),
        chosen=tuple((name, row[name]) for name in swept),
        step=int(_cell(row, "step", action) or 0),
        total_steps=int(_cell(row, "total_steps", action) or 0),
        valid_loss=_cell(row, "valid_loss", action),
        valid_accuracy=_cell(row, "valid_mean_token_accuracy", action),
        seconds=_cell(row, "seconds", action) or 0.0,
        outcome=row.get("outcome", ""),
    )


def _either(row: Mapping[str, str], first: str, second: str, action: str) -> float | None:
    value = _cell(row, first, action)
    if value is None:
        return _cell(row, second, action)
    return value


def _cell(row: Mapping[str, str], column: str, action: str) -> float | None:
    """Returns a cell's number, or None if it is empty or NaN because nothing was measured at that step."""
    text = row.get(column, "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError as error:
        raise InvalidResponse(
            f"{action}: {text[:40]!r} under {column!r} in the result file is not a number."
        ) from error
    if not math.isfinite(value):
        return None
    return value


def _text(raw: Json, key: str) -> str | None:
    value = raw.get(key)
    if not isinstance(value, str) or not value:
        return None
    return value


def _texts(raw: Json, key: str) -> tuple[str, ...]:
    values = raw.get(key)
    if not isinstance(values, list):
        return ()
    return tuple(value for value in values if isinstance(value, str))


def _object(raw: Json, key: str) -> Json:
    """Returns the object under this key, or an empty one if there is none."""
    value = raw.get(key)
    if not isinstance(value, dict):
        return {}
    return value


def _objects(raw: Json, key: str) -> tuple[Json, ...]:
    """Returns the list of objects under this key. What is no object counts as an empty one, so that positions stay."""
    values = raw.get(key)
    if not isinstance(values, list):
        return ()
    return tuple(value if isinstance(value, dict) else {} for value in values)


def _whole(raw: Json, key: str) -> int | None:
    value = _number(raw, key)
    if value is None:
        return None
    return int(value)


def _number(raw: Json, key: str) -> float | None:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not math.isfinite(value):
        return None
    return value


def accepted_hyperparameters(
    provider: Provider, chosen: Mapping[str, Hyperparameter]
) -> dict[str, Hyperparameter]:
    """Returns the hyperparameters that this provider accepts. A plan freezes these, so people approve exactly what is
    sent."""
    takes_all = provider.can("extra_hyperparameters")
    accepted: dict[str, Hyperparameter] = {}
    for key, value in chosen.items():
        is_known = takes_all or key in PLAIN_HYPERPARAMETERS
        is_refused = provider.hyperparameter_limits.get(key) == ()  # no value is allowed
        if is_known and not is_refused:
            accepted[key] = value
    return accepted


def job_body(provider: Provider, spec: JobSpec) -> dict[str, object]:
    """Returns the request for a job without model and training_file, in the form that this provider accepts."""
    names = provider.hyperparameter_names
    sent = accepted_hyperparameters(provider, spec.hyperparameters)
    hyperparameters: dict[str, object] = {names.get(key, key): value for key, value in sent.items()}
    if spec.sweep:
        hyperparameters["sweep"] = sweep_to_lists(spec.sweep)
    body: dict[str, object] = {**provider.create_extra}
    if provider.hyperparameter_limits.get("seed") != ():
        body["seed"] = spec.seed
    if provider.can("method"):
        body["method"] = {"type": spec.method, spec.method: {"hyperparameters": hyperparameters}}
    else:
        body["hyperparameters"] = hyperparameters
    if provider.can("metadata"):
        body["metadata"] = {**spec.metadata, METADATA_KEY: spec.key}
    if provider.can("suffix"):
        body["suffix"] = fit_suffix(provider, spec.suffix, spec.key)
    if spec.validation_file:
        body["validation_file"] = spec.validation_file
    return body


def fit_suffix(provider: Provider, suffix: str, key: str) -> str:
    """Shortens a suffix to what the provider accepts. If it keeps no metadata, the suffix ends in the mark of our
    key."""
    length = provider.suffix_length
    more = provider.suffix_characters
    if more is not None:
        suffix = re.sub(f"[^A-Za-z0-9{re.escape(more)}]", "-", suffix)
    if provider.can("metadata"):
        return suffix[:length]
    return f"{suffix[: length - MARK_LENGTH - 1]}-{key_mark(key)}"


def key_reader(
    keys: Collection[str], marks_of_files: Mapping[str, str] | None = None
) -> Callable[[Json], str | None]:
    """Returns a function that finds a listed job's key: the one in its metadata, or else the one of `keys` whose mark
    is in its suffix or on its training file."""
    keys_by_mark = {key_mark(key): key for key in keys}
    by_file = marks_of_files or {}

    def read(row: Json) -> str | None:
        key = metadata_of(row).get(METADATA_KEY)
        if key:
            return key
        *_, in_suffix = (suffix_of(row) or "").rpartition("-")
        file_id = str(row.get("training_file"))
        on_file = by_file.get(file_id, "")
        return keys_by_mark.get(in_suffix) or keys_by_mark.get(on_file)

    return read


def job_has_key(job: Job, key: str) -> bool:
    if job.metadata.get(METADATA_KEY) == key:
        return True
    if job.suffix is None:
        return False
    return job.suffix.endswith(f"-{key_mark(key)}")
