"""A deleted dataset leaves nothing of its rows behind: no file, no stored text, nothing at its provider."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from bot.cards.datasets import documents
from bot.cards.evidence import evaluations
from bot.cli.deletion import delete_dataset
from bot.reconciler import maintain
from bot.rules.plans import plan_from_json
from bot.services.datasets import data_policy
from bot.services.datasets.row_labels_worker import store_lines
from bot.services.decisions import estimate_requests
from bot.values.requests import Delete
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from demo.slack_emulator import refused, slow, too_many
from demo.workspace import Person, Submission, WorkspaceError
from storage.audit import IntactLog, verify_log
from storage.database import DatabaseInUse
from storage.datasets import NewDocument
from storage.records import CachedAnswer, Run
from tests.bot import canaries
from tests.bot.datasets.test_story_clean_copies import flawed_csv
from tests.bot.measurements import ACME, until, until_asked
from tests.bot.models.test_story_promote import WITH_ALIASES, alias_target, promote
from tests.bot.props import LABELS, tickets_csv
from tests.bot.world import CLEO, DORA, GUS, PRIVATE, PUBLIC, START, Rules, World, words_of
from tests.peers.hosted import BUSY, NOTHING_BUT_500
from tests.trainers.dataset.document_files import word
from trainers.dataset import Report, store_chat
from trainers.recipes.folder import RecipeFolder

MakeWorld = Callable[[Rules], World]
PRICES = '[prices."acme/acme-small"]\ninput = "0.80"\noutput = "3.20"\n'
ROWS = {"a row's word": "quuxnightjar", "a model's word": "quuxosprey", "a prompt's word": "quuxkestrel"}
# 24 held-out rows, all right, show that the bar is met; 18 would not
CANARY_CSV = tickets_csv(72).replace("question", "question quuxnightjar")
SECRET = "AKIA" + "QUUXNIGHTJARABCD"
DAY_S = 24 * 3600
LISTS = ["runs", "results 1", "status 1", "models", "status", "datasets", "audit 1", "results m1", "budget"]


@pytest.fixture
def trained(make_world: MakeWorld) -> World:
    """The canaries' dataset, and the model tickets-1 that was trained on it."""
    world = make_world(Rules(approvers=(BEN.id, CLEO.id), more=PRICES))
    world.abilities = WITH_ALIASES
    world.provider.service.answer = _answer
    world.restart()
    world.upload_and_check(CANARY_CSV)
    _train(world)
    return world


def test_deleting_a_dataset_erases_its_rows_from_every_documented_place(trained: World) -> None:
    _measure_promote_and_ask(trained)
    _assert_rows_are_only_where_documented(trained)
    _assert_scratch_files_of_measurements_expire(trained)
    month = trained.store.database.value("SELECT month FROM ledger")
    committed = trained.store.committed(month)
    assert "approver" in trained.type("/finetune delete tickets", user=DORA), "its model is in use"
    delete_and_wait(trained, BEN)
    _assert_nothing_is_left(trained)
    _assert_the_model_is_no_longer_offered(trained)
    assert trained.store.committed(month) == committed > 0
    for command in LISTS:
        reply = trained.type(f"/finetune {command}")
        assert reply and "reference" not in reply, command
    assert "no dataset" in trained.type(START)
    _assert_late_answers_are_deleted(trained)


def _measure_promote_and_ask(world: World) -> None:
    world.type(f"/finetune baseline tickets {ACME} prompt=Sort it quuxkestrel.")
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    until(world, "done")
    promote(world, "tickets kshot", "because=the demo is today")
    world.tick_until(lambda: world.store.promotions.current("tickets").carried_at, "the recipe")
    promote(world, why="because=the demo is today")
    world.tick(2)
    assert alias_target(world) == world.store.model("tickets-1").provider_model
    world.type("/finetune try tickets-1 where is my quuxnightjar?")
    world.tick_until(lambda: not world.store.questions.waiting(), "the answer")


