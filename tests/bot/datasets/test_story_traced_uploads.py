"""Somebody uploads recorded calls of a model instead of labelled rows: the card has the facts for an estimate, and its
buttons make rows to label of the questions."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.people import BEN
from storage.records import Dataset
from tests.bot import canaries
from tests.bot.cli.test_import_traces import pair
from tests.bot.datasets.test_story_deletion import delete_and_wait
from tests.bot.datasets.test_story_row_labels import label_all, make_version, open_batch
from tests.bot.measurements import PRICES
from tests.bot.props import LABELS, tickets_csv
from tests.bot.world import ANA, DORA, GUS, PRIVATE, PUBLIC, MakeWorld, Rules, World
from tests.clients.test_traces import LATEST, record
from tests.peers.chat_vendor import ChatVendor, serve_vendor
from tests.trainers.dataset.test_sensitive_data import SECRETS

TABLE = "tickets-questions.csv"
SECRET = next(iter(SECRETS.values()))


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    return make_world(Rules(more=PRICES))


@pytest.fixture(scope="module")
def vendor() -> Iterator[ChatVendor]:
    with serve_vendor(ChatVendor()) as vendor:
        yield vendor


def export(count: int = 60) -> str:
    """Calls of six days: each question twice, another one with a person's address, and one with a secret."""
    questions = [f"Call {number // 2}: a quuxbird about {LABELS[number // 2 % 3]}" for number in range(count)]
    questions += ["Write to anna.muster@example.com about my refund", f"My key is {SECRET}, a refund please"]
    return "\n".join(json.dumps(pair(number, question=text)) for number, text in enumerate(questions))


def upload(world: World, content: str | bytes, file: str = "calls.jsonl") -> Dataset:
    return world.upload_and_check(content, file=file)


def table_of(world: World) -> list[list[str]]:
    world.tick_until(lambda: TABLE in world.files(), "the table")
    return list(csv.reader(world.read_file(TABLE).splitlines()))


def test_the_card_has_the_facts_for_an_estimate_and_no_text_of_a_call(world: World) -> None:
    version = upload(world, export())
    assert (version.state, version.refusal) == (
        "refused",
        "'calls.jsonl' has recorded calls, not rows with labels.",
    )
    card = world.find_message("calls.jsonl: 62 recorded calls of 1 model")
    assert "/finetune estimate tickets current=gpt-4o volume=" in card and "prompt_tokens=120" in card
    assert "31 rows without labels" in card and "1 with what looks like a secret" in card
    assert "quuxbird" not in card and "Which team answers" not in card
    assert "findings.txt" not in world.files()


def test_a_table_of_the_questions_becomes_a_dataset_whose_rest_is_labelled_here(world: World) -> None:
    upload(world, export())
    assert "Only full members" in world.click_and_read(GUS, "post_cleaned")
    assert "the questions of `tickets` into a table" in world.click_and_read(BEN, "post_cleaned")
    header, *rows = table_of(world)
    assert header == ["text", "label"] and len(rows) == 31 and {label for _, label in rows} == {""}
    texts = [text for text, _ in rows]
    assert not any("anna.muster" in text or SECRET in text for text in texts)
    assert any("[e-mail address]" in text for text in texts)
    lines = [
        f'"{text}",{next(label for label in LABELS if label in text) if place < 24 else ""}'
        for place, text in enumerate(texts)
    ]
    version = upload(world, "\n".join(["text,label", *lines]), TABLE)
    assert (version.version, version.state) == (2, "ready")
    assert world.has_button("label_unlabelled"), "the others are labelled in Slack"


@pytest.mark.deep
def test_of_a_dataset_with_labels_the_questions_are_labelled_here(world: World) -> None:
    world.upload_and_check(tickets_csv(60))
    upload(world, export())
    assert "Choosing up to 20 rows" in world.click_and_read(DORA, "label_unlabelled")
    batch = open_batch(world)
    rows = world.store.labellings.rows(batch)
    assert len(rows) == 20 and not any("anna.muster" in row.text or SECRET in row.text for row in rows)
    assert all("quuxbird" in row.text or "[e-mail address]" in row.text for row in rows)
    assert label_all(world, ANA) == 20
    make_version(world)
    newest = world.dataset()
    assert (newest.version, newest.state, newest.origin) == (3, "ready", "people")


@pytest.mark.deep
def test_a_file_of_calls_can_be_labelled_like_any_file_without_labels(world: World) -> None:
    world.upload_and_check(tickets_csv(60))
    world.slack.command(DORA.id, PRIVATE.id, "/finetune label tickets")
    file = world.put_file("calls.jsonl", export())
    assert world.slack.submit_modal(DORA.id, {"count": "5", "file": file}).accepted
    assert len(world.store.labellings.rows(open_batch(world))) == 5


@pytest.mark.deep
@pytest.mark.parametrize(
    ("program", "arguments", "file"),
    [
        ("record_spans.py", ("openai_v2",), "batches.jsonl"),
        # tests/clients/test_traces.py has the readers with the same exporters
        pytest.param("record_litellm.py", (), "http.jsonl", marks=pytest.mark.slow),
        pytest.param("record_langfuse.py", (), "sdk.jsonl", marks=pytest.mark.slow),
    ],
)
def test_what_other_tools_export_is_recognised(
    world: World, vendor: ChatVendor, tmp_path: Path, program: str, arguments: tuple[str, ...], file: str
) -> None:
    folder = tmp_path / "recorded"
    folder.mkdir()
    record(vendor, program, *arguments, str(folder), **LATEST)
    upload(world, (folder / file).read_bytes(), file)
    card = world.find_message(f"{file}: 5 recorded calls of 1 model, 1 failed")
    assert "current=gpt-4o" in card and "2 rows without labels" in card
    world.click(DORA, "post_cleaned")
    assert sorted(text for text, _ in table_of(world)[1:]) == [
        "My card was charged twice.",
        "Where is my parcel?",
    ]


def test_in_a_public_channel_only_the_uploader_gets_the_questions(world: World) -> None:
    world.upload_and_check(export(), file="calls.jsonl", channel=PUBLIC)
    assert "customers' words" in world.click_and_read(ANA, "post_cleaned", channel=PUBLIC)
    assert "direct message" in world.click_and_read(DORA, "post_cleaned", channel=PUBLIC)
    place = world.slack.dm(DORA.id)
    world.tick_until(lambda: world.slack.messages(place), "the direct message")
    assert "quuxbird" in world.read_file(TABLE, place) and TABLE not in world.files(PUBLIC)


@pytest.mark.deep
def test_nothing_of_the_calls_is_left_once_the_dataset_is_deleted(world: World) -> None:
    world.upload_and_check(tickets_csv(60))
    upload(world, export())
    world.click(DORA, "label_unlabelled")
    open_batch(world)
    world.click(DORA, "labels_discard")
    delete_and_wait(world, BEN)
    settings = world.service.settings
    marks = {"a question": "quuxbird"}
    assert canaries.in_database(settings.database, marks) == set()
    assert canaries.in_files(settings.data.rglob("*"), marks) == set()


def test_rows_with_labels_are_no_recorded_calls(world: World) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{label} {number}"},
                {"role": "assistant", "content": label},
            ]
        }
        for number in range(60)
        for label in [LABELS[number % 3]]
    ]
    assert upload(world, "\n".join(map(json.dumps, rows)), "rows.jsonl").state == "ready"
    assert upload(world, '{"text": "no label"}\n' * 30, "texts.jsonl").state == "refused"
    assert not any("recorded call" in card for card in world.cards())
