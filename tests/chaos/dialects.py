"""The storm over vendors with their own APIs, whose jobs don't name their plan. The bot's database had the mark that a
job carries before the job was created, so the plan is looked up there by the mark."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storage.driver import sqlite3
from tests.bot.world import ABILITIES, DIALECTS, MODEL
from tests.chaos.records import Record
from tests.chaos.storm import ACME, Storm
from tests.chaos.stormy_peers import RecordedService, StormyHosted
from tests.peers.fireworks import Fireworks
from tests.peers.hosted import Hosted, SigningHosted
from tests.peers.service import StoredJob
from tests.peers.together import Together
from tests.peers.vendors import Vendor, VendorJob
from trainers.client.uploads import key_mark
from trainers.types import Dialect

FindOwner = Callable[[str], dict[str, Any]]


@dataclass
class RecordedVendor(RecordedService, Vendor):
    find_owner: FindOwner = lambda mark: {}

    def _facts(self, created: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        job = str(created.get("id") or created["name"].rpartition("/")[2])
        return {"job": job, **self.find_owner(str(body.get("suffix") or job)[-16:])}

    def _tokens_of(self, job: StoredJob) -> int:
        assert isinstance(job, VendorJob)
        return job.tokens


@dataclass
class RecordedTogether(RecordedVendor, Together):
    pass


@dataclass
class RecordedFireworks(RecordedVendor, Fireworks):
    pass


@dataclass
class StormySigning(StormyHosted, SigningHosted):
    pass


@dataclass
class DialectStorm(Storm):
    dialect: Dialect = "together"

    def _start_provider(self, record: Record) -> Any:
        settings: dict[str, Any] = {
            **self._service_settings(record),
            "models": (MODEL,),
            "find_owner": owner_finder(self.folder / "data" / "finetune.db"),
        }
        if self.dialect == "together":
            return StormySigning(RecordedTogether(**settings), weather=self._weather)
        return StormySigning(RecordedFireworks(**settings), weather=self._weather)

    @property
    def _points(self) -> tuple[str, ...]:
        """An upload to Together has two more steps, each of which can be the last."""
        if self.dialect != "together":
            return super()._points
        steps = [
            step
            for number in range(1, 9)
            for step in (f"PUT /signed/uploads/file-{number}", f"POST /files/file-{number}/preprocess")
        ]
        moments = [f"{step} {moment}" for step in steps for moment in ("arrived", "done")]
        return (*super()._points, *moments)

    def _provider_row(self) -> str:
        lines = DIALECTS[self.dialect].format(chat=self.provider.url.removesuffix("/v1"))
        return provider_row(self.provider, ABILITIES[self.dialect], lines)


def provider_row(company: Hosted, abilities: str, lines: str) -> str:
    """Returns ACME's row with other abilities and more lines."""
    row = ACME.format(url=company.url + company.service.path, model=MODEL)  # type: ignore[attr-defined]
    head, _, models = row.partition("[providers.acme.models")
    settings = [line for line in head.splitlines() if not line.startswith("abilities")]
    return "\n".join([*settings, f"abilities = [{abilities}]", lines, f"[providers.acme.models{models}"])


@dataclass
class RecordedMute(RecordedService):
    """Returns neither metadata nor suffix, so that only the name of its file tells whose a job is."""

    find_owner: FindOwner = lambda mark: {}

    def _facts(self, created: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        mark = self.files[body["training_file"]].name.removesuffix(".jsonl").rpartition("-")[2]
        return {"job": created["id"], **self.find_owner(mark)}


@dataclass
class MuteStorm(Storm):
    """The storm at a vendor that speaks OpenAI's API and keeps neither metadata nor suffix."""

    def _start_provider(self, record: Record) -> Any:
        service = RecordedMute(
            models=(MODEL,),
            **self._service_settings(record),
            find_owner=owner_finder(self.folder / "data" / "finetune.db"),
        )
        return StormyHosted(service, weather=self._weather)

    def _provider_row(self) -> str:
        return (
            super()._provider_row().replace('"metadata", "metadata_filter", "method", "suffix"', '"method"')
        )


def owner_finder(database: Path) -> FindOwner:
    def find_owner(mark: str) -> dict[str, Any]:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            runs = connection.execute("SELECT id, key, plan_hash, plan FROM runs").fetchall()
        for number, key, plan_hash, plan in runs:
            if key_mark(key) == mark:
                model = f"{json.loads(plan)['suffix']}-{number}"
                return {"key": key, "plan": plan_hash[:12], "run": str(number), "model": model}
        raise AssertionError(f"a job carries the mark {mark}, which belongs to no run")

    return find_owner
