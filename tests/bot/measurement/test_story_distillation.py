"""A measured model labels rows for training: terms are accepted, costs agreed to, and each row is paid once."""

from __future__ import annotations

from typing import Any

import pytest

from bot.cards.evidence import evaluations
from bot.services.measurement import distillations
from bot.services.measurement.distillations import RowsToTeach
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from storage.records import Labelling
from tests.bot.datasets.test_story_dataset_versions import _report
from tests.bot.datasets.test_story_row_labels import unlabelled_csv
from tests.bot.measurements import BASELINE, CHAT, PRICES, measure, until, until_asked
from tests.bot.props import LABELS, tickets_csv
from tests.bot.saved_worlds import reached_once
from tests.bot.world import DORA, PRIVATE, START, MakeWorld, Rules, World
from tests.peers.hosted import Fault
from trainers.dataset import read

TERMS = "https://acme.example/terms"
ACME_SMALL = "acme/acme-small"
DISTIL = f"/finetune distill tickets teacher={ACME_SMALL}"


def answer_all(model: str, messages: list[dict[str, Any]]) -> str:
    return next(label for label in LABELS if label in messages[-1]["content"])


@reached_once
def measure_teacher(world: World) -> None:
    world.upload_and_check(tickets_csv(90))
    measure(world, f"{BASELINE} candidates=zero bar=60%")


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """The company's model was measured, and meets the bar."""
    world = make_world(Rules(more=PRICES, provider_row=f'outputs_terms = "{TERMS}"', provider_is_remote=True))
    world.provider.service.answer = answer_all
    measure_teacher(world)
    return world


def submit_rows(world: World, content: str, *, accepts: bool = True) -> dict[str, str]:
    """Fill in the form; the errors under its fields."""
    world.slack.command(ANA.id, PRIVATE.id, DISTIL)
    answers: dict[str, Any] = {"file": world.put_file("new.csv", content, ANA)}
    if accepts and "Read them before" in world.read_form(ANA):
        answers["terms"] = ["yes"]
    return dict(world.slack.submit_modal(ANA.id, answers).errors)


def until_priced(world: World) -> None:
    world.tick_until(lambda: world.store.measurements.get(2), "its measurement")
    until_asked(world, 2)


def agree_to_cost(world: World) -> None:
    until_priced(world)
    world.click(ANA, evaluations.MEASURE)


def until_over(world: World) -> Labelling:
    world.tick_until(lambda: world.store.labellings.under_way("tickets") is None, "the end of the labelling")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    return world.store.labellings.on([1])[-1]


@pytest.mark.deep
def test_a_models_labels_are_trained_on_and_never_held_out(world: World) -> None:
    first, before = _report(world.dataset()), world.provider.count(CHAT)
    assert submit_rows(world, unlabelled_csv(30)) == {}
    agree_to_cost(world)
    until_over(world)
    version, after = world.dataset(), _report(world.dataset())
    assert (version.version, version.origin, version.uploaded_by) == (2, "teacher", ANA.id)
    assert after.holdout_sha256 == first.holdout_sha256 and after.n_train == first.n_train + 30
    assert world.provider.count(CHAT) == before + 30
    path = world.service.settings.files / f"{after.train_sha256}.jsonl"
    rows = [row for row in read(path, path.name).examples if "New case" in row.prompt[-1].content]
    assert all(row.answer in row.prompt[-1].content for row in rows)
    source = (world.service.settings.files / str(version.sha256)).read_text(encoding="utf-8")
    assert source.count('"teacher":"acme/acme-small"') == 30
    world.find_message("30 rows labelled by acme/acme-small", "tickets (version 2)")
    outside = world.cards()
    assert not any("30 rows labelled by" in text for text in outside), "it is below its measurement's card"
    world.find_message(
        "*Labelled by models*", f"30 by acme/acme-small ({after.n_train} training rows in all)"
    )
    assert world.store.measurements.get(2).actual_micros > 0


@pytest.mark.deep
def test_the_plan_says_how_many_rows_a_model_labelled_and_how_well(world: World) -> None:
    submit_rows(world, unlabelled_csv(30))
    agree_to_cost(world)
    until_over(world)
    assert world.type(START) == ""
    world.send()
    trained = _report(world.dataset()).n_train
    says = f"{trained}, 30 of them labelled by acme/acme-small (100.0% right, "
    card = world.find_message("Run 1: train", says)
    assert "so hardly any is wrong" in card
    assert says in world.plan_details()
    world.click(BEN, "approve_plan")
    assert says in world.read_form(BEN)


@pytest.mark.deep
def test_only_a_measured_model_that_meets_the_bar_may_label(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, provider_row=f'outputs_terms = "{TERMS}"'))
    world.upload_and_check(tickets_csv(90))
    assert "has not been measured" in world.type(DISTIL)
    measure(world, f"{BASELINE} candidates=zero")
    assert "would teach its mistakes" in world.type(DISTIL)
    assert "Which model" in world.type("/finetune distill tickets")
    world.upload_and_check(tickets_csv(150))
    assert "has not been measured" in world.type(DISTIL), "on the held-out rows of this version"


@pytest.mark.deep
def test_terms_are_shown_and_accepted_once(world: World) -> None:
    world.slack.command(ANA.id, PRIVATE.id, DISTIL)
    assert f"<{TERMS}|" in world.read_form(ANA)
    world.slack.close_modal(ANA.id)
    assert submit_rows(world, unlabelled_csv(), accepts=False)
    world.slack.close_modal(ANA.id)
    unaccepted = RowsToTeach("tickets", ACME_SMALL, PRIVATE.id, ANA.id, "F0NEW", "new.csv", accepts=False)
    assert isinstance(distillations.receive(world.service.context, unaccepted), Refusal)
    assert world.store.labellings.under_way("tickets") is None
    assert submit_rows(world, unlabelled_csv()) == {}
    (entry,) = world.store.audit.entries("provider acme")
    assert (entry.who, entry.action, entry.detail) == (ANA.id, "accept terms", TERMS)
    agree_to_cost(world)
    until_over(world)
    world.slack.command(ANA.id, PRIVATE.id, DISTIL)
    assert f"<{TERMS}|" not in world.read_form(ANA)


