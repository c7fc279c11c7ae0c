"""Exports become calls; what can't be read is reported with its line; other files are refused."""

from __future__ import annotations

import csv
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trainers.traces.exports import (
    BATCH_PAIR,
    BEGIN,
    COMPLETION,
    CONTENT_EVENTS,
    CURRENT,
    DETAILS_EVENT,
    INDEXED,
    MESSAGE_EVENTS,
    MESSAGES,
    PAIR,
    RESPONSE_PAIR,
    SPEND_LOG,
    STORED,
    SYSTEM,
    USAGE_BEFORE,
    otlp,
    span,
    write_lines,
)
from trainers.dataset.rows import Limits
from trainers.traces.reader import READABLE, TraceFile, detect, read

OBSERVATION: dict[str, Any] = {
    "id": "o1",
    "traceId": "t1",
    "type": "GENERATION",
    "startTime": "2026-11-03T07:20:00.000Z",
    "endTime": "2026-11-03T07:20:00.500Z",
    "model": "gpt-4o",
    "input": MESSAGES,
    "output": {"role": "assistant", "content": "delivery"},
    "usageDetails": {"input": 56, "input_cached_tokens": 64, "output": 3, "total": 123},
    "level": "DEFAULT",
}
SPANS = {
    "current attributes": span(CURRENT),
    "numbered attributes": span(INDEXED),
    "events with contents": span(USAGE_BEFORE, events=CONTENT_EVENTS),
    "events with messages": span(USAGE_BEFORE, events=MESSAGE_EVENTS),
    "an event with details": span(USAGE_BEFORE, events=DETAILS_EVENT),
}
RECORDS = {
    **{name: otlp(each) for name, each in SPANS.items()},
    "a page of stored completions": STORED,
    "a pair": PAIR,
    "a pair of a batch": BATCH_PAIR,
    "a pair of a response": RESPONSE_PAIR,
    "a row of spend logs": SPEND_LOG,
    "an observation": OBSERVATION,
}
NO_SECONDS = {"a page of stored completions", "a pair of a batch", "a pair of a response"}


def read_lines(tmp_path: Path, *records: object, limits: Limits | None = None) -> TraceFile:
    path = write_lines(tmp_path / "export.jsonl", *records)
    return read(path, path.name, limits=limits) if limits else read(path, path.name)


@pytest.mark.parametrize("name", list(RECORDS))
def test_a_record_becomes_a_call(tmp_path: Path, name: str) -> None:
    traces = read_lines(tmp_path, RECORDS[name])
    (call,) = traces.calls
    assert traces.findings == ()
    assert (call.model, call.question, call.instructions) == ("gpt-4o", "Where is my parcel?", SYSTEM)
    assert (call.answer, call.is_error) == ("delivery", False)
    assert (call.prompt_tokens, call.completion_tokens) == (120, 3)
    assert call.cached_tokens == 64
    assert call.at == pytest.approx(BEGIN, abs=86400)
    assert call.seconds == (None if name in NO_SECONDS else 0.5)


def test_files_in_every_layout_give_the_same_calls(tmp_path: Path) -> None:
    records = [
        {**OBSERVATION, "id": f"o{number}", "input": f'Where is parcel {number}?\n["{{'}
        for number in range(50)
    ]
    layouts = {
        "lines": "".join(json.dumps(each) + "\n" for each in records),
        "array": json.dumps(records),
        "spread array": json.dumps(records, indent=2),
        "spread objects": "\n".join(json.dumps(each, indent=4) for each in records),
        "page": json.dumps({"data": records, "meta": {"page": 1}}),
        "spread page": json.dumps({"data": records, "meta": {"page": 1}}, indent=2),
        "with a mark": "\ufeff" + json.dumps(records),
    }
    for name, text in layouts.items():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        traces = read(path, name)
        assert [call.question for call in traces.calls] == [each["input"] for each in records], name
        assert traces.findings == ()


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spread.json"
    path.write_text(json.dumps([OBSERVATION, {**OBSERVATION, "id": "o2"}], indent=2))
    first, second = read(path, path.name).calls
    lines = path.read_text().splitlines()
    assert lines[first.line - 1] == lines[second.line - 1] == "  {"
    assert second.line - first.line == json.dumps(OBSERVATION, indent=2).count("\n") + 1


