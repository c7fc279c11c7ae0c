"""A question to a company's model costs money: it is in the ledger, within the budgets, and never paid twice."""

from __future__ import annotations

import pytest

from bot.rules.units import month_of
from demo.people import ANA, BEN
from tests.bot.world import PRIVATE, World, words_of
from tests.peers.hosted import BUSY, COMMIT_THEN_500, HTML, Fault

CHAT = "POST /chat/completions"
TRY = "/finetune try tickets-1 where is my refund?"
HANGS = Fault(commit=False, then="hang")


def with_model(world: World) -> int:
    """Train tickets-1; returns the number of chats that its evaluation took."""
    world.start_approved()
    world.tick_until_state("done")
    return world.provider.count(CHAT)


def committed(world: World) -> int:
    return int(world.store.committed(month_of(world.clock)))


@pytest.mark.deep
def test_no_question_is_asked_beyond_the_teams_a_channels_or_a_persons_budget(world: World) -> None:
    chats = with_model(world)
    for limit in (f'[budget.channels]\n{PRIVATE.id} = "0"', f'[budget.people]\n{ANA.id} = "0"'):
        world.rules.more = limit
        world.restart()
        assert "This question may cost" in world.type(TRY), limit
    world.rules.more, world.rules.budget = "", "0"
    world.restart()
    for _ in range(30):
        reply = world.type(TRY)
        assert "This question may cost" in reply and "monthly_usd" in reply
    world.tick(5)
    assert world.provider.count(CHAT) == chats and world.store.questions.waiting() == []


@pytest.mark.deep
def test_a_question_reserves_its_maximum_and_spends_its_cost(world: World) -> None:
    chats, spent = with_model(world), committed(world)
    replies = world.store.database.rows("SELECT key FROM replies")
    assert "Asking" in world.type(TRY)
    reserved = committed(world) - spent
    assert "It answers" in world.tick_until_answered()
    assert 0 < committed(world) - spent < reserved and world.provider.count(CHAT) == chats + 1
    line = f"*1 question to a model* on tickets: under 1 cent spent, for <@{ANA.id}> in <#{PRIVATE.id}>"
    assert line in world.type("/finetune budget")
    commitments = world.store.ledger.commitments(month_of(world.clock))
    assert sum(commitment.micros for commitment in commitments) == committed(world)
    entry = world.store.audit.entries("model tickets-1")[-1]
    assert (entry.who, entry.action) == (ANA.id, "try") and "refund" not in entry.detail

    # The same question by two people is answered to each, and no answer is kept for others.
    world.type(TRY)
    world.type(TRY, user=BEN)
    world.tick_until_answered()
    for person in (ANA, BEN):
        assert "It answers" in words_of(world.slack.ephemerals(person.id)[-1])
    assert world.provider.count(CHAT) == chats + 3
    assert world.store.database.rows("SELECT key FROM replies") == replies

    # A busy provider (Retry-After: 7) is asked again; a refusal costs nothing.
    world.provider.fail(CHAT, BUSY)
    world.type(TRY)
    world.tick_until(lambda: world.provider.count(CHAT) == chats + 4, "the first try")
    assert "It answers" in world.tick_until_answered()
    assert world.provider.count(CHAT) == chats + 5
    spent = committed(world)
    world.provider.fail(CHAT, Fault(commit=False, status=404, code="model_not_found"))
    world.type(TRY)
    assert "could not be asked" in world.tick_until_answered()
    assert (committed(world), world.provider.count(CHAT)) == (spent, chats + 6)


@pytest.mark.deep
def test_a_question_without_a_clear_answer_counts_at_its_maximum_and_is_not_sent_again(world: World) -> None:
    chats = with_model(world)
    for fault in (COMMIT_THEN_500, Fault(commit=True, then="cut"), HTML):
        spent = committed(world)
        world.provider.fail(CHAT, fault)
        world.type(TRY)
        reserved = committed(world) - spent
        assert "It may have been answered there" in world.tick_until_answered()
        world.tick(20)
        chats += 1
        assert world.provider.count(CHAT) == chats
        assert committed(world) - spent == reserved > 0
    spent = committed(world)
    world.provider.fail(CHAT, HANGS)
    world.type(TRY)
    world.tick()
    world.tick_until(lambda: world.provider.count(CHAT) == chats + 1, "the question")
    world.restart()
    assert "the bot was stopped in the meantime" in world.tick_until_answered()
    assert world.provider.count(CHAT) == chats + 1 and committed(world) > spent


@pytest.mark.deep
def test_hanging_questions_delay_no_tick(world: World) -> None:
    chats = with_model(world)
    world.provider.fail(CHAT, HANGS)
    for _ in range(5):
        world.type(TRY)
    world.tick(3)
    world.seed_dataset(called="orders")
    world.start("/finetune start orders current=gpt-4o volume=100M target=acme/acme-small")
    world.approve()
    world.tick_until(lambda: world.run(2).state == "training", "another run to train meanwhile")
    assert world.provider.count(CHAT) > chats
