"""Counts the training rows whose label a model gave, by teacher, for the cards of a version, a plan and a result. The
labelling itself is in distillations.py."""

from __future__ import annotations

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
    taught = []
    for teacher, count in _count(context, plan.dataset, plan.train_sha256).items():
        measured = [rung for rung in evidence.rungs if rung.arm.model == teacher]
        best = find_best(measured)
        if best:
            score, low, high = (round(share, 6) for share in (best.score, best.low, best.high))
            taught.append(TaughtRows(teacher, count, score, low, high))
        else:
            taught.append(TaughtRows(teacher, count))
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
    rows = [(question_key(row).hex(), row.answer.strip()) for row in read(path, path.name).examples]
    counts = {
        teacher: sum(labels.get(key) == label for key, label in rows)
        for teacher, labels in labels_by_teacher.items()
    }
    return {teacher: count for teacher, count in counts.items() if count}


def _labels_by_teacher(context: CoreContext, dataset: str) -> dict[str, dict[str, str]]:
    """Returns each teacher's labels of new rows, by the row's key."""
    versions = [version.id for version in context.store.datasets.versions(dataset)]
    labels: dict[str, dict[str, str]] = {}
    for labelling in context.store.labellings.on(versions):
        if labelling.teacher is None or labelling.state not in ("closing", "done"):
            continue
        answers = {answer.place: answer.label for answer in context.store.labellings.labels(labelling)}
        for row in context.store.labellings.rows(labelling):
            label = answers.get(row.place)
            if row.given is None and label is not None:
                labels.setdefault(labelling.teacher, {})[row.key] = label
    return labels
