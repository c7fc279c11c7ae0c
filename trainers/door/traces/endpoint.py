"""POST /v1/traces: programs whose calls don't come here send spans of them, as OpenTelemetry's exporters do
(https://opentelemetry.io/docs/specs/otlp/#otlphttp). They are sampled like the calls of the same name, and stored as
calls that another model answered, so that they never count for what is in use.

Only spans that name a dataset whose calls are stored are taken; a batch may hold spans of several. An exporter must not
repeat what was refused, so a refusal of spans is a success with their number, as the protocol says.
"""

from __future__ import annotations

import asyncio
import secrets
import time
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from trainers.dataset.checks import Fault
from trainers.door.call_texts import Turn
from trainers.door.names import Names
from trainers.door.sampler import NOT_TEXT, DrawnCall, Sampler
from trainers.http.errors import ApiError, invalid
from trainers.recipes.folder import ALIAS_PREFIX
from trainers.recipes.samples import KEPT_DAYS, TRACED
from trainers.recipes.usage import Usage
from trainers.recipes.values import Published
from trainers.traces.calls import NO_MODEL, Record, TracedCall
from trainers.traces.otlp import OTLP_KEY, read_resource_spans, resource_attributes

DATASET_HEADER = "x-finetune-dataset"
DATASET_ATTRIBUTE = "finetune.dataset"
MOST_BYTES = 4_000_000  # unpacked; parsing them holds Python's lock for about 20 ms
MOST_AHEAD_S = 300.0
KEPT_S = KEPT_DAYS * 24 * 3600.0
SMALLER = "Send fewer spans at once: OTEL_BSP_MAX_EXPORT_BATCH_SIZE=32."
# Each follows a number of spans.
NO_DATASET = (
    f"without a dataset (set the header {DATASET_HEADER} by OTEL_EXPORTER_OTLP_HEADERS, or the resource attribute "
    f"{DATASET_ATTRIBUTE} by OTEL_RESOURCE_ATTRIBUTES)"
)
OUT_OF_TIME = f"that began more than {KEPT_DAYS} days ago, in the future or at no recorded time"
MODELLESS = "without a model"


@dataclass(frozen=True)
class Batch:
    """The spans of one resource. `dataset` is the one that it names, "" if it names none; faults are spans that are no
    calls."""

    dataset: str
    spans: Sequence[TracedCall | Fault]


@dataclass(frozen=True)
class TraceIntake:
    """Takes spans for the sample. `clock` gives the time in unix seconds."""

    names: Names
    sampler: Sampler
    clock: Callable[[], float] = time.time

    async def answer(self, request: Request) -> Response:
        """Raises ApiError."""
        _require_json(request.headers)
        body = await request.body()
        # In a thread, so that no call waits for the unpacking.
        document = await asyncio.to_thread(_parse, body, request.headers.get("content-encoding", "identity"))
        refused: Counter[str] = Counter()
        for batch in await asyncio.to_thread(_read_batches, document):
            self._take(batch, request.headers, refused)
        return JSONResponse({"partialSuccess": _partial_success(refused)})

    def _take(self, batch: Batch, headers: Headers, refused: Counter[str]) -> None:
        """Takes the spans of a resource, or counts in `refused` why they are not taken."""
        dataset = batch.dataset or headers.get(DATASET_HEADER, "").strip()
        if not dataset:
            refused[NO_DATASET] += len(batch.spans)
            return
        name = ALIAS_PREFIX + dataset.removeprefix(ALIAS_PREFIX)
        published = self.names.find(name)
        if published is None or published.sampling is None:
            refused[f"for '{name[:80]}', whose calls are not stored"] += len(batch.spans)
            return
        for span in batch.spans:
            if isinstance(span, Fault):
                refused[MODELLESS] += span.rule is NO_MODEL
            elif not _is_recent(span, self.clock()):
                refused[OUT_OF_TIME] += 1
            elif not span.is_error and self.sampler.draw() < published.sampling.share:
                self._add(span, published, headers)

    def _add(self, call: TracedCall, published: Published, headers: Headers) -> None:
        drawn = _drawn(call, published, headers)
        if call.messages and call.answer and call.has_only_text:
            self.sampler.add(drawn)
        else:
            self.sampler.count(drawn.key, NOT_TEXT)


