"""Free text is judged by a model that people can check, and that is never trusted blindly."""

from __future__ import annotations

import time

import pytest

from bot.cards.evidence import evaluation_results, evaluations
from bot.values.evaluations import ComparisonPlan, ComparisonProgress
from demo.people import ANA, BEN
from tests.bot.faq import (
    JUDGE,
    LINE,
    PRICES,
    Messages,
    answer_faq,
    judge_fairly,
    judged,
    part,
    questions_to_judge,
    seed_judged,
    with_faq,
)
from tests.bot.measurements import CHAT, comparison_of, measurement, start_measurement, until, until_asked
from tests.bot.world import MODEL, PRIVATE, MakeWorld, Rules, World
from tests.peers.hosted import Fault
from trainers.evaluation.prompts import ACCEPTABLE, BETTER

FAR = (
    '[providers.far]\ntitle = "Far"\nbase_url = "https://far.example/v1"\nkey_env = "ACME_KEY"\n'
    'abilities = ["chat"]\n[prices."far/sage-1"]\ninput = "1"\noutput = "4"\n'
)


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return with_faq(make_world)


def progress_of(world: World, number: int = 1) -> ComparisonProgress:
    return ComparisonProgress.from_json(measurement(world, number).progress)


def held_rows(world: World) -> int:
    return ComparisonPlan.from_json(measurement(world).plan).n_holdout


def read_details(world: World) -> str:
    world.click(BEN, evaluation_results.DETAILS)
    return world.read_form(BEN)


@pytest.mark.deep
def test_thoughts_before_an_answer_are_not_judged(world: World) -> None:
    def think_first(model: str, messages: Messages) -> str:
        text = answer_faq(model, messages)
        return text if model == JUDGE else f"<think>Perhaps it goes out today?</think>{text}"

    world.provider.service.answer = think_first
    judged(world)
    zero, kshot = comparison_of(world).candidates
    assert zero.score < 1 and kshot.score == 1
    assert "today" not in str(questions_to_judge(world))


def test_a_judge_scores_each_answer_once_and_compares_the_best_two_in_both_orders(world: World) -> None:
    start_measurement(world, LINE)
    rows = held_rows(world)
    assert f"acme/{JUDGE}, up to {4 * rows} questions" in world.find_message("Measure 2 alternatives on faq")
    done = until(world, "done")
    zero, kshot = comparison_of(world).candidates
    assert zero.scoring == kshot.scoring == "judge"
    assert kshot.score == 1.0 and 0.1 < zero.score < 0.6
    differing = rows - round(zero.score * rows)
    judge = progress_of(world).judge
    assert judge and judge.failed is None and judge.unread == 0 and judge.pair
    assert judge.pair.first == kshot.identity and judge.pair.count(None) == 0
    assert judge.pair.count("first") == differing
    assert 0 < (done.actual_micros or 0) <= done.reserved_micros
    card = world.find_message("Measurement m1:", f"Judged by acme/{JUDGE}")
    assert "nobody has checked it yet" in card and "Side by side" in read_details(world)

    questions = questions_to_judge(world)
    single = [question for question in questions if question[0]["content"] == ACCEPTABLE]
    pairs = [question[-1]["content"] for question in questions if question[0]["content"] == BETTER]
    assert len(single) == rows + differing, "the same answer of both is one question"
    assert len(pairs) == 2 * differing, "two identical answers are not compared"
    orders = {(part(pair, "question"), part(pair, "answer A"), part(pair, "answer B")) for pair in pairs}
    assert all((question, second, first) in orders for question, first, second in orders)


@pytest.mark.deep
def test_repeating_a_judged_measurement_is_free(world: World) -> None:
    seed_judged(world)
    questions = world.provider.count(CHAT)
    world.type(f"{LINE.split(' judge=')[0]} bar=84%")
    assert until(world, "done", 2).reserved_micros == 0 < measurement(world).reserved_micros
    assert world.type(LINE) == ""
    repeated = until(world, "done", 3)
    assert repeated.reserved_micros == repeated.actual_micros == 0
    assert world.provider.count(CHAT) == questions
    first, third = (comparison_of(world, number).candidates for number in (1, 3))
    assert [candidate.scores for candidate in third] == [candidate.scores for candidate in first]


