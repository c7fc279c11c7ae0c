"""Alternatives to fine-tuning, measured on the frozen holdout: asked in Slack, climbed by the ticks, told in
Slack."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bot.cards import evaluation_results, evaluations
from bot.cards.words import charge
from bot.rules import units
from bot.services import datasets, evaluation_worker, measurements
from bot.services.data_policy import Forbidden
from bot.services.datasets import CheckedDataset
from bot.services.evidence import load_evidence
from bot.values.evaluations import LadderProgress
from demo.people import ANA, BEN
from demo.workspace import wait_until
from storage.records import Measurement, MeasurementState
from tests.bot.world import GUS, PRIVATE, TARGET, Rules, World
from tests.peers.hosted import HANG, Fault
from trainers.dataset import Report
from trainers.evaluation.results import Ladder

CHAT = "POST /chat/completions"
ACME = "models=acme/acme-small"
PRICES = '[prices."acme/acme-small"]\ninput = "0.80"\noutput = "3.20"\n'
HELD = 18
NOVEMBER_30 = 1_796_040_000.0  # noon in 2026: a busy machine takes many ticks, of three seconds each
MakeWorld = Callable[[Rules], World]


@pytest.fixture
def priced(make_world: MakeWorld) -> World:
    """The company's model has a price, so it may be asked."""
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    return world


def measurement(world: World, number: int = 1) -> Measurement:
    found: Measurement | None = world.store.measurements.get(number)
    assert found is not None
    return found


def until(world: World, state: MeasurementState, number: int = 1, *, seconds: float = 30) -> Measurement:
    world.tick_until(
        lambda: measurement(world, number).state == state, f"m{number} to be {state}", seconds=seconds
    )
    world.send()
    return measurement(world, number)


def until_asked(world: World, number: int = 1) -> Measurement:
    world.tick_until(lambda: measurement(world, number).reserved_micros, "its price", seconds=30)
    world.send()
    return measurement(world, number)


def details(world: World) -> str:
    """What the button *Details* of the result opens."""
    world.click(ANA, evaluation_results.DETAILS)
    said = world.read_form(ANA)
    assert said.startswith("Measurement m1\n") and "How this was measured" in said
    return said


def ladder_of(world: World, number: int = 1) -> Ladder:
    result = measurement(world, number).result
    assert result is not None
    return Ladder.from_json(result)


def test_the_classical_rung_alone_is_free_and_starts_at_once(world: World) -> None:
    world.seed_dataset()
    assert world.type("/finetune baseline tickets rungs=classical") == ""
    until(world, "done")
    ladder = ladder_of(world)
    assert [rung.arm.key for rung in ladder.rungs] == ["classical"]
    assert ladder.n == HELD and ladder.rungs[0].score == 1.0
    assert measurement(world).actual_micros == 0 and world.provider.count(CHAT) == 0
    card = world.find_message("Measurement m1", "classical", "100.0%")
    assert "held-out rows" in card
    world.tick_until_file("report-m1.html")
    assert len(world.cards()) == 1, "the result takes the place of the card"
    assert f"<@{ANA.id}> m1 is done" in world.find_message("ladder.png", "report-m1.html")
    actions = [entry.action for entry in world.store.audit.entries("measurement 1")]
    assert actions == ["measure", "measured"]


def test_the_encoder_alone_is_free_and_is_not_computed_twice(world: World) -> None:
    world.seed_dataset()
    world.type("/finetune baseline tickets rungs=encoder")
    until(world, "done")
    (rung,) = ladder_of(world).rungs
    assert (rung.arm.key, rung.n, rung.score, rung.usd_per_1000) == ("encoder", HELD, 1.0, 0)
    assert 0 < rung.p50_s <= rung.p95_s and world.provider.count(CHAT) == 0
    assert "Licences of the weights: all-minilm-l6-v2: apache-2.0" in details(world)
    world.type("/finetune baseline tickets rungs=encoder,classical")
    until(world, "done", 2)
    _, again = ladder_of(world, 2).rungs
    assert (again.p50_s, again.p95_s) == (rung.p50_s, rung.p95_s), "the times are those of the first"


