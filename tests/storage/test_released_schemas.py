"""A database of each release opens with the newest code, keeps its rows, and gets the schema of a new one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from storage.audit import IntactLog, verify_log
from storage.driver import sqlite3
from storage.store import Store
from tests.storage.releasing import dump, load, path_of

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"
RELEASES = re.findall(r"^## \[(\d[^\]]*)\]", CHANGELOG.read_text(encoding="utf-8"), flags=re.MULTILINE)
Tables = dict[str, list[dict[str, Any]]]


def test_every_release_and_nothing_else_has_a_dump() -> None:
    dumps = {path.stem for path in path_of("x").parent.iterdir()}
    assert dumps == set(RELEASES), "`python -m tests.storage.releasing VERSION` writes the dump of a release"


def test_the_next_dump_has_rows_in_every_table_and_opens(tmp_path: Path) -> None:
    path = tmp_path / "newest.db"
    load(dump(), path)
    empty = [name for name, rows in read_tables(path).items() if not rows]
    assert empty == [], "add rows for a new table to ROWS in tests/storage/releasing.py"
    Store(path).close()
    assert isinstance(verify_log(path), IntactLog)


@pytest.mark.parametrize("release", RELEASES)
def test_a_released_database_migrates_keeps_its_rows_and_stays_usable(
    release: str, tmp_path: Path, store: Store
) -> None:
    path = tmp_path / "old.db"
    load(path_of(release).read_text(), path)
    before = read_tables(path)
    assert [name for name, rows in before.items() if not rows] == [], "a dump has rows in every table"
    old = Store(path)
    after = read_tables(path)
    for name, rows in before.items():
        assert [{column: row[column] for column in rows[0]} for row in after[name]] == rows, name
    assert read_schema(old) == read_schema(store), "the schema of a new one"
    assert isinstance(verify_log(path), IntactLog)
    assert [run.id for run in old.runs.open()] == [1] and old.committed("2026-11") >= 2_500_000
    assert old.outbox.due(1_000.0)[0].body == {"text": "queued"}
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        old.database.change("UPDATE audit SET who = 'U9' WHERE id = 1")
    old.close()


def test_a_name_that_several_channels_shared_belongs_to_the_first_of_them(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    load(path_of("0.1.0").read_text(), path)
    connection = sqlite3.connect(str(path))
    for version, channel, state in ((2, "C9", "ready"), (3, "C1", "ready"), (4, "C9", "checking")):
        connection.execute(
            "INSERT INTO datasets (name, version, state, channel, uploaded_by, filename, source, created_at,"
            " updated_at) VALUES ('tickets', ?, ?, ?, 'U9', 'tickets.csv', 'F9', 1.0, 1.0)",
            (version, state, channel),
        )
    connection.commit()
    connection.close()
    migrated = Store(path)
    datasets = [(row.owner, row.sources, row.state) for row in reversed(migrated.datasets.all())]
    assert datasets[:3] == [("C1", "C1", "ready"), ("C1", "C1 C9", "ready"), ("C1", "C1 C9", "ready")]
    assert datasets[3][2] == "refused", "a version that was still being checked is not merged"
    migrated.close()


def read_tables(path: Path) -> Tables:
    connection = sqlite3.connect(str(path))
    connection.row_factory = sqlite3.Row
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE '%sqlite%'"
    )
    all_rows = {
        name: [dict(row) for row in connection.execute(f'SELECT * FROM "{name}" ORDER BY rowid')]  # noqa: S608
        for (name,) in names.fetchall()
    }
    connection.close()
    return all_rows


def read_schema(store: Store) -> dict[str, str]:
    """Returns the schema regardless of the order of columns."""
    rows = store.database.rows("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")
    return {row["name"]: " ".join(sorted(re.split(r"[\s,()\"]+", row["sql"]))) for row in rows}