def test_without_a_judge_the_card_says_what_f1_measures(world: World) -> None:
    judged(world, LINE.split(" judge=")[0])
    assert comparison_of(world).candidates[0].scoring == "f1"
    assert "F1 only counts words" in world.find_message("Measurement m1:")
    assert questions_to_judge(world) == [] and progress_of(world).judge is None


def test_unreadable_verdicts_are_not_used_and_the_card_says_so(world: World) -> None:
    world.provider.service.answer = lambda model, messages: (
        "YES and NO" if model == JUDGE else answer_faq(model, messages)
    )
    judged(world)
    assert {candidate.scoring for candidate in comparison_of(world).candidates} == {"f1"}
    world.find_message(
        "Measurement m1:", "were not used", "gave no readable verdict", "The score is F1 instead"
    )
    assert BETTER not in str(questions_to_judge(world)), "pairs would cost money for nothing"


def test_single_answers_without_a_verdict_count_as_not_acceptable(world: World) -> None:
    silenced: list[str] = []

    def once_silent(model: str, messages: Messages) -> str:
        text = messages[-1]["content"]
        is_verdict = model == JUDGE and messages[0]["content"] == ACCEPTABLE
        if is_verdict and "goes out" in part(text, "answer") and text in (silenced or [text]):
            silenced.append(text)
            return "Hard to tell."
        return answer_faq(model, messages)

    world.provider.service.answer = once_silent
    judged(world)
    judge = progress_of(world).judge
    assert judge and judge.failed is None and judge.unread in (1, 2)
    assert comparison_of(world).candidates[1].score == 1 - 1 / held_rows(world)
    assert "no readable verdict and count as not acceptable" in read_details(world)


def test_a_judge_that_always_prefers_the_first_answer_decides_no_pair(world: World) -> None:
    def always_first(model: str, messages: Messages) -> str:
        is_pair = model == JUDGE and messages[0]["content"] == BETTER
        return "A" if is_pair else answer_faq(model, messages)

    world.provider.service.answer = always_first
    judged(world)
    judge = progress_of(world).judge
    assert judge and judge.pair and judge.pair.count("first") == judge.pair.count("second") == 0
    assert judge.pair.count(None) > 0
    assert "its verdict changed with the order" in read_details(world)


def test_f1_is_the_score_if_the_judge_disappears_midway(world: World) -> None:
    gone = Fault(commit=False, status=404, code="model_not_found")
    start_measurement(world, LINE)
    world.tick_until(lambda: progress_of(world).stage == "measuring", "the candidates' turn")
    world.tick_until(lambda: world.provider.count(CHAT) >= 2 * held_rows(world), "their answers")
    world.provider.fail(CHAT, gone, times=999)
    until(world, "done")
    assert {candidate.scoring for candidate in comparison_of(world).candidates} == {"f1"}
    assert "were not used" in world.find_message("Measurement m1:", "The score is F1 instead")


