"""A dataset belongs to a channel: nobody else adds to it, its rows go where rules let them, nobody outside
sees it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.cards import estimates, evaluation_results, judge_agreement
from demo.people import ANA, BEN
from demo.slack_emulator import refused, slow
from demo.workspace import Channel, Person, wait_until
from tests.bot.props import tickets_csv
from tests.bot.test_story_judge import judged, with_faq
from tests.bot.world import CLEO, DORA, EVE, GUS, HR, OWN, PUBLIC, TARGET, Rules, World, words_of

MakeWorld = Callable[[Rules], World]
HR_STAYS = f"""
[[policy.data]]
name = "in general"
providers = ["local", "acme"]
[[policy.data]]
name = "hr stays here"
channels = ["{HR.id}"]
providers = ["local"]
"""
START = f"/finetune start tickets current=gpt-4o volume=100M target={TARGET}"


def of_hr(world: World, file: str = "tickets.csv") -> None:
    """A dataset of #hr, ready."""
    assert world.upload(file, tickets_csv(), called="", channel=HR).accepted
    settled(world)


def settled(world: World) -> None:
    world.tick_until(lambda: world.dataset().state in ("ready", "refused"), "the check")
    world.send()


def test_a_stranger_s_file_of_the_same_name_is_no_version_of_another_channel_s_dataset(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(more=HR_STAYS))
    of_hr(world)
    before = world.texts(PUBLIC)
    sent = world.upload("tickets.csv", tickets_csv(30), user=ANA, called="", channel=PUBLIC)
    assert "Another channel already has a dataset `tickets`" in sent.errors["name"]
    world.tick(2)
    assert [(one.version, one.channel) for one in world.store.datasets.all()] == [(1, HR.id)]
    assert world.texts(PUBLIC) == before, "no label of #hr"
    assert world.fill_upload(
        ANA, {"name": "orders", "file": world.put_file("t.csv", tickets_csv(30), ANA)}
    ).closed
    settled(world)
    assert world.dataset().name == "orders" and world.dataset().owner == PUBLIC.id
    assert "hr stays here" in world.type(START, user=DORA, channel=HR)
    assert world.provider.count("POST /files") == world.provider.count("POST /chat/completions") == 0


def test_a_file_goes_to_a_channel_by_the_word_of_its_members_alone(world: World) -> None:
    of_hr(world)
    file = {"name": "tickets", "file": world.put_file("t.csv", tickets_csv(30), ANA)}
    world.slack.command(ANA.id, OWN.id, "/finetune upload")
    assert (
        "You are not in that channel" in world.fill_upload(ANA, {**file, "channel": HR.id}).errors["channel"]
    )
    world.slack.fail("conversations.members", refused("internal_error"), times=None)
    assert (
        "I can't see who is in that channel"
        in world.fill_upload(ANA, {**file, "channel": HR.id}).errors["channel"]
    )
    world.slack.clear_faults()
    assert len(world.store.datasets.all()) == 1
    world.slack.command(DORA.id, PUBLIC.id, "/finetune upload")
    again = {"name": "tickets", "file": world.put_file("t.csv", tickets_csv(90)), "channel": HR.id}
    assert world.fill_upload(DORA, again).closed
    settled(world)
    assert (world.dataset().version, world.dataset().channel) == (2, HR.id)


def test_a_file_of_a_message_stays_that_channel_s(make_world: MakeWorld) -> None:
    """attack 19: the same bytes under “Channel for the report #other” went to a provider that the rule forbids."""
    world = make_world(Rules(more=HR_STAYS))
    world.slack.upload(DORA.id, world.file("tickets.csv", tickets_csv()), channel=HR.id)
    message = world.slack.messages(HR.id)[-1]
    world.slack.message_shortcut(DORA.id, HR.id, message.ts, "use_as_training_data")
    form = world.slack.view(DORA.id)
    assert form is not None and "Channel for the report" not in json.dumps(list(form.blocks))
    assert world.fill_upload(DORA, {}).closed
    settled(world)
    assert (world.dataset().channel, world.dataset().source_channels) == (HR.id, {HR.id})
    assert "hr stays here" in world.type(START, user=DORA, channel=HR)


