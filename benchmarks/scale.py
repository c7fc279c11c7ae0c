"""Measures the capacity of one trainer and one bot, for docs/scale.md: `python benchmarks/scale.py [JOBS]`

The trainer is the real server over HTTP with a folder of JOBS ended jobs (default 10,000), created without training.
The bot is the real Service with the tests' stand-ins. Takes two to four minutes.

`python benchmarks/scale.py --years [RUNS] [--data FOLDER]` measures a bot with 10,000 runs, 2,000 dataset versions of
33 channels and a million audit entries, behind Slack's own limits. It fills a data folder first (five minutes), unless
it gets one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx2

from benchmarks._old_installation import CHANNELS, PEOPLE, Size, fill
from benchmarks.checking import ROOT
from bot.reconciler import reconcile
from demo.people import ANA, TICKETS
from demo.service import RunningBot
from demo.slack_emulator import SlackEmulator
from demo.slack_emulator.faults import TIERS
from demo.workspace import NotAnswered, WorkspaceError, wait_until
from storage.database import Database
from tests.bot.world import Rules, SharedWorkers, World
from tests.bot.world import world as running_world
from tests.local.trainer_server import KEY, examples, serve_in_thread
from tests.peers.hosted import KEY as PROVIDER_KEY
from trainers.local.job_directory import append_event, replace_json
from trainers.local.jobs.records import Jobs, StartingPoint
from trainers.local.jobs.requests import parse_job_request
from trainers.methods import Parameters
from trainers.models.base_models import Base, find_base
from trainers.sizing.memory import Work, trainable_parameters

MODELS = {"local/toy": "/nowhere"}
IDLE = (sys.executable, "-c", "import time; time.sleep(3600)")  # a training that takes no CPU
CREATED = 200
EVENTS = 2_000
RUNS = 10
COMMITS = 1_000
BASES = ("smollm2-135m", "mistral-7b", "llama-3.3-70b")
REPEATS = 20
COMMANDS = (
    "status",
    "datasets",
    "models",
    "runs",
    "results 9001",
    "audit 7",
    "budget",
    "help",
    "help estimate",
    "prices",
    "prices gpt-4o-mini",
    "rights",
    "estimate ds0007 current=gpt-4o volume=10M target=local/smollm2-135m",
)
NIGHTLY_S = 900.0  # for the backup, which a bot without one makes at its start
SETTLE_S = 15.0  # after it, so that its work isn't counted
IDLE_S = 30.0


def main(jobs: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        report(f"one ended job's folder made directly: {1000 * create_job_folders(root, jobs):.1f} ms")
        measure_trainer(root, jobs)
    measure_bot()
    measure_disk()


def create_job_folders(root: Path, count: int) -> float:
    """Returns the seconds per job, including fsync."""
    (root / "rows.jsonl").write_bytes(examples())
    jobs = Jobs(root / "jobs")
    start = StartingPoint("/nowhere", "local/toy")
    begun = time.perf_counter()
    for number in range(count):
        order = parse_job_request(
            {"model": "local/toy", "training_file": "f", "metadata": {"run": str(number)}}
        )
        record = jobs.create(order, start, Parameters(), root / "rows.jsonl")
        replace_json(record.folder / "DONE", {"step": 100, "trained_tokens": 10_000})
    return (time.perf_counter() - begun) / count


def measure_trainer(root: Path, jobs: int) -> None:
    with serve_in_thread(root, MODELS, command=IDLE, slots=1) as served:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx2.Client(base_url=served.url, headers=headers, timeout=120) as http:
            path = "/fine_tuning/jobs"
            report(
                f"first list of {jobs:,} jobs after a start: {measure_time(lambda: http.get(path))[0]:.2f} s"
            )
            report(f"list, 20 a page: {median_ms(lambda: http.get(path)):.1f} ms")
            by_run = {"metadata[run]": "17"}
            report(f"list by metadata: {median_ms(lambda: http.get(path, params=by_run)):.1f} ms")
            file = http.post("/files", files={"file": ("t.jsonl", examples())}, data={"purpose": "fine-tune"})
            order = {"model": "local/toy", "training_file": file.json()["id"]}
            begun = time.perf_counter()
            job_ids = [http.post(path, json=order).json()["id"] for _ in range(CREATED)]
            rate = CREATED / (time.perf_counter() - begun)
            report(f"jobs created over one connection: {rate:.0f} a second, {86400 * rate:,.0f} a day")
            for step in range(EVENTS):
                append_event(
                    root / "jobs" / job_ids[0], f"Step {step}", data={"step": step, "train_loss": 1.0}
                )
            report(f"a job's state: {median_ms(lambda: http.get(f'{path}/{job_ids[0]}')):.1f} ms")
            report(
                f"its newest events of {EVENTS:,}: {median_ms(lambda: http.get(f'{path}/{job_ids[0]}/events')):.1f} ms"
            )
        cpu = time.process_time()
        time.sleep(5)
        report(
            f"CPU of the idle server with {CREATED} jobs waiting: {20 * (time.process_time() - cpu):.0f}% of a core"
        )
        report(f"memory of this process, server and jobs: {resident_mb():.0f} MB")


def measure_bot() -> None:
    os.environ["ACME_KEY"] = PROVIDER_KEY
    workers = SharedWorkers()
    with (
        tempfile.TemporaryDirectory() as name,
        running_world(Path(name), workers, Rules(budget="1000")) as world,
    ):
        with counted_commits() as commits:
            world.start_approved()
            world.tick_until_state("done")
            report(f"one run from its request to its result: {commits[0]} write transactions")
        report(f"a bot's database writes: {commit_rate(Path(name) / 'rate.db'):,.0f} transactions a second")
        calls = Counter(call.method for call in world.slack.calls() if call.method.startswith("chat."))
        report(f"calls to Slack that write: {dict(calls)}")
        measure_reconcile(world)
    workers.close_processes()


def measure_reconcile(world: World) -> None:
    for _ in range(RUNS):
        world.start()
        world.approve()
    world.tick(2)
    ms = 1000 * measure_time(lambda: reconcile(world.service.context))[0]
    report(f"one look at {RUNS} runs in training: {ms:.0f} ms, {ms / RUNS:.1f} ms a run")


def measure_old_bot(runs: int, data: Path | None) -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        SlackEmulator(people=PEOPLE, channels=(*CHANNELS, TICKETS)) as slack,
    ):
        folder = Path(name)
        if data:
            shutil.copytree(data, folder / "data")
        else:
            fill(folder / "data", Size(runs=runs, audit=100 * runs))
        slack.limit_calls()
        with RunningBot(folder, slack.access, ROOT / ".cache" / "smollm2-135m") as bot:
            slack.deliver_to(bot.request_url)
            backups = folder / "data" / "backups"
            wait_until(lambda: any(backups.glob("finetune-*.db")), "the nightly backup", seconds=NIGHTLY_S)
            time.sleep(SETTLE_S)
            measure_idle(bot.pid)
            for command in COMMANDS:
                measure_command(slack, bot.pid, command, "first")
                measure_command(slack, bot.pid, command, "again")
            measure_home(slack, bot.pid)
            measure_people(slack)


def measure_idle(pid: int) -> None:
    before = cpu_seconds(pid)
    time.sleep(IDLE_S)
    cpu_s = cpu_seconds(pid) - before
    report(
        f"idle: {100 * cpu_s / IDLE_S:.1f}% of a core, so a tick takes at most {1000 * cpu_s / IDLE_S:.0f} ms"
    )


def measure_home(slack: SlackEmulator, pid: int) -> None:
    """Reports the time until the App Home is there, and the CPU time that the bot took for it."""
    cpu = cpu_seconds(pid)
    begun = time.monotonic()
    slack.open_home(ANA.id)
    wait_until(lambda: slack.home(ANA.id), "the App Home", seconds=60)
    drawn_s = time.monotonic() - begun
    report(f"App Home: drawn in {drawn_s:.2f} s, {cpu_seconds(pid) - cpu:.2f} s of CPU")


def measure_command(slack: SlackEmulator, pid: int, command: str, which: str) -> None:
    """Reports the time until the ack and the answer, and the CPU time and the look-ups that the bot took for it."""
    n_answers = len(slack.ephemerals(ANA.id))
    n_calls = len(slack.calls())
    cpu = cpu_seconds(pid)
    begun = time.monotonic()
    try:
        slack.command(ANA.id, CHANNELS[7].id, f"/finetune {command}")
    except NotAnswered:
        report(f"{command} ({which}): not acked in {time.monotonic() - begun:.1f} s")
        return
    acked_s = time.monotonic() - begun
    wait_until(lambda: len(slack.ephemerals(ANA.id)) > n_answers, f"the answer to {command}", seconds=60)
    answered_s = time.monotonic() - begun
    look_ups = [call for call in slack.calls()[n_calls:] if call.method in TIERS]
    cpu_s = cpu_seconds(pid) - cpu
    answer = slack.ephemerals(ANA.id)[-1].text
    report(
        f"{command} ({which}): acked in {1000 * acked_s:.0f} ms, answered in {answered_s:.2f} s, "
        f"{cpu_s:.2f} s of CPU, {len(look_ups)} look-ups: {answer[:60]!r}"
    )


def measure_people(slack: SlackEmulator) -> None:
    """Sends ten commands within a minute, each in another channel, as ten people would. Ana, who reads the answers,
    stands for all of them. Reports what Slack refused, and what she read."""
    n_calls = len(slack.calls())
    answers = Counter[str]()
    for number in range(10):
        begun = time.monotonic()
        n_answers = len(slack.ephemerals(ANA.id))
        command = COMMANDS[number % len(COMMANDS)]
        try:
            slack.command(ANA.id, CHANNELS[number].id, f"/finetune {command}")
            wait_until(
                lambda before=n_answers: len(slack.ephemerals(ANA.id)) > before, "an answer", seconds=30
            )
            words = str(slack.ephemerals(ANA.id)[-1])
            answers["partly" if "Slack did" in words else "whole"] += 1
        except WorkspaceError:
            answers["none"] += 1
        time.sleep(max(6 - (time.monotonic() - begun), 0))
    refused = [call for call in slack.calls()[n_calls:] if call.status == 429]
    report(
        f"ten people in a minute: {answers['whole']} whole answers, {answers['partly']} that say what Slack did not "
        f"answer, {answers['none']} without an answer; {len(refused)} calls refused by Slack"
    )


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_disk() -> None:
    """Reports sizes at the default, rank 16 on all linear layers: float32 matrices, with two moments each in
    training."""
    for name in BASES:
        base = find_base(name, ask_the_hub=False)
        assert isinstance(base, Base)
        adapter = 4 * trainable_parameters(base.architecture, Work("lora", 1024, 8)) / 1e6
        report(
            f"{name}: adapter {adapter:,.0f} MB; a job {4 * adapter:,.0f} MB once it has ended (three checkpoints and "
            f"the result), {9 * adapter:,.0f} MB while it trains"
        )


def commit_rate(path: Path) -> float:
    database = Database(path)
    database.change("CREATE TABLE rate (number INTEGER)")
    begun = time.perf_counter()
    for number in range(COMMITS):
        with database.immediate():
            database.change("INSERT INTO rate VALUES (?)", (number,))
    seconds = time.perf_counter() - begun
    database.close()
    return COMMITS / seconds


@contextmanager
def counted_commits() -> Iterator[list[int]]:
    """Counts write transactions, without nested ones."""
    count, begin = [0], Database.immediate

    @contextmanager
    def counting(self: Database) -> Iterator[None]:
        count[0] += not self.utils.conn.in_transaction
        with begin(self):
            yield

    Database.immediate = counting  # type: ignore[method-assign]
    try:
        yield count
    finally:
        Database.immediate = begin  # type: ignore[method-assign]


def median_ms(ask: Callable[[], Any]) -> float:
    """Returns the median in milliseconds."""
    return 1000 * statistics.median(measure_time(ask)[0] for _ in range(REPEATS))


def measure_time(ask: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    answer = ask()
    return time.perf_counter() - begun, answer


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def report(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="The capacity of one trainer and one bot.")
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="ended jobs, or runs with --years")
    parser.add_argument("--years", action="store_true", help="measure a bot that is a few years old")
    parser.add_argument("--data", type=Path, help="a data folder of such a bot, which is copied")
    arguments = parser.parse_args()
    if arguments.years:
        measure_old_bot(arguments.count, arguments.data)
    else:
        main(arguments.count)
