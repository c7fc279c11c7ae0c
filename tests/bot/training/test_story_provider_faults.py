"""A hosted provider that refuses, forgets, is slow, answers nonsense or is away. Its own record has the last word."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bot.services.common.provider_jobs import MAX_CREATES, SETTLE_S
from tests.bot.world import JOBS, PRIVATE, START, Rules, World
from tests.peers.hosted import (
    BUSY,
    COMMIT_THEN_500,
    COMMIT_THEN_HANG,
    COMMIT_THEN_HTML,
    COMMIT_THEN_RESET,
    HANG,
    HTML,
    NOT_AVAILABLE,
    NOTHING_BUT_500,
    RESET,
    Fault,
)

CREATE = f"POST {JOBS}"
LIST = f"GET {JOBS}"
JOB = f"GET {JOBS}/ftjob-1"
CHAT = "POST /chat/completions"
MakeWorld = Callable[[Rules], World]


def test_a_providers_words_are_escaped_on_cards_and_in_direct_messages(world: World) -> None:
    words = "<!channel> <https://evil.example|open the card>"
    body = json.dumps({"error": {"message": words, "type": "x", "code": "nope", "param": None}}).encode()
    world.provider.fail("GET /fine_tuning/jobs", Fault(commit=False, status=403, body=body))
    world.start()
    world.tick(2)
    assert world.run().state == "cancelled"
    for text in (world.find_message("Withdrawn before anybody"), *world.dms()):
        assert "open the card" in text and "<!channel>" not in text and "<https" not in text


def test_a_closed_provider_fails_the_run_with_an_alternative_and_keeps_no_file(world: World) -> None:
    world.provider.fail(CREATE, NOT_AVAILABLE)
    world.start_approved()
    world.tick_until_state("failed")
    card = world.find_message("Acme Tuning has closed fine-tuning to your organisation")
    assert "`local/`" in card and "was deleted" in card
    assert world.files_at_provider() == [] and world.jobs() == 0
    assert world.ledger()["settle"] == 0
    assert any("has closed fine-tuning" in text for text in world.dms())


def test_a_file_that_could_not_be_deleted_is_not_called_deleted(world: World) -> None:
    world.provider.fail(CREATE, NOT_AVAILABLE)
    world.provider.fail("DELETE /files/file-1", NOTHING_BUT_500, times=5)
    world.start_approved()
    world.tick_until_state("failed")
    assert "could not be deleted there yet; the bot will try again" in world.find_message("has closed")


def test_a_file_that_another_run_needs_is_not_deleted(world: World) -> None:
    world.provider.service.stages = ("queued",)
    world.start_approved()
    world.tick_until_state("training")
    world.start(f"{START} epochs=2")
    world.provider.fail(CREATE, NOT_AVAILABLE)
    world.approve()
    world.tick_until_state("failed", 2)
    assert len(world.files_at_provider()) == 1
    assert world.run(1).state == "training"


@pytest.mark.parametrize("fault", [COMMIT_THEN_500, COMMIT_THEN_RESET, COMMIT_THEN_HTML], ids=str)
def test_a_job_whose_create_lost_its_answer_is_adopted(world: World, fault: Fault) -> None:
    world.provider.fail(CREATE, fault)
    world.start_approved()
    world.tick()
    assert world.run().state == "creating" and world.run().job_id is None
    world.tick_until_state("training")
    assert world.run().job_id == "ftjob-1"
    world.pass_time(SETTLE_S)
    world.tick(3)
    assert world.jobs() == 1 and world.provider.count(CREATE) == 1


def test_a_job_whose_create_hangs_is_adopted(make_world: MakeWorld) -> None:
    world = make_world(Rules(trainer_timeout_s=0.3))
    world.provider.fail(CREATE, COMMIT_THEN_HANG)
    world.start_approved()
    world.tick_until_state("training")
    assert world.jobs() == 1 and world.provider.count(CREATE) == 1


@pytest.mark.deep
@pytest.mark.parametrize("fault", [NOTHING_BUT_500, RESET, BUSY, HTML], ids=str)
def test_a_lost_create_is_repeated_only_after_its_job_would_have_been_listed(
    world: World, fault: Fault
) -> None:
    world.provider.fail(CREATE, fault)
    world.start_approved()
    world.tick(30)
    assert world.run().state == "creating" and world.provider.count(CREATE) == 1
    world.pass_time(SETTLE_S)
    world.tick_until_state("training")
    assert world.jobs() == 1 and world.provider.count(CREATE) == 2
    assert len(world.files_at_provider()) == 1


def test_a_job_is_found_in_a_list_that_lags(world: World) -> None:
    world.provider.service.list_lag_s = 0.5
    world.provider.fail(CREATE, COMMIT_THEN_500)
    world.start_approved()
    world.tick(10)
    assert world.run().state == "creating"
    world.tick_until(lambda: world.run().job_id, "the job to show up")
    assert world.jobs() == 1 and world.provider.count(CREATE) == 1


def test_creates_without_a_clear_answer_need_a_person_and_stay_reserved(world: World) -> None:
    world.provider.fail(CREATE, NOTHING_BUT_500, times=MAX_CREATES)
    world.start_approved()
    for _ in range(MAX_CREATES):
        world.tick(2)
        world.pass_time(SETTLE_S)
    world.tick_until_state("needs_human")
    assert world.provider.count(CREATE) == MAX_CREATES and world.jobs() == 0
    assert set(world.ledger()) == {"reserve"}
    assert "reserved" in world.find_message("gave no clear answer")


def test_a_refused_look_for_an_uncertain_job_keeps_the_money_reserved(world: World) -> None:
    """With another key nobody can tell whether the job exists, so its money isn't released."""
    world.provider.fail(CREATE, COMMIT_THEN_500)
    world.start_approved()
    world.tick()
    world.provider.key = "sk-another"
    world.tick_until_state("needs_human")
    assert set(world.ledger()) == {"reserve"} and world.jobs() == 1
    assert "A job may have been created" in world.find_message("ACME_KEY")


