"""`python -m benchmarks.chaos [PART] [--kills=N]`: kills, crash sweep, syncs, mutants; all counts come from the peers'
own records.

Without PART everything runs in parallel, in about a quarter of an hour on two cores. Exits with 1 if anything was
duplicated, lost, unposted, overspent or left running, or if a mutant survived. `--kills` is the number of kills per
storm, default 200, and 40 for a whole run at a vendor.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.chaos import syncs
from tests.bot.world import VENDORS, Rules, SharedWorkers, world
from tests.chaos import mutants
from tests.chaos.calls import CallStorm
from tests.chaos.dialects import DialectStorm, MuteStorm
from tests.chaos.fork_host import ForkHost
from tests.chaos.hosting import RoadStorm
from tests.chaos.own_trainer import REAL, STUB, OwnStorm
from tests.chaos.rented_machines import RentedStorm
from tests.chaos.storm import Orders, Storm
from tests.chaos.sweep import STEPS, Step, Sweep
from tests.local.conftest import make_model, make_tokenizer
from tests.peers.hosted import KEY
from tests.peers.roads import ROADS, RoadVendor
from trainers.types import Dialect

HEAD = f"{'':<44}{'kills':>6}{'due':>6}{'duplicates':>12}{'lost':>6}{'unposted':>10}{'over budget':>13}{'twice':>7}"
LANES = (
    ("hosted", "syncs"),
    ("sweep", "team"),
    ("mutants", "own", "real"),
    ("dialects", "rented", "roads", "calls"),
)  # four, because two would sometimes leave a core idle
EVERY_LINE = ("create",)
LOG = 5_000  # characters of a part's log


def hosted() -> bool:
    orders = _orders(60, seed=5, budget_usd="2.6", may_read=True, lasting=True)
    return _run("a hosted provider, all faults", lambda folder: Storm(folder, orders))


def team() -> bool:
    """People label rows, a model labels others, and a dataset is deleted with its run."""
    orders = _orders(20, usual=100, seed=12, may_read=True, has_other_work=True)
    return _run("labels, distillation and deletion", lambda folder: Storm(folder, orders))


def dialects() -> bool:
    orders = _orders(40, seed=9, may_read=True)
    is_clean = _run("a vendor whose jobs differ only by their file", lambda folder: MuteStorm(folder, orders))
    return all([is_clean, *map(_dialect, VENDORS)])


def _dialect(dialect: Dialect) -> bool:
    """Also checks that nothing is left running by the vendor's own ledger."""
    storms: list[DialectStorm] = []

    def storm_in(folder: Path) -> Storm:
        orders = _orders(40, seed=8, may_read=True)
        storms.append(DialectStorm(folder, orders, dialect=dialect))
        return storms[-1]

    is_clean = _run(f"a vendor that behaves like {dialect}", storm_in)
    ledger = storms[-1].provider.service.ledger
    print(
        f"    its ledger: {ledger.jobs} jobs, {ledger.live} live, {ledger.files} files, ${ledger.usd}",
        flush=True,
    )
    return is_clean and ledger.live == 0


def roads() -> bool:
    """Trains and measures on machines by the hour, none of which may be left running. Meanwhile people label rows and
    delete a dataset."""
    return all([*map(_road, ROADS)])


def _road(vendor: RoadVendor) -> bool:
    storms: list[RoadStorm] = []

    def storm_in(folder: Path) -> Storm:
        orders = _orders(40, usual=40, seed=11, budget_usd="1000000", may_read=True, has_other_work=True)
        storms.append(RoadStorm(folder, orders, vendor=vendor))
        return storms[-1]

    is_clean = _run(f"whole runs at {vendor}, with a machine", storm_in)
    service = storms[-1].provider.service
    print(
        f"    its ledger: {service.ledger.jobs} jobs, {service.ledger.live} live, {service.ledger.files} files, "
        f"{len(service.machines)} machines, {len(service.running)} left running",
        flush=True,
    )
    return is_clean and service.ledger.live == 0