def test_an_encoder_that_is_not_there_is_left_out_and_the_others_go_on(make_world: MakeWorld) -> None:
    world = make_world(Rules(more='[encoder]\nmodel = "/nowhere/encoder"\n'))
    world.seed_dataset()
    world.type("/finetune baseline tickets rungs=classical,encoder")
    until(world, "done")
    assert [rung.arm.key for rung in ladder_of(world).rungs] == ["classical"]
    card = world.find_message("Left out: encoder", "/nowhere/encoder", "under [encoder] in finetune.toml")
    assert "Classical" in card or "classical" in card
    world.type("/finetune baseline tickets rungs=encoder")
    until(world, "failed", 2)
    assert "There is no encoder /nowhere/encoder" in world.find_message("There is no encoder")


def test_a_free_rung_that_is_measured_later_joins_the_paid_ones(priced: World) -> None:
    world = priced
    _climbed(world, f"/finetune baseline tickets {ACME} rungs=zero")
    world.type("/finetune baseline tickets rungs=classical,encoder")
    until(world, "done", 2)
    dataset = world.store.datasets.get(1)
    report = datasets.report_of(dataset)
    assert report is not None
    ladder = load_evidence(world.service.context, dataset, report, None).ladder
    assert ladder is not None and [rung.score for rung in ladder.rungs[:2]] == [1.0, 1.0]
    assert [rung.arm.rung for rung in ladder.rungs] == ["classical", "encoder", "zero"]


def test_a_paid_ladder_asks_first_and_is_climbed_after_a_yes(priced: World) -> None:
    world = priced
    assert world.type(f"/finetune baseline tickets {ACME}") == ""
    asked = until_asked(world)
    assert asked.state == "asked" and world.provider.count(CHAT) == 0
    assert world.store.committed(asked.month) == asked.reserved_micros > 0
    assert "Measure 5 alternatives on tickets for" in world.find_message("Measure 5 alternatives")
    world.click(BEN, evaluations.MEASURE)
    done = until(world, "done")
    assert 0 < (done.actual_micros or 0) <= done.reserved_micros
    assert world.store.committed(done.month) == done.actual_micros
    ladder = ladder_of(world)
    assert [rung.arm.rung for rung in ladder.rungs] == ["classical", "encoder", "zero", "kshot", "retrieval"]
    assert ladder.rungs[2].score == pytest.approx(1 / 3)  # the base model says 'billing' to everything
    assert world.provider.count(CHAT) == 3 * HELD
    assert all(rung.usd_per_1000 for rung in ladder.rungs[2:]) and ladder.rungs[0].usd_per_1000 == 0
    assert world.find_message("prompt alone", "ten examples", "retrieval")
    assert not list(world.folder.rglob("vectors.npz")), "retrieval's vectors served the encoder, and are gone"


def test_a_repeat_asks_nobody_and_costs_nothing(priced: World) -> None:
    world = priced
    _climbed(world)
    paid, before = measurement(world).actual_micros, world.provider.count(CHAT)
    world.type(f"/finetune baseline tickets {ACME}")
    again = until(world, "done", 2)
    assert world.provider.count(CHAT) == before
    assert again.actual_micros == again.reserved_micros == 0 and paid
    assert ladder_of(world, 2).rungs == ladder_of(world, 1).rungs


def test_while_answers_come_a_tick_reads_neither_keys_nor_answers(
    priced: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered() -> int:
        return LadderProgress.from_json(measurement(world).progress).answered

    world, files, statements = priced, list[str](), list[str]()
    world.provider.slow_s = 0.3  # the questions go out in waves
    world.type(f"/finetune baseline tickets {ACME} rungs=zero,kshot,retrieval")
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(answered, "the first answers")
    read_text, connection = Path.read_text, world.store.database.utils.conn
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *rest, **more: files.append(path.name) or read_text(path, *rest, **more),
    )
    connection.set_trace_callback(statements.append)
    world.tick(3)
    connection.set_trace_callback(None)
    assert answered() < 3 * HELD and evaluation_worker.KEYS not in files
    looks = [one for one in statements if "FROM replies" in one]
    assert looks and not [one for one in looks if "text" in one]
    world.provider.slow_s = 0.0
    until(world, "done")


def test_another_prompt_is_another_question(priced: World) -> None:
    world = priced
    line = f"/finetune baseline tickets {ACME} rungs=zero"
    _climbed(world, line)
    assert world.provider.count(CHAT) == HELD
    _climbed(world, f"{line} prompt=Sort: what is = meant?", 2)
    assert world.provider.count(CHAT) == 2 * HELD
    asked = world.provider.requests[-1].body["messages"]
    assert asked[0]["role"] == "system" and asked[0]["content"].startswith("Sort: what is = meant?")
    assert "refund" in asked[0]["content"], "the labels are listed"