def _drawn(call: TracedCall, published: Published, headers: Headers) -> DrawnCall:
    """Returns the call as the sampler takes it, with the model's name where the recipe's hash would be."""
    messages = [{"role": message.role, "content": message.content} for message in call.messages]
    answer = call.answer or ""
    unknown = call.prompt_tokens is None or call.completion_tokens is None
    return DrawnCall(
        id=f"traced-{secrets.token_hex(16)}",
        published=replace(published, promotion=TRACED),
        recipe=call.model,
        fallback_from=None,
        at=call.at or 0.0,
        body={"messages": messages},
        headers=headers,
        read_answer=lambda: Turn("assistant", (answer,)),
        usage=Usage(
            1,
            prompt_tokens=call.prompt_tokens or 0,
            completion_tokens=call.completion_tokens or 0,
            unknown=int(unknown),
        ),
        size=sum(len(message.content) for message in call.messages) + len(answer),
    )


def _is_recent(call: TracedCall, now: float) -> bool:
    return call.at is not None and now - KEPT_S < call.at < now + MOST_AHEAD_S


def _require_json(headers: Headers) -> None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        text = "Send OTLP as JSON: set OTEL_EXPORTER_OTLP_PROTOCOL=http/json for the exporter. Protobuf is not read."
        raise ApiError(415, text, "unsupported_media_type")
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > MOST_BYTES:
        raise _too_large()


def _parse(body: bytes, encoding: str) -> Record:
    """Returns the document. Raises ApiError."""
    raw = _unpack(body, encoding.strip().lower())
    if len(raw) > MOST_BYTES:
        raise _too_large()
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid(f"The request's body is not valid JSON: {error}.", None, "invalid_json") from None
    if not isinstance(document, Mapping) or not isinstance(document.get(OTLP_KEY, []), list):
        text = f"The request's body must be an object with a list '{OTLP_KEY}'."
        raise invalid(text, OTLP_KEY, "invalid_type")
    return document


def _unpack(body: bytes, encoding: str) -> bytes:
    if encoding == "identity":
        return body
    if encoding != "gzip":
        text = f"The content encoding '{encoding[:40]}' is not read: send gzip or none."
        raise ApiError(415, text, "unsupported_encoding")
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        # A little more than is allowed, never all that a small body can unpack to.
        raw = unpacker.decompress(body, MOST_BYTES + 1)
    except zlib.error:
        raise invalid("The request's body is not gzip, as its header says.", None, "invalid_gzip") from None
    if not unpacker.eof and len(raw) <= MOST_BYTES:
        raise invalid("The request's body is not complete gzip.", None, "invalid_gzip")
    return raw


def _too_large() -> ApiError:
    text = f"The spans take more than {MOST_BYTES // 1_000_000} MB unpacked. {SMALLER}"
    return ApiError(413, text, "request_too_large")


def _read_batches(document: Record) -> list[Batch]:
    batches = []
    for resource_spans in document.get(OTLP_KEY) or ():
        if isinstance(resource_spans, Mapping):
            dataset = resource_attributes(resource_spans).get(DATASET_ATTRIBUTE)
            name = dataset.strip() if isinstance(dataset, str) else ""
            batches.append(Batch(name, tuple(read_resource_spans(1, resource_spans))))
    return batches


def _partial_success(refused: Counter[str]) -> Mapping[str, str]:
    """Returns how many spans were refused, and why, in OTLP's form, where a 64-bit number is a text."""
    reasons = [f"{count:,} {why}" for why, count in refused.items() if count]
    if not reasons:
        return {}
    return {
        "rejectedSpans": str(refused.total()),
        "errorMessage": f"Not all spans were taken: {', '.join(reasons)} were not.",
    }
