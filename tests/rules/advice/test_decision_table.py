"""docs/decision-table.md, row by row: one verdict, by one rule, and no sentence that contradicts it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bot.cards.common import advice
from bot.command_parser import parse
from bot.rules import advice as advice_rules
from bot.rules.alternatives import UnmeasuredModel
from bot.rules.bills import MonthlyCost, Rates
from bot.rules.facts import Evidence, Facts, FailedCandidate, OwnMachine, RowFaults
from bot.rules.forecast import simulate
from bot.rules.judge_agreement import JudgeChecks
from bot.rules.models.promotion import best_comparison, compare_models
from bot.rules.plans import VerdictKind
from bot.rules.roi import Inputs, Quality, Training, estimate
from bot.slack import commands
from bot.values.runs import Refusal
from tests.rules.advice.worded_verdict import WordedVerdict, advise, assert_reads_well, reason, weighing_rules
from tests.rules.builders import ALL_MISS, ARTICLE, FACTS, WITH_PEOPLE, candidate, comparison
from trainers.evaluation.results import MeasuredCandidate, Pair
from trainers.providers.providers import ModelVerdict

DOCS = Path(__file__).parents[3] / "docs" / "decision-table.md"
WORDS: Mapping[VerdictKind, str] = {"go": "go", "no_go": "no", "unknown": "not decided"}
MONEY = ("cost", "payback", "net value", "people's time", "only way")

LOW = WITH_PEOPLE  # 10M input tokens a month
HIGH = replace(LOW, monthly_input_tokens=10_000_000_000)
TWICE_TODAY_S_PRICE = replace(ARTICLE.tuned, input=Decimal(5), output=Decimal(20))
EXPENSIVE = replace(HIGH, tuned=TWICE_TODAY_S_PRICE)
# Tokens at $2.20 against $2.50 today: the alternative's price soon falls below that.
HARDLY_CHEAPER = replace(
    HIGH, people_hours=Decimal(0), tuned=replace(ARTICLE.tuned, input=Decimal("2.20"), output=Decimal(9))
)
AGAINST_FREE = replace(HIGH, now=replace(ARTICLE.now, input=Decimal(0), output=Decimal(0)))
HARDLY_ANY = replace(
    ARTICLE,
    monthly_input_tokens=1_000,
    people_hours=None,
    tuned=replace(ARTICLE.tuned, input=Decimal(0), output=Decimal(0)),
    training=Training(1, 1, usd_per_hour=Decimal(0)),
)

CLASSICAL, KSHOT = candidate("classical", "meets", 182), candidate("kshot", "meets", 182)
ENCODER, OPTIMISED = candidate("encoder", "meets", 182), candidate("optimised", "meets", 182)
SLOW = replace(KSHOT, p95_s=4.0)
NO_EXAMPLES = replace(ALL_MISS[2], identity=replace(ALL_MISS[2].identity, shots=0))
UNPRICED = replace(KSHOT, usd_per_1000=None)
GOOD = candidate("tuned", "meets", 190, usd=Decimal("0.03"))
BETTER = candidate("tuned", "meets", 198, usd=Decimal("0.03"))
TIE = candidate("tuned", "meets", 184, usd=Decimal("0.03"))
# Right in as many rows as KSHOT, but in six other ones.
SWAPPED = replace(
    candidate("tuned", "meets", 182, usd=Decimal("0.03")), scores=(*(0.0,) * 6, *(1.0,) * 182, *(0.0,) * 12)
)
CLEARLY_WORSE = candidate("tuned", "meets", 178, usd=Decimal("0.03"))
CLOSE = candidate("tuned", "undecided", 176, rows_to_decide=50, usd=Decimal("0.03"))
BASE = candidate("zero", "undecided", 176, rows_to_decide=50)
WORSE = candidate("tuned", "undecided", 164, rows_to_decide=50, usd=Decimal("0.20"))
FEW = candidate("classical", "undecided", 26, 30, rows_to_decide=200)
ALL_UNDECIDED = (
    FEW,
    *(replace(miss, scores=FEW.scores, standing="undecided", rows_to_decide=200) for miss in ALL_MISS[1:]),
)
SUCCESSOR = Rates("gpt-5-nano", Decimal("0.05"), Decimal("0.40"), "a list")
CHEAP = UnmeasuredModel(
    "openai/gpt-5-nano", MonthlyCost(Decimal(1_250), Decimal(0), Decimal(0)), Decimal("0.01")
)
FREE_MACHINE = OwnMachine(None, False, False, None, has_price=False, is_free=True)
ENDED = ModelVerdict("refuse", ("gpt-4.1-nano ended on 2026-10-23.",))
CLOSED = ModelVerdict("refuse", ("Acme accepts no new jobs.",), is_closed=True)
ENDING = ModelVerdict("warn", ("gpt-4.1-nano ends on 2027-01-14.",))


def team(
    *candidates: MeasuredCandidate, inputs: Inputs | None = HIGH, pairs: tuple[Pair, ...] = (), **other: Any
) -> Facts:
    """A team that measured `candidates` and uses gpt-4o-mini today. No `inputs`: it gave no volume. `other` are fields
    of Evidence and of Facts."""
    fields = {key: other.pop(key) for key in list(other) if key in Evidence.__dataclass_fields__}
    measured = replace(comparison(*candidates), pairs=pairs) if candidates else None
    facts = replace(
        FACTS,
        **{"current": "gpt-4o-mini", "evidence": Evidence(**{"comparison": measured, **fields}), **other},
    )
    if inputs is None:
        return replace(facts, estimate=None, outlook=None)
    return replace(facts, estimate=estimate(inputs), outlook=simulate(inputs, draws=1000))


TONE: Mapping[str, Any] = {"task_kind": "style", "judge": "openai/gpt-4.1"}


def ending(successor: Rates | None) -> Rates:
    """Today's model, which ends in seven weeks."""
    named = "gpt-5-nano" if successor else None
    return replace(ARTICLE.now, ends=date(2027, 1, 14), successor=named, after_end=successor)


