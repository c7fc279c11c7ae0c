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
from storage.store import Store
from trainers.dataset import Report, read
from trainers.dataset.rows import Example, at, distinct_example_indices
from trainers.evaluation.prompts import question_of


def find_read_positions(
    store: Store,
    files: Path,
    dataset: str,
    holdout: str,
    train: str,
) -> tuple[int, ...]:
    """Returns the positions, among a holdout's scores, of the rows that people had read with a wrong answer before the
    training rows `train` were uploaded or made."""
    path = files / f"{holdout}.jsonl"
    versions = store.datasets.versions(dataset)
    made_at = _first_made_at(versions, train)
    if made_at is None or not path.is_file():
        return ()
    ids = tuple(version.id for version in versions)
    read_keys = _read_before(store, files, ids, made_at)
    own_keys = question_keys(path)
    return tuple(position for position, key in enumerate(own_keys) if key in read_keys)


# A file's name is the hash of its content, so it never has to be read again.
@lru_cache(maxsize=16)
def question_keys(holdout: Path) -> tuple[bytes, ...]:
    """Returns a hash of the question of each row that is scored."""
    rows = _examples(holdout)
    positions = distinct_example_indices(rows)
    all_keys = _keys_of_all_rows(holdout)
    return at(positions, all_keys)


@lru_cache(maxsize=16)
def _keys_of_all_rows(holdout: Path) -> tuple[bytes, ...]:
    questions = [row.prompt[-1].content for row in _examples(holdout)]
    return tuple(map(_key, questions))


def _examples(holdout: Path) -> Sequence[Example]:
    return read(holdout, holdout.name).examples


def _key(question: str) -> bytes:
    encoded = question.encode("utf-8", "surrogatepass")
    return hashlib.sha256(encoded).digest()


def _first_made_at(versions: Sequence[Dataset], train: str) -> float | None:
    """Returns when the earliest version with these training rows was made: what people read after it can't have shaped
    them. None if no version has them."""
    times = [version.created_at for version in versions if _has_rows(version, train)]
    return min(times, default=None)


def _has_rows(version: Dataset, train: str) -> bool:
    if version.report is None:
        return False
    report = Report.from_json(version.report)
    return report.train_sha256 == train


def _read_before(store: Store, files: Path, ids: tuple[int, ...], made_at: float) -> set[bytes]:
    """Returns the rows of these versions' holdouts that people had read before `made_at` (unix seconds)."""
    keys: set[bytes] = set()
    for run in store.runs.done(ids):
        if run.state_since < made_at:
            keys |= _read_of_run(store, files, run)
    for evaluation in finished_measurements.evaluations(store, ids):
        keys |= _read_of_measurement(store, files, evaluation, made_at)
    for shown in store.shown_rows.on(ids):
        if shown.at < made_at:
            keys |= _keys_at(files, shown.holdout, shown.places)
    return keys


def _read_of_run(store: Store, files: Path, run: Run) -> set[bytes]:
    """Returns the rows in a result's thread that the tuned model got wrong, and the untuned one right."""
    if not run.result:
        return set()
    result = RunResult.from_json(run.result)
    if not result.shown_rows:
        return set()
    base_answers = store.runs.answers(run.id, "base")
    tuned_answers = store.runs.answers(run.id, "tuned")
    worse = []
    for before, after in zip(base_answers, tuned_answers, strict=True):
        if before.correct and not after.correct:
            worse.append(before.row)
    plan = plan_from_json(run.plan)
    return _keys_at(files, plan.holdout_sha256, worse[:SHOWN_CHANGES])


def _read_of_measurement(
    store: Store, files: Path, evaluation: FinishedEvaluation, made_at: float
) -> set[bytes]:
    """Returns the rows of answers that the judge or a person found wrong, and those of compared answers. Of answers
    that are no longer stored it isn't known which these were: then all rows of the holdout were."""
    measurement_id = evaluation.measurement.id
    holdout = evaluation.plan.holdout_sha256
    path = files / f"{holdout}.jsonl"
    compared = _compared_rows(store, measurement_id, made_at)
    rejected = _rejected_answers(store, measurement_id, made_at)
    has_read = bool(compared or rejected)
    if not has_read or not path.is_file():
        return set()

    all_keys = _keys_of_all_rows(path)
    folder = files.parent / "measurements" / f"m{measurement_id}"
    questions = {answer.key: answer.question for answer in read_answers(folder)}
    if not rejected <= questions.keys():
        return set(all_keys)
    rejected_questions = {questions[key] for key in rejected}
    compared_keys = at(compared, all_keys)
    rejected_keys = _keys_of_questions(path, rejected_questions)
    return {*compared_keys, *rejected_keys}


def _compared_rows(store: Store, measurement_id: int, made_at: float) -> list[int]:
    rows = []
    for preference in store.preferences.of(measurement_id):
        if preference.at < made_at:
            rows.append(preference.row)
    return rows


def _rejected_answers(store: Store, measurement_id: int, made_at: float) -> set[str]:
    """Returns the keys of the answers that the judge or a person found wrong."""
    keys = set()
    for verdict in store.human_verdicts.on_measurement(measurement_id):
        is_rejected = "no" in (verdict.judged, verdict.verdict)
        if is_rejected and verdict.at < made_at:
            keys.add(verdict.answer)
    return keys


def _keys_at(files: Path, holdout: str, rows: Sequence[int]) -> set[bytes]:
    """Returns the hashes of the questions of these rows of a holdout; none if its file is gone."""
    path = files / f"{holdout}.jsonl"
    if not path.is_file():
        return set()
    return set(at(rows, _keys_of_all_rows(path)))


def _keys_of_questions(holdout: Path, questions: Collection[str]) -> Sequence[bytes]:
    rows = _examples(holdout)
    keys = _keys_of_all_rows(holdout)
    matching = []
    for row, key in zip(rows, keys, strict=True):
        if question_of(row) in questions:
            matching.append(key)
    return matching
