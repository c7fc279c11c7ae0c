"""Single rows leave a dataset with all that was made while they were in it; the other rows stay as they are."""

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
from bot.cli.deletion import DeletionContext, delete_rows
from bot.reconciler import maintain
from bot.services import dataset_deletion
from bot.values.runs import Refusal
from demo.people import BEN
from storage.records import Dataset
from storage.store import Store
from tests.bot import canaries
from tests.bot.props import tickets_csv
from tests.bot.test_story_promote import WITH_ALIASES, behind_the_alias, promote
from tests.bot.world import START, Rules, World
from trainers.dataset import Example, Report, read

MakeWorld = Callable[[Rules], World]
ORDER = "a question about billing, and 0 more words"
ROW = {"the row's word": "quuxnightjar"}
BILLING = tickets_csv().replace(ORDER, "quuxnightjar, and 0 more words")
COPY = '"order 0:   quuxnightjar, AND 0 more words",refund\n'


def test_a_row_of_a_csv_leaves_with_its_copies_and_every_other_row_stays(world: World) -> None:
    world.upload_and_check(tickets_csv(90))
    before = world.upload_and_check(BILLING + COPY)
    rows = rows_of(world, before)
    held = with_the_word(Counter(part(world, before, "holdout")))
    assert with_the_word(rows) == 2
    assert "is deleted" in taken_out(world, 2)
    after = world.dataset()
    assert (after.version, after.state, after.owner, after.uploaded_by) == (
        3,
        "ready",
        before.owner,
        before.uploaded_by,
    )
    assert rows_of(world, after) == Counter(
        {row: count for row, count in rows.items() if "nightjar" not in row[0]}
    )
    assert nothing_left(world)
    assert [one.version for one in world.store.datasets.all()] == [3]
    said = world.find_message("2 rows of version 2 were deleted in the terminal")
    assert "quux" not in said
    entries = [one for one in world.store.audit.entries(f"dataset {after.id}") if one.who == "terminal"]
    assert [(one.action, one.detail) for one in entries] == [
        ("take out rows", f"2 rows, {held} held out, of version 2: version 3 has the others")
    ]
    assert world.start(START).state == "awaiting_approval", "it can be trained on"


@pytest.mark.parametrize("side", ["train", "holdout"])
def test_both_parts_stay_the_same_but_for_the_row(world: World, side: str) -> None:
    before = world.upload_and_check(tickets_csv())
    parts = {each: part(world, before, each) for each in ("train", "holdout")}
    row = parts[side][1]
    assert "is deleted" in taken_out(world, 2 + tickets_csv().splitlines()[1:].index(f'"{row[0]}",{row[1]}'))
    after = world.dataset()
    for each, rows in parts.items():
        assert part(world, after, each) == [one for one in rows if one != row], each
    assert report_of(after).system == report_of(before).system is not None
    said = world.find_message("1 row of version 1 was deleted")
    assert ("can't be compared" in said) == (side == "holdout")


def test_a_row_of_an_xlsx_leaves(world: World) -> None:
    book = openpyxl.Workbook()
    for row in BILLING.splitlines():
        book.active.append([cell.strip('"') for cell in row.rsplit(",", 1)])
    sheet = io.BytesIO()
    book.save(sheet)
    before = world.upload_and_check(sheet.getvalue(), file="tickets.xlsx")
    assert with_the_word(rows_of(world, before)) == 1
    assert "is deleted" in taken_out(world, 2)
    assert rows_of(world, world.dataset()).total() == 59 and nothing_left(world)
    assert not (world.service.settings.files / str(before.sha256)).exists()


def test_the_model_in_use_goes_where_it_learnt_from_the_row(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(BEN.id,)))
    world.abilities = WITH_ALIASES
    world.restart()
    world.upload_and_check(BILLING)
    world.start(START)
    world.approve()
    world.tick_until_state("done")
    promote(world, why="because=the demo is today")
    world.tick(2)
    model = world.store.model("tickets-1").provider_model
    asked: list[str] = []
    assert behind_the_alias(world) == model
    assert "is deleted" in taken_out(world, 2, lambda question: not asked.append(question))
    assert "tickets-1 is in use and is deleted too" in asked[0] and "1 version, 1 run" in asked[0]
    assert world.provider.service.deleted_models == {model} and behind_the_alias(world) is None
    assert nothing_left(world) and world.files_at_provider() == []
    assert world.store.promotions.current("tickets") is None


