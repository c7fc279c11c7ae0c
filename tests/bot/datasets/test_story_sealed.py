"""Rows that are sealed at the upload: nothing is measured on them until a promotion opens them, which they decide."""

from __future__ import annotations

from typing import Any

import pytest

from bot.cards.datasets import findings
from bot.cards.datasets.datasets import UPLOAD_AGAIN
from bot.cards.evidence import evaluations
from bot.cards.models import promotions as promotion_cards
from bot.services import dataset_deletion
from bot.services.datasets import row_deletion
from bot.services.datasets.row_deletion import RewrittenDataset
from bot.services.models import promotions
from bot.values.evaluations import ComparisonPlan, ComparisonProgress
from bot.values.runs import Refusal
from demo.people import BEN
from demo.workspace import Submission
from storage.records import Dataset
from tests.bot.datasets.test_story_dataset_versions import _questions, _report
from tests.bot.evidence.test_story_fair import knows_examples
from tests.bot.measurement.test_story_comparison import read_details
from tests.bot.measurements import BASELINE, PRICES, measure, measurement, until
from tests.bot.models.test_story_promote import in_use, promote
from tests.bot.props import LABELS, answer, tickets_csv
from tests.bot.saved_worlds import reached_once
from tests.bot.world import ANA, DORA, PRIVATE, MakeWorld, Rules, World
from trainers.dataset import Report
from trainers.evaluation.results import Comparison

MARGIN = "[policy.promotion]\nmargin_points = 10\n"
WHY = "because=half the price at the same quality"


def upload(world: World, content: str, sealed: str, *, name: str = "tickets") -> Submission:
    world.slack.command(DORA.id, PRIVATE.id, "/finetune upload")
    file = world.put_file(f"{name}.csv", content)
    return world.fill_upload(DORA, {"file": file, "name": name, "sealed": sealed})


def until_checked(world: World) -> Dataset:
    """Tick until all uploads are checked; the newest one."""

    def are_checked() -> bool:
        return {dataset.state for dataset in world.store.datasets.all()} <= {"ready", "refused"}

    world.tick_until(are_checked, "the check")
    world.send()
    return world.dataset()


@reached_once
def seed_sealed(world: World, rows: int = 150, sealed: str = "50") -> None:
    assert upload(world, tickets_csv(rows), sealed).accepted
    until_checked(world)


def report_of(world: World) -> Report:
    return _report(world.dataset())


def sealed_questions(world: World) -> set[str]:
    return _questions(world, report_of(world).sealed_sha256)


def record_questions(world: World) -> list[tuple[str, str]]:
    """From now on, which model is asked what."""
    questions: list[tuple[str, str]] = []
    answer = world.provider.service.answer

    def record(model: str, messages: list[dict[str, Any]]) -> str:
        questions.extend((model, str(message["content"])) for message in messages)
        return answer(model, messages)

    world.provider.service.answer = record
    return questions


def train(world: World) -> None:
    world.start()
    world.approve()
    world.tick_until_state("done", world.newest_run().id)


def until_card_asks(world: World, number: int) -> None:
    """Tick until the card asks whether the sealed rows may be opened."""

    def asks() -> bool:
        return ComparisonProgress.from_json(measurement(world, number).progress).stage == "asking"

    world.tick_until(asks, "the question", seconds=30)
    world.send()


def openings(world: World) -> list[str]:
    """What the audit log says about sealed rows that were opened for run 1."""
    entries = world.store.audit.entries("run 1")
    return [str(entry.detail) for entry in entries if entry.action == "open"]


def open_sealed(world: World, number: int) -> None:
    """Agree to the measurement of the sealed rows, which a restart interrupts."""
    until_card_asks(world, number)
    world.click(BEN, evaluations.MEASURE)
    world.restart()
    until(world, "done", number, seconds=60)


