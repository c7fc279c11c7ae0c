"""Single rows are deleted from a dataset with everything that was made from them; the other rows stay."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from collections.abc import Callable

import openpyxl
import pytest
from click.testing import CliRunner

from bot.cli import main
from bot.cli.deletion import delete_rows
from bot.cli.models import context_without_slack
from bot.reconciler import maintain
from bot.services import dataset_deletion
from bot.services.datasets import row_deletion
from bot.values.runs import Refusal
from demo.people import BEN
from storage.records import Dataset
from storage.store import Store
from tests.bot import canaries
from tests.bot.models.test_story_promote import WITH_ALIASES, alias_target, promote
from tests.bot.props import tickets_csv
from tests.bot.world import CLEO, START, Rules, World
from trainers.dataset import Example, Report, read

MakeWorld = Callable[[Rules], World]
ORDER = "a question about billing, and 0 more words"
ROW = {"the row's word": "quuxnightjar"}
BILLING = tickets_csv().replace(ORDER, "quuxnightjar, and 0 more words")
COPY = '"order 0:   quuxnightjar, AND 0 more words",refund\n'


@pytest.mark.deep
def test_a_row_of_a_csv_is_deleted_with_its_copies_and_every_other_row_stays(world: World) -> None:
    world.upload_and_check(tickets_csv(90))
    before = world.upload_and_check(BILLING + COPY)
    rows = rows_of(world, before)
    held_out = count_nightjars(Counter(part(world, before, "holdout")))
    assert count_nightjars(rows) == 2
    assert "is deleted" in delete_lines(world, 2)
    after = world.dataset()
    assert (after.version, after.state) == (3, "ready")
    assert (after.owner, after.uploaded_by) == (before.owner, before.uploaded_by)
    others = {row: count for row, count in rows.items() if "nightjar" not in row[0]}
    assert rows_of(world, after) == Counter(others)
    assert is_erased(world)
    assert [dataset.version for dataset in world.store.datasets.all()] == [3]
    assert "quux" not in world.find_message("2 rows of version 2 were deleted in the terminal")
    entries = world.store.audit.entries(f"dataset {after.id}")
    assert [(entry.action, entry.detail) for entry in entries if entry.who == "terminal"] == [
        ("take out rows", f"2 rows, {held_out} held out, of version 2: version 3 has the others")
    ]
    assert world.start(START).state == "awaiting_approval", "it can be trained on"


@pytest.mark.deep
def test_a_deletion_from_each_part_leaves_the_other_rows_in_their_order(world: World) -> None:
    before = world.upload_and_check(tickets_csv())
    parts = {side: part(world, before, side) for side in ("train", "holdout")}
    deleted = {side: rows[1] for side, rows in parts.items()}
    lines = tickets_csv().splitlines()
    numbers = [1 + lines.index(f'"{question}",{label}') for question, label in deleted.values()]
    assert "deleted" in delete_lines(world, numbers[0], also=(numbers[1],))
    after = world.dataset()
    for side, rows in parts.items():
        assert part(world, after, side) == [row for row in rows if row != deleted[side]], side
    assert report_of(after).system == report_of(before).system is not None
    notice = world.find_message("2 rows of version 1 were deleted")
    assert "can't be compared" in notice, "a held-out row is gone"


@pytest.mark.deep
def test_rows_without_a_label_stay_in_the_file_to_be_labelled_later(world: World) -> None:
    unlabelled = "".join(f"a letter about matter {number} that nobody has labelled,\n" for number in range(5))
    before = world.upload_and_check(BILLING + unlabelled + '"order 0:  quuxnightjar, and 0 more WORDS",\n')
    held_out = part(world, before, "holdout")
    assert "is deleted" in delete_lines(world, 2)
    after = report_of(world.dataset())
    assert (after.rows, after.n_unlabelled) == (59, 5) and is_erased(world)
    assert after.system == report_of(before).system is not None
    left = [row for row in held_out if "nightjar" not in row[0]]
    assert part(world, world.dataset(), "holdout") == left
    world.find_message("tickets (version 2) is readable", "Label 5 of 5 rows without a label")

    questions: list[str] = []

    def agree(question: str) -> bool:
        questions.append(question)
        return True

    assert "is deleted" in delete_lines(world, 62, agree)
    assert "1 row" in questions[0], "one without a label can be named too"
    last = report_of(world.dataset())
    assert (last.rows, last.n_unlabelled) == (59, 4)
    assert (
        canaries.in_files(world.service.settings.files.rglob("*"), {"its matter": "about matter 2"}) == set()
    )


@pytest.mark.deep
def test_a_row_of_an_xlsx_is_deleted(world: World) -> None:
    book = openpyxl.Workbook()
    for row in BILLING.splitlines():
        book.active.append([cell.strip('"') for cell in row.rsplit(",", 1)])
    sheet = io.BytesIO()
    book.save(sheet)
    before = world.upload_and_check(sheet.getvalue(), file="tickets.xlsx")
    assert count_nightjars(rows_of(world, before)) == 1
    assert "is deleted" in delete_lines(world, 2)
    assert rows_of(world, world.dataset()).total() == 59 and is_erased(world)
    assert not (world.service.settings.files / str(before.sha256)).exists()


@pytest.mark.deep
def test_a_model_in_use_is_deleted_if_it_was_trained_on_the_row(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(BEN.id, CLEO.id)))
    world.abilities = WITH_ALIASES
    world.restart()
    world.upload_and_check(BILLING)
    world.start(START)
    world.approve()
    world.tick_until_state("done")
    promote(world, why="because=the demo is today")
    world.tick(2)
    model = world.store.model("tickets-1").provider_model
    questions: list[str] = []

    def confirm(question: str) -> bool:
        questions.append(question)
        return True

    assert alias_target(world) == model
    assert "is deleted" in delete_lines(world, 2, confirm)
    assert "tickets-1 is in use and is deleted too" in questions[0] and "1 version and 1 run" in questions[0]
    assert world.provider.service.deleted_models == {model} and alias_target(world) is None
    assert is_erased(world) and world.files_at_provider() == []
    assert world.store.promotions.current("tickets") is None


@pytest.mark.deep
def test_a_deletion_that_is_not_possible_names_the_reason(world: World) -> None:
    world.upload_and_check(BILLING)
    assert "No row of `tickets`, version 1, begins at line 1, 99" in delete_lines(world, 1, also=(2, 99))
    assert "14 is the minimum" in delete_lines(world, 2, also=range(3, 60))
    assert "no dataset" in delete_lines(world, 2, of="others")
    world.start(START)
    assert "run 1 is waiting for approval" in delete_lines(world, 2)
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    assert "Nothing was deleted" in delete_lines(world, 2, lambda question: False)
    assert world.dataset().version == 1 and not is_erased(world)
    assert not rewritten(world), "the files written for it are deleted again"


def test_a_row_and_a_day_cannot_both_be_named() -> None:
    result = CliRunner().invoke(main, ["forget", "tickets", "--row", "2", "--before", "2026-01-31"])
    assert result.exit_code == 2 and "choose one" in result.output


@pytest.mark.deep
def test_a_kill_before_the_deletion_is_recorded_leaves_no_files(world: World) -> None:
    before = world.upload_and_check(BILLING)
    world.stop()
    command = [sys.executable, "-m", "bot", "forget", "tickets", "--row", "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=world.folder, stdin=pipe, stdout=pipe) as process:
        assert process.stdout and b"Permanently delete 1 row" in process.stdout.read(100)
        process.kill()
    world.boot()
    assert rewritten(world) and world.store.datasets.all() == [before]
    maintain(world.service.context)
    assert not rewritten(world)
    assert "is deleted" in delete_lines(world, 2)
    assert rows_of(world, world.dataset()).total() == 59 and is_erased(world)


@pytest.mark.deep
def test_a_kill_after_the_deletion_is_recorded_is_recovered_and_deletes_no_other_row(world: World) -> None:
    world.upload_and_check(BILLING)
    settings = world.service.settings
    world.stop()
    store = Store(settings.database)
    with context_without_slack(settings, store) as context:
        rewritten_dataset = row_deletion.rewrite_without_rows(context, "tickets", [2])
        assert isinstance(rewritten_dataset, row_deletion.RewrittenDataset)
        assert not isinstance(
            dataset_deletion.commit_rewrite(context, rewritten_dataset, "terminal"), Refusal
        )
    store.close()  # and killed here, before a file was moved
    refusal = delete_rows(settings, "tickets", [2], lambda question: True)
    assert isinstance(refusal, Refusal) and "already being deleted" in refusal.text
    world.boot()
    maintain(world.service.context)
    world.tick_until(lambda: not world.store.deletions.open(), "the end of the deletion")
    assert rows_of(world, world.dataset()).total() == 59 and is_erased(world)


def delete_lines(
    world: World,
    line: int,
    confirm: Callable[[str], bool] = lambda question: True,
    *,
    also: tuple[int, ...] | range = (),
    of: str = "tickets",
) -> str:
    """Delete these lines in the terminal while the bot is stopped; returns the terminal's answer."""
    settings = world.service.settings
    world.stop()
    answer = delete_rows(settings, of, (line, *also), confirm)
    world.boot()
    world.send()
    return answer.text if isinstance(answer, Refusal) else answer


def part(world: World, dataset: Dataset, side: str) -> list[tuple[str, str]]:
    report = report_of(dataset)
    sha256 = report.train_sha256 if side == "train" else report.holdout_sha256
    path = world.service.settings.files / f"{sha256}.jsonl"
    return [_row(example) for example in read(path, path.name).examples]


def report_of(dataset: Dataset) -> Report:
    return Report.from_json(str(dataset.report))


def rows_of(world: World, dataset: Dataset) -> Counter[tuple[str, str]]:
    return Counter(part(world, dataset, "train") + part(world, dataset, "holdout"))


def count_nightjars(rows: Counter[tuple[str, str]]) -> int:
    return sum(count for (question, _), count in rows.items() if "nightjar" in question.casefold())


def is_erased(world: World) -> bool:
    data = world.service.settings.data
    return canaries.in_files(data.rglob("*"), ROW) == set() and not rewritten(world)


def rewritten(world: World) -> list[str]:
    return [path.name for path in (world.service.settings.data / "rewritten").glob("*")]


def _row(example: Example) -> tuple[str, str]:
    return example.prompt[-1].content, example.answer
