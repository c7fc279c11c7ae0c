"""The other entry points: message menu, global shortcut, App Home, mentions, lists, help, and mistyped lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

import pytest

from demo.people import ANA, BEN, TICKETS
from demo.slack_emulator import broken, cut_off, refused, too_many
from demo.slack_emulator.faults import Fault
from demo.workspace import elements
from tests.bot.props import tickets_csv
from tests.bot.world import CLEO, DORA, GUS, PRIVATE, TARGET, WHY, Rules, World, words_of
from tests.patience import wait_until


def open_home(world: World, user: str) -> str:
    """Open the App Home; returns what is published after the event's ack."""
    before = len(world.slack.calls("views.publish"))
    world.slack.open_home(user)
    wait_until(lambda: len(world.slack.calls("views.publish")) > before, "the App Home")
    home = world.slack.home(user)
    assert home is not None
    return json.dumps(list(home.blocks), ensure_ascii=False)


def test_a_message_with_a_file_becomes_training_data(world: World) -> None:
    world.slack.upload(DORA.id, world.file("Winter tickets.csv", tickets_csv()), channel=TICKETS.id)
    message = world.slack.messages(TICKETS.id)[-1]
    world.slack.message_shortcut(ANA.id, TICKETS.id, message.ts, "use_as_training_data")
    form = world.slack.view(ANA.id)
    assert form is not None and "Winter tickets.csv" in json.dumps(list(form.blocks))
    assert world.fill_upload(ANA, {}).closed
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    assert world.dataset().name == "winter-tickets" and world.dataset().uploaded_by == ANA.id
    assert world.find_message("winter-tickets is readable", "60 rows")


def test_the_shortcut_on_a_message_without_a_file_says_so(world: World) -> None:
    ts = world.slack.say(ANA.id, TICKETS.id, "look at this")
    world.slack.message_shortcut(ANA.id, TICKETS.id, ts, "use_as_training_data")
    form = world.slack.view(ANA.id)
    assert form is not None and "has no file" in json.dumps(list(form.blocks))
    assert world.store.datasets.all() == []


def test_a_guest_is_refused_before_filling_in_the_upload_form(world: World) -> None:
    world.slack.upload(DORA.id, world.file("tickets.csv", tickets_csv()), channel=TICKETS.id)
    ts = world.slack.messages(TICKETS.id)[-1].ts
    assert "this account is a guest" in world.type("/finetune upload", user=GUS)
    assert world.slack.view(GUS.id) is None
    world.slack.global_shortcut(GUS.id, "upload_training_data")
    assert "this account is a guest" in world.read_form(GUS)
    world.slack.close_modal(GUS.id)
    world.slack.message_shortcut(GUS.id, TICKETS.id, ts, "use_as_training_data")
    assert "this account is a guest" in world.read_form(GUS)


def test_a_form_that_slack_no_longer_opens_says_to_try_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.slack.fail("views.open", refused("expired_trigger_id"), times=2)
    world.slack.command(ANA.id, TICKETS.id, "/finetune upload")
    world.tick_until(lambda: world.slack.ephemerals(ANA.id), "why no form came")
    reply = words_of(world.slack.ephemerals(ANA.id)[-1])
    assert "within Slack's limit of three seconds" in reply and "Type it again: `/finetune upload`" in reply
    world.slack.global_shortcut(ANA.id, "upload_training_data")
    world.tick_until(lambda: len(world.dms()) == 1, "why no form came")
    assert "Click it again" in world.dms()[0]
    assert "went wrong" not in "".join(world.dms()) + reply and "a listener failed" not in caplog.text


