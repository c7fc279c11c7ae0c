"""Cards of recorded calls that were imported."""

from __future__ import annotations

from dataclasses import replace

from bot.cards.common.blocks import Message
from bot.cards.common.general import text_message
from bot.cards.datasets import traces
from bot.cards.datasets.traces import TraceImport
from tests.cards import builders
from tests.cards.builders import BEN
from tests.trainers.traces.exports import BEGIN, call
from trainers.dataset.checks import Fault, Findings
from trainers.traces.calls import NO_MODEL, TracedCall
from trainers.traces.facts import DAY_S, Group, choose_group, gather_facts
from trainers.traces.reader import NO_MESSAGES, TraceFile
from trainers.traces.rows import make_rows
from trainers.types import Message as Turn

ODD = (Turn("system", "Translate *it* to <German>.\nAlways."), Turn("user", "Bonjour"))


def imported(
    calls: tuple[TracedCall, ...], *, with_answers: bool = False, masks: bool = False
) -> TraceImport:
    findings = Findings(2)
    for line in (3, 7, 12):
        findings.add_for_line(line, Fault(NO_MODEL, "has a call that names no model"))
    findings.add_for_file(NO_MESSAGES, "2 of 147 calls have no recorded messages.", 2)
    group = choose_group(calls)
    assert isinstance(group, Group)
    return TraceImport(
        TraceFile("<odd> *traces*.jsonl", "otlp", calls, findings.sorted()),
        gather_facts(calls),
        group,
        gather_facts(group.calls),
        make_rows(group.calls, with_answers=with_answers, masks=masks),
    )


def many() -> tuple[TracedCall, ...]:
    """Calls of two weeks, of two models and with two instructions; some failed, some hold personal data."""
    usual = [
        call(f"Where is parcel {number % 90}?", at=BEGIN + number * DAY_S / 8, prompt_tokens=100 + number)
        for number in range(113)
    ]
    personal = [call(f"Write to anna{number}@example.com", at=BEGIN) for number in range(3)]
    other = [
        call(messages=ODD, model="small <b>", cached_tokens=None, seconds=None, at=BEGIN) for _ in range(24)
    ]
    failed = [call(is_error=True, answer=None, prompt_tokens=None, at=BEGIN + DAY_S) for _ in range(5)]
    return (*usual, *personal, *other, *failed, call(messages=(), at=BEGIN), call(messages=(), at=BEGIN))


def few() -> tuple[TracedCall, ...]:
    """Calls of two days, whose instructions all differ."""
    return tuple(
        call(messages=(Turn("system", f"It is {hour}:00."), Turn("user", "Hello")), at=BEGIN + hour * 3600)
        for hour in range(49)
    )


def cards() -> dict[str, Message]:
    two_weeks = imported(many())
    dataset = builders.dataset(uploaded_by=BEN, filename="<odd> *traces*.jsonl")
    upload = traces.facts_of_upload(imported(many(), masks=True))
    without_questions = replace(upload, questions=0)
    return {
        "traces-uploaded": traces.upload_card(dataset, upload, can_label=False, days=30),
        "traces-uploaded-to-label": traces.upload_card(dataset, upload, can_label=True, days=0),
        "traces-uploaded-without-questions": traces.upload_card(
            dataset, without_questions, can_label=False, days=30
        ),
        "traces-table": text_message(traces.table_summary(dataset, 90, 2)),
        "traces": traces.facts_card(two_weeks),
        "traces-without-texts": traces.facts_card(two_weeks, shows_texts=False),
        "traces-two-days": traces.facts_card(imported(few())),
        "traces-an-hour": traces.facts_card(imported((call(), call(prompt_tokens=None)))),
        "traces-rows": _rows(two_weeks),
        "traces-rows-with-answers": _rows(imported(many(), with_answers=True)),
    }


def _rows(two_weeks: TraceImport) -> Message:
    return Message.titled("Rows", traces.rows_lines(two_weeks.rows, "rows.jsonl", two_weeks.group.model))