def test_a_prompt_typed_in_a_command_is_the_same_question_as_from_the_form(priced: World) -> None:
    """Slack escapes a command's text (AT&amp;T) and leaves a form's as it was typed."""
    world, prompt = priced, "Answer as <label> for AT&T, 3 < 4: see acme.com or ask @ben in #general"
    _climbed(world, f"/finetune baseline tickets {ACME} rungs=zero prompt={prompt}")
    assert world.provider.requests[-1].body["messages"][0]["content"].startswith(prompt)
    world.type("/finetune baseline")
    answers = {"dataset": "tickets", "rungs": "zero", "models": "acme/acme-small", "prompt": prompt}
    assert world.slack.submit_modal(ANA.id, answers).accepted
    until(world, "done", 2)
    assert world.provider.count(CHAT) == HELD, "nothing was left to ask"


def test_what_was_said_once_stays_with_the_dataset(priced: World) -> None:
    world = priced
    world.type("/finetune baseline tickets rungs=classical bar=99% task=classification")
    until(world, "done")
    kept = world.store.dataset_settings.get("tickets")
    assert (kept.bar, kept.task_kind, kept.prompt, kept.updated_by) == (0.99, "classification", None, ANA.id)
    world.type("/finetune baseline tickets rungs=classical")
    until(world, "done", 2)
    assert ladder_of(world, 2).bar == 0.99


def test_examples_and_neighbours_come_from_the_training_rows_only(priced: World) -> None:
    world = priced
    _climbed(world)
    report = Report.from_json(str(world.dataset().report))
    files = world.service.settings.files
    held = {row.prompt[-1].content for row in evaluation_worker.examples(files, str(report.holdout_sha256))}
    trained = {row.prompt[-1].content for row in evaluation_worker.examples(files, str(report.train_sha256))}
    shown = [
        message["content"]
        for seen in world.provider.requests
        if seen.route == CHAT
        for message in seen.body["messages"][:-1]
        if message["role"] == "user"
    ]
    assert len(shown) == (10 + 5) * HELD  # ten examples a question, and the five nearest rows
    assert set(shown) <= trained and not set(shown) & held
    asked = {seen.body["messages"][-1]["content"] for seen in world.provider.requests if seen.route == CHAT}
    assert asked == held


def test_what_is_too_dear_is_refused_with_the_cure(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, measurement="0.001"))
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME}")
    failed = until(world, "failed")
    assert failed.actual_micros == 0 and world.provider.count(CHAT) == 0
    assert "measurement_usd" in world.find_message("the limit for one measurement is")
    assert world.store.committed(measurement_month(world)) == 0


def test_the_month_s_budget_holds_for_measurements_too(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, budget="0.001"))
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME}")
    until(world, "failed")
    assert "monthly_usd" in world.find_message("This measurement may cost up to")


def test_money_that_a_measurement_holds_is_not_there_for_a_run(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, budget="0.065"))
    world.start()
    world.type(f"/finetune baseline tickets {ACME}")
    reserved = until_asked(world).reserved_micros
    assert reserved > 10_000
    assert "monthly_usd" in world.click_and_read(BEN, "approve_plan")
    world.click_and_read(ANA, evaluations.CANCEL)
    until(world, "cancelled")
    world.approve()
    assert world.ledger()["reserve"] > 0


def test_a_cost_that_nobody_agrees_to_is_let_go_after_a_day(priced: World) -> None:
    world = priced
    world.type(f"/finetune baseline tickets {ACME}")
    month = until_asked(world).month
    world.pass_time(24 * 3600 + 60)
    until(world, "cancelled")
    assert "Nobody agreed" in world.find_message("Nobody agreed")
    assert world.store.committed(month) == 0 and not world.has_button(evaluations.MEASURE)


def test_money_of_a_month_that_is_over_is_asked_for_again(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, budget="0.05"))
    world.clock = NOVEMBER_30
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME}")
    assert until_asked(world).month == "2026-11"
    world.pass_time(13 * 3600)
    world.click(BEN, evaluations.MEASURE)
    assert measurement(world).month == "2026-12"
    assert world.store.committed("2026-11") == 0 < world.store.committed("2026-12")


