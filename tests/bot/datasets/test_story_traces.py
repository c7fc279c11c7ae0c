"""A word in every field and file of all that a team can do with two datasets: after their deletion it is nowhere. And
the company's bill: no budget sees less than was paid, though some answers got lost on their way."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import pytest

from bot.cards.evidence import evaluations
from bot.reconciler import maintain
from demo.people import ANA, BEN
from tests.bot import canaries
from tests.bot.datasets.test_story_deletion import add_document
from tests.bot.datasets.test_story_row_labels import label_all, make_version, open_batch
from tests.bot.faq import JUDGE, PRICES, Messages, judge_fairly
from tests.bot.measurements import measurement, until, until_asked
from tests.bot.models.test_story_promote import WITH_ALIASES, alias_target, promote
from tests.bot.props import LABELS
from tests.bot.serving.test_story_tried_answers import ask, correct
from tests.bot.world import CLEO, DORA, MODEL, PRIVATE, TARGET, MakeWorld, Rules, World
from tests.peers.hosted import COMMIT_THEN_CUT
from trainers.money import from_micros

MARKS = {
    "a text": "quuxnightjar",
    "a label": "quuxfinch",
    "instructions": "quuxcrane",
    "a call": "quuxheron",
    "an answer in the data": "quuxstork",
    "a file name": "quuxwren",
    "a document": "quuxrobin",
    "a typed prompt": "quuxkestrel",
    "a found prompt": "quuxbunting",
    "an answer": "quuxosprey",
    "a better answer": "quuxowl",
    "a question": "quuxlinnet",
    "a row to label": "quuxlark",
    "a row for the teacher": "quuxmartin",
}
STAYING_MARKS = {"a reason": "quuxraven"}
"""The reasons that people give for a decision stay in the audit log, as the forms and docs/security.md say."""
REASONS = {"audit.detail", "promotions.reason", "promotions.taken_out_because", "promotion_requests.reason"}
# What the company charges for a million tokens, read and written.
USUAL = (Decimal("0.80"), Decimal("3.20"))
OF_JUDGE = (Decimal("1.00"), Decimal("4.00"))
CHAT = "POST /chat/completions"
DAY_S = 24 * 3600
FINCH = f"refund {MARKS['a label']}"
TRACK = {
    "type": "function",
    "function": {
        "name": "track",
        "parameters": {"type": "object", "properties": {"code": {"type": "string"}}},
    },
}


class Company:
    """Answers all questions, and bills each answer that it gave, even if it never arrived."""

    def __init__(self, world: World) -> None:
        self.usd = Decimal(0)
        self.booked: list[str] = []
        self._world = world
        world.provider.service.models = (MODEL, JUDGE)
        world.provider.service.trained_tokens = 400
        world.provider.service.answer = self.answer

    def answer(self, model: str, messages: Messages) -> str:
        text = _answer(model, messages)
        sent = sum(len(str(message["content"]).split()) for message in messages)
        read, written = OF_JUDGE if model == JUDGE else USUAL
        self.usd += (read * sent + written * len(text.split())) / 1_000_000
        return text

    def loses_answers(self, count: int = 2) -> None:
        """The next answers are given, and lost on their way."""
        self._world.provider.fail(CHAT, COMMIT_THEN_CUT, times=count)

    def assert_booked(self, before: Decimal, micros: int | None, what: str) -> None:
        paid = self.usd - before
        assert 0 < paid <= from_micros(micros or 0), what
        self.booked.append(what)


def _answer(model: str, messages: Messages) -> str:
    if model == JUDGE:
        return judge_fairly(messages)
    text = str(messages[-1]["content"])
    if messages[0]["role"] == "user" and "new instruction" in text:
        return f"```\n{text.split('```')[1].strip()} Mind the {MARKS['a found prompt']}.\n```"
    if "parcel" in text:
        return f"It goes out today, says {MARKS['an answer']}."
    label = next((label for label in LABELS if label in text), "billing")
    has_examples = len(messages) > 3
    is_taught = (
        model.startswith("ft:") or has_examples or MARKS["a found prompt"] in str(messages[0]["content"])
    )
    if not is_taught and label == "shipping":
        label = "billing"
    return FINCH if label == "refund" else label


def tickets(count: int = 90) -> str:
    """Chats with instructions, of which each third has the label with the mark."""
    rows = []
    for number in range(count):
        label = LABELS[number % 3]
        text = f"Order {number * 37}: a {MARKS['a text']} about {label}, and {number} more words"
        turns = (
            ("system", f"Sort the mails of {MARKS['instructions']}."),
            ("user", text),
            ("assistant", FINCH if label == "refund" else label),
        )
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    return "\n".join(map(json.dumps, rows))


def parcels(count: int = 54) -> str:
    """Chats in free text, in which a function was called."""
    stork = MARKS["an answer in the data"]
    rows = []
    for number in range(count):
        call = {
            "id": f"c{number}",
            "type": "function",
            "function": {"name": "track", "arguments": json.dumps({"code": f"{MARKS['a call']}{number}"})},
        }
        turns: list[dict[str, Any]] = [
            {"role": "system", "content": f"Answer for {MARKS['instructions']}."},
            {"role": "user", "content": f"Parcel {number * 41}, {number} {MARKS['a text']}, what of it?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{number}", "content": f"at {MARKS['a call']} {number}"},
            {"role": "user", "content": f"So when does my parcel {number * 41} leave?"},
            {
                "role": "assistant",
                "content": f"Parcel {number * 41}, says {stork}, in {number % 7 + 1} days.",
            },
        ]
        rows.append({"messages": turns, "tools": [TRACK]})
    return "\n".join(map(json.dumps, rows))


@pytest.mark.slow  # the search alone asks hundreds of questions; test_story_deletion.py has the quick part
def test_a_word_in_every_field_is_nowhere_after_the_deletion_and_every_answer_is_booked(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    world = make_world(Rules(approvers=(BEN.id, CLEO.id), more=PRICES, measurement="20", budget="200"))
    world.abilities = WITH_ALIASES
    world.restart()
    company = Company(world)
    _upload(world, "tickets", tickets())
    text = f"# Help\n\nThe {MARKS['a document']} says: refund.\n"
    add_document(world, f"{MARKS['a file name']}.md", text, state="ready")
    _measure_with_search(world, company)
    _label(world)
    _distil(world, company)
    _train_and_deploy(world, company)
    _upload(world, "parcels", parcels())
    _judge(world, company)
    assert company.booked == ["search", "teacher", "run", "judge", "judged run"]

    _assert_each_mark_is_there(world)
    _delete(world, "tickets")
    _delete(world, "parcels")
    world.pass_time(8 * DAY_S)
    for _ in range(2):
        world.tick()
        maintain(world.service.context)
        world.pass_time(DAY_S)
    shutil.rmtree(world.service.settings.data / "backups")  # whose seven nights a deletion doesn't shorten
    _assert_nothing_is_left(world, caplog.text)


def _upload(world: World, name: str, content: str) -> None:
    assert world.upload(f"{MARKS['a file name']}-{name}.jsonl", content, called=name).accepted
    world.tick_until(lambda: world.dataset().state in ("ready", "refused"), "the check")
    world.send()
    assert (world.dataset().name, world.dataset().state) == (name, "ready")


def _measure_with_search(world: World, company: Company) -> None:
    before = company.usd
    line = (
        "/finetune baseline tickets models=acme/acme-small candidates=classical,encoder,zero,kshot,retrieval"
    )
    assert world.type(f"{line} bar=60% optimise=$0.02 prompt=Sort it, {MARKS['a typed prompt']}.") == ""
    until_asked(world)
    world.click(BEN, evaluations.MEASURE)
    company.loses_answers()
    done = until(world, "done", seconds=90)
    company.assert_booked(before, done.actual_micros, "search")
    world.type("/finetune estimate tickets current=gpt-4o volume=100M")


def _label(world: World) -> None:
    """People label new rows, which join version 2."""
    texts = [
        f"New {MARKS['a row to label']} {number}, somebody writes about {LABELS[number % 3]}"
        for number in range(12)
    ]
    world.slack.command(DORA.id, PRIVATE.id, "/finetune label tickets")
    file = world.put_file("new.csv", _csv(texts))
    assert world.slack.submit_modal(DORA.id, {"count": "9", "file": file}).accepted
    open_batch(world)
    assert label_all(world, DORA) == 9
    make_version(world)


def _distil(world: World, company: Company) -> None:
    before = company.usd
    texts = [
        f"Another {MARKS['a row for the teacher']} {number} about {LABELS[number % 2]}"
        for number in range(20)
    ]
    assert world.type("/finetune distill tickets teacher=acme/acme-small") == ""
    answers = {"file": world.put_file("taught.csv", _csv(texts), ANA)}
    assert not world.slack.submit_modal(ANA.id, answers).errors
    world.tick_until(lambda: world.store.measurements.get(2), "the teacher's questions")
    until_asked(world, 2)
    world.click(ANA, evaluations.MEASURE)
    company.loses_answers()
    world.tick_until(lambda: world.store.labellings.under_way("tickets") is None, "the labels")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    company.assert_booked(before, measurement(world, 2).actual_micros, "teacher")


def _train_and_deploy(world: World, company: Company) -> None:
    before = company.usd
    world.start(f"/finetune start tickets current=gpt-4o volume=100M target={TARGET} epochs=2")
    world.approve()
    company.loses_answers()
    done = world.tick_until_state("done", 1)
    company.assert_booked(before, done.actual_micros, "run")
    for candidate in ("tickets retrieval", "tickets kshot"):
        promote(world, candidate, why=f"because={STAYING_MARKS['a reason']} told us to")
        world.tick_until(lambda: world.store.promotions.current("tickets").carried_at, "the recipe")
    promote(world, why=f"because={STAYING_MARKS['a reason']} told us to")
    world.tick(2)
    assert alias_target(world)
    correct(
        world, ask(world, f"where is my {MARKS['a question']} refund?"), f"the {MARKS['a better answer']}"
    )
    world.tick(2)
    world.type("/finetune pairs tickets")


def _judge(world: World, company: Company) -> None:
    before = company.usd
    line = f"/finetune baseline parcels models=acme/acme-small candidates=zero,kshot judge=acme/{JUDGE}"
    assert world.type(line) == ""
    until_asked(world, 3)
    world.click(BEN, evaluations.MEASURE)
    company.loses_answers()
    done = until(world, "done", 3, seconds=60)
    company.assert_booked(before, done.actual_micros, "judge")
    before = company.usd
    world.start(f"/finetune start parcels target={TARGET}")
    world.approve()
    company.loses_answers()
    judged = world.tick_until_state("done", 2)
    company.assert_booked(before, judged.actual_micros, "judged run")


def _csv(texts: Iterable[str]) -> str:
    return "\n".join(["text", *(f'"{text}"' for text in texts)]) + "\n"


def _assert_each_mark_is_there(world: World) -> None:
    data = world.service.settings.data
    stored = canaries.in_files(data.rglob("*"), MARKS | STAYING_MARKS)
    assert {name for _, name in stored} == set(MARKS | STAYING_MARKS), (
        "a mark that nothing stores proves nothing"
    )


def _delete(world: World, name: str) -> None:
    world.slack.command(BEN.id, PRIVATE.id, f"/finetune delete {name}")
    assert world.slack.submit_modal(BEN.id, {"name": name}).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the end of the deletion")
    world.send()


def _assert_nothing_is_left(world: World, log: str) -> None:
    settings = world.service.settings
    assert canaries.in_database(settings.database, MARKS) == set()
    assert canaries.in_files(settings.data.rglob("*"), MARKS) == set(), "bytes of the file and its log"
    assert {column for column, _ in canaries.in_database(settings.database, STAYING_MARKS)} <= REASONS
    assert canaries.in_text(log, MARKS) == set()
    assert world.files_at_provider() == [] and alias_target(world) is None
    assert len(world.provider.service.deleted_models) == 2
