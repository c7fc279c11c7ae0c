"""Preference pairs: memory estimates compared with measured peaks, within 15% (of toys their growth,
within 25%), and time estimates, within 20%.

Each training is TRL's own loop in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.local.preferences import pair
from tests.local.runs import make_job
from tests.local.sizing.test_memory import (
    MAKE_SMOLLM,
    SMOLLM,
    Case,
    compare_growth,
    compare_totals,
    make_toy,
    peaks_of,
)
from tests.local.sizing.test_time import TICKETS, TOLERANCE, calibrate_machine, measure_training
from trainers.dataset import Columns, check_file
from trainers.methods import Parameters
from trainers.models.base_models import Base, find_base
from trainers.sizing.memory import TILE_TOKENS, TILE_WORDS, Device, Work
from trainers.sizing.training_time import Calibration, PairLengths, pair_seconds

PAIRS, BATCH = 64, 8
STEPS = 2  # the first creates the optimizer's state, the second has everything


def write_pairs(folder: Path, base: Path, case: Case) -> Path:
    """Returns the folder of a job on pairs."""
    folder.mkdir()
    lines = [
        json.dumps(pair("y", "z z z", question=letter + " x" * case.words))
        for letter in string.ascii_lowercase[: case.batch * STEPS]
    ]
    (folder / "train.jsonl").write_text("\n".join(lines))
    settings = Parameters(n_epochs=1, batch_size=case.batch, max_length=4096)
    return make_job(folder, base, folder / "train.jsonl", settings, method="dpo")


def work_of_pairs(base: Path, file: Path, case: Case) -> Work:
    rows = token_ids(base, file)
    return Work("lora", max(row.length for row in rows), case.batch, answer=len(rows[0].rejected), pairs=True)


def token_ids(base: Path, file: Path) -> Sequence[Any]:
    from trainers.local.training.base_model import load_tokenizer
    from trainers.local.training.pairs import read_pairs

    return read_pairs(file, load_tokenizer(str(base)), 4096, "training_file", "leave_out").rows


SLOW_CASES = (Case(60, 4, "fp32"), Case(450, 1, "fp32"), Case(60, 4, "bf16"), Case(450, 1, "bf16"))


@pytest.mark.deep
@pytest.mark.parametrize(
    "case",
    [Case(30, 4, "fp32"), *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW_CASES)],
    ids=str,
)
def test_a_larger_toy_training_on_pairs_takes_as_much_more_memory_as_estimated(
    tmp_path: Path, case: Case
) -> None:
    cases = [Case(30, 1, case.number), case]
    compare_growth(peaks_of(make_toy(tmp_path / "toy"), cases, tmp_path, write_pairs, work_of_pairs))


@pytest.mark.slow
@pytest.mark.parametrize("number", ["bf16", "fp32"])
def test_pairs_on_smollm2_135m_take_the_estimated_memory(tmp_path: Path, number: str) -> None:
    assert SMOLLM.exists(), MAKE_SMOLLM
    cases = [Case(30, 2, number), Case(30, 6, number), Case(110, 2, number), Case(280, 1, number)]
    compare_totals(peaks_of(SMOLLM, cases, tmp_path, write_pairs, work_of_pairs))


@pytest.mark.slow
@pytest.mark.usefixtures("real_processes")
def test_a_training_on_pairs_takes_the_estimated_time(tmp_path: Path) -> None:
    assert SMOLLM.exists(), MAKE_SMOLLM
    file = write_tickets(tmp_path)
    estimate = estimate_seconds(file, calibrate_machine(tmp_path))
    settings = Parameters(n_epochs=1, batch_size=BATCH)
    job = make_job(tmp_path / "job", SMOLLM, file, settings, method="dpo")
    seconds = measure_training(job)
    print(f"estimated {estimate:.1f} CPU seconds, measured {seconds:.1f}")
    assert estimate == pytest.approx(seconds, rel=TOLERANCE)
    assert json.loads((job / "DONE").read_text())["step"] == PAIRS // BATCH


def write_tickets(folder: Path) -> Path:
    """Returns a file of support tickets, each with its own label preferred to another one."""
    report = check_file(TICKETS, TICKETS.name, Columns(), folder, 1)
    rows = map(json.loads, (folder / f"{report.train_sha256}.jsonl").read_text().splitlines())
    chats = [row["messages"] for row in itertools.islice(rows, PAIRS)]
    labels = sorted({chat[-1]["content"] for chat in chats})
    lines = [
        json.dumps(pair(right, labels[labels.index(right) - 1], input={"messages": chat[:-1]}))
        for chat in chats
        for right in [chat[-1]["content"]]
    ]
    file = folder / "pairs.jsonl"
    file.write_text("\n".join(lines))
    return file


def estimate_seconds(file: Path, machine: Calibration) -> float:
    from trainers.local.training.memory import fill_parts
    from trainers.local.training.pairs import width
    from trainers.sizing.memory import CPU_TOKENS

    base, rows = find_base(str(SMOLLM)), token_ids(SMOLLM, file)
    assert isinstance(base, Base)
    batches = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
    computed = sum(width(part) for batch in batches for part in fill_parts(batch, CPU_TOKENS, width))
    longer = sum(row.length for row in rows) / len(rows)
    mean = PairLengths(len(rows), longer, computed / (2 * len(rows)), BATCH, 1)
    seconds = pair_seconds(base.architecture, mean, machine)
    assert seconds is not None
    return seconds


def test_estimates_use_the_tile_sizes_of_trl() -> None:
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    assert (TILE_TOKENS, TILE_WORDS) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)


def test_estimates_compute_as_many_pairs_at_a_time_as_the_engine() -> None:
    from trainers.local.training.memory import fill_parts
    from trainers.local.training.pairs import PairRow, width
    from trainers.sizing.memory import CPU_TOKENS, rows_at_a_time

    for length in (10, 50, 100, 192, 193, 400, 900):
        row = PairRow(1, [1] * (length - 2), [2], [3, 4])
        first = fill_parts([row] * 8, CPU_TOKENS, width)[0]
        assert len(first) == rows_at_a_time(Work("lora", length, 8, pairs=True), Device("cpu", 4))
