"""Who did what: in Slack for members, in the terminal as a check and as an export."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import get_args

import pytest
from click.testing import CliRunner, Result

from bot.cards.audits import WORDS
from bot.cli import main
from bot.cli.render import escape_formula
from demo.people import ANA, BEN
from storage.records import Wish
from storage.store import Store
from tests.bot.world import EVE, GUS, World
from tests.storage.test_audit import alter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bot's data with three entries, where the terminal looks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    store = Store(tmp_path / "data" / "finetune.db")
    for number, detail in enumerate(("plain", "=HYPERLINK(1)", '\tünï, "quoted"\x1b[31m'), start=1):
        store.audit.add(at=number, who="U1", action="ask", subject=f"run {number}", detail=detail)
    store.close()
    return tmp_path / "data" / "finetune.db"


def finetune(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["audit", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_members_read_who_did_what_and_nobody_else_does(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    said = world.type("/finetune audit 1")
    order = [
        said.index(part)
        for part in (f"<@{ANA.id}> asked", f"<@{BEN.id}> approved", "started its job", "posted")
    ]
    assert order == sorted(order, reverse=True)
    for stranger in (GUS, EVE):
        assert "Only full members" in world.type("/finetune audit 1", user=stranger)
    assert "There is no run 9" in world.type("/finetune audit 9")


def test_of_very_many_entries_the_newest_are_shown(world: World) -> None:
    world.start()
    for number in range(300):
        world.store.audit.add(
            at=world.clock, who="finetune", action="failed", subject="run 1", detail=f"no. {number}"
        )
    said = world.type("/finetune audit 1")
    assert "no. 299" in said and "no. 0\n" not in said and "more" in said


def test_every_act_on_a_run_has_words() -> None:
    """Those that the workflows write by name; a state or a wish stands for itself in records.py."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "bot" / "services").glob("*.py"))
    acts = set(re.findall(r'\.audit\(\s*[^,()]+,\s*"([a-z ]+)",\s*f"run ', sources))
    assert {"ask", "replace", "over maximum"} <= acts <= set(WORDS)
    assert {*get_args(Wish), "cancelled", "failed", "expired"} <= set(WORDS)


def test_a_whole_log_is_said_with_its_head_and_what_stays_unseen(database: Path) -> None:
    result = finetune("verify")
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.startswith("3 entries, all intact. Head: ")
    assert "cut off at the end" in second
    again = finetune("verify", "--head", first[-64:])
    assert (again.exit_code, "earlier head is entry 3" in again.stdout) == (0, True)


def test_a_broken_log_is_exit_code_1_with_the_entry(database: Path) -> None:
    alter(database, "UPDATE audit SET detail = 'Plain', subject = 'run \x1b[2J9' WHERE id = 2")
    result = finetune("verify")
    assert result.exit_code == 1
    assert "after 1 intact entry: entry 2, 1970-01-01 00:00:02 UTC, about run [2J9." in result.stdout
    assert "altered after it was written" in result.stdout
    assert "after 1 intact entry" in finetune("export").stderr, "an export says it, too"


def test_an_unknown_head_is_exit_code_1_and_a_crooked_one_refused(database: Path) -> None:
    assert finetune("verify", "--head", "ab" * 32).exit_code == 1
    assert finetune("verify", "--head", "abc").exit_code == 2
    assert finetune("verify", "--database", str(database)).exit_code == 0


def test_an_export_holds_every_field_and_can_be_of_one_run(database: Path) -> None:
    entries = json.loads(finetune("export").stdout)
    assert [one["id"] for one in entries] == [1, 2, 3]
    assert (entries[0]["who"], entries[0]["time"]) == ("U1", "1970-01-01 00:00:01 UTC")
    assert len(entries[0]["hash"]) == 64
    assert [one["id"] for one in json.loads(finetune("export", "--run", "2", "--json").stdout)] == [2]


def test_no_cell_of_the_csv_acts_as_a_formula(database: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(finetune("export", "--csv").stdout)))
    assert [row["detail"] for row in rows] == ["plain", "'=HYPERLINK(1)", '\'\tünï, "quoted"[31m']


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_a_cell_that_begins_like_a_formula_is_defused(start: str) -> None:
    assert escape_formula(f"{start}1+1") == f"'{start}1+1"
    assert escape_formula(f"a{start}") == f"a{start}"
