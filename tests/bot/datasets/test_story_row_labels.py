"""People label rows in Slack: rows with suspicious labels or with none. Their labels make a version."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime

import pytest

from bot.cli.deletion import delete_rows
from bot.rules.facts import LabelChecks
from bot.services.datasets import row_labels
from bot.services.datasets.row_labels import NextVersion
from bot.services.datasets.row_labels_worker import WrittenFile, store_lines
from bot.services.decisions import estimate_requests
from bot.services.evidence.evidence import load_evidence
from bot.slack.limits import CALLS_A_MINUTE
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from demo.workspace import Person
from storage.records import Labelling
from tests.bot import canaries
from tests.bot.datasets.test_story_dataset_versions import _report
from tests.bot.props import LABELS, tickets_csv
from tests.bot.saved_worlds import reached_once
from tests.bot.world import CLEO, DORA, GUS, PRIVATE, PUBLIC, World
from tests.patience import wait_until
from trainers.dataset import Columns, read

WORDS = {
    "billing": ("invoice", "charge", "card", "payment", "statement", "amount", "tax", "receipt"),
    "shipping": ("parcel", "courier", "delivery", "tracking", "depot", "box", "arrival", "driver"),
    "refund": ("refund", "return", "money", "back", "exchange", "voucher", "credit", "reimbursed"),
}


def suspicious_csv(extra: str = "") -> str:
    """240 rows, of which every twentieth has another row's label."""
    chance, rows = random.Random(1), ["text,label"]
    for number in range(240):
        label = LABELS[number % 3]
        first, second, third, fourth = chance.sample(WORDS[label], 4)
        text = f"Case {number}:{extra} my {first} and the {second}, what about {third} or {fourth}"
        if number % 20 == 4:
            label = LABELS[(number + 1 + number // 20 % 2) % 3]
        rows.append(f'"{text}",{label}')
    return "\n".join(rows) + "\n"


def unlabelled_csv(rows: int = 30) -> str:
    texts = [
        f"New case {number}: somebody writes about {LABELS[number % 3]} for the {number}th time"
        for number in range(rows)
    ]
    return "\n".join(["text", *(f'"{text}"' for text in texts)]) + "\n"


def open_batch(world: World) -> Labelling:
    def look() -> Labelling | None:
        labelling = world.store.labellings.under_way("tickets")
        return labelling if labelling and labelling.state == "open" else None

    labelling = world.tick_until(look, "the rows to label")
    world.send()
    return labelling


def press(world: World, user: Person, button: str, *, value: str | None = None) -> None:
    """Press a button of the form, and wait for the next row."""
    before = world.read_form(user)
    world.slack.press(user.id, button, value=value)
    wait_until(lambda: world.read_form(user) != before, "the next row")


def label_all(world: World, user: Person, button: str = "label_change") -> int:
    """Press this button on each row until none is left; how many there were."""
    world.click(user, "label_rows")
    rows = 0
    while "Which label" in world.read_form(user):
        press(world, user, button)
        rows += 1
    assert "You have answered all" in world.read_form(user)
    world.slack.close_modal(user.id)
    return rows


def make_version(world: World, user: Person = DORA) -> None:
    world.send()
    world.click(user, "labels_done")
    world.tick_until(lambda: world.store.labellings.under_way("tickets") is None, "the end of the batch")
    world.tick_until(lambda: world.dataset().state in ("ready", "refused"), "the check")
    world.send()


@reached_once
def open_suspicious_rows(world: World) -> None:
    world.upload_and_check(suspicious_csv())
    assert "Choosing up to 20 rows" in world.click_and_read(DORA, "label_doubted")
    open_batch(world)


@pytest.fixture
def suspicious(world: World) -> World:
    """A batch of rows with suspicious labels is open."""
    open_suspicious_rows(world)
    return world


@pytest.mark.deep
def test_labels_of_suspicious_rows_make_a_version_with_a_diff(suspicious: World) -> None:
    before = _report(suspicious.dataset())
    rows = label_all(suspicious, DORA)
    make_version(suspicious)
    version, after = suspicious.dataset(), _report(suspicious.dataset())
    assert (version.version, version.state) == (2, "ready")
    assert (version.origin, version.uploaded_by) == ("people", DORA.id)
    assert after.diff is not None
    assert (after.diff.relabelled, after.diff.added, after.diff.removed) == (rows, 0, 0)
    assert after.holdout_sha256 == before.holdout_sha256, (
        "the held-out rows stay as they are, to the last byte"
    )
    assert (after.system, after.n_train) == (before.system, before.n_train)
    suspicious.find_message(f"tickets (version 2): {rows} relabelled")
    card = suspicious.find_message(f"{rows} rows labelled by 1 person")
    assert f"{rows} changed" in card and "tickets (version 2)" in card


def test_each_label_is_stored_at_once_and_a_restart_loses_none(suspicious: World) -> None:
    suspicious.click(DORA, "label_rows")
    press(suspicious, DORA, "label_keep")
    n_calls = len(suspicious.slack.calls())
    press(suspicious, DORA, "label_drop")
    methods = [call.method for call in suspicious.slack.calls()[n_calls:] if call.method in CALLS_A_MINUTE]
    assert len(methods) == len(set(methods)) and "users.info" in methods, "each question once for a click"
    (labelling,) = suspicious.store.labellings.on([1])
    assert [label.label for label in suspicious.store.labellings.labels(labelling)][1] is None
    suspicious.restart()
    assert len(suspicious.store.labellings.labels(labelling)) == 2
    labels = [entry for entry in suspicious.store.audit.entries() if entry.action == "label row"]
    assert len(labels) == 2 and labels[1].detail.endswith(", dropped")
    suspicious.click(DORA, "label_rows")
    assert "2 of" in suspicious.read_form(DORA)
    suspicious.slack.close_modal(DORA.id)
    suspicious.send()
    suspicious.click(DORA, "labels_done")
    suspicious.tick()
    suspicious.restart()
    suspicious.tick_until(lambda: len(suspicious.store.datasets.all()) == 2, "the version")
    suspicious.tick_until(lambda: suspicious.dataset().state == "ready", "the check")
    suspicious.tick(3)
    assert len(suspicious.store.datasets.all()) == 2, "once"
    diff = _report(suspicious.dataset()).diff
    assert diff is not None and (diff.removed, diff.relabelled) == (1, 0)


def test_rows_on_which_two_people_disagree_stay_as_they_are(suspicious: World) -> None:
    rows = label_all(suspicious, DORA)
    suspicious.click(BEN, "label_rows")
    assert "1 person" not in suspicious.read_form(BEN), "nobody's answer is shown to others"
    press(suspicious, BEN, "label_keep")
    for _ in range(rows - 1):
        press(suspicious, BEN, "label_change")
    suspicious.send()
    card = suspicious.find_message("Two people agree")
    assert f"{rows - 1} of {rows} pairs" in card
    make_version(suspicious)
    diff = _report(suspicious.dataset()).diff
    assert diff is not None and diff.relabelled == rows - 1
    assert "1 skipped" in suspicious.find_message("labelled by 2 people")


@pytest.mark.deep
def test_newly_labelled_rows_are_trained_on_and_never_held_out(world: World) -> None:
    first = world.upload_and_check(tickets_csv(90))
    world.slack.command(DORA.id, PRIVATE.id, "/finetune label tickets")
    file = world.put_file("new.csv", unlabelled_csv())
    assert world.slack.submit_modal(DORA.id, {"count": "9", "file": file}).accepted
    labelling = open_batch(world)
    rows = world.store.labellings.rows(labelling)
    assert len(rows) == 9 and all(row.given is None for row in rows)
    world.click(DORA, "label_rows")
    place = [count.label for count in _report(first).labels].index("refund")
    press(world, DORA, "label_choose", value=f"{labelling.id} 0 {place}")
    press(world, DORA, "label_drop")
    world.slack.close_modal(DORA.id)
    assert label_all(world, DORA) == 7
    make_version(world)
    before, after = _report(first), _report(world.dataset())
    assert after.holdout_sha256 == before.holdout_sha256 and after.n_train == before.n_train + 8
    path = world.service.settings.files / f"{after.train_sha256}.jsonl"
    labels = {row.prompt[-1].content: row.answer for row in read(path, path.name).examples}
    assert labels[rows[0].text] == "refund" and rows[1].text not in labels


def test_people_are_not_asked_about_rows_that_the_dataset_has(world: World) -> None:
    world.upload_and_check(tickets_csv(90))
    world.slack.command(DORA.id, PRIVATE.id, "/finetune label tickets")
    file = world.put_file("same.csv", tickets_csv(90))
    assert world.slack.submit_modal(DORA.id, {"count": "9", "file": file}).accepted
    world.tick_until(lambda: world.store.labellings.under_way("tickets") is None, "the refusal")
    world.send()
    assert "There are no new rows in same.csv" in str(world.slack.ephemerals(DORA.id)[-1].text)


def test_labels_apply_to_a_version_uploaded_meanwhile_but_not_to_rows_corrected_there(
    suspicious: World,
) -> None:
    rows = label_all(suspicious, DORA)
    batch = suspicious.store.labellings.under_way("tickets")
    first = suspicious.store.labellings.rows(batch)[0]
    (third,) = {*LABELS} - {first.given, first.likely}
    corrected = suspicious_csv().replace(f'"{first.text}",{first.given}', f'"{first.text}",{third}')
    more = "".join(f"An eleventh hour case {n} on billing,billing\n" for n in range(12))
    suspicious.upload_and_check(corrected + more)
    make_version(suspicious)
    diff = _report(suspicious.dataset()).diff
    assert suspicious.dataset().version == 3 and diff is not None
    assert (diff.relabelled, diff.added, diff.removed) == (rows - 1, 0, 0)
    line = 1 + corrected.splitlines().index(f'"{first.text}",{third}')
    card = suspicious.find_message("1 not used", "tickets (version 2)")
    assert f"line {line} of its file" in card and f"{rows - 1} changed" in card


def test_labels_overtaken_by_a_newer_version_leave_no_file(suspicious: World) -> None:
    context, before = suspicious.service.context, suspicious.dataset()
    label_all(suspicious, DORA)
    suspicious.send()
    suspicious.click(DORA, "labels_done")
    labelled = suspicious.store.labellings.under_way("tickets")
    assert labelled is not None
    row_labels.step(context, labelled)  # a worker begins to write them into version 1
    assert context.workers.has(f"labels {labelled.id}")
    suspicious.upload_and_check(suspicious_csv() + "An eleventh hour case on billing,billing\n")
    suspicious.tick_until(lambda: suspicious.store.labellings.under_way("tickets") is None, "the version")
    suspicious.tick_until(lambda: suspicious.dataset().state == "ready", "its check")
    newest = suspicious.dataset()
    assert newest.version == 3 and _report(newest).rows == _report(before).rows + 1
    files = {path.name[:64] for path in context.settings.files.iterdir()}
    assert files <= suspicious.store.deletions.named_files()


def test_a_version_that_was_added_before_the_batch_ends_is_written_again(suspicious: World) -> None:
    context, before = suspicious.service.context, suspicious.dataset()
    suspicious.upload_and_check(suspicious_csv() + "An eleventh hour case on billing,billing\n")
    sha256 = store_lines(context.settings.files, [b"the rows of the version before"])
    labelling = open_batch(suspicious)
    written = NextVersion(before, WrittenFile(sha256, Columns()))
    row_labels._finish(context, labelling, row_labels.outcome_of(context, labelling), written)
    assert not (context.settings.files / sha256).exists()
    assert (context.settings.files / str(before.sha256)).exists()


@pytest.mark.deep
def test_in_a_public_channel_only_the_uploader_sees_rows(world: World) -> None:
    world.upload_and_check(suspicious_csv(), channel=PUBLIC)
    assert f"only <@{DORA.id}>" in world.click_and_read(CLEO, "label_doubted", channel=PUBLIC)
    assert "Choosing" in world.click_and_read(DORA, "label_doubted", channel=PUBLIC)
    open_batch(world)
    assert f"only <@{DORA.id}>" in world.click_and_read(CLEO, "label_rows", channel=PUBLIC)
    world.click(DORA, "label_rows", channel=PUBLIC)
    assert "what about" in world.read_form(DORA)
    assert not [text for text in world.texts(PUBLIC) if "what about" in text]


def test_a_guest_may_not_label(suspicious: World) -> None:
    assert "Only full members" in suspicious.type("/finetune label tickets 5", user=GUS)
    assert "Only full members" in suspicious.click_and_read(GUS, "label_rows")


def test_an_impossible_command_says_why(suspicious: World) -> None:
    for line, reason in (
        ("/finetune label", "Which dataset?"),
        ("/finetune label tickets many", "from 1 to 200"),
        ("/finetune label tickets 0", "from 1 to 200"),
        ("/finetune label faq 5", "no dataset"),
    ):
        assert reason in suspicious.type(line, user=ANA), line


def test_a_second_batch_waits_for_the_first(suspicious: World) -> None:
    assert "already being labelled" in suspicious.click_and_read(ANA, "label_doubted")
    suspicious.type("/finetune label tickets 5", user=ANA)
    assert "Which label" in suspicious.read_form(ANA), "the command opens the next row of the open batch"
    suspicious.slack.close_modal(ANA.id)
    suspicious.click(ANA, "labels_discard")
    suspicious.send()
    suspicious.find_message("discarded the rows")
    suspicious.type("/finetune label tickets 5", user=ANA)
    assert len(suspicious.store.labellings.rows(open_batch(suspicious))) == 5


@pytest.mark.deep
def test_labels_of_an_open_batch_are_only_deleted_with_the_whole_dataset(world: World) -> None:
    word = {"a row's word": "quuxnightjar"}
    world.upload_and_check(suspicious_csv(" quuxnightjar"))
    world.click_and_read(DORA, "label_doubted")
    open_batch(world)
    world.click(DORA, "label_rows")
    press(world, DORA, "label_change")
    world.pass_time(2 * 24 * 3600)
    world.upload_and_check(suspicious_csv(" quuxnightjar again"))
    today = datetime.fromtimestamp(world.clock, UTC).date()
    refusal = world.type(f"/finetune delete tickets before={today}", user=BEN)
    assert "people have labelled 1 row in an open batch" in refusal
    settings = world.service.settings
    world.stop()
    refused = delete_rows(settings, "tickets", [50], lambda question: True)
    assert isinstance(refused, Refusal) and "labelled 1 row" in refused.text
    world.boot()
    assert canaries.in_database(world.service.settings.database, word)
    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete tickets")
    assert "1 row that people have labelled in an open batch is deleted too" in world.read_form(BEN)
    assert world.slack.submit_modal(BEN.id, {"name": "tickets"}).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the deletion")
    world.send()
    assert canaries.in_database(world.service.settings.database, word) == set()
    assert json.dumps(world.store.labellings.on([1])) == "[]"
    world.find_message("waiting for labels were deleted with their version")


def test_what_people_found_in_doubted_rows_is_evidence_of_the_estimate(suspicious: World) -> None:
    rows = label_all(suspicious, DORA)
    checks = _label_checks(suspicious)
    assert checks == LabelChecks(checked=rows, wrong=rows, done=rows, uncorrected=rows)
    make_version(suspicious)
    assert _label_checks(suspicious) == LabelChecks(checked=rows, wrong=rows), (
        "the next version has the right labels"
    )


def test_the_next_step_of_an_estimate_begins_a_batch_of_doubted_rows(world: World) -> None:
    world.upload_and_check(suspicious_csv())
    world.type("/finetune estimate tickets current=gpt-4o volume=1B target=local/smollm2-135m", user=DORA)
    started = estimate_requests.check_labels(world.service.context, 1, DORA.id)
    assert isinstance(started, str) and "Choosing up to 20 rows" in started
    labelling = world.store.labellings.under_way("tickets")
    assert labelling is not None and labelling.source is None


def _label_checks(world: World) -> LabelChecks:
    dataset = world.dataset()
    return load_evidence(world.service.context, dataset, _report(dataset), None).label_checks


@pytest.mark.deep
def test_rows_without_a_label_become_rows_to_label(world: World) -> None:
    """A file with some labels missing is usable, and its other rows are labelled from its card."""
    lines = unlabelled_csv(30).splitlines()[1:]
    without = "\n".join(f"{line}," for line in lines)
    world.upload_and_check(f"{tickets_csv(60).strip()}\n{without}\n")
    first = _report(world.dataset())
    assert (world.dataset().state, first.rows, first.n_unlabelled) == ("ready", 60, 30)
    card = world.find_message("tickets is readable", "Label 20 of 30 rows without a label")
    assert "Left out of 90 rows in the file" in card and "30 unlabelled" in card
    assert "Choosing up to 20 rows" in world.click_and_read(DORA, "label_unlabelled")
    open_batch(world)
    assert label_all(world, DORA) == 20
    make_version(world)
    after = _report(world.dataset())
    assert after.diff is not None and (after.diff.added, after.rows, after.n_unlabelled) == (20, 80, 10)
    card = world.find_message("tickets (version 2) is readable", "Label 10 of 10 rows without a label")
    assert "Left out of 90 rows in the file" in card and "10 unlabelled" in card
    assert "Choosing up to 20 rows" in world.click_and_read(DORA, "label_unlabelled")
    open_batch(world)
    assert label_all(world, DORA) == 10
    make_version(world)
    last = _report(world.dataset())
    assert (last.rows, last.n_unlabelled) == (90, 0)