@pytest.mark.deep
def test_no_prompt_has_sealed_rows_until_a_promotion_opens_them(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    seed_sealed(world)
    questions = record_questions(world)
    report = report_of(world)
    sealed = sealed_questions(world)
    assert len(sealed) == report.n_sealed > 20
    assert f"{report.n_sealed} rows" in world.find_message("Sealed until a promotion")
    measure(world, f"{BASELINE} candidates=zero,kshot")
    train(world)
    prompts = "\n".join(text for _, text in questions)
    assert prompts and not [question for question in sealed if question in prompts]
    held = report.n_holdout
    assert f"The {held} held-out rows were looked at twice." in read_details(world)

    world.store.dataset_settings.set("tickets", by=BEN.id, now=world.clock, bar=0.6)
    reply = world.type("/finetune promote tickets-1", user=BEN)
    assert "The sealed rows decide: measurement m2" in reply and in_use(world) is None
    assert ComparisonPlan.from_json(world.store.measurements.get(2).plan).bar == 0.6, "the bar as it is now"
    assert "m2 decides" in world.type("/finetune promote tickets-1", user=BEN)
    open_sealed(world, 2)
    assert in_use(world) == "tickets-1"
    opened = [(model, text) for model, text in questions if text in sealed]
    assert len(opened) == len(set(opened)) == 2 * len(sealed), (
        "both the model and the best prompt, once a row"
    )
    card = world.find_message("tickets-1 is in use for tickets", f"on {report.n_sealed} rows (m2)")
    assert f"{held} held-out rows, looked at twice" in card
    (opening,) = openings(world)
    assert opening == f"{report.n_sealed} sealed rows of tickets for tickets-1 by m2"
    entries = world.store.audit.entries("run 1")
    assert "sealed rows: " in next(entry for entry in entries if entry.action == "promote").detail
    world.click(BEN, promotion_cards.DETAILS)
    details = world.read_form(BEN)
    assert "No calls are counted yet" in details and "looked at twice" in details

    assert upload(world, tickets_csv(240), "50").accepted
    after = _report(until_checked(world))
    assert sealed < _questions(world, after.holdout_sha256), "opened rows join the test"
    fresh = _questions(world, after.sealed_sha256)
    assert fresh and not fresh & (sealed | _questions(world, after.train_sha256))


@pytest.mark.deep
def test_the_card_says_that_it_opens_sealed_rows_and_only_who_may_promote_opens_them(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(more=PRICES))
    seed_sealed(world)
    measure(world, f"{BASELINE} candidates=zero")
    train(world)
    questions, sealed = record_questions(world), sealed_questions(world)
    world.type("/finetune promote tickets-1", user=BEN)
    until_card_asks(world, 2)
    world.find_message(
        f"Open the {len(sealed)} sealed rows of tickets, once, to decide on tickets-1, for under 1 cent?",
        "*If `tickets-1` passes, it is deployed at once.*",
        "tickets-1: the model to decide on",
        "the prompt alone on acme/acme-small: what it is compared with",
        "Only people who may deploy models can open the rows",
    )
    assert "Only an approver" in world.click_and_read(ANA, evaluations.MEASURE)
    assert measurement(world, 2).state == "asked"

    world.click(BEN, evaluations.CANCEL)
    until(world, "cancelled", 2)
    assert not openings(world) and not [text for _, text in questions if text in sealed]

    world.type("/finetune promote tickets-1", user=BEN)
    until_card_asks(world, 3)
    world.find_message("sealed rows of tickets, once, to decide on tickets-1")
    world.click(BEN, evaluations.MEASURE)
    until(world, "done", 3, seconds=60)
    assert openings(world) == [f"{len(sealed)} sealed rows of tickets for tickets-1 by m3"]
    world.find_message(
        "tickets-1 passed and is in use: ", "tuned, tickets-1", "*Next*: Nothing is left to do."
    )
    status = world.type("/finetune status")
    assert f"*Measurement m3*, {len(sealed)} sealed rows of tickets, to decide on tickets-1: " in status
    assert "tickets-1 passed and is in use" in status

    world.rules.approvers = (ANA.id,)
    world.restart()
    opened = measurement(world, 3)
    plan = ComparisonPlan.from_json(opened.plan)
    comparison = Comparison.from_json(str(opened.result))
    decided = promotions.decide_by_sealed(world.service.context, opened, plan, comparison)
    assert isinstance(decided, Refusal) and "approver" in decided.text, "Ben may not deploy any more"


@pytest.mark.deep
def test_a_model_no_better_on_the_sealed_rows_is_not_deployed(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    seed_sealed(world)
    sealed = sealed_questions(world)

    def knows_the_sealed(model: str, messages: list[dict[str, Any]]) -> str:
        text = str(messages[-1]["content"])
        return next(label for label in LABELS if label in text) if text in sealed else answer(model, messages)

    world.provider.service.answer = knows_the_sealed
    train(world)
    world.click(BEN, promotion_cards.PROMOTE)
    open_sealed(world, 1)
    assert in_use(world) is None
    refusal = world.find_message("the sealed rows were opened", "`tickets-1` was not deployed")
    assert f"<@{BEN.id}>" in refusal and "not clearly better than" in refusal and "because=" in refusal

    world.find_message("tickets-1 was not deployed: ", "*Next*: Train on more rows")

    world.type("/finetune promote tickets-1", user=BEN)
    until_card_asks(world, 2)
    world.find_message(
        f"Open the {len(sealed)} sealed rows of tickets, again, to decide on tickets-1, at no charge?",
        "These rows were already opened 1 time",
        "upload a version with new rows",
    )
    world.click(BEN, evaluations.MEASURE)
    until(world, "done", 2, seconds=60)
    assert len(openings(world)) == 2 and "opened 1 time before" in openings(world)[-1]
    promote(world, why=WHY)
    assert in_use(world) == "tickets-1"
    assert "already opened 1 time" in world.find_message("tickets-1 is in use for tickets", "On sealed rows")


@pytest.mark.deep
@pytest.mark.parametrize("wrong", [False, True])
def test_the_sealed_rows_decide_whether_a_cheaper_model_is_not_worse(
    make_world: MakeWorld, wrong: bool
) -> None:
    """On the held-out rows it is not worse; on the sealed ones it is `wrong` one time in five."""
    world = make_world(Rules(more=PRICES + MARGIN))
    world.provider.service.answer = knows_examples
    train_beside_examples(world)
    assert "cheaper and not worse" in world.find_message("Result of run 1")
    sealed = sealed_questions(world)

    def answer_some_wrong(model: str, messages: list[dict[str, Any]]) -> str:
        text = str(messages[-1]["content"])
        is_wrong = model.startswith("ft:") and text in sealed and sum(map(ord, text)) % 5 == 0
        return "I can't tell" if is_wrong else knows_examples(model, messages)

    world.provider.service.answer = answer_some_wrong if wrong else knows_examples
    world.click(BEN, promotion_cards.PROMOTE)
    open_sealed(world, 2)
    if wrong:
        assert in_use(world) is None
        world.find_message(
            "the sealed rows were opened",
            "`tickets-1` was not deployed",
            "may be worse by more than the 10 points that are allowed",
        )
    else:
        assert in_use(world) == "tickets-1"
        world.find_message(
            "tickets-1 is in use for tickets", f"on {len(sealed)} rows (m2)", "cheaper and not worse"
        )


@reached_once
def train_beside_examples(world: World) -> None:
    """Sealed rows, a measured prompt with ten examples that is always right, and a tuned model with its result."""
    seed_sealed(world, 300, "70")
    measure(world, f"{BASELINE} candidates=kshot")
    train(world)


@pytest.mark.deep
def test_the_policy_seals_rows_unless_the_form_says_otherwise(make_world: MakeWorld) -> None:
    world = make_world(Rules(more="[policy.promotion]\nsealed_rows = 50\n"))
    assert upload(world, tickets_csv(240), "").accepted
    assert _report(until_checked(world)).n_sealed > 40
    assert upload(world, tickets_csv(240), "0").accepted
    assert _report(until_checked(world)).n_sealed > 40, "sealed rows stay sealed"
    assert upload(world, tickets_csv(240), "no", name="other").accepted
    assert _report(until_checked(world)).n_sealed == 0


@pytest.mark.deep
def test_uploading_again_after_a_refusal_offers_the_same_number_to_seal(world: World) -> None:
    assert upload(world, tickets_csv(240) + ",refund\n", "60").accepted
    assert until_checked(world).state == "refused"
    world.click(DORA, UPLOAD_AGAIN)
    assert world.fill_upload(DORA, {"file": world.put_file("tickets.csv", tickets_csv(240))}).accepted
    assert _report(until_checked(world)).n_sealed > 50


@pytest.mark.deep
def test_a_cleaned_file_keeps_the_sealed_rows_sealed(world: World) -> None:
    rows = tickets_csv(240).splitlines()
    assert upload(world, "\n".join([*rows, rows[5], rows[6]]) + "\n", "50").accepted
    world.tick_until(lambda: world.has_button(findings.CLEAN), "the check")
    sealed = sealed_questions(world)
    world.click(DORA, findings.CLEAN)
    world.tick_until_file("tickets-cleaned.csv")
    cleaned = world.read_file("tickets-cleaned.csv")
    assert sealed and cleaned.splitlines() == rows
    world.upload_and_check(cleaned)
    second = _report(until_checked(world))
    assert _questions(world, second.sealed_sha256) == sealed
    assert not sealed & (_questions(world, second.train_sha256) | _questions(world, second.holdout_sha256))


@pytest.mark.deep
def test_sealed_rows_are_deleted_singly_and_with_their_dataset(world: World) -> None:
    seed_sealed(world)
    sealed = sealed_questions(world)
    deleted = min(sealed)
    rows = tickets_csv(150).splitlines()
    line = next(number for number, row in enumerate(rows, 1) if row.startswith(f'"{deleted}"'))
    rewritten = row_deletion.rewrite_without_rows(world.service.context, "tickets", [line])
    assert isinstance(rewritten, RewrittenDataset) and (rewritten.rows, rewritten.rows_held_out) == (1, 1)
    assert not isinstance(dataset_deletion.commit_rewrite(world.service.context, rewritten, DORA.id), Refusal)
    world.tick_until(lambda: not world.store.deletions.open(), "the row to be gone")
    assert sealed_questions(world) == sealed - {deleted}
    path = world.service.settings.files / f"{report_of(world).sealed_sha256}.jsonl"
    assert path.exists()
    assert "type 50 to 10,000" in str(upload(world, tickets_csv(150), "7").errors)
    world.slack.submit_modal(DORA.id, {})
    world.slack.command(DORA.id, PRIVATE.id, "/finetune delete tickets")
    assert world.slack.submit_modal(DORA.id, {"name": "tickets"}).accepted
    world.tick_until(lambda: not path.exists(), "the files to be gone")


def test_people_are_not_asked_to_label_sealed_rows(world: World) -> None:
    seed_sealed(world)
    world.slack.command(DORA.id, PRIVATE.id, "/finetune label tickets")
    file = world.put_file("same.csv", tickets_csv(150))
    assert world.slack.submit_modal(DORA.id, {"count": "9", "file": file}).accepted
    world.tick_until(lambda: world.store.labellings.under_way("tickets") is None, "the refusal")
    world.send()
    assert "There are no new rows in same.csv" in str(world.slack.ephemerals(DORA.id)[-1].text)
