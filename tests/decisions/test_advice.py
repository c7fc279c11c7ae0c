from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from bot.decisions.advice import Facts, Kind, Verdict, advise
from bot.decisions.roi import Inputs, Training, estimate
from tests.decisions.test_roi import ARTICLE, NANO
from trainers.providers import ModelVerdict

OK = ModelVerdict("ok")
GOOD = Facts(
    rows=1200,
    n_holdout=240,
    smallest_label=90,
    target=OK,
    training_usd=Decimal(25),
    estimate=estimate(ARTICLE),
)


def costing(inputs: Inputs) -> Facts:
    made = estimate(inputs)
    return replace(GOOD, training_usd=made.training_usd, estimate=made)


def reason(verdict: Verdict, rule: str) -> tuple[Kind, str]:
    return next((one.kind, one.text) for one in verdict.reasons if one.rule == rule)


def test_an_estimate_never_says_go_because_quality_is_not_measured() -> None:
    verdict = advise(GOOD)
    assert verdict.kind == "unknown"
    assert verdict.headline.startswith("Worth measuring")
    assert "$23.00 a month" in verdict.headline
    assert reason(verdict, "quality")[0] == "unknown"
    assert "240 held-out rows" in reason(verdict, "quality")[1]
    assert reason(verdict, "payback") == ("go", "It saves $23.00 a month and pays back in 33 days.")


@pytest.mark.parametrize(
    ("rows", "kind"),
    [(3, "no_go"), (199, "no_go"), (200, "unknown"), (999, "unknown"), (1000, "go"), (100_000, "go")],
)
def test_the_articles_thresholds_on_rows(rows: int, kind: Kind) -> None:
    verdict = advise(replace(GOOD, rows=rows))
    assert reason(verdict, "rows")[0] == kind
    assert verdict.kind == ("no_go" if kind == "no_go" else "unknown")


def test_too_few_rows_are_answered_with_what_to_do_instead() -> None:
    verdict = advise(replace(GOOD, rows=50))
    assert verdict.headline.startswith("Not now. 50 rows are too few")
    assert "ten good examples" in verdict.next_step


@pytest.mark.parametrize(("smallest", "is_said"), [(9, True), (10, False), (None, False)])
def test_a_label_with_hardly_a_row_is_said(smallest: int | None, is_said: bool) -> None:
    verdict = advise(replace(GOOD, smallest_label=smallest))
    assert any(one.rule == "labels" for one in verdict.reasons) == is_said


def test_a_loss_at_any_volume_is_a_no() -> None:
    verdict = advise(costing(replace(ARTICLE, now=NANO)))
    assert verdict.kind == "no_go"
    assert "On cost it is a loss: today's model costs $1.00 a month, the tuned one would cost $2.00" in (
        verdict.headline
    )
    assert "No volume changes that" in verdict.headline


def test_a_loss_at_this_volume_says_from_which_volume_it_is_none() -> None:
    hosted = replace(ARTICLE.tuned, usd_per_hour=Decimal(2))
    verdict = advise(costing(replace(ARTICLE, tuned=hosted)))
    assert verdict.kind == "no_go"
    assert "from 638M input tokens a month on" in verdict.headline


def test_a_payback_of_eighteen_years_is_a_no() -> None:
    people = replace(ARTICLE, people_hours=Decimal(50), people_usd_per_hour=Decimal(100))
    verdict = advise(costing(people))
    assert verdict.kind == "no_go"
    assert "18 years" in verdict.headline
    assert "728M" in verdict.headline


def test_a_payback_of_half_a_year_is_open() -> None:
    people = replace(ARTICLE, people_hours=Decimal(1), people_usd_per_hour=Decimal(115))
    kind, text = reason(advise(costing(people)), "payback")
    assert kind == "unknown"
    assert "6.1 months" in text


def test_a_payback_after_the_models_end_is_a_no() -> None:
    verdict = advise(costing(replace(ARTICLE, ends=date(2026, 12, 24))))
    assert verdict.kind == "no_go"
    assert reason(verdict, "payback")[1].endswith("The model is gone before that, in 30 days.")


def test_a_free_machine_pays_back_at_once() -> None:
    free = replace(ARTICLE, training=Training(100, 1, usd_per_hour=Decimal(0)))
    kind, text = reason(advise(costing(free)), "payback")
    assert (kind, text) == ("go", "It saves $23.00 a month and pays back at once.")


def test_a_model_that_may_not_be_trained_is_a_no_with_a_way_out() -> None:
    refused = ModelVerdict("refuse", ("OpenAI has taken no new fine-tuning job since 2027-01-06.",))
    verdict = advise(replace(GOOD, target=refused))
    assert verdict.kind == "no_go"
    assert verdict.headline == "Not now. OpenAI has taken no new fine-tuning job since 2027-01-06."
    assert "your own machine" in verdict.next_step


def test_a_model_near_its_end_is_said_and_is_no_no() -> None:
    verdict = advise(replace(GOOD, target=ModelVerdict("warn", ("It ends soon.",))))
    assert verdict.kind == "unknown"
    assert reason(verdict, "end date") == ("unknown", "It ends soon.")


def test_what_is_not_known_about_money_is_said() -> None:
    verdict = advise(replace(GOOD, estimate=None, gaps=("Say current= and volume=.",)))
    assert verdict.kind == "unknown"
    assert reason(verdict, "cost") == ("unknown", "Say current= and volume=.")
    assert "about $25.00. What it saves is still unknown" in verdict.headline
    unpriced = advise(replace(GOOD, estimate=None, training_usd=None, gaps=("No price.",)))
    assert "an unknown sum" in unpriced.headline


def test_a_small_holdout_is_said_to_show_only_large_differences() -> None:
    assert "only a large difference" in advise(replace(GOOD, n_holdout=40)).next_step
    assert "only a large difference" not in advise(GOOD).next_step


def test_a_model_that_has_ended_is_said_once() -> None:
    verdict = advise(costing(replace(ARTICLE, ends=date(2026, 10, 23))))
    assert not any(one.rule == "payback" for one in verdict.reasons)
