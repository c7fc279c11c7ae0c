"""The form of an estimate: its question, which the command's options ask as well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as new_field

from bot.cards.common import forms
from bot.cards.common.blocks import Block, CardBlock, Text
from bot.cards.common.forms import modal
from bot.cards.common.words import share_text
from bot.command_options import QUESTION_OPTIONS, TRIED_OPTIONS
from bot.option_groups import GROUPS
from bot.rules.roi import USD_PER_HOUR
from bot.values.runs import Refusal
from trainers.evaluation.results import DEFAULT_QUALITY_THRESHOLD
from trainers.money import usd

ESTIMATE = "estimate"
# The form's fields that are also options of the command.
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
OPTIONS = {**QUESTION_OPTIONS, **TRIED_OPTIONS}


@dataclass(frozen=True)
class AskedEstimate:
    """An earlier estimate's question. `typed` maps its options to the text that the person typed."""

    number: int
    dataset: str
    typed: Mapping[str, str]


@dataclass(frozen=True)
class EstimateChoices:
    """What the form offers. `cheapest` is the cheapest capable model that can be asked here. `marks` are words about
    the prices of some targets, and `tried_with` says with what the road of each was tried."""

    datasets: Sequence[str]
    targets: Sequence[str]
    cheapest: str | None = None
    marks: Mapping[str, str] = new_field(default_factory=dict)
    tried_with: Mapping[str, str] = new_field(default_factory=dict)


def form(
    channel: str,
    choices: EstimateChoices,
    dataset: str | None = None,
    before: AskedEstimate | None = None,
) -> Block:
    """`dataset` is preselected. `before` is the estimate that this one changes."""
    typed: Mapping[str, str] = {}
    private = channel
    if before:
        typed = before.typed
        private = f"{channel} {before.number}"
    targets = list(choices.targets)
    asked_target = typed.get("target")
    if asked_target and asked_target not in targets:
        targets.append(asked_target)  # an alias, or one of many tuned models, which the form must not change
    cheapest = ""
    if choices.cheapest:
        cheapest = f"None yet? {choices.cheapest} is the cheapest likely candidate."

    def field(name: str, label: str, example: str, hint: str = "") -> Block:
        return forms.text_input(name, label, example, hint=hint, initial=typed.get(name, ""))

    bar = forms.text_input(
        "bar",
        "Quality bar",
        share_text(DEFAULT_QUALITY_THRESHOLD),
        hint="The share of right answers to judge by, in this answer only. Empty: the dataset's bar.",
        initial=typed.get("bar", ""),
    )
    first = [
        # A manager knows this number, so the form begins with it.
        field("volume", "Requests per month", "20,000", "Or the input tokens of a month: 10M tokens."),
        field("current", "Model that you prompt today", "gpt-4o", cheapest),
        forms.select_input("dataset", "Dataset", choices.datasets, initial=dataset),
        forms.select_input(
            "target",
            "Model to train",
            targets,
            initial=asked_target,
            marks=choices.marks,
            descriptions=choices.tried_with,
        ),
    ]
    others = {
        "hours": field("hours", "Hours of staff time, one-off", "16", "Empty: not counted."),
        "rate": field("rate", "Dollars per hour of staff time", "75", f"Empty: {usd(USD_PER_HOUR)}."),
        "labels": field("labels", "Rows still to be labelled", "500", "Empty: none."),
        "label_usd": field("label_usd", "Dollars per label", "0.10", "Empty: nothing on top of the hours."),
        "wrong_usd": field("wrong_usd", "Dollars that a wrong answer costs", "0.50", "Empty: not counted."),
        "retrain": field("retrain", "Retrain every how many months", "6", "Empty: never."),
        "bar": bar,
        "task": forms.task_input(
            "For this answer only. Empty: the dataset's setting.", initial=typed.get("task")
        ),
    }
    blocks: list[CardBlock | Block] = [*first, *_in_groups(others)]
    return modal("Estimate a fine-tune", ESTIMATE, blocks, submit="Estimate", private=private)


def _in_groups(fields: Mapping[str, Block]) -> Iterator[CardBlock | Block]:
    """The fields below the titles of their options' groups."""
    for group, title in GROUPS.items():
        members = [field for name, field in fields.items() if OPTIONS[name].group == group]
        if members:
            yield Text(f"*{title}*")
            yield from members


def refused_field(refused: object) -> str:
    """The form field under which a refusal is shown."""
    if isinstance(refused, Refusal) and refused.about in FIELDS:
        return refused.about
    # Slack shows an error only under a field of the form, and this field is always there.
    return "dataset"
