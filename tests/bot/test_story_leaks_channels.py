"""A dataset belongs to a channel: nobody else adds to it, its rows go where rules let them, nobody outside sees it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bot.demo.cast import ANA, BEN
from bot.demo.stand_in import refused
from tests.bot.props import tickets_csv
from tests.bot.world import DORA, HR, OWN, PUBLIC, TARGET, Rules, World

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
    world.until(lambda: world.dataset().state in ("ready", "refused"), "the check")
    world.send()


def test_a_stranger_s_file_of_the_same_name_is_no_version_of_another_channel_s_dataset(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(more=HR_STAYS))
    of_hr(world)
    before = world.texts(PUBLIC)
    sent = world.upload("tickets.csv", tickets_csv(30), user=ANA, called="", channel=PUBLIC)
    assert "Another channel has a dataset `tickets`" in sent.errors["name"]
    world.tick(2)
    assert [(one.version, one.channel) for one in world.store.datasets.all()] == [(1, HR.id)]
    assert world.texts(PUBLIC) == before, "no label of #hr"
    assert world.fill_upload(
        ANA, {"name": "orders", "file": world.put_file("t.csv", tickets_csv(30), ANA)}
    ).closed
    settled(world)
    assert world.dataset().name == "orders" and world.dataset().owner == PUBLIC.id
    assert "hr stays here" in world.type(START, user=DORA, channel=HR)
    assert world.company.count("POST /files") == world.company.count("POST /chat/completions") == 0


def test_a_file_goes_to_a_channel_by_the_word_of_its_members_alone(world: World) -> None:
    of_hr(world)
    file = {"name": "tickets", "file": world.put_file("t.csv", tickets_csv(30), ANA)}
    world.slack.command(ANA.id, OWN.id, "/finetune upload")
    assert (
        "You are not in that channel" in world.fill_upload(ANA, {**file, "channel": HR.id}).errors["channel"]
    )
    world.slack.fail("conversations.members", refused("internal_error"), times=None)
    assert "Slack didn't tell" in world.fill_upload(ANA, {**file, "channel": HR.id}).errors["channel"]
    world.slack.heal()
    assert len(world.store.datasets.all()) == 1
    world.slack.command(DORA.id, PUBLIC.id, "/finetune upload")
    again = {"name": "tickets", "file": world.put_file("t.csv", tickets_csv(90)), "channel": HR.id}
    assert world.fill_upload(DORA, again).closed
    settled(world)
    assert (world.dataset().version, world.dataset().channel) == (2, HR.id)


def test_a_file_of_a_message_stays_that_channel_s(make_world: MakeWorld) -> None:
    """attack 19: the same bytes under “Report in #other” went to a provider that the rule forbids."""
    world = make_world(Rules(more=HR_STAYS))
    world.slack.upload(DORA.id, world.file("tickets.csv", tickets_csv()), channel=HR.id)
    message = world.slack.messages(HR.id)[-1]
    world.slack.message_shortcut(DORA.id, HR.id, message.ts, "use_as_training_data")
    form = world.slack.view(DORA.id)
    assert form is not None and "Report in" not in json.dumps(list(form.blocks))
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
    world.slack.click(BEN.id, PUBLIC.id, world.with_button("approve_plan", PUBLIC).ts, "approve_plan")
    world.tick(3)
    assert world.run().state != "training" and world.company.count("POST /files") == 0


@pytest.mark.parametrize(("first", "second"), [("客户 2024.csv", "订单 2024.csv"), ("a.csv", "b.csv")])
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
    world.click(BEN, "approve_plan")
    world.until_state("done")
    (job,) = world.company.service.jobs.values()
    suffix = job.request["suffix"]
    assert suffix.isascii() and suffix.startswith("2024-")


def test_rows_of_a_private_channel_are_not_shown_in_another_one(world: World) -> None:
    """attack 8: a run that was started in a private channel of one's own posted #hr's rows there."""
    world.start(channel=OWN)
    dataset = world.dataset()
    world.store.database.change("UPDATE datasets SET owner = ?, sources = ?", (HR.id, HR.id))
    world.click(BEN, "approve_plan", channel=OWN)
    world.until_state("done")
    world.said("Tuned model", channel=OWN)
    texts = [one for one in world.texts(OWN) if "a question about" in one]
    assert dataset.channel == OWN.id and texts == []
