"""The form that repeats a run with changes: it is filled in with everything that the earlier plan was made from."""

from __future__ import annotations

from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import Block, CardBlock, Note, button
from bot.cards.common.forms import modal

RUN_AGAIN = "run_again"
FORM = "run_again_form"
BUTTON_WORDS = "Run again with …"
# The fields that stand on their own; everything else is typed as options.
TYPED = ("volume", "current", "target")
FIELDS = (*TYPED, "settings", "because")


@dataclass(frozen=True)
class EarlierPlan:
    """What the form is filled in with: the fields of the earlier run's question as a person would type them, and
    `settings`, its other options. `rows` says which rows would be trained on."""

    run: int
    dataset: str
    channel: str
    volume: str
    current: str
    target: str
    settings: str
    rows: str


def run_again_button(run: int) -> Block:
    return button(BUTTON_WORDS, RUN_AGAIN, str(run))


def form(before: EarlierPlan) -> Block:
    """Its metadata are the channel in which the plan is posted, and the run."""
    blocks: list[CardBlock | Block] = [
        Note(before.rows),
        forms.text_input(
            "target", "Model to train", "local/smollm2-135m", initial=before.target, optional=False
        ),
        forms.long_text_input(
            "settings",
            "Settings",
            "epochs=3 lora_r=16",
            hint="Options as in /finetune start. Empty: the usual ones.",
            initial=before.settings,
        ),
        forms.text_input("volume", "Requests per month", "20,000", initial=before.volume),
        forms.text_input("current", "Model that you prompt today", "gpt-4o", initial=before.current),
        forms.text_input(
            "because",
            "Why a soft rule about data does not apply",
            "the customer agreed",
            hint="Only if one stands against it. A reason for an earlier plan doesn't count for this one.",
        ),
    ]
    metadata = f"{before.channel} {before.run}"
    return modal(f"Run {before.run} again with", FORM, blocks, submit="Make the plan", private=metadata)


def refused_field(about: str | None) -> str:
    """The field under which a refusal is shown."""
    if about in FIELDS:
        return about
    return "settings"
