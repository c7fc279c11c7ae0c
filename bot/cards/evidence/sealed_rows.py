"""Opening sealed rows: the question before it, and the result with the decision about the model. The progress in
between is that of any measurement (evaluations.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from bot.cards.common.blocks import Message, button, code, escape
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import bar_share, long_name, opened_before, quality
from bot.cards.common.judge_agreement import bias_warning, judged_models, max_judge_questions
from bot.cards.common.plan_money import budget_left
from bot.cards.common.words import at_most, pluralize, shorten, versioned
from bot.cards.datasets.datasets import UPLOAD_AGAIN
from bot.cards.evidence.evaluation_results import DETAILS, candidate_lines, table
from bot.cards.evidence.evaluations import CANCEL, EXPIRY, measure_button, price_text
from bot.rules.budgets import Budget
from bot.values.evaluations import ComparisonPlan, ComparisonProgress, SealedOutcome
from storage.records import Measurement
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate


@dataclass(frozen=True)
class SealedTest:
    """What decides about the tuned model `model`. `names` are the tuned models' names by 'provider/model', `used` is
    the model in use, and `opened` counts the earlier tests on these rows."""

    model: str
    names: Mapping[str, str]
    used: str | None = None
    opened: int = 0


def request_card(
    measurement: Measurement,
    plan: ComparisonPlan,
    progress: ComparisonProgress,
    budget: Budget,
    test: SealedTest,
) -> Message:
    """Asks whether the rows may be opened: what they decide, and what happens afterwards."""
    rows = f"the {pluralize(plan.n_holdout, 'sealed row')} of {shorten(plan.title)}"
    times = "once"
    if test.opened:
        times = "again"
    price = price_text(progress)
    headline = f"Open {rows}, {times}, to decide on {shorten(test.model, 40)}, {price}?"
    parts = Parts()
    parts.text(_consequence(test))
    parts.facts(_facts(plan, progress, budget))
    parts.lines([f"• {escape(text)}" for text in _asked(plan, test)])
    if test.opened:
        parts.note(f"⚠ {opened_before(test.opened)}")
    warning = bias_warning(plan.judge, judged_models(plan))
    if warning:
        parts.note(f"⚠ {escape(warning)}")
    parts.buttons(
        measure_button(measurement, plan, progress),
        button("Cancel", CANCEL, str(measurement.id)),
    )
    parts.note(
        f"Measurement m{measurement.id}, requested by <@{measurement.requested_by}>. Only people who may deploy "
        f"models can open the rows. {EXPIRY}"
    )
    return parts.titled(headline)


def result_card(
    comparison: Comparison, number: int, test: SealedTest, outcome: SealedOutcome | None
) -> Message:
    """The decision, then the scores that it rests on. `outcome` is None if an older version of the bot decided."""
    named = name_models(comparison, test)
    candidate = next((each for each in named.candidates if each.model == test.model), None)
    dataset = versioned(escape(shorten(comparison.dataset)), comparison.version)

    parts = Parts()
    parts.note(f"Measurement m{number}: {dataset}, {pluralize(comparison.n, 'sealed row')}, now opened")
    wide = table(named, named.candidates, "sealed row")
    parts.add(replace(wide, otherwise=(candidate_lines(named, named.candidates),)))
    if outcome and outcome.why:
        parts.text(outcome.why)
    parts.text(f"*Next*: {_next_step(comparison, test, outcome)}")
    buttons = [button("Details", DETAILS, str(number))]
    # The opened rows are used up, so another try needs new ones.
    if outcome and not outcome.is_deployed:
        buttons.insert(0, button("Upload more rows", UPLOAD_AGAIN, comparison.dataset, style="primary"))
    parts.buttons(*buttons)
    return parts.titled(_headline(test.model, candidate, comparison, outcome))


def headline(comparison: Comparison, test: SealedTest, outcome: SealedOutcome | None) -> str:
    """The decision with the model's score, as plain text."""
    named = name_models(comparison, test)
    candidate = next((each for each in named.candidates if each.model == test.model), None)
    return _headline(test.model, candidate, comparison, outcome)


