"""Builders of a dataset, a report, an estimate, a plan, a run and its result, each with what a test changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Literal

from bot.cards.common.blocks import Entry, Listing
from bot.cards.training.runs import RunSummary
from bot.rules.advice import advise
from bot.rules.alternatives import (
    Alternative,
    CurrentModel,
    MeasuredCandidates,
    MonthlyUse,
    UnmeasuredModel,
    choose_alternative,
)
from bot.rules.bills import MonthlyCost, Rates
from bot.rules.budgets import Budget
from bot.rules.estimates import EstimateSummary
from bot.rules.facts import NOTHING_MEASURED, Evidence, Facts
from bot.rules.forecast import simulate
from bot.rules.models.promotion import ModelComparison
from bot.rules.models.starting_models import StartingModel
from bot.rules.plans import BestCandidate, NetValue, Plan, PlanVerdict, Prediction
from bot.rules.prices import MissingPrice
from bot.rules.roi import Inputs, Range, Training, Usage, estimate, evaluations_usd
from bot.rules.training.calibration import Actual, run_actuals
from bot.rules.units import MonthlyVolume, Volume, monthly_volume
from bot.values.runs import (
    Advice,
    ChangedRow,
    MeasuredScore,
    ModelScore,
    Progress,
    RunResult,
    ScoreChange,
)
from storage.records import Approval, Ask, AuditEntry, Dataset, Run, RunState
from trainers.dataset import Columns, Finding, LabelCount, Report, TokenReport
from trainers.dataset.rows import NO_CHOICES, Choices, Sheet, ShownRow
from trainers.evaluation.statistics import LabelLoss, wilson
from trainers.models.tokens import Spread
from trainers.providers.pricing import PriceRow
from trainers.providers.providers import ModelVerdict
from trainers.types import Answer, Price

ANA = "U0ANA"
BEN = "U0BEN"
CLEO = "U0CLEO"
NOW = 1_790_000_000.0
HASH = "3f9a61c2b7d4" + "0" * 52
AUDITED = tuple(
    AuditEntry(number, NOW + 60 * number, who, action, "run 7", detail, "", "")
    for number, (who, action, detail) in enumerate(
        (
            *((ANA, "ask", HASH), (BEN, "approve", HASH), ("finetune", "started", "job ftjob-*1*")),
            *((CLEO, "override budget", "the <@U1> customer waits"), (ANA, "cancel", "")),
            ("finetune", "cancelled", f"Cancelled by <@{ANA}>."),
        )
    )
)
LABELS = tuple(
    LabelCount(label, rows)
    for label, rows in {"card_arrival": 120, "lost_parcel": 104, "refund": 98, "opening hours": 61}.items()
)
WORTH_A_TRY = Finding(
    None,
    "tells",
    "worth_a_try",
    "383 rows are worth a try.",
    "Nothing to do; with 1,000 rows the result will be steadier.",
)
DUPLICATE = Finding(
    17,
    "warns",
    "duplicate",
    "Line 17 repeats line 4.",
    "Delete the copies: they teach nothing new and cost tokens.",
)
PERSONAL = (
    Finding(3, "warns", "personal_data", "Line 3 holds an e-mail address.", "Replace it by a placeholder."),
    Finding(4, "warns", "personal_data", "Line 4 holds an e-mail address.", "Replace it by a placeholder."),
)
TOO_FEW = Finding(
    None,
    "blocks",
    "too_few_rows",
    "There are 3 usable rows; 14 is the minimum.",
    "Collect more: trainers need at least 10 besides those held out as a test, so 14 in all, and it takes about 200 to "
    "be worth it.",
)
NOT_JSON = Finding(7, "blocks", "not_json", "Line 7 is not JSON.", "Put one JSON object on each line.")
HOSTED = Training(tokens=36_200, epochs=3, usd_per_million=Decimal(3))
OWN = Training(
    tokens=36_200, epochs=3, usd_per_hour=Decimal(0), minutes=Range(Decimal(13), Decimal(26), Decimal(120))
)
GPT_4O = Rates("gpt-4o", Decimal("2.5"), Decimal(10), "genai-prices 0.2.3")
MINI = Rates("gpt-4.1-mini", Decimal("0.8"), Decimal("3.2"), "openai.toml, 2026-09-01")
FREE = Rates("smollm2-135m", Decimal(0), Decimal(0), "finetune.toml")


def full_list(*entries: Entry) -> Listing[Entry]:
    """A list that leaves nothing out."""
    return Listing(entries, len(entries))


def dataset(**other: Any) -> Dataset:
    default = Dataset(
        id=3,
        name="tickets",
        version=1,
        state="ready",
        channel="C0TICKETS",
        uploaded_by=ANA,
        filename="support_tickets.csv",
        source="F0FILE",
        text_column=None,
        label_column=None,
        sha256=None,
        report=None,
        refusal=None,
        tries=0,
        next_at=0.0,
        created_at=NOW,
        updated_at=NOW,
        owner="C0TICKETS",
        sources="C0TICKETS",
    )
    return replace(default, **other)


def report(*findings: Finding, **other: Any) -> Report:
    spread = Spread(total=45_300, mean=118.3, p50=110, p95=240, max=412)
    default = Report(
        name="support_tickets.csv",
        format="csv",
        rows=383,
        task="labels",
        labels=LABELS,
        tokens=TokenReport("o200k_base", False, spread, 36_200, 104.1, 131.6, 4.2),
        findings=findings,
        columns=Columns("message", "intent"),
        choices=NO_CHOICES,
        system=None,
        source_sha256=HASH,
        train_sha256=HASH,
        holdout_sha256=HASH,
        n_train=306,
        n_holdout=77,
        seed=1,
        seconds=0.4,
        column_names=("id", "message", "intent", "agent"),
        example=ShownRow("Where is my card? It should have been here on Monday.", "card_arrival"),
    )
    return replace(default, **other)


def blocked_report(*findings: Finding) -> Report:
    return report(*findings, train_sha256=None, holdout_sha256=None, n_train=0, n_holdout=0)


UNCLEAR = Finding(
    None,
    "blocks",
    "columns_unclear",
    "The columns 'category' and 'topic' could both be the label.",
    "Choose which one to use.",
)


def report_with_unclear_columns() -> Report:
    choices = Choices(label=("category", "topic"))
    read = replace(blocked_report(UNCLEAR), rows=0, labels=(), columns=Columns(), choices=choices)
    return replace(read, column_names=("text", "category", "topic"), example=None)


def report_of_a_workbook(*, are_alike: bool = False) -> Report:
    """A workbook with two sheets, of which the first was read, or both."""
    sheets = (Sheet("Tickets", 384, is_read=True), Sheet("Mails", 120, is_read=are_alike))
    text = "Only the sheet 'Tickets' was read. Not read: 'Mails'."
    cure = "If the rows are in another one, choose that sheet."
    others = () if are_alike else (Finding(None, "tells", "one_sheet", text, cure),)
    return replace(report(*others), format="xlsx", sheets=sheets)


NO_TEXT_COLUMN = Finding(
    None,
    "blocks",
    "text_unclear",
    "No column looks like a text: 'id' has only numbers, dates or ids.",
    "Choose the column with the texts. If it really is this one, choose it all the same.",
)
UNLABELLED = Finding(
    385,
    "warns",
    "empty_label",
    "Line 385 has no label.",
    "It is left out until it has a label: fill it in, or label such rows in Slack.",
    60,
)
SEVERAL_LABELS = Finding(
    None,
    "warns",
    "several_labels",
    "214 of 383 rows have several labels in one answer, such as 'refund, delivery': 4 combinations of 2 labels. Each "
    "combination counts as a label of its own, so half of one counts as wrong.",
    'Keep the most important one, or write JSON with a field for each label, {"billing": true, "refund": false}: '
    "its fields are scored one by one.",
    214,
)
NOT_YET = Finding(
    None,
    "warns",
    "not_yet",
    "40 rows are too few for fine-tuning to be worth it; try it from 200 on.",
    "Collect 200 rows first; until then, improve the prompt.",
    40,
)


def report_with_a_doubtful_text() -> Report:
    read = replace(report_with_unclear_columns(), findings=(NO_TEXT_COLUMN,), column_names=("id", "label"))
    return replace(read, choices=Choices(text=("id",)))


def small_report() -> Report:
    labels = tuple(LabelCount(f"intent {number}", 4 if number < 4 else 3) for number in range(12))
    return report(NOT_YET, rows=40, n_train=30, n_holdout=10, labels=labels)


# A model that ends within the horizon, and its far cheaper successor.
CHEAP = replace(GPT_4O, model="gpt-6-luna", input=Decimal("0.05"), output=Decimal("0.40"))
ENDING = replace(GPT_4O, ends=date(2027, 1, 14), successor=CHEAP.model, after_end=CHEAP)


CHEAP_MODEL = UnmeasuredModel(
    "openai/gpt-6-luna", MonthlyCost(Decimal("10.00"), Decimal("0.19"), Decimal(0)), Decimal("0.0012")
)


def estimate_summary(
    *,
    training: Training = OWN,
    now: Rates = GPT_4O,
    tuned: Rates = FREE,
    volume: int | None = 100_000_000,
    rows: int = 383,
    name: str = "tickets",
    smallest_label: int | None = 61,
    missing: MissingPrice | None = None,
    evidence: Evidence = NOTHING_MEASURED,
    about: Mapping[str, Any] = MappingProxyType({}),
    **inputs: Any,
) -> EstimateSummary:
    """`about` has more fields of Facts, `inputs` more of Inputs."""
    usage = Usage.from_means(rows, 131.6, 104.1, 4.2)
    priced = Inputs(volume or 1, usage, now, tuned, training, date(2026, 11, 25), **inputs)
    alternative = _alternative(priced, now, evidence)
    priced = replace(priced, alternative=alternative)
    costs, outlook = (estimate(priced), simulate(priced, draws=500)) if volume else (None, None)
    facts = Facts(
        dataset=name,
        rows=rows,
        n_holdout=rows // 5,
        smallest_label=smallest_label,
        target=ModelVerdict("ok"),
        run_usd=training.usd.expected + evaluations_usd(priced),
        estimate=costs,
        missing=missing,
        evidence=evidence,
        outlook=outlook,
        **about,
    )
    return EstimateSummary(
        name=name,
        report=report(rows=rows),
        training=training,
        minutes=training.minutes or Range(Decimal(10), Decimal(30), Decimal(120)),
        estimate=costs,
        outlook=outlook,
        alternative=alternative if costs else None,
        prices=(price_row(tuned, "tuned"), price_row(now, "prompted")),
        evidence=evidence,
        inputs=priced if costs else None,
        verdict=advise(facts),
        measuring_usd=evaluations_usd(priced),
        volume=monthly_volume(Volume(volume, "tokens"), usage.tokens_per_request) if volume else None,
    )


def _alternative(inputs: Inputs, now: Rates, evidence: Evidence) -> Alternative:
    """A measured candidate that meets the bar, or else today's model."""
    today = CurrentModel(inputs.usage.today, now)
    measured = MeasuredCandidates(evidence.alternatives, evidence.bar)
    candidate, rates = measured.cheapest, Rates("classical", Decimal(0), Decimal(0), "no vendor")
    if candidate is not None and candidate.model is not None:
        rates = Rates(candidate.model, Decimal("0.4"), Decimal("1.6"), "genai-prices 0.2.3")
    use = MonthlyUse(inputs.requests, inputs.usage.own, inputs.traffic)
    return choose_alternative(today, measured, rates, use)


