"""Customers' words go where they were asked, and leave when a team wants them gone."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from bot.cards import documents, evaluations
from bot.cli.deletion import delete_dataset
from bot.reconciler import maintain
from bot.services import data_policy, estimate_requests
from bot.values.requests import Delete
from bot.values.runs import Refusal
from demo.people import BEN
from demo.slack_emulator import refused, slow, too_many
from demo.workspace import Person, Submission
from storage.audit import IntactLog, verify_log
from storage.database import DatabaseInUse
from storage.datasets import NewDocument
from storage.records import CachedAnswer
from tests.bot import canaries
from tests.bot.props import LABELS, tickets_csv
from tests.bot.test_story_clean_copies import flawed_csv
from tests.bot.test_story_ladder import ACME, until, until_asked
from tests.bot.test_story_promote import WITH_ALIASES, behind_the_alias, promote
from tests.bot.world import CLEO, DORA, GUS, HR, PRIVATE, PUBLIC, START, Rules, World
from tests.peers.hosted import NOTHING_BUT_500
from tests.trainers.document_files import word

MakeWorld = Callable[[Rules], World]
PRICES = '[prices."acme/acme-small"]\ninput = "0.80"\noutput = "3.20"\n'
ROWS = {"a row's word": "quuxnightjar", "a model's word": "quuxosprey", "a prompt's word": "quuxkestrel"}


def test_two_cleaned_files_that_wait_go_each_into_its_own_channel(world: World) -> None:
    world.upload_and_check(flawed_csv())
    world.upload("hr.csv", flawed_csv().replace("Order", "Absence"), channel=HR, called="hr")
    world.tick_until(lambda: world.dataset().state == "refused", "the second check")
    world.send()
    world.slack.fail("files.getUploadURLExternal", too_many(60))
    world.click(DORA, "post_cleaned", channel=HR)
    world.tick_until(
        lambda: not world.store.cleanings.waiting() and world.store.outbox.waiting(), "the first file"
    )
    world.click(CLEO, "post_cleaned")
    world.tick_until(lambda: "tickets-cleaned.csv" in world.files(), "the second file")
    assert "hr-cleaned.csv" not in world.files(HR)
    world.pass_time(60)
    world.tick_until(lambda: "hr-cleaned.csv" in world.files(HR), "the first file's second try")
    assert "Absence" not in world.read_file("tickets-cleaned.csv")
    assert "Order" not in world.read_file("hr-cleaned.csv", HR.id)
    world.tick()
    assert list((world.service.settings.data / "cleaned").iterdir()) == [], "they were sent, so they are gone"


@pytest.fixture
def used(make_world: MakeWorld) -> World:
    """A dataset with all that can be made of it: measured, trained on twice, in use, cleaned, asked about."""
    world = make_world(Rules(approvers=(BEN.id,), more=PRICES))
    world.abilities = WITH_ALIASES
    world.provider.service.answer = _answer
    world.restart()
    world.upload_and_check(tickets_csv().replace("question", "question quuxnightjar"))
    world.type(f"/finetune baseline tickets {ACME} prompt=Sort it quuxkestrel.")
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    until(world, "done")
    world.start(START)
    world.approve()
    world.tick_until_state("done")
    promote(world, why="because=the demo is today")
    world.tick(2)
    world.type("/finetune try tickets-1 where is my quuxnightjar?")
    world.tick_until(lambda: not world.store.questions.waiting(), "the answer")
    return world


def test_a_deleted_dataset_leaves_no_byte_of_its_rows_in_the_data_folder(used: World) -> None:
    data, model = used.service.settings.data, used.store.model("tickets-1").provider_model
    assert {name for _, name in canaries.in_files(data.rglob("*"), ROWS)} == set(ROWS), (
        "they are there before"
    )
    assert behind_the_alias(used) == model
    assert delete(used, DORA, approver=BEN).accepted
    used.tick_until(lambda: not used.store.deletions.open(), "the end of it")
    used.send()
    assert canaries.in_files(data.rglob("*"), ROWS) == set()
    assert canaries.in_database(used.service.settings.database, ROWS) == set()
    assert used.files_at_provider() == [] and behind_the_alias(used) is None
    assert used.provider.service.deleted_models == {model}
    said = used.find_message("was deleted", "1 run", "1 measurement")
    assert "Messages posted in Slack" in said and "7 nights" in said
    assert "the record of the job stays there" in said
    actions = [(one.who, one.action) for one in used.store.audit.entries("dataset 1")]
    assert actions[-2:] == [(BEN.id, "delete"), ("finetune", "deleted")]
    assert isinstance(verify_log(used.service.settings.database), IntactLog)


def test_no_card_offers_a_model_that_was_deleted_with_its_dataset(used: World) -> None:
    assert delete(used, DORA, approver=BEN).accepted
    used.tick_until(lambda: not used.store.deletions.open(), "the end of it")
    used.send()
    over = used.find_message("tickets-1 was in use for tickets")
    assert "deleted with the data" in over and "is in use" not in "".join(used.cards())
    said = used.type("/finetune results 1")
    assert "Its dataset was deleted" in said and "Try it" not in said and "*For*" not in said
    assert "was deleted with its dataset" in used.click_and_read(BEN, "try_model"), "on a card from before"
    assert "was deleted with its dataset" in used.type("/finetune try tickets-1 where is it?")
    waived = data_policy.may_record_waiver(used.service.context, 1, BEN.id)
    assert isinstance(waived, Refusal) and "was deleted" in waived.text
    kept = estimate_requests.recompute(used.service.context, 1, BEN.id)
    assert isinstance(kept, Refusal) and "or its dataset was deleted" in kept.text


def test_messages_that_wait_and_notices_about_them_go_with_their_dataset(world: World) -> None:
    world.provider.service.failure = {"code": "bad_row", "message": "quuxnightjar is not allowed"}
    world.provider.service.stages = ("queued", "running", "failed")
    world.start_approved()
    world.tick_until_state("training")
    world.send()
    world.slack.fail("chat.postMessage", refused("not_in_channel"), times=None)
    world.slack.fail("chat.update", refused("not_in_channel"), times=None)
    world.tick_until_state("failed")
    assert "quuxnightjar" not in str(world.store.audit.entries("run 1")), "the log can't be deleted"
    for _ in range(3):
        world.send()
        world.pass_time(2)
    assert waiting(world, "quuxnightjar") and waiting(world, "could not be delivered")
    assert delete(world, BEN).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the end of it")
    assert not waiting(world, "could not be delivered")
    assert world.run().error == "Its dataset was deleted."


def test_a_cleaned_file_that_waits_to_be_sent_goes_with_its_dataset(world: World) -> None:
    world.upload("support.csv", flawed_csv(), user=DORA, channel=PUBLIC, called="tickets")
    world.tick_until(lambda: world.dataset().state == "refused", "the check")
    world.send()
    world.slack.fail("conversations.open", too_many(60), times=None)
    world.click_and_read(DORA, "post_cleaned", channel=PUBLIC)
    world.tick_until(lambda: world.store.outbox.files(), "the cleaned file")
    assert delete(world, BEN).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the end of it")
    maintain(world.service.context)
    world.tick()
    assert not list((world.service.settings.data / "cleaned").iterdir())


def test_waiting_messages_about_documents_go_with_their_dataset(world: World) -> None:
    world.seed_dataset()
    new = NewDocument("tickets", "quuxnightjar.md", "F1", PRIVATE.id, DORA.id)
    document = world.store.documents.receive(new, now=world.clock)
    world.service.context.show(f"document {document.id}", PRIVATE.id, documents.document_received(document))
    world.store.documents.move(document, "ready", now=world.clock, sha256="0" * 64, passages=1)
    assert waiting(world, "quuxnightjar")
    assert delete(world, BEN).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the end of it")
    assert not waiting(world, "quuxnightjar") and "quuxnightjar" not in "\n".join(world.texts())


def waiting(world: World, word: str) -> list[dict[str, Any]]:
    """What the outbox holds with this word."""
    return [row for row in world.store.database.rows("SELECT * FROM outbox") if word in str(row)]


def test_rows_lie_only_where_the_documentation_says(used: World) -> None:
    """A file or a column that is new here belongs into docs/security.md, and into storage/dataset_deletion.py."""
    document = (Path(__file__).parents[2] / "docs" / "security.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in document.splitlines() if line.startswith("| `")]
    documented = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    data = used.service.settings.data
    found = {str(Path(path).relative_to(data)) for path, _ in canaries.in_files(data.rglob("*"), ROWS)}
    assert {"files", "measurements"} <= {path.split("/")[0] for path in found}
    assert {path for path in found if not any(fnmatch(path, one) for one in documented)} == set()
    columns = {column for column, _ in canaries.in_database(used.service.settings.database, ROWS)}
    assert {"answers.text", "replies.text", "dataset_settings.prompt"} <= columns <= documented


def test_money_and_lists_stay_whole_after_a_deletion(used: World) -> None:
    month = used.store.database.value("SELECT month FROM ledger")
    committed = used.store.committed(month)
    assert delete(used, BEN).accepted
    used.tick_until(lambda: not used.store.deletions.open(), "the end of it")
    assert used.store.committed(month) == committed > 0
    for line in (
        "runs",
        "results 1",
        "status 1",
        "models",
        "status",
        "datasets",
        "audit 1",
        "results m1",
        "budget",
    ):
        said = used.type(f"/finetune {line}")
        assert said and "reference" not in said, line
    assert "no dataset" in used.type(START)
    again = tickets_csv().replace(
        "question", "question quuxnightjar"
    )  # the same bytes, and so the same holdout
    second = used.upload_and_check(again)
    assert (second.version, second.state) == (2, "ready"), "the name stays its channel's"
    used.type("/finetune baseline tickets rungs=classical")
    until(used, "done", 2)
    run = used.start(START)
    used.approve()
    used.tick_until_state("done", run.id)
    promote(used, f"tickets-{run.id}", why="because=it is the same data")
    assert "no longer at its provider" in used.type("/finetune models")


def test_a_kill_at_any_step_of_a_deletion_is_made_good(used: World) -> None:
    model = used.store.model("tickets-1").provider_model
    used.provider.fail(f"DELETE /models/{model}", NOTHING_BUT_500)
    assert delete(used, BEN).accepted
    used.restart()
    used.tick()
    assert used.store.deletions.open()[0].state == "deleting"
    used.restart()
    used.tick()
    assert used.provider.service.deleted_models == set(), "not yet"
    used.pass_time(301)
    used.tick_until(lambda: not used.store.deletions.open(), "the end of it")
    assert canaries.in_files(used.service.settings.data.rglob("*"), ROWS) == set()


def test_the_terminal_deletes_it_while_the_bot_is_stopped(used: World) -> None:
    used.abilities += ', "job_deletion"'
    used.restart()
    settings = used.service.settings
    with pytest.raises(DatabaseInUse):
        delete_dataset(settings, Delete("tickets"), lambda asked: True)
    used.stop()
    kept = delete_dataset(settings, Delete("tickets"), lambda asked: False)
    assert isinstance(kept, Refusal) and "Nothing was deleted" in kept.text
    assert "tickets is deleted" in str(delete_dataset(settings, Delete("tickets"), lambda asked: True))
    assert canaries.in_files(settings.data.rglob("*"), ROWS) == set() and used.jobs() == 0
    used.boot()
    used.send()
    assert "somebody in the terminal" in used.find_message("was deleted")


def test_what_stands_in_the_way_is_named_with_its_cure(world: World) -> None:
    world.start()
    said = world.type("/finetune delete tickets", user=BEN)
    assert "run 1 is waiting for approval" in said and "/finetune cancel 1" in said
    assert "no dataset" in world.type("/finetune delete nothing", user=BEN)
    assert "should be a day" in world.type("/finetune delete tickets before=yesterday", user=BEN)


@pytest.mark.parametrize(
    ("command", "name"), [("label", "new.csv"), ("knowledge", "faq.md")], ids=["label", "knowledge"]
)
def test_a_file_that_is_on_its_way_does_not_outlive_its_dataset(
    world: World, command: str, name: str
) -> None:
    world.seed_dataset()
    world.slack.fail("download", slow(3.0), times=1)
    world.slack.command(DORA.id, PRIVATE.id, f"/finetune {command} tickets")
    fields = {"file": world.put_file(name, "text\nwhere is the parcel?\n")}
    assert world.slack.submit_modal(DORA.id, fields | ({"count": "1"} if command == "label" else {})).accepted
    assert "Try again in a minute" in world.type("/finetune delete tickets", user=BEN)


def test_only_an_approver_or_who_uploaded_all_of_it_deletes(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(BEN.id,)))
    world.seed_dataset()
    assert "who uploaded all of it" in world.type("/finetune delete tickets")
    assert "Only full members" in world.type("/finetune delete tickets", user=GUS)
    assert world.store.deletions.open() == []
    assert delete(world, DORA).accepted


def test_the_name_is_typed_before_anything_is_deleted(world: World) -> None:
    world.seed_dataset()
    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete tickets")
    assert not world.slack.submit_modal(BEN.id, {"name": "ticket"}).accepted
    assert world.store.deletions.open() == []


@pytest.mark.parametrize("typed", ["Anfra\u0308ge ", "ANFRÄGE", "`anfräge`"])
def test_a_name_with_an_accent_is_read_as_a_command_reads_it(world: World, typed: str) -> None:
    world.seed_dataset(called="anfräge")
    world.slack.command(DORA.id, PRIVATE.id, "/finetune delete anfräge")
    assert world.slack.submit_modal(DORA.id, {"name": typed}).accepted


def test_old_versions_go_and_newer_ones_stay(world: World) -> None:
    world.upload_and_check(tickets_csv().replace("question", "question quuxnightjar"))
    world.pass_time(3 * 24 * 3600)
    world.upload_and_check(tickets_csv(90))
    old, new = reversed(world.store.datasets.all())
    day = datetime.fromtimestamp(new.created_at, UTC).date()
    assert delete(world, BEN, f"before={day}").accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the end of it")
    assert [one.version for one in world.store.datasets.all()] == [2]
    assert not (world.service.settings.files / old.sha256).exists()
    assert (world.service.settings.files / new.sha256).exists()


def test_the_same_file_uploaded_and_deleted_again_leaves_nothing(world: World) -> None:
    """Plans of runs keep the hashes of their files, also where those are gone."""
    for number in (1, 2):
        world.upload_and_check(tickets_csv().replace("question", "question quuxnightjar"))
        world.start()
        world.type(f"/finetune cancel {number}", user=BEN)
        world.tick_until_state("cancelled", number)
        assert delete(world, BEN).accepted
        world.tick_until(lambda: not world.store.deletions.open(), "the end of it")
        assert canaries.in_files(world.service.settings.data.rglob("*"), ROWS) == set()


def test_a_refused_file_is_deleted_after_a_day(world: World) -> None:
    secret = "AKIA" + "QUUXNIGHTJARABCD"
    refused = world.upload_and_check(tickets_csv() + f"my key is {secret},billing\n")
    assert refused.state == "refused"
    assert "deleted here after 1 day" in world.find_message("Line 62")
    maintain(world.service.context)
    assert world.store.datasets.get(1).sha256, "not before its time"
    world.pass_time(24 * 3600 + 1)
    maintain(world.service.context)
    world.tick_until(lambda: not world.store.deletions.open(), "the end of it")
    found = canaries.in_files(world.service.settings.data.rglob("*"), {"the secret": secret})
    assert found == set() and world.store.datasets.all() == []
    assert "was deleted" in world.click_and_read(DORA, "post_cleaned")


def test_a_refused_document_is_deleted_after_a_day(world: World) -> None:
    world.seed_dataset()
    secret = "AKIA" + "QUUXNIGHTJARABCD"
    file = world.put_file("terms.md", f"Our key is {secret}.")
    world.slack.command(DORA.id, PRIVATE.id, "/finetune knowledge tickets")
    assert world.slack.submit_modal(DORA.id, {"file": file}).accepted
    world.tick_until(lambda: world.store.documents.get(1).state == "refused", "the look at it")
    kept = world.service.settings.files / world.store.documents.get(1).sha256
    maintain(world.service.context)
    assert kept.exists(), "not before its time"
    world.pass_time(24 * 3600 + 1)
    maintain(world.service.context)
    assert not kept.exists()


def test_a_deleted_dataset_takes_its_documents_and_their_text(world: World) -> None:
    world.seed_dataset()
    file = world.put_file("terms.docx", word("Refunds are for a quuxnightjar."))
    world.slack.command(DORA.id, PRIVATE.id, "/finetune knowledge tickets")
    assert world.slack.submit_modal(DORA.id, {"file": file}).accepted
    world.tick_until(lambda: world.store.documents.get(1).state == "ready", "the look at it")
    files, name = world.service.settings.files, world.store.documents.get(1).sha256
    assert {path.name for path in files.glob(f"{name}*")} == {name, f"{name}.text"}
    assert delete(world, BEN).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the end of it")
    assert not list(files.glob(f"{name}*")) and world.store.documents.get(1) is None


def test_prompts_go_when_a_measurement_is_over_and_its_scratch_after_a_week(used: World) -> None:
    folder = used.service.settings.data / "measurements" / "m1"
    maintain(used.service.context)
    assert folder.exists() and canaries.in_files(folder.rglob("*"), ROWS) == set()
    used.pass_time(7 * 24 * 3600 + 1)
    maintain(used.service.context)
    assert not folder.exists()


def test_an_answer_that_comes_after_its_dataset_was_deleted_is_deleted_too(used: World) -> None:
    assert delete(used, BEN).accepted
    used.tick_until(lambda: not used.store.deletions.open(), "the end of it")
    used.store.answers.keep([CachedAnswer("k", "acme/acme-small", "quuxosprey", 1, 1, 0.1, used.clock)], "m1")
    used.store.answers.keep([CachedAnswer("l", "acme/acme-small", "another's", 1, 1, 0.1, used.clock)], "m2")
    maintain(used.service.context)
    assert used.store.answers.read(["k", "l"]).keys() == {"l"}


def delete(world: World, user: Person, options: str = "", *, approver: Person | None = None) -> Submission:
    """`approver`: who has to ask, because a model is in use, after `user` was told so."""
    line = f"/finetune delete tickets {options}".strip()
    if approver:
        assert "approver" in world.type(line, user=user)
    person = approver or user
    world.slack.command(person.id, PRIVATE.id, line)
    return world.slack.submit_modal(person.id, {"name": "tickets"})


def _answer(model: str, messages: list[dict[str, Any]]) -> str:
    if not model.startswith("ft:"):
        return "billing quuxosprey"
    return next((label for label in LABELS if label in messages[-1]["content"]), "quuxosprey")
