"""The decision table of docs/decision-table.md, row by row: one verdict, by one rule, and no word that speaks
against it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bot.command_parser import parse
from bot.rules.bills import Rates
from bot.rules.facts import Evidence, Facts, RowFaults
from bot.rules.forecast import simulate
from bot.rules.plans import VerdictKind
from bot.rules.roi import Inputs, Quality, Training, estimate
from bot.slack import commands
from bot.values.runs import Refusal
from tests.rules.builders import ALL_MISS, ARTICLE, FACTS, ladder, rung
from tests.rules.worded_verdict import Worded, advise
from trainers.evaluation.results import Pair, Rung
from trainers.providers import ModelVerdict

DOCS = Path(__file__).parents[2] / "docs" / "decision-table.md"
WORDS: Mapping[VerdictKind, str] = {"go": "go", "no_go": "no", "unknown": "not decided"}
MONEY = ("cost", "payback", "net value", "people's time", "only way")

PEOPLE = {"people_hours": Decimal(50), "people_usd_per_hour": Decimal(100)}
LOW = replace(ARTICLE, **PEOPLE)  # 10M input tokens a month
HIGH = replace(LOW, monthly_input_tokens=10_000_000_000)
DEAR = replace(
    HIGH, tuned=replace(ARTICLE.tuned, input=Decimal(5), output=Decimal(20))
)  # twice today's price
FREE = replace(
    HIGH, now=replace(ARTICLE.now, input=Decimal(0), output=Decimal(0))
)  # against the classical model

NEXT_TO_NOTHING = replace(
    ARTICLE,
    monthly_input_tokens=1_000,
    people_hours=None,
    tuned=replace(ARTICLE.tuned, input=Decimal(0), output=Decimal(0)),
    training=Training(1, 1, usd_per_hour=Decimal(0)),
)

CLASSICAL, KSHOT = rung("classical", "meets", 182), rung("kshot", "meets", 182)
ENCODER, OPTIMISED = rung("encoder", "meets", 182), rung("optimised", "meets", 182)
SLOW = replace(KSHOT, p95_s=4.0)
NO_EXAMPLES = replace(ALL_MISS[2], arm=replace(ALL_MISS[2].arm, shots=0))
UNPRICED = replace(KSHOT, usd_per_1000=None)
GOOD = rung("tuned", "meets", 190, usd=Decimal("0.03"))
TIE = rung("tuned", "meets", 184, usd=Decimal("0.03"))
CLOSE = rung("tuned", "undecided", 176, rows_to_decide=50, usd=Decimal("0.03"))
BASE = rung("zero", "undecided", 176, rows_to_decide=50)
WORSE = rung("tuned", "undecided", 164, rows_to_decide=50, usd=Decimal("0.20"))
FEW = rung("classical", "undecided", 26, 30, rows_to_decide=200)
HELD_OUT_FEW = (
    FEW,
    *(replace(one, scores=FEW.scores, standing="undecided", rows_to_decide=200) for one in ALL_MISS[1:]),
)
SUCCESSOR = Rates("gpt-5-nano", Decimal("0.05"), Decimal("0.40"), "a list")
ENDED = ModelVerdict("refuse", ("gpt-4.1-nano ended on 2026-10-23.",))
ENDING = ModelVerdict("warn", ("gpt-4.1-nano ends on 2027-01-14.",))


def team(*rungs: Rung, sums: Inputs | None = HIGH, pairs: tuple[Pair, ...] = (), **other: Any) -> Facts:
    """That measured `rungs` and asks gpt-4o-mini today. `sums` None: nobody said a volume. `other` are fields of
    Evidence and Facts."""
    seen = {key: other.pop(key) for key in list(other) if key in Evidence.__dataclass_fields__}
    measured = replace(ladder(*rungs), pairs=pairs) if rungs else None
    other = {"current": "gpt-4o-mini", "evidence": Evidence(**{"ladder": measured, **seen}), **other}
    facts = replace(FACTS, **other)
    made, drawn = (estimate(sums), simulate(sums, draws=1000)) if sums else (None, None)
    return replace(facts, estimate=made, outlook=drawn)


def ending(successor: Rates | None) -> Rates:
    """Today's model, which ends in seven weeks."""
    named = "gpt-5-nano" if successor else None
    return replace(ARTICLE.now, ends=date(2027, 1, 14), successor=named, after_end=successor)


def instead(one: Rung) -> tuple[Rung, ...]:
    """All miss but this one."""
    return tuple(one if miss.arm.rung == one.arm.rung else miss for miss in ALL_MISS)


