"""The verdict beyond the rows of the decision table: its rule and its sentences."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from bot.rules import advice as verdicts
from bot.rules.facts import Evidence, Facts
from bot.rules.fit import dollars_per_point, min_holdout_rows, more_rows_help
from bot.rules.forecast import Quantiles
from bot.rules.plans import VerdictKind
from bot.rules.roi import estimate
from tests.rules.advice.worded_verdict import advise, assert_reads_well, reason, rules, weighing_rules
from tests.rules.builders import (
    ALL_MISS,
    ARTICLE,
    CLASSICAL_MEETS,
    FACTS,
    KSHOT_MEETS,
    LIKELY,
    MINI,
    OPEN,
    TUNED_MEETS,
    UNDECIDED,
    UNLIKELY,
    WITH_GOOD_PROMPT,
    WITH_UNDECIDED_RETRIEVAL,
    WITHOUT_HOURS,
    candidate,
    comparison,
    facts_with,
)
from trainers.evaluation.quality_threshold import judge_all
from trainers.evaluation.results import Candidate, Curve, CurvePoint, LabelNeed, Pair, Prediction
from trainers.providers.providers import ModelVerdict

LOSES_LATER = Quantiles(Decimal(-900), Decimal(-400), Decimal(120))
REFUSED = ModelVerdict("refuse", ("gpt-4.1-nano ended on 2026-10-23.", "Models of your own don't end."))

CURVE = Curve(
    dataset="tickets",
    version=1,
    holdout_sha256="ab" * 32,
    candidate=Candidate("classical"),
    points=(CurvePoint(300, 0.6, (0.6, 0.6)),),
    a=0.05,
    b=2.0,
    c=0.4,
    predicted=(Prediction(2000, 0.82, 0.8, 0.84), Prediction(4000, 0.88, 0.85, 0.9)),
    points_per_100=0.4,
    needs=(LabelNeed("refund", 12, 4, 1),),
)

SITUATIONS: dict[str, tuple[Facts, VerdictKind, str]] = {
    "a prompt is good enough, no volume is given": (
        facts_with(*WITH_GOOD_PROMPT[:4], estimate=None, outlook=None),
        "no_go",
        "cheaper rung",
    ),
    "an expensive prompt is good enough, cost is the goal, no volume is given": (
        facts_with(*WITH_GOOD_PROMPT, estimate=None, outlook=None, task_kind="cost"),
        "unknown",
        "cheaper rung",
    ),
    "an expensive prompt is good enough, nothing else is measured": (
        facts_with(KSHOT_MEETS),
        "unknown",
        "measure",
    ),
    "a provider answered nothing": (
        facts_with(*ALL_MISS[:4], candidate("retrieval", "misses", 0, empty=200)),
        "unknown",
        "no answer",
    ),
    "today's model was measured under its full name": (
        facts_with(*ALL_MISS, current="mini", full_current=ALL_MISS[2].model),
        "go",
        "alternatives",
    ),
    "today's model was measured and misses too": (
        facts_with(*ALL_MISS, current=MINI.partition("/")[2]),
        "go",
        "alternatives",
    ),
    "199 rows": (facts_with(*ALL_MISS, rows=199), "no_go", "rows"),
    "200 labelled rows": (facts_with(*ALL_MISS, rows=200), "go", "own classes"),
    "500 rows for a style that prompts almost reach": (
        facts_with(*ALL_MISS[:4], candidate("retrieval", "misses", 162), rows=500, task_kind="style"),
        "go",
        "style",
    ),
    "500 rows for a format that prompts miss": (
        facts_with(*ALL_MISS, rows=500, task_kind="format"),
        "unknown",
        "rows",
    ),
    "no volume": (
        facts_with(*ALL_MISS, estimate=estimate(replace(ARTICLE, monthly_input_tokens=0)), outlook=UNLIKELY),
        "no_go",
        "cost",
    ),
    "the target ends today": (
        facts_with(*ALL_MISS, estimate=estimate(replace(ARTICLE, ends=date(2026, 11, 24)))),
        "no_go",
        "end date",
    ),
    "a bar of 100%": (
        replace(facts_with(), evidence=Evidence(bar=1.0, comparison=comparison(*ALL_MISS, bar=1.0))),
        "unknown",
        "bar",
    ),
    "the task needs facts, retrieval is undecided": (
        facts_with(*WITH_UNDECIDED_RETRIEVAL, task_kind="knowledge"),
        "no_go",
        "knowledge",
    ),
    "the task needs facts, retrieval misses, many rows": (
        facts_with(*ALL_MISS, task_kind="knowledge"),
        "go",
        "alternatives",
    ),
    "the task needs facts, retrieval misses, few rows": (
        facts_with(*ALL_MISS, rows=600, task_kind="knowledge"),
        "no_go",
        "knowledge",
    ),
    "the task needs facts, the tuned model meets the bar": (
        facts_with(*ALL_MISS, rows=600, task_kind="knowledge", tuned=TUNED_MEETS),
        "go",
        "tuned",
    ),
    "the task needs reasoning, the tuned model meets the bar": (
        facts_with(*ALL_MISS, task_kind="reasoning", tuned=TUNED_MEETS),
        "go",
        "tuned",
    ),
    "speed is the goal, no free model is measured": (
        facts_with(KSHOT_MEETS, task_kind="latency"),
        "unknown",
        "latency",
    ),
    "it pays back in time and loses afterwards": (
        facts_with(*ALL_MISS, outlook=replace(LIKELY, npv=LOSES_LATER)),
        "unknown",
        "net value",
    ),
    "it pays back in time despite a week of staff time that is not given": (
        facts_with(
            *ALL_MISS,
            estimate=estimate(replace(ARTICLE, people_hours=None, monthly_input_tokens=1_000_000_000)),
        ),
        "go",
        "payback",
    ),
    "the tuned model meets the bar with 150 rows": (
        facts_with(*ALL_MISS, rows=150, tuned=TUNED_MEETS),
        "go",
        "tuned",
    ),
    "the tuned model meets the bar, payback is unlikely": (
        facts_with(*ALL_MISS, tuned=TUNED_MEETS, outlook=UNLIKELY),
        "unknown",
        "only way",
    ),
    "the tuned model meets the bar, nothing else is measured": (
        replace(FACTS, outlook=LIKELY, evidence=Evidence(tuned=TUNED_MEETS)),
        "unknown",
        "measure",
    ),
    "the tuned model answers nothing": (
        facts_with(*ALL_MISS, tuned=candidate("tuned", "misses", 0, empty=200)),
        "unknown",
        "tuned",
    ),
    "the tuned model meets the bar and costs less than an undecided candidate": (
        facts_with(*WITH_UNDECIDED_RETRIEVAL, tuned=TUNED_MEETS),
        "go",
        "tuned",
    ),
    "the tuned model meets the bar and costs more than an undecided candidate": (
        facts_with(*WITH_UNDECIDED_RETRIEVAL, tuned=replace(TUNED_MEETS, usd_per_1000=Decimal(2))),
        "unknown",
        "undecided",
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_situation_gets_its_verdict_by_its_rule(situation: str) -> None:
    facts, kind, rule = SITUATIONS[situation]
    verdict = advise(facts)
    assert (verdict.kind, rule in weighing_rules(verdict, kind)) == (kind, True), verdict
    assert_reads_well(verdict)


def test_a_cheaper_candidate_is_named_with_score_interval_and_price() -> None:
    verdict = advise(facts_with(CLASSICAL_MEETS, *ALL_MISS[1:]))
    assert verdict.headline == (
        "Not now. The classical model meets the bar of 85%: 91.0% right (86–96%) on 200 held-out rows, free. "
        "It needs no training."
    )
    assert verdict.next_step.startswith("Use the classical model.")


def test_nothing_else_is_measured_if_a_cheaper_candidate_is_good_enough() -> None:
    verdict = advise(facts_with(CLASSICAL_MEETS))
    assert verdict.kind == "no_go" and "measure" not in rules(verdict)


def test_a_free_candidate_can_be_neither_undercut_nor_outrun() -> None:
    free = candidate("zero", "meets", 182, usd=Decimal(0))
    assert advise(facts_with(*ALL_MISS[:2], free, *ALL_MISS[3:])).kind == "no_go"
    fast = replace(TUNED_MEETS, p95_s=0.0001)
    assert advise(facts_with(CLASSICAL_MEETS, tuned=fast, task_kind="latency")).kind == "no_go"


def test_the_next_step_differs_if_retrieval_was_already_tried() -> None:
    untried = advise(facts_with(*ALL_MISS[:4], task_kind="knowledge"))
    assert untried.next_step.startswith("Upload the documents as knowledge")
    tried = advise(facts_with(*ALL_MISS, rows=600, task_kind="knowledge"))
    assert tried.next_step.startswith("Upload better or more documents as knowledge")


def test_a_go_before_training_says_what_a_run_costs() -> None:
    verdict = advise(facts_with(*ALL_MISS))
    assert verdict.headline == (
        "Go: train it. A run costs about $25.00 and measures the tuned model on the same 240 held-out rows. "
        "Nothing is deployed before that."
    )
    assert verdict.next_step == "Start a run (`/finetune start tickets`)."
    assert "unknown until it answers the 240 held-out rows" in reason(verdict, "quality").text


def test_a_go_after_training_says_to_deploy() -> None:
    verdict = advise(facts_with(*ALL_MISS, tuned=TUNED_MEETS))
    assert verdict.headline == "Go: the tuned model is good enough, and it pays."
    assert verdict.next_step.startswith("Deploy the tuned model")


def test_the_best_alternative_that_misses_is_named() -> None:
    text = reason(advise(facts_with(*ALL_MISS)), "alternatives").text
    assert text == (
        "All 5 measured alternatives miss the bar of 85%. The best is retrieval on openai/gpt-4o-mini: 78.0% right "
        "(73–83%) on 200 held-out rows, $0.12 per 1,000 requests."
    )


def test_a_lead_after_a_second_look_that_may_be_luck_does_not_make_the_best_alternative() -> None:
    """As in the measurement's own headline: it is ahead by 2 of 200 rows."""
    later = replace(candidate("retrieval", "misses", 152), look=2)
    text = reason(advise(facts_with(*ALL_MISS[:4], later)), "alternatives").text
    assert "The best is the prompt with ten examples on openai/gpt-4o-mini: 75.0% right" in text


