"""The App Home: what waits for me, what is under way, models in use, what came out lately, the month's budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bot.decisions.budget import Budget
from bot.results import Refusal
from bot.views import measurements, models, plans
from bot.views.blocks import Block, context, escape, header, listed, section
from bot.views.measurements import MeasurementLook
from bot.views.models import Shelved
from bot.views.plans import budget_left
from bot.views.runs import Look, line
from bot.views.words import short

WITH_BUTTONS = 10
FORM = "home"  # in the private metadata of a form that was opened there


@dataclass(frozen=True)
class Overview:
    """`mine` wait for this person's approval, their cards stand at `links` by run; models `in_use`, by dataset."""

    mine: Sequence[Look]
    open: Sequence[Look | MeasurementLook]
    recent: Sequence[Look | MeasurementLook]
    budget: Budget
    in_use: Sequence[Shelved] = ()
    links: Mapping[int, str] = field(default_factory=dict)


def page(overview: Overview | Refusal) -> Block:
    if isinstance(overview, Refusal):
        return {"type": "home", "blocks": [section(overview.text)]}
    blocks = [
        *_waiting(overview.mine, overview.links),
        *_list("Running", overview.open, "Nothing is running."),
        *_in_use(overview.in_use),
        *_list("Recent results", overview.recent, "No results yet. `/finetune help` shows how to begin."),
        context(f"Budget left: {budget_left(overview.budget)}"),
    ]
    return {"type": "home", "blocks": blocks}


def _waiting(mine: Sequence[Look], links: Mapping[int, str]) -> list[Block]:
    """Each with its card's buttons, and where the card stands; of very many, the rest is listed."""
    shown, rest = mine[:WITH_BUTTONS], mine[WITH_BUTTONS:]
    blocks = [header("Waiting for you")]
    for look in shown:
        link = links.get(look.run.id)
        where = f" <{link}|The plan in full>" if link else ""
        said = f"{_line(look)}. {plans.in_short_of(look.plan)}{where}"
        blocks += [section(said), plans.buttons(look.run, look.plan)]
    if rest or not shown:
        blocks.append(
            listed([_line(look) for look in rest]) if rest else section("Nothing waits for your approval.")
        )
    return blocks


def _in_use(in_use: Sequence[Shelved]) -> list[Block]:
    return [header("Models in use"), listed([models.in_use(one) for one in in_use])] if in_use else []


def _list(title: str, looks: Sequence[Look | MeasurementLook], empty: str) -> list[Block]:
    return [header(title), listed([_line(look) for look in looks]) if looks else section(empty)]


def _line(look: Look | MeasurementLook) -> str:
    if not isinstance(look, Look):
        return measurements.entry(look)
    what = f"{escape(short(look.plan.base_model))} on {escape(short(look.plan.dataset))}"
    return f"• *Run {look.run.id}*, {what}: {line(look)}"
