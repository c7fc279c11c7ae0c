"""All data that may leave is scanned when it is written; what the vendor received is read from its own record."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bot.cards.evidence.evaluations import MEASURE
from demo.people import BEN
from storage.records import Dataset
from tests.bot.props import answer, checked_tickets, tickets_csv
from tests.bot.world import START, TARGET, Rules, World
from trainers.dataset import Example, Finding, Report, store_chat
from trainers.types import Message

MASK = "<address>"
KEY = "AKIA" + "IOSFODNN7EXAMPLX"
STAYS = '[[policy.data]]\nname = "stays here"\nproviders = ["local"]\n'
EMPTY = '{"sha256": "", "personal": [], "secret": []}'
PRICES = '[prices."acme/acme-small"]\ninput = "0.80"\noutput = "3.20"\n'


@pytest.fixture
def far(make_world: Callable[[Rules], World]) -> World:
    return make_world(Rules(provider_is_remote=True, more=PRICES))


@pytest.fixture
def prompts(far: World) -> list[str]:
    """The questions that reached the vendor."""
    questions: list[str] = []

    def recording(model: str, messages: list[dict[str, Any]]) -> str:
        questions.append(" ".join(str(message["content"]) for message in messages))
        return answer(model, messages)

    far.provider.service.answer = recording
    return questions


def with_an_address_in_each_row(mask: str | None = None) -> str:
    lines = tickets_csv().splitlines()
    rows = [line.replace("Order", f"{mask or f'jo{i}@example.com'} order") for i, line in enumerate(lines)]
    return "\n".join(rows)


def older_version(world: World, *texts: str) -> Dataset:
    """A version of an older release: without findings in its report, and with `texts` as its held-out rows."""
    files = world.service.settings.files
    report = checked_tickets(files)
    held_out = [
        Example(i, (Message("user", text), Message("assistant", "refund"))) for i, text in enumerate(texts)
    ]
    written = replace(
        report, holdout_sha256=store_chat(files, held_out), n_holdout=len(held_out), findings=()
    )
    seeded = world.seed_dataset()
    (files / f"{report.holdout_sha256}.jsonl").unlink()  # nothing names it from now on
    world.store.database.change("UPDATE datasets SET report = ? WHERE id = ?", (written.to_json(), seeded.id))
    forget_scans(world)
    dataset: Dataset = world.store.datasets.get(seeded.id)
    return dataset


def forget_scans(world: World) -> None:
    world.store.database.change("DELETE FROM scans", ())


def finish_scans(world: World) -> None:
    assert world.store.scans.requested()
    world.tick_until(lambda: not world.store.scans.requested(), "the scans")


def uploaded_files(world: World) -> list[str]:
    return [file.content.decode() for file in world.provider.service.files.values()]


@pytest.mark.deep
def test_after_a_masked_upload_no_address_is_sent(far: World, prompts: list[str]) -> None:
    assert far.upload_and_check(with_an_address_in_each_row()).state == "ready"
    assert "personal data" in far.type(START)

    assert far.upload_and_check(with_an_address_in_each_row(MASK)).version == 2
    far.send()
    assert "personal data or a secret" in far.find_message("replaced, because of personal data")
    far.start()
    far.approve()
    far.tick_until(lambda: len(prompts) >= 36, "all questions")

    assert not [text for text in prompts if "@" in text]
    assert not [text for text in uploaded_files(far) if "@" in text]
    assert far.store.waivers.of(far.dataset().id) is None


def test_a_measurement_agreed_to_earlier_sends_no_unscanned_row(far: World, prompts: list[str]) -> None:
    older_version(far, "write to jo@example.com")
    line = f"/finetune baseline tickets models={TARGET} candidates=zero"
    assert far.type(line)
    far.store.database.change("UPDATE scans SET found = ?", (EMPTY,))
    assert far.type(line) == ""
    far.tick_until(lambda: far.store.measurements.get(1).reserved_micros, "its price")
    far.send()
    far.click(BEN, MEASURE)
    forget_scans(far)

    far.tick_until(lambda: far.store.measurements.get(1).state == "failed", "its end")

    assert "personal data" in far.store.measurements.get(1).error and prompts == []


def test_an_older_version_is_scanned_at_its_next_use(far: World) -> None:
    dataset = older_version(far, "write to jo@example.com", "where is it")

    assert "being scanned" in far.type(START)
    finish_scans(far)

    assert "personal data" in far.type(START)
    far.send()
    assert "1 row to be sent contains an e-mail address" in far.find_message("contains personal data")
    assert far.store.runs.newest() == [] and far.store.waivers.of(dataset.id) is None


def test_a_waivers_card_lists_findings_in_the_file_and_in_held_out_rows(far: World) -> None:
    dataset = older_version(far, "my account is DE89370400440532013000", "where is it")
    finding = Finding(3, "warns", "personal_data", "holds an e-mail address.", "Replace it.")
    written = replace(Report.from_json(str(dataset.report)), findings=(finding,))
    far.store.database.change("UPDATE datasets SET report = ?", (written.to_json(),))

    far.type(START)
    finish_scans(far)
    far.type(START)
    far.send()

    card = far.find_message("contains personal data")
    assert "line 3 holds an e-mail address" in card.lower()
    assert "1 row to be sent contains what looks like a bank account" in card


def test_an_older_version_without_findings_is_used_once_it_is_scanned(far: World) -> None:
    older_version(far, "where is it", "what now")

    assert "Try again" in far.type(START)
    finish_scans(far)

    assert far.type(START) == ""


def test_a_secret_that_older_patterns_missed_is_not_sent(far: World) -> None:
    older_version(far, f"the key is {KEY}")
    far.type(START)
    finish_scans(far)

    refusal = far.type(START)

    assert "AWS key" in refusal and "Revoke that secret" in refusal and KEY not in refusal


def test_approved_rows_are_scanned_before_they_are_sent(far: World) -> None:
    older_version(far, "write to jo@example.com")
    assert far.type(START)
    far.store.database.change("UPDATE scans SET found = ?", (EMPTY,))
    assert far.type(START) == ""
    far.send()
    far.approve()
    forget_scans(far)

    run = far.tick_until_state("cancelled", far.newest_run().id)

    assert "personal data" in str(run.error)
    assert (far.jobs(), uploaded_files(far)) == (0, [])


def test_held_out_rows_of_a_trained_run_are_scanned_before_the_evaluation(
    far: World, prompts: list[str]
) -> None:
    older_version(far, "write to jo@example.com")
    assert far.type(START)
    far.store.database.change("UPDATE scans SET found = ?", (EMPTY,))
    assert far.type(START) == ""
    far.send()
    far.approve()
    far.tick_until_state("training")
    forget_scans(far)

    run = far.tick_until_state("failed", far.newest_run().id)

    assert "personal data" in str(run.error) and prompts == []


def test_a_question_with_personal_data_or_a_secret_is_not_sent(far: World, prompts: list[str]) -> None:
    far.start_approved()
    far.tick_until_state("done")
    before = len(prompts)

    for text, named in (("jo@example.com wants a refund", "an e-mail address"), (f"key {KEY}", "AWS key")):
        assert named in far.type(f"/finetune try tickets-1 {text}")
    far.tick(3)

    assert len(prompts) == before and far.store.questions.waiting() == []
    far.store.waivers.add(far.dataset().id, BEN.id, "the customers agreed to it", now=far.clock)
    assert "Asking" in far.type("/finetune try tickets-1 jo@example.com wants a refund")
    assert "AWS key" in far.type(f"/finetune try tickets-1 key {KEY}"), "a waiver never covers secrets"


def test_a_prompt_with_personal_data_or_a_secret_is_not_sent(far: World, prompts: list[str]) -> None:
    far.seed_dataset()
    line = f"/finetune baseline tickets models={TARGET} candidates=zero prompt=Sort it."

    refusal = far.type(f"{line} The password: hunter2!")

    assert "The prompt holds what looks like a password" in refusal and "hunter2" not in refusal
    assert "The prompt holds an e-mail address" in far.type(f"{line} If unsure, ask jo@example.com.")
    assert far.store.measurements.newest(1) == [] and prompts == []
    far.store.dataset_settings.set(
        "tickets", prompt="Sort it as jo@example.com would.", by=BEN.id, now=far.clock
    )
    assert "The prompt holds an e-mail address" in far.type(line.removesuffix(" prompt=Sort it."))
    assert far.type(line) == ""


def add_rule(world: World) -> None:
    """Write the rule into finetune.toml and restart the bot."""
    world.rules.more += STAYS
    world.restart()


def test_a_rule_added_after_the_agreement_stops_a_measurement(far: World, prompts: list[str]) -> None:
    far.seed_dataset()
    assert far.type(f"/finetune baseline tickets models={TARGET} candidates=zero") == ""
    far.tick_until(lambda: far.store.measurements.get(1).reserved_micros, "its price")
    far.send()
    far.click(BEN, MEASURE)
    add_rule(far)

    far.tick_until(lambda: far.store.measurements.get(1).state == "failed", "its end")

    assert "stays here" in far.store.measurements.get(1).error and prompts == []


def test_a_rule_added_during_the_training_stops_the_evaluation(far: World, prompts: list[str]) -> None:
    far.start_approved()
    far.tick_until_state("training")
    add_rule(far)

    run = far.tick_until_state("failed")

    assert "stays here" in str(run.error) and prompts == []