def test_free_text_needs_no_classical_candidate() -> None:
    assert advise(facts_with(*ALL_MISS[2:], smallest_label=None)).kind == "go"
    assert advise(facts_with(*ALL_MISS[1:])).kind == "unknown"


def test_the_first_missing_candidate_comes_next_with_its_price() -> None:
    classical = "Measure the classical model (`/finetune baseline tickets candidates=classical`): free."
    assert advise(facts_with(*ALL_MISS[1:])).next_step == classical
    # ten examples: 11 times $0.12 per 1,000, on 200 rows
    step = advise(facts_with(*ALL_MISS[:3])).next_step
    command = "`/finetune baseline tickets candidates=kshot models=openai/gpt-4o-mini`"
    assert step == f"Measure the prompt with ten examples ({command}): about $0.26."
    command = "`/finetune baseline tickets candidates=classical,encoder`"
    both = f"Measure the free models ({command}); it takes a few seconds."
    assert advise(facts_with(*ALL_MISS[2:4])).next_step == both
    free = candidate("zero", "misses", 120, usd=Decimal(0))
    assert advise(facts_with(*ALL_MISS[:2], free)).next_step.endswith("free.")
    assert advise(facts_with(*ALL_MISS[:2])).next_step.endswith("you see the cost before anything is spent.")


