"""Fuzzing: malformed input must cause no traceback, no 500 and no change of state.

`python benchmarks/fuzz.py [EXAMPLES]`, 10,000 by default: malformed files go through the check of an upload, Slack
payloads through the real listeners into a real database, API bodies into a running trainer with a toy model and into a
door, a vendor's answers through that door, and files that an attempt on a cluster might leave in the storage into a
job's folder. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.bot.world import Rules, SharedWorkers
from tests.bot.world import world as running_world
from tests.cards import builders
from tests.fuzz import api_calls, deliveries, door_calls, files, leftovers
from tests.fuzz.complaints import count_complaints
from tests.local.conftest import make_model, make_tokenizer
from tests.local.trainer_server import serve_in_thread
from tests.peers.chat_vendor import ChatVendor
from tests.peers.hosted import KEY

SHARES = {
    "files": 0.25,
    "payloads": 0.25,
    "API bodies": 0.2,
    "door": 0.15,
    "vendors": 0.05,
    "storage": 0.1,
}


def main(examples: int) -> int:
    logging.disable(logging.CRITICAL)  # the log would have thousands of tracebacks, one for each reference
    complaints = {}
    trials = (_files, _payloads, _bodies, _door_calls, _vendors_answers, _snapshots)
    for (name, share), trial in zip(SHARES.items(), trials, strict=True):
        count, start = round(examples * share), time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            complaints[name] = trial(Path(folder), count)
        print_counts(name, count, complaints[name], time.monotonic() - start)
    return sum(counts.total() for counts in complaints.values())


def _files(folder: Path, examples: int) -> Counter[str]:
    dataset = builders.dataset()
    return count_complaints(
        files.files(), lambda file: files.complaint_about(dataset, *file, folder), examples
    )


def _payloads(folder: Path, examples: int) -> Counter[str]:
    os.environ["ACME_KEY"] = KEY
    home = folder / "a" / "b" / "c" / "world"  # its tickets are stored three folders above
    home.mkdir(parents=True)
    workers = SharedWorkers()
    with running_world(home, workers, Rules()) as world:
        world.start()
        complaints = count_complaints(
            deliveries.deliveries(), lambda sent: deliveries.complaint_about(world, sent), examples
        )
    workers.close_processes()
    return complaints


def _bodies(folder: Path, examples: int) -> Counter[str]:
    make_tokenizer(folder / "model")
    make_model(folder / "model")
    with serve_in_thread(folder / "data", {"toy": str(folder / "model")}) as trainer:
        strategy, complaint = api_calls.odd_calls(trainer, folder / "data", "toy")
        return count_complaints(strategy, complaint, examples)


def _door_calls(folder: Path, examples: int) -> Counter[str]:
    with door_calls.running_door(folder, ChatVendor(answer=lambda body: door_calls.LABELS[0])) as door:
        strategy, complaint = door_calls.odd_calls(door)
        return count_complaints(strategy, complaint, examples)


def _vendors_answers(folder: Path, examples: int) -> Counter[str]:
    vendor = door_calls.OddVendor()
    with door_calls.running_door(folder, vendor) as door:
        strategy, complaint = door_calls.odd_answers(door, vendor)
        return count_complaints(strategy, complaint, examples)


def _snapshots(folder: Path, examples: int) -> Counter[str]:
    return count_complaints(leftovers.leftovers(), leftovers.complaint_checker(folder), examples)


def print_counts(name: str, examples: int, complaints: Counter[str], seconds: float) -> None:
    of_kind = {
        kind: sum(times for text, times in complaints.items() if kind in text)
        for kind in ("traceback", "HTTP 5", "raised")
    }
    changed = sum(times for text, times in complaints.items() if "changed" in text or "left" in text)
    other = complaints.total() - sum(of_kind.values()) - changed
    print(
        f"{name:<11}{examples:>7,}   tracebacks {of_kind['traceback'] + of_kind['raised']}, 500s {of_kind['HTTP 5']}, "
        f"states changed {changed}, other complaints {other}   ({seconds:.0f} s)"
    )
    for text, times in complaints.most_common(10):
        print(f"    {times:>5} × {text}")


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    sys.exit(1 if main(wanted) else 0)
