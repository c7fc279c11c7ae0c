"""Reads all calls of a file that another tool exported. The format is recognised by the file's content, never by its
name. Never raises because of a file's content: what can't be read is a finding with its line and its cure."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal, get_args

from trainers.dataset.checks import Fault, Finding, Findings, Rule
from trainers.dataset.file_format import HEAD_BYTES
from trainers.dataset.formats.text_files import text_lines
from trainers.dataset.rows import Limits, to_printable
from trainers.dataset.tables import csv_records
from trainers.traces.calls import NOT_A_CALL, Record, TracedCall, shared_texts
from trainers.traces.completions import is_pair, is_stored_completion, read_pair, read_stored_completion
from trainers.traces.documents import (
    LIMITS,
    first_documents,
    open_unpacked,
    read_documents,
    unpacked_head,
)
from trainers.traces.langfuse import (
    has_columns,
    is_observation,
    is_trace,
    read_observation,
    read_trace,
    table_record,
)
from trainers.traces.litellm import is_payload, read_payload
from trainers.traces.otlp import is_otlp, is_printed_span, read_otlp, read_printed_span

TraceFormat = Literal[
    "otlp", "printed_spans", "langfuse", "langfuse_csv", "langfuse_traces", "litellm", "completions", "pairs"
]
FORMATS: tuple[TraceFormat, ...] = get_args(TraceFormat)
TITLES: dict[TraceFormat, str] = {
    "otlp": "OTLP JSON with gen_ai.* attributes",
    "printed_spans": "spans that OpenTelemetry's Python SDK prints",
    "langfuse": "observations of Langfuse (JSON, JSONL)",
    "langfuse_csv": "observations of Langfuse (CSV)",
    "langfuse_traces": "traces of Langfuse",
    "litellm": "LiteLLM's logging payloads or spend logs (JSON, JSONL)",
    "completions": "OpenAI's stored completions",
    "pairs": 'JSONL with {"request": …, "response": …}',
}
READABLE = "; ".join(TITLES[each] for each in FORMATS if each != "langfuse_traces")

UNKNOWN = Rule("no_traces", "blocks", f"These can be read, also as .gz: {READABLE}.")
TOO_MANY = Rule("too_many_calls", "warns", "Export fewer days, or a random sample.")
NOTHING_READ = Rule("no_calls", "blocks", "Export calls of models that write text, with the model's name.")
REPEATED = Rule("repeated_calls", "tells", "Nothing to do: each is counted once.")
AROUND = Rule("calls_around_calls", "tells", "Nothing to do: the calls inside them are counted.")
NO_MESSAGES = Rule(
    "no_messages",
    "warns",
    "They count for models and tokens and give no rows. To have their texts, let the tool record messages; for "
    "OpenTelemetry: OTEL_SEMCONV_STABILITY_OPT_IN=gen_ai_latest_experimental and "
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=span_only.",
)
NO_TIME = Rule("no_times", "warns", "Record when each call began: without it, calls a month are not counted.")
OTHER_RECORD = Rule("other_record", "warns", "Nothing to do if these records are about something else.")

# Wrappers around a page of records, in answers of APIs.
_PAGES = ("data", "observations", "results")

_Recognise = Callable[[Record], bool]
_Read = Callable[[int, Record], Iterator[TracedCall | Fault]]


@dataclass(frozen=True)
class _RecordFormat:
    recognises: _Recognise
    read: _Read


# In this order, as a record may fit several: the first one wins.
_RECORD_FORMATS: dict[TraceFormat, _RecordFormat] = {
    "otlp": _RecordFormat(is_otlp, read_otlp),
    "printed_spans": _RecordFormat(is_printed_span, read_printed_span),
    "litellm": _RecordFormat(is_payload, read_payload),
    "langfuse": _RecordFormat(is_observation, read_observation),
    "pairs": _RecordFormat(is_pair, read_pair),
    "completions": _RecordFormat(is_stored_completion, read_stored_completion),
    "langfuse_traces": _RecordFormat(is_trace, read_trace),
}
# Where the first record is longer than a head, the keys that only this format has.
_MARKS: tuple[tuple[bytes, TraceFormat], ...] = (
    (b'"resourceSpans"', "otlp"),
    (b'"litellm_call_id"', "litellm"),
    (b'"usageDetails"', "langfuse"),
    (b'"usage_details"', "langfuse"),
    (b'"chat.completion"', "completions"),
)


@dataclass(frozen=True)
class TraceFile:
    """What was read of a file. `format` is None if it was refused. `calls` are in the file's order, each once.
    `findings` say what was not read, where, and what to do about it."""

    name: str
    format: TraceFormat | None
    calls: tuple[TracedCall, ...]
    findings: tuple[Finding, ...]

    @property
    def is_refused(self) -> bool:
        return any(finding.blocks for finding in self.findings) and not self.calls


def detect(head: bytes) -> TraceFormat | None:
    """Recognises a file of recorded calls by `head`, its first bytes, up to trainers.dataset.file_format.HEAD_BYTES,
    which may be gzip. Returns None for any other file, such as rows to train on."""
    text = unpacked_head(head)
    if _table_names(text):
        return "langfuse_csv"
    documents = first_documents(text)
    for document in documents:
        for record in _records(document):
            trace_format = _format_of(record)
            if trace_format:
                return trace_format
    if documents:  # complete records, and none of them is a call
        return None
    for mark, trace_format in _MARKS:
        if mark in text:
            return trace_format
    return None


def _format_of(record: Record) -> TraceFormat | None:
    for name, each in _RECORD_FORMATS.items():
        if each.recognises(record):
            return name
    return None


def _table_names(head: bytes) -> list[str]:
    """Returns the names of a table's columns if it is one of observations, else an empty list."""
    first_line, _, _ = head.partition(b"\n")
    first = first_line.decode("utf-8", errors="replace").strip()
    if not first or first.startswith(("{", "[")):  # JSON, which csv would read as names too
        return []
    try:
        names = next(csv.reader(StringIO(first)))
    except (csv.Error, StopIteration):
        return []
    if not has_columns(names):
        return []
    return names


