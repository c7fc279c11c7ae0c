"""A hosted provider as it can be: closed, forgetful, slow, talking nonsense, away. Its own record is the
judge."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bot.services.provider_jobs import MAX_CREATES, SETTLE_S
from tests.bot.world import JOBS, START, Rules, World
from tests.peers.hosted import (
    BUSY,
    COMMIT_THEN_500,
    COMMIT_THEN_CUT,
    COMMIT_THEN_HANG,
    COMMIT_THEN_HTML,
    COMMIT_THEN_RESET,
    HANG,
    HTML,
    NOT_AVAILABLE,
    NOTHING_BUT_500,
    RESET,
    WAIT_503,
    Fault,
)

CREATE, LIST, JOB = f"POST {JOBS}", f"GET {JOBS}", f"GET {JOBS}/ftjob-1"
MakeWorld = Callable[[Rules], World]


def test_a_provider_s_words_on_the_card_are_no_markup(world: World) -> None:
    words = "<!channel> <https://evil.example|open the card>"
    body = json.dumps({"error": {"message": words, "type": "x", "code": "nope", "param": None}}).encode()
    world.provider.fail("GET /fine_tuning/jobs", Fault(commit=False, status=403, body=body))
    world.start()
    world.tick(2)
    assert world.run().state == "cancelled"
    for text in (world.find_message("Withdrawn before anybody"), *world.dms()):
        assert "open the card" in text and "<!channel>" not in text and "<https" not in text


def test_a_closed_company_is_said_with_the_way_out_and_nothing_stays_there(world: World) -> None:
    world.provider.fail(CREATE, NOT_AVAILABLE)
    world.start_approved()
    world.tick_until_state("failed")
    said = world.find_message("Acme Tuning has closed fine-tuning to your organisation")
    assert "`local/`" in said and "was deleted" in said
    assert world.files_at_provider() == [] and world.jobs() == 0
    assert world.ledger()["settle"] == 0
    assert any("has closed fine-tuning" in text for text in world.dms())


def test_a_file_that_could_not_be_taken_back_is_not_called_deleted(world: World) -> None:
    world.provider.fail(CREATE, NOT_AVAILABLE)
    world.provider.fail("DELETE /files/file-1", NOTHING_BUT_500, times=5)
    world.start_approved()
    world.tick_until_state("failed")
    assert "could not be deleted there yet; the bot will try again" in world.find_message("has closed")


def test_a_file_that_another_run_needs_is_not_taken_back(world: World) -> None:
    world.provider.service.stages = ("queued",)
    world.start_approved()
    world.tick_until_state("training")
    world.start(f"{START} epochs=2")
    world.provider.fail(CREATE, NOT_AVAILABLE)
    world.approve()
    world.tick_until_state("failed", 2)
    assert len(world.files_at_provider()) == 1
    assert world.run(1).state == "training"


@pytest.mark.parametrize(
    "fault", [COMMIT_THEN_500, COMMIT_THEN_RESET, COMMIT_THEN_CUT, COMMIT_THEN_HTML], ids=str
)
def test_a_job_whose_answer_got_lost_is_adopted(world: World, fault: Fault) -> None:
    world.provider.fail(CREATE, fault)
    world.start_approved()
    world.tick()
    assert world.run().state == "creating" and world.run().job_id is None
    world.tick_until_state("training")
    assert world.run().job_id == "ftjob-1"
    world.pass_time(SETTLE_S)
    world.tick(3)
    assert world.jobs() == 1 and world.provider.count(CREATE) == 1


def test_a_create_that_hangs_is_adopted_too(make_world: MakeWorld) -> None:
    world = make_world(Rules(trainer_timeout_s=0.3))
    world.provider.fail(CREATE, COMMIT_THEN_HANG)
    world.start_approved()
    world.tick_until_state("training")
    assert world.jobs() == 1 and world.provider.count(CREATE) == 1


@pytest.mark.parametrize("fault", [NOTHING_BUT_500, RESET, BUSY, WAIT_503, HTML], ids=str)
def test_a_create_that_got_lost_is_repeated_once_it_must_have_shown(world: World, fault: Fault) -> None:
    world.provider.fail(CREATE, fault)
    world.start_approved()
    world.tick(30)
    assert world.run().state == "creating" and world.provider.count(CREATE) == 1
    world.pass_time(SETTLE_S)
    world.tick_until_state("training")
    assert world.jobs() == 1 and world.provider.count(CREATE) == 2
    assert len(world.files_at_provider()) == 1


def test_a_list_that_lags_hides_no_job(world: World) -> None:
    world.provider.service.list_lag_s = 0.5
    world.provider.fail(CREATE, COMMIT_THEN_500)
    world.start_approved()
    world.tick(10)
    assert world.run().state == "creating"
    world.tick_until(lambda: world.run().job_id, "the job to show up")
    assert world.jobs() == 1 and world.provider.count(CREATE) == 1


def test_creates_without_a_clear_answer_end_at_a_person_with_the_money_kept(world: World) -> None:
    world.provider.fail(CREATE, NOTHING_BUT_500, times=MAX_CREATES)
    world.start_approved()
    for _ in range(MAX_CREATES):
        world.tick(2)
        world.pass_time(SETTLE_S)
    world.tick_until_state("needs_human")
    assert world.provider.count(CREATE) == MAX_CREATES and world.jobs() == 0
    assert set(world.ledger()) == {"reserve"}
    assert "reserved" in world.find_message("gave no clear answer")


def test_a_no_to_the_look_after_a_create_in_doubt_keeps_the_money(world: World) -> None:
    """The key was changed in between: nobody can say whether the job is there, so nothing is called free."""
    world.provider.fail(CREATE, COMMIT_THEN_500)
    world.start_approved()
    world.tick()
    world.provider.key = "sk-another"
    world.tick_until_state("needs_human")
    assert set(world.ledger()) == {"reserve"} and world.jobs() == 1
    assert "A job may have been created" in world.find_message("ACME_KEY")


def test_a_wrong_key_is_a_certain_no(world: World) -> None:
    world.provider.key = "sk-another"
    world.start_approved()
    world.tick_until_state("failed")
    assert "Check the key in ACME_KEY" in world.find_message("nothing is owed")
    assert world.ledger()["settle"] == 0


def test_nonsense_while_looking_is_said_and_passes(world: World) -> None:
    world.provider.fail(LIST, HTML, times=2)
    world.start_approved()
    world.tick()
    assert "a web page" in world.find_message("base_url")
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_an_unknown_status_counts_as_running_and_is_said(world: World) -> None:
    world.provider.service.stages = ("queued", "pondering", "pondering", "pondering", "succeeded")
    world.start_approved()
    world.tick_until(lambda: "pondering" in "\n".join(world.texts()), "the note")
    assert "which counts as running" in world.find_message("pondering")
    world.tick_until_state("evaluating")
    assert "pondering" not in "\n".join(world.texts())


def test_a_failed_job_tells_its_reason_and_no_markup(world: World) -> None:
    world.provider.service.stages = ("queued", "failed")
    world.provider.service.failure = {"code": "bad_data", "message": "row 7 is <!channel> too long"}
    world.start_approved()
    world.tick_until_state("failed")
    said = world.find_message("Training failed", "row 7 is")
    assert "<!channel>" not in said and "/finetune start" in said
    assert world.ledger()["settle"] == 0
    assert any("row 7 is" in text for text in world.dms())


def test_a_result_file_in_base64_is_drawn_as_well(world: World) -> None:
    world.provider.service.base64_results = True
    world.start_approved()
    world.tick_until_state("done")
    world.tick_until_file("loss.png")


def test_a_result_file_that_is_gone_costs_the_plot_and_not_the_result(world: World) -> None:
    world.provider.fail(
        "GET /files/file-results-ftjob-1/content", Fault(commit=False, status=404, code="gone"), times=99
    )
    world.start_approved()
    world.tick_until_state("done")
    world.tick_until_file("quality.png")
    assert "loss.png" not in world.files()
    assert world.find_message("Result of run 1")


def test_a_company_that_is_away_for_a_while_is_waited_for(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    for route in (JOB, LIST):
        world.provider.fail(route, RESET, times=9)
    world.pass_time(60)
    world.tick()
    assert "The job itself goes on" in world.find_message("is the trainer running?")
    assert world.run().state == "training"
    world.tick_until_state("evaluating")
    assert "is the trainer running?" not in "\n".join(world.texts())
    assert world.jobs() == 1


def test_a_look_that_hangs_is_waited_out(make_world: MakeWorld) -> None:
    world = make_world(Rules(trainer_timeout_s=0.3))
    world.start_approved()
    world.tick_until_state("training")
    world.provider.fail(JOB, HANG)
    world.pass_time(60)
    world.tick()
    assert "no answer in time" in world.find_message("Trying again")
    world.tick_until_state("evaluating")


def test_measuring_goes_on_after_a_hiccup(world: World) -> None:
    world.provider.fail("POST /chat/completions", BUSY)
    world.provider.fail("POST /chat/completions", NOTHING_BUT_500)
    world.start_approved()
    world.tick_until(lambda: "Measuring resumes" in "\n".join(world.texts()), "the note")
    answers = world.store.runs.answers
    world.tick_until(lambda: len(answers(1, "tuned")) == len(answers(1, "base")) == 18, "all answers")
    # 36 answers, each paid for once, and the two requests that failed
    assert world.provider.count("POST /chat/completions") == 2 * 18 + 2


def test_a_key_that_is_taken_away_stops_nothing_for_good(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start_approved()
    world.tick_until_state("training")
    with monkeypatch.context() as patch:
        patch.delenv("ACME_KEY")
        world.restart()
        world.pass_time(60)
        world.tick()
        assert "ACME_KEY" in world.find_message("no key")
        assert world.run().state == "training"
    world.restart()
    world.pass_time(60)
    world.tick_until_state("evaluating")
    assert world.jobs() == 1


def test_a_plan_whose_key_is_taken_away_before_its_provider_was_asked_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.start()
    monkeypatch.delenv("ACME_KEY")
    world.restart()
    world.tick(2)
    assert world.run(run.id).tries > 0
    assert "failed" not in caplog.text


def test_a_company_that_gives_the_model_no_name_is_told_so_and_paid(world: World) -> None:
    world.abilities = '"metadata", "metadata_filter", "method", "suffix"'
    world.provider.service.shape = "openai"
    world.restart()
    world.start_approved()
    world.tick_until_state("failed")
    assert "could not be measured" in world.find_message("tickets-1")
    assert world.run().actual_micros == world.ledger()["settle"] > 0


def test_try_says_when_the_company_refuses(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")
    refusal = Fault(commit=False, status=404, code="model_not_found")
    world.provider.fail("POST /chat/completions", refusal)
    world.type("/finetune try tickets-1 where is my refund?")
    assert "could not be asked" in world.tick_until_answered()


@pytest.mark.parametrize(
    "fault",
    [Fault(False, status=404), Fault(False, status=200, body=b'{"data": [{"id": "e1"}]}')],
    ids=["none", "without-words"],
)
def test_a_job_whose_events_cannot_be_had_is_followed_to_its_end(world: World, fault: Fault) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.provider.fail(f"GET {JOBS}/{world.run().job_id}/events", fault, times=500)
    world.tick_until_state("done")
