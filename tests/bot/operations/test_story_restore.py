"""A bot is killed and its database restored from before its job was created: nothing is paid twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot import nightly
from bot.cli import main
from bot.services.common.provider_jobs import SETTLE_S
from storage.backup import back_up, restore
from tests.bot.world import JOBS, World
from tests.patience import wait_until
from tests.peers.hosted import KEY

ROOT = Path(__file__).parents[3]


def backup_of(world: World) -> Path:
    settings = world.service.settings
    return back_up(settings.database, world.folder / "backup", now=time.time(), files=settings.files).path


def kill_once_a_job_exists(world: World, environment: dict[str, str]) -> None:
    """Run another bot on the same data; SIGKILL ends it once the provider has a job."""
    with subprocess.Popen([sys.executable, "-m", "bot", "run"], env=environment, cwd=world.folder) as bot:
        wait_until(lambda: world.jobs() == 1, "the job", seconds=30)
        bot.send_signal(signal.SIGKILL)


@pytest.mark.deep
def test_a_killed_bot_restored_from_before_its_job_adopts_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.clock = time.time() - 60
    world.provider.service.stages = ("running",) * 99 + ("succeeded",)
    world.start_approved()
    backup = backup_of(world)
    access = world.slack.access
    for name, value in (
        ("SLACK_BOT_TOKEN", access.bot_token),
        ("SLACK_SIGNING_SECRET", access.signing_secret),
        ("FINETUNE_CONFIG", str(world.folder / "finetune.toml")),
        ("ACME_KEY", KEY),
        ("PYTHONPATH", str(ROOT)),
    ):
        monkeypatch.setenv(name, value)
    refusal = CliRunner().invoke(main, ["restore", str(backup)])
    assert (refusal.exit_code, "already uses" in refusal.stderr) == (2, True), "the bot still runs"
    world.stop()
    kill_once_a_job_exists(world, dict(os.environ))
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


def test_a_job_list_that_lags_after_a_restore_leads_to_no_second_job(world: World) -> None:
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


def test_a_backup_is_made_once_a_night(world: World) -> None:
    world.start()
    folder = world.service.settings.backups
    nightly.back_up(world.service.context)
    nightly.back_up(world.service.context)
    (first,) = folder.iterdir()
    world.pass_time(24 * 3600)
    nightly.back_up(world.service.context)
    assert len(list(folder.iterdir())) == 2 and first.exists()