def test_a_late_yes_is_refused_where_the_new_month_has_no_money_left(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, budget="0.02"))
    world.clock = NOVEMBER_30
    world.seed_dataset()
    world.type(f"/finetune baseline tickets {ACME}")
    assert until_asked(world).month == "2026-11"
    card = world.find_button(evaluations.MEASURE)
    world.pass_time(13 * 3600)
    world.type(f"/finetune baseline tickets {ACME} prompt=Answer with the label alone")
    assert until_asked(world, 2).month == "2026-12"
    world.slack.click(BEN.id, PRIVATE.id, card.ts, evaluations.MEASURE)
    world.tick(3)
    assert measurement(world).state == "asked" and world.provider.count(CHAT) == 0
    assert world.store.committed("2026-12") == measurement(world, 2).reserved_micros


def test_strangers_may_neither_ask_nor_agree(priced: World) -> None:
    world = priced
    assert "Only full members" in world.type("/finetune baseline tickets rungs=classical", user=GUS)
    world.type(f"/finetune baseline tickets {ACME}")
    until_asked(world)
    assert "Only full members" in world.click_and_read(GUS, evaluations.MEASURE)
    assert measurement(world).state == "asked" and world.provider.count(CHAT) == 0


def test_a_second_yes_and_a_late_one_change_nothing(priced: World) -> None:
    world = priced
    world.type(f"/finetune baseline tickets {ACME} rungs=zero")
    until_asked(world)
    card = world.find_button(evaluations.MEASURE)
    world.slack.click(BEN.id, PRIVATE.id, card.ts, evaluations.MEASURE)
    said = world.slack.ephemerals(ANA.id)
    world.slack.click(ANA.id, PRIVATE.id, card.ts, evaluations.MEASURE)
    wait_until(lambda: world.slack.ephemerals(ANA.id)[len(said) :], "the answer to the second click")
    until(world, "done")
    assert world.provider.count(CHAT) == HELD


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nothing", "There is no dataset `nothing`"),
        ("tickets models=acme/acme-small", "put its price into finetune.toml"),
        ("tickets models=acne/acme-small", "Did you mean `acme/acme-small`?"),
        ("tickets models=local/smollm", "Did you mean `local/smollm2-135m`?"),
        ("tickets models=openai/gpt-4o-mini", "OPENAI_API_KEY"),
        ("tickets rungs=clasical", "Did you mean `classical`?"),
        ("tickets bar=great", "should be the share of right answers"),
        ("tickets model=x", "Did you mean `models`?"),
    ],
)
def test_misuse_is_answered_with_what_would_work(world: World, line: str, said: str) -> None:
    world.seed_dataset()
    answer = world.type(f"/finetune baseline {line}")
    assert said in answer
    assert world.store.measurements.newest() == []


def test_the_same_while_it_is_under_way_is_not_measured_twice(priced: World) -> None:
    world = priced
    world.type(f"/finetune baseline tickets {ACME}")
    assert "under way already: m1" in world.type(f"/finetune baseline tickets {ACME}")


def test_cancelled_midway_the_answers_so_far_are_paid_and_kept(priced: World) -> None:
    world = priced
    world.provider.slow_s = 0.2
    _agreed(world)
    world.tick_until(lambda: world.provider.count(CHAT) >= 8, "some questions")
    assert "Cancelling m1" in world.type("/finetune cancel m1")
    cancelled = until(world, "cancelled")
    assert 0 < (cancelled.actual_micros or 0) < cancelled.reserved_micros
    world.provider.slow_s = 0.0
    world.tick(2)
    asked = world.provider.count(CHAT)
    assert asked < 3 * HELD, "what waited was forgotten"
    card = world.find_message("was cancelled")
    assert f"Cancelled by <@{ANA.id}>" in card and "waiting" not in card
    assert f"*Cost*\n{charge(cancelled.actual_micros or 0)}" in card and "Cost so far" not in card
    assert "was cancelled" in world.type("/finetune cancel m1")
    _climbed(world, number=2)
    assert world.provider.count(CHAT) == 3 * HELD, "Measuring again asks only the remaining questions"


def test_cancelled_without_its_folder_the_answers_so_far_are_paid(priced: World) -> None:
    world = priced
    world.provider.slow_s = 0.2
    _agreed(world)
    world.tick_until(
        lambda: LadderProgress.from_json(measurement(world).progress).spent_micros > 0, "some answers"
    )
    shutil.rmtree(world.service.settings.data / "measurements" / "m1")
    spent = LadderProgress.from_json(measurement(world).progress).spent_micros
    world.type("/finetune cancel m1")
    assert (until(world, "cancelled").actual_micros or 0) >= spent


