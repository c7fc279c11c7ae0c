"""Counts the training rows whose label a model gave, by teacher, for the cards of a version, a plan and a result. The
labelling itself is in distillations.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from bot.context import CoreContext
from bot.rules.facts import Evidence
from bot.rules.plans import Plan, TaughtRows
from trainers.dataset import Report, read
from trainers.dataset.rows import question_key
from trainers.evaluation.results import find_best


def count_taught(context: CoreContext, plan: Plan, evidence: Evidence) -> tuple[TaughtRows, ...]:
    """Returns how many of the plan's training rows have the label that a teacher gave them, with the teacher's best
    measured score."""
    counts = _count(context, plan.dataset, plan.train_sha256)
    taught = []
    for teacher, count in counts.items():
        rows = TaughtRows(teacher, count)
        of_teacher = [candidate for candidate in evidence.candidates if candidate.model == teacher]
        best = find_best(of_teacher)
        if best is not None:
            # Rounded, since the plan with these numbers is hashed.
            rows = replace(
                rows,
                score=round(best.score, 6),
                low=round(best.low, 6),
                high=round(best.high, 6),
            )
        taught.append(rows)
    return tuple(taught)


def count_taught_in(context: CoreContext, dataset: str, report: Report) -> tuple[TaughtRows, ...]:
    """Returns the same for the training rows of a version, without the teachers' scores."""
    counts = _count(context, dataset, report.train_sha256)
    return tuple(TaughtRows(teacher, count) for teacher, count in counts.items())


def _count(context: CoreContext, dataset: str, train_sha256: str | None) -> dict[str, int]:
    """Counts by teacher. This reads the training rows if any teacher labelled rows of the dataset."""
    labels_by_teacher = _labels_by_teacher(context, dataset)
    path: Path = context.settings.files / f"{train_sha256}.jsonl"
    if not labels_by_teacher or not path.is_file():
        return {}
    counts = Counter[str]()
    for row in read(path, path.name).examples:
        key = question_key(row).hex()
        label = row.answer.strip()
        for teacher, labels in labels_by_teacher.items():
            if labels.get(key) == label:
                counts[teacher] += 1
    # A plan is hashed with the teachers in their order.
    return {teacher: counts[teacher] for teacher in labels_by_teacher if counts[teacher]}


def _labels_by_teacher(context: CoreContext, dataset: str) -> dict[str, dict[str, str]]:
    """Returns each teacher's labels of new rows, by the row's key."""
    store = context.store
    versions = [version.id for version in store.datasets.versions(dataset)]
    labels_by_teacher: dict[str, dict[str, str]] = {}
    for labelling in store.labellings.on(versions):
        if labelling.teacher is None or labelling.state not in ("closing", "done"):
            continue
        labels = labels_by_teacher.setdefault(labelling.teacher, {})
        answers = {answer.place: answer.label for answer in store.labellings.labels(labelling)}
        for row in store.labellings.rows(labelling):
            label = answers.get(row.place)
            if row.given is None and label is not None:
                labels[row.key] = label
    return labels_by_teacher