def test_the_first_prompt_is_measured_on_todays_model_and_a_cheap_one() -> None:
    both = ("openai/gpt-4o", "openai/gpt-4o-mini")
    assert advise(facts_with(*ALL_MISS[:2], current="gpt-4o", to_measure=both)).next_step == (
        "Measure the prompt alone (`/finetune baseline tickets candidates=zero "
        "models=openai/gpt-4o,openai/gpt-4o-mini`): you see the cost before anything is spent."
    )


def test_measuring_today_s_model_comes_with_a_full_command() -> None:
    both = ("openai/gpt-4o", "openai/gpt-4o-mini")
    assert advise(facts_with(*ALL_MISS, current="gpt-4o", to_measure=both)).next_step == (
        "Measure gpt-4o and a cheap model beside it: "
        "`/finetune baseline tickets models=openai/gpt-4o,openai/gpt-4o-mini`."
    )
    assert advise(facts_with(*ALL_MISS, current="gpt-4o", to_measure=both[:1])).next_step == (
        "Measure gpt-4o: `/finetune baseline tickets models=openai/gpt-4o`."
    )
    assert advise(facts_with(*ALL_MISS, current="gpt-4o")).next_step == (
        "No provider here has gpt-4o. To measure it, add a provider that does to finetune.toml."
    )


