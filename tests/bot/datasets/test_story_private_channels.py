"""A dataset belongs to its channel: only members add to it or see it, and its rows go only where rules allow."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from bot.cards.common import judge_agreement
from bot.cards.decisions import estimates
from bot.cards.evidence import evaluation_results
from bot.services.datasets import data_policy, dataset_columns
from bot.services.decisions import estimate_requests
from bot.services.models import promotion_requests, promotions, sunsets
from bot.slack.recent_answers import USABLE_S
from demo.people import ANA, BEN
from demo.slack_emulator import refused, slow
from demo.workspace import Channel, Person
from tests.bot.faq import judged, with_faq
from tests.bot.props import tickets_csv
from tests.bot.world import CLEO, DORA, EVE, GUS, HR, OWN, PUBLIC, TARGET, Rules, World, words_of
from tests.patience import wait_until

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


def upload_to_hr(world: World) -> None:
    assert world.upload("tickets.csv", tickets_csv(), called="", channel=HR).accepted
    wait_for_check(world)


def wait_for_check(world: World) -> None:
    world.tick_until(lambda: world.dataset().state in ("ready", "refused"), "the check")
    world.send()


def test_a_file_of_the_same_name_from_another_channel_is_no_new_version(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(more=HR_STAYS))
    upload_to_hr(world)
    before = world.texts(PUBLIC)
    form = world.upload("tickets.csv", tickets_csv(30), user=ANA, called="", channel=PUBLIC)
    assert form.errors["name"] == "The name `tickets` is not available here. Type another one."
    world.tick(2)
    assert [(dataset.version, dataset.channel) for dataset in world.store.datasets.all()] == [(1, HR.id)]
    assert world.texts(PUBLIC) == before, "none of #hr's labels"
    assert world.fill_upload(
        ANA, {"name": "orders", "file": world.put_file("t.csv", tickets_csv(30), ANA)}
    ).closed
    wait_for_check(world)
    assert world.dataset().name == "orders" and world.dataset().owner == PUBLIC.id
    assert "hr stays here" in world.type(START, user=DORA, channel=HR)
    assert world.provider.count("POST /files") == world.provider.count("POST /chat/completions") == 0


def test_only_a_channels_members_can_upload_to_it(world: World) -> None:
    upload_to_hr(world)
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
    wait_for_check(world)
    assert (world.dataset().version, world.dataset().channel) == (2, HR.id)


def test_a_file_from_a_message_stays_in_that_messages_channel(make_world: MakeWorld) -> None:
    """With a form field for another channel, the same bytes once went to a provider that a rule forbids."""
    world = make_world(Rules(more=HR_STAYS))
    world.slack.upload(DORA.id, world.file("tickets.csv", tickets_csv()), channel=HR.id)
    message = world.slack.messages(HR.id)[-1]
    world.slack.message_shortcut(DORA.id, HR.id, message.ts, "use_as_training_data")
    form = world.slack.view(DORA.id)
    assert form is not None and "Channel for the report" not in json.dumps(list(form.blocks))
    assert world.fill_upload(DORA, {}).closed
    wait_for_check(world)
    assert (world.dataset().channel, world.dataset().source_channels) == (HR.id, frozenset({HR.id}))
    assert "hr stays here" in world.type(START, user=DORA, channel=HR)


def test_rows_of_two_channels_go_only_where_both_channels_rules_allow(make_world: MakeWorld) -> None:
    """An older database may have #hr's held-out rows in a version from #general."""
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


def test_similar_names_in_any_script_are_different_datasets(world: World) -> None:
    for file in ("客户 2024.csv", "订单 2024.csv", "naïve.csv", "na-ve.csv"):
        assert world.upload(file, tickets_csv(), called="").accepted
    for month in ("january", "february"):
        form = world.upload(f"all-tickets-of-the-support-in-2026-{month}.csv", tickets_csv(), called="")
        assert "40 letters at most" in form.errors["name"], "long names are not shortened to the same one"
    world.tick_until(lambda: {row.state for row in world.store.datasets.all()} == {"ready"}, "the checks")
    assert [dataset.version for dataset in world.store.datasets.all()] == [1] * 4
    name = next(row.name for row in world.store.datasets.all() if not row.name.isascii())
    assert name in world.type("/finetune datasets")
    assert "There is no dataset" not in world.type(f"/finetune estimate {name} target={TARGET} volume=10M")