def test_stopped_for_its_cost_questions_under_way_count_with_the_most_that_they_can_cost(
    priced: World,
) -> None:
    world = priced
    world.provider.fail(CHAT, HANG, times=1)
    _agreed(world)
    world.tick_until(lambda: world.provider.count(CHAT) >= 8, "some questions, one of which hangs")
    running = measurement(world)
    known = LadderProgress.from_json(running.progress)
    agreed = replace(known, most_micros=1).to_json()
    world.store.measurements.move(running, "running", now=world.clock, progress=agreed)
    failed = until(world, "failed")
    assert world.find_message("its answers cost more than")
    replies = world.store.database.rows("SELECT * FROM replies")
    answered = sum(0.8 * one["prompt_tokens"] + 3.2 * one["completion_tokens"] for one in replies)
    assert replies and (failed.actual_micros or 0) > answered + 1


@pytest.mark.parametrize("stopped_by", ["a rule about its data", "a fault of the bot's own"])
def test_whatever_stops_a_ladder_questions_under_way_count(
    priced: World, monkeypatch: pytest.MonkeyPatch, stopped_by: str
) -> None:
    world = priced
    world.provider.fail(CHAT, HANG, times=8)
    _agreed(world)
    world.tick_until(lambda: world.provider.count(CHAT) >= 8, "questions, all of which hang")

    def of_rows(*_: object) -> Forbidden:
        if stopped_by == "a fault of the bot's own":
            raise RuntimeError("a fault")
        return Forbidden("Not any more.")

    monkeypatch.setattr(measurements, "egress_refusal", of_rows)
    failed = until(world, "failed")
    assert (failed.actual_micros or 0) > 0


def test_a_limit_of_an_hour_is_said_and_waited_out(priced: World) -> None:
    world = priced
    wait = Fault(commit=False, status=429, code="rate_limit_exceeded", headers=(("Retry-After", "3600"),))
    world.provider.fail(CHAT, wait, times=99)
    _agreed(world)
    world.tick_until(lambda: "Measuring resumes automatically" in "\n".join(world.texts()), "the note")
    assert "in 3600 s" in world.find_message("Measuring resumes automatically")
    world.tick(2)
    seen = world.provider.count(CHAT)
    world.tick(5)
    assert world.provider.count(CHAT) == seen <= 8, "nothing is asked meanwhile"
    world.provider.forgive(CHAT)
    world.pass_time(3600)
    until(world, "done")
    assert world.provider.count(CHAT) == seen + 3 * HELD
    assert not any("resumes automatically" in card for card in world.cards())


def test_a_provider_that_hangs_holds_up_nothing_else(priced: World) -> None:
    world = priced
    world.provider.fail(CHAT, HANG, times=8)
    _agreed(world)
    world.tick_until(lambda: world.provider.count(CHAT) == 8, "all its callers to hang")
    world.type("/finetune baseline tickets rungs=classical")
    until(world, "done", 2)
    assert measurement(world).state == "running"
    assert "Cancelling" in world.type("/finetune cancel m1")
    until(world, "cancelled")


def test_rows_that_are_refused_count_as_empty_answers(priced: World) -> None:
    world = priced
    refused = Fault(commit=False, status=400, code="content_policy_violation")
    world.provider.fail(CHAT, refused, times=2)
    _climbed(world, f"/finetune baseline tickets {ACME} rungs=zero")
    (rung,) = ladder_of(world).rungs
    assert rung.n == HELD and rung.empty == 2
    assert (
        f"2 of {HELD} answers (prompt alone, acme/acme-small) were empty and count as wrong"
        in world.find_message("empty")
    )
    assert f"2 of {HELD} questions got no answer and count as wrong" in details(world)
    assert world.provider.count(CHAT) == HELD


def test_empty_answers_and_labels_that_nobody_says_are_told(priced: World) -> None:
    world = priced
    world.provider.service.answer = lambda _model, messages: (
        "" if "shipping" in messages[-1]["content"] else "I think it is **Billing**."
    )
    _climbed(world, f"/finetune baseline tickets {ACME} rungs=zero")
    (rung,) = ladder_of(world).rungs
    assert rung.empty == HELD / 3 and rung.unread == 0 and rung.score == pytest.approx(1 / 3)
    assert ladder_of(world).never_answered == ("refund", "shipping")
    assert world.find_message("were empty and count as wrong")
    assert "no alternative ever answered: `refund`, `shipping`" in details(world)


