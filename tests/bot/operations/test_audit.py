"""The audit log: read in Slack by members, verified and exported in the terminal."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import get_args

import pytest
from click.testing import Result

from bot.cards.training.audits import WORDS
from bot.cli.audits import escape_formula
from demo.people import ANA, BEN
from storage.records import Wish
from storage.store import Store
from tests.bot.cli_runner import ROOT, finetune
from tests.bot.world import EVE, GUS, World
from tests.storage.audit_log import alter_audit_log


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bot's database with three entries, where the terminal looks for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)
    store = Store(tmp_path / "data" / "finetune.db")
    for number, detail in enumerate(("plain", "=HYPERLINK(1)", '\tünï, "quoted"\x1b[31m'), start=1):
        store.audit.add(at=number, who="U1", action="ask", subject=f"run {number}", detail=detail)
    store.close()
    return tmp_path / "data" / "finetune.db"


def run_audit(*arguments: str) -> Result:
    return finetune("audit", *arguments)


def test_full_members_alone_read_who_did_what(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    text = world.type("/finetune audit 1")
    places = [text.index(part) for part in (f"<@{ANA.id}> asked", f"<@{BEN.id}> approved", "started its job")]
    assert places == sorted(places, reverse=True), "the newest first"
    plan_hash = world.run().plan_hash
    assert text.count(f"plan `{plan_hash[:12]}`") == 2 and plan_hash not in text
    for stranger in (GUS, EVE):
        assert "Only full members" in world.type("/finetune audit 1", user=stranger)
    assert "There is no run 9" in world.type("/finetune audit 9")


def test_the_newest_of_very_many_entries_are_shown(world: World) -> None:
    world.start()
    for number in range(300):
        world.store.audit.add(
            at=world.clock, who="finetune", action="failed", subject="run 1", detail=f"no. {number}"
        )
    text = world.type("/finetune audit 1")
    assert "no. 299" in text and "no. 0\n" not in text and "more" in text


def test_every_action_on_a_run_has_words() -> None:
    """The services write these by name; states and wishes are listed in records.py."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "bot" / "services").rglob("*.py"))
    acts = set(re.findall(r'\.audit\(\s*[^,()]+,\s*"([a-z ]+)",\s*f"run ', sources))
    assert {"ask", "replace", "over maximum"} <= acts <= set(WORDS)
    assert {*get_args(Wish), "cancelled", "failed", "expired"} <= set(WORDS)


def test_an_intact_log_is_reported_with_its_head_and_its_blind_spot(database: Path) -> None:
    result = run_audit("verify")
    assert result.exit_code == 0
    first, second = result.stdout.splitlines()
    assert first.startswith("3 entries, all intact. Head: ")
    assert "cut off at the end" in second
    again = run_audit("verify", "--head", first[-64:])
    assert (again.exit_code, "earlier head is entry 3" in again.stdout) == (0, True)


def test_a_broken_log_has_exit_code_1_and_names_the_entry(database: Path) -> None:
    alter_audit_log(database, "UPDATE audit SET detail = 'Plain', subject = 'run \x1b[2J9' WHERE id = 2")
    result = run_audit("verify")
    assert result.exit_code == 1
    assert "after 1 intact entry: entry 2, 1970-01-01 00:00:02 UTC, about run [2J9." in result.stdout
    assert "altered after it was written" in result.stdout
    assert "after 1 intact entry" in run_audit("export").stderr, "an export reports it, too"


def test_an_unknown_head_has_exit_code_1_and_a_malformed_one_2(database: Path) -> None:
    assert run_audit("verify", "--head", "ab" * 32).exit_code == 1
    assert run_audit("verify", "--head", "abc").exit_code == 2
    assert run_audit("verify", "--database", str(database)).exit_code == 0


def test_an_export_has_every_field_and_can_be_limited_to_a_run(database: Path) -> None:
    entries = json.loads(run_audit("export").stdout)
    assert [entry["id"] for entry in entries] == [1, 2, 3]
    assert (entries[0]["who"], entries[0]["time"]) == ("U1", "1970-01-01 00:00:01 UTC")
    assert len(entries[0]["hash"]) == 64
    assert [entry["id"] for entry in json.loads(run_audit("export", "--run", "2", "--json").stdout)] == [2]


def test_no_cell_of_the_csv_acts_as_a_formula(database: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run_audit("export", "--csv").stdout)))
    assert [row["detail"] for row in rows] == ["plain", "'=HYPERLINK(1)", '\'\tünï, "quoted"[31m']


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝"])
def test_a_cell_that_begins_like_a_formula_is_escaped(start: str) -> None:
    assert escape_formula(f"{start}1+1") == f"'{start}1+1"
    assert escape_formula(f"a{start}") == f"a{start}"
