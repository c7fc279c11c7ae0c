"""What people ask a model of a company's costs money: it is in the ledger, within the budgets, and never
paid twice."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from bot.rules.units import month_of
from demo.people import ANA, BEN
from tests.bot.world import PRIVATE, Rules, World, words_of
from tests.peers.hosted import BUSY, COMMIT_THEN_500, HTML, Fault

MakeWorld = Callable[[Rules], World]
CHAT = "POST /chat/completions"
TRY = "/finetune try tickets-1 where is my refund?"


def with_model(world: World) -> int:
    """A model that is done, and how many chats that took."""
    world.start_approved()
    world.tick_until_state("done")
    return world.provider.count(CHAT)


def committed(world: World) -> int:
    return int(world.store.committed(month_of(world.clock)))


def test_without_a_budget_no_model_of_a_company_is_asked(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    before = with_model(world)
    world.rules.budget = "0"
    world.restart()
    for _ in range(30):
        said = world.type(TRY)
        assert "This question may cost" in said and "monthly_usd" in said
    world.tick(5)
    assert world.provider.count(CHAT) == before and world.store.questions.waiting() == []


@pytest.mark.parametrize(
    "whose", [f'[budget.channels]\n{PRIVATE.id} = "0"', f'[budget.people]\n{ANA.id} = "0"']
)
def test_a_channels_and_a_persons_limit_hold_for_questions(make_world: MakeWorld, whose: str) -> None:
    world = make_world(Rules())
    before = with_model(world)
    world.rules.more = whose
    world.restart()
    assert "This question may cost" in world.type(TRY)
    world.tick(3)
    assert world.provider.count(CHAT) == before


def test_what_it_may_cost_is_reserved_and_what_it_cost_is_spent(world: World) -> None:
    before, spent = with_model(world), committed(world)
    assert "Asking" in world.type(TRY)
    reserved = committed(world) - spent
    assert "It answers" in world.tick_until_answered()
    assert 0 < committed(world) - spent < reserved and world.provider.count(CHAT) == before + 1
    said = world.type("/finetune budget")
    assert (
        f"*1 question to a model* on tickets: under 1 cent spent, for <@{ANA.id}> in <#{PRIVATE.id}>" in said
    )
    assert sum(one.micros for one in world.store.ledger.commitments(month_of(world.clock))) == committed(
        world
    )
    entry = world.store.audit.entries("model tickets-1")[-1]
    assert (entry.who, entry.action) == (ANA.id, "try") and "refund" not in entry.detail


@pytest.mark.parametrize("fault", [COMMIT_THEN_500, Fault(commit=True, then="cut"), HTML])
def test_without_a_clear_answer_the_most_counts_as_spent_and_nothing_is_sent_again(
    world: World, fault: Fault
) -> None:
    before, spent = with_model(world), committed(world)
    world.provider.fail(CHAT, fault)
    world.type(TRY)
    reserved = committed(world) - spent
    assert "It may have been answered there" in world.tick_until_answered()
    world.tick(20)
    assert world.provider.count(CHAT) == before + 1
    assert committed(world) - spent == reserved > 0


def test_a_busy_provider_is_asked_when_it_says(world: World) -> None:
    before = with_model(world)
    world.provider.fail(CHAT, BUSY)  # Retry-After: 7
    world.type(TRY)
    world.tick_until(lambda: world.provider.count(CHAT) == before + 1, "the first try")
    assert "It answers" in world.tick_until_answered()
    assert world.provider.count(CHAT) == before + 2


def test_a_refusal_costs_nothing(world: World) -> None:
    before, spent = with_model(world), committed(world)
    world.provider.fail(CHAT, Fault(commit=False, status=404, code="model_not_found"))
    world.type(TRY)
    assert "could not be asked" in world.tick_until_answered()
    assert (committed(world), world.provider.count(CHAT)) == (spent, before + 1)


def test_a_question_that_a_stop_left_in_doubt_is_not_sent_again(world: World) -> None:
    before, spent = with_model(world), committed(world)
    world.provider.fail(CHAT, Fault(commit=False, then="hang"))
    world.type(TRY)
    world.tick()
    world.tick_until(lambda: world.provider.count(CHAT) == before + 1, "the question")
    world.restart()
    assert "the bot was stopped in the meantime" in world.tick_until_answered()
    assert world.provider.count(CHAT) == before + 1 and committed(world) > spent


def test_the_same_question_of_two_people_is_answered_to_each_and_none_is_kept(world: World) -> None:
    with_model(world)
    kept = len(world.store.database.rows("SELECT key FROM replies"))
    world.type(TRY)
    world.type(TRY, user=BEN)
    world.tick_until_answered()
    for person in (ANA, BEN):
        assert "It answers" in words_of(world.slack.ephemerals(person.id)[-1])
    assert len(world.store.database.rows("SELECT key FROM replies")) == kept


def test_a_provider_that_hangs_holds_up_no_tick(make_world: MakeWorld) -> None:
    world = make_world(Rules())
    before = with_model(world)
    world.provider.fail(CHAT, Fault(commit=False, then="hang"))
    for _ in range(5):
        world.type(TRY)
    world.tick(3)
    world.seed_dataset(called="orders")
    world.start("/finetune start orders current=gpt-4o volume=100M target=acme/acme-small")
    world.approve()
    world.tick_until(lambda: world.run(2).state == "training", "another run, meanwhile")
    assert world.provider.count(CHAT) > before