def price_row(rates: Rates, kind: Literal["prompted", "tuned"]) -> PriceRow:
    price = Price(None, rates.input, rates.cached_input, rates.output)
    hour = None if rates.input else Decimal(0)  # a model with free tokens runs on our own machine
    return PriceRow(rates.model, kind, price, rates.said_by, usd_per_hour=hour)


STARTED = StartingModel(
    name="tickets-3",
    provider="local",
    provider_model="ft:smollm2-135m:local:tickets:1a2b3c4d",
    base_model="smollm2-135m",
    run=3,
    plan_hash="a" * 64,
    dataset="tickets",
    version=2,
    ancestors=("tickets-1",),
    train_files=("b" * 64, "c" * 64),
    overridden=("personal data",),
    teachers=("house/big",),
)


def plan(**other: Any) -> Plan:
    default = Plan(
        dataset="tickets",
        dataset_version=1,
        dataset_id=3,
        uploaded_by=ANA,
        source_sha256=HASH,
        train_sha256=HASH,
        holdout_sha256=HASH,
        n_train=306,
        n_holdout=77,
        labels=tuple(count.label for count in LABELS),
        system=None,
        provider="local",
        current="gpt-4o",
        base_model="smollm2-135m",
        method="supervised",
        hyperparameters=(("n_epochs", 3),),
        seed=1,
        suffix="tickets",
        prices="{}",
        training_tokens=108_600,
        expected_micros=43_000,
        maximum_micros=120_000,
        seconds_low=780,
        seconds_high=7200,
        warnings=(),
        monthly_before_micros=281_900_000,
        monthly_after_micros=73_000_000,
        requester=ANA,
        channel="C0TICKETS",
        asked_at=NOW,
    )
    return replace(default, **other)


