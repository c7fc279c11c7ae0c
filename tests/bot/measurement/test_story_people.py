"""People judge answers: whether a judge model can be trusted and, without one, which answers they prefer."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bot.cards.common import judge_agreement
from bot.cards.evidence import evaluations, judge_checks
from bot.services.datasets import datasets
from bot.services.evidence.evidence import load_evidence
from demo.people import ANA, BEN
from demo.workspace import Person
from storage.records import HumanVerdict
from tests.bot.faq import JUDGE, LINE, seed_judged, with_faq
from tests.bot.measurements import measure, until, until_asked
from tests.bot.world import GUS, PRIVATE, PUBLIC, TARGET, MakeWorld, World, words_of


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return with_faq(make_world)


def start_judging(world: World, user: Person) -> str:
    reply = world.click_and_read(user, judge_agreement.JUDGE_SOME)
    world.send()
    return reply


def judge_pair(world: World, user: Person, choose: Callable[[str, str], str]) -> None:
    """On this person's newest card, press the button that `choose` finds for the first and the second answer."""
    card = next(
        message
        for message in reversed(world.slack.messages(PRIVATE.id))
        if f'{user.id}"' in (blocks := json.dumps(list(message.blocks))) and judge_agreement.FIRST in blocks
    )
    first, second = (words.split("&gt;")[0] for words in words_of(card).split("*First*")[1].split("*Second*"))
    before = len(world.store.preferences.of(1))
    world.slack.click(user.id, PRIVATE.id, card.ts, choose(first, second))
    assert len(world.store.preferences.of(1)) == before + 1
    world.send()


def prefer_right(first: str, second: str) -> str:
    return judge_agreement.FIRST if "goes out" in first else judge_agreement.SECOND


def judge_answer(world: World, user: Person, *, agrees: bool = True) -> None:
    """On this person's newest card, press the button that agrees with the judge, or the other one."""
    card = next(
        message
        for message in reversed(world.slack.messages(PRIVATE.id))
        if f'{user.id}"' in (blocks := json.dumps(list(message.blocks))) and judge_checks.ACCEPT in blocks
    )
    accepts = "goes out" in words_of(card).split("*The answer to judge*")[1]
    before = len(verdicts(world))
    button = judge_checks.ACCEPT if accepts == agrees else judge_checks.REJECT
    world.slack.click(user.id, PRIVATE.id, card.ts, button)
    assert len(verdicts(world)) == before + 1
    world.send()


def verdicts(world: World) -> list[HumanVerdict]:
    return world.store.human_verdicts.on("faq", f"acme/{JUDGE}")


@pytest.mark.deep
def test_people_judge_what_is_scored_and_see_the_right_answer(world: World) -> None:
    seed_judged(world)
    first = world.find_button(judge_agreement.JUDGE_SOME)
    assert "*Next*: Check the judge" in words_of(first)
    assert "next answer to judge is in the thread" in start_judging(world, ANA)
    card = world.find_message("Is this answer acceptable?")
    assert "*The right answer in your data*" in card and "leaves the house in" in card
    assert "acme" not in card and "examples" not in card, "who answered is hidden"
    for number in range(10):
        if number == 5:
            world.restart()
        judge_answer(world, ANA)
    judged = verdicts(world)
    assert len({verdict.answer for verdict in judged}) == 10
    assert [verdict.judged for verdict in judged].count("yes") == 5, "from both sides of the judge's verdicts"
    summary = world.find_message("agree on 10 of 10 answers: 72–100%")
    assert "Not known yet whether to trust this judge" in summary and "Judge 10 more" in summary
    waiting = [text for text in world.texts() if "You don't see what the judge said" in text]
    assert not waiting, "after ten there is a rest"
    world.find_message("Measurement m1:", "Judged by", "agree with it on 10 of 10 answers (72–100%)")


def test_verdicts_count_for_the_judge_in_all_measurements_of_the_dataset(world: World) -> None:
    """Each of them can be checked, also one of a single alternative."""
    seed_judged(world)
    start_judging(world, ANA)
    for _ in range(10):
        judge_answer(world, ANA)
    world.type(LINE.replace("candidates=zero,kshot", "candidates=zero"))
    until(world, "done", 2)
    card = next(
        message
        for message in reversed(world.slack.messages(PRIVATE.id))
        if judge_agreement.JUDGE_SOME in json.dumps(list(message.blocks))
    )
    assert "Measurement m2:" in words_of(card)
    assert "agree with it on 10 of 10 answers (72–100%)" in words_of(card)
    world.slack.click(ANA.id, PRIVATE.id, card.ts, judge_agreement.JUDGE_SOME)
    world.send()
    judge_answer(world, ANA)
    assert len({verdict.answer for verdict in verdicts(world)}) == 11, "no answer is shown twice"


