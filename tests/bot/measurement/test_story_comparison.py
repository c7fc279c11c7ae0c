"""A comparison of alternatives to fine-tuning: asked for, agreed to, and measured on the held-out rows."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bot.cards.common.words import charge
from bot.cards.evidence import evaluation_results, evaluations
from bot.rules import units
from bot.rules.facts import Evidence
from bot.services.datasets import dataset_worker, datasets
from bot.services.datasets.data_policy import Forbidden
from bot.services.datasets.datasets import CheckedDataset
from bot.services.evidence import evaluation_worker
from bot.services.evidence.evidence import load_evidence
from bot.services.measurement import receivers
from bot.values.evaluations import ComparisonProgress
from demo.people import ANA, BEN
from tests.bot.measurements import (
    ACME,
    BASELINE,
    CHAT,
    HELD,
    PRICES,
    comparison_of,
    measure,
    measurement,
    seed_measurement,
    start_measurement,
    until,
    until_asked,
)
from tests.bot.runs import ENOUGH_ROWS
from tests.bot.world import GUS, PRIVATE, TARGET, MakeWorld, Rules, World
from tests.peers.hosted import HANG, Fault
from trainers.dataset import Report

ZERO = f"/finetune baseline tickets {ACME} candidates=zero"
PROMPTS = f"{BASELINE} candidates=zero,kshot"
NOVEMBER_30 = 1_796_040_000.0  # noon in 2026: a busy machine takes many ticks, of three seconds each


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """The company's model has a price, so it may be asked."""
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    return world


def progress(world: World) -> ComparisonProgress:
    return ComparisonProgress.from_json(measurement(world).progress)


def evidence_of(world: World) -> Evidence:
    dataset = datasets.load_usable(world.service.context, "tickets", ANA.id, PRIVATE.id)
    assert isinstance(dataset, CheckedDataset) and dataset.report
    return load_evidence(world.service.context, dataset.dataset, dataset.report, None)


def read_details(world: World) -> str:
    """The form that the result's button *Details* opens."""
    world.click(ANA, evaluation_results.DETAILS)
    details = world.read_form(ANA)
    assert details.startswith("Measurement m1\n") and "How this was measured" in details
    return details


def test_the_classical_candidate_is_free_and_starts_at_once(world: World) -> None:
    assert world.type("/finetune baseline tickets candidates=classical") == ""
    until(world, "done")
    comparison = comparison_of(world)
    assert [candidate.key for candidate in comparison.candidates] == ["classical"]
    assert comparison.n == HELD and comparison.candidates[0].score == 1.0
    assert measurement(world).actual_micros == 0 and world.provider.count(CHAT) == 0
    assert "held-out rows" in world.find_message("Measurement m1", "classical", "100.0%")
    world.tick_until_file("report-m1.html")
    assert len(world.cards()) == 1, "the result takes the place of the card"
    assert f"<@{ANA.id}> m1 is done" in world.find_message("comparison.png", "report-m1.html")
    actions = [entry.action for entry in world.store.audit.entries("measurement 1")]
    assert actions == ["measure", "measured"]


@pytest.mark.deep
def test_the_encoder_is_free_and_is_not_computed_twice(world: World) -> None:
    world.type("/finetune baseline tickets candidates=encoder")
    until(world, "done")
    (candidate,) = comparison_of(world).candidates
    assert (candidate.key, candidate.n, candidate.score, candidate.usd_per_1000) == ("encoder", HELD, 1.0, 0)
    assert 0 < candidate.p50_s <= candidate.p95_s and world.provider.count(CHAT) == 0
    assert "Licences of the weights: all-minilm-l6-v2: apache-2.0" in read_details(world)
    world.type("/finetune baseline tickets candidates=encoder,classical")
    until(world, "done", 2)
    _, repeated = comparison_of(world, 2).candidates
    assert (repeated.p50_s, repeated.p95_s) == (candidate.p50_s, candidate.p95_s), (
        "the times are those of the first"
    )


