"""The sentences that a measurement's numbers need beside them, the same on its card and on its report's page."""

from __future__ import annotations

from bot.cards.common import judge_agreement
from bot.cards.common.candidates import looks_sentence, older_scoring_text, several_labels_text
from bot.cards.evidence import evaluations as views
from bot.cards.evidence import prompt_search as prompt_views
from bot.rules.facts import Looks
from bot.rules.judge_agreement import JudgeChecks
from bot.services.datasets import datasets
from bot.services.evidence import looks
from bot.values.evaluations import ComparisonPlan, ComparisonProgress
from storage.records import Measurement
from storage.store import Store
from trainers.evaluation.looks import find_new_looks
from trainers.evaluation.results import Comparison

LOOKS_ON_CARD = 2  # the first one costs nothing


def card_notes(
    store: Store, measurement: Measurement, comparison: Comparison, people: JudgeChecks
) -> list[str]:
    """Returns what matters to a decision. `comparison` has everything that is known on these rows, and `people` is what
    they said about the judge."""
    plan = ComparisonPlan.from_json(measurement.plan)
    progress = ComparisonProgress.from_json(measurement.progress)
    notes = []
    if progress.search:
        notes.append(prompt_views.outcome(progress.search))
    notes += judge_notes(store, measurement, comparison, people)[:1]
    notes += [*views.fewer_examples(plan), *views.unknown_kind(plan), *views.left_out(progress.candidates)]
    notes += looks_notes(store, measurement, comparison, from_look=LOOKS_ON_CARD)
    report = datasets.report_of(store.datasets.get(measurement.dataset_id))
    if report and report.n_combined:
        notes.append(several_labels_text(report.n_combined))
    return notes


def judge_notes(
    store: Store, measurement: Measurement, comparison: Comparison, people: JudgeChecks
) -> list[str]:
    """Says who or what decided which answers are right, and what that is worth."""
    older = _older_scoring(store, measurement, comparison)
    if older:
        return [older]
    plan = ComparisonPlan.from_json(measurement.plan)
    judge = ComparisonProgress.from_json(measurement.progress).judge
    models = judge_agreement.judged_models(plan)
    return judge_agreement.judge_notes(plan.judge, models, judge, comparison, people)


def _older_scoring(store: Store, measurement: Measurement, comparison: Comparison) -> str | None:
    """Says that an older version scored these answers as texts, None if they are texts."""
    if comparison.scoring != "f1" or comparison.calls:
        return None
    own = store.datasets.get(measurement.dataset_id)
    # What kind of answers a version has is known only if it was checked since; the rows may be the same.
    for version in (own, store.datasets.newest(own.name)):
        report = datasets.report_of(version) if version else None
        if report and report.holdout_sha256 == comparison.holdout_sha256 and report.scoring:
            return older_scoring_text(report)
    return None


def looks_notes(
    store: Store, measurement: Measurement, comparison: Comparison, from_look: int = 0
) -> list[str]:
    """Says how often people have seen scores on these rows, and what a claim costs now. Nothing before `from_look`, and
    if other rows are held out by now."""
    version = store.datasets.get(measurement.dataset_id)
    report = datasets.report_of(version)
    if report is None or report.holdout_sha256 != comparison.holdout_sha256:
        return []
    history = looks.history(store, version.name, comparison.holdout_sha256)
    seen = Looks(
        count=len(find_new_looks(history)),
        rows=report.n_holdout,
        bar=comparison.bar,
        scoring=report.scoring or comparison.scoring,
    )
    return [looks_sentence(seen)] if seen.count >= from_look else []


def withheld_notes(plan: ComparisonPlan) -> list[str]:
    if (
        not plan.documents
        or not plan.withheld_from
        or not any(candidate.kind == "retrieval" for candidate in plan.candidates)
    ):
        return []
    whom = ", ".join(plan.withheld_from)
    return [
        f"Passages with personal data were kept from {whom}: nobody has recorded a waiver for this dataset since "
        "its documents were added."
    ]