PREDICTED = Prediction(
    asked="current=gpt-4o volume=760000requests",
    quality=0.84,
    p_payback=0.873,
    target_months="3",
    alternative="the prompt with ten examples on openai/gpt-4o-mini",
    alternative_micros=96_000_000,
    saving_micros=23_000_000,
    seconds=1_560,
    measured=(("the classical model", 0.92), ("the prompt alone on openai/gpt-4o-mini", 0.79)),
    volume=MonthlyVolume(760_000, 100_016_000, "requests"),
)


NOT_DECIDED = PlanVerdict(
    kind="unknown",
    rule="today's model",
    reason="gpt-4o, today's model, was not measured on these rows; it or a cheaper model may be good enough. "
    "Measure gpt-4o: `/finetune baseline tickets models=openai/gpt-4o`.",
    bar=0.85,
    best=BestCandidate("the prompt with ten examples on openai/gpt-4o-mini", 0.79, 0.729, 0.851, "misses"),
    bearable_hours="7.81",
    saves_until="2027-01-14",
    net=NetValue("12", 210_000_000, 640_000_000, 1_150_000_000, "0.3"),
    machine_micros=73_000_000,
)
LOSES_LATER = PlanVerdict(
    kind="no_go",
    rule="net value",
    reason="Over 12 months it loses about $350 ($220 to $450), because gpt-4o ends on 2027-01-14 and its successor "
    "gpt-6-luna costs about $62 a month less. It saves about $195 a month until 2027-01-14.",
    bar=0.85,
    best=BestCandidate("the encoder", 0.68, 0.61, 0.74, "misses"),
    saves_until="2027-01-14",
    net=NetValue("12", -448_930_000, -348_760_000, -219_100_000),
    machine_micros=73_000_000,
)
DECIDED_GO = PlanVerdict(
    kind="go",
    rule="alternatives",
    reason="All 4 measured alternatives miss the bar of 85%. The best is retrieval on openai/gpt-4o-mini.",
    bar=0.85,
    best=BestCandidate("retrieval on openai/gpt-4o-mini", 0.79, 0.729, 0.851, "misses"),
    people_micros=1_500_000_000,
    labels_micros=50_000_000,
)


