"""Finds the held-out rows that people had read, with a wrong answer beside the right one, before they made a file of
training rows. Who adds or relabels training rows like those mends exactly these rows, so they count as wrong when a
claim is made about what learnt from that file. Writes nothing.

A sample of the rows that a training changed is posted in its thread (bot/cards/training/result_details.py), people
judge answers of a measurement (services/measurement/judge_checks.py, human_preferences.py), and they ask for wrong rows
(services/measurement/wrong_rows.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import lru_cache
from pathlib import Path

from bot.cards.training.result_details import SHOWN_CHANGES
from bot.rules.plans import plan_from_json
from bot.services.common import finished_measurements
from bot.services.common.finished_measurements import FinishedEvaluation
from bot.services.evidence.judge_worker import read_answers
from bot.values.runs import RunResult
from storage.records import Dataset, Run
from storage.shown_rows import ShownRows
from storage.store import Store
from trainers.dataset import Report, read
from trainers.dataset.rows import at, distinct_example_indices
from trainers.evaluation.prompts import question_of


def find_read_positions(store: Store, files: Path, dataset: str, holdout: str, train: str) -> tuple[int, ...]:
    """Returns the positions, among a holdout's scores, of the rows that people had read with a wrong answer before the
    training rows `train` were uploaded or made."""
    versions = store.datasets.versions(dataset)
    path = files / f"{holdout}.jsonl"
    with_rows = [version for version in versions if _has_rows(version, train)]
    if not with_rows or not path.is_file():
        return ()
    # The earliest version with these rows: what people read after it can't have shaped them.
    made_at = min(version.created_at for version in with_rows)
    ids = tuple(version.id for version in versions)
    keys: set[bytes] = set()
    for run in store.runs.done(ids):
        if run.state_since < made_at:
            keys |= _read_of_run(store, files, run)
    for evaluation in finished_measurements.evaluations(store, ids):
        keys |= _read_of_measurement(store, files, evaluation, made_at)
    for shown in store.shown_rows.on(ids):
        if shown.at < made_at:
            keys |= _shown_keys(files, shown)
    own_keys = question_keys(path)
    return tuple(position for position, key in enumerate(own_keys) if key in keys)


# A file's name is the hash of its content, so it never has to be read again.
@lru_cache(maxsize=16)
def question_keys(holdout: Path) -> tuple[bytes, ...]:
    """Returns a hash of the question of each row that is scored."""
    rows = read(holdout, holdout.name).examples
    positions = distinct_example_indices(rows)
    return tuple(at(positions, _keys_of_all_rows(holdout)))


@lru_cache(maxsize=16)
def _keys_of_all_rows(holdout: Path) -> tuple[bytes, ...]:
    rows = read(holdout, holdout.name).examples
    return tuple(_key(row.prompt[-1].content) for row in rows)


def _has_rows(version: Dataset, train: str) -> bool:
    if version.report is None:
        return False
    report = Report.from_json(version.report)
    return report.train_sha256 == train


def _read_of_run(store: Store, files: Path, run: Run) -> set[bytes]:
    """Returns the rows in a result's thread that the tuned model got wrong, and the untuned one right."""
    if not run.result:
        return set()
    result = RunResult.from_json(run.result)
    plan = plan_from_json(run.plan)
    path = files / f"{plan.holdout_sha256}.jsonl"
    if not result.shown_rows or not path.is_file():
        return set()
    base_answers = store.runs.answers(run.id, "base")
    tuned_answers = store.runs.answers(run.id, "tuned")
    worse = []
    for before, after in zip(base_answers, tuned_answers, strict=True):
        if before.correct and not after.correct:
            worse.append(before.row)
    shown = worse[:SHOWN_CHANGES]
    return set(at(shown, _keys_of_all_rows(path)))


def _read_of_measurement(
    store: Store, files: Path, evaluation: FinishedEvaluation, made_at: float
) -> set[bytes]:
    """Returns the rows of answers that the judge or a person found wrong, and those of compared answers. Of answers
    that are no longer stored it isn't known which these were: then all rows of the holdout were."""
    measurement = evaluation.measurement
    path = files / f"{evaluation.plan.holdout_sha256}.jsonl"
    compared = []
    for preference in store.preferences.of(measurement.id):
        if preference.at < made_at:
            compared.append(preference.row)
    rejected = set()
    for verdict in store.human_verdicts.on_measurement(measurement.id):
        is_rejected = "no" in (verdict.judged, verdict.verdict)
        if is_rejected and verdict.at < made_at:
            rejected.add(verdict.answer)
    if not (compared or rejected) or not path.is_file():
        return set()

    all_keys = _keys_of_all_rows(path)
    folder = files.parent / "measurements" / f"m{measurement.id}"
    questions = {answer.key: answer.question for answer in read_answers(folder)}
    if not rejected <= questions.keys():
        return set(all_keys)
    rejected_questions = {questions[key] for key in rejected}
    return {*at(compared, all_keys), *_keys_of_questions(path, rejected_questions)}


def _shown_keys(files: Path, shown: ShownRows) -> set[bytes]:
    path = files / f"{shown.holdout}.jsonl"
    if not path.is_file():
        return set()
    return set(at(shown.places, _keys_of_all_rows(path)))


def _keys_of_questions(holdout: Path, questions: Collection[str]) -> Sequence[bytes]:
    rows = read(holdout, holdout.name).examples
    keys = _keys_of_all_rows(holdout)
    matching = []
    for row, key in zip(rows, keys, strict=True):
        if question_of(row) in questions:
            matching.append(key)
    return matching


def _key(question: str) -> bytes:
    return hashlib.sha256(question.encode("utf-8", "surrogatepass")).digest()