def test_rows_of_two_channels_go_where_the_strictest_rule_lets_them(make_world: MakeWorld) -> None:
    """As a database of before has it: #hr's held-out rows are in a version from #general."""
    world = make_world(Rules(more=HR_STAYS))
    dataset = world.seed_dataset(channel=PUBLIC)
    assert world.type(f"{START} epochs=2", channel=PUBLIC) == ""
    both = f"{PUBLIC.id} {HR.id}"
    world.store.database.change("UPDATE datasets SET sources = ? WHERE id = ?", (both, dataset.id))
    assert "hr stays here" in world.type(START, channel=PUBLIC)
    world.send()
    world.approve(channel=PUBLIC)
    world.tick(3)
    assert world.run().state != "training" and world.provider.count("POST /files") == 0


@pytest.mark.parametrize(
    ("first", "second"), [("客户 2024.csv", "订单 2024.csv"), ("naïve.csv", "na-ve.csv")]
)
def test_names_of_any_script_stay_apart(world: World, first: str, second: str) -> None:
    for file in (first, second):
        assert world.upload(file, tickets_csv(), called="").accepted
    settled(world)
    assert [one.version for one in world.store.datasets.all()] == [1, 1]
    name = world.dataset().name
    assert name in world.type("/finetune datasets")
    assert "There is no dataset" not in world.type(f"/finetune estimate {name} target={TARGET} volume=10M")


def test_two_long_names_are_not_cut_to_one(world: World) -> None:
    for month in ("january", "february"):
        sent = world.upload(f"all-tickets-of-the-support-in-2026-{month}.csv", tickets_csv(), called="")
        assert "40 letters at most" in sent.errors["name"]
    assert world.store.datasets.all() == []


def test_another_text_that_gives_a_name_that_is_there_is_asked_about(world: World) -> None:
    assert world.upload("my tickets.csv", tickets_csv(), called="").closed
    settled(world)
    sent = world.upload("my_tickets.csv", tickets_csv(30), called="")
    assert "already" in sent.errors["name"] and "type exactly that name" in sent.errors["name"]
    assert world.fill_upload(
        DORA, {"name": "my-tickets", "file": world.put_file("t.csv", tickets_csv(90))}
    ).closed
    settled(world)
    assert (world.dataset().name, world.dataset().version) == ("my-tickets", 2)


def test_a_name_in_another_script_is_ascii_where_a_trainer_wants_that(world: World) -> None:
    world.seed_dataset(called="客户-2024")
    assert world.type(START.replace("tickets", "客户-2024")) == ""
    world.send()
    world.approve()
    world.tick_until_state("done")
    (job,) = world.provider.service.jobs.values()
    suffix = job.request["suffix"]
    assert suffix.isascii() and suffix.startswith("2024-")


def test_rows_of_a_private_channel_are_not_shown_in_another_one(world: World) -> None:
    """attack 8: a run that was started in a private channel of one's own posted #hr's rows there."""
    world.start(channel=OWN)
    dataset = world.dataset()
    world.store.database.change("UPDATE datasets SET owner = ?, sources = ?", (HR.id, HR.id))
    world.approve(BEN, channel=OWN)
    world.tick_until_state("done")
    world.find_message("Result of run 1", channel=OWN)
    texts = [one for one in world.texts(OWN) if "a question about" in one]
    assert dataset.channel == OWN.id and texts == []


def seen_by(world: World, user: Person, channel: Channel, *lines: str) -> str:
    """All that a person reads in answer to these commands, and on the App Home."""
    answers = [world.type(line, user=user, channel=channel) for line in lines]
    before = len(world.slack.calls("views.publish"))
    world.slack.open_home(user.id)
    wait_until(lambda: len(world.slack.calls("views.publish")) > before, "the App Home")
    home = world.slack.home(user.id)
    assert home is not None
    return "\n".join([*answers, json.dumps(list(home.blocks), ensure_ascii=False)])


LOOKS = (
    *("datasets", "status", "runs", "models", "budget", "results 1", "status 1", "audit 1", "results m1"),
    *("try tickets-1 hello", "try tickets hello", "promote tickets-1", "rollback tickets", "rollback ticket"),
    *(f"estimate tickets target={TARGET} volume=10M", f"start tickets target={TARGET}", "knowledge tickets"),
    *(
        "baseline tickets rungs=classical",
        "curve tickets",
        "estimate ticket",
        "promote ticket",
        "try ticket x",
    ),
)


