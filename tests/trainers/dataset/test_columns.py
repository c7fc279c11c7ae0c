"""Which line of a table names its columns, and what is asked about before a column counts as the text."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from tests.trainers.dataset.document_files import sheet_row, workbook
from trainers.dataset import CheckSettings, Columns, Reading, check_file, read
from trainers.dataset.reader import FirstRows, read_first_rows
from trainers.dataset.rows import Choices
from trainers.dataset.versions import Previous

TEXTS = [f"the printer on floor {number} prints nothing" for number in range(30)]
TEAMS = [("support", "sales", "repairs")[number % 3] for number in range(30)]
Row = list[str]


def table(*rows: Row) -> str:
    sheet = io.StringIO()
    csv.writer(sheet).writerows(rows)
    return sheet.getvalue()


def read_text(folder: Path, content: str, columns: Columns | None = None) -> Reading:
    (folder / "a.csv").write_text(content, encoding="utf-8")
    return read(folder / "a.csv", "a.csv", columns=columns or Columns())


def numbered(*more: str) -> list[Row]:
    return [
        [str(100 + place), text, team, *more]
        for place, (text, team) in enumerate(zip(TEXTS, TEAMS, strict=True))
    ]


def codes(reading: Reading) -> list[str]:
    return [finding.code for finding in reading.findings]


HEADER = ["ID", "Message", "Category"]
HEADERS: list[tuple[list[Row], list[str]]] = [
    ([], HEADER),
    ([["Export", "", ""]], HEADER),
    ([["Export", "", ""], ["Request", "", "Handling"]], HEADER),
    # The name of a group may be one that texts or labels usually have.
    ([["Message", "", "Category"]], ["No.", "Body", "Queue"]),
    # Nothing here is a usual name.
    ([["Bericht", "", ""], ["Anfrage", "", "Bearbeitung"]], ["Nr", "Wortlaut", "Abteilung"]),
    # What pandas writes: the first column has no name.
    ([], ["", "text", "label"]),
    ([], ["", "Wortlaut", "Abteilung"]),
    ([["Notes", "", ""]] * 9, HEADER),
]


@pytest.mark.parametrize(("above", "header"), HEADERS)
def test_the_line_that_names_the_columns_is_found(tmp_path: Path, above: list[Row], header: Row) -> None:
    reading = read_text(tmp_path, table(*above, header, *numbered()))
    assert (reading.columns, len(reading.examples)) == (Columns(header[1], header[2]), 30)
    assert reading.examples[0].line == len(above) + 2
    assert codes(reading) == (["title_lines"] if above else [])
    if above:
        assert f"The header is in line {len(above) + 1};" in reading.findings[0].message


def test_a_workbook_with_a_title_and_groups_is_read_from_its_header_on(tmp_path: Path) -> None:
    rows = sheet_row(1, "Export 2026") + sheet_row(2, "Request", "", "Handling")
    rows += sheet_row(3, "ID", "Message", "Team")
    rows += "".join(sheet_row(place, *row) for place, row in enumerate(numbered(), 4))
    (tmp_path / "a.xlsx").write_bytes(workbook(rows))
    report = check_file(tmp_path / "a.xlsx", "a.xlsx", Columns(), tmp_path, 1)
    assert report.columns == Columns("Message", "Team")
    assert report.rows == 30 and not report.is_blocked
    assert report.column_names == ("ID", "Message", "Team")


def test_a_table_without_a_header_stays_without_one(tmp_path: Path) -> None:
    reading = read_text(tmp_path, table(*[[text, team] for text, team in zip(TEXTS, TEAMS, strict=True)]))
    assert codes(reading) == ["no_header"] and len(reading.examples) == 30


CODES = [
    [str(number) for number in range(30)],
    [f"T-{number:05}" for number in range(30)],
    [f"2026-11-{1 + number % 28:02}" for number in range(30)],
    [f"{1 + number % 28} Nov 2026" for number in range(30)],
    [f"Nov {1 + number % 28}, 2026 10:{number:02} am" for number in range(30)],
    [f"{number:032x}" for number in range(30)],
    [f"user{number}@shop.example" for number in range(30)],
]


@pytest.mark.parametrize("values", CODES, ids=[values[1] for values in CODES])
@pytest.mark.parametrize("name", ["id", "text", "ticket"])
def test_numbers_dates_and_ids_are_asked_about_before_they_count_as_texts(
    tmp_path: Path, name: str, values: list[str]
) -> None:
    content = table([name, "label"], *map(list, zip(values, TEAMS, strict=True)))
    reading = read_text(tmp_path, content)
    assert codes(reading) == ["text_unclear"] and not reading.examples
    assert f"'{name}' has only numbers, dates or ids" in reading.findings[0].message
    assert reading.choices == Choices(text=(name,))
    confirmed = read_text(tmp_path, content, Columns(name, "label"))
    assert len(confirmed.examples) == 30 and not confirmed.is_refused


@pytest.mark.parametrize(
    "values",
    [
        TEXTS,
        [f"fruit{'s' * number}" for number in range(30)],
        [f"注文{number}が届きません" for number in range(30)],
    ],
    ids=["sentences", "words", "Japanese"],
)
def test_words_and_sentences_are_texts(tmp_path: Path, values: list[str]) -> None:
    content = table(["id", "label"], *map(list, zip(values, TEAMS, strict=True)))
    assert len(read_text(tmp_path, content).examples) == 30


def test_a_ticket_number_is_not_the_text_if_another_column_is(tmp_path: Path) -> None:
    rows = [[f"T-{place}", *row[1:]] for place, row in enumerate(numbered())]
    reading = read_text(tmp_path, table(["ticket", "description", "label"], *rows))
    assert reading.columns == Columns("description", "label") and not codes(reading)


def test_a_few_grades_are_labels_and_many_numbers_are_asked_about(tmp_path: Path) -> None:
    stars = [[text, str(place % 2)] for place, text in enumerate(TEXTS)]
    reading = read_text(tmp_path, table(["review", "stars"], *stars))
    assert reading.columns == Columns("review", "stars")
    assert {row.answer for row in reading.examples} == {"0", "1"}
    prices = [[text, str(1000 + place)] for place, text in enumerate(TEXTS)]
    reading = read_text(tmp_path, table(["review", "price"], *prices))
    assert codes(reading) == ["no_labels"] and reading.choices == Choices(label=("price",))


def test_a_column_that_is_missing_can_be_chosen_among_those_there_are(tmp_path: Path) -> None:
    content = table(["ID", "Message", "Team"], *numbered())
    reading = read_text(tmp_path, content, Columns("Text", None))
    every = ("ID", "Message", "Team")
    assert codes(reading) == ["column_missing"] and reading.choices == Choices(every, every)


def test_the_first_records_begin_with_the_names(tmp_path: Path) -> None:
    content = table(["Export", "", ""], ["Request", "", "Handling"], ["ID", "Message", "Team"], *numbered())
    (tmp_path / "a.csv").write_text(content, encoding="utf-8")
    (shown,) = read_first_rows(tmp_path / "a.csv", 2)
    assert shown == FirstRows("", (("ID", "Message", "Team"), *map(tuple, numbered()[:2])))


def test_the_first_rows_of_every_sheet_and_of_a_parquet_file_are_shown(tmp_path: Path) -> None:
    tickets = sheet_row(1, "Export") + sheet_row(2, "ID", "Message") + sheet_row(3, "7", "it is late")
    (tmp_path / "a.xlsx").write_bytes(workbook(tickets, "", sheet_row(1, "Word") + sheet_row(2, "late")))
    assert read_first_rows(tmp_path / "a.xlsx", 2) == (
        FirstRows("s1", (("ID", "Message"), ("7", "it is late"))),
        FirstRows("s3", (("Word",), ("late",))),
    )
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = arrow.table({"text": ["it is late", "again"], "ok": [True, False]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    (shown,) = read_first_rows(tmp_path / "a.parquet", 1)
    assert shown.records == (("text", "ok"), ("it is late", "True"))


def test_a_report_shows_its_first_row_without_personal_data_and_does_not_store_it(tmp_path: Path) -> None:
    rows = numbered()
    rows[0][1] = "write to jane.doe@customer.example about the invoice"
    (tmp_path / "a.csv").write_text(table(["id", "text", "label"], *rows), encoding="utf-8")
    report = check_file(tmp_path / "a.csv", "a.csv", Columns(), tmp_path, 1)
    assert report.example and (report.example.text, report.example.label) == (TEXTS[1], TEAMS[1])
    assert TEXTS[1] not in report.to_json() and type(report).from_json(report.to_json()).example is None


def test_rows_of_a_report_add_up(tmp_path: Path) -> None:
    rows = [["text", "label"], *[[text, team] for text, team in zip(TEXTS, TEAMS, strict=True)] * 3]
    (tmp_path / "a.csv").write_text(table(*rows), encoding="utf-8")
    report = check_file(tmp_path / "a.csv", "a.csv", Columns(), tmp_path, 1, CheckSettings(n_sealed=4))
    assert report.n_copies > 0
    assert report.n_train + report.n_holdout + report.n_sealed + report.n_copies == report.rows == 90


def test_rows_of_a_next_version_add_up_without_those_that_it_no_longer_has(tmp_path: Path) -> None:
    rows = [
        [f"{text} since {day}", team] for day in range(10) for text, team in zip(TEXTS, TEAMS, strict=True)
    ]
    (tmp_path / "a.csv").write_text(table(["text", "label"], *rows), encoding="utf-8")
    first = check_file(tmp_path / "a.csv", "a.csv", Columns(), tmp_path, 1, CheckSettings(n_sealed=50))
    unlabelled = [[f"{text} again", ""] for text in TEXTS]
    later = table(["text", "label"], *rows[:200], *rows[:20], *unlabelled)
    (tmp_path / "b.csv").write_text(later, encoding="utf-8")
    train, holdout, sealed = (
        tmp_path / f"{sha256}.jsonl"
        for sha256 in (first.train_sha256, first.holdout_sha256, first.sealed_sha256)
    )
    previous = Previous(train, holdout, sealed=sealed)
    report = check_file(
        tmp_path / "b.csv",
        "b.csv",
        Columns(),
        tmp_path,
        1,
        CheckSettings(previous=previous, n_sealed=50),
    )
    assert report.n_earlier and report.n_earlier_sealed and report.n_copies
    set_aside = report.n_holdout - report.n_earlier + report.n_sealed - report.n_earlier_sealed
    assert report.n_train + set_aside + report.n_copies == report.rows == 220
    assert report.rows + report.n_unlabelled == 250
    assert report.diff and not first.n_copies
    assert first.rows + report.diff.added - report.diff.removed == report.rows - report.n_copies