def test_a_measurement_without_a_key_is_not_the_next_step_if_another_is_possible() -> None:
    keyless = {
        "current": "gpt-4o",
        "to_measure": ("openai/gpt-4o",),
        "providers_without_key": (("openai", "OPENAI_API_KEY"),),
    }
    alone = advise(facts_with(*ALL_MISS, **keyless))
    assert alone.rule == "today's model" and alone.next_step == (
        "Set OPENAI_API_KEY where the bot runs. Measure gpt-4o: `/finetune baseline tickets models=openai/gpt-4o`."
    )
    unsaid = estimate(WITHOUT_HOURS)
    assert advise(facts_with(*ALL_MISS, estimate=unsaid, **keyless)).rule == "people's time"


def test_no_prompt_is_measured_without_a_model() -> None:
    step = advise(replace(FACTS, smallest_label=None, has_models=False)).next_step
    assert step.startswith("No model can be asked here")


def test_the_main_reasons_are_the_strongest_of_each_kind() -> None:
    verdict = verdicts.advise(facts_with(*ALL_MISS))
    assert [reason.kind for reason in verdict.main_reasons] == ["go", "unknown"]
    assert verdict.main_reasons[0] is verdict.deciding
    missed = verdicts.advise(replace(FACTS, rows=120))
    assert [(reason.kind, reason.rule) for reason in missed.main_reasons] == [
        ("no_go", "rows"),
        ("unknown", "measure"),
    ]


def test_the_number_of_rows_that_would_decide_is_shown() -> None:
    verdict = advise(facts_with(*WITH_UNDECIDED_RETRIEVAL))
    assert verdict.kind == "unknown" and "alternatives" not in rules(verdict)
    assert verdict.next_step == (
        "Hold out about 140 more labelled rows, a fifth of about 700 new ones: in four of five cases that settles "
        "whether retrieval on openai/gpt-4o-mini meets the bar."
    )
    assert verdict.headline.startswith("Undecided. Too close to the bar of 85% to call: retrieval on")
    unsaid = advise(facts_with(*ALL_MISS[:4], replace(UNDECIDED, rows_to_decide=None)))
    assert unsaid.next_step.startswith("More than the 1,000 rows that a dataset may hold out would be needed")
    beyond = advise(facts_with(*ALL_MISS[:4], replace(UNDECIDED, rows_to_decide=801)))
    assert beyond.next_step == unsaid.next_step, "200 are held out already"


def test_the_cheapest_step_comes_next_and_the_others_stay_in_the_reasons() -> None:
    close = candidate("kshot", "undecided", 172, rows_to_decide=400)
    verdict = advise(facts_with(*ALL_MISS[:2], ALL_MISS[2], close, outlook=OPEN))
    assert verdict.next_step.startswith("Measure retrieval")  # cents, against 400 labels and a minute
    assert "Measure retrieval" not in reason(verdict, "measure").text
    assert "Hold out about 400 more labelled rows" in reason(verdict, "undecided").text
    assert "Take last month's number of requests" in reason(verdict, "payback").text