def _orders(runs: int, usual: int = 200, **more: Any) -> Orders:
    """Returns the orders for a storm: `runs` for 200 kills, proportionally fewer for fewer kills."""
    option = [word.partition("=")[2] for word in sys.argv if word.startswith("--kills=")]
    kills = int(option[0]) if option else usual
    return Orders(kills=kills, runs=max(4, runs * kills // 200), **more)


def own() -> bool:
    orders = _orders(40, seed=6)
    return _run(
        "our trainer: bot, trainer, training",
        lambda folder: OwnStorm(folder, orders, model=_toy(folder), command=STUB),
    )


def real() -> bool:
    orders = Orders(kills=25, runs=4, seed=7)
    return _run(
        "our trainer, training a real toy model",
        lambda folder: OwnStorm(folder, orders, model=_toy(folder), command=REAL),
    )


def rented() -> bool:
    """Also checks, by the renter's ledger, that no machine is left running or runs twice for a job."""
    storms: list[RentedStorm] = []

    def storm_in(folder: Path) -> Storm:
        storms.append(RentedStorm(folder, _orders(40, seed=10), model=_toy(folder)))
        return storms[-1]

    is_clean, machines = _run("our trainer on rented machines", storm_in), storms[-1].machines
    print(f"    its ledger: {machines}", flush=True)
    return is_clean and machines is not None and machines.is_clean


def calls() -> bool:
    """Programs call `team/tickets` while doors, their workers and the trainer are killed."""
    with tempfile.TemporaryDirectory(prefix="calls-") as folder:
        storm = CallStorm(Path(folder), _orders(0).kills)
        verdict = storm.run()
    print(
        f"programs that call team/tickets: {sum(storm.kills.values())} kills, {verdict.calls:,} calls",
        flush=True,
    )
    print(
        f"    {verdict.answered:,} answered, {verdict.killed:,} failed with a kill, {verdict.lost} without; "
        f"{verdict.wrong} answered wrongly, {verdict.twice} paid twice, {verdict.miscounted} miscounted",
        flush=True,
    )
    events = ", ".join(f"{count} {what}" for what, count in sorted((storm.kills + storm.done).items()))
    print(f"    killed, and changed meanwhile: {events}", flush=True)
    for problem in verdict.problems:
        print(f"    {problem}", flush=True)
    return verdict.is_clean


def sweep(every: bool = False) -> bool:
    """With `--every` dies at each line of each step. Otherwise at each line of the create, and in the other steps at
    each state that a death can leave."""
    os.environ["ACME_KEY"] = KEY
    workers, is_clean = SharedWorkers(), True
    print(f"{'crash sweep of a step':<44}{'lines':>6}{'deaths':>8}{'states':>8}{'wrong':>7}", flush=True)
    with ForkHost() as forks:
        for step in STEPS:
            is_clean &= _sweep(step, forks, workers, every or step.name in EVERY_LINE)
        for vendor in VENDORS:
            print(f"  at a vendor that behaves like {vendor}", flush=True)
            for step in STEPS:
                if step.is_of_dialects:
                    is_clean &= _sweep(step, forks, workers, every, Rules(vendor=vendor))
    workers.close_processes()
    return is_clean


def all_mutants() -> bool:
    return mutants.print_all()


def all_syncs(is_requested: bool = True) -> bool:
    return syncs.run(is_requested=is_requested)


PARTS: dict[str, Callable[[], bool]] = {
    "hosted": hosted,
    "team": team,
    "dialects": dialects,
    "roads": roads,
    "own": own,
    "real": real,
    "rented": rented,
    "calls": calls,
    "sweep": sweep,
    "syncs": all_syncs,
    "mutants": all_mutants,
}


def _run(name: str, storm_in: Callable[[Path], Storm]) -> bool:
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        storm = storm_in(Path(folder))
        verdict = storm.run()
    print(
        f"{name:<44}{sum(storm.kills.values()):>6}{verdict.due:>6}{verdict.duplicates:>12}{verdict.lost:>6}"
        f"{verdict.unposted:>10}{verdict.over_budget_usd:>13.2f}{verdict.twice:>7}",
        flush=True,
    )
    kills = ", ".join(f"{count} {point}" for point, count in sorted(storm.kills.items()))
    may = "with" if verdict.may_read else "without"
    print(f"    killed: {kills}; the bot {may} permission to look for its messages", flush=True)
    for problem in storm.problems:
        print(f"    {problem}", flush=True)
    return verdict.is_clean and verdict.due > 0 and not storm.problems


def _sweep(
    step: Step, forks: ForkHost, workers: SharedWorkers, every: bool, rules: Rules | None = None
) -> bool:
    with (
        tempfile.TemporaryDirectory(prefix="sweep-") as folder,
        world(Path(folder), workers, rules or step.rules) as prepared,
    ):
        sweep = Sweep(prepared, forks, step)
        result = sweep.try_every_line() if every else sweep.bisect()
    print(
        f"  {step.name:<42}{result.lines:>6}{result.deaths:>8}{result.states:>8}{len(result.wrong):>7}",
        flush=True,
    )
    for problem in result.wrong:
        print(f"    {problem}", flush=True)
    return not result.wrong


def _toy(folder: Path) -> Path:
    model = folder / "tiny"
    model.mkdir()
    make_tokenizer(model)
    make_model(model)
    return model


def _lane(names: tuple[str, ...]) -> bool:
    """Runs each part in a separate process. Prints its output at its end, and its log if it is not clean."""
    is_clean, options = True, [word for word in sys.argv if word.startswith("--kills=")]
    for name in names:
        started = time.monotonic()
        process = subprocess.run(
            [sys.executable, "-m", "benchmarks.chaos", name, "--among-others", *options],
            capture_output=True,
            text=True,
        )
        if process.returncode:
            print(process.stderr[-LOG:], flush=True)
        print(f"{process.stdout}    {name}: {time.monotonic() - started:.0f} s", flush=True)
        is_clean &= process.returncode == 0
    return is_clean


def main() -> None:
    names = [word for word in sys.argv[1:] if not word.startswith("--")]
    if not names:
        started = time.monotonic()
        print(HEAD, flush=True)
        with ThreadPoolExecutor(len(LANES)) as lanes:
            is_clean = all(list(lanes.map(_lane, LANES)))
        print(f"{'all clean' if is_clean else 'NOT CLEAN'} in {time.monotonic() - started:.0f} s")
    elif names == ["sweep"]:
        is_clean = sweep(every="--every" in sys.argv)
    elif names == ["syncs"]:
        is_clean = all_syncs(is_requested="--among-others" not in sys.argv)
    else:
        is_clean = all(PARTS[name]() for name in names)
    sys.exit(0 if is_clean else 1)


if __name__ == "__main__":
    main()
