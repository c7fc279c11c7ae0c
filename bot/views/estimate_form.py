"""The form of an estimate, and what was put in as the command that says the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bot.decisions.verdict.tasks import TASK_KINDS
from bot.decisions.worth.roi import USD_PER_HOUR
from bot.options import Answer
from bot.results import Refusal
from bot.views import inputs
from bot.views.blocks import Block, modal
from trainers.money import usd

ESTIMATE = "estimate"
# The form's fields as the command's options.
TYPED = (
    "current",
    "volume",
    "target",
    "hours",
    "rate",
    "labels",
    "label_usd",
    "wrong_usd",
    "retrain",
    "bar",
    "task",
)
FIELDS = ("dataset", *TYPED)


@dataclass(frozen=True)
class Choices:
    """What the form offers. Empty where there is nothing to choose from yet."""

    datasets: Sequence[str]
    targets: Sequence[str]


def form(channel: str, choices: Choices, dataset: str | None = None) -> Block:
    """`dataset` is chosen at first."""
    blocks: list[Block] = [
        inputs.select("dataset", "Dataset", choices.datasets, initial=dataset),
        inputs.text("current", "Model that you prompt today", "gpt-4o"),
        inputs.text("volume", "Input tokens a month", "10M"),
        inputs.select("target", "Model to train", choices.targets),
        inputs.text("hours", "Hours of people's time, once", "16", hint="Empty: none are counted."),
        inputs.text("rate", "Dollars for an hour of a person", "75", hint=f"Empty: {usd(USD_PER_HOUR)}."),
        inputs.text("labels", "Rows still to be labelled", "500", hint="Empty: none."),
        inputs.text("label_usd", "Dollars for one label", "0.10", hint="Empty: nothing beside the hours."),
        inputs.text("wrong_usd", "Dollars that a wrong answer costs", "0.50", hint="Empty: not counted."),
        inputs.text("retrain", "Months until it is trained again", "6", hint="Empty: never."),
        inputs.text(
            "bar", "Good enough from", "85%", hint="The share of right answers. Empty: as it is set."
        ),
        inputs.choice(
            "task",
            "What should the model get better at?",
            list(TASK_KINDS.items()),
            placeholder="Not said",
            hint="Empty: as it is set for the dataset.",
        ),
    ]
    return modal("Estimate a fine-tune", ESTIMATE, blocks, submit="Estimate", private=channel)


def field_of(refused: object) -> str:
    """The block under which a refusal or an answer stands."""
    about = refused.about if isinstance(refused, Answer | Refusal) else None
    return about if about in FIELDS else "dataset"


def typed(values: Mapping[str, str | None]) -> str:
    """The form as the command that says the same: '10 million' is one word there."""
    words = {key: "".join((values.get(key) or "").split()) for key in TYPED}
    options = [f"{key}={word}" for key, word in words.items() if word]
    return " ".join(["estimate", values.get("dataset") or "", *options])
