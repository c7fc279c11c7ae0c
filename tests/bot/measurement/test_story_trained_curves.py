"""Learning curves of tuned models, which earlier versions trained: what is left of them is ended, read and deleted."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from bot.reconciler import maintain
from bot.rules import units
from bot.services.datasets.datasets import report_of
from bot.services.evidence import looks
from bot.values.evaluations import CurvePlan
from demo.people import ANA, BEN
from storage.evaluations import NewMeasurement
from storage.records import Measurement
from tests.bot.datasets.test_story_deletion import delete_and_wait
from tests.bot.measurements import measurement, until
from tests.bot.world import MODEL, PRIVATE, World
from tests.cards.evidence import curve_cards
from trainers.dataset import Report
from trainers.types import JobSpec

AGREED_MICROS = 640_000


def store_curve(
    world: World, state: str, sizes: list[dict[str, Any]], result: str | None = None
) -> Measurement:
    """Stores a curve with a plan and a progress such as 0.1.0 wrote."""
    report = rows_of(world)
    plan = {
        **json.loads(_plan(report).to_json()),
        "n_holdout": report.n_holdout,
        "labels": ["billing", "refund"],
        "provider": "acme",
        "base_model": MODEL,
        "sizes": [{"rows": 42, "hyperparameters": [], "training_micros": 600_000, "asking_micros": 40_000}],
        "seed": 1,
        "prices": "[]",
        "destination": None,
    }
    progress = {
        "stage": "training",
        "sizes": sizes,
        "most_micros": AGREED_MICROS,
        "agreed_by": BEN.id,
        "started_at": world.clock,
        "note": None,
        "beside": None,
    }
    new = NewMeasurement("curve", world.dataset().id, PRIVATE.id, ANA.id, json.dumps(plan), "running")
    with world.store.transaction():
        added = world.store.measurements.add(new, now=world.clock)
        changes: dict[str, Any] = {
            "progress": json.dumps(progress),
            "reserved_micros": AGREED_MICROS,
            "month": units.month_of(world.clock),
        }
        if result is not None:
            changes |= {"result": result, "actual_micros": 210_000}
        moved = world.store.measurements.move(added, state, now=world.clock, **changes)  # type: ignore[arg-type]
    assert moved
    return moved


def rows_of(world: World) -> Report:
    report = report_of(world.dataset())
    assert report
    return report


def _plan(report: Report) -> CurvePlan:
    return CurvePlan("tickets", 1, str(report.train_sha256), str(report.holdout_sha256), (84,), "0.5")


def size(key: str, **more: Any) -> dict[str, Any]:
    return {
        "rows": 42,
        "sha256": "a" * 64,
        "key": key,
        "state": "training",
        "since": 1.0,
        "tries": 1,
        "file_id": "file-1",
        "spent_micros": 0,
        "training": {},
        "answered": 0,
        "declined": [],
        **more,
    }


def create_job(world: World, key: str) -> str:
    """Returns the id of a job that an earlier version created at the provider, with a file that it uploaded."""
    report = rows_of(world)
    trainer = world.service.context.trainers["acme"]
    path = world.service.settings.files / f"{report.train_sha256}.jsonl"
    sha256 = str(report.train_sha256)
    world.store.uploads.intend("acme", {sha256}, now=world.clock)
    file_id = trainer.upload(path, sha256)
    spec = JobSpec(key, MODEL, file_id, {}, 1, "tickets-42", metadata={"measurement": "m1"})
    return trainer.create(spec).id


def test_a_curve_that_was_under_way_ends_and_its_job_is_cancelled(world: World) -> None:
    world.provider.service.stages = ("running",) * 99 + ("succeeded",)
    world.seed_dataset()
    job_id = create_job(world, "ft-old")
    assert world.files_at_provider() != []
    store_curve(world, "running", [size("ft-old", job_id=job_id, sha256=rows_of(world).train_sha256)])
    ended = until(world, "cancelled")
    assert world.files_at_provider() == []
    assert ended.actual_micros == AGREED_MICROS, "what it may have cost at most counts as spent"
    assert world.store.committed(ended.month) == AGREED_MICROS
    assert "no longer trains learning curves of tuned models" in world.type("/finetune results m1")
    maintain(world.service.context)
    world.send()
    assert world.provider.service.jobs[job_id].is_cancelled


def test_a_curve_that_nobody_agreed_to_ends_and_costs_nothing(world: World) -> None:
    world.seed_dataset()
    store_curve(world, "asked", [size("ft-old", state="waiting")])
    ended = until(world, "cancelled")
    assert ended.actual_micros == 0 and world.store.committed(ended.month) == 0
    assert "counts as spent" not in world.type("/finetune results m1")


def test_a_result_stays_readable_counts_as_a_look_and_goes_with_its_dataset(world: World) -> None:
    world.seed_dataset()
    job_id = create_job(world, "ft-old")
    trained = size("ft-old", job_id=job_id, model="ft:acme-small:tickets-42", state="done")
    reused = size("ft-older", model="ft:acme-small:tickets-21", from_before="run 7", state="done")
    curve = replace(curve_cards.tuned_curve(), dataset="tickets")
    store_curve(world, "done", [reused, trained], curve.to_json())
    assert "Learning curve m1: tickets" in world.type("/finetune results m1")
    assert "Measurement m1" in world.type("/finetune status")
    history = looks.history(world.store, "tickets", str(rows_of(world).holdout_sha256))
    assert [look.name for look in history] == ["m1"]
    delete_and_wait(world, BEN)
    assert measurement(world).result is None
    assert world.provider.count("DELETE /models/ft:acme-small:tickets-42") == 1
    assert world.provider.count("DELETE /models/ft:acme-small:tickets-21") == 0, (
        "run 7's model is not the curve's"
    )