# A machine at $73 a month against $250 today, and against $5 once today's model has ended.
LOSES_LATER = replace(
    HARDLY_ANY,
    monthly_input_tokens=100_000_000,
    now=ending(SUCCESSOR),
    people_hours=Decimal(0),
    tuned=replace(ARTICLE.tuned, input=Decimal(0), output=Decimal(0), usd_per_hour=Decimal("0.10")),
)


def all_miss_but(good: MeasuredCandidate) -> tuple[MeasuredCandidate, ...]:
    return tuple(good if miss.kind == good.kind else miss for miss in ALL_MISS)


def judged(candidates: tuple[MeasuredCandidate, ...]) -> tuple[MeasuredCandidate, ...]:
    return tuple(replace(candidate, scoring="judge") for candidate in candidates)


def priced_errors(gained: int, lost: int) -> Quality:
    """The tuned model beside the other one on 200 rows, at half a dollar for a wrong answer."""
    return Quality(200, Decimal(gained), Decimal(lost), Decimal("0.50"))


def compared(better: MeasuredCandidate, worse: MeasuredCandidate, p: float) -> tuple[Pair, ...]:
    return (Pair(better.identity, worse.identity, better.score - worse.score, 0.01, 0.08, p),)


TABLE: dict[str, tuple[Facts, VerdictKind, str]] = {
    "the model to train has been retired": (team(*ALL_MISS, target=ENDED), "no_go", "end date"),
    "no new model is trained at the provider any more": (team(*ALL_MISS, target=CLOSED), "no_go", "closed"),
    "all rows have one label": (team(*ALL_MISS, n_labels=1), "no_go", "one label"),
    "people checked labels and found that a third are wrong": (
        team(*ALL_MISS, faults=RowFaults(doubted=400, shown=300, checked=20, found=19)),
        "no_go",
        "wrong labels",
    ),
    "a fifth of the rows contradict another": (
        team(*ALL_MISS, faults=RowFaults(contradicting=240)),
        "no_go",
        "wrong labels",
    ),
    "a classifier doubts a third of the labels, and nobody has checked them": (
        team(*ALL_MISS, faults=RowFaults(doubted=400)),
        "unknown",
        "wrong labels",
    ),
    "one label in twelve is wrong": (
        team(*ALL_MISS, faults=RowFaults(doubted=100)),
        "unknown",
        "wrong labels",
    ),
    "people disagree with the judge whose scores say that a prompt meets the bar": (
        team(
            *judged(all_miss_but(candidate("zero", "meets", 186))),
            judge="acme/sage",
            judge_checks=JudgeChecks(accepted=14, accepted_right=6, rejected=12, rejected_right=6, people=2),
        ),
        "unknown",
        "judge",
    ),
    "the same, and nobody has checked the judge, high volume": (
        team(*judged(all_miss_but(candidate("zero", "meets", 186))), judge="acme/sage"),
        "go",
        "distil",
    ),
    "the classical model meets the bar": (team(*all_miss_but(CLASSICAL)), "no_go", "cheaper rung"),
    "the classical model meets it, the tuned model is better, errors have a price": (
        team(
            *all_miss_but(CLASSICAL),
            tuned=GOOD,
            pairs=compared(GOOD, CLASSICAL, 0.01),
            inputs=replace(AGAINST_FREE, quality=priced_errors(10, 2)),
        ),
        "go",
        "fewer errors",
    ),
    "the classical model meets it, the tuned model ties, errors have a price": (
        team(
            *all_miss_but(CLASSICAL),
            tuned=TIE,
            pairs=compared(TIE, CLASSICAL, 0.6),
            inputs=replace(AGAINST_FREE, quality=priced_errors(12, 10)),
        ),
        "no_go",
        "cheaper rung",
    ),
    "the encoder meets the bar": (team(*all_miss_but(ENCODER)), "no_go", "cheaper rung"),
    "the encoder meets it, the tuned model is better, errors have a price": (
        team(
            *all_miss_but(ENCODER),
            tuned=GOOD,
            pairs=compared(GOOD, ENCODER, 0.01),
            inputs=replace(AGAINST_FREE, quality=priced_errors(10, 2)),
        ),
        "go",
        "fewer errors",
    ),
    "the encoder meets it, the tuned model ties, errors have a price": (
        team(
            *all_miss_but(ENCODER),
            tuned=TIE,
            pairs=compared(TIE, ENCODER, 0.6),
            inputs=replace(AGAINST_FREE, quality=priced_errors(12, 10)),
        ),
        "no_go",
        "cheaper rung",
    ),
    "an expensive prompted model meets it, the encoder is too close to the bar": (
        team(
            ALL_MISS[0], candidate("encoder", "undecided", 174, rows_to_decide=90), *all_miss_but(KSHOT)[2:]
        ),
        "unknown",
        "undecided",
    ),
    "the encoder is not measured": (team(ALL_MISS[0], *ALL_MISS[2:]), "unknown", "measure"),
    "answers are JSON objects, only prompts are measured, and all miss it": (
        team(*ALL_MISS[2:], smallest_label=None, has_objects=True),
        "unknown",
        "measure",
    ),
    "answers are JSON objects, the classical model gets enough of their fields right": (
        team(*all_miss_but(CLASSICAL), smallest_label=None, has_objects=True),
        "no_go",
        "cheaper rung",
    ),
    "a cheap prompted model meets it, a tuned model saves nothing": (
        team(*all_miss_but(KSHOT), inputs=replace(HIGH, now=HIGH.tuned)),
        "no_go",
        "cheaper rung",
    ),
    "an optimised prompt alone meets it, a tuned model saves nothing": (
        team(*ALL_MISS, OPTIMISED, inputs=replace(HIGH, now=HIGH.tuned)),
        "no_go",
        "cheaper rung",
    ),
    "an expensive optimised prompt alone meets it, the tuned model costs less and is not worse": (
        team(*ALL_MISS, OPTIMISED, tuned=replace(GOOD, scores=OPTIMISED.scores)),
        "go",
        "not worse",
    ),
    "examples did not help on training rows, all alternatives miss it, high volume": (
        team(ALL_MISS[0], ALL_MISS[1], NO_EXAMPLES, ALL_MISS[4]),
        "go",
        "alternatives",
    ),
    "all alternatives miss it, an optimised prompt too, high volume": (
        team(*ALL_MISS, candidate("optimised", "misses", 160)),
        "go",
        "alternatives",
    ),
    "an expensive prompted model meets it, a tuned model costs less, high volume": (
        team(*all_miss_but(KSHOT)),
        "go",
        "distil",
    ),
    "an expensive prompted model meets it, a tuned model costs less, low volume": (
        team(*all_miss_but(KSHOT), inputs=LOW),
        "no_go",
        "payback",
    ),
    "an expensive prompted model meets it, the tuned model costs less and is not worse": (
        team(*all_miss_but(KSHOT), tuned=replace(GOOD, scores=KSHOT.scores)),
        "go",
        "not worse",
    ),
    "an expensive prompted model meets it, the tuned model is not worse but too close to the bar": (
        team(*all_miss_but(KSHOT), tuned=replace(CLOSE, scores=KSHOT.scores)),
        "go",
        "not worse",
    ),
    "an expensive prompted model meets it, the tuned model meets it, costs less and may be worse": (
        team(*all_miss_but(KSHOT), tuned=SWAPPED),
        "unknown",
        "may be worse",
    ),
    "an expensive prompted model meets it, the tuned model meets it, costs less and is worse": (
        team(*all_miss_but(candidate("kshot", "meets", 196)), tuned=CLEARLY_WORSE),
        "unknown",
        "may be worse",
    ),
    "an expensive prompted model meets it, the tuned model is too close to the bar and may be worse": (
        team(*all_miss_but(KSHOT), tuned=CLOSE),
        "unknown",
        "tuned",
    ),
    "an expensive prompted model meets it, the tuned model is not worse and costs more": (
        team(*all_miss_but(KSHOT), tuned=replace(TIE, usd_per_1000=Decimal("0.50"))),
        "no_go",
        "cheaper rung",
    ),
    "an expensive prompted model meets it, the tuned model costs less and misses it": (
        team(*all_miss_but(KSHOT), tuned=candidate("tuned", "misses", 150, usd=Decimal("0.03"))),
        "no_go",
        "tuned",
    ),
    "a prompted model meets it, its price is unknown": (
        team(*all_miss_but(UNPRICED)),
        "unknown",
        "cheaper rung",
    ),
    "speed is the goal, a slow prompt meets it, no tuned model is measured": (
        team(*all_miss_but(SLOW), task_kind="latency"),
        "unknown",
        "latency",
    ),
    "speed is the goal, a slow prompt meets it, the tuned model is twice as fast and costs more": (
        team(*all_miss_but(SLOW), task_kind="latency", tuned=GOOD, inputs=EXPENSIVE),
        "go",
        "distil",
    ),
    "speed is the goal, a slow prompt meets it, the tuned model is hardly faster": (
        team(*all_miss_but(SLOW), task_kind="latency", tuned=replace(GOOD, p95_s=3.0)),
        "no_go",
        "cheaper rung",
    ),
    "better answers are the goal, the classical model meets it": (
        team(*all_miss_but(CLASSICAL), task_kind="quality", inputs=None),
        "no_go",
        "cheaper rung",
    ),
    "a tone is the goal, a prompted model meets it, the tuned model is better and costs more": (
        team(*judged(all_miss_but(KSHOT)), **TONE, tuned=judged((BETTER,))[0], inputs=EXPENSIVE),
        "go",
        "fewer errors",
    ),
    "a tone is the goal, a prompted model meets it, the tuned model ties and costs less": (
        team(*judged(all_miss_but(KSHOT)), **TONE, tuned=judged((TIE,))[0]),
        "no_go",
        "cheaper rung",
    ),
    "a tone is the goal, all alternatives miss it, a tuned model costs more": (
        team(*judged(ALL_MISS), **TONE, inputs=EXPENSIVE),
        "go",
        "alternatives",
    ),
    "a tone is the goal, no judge has scored, all alternatives miss it, a tuned model costs more": (
        team(*ALL_MISS, task_kind="style", inputs=EXPENSIVE),
        "no_go",
        "cost",
    ),
    "better answers are the goal, the classical model meets it, the first tuned model is better": (
        team(*all_miss_but(CLASSICAL), task_kind="quality", tuned=BETTER),
        "go",
        "fewer errors",
    ),
    "better answers are the goal, the classical model meets it, the 20th tuned model is as much better": (
        team(*all_miss_but(CLASSICAL), task_kind="quality", tuned=BETTER, tuned_look=20),
        "no_go",
        "cheaper rung",
    ),
    "nothing is measured": (team(), "unknown", "measure"),
    "one alternative is not measured": (team(*ALL_MISS[:4]), "unknown", "measure"),
    "today's model is not measured": (
        team(*ALL_MISS, inputs=replace(HIGH, people_hours=Decimal(0)), current="gpt-4o"),
        "unknown",
        "today's model",
    ),
    "a provider answered nothing by retrieval, all others miss it": (
        team(*ALL_MISS[:4], replace(ALL_MISS[4], empty=ALL_MISS[4].n)),
        "unknown",
        "no answer",
    ),
    "retrieval could not be measured, all others miss it": (
        team(*ALL_MISS[:4], failed=(FailedCandidate(ALL_MISS[4].identity, "The provider refuses it."),)),
        "unknown",
        "not measurable",
    ),
    "the holdout is too small to tell": (team(*ALL_UNDECIDED, n_holdout=30), "unknown", "undecided"),
    "the best alternative is too close to the bar, and there are 945 rows": (
        team(*ALL_MISS[:4], candidate("retrieval", "undecided", 172, rows_to_decide=500), rows=945),
        "unknown",
        "undecided",
    ),
    "today's model is not measured and has no key here, the speed of your free machine is unknown": (
        team(
            *ALL_MISS,
            current="gpt-4o",
            to_measure=("openai/gpt-4o",),
            providers_without_key=(("openai", "OPENAI_API_KEY"),),
            machine=FREE_MACHINE,
            inputs=replace(HIGH, people_hours=Decimal(0)),
        ),
        "unknown",
        "today's model",
    ),
    "all alternatives miss it, your machine costs $2 an hour and its speed is unknown": (
        team(*ALL_MISS, machine=replace(FREE_MACHINE, is_free=False, has_price=True)),
        "unknown",
        "machine",
    ),
    "all alternatives miss it, a vendor serves it by the hour on a machine of unknown speed": (
        team(*ALL_MISS, is_vendor_speed_unknown=True),
        "unknown",
        "machine",
    ),
    "all alternatives miss it by far, as the bar is 99%": (
        team(*(replace(miss, standing="misses") for miss in ALL_MISS), bar=0.99),
        "go",
        "alternatives",
    ),
    "all alternatives miss it, 15 labels have fewer than ten rows": (
        team(*ALL_MISS, few_labels=tuple((f"label {place}", 4) for place in range(15)), smallest_label=4),
        "go",
        "alternatives",
    ),
    "the task needs facts": (team(*ALL_MISS[:4], task_kind="knowledge"), "no_go", "knowledge"),
    "the task needs reasoning": (team(*ALL_MISS, task_kind="reasoning"), "no_go", "reasoning"),
    "fewer than 200 rows": (team(*ALL_MISS, rows=150), "no_go", "rows"),
    "many rows, fewer than 200 questions": (team(*ALL_MISS, faults=RowFaults(copies=1080)), "no_go", "rows"),
    "500 rows of free text, no task is given": (
        team(*ALL_MISS[2:], rows=500, smallest_label=None),
        "unknown",
        "rows",
    ),
    "500 rows for a style that prompts almost reach": (
        team(
            *ALL_MISS[2:4],
            candidate("retrieval", "misses", 164),
            rows=500,
            smallest_label=None,
            task_kind="style",
        ),
        "go",
        "alternatives",
    ),
    "the free alternatives miss it, no prompt's answers could be read": (
        team(
            *ALL_MISS[:2],
            *(candidate(name, "misses", 2, unread=190) for name in ("zero", "kshot", "retrieval")),
        ),
        "unknown",
        "unread",
    ),
    "every prompt would meet it if its unreadable answers were right": (
        team(
            *ALL_MISS[:2],
            *(candidate(name, "misses", 90, unread=95) for name in ("zero", "kshot", "retrieval")),
        ),
        "unknown",
        "unread",
    ),
    "all alternatives miss it, high volume": (team(*ALL_MISS), "go", "alternatives"),
    "the same, and a newer version stored another measurement": (
        team(*ALL_MISS, left_out=(7,)),
        "go",
        "alternatives",
    ),
    "all alternatives miss it, low volume": (team(*ALL_MISS, inputs=LOW), "no_go", "payback"),
    "all alternatives miss it, training is free, hardly any volume": (
        team(*ALL_MISS, inputs=HARDLY_ANY),
        "no_go",
        "people's time",
    ),
    "all alternatives miss it, a tuned model costs more": (
        team(*ALL_MISS, inputs=EXPENSIVE),
        "no_go",
        "cost",
    ),
    "all alternatives miss it, no volume is given": (team(*ALL_MISS, inputs=None), "unknown", "cost"),
    "all alternatives miss it, the tuned model is retired before it pays back": (
        team(*ALL_MISS, target=ENDING, inputs=replace(LOW, ends=date(2027, 1, 14))),
        "no_go",
        "payback",
    ),
    "all alternatives miss it, the tuned model is retired after it pays back": (
        team(*ALL_MISS, target=ENDING, inputs=replace(HIGH, ends=date(2027, 1, 14))),
        "go",
        "alternatives",
    ),
    "all alternatives miss it, today's model will be retired, its successor is not measured": (
        team(*ALL_MISS, inputs=replace(HIGH, now=ending(SUCCESSOR))),
        "unknown",
        "successor",
    ),
    "all alternatives miss it, today's model will be retired, no successor is known, it saves enough until then": (
        team(*ALL_MISS, inputs=replace(HIGH, now=ending(None))),
        "go",
        "alternatives",
    ),
    "all alternatives miss it, today's model will be retired, no successor is known, it saves too little until then": (
        team(*ALL_MISS, inputs=replace(LOW, now=ending(None))),
        "no_go",
        "payback",
    ),
    "all alternatives miss it, today's model and the tuned one are retired on the same day": (
        team(*ALL_MISS, inputs=replace(HIGH, now=ending(SUCCESSOR), ends=date(2027, 1, 14))),
        "unknown",
        "successor",
    ),
    "all alternatives miss it, it saves at first and costs more than the successor of today's model later": (
        team(*ALL_MISS, inputs=LOSES_LATER),
        "no_go",
        "net value",
    ),
    "all alternatives miss it, the same, and one alternative is not measured": (
        team(*ALL_MISS[:4], inputs=LOSES_LATER),
        "no_go",
        "net value",
    ),
    "all alternatives miss it, falling prices may turn the saving into a loss": (
        team(*ALL_MISS, inputs=HARDLY_CHEAPER),
        "unknown",
        "net value",
    ),
    "all alternatives miss it, a model at a twentieth of today's cost is not measured": (
        team(*ALL_MISS, offered=CHEAP),
        "unknown",
        "cheap model",
    ),
    "an expensive prompted model meets it, a model at a twentieth of its cost is not measured": (
        team(*all_miss_but(KSHOT), offered=CHEAP),
        "unknown",
        "cheap model",
    ),
    "all alternatives miss it, an unmeasured model would take a tenth of the saving": (
        team(*ALL_MISS, offered=replace(CHEAP, monthly=MonthlyCost(Decimal(23_000), Decimal(0), Decimal(0)))),
        "go",
        "alternatives",
    ),
    "all alternatives miss it, better answers are the goal": (
        team(*ALL_MISS, task_kind="quality", inputs=EXPENSIVE),
        "go",
        "alternatives",
    ),
    "the tuned model misses it": (team(*ALL_MISS, tuned=candidate("tuned", "misses", 150)), "no_go", "tuned"),
    "the tuned model is worse than its base prompted, which costs no more": (
        team(*all_miss_but(BASE), tuned=WORSE, pairs=compared(BASE, WORSE, 0.01)),
        "no_go",
        "worse",
    ),
    "the tuned model is too close to the bar": (
        team(*ALL_MISS, tuned=candidate("tuned", "undecided", 174, rows_to_decide=90)),
        "unknown",
        "tuned",
    ),
    "the tuned model alone meets it, and saves": (team(*ALL_MISS, tuned=GOOD), "go", "alternatives"),
    "the tuned model alone meets it, and costs more": (
        team(*ALL_MISS, tuned=GOOD, inputs=EXPENSIVE),
        "unknown",
        "only way",
    ),
    "the tuned model alone meets it, and costs more than its fewer errors are worth": (
        team(
            *ALL_MISS,
            tuned=GOOD,
            inputs=replace(EXPENSIVE, quality=replace(priced_errors(20, 2), usd_per_wrong=Decimal("0.001"))),
        ),
        "no_go",
        "cost",
    ),
}


