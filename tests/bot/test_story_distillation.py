"""A model that meets the bar labels rows for training: measured first, its terms accepted, its cost agreed to, each row
paid once, and never tested with."""

from __future__ import annotations

from typing import Any

import pytest

from bot.cards import evaluations
from demo.people import ANA, BEN
from storage.records import Labelling
from tests.bot.props import LABELS, tickets_csv
from tests.bot.test_story_dataset_versions import _report
from tests.bot.test_story_ladder import ACME, CHAT, PRICES, MakeWorld, until, until_asked
from tests.bot.test_story_row_labels import unlabelled_csv
from tests.bot.world import DORA, PRIVATE, Rules, World
from tests.peers.hosted import Fault
from trainers.dataset import read

TERMS = "https://acme.example/terms"
DISTIL = "/finetune distill tickets teacher=acme/acme-small"


def knows(model: str, messages: list[dict[str, Any]]) -> str:
    return next(label for label in LABELS if label in messages[-1]["content"])


@pytest.fixture
def teacher(make_world: MakeWorld) -> World:
    """The company's model was measured, and meets the bar."""
    world = make_world(Rules(more=PRICES, provider_row=f'outputs_terms = "{TERMS}"', provider_is_remote=True))
    world.provider.service.answer = knows
    world.upload_and_check(tickets_csv(90))
    world.type(f"/finetune baseline tickets {ACME} rungs=zero bar=60%")
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    until(world, "done")
    return world


def give_rows(world: World, content: str, *, accepts: bool = True) -> dict[str, str]:
    """Fill in the form; what stands under its fields."""
    world.slack.command(ANA.id, PRIVATE.id, DISTIL)
    answers: dict[str, Any] = {"file": world.put_file("new.csv", content, ANA)}
    if accepts and "Read them before" in world.read_form(ANA):
        answers["terms"] = ["yes"]
    return dict(world.slack.submit_modal(ANA.id, answers).errors)


def until_priced(world: World) -> None:
    world.tick_until(lambda: world.store.measurements.get(2), "its measurement")
    until_asked(world, 2)


def agree(world: World) -> None:
    until_priced(world)
    world.click(ANA, evaluations.MEASURE)


def until_over(world: World) -> Labelling:
    world.tick_until(lambda: world.store.labellings.under_way("tickets") is None, "the end of the labelling")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    return world.store.labellings.on([1])[-1]


def test_its_labels_are_trained_on_and_never_tested_with(teacher: World) -> None:
    first, before = _report(teacher.dataset()), teacher.provider.count(CHAT)
    assert give_rows(teacher, unlabelled_csv(30)) == {}
    agree(teacher)
    until_over(teacher)
    version, after = teacher.dataset(), _report(teacher.dataset())
    assert (version.version, version.origin, version.uploaded_by) == (2, "teacher", ANA.id)
    assert after.holdout_sha256 == first.holdout_sha256 and after.n_train == first.n_train + 30
    assert teacher.provider.count(CHAT) == before + 30
    path = teacher.service.settings.files / f"{after.train_sha256}.jsonl"
    rows = [row for row in read(path, path.name).examples if "New case" in row.prompt[-1].content]
    assert all(row.answer in row.prompt[-1].content for row in rows)
    source = (teacher.service.settings.files / str(version.sha256)).read_text(encoding="utf-8")
    assert source.count('"teacher":"acme/acme-small"') == 30
    teacher.find_message("30 rows labelled by acme/acme-small", "tickets (version 2)")
    assert teacher.store.measurements.get(2).actual_micros > 0


def test_a_model_that_was_not_measured_or_misses_the_bar_labels_nothing(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, provider_row=f'outputs_terms = "{TERMS}"'))
    world.upload_and_check(tickets_csv(90))
    assert "has not been measured" in world.type(DISTIL)
    world.type(f"/finetune baseline tickets {ACME} rungs=zero")
    until_asked(world)
    world.click(ANA, evaluations.MEASURE)
    until(world, "done")
    assert "would teach its mistakes" in world.type(DISTIL)
    assert "Which model" in world.type("/finetune distill tickets")


def test_terms_are_shown_and_accepted_once(teacher: World) -> None:
    teacher.slack.command(ANA.id, PRIVATE.id, DISTIL)
    assert f"<{TERMS}|" in teacher.read_form(ANA)
    teacher.slack.close_modal(ANA.id)
    assert give_rows(teacher, unlabelled_csv(), accepts=False)
    teacher.slack.close_modal(ANA.id)
    assert teacher.store.labellings.under_way("tickets") is None
    assert give_rows(teacher, unlabelled_csv()) == {}
    (entry,) = teacher.store.audit.entries("provider acme")
    assert (entry.who, entry.action, entry.detail) == (ANA.id, "accept terms", TERMS)
    agree(teacher)
    until_over(teacher)
    teacher.slack.command(ANA.id, PRIVATE.id, DISTIL)
    assert f"<{TERMS}|" not in teacher.read_form(ANA)


