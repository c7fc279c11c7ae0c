"""If two columns could be the label, a form with the first rows asks which, and the file is checked again."""

from __future__ import annotations

import json

from demo.people import ANA, BEN
from tests.bot.props import tickets_csv
from tests.bot.world import DORA, PRIVATE, World

CHOOSE = "choose_columns"


def two_labels() -> str:
    """Tickets with a category and a topic, each with three values."""
    _, *rows = tickets_csv().splitlines()
    lines = [f"{row},topic {number % 3}" for number, row in enumerate(rows)]
    return "\n".join(["text,category,topic", *lines])


def test_the_label_column_is_chosen_in_a_form(world: World) -> None:
    dataset = world.upload_and_check(two_labels())
    assert dataset.state == "refused"
    card = world.find_message("'category' and 'topic' could both be the label", "choose the columns")
    assert "Post a cleaned file" not in card and "--label" not in card
    world.click(DORA, CHOOSE)
    form = json.dumps(world.slack.view(DORA.id).blocks)  # type: ignore[union-attr]
    assert "topic 0" in form and "Column with the label" in form and "Column with the text" not in form
    assert world.slack.submit_modal(DORA.id, {"label": "topic"}).closed
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()
    assert (world.dataset().id, world.dataset().label_column) == (dataset.id, "topic")
    assert "text → topic" in world.find_message("tickets is ready: 60 rows, 3 labels")
    assert len(world.cards()) == 1


def test_the_form_shows_rows_to_their_uploader_only(world: World) -> None:
    world.upload_and_check(two_labels())
    world.click(ANA, CHOOSE)
    form = json.dumps(world.slack.view(ANA.id).blocks)  # type: ignore[union-attr]
    assert "topic 0" not in form and '"category"' in form


def test_columns_can_be_chosen_only_once(world: World) -> None:
    world.upload_and_check(two_labels())
    world.click(DORA, CHOOSE)
    world.click(BEN, CHOOSE)
    assert world.slack.submit_modal(DORA.id, {"label": "topic"}).closed
    late = world.slack.submit_modal(BEN.id, {"label": "category"})
    assert "were already chosen" in late.errors["label"]
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    assert world.dataset().label_column == "topic"


def test_a_deleted_file_must_be_uploaded_again(world: World) -> None:
    dataset = world.upload_and_check(two_labels())
    (world.service.settings.files / str(dataset.sha256)).unlink()
    assert "The file was deleted. Upload it again" in world.click_and_read(DORA, CHOOSE, channel=PRIVATE)
