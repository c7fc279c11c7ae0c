"""Runs a bot with 1,000 open jobs: `python benchmarks/soak.py [--seconds 300] [--jobs 1000]`

It uses real ticks and real time, with the tests' vendor and Slack. It reports calls to the vendor per second (a tick),
edits per minute, the growth of the database, and the time until the end of a job is noticed. Exits with 1 if one of
them exceeds what docs/scale.md promises.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bot.provider_threads import ProviderThreads
from demo.people import TICKETS
from tests.bot.runs import add_training_runs
from tests.bot.world import Rules, SharedWorkers, World
from tests.bot.world import world as running_world
from tests.peers.hosted import KEY

MOST_CALLS = 12
MOST_EDITS = 40
MOST_SEEN_S = 20.0
MOST_MB_A_DAY = 5.0
OLD_S = 7_200.0
ENDED_EVERY_S = 15.0


@dataclass(frozen=True)
class SoakResult:
    """The measurements. `calls` to the vendor are per second; `seen_s` are the times until each job's end was
    noticed."""

    seconds: float
    calls: tuple[int, ...]
    edits: int
    grown_bytes: int
    seen_s: tuple[float, ...]

    @property
    def edits_a_minute(self) -> float:
        return 60 * self.edits / self.seconds

    @property
    def mb_a_day(self) -> float:
        return 86_400 * self.grown_bytes / self.seconds / 1e6

    def lines(self) -> tuple[tuple[str, float, float], ...]:
        """Returns each measurement's name, value and limit."""
        return (
            ("calls to the vendor per tick, maximum", max(self.calls), MOST_CALLS),
            ("edits per minute", self.edits_a_minute, MOST_EDITS),
            ("seconds until an end is noticed, maximum", max(self.seen_s, default=0.0), MOST_SEEN_S),
            ("MB per day of database growth", self.mb_a_day, MOST_MB_A_DAY),
        )


def soak(folder: Path, jobs: int, seconds: float) -> SoakResult:
    os.environ["ACME_KEY"] = KEY
    workers = SharedWorkers()
    with running_world(folder, workers, Rules(budget="100000")) as world:
        add_jobs(world, jobs)
        world.clock = time.time()
        world.service.watcher.start()
        result = observe(world, seconds)
        world.stop()
    workers.close_processes()
    return result


def add_jobs(world: World, jobs: int) -> None:
    """Adds jobs that are two hours old, each with its card."""
    world.provider.service.stages = ("running",)
    world.start_approved()
    world.tick_until_state("training")
    world.tick()
    world.threads = ProviderThreads
    world.restart()
    add_training_runs(world, jobs - 1, since=time.time() - OLD_S)
    slack, store = world.service.notices.slack, world.store
    for number in range(2, jobs + 1):
        ts = slack.chat_postMessage(channel=TICKETS.id, text=f"Run {number}")["ts"]
        shown = time.time() - number * 7_919 % (2 * jobs)  # spread out, as if each had been edited in turn
        sql = "UPDATE runs SET progress = json_set(progress, '$.shown_at', ?) WHERE id = ?"
        store.database.change(sql, (shown, number))
        store.database.change("INSERT INTO cards VALUES (?, ?, ?)", (f"run {number}", TICKETS.id, str(ts)))


def observe(world: World, limit_s: float) -> SoakResult:
    provider = world.provider
    began = time.monotonic()
    size = used_bytes(world)
    edits = count_edits(world)
    calls = []
    seen = list[float]()
    ended: dict[int, float] = {}
    requests, number = len(provider.requests), 2
    while (now := time.monotonic() - began) < limit_s:
        if now >= ENDED_EVERY_S * (len(seen) + len(ended)):
            provider.service.jobs[f"ftjob-{number}"].is_cancelled = True
            ended[number], number = now, number + 1
        for run_id in [run_id for run_id in ended if world.run(run_id).state == "cancelled"]:
            seen.append(now - ended.pop(run_id))
        time.sleep(1.0)
        calls.append(len(provider.requests) - requests)
        requests += calls[-1]
        world.clock = time.time()
    seconds = time.monotonic() - began
    seen += [seconds - since for since in ended.values()]
    return SoakResult(
        seconds, tuple(calls), count_edits(world) - edits, used_bytes(world) - size, tuple(seen)
    )


def count_edits(world: World) -> int:
    return sum(call.method == "chat.update" for call in world.slack.calls())


def used_bytes(world: World) -> int:
    """Returns the bytes of the database's used pages, without its WAL, which is emptied regularly."""
    database = world.store.database
    pages = database.value("PRAGMA page_count") - database.value("PRAGMA freelist_count")
    return int(pages * database.value("PRAGMA page_size"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--jobs", type=int, default=1_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        result = soak(Path(name), arguments.jobs, arguments.seconds)
    print(f"{arguments.jobs:,} open jobs, {result.seconds:.0f} s:")
    for what, value, limit in result.lines():
        print(f"  {what}: {value:.1f} (up to {limit:g})")
    print(f"  calls to the vendor per tick, mean: {sum(result.calls) / len(result.calls):.1f}")
    return int(any(value > limit for _, value, limit in result.lines()))


if __name__ == "__main__":
    sys.exit(main())
