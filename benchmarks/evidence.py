"""Does the evidence agree with what is known of banking77? `python benchmarks/evidence.py [--short]`

Rung 0 on all rows and on 10 a label, what the gate finds, and what a curve from half of the rows predicts for all.
Needs ../shared/data/banking77 beside the repository; takes about half a minute on one core, the short form (the gate
and one draw of 10 a label) a few seconds.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from trainers.dataset import Columns, Example, check_file, read, store_chat  # noqa: E402
from trainers.measuring.classical import answer  # noqa: E402
from trainers.measuring.curve import classical_curve, nested  # noqa: E402

DATA = ROOT.parent / "shared" / "data" / "banking77"
COLUMNS = Columns("text", "category")


def main(is_short: bool) -> int:
    """0 where all is as expected, or nothing could be measured; else 1."""
    if not DATA.exists():
        print(
            "Skipped: banking77 is not there. Put its train.csv and test.csv into ../shared/data/banking77."
        )
        return 0
    train, test = (read(DATA / name, name, columns=COLUMNS).examples for name in ("train.csv", "test.csv"))
    print(f"banking77: {len(train):,} rows to train on, {len(test):,} held out (the official test)")
    if is_short:
        few = rung_0(ten_a_label(train, 0), test)
        fits = show("rung 0 on 10 a label", f"{few:.1%}, one draw", "72.9% ± 3", abs(few - 0.729) <= 0.03)
        return 0 if fits & agrees(gate(test)) else 1
    everything = rung_0(train, test)
    fits = show("rung 0 on all rows", f"{everything:.1%}", "91.2% ± 0.8", abs(everything - 0.912) <= 0.008)
    few = sum(rung_0(ten_a_label(train, seed), test) for seed in range(5)) / 5
    fits &= show(
        "rung 0 on 10 a label", f"{few:.1%}, mean of 5 draws", "72.9% ± 1.5", abs(few - 0.729) <= 0.015
    )
    fits &= agrees(gate(test))
    fits &= carry_on(train, test, everything)
    return 0 if fits else 1


def rung_0(train: Sequence[Example], test: Sequence[Example]) -> float:
    said = answer(train, test, seed=0)
    return sum(reply.text == row.answer for reply, row in zip(said, test, strict=True)) / len(test)


def ten_a_label(train: Sequence[Example], seed: int) -> list[Example]:
    by_label = defaultdict(list)
    for row in train:
        by_label[row.answer].append(row)
    chance = random.Random(seed)
    return [row for label in sorted(by_label) for row in chance.sample(by_label[label], 10)]


def gate(test: Sequence[Example]) -> tuple[int, int]:
    """What the check of train.csv finds, with the official test as its frozen holdout."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        holdout = folder / f"{store_chat(folder, test)}.jsonl"
        report = check_file(DATA / "train.csv", "train.csv", COLUMNS, folder, 0, holdout=holdout)
    overlaps, duplicates = (
        sum(finding.count for finding in report.findings if finding.code == code)
        for code in ("overlap", "duplicate")
    )
    return overlaps, duplicates


def agrees(found: tuple[int, int]) -> bool:
    overlaps, duplicates = found
    fits = show("overlaps of train and test", str(overlaps), "7", overlaps == 7)
    return fits & show("duplicates inside train", str(duplicates), "4", duplicates == 4)


def carry_on(train: Sequence[Example], test: Sequence[Example], actual: float) -> bool:
    half = nested(train, seed=0)[:5_001]
    started = time.perf_counter()
    curve = classical_curve(half, test, 0, [len(train)])
    took = time.perf_counter() - started
    (found,) = curve.predicted
    measured = ", ".join(f"{point.rows:,}: {point.score:.1%}" for point in curve.points)
    print(f"curve: {measured}; {curve.points_per_100:.2f} points per 100 more labels; {took:.1f} s")
    said = f"{found.score:.1%} ({found.low:.1%} to {found.high:.1%})"
    print("to label next: " + ", ".join(f"{need.label} ({need.rows} rows)" for need in curve.needs[:5]))
    expected = f"91.2% ± 1.5, here {actual:.1%}"
    return show(f"predicted for {found.rows:,} rows", said, expected, abs(found.score - 0.912) <= 0.015)


def show(what: str, said: str, expected: str, fits: bool) -> bool:
    print(f"{what:28} {said:28} expected {expected:26} {'as expected' if fits else 'NOT AS EXPECTED'}")
    return fits


if __name__ == "__main__":
    sys.exit(main("--short" in sys.argv[1:]))