@pytest.mark.parametrize("row", TABLE)
def test_each_row_has_its_verdict_by_its_rule_without_contradictions(row: str) -> None:
    facts, kind, rule = TABLE[row]
    verdict = advise(facts)
    assert (verdict.kind, verdict.rule) == (kind, rule), verdict
    assert rule in weighing_rules(verdict, kind)
    assert contradictions(verdict) == []
    assert_reads_well(verdict)
    assert_accepts(verdict.next_step)


def assert_accepts(step: str) -> None:
    """Each command and option that a next step names exists."""
    for line in re.findall(r"`/finetune ([^`]+)`", step):
        assert not isinstance(parse(commands.finetune, line), Refusal), line
    for option in re.findall(r"(\w+)=", re.sub("`[^`]+`", "", step)):
        assert option in (*commands.estimate.options, *commands.measure_baseline.options)


def test_the_table_in_the_docs_is_the_same() -> None:
    rows = re.findall(
        r"^\| (?P<row>[^|]+) \| (?P<word>go|no|not decided) \| [^|]+ \|$", DOCS.read_text(), re.MULTILINE
    )
    assert rows == [(row, WORDS[kind]) for row, (_, kind, _) in TABLE.items()]


@pytest.mark.parametrize(
    ("row", "next_step"),
    [
        (
            "an expensive prompted model meets it, the tuned model meets it, costs less and may be worse",
            "Hold out about 390 more labelled rows, a fifth of about 2,000 new ones: if the tuned model is as good as "
            "the prompt with ten examples on openai/gpt-4o-mini, that shows it in four of five cases.",
        ),
        (
            "an expensive prompted model meets it, the tuned model meets it, costs less and is worse",
            "More held-out rows are unlikely to settle this. Stay with what you have, or deploy the tuned model "
            "anyway: that asks for your reason.",
        ),
    ],
)
def test_a_cheaper_model_that_may_be_worse_has_a_next_step(row: str, next_step: str) -> None:
    assert advise(TABLE[row][0]).next_step == next_step