def test_free_measurements_come_before_questions_to_people() -> None:
    verdict = advise(replace(FACTS, estimate=None))
    assert verdict.next_step == (
        "Measure the free models (`/finetune baseline tickets candidates=classical,encoder`); it takes a few seconds."
    )
    assert "Add current= (today's model) and volume=" in reason(verdict, "cost").text


def test_an_ended_target_comes_first_and_other_targets_are_named() -> None:
    verdict = advise(facts_with(CLASSICAL_MEETS, target=REFUSED))
    assert verdict.headline == "Not now. gpt-4.1-nano ended on 2026-10-23."
    assert verdict.next_step == (
        "Choose another target: models that start with `local/` have no end date, and services such as "
        "`crusoe/llama-3.1-8b` train open weights."
    )
    near = advise(facts_with(*ALL_MISS, target=ModelVerdict("warn", ("It ends soon.",))))
    assert (near.kind, reason(near, "end date").text) == ("go", "It ends soon.")


def test_too_few_rows_are_answered_with_what_to_do_instead() -> None:
    verdict = advise(replace(FACTS, rows=50))
    assert verdict.headline.startswith("Not now. 50 rows are too few")
    assert "ten good examples" in verdict.next_step
    style = advise(replace(FACTS, rows=50, evidence=Evidence(task_kind="style")))
    assert style.kind == "no_go" and "write clearer instructions first" in style.headline


def test_the_kind_of_task_is_asked_for_if_it_matters() -> None:
    assert (
        "Add the kind of task (task=)"
        in advise(facts_with(*ALL_MISS, rows=500, smallest_label=None)).next_step
    )
    extraction = advise(facts_with(*ALL_MISS, rows=500, task_kind="extraction"))
    assert extraction.next_step.startswith("Label 500 more rows")


def test_labels_with_few_rows_are_named_with_what_they_lack() -> None:
    few = (("vat", 4), ("refund", 9), ("plenty", 40), *((f"rare {i}", 8) for i in range(5)))
    facts = facts_with(*ALL_MISS, rows=500, task_kind="classification", smallest_label=4, few_labels=few)
    verdict = advise(facts)
    assert (verdict.kind, verdict.rule) == ("unknown", "rows")
    assert verdict.next_step == (
        "Label more rows for “vat” (6 more), “rare 0” (2 more), “rare 1” (2 more), “rare 2” (2 more), "
        "“rare 3” (2 more) and 2 other labels."
    )
    assert reason(verdict, "labels").text.startswith("7 labels have fewer than 10 rows")
    unnamed = advise(replace(FACTS, smallest_label=9))
    assert "Label at least 1 more row of the rarest label." in reason(unnamed, "labels").text


def test_a_rare_label_alone_does_not_stop_a_go() -> None:
    verdict = advise(facts_with(*ALL_MISS, smallest_label=4, few_labels=(("vat", 4),)))
    assert verdict.kind == "go"
    assert "“vat” (6 more)" in reason(verdict, "labels").text


def test_ten_rows_of_a_label_are_enough() -> None:
    assert all("labels" not in rules(advise(replace(FACTS, smallest_label=rows))) for rows in (10, None))


@pytest.mark.parametrize(
    ("bar", "rows"), [(0.85, 21), (0.9, 32), (0.5, 5), (0.0, 0), (0.999, 3351), (1.0, None)]
)
def test_the_smallest_holdout_that_can_show_a_quality_bar(bar: float, rows: int | None) -> None:
    assert min_holdout_rows(bar) == rows
    if rows:
        least, too_few = judge_all([(1.0,) * rows], bar), judge_all([(1.0,) * (rows - 1)], bar)
        assert (least[0].standing, too_few[0].standing) == ("meets", "undecided")


