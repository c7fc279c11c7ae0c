"""People compare the two best answers, pair by pair: how far a measurement's judge can be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bot.cards import evaluations, judge_agreement
from demo.people import ANA, BEN
from demo.workspace import Person
from tests.bot.faq import JUDGE, LINE, seed_judged, with_faq
from tests.bot.measurements import measure, until, until_asked
from tests.bot.world import GUS, PRIVATE, PUBLIC, MakeWorld, World, words_of


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


def prefer_wrong(first: str, second: str) -> str:
    return judge_agreement.SECOND if "goes out" in first else judge_agreement.FIRST


def test_choices_that_agree_with_the_judge_are_counted_on_its_card(world: World) -> None:
    seed_judged(world)
    assert "next pair is in the thread" in start_judging(world, ANA)
    card = world.find_message("Which answer is better?")
    assert "acme" not in card and "examples" not in card, "who answered is hidden"
    for number in range(10):
        if number == 5:
            world.restart()
        judge_pair(world, ANA, prefer_right)
    choices = world.store.preferences.of(1)
    assert len({choice.row for choice in choices}) == 10 and {choice.person for choice in choices} == {ANA.id}
    assert len({choice.choice for choice in choices}) == 2, "which answer comes first is drawn"
    chosen = {choice.first_arm if choice.choice == "first" else choice.second_arm for choice in choices}
    assert chosen == {"kshot acme/acme-small"}
    summary = world.find_message("10 choices of 1 person")
    assert "10 for ten examples" in summary and "κ can't be calculated" in summary
    open_pairs = [
        text for text in world.texts() if "Which answer is better?" in text and "finds the" not in text
    ]
    assert not open_pairs, "after ten there is a rest"
    world.find_message("Measurement m1:", "Judged by", "unknown, because all 10 choices are the same")


def test_choices_that_contradict_the_judge_warn_against_it(world: World) -> None:
    seed_judged(world)
    for user in (ANA, BEN):
        start_judging(world, user)
        for number in range(10):
            judge_pair(world, user, prefer_wrong if number % 2 else prefer_right)
    card = world.find_message("Measurement m1. κ")
    assert "20 choices of 2 people" in card and "Pairs that two people judged" in card
    assert "agree on 10 of 10, κ = 1.00" in card
    world.find_message(
        "Measurement m1:", f"Judged by acme/{JUDGE}", "κ = ", "on 20 human choices", "don't trust this judge"
    )
    assert len([text for text in world.texts() if "Measurement m1. κ" in text]) == 1
    assert "on 20 human choices" in world.type("/finetune results m1")


def test_a_pair_is_judged_once_and_by_the_person_it_is_for(world: World) -> None:
    seed_judged(world)
    start_judging(world, ANA)
    assert f"This pair is for <@{ANA.id}>" in world.click_and_read(BEN, judge_agreement.FIRST)
    card = world.find_button(judge_agreement.FIRST)
    world.slack.click(ANA.id, PRIVATE.id, card.ts, judge_agreement.FIRST)
    world.slack.click(ANA.id, PRIVATE.id, card.ts, judge_agreement.SECOND)
    (choice,) = world.store.preferences.of(1)
    assert choice.choice == "first"
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
    assert "goes out" not in "\n".join(world.texts(PUBLIC))


def test_without_a_judge_the_choices_alone_are_counted(world: World) -> None:
    measure(world, LINE.replace(f" judge=acme/{JUDGE}", ""))
    start_judging(world, ANA)
    for _ in range(10):
        judge_pair(world, ANA, prefer_right)
    assert "10 for ten examples" in world.find_message("10 choices of 1 person")