def read(path: Path, name: str, *, limits: Limits = LIMITS) -> TraceFile:
    """Reads a whole file. `name` is its name for people, never used as a path. Raises OSError as open() does."""
    findings = Findings(limits.listed)
    trace_format: TraceFormat | None = None
    calls: tuple[TracedCall, ...] = ()
    with open_unpacked(path, findings, limits) as file:
        if file is not None:
            trace_format = detect(file.read(HEAD_BYTES))
            if trace_format is None:
                text = f"'{to_printable(name)}' holds no recorded calls of models that I can read."
                findings.add_for_file(UNKNOWN, text)
            else:
                calls = _read_all(file, trace_format, findings, limits)
    return TraceFile(to_printable(name), trace_format, calls, findings.sorted())


def _read_all(
    file: BinaryIO, trace_format: TraceFormat, findings: Findings, limits: Limits
) -> tuple[TracedCall, ...]:
    stream = _Stream(findings, limits)
    # One call more than is read shows that there are more.
    calls = tuple(islice(stream.calls(file, trace_format), limits.max_rows + 1))
    if len(calls) > limits.max_rows:
        calls = calls[: limits.max_rows]
        findings.add_for_file(
            TOO_MANY, f"The file has more than {limits.max_rows:,} calls; the rest is not read."
        )
    if stream.skipped:
        text = f"{stream.skipped:,} records are no calls of a model that writes text, such as the steps around them."
        findings.add_for_file(NOT_A_CALL, text, stream.skipped)
    calls = _without_repeated(calls, findings)
    _report_calls(calls, findings)
    return calls


class _Stream:
    """Reads calls one by one. `skipped` counts the records of other things. Texts that occur again share their
    memory."""

    def __init__(self, findings: Findings, limits: Limits) -> None:
        self.skipped = 0
        self._findings = findings
        self._limits = limits
        self._texts: dict[str, str] = {}

    def calls(self, file: BinaryIO, trace_format: TraceFormat) -> Iterator[TracedCall]:
        for line, record in _all_records(file, trace_format, self._findings, self._limits):
            own_format = _format_of(record)
            if own_format is None:
                fault = Fault(OTHER_RECORD, f"is no record of {TITLES[trace_format]}")
                self._findings.add_for_line(line, fault)
                continue
            for call in _RECORD_FORMATS[own_format].read(line, record):
                if isinstance(call, TracedCall):
                    messages = shared_texts(call.messages, self._texts)
                    yield replace(call, messages=messages)
                elif call.rule is NOT_A_CALL:
                    self.skipped += 1
                else:
                    self._findings.add_for_line(line, call)


def _all_records(
    file: BinaryIO, trace_format: TraceFormat, findings: Findings, limits: Limits
) -> Iterator[tuple[int, Record]]:
    if trace_format == "langfuse_csv":
        yield from _table_records(file, findings, limits)
        return
    for document in read_documents(file, findings, limits):
        for record in _records(document.record):
            yield document.line, record


def _records(document: Record) -> Iterator[Record]:
    """Yields the records of a page, or the document itself."""
    for key in _PAGES:
        page = document.get(key)
        if isinstance(page, list) and not _format_of(document):
            yield from (record for record in page if isinstance(record, dict))
            return
    yield document


def _table_records(file: BinaryIO, findings: Findings, limits: Limits) -> Iterator[tuple[int, Record]]:
    texts = (text for _, text in text_lines(file, findings, limits))
    records = csv_records(texts, ",", findings)
    names = next(records).cells
    for record in records:
        yield record.line, table_record(names, record.cells)


def _without_repeated(calls: tuple[TracedCall, ...], findings: Findings) -> tuple[TracedCall, ...]:
    """Leaves out calls that were recorded twice, and those around other calls, as two instrumentations of the same call
    record them."""
    parents = {call.parent_id for call in calls}
    seen: set[str] = set()
    different = []
    repeated = 0
    around = 0
    for call in calls:
        if call.id is None:  # nothing can be known of its relation to others
            different.append(call)
            continue
        if call.id in seen:
            repeated += 1
        elif call.id in parents:
            around += 1
        else:
            different.append(call)
        seen.add(call.id)
    if repeated:
        findings.add_for_file(REPEATED, f"{repeated:,} of the calls repeat another one's id.", repeated)
    if around:
        findings.add_for_file(AROUND, f"{around:,} of the calls are around another recorded call.", around)
    return tuple(different)


def _report_calls(calls: tuple[TracedCall, ...], findings: Findings) -> None:
    if not calls:
        findings.add_for_file(NOTHING_READ, "No call could be read.")
        return
    without_messages = sum(not call.messages for call in calls)
    if without_messages:
        text = f"{without_messages:,} of {len(calls):,} calls have no recorded messages."
        findings.add_for_file(NO_MESSAGES, text, without_messages)
    without_time = sum(call.at is None for call in calls)
    if without_time:
        findings.add_for_file(
            NO_TIME, f"{without_time:,} of {len(calls):,} calls have no time.", without_time
        )