def _assert_rows_are_only_where_documented(world: World) -> None:
    """A file or a column that is new here must go into docs/security.md and storage/deletion/dataset_deletion.py."""
    document = (Path(__file__).parents[3] / "docs" / "security.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in document.splitlines() if line.startswith("| `")]
    documented = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    data = world.service.settings.data
    matches = canaries.in_files(data.rglob("*"), ROWS)
    assert {name for _, name in matches} == set(ROWS)
    files = {str(Path(path).relative_to(data)) for path, _ in matches}
    assert {"files", "measurements", "serving"} <= {file.split("/")[0] for file in files}
    assert {file for file in files if not any(_is_path(file, name) for name in documented)} == set()
    columns = {column for column, _ in canaries.in_database(world.service.settings.database, ROWS)}
    assert {"answers.text", "replies.text", "dataset_settings.prompt"} <= columns <= documented


def _is_path(path: str, pattern: str) -> bool:
    """Segment by segment, as '*' of fnmatch takes slashes too."""
    segments = path.split("/")
    patterns = pattern.split("/")
    return len(segments) == len(patterns) and all(map(fnmatch, segments, patterns))


def _assert_scratch_files_of_measurements_expire(world: World) -> None:
    """The prompts are deleted once the measurement is over, the rest of its folder a week later."""
    folder = world.service.settings.data / "measurements" / "m1"
    maintain(world.service.context)
    assert folder.exists() and canaries.in_files(folder.rglob("*"), ROWS) == set()
    world.pass_time(7 * DAY_S + 1)
    maintain(world.service.context)
    assert not folder.exists()
    shutil.rmtree(world.service.settings.data / "backups")  # which a deletion leaves alone for 7 nights


def _assert_nothing_is_left(world: World) -> None:
    database = world.service.settings.database
    assert canaries.in_files(world.service.settings.data.rglob("*"), ROWS) == set()
    recipes = RecipeFolder(world.service.settings.recipes)
    answering = recipes.published("team/tickets")
    assert recipes.hashes() == frozenset() and answering and answering.unavailable
    assert (
        answering.unavailable.code == "deleted" and "deleted with its data" in answering.unavailable.message
    )
    assert canaries.in_database(database, ROWS) == set()
    assert world.files_at_provider() == [] and alias_target(world) is None
    assert len(world.provider.service.deleted_models) == 1
    notice = world.find_message("was deleted", "1 run", "1 measurement")
    assert "uploaded files" not in notice, "the provider has none, though it may list one for a while"
    assert "Messages posted in Slack" in notice and "7 nights" in notice
    assert "the record of the job stays there" in notice
    actions = [(entry.who, entry.action) for entry in world.store.audit.entries("dataset 1")]
    assert actions[-2:] == [(BEN.id, "delete"), ("finetune", "deleted")]
    assert isinstance(verify_log(database), IntactLog)


def _assert_the_model_is_no_longer_offered(world: World) -> None:
    card = world.find_message("tickets-1 was in use for tickets")
    assert "deleted with the data" in card and "is in use" not in "".join(world.cards())
    results = world.type("/finetune results 1")
    assert "Its dataset was deleted" in results and "Try it" not in results and "*For*" not in results
    assert "was deleted" in world.type("/finetune promote tickets-1", user=BEN)
    with pytest.raises(WorkspaceError, match="no message has the button put_to_work"):
        world.click(BEN, "put_to_work")
    assert "was deleted with its dataset" in world.type("/finetune try tickets-1 where is it?")
    waiver = data_policy.may_record_waiver(world.service.context, 1, BEN.id)
    assert isinstance(waiver, Refusal) and "was deleted" in waiver.text
    estimate = estimate_requests.recompute(world.service.context, 1, BEN.id)
    assert isinstance(estimate, Refusal) and "or its dataset was deleted" in estimate.text


def _assert_late_answers_are_deleted(world: World) -> None:
    for key, measurement in (("k", "m1"), ("l", "m2")):
        answer = CachedAnswer(key, "acme/acme-small", "quuxosprey", 1, 1, 0.1, world.clock)
        world.store.answers.keep([answer], measurement)
    maintain(world.service.context)
    assert world.store.answers.read(["k", "l"]).keys() == {"l"}


@pytest.mark.deep
def test_who_waits_for_an_answer_is_told_of_the_deletion(trained: World) -> None:
    trained.provider.fail("POST /chat/completions", BUSY, times=100)
    assert trained.type("/finetune try tickets-1 where is my quuxnightjar?")
    delete_and_wait(trained, BEN)
    (notice,) = [text for text in map(words_of, trained.slack.ephemerals(ANA.id)) if "gets no answer" in text]
    assert "`tickets-1`" in notice and "deleted with its dataset" in notice and "nightjar" not in notice


@pytest.mark.deep
def test_a_deletion_survives_kills_and_the_same_rows_can_be_used_again(trained: World) -> None:
    model = trained.store.model("tickets-1").provider_model
    trained.provider.fail(f"DELETE /models/{model}", NOTHING_BUT_500)
    path = trained.service.settings.files / f"{plan_from_json(trained.run().plan).train_sha256}.jsonl"
    trained.service.context.trainers["acme"].upload(path, path.stem)  # as a kill may leave it
    assert delete(trained, BEN).accepted
    trained.restart()
    trained.tick()
    assert trained.store.deletions.open()[0].state == "deleting"
    trained.restart()
    trained.tick()
    assert trained.provider.service.deleted_models == set(), "not yet"
    trained.pass_time(301)
    wait_for_deletion(trained)
    assert canaries.in_files(trained.service.settings.data.rglob("*"), ROWS) == set()
    assert trained.files_at_provider() == []
    second = trained.upload_and_check(CANARY_CSV)  # the same bytes, and so the same holdout
    assert (second.version, second.state) == (2, "ready"), "the name still belongs to its channel"
    trained.type("/finetune baseline tickets candidates=classical")
    until(trained, "done")
    run = _train(trained)
    promote(trained, f"tickets-{run.id}", why="because=it is the same data")
    assert "no longer at its provider" in trained.type("/finetune models all")


@pytest.mark.deep
def test_what_an_old_run_left_is_deleted_unless_its_model_is_in_use(trained: World) -> None:
    trained.abilities += ', "job_deletion"'
    trained.rules.more += "[retention]\nruns_days = 30\n"
    trained.restart()
    promote(trained, "tickets-1", why="because=it is good enough")
    trained.pass_time(31 * DAY_S)
    maintain(trained.service.context)
    assert trained.store.runs.answers(1, "tuned") and trained.jobs() == 1, "its model is in use"
    trained.store.promotions.end(trained.store.promotions.current("tickets"), now=trained.clock)
    maintain(trained.service.context)
    assert trained.store.runs.answers(1, "tuned") == [] and trained.jobs() == 0
    replies = trained.store.database.value("SELECT count(*) FROM replies WHERE owner = 'run 1'")
    (entry,) = [each for each in trained.store.audit.entries("run 1") if each.action == "expired"]
    assert replies == 0 and "answers and job" in entry.detail
    assert trained.store.model("tickets-1").gone_at and trained.run().result
    maintain(trained.service.context)
    assert trained.store.audit.newest() == entry.id, "once"


@pytest.mark.deep
def test_the_terminal_deletes_a_dataset_only_while_the_bot_is_stopped(trained: World) -> None:
    trained.abilities += ', "job_deletion"'
    trained.restart()
    settings = trained.service.settings
    with pytest.raises(DatabaseInUse):
        delete_dataset(settings, Delete("tickets"), lambda question: True)
    trained.stop()
    refusal = delete_dataset(settings, Delete("tickets"), lambda question: False)
    assert isinstance(refusal, Refusal) and "Nothing was deleted" in refusal.text
    assert "tickets is deleted" in str(delete_dataset(settings, Delete("tickets"), lambda question: True))
    assert canaries.in_files(settings.data.rglob("*"), ROWS) == set() and trained.jobs() == 0
    trained.boot()
    trained.send()
    assert "somebody in the terminal" in trained.find_message("was deleted")


def test_waiting_messages_and_delivery_notices_are_deleted_with_their_dataset(world: World) -> None:
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
    assert "quuxnightjar" in _outbox(world) and "could not be delivered" in _outbox(world)
    delete_and_wait(world, BEN)
    assert "could not be delivered" not in _outbox(world)
    assert world.run().error == "Its dataset was deleted."


def test_waiting_messages_about_documents_are_deleted_with_their_dataset(world: World) -> None:
    world.seed_dataset()
    new = NewDocument("tickets", "quuxnightjar.md", "F1", PRIVATE.id, DORA.id)
    document = world.store.documents.receive(new, now=world.clock)
    world.service.context.show(f"document {document.id}", PRIVATE.id, documents.document_received(document))
    world.store.documents.move(document, "ready", now=world.clock, sha256="0" * 64, passages=1)
    assert "quuxnightjar" in _outbox(world)
    delete_and_wait(world, BEN)
    assert "quuxnightjar" not in _outbox(world) + "\n".join(world.texts())


def _outbox(world: World) -> str:
    return str(world.store.database.rows("SELECT * FROM outbox"))


def test_an_unsent_cleaned_file_is_deleted_with_its_dataset(world: World) -> None:
    world.upload("support.csv", flawed_csv(), user=DORA, channel=PUBLIC, called="tickets")
    world.tick_until(lambda: world.dataset().state == "refused", "the check")
    world.send()
    world.slack.fail("conversations.open", too_many(60), times=None)
    world.click_and_read(DORA, "post_cleaned", channel=PUBLIC)
    world.tick_until(lambda: world.store.outbox.files(), "the cleaned file")
    delete_and_wait(world, BEN)
    maintain(world.service.context)
    world.tick()
    assert not list((world.service.settings.data / "cleaned").iterdir())


@pytest.mark.parametrize(("command", "file"), [("label", "new.csv"), ("knowledge", "faq.md")])
def test_a_dataset_is_not_deleted_while_a_file_for_it_is_arriving(
    world: World, command: str, file: str
) -> None:
    world.seed_dataset()
    world.slack.fail("download", slow(3.0), times=1)
    world.slack.command(DORA.id, PRIVATE.id, f"/finetune {command} tickets")
    answers = {"file": world.put_file(file, "text\nwhere is the parcel?\n")}
    assert world.slack.submit_modal(
        DORA.id, answers | ({"count": "1"} if command == "label" else {})
    ).accepted
    assert "Try again in a minute" in world.type("/finetune delete tickets", user=BEN)


def test_only_an_approver_or_the_uploader_deletes_a_dataset_after_typing_its_name(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(approvers=(BEN.id,)))
    world.seed_dataset(called="anfräge")
    assert "who uploaded all of it" in world.type("/finetune delete anfräge")
    assert "Only full members" in world.type("/finetune delete anfräge", user=GUS)
    assert "no dataset" in world.type("/finetune delete nothing", user=BEN)
    assert "should be a day" in world.type("/finetune delete anfräge before=yesterday", user=BEN)
    world.slack.command(BEN.id, PRIVATE.id, "/finetune delete anfräge")
    assert not world.slack.submit_modal(BEN.id, {"name": "anfrage"}).accepted
    assert world.store.deletions.open() == []
    world.slack.command(DORA.id, PRIVATE.id, "/finetune delete anfräge")
    assert world.slack.submit_modal(DORA.id, {"name": "`Anfra\u0308ge` "}).accepted, "read as commands are"


def test_a_run_that_waits_for_approval_must_be_cancelled_before_a_deletion(world: World) -> None:
    world.start()
    reply = world.type("/finetune delete tickets", user=BEN)
    assert "run 1 is waiting for approval" in reply and "/finetune cancel 1" in reply


@pytest.mark.deep
def test_old_versions_are_deleted_and_newer_ones_stay(world: World) -> None:
    world.upload_and_check(CANARY_CSV)
    world.pass_time(3 * DAY_S)
    world.upload_and_check(tickets_csv(90))
    old, new = reversed(world.store.datasets.all())
    delete_and_wait(world, BEN, f"before={datetime.fromtimestamp(new.created_at, UTC).date()}")
    assert [dataset.version for dataset in world.store.datasets.all()] == [2]
    assert not (world.service.settings.files / old.sha256).exists()
    assert (world.service.settings.files / new.sha256).exists()


@pytest.mark.deep
def test_files_that_nothing_names_are_deleted_after_a_day(world: World) -> None:
    """A worker wrote them for something that was cancelled or overtaken, and a deletion could not find them."""
    named = world.seed_dataset()
    files = world.service.settings.files
    unnamed = [store_lines(files, [b"quuxnightjar"]), store_chat(files, [])]
    maintain(world.service.context)
    assert {path.name[:64] for path in files.iterdir()} >= {*unnamed}, "it may be named at the next tick"
    world.pass_time(DAY_S + 3600)  # the files have the machine's own time
    database = world.service.settings.database
    replaced = database.with_name(f"{database.name}.replaced-20261125T030007Z")
    replaced.touch()
    maintain(world.service.context)
    assert {path.name[:64] for path in files.iterdir()} >= {*unnamed}, "that database may name them"
    replaced.unlink()
    maintain(world.service.context)
    report = Report.from_json(str(named.report))
    assert {path.name[:64] for path in files.iterdir()} == {*report.stored_files}


@pytest.mark.deep
def test_a_file_that_was_planned_with_uploaded_and_deleted_twice_leaves_nothing(world: World) -> None:
    """The plans of runs keep the hashes of their files even when those are gone."""
    for number in (1, 2):
        world.upload_and_check(CANARY_CSV)
        world.start()
        world.type(f"/finetune cancel {number}", user=BEN)
        world.tick_until_state("cancelled", number)
        delete_and_wait(world, BEN)
        assert canaries.in_files(world.service.settings.data.rglob("*"), ROWS) == set()


@pytest.mark.deep
def test_a_refused_file_and_a_refused_document_are_deleted_after_a_day(world: World) -> None:
    world.seed_dataset()
    refused_file = world.upload_and_check(tickets_csv() + f"my key is {SECRET},billing\n")
    assert refused_file.state == "refused"
    assert "deleted here after 1 day" in world.find_message("Line 62")
    add_document(world, "terms.md", f"Our key is {SECRET}.", state="refused")
    document = world.service.settings.files / world.store.documents.get(1).sha256
    maintain(world.service.context)
    assert world.store.datasets.get(refused_file.id).sha256 and document.exists(), "not before its time"
    world.pass_time(DAY_S + 1)
    maintain(world.service.context)
    wait_for_deletion(world)
    assert canaries.in_files(world.service.settings.data.rglob("*"), {"the secret": SECRET}) == set()
    assert [dataset.version for dataset in world.store.datasets.all()] == [1] and not document.exists()
    assert "was deleted" in world.click_and_read(DORA, "post_cleaned")


@pytest.mark.deep
def test_a_dataset_is_deleted_with_its_documents_and_their_text(world: World) -> None:
    world.seed_dataset()
    add_document(world, "terms.docx", word("Refunds are for a quuxnightjar."), state="ready")
    files, name = world.service.settings.files, world.store.documents.get(1).sha256
    assert {path.name for path in files.glob(f"{name}*")} == {name, f"{name}.text"}
    delete_and_wait(world, BEN)
    assert not list(files.glob(f"{name}*")) and world.store.documents.get(1) is None


def delete(world: World, user: Person, options: str = "") -> Submission:
    world.slack.command(user.id, PRIVATE.id, f"/finetune delete tickets {options}".strip())
    return world.slack.submit_modal(user.id, {"name": "tickets"})


def wait_for_deletion(world: World) -> None:
    world.tick_until(lambda: not world.store.deletions.open(), "the end of the deletion")
    world.send()


def delete_and_wait(world: World, user: Person, options: str = "") -> None:
    assert delete(world, user, options).accepted
    wait_for_deletion(world)


def add_document(world: World, name: str, content: str | bytes, *, state: str) -> None:
    """Upload the first document for tickets, and wait until it has been read."""
    file = world.put_file(name, content)
    world.slack.command(DORA.id, PRIVATE.id, "/finetune knowledge tickets")
    assert world.slack.submit_modal(DORA.id, {"file": file}).accepted
    world.tick_until(lambda: world.store.documents.get(1).state == state, f"the document to be {state}")


def _train(world: World) -> Run:
    run = world.start(START)
    world.approve()
    return world.tick_until_state("done", run.id)


def _answer(model: str, messages: list[dict[str, Any]]) -> str:
    if not model.startswith("ft:"):
        return "billing quuxosprey"
    return next((label for label in LABELS if label in messages[-1]["content"]), "quuxosprey")