def test_a_missing_encoder_is_left_out_and_the_others_are_measured(make_world: MakeWorld) -> None:
    world = make_world(Rules(more='[encoder]\nmodel = "/nowhere/encoder"\n'))
    world.seed_dataset()
    world.type("/finetune baseline tickets candidates=classical,encoder")
    until(world, "done")
    assert [candidate.key for candidate in comparison_of(world).candidates] == ["classical"]
    world.find_message("Left out: encoder", "/nowhere/encoder", "under [encoder] in finetune.toml")
    world.type("/finetune baseline tickets candidates=encoder")
    until(world, "failed", 2)
    assert "There is no encoder /nowhere/encoder" in world.find_message("There is no encoder")


def test_a_free_candidate_measured_later_joins_the_paid_ones(world: World) -> None:
    seed_measurement(world, ZERO)
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done", 2)
    comparison = evidence_of(world).comparison
    assert comparison is not None and comparison.candidates[0].score == 1.0
    assert [candidate.kind for candidate in comparison.candidates] == ["classical", "zero"]


@pytest.mark.deep
def test_a_paid_comparison_is_measured_once_somebody_agrees_and_its_repeat_is_free(world: World) -> None:
    assert world.type(BASELINE) == ""
    priced = until_asked(world)
    assert priced.state == "asked" and world.provider.count(CHAT) == 0
    assert world.store.committed(priced.month) == priced.reserved_micros > 0
    assert "Measure 5 alternatives on tickets for" in world.find_message("Measure 5 alternatives")
    world.click(BEN, evaluations.MEASURE)
    done = until(world, "done")
    assert 0 < (done.actual_micros or 0) <= done.reserved_micros
    assert world.store.committed(done.month) == done.actual_micros
    comparison = comparison_of(world)
    assert [candidate.kind for candidate in comparison.candidates] == [
        "classical",
        "encoder",
        "zero",
        "kshot",
        "retrieval",
    ]
    assert comparison.candidates[2].score == pytest.approx(
        1 / 3
    )  # the base model says 'billing' to everything
    assert world.provider.count(CHAT) == 3 * HELD
    assert (
        all(candidate.usd_per_1000 for candidate in comparison.candidates[2:])
        and comparison.candidates[0].usd_per_1000 == 0
    )
    assert world.find_message("prompt alone", "ten examples", "retrieval")
    assert not list(world.folder.rglob("vectors.npz")), "retrieval's vectors served the encoder, and are gone"
    assert_examples_are_training_rows(world)

    world.type(BASELINE)
    repeated = until(world, "done", 2)
    assert world.provider.count(CHAT) == 3 * HELD, "the repeat asked no model"
    assert repeated.actual_micros == repeated.reserved_micros == 0
    assert comparison_of(world, 2).candidates == comparison.candidates


def assert_examples_are_training_rows(world: World) -> None:
    report = Report.from_json(str(world.dataset().report))
    files = world.service.settings.files
    held = {row.prompt[-1].content for row in dataset_worker.examples(files, str(report.holdout_sha256))}
    trained = {row.prompt[-1].content for row in dataset_worker.examples(files, str(report.train_sha256))}
    prompts = [request.body["messages"] for request in world.provider.requests if request.route == CHAT]
    shown = [message["content"] for prompt in prompts for message in prompt[:-1] if message["role"] == "user"]
    assert len(shown) == (10 + 5) * HELD  # ten examples a question, and the five nearest rows
    assert set(shown) <= trained and not set(shown) & held
    assert {prompt[-1]["content"] for prompt in prompts} == held


