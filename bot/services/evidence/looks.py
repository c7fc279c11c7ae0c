"""Loads the history of looks at held-out rows, and gives stored candidates the look and the origin that decide how
strong a claim about them has to be. Writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from bot.context import CoreContext
from bot.rules.facts import Looks
from bot.rules.plans import plan_from_json
from bot.services.common import finished_measurements
from bot.services.common.finished_measurements import FinishedEvaluation
from bot.services.datasets import datasets
from bot.services.evidence.read_rows import find_read_positions, question_keys
from bot.values.evaluations import ComparisonPlan
from storage.records import Dataset, Run
from storage.runs import RunLook
from storage.store import Store
from trainers.dataset import Report
from trainers.evaluation.looks import DistinctCandidate, Look, Origin, find_new_looks, find_origin
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate

PLAIN_PROMPT = "zero"  # the only candidate of a measurement that learns nothing from training rows

TimedLook = tuple[float, Look]  # in unix seconds


def history(store: Store, dataset: str, holdout: str) -> tuple[Look, ...]:
    """Returns the looks at this holdout of a dataset, the oldest first, including those at the holdouts of earlier
    versions: their rows are still among these. A sealed part has only its own looks until it has joined a holdout."""
    versions = store.datasets.versions(dataset)
    ids = tuple(version.id for version in versions)
    contained = _contained_holdouts(versions, holdout)
    looks = [
        *_comparison_looks(store, ids),
        *_curve_looks(store, ids),
        *_run_looks(store, ids),
        *_row_looks(store, ids),
    ]
    looks.sort(key=lambda timed: timed[0])
    return tuple(look for _, look in looks if look.holdout in contained)


def load_looks(context: CoreContext, dataset: str, report: Report) -> Looks:
    """Returns how often people have seen scores on the held-out rows of the version with this report."""
    holdout = str(report.holdout_sha256)
    earlier = history(context.store, dataset, holdout)
    return Looks(
        count=len(find_new_looks(earlier)),
        rows=report.n_holdout,
        bar=datasets.bar_of(context, dataset),
        scoring=report.scoring or "label",
    )


def load_looks_at_run(context: CoreContext, run: Run) -> Looks | None:
    """Returns how often people have seen scores on the rows that a run was measured on, None if its dataset was
    deleted."""
    version = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(version)
    if report is None:
        return None
    return load_looks(context, version.name, report)


def candidates_with_looks(
    store: Store, files: Path, comparison: Comparison, plan: ComparisonPlan, looks: Sequence[Look]
) -> tuple[MeasuredCandidate, ...]:
    """Returns the candidates of a stored measurement, each with the look that measured it first. `looks` is the history
    of its holdout. The standings are still those of the stored comparison."""
    holdout = comparison.holdout_sha256
    read = find_read_positions(store, files, plan.dataset, holdout, plan.train_sha256)
    candidates = []
    for candidate in comparison.candidates:
        distinct = distinct_candidate(candidate.identity, plan)
        origin = find_origin(distinct, holdout, looks)
        fresh = None
        if origin.seen is not None:
            fresh = find_fresh_positions(files, holdout, origin.seen)
        # Only what learns from training rows can have learnt from rows that people had read.
        own_read = read if distinct.rows else ()
        with_look = replace(
            candidate,
            look=origin.look,
            choices=origin.choices,
            fresh=fresh,
            read=own_read,
        )
        candidates.append(with_look)
    return tuple(candidates)


def origin_of_run(store: Store, run: Run) -> Origin:
    """Returns how the model of a run came about. A run whose result isn't stored yet is the next look."""
    plan = plan_from_json(run.plan)
    tuned = _tuned(run.id, plan.provider, run.model)
    looks = history(store, plan.dataset, plan.holdout_sha256)
    return find_origin(tuned, plan.holdout_sha256, looks)


def next_look(looks: Iterable[Look]) -> int:
    """Returns the number of the look that something new would be."""
    return len(find_new_looks(looks)) + 1


def number_of_tuned(looks: Iterable[Look], run: Run) -> int:
    """Returns which of the tuned models that were measured on these rows the run's is: 1 for the first. A run whose
    result isn't stored yet is the next one."""
    tuned = [look.name for look in looks if _shows_tuned_model(look)]
    name = f"run {run.id}"
    if name in tuned:
        return tuned.index(name) + 1
    return len(tuned) + 1


def _shows_tuned_model(look: Look) -> bool:
    kinds = {candidate.identity.kind for candidate in look.candidates}
    return "tuned" in kinds


def distinct_candidate(candidate: Candidate, plan: ComparisonPlan) -> DistinctCandidate:
    """Returns a planned candidate with what distinguishes it from others of the same name."""
    if candidate.kind == "tuned":
        return DistinctCandidate(candidate)
    rows = plan.train_sha256
    if candidate.kind == PLAIN_PROMPT:
        rows = ""
    if candidate.model is None:
        return DistinctCandidate(candidate, rows=rows)
    if candidate.kind == "optimised":
        made_of = _hash([plan.optimised or ""])
        return DistinctCandidate(candidate, made_of=made_of, rows=rows)
    chosen = _chosen_by_people(candidate, plan)
    if not chosen:
        return DistinctCandidate(candidate, rows=rows)
    return DistinctCandidate(candidate, by_people=_hash(chosen), rows=rows)


