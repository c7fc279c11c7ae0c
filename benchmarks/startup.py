"""Measures how soon `finetune run` is ready and how much memory it uses.

`python benchmarks/startup.py [TIMES] [--model FOLDER]`: starts the real process against a Slack on localhost, with its
trainer, and reads /proc when it is ready and again once it has talked to its trainer, for which it loads OpenAI's SDK.
The first start isn't counted, because it compiles what an installation has already compiled. Linux only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from demo.service import RunningBot
from demo.slack_emulator import SlackEmulator

SETTLE_S = 8.0
MODEL = Path(__file__).resolve().parent.parent / ".cache" / "smollm2-135m"


def main() -> None:
    parser = argparse.ArgumentParser(description="Seconds until `finetune run` is ready, and its memory.")
    parser.add_argument("times", type=int, nargs="?", default=3)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument(
        "--settle", type=float, default=SETTLE_S, help="seconds until it has talked to its trainer"
    )
    arguments = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation does not compile at each start either
    measure(arguments.model, arguments.settle)
    measured = [measure(arguments.model, arguments.settle) for _ in range(arguments.times)]
    ready, cpu, first, later, trainers = zip(*measured, strict=True)
    seconds = f"{statistics.median(ready):.2f} s ({statistics.median(cpu):.2f} s of CPU)"
    print(
        f"finetune run: ready in {seconds}, uses {statistics.median(first):.0f} MB, and "
        f"{statistics.median(later):.0f} MB once it has talked to its trainer; "
        f"its idle trainer {statistics.median(trainers):.0f} MB (median of {arguments.times})"
    )


def measure(model: Path, settle_s: float) -> tuple[float, float, float, float, float]:
    """Returns the seconds until it is ready (wall and CPU), the bot's MB then and later, and its trainer's MB."""
    with tempfile.TemporaryDirectory() as folder, SlackEmulator() as slack:
        started = time.monotonic()
        with RunningBot(Path(folder), slack.access, model) as bot:
            ready = time.monotonic() - started
            cpu = cpu_seconds(bot.pid)
            first = resident_mb(bot.pid)
            time.sleep(settle_s)
            trainer = sum(map(resident_mb_if_alive, children(bot.pid)))
            return ready, cpu, first, resident_mb(bot.pid), trainer


def cpu_seconds(pid: int) -> float:
    """Returns the process's CPU time, which other work on the machine does not change."""
    numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def resident_mb_if_alive(child: int) -> float:
    """Returns 0 for a child that has ended meanwhile."""
    try:
        return resident_mb(child)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sorted({int(child) for task in tasks for child in (task / "children").read_text().split()})


if __name__ == "__main__":
    main()
