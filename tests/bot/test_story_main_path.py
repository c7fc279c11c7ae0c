"""The main path, from a file in Slack to a better model that answers in Slack."""

from __future__ import annotations

from demo.people import ANA, BEN
from tests.bot.props import tickets_csv
from tests.bot.world import DORA, EVE, GUS, PRIVATE, PUBLIC, ROBO, START, TARGET, World, words_of


def test_from_a_file_to_a_better_model(world: World) -> None:
    form = world.upload("tickets.csv", tickets_csv(120))
    assert form.accepted and form.closed
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    card = world.find_message("tickets is readable", "120 rows, 3 labels")
    assert "120 rows are too few for fine-tuning to be worth it" in card
    assert len(world.cards()) == 1  # the card that said "Checking …" was edited

    estimate = world.type(f"/finetune estimate tickets current=gpt-4o volume=100M target={TARGET}")
    assert "Not now" in estimate and "below 200" in estimate and "a month" in estimate, estimate

    assert world.type(START) == ""
    world.send()
    request = world.find_message("Run 1", "$0.11", "Budget left", "Needs one approver")
    assert "$20" in request and DORA.id in request and ANA.id in request

    assert "somebody else has to approve it" in world.click_and_read(DORA, "approve_plan")
    for stranger in (EVE, GUS, ROBO):
        assert "Only full members" in world.click_and_read(stranger, "approve_plan")
    assert "You requested this" in world.click_and_read(ANA, "approve_plan")
    assert world.jobs() == 0 and world.ledger() == {}

    world.approve()
    reserved = world.ledger()["reserve"]
    assert reserved == world.run().reserved_micros > 0
    world.send()
    assert not world.has_button("approve_plan")
    assert f"Approved by <@{BEN.id}>" in world.find_message("Approved by")
    assert any("approved" in text for text in world.dms())

    world.tick_until_state("training")
    progress = world.find_button("cancel_run")
    world.tick_until_state("done")
    (edited,) = [message for message in world.slack.messages(PRIVATE.id) if message.ts == progress.ts]
    assert edited.edits >= 2 and "Run 1" in edited.text
    _check_result(world, reserved)


def _check_result(world: World, reserved: int) -> None:
    result = world.find_message("Result of run 1", "the prompted base model", "100.0%")
    assert "estimated" in result and "Use it" in result
    world.tick_until_file("report-run-1.html")
    messages = world.slack.messages(PRIVATE.id)
    (parent,) = [message for message in messages if "Result of run 1" in words_of(message)]
    replies = [message for message in messages if message.thread_ts == parent.ts]
    assert any("rows got better" in words_of(message) for message in replies)
    (files,) = [message.files for message in replies if message.files]
    assert [file.name for file in files] == ["loss.png", "quality.png", "report-run-1.html"]
    world.click(BEN, "run_details")
    details = world.read_form(BEN)
    for part in ("Run 1", "Rows that changed", "Estimate and actual", "Training took"):
        assert part in details
    settled = world.ledger()["settle"]
    assert 0 < settled <= reserved and settled == world.run().actual_micros
    assert world.jobs() == 1

    world.type("/finetune try tickets-1 where is my refund?")
    assert "It answers" in world.tick_until_answered()


def test_changed_rows_stay_out_of_a_public_channel(world: World) -> None:
    world.start(channel=PUBLIC)
    world.approve(BEN, channel=PUBLIC)
    world.tick_until_state("done")
    assert world.find_message("Result of run 1", channel=PUBLIC)
    texts = "\n".join(world.texts(PUBLIC))
    assert "rows got better" not in texts and "a question about" not in texts


def test_the_requester_who_is_an_approver_cannot_approve(world: World) -> None:
    world.start(user=BEN)
    assert "You requested this" in world.click_and_read(BEN, "approve_plan")
    assert world.run().state == "awaiting_approval"


def test_repeated_held_out_rows_are_asked_and_counted_once(world: World) -> None:
    heading, *rows = tickets_csv().splitlines()
    assert world.upload_and_check("\n".join([heading, *rows, *rows])).state == "ready"
    world.start_approved()
    world.tick_until(lambda: len(world.store.runs.answers(1, "tuned")) == 18, "the tuned model's answers")
    world.tick(3)
    for candidate in ("base", "tuned"):
        answers = world.store.runs.answers(1, candidate)
        assert world.provider.count("POST /chat/completions") == 2 * len(answers)
        assert len(answers) == 18
        assert [answer.row for answer in answers] == list(range(len(answers)))
