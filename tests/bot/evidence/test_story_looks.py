"""Looks at the same held-out rows make later claims harder, and claims that were made stay."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from bot.cards.evidence import wrong_rows
from bot.cards.training.result_details import SHOWN_CHANGES
from bot.services.datasets import datasets
from bot.services.evidence import looks
from bot.services.evidence.measured_candidates import load_measured
from bot.services.evidence.read_rows import find_read_positions
from bot.services.measurement import wrong_rows as wrong_row_services
from bot.services.measurement.wrong_rows import ROWS_AT_ONCE
from bot.values.runs import Refusal
from demo.people import ANA, BEN
from storage.datasets import NewDataset
from storage.records import HumanVerdict
from tests.bot.measurements import BASELINE, HELD, PRICES, comparison_of, measure, until
from tests.bot.runs import ENOUGH_ROWS, seed_runs
from tests.bot.world import DORA, PRIVATE, PUBLIC, MakeWorld, Rules, World
from trainers.dataset import Report
from trainers.evaluation.results import MeasuredCandidate

ZERO = f"{BASELINE} candidates=zero"
HOLDS = 39
"""Held-out rows of ENOUGH_ROWS."""


@pytest.fixture
def tickets(make_world: MakeWorld) -> World:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset(rows=ENOUGH_ROWS)
    return world


def candidates_of(world: World) -> dict[str, MeasuredCandidate]:
    holdout = comparison_of(world).holdout_sha256
    measured = load_measured(world.store, world.service.settings.files, "tickets", holdout)
    assert measured
    return {candidate.kind: candidate for candidate in measured.comparison.candidates}


def test_a_claim_stays_and_the_card_says_what_the_next_one_costs(tickets: World) -> None:
    tickets.type("/finetune baseline tickets candidates=classical")
    until(tickets, "done")
    assert "looked at" not in tickets.find_message("Measurement m1"), "the first look costs nothing extra"
    measure(tickets, ZERO, 2)
    card = tickets.find_message("Measurement m2", "were looked at twice")
    assert "Something new" in card and "sealed rows" in card
    candidates = candidates_of(tickets)
    assert (candidates["classical"].look, candidates["classical"].standing) == (1, "meets")
    assert candidates["zero"].look == 2


def test_a_repeated_measurement_costs_nothing(tickets: World) -> None:
    for number in (1, 2):
        tickets.type("/finetune baseline tickets candidates=classical")
        until(tickets, "done", number)
    assert candidates_of(tickets)["classical"].look == 1
    assert "Held-out rows looked at once" in tickets.type("/finetune datasets")


def test_a_prompt_rewritten_after_its_scores_has_to_show_more(tickets: World) -> None:
    measure(tickets, f"{BASELINE} candidates=zero,kshot")
    measure(tickets, f'{ZERO} prompt="Choose one label."', 2)
    assert (candidates_of(tickets)["zero"].look, candidates_of(tickets)["zero"].choices) == (2, 2)


@pytest.mark.deep
def test_a_prompt_written_after_wrong_rows_were_shown_needs_fresh_rows(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    seed_runs(world)
    assert world.find_message("rows got better")
    world.type(ZERO)
    until(world, "done")
    assert candidates_of(world)["zero"].fresh is None, "nobody wrote this prompt"
    measure(world, f'{ZERO} prompt="Choose one label."', 2)
    assert candidates_of(world)["zero"].fresh == ()


def test_rows_that_people_read_count_as_wrong_for_later_training_rows(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    seed_runs(world)
    _answer_wrongly(world, range(20))
    first = datasets.report_of(world.store.datasets.newest("tickets"))
    world.clock += 60
    later = _relabel_a_training_row(world)
    assert first and first.holdout_sha256 == later.holdout_sha256
    before, after = (
        find_read_positions(
            world.store,
            world.service.settings.files,
            "tickets",
            str(report.holdout_sha256),
            str(report.train_sha256),
        )
        for report in (first, later)
    )
    assert before == (), "these training rows were there before anybody read a row"
    assert after == tuple(range(SHOWN_CHANGES)), "as many as the thread showed"


@pytest.mark.deep
def test_wrong_rows_are_worn_by_reading_them_and_training_rows_are_not(tickets: World) -> None:
    tickets.provider.service.answer = lambda model, messages: "no idea"
    measure(tickets, f"{BASELINE} candidates=classical,zero")
    offered = tickets.type("/finetune wrong m1")
    assert offered.index("*Training rows*") < offered.index("*Held-out rows*"), "the free way first"
    assert f"{HOLDS} of {HOLDS} wrong" in offered and "a question about" not in offered
    _press(tickets, wrong_rows.SHOW_TRAINING)
    training = tickets.tick_until(lambda: _read(tickets, "Wrong training rows of m1"), "training rows")
    assert "had not learnt from it" in training
    tickets.type("/finetune wrong m1")
    measure(tickets, f'{ZERO} prompt="Choose one label."', 2)
    assert candidates_of(tickets)["zero"].fresh is None, "nobody has read rows"

    tickets.type("/finetune wrong m1")
    _press(tickets, wrong_rows.SHOW_HELD_OUT)
    tickets.send()
    page = _read(tickets, "Wrong held-out rows of m1", f"1 to {ROWS_AT_ONCE} of {HOLDS} wrong")
    assert (
        page.count("answered `no idea`") == ROWS_AT_ONCE and "From now on these rows count as wrong" in page
    )
    tickets.click(ANA, wrong_rows.SHOW_HELD_OUT)
    tickets.send()
    assert _read(tickets, f"{ROWS_AT_ONCE + 1} to {2 * ROWS_AT_ONCE} of {HOLDS} wrong")
    assert [entry.who for entry in tickets.store.audit.entries("measurement 1")].count(ANA.id) == 4
    assert len(tickets.store.shown_rows.on([1])) == 2

    compared = tickets.type("/finetune compare m1 m2")
    assert "m1 is better than m2" in compared and "a question about" not in compared
    _press(tickets, wrong_rows.SHOW_DIFFERENT)
    tickets.send()
    page = _read(tickets, "Rows that m1 and m2 answer differently", f"1 to {ROWS_AT_ONCE} of {HOLDS}")
    assert page.count("m2 `no idea`") == ROWS_AT_ONCE and "From now on these rows count as wrong" in page

    tickets.clock += 60
    measure(tickets, f'{ZERO} prompt="Choose a label."', 3)
    assert candidates_of(tickets)["zero"].fresh == (), "it was written after rows were shown"
    tickets.clock += 60
    later = _relabel_a_training_row(tickets)
    read = find_read_positions(
        tickets.store,
        tickets.service.settings.files,
        "tickets",
        str(later.holdout_sha256),
        str(later.train_sha256),
    )
    assert len(read) == 2 * ROWS_AT_ONCE


def test_wrong_rows_of_a_public_dataset_come_to_its_uploader_alone(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset(channel=PUBLIC)
    world.provider.service.answer = lambda model, messages: "no idea"
    world.type(f"{ZERO}", channel=PUBLIC)
    world.tick_until(lambda: world.store.measurements.get(1).reserved_micros, "its price", seconds=30)
    world.send()
    world.click(BEN, "measure", channel=PUBLIC)
    until(world, "done")
    refused = world.type("/finetune wrong m1", channel=PUBLIC)
    assert f"{HELD} of {HELD} wrong" in refused and "stay hidden" in refused
    assert "Show" in world.type("/finetune wrong m1", user=DORA, channel=PUBLIC)
    card = world.slack.ephemerals(DORA.id)[-1]
    world.slack.click(DORA.id, PUBLIC.id, card.ts, wrong_rows.SHOW_HELD_OUT)
    elsewhere = wrong_row_services.show_held_out(world.service.context, "m1 0 0", ANA.id)
    assert isinstance(elsewhere, Refusal), "a button may be pressed elsewhere"
    world.send()
    assert any("Wrong held-out rows of m1" in text for text in world.dms(DORA))
    assert not any("Wrong held-out rows" in text for text in (*world.texts(PUBLIC), *world.dms(ANA)))
    assert [shown.person for shown in world.store.shown_rows.on([1])] == [DORA.id]


def test_rows_of_two_datasets_are_never_shown_beside_each_other(tickets: World) -> None:
    """The second may belong to a channel of its own, and its rows would not be recorded as read."""
    tickets.seed_dataset(called="others", rows=ENOUGH_ROWS)
    for number, dataset in ((1, "tickets"), (2, "others")):
        tickets.type(f"/finetune baseline {dataset} candidates=classical")
        until(tickets, "done", number)
    refusal = wrong_row_services.show_different(tickets.service.context, "m1 0 m2 0 0", ANA.id)
    assert isinstance(refusal, Refusal) and "m1 and m2 are results of two datasets" in refusal.text


def _press(world: World, action: str) -> None:
    """Presses a button of the newest card that only Ana sees."""
    card = world.slack.ephemerals(ANA.id)[-1]
    world.slack.click(ANA.id, PRIVATE.id, card.ts, action)


def _read(world: World, *words: str) -> str:
    """The newest message in the channel with these words, '' if there is none."""
    texts = [text for text in world.texts() if all(word in text for word in words)]
    return next(reversed(texts), "")


def _answer_wrongly(world: World, rows: range) -> None:
    """Lets the tuned model of run 1 have answered these rows wrongly, and the base rightly."""
    wrong = "UPDATE answers SET correct = (arm = 'base') WHERE run_id = 1 AND row = ?"
    for row in rows:
        world.store.database.change(wrong, (row,))


def _relabel_a_training_row(world: World) -> Report:
    """Adds a version with another label in the training rows; what is held out stays."""
    before = world.store.datasets.newest("tickets")
    report = datasets.report_of(before)
    assert report
    files = world.service.settings.files
    lines = (files / f"{report.train_sha256}.jsonl").read_text(encoding="utf-8").splitlines()
    changed = "\n".join([*lines[1:], lines[1]]).encode() + b"\n"
    sha256 = hashlib.sha256(changed).hexdigest()
    (files / f"{sha256}.jsonl").write_bytes(changed)
    new = NewDataset("tickets", before.channel, before.uploaded_by, "tickets.csv", "F0AGAIN")
    received = world.store.datasets.receive(new, now=world.clock)
    relabelled = replace(report, train_sha256=sha256)
    changes = {"sha256": sha256, "report": relabelled.to_json()}
    assert world.store.datasets.move(received, "ready", now=world.clock, **changes)
    return relabelled


def test_rows_of_a_later_version_are_fresh(tickets: World) -> None:
    files = tickets.service.settings.files
    tickets.seed_dataset(called="other", rows=60)
    first, second = (
        str(datasets.report_of(version).holdout_sha256)
        for version in map(tickets.store.datasets.newest, ("tickets", "other"))
    )
    fresh = looks.find_fresh_positions(files, first, [second])
    assert 0 < len(fresh) < 2 * HELD
    assert looks.find_fresh_positions(files, first, [first]) == ()
    assert looks.find_fresh_positions(files, first, ["0" * 64]) == (), "nothing is fresh if the file is gone"


def test_a_prompt_written_after_people_judged_answers_needs_fresh_rows(tickets: World) -> None:
    measure(tickets, ZERO)
    verdict = HumanVerdict("tickets", "acme/judge", 1, "0" * 64, "yes", BEN.id, "no", tickets.clock)
    assert tickets.store.human_verdicts.add(verdict)
    measure(tickets, f'{ZERO} prompt="Choose one label."', 2)
    assert candidates_of(tickets)["zero"].fresh == ()
