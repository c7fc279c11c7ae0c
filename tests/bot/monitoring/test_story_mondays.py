"""Three weeks of calls through the door, by a clock: in the second one people begin to ask about something new, and in
the third a cheaper model appears. The cards of the Mondays are golden files, and each of their numbers is computed
again from what the vendor has billed."""

from __future__ import annotations

import os
import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from bot.cards.monitoring import weeks
from bot.reconciler import maintain
from bot.services.monitoring import live_accuracy
from bot.services.monitoring.week_worker import question_of
from bot.values.monitoring import WeekFacts
from demo.people import ANA
from tests.bot.datasets.test_story_row_labels import open_batch
from tests.bot.measurements import PRICES
from tests.bot.models.test_story_use_candidate import answer_right
from tests.bot.monitoring.test_story_new_models import TINY, list_model
from tests.bot.monitoring.test_story_watch import choose, deploy_prompt, published
from tests.bot.props import LABELS
from tests.bot.world import DORA, MakeWorld, Rules, World
from tests.peers.dated_door import serve_dated_door
from trainers.recipes import samples
from trainers.recipes.folder import RecipeFolder

GOLDEN = Path(__file__).parent / "golden"
CALLS = 210
INPUT_USD = Decimal("0.80")
OUTPUT_USD = Decimal("3.20")
HALF = Decimal("0.5")  # of this, acme-tiny costs


@pytest.fixture
def world(make_world: MakeWorld) -> World:
    """A prompt is in use, and all its calls are sampled."""
    world = make_world(Rules(more=f"{PRICES}{TINY.format(price='0.40', more='')}"))
    world.provider.service.answer = answer_right
    deploy_prompt(world)
    wednesday = datetime.fromtimestamp(world.clock, UTC)
    wednesday += timedelta(days=(2 - wednesday.weekday()) % 7)
    world.pass_time(wednesday.replace(hour=8).timestamp() - world.clock + 7 * 86_400)
    world.type("/finetune watch tickets sample=100%", user=DORA)
    maintain(world.service.context)
    world.tick()
    now = published(world)
    assert now is not None and now.sampling is not None
    return world


def usual_question(chance: random.Random) -> str:
    label = chance.choice(LABELS)
    words = chance.sample(("order", "card", "parcel", "invoice", "date", "address", "money", "shop"), 3)
    return f"A question about {label}: what happens to the {words[0]}, the {words[1]} and the {words[2]}?"


def new_question(chance: random.Random) -> str:
    place = chance.choice(("phone", "tablet", "laptop", "watch"))
    return f"The voice assistant on my {place} stopped listening after the {chance.randrange(9)}th update, refund?"


def call_program(world: World, questions: list[str], rated_up: int, rated_down: int) -> None:
    """A program asks these questions and rates some of the answers."""
    folder = RecipeFolder(world.service.settings.recipes)
    with serve_dated_door(folder, lambda: world.clock) as client:
        ids = [ask(client, question) for question in questions]
        for number, each in enumerate(ids[: rated_up + rated_down]):
            rating = "up" if number < rated_up else "down"
            client.post("/feedback", body={"id": each, "rating": rating}, cast_to=object)


def ask(client: openai.OpenAI, question: str) -> str:
    """Returns the id of the call."""
    answer = client.with_raw_response.chat.completions.create(
        model="team/tickets", messages=[{"role": "user", "content": question}]
    )
    assert answer.parse().choices[0].message.content in LABELS
    return answer.headers["x-finetune-call"]


def to_monday(world: World) -> str:
    """Passes the time until the next Monday morning. Returns the card of the week."""
    here = datetime.fromtimestamp(world.clock, UTC)
    monday = (here + timedelta(days=7 - here.weekday())).replace(hour=9, minute=1)
    world.pass_time(monday.timestamp() - world.clock)
    before = len(world.store.watched_weeks.of("tickets"))
    world.tick_until(
        lambda: len(world.store.watched_weeks.of("tickets")) > before, "the week to be counted", seconds=60
    )
    world.send()
    return world.find_message("tickets last week")


