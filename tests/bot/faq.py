"""An FAQ in free text, answered by a model whose examples help, and judged by another model."""

from __future__ import annotations

import json
import random
from string import ascii_lowercase
from typing import Any

from tests.bot.measurements import CHAT, measure
from tests.bot.saved_worlds import reached_once
from tests.bot.world import MODEL, MakeWorld, Rules, World
from trainers.evaluation.prompts import ACCEPTABLE, BETTER

JUDGE = "sage-1"
PRICES = (
    '[prices."acme/acme-small"]\ninput = "0.80"\noutput = "3.20"\n'
    f'[prices."acme/{JUDGE}"]\ninput = "1.00"\noutput = "4.00"\n'
)
LINE = f"/finetune baseline faq models=acme/acme-small candidates=zero,kshot judge=acme/{JUDGE}"
ROWS = 54
Messages = list[dict[str, Any]]


def faq(count: int = ROWS) -> str:
    """Free answers to questions that are no copies of each other."""
    chance = random.Random(7)
    words = ["".join(chance.choices(ascii_lowercase, k=6)) for _ in range(400)]
    rows = (
        {
            "messages": [
                {"role": "user", "content": f"{' '.join(chance.sample(words, 9))} {number}?"},
                {
                    "role": "assistant",
                    "content": f"Parcel {number} leaves the house in {number % 7 + 1} days.",
                },
            ]
        }
        for number in range(count)
    )
    return "\n".join(json.dumps(row) for row in rows)


def number_of(messages: Messages) -> int:
    """The parcel's number, which ends the question."""
    return int(messages[-1]["content"].rsplit(" ", 1)[1].rstrip("?"))


def answer_faq(model: str, messages: Messages) -> str:
    """Ten examples help: with them every parcel is right, without them one in three."""
    if model == JUDGE:
        return judge_fairly(messages)
    number = number_of(messages)
    if len(messages) > 2 or number % 3 == 0:
        return f"It goes out in {number % 7 + 1} days."
    return f"Nobody knows about {number}."


def judge_fairly(messages: Messages) -> str:
    """To this judge a number of days is an answer."""
    text = messages[-1]["content"]
    if messages[0]["content"] == BETTER:
        first, second = ("goes out" in part(text, f"answer {name}") for name in "AB")
        if first == second:
            return "TIE"
        return "A" if first else "B"
    assert messages[0]["content"] == ACCEPTABLE
    return "YES" if "goes out" in part(text, "answer") else "No."


def part(text: str, name: str) -> str:
    """The part of a judge's question under this heading."""
    return text.split(f"--- {name} ---")[1].split("--- end of")[0]


@reached_once
def upload_faq(world: World) -> None:
    world.upload("faq.jsonl", faq(), called="faq")
    world.tick_until(lambda: world.dataset().state == "ready", "the check")
    world.send()


def with_faq(make_world: MakeWorld, rules: Rules | None = None) -> World:
    world = make_world(rules or Rules(more=PRICES))
    world.provider.service.models = (MODEL, JUDGE)
    world.provider.service.answer = answer_faq
    upload_faq(world)
    return world


def judged(world: World, line: str = LINE, number: int = 1) -> None:
    measure(world, line, number)


@reached_once
def seed_judged(world: World) -> None:
    """Measurement 1 is done: two alternatives, which the judge has compared."""
    measure(world, LINE)


def questions_to_judge(world: World) -> list[Messages]:
    bodies = (request.body for request in world.provider.requests if request.route == CHAT)
    return [body["messages"] for body in bodies if body["model"] == JUDGE]
