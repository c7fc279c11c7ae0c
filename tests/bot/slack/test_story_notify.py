"""People and channels choose the topics of which they get messages; what needs an answer or a decision always comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import pytest

from bot.cards.common import message_topics as cards
from bot.services.common import message_topics
from bot.values.requests import CHANNEL_TOPICS, PERSON_TOPICS, TOPICS
from demo.people import ANA, BEN
from storage.records import Topic
from tests.bot.decisions.test_story_budget import approve_share_of_budget, warnings
from tests.bot.measurements import until
from tests.bot.props import tickets_csv
from tests.bot.world import CLEO, DORA, GUS, PRIVATE, PUBLIC, START, Rules, World

MakeWorld = Callable[[Rules], World]
OFF = " ".join(f"{topic}=off" for topic in PERSON_TOPICS)
CHANNEL_OFF = "channel " + " ".join(f"{topic}=off" for topic in CHANNEL_TOPICS)


def notify(world: World, typed: str, **where: object) -> str:
    reply = world.type(f"/finetune notify {typed}", **where)  # type: ignore[arg-type]
    world.send()
    return reply


def finish_run(world: World) -> None:
    world.start_approved()
    world.tick_until_state("done")


def test_each_topic_can_be_switched_or_says_why_not() -> None:
    assert set(TOPICS) == set(get_args(Topic))
    assert set(cards.IN_CHANNEL) == set(CHANNEL_TOPICS) and set(cards.TO_PERSON) == set(PERSON_TOPICS)
    assert set(cards.WHY_ALWAYS) == set(TOPICS) - {*CHANNEL_TOPICS, *PERSON_TOPICS}


def test_without_results_a_channel_keeps_the_runs_card_and_the_result_can_be_asked_for(world: World) -> None:
    assert "all topics but `results`" in notify(world, "channel results=off")
    finish_run(world)
    world.tick(5)
    headline = world.type("/finetune results 1", user=CLEO).splitlines()[0]
    assert "right" in headline and headline not in "\n".join(world.texts())
    assert "`/finetune results 1`" in world.find_message("Run 1 is done")
    assert "report-run-1.html" not in world.files()
    (direct,) = [text for text in world.dms(ANA) if "is done." in text]
    assert "`/finetune results 1`" in direct
    assert "Run 1" in world.type("/finetune status", user=CLEO)


def test_with_results_a_channel_gets_them_and_nobody_a_second_time(world: World) -> None:
    finish_run(world)
    world.tick_until_file("report-run-1.html")
    headline = world.type("/finetune results 1", user=CLEO).splitlines()[0]
    assert headline in "\n".join(world.texts())
    assert not any("is done." in text for text in world.dms(ANA))


@pytest.mark.deep
def test_results_that_were_dropped_are_not_posted_once_they_are_on_again(world: World) -> None:
    notify(world, "channel results=off")
    finish_run(world)
    world.tick(5)
    before = world.cards()
    notify(world, "channel results=on")
    world.restart()
    world.tick(5)
    after = world.cards()
    assert [card for card in after if card not in before] == after[len(before) :]
    assert len(after) == len(before) + 1, "only that they are on again"
    world.start(f"{START} epochs=2")
    world.approve()
    world.tick_until_state("done", 2)
    assert "`/finetune results 2`" not in world.find_message("Run 2 is done")


def test_the_channel_reads_who_switched_what_and_the_audit_log_has_it(world: World) -> None:
    notify(world, "channel results=off money=off", user=CLEO)
    notice = world.find_message(f"<@{CLEO.id}> has changed", "`results` off", "`money` off")
    assert "`/finetune notify channel`" in notice
    (entry,) = world.store.audit.entries(f"channel {PRIVATE.id}")
    assert (entry.who, entry.action, entry.detail) == (CLEO.id, "notify", "results=off money=off")
    count = len(world.cards())
    notify(world, "channel results=off", user=CLEO)
    assert len(world.cards()) == count, "it was off already"


def test_a_measurements_report_is_not_posted_and_who_asked_is_told(world: World) -> None:
    world.upload_and_check(tickets_csv(240))
    notify(world, "channel results=off")
    world.type("/finetune baseline tickets candidates=classical")
    until(world, "done")
    world.tick_until(lambda: any("m1" in text for text in world.dms(ANA)), "the direct message")
    (direct,) = [text for text in world.dms(ANA) if "m1" in text]
    assert "is done." in direct and "`/finetune results m1`" in direct
    assert "report-m1.html" not in world.files()
    assert world.find_message("classical"), "the measurement's own card shows the result"
    world.tick(5)
    assert len([text for text in world.dms(ANA) if "m1" in text]) == 1


def test_a_person_without_direct_messages_gets_none_about_their_run(world: World) -> None:
    assert "only what always comes" in notify(world, OFF)
    world.start()
    world.slack.click(BEN.id, PRIVATE.id, world.find_button("reject_plan").ts, "reject_plan")
    assert world.slack.submit_modal(BEN.id, {"reason": "too early for this"}).closed
    world.tick(3)
    assert world.run().state == "rejected" and world.dms(ANA) == []
    assert world.find_message("Run 1", "too early for this"), "the card still says it"


def test_an_approver_who_wants_nothing_is_still_reminded_in_the_channel(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(BEN.id,)))
    notify(world, OFF, user=BEN)
    notify(world, CHANNEL_OFF)
    world.start()
    world.tick(2)
    assert world.find_message(f"<@{BEN.id}>: run 1", "needs 1 approval")
    world.pass_time(20 * 3600.0 + 60)
    world.tick(2)
    assert [card for card in world.cards() if f"<@{BEN.id}>" in card and "expires" in card]
    assert "`approvals`" in notify(world, "channel approvals=off")


@pytest.mark.parametrize("is_off", [False, True])
def test_a_channel_chooses_whether_it_reads_budget_warnings(make_world: MakeWorld, is_off: bool) -> None:
    world = approve_share_of_budget(make_world, 60)
    assert len(warnings(world)) == 1
    notify(world, f"channel money={'off' if is_off else 'on'}")
    world.rules.budget = str(float(world.rules.budget) * 0.7)
    world.restart()
    world.tick(2)
    assert len(warnings(world)) == (1 if is_off else 2)
    notify(world, "channel money=on")
    world.tick(2)
    assert len(warnings(world)) == (1 if is_off else 2), "what was dropped doesn't come later"


@pytest.mark.parametrize(
    ("typed", "why"),
    [
        ("channel questions=off", "somebody has to decide"),
        ("answers=off", "they answer what somebody typed"),
        ("channel receipts=off", "must not go unnoticed"),
        ("channel cards=off", "people act on them"),
        ("weekly=off", "`/finetune notify channel weekly=off`"),
        ("channel approvals=off", "`/finetune notify approvals=off`"),
        ("results=perhaps", "should be on or off"),
        ("everywhere results=off", "should be channel"),
        ("result=off", "Did you mean `results`"),
    ],
)
def test_a_topic_that_can_not_be_switched_is_refused_with_the_reason(
    world: World, typed: str, why: str
) -> None:
    assert why in notify(world, typed)
    assert world.store.message_settings.of(PRIVATE.id) == {} == world.store.message_settings.of(ANA.id)


def test_only_a_full_member_chooses_for_the_channel(world: World) -> None:
    assert "a guest" in notify(world, "channel results=off", user=GUS)
    assert world.store.message_settings.of(PRIVATE.id) == {}
    assert "all topics but `results`" in notify(world, "results=off", user=GUS), "everybody for themselves"


def test_the_form_shows_and_stores_what_is_ticked(world: World) -> None:
    notify(world, "channel ends=off")
    world.slack.command(ANA.id, PRIVATE.id, "/finetune notify")
    form = world.read_form(ANA)
    assert "Direct messages to you" in form and "Messages in this channel" in form
    sent = world.slack.submit_modal(ANA.id, {"person": ["results"], "channel": ["money", "weekly"]})
    assert sent.closed
    world.send()
    chosen = message_topics.chosen_topics(world.service.context, ANA.id, PRIVATE.id)
    assert chosen.of_person == {"results"} and chosen.of_channel == {"money", "weekly"}
    notice = world.find_message(f"<@{ANA.id}> has changed", "`results` off")
    assert "`ends`" not in notice, "it was off already"


def test_a_guest_may_send_the_form_unless_it_changes_the_channel(world: World) -> None:
    world.slack.command(GUS.id, PUBLIC.id, "/finetune notify")
    everything = {"person": PERSON_TOPICS, "channel": CHANNEL_TOPICS}
    refused = world.slack.submit_modal(GUS.id, {**everything, "channel": ["money"]})
    assert "a guest" in refused.errors["channel"]
    assert world.slack.submit_modal(GUS.id, {**everything, "person": ["money"]}).closed
    assert not world.service.context.wants("results", GUS.id)
    assert world.store.message_settings.of(PUBLIC.id) == {}


def test_the_app_home_opens_the_form_for_the_person_alone(world: World) -> None:
    world.slack.open_home(DORA.id)
    world.tick_until(lambda: world.slack.home(DORA.id), "the App Home")
    world.slack.press(DORA.id, cards.OPEN_FORM, home=True)
    form = world.read_form(DORA)
    assert "Direct messages to you" in form and "this channel" not in form
    assert world.slack.submit_modal(DORA.id, {"person": ["money"]}).closed
    chosen = message_topics.chosen_topics(world.service.context, DORA.id, "")
    assert chosen.of_person == {"money"} and chosen.of_channel is None
