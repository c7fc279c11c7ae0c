"""Measures a bot with many runs on many held-out rows: `python benchmarks/measured.py [RUNS] [ROWS]`

It measures the time until `/finetune results` is acked by the real `finetune run`: the first request to an idle
process, later ones, and one just after the start, while it loads OpenAI's SDK. It also measures a tick while the
answers of five runs arrive, including everything that is due at the provider.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bot.reconciler import reconcile
from bot.values.runs import Progress
from demo.people import ANA, TICKETS
from demo.workspace import wait_until
from tests.bot.props import tickets_csv
from tests.bot.runs import add_finished_runs
from tests.bot.world import START, Rules, SharedWorkers, World, words_of
from tests.bot.world import world as running_world
from tests.peers.hosted import KEY

HELD_OUT = 5  # one row in five
PATIENCE_S, SETTLE_S = 300.0, 5.0
MOST_ACK_MS, MOST_TICK_MS = 100.0, 50.0
EVALUATED = 5
TICKS = 30
LATER = 20
TICK_S = 0.5
SLOW_S = 0.2  # per answer, so that those to a thousand rows take two minutes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, nargs="?", default=300)
    parser.add_argument("rows", type=int, nargs="?", default=1_000)
    parser.add_argument(
        "--evaluated", type=int, default=EVALUATED, help="runs whose answers arrive at the same time"
    )
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds until a process is idle")
    arguments = parser.parse_args()
    os.environ["ACME_KEY"] = KEY
    workers = SharedWorkers()
    with (
        tempfile.TemporaryDirectory() as name,
        running_world(Path(name), workers, Rules(budget="100000")) as world,
    ):
        add_runs(world, arguments.runs, arguments.rows)
        print(f"{arguments.runs:,} runs, each measured on {arguments.rows:,} rows:")
        first, *later = acks(world, arguments.runs, arguments.settle)
        report("ack of the first /finetune results of an idle process", [first], MOST_ACK_MS)
        report("of later requests", later, MOST_ACK_MS)
        report("of a request as soon as it is ready", acks(world, arguments.runs, 0.0)[:1], MOST_ACK_MS)
        report(
            f"a tick while the answers of {arguments.evaluated} runs arrive",
            ticks(world, arguments.evaluated),
            MOST_TICK_MS,
        )
    workers.close_processes()


def add_runs(world: World, runs: int, rows: int) -> None:
    world.upload("tickets.csv", tickets_csv(HELD_OUT * rows))
    world.tick_until(lambda: world.dataset().state == "ready", "the check", seconds=PATIENCE_S)
    world.start_approved()
    world.tick_until(lambda: world.run().state == "done", "the first run", seconds=PATIENCE_S)
    add_finished_runs(world, runs - 1)


def acks(world: World, number: int, settle_s: float) -> list[float]:
    """Returns the seconds until acks, as Slack sees them, of a new process after `settle_s` seconds."""
    world.stop()
    with running_bot(world) as address:
        world.slack.deliver_to(address)
        time.sleep(settle_s)
        waits = [ask(world, number) for _ in range(1 + LATER)]
    world.boot()
    return waits


def ask(world: World, number: int) -> float:
    before, started = len(world.slack.ephemerals(ANA.id)), time.perf_counter()
    world.slack.command(ANA.id, TICKETS.id, f"/finetune results {number}")
    seconds = time.perf_counter() - started
    answers = wait_until(lambda: world.slack.ephemerals(ANA.id)[before:], "the answer", seconds=30)
    words = words_of(answers[0])
    assert f"Run {number}" in words, words
    return seconds


@contextmanager
def running_bot(world: World) -> Iterator[str]:
    """Runs `finetune run` on the world's data, and yields its address."""
    access = world.slack.access
    environment = {
        **os.environ,
        "FINETUNE_CONFIG": str(world.folder / "finetune.toml"),
        "SLACK_BOT_TOKEN": access.bot_token,
        "SLACK_SIGNING_SECRET": access.signing_secret,
        "PYTHONUNBUFFERED": "1",
    }
    with (
        (world.folder / "log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "bot", "run"],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=environment,
        ) as bot,
    ):
        assert bot.stdout
        try:
            yield bot.stdout.readline().split(" · ")[1]
        finally:
            bot.terminate()


def ticks(world: World, evaluated: int) -> list[float]:
    """Returns the seconds of each tick, from when all questions are written until the first run has its answers."""
    numbers = [start_run(world, epochs) for epochs in range(4, 4 + evaluated)]
    world.provider.slow_s = SLOW_S
    world.tick_until(
        lambda: all(has_questions(world, number) for number in numbers), "questions", seconds=PATIENCE_S
    )
    world.tick(2)
    seconds = [tick(world)]
    while len(seconds) < TICKS and all(world.run(number).state == "evaluating" for number in numbers):
        seconds.append(tick(world))
    world.provider.slow_s = 0.0
    return seconds


def start_run(world: World, epochs: int) -> int:
    run = world.start(f"{START} epochs={epochs}")
    world.approve()
    world.tick_until_state("training", run.id)  # the next plan would replace a waiting one
    return run.id


def has_questions(world: World, number: int) -> bool:
    run = world.run(number)
    return run.state == "done" or Progress.from_json(run.progress).to_evaluate > 0


def tick(world: World) -> float:
    started = time.perf_counter()
    reconcile(world.service.context)
    seconds = time.perf_counter() - started
    world.send()
    world.clock += 1.0
    time.sleep(TICK_S)
    return seconds


def report(what: str, seconds: list[float], limit_ms: float) -> None:
    ms = sorted(1000 * each for each in seconds)
    print(f"  {what}: p50 {ms[len(ms) // 2]:.0f} ms, max {ms[-1]:.0f} ms (up to {limit_ms:.0f})")


if __name__ == "__main__":
    main()
