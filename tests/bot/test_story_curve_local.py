"""A tuned model's learning curve on our own trainer, a real process that trains a toy model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bot.measurements import HELD, measurement, until, until_asked
from tests.bot.props import LABELS
from tests.bot.test_story_curve_tuned import progress, until_size
from tests.bot.world import MakeWorld, Rules, World
from tests.local.conftest import tiny_model_dir  # noqa: F401 - a fixture
from tests.local.trainer_server import KEY, TrainerServer, serve_in_process
from trainers.evaluation.results import Candidate, Curve

CURVE = "/finetune curve tickets target=local/tiny"
# without this speed, the plan would expect the toy model to take minutes
OWN = """[providers.local]
base_url = "{url}"
[providers.local.defaults]
n_epochs = 2
[providers.local.models.tiny]
usd_per_hour = "{usd}"
tokens_per_second = 450
"""


@pytest.fixture
def served(
    tmp_path: Path,
    tiny_model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[TrainerServer]:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    with serve_in_process(tmp_path / "trainer", f"tiny={tiny_model_dir}") as served:
        yield served


def own_world(make_world: MakeWorld, served: TrainerServer, usd: str = "0") -> World:
    world = make_world(Rules(more=OWN.format(url=served.url, usd=usd)))
    world.seed_dataset()
    return world


def jobs(served: TrainerServer) -> list[tuple[str, str]]:
    """The status and our key of each job at the trainer, oldest first."""
    with served.client() as client:
        listed = client.fine_tuning.jobs.list(limit=100).data
    return [(job.status, (job.metadata or {})["finetune_key"]) for job in reversed(listed)]


def test_a_free_curve_survives_restarts_and_continues_after_a_cancel(
    make_world: MakeWorld, served: TrainerServer
) -> None:
    """It starts at once, continues after a restart in each state, and trains nothing twice: 4 jobs, one cancelled."""
    world = own_world(make_world, served)
    assert world.type(CURVE) == ""
    for at, state in ((0, "training"), (0, "evaluating"), (1, "training")):
        until_size(world, at, state, seconds=90)
        world.restart()
    world.type("/finetune cancel m1")
    assert until(world, "cancelled", seconds=90).result is None
    assert [status for status, _ in jobs(served)] == ["succeeded", "cancelled"]
    world.type(CURVE)
    until_size(world, 2, "evaluating", number=2, seconds=150)
    assert [size.from_before for size in progress(world, 2).sizes] == ["m1", None, None]
    world.restart()
    done = until(world, "done", 2, seconds=90)
    statuses, keys = zip(*jobs(served), strict=True)
    assert statuses == ("succeeded", "cancelled", "succeeded", "succeeded") and len(set(keys)) == 4
    curve = Curve.from_json(str(done.result))
    assert curve.arm == Candidate("tuned", "local/tiny")
    assert [point.rows for point in curve.points] == [10, 21, 42]
    assert all(len(point.draws) == 1 for point in curve.points)
    assert done.actual_micros == done.reserved_micros == 0
    assert {need.label for need in curve.needs} <= set(LABELS)
    replies = world.store.database.rows("SELECT model FROM replies")
    assert len(replies) == 3 * HELD and len({row["model"] for row in replies}) == 3
    card = world.find_message("Learning curve m2: tickets", "classical model")
    assert "local/tiny" in card and "curve.png" in world.files()


def test_a_curve_on_a_machine_paid_by_the_hour_needs_approval(
    make_world: MakeWorld, served: TrainerServer
) -> None:
    world = own_world(make_world, served, usd="2.00")
    world.type(CURVE)
    until_asked(world)
    assert measurement(world).state == "asked" and jobs(served) == []
    assert "Train 3 models for" in world.find_message("Train 3 models for")
    plan = json.loads(measurement(world).plan)
    assert measurement(world).reserved_micros == sum(size["training_micros"] for size in plan["sizes"])