@pytest.mark.deep
def test_two_people_judge_different_answers_until_the_judge_is_trusted(world: World) -> None:
    seed_judged(world)
    assert judge_agreement.JUDGE_SOME in buttons_of_estimate(world)
    for user in (ANA, BEN):
        start_judging(world, user)
        for _ in range(10):
            judge_answer(world, user)
    assert len({verdict.answer for verdict in verdicts(world)}) == 20
    card = world.find_message("You can trust this judge")
    assert "*Next*: Check the judge" not in world.find_message("Measurement m1:")
    assert "2 people agree on 20 of 20 answers" in card
    assert "trusted: people agree with it on 20 of 20" in world.type("/finetune results m1")
    assert len([text for text in world.texts() if "You can trust this judge" in text]) == 1
    assert judge_agreement.JUDGE_SOME not in buttons_of_estimate(world)


def buttons_of_estimate(world: World) -> list[str]:
    """The actions of the buttons on an estimate's card, in their order."""
    before = len(world.slack.ephemerals(ANA.id))
    world.type(f"/finetune estimate faq current=gpt-4o volume=10B target={TARGET} hours=8")
    world.wait_for_answer(ANA, before)
    card = world.slack.ephemerals(ANA.id)[-1]
    (row,) = (block for block in card.blocks if block["type"] == "actions")
    return [element["action_id"] for element in row["elements"]]


def test_verdicts_that_contradict_the_judge_warn_against_it(world: World) -> None:
    seed_judged(world)
    for user in (ANA, BEN):
        start_judging(world, user)
        for number in range(10):
            judge_answer(world, user, agrees=number % 3 == 0)
    world.find_message("Don't trust this judge", "measure again with another judge")
    world.find_message("Measurement m1:", "don't trust it", "*Next*: Measure again with another judge")
    dataset = world.dataset()
    report = datasets.report_of(dataset)
    assert report is not None
    evidence = load_evidence(world.service.context, dataset, report, None)
    assert evidence.is_judge_distrusted


def test_an_answer_is_judged_once_and_by_the_person_it_is_for(world: World) -> None:
    seed_judged(world)
    start_judging(world, ANA)
    assert f"This answer is for <@{ANA.id}>" in world.click_and_read(BEN, judge_checks.ACCEPT)
    card = world.find_button(judge_checks.ACCEPT)
    world.slack.click(ANA.id, PRIVATE.id, card.ts, judge_checks.UNSURE)
    world.slack.click(ANA.id, PRIVATE.id, card.ts, judge_checks.REJECT)
    (verdict,) = verdicts(world)
    assert verdict.verdict == "unsure"
    assert "Only full members" in world.click_and_read(GUS, judge_agreement.JUDGE_SOME)


def test_a_public_channel_shows_no_answers_to_compare(world: World) -> None:
    world.store.database.change("UPDATE datasets SET owner = ?, sources = ?", (PUBLIC.id, PUBLIC.id))
    assert world.type(LINE, channel=PUBLIC) == ""
    until_asked(world)
    world.click(BEN, evaluations.MEASURE, channel=PUBLIC)
    until(world, "done")
    assert world.find_message("Measurement m1:", channel=PUBLIC)
    buttons = json.dumps([list(message.blocks) for message in world.slack.messages(PUBLIC.id)])
    assert judge_agreement.JUDGE_SOME not in buttons
    assert "Nobody can check the judge here" in world.find_message("Measurement m1:", channel=PUBLIC)
    assert "goes out" not in "\n".join(world.texts(PUBLIC))


def test_without_a_judge_the_choices_alone_are_counted(world: World) -> None:
    measure(world, LINE.replace(f" judge=acme/{JUDGE}", ""))
    start_judging(world, ANA)
    for _ in range(10):
        judge_pair(world, ANA, prefer_right)
    assert "10 for ten examples" in world.find_message("10 choices of 1 person")