def test_while_answers_come_a_tick_reads_neither_keys_nor_answers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, statements = list[str](), list[str]()
    world.provider.slow_s = 0.3  # the questions go out in waves
    start_measurement(world, PROMPTS)
    world.tick_until(lambda: progress(world).answered, "the first answers")
    read_text, connection = Path.read_text, world.store.database.utils.conn
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *rest, **more: files.append(path.name) or read_text(path, *rest, **more),
    )
    connection.set_trace_callback(statements.append)
    world.tick(3)
    connection.set_trace_callback(None)
    assert progress(world).answered < 2 * HELD and evaluation_worker.KEYS not in files
    queries = [statement for statement in statements if "FROM replies" in statement]
    assert queries and not [query for query in queries if "text" in query]
    world.provider.slow_s = 0.0
    until(world, "done")


def test_a_new_prompt_is_asked_afresh(world: World) -> None:
    seed_measurement(world, ZERO)
    assert world.provider.count(CHAT) == HELD
    measure(world, f"{ZERO} prompt=Sort: what is = meant?", 2)
    assert world.provider.count(CHAT) == 2 * HELD
    prompt = world.provider.requests[-1].body["messages"][0]
    assert prompt["role"] == "system" and prompt["content"].startswith("Sort: what is = meant?")
    assert "refund" in prompt["content"], "the labels are listed"


def test_a_prompt_typed_in_a_command_is_the_same_question_as_from_the_form(world: World) -> None:
    """Slack escapes a command's text (AT&amp;T) and leaves a form's as it was typed."""
    prompt = "Answer as <label> for AT&T, 3 < 4: see acme.com or ask @ben in #general"
    measure(world, f"{ZERO} prompt={prompt}")
    assert world.provider.requests[-1].body["messages"][0]["content"].startswith(prompt)
    world.type("/finetune baseline")
    answers = {"dataset": "tickets", "candidates": "zero", "models": "acme/acme-small", "prompt": prompt}
    assert world.slack.submit_modal(ANA.id, answers).accepted
    until(world, "done", 2)
    assert world.provider.count(CHAT) == HELD, "nothing was left to ask"


def test_the_quality_bar_and_the_task_stay_with_the_dataset(world: World) -> None:
    world.type("/finetune baseline tickets candidates=classical bar=99% task=classification")
    until(world, "done")
    stored = world.store.dataset_settings.get("tickets")
    assert (stored.bar, stored.task_kind, stored.prompt) == (0.99, "classification", None)
    assert stored.updated_by == ANA.id
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done", 2)
    assert comparison_of(world, 2).bar == 0.99


def test_a_measurement_above_its_limit_is_refused_with_the_setting_to_change(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, measurement="0.001"))
    world.seed_dataset()
    world.type(PROMPTS)
    failed = until(world, "failed")
    assert failed.actual_micros == 0 and world.provider.count(CHAT) == 0
    assert "measurement_usd" in world.find_message("the limit for one measurement is")
    assert world.store.committed(units.month_of(world.clock)) == 0


def test_a_measurement_above_the_monthly_budget_is_refused(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, budget="0.001"))
    world.seed_dataset()
    world.type(PROMPTS)
    until(world, "failed")
    assert "monthly_usd" in world.find_message("This measurement may cost")


def test_money_reserved_for_a_measurement_is_not_available_to_a_run(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, budget="0.060"))
    world.start()
    world.type(PROMPTS)
    assert until_asked(world).reserved_micros > 7_000
    assert "monthly_usd" in world.click_and_read(BEN, "approve_plan")
    world.click_and_read(ANA, evaluations.CANCEL)
    until(world, "cancelled")
    world.approve()
    assert world.ledger()["reserve"] > 0


def test_a_measurement_that_nobody_agrees_to_expires_after_a_day(world: World) -> None:
    world.type(PROMPTS)
    month = until_asked(world).month
    world.pass_time(24 * 3600 + 60)
    until(world, "cancelled")
    assert "Nobody agreed" in world.find_message("Nobody agreed")
    assert world.store.committed(month) == 0 and not world.has_button(evaluations.MEASURE)