@pytest.mark.deep
@pytest.mark.parametrize("ticks", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_bot_restarted_while_judging_continues(world: World, ticks: int) -> None:
    start_measurement(world, LINE)
    world.tick_until(lambda: progress_of(world).stage == "consulting", "the judge")
    world.provider.slow_s = 0.05
    for _ in range(ticks):
        world.tick()
        time.sleep(0.2)
        world.restart()
    world.provider.slow_s = 0.0
    until(world, "done")
    texts = [question[-1]["content"] for question in questions_to_judge(world)]
    assert len(texts) - len(set(texts)) <= 8 * ticks, "at most those in flight at a stop are asked again"
    assert comparison_of(world).candidates[1].score == 1.0 and progress_of(world).judge.pair  # type: ignore[union-attr]
    assert len([text for text in world.texts() if "Judged by" in text and "Measurement m1:" in text]) == 1


@pytest.mark.deep
def test_a_restart_during_pricing_and_a_lost_folder_lose_nothing(world: World) -> None:
    world.type(LINE)
    world.tick_until(lambda: progress_of(world).stage == "pricing", "the pricing")
    world.restart()
    reserved = until_asked(world).reserved_micros
    world.click(BEN, evaluations.MEASURE)
    world.tick_until(lambda: progress_of(world).stage == "consulting", "the judge")
    folder = world.service.settings.data / "measurements" / "m1"
    for path in folder.iterdir():
        path.unlink()
    done = until(world, "done")
    assert comparison_of(world).candidates[0].scoring == "judge" and (done.actual_micros or 0) <= reserved


def test_a_measurement_cancelled_while_judging_pays_for_the_verdicts(world: World) -> None:
    start_measurement(world, LINE)
    world.tick_until(lambda: progress_of(world).stage == "consulting", "the judge")
    answers_micros = progress_of(world).spent_micros
    world.tick_until(lambda: len(questions_to_judge(world)) > 3, "some verdicts")
    world.type("/finetune cancel m1")
    assert answers_micros < (until(world, "cancelled").actual_micros or 0)


@pytest.mark.deep
def test_longer_answers_than_expected_never_cost_more_than_agreed(world: World) -> None:
    long = " ".join(f"número-{number}" for number in range(4_000))  # the peer heeds no cap on tokens
    world.provider.service.answer = lambda model, messages: (
        answer_faq(model, messages) + (long if model == MODEL else "")
    )
    judged(world)
    done = measurement(world)
    assert 0 < (done.actual_micros or 0) <= done.reserved_micros
    assert "could cost more than" in read_details(world)


def test_an_unavailable_judge_is_refused_at_once(world: World) -> None:
    for judge, reason in (
        ("openai/gpt-4o-mini", "OPENAI_API_KEY"),
        ("acme/nobody", "I know no price"),
        ("", "is empty"),
    ):
        assert reason in world.type(f"/finetune baseline faq models=acme/acme-small judge={judge}")
    assert world.store.measurements.newest() == []


def test_labels_need_no_judge(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    reply = world.type(f"/finetune baseline tickets models=acme/acme-small judge=acme/{JUDGE}")
    assert "Labels need no judge" in reply
    world.slack.command(ANA.id, PRIVATE.id, "/finetune baseline")
    sent = world.slack.submit_modal(ANA.id, {"dataset": "tickets", "judge": f"acme/{JUDGE}"})
    assert "Labels need no judge" in sent.errors["judge"]


def test_a_model_that_judges_its_own_answers_gets_a_warning(world: World) -> None:
    world.provider.service.answer = lambda model, messages: (
        judge_fairly(messages)
        if messages[0]["content"] in (ACCEPTABLE, BETTER)
        else answer_faq(model, messages)
    )
    start_measurement(world, LINE.replace(JUDGE, MODEL))
    assert "tend to prefer" in world.find_message("Measure 2 alternatives")
    until(world, "done")
    assert "also judges its own answers" in read_details(world)


def test_the_form_accepts_a_judge(world: World) -> None:
    world.slack.command(ANA.id, PRIVATE.id, "/finetune baseline")
    sent = world.slack.submit_modal(
        ANA.id, {"dataset": "faq", "models": "acme/acme-small", "judge": f"acme/{JUDGE}"}
    )
    assert sent.accepted
    assert ComparisonPlan.from_json(measurement(world).plan).judge == f"acme/{JUDGE}"


def test_answers_from_a_document_do_not_reach_a_judge_elsewhere(
    make_world: MakeWorld,
) -> None:
    world = with_faq(make_world, Rules(more=PRICES + FAR))
    world.slack.command(ANA.id, PRIVATE.id, "/finetune knowledge faq")
    world.slack.submit_modal(ANA.id, {"file": world.put_file("a.md", "Parcels leave on Mondays. " * 40)})
    world.tick_until(lambda: world.store.documents.get(1).state == "ready", "the document")
    near = "/finetune baseline faq models=acme/acme-small candidates=retrieval"
    assert world.type(near) == "" and world.type(f"{near} judge=far/sage-1") == ""
    plans = [ComparisonPlan.from_json(measurement(world, number).plan) for number in (1, 2)]
    assert [plan.withheld_from for plan in plans] == [(), ("acme/acme-small",)]


def test_a_data_rule_added_after_the_approval_keeps_rows_from_the_judge(make_world: MakeWorld) -> None:
    world = with_faq(make_world)
    start_measurement(world, LINE)
    world.tick_until(lambda: progress_of(world).stage == "consulting", "the judge's turn")
    questions = len(questions_to_judge(world))
    world.rules.more += '[[policy.data]]\nname = "stays here"\nproviders = ["local"]\n'
    world.restart()
    until(world, "done")
    assert len(questions_to_judge(world)) == questions
    assert "stays here" in world.find_message("stays here")