def test_a_text_that_turns_into_an_existing_name_is_questioned(world: World) -> None:
    assert world.upload("my tickets.csv", tickets_csv(), called="").closed
    wait_for_check(world)
    form = world.upload("my_tickets.csv", tickets_csv(30), called="")
    assert "already" in form.errors["name"] and "type exactly that name" in form.errors["name"]
    assert world.fill_upload(
        DORA, {"name": "my-tickets", "file": world.put_file("t.csv", tickets_csv(90))}
    ).closed
    wait_for_check(world)
    assert (world.dataset().name, world.dataset().version) == ("my-tickets", 2)


def test_a_jobs_suffix_is_ascii_for_a_name_in_another_script(world: World) -> None:
    world.seed_dataset(called="客户-2024")
    assert world.type(START.replace("tickets", "客户-2024")) == ""
    world.send()
    world.approve()
    world.tick_until_state("training")
    (job,) = world.provider.service.jobs.values()
    suffix = job.request["suffix"]
    assert suffix.isascii() and suffix.startswith("2024-")


def test_rows_of_a_private_channel_are_not_shown_in_another(world: World) -> None:
    """A run started in somebody's own private channel once posted #hr's rows there."""
    world.start(channel=OWN)
    dataset = world.dataset()
    world.store.database.change("UPDATE datasets SET owner = ?, sources = ?", (HR.id, HR.id))
    world.approve(BEN, channel=OWN)
    world.tick_until_state("done")
    world.find_message("Result of run 1", channel=OWN)
    texts = [text for text in world.texts(OWN) if "a question about" in text]
    assert dataset.channel == OWN.id and texts == []


def read_everything(world: World, user: Person, channel: Channel, *lines: str) -> str:
    """What a person reads in answer to these commands, and on the App Home."""
    answers = [world.type(line, user=user, channel=channel) for line in lines]
    before = len(world.slack.calls("views.publish"))
    world.slack.open_home(user.id)
    wait_until(lambda: len(world.slack.calls("views.publish")) > before, "the App Home")
    home = world.slack.home(user.id)
    assert home is not None
    return "\n".join([*answers, json.dumps(list(home.blocks), ensure_ascii=False)])


LOOKS = (
    *("datasets", "status", "runs", "models", "budget", "results 1", "status 1", "audit 1", "results m1"),
    *("compare 1 m1", "wrong 1", "wrong m1", "again 1"),
    *("try tickets-1 hello", "try tickets hello", "promote tickets-1", "rollback tickets", "rollback ticket"),
    *(f"estimate tickets target={TARGET} volume=10M", f"start tickets target={TARGET}", "knowledge tickets"),
    *(
        "baseline tickets candidates=classical",
        "curve tickets",
        "estimate ticket",
        "promote ticket",
        "try ticket x",
    ),
)


@pytest.mark.deep
def test_what_belongs_to_a_private_channel_does_not_exist_for_others(world: World) -> None:
    """From another channel any member could once read #hr's results, runs and audit entries, and ask its model."""
    world.seed_dataset(channel=HR)
    assert world.type("/finetune baseline tickets candidates=classical", user=DORA, channel=HR) == ""
    world.start(user=DORA, channel=HR)
    world.approve(BEN, channel=HR)
    world.tick_until_state("done")
    lines = [f"/finetune {look}" for look in LOOKS]
    calls = world.provider.count("POST /chat/completions")
    inside = read_everything(world, BEN, PUBLIC, *lines[:10])
    assert inside.count("tickets") > 8 and "60 rows" in inside and "There is no" not in inside
    for channel in (PUBLIC, OWN):
        texts = world.texts(channel)
        outside = "\n".join(
            line
            for line in read_everything(world, ANA, channel, *lines).splitlines()
            if "There is no" not in line
        )
        assert "tickets" not in outside and "acme-small" not in outside, outside
        world.tick(2)
        assert world.texts(channel) == texts
    assert world.provider.count("POST /chat/completions") == calls
    assert [run.id for run in world.store.runs.newest(9)] == [1]
    for door in ("/finetune estimate", "/finetune baseline"):
        assert "There is no dataset" in world.type(door, user=ANA, channel=OWN)