@pytest.mark.parametrize("fault", [broken(503), too_many()])
def test_trouble_at_slack_is_not_reported_as_the_bots(
    world: World, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    world.slack.fail("views.open", fault)
    assert world.type("/finetune upload").startswith(
        "Slack is having trouble, and nothing was changed. Try again in a minute."
    )
    assert "a listener failed" not in caplog.text


def test_the_global_shortcut_asks_for_the_channel(world: World) -> None:
    world.slack.global_shortcut(ANA.id, "upload_training_data")
    file = world.put_file("tickets.csv", tickets_csv(), ANA)
    assert set(world.fill_upload(ANA, {"file": file}).errors) == {"channel"}
    assert world.fill_upload(ANA, {"file": file, "channel": TICKETS.id}).closed
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    assert world.find_message("tickets is readable")


def test_a_name_of_punctuation_only_is_refused_in_the_form(world: World) -> None:
    form = world.upload("tickets.csv", tickets_csv(), called="???")
    assert not form.closed and "at least one letter" in form.errors["name"]
    assert world.store.datasets.all() == []


def test_the_home_shows_what_is_waiting_for_each_person(world: World) -> None:
    assert "Begin with your examples" in open_home(world, BEN.id)
    world.start()
    assert "acme-small" in open_home(world, BEN.id).split("In progress")[0]
    for other in (ANA, DORA):
        home = open_home(world, other.id)
        assert "Nothing is waiting for you" in home and "waiting for approval" in home.split("In progress")[1]
    world.approve()
    world.tick_until_state("training")
    home = open_home(world, BEN.id)
    assert "Nothing is waiting" in home and "training" in home and "$20" in home
    world.send()
    line = next(line for line in world.type("/finetune status").splitlines() if "*Run 1*" in line)
    assert "|Open>" in line, "also once it is approved"


def test_a_plan_that_somebody_approved_waits_only_for_others(make_world: Callable[[Rules], World]) -> None:
    world = make_world(Rules(quorum=2))
    world.start()
    world.approve(BEN)
    assert "Nothing is waiting for you" in open_home(world, BEN.id)
    assert "approve_plan" in open_home(world, CLEO.id)


def shown_home(world: World, user: str) -> str:
    home = world.slack.home(user)
    return json.dumps(list(home.blocks), ensure_ascii=False) if home else ""


def test_an_opened_home_is_redrawn_when_something_changes(world: World) -> None:
    assert "approve_plan" not in open_home(world, BEN.id)
    world.start()
    world.tick(3)
    assert "approve_plan" in shown_home(world, BEN.id) and "|Open>" in shown_home(world, BEN.id)
    world.approve()
    world.tick_until_state("training")
    world.tick(4)
    assert "approve_plan" not in shown_home(world, BEN.id) and "training" in shown_home(world, BEN.id)
    assert shown_home(world, CLEO.id) == "", "she never opened it"


def test_changes_at_once_redraw_a_home_once(world: World) -> None:
    open_home(world, BEN.id)
    world.start()
    world.type("/finetune freeze the bill looks odd", user=BEN)
    world.tick(3)
    before = len(world.slack.calls("views.publish"))
    assert before == 2, "when it was opened, and once after both"
    world.tick(5)
    assert len(world.slack.calls("views.publish")) == before, "nothing has changed"


def test_a_home_that_was_not_opened_for_long_is_not_redrawn(world: World) -> None:
    open_home(world, BEN.id)
    world.pass_time(13 * 3600)
    world.start()
    world.tick(3)
    assert "approve_plan" not in shown_home(world, BEN.id)


def test_a_home_that_slack_refuses_is_redrawn_later(world: World) -> None:
    open_home(world, BEN.id)
    world.start()
    world.slack.fail("views.publish", broken(503))
    world.tick(3)
    assert "approve_plan" not in shown_home(world, BEN.id)
    world.type("/finetune freeze the bill looks odd", user=BEN)
    world.pass_time(61)
    world.tick(3)
    assert "approve_plan" in shown_home(world, BEN.id)


@pytest.mark.parametrize("fault", [broken(503), cut_off()])
def test_an_approval_on_the_home_counts_although_the_home_cannot_be_redrawn(
    world: World, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    world.start()
    open_home(world, BEN.id)
    world.slack.press(BEN.id, "approve_plan", home=True)
    before = len(world.slack.calls("views.publish"))
    world.slack.fail("views.publish", fault)
    assert world.slack.submit_modal(BEN.id, {"reason": WHY}).closed
    wait_until(lambda: len(world.slack.calls("views.publish")) > before, "the App Home")
    world.tick()
    assert world.run().state != "awaiting_approval"
    assert world.dms(BEN) == [] and "a listener failed" not in caplog.text
    assert "approve_plan" in shown_home(world, BEN.id)
    world.pass_time(61)
    world.tick(3)
    assert "approve_plan" not in shown_home(world, BEN.id), "it is redrawn without another event"


def test_opened_homes_are_remembered_after_a_restart(world: World) -> None:
    open_home(world, BEN.id)
    world.restart()
    world.start()
    world.tick(3)
    assert "approve_plan" in shown_home(world, BEN.id)


def test_a_file_is_uploaded_from_the_home(world: World) -> None:
    open_home(world, ANA.id)
    world.slack.press(ANA.id, "begin_upload", home=True)
    file = world.put_file("tickets.csv", tickets_csv(), ANA)
    assert world.fill_upload(ANA, {"file": file, "channel": TICKETS.id}).closed
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    assert world.dataset().filename == "tickets.csv"
    open_home(world, ANA.id)
    world.slack.press(ANA.id, "all_commands", home=True)
    assert world.slack.view(ANA.id) is not None


def mention(world: World, text: str, **more: str) -> str:
    """Mention the bot in the channel; returns the answer that only Ana reads."""
    before = len(world.slack.ephemerals(ANA.id))
    world.slack.say(ANA.id, TICKETS.id, f"<@{world.slack.access.bot_user}> {text}", **more)
    world.tick_until(lambda: len(world.slack.ephemerals(ANA.id)) > before, "the answer")
    assert not [text for text in world.texts() if "/finetune" in text]
    return words_of(world.slack.ephemerals(ANA.id)[-1])


def test_a_mention_is_a_command_answered_to_its_author_alone(world: World) -> None:
    world.seed_dataset()
    assert "/finetune upload" in mention(world, "")
    assert "tickets" in mention(world, "datasets")
    assert "I don't know what you mean" in mention(world, "what can you do?")
    assert "type it with the slash: `/finetune upload`" in mention(world, "upload")


def test_a_question_is_answered_with_the_nearest_commands_and_runs_none(world: World) -> None:
    world.seed_dataset()
    answer = mention(world, "should we fine-tune a model for our tickets?")
    assert "Do you mean one of these?" in answer and "/finetune estimate tickets" in answer
    # Of several datasets none is guessed, unless the question names it.
    world.seed_dataset(called="refunds")
    assert "/finetune estimate DATASET" in mention(world, "should we fine-tune something?")
    assert "/finetune delete refunds" in mention(world, "please erase all data of refunds")
    message = world.slack.ephemerals(ANA.id)[-1]
    assert "delete refunds" not in [each.get("value") for each in elements(message.blocks)]
    assert set(world.store.datasets.names()) == {"tickets", "refunds"}
    # What changes nothing is run by a click.
    mention(world, "how much budget is left this month?")
    message = world.slack.ephemerals(ANA.id)[-1]
    before = len(world.slack.ephemerals(ANA.id))
    world.slack.click(ANA.id, message.channel, message.ts, "run_line_0")
    assert "left" in words_of(world.slack.ephemerals(ANA.id)[before])


def test_a_mention_in_a_thread_is_answered_there(world: World) -> None:
    world.seed_dataset()
    first = world.slack.say(ANA.id, TICKETS.id, "look at this")
    for command in ("help", f"estimate tickets target={TARGET}", f"start tickets target={TARGET} epochs=99"):
        mention(world, command, thread_ts=first)
        assert world.slack.ephemerals(ANA.id)[-1].thread_ts == first, command


def test_a_direct_message_is_a_command(world: World) -> None:
    dm = world.slack.dm(ANA.id)
    for text in ("status", "/finetune status", "Finetune status", " finetune  STATUS "):
        before = len(world.dms(ANA))
        world.slack.say(ANA.id, dm, text)
        _, answer = world.tick_until(partial(_two_new_dms, world, before), "the answer")
        assert "Nothing is running" in answer, text


def _two_new_dms(world: World, before: int) -> list[str]:
    texts = world.dms(ANA)[before:]
    return texts if len(texts) == 2 else []


def test_a_bot_that_starts_while_slack_is_away_follows_its_jobs_and_answers_later(
    world: World,
) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.stop()
    world.slack.fail("auth.test", broken(503), times=None)
    world.slack.fail("chat.postMessage", cut_off(), times=None)
    world.boot()
    assert not world.service.answers.come
    before = len(world.slack.calls("auth.test"))
    assert "reinstall" not in world.type("/finetune help"), (
        "Bolt's own words while it can't ask who the app is"
    )
    assert "/finetune upload" in world.type("/finetune help")
    assert len(world.slack.calls("auth.test")) == before, "a delivery doesn't wait for Slack"
    world.tick_until(lambda: world.run().state == "done", "the run to be done")
    world.slack.clear_faults()
    world.service.answers.ask(world.service.notices.slack)
    assert world.service.answers.come
    assert "Run 1" in world.type("/finetune status")
    world.pass_time(301)
    world.tick_until(lambda: any("Result of run 1" in text for text in world.texts()), "the result")


def test_a_bot_asks_slack_only_once_who_it_is(world: World) -> None:
    world.stop()
    before = len(world.slack.calls("auth.test"))
    world.boot()
    assert len(world.slack.calls("auth.test")) == before + 1
    assert "Nothing is running" in world.type("/finetune status")


def test_a_file_sent_to_the_bot_is_answered_with_how_to_upload(world: World) -> None:
    dm = world.slack.dm(ANA.id)
    file = world.file("tickets.csv", tickets_csv())
    world.slack.upload(ANA.id, file, channel=dm)
    world.tick_until(lambda: len(world.dms()) > 1, "the answer")
    assert "Use as training data" in world.dms()[-1]
    world.slack.upload(ANA.id, file, channel=TICKETS.id)
    world.tick(3)
    assert len(world.texts()) == 1, "a file in a channel is left alone"


def test_every_line_is_answered_with_a_sentence(world: World) -> None:
    for line, answer in {
        "/finetune": "/finetune upload",
        "/finetune help": "Nothing costs money until somebody has agreed",
        "/finetune datasets": "No datasets yet",
        "/finetune status": "Nothing is running",
        "/finetune runs": "There are no runs yet. `/finetune start DATASET`",
        "/finetune status 7": "There is no run 7",
        "/finetune results 7": "There is no run 7",
        "/finetune cancel": "Which run?",
        "/finetune cancel 7": "There is no run 7",
        "/finetune try tickets-1 hello": "There are no tuned models yet",
        "/finetune try": "Which model",
        "/finetune estimate": "There is no dataset to estimate yet",
        "/finetune estimate tickets": "There is no dataset",
        "/finetune start": "Which dataset?",
        "/finetune statsu": "Did you mean `status`?",
        "/finetune uplaod": "Did you mean `upload`?",
        "/finetune <!channel>": "/finetune help",
    }.items():
        reply = world.type(line)
        assert answer in reply and "<!channel>" not in reply, line
        assert world.slack.deliveries[-1].seconds < 1


def open_form(world: World, action: str) -> str:
    """Click Ana's newest message or card with this action; returns the form that opens."""
    for message in reversed((*world.slack.messages(TICKETS.id), *world.slack.ephemerals(ANA.id))):
        if f'"{action}"' in json.dumps(list(message.blocks)):
            world.slack.click(ANA.id, message.channel, message.ts, action)
            view = world.slack.view(ANA.id)
            return json.dumps(list(view.blocks), ensure_ascii=False) if view else ""
    raise AssertionError(f"nobody sees {action}")


def test_the_helps_buttons_open_their_forms(world: World) -> None:
    world.seed_dataset()
    world.type("/finetune help")
    assert "Use as training data" not in open_form(world, "begin_upload") and world.slack.view(ANA.id)
    world.slack.close_modal(ANA.id)
    assert "Model that you prompt today" in open_form(world, "begin_estimate")
    world.slack.close_modal(ANA.id)
    assert "`rollback DATASET`: go back" in open_form(world, "all_commands")
    world.slack.close_modal(ANA.id)
    assert "`rollback DATASET`: go back" in world.type("/finetune help all")


def test_the_help_of_a_command_shows_its_other_options_on_request(world: World) -> None:
    answer = world.type("/finetune help estimate")
    assert answer.startswith("Estimate what training would cost and save")
    assert "`lora_r=`" not in answer and "20 about training" in answer
    before = len(world.slack.ephemerals(ANA.id))
    message = world.slack.ephemerals(ANA.id)[-1]
    world.slack.click(ANA.id, message.channel, message.ts, "run_line_0")
    full = words_of(world.slack.ephemerals(ANA.id)[before])
    assert "*Training*" in full and "`lora_r=`" in full
    assert "Did you mean `estimate`?" in world.type("/finetune help estimat")
    assert "`finetune report`" in world.type("/finetune help report")


def test_lists_lead_to_the_next_step(world: World) -> None:
    assert "There are no results yet" in world.type("/finetune results")
    world.seed_dataset()
    world.type("/finetune datasets")
    assert "tickets" in open_form(world, "measure_dataset")
    world.slack.close_modal(ANA.id)
    world.start_approved()
    world.tick_until(lambda: world.run().state == "done", "the run to be done")
    assert "Run 1" in world.type("/finetune results")
    message = world.slack.ephemerals(ANA.id)[-1]
    before = len(world.slack.ephemerals(ANA.id))
    world.slack.click(ANA.id, message.channel, message.ts, "run_line_0")
    assert "Run 1" in words_of(world.slack.ephemerals(ANA.id)[before])
    assert "tickets-1" in world.type("/finetune models") and "tickets-1" in world.type("/finetune models all")
    assert "acme-small at acme" not in world.type("/finetune models")
    assert "acme-small at acme" in world.type("/finetune models all")


def test_earlier_versions_of_a_dataset_are_listed_on_request(world: World) -> None:
    world.upload_and_check(tickets_csv())
    world.upload_and_check(tickets_csv(800))
    short = world.type("/finetune datasets")
    assert "version 2" in short and "version 1:" not in short and "1 earlier version" in short
    assert "version 1:" in world.type("/finetune datasets all")


def test_a_dataset_cards_buttons_open_forms_for_it(world: World) -> None:
    world.seed_dataset(called="another")
    world.upload_and_check(tickets_csv())
    for action in ("measure_dataset", "estimate_dataset"):
        fields = {block["block_id"]: block for block in json.loads(open_form(world, action))}
        assert fields["dataset"]["element"]["initial_option"]["value"] == "tickets"
        world.slack.close_modal(ANA.id)


def test_a_refused_file_is_uploaded_again_under_its_name(world: World) -> None:
    world.upload_and_check("text,label\nhello,greeting\n")
    assert '"initial_value": "tickets"' in open_form(world, "upload_again")


def test_lists_name_runs_without_job_ids_and_keys(world: World) -> None:
    run = world.start_approved()
    world.tick_until_state("evaluating")
    for line in ("status", "runs", "status 1", "results 1", "status #1"):
        reply = world.type(f"/finetune {line}")
        assert "acme-small" in reply and "tickets" in reply
        assert "ftjob-" not in reply and run.key not in reply
    assert "ready" in world.type("/finetune datasets")
    assert "Did you mean `tickets-1`?" in world.type("/finetune try tickets1 where is my refund?")


def test_details_of_a_run_show_its_approved_plan_to_the_clicker_alone(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    world.send()
    before = world.texts()
    world.click(CLEO, "plan_details")
    assert "acme-small" in world.read_form(CLEO) and world.run().plan_hash in world.read_form(CLEO)
    assert world.texts() == before


def test_the_estimate_form_answers_its_sender_alone(world: World) -> None:
    world.seed_dataset()
    world.slack.command(ANA.id, PRIVATE.id, "/finetune estimate")
    rejected = world.slack.submit_modal(ANA.id, {"current": "gpt-4o", "volume": "lots", "target": TARGET})
    assert "10M" in rejected.errors["volume"]
    form = world.slack.submit_modal(
        ANA.id, {"current": "gpt-4o", "volume": "10 million tokens", "target": TARGET, "dataset": "tickets"}
    )
    assert form.closed, form.errors
    world.wait_for_answer(ANA, 0)
    assert "a month" in words_of(world.slack.ephemerals(ANA.id)[-1])
    assert world.texts() == []


def test_acks_come_within_milliseconds(world: World) -> None:
    world.start_approved()
    world.tick_until_state("training")
    for line in ("help", "status", "runs", "datasets", "status 1"):
        for _ in range(4):
            world.type(f"/finetune {line}")
    deliveries = [delivery for delivery in world.slack.deliveries if delivery.what == "/finetune"]
    seconds = sorted(delivery.seconds for delivery in deliveries)
    assert seconds[len(seconds) // 2] < 0.25
