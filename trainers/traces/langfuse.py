"""Reads Langfuse's observations: exported from its UI (JSON, JSONL, CSV), to a blob storage, or from its API.

Names are in camel case in the UI's export and the API, and in snake case in a blob storage
(https://langfuse.com/docs/api-and-data-platform/features/blob-storage-export-fields). Only observations of the type
GENERATION are calls of a model; spans, events and agents are around them. Exports of whole traces have no model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from trainers.dataset.checks import Fault, Rule
from trainers.traces.attributes import read_usage_details
from trainers.traces.calls import (
    NO_MODEL,
    NO_USAGE,
    NOT_A_CALL,
    Record,
    TracedCall,
    Usage,
    duration,
    finite,
    first_count,
    first_text,
    read_conversation,
    read_reply,
    read_time,
)

WHOLE_TRACE = Rule(
    "langfuse_trace",
    "warns",
    "Export the table of observations with the filter Type = GENERATION: traces name no model.",
)
_TIMES = ({"startTime", "start_time"}, {"traceId", "trace_id"})
_IO = {"input", "output"}
_OWN = {
    "usageDetails",
    "usage_details",
    "parentObservationId",
    "parent_observation_id",
    "projectId",
    "project_id",
}
_OF_TRACES = {"sessionId", "session_id", "timestamp", "userId", "user_id"}


def is_observation(record: Record) -> bool:
    return has_columns(record.keys())


def has_columns(names: Collection[str]) -> bool:
    """True if a table with these columns is one of observations, or an object with these keys is one."""
    columns = set(names)
    if "id" not in columns:
        return False
    for spellings in _TIMES:
        if columns.isdisjoint(spellings):
            return False
    return not columns.isdisjoint(_OWN | _IO)


def is_trace(record: Record) -> bool:
    """True for an exported trace, which is around observations."""
    keys = set(record)
    if not {"id", "timestamp", *_IO} <= keys:
        return False
    is_of_trace = len(keys & _OF_TRACES) > 1  # the timestamp alone is not enough
    begins = keys & _TIMES[0]
    return is_of_trace and not begins


def read_trace(line: int, record: Record) -> Iterator[TracedCall | Fault]:
    yield Fault(WHOLE_TRACE, "has a trace of Langfuse instead of an observation")


def read_observation(line: int, record: Record) -> Iterator[TracedCall | Fault]:
    """Reads an observation, whose input and output may be texts of JSON."""
    kind = str(record.get("type") or "GENERATION").upper()
    if kind != "GENERATION":
        yield Fault(NOT_A_CALL, "has an observation that is no call of a model")
        return
    model = first_text(
        record, "model", "providedModelName", "provided_model_name", "modelName", "internalModel"
    )
    if model is None:
        yield Fault(NO_MODEL, "has a call that names no model")
        return
    conversation = read_conversation(record.get("input"))
    reply = read_reply(record.get("output"))
    usage = _read_usage(record)
    begin = read_time(record.get("startTime") or record.get("start_time"))
    end = read_time(record.get("endTime") or record.get("end_time"))
    seconds = duration(begin, end)
    if seconds is None:
        seconds = finite(record.get("latency"))
    yield TracedCall(
        line=line,
        id=first_text(record, "id"),
        parent_id=first_text(record, "parentObservationId", "parent_observation_id"),
        at=begin,
        model=model,
        messages=conversation.messages,
        answer=reply.text,
        prompt_tokens=usage.prompt,
        cached_tokens=usage.cached,
        completion_tokens=usage.completion,
        seconds=seconds,
        is_error=str(record.get("level")).upper() == "ERROR",
        has_only_text=conversation.has_only_text and reply.has_only_text,
    )


def _read_usage(record: Record) -> Usage:
    """Reads the details of all units, or the totals of earlier exports."""
    for key in ("usageDetails", "usage_details", "usage"):
        usage = read_usage_details(record.get(key))
        if usage != NO_USAGE:
            return usage
    return Usage(
        first_count(record, "promptTokens", "inputUsage", "prompt_tokens"),
        None,
        first_count(record, "completionTokens", "outputUsage", "completion_tokens"),
    )


def table_record(names: list[str], cells: list[str]) -> Record:
    """Returns a row of a table as an object. Cells that may be missing at the end of a row are left out."""
    values: Mapping[str, str] = dict(zip(names, cells, strict=False))
    return {name: value for name, value in values.items() if value != ""}