@pytest.mark.parametrize("row", [row for row, (_, kind, _) in TABLE.items() if kind == "go"])
def test_no_promotion_objects_to_a_tuned_model_with_a_go(row: str) -> None:
    evidence = TABLE[row][0].evidence
    tuned = evidence.trained
    if tuned is None:
        return
    comparisons = [
        compare_models("", tuned.scores, other.scores, tuned.usd_per_1000, other.usd_per_1000)
        for other in evidence.alternatives
    ]
    best = best_comparison(comparisons, evidence.margin)
    assert best is None or best.is_enough(evidence.margin)


def test_an_optimised_prompt_that_meets_the_bar_is_called_enough() -> None:
    verdict = advise(TABLE["an optimised prompt alone meets it, a tuned model saves nothing"][0])
    assert reason(verdict, "cheaper rung").text.startswith(
        "A better prompt was enough: the optimised prompt on openai/gpt-4o-mini meets"
    )


@pytest.mark.parametrize(
    ("row", "note"),
    [
        (
            "all alternatives miss it by far, as the bar is 99%",
            "• *Note*: The bar of 99% is far above every alternative: the best gets 78% right, so a tuned model would "
            "have to avoid most of its errors.",
        ),
        (
            "all alternatives miss it, 15 labels have fewer than ten rows",
            "• *Note*: 15 labels have fewer than 10 rows: too few to learn or to measure.",
        ),
        (
            "the same, and a newer version stored another measurement",
            "• *Note*: m7 isn't counted, as a newer version of the bot stored it: start that version to count it.",
        ),
    ],
)
def test_the_card_says_what_a_go_leaves_open(row: str, note: str) -> None:
    verdict = advice_rules.advise(TABLE[row][0])
    assert note in advice.main_reasons(verdict)