def test_agreeing_in_the_next_month_reserves_the_money_there(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, budget="0.05"))
    world.clock = NOVEMBER_30
    world.seed_dataset()
    world.type(PROMPTS)
    assert until_asked(world).month == "2026-11"
    world.pass_time(13 * 3600)
    world.click(BEN, evaluations.MEASURE)
    assert measurement(world).month == "2026-12"
    assert world.store.committed("2026-11") == 0 < world.store.committed("2026-12")


def test_agreeing_late_is_refused_if_the_new_month_has_no_money_left(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES, budget="0.01"))
    world.clock = NOVEMBER_30
    world.seed_dataset()
    world.type(PROMPTS)
    assert until_asked(world).month == "2026-11"
    card = world.find_button(evaluations.MEASURE)
    world.pass_time(13 * 3600)
    world.type(f"{PROMPTS} prompt=Answer with the label alone")
    assert until_asked(world, 2).month == "2026-12"
    world.slack.click(BEN.id, PRIVATE.id, card.ts, evaluations.MEASURE)
    world.tick(3)
    assert measurement(world).state == "asked" and world.provider.count(CHAT) == 0
    assert world.store.committed("2026-12") == measurement(world, 2).reserved_micros


def test_a_guest_may_neither_ask_nor_agree(world: World) -> None:
    assert "Only full members" in world.type("/finetune baseline tickets candidates=classical", user=GUS)
    world.type(PROMPTS)
    until_asked(world)
    assert "Only full members" in world.click_and_read(GUS, evaluations.MEASURE)
    assert measurement(world).state == "asked" and world.provider.count(CHAT) == 0


def test_agreeing_twice_measures_once(world: World) -> None:
    world.type(ZERO)
    until_asked(world)
    card = world.find_button(evaluations.MEASURE)
    world.slack.click(BEN.id, PRIVATE.id, card.ts, evaluations.MEASURE)
    before = len(world.slack.ephemerals(ANA.id))
    world.slack.click(ANA.id, PRIVATE.id, card.ts, evaluations.MEASURE)
    world.wait_for_answer(ANA, before)
    until(world, "done")
    assert world.provider.count(CHAT) == HELD