def test_a_model_that_is_not_there_is_left_out_and_the_others_go_on(make_world: MakeWorld) -> None:
    other = '[prices."acme/acme-tiny"]\ninput = "0.10"\noutput = "0.20"\n'
    world = make_world(Rules(more=PRICES + other))
    world.seed_dataset()
    _climbed(world, "/finetune baseline tickets models=acme/acme-tiny,acme/acme-small rungs=zero,classical")
    assert [rung.arm.key for rung in ladder_of(world).rungs] == ["classical", "zero acme/acme-small"]
    assert "does not exist" in world.find_message("Left out: prompt alone, acme/acme-tiny")


def test_when_every_model_is_closed_the_measurement_fails_with_the_reason(priced: World) -> None:
    world = priced
    world.type(f"/finetune baseline tickets {ACME} rungs=zero,kshot")
    until_asked(world)
    world.provider.key = "sk-another"
    world.click(BEN, evaluations.MEASURE)
    failed = until(world, "failed")
    assert failed.actual_micros == 0
    assert "Check the key in ACME_KEY" in world.find_message("ACME_KEY")


@pytest.mark.parametrize("ticks", [0, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 2)), 4])
def test_a_bot_that_is_stopped_goes_on_where_it_was(priced: World, ticks: int) -> None:
    world = priced
    world.provider.slow_s = 0.05
    world.type(f"/finetune baseline tickets {ACME}")
    world.restart()
    until_asked(world)
    world.restart()
    world.click(BEN, evaluations.MEASURE)
    for _ in range(ticks):
        world.tick()
        time.sleep(0.1)
        world.restart()
    world.provider.slow_s = 0.0
    done = until(world, "done")
    asked = world.provider.count(CHAT)
    assert 3 * HELD <= asked <= 3 * HELD + 8 * ticks, "what was under way at a stop, at most, is asked again"
    assert len(ladder_of(world).rungs) == 5 and done.actual_micros
    world.tick_until_file("ladder.png")
    assert len([text for text in world.texts() if "ladder.png" in text]) == 1
    assert len([text for text in world.texts() if "Measurement m1:" in text and "95%" in text]) == 1


def test_a_key_that_is_taken_away_is_waited_for(priced: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = priced
    _agreed(world)
    with monkeypatch.context() as patch:
        patch.delenv("ACME_KEY")
        world.restart()
        world.tick(2)
        assert "There is no key for acme" in world.find_message("resumes automatically")
    world.restart()
    until(world, "done")
    assert len(ladder_of(world).rungs) == 5


def test_a_base_model_that_the_ladder_asked_is_not_asked_again_for_a_run(priced: World) -> None:
    world = priced
    _climbed(world, f"/finetune baseline tickets {ACME} rungs=zero")
    assert world.provider.count(CHAT) == HELD
    world.start_approved()
    run = world.tick_until_state("done")
    assert world.provider.count(CHAT) == 2 * HELD, "only the tuned model was asked"
    assert len(world.store.runs.answers(run.id, "base")) == HELD


def test_an_estimate_rests_on_what_was_measured(priced: World) -> None:
    world = priced
    _climbed(world)
    checked = datasets.load_usable(world.service.context, "tickets", ANA.id, PRIVATE.id)
    assert isinstance(checked, CheckedDataset) and checked.report
    found = load_evidence(world.service.context, checked.dataset, checked.report, None)
    assert found.ladder == ladder_of(world) and found.tuned is None and found.bar == 0.85
    world.type("/finetune baseline tickets rungs=classical")
    until(world, "done", 2)
    assert load_evidence(world.service.context, checked.dataset, checked.report, None).ladder == found.ladder
    world.start_approved()
    world.tick_until_state("done")
    found = load_evidence(world.service.context, checked.dataset, checked.report, None)
    assert found.tuned and found.tuned.score == 1.0 and found.tuned.arm.rung == "tuned"
    assert found.tuned.standing == "meets"  # 18 of 18: the one-sided bound is 0.869
    assert world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}")


def _agreed(world: World, line: str = f"/finetune baseline tickets {ACME}", number: int = 1) -> None:
    assert world.type(line) == ""
    until_asked(world, number)
    world.click(BEN, evaluations.MEASURE)


def _climbed(world: World, line: str = f"/finetune baseline tickets {ACME}", number: int = 1) -> None:
    _agreed(world, line, number)
    until(world, "done", number)


def measurement_month(world: World) -> str:
    return units.month_of(world.clock)