def name_models(comparison: Comparison, test: SealedTest) -> Comparison:
    """The comparison with the names that people gave to the tuned models, in place of the vendor's ids."""

    def named(candidate: Candidate) -> Candidate:
        return replace(candidate, model=test.names.get(candidate.model or "", candidate.model))

    def named_candidate(candidate: MeasuredCandidate) -> MeasuredCandidate:
        return replace(candidate, identity=named(candidate.identity))

    cheapest = None
    if comparison.cheapest:
        cheapest = named(comparison.cheapest)
    pairs = []
    for pair in comparison.pairs:
        pairs.append(replace(pair, better=named(pair.better), worse=named(pair.worse)))
    return replace(
        comparison,
        candidates=tuple(map(named_candidate, comparison.candidates)),
        pairs=tuple(pairs),
        cheapest=cheapest,
    )


def _headline(
    model: str, candidate: MeasuredCandidate | None, comparison: Comparison, outcome: SealedOutcome | None
) -> str:
    score = ""
    if candidate:
        score = f": {quality(candidate)} on {pluralize(comparison.n, 'sealed row')}"
    name = shorten(model, 40)
    if outcome is None:
        return f"The sealed rows of {shorten(comparison.dataset)} were opened to decide on {name}{score}"
    if outcome.is_deployed:
        return f"{name} passed and is in use{score}"
    return f"{name} was not deployed{score}"


def _next_step(comparison: Comparison, test: SealedTest, outcome: SealedOutcome | None) -> str:
    if outcome is None:
        return "`/finetune models` shows which model is in use."
    if outcome.is_deployed and test.used:
        return f"Nothing is left to do. `/finetune rollback {comparison.dataset}` goes back to {code(test.used)}."
    if outcome.is_deployed:
        return "Nothing is left to do. `/finetune models` shows every model in use."
    return (
        "Train on more rows, and seal new ones at the upload: from the next version on, the opened rows are held-out "
        "rows like the others."
    )


def _consequence(test: SealedTest) -> str:
    deployed = "deployed"
    if test.used:
        deployed = f"deployed in place of {code(test.used)}"
    return (
        f"*If {code(test.model)} passes, it is {deployed} at once.* If not, nothing changes. Opened rows can't be "
        "sealed again: from the next version on, they are held-out rows like the others."
    )


def _facts(plan: ComparisonPlan, progress: ComparisonProgress, budget: Budget) -> list[tuple[str, str]]:
    questions = progress.of - progress.answered
    pairs = [
        ("Cost", at_most(progress.most_micros)),
        ("Budget left", budget_left(budget)),
        ("Questions", f"{questions:,}, on {pluralize(plan.n_holdout, 'sealed row')}"),
        ("Quality bar", bar_share(plan.bar)),
    ]
    if plan.judge is not None:
        most = pluralize(max_judge_questions(plan), "question")
        judge = escape(shorten(plan.judge, 60))
        pairs.append(("Judge", f"{judge}, up to {most}"))
    return pairs


def _asked(plan: ComparisonPlan, test: SealedTest) -> list[str]:
    """Who answers the rows, and why; the model to decide on first."""

    def is_compared(candidate: Candidate) -> bool:
        return test.names.get(candidate.model or "") != test.model

    return [_role(candidate, test) for candidate in sorted(plan.candidates, key=is_compared)]


def _role(candidate: Candidate, test: SealedTest) -> str:
    name = test.names.get(candidate.model or "", candidate.model)
    if name == test.model:
        return f"{shorten(name, 60)}: the model to decide on"
    if name and name == test.used:
        return f"{shorten(name, 60)}: the model in use"
    other = long_name(candidate)
    if name:
        other += f" on {shorten(name, 60)}"
    return f"{other}: what it is compared with"
