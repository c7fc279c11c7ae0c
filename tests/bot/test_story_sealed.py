"""Rows that are sealed at the upload: in no prompt before a promotion, which opens them once and is decided by them."""

from __future__ import annotations

from typing import Any

import pytest

from bot.cards import evaluations, findings, models
from bot.cards.datasets import UPLOAD_AGAIN
from bot.services import dataset_deletion
from bot.services.dataset_deletion import RewrittenDataset
from bot.values.evaluations import LadderPlan
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from demo.workspace import Submission
from storage.records import Dataset
from tests.bot.props import LABELS, answer, tickets_csv
from tests.bot.test_story_dataset_versions import _questions, _report
from tests.bot.test_story_fair import knows_examples
from tests.bot.test_story_ladder import PRICES, MakeWorld, details, until_asked
from tests.bot.test_story_promote import in_use
from tests.bot.world import DORA, PRIVATE, TARGET, Rules, World

MARGIN = "[policy.promotion]\nmargin_points = 10\n"
WHY = "because=half the price at the same quality"


def upload(world: World, rows: int, sealed: str) -> Submission:
    world.slack.command(DORA.id, PRIVATE.id, "/finetune upload")
    file = world.put_file("tickets.csv", tickets_csv(rows))
    return world.fill_upload(DORA, {"file": file, "name": "tickets", "sealed": sealed})


def sealed_dataset(world: World, rows: int = 150, sealed: str = "50") -> Dataset:
    assert upload(world, rows, sealed).accepted
    world.tick_until(lambda: world.dataset().state in ("ready", "refused"), "the check")
    world.send()
    return world.dataset()


def listen(world: World) -> list[tuple[str, str]]:
    """Which model is asked what, from now on."""
    heard: list[tuple[str, str]] = []
    answers = world.provider.service.answer

    def note(model: str, messages: list[dict[str, Any]]) -> str:
        heard.extend((model, str(message["content"])) for message in messages)
        return answers(model, messages)

    world.provider.service.answer = note
    return heard


def trained(world: World) -> None:
    world.start()
    world.approve()
    world.tick_until_state("done", world.newest_run().id)


def open_sealed(world: World, number: int) -> None:
    until_asked(world, number)
    world.click(BEN, evaluations.MEASURE)
    world.restart()  # a kill on the way
    world.tick_until(
        lambda: world.store.measurements.get(number).state == "done", "the sealed rows", seconds=60
    )
    world.send()


