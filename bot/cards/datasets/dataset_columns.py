"""The form in which a person chooses the sheet of a workbook and a table's columns, and the button that opens it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bot.cards.common import forms
from bot.cards.common.blocks import Block, CardBlock, Table, Text, button, escape
from bot.cards.common.forms import modal
from bot.cards.common.words import pluralize
from storage.records import Dataset
from trainers.dataset import Report
from trainers.dataset.reader import FirstRows
from trainers.dataset.rows import Choices, Columns, to_printable

CHOOSE_COLUMNS = "choose_columns"
# Values of the options for a workbook's sheets; the name of a sheet follows the second.
ALIKE_SHEETS = "all that are alike"
ONE_SHEET = "sheet "


def has_choices(report: Report) -> bool:
    """True if a person has to choose which columns hold the texts or the labels."""
    return bool(report.choices.text or report.choices.label)


def choose_button(dataset: Dataset, report: Report, style: str | None = None) -> Block:
    return button(_choose_words(report), CHOOSE_COLUMNS, str(dataset.id), style=style)


def _choose_words(report: Report) -> str:
    if len(report.sheets) > 1:
        return "Choose sheet or columns"
    return "Choose columns"


def columns_form(dataset: Dataset, report: Report, tables: Sequence[FirstRows]) -> Block:
    """Asks for the sheet of a workbook that has several, and for each column that is ambiguous or, if none is, for
    both. `tables` has the first rows for the person who uploaded them, and is empty for others."""
    blocks: list[CardBlock | Block] = []
    for table in tables:
        # A CSV file, and a workbook with one sheet, need no name above their rows.
        if len(tables) > 1:
            name = to_printable(table.sheet)
            blocks.append(Text(f"*{escape(name)}*"))
        blocks.append(Table(even_rows(table.records), is_sheet=True))
    if len(report.sheets) > 1:
        blocks.append(_sheet_input(dataset, report))

    choices = report.choices
    columns = report.columns
    if not has_choices(report):
        # They were found, and a person wants others.
        choices = Choices(report.column_names, report.column_names)
    if choices.text:
        text_input = forms.select_input("text", "Column with the text", choices.text, initial=columns.text)
        blocks.append(text_input)
    if choices.label:
        label_input = forms.select_input(
            "label", "Column with the label", choices.label, initial=columns.label
        )
        blocks.append(label_input)
    title = _choose_words(report)
    return modal(title, CHOOSE_COLUMNS, blocks, submit="Check it", private=str(dataset.id))


def even_rows(records: Sequence[Sequence[str]]) -> list[list[str]]:
    # Tables take rows of one length only, and a file's first rows may differ in length.
    width = max(map(len, records), default=0)
    even = []
    for record in records:
        missing = width - len(record)
        even.append([*record, *[""] * missing])
    return even


def _sheet_input(dataset: Dataset, report: Report) -> Block:
    options = []
    for sheet in report.sheets:
        value = f"{ONE_SHEET}{sheet.name}"
        lines = pluralize(sheet.lines, "line")
        options.append((value, f"{sheet.name}: {lines}"))
    read = [sheet.name for sheet in report.sheets if sheet.is_read]
    initial = f"{ONE_SHEET}{read[0]}"
    if len(read) > 1:
        initial = ALIKE_SHEETS
        names = " and ".join(read)
        options.insert(0, (ALIKE_SHEETS, f"{names}: all rows"))
    elif dataset.sheet:
        # Somebody chose one sheet before; this is the way back.
        options.insert(0, (ALIKE_SHEETS, "As found: the first table and all sheets like it"))
    hint = "If you choose another sheet, its columns are found; you can choose them afterwards."
    return forms.choice_input("sheet", "Sheet", options, initial=initial, hint=hint)


def chosen_columns(values: Mapping[str, str | None]) -> Columns:
    """Returns what a person chose in the form, None for each field that it lacked. The sheet is '' for all that are
    alike."""
    sheet = values.get("sheet")
    if sheet is not None:
        # In this order: a sheet that is named like the first value keeps its name.
        sheet = sheet.removeprefix(ALIKE_SHEETS).removeprefix(ONE_SHEET)
    return Columns(values.get("text"), values.get("label"), sheet)
