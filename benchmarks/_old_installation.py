"""Fills a data folder with what a team of 2,000 people leaves in a few years: every row is a copy of one that the bot
itself wrote in a story of the tests' world, with its own numbers, names and times."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.rules.plans import plan_from_json, plan_hash
from demo.people import ANA, BEN, BOT
from demo.workspace import Channel, Person
from storage.audit import GENESIS, entry_hash
from storage.driver import sqlite3
from storage.store import Store
from tests.bot.measurements import BASELINE, PRICES, measure
from tests.bot.world import Rules, SharedWorkers
from tests.bot.world import world as running_world
from tests.peers.hosted import KEY

CHANNELS = tuple(
    Channel(f"C0CH{number:02d}", f"team-{number}", (ANA.id, BEN.id, BOT.id), private=number % 5 == 0)
    for number in range(33)
)
PEOPLE = (ANA, BEN, *(Person(f"U0P{number:03d}", f"p{number}", f"Person {number}") for number in range(200)))
YEAR_S = 365 * 86400.0
REPLIES_A_RUN = 200
STATES = (
    *("done",) * 85,
    *("rejected",) * 5,
    *("expired",) * 4,
    *("cancelled",) * 3,
    *("failed",) * 3,
)
HAD_A_JOB = ("done", "cancelled", "failed")
AUDITED = ("ask", "approve", "started", "trained", "done", "promote", "alias", "try", "upload", "ready")

Row = dict[str, Any]


@dataclass(frozen=True)
class Size:
    """How much the installation holds."""

    runs: int = 10_000
    versions: int = 2_000
    measurements: int = 300
    audit: int = 1_000_000


@dataclass(frozen=True)
class Templates:
    """The rows of one dataset with one measurement and one finished run, by table."""

    rows: Mapping[str, list[Row]]
    files: Path

    def one(self, table: str) -> Row:
        return self.rows[table][0]


def fill(data: Path, size: Size) -> None:
    """Writes the database and the datasets' files into the folder `data`, which must not exist yet."""
    story = data.with_name(data.name + "-story")
    templates = _play_one_run(story)
    Store(data / "finetune.db").close()
    shutil.copytree(templates.files, data / "files")
    with closing(sqlite3.connect(str(data / "finetune.db"), isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        _Copies(connection, templates, size).write()
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    shutil.rmtree(story)


def _play_one_run(folder: Path) -> Templates:
    os.environ["ACME_KEY"] = KEY
    folder.mkdir(parents=True)
    workers = SharedWorkers(draws=False)
    with running_world(folder, workers, Rules(more=PRICES)) as world:
        world.seed_dataset(rows=200)
        measure(world, f"{BASELINE} candidates=zero,kshot")
        world.start_approved()
        world.tick_until_state("done")
        tables = ("datasets", "runs", "answers", "replies", "measurements", "models")
        rows = {table: world.store.database.rows(f"SELECT * FROM {table}") for table in tables}  # noqa: S608
        files = folder / "kept-files"
        shutil.copytree(world.service.settings.files, files)
    workers.close_processes()
    return Templates(rows, files)


class _Copies:
    def __init__(self, connection: Any, templates: Templates, size: Size) -> None:
        self._connection = connection
        self._templates = templates
        self._size = size
        self._channels = [channel.id for channel in CHANNELS]
        self._people = [person.id for person in PEOPLE]
        self._random = random.Random(5)
        self._now = time.time()

    def write(self) -> None:
        datasets = list(self._datasets())
        runs = list(self._runs(datasets))
        self._insert("datasets", datasets)
        self._insert("runs", runs)
        self._insert("approvals", self._approvals(runs))
        self._insert("ledger", self._ledger(runs))
        models = list(self._models(runs))
        self._insert("models", models)
        self._insert("promotions", self._promotions(models, datasets))
        self._insert("answers", self._answers(runs))
        self._insert("replies", self._replies(runs))
        self._insert("measurements", self._measurements(datasets))
        self._insert("cards", self._cards(runs))
        self._insert("sent_once", self._sent(runs))
        self._insert("audit", self._audit())

    def _insert(self, table: str, rows: Iterable[Row]) -> None:
        rows = iter(rows)
        first = next(rows)
        names = list(first)
        marks = ", ".join("?" * len(names))
        sql = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})"  # noqa: S608 - our names
        self._connection.execute(sql, tuple(first.values()))
        self._connection.executemany(sql, (tuple(row[name] for name in names) for row in rows))

    def _at(self, number: int, count: int) -> float:
        return self._now - YEAR_S * (1 - number / count) - 3600

    def _datasets(self) -> Iterator[Row]:
        count = self._size.versions
        names = max(count // 3, 1)
        for number in range(1, count + 1):
            place = (number - 1) % names
            channel = self._channels[place % len(self._channels)]
            is_refused = number % 20 == 0
            at = self._at(number, count)
            yield {
                **self._templates.one("datasets"),
                "id": number,
                "name": f"ds{place:04d}",
                "version": (number - 1) // names + 1,
                "channel": channel,
                "owner": channel,
                "sources": channel,
                "uploaded_by": self._random.choice(self._people),
                "state": "refused" if is_refused else "ready",
                "refusal": "It has too few rows." if is_refused else None,
                "created_at": at,
                "updated_at": at,
            }

    def _runs(self, datasets: list[Row]) -> Iterator[Row]:
        template = self._templates.one("runs")
        plan = json.loads(template["plan"])
        for number in range(1, self._size.runs + 1):
            dataset = self._random.choice(datasets)
            at = self._at(number, self._size.runs)
            state = STATES[number % len(STATES)]
            own = {
                "provider": "local",
                "base_model": "smollm2-135m",
                "seed": number,
                "dataset": dataset["name"],
                "dataset_id": dataset["id"],
                "dataset_version": dataset["version"],
                "channel": dataset["channel"],
                "asked_at": at,
                "suffix": dataset["name"],
            }
            text = json.dumps({**plan, **own}, separators=(",", ":"), sort_keys=True)
            is_done = state == "done"
            had_job = state in HAD_A_JOB
            yield {
                **template,
                "id": number,
                "plan": text,
                "plan_hash": plan_hash(plan_from_json(text)),
                "key": f"ft-{number:024x}",
                "state": state,
                "dataset_id": dataset["id"],
                "requester": self._random.choice(self._people),
                "channel": dataset["channel"],
                "provider": "local",
                "job_id": f"ftjob-{number:024x}" if had_job else None,
                "model": f"{dataset['name']}-{number}" if is_done else None,
                "result": template["result"] if is_done else None,
                "progress": template["progress"] if had_job else None,
                "actual_micros": template["actual_micros"] if is_done else None,
                "created_at": at,
                "updated_at": at + 600,
                "state_since": at + 600,
            }

    def _approvals(self, runs: list[Row]) -> Iterator[Row]:
        for run in runs:
            if run["state"] in HAD_A_JOB:
                yield {
                    "run_id": run["id"],
                    "plan_hash": run["plan_hash"],
                    "person": self._people[0],
                    "decision": "approve",
                    "reason": "It may pay off.",
                    "at": run["created_at"],
                }

    def _ledger(self, runs: list[Row]) -> Iterator[Row]:
        for run in runs:
            if run["state"] not in HAD_A_JOB:
                continue
            month = time.strftime("%Y-%m", time.gmtime(run["created_at"]))
            for kind, micros in (("reserve", 100_000), ("settle", 2_667)):
                yield {
                    "run_id": run["id"],
                    "month": month,
                    "kind": kind,
                    "micros": micros,
                    "at": run["created_at"],
                }

    def _models(self, runs: list[Row]) -> Iterator[Row]:
        """All but the newest of a dataset, which is in use, were deleted at their provider. It is one whose key isn't
        set here: our own trainer would have none of them, and the bot would report that for hours."""
        newest = {run["dataset_id"]: run["model"] for run in runs if run["model"]}
        for run in runs:
            if run["model"]:
                is_newest = newest[run["dataset_id"]] == run["model"]
                yield {
                    "name": run["model"],
                    "run_id": run["id"],
                    "provider": "openai",
                    "provider_model": f"ft:gpt-4o-mini:team::{run['id']}",
                    "state": "candidate",
                    "created_at": run["created_at"],
                    "gone_at": None if is_newest else run["updated_at"],
                }

    def _promotions(self, models: list[Row], datasets: list[Row]) -> Iterator[Row]:
        channel_of = {dataset["name"]: dataset["channel"] for dataset in datasets}
        newest = {model["name"].partition("-")[0]: model for model in models}
        for number, (name, model) in enumerate(newest.items(), 1):
            yield {
                "id": number,
                "dataset": name,
                "model": model["name"],
                "person": self._people[0],
                "channel": channel_of[name],
                "at": model["created_at"],
                "carried_at": model["created_at"],
            }

    def _answers(self, runs: list[Row]) -> Iterator[Row]:
        for run in runs:
            if run["state"] == "done":
                for answer in self._templates.rows["answers"]:
                    yield {**answer, "run_id": run["id"]}

    def _replies(self, runs: list[Row]) -> Iterator[Row]:
        replies = self._templates.rows["replies"]
        number = 0
        for run in runs:
            if run["state"] != "done":
                continue
            for place in range(REPLIES_A_RUN):
                number += 1
                yield {
                    **replies[place % len(replies)],
                    "key": hashlib.sha256(b"%d" % number).hexdigest(),
                    "owner": f"run {run['id']}",
                    "at": run["created_at"],
                }

    def _measurements(self, datasets: list[Row]) -> Iterator[Row]:
        template = self._templates.one("measurements")
        count = self._size.measurements
        for number in range(1, count + 1):
            dataset = self._random.choice(datasets)
            at = self._at(number, count)
            yield {
                **template,
                "id": number,
                "dataset_id": dataset["id"],
                "channel": dataset["channel"],
                "requested_by": self._random.choice(self._people),
                "plan": template["plan"].replace('"tickets"', f'"{dataset["name"]}"'),
                "created_at": at,
                "updated_at": at + 600,
            }

    def _cards(self, runs: list[Row]) -> Iterator[Row]:
        for run in runs:
            for kind in ("plan", "result"):
                ts = f"{run['created_at']:.6f}"
                yield {"name": f"{kind} {run['id']}", "channel": run["channel"], "ts": ts}

    def _sent(self, runs: list[Row]) -> Iterator[Row]:
        for run in runs:
            for kind in ("plan", "decision", "result", "changed", "report of run", "promotion"):
                yield {"dedupe": f"{kind} {run['id']}"}

    def _audit(self) -> Iterator[Row]:
        names = ("previous", "at", "who", "action", "subject", "detail")
        previous = GENESIS
        count = self._size.audit
        for number in range(1, count + 1):
            who = self._people[number % len(self._people)]
            action = AUDITED[number % len(AUDITED)]
            subject = f"run {number % self._size.runs + 1}"
            entry = (previous, self._at(number, count), who, action, subject, "")
            hashed = entry_hash(*entry)
            yield {"id": number, **dict(zip(names, entry, strict=True)), "hash": hashed}
            previous = hashed