def test_a_mistyped_command_is_answered_with_the_correction(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    world.seed_dataset()
    for line, correction in (
        ("nothing", "There is no dataset `nothing`"),
        ("tickets models=acme/acme-small", "put its price into finetune.toml"),
        ("tickets models=acne/acme-small", "Did you mean `acme/acme-small`?"),
        ("tickets models=local/smollm", "Did you mean `local/smollm2-135m`?"),
        ("tickets models=openai/gpt-4o-mini", "OPENAI_API_KEY"),
        ("tickets candidates=clasical", "Did you mean `classical`?"),
        ("tickets bar=great", "should be the share of right answers"),
        ("tickets model=x", "Did you mean `models`?"),
    ):
        assert correction in world.type(f"/finetune baseline {line}"), line
    assert world.store.measurements.newest() == []


def test_the_same_measurement_does_not_start_twice(world: World) -> None:
    world.type(PROMPTS)
    assert "under way already: m1" in world.type(PROMPTS)


def test_a_cancelled_measurement_pays_for_its_answers_and_keeps_them(world: World) -> None:
    world.provider.slow_s = 0.2
    start_measurement(world, PROMPTS)
    world.tick_until(lambda: world.provider.count(CHAT) >= 8, "some questions")
    assert "Cancelling m1" in world.type("/finetune cancel m1")
    cancelled = until(world, "cancelled")
    assert 0 < (cancelled.actual_micros or 0) < cancelled.reserved_micros
    world.provider.slow_s = 0.0
    world.tick(2)
    assert world.provider.count(CHAT) < 2 * HELD, "waiting questions are not asked"
    card = world.find_message("was cancelled")
    assert f"Cancelled by <@{ANA.id}>" in card and "waiting" not in card
    assert f"*Cost*\n{charge(cancelled.actual_micros or 0)}" in card and "Cost so far" not in card
    assert "was cancelled" in world.type("/finetune cancel m1")
    measure(world, PROMPTS, number=2)
    assert world.provider.count(CHAT) == 2 * HELD, "measuring again asks only the remaining questions"


def test_a_cancelled_measurement_whose_folder_is_lost_still_pays(world: World) -> None:
    world.provider.slow_s = 0.2
    start_measurement(world, ZERO)
    world.tick_until(lambda: progress(world).spent_micros > 0, "some answers")
    shutil.rmtree(world.service.settings.data / "measurements" / "m1")
    spent = progress(world).spent_micros
    world.type("/finetune cancel m1")
    assert (until(world, "cancelled").actual_micros or 0) >= spent


@pytest.mark.deep
def test_questions_in_flight_count_at_their_maximum_when_the_cost_stops_a_measurement(
    world: World,
) -> None:
    world.provider.fail(CHAT, HANG, times=1)
    start_measurement(world, ZERO)
    world.tick_until(lambda: world.provider.count(CHAT) >= 8, "some questions, one of which hangs")
    progress_of_cheaper = replace(progress(world), most_micros=1).to_json()
    running = measurement(world)
    world.store.measurements.move(running, "running", now=world.clock, progress=progress_of_cheaper)
    failed = until(world, "failed")
    assert world.find_message("its answers cost more than")
    replies = world.store.database.rows("SELECT * FROM replies")
    micros = sum(0.8 * reply["prompt_tokens"] + 3.2 * reply["completion_tokens"] for reply in replies)
    assert replies and (failed.actual_micros or 0) > micros + 1


@pytest.mark.deep
@pytest.mark.parametrize("has_fault", [False, True], ids=["a data rule", "a fault in the bot"])
def test_questions_in_flight_count_whatever_stops_a_measurement(
    world: World, monkeypatch: pytest.MonkeyPatch, has_fault: bool
) -> None:
    world.provider.fail(CHAT, HANG, times=8)
    start_measurement(world, ZERO)
    world.tick_until(lambda: world.provider.count(CHAT) >= 8, "questions, all of which hang")

    def refuse(*_: object) -> Forbidden:
        if has_fault:
            raise RuntimeError("a fault")
        return Forbidden("Not any more.")

    monkeypatch.setattr(receivers, "egress_refusal", refuse)
    assert (until(world, "failed").actual_micros or 0) > 0


def test_a_rate_limit_of_an_hour_is_shown_and_waited_out(world: World) -> None:
    limit = Fault(commit=False, status=429, code="rate_limit_exceeded", headers=(("Retry-After", "3600"),))
    world.provider.fail(CHAT, limit, times=99)
    start_measurement(world, ZERO)
    world.tick_until(lambda: "Measuring resumes automatically" in "\n".join(world.texts()), "the note")
    assert "in 3600 s" in world.find_message("Measuring resumes automatically")
    world.tick(2)
    limited = world.provider.count(CHAT)
    world.tick(5)
    assert world.provider.count(CHAT) == limited <= 8, "nothing is asked meanwhile"
    world.provider.forgive(CHAT)
    world.pass_time(3600)
    until(world, "done")
    assert world.provider.count(CHAT) == limited + HELD
    assert not any("resumes automatically" in card for card in world.cards())


@pytest.mark.deep
def test_a_hanging_provider_delays_nothing_else(world: World) -> None:
    world.provider.fail(CHAT, HANG, times=8)
    start_measurement(world, ZERO)
    world.tick_until(lambda: world.provider.count(CHAT) == 8, "all its callers to hang")
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done", 2)
    assert measurement(world).state == "running"
    assert "Cancelling" in world.type("/finetune cancel m1")
    until(world, "cancelled")


def test_refused_rows_count_as_empty_answers(world: World) -> None:
    refused = Fault(commit=False, status=400, code="content_policy_violation")
    world.provider.fail(CHAT, refused, times=2)
    (candidate,) = measure(world, ZERO).candidates
    assert candidate.n == HELD and candidate.empty == 2
    world.find_message(f"2 of {HELD} answers (prompt alone, acme/acme-small) were empty and count as wrong")
    assert f"2 of {HELD} questions got no answer and count as wrong" in read_details(world)
    assert world.provider.count(CHAT) == HELD


def test_empty_answers_and_labels_that_no_model_gave_are_shown(world: World) -> None:
    world.provider.service.answer = lambda _model, messages: (
        "" if "shipping" in messages[-1]["content"] else "I think it is **Billing**."
    )
    comparison = measure(world, ZERO)
    (candidate,) = comparison.candidates
    assert candidate.empty == HELD / 3 and candidate.unread == 0 and candidate.score == pytest.approx(1 / 3)
    assert comparison.never_answered == ("refund", "shipping")
    assert world.find_message("were empty and count as wrong")
    assert "no alternative ever answered: `refund`, `shipping`" in read_details(world)


def test_a_missing_model_is_left_out_and_the_others_are_measured(make_world: MakeWorld) -> None:
    other = '[prices."acme/acme-tiny"]\ninput = "0.10"\noutput = "0.20"\n'
    world = make_world(Rules(more=PRICES + other))
    world.seed_dataset()
    two_models = "models=acme/acme-tiny,acme/acme-small"
    comparison = measure(world, f"/finetune baseline tickets {two_models} candidates=zero,classical")
    assert [candidate.key for candidate in comparison.candidates] == ["classical", "zero acme/acme-small"]
    assert "does not exist" in world.find_message("Left out: prompt alone, acme/acme-tiny")


def test_a_measurement_fails_with_the_reason_if_no_model_can_be_asked(world: World) -> None:
    world.type(ZERO)
    until_asked(world)
    world.provider.key = "sk-another"
    world.click(BEN, evaluations.MEASURE)
    assert until(world, "failed").actual_micros == 0
    assert "Check the key in ACME_KEY" in world.find_message("ACME_KEY")


@pytest.mark.deep
@pytest.mark.parametrize("ticks", [*(pytest.param(ticks, marks=pytest.mark.slow) for ticks in (0, 1, 2)), 4])
def test_a_restarted_bot_continues_the_measurement(world: World, ticks: int) -> None:
    world.provider.slow_s = 0.05
    world.type(f"{BASELINE} candidates=classical,zero,kshot")
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
    questions = range(2 * HELD, 2 * HELD + 8 * ticks + 1)
    assert world.provider.count(CHAT) in questions, "at most those in flight at a stop are asked again"
    assert len(comparison_of(world).candidates) == 3 and done.actual_micros
    world.tick_until_file("comparison.png")
    assert len([text for text in world.texts() if "comparison.png" in text]) == 1
    assert len([text for text in world.texts() if "Measurement m1:" in text and "95%" in text]) == 1


def test_a_measurement_waits_for_a_missing_key(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    start_measurement(world, ZERO)
    with monkeypatch.context() as patch:
        patch.delenv("ACME_KEY")
        world.restart()
        world.tick(2)
        assert "There is no key for acme" in world.find_message("resumes automatically")
    world.restart()
    assert until(world, "done").result


def test_a_run_reuses_the_base_models_answers_from_the_comparison(world: World) -> None:
    seed_measurement(world, ZERO)
    world.start_approved()
    run = world.tick_until_state("done")
    assert world.provider.count(CHAT) == 2 * HELD, "only the tuned model was asked"
    assert len(world.store.runs.answers(run.id, "base")) == HELD


@pytest.mark.deep
def test_an_estimate_uses_the_measured_evidence(world: World) -> None:
    world.seed_dataset(rows=ENOUGH_ROWS)
    measure(world, ZERO)
    evidence = evidence_of(world)
    assert evidence.comparison == comparison_of(world) and evidence.tuned is None and evidence.bar == 0.85
    world.start_approved()
    world.tick_until_state("done")
    tuned = evidence_of(world).tuned
    assert tuned and tuned.score == 1.0 and tuned.kind == "tuned"
    assert tuned.standing == "meets"  # 39 of 39
    assert world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}")
