"""Preference pairs: the memory that is foreseen beside measured peaks, within 15%, and the time, within 20%.

Each training is TRL's own loop in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.local.preferences import pair
from tests.local.runs import make_job
from tests.local.test_sizing_memory import ROOT, SMOLLM, STEPS, TOLERANCE, make_toy, peaks
from tests.local.test_sizing_time import ONE_THREAD, TICKETS, measured
from tests.local.test_sizing_time import TOLERANCE as TIME_WITHIN
from trainers.base_models import Base, find_base
from trainers.dataset import Columns, check_file
from trainers.methods import Parameters
from trainers.sizing.memory import TILE_TOKENS, TILE_WORDS, Device, Work, estimate_memory
from trainers.sizing.training_time import Calibration, PairLengths, pair_seconds

PAIRS, BATCH = 64, 8
NEEDED = "make it with: python -m trainers.local.demo_model .cache/smollm2-135m"


@dataclass(frozen=True)
class Case:
    """`words` a prompt; `batch` pairs a step."""

    words: int
    batch: int
    number: str


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy"))


def check(base: Path, cases: Sequence[Case], folder: Path) -> None:
    folders = [write_job(folder / f"{one.words}x{one.batch}", base, one) for one in cases]
    for case, job, grown in zip(cases, folders, peaks(folders, cases[0].number), strict=True):
        expected = foreseen(base, job, case)
        print(f"{case}: foreseen {expected / 2**20:,.0f} MiB, measured {grown / 2**20:,.0f} MiB")
        assert expected == pytest.approx(grown, rel=TOLERANCE), (
            f"{case}: foreseen {expected:,}, measured {grown:,}"
        )


def write_job(folder: Path, base: Path, case: Case) -> Path:
    folder.mkdir()
    lines = [
        json.dumps(pair("y", "z z z", question=one + " x" * case.words))
        for one in "abcdefghijklmnopqrstuvwxyz"[: case.batch * STEPS]
    ]
    (folder / "train.jsonl").write_text("\n".join(lines))
    settings = Parameters(n_epochs=1, batch_size=case.batch, max_length=4096)
    return make_job(folder, base, folder / "train.jsonl", settings, method="dpo")


def foreseen(base: Path, folder: Path, case: Case) -> int:
    found, rows = find_base(str(base)), token_ids(base, folder / "train.jsonl")
    assert isinstance(found, Base)
    work = Work("lora", max(row.length for row in rows), case.batch, answer=len(rows[0].rejected), pairs=True)
    return estimate_memory(found.architecture, work, Device("cpu", 2 if case.number == "bf16" else 4)).total


def token_ids(base: Path, file: Path) -> Sequence[Any]:
    from trainers.local.training.base_model import load_tokenizer
    from trainers.local.training.pairs import read_pairs

    return read_pairs(file, load_tokenizer(str(base)), 4096, "training_file", "leave_out").rows


SLOW_CASES = (Case(450, 1, "fp32"), Case(60, 4, "bf16"), Case(450, 1, "bf16"))


@pytest.mark.parametrize(
    "case",
    [Case(60, 4, "fp32"), *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW_CASES)],
    ids=str,
)
def test_a_toy_training_on_pairs_takes_the_memory_that_was_foreseen(
    toy: Path, tmp_path: Path, case: Case
) -> None:
    check(toy, [case], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["bf16", "fp32"])
def test_pairs_on_smollm2_135m_take_the_memory_that_was_foreseen(tmp_path: Path, number: str) -> None:
    assert SMOLLM.exists(), NEEDED
    cases = [Case(30, 2, number), Case(30, 6, number), Case(110, 2, number), Case(280, 1, number)]
    check(SMOLLM, cases, tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("real_processes")
def test_a_training_on_pairs_takes_the_time_that_was_foreseen(tmp_path: Path) -> None:
    assert SMOLLM.exists(), NEEDED
    file = write_tickets(tmp_path)
    expected, taken = time_foreseen(file, measured(tmp_path)), trained(tmp_path, file)
    print(f"foreseen {expected:.1f} s of the processor, taken {taken:.1f}")
    assert expected == pytest.approx(taken, rel=TIME_WITHIN)


def write_tickets(folder: Path) -> Path:
    """Support tickets: their label before the label of another one."""
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


def time_foreseen(file: Path, machine: Calibration) -> float:
    from trainers.local.training.memory import fill_parts
    from trainers.local.training.pairs import width
    from trainers.sizing.memory import CPU_TOKENS

    base, rows = find_base(str(SMOLLM)), token_ids(SMOLLM, file)
    assert isinstance(base, Base)
    batches = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
    computed = sum(width(part) for batch in batches for part in fill_parts(batch, CPU_TOKENS, width))
    longer = sum(row.length for row in rows) / len(rows)
    mean = PairLengths(len(rows), longer, computed / (2 * len(rows)), BATCH, 1)
    found = pair_seconds(base.architecture, mean, machine)
    assert found is not None
    return found


def trained(folder: Path, file: Path) -> float:
    settings = Parameters(n_epochs=1, batch_size=BATCH)
    (folder / "job").mkdir()
    job = make_job(folder / "job", SMOLLM, file, settings, method="dpo")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "trainers.local.train", str(job)]
    subprocess.run(command, cwd=ROOT, env=ONE_THREAD, capture_output=True, timeout=900, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert json.loads((job / "DONE").read_text())["step"] == PAIRS // BATCH
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_parts_and_tiles_are_as_large_as_those_of_the_engine_and_of_trl() -> None:
    from trl.kernels.chunked_logprob import TOKEN_CHUNK_SIZE
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE

    assert (TILE_TOKENS, TILE_WORDS) == (TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE)


def test_as_many_pairs_are_computed_at_a_time_as_the_engine_does() -> None:
    from trainers.local.training.memory import fill_parts
    from trainers.local.training.pairs import PairRow, width
    from trainers.sizing.memory import CPU_TOKENS, rows_at_a_time

    for length in (10, 50, 100, 192, 193, 400, 900):
        row = PairRow(1, [1] * (length - 2), [2], [3, 4])
        first = fill_parts([row] * 8, CPU_TOKENS, width)[0]
        assert len(first) == rows_at_a_time(Work("lora", length, 8, pairs=True), Device("cpu", 4))