@pytest.mark.deep
def test_a_model_is_asked_and_deployed_only_by_those_who_are_in_its_channel_now(world: World) -> None:
    """What Slack said minutes ago is enough for lists only."""
    world.seed_dataset(channel=HR)
    world.start(user=DORA, channel=HR)
    world.approve(BEN, channel=HR)
    world.tick_until_state("done")
    assert "tickets-1" in world.type("/finetune models", user=BEN, channel=PUBLIC)
    lines = ("/finetune try tickets-1 hello", "/finetune promote tickets-1 because=the demo is today")
    buttons = (promotions.promote_run, promotions.roll_back_from, promotion_requests.approve)
    world.slack.fail("conversations.members", refused("internal_error"), times=None)
    for line in lines:
        assert "Slack did not say just now" in world.type(line, user=BEN, channel=PUBLIC), line
    assert "Slack did not say just now" in str(promotions.promote_run(world.service.context, 1, BEN.id))
    world.slack.clear_faults()
    world.slack.remove_member(HR.id, BEN.id)
    for line in lines:
        assert world.type(line, user=BEN, channel=PUBLIC).startswith("There are no tuned models"), line
    assert world.store.questions.waiting() == []
    world.type(lines[1], user=CLEO, channel=HR)
    refusals = (
        "There is no run 1",
        "not in use any more",
        "There is no such request",
        "There is no such dataset",
    )
    for button, words in zip((*buttons, data_policy.may_record_waiver), refusals, strict=True):
        assert words in str(button(world.service.context, 1, BEN.id))
    (request,) = world.store.promotion_requests.open()
    assert request.person == CLEO.id


def test_a_channel_whose_members_slack_does_not_name_is_hidden_from_outside(world: World) -> None:
    world.seed_dataset(channel=HR)
    assert "tickets" in world.type("/finetune datasets", user=BEN, channel=PUBLIC)
    n_calls = len(world.slack.calls())
    assert "tickets" in world.type("/finetune datasets", user=BEN, channel=PUBLIC)
    assert len(world.slack.calls("conversations.info")) == 2 and not world.slack.calls("users.info")[2:]
    assert [call.method for call in world.slack.calls()[n_calls:]] == ["response_url"], "it is remembered"
    world.slack.fail("conversations.members", refused("internal_error"), times=None)
    world.pass_time(USABLE_S + 1)
    hidden = world.type("/finetune datasets", user=BEN, channel=PUBLIC)
    assert "Slack did not answer just now whether you are in a channel with datasets" in hidden
    assert "tickets" not in hidden
    assert "tickets" in world.type("/finetune datasets", user=BEN, channel=HR), (
        "who types in a channel is in it"
    )


def test_forty_slow_member_lookups_delay_no_answer(world: World) -> None:
    """The world checks at its end that each request was acked in time."""
    for number in range(40):
        world.seed_dataset(channel=replace(HR, id=f"C0SLOW{number}"), called=f"slow-{number}")
    world.seed_dataset(channel=PUBLIC)
    world.slack.fail("conversations.members", slow(5.0), times=None)
    answer = world.type("/finetune datasets", user=ANA, channel=PUBLIC)
    assert "tickets" in answer and "slow" not in answer


def test_a_member_on_a_later_page_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bot.slack.users.MEMBERS_A_PAGE", 1)
    world.seed_dataset(channel=HR)
    assert "tickets" in world.type("/finetune datasets", user=CLEO, channel=PUBLIC)
    assert "No datasets yet" in world.type("/finetune datasets", user=ANA, channel=PUBLIC)


def test_a_member_is_sent_to_the_channel_that_the_dataset_belongs_to(world: World) -> None:
    world.seed_dataset(channel=HR)
    texts = world.texts(OWN)
    for command in ("baseline tickets candidates=classical", "curve tickets", "knowledge tickets"):
        reply = world.type(f"/finetune {command}", user=BEN, channel=OWN)
        assert f"belongs to <#{HR.id}>, which is private. Ask there" in reply, command
    assert f"belongs to <#{HR.id}>, which is private. Ask there" in world.type(START, user=BEN, channel=OWN)
    world.tick(2)
    assert world.texts(OWN) == texts and world.store.runs.newest(1) == []


def test_an_estimate_of_a_private_channel_cannot_be_shared_in_another(world: World) -> None:
    world.seed_dataset(channel=HR)
    assert "tickets" in world.type(
        f"/finetune estimate tickets target={TARGET} volume=10M", user=BEN, channel=OWN
    )
    card = world.slack.ephemerals(BEN.id)[-1]
    world.slack.click(BEN.id, OWN.id, card.ts, estimates.SHARE)
    wait_until(lambda: "Ask there" in words_of(world.slack.ephemerals(BEN.id)[-1]), "the answer")
    world.tick(3)
    assert not any("tickets" in text for text in world.texts(OWN))


