"""Free text: judged by a model that people can check. The judge is asked like the arms, and never trusted
blindly."""

from __future__ import annotations

import json
import random
import time
from string import ascii_lowercase
from typing import Any

import pytest

from bot.cards import evaluation_results, evaluations
from bot.values.evaluations import LadderPlan, LadderProgress
from demo.people import ANA, BEN
from tests.bot.test_story_ladder import CHAT, MakeWorld, ladder_of, measurement, until, until_asked
from tests.bot.world import MODEL, PRIVATE, Rules, World
from tests.peers.hosted import Fault
from trainers.evaluation.prompts import ACCEPTABLE, BETTER

JUDGE = "sage-1"
PRICES = (
    '[prices."acme/acme-small"]\ninput = "0.80"\noutput = "3.20"\n'
    f'[prices."acme/{JUDGE}"]\ninput = "1.00"\noutput = "4.00"\n'
)
FAR = (
    '[providers.far]\ntitle = "Far"\nbase_url = "https://far.example/v1"\nkey_env = "ACME_KEY"\n'
    'abilities = ["chat"]\n[prices."far/sage-1"]\ninput = "1"\noutput = "4"\n'
)
LINE = f"/finetune baseline faq models=acme/acme-small rungs=zero,kshot judge=acme/{JUDGE}"
ROWS = 80
Messages = list[dict[str, Any]]


def faq() -> str:
    """Free answers to questions that are no copies of each other."""
    chance = random.Random(7)
    words = ["".join(chance.choices(ascii_lowercase, k=6)) for _ in range(400)]
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"{' '.join(chance.sample(words, 9))} {one}?"},
                {"role": "assistant", "content": f"Parcel {one} leaves the house in {one % 7 + 1} days."},
            ]
        }
        for one in range(ROWS)
    )
    return "\n".join(json.dumps(row) for row in rows)


def answered(model: str, messages: Messages) -> str:
    """Ten examples help: with them every parcel is right, without them one in three."""
    asked = messages[-1]["content"]
    if model == JUDGE:
        return verdict(messages)
    number = int(asked.rsplit(" ", 1)[1].rstrip("?"))
    if len(messages) > 2 or number % 3 == 0:
        return f"It goes out in {number % 7 + 1} days."
    return f"Nobody knows about {number}."


def verdict(messages: Messages) -> str:
    """A fair judge: a number of days is an answer."""
    text = messages[-1]["content"]
    if messages[0]["content"] == BETTER:
        first, second = ("goes out" in part(text, f"answer {name}") for name in "AB")
        return "TIE" if first == second else "A" if first else "B"
    assert messages[0]["content"] == ACCEPTABLE
    return "YES" if "goes out" in part(text, "answer") else "No."


def part(text: str, name: str) -> str:
    return text.split(f"--- {name} ---")[1].split("--- end of")[0]


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return with_faq(make_world)


def with_faq(make_world: MakeWorld, rules: Rules | None = None) -> World:
    world = make_world(rules or Rules(more=PRICES))
    world.provider.service.models = (MODEL, JUDGE)
    world.provider.service.answer = answered
    world.upload("faq.jsonl", faq(), called="faq")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    return world


def agreed(world: World, line: str = LINE, number: int = 1) -> None:
    assert world.type(line) == ""
    until_asked(world, number)
    world.click(BEN, evaluations.MEASURE)


def judged(world: World, line: str = LINE, number: int = 1) -> None:
    agreed(world, line, number)
    until(world, "done", number)


def progress_of(world: World, number: int = 1) -> LadderProgress:
    return LadderProgress.from_json(measurement(world, number).progress)


def asked_of_judge(world: World) -> list[Messages]:
    seen = (one.body for one in world.provider.requests if one.route == CHAT)
    return [body["messages"] for body in seen if body["model"] == JUDGE]


def held(world: World) -> int:
    return LadderPlan.from_json(measurement(world).plan).n_holdout


def details(world: World) -> str:
    world.click(BEN, evaluation_results.DETAILS)
    return world.read_form(BEN)


def test_thoughts_before_an_answer_are_judged_no_more_than_they_are_scored(world: World) -> None:
    def thoughtful(model: str, messages: Messages) -> str:
        text = answered(model, messages)
        return text if model == JUDGE else f"<think>Perhaps it goes out today?</think>{text}"

    world.provider.service.answer = thoughtful
    judged(world)
    assert [rung.score for rung in ladder_of(world).rungs][1] == 1
    assert ladder_of(world).rungs[0].score < 1
    assert not [one for one in asked_of_judge(world) if "today" in one[-1]["content"]]