def worth(gained: int, lost: int) -> Quality:
    """The tuned model against the other on 200 rows, at half a dollar for a wrong answer."""
    return Quality(200, Decimal(gained), Decimal(lost), Decimal("0.50"))


def told(better: Rung, worse: Rung, p: float) -> tuple[Pair, ...]:
    return (Pair(better.arm, worse.arm, better.score - worse.score, 0.01, 0.08, p),)


TABLE: dict[str, tuple[Facts, VerdictKind, str]] = {
    "the model to train has been retired": (team(*ALL_MISS, target=ENDED), "no_go", "end date"),
    "all rows have one label": (team(*ALL_MISS, n_labels=1), "no_go", "one label"),
    "a third of the labels are wrong": (
        team(*ALL_MISS, faults=RowFaults(doubted=400)),
        "no_go",
        "wrong labels",
    ),
    "a fifth of the rows contradict another": (
        team(*ALL_MISS, faults=RowFaults(contradicting=240)),
        "no_go",
        "wrong labels",
    ),
    "one label in twelve is wrong": (
        team(*ALL_MISS, faults=RowFaults(doubted=100)),
        "unknown",
        "wrong labels",
    ),
    "the classical model meets the bar": (team(*instead(CLASSICAL)), "no_go", "cheaper rung"),
    "the classical model meets it, the tuned model is better, errors have a price": (
        team(
            *instead(CLASSICAL),
            tuned=GOOD,
            pairs=told(GOOD, CLASSICAL, 0.01),
            sums=replace(FREE, quality=worth(10, 2)),
        ),
        "go",
        "fewer errors",
    ),
    "the classical model meets it, the tuned model ties, errors have a price": (
        team(
            *instead(CLASSICAL),
            tuned=TIE,
            pairs=told(TIE, CLASSICAL, 0.6),
            sums=replace(FREE, quality=worth(12, 10)),
        ),
        "no_go",
        "cheaper rung",
    ),
    "the encoder meets the bar": (team(*instead(ENCODER)), "no_go", "cheaper rung"),
    "the encoder meets it, the tuned model is better, errors have a price": (
        team(
            *instead(ENCODER),
            tuned=GOOD,
            pairs=told(GOOD, ENCODER, 0.01),
            sums=replace(FREE, quality=worth(10, 2)),
        ),
        "go",
        "fewer errors",
    ),
    "the encoder meets it, the tuned model ties, errors have a price": (
        team(
            *instead(ENCODER),
            tuned=TIE,
            pairs=told(TIE, ENCODER, 0.6),
            sums=replace(FREE, quality=worth(12, 10)),
        ),
        "no_go",
        "cheaper rung",
    ),
    "an expensive prompted model meets it, the encoder is too close to the bar": (
        team(ALL_MISS[0], rung("encoder", "undecided", 174, rows_to_decide=90), *instead(KSHOT)[2:]),
        "unknown",
        "undecided",
    ),
    "the encoder is not measured": (team(ALL_MISS[0], *ALL_MISS[2:]), "unknown", "measure"),
    "a cheap prompted model meets it, a tuned model saves nothing": (
        team(*instead(KSHOT), sums=replace(HIGH, now=HIGH.tuned)),
        "no_go",
        "cheaper rung",
    ),
    "an optimised prompt alone meets it, a tuned model saves nothing": (
        team(*ALL_MISS, OPTIMISED, sums=replace(HIGH, now=HIGH.tuned)),
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
        team(*ALL_MISS, rung("optimised", "misses", 160)),
        "go",
        "alternatives",
    ),
    "an expensive prompted model meets it, a tuned model costs less, high volume": (
        team(*instead(KSHOT)),
        "go",
        "distil",
    ),
    "an expensive prompted model meets it, a tuned model costs less, low volume": (
        team(*instead(KSHOT), sums=LOW),
        "no_go",
        "payback",
    ),
    "an expensive prompted model meets it, the tuned model costs less and is not worse": (
        team(*instead(KSHOT), tuned=GOOD),
        "go",
        "not worse",
    ),
    "an expensive prompted model meets it, the tuned model is not worse but too close to the bar": (
        team(*instead(KSHOT), tuned=replace(CLOSE, scores=KSHOT.scores)),
        "go",
        "not worse",
    ),
    "an expensive prompted model meets it, the tuned model is too close to the bar and may be worse": (
        team(*instead(KSHOT), tuned=CLOSE),
        "unknown",
        "tuned",
    ),
    "an expensive prompted model meets it, the tuned model is not worse and costs more": (
        team(*instead(KSHOT), tuned=replace(TIE, usd_per_1000=Decimal("0.50"))),
        "no_go",
        "cheaper rung",
    ),
    "an expensive prompted model meets it, the tuned model costs less and misses it": (
        team(*instead(KSHOT), tuned=rung("tuned", "misses", 150, usd=Decimal("0.03"))),
        "no_go",
        "tuned",
    ),
    "a prompted model meets it, its price is unknown": (
        team(*instead(UNPRICED)),
        "unknown",
        "cheaper rung",
    ),
    "speed is the goal, a slow prompt meets it, no tuned model is measured": (
        team(*instead(SLOW), task_kind="latency"),
        "unknown",
        "latency",
    ),
    "speed is the goal, a slow prompt meets it, the tuned model is twice as fast and costs more": (
        team(*instead(SLOW), task_kind="latency", tuned=GOOD, sums=DEAR),
        "go",
        "distil",
    ),
    "speed is the goal, a slow prompt meets it, the tuned model is hardly faster": (
        team(*instead(SLOW), task_kind="latency", tuned=replace(GOOD, p95_s=3.0)),
        "no_go",
        "cheaper rung",
    ),
    "better answers are the goal, the classical model meets it": (
        team(*instead(CLASSICAL), task_kind="quality", sums=None),
        "no_go",
        "cheaper rung",
    ),
    "nothing is measured": (team(), "unknown", "measure"),
    "one alternative is not measured": (team(*ALL_MISS[:4]), "unknown", "measure"),
    "today's model is not measured": (
        team(*ALL_MISS, sums=replace(HIGH, people_hours=Decimal(0)), current="gpt-4o"),
        "unknown",
        "today's model",
    ),
    "the bar was changed after measuring": (team(*ALL_MISS, bar=0.75), "unknown", "bar"),
    "the holdout is too small to tell": (team(*HELD_OUT_FEW, n_holdout=30), "unknown", "undecided"),
    "the task needs facts": (team(*ALL_MISS[:4], task_kind="knowledge"), "no_go", "knowledge"),
    "the task needs reasoning": (team(*ALL_MISS, task_kind="reasoning"), "no_go", "reasoning"),
    "fewer than 200 rows": (team(*ALL_MISS, rows=150), "no_go", "rows"),
    "many rows, fewer than 200 questions": (
        team(*ALL_MISS, faults=RowFaults(copies=1080)),
        "no_go",
        "rows",
    ),
    "500 rows of free text, no task is given": (
        team(*ALL_MISS[2:], rows=500, smallest_label=None),
        "unknown",
        "rows",
    ),
    "500 rows for a style that prompts almost reach": (
        team(
            *ALL_MISS[2:4], rung("retrieval", "misses", 164), rows=500, smallest_label=None, task_kind="style"
        ),
        "go",
        "alternatives",
    ),
    "the free alternatives miss it, no prompt's answers could be read": (
        team(
            *ALL_MISS[:2], *(rung(name, "misses", 2, unread=190) for name in ("zero", "kshot", "retrieval"))
        ),
        "unknown",
        "unread",
    ),
    "all alternatives miss it, high volume": (team(*ALL_MISS), "go", "alternatives"),
    "all alternatives miss it, low volume": (team(*ALL_MISS, sums=LOW), "no_go", "payback"),
    "all alternatives miss it, training is free, hardly any volume": (
        team(*ALL_MISS, sums=NEXT_TO_NOTHING),
        "no_go",
        "people's time",
    ),
    "all alternatives miss it, a tuned model costs more": (team(*ALL_MISS, sums=DEAR), "no_go", "cost"),
    "all alternatives miss it, no volume is given": (team(*ALL_MISS, sums=None), "unknown", "cost"),
    "all alternatives miss it, the tuned model is retired before it pays back": (
        team(*ALL_MISS, target=ENDING, sums=replace(LOW, ends=date(2027, 1, 14))),
        "no_go",
        "payback",
    ),
    "all alternatives miss it, the tuned model is retired after it pays back": (
        team(*ALL_MISS, target=ENDING, sums=replace(HIGH, ends=date(2027, 1, 14))),
        "go",
        "alternatives",
    ),
    "all alternatives miss it, today's model will be retired, its successor is not measured": (
        team(*ALL_MISS, sums=replace(HIGH, now=ending(SUCCESSOR))),
        "unknown",
        "successor",
    ),
    "all alternatives miss it, today's model will be retired, no successor is known, it saves enough until then": (
        team(*ALL_MISS, sums=replace(HIGH, now=ending(None))),
        "go",
        "alternatives",
    ),
    "all alternatives miss it, today's model will be retired, no successor is known, it saves too little until then": (
        team(*ALL_MISS, sums=replace(LOW, now=ending(None))),
        "no_go",
        "cost",
    ),
    "all alternatives miss it, better answers are the goal": (
        team(*ALL_MISS, task_kind="quality", sums=DEAR),
        "go",
        "alternatives",
    ),
    "the tuned model misses it": (team(*ALL_MISS, tuned=rung("tuned", "misses", 150)), "no_go", "tuned"),
    "the tuned model is worse than its base prompted, which costs no more": (
        team(*instead(BASE), tuned=WORSE, pairs=told(BASE, WORSE, 0.01)),
        "no_go",
        "worse",
    ),
    "the tuned model is too close to the bar": (
        team(*ALL_MISS, tuned=rung("tuned", "undecided", 174, rows_to_decide=90)),
        "unknown",
        "tuned",
    ),
    "the tuned model alone meets it, and saves": (team(*ALL_MISS, tuned=GOOD), "go", "alternatives"),
    "the tuned model alone meets it, and costs more": (
        team(*ALL_MISS, tuned=GOOD, sums=DEAR),
        "unknown",
        "only way",
    ),
    "the tuned model alone meets it, and costs more than its fewer errors are worth": (
        team(
            *ALL_MISS,
            tuned=GOOD,
            sums=replace(DEAR, quality=replace(worth(20, 2), usd_per_wrong=Decimal("0.001"))),
        ),
        "no_go",
        "cost",
    ),
}