def test_sealed_rows_are_in_no_prompt_until_a_promotion_opens_them(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    heard, report = listen(world), _report(sealed_dataset(world))
    sealed = _questions(world, report.sealed_sha256)
    assert len(sealed) == report.n_sealed > 20
    assert f"{report.n_sealed} rows" in world.find_message("Sealed until a promotion")
    assert world.type("/finetune baseline tickets models=acme/acme-small rungs=zero,kshot") == ""
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    world.tick_until(lambda: world.store.measurements.get(1).state == "done", "m1", seconds=60)
    world.send()
    trained(world)
    assert heard and not [text for _, text in heard if any(question in text for question in sealed)]
    held = report.n_holdout
    assert f"The {held} held-out rows were looked at twice." in details(world)

    world.store.dataset_settings.set("tickets", by=BEN.id, now=world.clock, bar=0.6)
    said = world.type("/finetune promote tickets-1", user=BEN)
    assert "The sealed rows decide: measurement m2" in said and in_use(world) is None
    assert LadderPlan.from_json(world.store.measurements.get(2).plan).bar == 0.6, "the bar as it is now"
    assert "m2 decides" in world.type("/finetune promote tickets-1", user=BEN)
    open_sealed(world, 2)
    assert in_use(world) == "tickets-1"
    asked = [(model, text) for model, text in heard if text in sealed]
    assert len(asked) == len(set(asked)) == 2 * len(sealed), "each once, of the model and of the best prompt"
    card = world.find_message("tickets-1 is in use for tickets", f"on {report.n_sealed} rows (m2)")
    assert f"{held} held-out rows, looked at twice" in card
    entries = world.store.audit.entries("run 1")
    (opened,) = [entry for entry in entries if entry.action == "open"]
    assert opened.detail == f"{report.n_sealed} sealed rows of tickets for tickets-1 by m2"
    assert "sealed rows: " in next(entry for entry in entries if entry.action == "promote").detail
    world.click(BEN, models.DETAILS)
    assert "doesn't count calls by model" in world.read_form(BEN) and "looked at twice" in world.read_form(
        BEN
    )

    after = _report(sealed_dataset(world, 240, "50"))
    assert sealed < _questions(world, after.holdout_sha256), "opened rows join the test"
    fresh = _questions(world, after.sealed_sha256)
    assert fresh and not fresh & (sealed | _questions(world, after.train_sha256))


def test_a_model_that_is_no_better_on_sealed_rows_is_not_deployed(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    report = _report(sealed_dataset(world))
    sealed = _questions(world, report.sealed_sha256)

    def knows_the_sealed(model: str, messages: list[dict[str, Any]]) -> str:
        text = str(messages[-1]["content"])
        return next(label for label in LABELS if label in text) if text in sealed else answer(model, messages)

    world.provider.service.answer = knows_the_sealed
    trained(world)
    world.click(BEN, models.PROMOTE)
    open_sealed(world, 1)
    assert in_use(world) is None
    said = world.find_message("the sealed rows were opened", "`tickets-1` was not deployed")
    assert f"<@{BEN.id}>" in said and "not clearly better than" in said and "because=" in said

    world.type("/finetune promote tickets-1", user=BEN)
    world.send()
    assert world.find_message("m2: These rows were already opened 1 time", "upload a version with new rows")
    world.tick_until(lambda: world.store.measurements.get(2).state == "done", "m2", seconds=60)
    world.send()
    assert world.type(f"/finetune promote tickets-1 {WHY}", user=BEN) == ""
    world.send()
    assert in_use(world) == "tickets-1"
    assert "already opened 1 time" in world.find_message("tickets-1 is in use for tickets", "On sealed rows")


@pytest.mark.parametrize("wrong", [False, True])
def test_a_cheaper_model_is_held_against_the_margin_on_the_sealed_rows(
    make_world: MakeWorld, wrong: bool
) -> None:
    """By the held-out rows it is not worse; on the sealed ones it may be `wrong` each fifth time."""
    world = make_world(Rules(more=PRICES + MARGIN))
    report = _report(sealed_dataset(world, 480, "90"))
    sealed = _questions(world, report.sealed_sha256)

    def speak(model: str, messages: list[dict[str, Any]]) -> str:
        text = str(messages[-1]["content"])
        is_wrong = wrong and model.startswith("ft:") and text in sealed and sum(map(ord, text)) % 5 == 0
        return "I can't tell" if is_wrong else knows_examples(model, messages)

    world.provider.service.answer = speak
    assert world.type(f"/finetune baseline tickets models={TARGET} rungs=kshot") == ""
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(lambda: world.store.measurements.get(1).state == "done", "m1", seconds=60)
    trained(world)
    assert "cheaper and not worse" in world.find_message("Result of run 1")
    world.click(BEN, models.PROMOTE)
    open_sealed(world, 2)
    if wrong:
        assert in_use(world) is None
        said = world.find_message("the sealed rows were opened", "`tickets-1` was not deployed")
        assert "may be worse by more than the 10 points that are allowed" in said
    else:
        assert in_use(world) == "tickets-1"
        card = world.find_message("tickets-1 is in use for tickets", f"on {len(sealed)} rows (m2)")
        assert "cheaper and not worse" in card


def test_the_policy_seals_rows_where_nobody_types_a_number(make_world: MakeWorld) -> None:
    world = make_world(Rules(more="[policy.promotion]\nsealed_rows = 50\n"))
    assert _report(sealed_dataset(world, 240, "")).n_sealed > 40
    assert upload(world, 240, "0").accepted
    world.tick_until(lambda: world.store.datasets.newest("tickets").state == "ready", "the check")
    assert _report(world.store.datasets.newest("tickets")).n_sealed > 40, "what is sealed stays so"
    world.slack.command(DORA.id, PRIVATE.id, "/finetune upload")
    file = world.put_file("other.csv", tickets_csv(240))
    assert world.fill_upload(DORA, {"file": file, "name": "other", "sealed": "no"}).accepted
    world.tick_until(lambda: world.store.datasets.newest("other").state == "ready", "the check")
    assert _report(world.store.datasets.newest("other")).n_sealed == 0


def test_the_number_of_a_refused_upload_is_offered_again(world: World) -> None:
    world.slack.command(DORA.id, PRIVATE.id, "/finetune upload")
    file = world.put_file("tickets.csv", tickets_csv(240) + "A question that nobody answered,\n")
    assert world.fill_upload(DORA, {"file": file, "name": "tickets", "sealed": "60"}).accepted
    world.tick_until(lambda: world.dataset().state == "refused", "the check")
    world.send()
    world.click(DORA, UPLOAD_AGAIN)
    assert world.fill_upload(DORA, {"file": world.put_file("tickets.csv", tickets_csv(240))}).accepted
    world.tick_until(lambda: world.store.datasets.newest("tickets").state == "ready", "the second check")
    assert _report(world.store.datasets.newest("tickets")).n_sealed > 50


def test_a_cleaned_file_has_the_sealed_rows_and_keeps_them_sealed(world: World) -> None:
    rows = tickets_csv(240).splitlines()
    flawed = "\n".join([*rows, rows[5], rows[6]]) + "\n"
    world.slack.command(DORA.id, PRIVATE.id, "/finetune upload")
    file = world.put_file("tickets.csv", flawed)
    assert world.fill_upload(DORA, {"file": file, "name": "tickets", "sealed": "50"}).accepted
    world.tick_until(lambda: world.has_button(findings.CLEAN), "the check")
    sealed = _questions(world, _report(world.dataset()).sealed_sha256)
    world.click(DORA, findings.CLEAN)
    world.tick_until_file("tickets-cleaned.csv")
    cleaned = world.read_file("tickets-cleaned.csv")
    assert sealed and cleaned.splitlines() == rows
    world.upload_and_check(cleaned)
    world.tick_until(lambda: world.store.datasets.newest("tickets").state == "ready", "the second check")
    second = _report(world.store.datasets.newest("tickets"))
    assert _questions(world, second.sealed_sha256) == sealed
    assert not sealed & (_questions(world, second.train_sha256) | _questions(world, second.holdout_sha256))


def test_sealed_rows_are_deleted_with_their_dataset_and_row_by_row(world: World) -> None:
    report = _report(sealed_dataset(world))
    sealed = _questions(world, report.sealed_sha256)
    goes = min(sealed)
    line = next(at for at, row in enumerate(tickets_csv(150).splitlines(), 1) if row.startswith(f'"{goes}"'))
    rewritten = dataset_deletion.rewrite_without_rows(world.service.context, "tickets", [line])
    assert isinstance(rewritten, RewrittenDataset) and (rewritten.rows, rewritten.rows_held_out) == (1, 1)
    assert not isinstance(dataset_deletion.commit_rewrite(world.service.context, rewritten, DORA.id), Refusal)
    world.tick_until(lambda: not world.store.deletions.open(), "the row to be gone")
    report = _report(world.dataset())
    assert _questions(world, report.sealed_sha256) == sealed - {goes}
    path = world.service.settings.files / f"{report.sealed_sha256}.jsonl"
    assert path.exists()
    assert "type 50 to 10,000" in str(upload(world, 150, "7").errors)
    world.slack.submit_modal(DORA.id, {})
    world.slack.command(DORA.id, PRIVATE.id, "/finetune delete tickets")
    assert world.slack.submit_modal(DORA.id, {"name": "tickets"}).accepted
    world.tick_until(lambda: not path.exists(), "the files to be gone")


def test_questions_that_are_sealed_are_not_asked_of_people(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    sealed_dataset(world)
    world.slack.command(DORA.id, PRIVATE.id, "/finetune label tickets")
    file = world.put_file("same.csv", tickets_csv(150))
    assert world.slack.submit_modal(DORA.id, {"count": "9", "file": file}).accepted
    world.tick_until(lambda: world.store.labellings.under_way("tickets") is None, "the refusal")
    world.send()
    assert "There are no new rows in same.csv" in str(world.slack.ephemerals(DORA.id)[-1].text)