def test_a_judge_decides_what_shared_words_cannot(world: World) -> None:
    agreed(world)
    card = world.find_message("Measure 2 alternatives on faq")
    rows = held(world)
    assert f"acme/{JUDGE}, up to {4 * rows} questions" in card
    done = until(world, "done")
    zero, kshot = ladder_of(world).rungs
    assert zero.scoring == kshot.scoring == "judge"
    assert kshot.score == 1.0 and 0.1 < zero.score < 0.6
    judge = progress_of(world).judge
    assert judge and judge.failed is None and judge.unread == 0 and judge.pair
    assert judge.pair.first == kshot.arm and judge.pair.count(None) == 0
    assert judge.pair.count("first") == rows - round(zero.score * rows)
    assert 0 < (done.actual_micros or 0) <= done.reserved_micros
    said = world.find_message("Measurement m1:", f"Judged by acme/{JUDGE}")
    assert "agreement with people not measured yet" in said and "Side by side" in details(world)


def test_each_answer_is_asked_about_once_and_the_best_two_in_both_orders(world: World) -> None:
    judged(world)
    rows, asked = held(world), asked_of_judge(world)
    alone = [one for one in asked if one[0]["content"] == ACCEPTABLE]
    side_by_side = [one[-1]["content"] for one in asked if one[0]["content"] == BETTER]
    zero, _ = ladder_of(world).rungs
    differ = rows - round(zero.score * rows)
    assert len(alone) == rows + differ, "the same answer of both is one question"
    assert len(side_by_side) == 2 * differ, "two answers that are the same are no choice"
    orders = {(part(one, "question"), part(one, "answer A"), part(one, "answer B")) for one in side_by_side}
    assert all((question, second, first) in orders for question, first, second in orders)


def test_the_price_said_before_holds_and_a_repeat_is_free(world: World) -> None:
    judged(world)
    first, asked = measurement(world), world.provider.count(CHAT)
    without = f"{LINE.split(' judge=')[0]} bar=84%"
    world.type(without)
    until(world, "done", 2)
    assert measurement(world, 2).reserved_micros == 0 < first.reserved_micros
    assert world.type(LINE) == ""
    until(world, "done", 3)
    assert measurement(world, 3).reserved_micros == 0 and measurement(world, 3).actual_micros == 0
    assert world.provider.count(CHAT) == asked
    assert ladder_of(world, 3).rungs == ladder_of(world, 1).rungs


def test_without_a_judge_the_card_says_what_f1_measures(world: World) -> None:
    judged(world, LINE.split(" judge=")[0])
    assert ladder_of(world).rungs[0].scoring == "f1"
    assert "F1 only counts words" in world.find_message("Measurement m1:")
    assert asked_of_judge(world) == [] and progress_of(world).judge is None


def test_a_judge_that_talks_nonsense_decides_nothing_and_that_is_said(world: World) -> None:
    world.provider.service.answer = lambda model, messages: (
        "YES and NO" if model == JUDGE else answered(model, messages)
    )
    judged(world)
    assert {rung.scoring for rung in ladder_of(world).rungs} == {"f1"}
    said = world.find_message("Measurement m1:", "were not used")
    assert "gave no readable verdict" in said and "The score is F1 instead" in said
    assert not [one for one in asked_of_judge(world) if one[0]["content"] == BETTER], "no money after bad"


def test_a_few_answers_without_a_verdict_count_as_not_acceptable(world: World) -> None:
    silenced: list[str] = []

    def once_silent(model: str, messages: Messages) -> str:
        text = messages[-1]["content"]
        is_verdict = model == JUDGE and messages[0]["content"] == ACCEPTABLE
        if is_verdict and "goes out" in part(text, "answer") and text in (silenced or [text]):
            silenced.append(text)
            return "Hard to tell."
        return answered(model, messages)

    world.provider.service.answer = once_silent
    judged(world)
    judge = progress_of(world).judge
    assert judge and judge.failed is None and judge.unread in (1, 2)
    assert ladder_of(world).rungs[1].score == 1 - 1 / held(world)
    assert "no readable verdict and count as not acceptable" in details(world)


def test_a_judge_that_goes_by_the_place_has_no_verdict_on_pairs(world: World) -> None:
    def always_first(model: str, messages: Messages) -> str:
        is_pair = model == JUDGE and messages[0]["content"] == BETTER
        return "A" if is_pair else answered(model, messages)

    world.provider.service.answer = always_first
    judged(world)
    judge = progress_of(world).judge
    assert judge and judge.pair and judge.pair.count("first") == judge.pair.count("second") == 0
    assert judge.pair.count(None) > 0
    assert "its verdict changed with the order" in details(world)


def test_a_judge_that_is_closed_midway_leaves_the_score_to_f1(world: World) -> None:
    gone = Fault(commit=False, status=404, code="model_not_found")
    agreed(world)
    world.tick_until(lambda: progress_of(world).stage == "measuring", "the arms")
    world.tick_until(lambda: world.provider.count(CHAT) >= 2 * held(world), "their answers")
    world.provider.fail(CHAT, gone, times=999)
    until(world, "done")
    assert {rung.scoring for rung in ladder_of(world).rungs} == {"f1"}
    assert "were not used" in world.find_message("Measurement m1:", "The score is F1 instead")


