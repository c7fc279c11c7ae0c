"""`finetune current`: prints the id of the model in use, also beside a running bot, or refuses with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bot.cli import main
from demo.people import BEN
from storage.driver import sqlite3
from storage.promotions import NewPromotion
from storage.records import Model, Promotable
from tests.bot.world import World


def run_current(world: World, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, ["current", *arguments], env={"FINETUNE_CONFIG": str(world.folder / "finetune.toml")}
    )


def test_the_id_of_the_model_in_use_is_printed_beside_a_running_bot(world: World) -> None:
    run = world.start()
    world.store.add_model(Model("tickets-1", run.id, "acme", "ft:acme:1", "candidate", world.clock))
    nothing = run_current(world, "tickets")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert "Nothing is in use for tickets" in nothing.stderr
    promotion = NewPromotion("tickets", Promotable("tickets-1"), BEN.id, run.channel, None, None)
    with world.store.transaction():
        assert world.store.promotions.add(promotion, now=world.clock)
    assert run_current(world, "ｔickets").exit_code == 0, "typed in another Unicode form"
    result = run_current(world, "Tickets")
    assert (result.exit_code, result.stdout) == (0, "ft:acme:1\n")
    assert run_current(world, "faq").exit_code == 1


def test_a_missing_or_foreign_database_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    result = CliRunner().invoke(main, ["current", "tickets"])
    assert (result.exit_code, result.stdout) == (2, "") and "There is no database" in result.stderr
    with sqlite3.connect(str(tmp_path / "old.db")) as old:
        old.execute("CREATE TABLE audit (id INTEGER)")
    result = CliRunner().invoke(main, ["current", "tickets", "--database", str(tmp_path / "old.db")])
    assert result.exit_code == 2 and "no such table: promotions" in result.stderr
