"""People compare the two best answers, pair by pair: how far the judge of a ladder can be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from bot.cards import evaluations, judge_agreement
from demo.people import ANA, BEN
from tests.bot.test_story_judge import JUDGE, LINE, judged, with_faq
from tests.bot.test_story_ladder import MakeWorld, until, until_asked
from tests.bot.world import GUS, PRIVATE, PUBLIC, World, words_of


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return with_faq(make_world)


def judge_pair(world: World, user: Any, choose: Callable[[str, str], str]) -> None:
    """Press what `choose` finds of the first and the second answer on this person's newest card."""
    card = next(
        one
        for one in reversed(world.slack.messages(PRIVATE.id))
        if f'{user.id}"' in json.dumps(list(one.blocks))
        and judge_agreement.FIRST in json.dumps(list(one.blocks))
    )
    first, second = (words.split("&gt;")[0] for words in words_of(card).split("*First*")[1].split("*Second*"))
    before = len(world.store.preferences.of(1))
    world.slack.click(user.id, PRIVATE.id, card.ts, choose(first, second))
    assert len(world.store.preferences.of(1)) == before + 1
    world.send()


def fairly(first: str, second: str) -> str:
    return judge_agreement.FIRST if "goes out" in first else judge_agreement.SECOND


def contrarily(first: str, second: str) -> str:
    return judge_agreement.SECOND if "goes out" in first else judge_agreement.FIRST


def press(world: World, user: Any) -> str:
    said = world.click_and_read(user, judge_agreement.JUDGE_SOME)
    world.send()
    return said


def test_people_who_agree_with_the_judge_lend_it_their_trust(world: World) -> None:
    judged(world)
    assert "next pair is in the thread" in press(world, ANA)
    card = world.find_message("Which answer is better?")
    assert "acme" not in card and "examples" not in card, "who answered is hidden"
    for number in range(10):
        if number == 5:
            world.restart()
        judge_pair(world, ANA, fairly)
    labels = world.store.preferences.of(1)
    assert len({one.row for one in labels}) == 10 and {one.person for one in labels} == {ANA.id}
    assert len({one.choice for one in labels}) == 2, "the places are drawn"
    assert {one.first_arm if one.choice == "first" else one.second_arm for one in labels} == {
        "kshot acme/acme-small"
    }
    said = world.find_message("10 choices of 1 person")
    assert "10 for ten examples" in said and "κ can't be calculated" in said
    assert "Which answer is better?" not in "\n".join(
        text for text in world.texts() if "finds the" not in text
    ), "after ten there is a rest"
    assert "unknown, because all 10 choices are the same" in world.find_message(
        "Measurement m1:", "Judged by"
    )


def test_people_who_disagree_with_the_judge_are_heard(world: World) -> None:
    judged(world)
    for user in (ANA, BEN):
        press(world, user)
    turn = iter([fairly, contrarily] * 20)
    for _ in range(10):
        judge_pair(world, ANA, next(turn))
    for _ in range(10):
        judge_pair(world, BEN, next(turn))
    assert len(world.store.preferences.of(1)) == 20
    card = world.find_message("Measurement m1. κ")
    assert "20 choices of 2 people" in card and "Pairs that two people judged" in card
    assert "agree on 10 of 10, κ = 1.00" in card
    assert "κ = " in world.find_message("Measurement m1:", f"Judged by acme/{JUDGE}", "on 20 human choices")
    assert "don't trust this judge" in world.find_message("Measurement m1:", "Judged by")
    assert len([text for text in world.texts() if "Measurement m1. κ" in text]) == 1
    assert "on 20 human choices" in world.type("/finetune results m1")


def test_a_pair_is_judged_once_and_by_whom_it_is_for(world: World) -> None:
    judged(world)
    press(world, ANA)
    assert f"This pair is for <@{ANA.id}>" in world.click_and_read(BEN, judge_agreement.FIRST)
    card = world.find_button(judge_agreement.FIRST)
    world.slack.click(ANA.id, PRIVATE.id, card.ts, judge_agreement.FIRST)
    world.slack.click(ANA.id, PRIVATE.id, card.ts, judge_agreement.SECOND)
    (label,) = world.store.preferences.of(1)
    assert label.choice == "first"
    assert "Only full members" in world.click_and_read(GUS, judge_agreement.JUDGE_SOME)


def test_no_customer_s_words_are_shown_in_a_public_channel(world: World) -> None:
    world.store.database.change("UPDATE datasets SET owner = ?, sources = ?", (PUBLIC.id, PUBLIC.id))
    assert world.type(LINE, channel=PUBLIC) == ""
    until_asked(world)
    world.click(BEN, evaluations.MEASURE, channel=PUBLIC)
    until(world, "done")
    assert world.find_message("Measurement m1:", channel=PUBLIC)
    buttons = json.dumps([list(one.blocks) for one in world.slack.messages(PUBLIC.id)])
    assert judge_agreement.JUDGE_SOME not in buttons
    assert "goes out" not in "\n".join(world.texts(PUBLIC))


@pytest.mark.parametrize("user", [ANA, BEN])
def test_without_a_judge_choices_count_for_the_model_that_was_chosen(world: World, user: Any) -> None:
    assert world.type(LINE.replace(f" judge=acme/{JUDGE}", "")) == ""
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    until(world, "done")
    press(world, user)
    for _ in range(10):
        judge_pair(world, user, fairly)
    assert "10 for ten examples" in world.find_message("10 choices of 1 person")