def test_a_provider_with_unknown_terms_may_not_label(world: World) -> None:
    world.rules.provider_row = ""
    world.restart()
    assert "outputs_terms" in world.type(DISTIL)


def test_a_retired_model_is_refused_and_its_successor_named(world: World) -> None:
    world.rules.more = f'{PRICES}ends = 2020-01-01\nsuccessor = "acme-large"\n'
    world.restart()
    answer = world.type(DISTIL)
    assert "was shut down on 2020-01-01" in answer and "`acme-large` instead" in answer


def test_contradictions_are_shown_and_peoples_labels_stay(world: World) -> None:
    labelled = tickets_csv(90).splitlines()[1:]
    path = world.service.settings.files / f"{_report(world.dataset()).train_sha256}.jsonl"
    trained = {row.prompt[-1].content for row in read(path, path.name).examples}
    both = [line.rpartition(",")[0] for line in labelled if line.rpartition(",")[0].strip('"') in trained][:5]
    world.provider.service.answer = lambda model, messages: (
        "refund" if "Order" in messages[-1]["content"] else answer_all(model, messages)
    )
    assert submit_rows(world, "\n".join([unlabelled_csv(12).strip(), *both]) + "\n") == {}
    agree_to_cost(world)
    until_over(world)
    after = _report(world.dataset())
    assert after.diff is not None and (after.diff.added, after.diff.relabelled) == (12, 0)
    wrong = sum(not line.endswith("refund") for line in labelled if line.rpartition(",")[0] in both)
    assert f"on {5 - wrong} of 5 questions labelled by both" in world.find_message(
        "labelled by acme/acme-small"
    )
    world.click(DORA, "contradictions")
    assert "People: *billing*; acme/acme-small: *refund*" in world.read_form(DORA)


def test_declined_rows_are_left_out_and_counted(world: World) -> None:
    def picky(model: str, messages: list[dict[str, Any]]) -> str:
        return "I cannot help with that." if "0th" in messages[-1]["content"] else answer_all(model, messages)

    world.provider.service.answer = picky
    assert submit_rows(world, unlabelled_csv(30)) == {}
    agree_to_cost(world)
    labelling = until_over(world)
    assert labelling.left_out == 3
    diff = _report(world.dataset()).diff
    assert diff is not None and diff.added == 27
    assert "*Left out*\n3 rows" in world.find_message("27 rows labelled by")


@pytest.mark.deep
@pytest.mark.parametrize(
    ("is_error", "parts"),
    [
        (False, ("0 rows labelled by", "*Left out*\n30 rows", "no new version was made")),
        (True, ("Measurement m2 failed", "refused (HTTP 400)")),
    ],
    ids=["by words", "by an error"],
)
def test_a_teacher_that_refuses_everything_makes_no_version(
    world: World, is_error: bool, parts: tuple[str, ...]
) -> None:
    world.provider.service.answer = lambda model, messages: "I cannot help with that."
    if is_error:
        declines = Fault(commit=False, status=400, code="content_filter")
        world.provider.fail(CHAT, declines, times=999)
    assert submit_rows(world, unlabelled_csv(30)) == {}
    agree_to_cost(world)
    until_over(world)
    assert len(world.store.datasets.all()) == 1 and world.find_message(*parts)


def test_rows_with_personal_data_or_a_secret_are_not_sent(world: World) -> None:
    planted = {
        "New case 7:": "From ana.quux@example.com:",
        "New case 8:": "Call +49 171 2345678 back:",
        "New case 9:": "With the key AKIAQUUXNIGHTJARABCD:",
    }
    content = unlabelled_csv(30)
    for before, after in planted.items():
        assert before in content
        content = content.replace(before, after)
    before_asking = world.provider.count(CHAT)
    assert submit_rows(world, content) == {}
    agree_to_cost(world)
    assert until_over(world).left_out == 3 and world.provider.count(CHAT) == before_asking + 27
    diff = _report(world.dataset()).diff
    assert diff is not None and diff.added == 27
    sent = str([request.body for request in world.provider.requests])
    assert not [word for word in ("ana.quux", "2345678", "AKIAQUUX") if word in sent]


@pytest.mark.parametrize(
    "ticks", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_restart_pays_no_row_twice(world: World, ticks: int) -> None:
    before = world.provider.count(CHAT)
    assert submit_rows(world, unlabelled_csv(30)) == {}
    agree_to_cost(world)
    world.tick(ticks)
    world.restart()
    until_over(world)
    assert world.provider.count(CHAT) - before in range(30, 30 + 8), "at most what was under way"
    assert len(world.store.datasets.all()) == 2


def test_nothing_is_asked_before_the_approval_and_cancelling_ends_it(world: World) -> None:
    before = world.provider.count(CHAT)
    world.rules.more = PRICES.replace('"0.80"', '"80"')  # a hundred times what it was when it was measured
    world.restart()
    assert submit_rows(world, unlabelled_csv()) == {}
    until_priced(world)
    card = world.find_message("Let acme/acme-small label 30 rows of tickets for up to $0.")
    assert "Label the rows" in card
    world.type("/finetune cancel m2", user=BEN)
    until(world, "cancelled", 2)
    world.tick(2)
    assert world.store.labellings.under_way("tickets") is None
    assert world.provider.count(CHAT) == before and len(world.store.datasets.all()) == 1
