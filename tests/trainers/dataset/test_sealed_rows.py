"""Sealed rows: in no other part, kept sealed in the next version, and part of the holdout once opened."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from trainers.dataset import CheckSettings, Columns, Report, check_file
from trainers.dataset.rows import question_key
from trainers.dataset.versions import Previous, read_stored

LABELS = ("billing", "shipping", "refund")


def check_tickets(
    out: Path, numbers: Iterable[int], sealed: int = 0, previous: Previous | None = None
) -> Report:
    rows = [
        (f"ticket {n * 7919} about {LABELS[n % 3]} and {n * 104729} things", LABELS[n % 3]) for n in numbers
    ]
    return check_rows(out, rows, n_sealed=sealed, previous=previous)


def check_rows(out: Path, rows: Iterable[tuple[str, str]], **options: Any) -> Report:
    path = out / "rows.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    report = check_file(path, path.name, Columns(), out, 7, CheckSettings(**options))
    assert not report.is_blocked
    return report


def read_keys(out: Path, sha256: str | None) -> set[bytes]:
    rows = read_stored(out / f"{sha256}.jsonl", "reading") if sha256 else ()
    return {question_key(row) for row in rows}


def read_parts(out: Path, report: Report) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """Returns the questions for training, held out and sealed."""
    train, held, sealed = (
        read_keys(out, sha) for sha in (report.train_sha256, report.holdout_sha256, report.sealed_sha256)
    )
    assert not train & held and not train & sealed and not held & sealed
    return train, held, sealed


def previous_of(out: Path, report: Report, *, is_opened: bool = False) -> Previous:
    train, held, sealed = (
        out / f"{sha}.jsonl" for sha in (report.train_sha256, report.holdout_sha256, report.sealed_sha256)
    )
    return Previous(train, held, sealed=sealed, is_opened=is_opened)


def test_sealing_rows_does_not_change_the_holdout(tmp_path: Path) -> None:
    plain, report = check_tickets(tmp_path, range(900)), check_tickets(tmp_path, range(900), 120)
    train, _, sealed = read_parts(tmp_path, report)
    assert (report.n_sealed, len(sealed), report.n_train) == (120, 120, len(train))
    assert report.holdout_sha256 == plain.holdout_sha256 and plain.sealed_sha256 is None
    assert report.sealed_sha256 in report.stored_files
    assert train | sealed == read_keys(tmp_path, plain.train_sha256)
    assert check_tickets(tmp_path, range(900), 120).sealed_sha256 == report.sealed_sha256


def test_copies_and_near_copies_of_sealed_rows_are_not_trained_on(tmp_path: Path) -> None:
    text = "my parcel with number {n} has not come yet and I have waited for it since the {n}th of the month"
    rows = []
    for n in range(100):
        question = text.format(n=n * 7919).replace("parcel", f"parcel {n * 104729} {n * 15485863}")
        rows += [(copy, LABELS[n % 3]) for copy in (question, question, f"{question}!!!")]
    report = check_rows(tmp_path, rows, n_sealed=30, deep=True)
    _, _, sealed = read_parts(tmp_path, report)
    sealed_numbers, trained_numbers = (
        {line.split(b"number ")[1].split()[0] for line in read_lines(tmp_path, sha)}
        for sha in (report.sealed_sha256, report.train_sha256)
    )
    assert sealed and not sealed_numbers & trained_numbers


def read_lines(out: Path, sha256: str | None) -> list[bytes]:
    return (out / f"{sha256}.jsonl").read_bytes().splitlines()


def test_the_next_version_keeps_sealed_rows_sealed_including_those_that_it_lacks(tmp_path: Path) -> None:
    first = check_tickets(tmp_path, range(600), 90)
    _, held, sealed = read_parts(tmp_path, first)
    second = check_tickets(tmp_path, range(40, 900), previous=previous_of(tmp_path, first))
    train_2, held_2, sealed_2 = read_parts(tmp_path, second)
    assert sealed_2 == sealed and held < held_2
    assert second.diff is not None and (second.diff.added, second.diff.removed) == (300, 40)
    assert second.n_holdout - second.diff.held_out_added == len(held)
    assert Report.from_json(second.to_json()) == second
    assert not (held | sealed) & train_2


def test_a_later_version_seals_only_new_questions_up_to_the_requested_number(tmp_path: Path) -> None:
    first = check_tickets(tmp_path, range(600))
    trained, held, _ = read_parts(tmp_path, first)
    previous = replace(previous_of(tmp_path, first), sealed=None)
    second = check_tickets(tmp_path, range(900), 60, previous)
    _, _, sealed = read_parts(tmp_path, second)
    assert len(sealed) == 60 and not sealed & (trained | held)
    third = check_tickets(tmp_path, range(1200), 100, previous_of(tmp_path, second))
    assert read_parts(tmp_path, third)[2] > sealed and third.n_sealed == 100


def test_opened_rows_join_the_holdout_of_the_next_version(tmp_path: Path) -> None:
    first = check_tickets(tmp_path, range(600), 90)
    _, held, sealed = read_parts(tmp_path, first)
    second = check_tickets(tmp_path, range(900), 50, previous_of(tmp_path, first, is_opened=True))
    train_2, held_2, sealed_2 = read_parts(tmp_path, second)
    assert held | sealed < held_2 and len(sealed_2) == 50
    assert not sealed_2 & (held | sealed) and not train_2 & (held | sealed)


@pytest.mark.parametrize("is_opened", [False, True])
def test_a_sealed_row_whose_secret_was_removed_does_not_stay(tmp_path: Path, is_opened: bool) -> None:
    first = check_tickets(tmp_path, range(600), 90)
    path = tmp_path / f"{first.sealed_sha256}.jsonl"
    rows = path.read_bytes().splitlines()
    secret = rows[0].replace(b"things", b"AKIA" + b"Q3EGRIZ7XJ5W2MNB and me@example.com")
    path.write_bytes(b"\n".join([secret, *rows[1:]]) + b"\n")
    second = check_tickets(tmp_path, range(600), previous=previous_of(tmp_path, first, is_opened=is_opened))
    assert second.diff is not None and second.diff.held_out_dropped == 1
    assert b"example.com" not in b"".join(read_lines(tmp_path, second.sealed_sha256 or second.holdout_sha256))