@pytest.mark.parametrize("row", TABLE)
def test_each_row_has_one_verdict_by_one_rule(row: str) -> None:
    facts, kind, rule = TABLE[row]
    verdict = advise(facts)
    assert (verdict.kind, verdict.rule) == (kind, rule), verdict


@pytest.mark.parametrize("row", TABLE)
def test_no_word_of_a_verdict_speaks_against_it(row: str) -> None:
    verdict = advise(TABLE[row][0])
    deciding = [one for one in verdict.reasons if one.rule == verdict.rule and one.kind == verdict.kind]
    assert deciding and deciding[0].weighs
    assert contradicting(verdict) == []


@pytest.mark.parametrize("row", TABLE)
def test_what_a_next_step_names_is_not_refused(row: str) -> None:
    step = advise(TABLE[row][0]).next_step
    for typed in re.findall(r"`/finetune ([^`]+)`", step):
        assert not isinstance(parse(commands.finetune, typed), Refusal), typed
    for option in re.findall(r"(\w+)=", re.sub("`[^`]+`", "", step)):
        assert option in (*commands.estimate.options, *commands.measure_baseline.options)


def test_the_table_in_the_docs_is_this_one() -> None:
    rows = re.findall(
        r"^\| (?P<row>[^|]+) \| (?P<word>go|no|not decided) \| [^|]+ \|$", DOCS.read_text(), re.MULTILINE
    )
    assert rows == [(row, WORDS[kind]) for row, (_, kind, _) in TABLE.items()]


