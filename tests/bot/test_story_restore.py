"""The drill: a bot is killed, its database restored from before the job was created, and nothing is paid
twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot import reconciler
from bot.cli import main
from bot.services.provider_jobs import SETTLE_S
from bot.services.tuned_learning_curves import curve_in_doubt
from bot.values.learning_curves import TunedCurveProgress
from demo.workspace import wait_until
from storage.backup import back_up, restore
from tests.bot.world import JOBS, World
from tests.cards import curve_cards, measurements
from tests.peers.hosted import KEY

ROOT = Path(__file__).parents[2]


def backup_of(world: World) -> Path:
    settings = world.service.settings
    return back_up(settings.database, world.folder / "backup", now=time.time(), files=settings.files).path


def until_killed_with_a_job(world: World, environment: dict[str, str]) -> None:
    """A bot of its own on the same data, ended by SIGKILL once the company has a job."""
    with subprocess.Popen([sys.executable, "-m", "bot", "run"], env=environment, cwd=world.folder) as bot:
        wait_until(lambda: world.jobs() == 1, "the job", seconds=30)
        bot.send_signal(signal.SIGKILL)


def test_a_killed_bot_restored_from_before_its_job_takes_it_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock = time.time() - 60
    world.provider.service.stages = ("running",) * 99 + ("succeeded",)
    world.start_approved()
    backup = backup_of(world)
    door = world.slack.access
    for name, value in (
        ("SLACK_BOT_TOKEN", door.bot_token),
        ("SLACK_SIGNING_SECRET", door.signing_secret),
        ("FINETUNE_CONFIG", str(world.folder / "finetune.toml")),
        ("ACME_KEY", KEY),
        ("PYTHONPATH", str(ROOT)),
    ):
        monkeypatch.setenv(name, value)
    refused = CliRunner().invoke(main, ["restore", str(backup)])
    assert (refused.exit_code, "already uses" in refused.stderr) == (2, True), "this one still runs"
    world.stop()
    until_killed_with_a_job(world, dict(os.environ))
    result = CliRunner().invoke(main, ["restore", str(backup)])
    assert result.exit_code == 0, result.output
    assert "1 run open: run 1" in result.stdout
    assert "replaced-" in result.stdout
    world.clock = time.time()
    world.boot()
    world.tick_until(lambda: world.run().job_id, "the job to be taken over")
    world.tick(5)
    assert (world.run().state, world.run().job_id) == ("training", next(iter(world.provider.service.jobs)))
    assert world.jobs() == 1 and world.provider.count(f"POST {JOBS}") == 1
    assert set(world.ledger()) == {"reserve"}
    assert "Finetune restored it from a backup" in world.type("/finetune audit 1")


def test_a_list_that_lags_behind_a_restore_makes_no_second_job(world: World) -> None:
    world.provider.service.stages = ("running",) * 99 + ("succeeded",)
    world.start_approved()
    backup = backup_of(world)
    world.tick_until_state("training")
    settings = world.service.settings
    world.stop()
    restore(backup, settings.database, settings.files, now=world.clock)
    world.provider.service.list_lag_s = 3600
    world.boot()
    for _ in range(10):
        world.pass_time(SETTLE_S / 20)
        world.tick()
    assert (world.run().state, world.jobs()) == ("creating", 1)
    world.provider.service.list_lag_s = 0
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_sizes_of_a_curve_that_may_have_a_job_are_looked_for_first() -> None:
    known = curve_cards.progress(curve_cards.DONE, curve_cards.TRAINS, curve_cards.WAITS)
    running = measurements.measurement(
        kind="curve", plan=curve_cards.plan().to_json(), progress=known.to_json(), state="running"
    )
    found = TunedCurveProgress.from_json(curve_in_doubt(running, 500.0))
    assert [size.state for size in found.sizes] == ["done", "training", "creating"]
    assert found.sizes[2].since == 500.0
    assert found.sizes[:2] == known.sizes[:2]
    assert curve_in_doubt(measurements.measurement(), 500.0) is None, "a ladder has no jobs"


def test_a_night_s_backup_is_made_once_and_restores_a_bot_without_its_disk(world: World) -> None:
    world.start()
    folder = world.service.settings.backups
    reconciler.back_up(world.service.context)
    reconciler.back_up(world.service.context)
    (only,) = folder.iterdir()
    world.pass_time(24 * 3600)
    reconciler.back_up(world.service.context)
    assert len(list(folder.iterdir())) == 2 and only.exists()