def test_what_belongs_to_a_private_channel_does_not_exist_for_others(world: World) -> None:
    """attack 8: from another channel any member read results, runs and audit of #hr's run, and asked its model."""
    world.seed_dataset(channel=HR)
    assert world.type("/finetune baseline tickets rungs=classical", user=DORA, channel=HR) == ""
    world.start(user=DORA, channel=HR)
    world.approve(BEN, channel=HR)
    world.tick_until_state("done")
    lines = [f"/finetune {look}" for look in LOOKS]
    calls = world.provider.count("POST /chat/completions")
    inside = seen_by(world, BEN, PUBLIC, *lines[:9])
    assert inside.count("tickets") > 8 and "60 rows" in inside and "There is no" not in inside
    for channel in (PUBLIC, OWN):
        texts = world.texts(channel)
        outside = "\n".join(
            line for line in seen_by(world, ANA, channel, *lines).splitlines() if "There is no" not in line
        )
        assert "tickets" not in outside and "acme-small" not in outside, outside
        world.tick(2)
        assert world.texts(channel) == texts
    assert world.provider.count("POST /chat/completions") == calls
    assert [run.id for run in world.store.runs.newest(9)] == [1]
    for door in ("/finetune estimate", "/finetune baseline"):
        assert "There is no dataset" in world.type(door, user=ANA, channel=OWN)


def test_where_slack_does_not_tell_who_is_in_a_channel_nobody_outside_sees_it(world: World) -> None:
    world.seed_dataset(channel=HR)
    assert "tickets" in world.type("/finetune datasets", user=BEN, channel=PUBLIC)
    world.slack.fail("conversations.members", refused("internal_error"), times=None)
    assert "No datasets yet" in world.type("/finetune datasets", user=BEN, channel=PUBLIC)
    assert "tickets" in world.type("/finetune datasets", user=BEN, channel=HR), "who types in it is in it"


def test_forty_channels_that_slack_is_slow_about_hold_up_no_answer(world: World) -> None:
    """That each request is acked in time is looked at when the world ends."""
    for number in range(40):
        world.seed_dataset(channel=replace(HR, id=f"C0SLOW{number}"), called=f"slow-{number}")
    world.seed_dataset(channel=PUBLIC)
    world.slack.fail("conversations.members", slow(5.0), times=None)
    answer = world.type("/finetune datasets", user=ANA, channel=PUBLIC)
    assert "tickets" in answer and "slow" not in answer


def test_a_member_who_is_on_a_later_page_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.slack.users.MEMBERS_A_PAGE", 1)
    world.seed_dataset(channel=HR)
    assert "tickets" in world.type("/finetune datasets", user=CLEO, channel=PUBLIC)
    assert "No datasets yet" in world.type("/finetune datasets", user=ANA, channel=PUBLIC)


@pytest.mark.parametrize(
    "line",
    [
        START,
        "/finetune baseline tickets rungs=classical",
        "/finetune curve tickets",
        "/finetune knowledge tickets",
    ],
)
def test_a_member_is_sent_to_the_channel_where_its_cards_belong(world: World, line: str) -> None:
    world.seed_dataset(channel=HR)
    texts = world.texts(OWN)
    assert f"belongs to <#{HR.id}>, which is private. Ask there" in world.type(line, user=BEN, channel=OWN)
    world.tick(2)
    assert world.texts(OWN) == texts and world.store.runs.newest(1) == []


def test_an_estimate_of_a_private_channel_is_not_shared_in_another(world: World) -> None:
    world.seed_dataset(channel=HR)
    assert "tickets" in world.type(
        f"/finetune estimate tickets target={TARGET} volume=10M", user=BEN, channel=OWN
    )
    card = world.slack.ephemerals(BEN.id)[-1]
    world.slack.click(BEN.id, OWN.id, card.ts, estimates.SHARE)
    wait_until(lambda: "Ask there" in words_of(world.slack.ephemerals(BEN.id)[-1]), "the answer")
    world.tick(3)
    assert not any("tickets" in text for text in world.texts(OWN))