def test_a_provider_whose_terms_nobody_knows_is_not_asked(teacher: World) -> None:
    teacher.rules.provider = ""
    teacher.restart()
    assert "outputs_terms" in teacher.type(DISTIL)


def test_a_model_that_has_ended_is_refused_with_its_successor(teacher: World) -> None:
    teacher.rules.more = f'{PRICES}ends = 2020-01-01\nsuccessor = "acme-large"\n'
    teacher.restart()
    answer = teacher.type(DISTIL)
    assert "was shut down on 2020-01-01" in answer and "`acme-large` instead" in answer


def test_contradictions_with_people_are_shown_and_people_stay_right(teacher: World) -> None:
    known = tickets_csv(90).splitlines()[1:]
    path = teacher.service.settings.files / f"{_report(teacher.dataset()).train_sha256}.jsonl"
    trained = {row.prompt[-1].content for row in read(path, path.name).examples}
    both = [line.rpartition(",")[0] for line in known if line.rpartition(",")[0].strip('"') in trained][:5]
    teacher.provider.service.answer = lambda model, messages: (
        "refund" if "Order" in messages[-1]["content"] else knows(model, messages)
    )
    assert give_rows(teacher, "\n".join([unlabelled_csv(12).strip(), *both]) + "\n") == {}
    agree(teacher)
    until_over(teacher)
    after = _report(teacher.dataset())
    assert after.diff is not None and (after.diff.added, after.diff.relabelled) == (12, 0)
    wrong = sum(not line.endswith("refund") for line in known if line.rpartition(",")[0] in both)
    assert f"on {5 - wrong} of 5 questions labelled by both" in teacher.find_message(
        "labelled by acme/acme-small"
    )
    teacher.click(DORA, "contradictions")
    assert "People: *billing*; acme/acme-small: *refund*" in teacher.read_form(DORA)


def test_what_it_declines_is_left_out_and_counted(teacher: World) -> None:
    def picky(model: str, messages: list[dict[str, Any]]) -> str:
        return "I cannot help with that." if "0th" in messages[-1]["content"] else knows(model, messages)

    teacher.provider.service.answer = picky
    assert give_rows(teacher, unlabelled_csv(30)) == {}
    agree(teacher)
    labelling = until_over(teacher)
    assert labelling.left_out == 3
    diff = _report(teacher.dataset()).diff
    assert diff is not None and diff.added == 27
    assert "*Left out*\n3 rows" in teacher.find_message("27 rows labelled by")


@pytest.mark.parametrize(
    ("is_error", "parts"),
    [
        (False, ("0 rows labelled by", "*Left out*\n30 rows", "no new version was made")),
        (True, ("Measurement m2 failed", "refused (HTTP 400)")),
    ],
    ids=["by words", "by an error"],
)
def test_a_teacher_that_refuses_everything_makes_no_version(
    teacher: World, is_error: bool, parts: tuple[str, ...]
) -> None:
    teacher.provider.service.answer = lambda model, messages: "I cannot help with that."
    if is_error:
        declines = Fault(commit=False, status=400, code="content_filter")
        teacher.provider.fail(CHAT, declines, times=999)
    assert give_rows(teacher, unlabelled_csv(30)) == {}
    agree(teacher)
    until_over(teacher)
    assert len(teacher.store.datasets.all()) == 1 and teacher.find_message(*parts)


def test_rows_with_personal_data_are_not_sent(teacher: World) -> None:
    content = unlabelled_csv(30).replace("New case 7:", "From ana.quux@example.com:")
    before = teacher.provider.count(CHAT)
    assert give_rows(teacher, content) == {}
    agree(teacher)
    assert until_over(teacher).left_out == 1 and teacher.provider.count(CHAT) == before + 29
    diff = _report(teacher.dataset()).diff
    assert diff is not None and diff.added == 29


@pytest.mark.parametrize(
    "ticks", [pytest.param(1, marks=pytest.mark.slow), 4, pytest.param(8, marks=pytest.mark.slow)]
)
def test_a_kill_pays_nothing_twice(teacher: World, ticks: int) -> None:
    before = teacher.provider.count(CHAT)
    assert give_rows(teacher, unlabelled_csv(30)) == {}
    agree(teacher)
    teacher.tick(ticks)
    teacher.restart()
    until_over(teacher)
    assert teacher.provider.count(CHAT) - before in range(30, 30 + 8), "at most what was under way"
    assert len(teacher.store.datasets.all()) == 2


def test_without_a_yes_nothing_is_asked_and_a_cancel_ends_it(teacher: World) -> None:
    before = teacher.provider.count(CHAT)
    assert give_rows(teacher, unlabelled_csv()) == {}
    until_priced(teacher)
    assert "Label the rows" in teacher.find_message(
        "Let acme/acme-small label 30 rows of tickets for under 1 cent?"
    )
    teacher.type("/finetune cancel m2", user=BEN)
    until(teacher, "cancelled", 2)
    teacher.tick(2)
    assert teacher.store.labellings.under_way("tickets") is None
    assert teacher.provider.count(CHAT) == before and len(teacher.store.datasets.all()) == 1