def test_a_table_has_json_in_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "export.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(OBSERVATION)
        writer.writerow(
            [value if isinstance(value, str) else json.dumps(value) for value in OBSERVATION.values()]
        )
    traces = read(path, path.name)
    assert traces.format == "langfuse_csv"
    (call,) = traces.calls
    assert (call.line, call.question, call.answer, call.prompt_tokens) == (
        2,
        "Where is my parcel?",
        "delivery",
        120,
    )


def test_faulty_lines_are_reported_and_the_others_are_read(tmp_path: Path) -> None:
    path = tmp_path / "export.jsonl"
    lines = [
        json.dumps(PAIR),
        '{"request": {"model": "gpt-4o", "mess',
        "[1, 2]",
        json.dumps({"hello": "world"}),
        json.dumps({**PAIR, "request": {"messages": MESSAGES}, "response": {"choices": []}}),
        "",
        json.dumps({**PAIR, "response": {**COMPLETION.to_dict(), "id": "chatcmpl-2"}}),
    ]
    path.write_text("\n".join(lines))
    traces = read(path, path.name)
    assert [call.line for call in traces.calls] == [1, 7]
    assert not traces.is_refused
    assert [(finding.line, finding.code) for finding in traces.findings] == [
        (2, "not_json"),
        (3, "not_an_object"),
        (4, "other_record"),
        (5, "no_model"),
    ]
    assert traces.findings[3].message == "Line 5 has a call that names no model."
    assert traces.findings[3].cure.startswith("Record the model's name")


def test_a_file_that_is_cut_off_keeps_what_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "export.json"
    text = json.dumps([OBSERVATION, {**OBSERVATION, "id": "o2"}], indent=2)
    path.write_text(text[:-40])
    traces = read(path, path.name)
    assert len(traces.calls) == 1
    (finding,) = traces.findings
    assert (finding.code, finding.line) == ("cut_off", json.dumps([OBSERVATION], indent=2).count("\n") + 1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"text,label\nWhere is my parcel?,delivery\n",
        b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n',
        b'{"text": "a", "label": "b"}\n',
        b'{"prompt": "a", "completion": "b"}\n',
        b'{"input": {"messages": []}, "preferred_output": [], "non_preferred_output": []}\n',
        b"[]",
        b"[[[[",
        b"\x89PNG\r\n\x1a\n\x00\x00",
        b"PK\x03\x04",
        gzip.compress(b"text,label\n"),
    ],
)
def test_other_files_are_refused_with_what_can_be_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert detect(content) is None
    traces = read(path, "tickets.csv")
    assert traces.is_refused
    (finding,) = traces.findings
    assert finding.message == "'tickets.csv' holds no recorded calls of models that I can read."
    assert READABLE in finding.cure
    assert "OTLP JSON" in finding.cure and "LiteLLM" in finding.cure


def test_a_first_record_longer_than_a_head_is_recognised_by_its_keys() -> None:
    batch = json.dumps(otlp(*[span(CURRENT, number) for number in range(1000)]))
    assert detect(batch[: 256 * 1024].encode()) == "otlp"
    assert detect(gzip.compress(batch.encode())[: 8 * 1024]) == "otlp"


def test_damaged_and_huge_gzip_is_refused(tmp_path: Path) -> None:
    packed = gzip.compress(json.dumps(PAIR).encode() * 1000)
    path = tmp_path / "export.gz"
    path.write_bytes(packed[:-20])
    assert [finding.code for finding in read(path, path.name).findings] == ["damaged_gzip"]
    path.write_bytes(packed)
    assert [finding.code for finding in read(path, path.name, limits=Limits(max_bytes=10_000)).findings] == [
        "file_too_big"
    ]


def test_limits_are_reported(tmp_path: Path) -> None:
    pairs = [
        {**PAIR, "response": {**COMPLETION.to_dict(), "id": f"chatcmpl-{number}"}} for number in range(5)
    ]
    few = read_lines(tmp_path, *pairs, limits=Limits(max_rows=3))
    assert len(few.calls) == 3
    assert [finding.message for finding in few.findings] == [
        "The file has more than 3 calls; the rest is not read."
    ]
    size = len(json.dumps(pairs[0]))
    long_one = {**PAIR, "note": "x" * size}
    rest = read_lines(tmp_path, pairs[0], long_one, pairs[1], limits=Limits(max_line_bytes=size + 10))
    assert len(rest.calls) == 2
    assert [(finding.code, finding.line) for finding in rest.findings] == [("line_too_long", 2)]
    path = tmp_path / "spread.json"
    path.write_text(json.dumps([pairs[0], {**PAIR, "note": "x" * 3_000_000}, pairs[1]]))
    spread = read(path, path.name, limits=Limits(max_line_bytes=1_000_000))
    assert len(spread.calls) == 1
    assert [finding.code for finding in spread.findings] == ["document_too_long"]