def test_the_estimate_button_asks_who_clicks_and_offers_what_they_may_see(world: World) -> None:
    world.seed_dataset(channel=HR, called="acquisition-of-globex")
    world.seed_dataset()
    assert world.type("/finetune baseline tickets rungs=classical") == ""
    world.tick_until(lambda: world.has_button(evaluation_results.ESTIMATE), "the result")
    world.send()
    for outsider in (GUS, EVE):
        assert "Only full members" in world.click_and_read(outsider, evaluation_results.ESTIMATE)
        assert world.slack.view(outsider.id) is None
    world.click(ANA, evaluation_results.ESTIMATE)
    form = world.slack.view(ANA.id)
    assert form is not None and "globex" not in json.dumps(list(form.blocks))
    world.click(DORA, evaluation_results.ESTIMATE)
    form = world.slack.view(DORA.id)
    assert form is not None and "globex" in json.dumps(list(form.blocks))


@pytest.mark.parametrize(
    "command", ["delete", "rollback", "estimate", "start", "promote", "knowledge", "baseline"]
)
def test_a_guest_who_names_a_dataset_is_told_of_no_other(world: World, command: str) -> None:
    world.seed_dataset()
    assert "is a guest" in world.type(f"/finetune {command} ticket", user=GUS)


def test_pairs_of_a_private_channel_are_not_shown_in_another_one(make_world: MakeWorld) -> None:
    world = with_faq(make_world)
    judged(world)
    world.store.database.change("UPDATE datasets SET owner = ?, sources = ?", (HR.id, HR.id))
    said = world.click_and_read(ANA, judge_agreement.JUDGE_SOME)
    assert "only in the channel that the dataset belongs to" in said
    world.tick(2)
    assert not any("Which answer is better?" in text for text in world.texts())
    assert judge_agreement.JUDGE_SOME_WORDS not in world.type("/finetune results m1", user=BEN)


def test_a_number_tells_nothing_of_a_private_channel(world: World) -> None:
    """What ended is answered with why it ended, which names its dataset."""
    world.seed_dataset(channel=HR, called="globex")
    assert world.type("/finetune baseline globex rungs=classical", user=DORA, channel=HR) == ""
    world.type(START.replace("tickets", "globex"), user=DORA, channel=HR)
    lines = [f"/finetune {line}" for line in ("cancel m1", "cancel 1", "pause 1", "resume 1")]
    open_ones = [world.type(line, user=ANA, channel=PUBLIC) for line in lines]
    world.store.database.change(
        "UPDATE measurements SET state = 'failed', error = '`globex` is too small'", ()
    )
    world.store.database.change("UPDATE runs SET state = 'failed'", ())
    ended = [world.type(line, user=ANA, channel=PUBLIC) for line in lines]
    assert [one.split(".")[0] for one in open_ones] == [one.split(".")[0] for one in ended]
    assert all(one.startswith("There is no") for one in ended), ended
    assert "globex" in world.type("/finetune cancel m1", user=BEN, channel=PUBLIC)
    assert "over already" in world.type("/finetune cancel 1", user=BEN, channel=PUBLIC)


def test_an_approver_outside_stops_what_is_open_by_its_number(make_world: MakeWorld) -> None:
    world = make_world(Rules(approvers=(ANA.id, BEN.id)))
    world.seed_dataset(channel=HR)
    world.type(START, user=DORA, channel=HR)
    assert "There is no run 1" in world.type("/finetune results 1", user=ANA, channel=PUBLIC)
    assert "Cancelling run 1" in world.type("/finetune cancel 1", user=ANA, channel=PUBLIC)


def test_documents_come_from_the_dataset_s_own_channel(world: World) -> None:
    """Rules about data go by the dataset's channels: a document of #hr would have left by a rule about #general."""
    world.seed_dataset(channel=PUBLIC)
    assert "upload its documents there" in world.type("/finetune knowledge tickets", user=DORA, channel=HR)
    assert world.slack.view(DORA.id) is None
    world.slack.command(DORA.id, PUBLIC.id, "/finetune knowledge tickets")
    assert world.fill_upload(DORA, {"file": world.put_file("faq.md", "A refund takes five days.")}).closed