def test_what_stands_in_the_way_of_taking_rows_out_is_named(world: World) -> None:
    world.upload_and_check(BILLING)
    assert "No row of `tickets`, version 1, begins at line 1, 99" in taken_out(world, 1, also=(2, 99))
    assert "10 is the minimum" in taken_out(world, 2, also=range(3, 60))
    assert "no dataset" in taken_out(world, 2, of="others")
    world.start(START)
    assert "run 1 is waiting for approval" in taken_out(world, 2)
    world.type("/finetune cancel 1")
    world.tick_until_state("cancelled")
    assert "Nothing was deleted" in taken_out(world, 2, lambda asked: False)
    assert world.dataset().version == 1 and not nothing_left(world)
    assert not rewritten(world), "what was written for it is gone again"


def test_a_row_or_a_day_is_named_not_both() -> None:
    done = CliRunner().invoke(main, ["forget", "tickets", "--row", "2", "--before", "2026-01-31"])
    assert done.exit_code == 2 and "choose one" in done.output


def test_a_kill_before_it_is_recorded_leaves_nothing_that_stays(world: World) -> None:
    before = world.upload_and_check(BILLING)
    world.stop()
    command = [sys.executable, "-m", "bot", "forget", "tickets", "--row", "2"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=world.folder, stdin=pipe, stdout=pipe) as asking:
        assert asking.stdout and b"Permanently delete 1 row" in asking.stdout.read(100)
        asking.kill()
    world.boot()
    assert rewritten(world) and world.store.datasets.all() == [before]
    maintain(world.service.context)
    assert not rewritten(world)
    assert "is deleted" in taken_out(world, 2)
    assert rows_of(world, world.dataset()).total() == 59 and nothing_left(world)


def test_a_kill_after_it_is_recorded_is_made_good_and_takes_no_other_row(world: World) -> None:
    world.upload_and_check(BILLING)
    settings = world.service.settings
    world.stop()
    store = Store(settings.database)
    room = DeletionContext(settings, store, {})
    new = dataset_deletion.rewrite_without_rows(room, "tickets", [2])
    assert isinstance(new, dataset_deletion.RewrittenDataset)
    assert not isinstance(dataset_deletion.commit_rewrite(room, new, "terminal"), Refusal)
    store.close()  # and killed here, before a file was moved
    again = delete_rows(settings, "tickets", [2], lambda asked: True)
    assert isinstance(again, Refusal) and "already being deleted" in again.text
    world.boot()
    maintain(world.service.context)
    world.tick_until(lambda: not world.store.deletions.open(), "the end of it")
    assert rows_of(world, world.dataset()).total() == 59 and nothing_left(world)


def taken_out(
    world: World,
    line: int,
    confirm: Callable[[str], bool] = lambda asked: True,
    *,
    also: tuple[int, ...] | range = (),
    of: str = "tickets",
) -> str:
    """What the terminal says of it; the bot is stopped meanwhile."""
    settings = world.service.settings
    world.stop()
    done = delete_rows(settings, of, (line, *also), confirm)
    world.boot()
    world.send()
    return done.text if isinstance(done, Refusal) else done


def part(world: World, dataset: Dataset, side: str) -> list[tuple[str, str]]:
    report = report_of(dataset)
    sha256 = report.train_sha256 if side == "train" else report.holdout_sha256
    path = world.service.settings.files / f"{sha256}.jsonl"
    return [_row(one) for one in read(path, path.name).examples]


def report_of(dataset: Dataset) -> Report:
    return Report.from_json(str(dataset.report))


def rows_of(world: World, dataset: Dataset) -> Counter[tuple[str, str]]:
    return Counter(part(world, dataset, "train") + part(world, dataset, "holdout"))


def with_the_word(rows: Counter[tuple[str, str]]) -> int:
    return sum(count for (question, _), count in rows.items() if "nightjar" in question.casefold())


def nothing_left(world: World) -> bool:
    data = world.service.settings.data
    return canaries.in_files(data.rglob("*"), ROW) == set() and not rewritten(world)


def rewritten(world: World) -> list[str]:
    return [path.name for path in (world.service.settings.data / "rewritten").glob("*")]


def _row(example: Example) -> tuple[str, str]:
    return example.prompt[-1].content, example.answer