def _chosen_by_people(candidate: Candidate, plan: ComparisonPlan) -> list[str]:
    """Returns what people chose for a prompted candidate, and may have chosen after a look: its prompt, its number of
    examples, its documents."""
    chosen = []
    prompt = (plan.prompt or "").strip()
    if prompt:
        chosen.append(prompt)
    if candidate.shots is not None and not plan.chooses_shots:
        chosen.append(f"{candidate.shots} examples")
    if candidate.kind == "retrieval":
        chosen += plan.documents
    return chosen


def find_fresh_positions(files: Path, holdout: str, seen: Iterable[str]) -> tuple[int, ...]:
    """Returns the positions, among a holdout's scores, of the rows that none of the holdouts in `seen` has. None of
    them is fresh if a file is gone."""
    path = files / f"{holdout}.jsonl"
    seen_paths = [files / f"{name}.jsonl" for name in seen]
    are_stored = all(file.is_file() for file in (path, *seen_paths))
    if not are_stored:
        return ()
    seen_keys = set[bytes]()
    for seen_path in seen_paths:
        seen_keys.update(question_keys(seen_path))
    own_keys = question_keys(path)
    return tuple(position for position, key in enumerate(own_keys) if key not in seen_keys)


def _contained_holdouts(versions: Sequence[Dataset], holdout: str) -> frozenset[str]:
    """Returns the hashes of the holdouts whose rows this one contains, itself included. `versions` are newest first."""
    contained = set[str]()
    for version in reversed(versions):
        if not version.report:
            continue
        report = Report.from_json(version.report)
        if report.holdout_sha256 == holdout:
            return frozenset({*contained, holdout})
        # Once they were opened, the sealed rows join the next version's holdout.
        contained |= {str(report.holdout_sha256), str(report.sealed_sha256)}
    return frozenset({holdout})


def _comparison_looks(store: Store, ids: tuple[int, ...]) -> list[TimedLook]:
    looks = []
    for evaluation in finished_measurements.evaluations(store, ids):
        # By the time of its result: one that ends later must not change the number of one that was shown before.
        shown_at = evaluation.comparison.measured_at
        looks.append((shown_at, _comparison_look(store, evaluation)))
    return looks


def _comparison_look(store: Store, evaluation: FinishedEvaluation) -> Look:
    measurement = evaluation.measurement
    plan = evaluation.plan
    failed = set()
    for progress in evaluation.progress.candidates:
        if progress.failed is not None:
            failed.add(progress.identity)
    # What failed showed nobody a score.
    measured = [candidate for candidate in plan.candidates if candidate not in failed]
    candidates = tuple(distinct_candidate(candidate, plan) for candidate in measured)
    # People who compare or judge answers read held-out questions.
    compared = store.preferences.of(measurement.id)
    judged = store.human_verdicts.on_measurement(measurement.id)
    shows_rows = bool(compared or judged)
    name = f"m{measurement.id}"
    return Look(name, plan.holdout_sha256, candidates, shows_rows)


def _curve_looks(store: Store, ids: tuple[int, ...]) -> list[TimedLook]:
    """Returns a look for each size of a tuned model's curve that no earlier curve or run has measured. Earlier versions
    trained such curves."""
    looks = []
    for finished in finished_measurements.curves(store, ids):
        curve = finished.trained
        if curve is None:
            continue
        measurement = finished.measurement
        name = f"m{measurement.id}"
        for size in curve.own_sizes:
            tuned = DistinctCandidate(Candidate("tuned", size.model), made_of=name)
            look = Look(name, curve.holdout_sha256, (tuned,))
            looks.append((measurement.updated_at, look))
    return looks


def _run_looks(store: Store, ids: tuple[int, ...]) -> list[TimedLook]:
    looks = []
    for run in store.runs.looks_on(ids):
        looks.append((run.state_since, _run_look(run)))
    return looks


def _row_looks(store: Store, ids: tuple[int, ...]) -> list[TimedLook]:
    """Returns a look for each time that somebody was shown rows with wrong answers."""
    looks = []
    for shown in store.shown_rows.on(ids):
        name = f"wrong rows of {shown.subject}"
        look = Look(name, shown.holdout, (), shows_rows=True)
        looks.append((shown.at, look))
    return looks


def _run_look(run: RunLook) -> Look:
    name = f"run {run.id}"
    tuned = _tuned(run.id, run.provider, run.model)
    return Look(name, run.holdout, (tuned,), run.shows_rows)


def _tuned(run_id: int, provider: str, model: str | None) -> DistinctCandidate:
    identity = Candidate("tuned", f"{provider}/{model}")
    return DistinctCandidate(identity, made_of=f"run {run_id}")


def _hash(texts: Iterable[str]) -> str:
    joined = "\0".join(texts)
    # People may paste half of a surrogate pair, which plain UTF-8 refuses.
    return hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()
