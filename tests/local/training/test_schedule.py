"""How long a run trains, which checkpoint is its result, and which rows it uses: rules, without a model."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from trainers.local.stored_rows import StoredRows
from trainers.local.training.checkpoints import checkpoint_folder, delete_old_checkpoints, list_checkpoints
from trainers.local.training.data import ROW_FEATURES, Row, filter_rows
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.metrics_logger import MetricsLogger, Scores, Step
from trainers.local.training.schedule import (
    Pace,
    Position,
    Validation,
    best_validation,
    is_out_of_patience,
    is_over_ceiling,
    is_validation_due,
    result_sentence,
    stop_sentence,
)
from trainers.methods import Parameters


def row(tokens: int, answer: int) -> Row:
    """The last `answer` tokens are learnt."""
    return Row(tokens, list(range(tokens)), [False] * (tokens - answer) + [True] * answer)


def store(*rows: Row) -> StoredRows[Row]:
    columns = {
        "line": [each.line for each in rows],
        "ids": [each.ids for each in rows],
        "supervised": [each.supervised for each in rows],
    }
    return StoredRows.of(pa.table(columns, ROW_FEATURES.arrow_schema), Row)


LONG = store(row(8, 2), row(12, 4), row(30, 3))


def test_stored_rows_are_read_as_they_were_written() -> None:
    rows = [row(8, 2), Row(3, [], []), Row(4, [7, 8, 9], [False, True, False]), row(30, 3)]
    stored = store(*rows)
    assert list(stored) == rows
    assert [stored[place] for place in (-1, 0)] == [rows[-1], rows[0]]
    assert list(stored[1:3]) == rows[1:3]
    assert list(stored.take(np.array([2, 0]))) == [rows[2], rows[0]]
    assert stored.lengths.tolist() == [8, 0, 3, 30]
    assert stored.ends.tolist() == [8, 0, 2, 30]
    assert stored.firsts.tolist() == [6, 0, 1, 27]
    assert (stored.lines.tolist(), stored.largest_id) == ([8, 3, 4, 30], 29)


def test_stored_rows_may_be_in_several_parts_of_a_table() -> None:
    rows = [row(tokens, 2) for tokens in range(3, 20)]
    table = store(*rows).table
    parts = pa.concat_tables([table.slice(0, 5), table.slice(5, 1), table.slice(6)])
    stored = StoredRows.of(parts, Row)
    assert list(stored) == rows
    assert stored.ends.tolist() == [each.length for each in rows]
    assert stored.firsts.tolist() == [each.first_target for each in rows]


def test_too_long_rows_are_left_out_truncated_or_refused() -> None:
    left_out = filter_rows(LONG, 10, "training_file")
    assert ([r.line for r in left_out.rows], left_out.too_long, left_out.cut) == ([8], 2, 0)
    cut = filter_rows(LONG, 10, "training_file", "truncate")
    assert ([len(r.ids) for r in cut.rows], cut.too_long, cut.cut) == ([8, 10], 1, 1)
    with pytest.raises(TrainingFailed) as caught:
        filter_rows(LONG, 10, "training_file", "refuse")
    assert caught.value.message == (
        "2 rows of the training file are longer than max_length 10 tokens, the first in line 12, and too_long is "
        "'refuse'. Shorten them, set max_length to 30, or set too_long to 'leave_out' or 'truncate'."
    )


def validations(*losses: float) -> tuple[Validation, ...]:
    return tuple(Validation(10 * number, loss, 0.5) for number, loss in enumerate(losses, start=1))


@pytest.mark.parametrize(
    ("losses", "patience", "expected"),
    [
        ((), 1, False),
        ((0.5,), 1, False),
        ((0.5, 0.6), 1, True),
        ((0.5, 0.6), 2, False),
        ((0.5, 0.6, 0.5), 2, True),
        ((0.5, 0.6, 0.4), 2, False),
        ((0.5, 0.6, 0.7, 0.8), None, False),
    ],
)
def test_patience_counts_validations_since_the_lowest_loss(
    losses: tuple[float, ...], patience: int | None, expected: bool
) -> None:
    assert is_out_of_patience(validations(*losses), patience) is expected


def test_of_equal_validations_the_first_is_the_best() -> None:
    lowest = best_validation(validations(0.6, 0.5, 0.5))
    assert lowest is not None
    assert lowest.step == 20


def test_a_validation_is_due_at_each_epochs_end_and_every_eval_steps() -> None:
    assert [s for s in range(1, 21) if is_validation_due(s, 10, Parameters())] == [10, 20]
    assert [s for s in range(1, 21) if is_validation_due(s, 10, Parameters(eval_steps=4))] == [
        4,
        8,
        10,
        12,
        16,
        20,
    ]


def test_a_ceiling_leaves_time_for_a_step_and_its_validation() -> None:
    pace = Pace(step_s=2.0, validation_s=None, validation_guess_s=3.0)
    assert not is_over_ceiling(95.0, pace, 100.0)
    assert is_over_ceiling(95.1, pace, 100.0)
    assert is_over_ceiling(88.0, replace(pace, validation_s=10.5), 100.0)
    assert not is_over_ceiling(1e9, pace, None)


def test_the_slow_first_step_of_a_process_says_little_about_its_pace() -> None:
    first = Pace(0.0, None, 0.0).after_step(60.0, 1200.0)
    assert (first.step_s, first.validation_guess_s) == (60.0, 0.0)
    assert Pace(5.0, None, 0.0).after_step(60.0, 1200.0).step_s == 5.0  # known from before a break
    assert first.after_step(6.0, 120.0).needed_s == 126.0


def test_the_lower_of_two_ceilings_applies_and_is_named() -> None:
    settings = Parameters(max_seconds=7200, max_usd_micros=2_000_000, usd_per_hour_micros=1_000_000)
    assert settings.ceiling_s == 7200
    dear = replace(settings, usd_per_hour_micros=4_000_000)
    assert dear.ceiling_s == 1800
    position = Position(40, 12_000, 1799.0, validations(0.5, 0.4))
    assert stop_sentence("ceiling", position, 100, dear) == (
        "Stopped at step 40/100: the ceiling of $2.00 at $4.00 an hour (1,800 s) leaves no time for another step. "
        "Reached: 12,000 tokens in 1,799 s, validation loss 0.4000 at best."
    )
    assert "the ceiling of 7,200 s leaves" in stop_sentence("ceiling", position, 100, settings)


def test_the_result_is_explained_only_if_validations_chose_it() -> None:
    assert result_sentence(Position(40, 1, 1.0), 40) is None
    assert (result_sentence(Position(30, 1, 1.0, validations(0.5, 0.4, 0.6)), 40) or "").startswith(
        "The result is the checkpoint of step 20/40: its validation loss of 0.4000 is the lowest"
    )


@pytest.mark.deep
def test_a_processs_slow_first_step_does_not_count_in_its_pace(tmp_path: Path) -> None:
    """It also reads the weights and prepares kernels, which once predicted an end hours too late."""
    for first in (1, 3):  # as a new and as a resumed process
        logger = MetricsLogger(tmp_path)
        logger.begin(after=first - 1)
        for number, seconds in ((first, 1.0), (first + 1, 0.01)):
            time.sleep(seconds)
            logger.record(Step(number, first + 1, Scores(2.0, None), 1e-3, 8 * number))
        logger.end(is_done=False)
        assert logger.step_s is not None
        assert logger.step_s < 0.5


def test_checkpoints_are_ordered_by_step_beyond_six_digits(tmp_path: Path) -> None:
    for step in (999_998, 999_999, 1_000_000, 1_000_001):
        checkpoint_folder(tmp_path, step).mkdir(parents=True)
    delete_old_checkpoints(tmp_path, Position(1_000_001, 0, 0.0), keep=3)
    assert [path.name for path in list_checkpoints(tmp_path)] == [
        "step-999999",
        "step-1000000",
        "step-1000001",
    ]