def test_enough_rows_are_not_enough_for_rare_labels() -> None:
    verdict = advise(TABLE["all alternatives miss it, 15 labels have fewer than ten rows"][0])
    assert reason(verdict, "rows").text == (
        "1,200 rows are enough to fine-tune with, but not for the 15 labels that have fewer than 10."
    )


def test_a_faster_model_that_costs_more_is_not_said_to_pay() -> None:
    faster = "speed is the goal, a slow prompt meets it, the tuned model is twice as fast and costs more"
    assert advise(TABLE[faster][0]).headline == "Go: the tuned model is good enough."


def contradictions(verdict: WordedVerdict) -> list[str]:
    """Sentences that argue for what the verdict refuses, or against what it allows."""
    against = [reason.text for reason in verdict.reasons if reason.kind == "no_go"]
    if verdict.kind == "go":
        return against + weighing_rules(verdict, "unknown")
    if verdict.kind == "unknown":
        return against + ["withheld"] * (verdict.withheld is not None)
    if verdict.rule in MONEY:
        return [reason.text for reason in verdict.reasons if reason.rule in MONEY and reason.kind == "go"]
    texts = [verdict.headline, verdict.next_step, *(reason.text for reason in verdict.reasons)]
    savings = [text for text in texts if re.search(r"\bsaves?\b|pays? back|of draws|[Ss]tart a run", text)]
    return savings + ["savings are shown"] * (verdict.withheld is None)