def facts(world: World) -> WeekFacts:
    return WeekFacts.from_json(world.store.watched_weeks.of("tickets")[-1].facts)


def billed_usd(world: World, before: int, share: Decimal = Decimal(1)) -> Decimal:
    """What the vendor has billed for its answers since the first `before` ones, at a `share` of the listed price."""
    usd = Decimal(0)
    for usage in world.provider.service.billed[before:]:
        usd += usage["prompt_tokens"] * INPUT_USD + usage["completion_tokens"] * OUTPUT_USD
    return usd * share / 1_000_000


def check_golden(name: str, card: str) -> None:
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("FINETUNE_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(card + "\n", encoding="utf-8")
    assert card + "\n" == path.read_text(encoding="utf-8")


@pytest.mark.deep
def test_three_mondays(world: World) -> None:
    chance = random.Random(7)
    billed = len(world.provider.service.billed)
    call_program(world, [usual_question(chance) for _ in range(CALLS)], rated_up=5, rated_down=1)
    first = to_monday(world)
    check_golden("first-monday", first)
    week = facts(world)
    assert (week.calls, week.failed, week.sampled.stored) == (CALLS, 0, CALLS)
    assert (week.thumbs_up, week.thumbs_down) == (5, 1)
    assert Decimal(week.micros or 0) / 1_000_000 == billed_usd(world, billed).quantize(Decimal("0.000001"))
    assert week.shift is not None and week.shift.texts is None, "there is nothing to compare it with"

    label_twenty(world)
    world.send()
    assert "100.0% right" in world.find_message("tickets last week")

    billed = len(world.provider.service.billed)
    questions = [usual_question(chance) for _ in range(CALLS // 2)]
    questions += [new_question(chance) for _ in range(CALLS // 2)]
    call_program(world, questions, rated_up=0, rated_down=0)
    second = to_monday(world)
    check_golden("second-monday", second)
    week = facts(world)
    assert Decimal(week.micros or 0) / 1_000_000 == billed_usd(world, billed).quantize(Decimal("0.000001"))
    assert week.shift is not None and week.shift.texts is not None and week.shift.texts.is_alarm
    assert "Calls have changed" in second and "voice assistant" in second
    assert "100.0% right" in second, "labels of the week before count until they are four weeks old"

    assert "Choosing up to 20 rows" in world.click_and_read(DORA, weeks.LABEL_UNUSUAL)
    batch = open_batch(world)
    texts = [row.text for row in world.store.labellings.rows(batch)]
    new = sum("voice assistant" in text for text in texts)
    assert new >= len(texts) / 2 > 0, "5% of the usual calls are as unusual as the new ones have to be"
    measuring = live_accuracy.open_calls(world.service.context, world.store.watches.current("tickets"))
    folder = world.service.settings.recipes
    for number in measuring:
        call = samples.get(folder, number)
        assert call is not None and question_of(call) not in texts, "what measures doesn't teach"

    list_model(world, "acme-tiny")
    billed = len(world.provider.service.billed)
    call_program(world, [usual_question(chance) for _ in range(CALLS)], rated_up=0, rated_down=0)
    third = to_monday(world)
    check_golden("third-monday", third)
    week = facts(world)
    assert Decimal(week.micros or 0) / 1_000_000 == billed_usd(world, billed).quantize(Decimal("0.000001"))
    now = 1_000 * billed_usd(world, billed) / CALLS
    then = 1_000 * billed_usd(world, billed, HALF) / CALLS
    assert "*New*: acme/acme-tiny answers for" in third
    assert f"(${then:.2f} instead of ${now:.2f} per 1,000 calls)" in third
    assert "Calls have changed" not in third, "people ask as they used to"


def label_twenty(world: World) -> None:
    """Ana chooses the label that each text names, which is what was answered."""
    world.click(ANA, weeks.LABEL)
    labelled = 0
    while "Which label is right" in (form := world.read_form(ANA)):
        named: Any = next(label for label in LABELS if f"about {label}" in form)
        assert choose(world, named, answer=named)
        labelled += 1
    assert labelled == 20
    world.slack.close_modal(ANA.id)
    world.tick()
