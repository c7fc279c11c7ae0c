"""The App Home: what waits for me, what runs, what came out lately, and the month's budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.decisions.budget import Budget
from bot.views.blocks import Block, context, escape, header, section
from bot.views.results import in_short
from bot.views.runs import STATE_WORDS, Look
from bot.views.words import money


@dataclass(frozen=True)
class Overview:
    """`mine` wait for this person's approval."""

    mine: Sequence[Look]
    open: Sequence[Look]
    recent: Sequence[Look]
    budget: Budget


def page(overview: Overview) -> Block:
    budget = overview.budget
    blocks = [
        *_list("Waiting for you", overview.mine, "Nothing waits for your approval."),
        *_list("Running", overview.open, "Nothing is running."),
        *_list("Recent results", overview.recent, "No results yet. `/finetune help` shows how to begin."),
        context(
            f"Budget this month: {money(max(budget.left_micros, 0))} of {money(budget.limit_micros)} left"
        ),
    ]
    return {"type": "home", "blocks": blocks}


def _list(title: str, looks: Sequence[Look], empty: str) -> list[Block]:
    lines = [_line(look) for look in looks[:10]]
    return [header(title), section("\n".join(lines) or empty)]


def _line(look: Look) -> str:
    what = f"• run {look.run.id}: {escape(look.plan.base_model)} on {escape(look.plan.dataset)}"
    return f"{what}, {in_short(look.result) if look.result else STATE_WORDS[look.run.state]}"