def test_a_wrong_key_fails_the_run_at_no_cost(world: World) -> None:
    world.provider.key = "sk-another"
    world.start_approved()
    world.tick_until_state("failed")
    assert "Check the key in ACME_KEY" in world.find_message("nothing is owed")
    assert world.ledger()["settle"] == 0


def test_a_web_page_in_place_of_the_job_list_is_reported_and_passes(world: World) -> None:
    world.provider.fail(LIST, HTML, times=2)
    world.start_approved()
    world.tick()
    assert "a web page" in world.find_message("base_url")
    world.tick_until_state("training")
    assert world.jobs() == 1


def test_an_unknown_status_counts_as_running_and_is_shown(world: World) -> None:
    world.provider.service.stages = ("queued", "pondering", "pondering", "pondering", "succeeded")
    world.start_approved()
    world.tick_until(lambda: "pondering" in "\n".join(world.texts()), "the note")
    assert "which counts as running" in world.find_message("pondering")
    world.tick_until_state("evaluating")
    assert "pondering" not in "\n".join(world.texts())


def test_a_failed_job_shows_its_reason_escaped(world: World) -> None:
    world.provider.service.stages = ("queued", "failed")
    world.provider.service.failure = {"code": "bad_data", "message": "row 7 is <!channel> too long"}
    world.start_approved()
    world.tick_until_state("failed")
    card = world.find_message("Training failed", "row 7 is")
    assert "<!channel>" not in card and "/finetune start" in card
    assert world.ledger()["settle"] == 0
    assert any("row 7 is" in text for text in world.dms())


@pytest.mark.parametrize(
    "events",
    [Fault(False, status=404), Fault(False, status=200, body=b'{"data": [{"id": "e1"}]}')],
    ids=["missing", "without messages"],
)
def test_a_job_is_followed_without_its_events(world: World, events: Fault) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.provider.fail(f"GET {JOBS}/{world.run().job_id}/events", events, times=500)
    world.tick_until_state("evaluating")


def test_a_missing_result_file_costs_the_plot_but_not_the_result(world: World) -> None:
    """What the trainer warns about is said once each, in the run's thread."""
    world.provider.service.warnings = ("Rows left out: 12", "The base's <!channel> is 512 tokens")
    gone = Fault(commit=False, status=404, code="gone")
    world.provider.fail("GET /files/file-results-ftjob-1/content", gone, times=99)
    world.start_approved()
    world.tick_until_state("done")
    world.tick_until_file("quality.png")
    assert "loss.png" not in world.files()
    assert world.find_message("Result of run 1")
    replies = [message for message in world.slack.messages(PRIVATE.id) if "The trainer warns" in message.text]
    assert [message.text for message in replies] == [
        "The trainer warns: Rows left out: 12",
        "The trainer warns: The base's &lt;!channel&gt; is 512 tokens",
    ]
    (card,) = [message for message in world.slack.messages(PRIVATE.id) if message.ts == replies[0].thread_ts]
    assert "tickets" in card.text and replies[1].thread_ts == card.ts


def test_an_evaluation_continues_after_failed_questions_and_draws_a_base64_result_file(world: World) -> None:
    world.provider.service.base64_results = True
    world.provider.fail(CHAT, BUSY)
    world.provider.fail(CHAT, NOTHING_BUT_500)
    world.start_approved()
    world.tick_until(lambda: "Measuring resumes" in "\n".join(world.texts()), "the note")
    world.tick_until_state("done")
    answers = world.store.runs.answers
    assert len(answers(1, "tuned")) == len(answers(1, "base")) == 18
    assert world.provider.count(CHAT) == 2 * 18 + 2, "each answer is paid for once; two requests failed"
    world.tick_until_file("loss.png")


@pytest.mark.deep
def test_a_provider_that_is_away_for_a_while_is_waited_for(world: World) -> None:
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


def test_a_look_at_a_job_that_hangs_is_tried_again(make_world: MakeWorld) -> None:
    world = make_world(Rules(trainer_timeout_s=0.3))
    world.start_approved()
    world.tick_until_state("training")
    world.provider.fail(JOB, HANG)
    world.pass_time(60)
    world.tick()
    assert "no answer in time" in world.find_message("Trying again")
    world.tick_until_state("evaluating")


def test_a_run_continues_once_a_removed_key_is_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_plan_waits_for_approval_although_its_providers_key_was_removed(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = world.start()
    monkeypatch.delenv("ACME_KEY")
    world.restart()
    world.tick(2)
    assert world.run(run.id).tries > 0
    assert "failed" not in caplog.text


def test_a_job_whose_model_gets_no_name_fails_and_is_paid_for(world: World) -> None:
    world.abilities = '"metadata", "metadata_filter", "method", "suffix"'
    world.provider.service.shape = "openai"
    world.restart()
    world.start_approved()
    world.tick_until_state("failed")
    assert "could not be measured" in world.find_message("tickets-1")
    assert world.run().actual_micros == world.ledger()["settle"] > 0