def test_a_better_prompt_was_enough() -> None:
    verdict = advise(TABLE["an optimised prompt alone meets it, a tuned model saves nothing"][0])
    deciding = next(one for one in verdict.reasons if one.rule == "cheaper rung")
    assert deciding.text.startswith(
        "A better prompt was enough: the optimised prompt on openai/gpt-4o-mini meets"
    )


def test_a_dearer_model_is_not_said_to_pay() -> None:
    faster = "speed is the goal, a slow prompt meets it, the tuned model is twice as fast and costs more"
    assert advise(TABLE[faster][0]).headline == "Go: the tuned model is good enough."


def contradicting(verdict: Worded) -> list[str]:
    """Sentences that argue for what the verdict refuses, or against what it allows."""
    if verdict.kind == "go":
        return [
            one.text
            for one in verdict.reasons
            if one.kind == "no_go" or (one.weighs and one.kind == "unknown")
        ]
    if verdict.kind == "unknown":
        return ["withheld"] * (verdict.withheld is not None) + [
            one.text for one in verdict.reasons if one.kind == "no_go"
        ]
    said = [verdict.headline, verdict.next_step, *(one.text for one in verdict.reasons)]
    if verdict.rule in MONEY:
        return [one.text for one in verdict.reasons if one.rule in MONEY and one.kind == "go"]
    refused = [text for text in said if re.search(r"\bsaves?\b|pays? back|of draws|[Ss]tart a run", text)]
    return refused + ["savings are shown"] * (verdict.withheld is None)