def test_a_small_holdout_shows_only_large_differences() -> None:
    assert "only large differences" in reason(advise(replace(FACTS, n_holdout=40)), "holdout").text
    assert "holdout" not in rules(advise(FACTS))
    twelve = reason(advise(replace(FACTS, n_holdout=12)), "holdout")
    assert twelve.kind == "unknown"
    assert "Even 12 held-out rows, all answered right, can't show 85%: that takes 21." in twelve.text


def test_labels_that_no_alternative_answers_are_named() -> None:
    evidence = Evidence(comparison=comparison(*ALL_MISS, never_answered=("refund", *"abcdef")))
    verdict = advise(replace(facts_with(), evidence=evidence))
    assert verdict.kind == "go"
    assert reason(verdict, "never answered").text.startswith(
        "No alternative ever answers “refund”, “a”, “b”, “c”, “d” and 2 more"
    )


def test_unreadable_answers_are_mentioned_if_they_could_decide() -> None:
    unread = candidate("zero", "misses", 120, unread=60)
    expected = "the prompt alone on openai/gpt-4o-mini, 60 of 200. A clearer prompt"
    assert expected in reason(advise(facts_with(*ALL_MISS[:2], unread, *ALL_MISS[3:])), "unread").text
    both = advise(
        facts_with(*ALL_MISS[:2], unread, replace(unread, identity=Candidate("kshot", MINI)), ALL_MISS[4])
    )
    text = reason(both, "unread").text
    assert text.startswith("Answers that could not be read: the prompt alone on")
    assert "; the prompt with" in text and rules(both).count("unread") == 1
    few = candidate("zero", "misses", 120, unread=3)
    assert "unread" not in rules(advise(facts_with(few)))


def test_unreadable_answers_are_no_evidence_for_training() -> None:
    babble = [candidate(name, "misses", 2, unread=190) for name in ("zero", "kshot", "retrieval")]
    verdict = advise(facts_with(*ALL_MISS[:2], *babble))
    assert (verdict.kind, weighing_rules(verdict, "unknown")) == ("unknown", ["unread"])
    assert "own classes" not in rules(verdict)
    assert "alternatives" not in rules(verdict), "no model that can do the task was asked"
    assert verdict.next_step.startswith("Measure another model (models=)")
    alone = advise(facts_with(*babble, smallest_label=None))
    assert alone.kind == "unknown" and "alternatives" not in weighing_rules(alone, "go")
    half = [candidate(name, "misses", 90, unread=95) for name in ("zero", "kshot", "retrieval")]
    hopeful = advise(facts_with(*half, smallest_label=None))
    assert hopeful.next_step == "Measure a clearer prompt (prompt=) or another model (models=)."


def test_a_model_that_mostly_babbles_says_nothing_about_prompts() -> None:
    """Even if all its unreadable answers were right, it would miss the bar; its score is no evidence all the same."""
    babble = [candidate(name, "misses", 20, unread=120) for name in ("zero", "kshot", "retrieval")]
    verdict = advise(facts_with(*ALL_MISS[:2], *babble))
    assert (verdict.kind, verdict.rule) == ("unknown", "unread")
    assert not {"alternatives", "own classes"} & set(rules(verdict))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "The only measured alternative misses"),
        (2, "Both measured alternatives miss"),
        (3, "All 3 measured alternatives miss"),
    ],
)
def test_the_alternatives_that_miss_are_counted_in_words(count: int, text: str) -> None:
    assert reason(advise(facts_with(*ALL_MISS[:count])), "alternatives").text.startswith(text)


def test_a_readable_miss_counts_beside_an_unreadable_prompt() -> None:
    verdict = advise(facts_with(*ALL_MISS[:3], candidate("kshot", "misses", 2, unread=190), ALL_MISS[4]))
    assert verdict.kind == "go"
    assert reason(verdict, "alternatives").text.startswith(
        "All 5 measured alternatives miss the bar of 85%. The best of the others is retrieval"
    )
    assert "; 1 gave too many unreadable answers to count." in reason(verdict, "alternatives").text
    assert "(78% at best)" in reason(verdict, "own classes").text