DECIDED_FIELDS = replace(DECIDED_GO, scoring="json", floor=0.4651)
DECIDED_JUDGED = replace(DECIDED_GO, scoring="judge", judge="openai/gpt-4.1")


def advised_plan(advised: PlanVerdict = NOT_DECIDED, options: str = PREDICTED.asked, **other: Any) -> Plan:
    return plan(predicted=replace(PREDICTED, advised=advised, asked=options), **other)


def free_plan(**other: Any) -> Plan:
    return plan(expected_micros=0, maximum_micros=0, **other)


def run(state: RunState = "training", **other: Any) -> Run:
    default = Run(
        id=7,
        plan_hash=HASH,
        plan="{}",
        key="ft-1",
        state=state,
        dataset_id=3,
        requester=ANA,
        channel="C0TICKETS",
        provider="local",
        job_id="ftjob-1",
        file_id="file-1",
        model="tickets-7" if state in ("evaluating", "done") else None,
        tries=0,
        next_at=0.0,
        state_since=NOW,
        progress=None,
        result=None,
        error=None,
        reserved_micros=120_000,
        actual_micros=None,
        cancel_asked_by=None,
        created_at=NOW,
        updated_at=NOW,
        wish=None,
        wished_by=None,
    )
    return replace(default, **other)


TRAINING = Progress(
    step=46,
    total_steps=115,
    train_loss=0.41872,
    valid_loss=0.52219,
    trained_tokens=43_000,
    running_since=NOW - 600,
    ran_until=NOW,
    estimated_finish=NOW + 900,
)
MEASURING = replace(TRAINING, step=115, evaluated=96, to_evaluate=154)


def model_score(correct: int, low: float, high: float, tokens: int, n: int = 77) -> ModelScore:
    return ModelScore(correct, n, low, high, tokens * n, 4 * n, 0.41, 0.92)


def result(**other: Any) -> RunResult:
    default = RunResult(
        base=model_score(18, 0.153, 0.338, 132),
        tuned=model_score(66, 0.763, 0.918, 104),
        better=50,
        worse=2,
        p_value=4e-13,
        gain_low=0.49,
        gain_high=0.72,
        train_seconds=1_620.0,
        trained_tokens=108_400,
        steps=115,
        estimated_micros=43_000,
        actual_micros=44_000,
        labelled=True,
        loss_curve=tuple((6 * n, 2.4 / n) for n in range(1, 20)),
        at_once=32,
    )
    return replace(default, **other)


