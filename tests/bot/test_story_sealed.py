"""Rows that are sealed at the upload: in no prompt before a promotion, which opens them once and is decided by them."""

from __future__ import annotations

from typing import Any

from bot.cards import evaluations, models
from bot.services import dataset_deletion
from bot.services.dataset_deletion import RewrittenDataset
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from demo.workspace import Submission
from storage.records import Dataset
from tests.bot.props import LABELS, answer, tickets_csv
from tests.bot.test_story_ladder import PRICES, MakeWorld, details, until_asked
from tests.bot.test_story_promote import in_use
from tests.bot.test_story_versions import _questions, _report
from tests.bot.world import DORA, PRIVATE, Rules, World

WHY = "because=half the price at the same quality"


def upload(world: World, rows: int, sealed: str) -> Submission:
    world.slack.command(DORA.id, PRIVATE.id, "/finetune upload")
    file = world.put_file("tickets.csv", tickets_csv(rows))
    return world.fill_upload(DORA, {"file": file, "name": "tickets", "sealed": sealed})


def sealed_dataset(world: World, rows: int = 150, sealed: str = "50") -> Dataset:
    assert upload(world, rows, sealed).accepted
    world.until(lambda: world.dataset().state in ("ready", "refused"), "the check")
    world.send()
    return world.dataset()


def listen(world: World) -> list[tuple[str, str]]:
    """Which model is asked what, from now on."""
    heard: list[tuple[str, str]] = []
    answers = world.company.service.answer

    def note(model: str, messages: list[dict[str, Any]]) -> str:
        heard.extend((model, str(message["content"])) for message in messages)
        return answers(model, messages)

    world.company.service.answer = note
    return heard


def trained(world: World) -> None:
    world.start()
    world.approve()
    world.until_state("done", world.newest_run().id)


def open_sealed(world: World, number: int) -> None:
    until_asked(world, number)
    world.click(BEN, evaluations.MEASURE)
    world.restart()  # a kill on the way
    world.until(lambda: world.store.measurements.get(number).state == "done", "the sealed rows", seconds=60)
    world.send()


def test_sealed_rows_are_in_no_prompt_until_a_promotion_opens_them(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    heard, report = listen(world), _report(sealed_dataset(world))
    sealed = _questions(world, report.sealed_sha256)
    assert len(sealed) == report.n_sealed > 20
    assert f"{report.n_sealed} rows" in world.said("Sealed for a promotion")
    assert world.type("/finetune baseline tickets models=acme/acme-small rungs=zero,kshot") == ""
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    world.until(lambda: world.store.measurements.get(1).state == "done", "m1", seconds=60)
    world.send()
    trained(world)
    assert heard and not [text for _, text in heard if any(question in text for question in sealed)]
    held = report.n_holdout
    assert f"The {held} held-out rows were looked at twice." in details(world)

    said = world.type("/finetune promote tickets-1", user=BEN)
    assert "The sealed rows decide: m2" in said and in_use(world) is None
    assert "m2 decides" in world.type("/finetune promote tickets-1", user=BEN)
    open_sealed(world, 2)
    assert in_use(world) == "tickets-1"
    asked = [(model, text) for model, text in heard if text in sealed]
    assert len(asked) == len(set(asked)) == 2 * len(sealed), "each once, of the model and of the best prompt"
    card = world.said("tickets-1 is in use for tickets", f"on {report.n_sealed} rows (m2)")
    assert f"{held} held-out rows, looked at twice" in card
    entries = world.store.audit.entries("run 1")
    (opened,) = [entry for entry in entries if entry.action == "open"]
    assert opened.detail == f"{report.n_sealed} sealed rows of tickets for tickets-1 by m2"
    assert "sealed rows: " in next(entry for entry in entries if entry.action == "promote").detail
    world.click(BEN, models.DETAILS)
    assert "doesn't tell it by model" in world.form(BEN) and "looked at twice" in world.form(BEN)

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

    world.company.service.answer = knows_the_sealed
    trained(world)
    world.click(BEN, models.PROMOTE)
    open_sealed(world, 1)
    assert in_use(world) is None
    said = world.said("the sealed rows were opened", "`tickets-1` was not deployed")
    assert f"<@{BEN.id}>" in said and "not shown to be better than" in said and "because=" in said

    world.type("/finetune promote tickets-1", user=BEN)
    world.send()
    assert world.said("m2: These rows were opened 1 time before", "upload a version with new rows")
    world.until(lambda: world.store.measurements.get(2).state == "done", "m2", seconds=60)
    world.send()
    assert world.type(f"/finetune promote tickets-1 {WHY}", user=BEN) == ""
    world.send()
    assert in_use(world) == "tickets-1"
    assert "opened 1 time before" in world.said("tickets-1 is in use for tickets", "On sealed rows")


def test_sealed_rows_are_deleted_with_their_dataset_and_row_by_row(world: World) -> None:
    report = _report(sealed_dataset(world))
    sealed = _questions(world, report.sealed_sha256)
    goes = min(sealed)
    line = next(at for at, row in enumerate(tickets_csv(150).splitlines(), 1) if row.startswith(f'"{goes}"'))
    rewritten = dataset_deletion.without_rows(world.service.context, "tickets", [line])
    assert isinstance(rewritten, RewrittenDataset) and (rewritten.rows, rewritten.held) == (1, 1)
    assert not isinstance(dataset_deletion.take_out(world.service.context, rewritten, DORA.id), Refusal)
    world.until(lambda: not world.store.deletions.open(), "the row to be gone")
    report = _report(world.dataset())
    assert _questions(world, report.sealed_sha256) == sealed - {goes}
    path = world.service.settings.files / f"{report.sealed_sha256}.jsonl"
    assert path.exists()
    assert "type 50 to 10,000" in str(upload(world, 150, "7").errors)
    world.slack.submit_modal(DORA.id, {})
    world.slack.command(DORA.id, PRIVATE.id, "/finetune delete tickets")
    assert world.slack.submit_modal(DORA.id, {"name": "tickets"}).accepted
    world.until(lambda: not path.exists(), "the files to be gone")
