"""Rows that are sealed beside the holdout: on no other side, kept in the next version, open once measured on."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pytest

from trainers.dataset import Columns, Report, check_file
from trainers.dataset.rows import question_key
from trainers.dataset.versions import Previous, read_stored

LABELS = ("billing", "shipping", "refund")


def written(path: Path, numbers: Iterable[int]) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for n in numbers:
            rows.writerow([f"ticket {n * 7919} about {LABELS[n % 3]} and {n * 104729} things", LABELS[n % 3]])
    return path


def checked(path: Path, out: Path, sealed: int = 0, previous: Previous | None = None, **more: bool) -> Report:
    report = check_file(path, path.name, Columns(), out, 7, n_sealed=sealed, previous=previous, **more)
    assert not report.is_blocked
    return report


def keys(out: Path, sha256: str | None) -> set[bytes]:
    rows = read_stored(out / f"{sha256}.jsonl", "reading") if sha256 else ()
    return {question_key(row) for row in rows}


def sides(out: Path, report: Report) -> tuple[set[bytes], set[bytes], set[bytes]]:
    train, held, sealed = (
        keys(out, sha) for sha in (report.train_sha256, report.holdout_sha256, report.sealed_sha256)
    )
    assert not train & held and not train & sealed and not held & sealed
    return train, held, sealed


def previous_of(out: Path, report: Report, *, is_opened: bool = False) -> Previous:
    train, held, sealed = (
        out / f"{sha}.jsonl" for sha in (report.train_sha256, report.holdout_sha256, report.sealed_sha256)
    )
    return Previous(train, held, sealed=sealed, is_opened=is_opened)


def test_sealed_rows_are_beside_the_holdout_which_stays_what_it_would_be(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", range(900))
    plain, report = checked(file, tmp_path), checked(file, tmp_path, 120)
    train, _, sealed = sides(tmp_path, report)
    assert (report.n_sealed, len(sealed), report.n_train) == (120, 120, len(train))
    assert report.holdout_sha256 == plain.holdout_sha256 and plain.sealed_sha256 is None
    assert report.sealed_sha256 in report.stored_files
    assert train | sealed == keys(tmp_path, plain.train_sha256)
    assert checked(file, tmp_path, 120).sealed_sha256 == report.sealed_sha256


def test_copies_and_near_copies_of_sealed_rows_are_not_trained_on(tmp_path: Path) -> None:
    text = "my parcel with number {n} has not come yet and I have waited for it since the {n}th of the month"
    path = tmp_path / "a.csv"
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", "label"])
        for n in range(300):
            for row in (text.format(n=n * 7919), text.format(n=n * 7919), f"{text.format(n=n * 7919)}!!!"):
                rows.writerow([row.replace("parcel", f"parcel {n * 104729} {n * 15485863}"), LABELS[n % 3]])
    report = checked(path, tmp_path, 90, deep=True)
    _, _, sealed = sides(tmp_path, report)
    numbers = {line.split(b"number ")[1].split()[0] for line in lines(tmp_path, report.sealed_sha256)}
    trained = {line.split(b"number ")[1].split()[0] for line in lines(tmp_path, report.train_sha256)}
    assert sealed and not numbers & trained


def lines(out: Path, sha256: str | None) -> list[bytes]:
    return (out / f"{sha256}.jsonl").read_bytes().splitlines()


def test_the_next_version_keeps_sealed_rows_sealed_also_those_that_it_lacks(tmp_path: Path) -> None:
    first = checked(written(tmp_path / "a.csv", range(600)), tmp_path, 90)
    _, held, sealed = sides(tmp_path, first)
    second = checked(
        written(tmp_path / "b.csv", range(40, 900)), tmp_path, previous=previous_of(tmp_path, first)
    )
    train_2, held_2, sealed_2 = sides(tmp_path, second)
    assert sealed_2 == sealed and held < held_2
    assert second.diff is not None and second.n_holdout - second.diff.held_out_added == len(held)
    assert not (held | sealed) & train_2


def test_a_later_version_seals_new_questions_up_to_the_number_wanted(tmp_path: Path) -> None:
    first = checked(written(tmp_path / "a.csv", range(600)), tmp_path)
    trained, held, _ = sides(tmp_path, first)
    previous = Previous(*(tmp_path / f"{sha}.jsonl" for sha in (first.train_sha256, first.holdout_sha256)))
    second = checked(written(tmp_path / "b.csv", range(900)), tmp_path, 60, previous)
    _, _, sealed = sides(tmp_path, second)
    assert len(sealed) == 60 and not sealed & (trained | held)
    third = checked(written(tmp_path / "c.csv", range(1200)), tmp_path, 100, previous_of(tmp_path, second))
    assert sides(tmp_path, third)[2] > sealed and third.n_sealed == 100


def test_opened_rows_join_the_holdout_of_the_next_version(tmp_path: Path) -> None:
    first = checked(written(tmp_path / "a.csv", range(600)), tmp_path, 90)
    _, held, sealed = sides(tmp_path, first)
    previous = previous_of(tmp_path, first, is_opened=True)
    second = checked(written(tmp_path / "b.csv", range(900)), tmp_path, 50, previous)
    train_2, held_2, sealed_2 = sides(tmp_path, second)
    assert held | sealed < held_2 and len(sealed_2) == 50
    assert not sealed_2 & (held | sealed) and not train_2 & (held | sealed)


@pytest.mark.parametrize("opened", [False, True])
def test_a_sealed_row_with_a_secret_that_was_taken_out_does_not_stay(tmp_path: Path, opened: bool) -> None:
    first = checked(written(tmp_path / "a.csv", range(600)), tmp_path, 90)
    path = tmp_path / f"{first.sealed_sha256}.jsonl"
    rows = path.read_bytes().splitlines()
    secret = rows[0].replace(b"things", b"AKIA" + b"Q3EGRIZ7XJ5W2MNB and me@example.com")
    path.write_bytes(b"\n".join([secret, *rows[1:]]) + b"\n")
    previous = previous_of(tmp_path, first, is_opened=opened)
    second = checked(written(tmp_path / "b.csv", range(600)), tmp_path, previous=previous)
    assert second.diff is not None and second.diff.held_out_dropped == 1
    assert b"example.com" not in b"".join(lines(tmp_path, second.sealed_sha256 or second.holdout_sha256))
