"""The verdict: every situation that a team can be in, what is said, and by which rule."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.cards.advice import todo_text
from bot.cards.payback import share_of_draws
from bot.rules import advice as verdicts
from bot.rules.bills import Rates
from bot.rules.facts import TASK_KINDS, Evidence, Facts, TaskKind
from bot.rules.fit import min_holdout_rows
from bot.rules.forecast import Quantiles, rank_swings, simulate
from bot.rules.plans import VerdictKind
from bot.rules.prices import MissingPrice
from bot.rules.reasons import PinDown
from bot.rules.roi import Inputs, Succession, Training, estimate
from tests.rules.builders import ALL_MISS, ARTICLE, FACTS, MINI, ladder, outlook, rung
from tests.rules.worded_verdict import Worded, WordedReason, advise
from trainers.evaluation.results import (
    Candidate,
    Curve,
    CurvePoint,
    LabelNeed,
    Pair,
    Prediction,
    Rung,
    Standing,
)
from trainers.pricing import PriceRow
from trainers.providers import ModelVerdict
from trainers.types import Price

LIKELY, OPEN, UNLIKELY = outlook(0.93), outlook(0.5), outlook(0.07)
LOSES_LATER = Quantiles(Decimal(-900), Decimal(-400), Decimal(120))
CLASSICAL_MEETS = rung("classical", "meets", 182)
KSHOT_MEETS = rung("kshot", "meets", 182)
TUNED_MEETS = rung("tuned", "meets", 186, usd=Decimal("0.03"))
REFUSED = ModelVerdict("refuse", ("gpt-4.1-nano ended on 2026-10-23.", "Models of your own don't end."))
ORDER: dict[VerdictKind, int] = {"no_go": 0, "unknown": 1, "go": 2}


def seen(*rungs: Rung, **other: object) -> Facts:
    """With a ladder of these rungs; `other` are fields of Facts and Evidence."""
    ours = {key: value for key, value in other.items() if key in Evidence.__dataclass_fields__}
    facts = {key: value for key, value in other.items() if key not in ours}
    evidence = replace(Evidence(ladder=ladder(*rungs)), **ours)  # type: ignore[arg-type]
    return replace(FACTS, **{"outlook": LIKELY, "evidence": evidence, **facts})  # type: ignore[arg-type]


def costing(inputs: Inputs) -> Facts:
    made = estimate(inputs)
    return replace(FACTS, run_usd=made.training_usd, estimate=made)


def reason(verdict: Worded, rule: str) -> WordedReason:
    return next(one for one in verdict.reasons if one.rule == rule)


def rules(verdict: Worded, kind: VerdictKind) -> list[str]:
    return [one.rule for one in verdict.reasons if one.kind == kind and one.weighs]


CURVE = Curve(
    dataset="tickets",
    version=1,
    holdout_sha256="ab" * 32,
    arm=Candidate("classical"),
    points=(CurvePoint(300, 0.6, (0.6, 0.6)),),
    a=0.05,
    b=2.0,
    c=0.4,
    predicted=(Prediction(2000, 0.82, 0.8, 0.84), Prediction(4000, 0.88, 0.85, 0.9)),
    points_per_100=0.4,
    needs=(LabelNeed("refund", 12, 4, 1),),
)

SITUATIONS: dict[str, tuple[Facts, VerdictKind, str]] = {
    # the article's ladder
    "nothing measured": (FACTS, "unknown", "measure"),
    "everything misses, enough rows, it pays": (seen(*ALL_MISS), "go", "alternatives"),
    "the classical model is good enough": (seen(CLASSICAL_MEETS, *ALL_MISS[1:]), "no_go", "cheaper rung"),
    "only the classical model was measured, and is good enough": (
        seen(CLASSICAL_MEETS),
        "no_go",
        "cheaper rung",
    ),
    "a prompt is good enough and a tuned model saves nothing": (
        replace(
            seen(*ALL_MISS[:3], KSHOT_MEETS, ALL_MISS[4]),
            estimate=estimate(replace(ARTICLE, now=ARTICLE.tuned)),
        ),
        "no_go",
        "cheaper rung",
    ),
    "a prompt is good enough, and nobody said a volume": (
        seen(*ALL_MISS[:3], KSHOT_MEETS, estimate=None, outlook=None),
        "no_go",
        "cheaper rung",
    ),
    "a dear prompt is good enough, and cost is why they ask": (
        seen(*ALL_MISS[:3], KSHOT_MEETS, ALL_MISS[4], estimate=None, outlook=None, task_kind="cost"),
        "unknown",
        "cheaper rung",
    ),
    "a dear prompt is good enough, and a tuned model undercuts it": (
        seen(*ALL_MISS[:3], KSHOT_MEETS, ALL_MISS[4]),
        "go",
        "distil",
    ),
    "a dear prompt is good enough, the classical model not measured": (
        seen(KSHOT_MEETS),
        "unknown",
        "measure",
    ),
    "rungs are missing": (seen(*ALL_MISS[:3]), "unknown", "measure"),
    "a rung is too close to the bar": (
        seen(*ALL_MISS[:4], rung("retrieval", "undecided", 172, rows_to_decide=140)),
        "unknown",
        "undecided",
    ),
    "the bar was moved after measuring": (seen(*ALL_MISS, bar=0.75), "unknown", "bar"),
    "a provider that answered nothing": (
        seen(*ALL_MISS[:4], rung("retrieval", "misses", 0, empty=200)),
        "unknown",
        "measure",
    ),
    # rows
    "today's model was not measured": (
        seen(*ALL_MISS, current="gpt-4o"),
        "unknown",
        "today's model",
    ),
    "today's model was measured by its full name": (
        seen(*ALL_MISS, current="mini", full_current=ALL_MISS[2].arm.model),
        "go",
        "alternatives",
    ),
    "today's model was measured and misses too": (
        seen(*ALL_MISS, current=str(ALL_MISS[2].arm.model).partition("/")[2]),
        "go",
        "alternatives",
    ),
    "fifty rows": (seen(*ALL_MISS, rows=50), "no_go", "rows"),
    "199 rows": (seen(*ALL_MISS, rows=199), "no_go", "rows"),
    "200 labelled rows are for own categories where nothing was said": (
        seen(*ALL_MISS, rows=200),
        "go",
        "own classes",
    ),
    "200 rows of free text, kind not said": (
        seen(*ALL_MISS, rows=200, smallest_label=None),
        "unknown",
        "rows",
    ),
    "500 rows for a style that prompting nearly reaches": (
        seen(*ALL_MISS[:4], rung("retrieval", "misses", 162), rows=500, task_kind="style"),
        "go",
        "style",
    ),
    "500 rows for a format that prompting does not reach": (
        seen(*ALL_MISS, rows=500, task_kind="format"),
        "unknown",
        "rows",
    ),
    "500 rows of their own categories": (
        seen(*ALL_MISS, rows=500, task_kind="classification"),
        "go",
        "own classes",
    ),
    "500 rows of their own categories, one with 4": (
        seen(*ALL_MISS, rows=500, task_kind="classification", smallest_label=4, few_labels=(("vat", 4),)),
        "unknown",
        "rows",
    ),
    "a style that is write clearer instructions first": (
        seen(*ALL_MISS, rows=40, task_kind="style"),
        "no_go",
        "rows",
    ),
    # bad input
    "one class": (seen(CLASSICAL_MEETS, n_labels=1), "no_go", "one label"),
    "ten classes with three rows": (
        replace(
            FACTS,
            rows=30,
            n_holdout=10,
            smallest_label=3,
            n_labels=10,
            few_labels=tuple((f"class {i}", 3) for i in range(10)),
        ),
        "no_go",
        "rows",
    ),
    "a holdout of twelve": (replace(FACTS, n_holdout=12), "unknown", "holdout"),
    "a label that is never answered": (
        replace(seen(), evidence=Evidence(ladder=ladder(*ALL_MISS, never_answered=("refund",)))),
        "go",
        "alternatives",
    ),
    "volume 0": (
        seen(*ALL_MISS, estimate=estimate(replace(ARTICLE, monthly_input_tokens=0)), outlook=UNLIKELY),
        "no_go",
        "cost",
    ),
    "the model has ended": (seen(*ALL_MISS, target=REFUSED), "no_go", "end date"),
    "the model ends today, and nobody judged it": (
        seen(*ALL_MISS, estimate=estimate(replace(ARTICLE, ends=date(2026, 11, 24)))),
        "no_go",
        "end date",
    ),
    "a bar of 100%": (
        replace(seen(), evidence=Evidence(bar=1.0, ladder=ladder(*ALL_MISS, bar=1.0))),
        "unknown",
        "bar",
    ),
    # what it is for
    "facts": (seen(*ALL_MISS[:4], task_kind="knowledge"), "no_go", "knowledge"),
    "facts, and retrieval is too close to say": (
        seen(*ALL_MISS[:4], rung("retrieval", "undecided", 172, rows_to_decide=140), task_kind="knowledge"),
        "no_go",
        "knowledge",
    ),
    "facts, retrieval misses, enough rows": (seen(*ALL_MISS, task_kind="knowledge"), "go", "alternatives"),
    "facts, retrieval misses, few rows": (
        seen(*ALL_MISS, rows=600, task_kind="knowledge"),
        "no_go",
        "knowledge",
    ),
    "reasoning": (seen(*ALL_MISS, task_kind="reasoning"), "no_go", "reasoning"),
    "reasoning, and the tuned model was measured to be good": (
        seen(*ALL_MISS, task_kind="reasoning", tuned=TUNED_MEETS),
        "go",
        "tuned",
    ),
    "facts, and the tuned model was measured to be good": (
        seen(*ALL_MISS, rows=600, task_kind="knowledge", tuned=TUNED_MEETS),
        "go",
        "tuned",
    ),
    "speed, and a slow prompt is good enough": (
        seen(*ALL_MISS[:3], KSHOT_MEETS, ALL_MISS[4], task_kind="latency"),
        "unknown",
        "latency",
    ),
    "speed, and the tuned model is twice as fast": (
        seen(
            *ALL_MISS[:3],
            KSHOT_MEETS,
            ALL_MISS[4],
            task_kind="latency",
            tuned=rung("tuned", "meets", 186, p95_s=0.4),
        ),
        "go",
        "latency",
    ),
    "speed, and the tuned model is hardly faster": (
        seen(*ALL_MISS[:3], KSHOT_MEETS, task_kind="latency", tuned=rung("tuned", "meets", 186, p95_s=1.2)),
        "no_go",
        "cheaper rung",
    ),
    # money
    "it hardly ever pays back": (seen(*ALL_MISS, outlook=UNLIKELY), "no_go", "payback"),
    "it may pay back": (seen(*ALL_MISS, outlook=OPEN), "unknown", "payback"),
    "it pays back in time and loses afterwards": (
        seen(*ALL_MISS, outlook=replace(LIKELY, npv=LOSES_LATER)),
        "unknown",
        "net value",
    ),
    "it pays back in time, and nobody said the hours": (
        seen(*ALL_MISS, estimate=estimate(replace(ARTICLE, people_hours=None))),
        "unknown",
        "people's time",
    ),
    "it pays back in time even with a week of work that nobody counted": (
        seen(
            *ALL_MISS,
            estimate=estimate(replace(ARTICLE, people_hours=None, monthly_input_tokens=1_000_000_000)),
        ),
        "go",
        "payback",
    ),
    "what it saves is not known": (
        seen(*ALL_MISS, estimate=None, outlook=None),
        "unknown",
        "cost",
    ),
    "a free run, and nobody said a volume": (
        seen(*ALL_MISS, estimate=None, outlook=None, run_usd=Decimal(0)),
        "unknown",
        "cost",
    ),
    # the tuned model is measured
    "tuned and good, and it pays": (seen(*ALL_MISS, tuned=TUNED_MEETS), "go", "tuned"),
    "tuned and good on 150 rows": (seen(*ALL_MISS, rows=150, tuned=TUNED_MEETS), "go", "tuned"),
    "tuned and good, and it hardly pays": (
        seen(*ALL_MISS, tuned=TUNED_MEETS, outlook=UNLIKELY),
        "unknown",
        "only way",
    ),
    "tuned and good, and the alternatives unmeasured": (
        replace(FACTS, outlook=LIKELY, evidence=Evidence(tuned=TUNED_MEETS)),
        "unknown",
        "measure",
    ),
    "tuned and not good": (seen(*ALL_MISS, tuned=rung("tuned", "misses", 150)), "no_go", "tuned"),
    "tuned and too close to say": (
        seen(*ALL_MISS, tuned=rung("tuned", "undecided", 174, rows_to_decide=90)),
        "unknown",
        "tuned",
    ),
    "tuned, and it answers nothing": (
        seen(*ALL_MISS, tuned=rung("tuned", "misses", 0, empty=200)),
        "unknown",
        "tuned",
    ),
    "tuned and good, cheaper than a rung that is too close to say": (
        seen(
            *ALL_MISS[:4],
            rung("retrieval", "undecided", 172, rows_to_decide=140),
            tuned=TUNED_MEETS,
        ),
        "go",
        "tuned",
    ),
    "tuned and good, and undercuts a prompt that is good enough": (
        seen(*ALL_MISS[:3], KSHOT_MEETS, ALL_MISS[4], tuned=TUNED_MEETS),
        "go",
        "not worse",
    ),
    "tuned and good, and a prompt that is good enough costs less": (
        seen(*ALL_MISS[:3], KSHOT_MEETS, ALL_MISS[4], tuned=replace(TUNED_MEETS, usd_per_1000=Decimal(2))),
        "no_go",
        "cheaper rung",
    ),
    "tuned and good, dearer than a rung that is too close to say": (
        seen(
            *ALL_MISS[:4],
            rung("retrieval", "undecided", 172, rows_to_decide=140),
            tuned=replace(TUNED_MEETS, usd_per_1000=Decimal(2)),
        ),
        "unknown",
        "undecided",
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_is_advised_and_by_which_rule(situation: str) -> None:
    facts, kind, rule = SITUATIONS[situation]
    verdict = advise(facts)
    assert (verdict.kind, rule in rules(verdict, kind)) == (kind, True), verdict
    if kind != "go":
        assert verdict.headline


@pytest.mark.parametrize("situation", SITUATIONS)
def test_every_verdict_reads_well(situation: str) -> None:
    assert_reads_well(advise(SITUATIONS[situation][0]))


def assert_reads_well(verdict: Worded) -> None:
    assert verdict.reasons
    for text in (verdict.headline, verdict.next_step, *(one.text for one in verdict.reasons)):
        assert text.strip()
        assert text.endswith((".", "?")), text
        assert not re.search(r"\bNone\b|\bnan\b|\binf\b|  |\.\.", text), text


def test_a_cheaper_rung_is_named_with_score_interval_and_price() -> None:
    verdict = advise(seen(CLASSICAL_MEETS, *ALL_MISS[1:]))
    assert verdict.headline == (
        "Not now. The classical model meets the bar of 85%: 91.0% right (86–96%) on 200 held-out rows, free. "
        "It needs no training."
    )
    assert verdict.next_step.startswith("Use the classical model.")


def test_where_a_cheaper_rung_is_enough_nothing_else_has_to_be_measured() -> None:
    verdict = advise(seen(CLASSICAL_MEETS))
    assert not any(one.rule == "measure" for one in verdict.reasons)


def test_what_is_too_close_to_say_is_not_said_to_miss() -> None:
    verdict = advise(seen(*ALL_MISS[:4], rung("retrieval", "undecided", 172, rows_to_decide=140)))
    assert not any(one.rule == "alternatives" for one in verdict.reasons)


def test_what_costs_nothing_is_not_undercut_and_the_classical_model_not_outrun() -> None:
    free = rung("zero", "meets", 182, usd=Decimal(0))
    assert advise(seen(*ALL_MISS[:2], free, *ALL_MISS[3:])).kind == "no_go"
    fast = replace(TUNED_MEETS, p95_s=0.0001)
    assert advise(seen(CLASSICAL_MEETS, tuned=fast, task_kind="latency")).kind == "no_go"


def test_retrieval_that_was_tried_is_not_just_asked_for_again() -> None:
    untried = advise(seen(*ALL_MISS[:4], task_kind="knowledge"))
    assert untried.next_step.startswith("Upload the documents as knowledge")
    tried = advise(seen(*ALL_MISS, rows=600, task_kind="knowledge"))
    assert tried.next_step.startswith("Upload better or more documents as knowledge")


def test_a_go_before_training_says_what_it_means() -> None:
    verdict = advise(seen(*ALL_MISS))
    assert verdict.headline == (
        "Go: train it. A run costs about $25.00 and measures the tuned model on the same 240 held-out rows. "
        "Nothing is deployed before that."
    )
    assert verdict.next_step == "Start a run (`/finetune start tickets`)."
    assert "unknown until it answers the 240 held-out rows" in reason(verdict, "quality").text


def test_a_go_after_training_is_to_put_it_to_work() -> None:
    verdict = advise(seen(*ALL_MISS, tuned=TUNED_MEETS))
    assert verdict.headline == "Go: the tuned model is good enough, and it pays."
    assert verdict.next_step.startswith("Deploy the tuned model")


def test_the_best_of_what_misses_is_named() -> None:
    text = reason(advise(seen(*ALL_MISS)), "alternatives").text
    assert text == (
        "All 5 measured alternatives miss the bar of 85%. The best is retrieval on openai/gpt-4o-mini: 78.0% right "
        "(73–83%) on 200 held-out rows, $0.12 per 1,000 requests."
    )


def test_free_text_needs_no_classical_rung() -> None:
    assert advise(seen(*ALL_MISS[2:], smallest_label=None)).kind == "go"
    assert advise(seen(*ALL_MISS[1:])).kind == "unknown"


def test_the_first_missing_rung_comes_next_with_its_price() -> None:
    classical = "Measure the classical model (`/finetune baseline tickets rungs=classical`): free."
    assert advise(seen(*ALL_MISS[1:])).next_step == classical
    # ten examples: 11 times $0.12 per 1,000, on 200 rows
    asked = advise(seen(*ALL_MISS[:3])).next_step
    command = "`/finetune baseline tickets rungs=kshot models=openai/gpt-4o-mini`"
    assert asked == f"Measure the prompt with ten examples ({command}): about $0.26."
    both = "Measure the free models (`/finetune baseline tickets rungs=classical,encoder`); it takes a few seconds."
    assert advise(seen(*ALL_MISS[2:4])).next_step == both
    free = rung("zero", "misses", 120, usd=Decimal(0))
    assert advise(seen(*ALL_MISS[:2], free)).next_step.endswith("free.")
    assert advise(seen(*ALL_MISS[:2])).next_step.endswith("you see the cost before anything is spent.")


def test_the_first_prompt_is_measured_on_todays_model_and_a_cheap_one() -> None:
    both = ("openai/gpt-4o", "openai/gpt-4o-mini")
    assert advise(seen(*ALL_MISS[:2], current="gpt-4o", to_measure=both)).next_step == (
        "Measure the prompt alone (`/finetune baseline tickets rungs=zero "
        "models=openai/gpt-4o,openai/gpt-4o-mini`): you see the cost before anything is spent."
    )


def test_todays_model_is_measured_with_a_whole_command() -> None:
    both = ("openai/gpt-4o", "openai/gpt-4o-mini")
    assert advise(seen(*ALL_MISS, current="gpt-4o", to_measure=both)).next_step == (
        "Measure gpt-4o and a cheap model beside it: "
        "`/finetune baseline tickets models=openai/gpt-4o,openai/gpt-4o-mini`."
    )
    assert advise(seen(*ALL_MISS, current="gpt-4o", to_measure=both[:1])).next_step == (
        "Measure gpt-4o: `/finetune baseline tickets models=openai/gpt-4o`."
    )
    assert advise(seen(*ALL_MISS, current="gpt-4o")).next_step == (
        "No provider here has gpt-4o. To measure it, add a provider that does to finetune.toml."
    )


def test_a_measurement_for_which_there_is_no_key_is_no_next_step_where_another_one_is_open() -> None:
    keyless = {
        "current": "gpt-4o",
        "to_measure": ("openai/gpt-4o",),
        "providers_without_key": (("openai", "OPENAI_API_KEY"),),
    }
    alone = advise(seen(*ALL_MISS, **keyless))
    assert alone.rule == "today's model" and alone.next_step == (
        "Set OPENAI_API_KEY where the bot runs. Measure gpt-4o: `/finetune baseline tickets models=openai/gpt-4o`."
    )
    unsaid = estimate(replace(ARTICLE, people_hours=None))
    assert advise(seen(*ALL_MISS, estimate=unsaid, **keyless)).rule == "people's time"


def test_no_prompt_is_measured_where_there_is_no_model_to_ask() -> None:
    step = advise(replace(FACTS, smallest_label=None, has_models=False)).next_step
    assert step.startswith("No model can be asked here")


def test_the_strongest_reason_of_each_kind_is_the_one_that_decides() -> None:
    verdict = verdicts.advise(seen(*ALL_MISS))
    assert [reason.kind for reason in verdict.main_reasons] == ["go", "unknown"]
    assert verdict.main_reasons[0] is verdict.deciding
    missed = verdicts.advise(replace(FACTS, rows=120))
    assert [(reason.kind, reason.rule) for reason in missed.main_reasons] == [
        ("no_go", "rows"),
        ("unknown", "measure"),
    ]


def test_the_rows_that_would_decide_are_said() -> None:
    close = rung("retrieval", "undecided", 172, rows_to_decide=140)
    verdict = advise(seen(*ALL_MISS[:4], close))
    assert verdict.next_step == (
        "Hold out 140 more labelled rows: that would probably settle whether retrieval on openai/gpt-4o-mini "
        "meets the bar."
    )
    assert verdict.headline.startswith("Undecided. Too close to the bar of 85% to call: retrieval on")
    unsaid = advise(seen(*ALL_MISS[:4], replace(close, rows_to_decide=None)))
    assert "even twice as many may not be enough" in unsaid.next_step


def test_the_cheapest_step_comes_next_and_the_others_stay_in_the_reasons() -> None:
    close = rung("kshot", "undecided", 172, rows_to_decide=400)
    verdict = advise(seen(*ALL_MISS[:2], ALL_MISS[2], close, outlook=OPEN))
    assert verdict.next_step.startswith("Measure retrieval")  # cents, against 400 labels and a minute
    assert "Measure retrieval" not in reason(verdict, "measure").text
    assert "Hold out 400 more labelled rows" in reason(verdict, "undecided").text
    assert "Take last month's input tokens" in reason(verdict, "payback").text


def test_measuring_for_nothing_comes_before_asking_people() -> None:
    verdict = advise(replace(FACTS, estimate=None))
    assert verdict.next_step == (
        "Measure the free models (`/finetune baseline tickets rungs=classical,encoder`); it takes a few seconds."
    )
    assert "Add current= (today's model) and volume=" in reason(verdict, "cost").text


def test_an_unmeasured_estimate_is_worth_measuring() -> None:
    verdict = advise(FACTS)
    assert verdict.headline.startswith(
        "Worth measuring: a run costs about $25.00 and would save about $23 a month"
    )
    assert reason(verdict, "payback").text == "It saves about $23 a month and pays back in 33 days."


def test_what_is_not_known_about_money_is_said() -> None:
    row = PriceRow("own/x", "tuned", Price(None, None, None, None), "docs")
    verdict = advise(replace(FACTS, estimate=None, missing=MissingPrice("token", row)))
    assert reason(verdict, "cost").text.startswith("The price of a token of own/x is unknown: add input")
    assert "about $25.00. What it would save is still unknown" in verdict.headline
    assert "an unknown amount" in advise(replace(FACTS, estimate=None, run_usd=None)).headline
    free = advise(seen(*ALL_MISS, estimate=None, outlook=None, run_usd=Decimal(0)))
    assert "costs only your own machine's time" in free.headline


@pytest.mark.parametrize(("p", "kind"), [(0.8, "go"), (0.79, "unknown"), (0.21, "unknown"), (0.2, "no_go")])
def test_the_thresholds_on_the_chance_of_paying_back(p: float, kind: VerdictKind) -> None:
    verdict = advise(seen(*ALL_MISS, outlook=outlook(p)))
    assert (verdict.kind, reason(verdict, "payback").kind) == (kind, kind)


def test_the_chance_is_said_with_its_spread() -> None:
    text = reason(advise(seen(*ALL_MISS)), "payback").text
    assert text == (
        "It saves about $23 a month and pays back in 33 days. It pays back within 3 months in 93% of 10,000 "
        "simulations, if it is good enough; 90% lie between 15 days and 2.5 months."
    )
    unsaid = replace(LIKELY, is_time_said=False)
    assert "simulations, if it is good enough, ignoring staff time; 90% lie" in (
        reason(advise(seen(*ALL_MISS, outlook=unsaid)), "payback").text
    )
    assert "simulations, ignoring staff time; 90% lie" in (
        reason(advise(seen(*ALL_MISS, tuned=TUNED_MEETS, outlook=unsaid)), "payback").text
    )
    never = reason(advise(seen(*ALL_MISS, outlook=outlook(0.05, never=True))), "payback").text
    assert "9 in 10" not in never


@pytest.mark.parametrize(
    ("p", "said", "of_500"),
    [
        (0.0, "no simulation", "none of 500 simulations"),
        (0.001, "under 1% of simulations", "under 1% of 500 simulations"),
        (0.93, "93% of simulations", "93% of 500 simulations"),
        (0.999, "over 99% of simulations", "over 99% of 500 simulations"),
        (1.0, "all simulations", "all 500 simulations"),
    ],
)
def test_what_was_drawn_is_never_called_certain(p: float, said: str, of_500: str) -> None:
    assert (share_of_draws(p), share_of_draws(p, 500)) == (said, of_500)


def test_between_yes_and_no_the_widest_input_is_to_be_pinned_down() -> None:
    assert advise(seen(*ALL_MISS, outlook=OPEN)).next_step == (
        "Take last month's input tokens from the vendor's bill and add them (volume=). It matters most: volume "
        "from 8M tokens a month to 12.5M tokens a month moves the net value from $40.00 to $310.00."
    )
    assert advise(seen(*ALL_MISS, outlook=replace(OPEN, tornado=()))).next_step.endswith("(volume=).")


def test_every_input_of_the_tornado_has_a_way_to_pin_it_down() -> None:
    hourly = replace(
        ARTICLE.training,
        usd_per_million=None,
        usd_per_hour=Decimal(2),
        minutes=replace(ARTICLE.price_fall, low=Decimal(10), expected=Decimal(20), high=Decimal(40)),
    )
    names = {swing.name for swing in rank_swings(replace(ARTICLE, training=hourly, people_hours=None), None)}
    assert len(names) >= 4
    assert not any("Find out" in todo_text(PinDown(name, "tickets")) for name in names)


def test_hours_that_nobody_said_are_named_where_they_would_change_the_answer() -> None:
    """$23 a month for three months and $25 of training leave $44: 35 minutes at $75 an hour."""
    verdict = advise(seen(*ALL_MISS, estimate=estimate(replace(ARTICLE, people_hours=None))))
    assert verdict.headline.startswith(
        "Undecided. The staff time that it takes is not counted yet. With more than 35 minutes of it, payback "
        "within 3 months would no longer be likely."
    )
    assert verdict.next_step == "How many hours of work will this take? Add hours=."
    by_draws = replace(LIKELY, is_time_said=False, bearable_hours=Decimal("0.4"))
    drawn = advise(seen(*ALL_MISS, estimate=estimate(replace(ARTICLE, people_hours=None)), outlook=by_draws))
    assert "With more than 24 minutes of it" in reason(drawn, "people's time").text


def test_a_verdict_tells_which_reason_decides() -> None:
    deciding = advise(seen(*ALL_MISS, outlook=UNLIKELY)).deciding
    assert (deciding.rule, deciding.kind) == ("payback", "no_go")


def test_a_saving_that_the_falling_price_eats_is_no_go_ahead() -> None:
    """Tokens at $2.20 against $2.50: saved at once, and lost from the fifth month on."""
    dear = replace(ARTICLE.tuned, input=Decimal("2.20"))
    free = Training(1, 1, usd_per_hour=Decimal(0))
    inputs = replace(ARTICLE, monthly_input_tokens=1_000_000_000, tuned=dear, training=free)
    drawn = simulate(inputs)
    assert drawn.p_payback > 0.95
    verdict = advise(seen(*ALL_MISS, estimate=estimate(inputs), outlook=drawn))
    assert verdict.kind == "unknown"
    assert reason(verdict, "net value").text.startswith("Over 12 months it loses $1,")
    assert "cheaper model does as well today (`/finetune baseline tickets`)" in verdict.next_step


def test_where_today_s_model_ends_soon_it_is_said_how_long_to_stay_with_it() -> None:
    lasting = estimate(ARTICLE)
    ending = replace(lasting, succession=Succession("gpt-4o", date(2027, 1, 14), None, None))
    step = advise(seen(*ALL_MISS, estimate=ending, outlook=UNLIKELY)).next_step
    until = (
        "Stay with today's model until it ends on 2027-01-14, and measure its possible successors before then"
    )
    assert step.startswith(until)
    step = advise(seen(*ALL_MISS, estimate=lasting, outlook=UNLIKELY)).next_step
    assert step.startswith("Stay with today's model. To aim for better answers")


def test_of_a_model_that_has_ended_no_saving_is_said() -> None:
    gone = estimate(replace(ARTICLE, ends=date(2026, 10, 23)))
    verdict = advise(seen(*ALL_MISS, estimate=gone, outlook=UNLIKELY))
    assert (verdict.kind, gone.payback_months) == ("no_go", None)
    assert not any(one.rule in ("cost", "payback") for one in verdict.reasons)


def test_a_saving_that_ends_with_both_models_is_not_called_a_loss_a_month() -> None:
    people, end = {"people_hours": Decimal(50), "people_usd_per_hour": Decimal(100)}, date(2027, 1, 14)
    inputs = replace(ARTICLE, **people, ends=end, now=replace(ARTICLE.now, ends=end))  # type: ignore[arg-type]
    verdict = advise(costing(inputs))
    assert verdict.kind == "no_go"
    assert verdict.headline.startswith(
        "Not now. It saves $23.00 a month, which does not pay back the one-off $5,025 in the 51 days that the "
        "model has left. From 1.3B input tokens a month, it would pay back within 51 days."
    )


def test_a_loss_at_any_volume_is_a_no() -> None:
    nano = Rates("gpt-4.1-nano", Decimal("0.10"), Decimal("0.40"), "a list")
    verdict = advise(costing(replace(ARTICLE, now=nano)))
    assert verdict.kind == "no_go"
    assert verdict.headline == (
        "Not now. Today's model costs $1.00 a month, the tuned model would cost "
        "$2.00. "
        "No volume changes that."
    )


def test_a_payback_of_eighteen_years_is_a_no_that_says_from_which_volume_it_is_none() -> None:
    people = replace(ARTICLE, people_hours=Decimal(50), people_usd_per_hour=Decimal(100))
    verdict = advise(costing(people))
    assert verdict.kind == "no_go"
    assert "18 years" in verdict.headline
    assert "728M" in verdict.headline
    drawn = advise(replace(costing(people), outlook=replace(UNLIKELY, likely_from=1_214_801_476)))
    assert (
        "From 1.21B input tokens a month, it would pay back within 3 months in 80% of simulations"
        in drawn.headline
    )
    enough = advise(replace(seen(*ALL_MISS), outlook=UNLIKELY))
    assert "it would pay back" not in enough.headline


def test_a_payback_after_the_models_end_is_a_no() -> None:
    verdict = advise(costing(replace(ARTICLE, ends=date(2026, 12, 24))))
    assert verdict.kind == "no_go"
    assert "The model ends before that, in 30 days." in reason(verdict, "payback").text


def test_a_payback_of_half_a_year_is_open() -> None:
    people = replace(ARTICLE, people_hours=Decimal(1), people_usd_per_hour=Decimal(115))
    found = reason(advise(costing(people)), "payback")
    assert found.kind == "unknown"
    assert "6.1 months" in found.text


def test_a_free_machine_pays_back_at_once() -> None:
    free = replace(ARTICLE, training=Training(100, 1, usd_per_hour=Decimal(0)))
    found = reason(advise(costing(free)), "payback")
    assert (found.kind, found.text) == ("go", "It saves about $23 a month and pays back at once.")


def test_an_ended_model_comes_first_with_its_way_out() -> None:
    verdict = advise(seen(CLASSICAL_MEETS, target=REFUSED))
    assert verdict.headline == "Not now. gpt-4.1-nano ended on 2026-10-23."
    assert verdict.next_step == (
        "Choose another target: models that start with `local/` have no end date, and services such as "
        "`crusoe/llama-3.1-8b` train open weights."
    )
    near = advise(seen(*ALL_MISS, target=ModelVerdict("warn", ("It ends soon.",))))
    assert (near.kind, reason(near, "end date").text) == ("go", "It ends soon.")


def test_too_few_rows_are_answered_with_what_to_do_instead() -> None:
    verdict = advise(replace(FACTS, rows=50))
    assert verdict.headline.startswith("Not now. 50 rows are too few")
    assert "ten good examples" in verdict.next_step
    style = replace(FACTS, rows=50, evidence=Evidence(task_kind="style"))
    assert "write clearer instructions first" in advise(style).headline


def test_a_kind_of_task_that_was_not_said_is_asked_for_where_it_matters() -> None:
    assert "Add the kind of task (task=)" in advise(seen(*ALL_MISS, rows=500, smallest_label=None)).next_step
    said = advise(seen(*ALL_MISS, rows=500, task_kind="extraction"))
    assert said.next_step.startswith("Label 500 more rows")


def test_labels_with_few_rows_are_named_with_what_they_lack() -> None:
    few = (("vat", 4), ("refund", 9), ("plenty", 40), *((f"rare {i}", 8) for i in range(5)))
    facts = seen(*ALL_MISS, rows=500, task_kind="classification", smallest_label=4, few_labels=few)
    verdict = advise(facts)
    assert verdict.next_step == (
        "Label more rows for “vat” (6 more), “rare 0” (2 more), “rare 1” (2 more), “rare 2” (2 more), "
        "“rare 3” (2 more) and 2 other labels."
    )
    assert reason(verdict, "labels").text.startswith("7 labels have fewer than 10 rows")
    unnamed = advise(replace(FACTS, smallest_label=9))
    assert "Label at least 1 more row of the rarest label." in reason(unnamed, "labels").text


def test_a_rare_label_alone_holds_nobody_back() -> None:
    verdict = advise(seen(*ALL_MISS, smallest_label=4, few_labels=(("vat", 4),)))
    assert verdict.kind == "go"
    assert "“vat” (6 more)" in reason(verdict, "labels").text


@pytest.mark.parametrize(("smallest", "is_said"), [(9, True), (10, False), (None, False)])
def test_a_label_with_hardly_a_row_is_said(smallest: int | None, is_said: bool) -> None:
    verdict = advise(replace(FACTS, smallest_label=smallest))
    assert any(one.rule == "labels" for one in verdict.reasons) == is_said


@pytest.mark.parametrize(
    ("bar", "rows"), [(0.85, 16), (0.9, 25), (0.5, 3), (0.0, 0), (0.999, 2703), (1.0, None)]
)
def test_the_least_holdout_that_can_claim_a_bar(bar: float, rows: int | None) -> None:
    assert min_holdout_rows(bar) == rows


def test_a_small_holdout_is_said_to_show_only_large_differences() -> None:
    assert "only large differences" in reason(advise(replace(FACTS, n_holdout=40)), "holdout").text
    assert not any(one.rule == "holdout" for one in advise(FACTS).reasons)
    twelve = reason(advise(replace(FACTS, n_holdout=12)), "holdout").text
    assert "Even 12 held-out rows, all answered right, can't show 85%: that takes 16." in twelve


def test_labels_that_nothing_ever_answers_are_named() -> None:
    evidence = Evidence(ladder=ladder(*ALL_MISS, never_answered=("refund", *"abcdef")))
    text = reason(advise(replace(seen(), evidence=evidence)), "never answered").text
    assert text.startswith("No alternative ever answers “refund”, “a”, “b”, “c”, “d” and 2 more")


def test_answers_that_could_not_be_read_are_said_where_they_decide() -> None:
    unread = rung("zero", "misses", 120, unread=60)
    said = "the prompt alone on openai/gpt-4o-mini, 60 of 200. A clearer prompt"
    assert said in reason(advise(seen(*ALL_MISS[:2], unread, *ALL_MISS[3:])), "unread").text
    both = advise(seen(*ALL_MISS[:2], unread, replace(unread, arm=Candidate("kshot", MINI)), ALL_MISS[4]))
    (line,) = [one.text for one in both.reasons if one.rule == "unread"]
    assert (
        line.startswith("Answers that could not be read: the prompt alone on") and "; the prompt with" in line
    )
    few = rung("zero", "misses", 120, unread=3)
    assert not any(one.rule == "unread" for one in advise(seen(few)).reasons)


def test_answers_that_could_not_be_read_are_no_evidence_for_training() -> None:
    babble = [rung(name, "misses", 2, unread=190) for name in ("zero", "kshot", "retrieval")]
    verdict = advise(seen(*ALL_MISS[:2], *babble))
    assert (verdict.kind, rules(verdict, "unknown")) == ("unknown", ["unread"])
    assert "own classes" not in [one.rule for one in verdict.reasons]
    assert reason(verdict, "alternatives").text.startswith(
        "All 5 measured alternatives miss the bar of 85%. If unreadable answers were right, 3 might meet it. "
        "The best of the others is the encoder"
    )
    alone = advise(seen(*babble, smallest_label=None))
    assert alone.kind == "unknown" and "alternatives" not in rules(alone, "go")
    assert alone.next_step == "Measure a clearer prompt (prompt=) or another model (models=)."


def test_a_prompt_that_was_read_and_misses_is_evidence_beside_one_that_was_not() -> None:
    verdict = advise(seen(*ALL_MISS[:3], rung("kshot", "misses", 2, unread=190), ALL_MISS[4]))
    assert verdict.kind == "go"
    assert reason(verdict, "alternatives").text.startswith(
        "All 5 measured alternatives miss the bar of 85%. If unreadable answers were right, 1"
    )
    assert "(78% at best)" in reason(verdict, "own classes").text


def test_retrieval_that_could_not_be_read_was_not_tried() -> None:
    unread = rung("retrieval", "misses", 2, unread=190)
    assert reason(advise(seen(*ALL_MISS[:4], unread, task_kind="knowledge")), "knowledge").kind == "no_go"


def test_a_tuned_model_that_is_no_better_is_said_to_be() -> None:
    close = rung("tuned", "undecided", 160, rows_to_decide=50)
    text = reason(advise(seen(*ALL_MISS, tuned=close)), "not better").text
    assert text == (
        "The tuned model is not clearly better than retrieval on openai/gpt-4o-mini: 80% against 78%. These "
        "held-out rows can show differences from 6.2 points."
    )
    better = advise(seen(*ALL_MISS, tuned=TUNED_MEETS))
    assert not any(one.rule == "not better" for one in better.reasons)


def test_the_paired_test_says_more_than_intervals_do() -> None:
    tuned = rung("tuned", "undecided", 172, rows_to_decide=50)
    told = Pair(tuned.arm, ALL_MISS[4].arm, 0.08, 0.03, 0.13, 0.004)
    evidence = Evidence(ladder=replace(ladder(*ALL_MISS, tuned), pairs=(told,)))
    verdict = advise(replace(seen(), evidence=evidence))
    assert not any(one.rule == "not better" for one in verdict.reasons)


def test_the_curve_says_what_labelling_alone_would_bring() -> None:
    text = reason(advise(seen(*ALL_MISS, curve=CURVE)), "more rows").text
    assert text == (
        "100 more rows should improve the classical model by about 0.4 points. It should reach 88.0% (85–90%) "
        "with 4,000 rows. Labelling 2,800 more rows is another option."
    )
    far = replace(CURVE, predicted=CURVE.predicted[:1])
    assert reason(advise(seen(*ALL_MISS, curve=far)), "more rows").text.endswith("0.4 points.")
    missed = advise(seen(*ALL_MISS, curve=CURVE, tuned=rung("tuned", "misses", 150)))
    assert missed.next_step == "Label more rows before you train again, starting with “refund”."


# Properties

scores = st.integers(0, 200)


def judged(right: int) -> Rung:
    """As a measurement judges: 179 of 200 are the least that claim 85%, with 160 and fewer it misses."""
    standing: Standing = "meets" if right >= 179 else "undecided" if right > 160 else "misses"
    return rung(
        "tuned",
        standing,
        right,
        usd=Decimal("0.03"),
        rows_to_decide=100 if standing == "undecided" else None,
    )


some_rungs = st.builds(
    lambda name, standing, right, usd, unread, empty: rung(
        name, standing, right, usd=usd, unread=unread, empty=empty
    ),
    st.sampled_from(["classical", "zero", "kshot", "retrieval"]),
    st.sampled_from(["meets", "misses", "undecided"]),
    scores,
    st.sampled_from([None, Decimal(0), Decimal("0.02"), Decimal(3)]),
    st.integers(0, 200),
    st.integers(0, 200),
)
few_labels = st.lists(st.tuples(st.text(min_size=1, max_size=60), st.integers(0, 30)), max_size=8).map(tuple)
some_facts = st.builds(
    lambda rows, n, smallest, few, kind, measured, all_miss, cost, made, p: Facts(
        dataset="tickets",
        rows=rows,
        n_holdout=n,
        smallest_label=smallest,
        target=ModelVerdict("ok"),
        run_usd=cost,
        estimate=made,
        outlook=outlook(p) if made and p is not None else None,
        few_labels=few,
        evidence=Evidence(task_kind=kind, ladder=ladder(*(ALL_MISS if all_miss else measured))),
    ),
    st.integers(0, 5000),
    st.integers(0, 1000),
    st.none() | st.integers(0, 50),
    few_labels,
    st.none() | st.sampled_from(list(TASK_KINDS)),
    st.lists(some_rungs, max_size=6),
    st.booleans(),
    st.sampled_from([None, Decimal(0), Decimal(25)]),
    st.sampled_from([None, FACTS.estimate, estimate(replace(ARTICLE, now=ARTICLE.tuned))]),
    st.none() | st.floats(0, 1),
)


@given(some_facts, scores, scores)
@settings(max_examples=400, deadline=None)
def test_a_worse_tuned_score_never_helps(facts: Facts, one: int, other: int) -> None:
    worse, better = sorted((one, other))
    kinds = [
        ORDER[advise(replace(facts, evidence=replace(facts.evidence, tuned=judged(right)))).kind]
        for right in (worse, better)
    ]
    assert kinds[0] <= kinds[1]


@given(some_facts, st.none() | scores)
@settings(max_examples=400, deadline=None)
def test_every_verdict_has_a_reason_a_next_step_and_words_for_all_of_it(
    facts: Facts, tuned: int | None
) -> None:
    measured = None if tuned is None else judged(tuned)
    plain = tuple((f"label {i}", rows) for i, (_, rows) in enumerate(facts.few_labels))
    asked = replace(facts, few_labels=plain, evidence=replace(facts.evidence, tuned=measured))
    assert_reads_well(advise(asked))


volumes = st.integers(10_000, 10**10)
tuned_rates = st.builds(
    lambda price, hourly: Rates("tuned", price, price * 4, "a list", hourly),
    st.sampled_from([Decimal("0.2"), Decimal("1"), Decimal("2.4")]),
    st.sampled_from([Decimal(0), Decimal(2)]),
)


dear = seen(*ALL_MISS[:3], KSHOT_MEETS, ALL_MISS[4])
bases = [seen(*ALL_MISS), seen(*ALL_MISS, tuned=TUNED_MEETS), dear]


@given(
    volumes,
    volumes,
    tuned_rates,
    st.sampled_from([None, 10, 60]),
    st.sampled_from([*TASK_KINDS, None]),
    st.sampled_from(bases),
)
@settings(max_examples=80, deadline=None)
def test_more_volume_never_turns_a_go_into_a_no_while_the_tuned_model_is_cheaper(
    one: int, other: int, tuned: Rates, hours: int | None, kind: TaskKind | None, base: Facts
) -> None:
    less, more = sorted((one, other))
    people = None if hours is None else Decimal(hours)
    inputs = replace(ARTICLE, tuned=tuned, people_hours=people)
    facts = replace(base, evidence=replace(base.evidence, task_kind=kind))
    verdicts = [
        advise(_drawn(facts, replace(inputs, monthly_input_tokens=volume))) for volume in (less, more)
    ]
    assert ORDER[verdicts[0].kind] <= ORDER[verdicts[1].kind]


@pytest.mark.parametrize(("volume", "kind"), [(10_000_000, "no_go"), (10_000_000_000, "go")])
def test_the_articles_team_gets_a_no_at_its_own_volume_and_a_go_at_a_thousand_times_it(
    volume: int, kind: VerdictKind
) -> None:
    people = replace(ARTICLE, people_hours=Decimal(50), people_usd_per_hour=Decimal(100))
    assert advise(_drawn(seen(*ALL_MISS), replace(people, monthly_input_tokens=volume))).kind == kind


@pytest.mark.parametrize("volume", [4_000_000, 5_500_000, 7_000_000, 10_000_000, 12_000_000])
def test_too_little_is_at_stake_only_where_the_saving_that_is_shown_says_so(volume: int) -> None:
    tuned = replace(ARTICLE.tuned, input=Decimal("0.2"), output=Decimal("0.8"), usd_per_hour=Decimal(0))
    inputs = replace(ARTICLE, tuned=tuned, people_hours=None, monthly_input_tokens=volume)
    facts = _drawn(seen(*ALL_MISS), inputs)
    made, verdict = facts.estimate, advise(facts)
    assert made is not None
    left = made.saving_month * made.payback_target_months - made.one_off_usd
    is_little = left < inputs.people_usd_per_hour / 4
    assert (verdict.kind, verdict.rule) == ("no_go" if is_little else "unknown", "people's time")


def _drawn(facts: Facts, inputs: Inputs) -> Facts:
    return replace(facts, estimate=estimate(inputs), outlook=simulate(inputs, draws=400))
