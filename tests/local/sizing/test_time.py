"""Time estimates compared with a real training, in CPU seconds, so that other work on the machine doesn't count."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.local.runs import make_job
from tests.local.sizing.test_memory import MAKE_SMOLLM, ROOT, SMOLLM
from trainers.dataset import Columns, check_file
from trainers.methods import Parameters
from trainers.models.base_models import Base, find_base
from trainers.sizing.training_time import Calibration, RowLengths, read_calibration, training_seconds

TICKETS = ROOT / "examples" / "support_tickets.csv"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
ROWS, TOLERANCE = 128, 0.20


@pytest.mark.parametrize(
    ("packs", "by_rows"), [("CPU_PACKS", True), ("GPU_PACKS", True), ("GPU_PACKS", False)]
)
def test_a_machines_speed_is_recovered_from_its_times(packs: str, by_rows: bool) -> None:
    """A GPU's packs also have several rows each. Attention within rows costs less than over the whole pack."""
    from trainers.local import calibrate
    from trainers.local.calibrate import RANK, Lengths, _fit
    from trainers.sizing.training_time import operations

    base = find_base("smollm2-135m")
    assert isinstance(base, Base)
    shape = base.architecture

    def seconds(lengths: Lengths) -> float:
        pack, row = lengths
        return (
            shape.layers * 0.002
            + pack * operations(shape, RANK) / 1e11
            + shape.layers * 9 * pack * (row if by_rows else pack) * 1e-8
        )

    packed: tuple[Lengths, ...] = getattr(calibrate, packs)
    assert any(pack > row for pack, row in packed)
    times = {lengths: seconds(lengths) for lengths in packed}
    layer_s, operation_s, pair_s = _fit(shape, times, by_rows=by_rows)
    assert (layer_s, 1 / operation_s, pair_s) == pytest.approx((0.002, 1e11, 1e-8), rel=1e-3)


def test_times_that_do_not_grow_with_the_work_give_a_speed() -> None:
    """As on a machine that other programs use now and then."""
    from trainers.local import calibrate

    base = find_base("smollm2-135m")
    assert isinstance(base, Base)
    times = {lengths: 1.0 / sum(lengths) for lengths in calibrate.CPU_PACKS}
    layer_s, operation_s, pair_s = calibrate._fit(base.architecture, times)
    assert operation_s > 0 and (layer_s, pair_s) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.usefixtures("real_processes")
def test_a_training_on_support_tickets_takes_the_estimated_time(tmp_path: Path) -> None:
    assert SMOLLM.exists(), MAKE_SMOLLM
    report = check_file(TICKETS, TICKETS.name, Columns(), tmp_path, 1)
    lines = (tmp_path / f"{report.train_sha256}.jsonl").read_text().splitlines()[:ROWS]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    estimate = estimate_seconds(tmp_path / "train.jsonl", calibrate_machine(tmp_path))
    settings = Parameters(n_epochs=1)
    job = make_job(tmp_path / "job", SMOLLM, tmp_path / "train.jsonl", settings)
    assert estimate == pytest.approx(measure_training(job), rel=TOLERANCE)
    assert json.loads((job / "DONE").read_text())["trained_tokens"] > 0


def calibrate_machine(folder: Path) -> Calibration:
    command = [sys.executable, "-m", "trainers.local.calibrate", "--seconds", "40", "--processor-time"]
    done = subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, text=True, timeout=600)
    (folder / "calibration.json").write_text(done.stdout)
    calibration = read_calibration(folder / "calibration.json")
    assert calibration is not None, done.stderr
    return calibration


def estimate_seconds(file: Path, machine: Calibration) -> float:
    from trainers.local.training.base_model import load_tokenizer
    from trainers.local.training.data import read_rows
    from trainers.local.training.packing import shared_prefix_length

    base = find_base(str(SMOLLM))
    assert isinstance(base, Base)
    rows = read_rows(file, load_tokenizer(str(SMOLLM)), 1024, "training_file")
    count, answer = len(rows.rows), sum(sum(row.supervised) for row in rows.rows)
    mean = RowLengths(count, rows.tokens / count, 8, 1, shared_prefix_length(rows.rows), answer / count)
    return training_seconds(base.architecture, mean, machine)


def measure_training(job: Path) -> float:
    """Returns the CPU seconds of a training in a process of its own."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "trainers.local.train", str(job)]
    subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, timeout=900, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
