"""Exports that other people's packages write of the calls that they record, read by ours."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.clients.environment import CLIENTS, PROGRAMS, python
from tests.patience import wait_until
from tests.peers.chat_vendor import KEY, ChatVendor, serve_vendor
from tests.trainers.door.doors import serve_door
from trainers.recipes import samples
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Published, Sampling
from trainers.traces.calls import TracedCall
from trainers.traces.facts import gather_facts
from trainers.traces.reader import TraceFile, detect, read
from trainers.traces.rows import make_rows

LATEST = {
    "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental",
    "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "span_only",
}
QUESTIONS = Counter({"Where is my parcel?": 2, "My card was charged twice.": 1})


@pytest.fixture(scope="module")
def model() -> Iterator[ChatVendor]:
    with serve_vendor(ChatVendor()) as vendor:
        yield vendor


def record(model: ChatVendor, program: str, *arguments: str, **settings: str) -> None:
    """Runs a program that asks the model, in the environment of other people's packages."""
    process = subprocess.run(
        [python(), str(PROGRAMS / program), model.url, KEY, *arguments],
        cwd=CLIENTS,
        env={
            "PATH": os.environ["PATH"],
            "HOME": os.environ.get("HOME", "/"),
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]


def read_export(path: Path) -> TraceFile:
    traces = read(path, path.name)
    assert detect(path.read_bytes()[: 256 * 1024]) == traces.format
    assert [finding for finding in traces.findings if finding.severity != "tells"] == []
    return traces


def assert_recorded(calls: tuple[TracedCall, ...], *, has_cached: bool = True) -> None:
    """These are the calls that the programs make: three questions, a call of a tool, and one that failed."""
    assert len(calls) == 5
    assert {call.model for call in calls} == {"gpt-4o"}
    assert Counter(call.question for call in calls if call.question and not call.is_error) == QUESTIONS
    answers = [call.answer for call in calls if call.question and not call.is_error]
    assert sorted(map(str, answers)) == ["parcel?", "parcel?", "twice."]
    (failed,) = [call for call in calls if call.is_error]
    assert (failed.answer, failed.completion_tokens) == (None, None)
    assert failed.question == "No key."
    (tool,) = [call for call in calls if not call.has_only_text]
    assert tool.answer is None
    assert tool.instructions == ""
    first = next(call for call in calls if call.question == "Where is my parcel?")
    assert first.instructions == "Which team answers?"
    assert (first.prompt_tokens, first.completion_tokens) == (38, 7)
    assert first.cached_tokens == (19 if has_cached else None)
    assert first.at is not None and first.at > 1_700_000_000
    assert first.seconds is not None and 0 < first.seconds < 60


@pytest.mark.deep
@pytest.mark.parametrize("instrumentation", ["openai_v2", "openllmetry", "openinference"])
def test_spans_of_opentelemetrys_exporters_are_read(
    model: ChatVendor, tmp_path: Path, instrumentation: str
) -> None:
    record(model, "record_spans.py", instrumentation, str(tmp_path), **LATEST)
    has_cached = instrumentation != "openai_v2"  # this one doesn't record them
    batches = read_export(tmp_path / "batches.jsonl")
    assert batches.format == "otlp"
    assert_recorded(batches.calls, has_cached=has_cached)
    assert [finding.count for finding in batches.findings if finding.code == "not_a_call"] == [5]
    printed = read_export(tmp_path / "printed.txt")
    assert printed.format == "printed_spans"
    assert_recorded(printed.calls, has_cached=has_cached)

    packed = tmp_path / "batches.gz"
    packed.write_bytes(gzip.compress((tmp_path / "batches.jsonl").read_bytes()))
    assert read_export(packed).calls == batches.calls


@pytest.mark.deep
def test_calls_without_messages_count_and_the_cure_is_named(model: ChatVendor, tmp_path: Path) -> None:
    # By default this instrumentation writes messages as log records, which no span has.
    record(model, "record_spans.py", "openai_v2", str(tmp_path))
    traces = read(tmp_path / "batches.jsonl", "batches.jsonl")
    (finding,) = [finding for finding in traces.findings if finding.severity == "warns"]
    assert finding.message == "5 of 5 calls have no recorded messages."
    assert "CAPTURE_MESSAGE_CONTENT=span_only" in finding.cure
    facts = gather_facts(traces.calls)
    assert (facts.calls, facts.errors, facts.questions) == (5, 1, 0)
    assert facts.models[0].completion and facts.models[0].completion.mean == 7
    assert make_rows(traces.calls).lines == ()


@pytest.mark.deep
def test_litellms_payloads_are_read(model: ChatVendor, tmp_path: Path) -> None:
    record(model, "record_litellm.py", str(tmp_path))
    sent = read_export(tmp_path / "http.jsonl")
    assert sent.format == "litellm"
    assert_recorded(sent.calls)
    stored = [read_export(path) for path in sorted(tmp_path.glob("s3-*.json"))]
    assert {traces.format for traces in stored} == {"litellm"}
    assert_recorded(tuple(call for traces in stored for call in traces.calls))


@pytest.mark.deep
def test_langfuses_spans_are_read(model: ChatVendor, tmp_path: Path) -> None:
    record(model, "record_langfuse.py", str(tmp_path))
    sent = read_export(tmp_path / "sdk.jsonl")
    assert sent.format == "otlp"
    assert_recorded(sent.calls)


@pytest.mark.deep
def test_langfuses_exports_are_read(model: ChatVendor, tmp_path: Path) -> None:
    record(model, "record_langfuse.py", str(tmp_path))
    exports = [
        read_export(tmp_path / name)
        for name in ("ui.json", "ui.jsonl", "ui.csv", "storage.jsonl", "api.json")
    ]
    assert [traces.format for traces in exports] == [
        "langfuse",
        "langfuse",
        "langfuse_csv",
        "langfuse",
        "langfuse",
    ]
    for traces in exports:
        answered, failed = traces.calls
        assert (answered.question, answered.answer) == ("Where is it?", "delivery")
        assert answered.instructions == "Which team answers?"
        assert (answered.prompt_tokens, answered.cached_tokens, answered.completion_tokens) == (120, 80, 3)
        assert (answered.model, answered.seconds) == ("gpt-4o", 2.0)
        assert answered.at == datetime(2026, 11, 3, 10, tzinfo=UTC).timestamp()
        assert failed.is_error and failed.answer is None
        assert [finding.count for finding in traces.findings if finding.code == "not_a_call"] == [1]


@pytest.mark.deep
def test_an_exporter_sends_spans_to_the_door(model: ChatVendor, tmp_path: Path) -> None:
    folder = RecipeFolder(tmp_path / "serving")
    folder.publish(Published("team/tickets", sampling=Sampling(1.0, "mask")))
    with serve_door(folder) as door:
        record(
            model,
            "record_spans.py",
            "openllmetry",
            str(tmp_path),
            f"{door.url}/traces",
            OTEL_EXPORTER_OTLP_HEADERS=f"Authorization=Bearer {folder.call_key()}",
            OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        )
        wait_until(lambda: samples.count(folder.root, "team/tickets", traced=True) == 3, "three calls")
        calls = samples.read(folder.root, "team/tickets", traced=True)
    assert {call.recipe for call in calls} == {"gpt-4o"}
    assert sorted(call.answer for call in calls) == ["parcel?", "parcel?", "twice."]
    # The call of a tool has no text, and the failed one no answer.
    (counts,) = samples.counts(folder.root).values()
    assert (counts.stored, counts.not_text, counts.drawn) == (3, 1, 4)
