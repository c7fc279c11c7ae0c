"""How soon is `finetune run` ready, and how much memory does it hold? `python benchmarks/startup.py [TIMES]`

Starts the real process against a Slack on localhost, its trainer beside it, and reads /proc. Linux only.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bot.demo.service import RunningBot
from bot.demo.stand_in import StandIn

SETTLE_S = 3.0


def main(times: int) -> None:
    ready, bot_mb, trainer_mb = [], [], []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder, StandIn() as slack:
            started = time.monotonic()
            with RunningBot(Path(folder), slack.door, Path(".cache/smollm2-135m")) as bot:
                ready.append(time.monotonic() - started)
                time.sleep(SETTLE_S)
                bot_mb.append(resident_mb(bot.pid))
                trainer_mb.append(sum(resident_mb(child) for child in children(bot.pid)))
    print(
        f"finetune run: ready in {statistics.median(ready):.2f} s, holds {statistics.median(bot_mb):.0f} MB; "
        f"its idle trainer {statistics.median(trainer_mb):.0f} MB (median of {times})"
    )


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    others = [
        each
        for task in Path(f"/proc/{pid}/task").iterdir()
        for each in (task / "children").read_text().split()
    ]
    return sorted({int(each) for each in (*found, *others)})


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