def test_unreadable_retrieval_counts_as_untried() -> None:
    unread = candidate("retrieval", "misses", 2, unread=190)
    assert (
        reason(advise(facts_with(*ALL_MISS[:4], unread, task_kind="knowledge")), "knowledge").kind == "no_go"
    )


def test_a_tuned_model_that_is_not_clearly_better_is_named() -> None:
    close = candidate("tuned", "undecided", 160, rows_to_decide=50)
    text = reason(advise(facts_with(*ALL_MISS, tuned=close)), "not better").text
    assert text == (
        "The tuned model is not clearly better than retrieval on openai/gpt-4o-mini: 80% against 78%. These "
        "held-out rows can show differences from 6.2 points."
    )
    better = advise(facts_with(*ALL_MISS, tuned=TUNED_MEETS))
    assert "not better" not in rules(better)


def test_a_significant_paired_test_overrules_overlapping_intervals() -> None:
    tuned = candidate("tuned", "undecided", 172, rows_to_decide=50)
    significant = Pair(tuned.identity, ALL_MISS[4].identity, 0.08, 0.03, 0.13, 0.004)
    evidence = Evidence(comparison=replace(comparison(*ALL_MISS, tuned), pairs=(significant,)))
    verdict = advise(replace(facts_with(), evidence=evidence))
    assert "not better" not in rules(verdict)


def test_a_learning_curve_shows_what_labelling_alone_would_bring() -> None:
    text = reason(advise(facts_with(*ALL_MISS, curve=CURVE)), "more rows").text
    assert text == (
        "100 more rows should improve the classical model by about 0.4 points. It should reach 88.0% (85–90%) "
        "with 4,000 rows. Labelling 2,800 more rows is another option."
    )
    far = replace(CURVE, predicted=CURVE.predicted[:1])
    assert reason(advise(facts_with(*ALL_MISS, curve=far)), "more rows").text.endswith("0.4 points.")
    missed = advise(facts_with(*ALL_MISS, curve=CURVE, tuned=candidate("tuned", "misses", 150)))
    assert missed.next_step == "Label more rows before you train again, starting with “refund”."


ENCODER_MEETS = candidate("encoder", "meets", 182)


@pytest.mark.parametrize(
    ("facts", "can", "action"),
    [
        (facts_with(*ALL_MISS), (), "start"),
        (facts_with(*ALL_MISS, tuned=TUNED_MEETS), (), None),
        (facts_with(ENCODER_MEETS), ("use",), "use it"),
        (facts_with(ENCODER_MEETS), (), None),
        (facts_with(ENCODER_MEETS), ("check_judge", "use"), "check the judge"),
        (facts_with(CLASSICAL_MEETS), ("do_step",), "do the step"),
        (facts_with(*WITH_UNDECIDED_RETRIEVAL), ("check_judge",), "check the judge"),
        (facts_with(*WITH_UNDECIDED_RETRIEVAL), (), "start anyway"),
    ],
)
def test_what_can_be_done_next(facts: Facts, can: tuple[str, ...], action: str | None) -> None:
    found_action = verdicts.next_action(
        verdicts.advise(facts),
        can_check_judge="check_judge" in can,
        can_use="use" in can,
        can_do_step="do_step" in can,
    )
    assert found_action == action


def test_more_rows_help_only_if_the_gain_is_clear_and_nothing_free_is_as_good() -> None:
    assert more_rows_help(CURVE)
    assert more_rows_help(CURVE, candidate("encoder", "meets", 170))
    assert not more_rows_help(CURVE, candidate("encoder", "meets", 182)), "90% today"
    unclear = replace(CURVE, predicted=(Prediction(2000, 0.62, 0.55, 0.69),))
    assert not more_rows_help(unclear) and dollars_per_point(unclear, Decimal(1)) is None
    flat = replace(CURVE, predicted=(), points_per_100=0.05)
    assert not more_rows_help(flat)
    assert dollars_per_point(CURVE, Decimal(1)) == 250