@pytest.mark.parametrize("ticks", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_bot_stopped_while_it_judges_goes_on_where_it_was(world: World, ticks: int) -> None:
    agreed(world)
    world.tick_until(lambda: progress_of(world).stage == "consulting", "the judge")
    world.provider.slow_s = 0.05
    for _ in range(ticks):
        world.tick()
        time.sleep(0.2)
        world.restart()
    world.provider.slow_s = 0.0
    until(world, "done")
    texts = [one[-1]["content"] for one in asked_of_judge(world)]
    assert len(texts) - len(set(texts)) <= 8 * ticks, "what was under way at a stop, at most, is asked again"
    assert ladder_of(world).rungs[1].score == 1.0 and progress_of(world).judge.pair  # type: ignore[union-attr]
    assert len([text for text in world.texts() if "Judged by" in text and "Measurement m1:" in text]) == 1


def test_a_restart_while_it_is_priced_and_a_lost_folder_lose_nothing(world: World) -> None:
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
    assert ladder_of(world).rungs[0].scoring == "judge" and (done.actual_micros or 0) <= reserved


def test_cancelled_while_it_judges_what_it_said_is_paid(world: World) -> None:
    agreed(world)
    world.tick_until(lambda: progress_of(world).stage == "consulting", "the judge")
    arms = progress_of(world).spent_micros
    world.tick_until(lambda: len(asked_of_judge(world)) > 3, "some verdicts")
    world.type("/finetune cancel m1")
    assert arms < (until(world, "cancelled").actual_micros or 0)


def test_answers_longer_than_foreseen_never_cost_more_than_agreed(world: World) -> None:
    long = " ".join(f"número-{one}" for one in range(4_000))  # the peer heeds no cap on tokens
    world.provider.service.answer = lambda model, messages: (
        answered(model, messages) + (long if model == MODEL else "")
    )
    judged(world)
    done = measurement(world)
    assert 0 < (done.actual_micros or 0) <= done.reserved_micros
    assert "could cost more than" in details(world)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"faq judge=openai/gpt-4o-mini {'models=acme/acme-small'}", "OPENAI_API_KEY"),
        ("faq models=acme/acme-small judge=acme/nobody", "I know no price"),
        ("faq models=acme/acme-small judge=", "is empty"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused_at_once(world: World, line: str, said: str) -> None:
    assert said in world.type(f"/finetune baseline {line}")
    assert world.store.measurements.newest() == []


def test_labels_need_no_judge(make_world: MakeWorld) -> None:
    world = make_world(Rules(more=PRICES))
    world.seed_dataset()
    said = world.type(f"/finetune baseline tickets models=acme/acme-small judge=acme/{JUDGE}")
    assert "Labels need no judge" in said
    world.slack.command(ANA.id, PRIVATE.id, "/finetune baseline")
    sent = world.slack.submit_modal(ANA.id, {"dataset": "tickets", "judge": f"acme/{JUDGE}"})
    assert "Labels need no judge" in sent.errors["judge"]


def test_a_judge_of_its_own_answers_is_warned_of_before_and_after(world: World) -> None:
    world.provider.service.answer = lambda model, messages: (
        verdict(messages) if messages[0]["content"] in (ACCEPTABLE, BETTER) else answered(model, messages)
    )
    agreed(world, LINE.replace(JUDGE, MODEL))
    assert "tend to prefer" in world.find_message("Measure 2 alternatives")
    until(world, "done")
    assert "also judges its own answers" in details(world)


def test_the_form_takes_a_judge_too(world: World) -> None:
    world.slack.command(ANA.id, PRIVATE.id, "/finetune baseline")
    sent = world.slack.submit_modal(
        ANA.id, {"dataset": "faq", "models": "acme/acme-small", "judge": f"acme/{JUDGE}"}
    )
    assert sent.accepted
    assert LadderPlan.from_json(measurement(world).plan).judge == f"acme/{JUDGE}"


def test_what_a_model_here_says_out_of_a_document_does_not_reach_a_judge_elsewhere(
    make_world: MakeWorld,
) -> None:
    world = with_faq(make_world, Rules(more=PRICES + FAR))
    world.slack.command(ANA.id, PRIVATE.id, "/finetune knowledge faq")
    world.slack.submit_modal(ANA.id, {"file": world.put_file("a.md", "Parcels leave on Mondays. " * 40)})
    world.tick_until(lambda: world.store.documents.get(1).state == "ready", "the document")
    near = "/finetune baseline faq models=acme/acme-small rungs=retrieval"
    assert world.type(near) == "" and world.type(f"{near} judge=far/sage-1") == ""
    plans = [LadderPlan.from_json(measurement(world, number).plan) for number in (1, 2)]
    assert [plan.withheld_from for plan in plans] == [(), ("acme/acme-small",)]


def test_a_rule_that_came_after_the_yes_keeps_rows_from_the_judge(make_world: MakeWorld) -> None:
    world = with_faq(make_world)
    agreed(world)
    world.tick_until(lambda: progress_of(world).stage == "consulting", "the judge's turn")
    heard = len(asked_of_judge(world))
    world.rules.more += '[[policy.data]]\nname = "stays here"\nproviders = ["local"]\n'
    world.restart()
    until(world, "done")
    assert len(asked_of_judge(world)) == heard
    assert "stays here" in world.find_message("stays here")
