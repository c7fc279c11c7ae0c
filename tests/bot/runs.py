"""Runs in stories: trained by the real steps, or copied in the store from the first one."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from typing import Any

from bot.rules.plans import plan_from_json, plan_hash
from tests.bot.saved_worlds import reached_once
from tests.bot.world import START, World
from tests.peers.service import StoredJob
from trainers.client.payloads import METADATA_KEY

ENOUGH_ROWS = 120
"""With so many, 39 are held out: all of them right show 85% even after several looks, which 18 of 60 never do."""
ANSWERS = (
    "INSERT INTO answers SELECT ?, arm, row, text, correct, prompt_tokens, completion_tokens, seconds, came_at"
    " FROM answers WHERE run_id = 1"
)


@reached_once
def seed_runs(world: World, count: int = 1, line: str = START) -> None:
    """Takes `count` runs to their end, one after the other; each model answers all held-out rows right."""
    if count > 1:
        seed_runs(world, count - 1, line)
    elif not world.store.datasets.versions("tickets"):
        world.seed_dataset(rows=ENOUGH_ROWS)
    world.start(f"{line} epochs={4 + count}")
    world.approve()
    world.tick_until_state("done", count)


def add_finished_runs(world: World, more: int, *, after: int = 1) -> None:
    """Adds copies of the finished run 1, numbered from `after`. Each has a model as good as that of run 1."""
    first = asdict(world.run())
    model = world.store.model(first["model"])
    with world.store.transaction():
        for number in range(after + 1, after + more + 1):
            plan = json.loads(first["plan"]) | {"seed": 1_000 + number}
            text = json.dumps(plan)
            changes = {"id": number, "plan": text, "key": f"key-{number}", "model": f"tickets-{number}"}
            _insert(world, {**first, **changes, "plan_hash": plan_hash(plan_from_json(text))})
            world.store.database.change(ANSWERS, (number,))
            world.store.add_model(replace(model, name=f"tickets-{number}", run_id=number))


def add_training_runs(world: World, count: int, *, since: float | None = None) -> None:
    """Adds copies of run 1 that have been training at the provider since `since` (Unix seconds)."""
    first, now = asdict(world.run()), since or world.clock
    company = world.provider.service
    request = company.jobs[first["job_id"]].request
    jobs = len(company.jobs)
    with world.store.transaction():
        for number in range(jobs + 1, jobs + count + 1):
            metadata = {**request["metadata"], METADATA_KEY: f"key-{number}"}
            job = StoredJob(f"ftjob-{number}", {**request, "metadata": metadata}, {}, min(now, time.time()))
            company.jobs[job.id] = job
            plan = json.dumps(json.loads(first["plan"]) | {"seed": 1_000 + number})
            changes = {
                "id": number,
                "plan": plan,
                "key": f"key-{number}",
                "job_id": job.id,
                "next_at": world.clock,
            }
            times = {"state_since": now, "created_at": now}
            _insert(world, {**first, **changes, **times, "plan_hash": plan_hash(plan_from_json(plan))})


def _insert(world: World, row: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    world.store.database.change(f"INSERT INTO runs ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))  # noqa: S608