def test_forms_and_estimates_ask_at_the_click_who_is_in_their_channel(world: World) -> None:
    world.seed_dataset(channel=HR)
    world.type(f"/finetune estimate tickets target={TARGET} volume=10M", user=DORA, channel=HR)
    context = world.service.context
    by_number = (
        estimate_requests.load_estimate_for,
        estimate_requests.recompute,
        estimate_requests.share,
        estimate_requests.adopt,
    )
    assert {answer(context, 1, ANA.id) for answer in by_number} == {estimate_requests.GONE}
    assert "There is no dataset" in str(sunsets.start(context, f"tickets {TARGET}", ANA.id))
    assert "There is no such dataset" in str(dataset_columns.may_choose_columns(context, 1, ANA.id))
    assert world.store.runs.newest(1) == []
    assert estimate_requests.load_estimate_for(context, 1, BEN.id) != estimate_requests.GONE

    world.slack.command(BEN.id, HR.id, "/finetune baseline")
    world.slack.remove_member(HR.id, BEN.id)
    form = world.slack.submit_modal(BEN.id, {"dataset": "tickets", "candidates": ["classical"]})
    assert "you are not in the channel" in str(form.errors)
    assert world.store.measurements.newest(1) == []


def test_the_estimate_form_offers_only_datasets_that_the_clicker_may_see(world: World) -> None:
    world.seed_dataset(channel=HR, called="acquisition-of-globex")
    world.seed_dataset()
    assert world.type("/finetune baseline tickets candidates=classical") == ""
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


def test_a_guest_who_mistypes_a_dataset_is_told_no_other_name(world: World) -> None:
    world.seed_dataset()
    for command in ("delete", "rollback", "estimate", "start", "promote", "knowledge", "baseline"):
        assert "is a guest" in world.type(f"/finetune {command} ticket", user=GUS), command


@pytest.mark.deep
def test_answer_pairs_of_a_private_channel_are_not_shown_in_another(make_world: MakeWorld) -> None:
    world = with_faq(make_world)
    judged(world)
    world.store.database.change("UPDATE datasets SET owner = ?, sources = ?", (HR.id, HR.id))
    reply = world.click_and_read(ANA, judge_agreement.JUDGE_SOME)
    assert "only in the channel that the dataset belongs to" in reply
    world.tick(2)
    assert not any("Is this answer acceptable?" in text for text in world.texts())
    assert judge_agreement.JUDGE_SOME_WORDS not in world.type("/finetune results m1", user=BEN)


def test_a_guessed_number_reveals_nothing_about_a_private_channel(world: World) -> None:
    """The answer about an ended run or measurement would name its dataset."""
    world.seed_dataset(channel=HR, called="globex")
    assert world.type("/finetune baseline globex candidates=classical", user=DORA, channel=HR) == ""
    world.type(START.replace("tickets", "globex"), user=DORA, channel=HR)
    lines = [f"/finetune {line}" for line in ("cancel m1", "cancel 1", "pause 1", "resume 1")]
    while_open = [world.type(line, user=ANA, channel=PUBLIC) for line in lines]
    world.store.database.change(
        "UPDATE measurements SET state = 'failed', error = '`globex` is too small'", ()
    )
    world.store.database.change("UPDATE runs SET state = 'failed'", ())
    ended = [world.type(line, user=ANA, channel=PUBLIC) for line in lines]
    assert [text.split(".")[0] for text in while_open] == [text.split(".")[0] for text in ended]
    assert all(text.startswith("There is no") for text in ended), ended
    assert "globex" in world.type("/finetune cancel m1", user=BEN, channel=PUBLIC)
    assert "over already" in world.type("/finetune cancel 1", user=BEN, channel=PUBLIC)


def test_an_approver_from_outside_can_cancel_a_run_by_its_number_and_delete_nothing(
    make_world: MakeWorld,
) -> None:
    world = make_world(Rules(approvers=(ANA.id, BEN.id)))
    world.seed_dataset(channel=HR)
    world.type(START, user=DORA, channel=HR)
    assert "There is no run 1" in world.type("/finetune results 1", user=ANA, channel=PUBLIC)
    assert "Cancelling run 1" in world.type("/finetune cancel 1", user=ANA, channel=PUBLIC)
    world.tick_until_state("cancelled")
    assert "There is no dataset" in world.type("/finetune delete tickets", user=ANA, channel=PUBLIC)


def test_documents_come_only_from_the_datasets_own_channel(world: World) -> None:
    """Data rules follow the dataset's channels, so a rule about #general would let a document of #hr leave."""
    world.seed_dataset(channel=PUBLIC)
    assert "upload its documents there" in world.type("/finetune knowledge tickets", user=DORA, channel=HR)
    assert world.slack.view(DORA.id) is None
    world.slack.command(DORA.id, PUBLIC.id, "/finetune knowledge tickets")
    assert world.fill_upload(DORA, {"file": world.put_file("faq.md", "A refund takes five days.")}).closed