def test_calls_that_two_instrumentations_record_count_once(tmp_path: Path) -> None:
    inner = span(CURRENT, 2, parentSpanId=f"{1:016x}")
    outer = span({**INDEXED, "gen_ai.request.model": "openai/gpt-4o"}, 1)
    agent = span({"gen_ai.operation.name": "invoke_agent", "gen_ai.request.model": "gpt-4o"}, 3)
    traces = read_lines(tmp_path, otlp(inner, outer, agent), otlp(inner))
    assert [call.model for call in traces.calls] == ["gpt-4o"]
    counts = {finding.code: finding.count for finding in traces.findings}
    assert counts == {"repeated_calls": 1, "calls_around_calls": 1, "not_a_call": 1}


def test_pictures_and_tools_are_no_questions(tmp_path: Path) -> None:
    picture = [
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.example"}}]}
    ]
    tool = {**COMPLETION.to_dict(), "id": "chatcmpl-2"}
    tool["choices"] = [{"message": {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1"}]}}]
    traces = read_lines(
        tmp_path, {**PAIR, "request": {"model": "gpt-4o", "messages": picture}}, {**PAIR, "response": tool}
    )
    assert [(call.question, call.has_only_text) for call in traces.calls] == [(None, False), (None, False)]
    assert traces.calls[1].answer is None


def test_redacted_messages_are_none(tmp_path: Path) -> None:
    redacted = [{"role": "user", "content": "redacted-by-litellm"}]
    traces = read_lines(tmp_path, {**SPEND_LOG, "messages": redacted, "proxy_server_request": {}})
    assert traces.calls[0].messages == ()
    assert [finding.code for finding in traces.findings] == ["no_messages"]


def test_whole_traces_of_langfuse_are_explained(tmp_path: Path) -> None:
    trace = {
        "id": "t1",
        "timestamp": "2026-11-03",
        "sessionId": None,
        "userId": None,
        "input": "a",
        "output": "b",
    }
    traces = read_lines(tmp_path, trace)
    assert traces.is_refused
    assert "filter Type = GENERATION" in traces.findings[0].cure + traces.findings[1].cure


def test_times_are_read_as_tools_write_them(tmp_path: Path) -> None:
    moment = datetime(2026, 11, 3, 7, 20, tzinfo=UTC).timestamp()
    for written in (
        "2026-11-03 07:20:00.000000",
        "2026-11-03T08:20:00+01:00",
        moment,
        moment * 1e3,
        moment * 1e9,
    ):
        traces = read_lines(tmp_path, {**OBSERVATION, "startTime": written})
        assert traces.calls[0].at == pytest.approx(moment)


@given(st.data())
def test_no_change_of_a_byte_raises(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(list(RECORDS)))
    raw = bytearray((json.dumps(RECORDS[name]) + "\n" + json.dumps(RECORDS[name], indent=1)).encode())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path = tmp_path_factory.mktemp("fuzz") / "file"
    path.write_bytes(raw)
    traces = read(path, path.name)
    assert traces.calls or traces.is_refused


@given(
    st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8), st.lists, max_leaves=8),
    st.data(),
)
def test_no_value_in_a_field_raises(
    tmp_path_factory: pytest.TempPathFactory, value: object, data: st.DataObject
) -> None:
    record = data.draw(
        st.sampled_from([OBSERVATION, PAIR, SPEND_LOG, COMPLETION.to_dict(), otlp(span(CURRENT))])
    )
    key = data.draw(st.sampled_from(list(record)))
    changed = {**record, key: data.draw(st.sampled_from([value, {"a": value}, [value], json.dumps(value)]))}
    path = tmp_path_factory.mktemp("values") / "file"
    path.write_text(json.dumps([OBSERVATION, changed]))
    assert read(path, path.name).calls
