"""If two columns could be the label, a form with the first rows asks which, and the file is checked again."""

from __future__ import annotations

import csv
import io
import json

import pytest

from demo.people import ANA, BEN
from tests.bot.measurements import PRICES, measure
from tests.bot.props import tickets_csv
from tests.bot.world import DORA, PRIVATE, PUBLIC, MakeWorld, Rules, World
from tests.trainers.dataset.document_files import sheet_row, workbook
from trainers.dataset import Report

CHOOSE = "choose_columns"


def two_labels() -> str:
    """Tickets with a category and a topic, each with three values."""
    _, *rows = tickets_csv().splitlines()
    lines = [f"{row},topic {number % 3}" for number, row in enumerate(rows)]
    return "\n".join(["text,category,topic", *lines])


def test_the_label_column_is_chosen_in_a_form(world: World) -> None:
    dataset = world.upload_and_check(two_labels())
    assert dataset.state == "refused"
    card = world.find_message("'category' and 'topic' could both be the label", "choose the columns")
    assert "Post a cleaned file" not in card and "--label" not in card
    world.click(DORA, CHOOSE)
    form = json.dumps(world.slack.view(DORA.id).blocks)  # type: ignore[union-attr]
    assert "topic 0" in form and "Column with the label" in form and "Column with the text" not in form
    assert world.slack.submit_modal(DORA.id, {"label": "topic"}).closed
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    assert (world.dataset().id, world.dataset().label_column) == (dataset.id, "topic")
    assert "text → topic" in world.find_message("tickets is readable", "60 rows, 3 labels")
    assert len(world.cards()) == 1


def test_the_form_shows_rows_to_their_uploader_only(world: World) -> None:
    world.upload_and_check(two_labels())
    world.click(ANA, CHOOSE)
    form = json.dumps(world.slack.view(ANA.id).blocks)  # type: ignore[union-attr]
    assert "topic 0" not in form and '"category"' in form


def test_columns_can_be_chosen_only_once(world: World) -> None:
    world.upload_and_check(two_labels())
    world.click(DORA, CHOOSE)
    world.click(BEN, CHOOSE)
    assert world.slack.submit_modal(DORA.id, {"label": "topic"}).closed
    late = world.slack.submit_modal(BEN.id, {"label": "category"})
    assert "were already chosen" in late.errors["label"]
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    assert world.dataset().label_column == "topic"


def three_columns() -> str:
    """Tickets whose category is found, and a note that could be the label instead."""
    _, *rows = tickets_csv().splitlines()
    lines = [f"{row},note {number % 4}" for number, row in enumerate(rows)]
    return "\n".join(["text,label,memo", *lines])


def test_a_ready_card_shows_a_row_and_its_columns_can_be_chosen_anew(world: World) -> None:
    dataset = world.upload_and_check(three_columns())
    before = Report.from_json(str(dataset.report))
    card = world.find_message("tickets is readable", "For example")
    assert "Order 0: a question about billing, and 0 more words” → *billing*" in card
    world.click(DORA, CHOOSE)
    form = json.dumps(world.slack.view(DORA.id).blocks)  # type: ignore[union-attr]
    assert "memo" in form and "note 1" in form
    assert world.slack.submit_modal(DORA.id, {"text": "text", "label": "memo"}).closed
    world.tick_until(lambda: world.dataset().label_column == "memo", "the choice")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    assert (world.dataset().id, len(world.cards())) == (dataset.id, 1)
    assert world.find_message("60 rows, 4 labels", "→ *note 0*")
    files = world.service.settings.files
    assert not any((files / f"{sha256}.jsonl").exists() for sha256 in before.stored_files)


def test_the_same_column_can_not_be_both(world: World) -> None:
    world.upload_and_check(three_columns())
    world.click(DORA, CHOOSE)
    refused = world.slack.submit_modal(DORA.id, {"text": "text", "label": "text"})
    assert "can't be the same column" in refused.errors["label"]
    assert world.dataset().state == "ready"


@pytest.mark.deep
def test_columns_stay_once_something_was_measured_with_them(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.upload_and_check(tickets_csv())
    measure(world)
    answer = world.click_and_read(DORA, CHOOSE)
    assert "a measurement" in answer and "Upload the file under another name" in answer


def two_sheets() -> bytes:
    """A workbook with figures, and tickets in its second sheet."""
    figures = sheet_row(1, "month", "kind") + "".join(
        sheet_row(line, f"month {line} of the year", f"kind {line % 2}") for line in range(2, 40)
    )
    rows = list(csv.reader(io.StringIO(tickets_csv())))
    return workbook(figures, "".join(sheet_row(line, *row) for line, row in enumerate(rows, 1)))


def test_another_sheet_of_a_workbook_is_chosen_in_the_form(world: World) -> None:
    before = world.upload_and_check(two_sheets(), file="tickets.xlsx")
    assert world.find_message("Only the sheet 's1' was read. Not read: 's2'")
    world.click(DORA, CHOOSE)
    form = json.dumps(world.slack.view(DORA.id).blocks)  # type: ignore[union-attr]
    assert "month 2 of the year" in form and "Order 0" in form and "s2: 61 lines" in form
    chosen = {"sheet": "sheet s2", "text": "month", "label": "kind"}
    assert world.slack.submit_modal(DORA.id, chosen).closed
    world.tick_until(lambda: world.dataset().sheet == "s2", "the choice")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    assert (world.dataset().id, world.dataset().text_column) == (before.id, None)
    assert world.find_message("60 rows, 3 labels", "→ *billing*", "Not read: 's1'")


def test_ids_in_the_place_of_the_text_are_asked_about(world: World) -> None:
    rows = [f"{number},{'even' if number % 2 == 0 else 'odd'}" for number in range(60)]
    dataset = world.upload_and_check("\n".join(["id,label", *rows]), file="ids.csv")
    assert dataset.state == "refused"
    assert world.find_message("choose the text column", "'id' has only numbers, dates or ids")
    world.click(DORA, CHOOSE)
    assert world.slack.submit_modal(DORA.id, {"text": "id"}).closed
    world.tick_until(lambda: world.dataset().state == "ready", "the check")


def test_no_row_is_shown_where_others_can_read(world: World) -> None:
    world.upload_and_check(three_columns(), channel=PUBLIC)
    card = world.find_message("*Columns*: text → label", "No row is shown", channel=PUBLIC)
    assert "Order 0" not in card


def test_a_deleted_file_must_be_uploaded_again(world: World) -> None:
    dataset = world.upload_and_check(two_labels())
    (world.service.settings.files / str(dataset.sha256)).unlink()
    assert "The file was deleted. Upload it again" in world.click_and_read(DORA, CHOOSE, channel=PRIVATE)
