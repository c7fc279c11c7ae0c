"""The time that is foreseen beside a real training, in seconds of the processor: other work on the machine counts in
neither."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.base_models import Base, find_base
from trainers.dataset import Columns, check_file
from trainers.local.job_directory import TrainingJob, write_job
from trainers.methods import Parameters
from trainers.sizing.training_time import Calibration, RowLengths, read_calibration, training_seconds

ROOT = Path(__file__).parents[2]
SMOLLM = ROOT / ".cache" / "smollm2-135m"
TICKETS = ROOT / "examples" / "support_tickets.csv"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
ROWS, TOLERANCE = 128, 0.20


@pytest.mark.parametrize(
    ("packs", "by_rows"), [("CPU_PACKS", True), ("GPU_PACKS", True), ("GPU_PACKS", False)]
)
def test_times_that_a_machine_would_take_give_back_its_speed(packs: str, by_rows: bool) -> None:
    """A GPU's packs have several rows too: what is timed is what keeps them apart."""
    from trainers.local import calibrate
    from trainers.local.calibrate import RANK, Lengths, _fit
    from trainers.sizing.training_time import operations

    base = find_base("smollm2-135m")
    assert isinstance(base, Base)
    shape = base.architecture

    def taken(lengths: Lengths) -> float:
        pack, row = lengths
        return (
            shape.layers * 0.002
            + pack * operations(shape, RANK) / 1e11
            + shape.layers * 9 * pack * (row if by_rows else pack) * 1e-8
        )

    measured: tuple[Lengths, ...] = getattr(calibrate, packs)
    assert any(pack > row for pack, row in measured)
    times = {lengths: taken(lengths) for lengths in measured}
    layer_s, an_operation, pair_s = _fit(shape, times, by_rows=by_rows)
    assert (layer_s, 1 / an_operation, pair_s) == pytest.approx((0.002, 1e11, 1e-8), rel=1e-3)


def test_times_that_do_not_grow_with_the_work_still_give_a_speed() -> None:
    """As on a machine that something else takes away now and then."""
    from trainers.local import calibrate

    base = find_base("smollm2-135m")
    assert isinstance(base, Base)
    times = {lengths: 1.0 / sum(lengths) for lengths in calibrate.CPU_PACKS}
    layer_s, an_operation, pair_s = calibrate._fit(base.architecture, times)
    assert an_operation > 0 and (layer_s, pair_s) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("real_processes")
def test_a_training_on_support_tickets_takes_the_time_that_was_foreseen(tmp_path: Path) -> None:
    assert SMOLLM.exists(), "make it with: python -m trainers.local.demo_model .cache/smollm2-135m"
    report = check_file(TICKETS, TICKETS.name, Columns(), tmp_path, 1)
    lines = (tmp_path / f"{report.train_sha256}.jsonl").read_text().splitlines()[:ROWS]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    expected = foreseen(tmp_path / "train.jsonl", measured(tmp_path))
    assert expected == pytest.approx(trained(tmp_path), rel=TOLERANCE)


def measured(folder: Path) -> Calibration:
    command = [sys.executable, "-m", "trainers.local.calibrate", "--seconds", "40", "--processor-time"]
    done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True, timeout=600)
    (folder / "calibration.json").write_text(done.stdout)
    found = read_calibration(folder / "calibration.json")
    assert found is not None, done.stderr
    return found


def foreseen(file: Path, machine: Calibration) -> float:
    from trainers.local.training.base_model import load_tokenizer
    from trainers.local.training.data import read_rows
    from trainers.local.training.packing import shared_prefix_length

    base = find_base(str(SMOLLM))
    assert isinstance(base, Base)
    rows = read_rows(file, load_tokenizer(str(SMOLLM)), 1024, "training_file")
    count, answer = len(rows.rows), sum(sum(row.supervised) for row in rows.rows)
    mean = RowLengths(count, rows.tokens / count, 8, 1, shared_prefix_length(rows.rows), answer / count)
    return training_seconds(base.architecture, mean, machine)


def trained(folder: Path) -> float:
    job = folder / "job"
    job.mkdir()
    file, settings = str(folder / "train.jsonl"), Parameters(n_epochs=1)
    write_job(
        job, TrainingJob("ftjob-1", str(SMOLLM), "smol", file, None, 1, settings, None, {}, created_at=0)
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "trainers.local.train", str(job)]
    subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, timeout=900, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert json.loads((job / "DONE").read_text())["trained_tokens"] > 0
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