def result_with(tuned: int, **other: Any) -> RunResult:
    """The tuned model has `tuned` of 200 rows right, its base 47."""
    gain = (tuned - 47) / 200
    between = wilson(tuned, 200)
    scores = {
        "base": model_score(47, 0.18, 0.3, 132, n=200),
        "tuned": model_score(tuned, between.low, between.high, 104, n=200),
    }
    better, worse = (tuned - 42, 5) if gain > 0 else (2, 49 - tuned)
    return replace(
        result(**scores, better=better, worse=worse, gain_low=gain - 0.07, gain_high=gain + 0.06), **other
    )


FIELDS_GAINED = ScoreChange(
    before=MeasuredScore(0.412, 0.37, 0.454),
    after=MeasuredScore(0.841, 0.808, 0.874),
    gain=0.429,
    low=0.38,
    high=0.478,
    p=0.0001,
)
GO = Advice(
    "go",
    "",
    "Go: the tuned model is good enough, and it pays.",
    "Deploy the tuned model, and keep today's available until it has proved itself.",
)
COMPARE = Advice(
    "unknown",
    "today's model",
    "Not decided yet. gpt-4o, today's model, was not measured on these rows; it or a cheaper model may be good enough.",
    "Measure gpt-4o and a cheap model beside it: `/finetune baseline tickets models=openai/gpt-4o`.",
    "gpt-4o, today's model, was not measured on these rows; it or a cheaper model may be good enough.",
)
ALONE = Advice(
    "unknown",
    "measure",
    "Not decided yet. No cheaper alternative (prompts, examples, retrieval) has been measured on your data yet.",
    "Measure the classical model (`/finetune baseline tickets candidates=classical`): free.",
    "No cheaper alternative (prompts, examples, retrieval) has been measured on your data yet.",
)
MISSES = Advice(
    "no_go",
    "tuned",
    "Not now. The tuned model misses the bar of 85%.",
    "Label more rows before you train again, starting with “refund”, “lost_parcel”.",
    "The tuned model misses the bar of 85%.",
)
CHEAPER = Advice(
    "no_go",
    "cheaper rung",
    "Not now. The classical model meets the bar of 85%: 95.0% right (91–97%) on 200 held-out rows, at no "
    "charge per request. It needs no training.",
    "Use the classical model. If that is not good enough for you, raise the bar (bar=) and estimate again.",
    "The classical model meets the bar of 85%: 95.0% right (91–97%) on 200 held-out rows, free. "
    "It needs no training.",
)


NOT_WORSE = ModelComparison(
    "ten examples, openai/gpt-4.1-mini-2025-04-14",
    0.93,
    -0.01,
    -0.021,
    0.001,
    200,
    Decimal("0.03"),
    Decimal("0.41"),
)
LOSSES = (LabelLoss("refund", 24, 22, 11, 0.014), LabelLoss("lost_parcel", 18, 18, 9, 0.031))


def actuals(predicted: float | None) -> tuple[Actual, ...]:
    return run_actuals(
        7,
        tokens=(108_600, 108_400),
        micros=(43_000, 44_000),
        seconds=(1_560.0, 1_620.0),
        quality=None if predicted is None else (predicted, 0.857),
    )


def equal_result() -> RunResult:
    return result(
        tuned=model_score(20, 0.17, 0.36, 104),
        better=6,
        worse=4,
        p_value=0.754,
        gain_low=-0.06,
        gain_high=0.11,
    )


def worse_result() -> RunResult:
    tuned = model_score(9, 0.06, 0.21, 104)
    return result(tuned=tuned, better=1, worse=10, p_value=0.012, gain_low=-0.2, gain_high=-0.03)


def run_summary(state: RunState = "training", **other: Any) -> RunSummary:
    planned = advised_plan(LOSES_LATER) if state == "awaiting_approval" else plan()
    summary = RunSummary(run(state), planned, TRAINING, result() if state == "done" else None, NOW)
    return replace(summary, **other)


def changed_rows(count: int) -> list[ChangedRow]:
    return [
        ChangedRow(
            f"Where is my parcel, number {n}? It was due on Monday.",
            "lost_parcel",
            "refund",
            "lost_parcel",
            n > 1,
        )
        for n in range(count)
    ]


BUDGET = Budget(limit_micros=200_000_000, committed_micros=12_500_000)
NO_BUDGET = Budget(0, 0)
APPROVALS = [Approval(7, HASH, BEN, "approve", None, NOW)]
ASK = Ask(1, ANA, "C0TICKETS", "tickets-7", "where is my parcel?", NOW)
ANSWER = Answer("lost_parcel", 104, 4, 0.412)
