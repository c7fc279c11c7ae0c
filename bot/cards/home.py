"""The App Home: what is waiting for the person, with buttons; what is in progress; models in use; and the budget. On
the first visit, what this app does and how to begin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bot.cards.common import help, message_topics
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Headline,
    Lines,
    Listing,
    Text,
    actions,
    button,
    escape,
    slack_blocks,
)
from bot.cards.common.builder import Parts
from bot.cards.common.general import unchecked_notes
from bot.cards.common.plan_money import budget_left, foreseen_text
from bot.cards.common.words import at_most, capitalize, first_lines
from bot.cards.decisions import plans
from bot.cards.evidence import evaluations
from bot.cards.models import deployments, models
from bot.cards.models.deployments import DeploymentSummary
from bot.cards.models.models import InUse
from bot.cards.monitoring import weeks
from bot.cards.monitoring.weeks import WeekSummary
from bot.cards.status import ComparisonSummary, EvaluationSummary, card_name, list_entry, with_link
from bot.cards.training.runs import RunSummary
from bot.rules.budgets import Budget
from bot.values.runs import Refusal

# A view holds 100 blocks, and each plan or measurement takes two with its buttons.
WITH_BUTTONS = 10
LINKED = 10
RECENT = 5
FORM = "home"  # the private metadata of a form that was opened here


@dataclass(frozen=True)
class HomeOverview:
    """One person's App Home. `mine` wait for their approval; `to_confirm` are their own measurements, whose cost they
    have to confirm. `links` maps a card's name to its address. `is_new` is True if they can see no dataset yet. Those
    of `unchecked` channels are left out, because Slack did not answer about them. `watched` are the last weeks of the
    watched datasets."""

    mine: Sequence[RunSummary]
    to_confirm: Sequence[EvaluationSummary]
    open: Sequence[RunSummary | EvaluationSummary]
    recent: Sequence[RunSummary | EvaluationSummary]
    budget: Budget
    in_use: Listing[InUse] = models.NONE_IN_USE
    links: Mapping[str, str] = field(default_factory=dict)
    is_new: bool = False
    deployments: Sequence[DeploymentSummary] = ()
    unchecked: int = 0
    watched: Sequence[WeekSummary] = ()


def page(overview: HomeOverview | Refusal) -> Block:
    parts: Sequence[CardBlock]
    if isinstance(overview, Refusal):
        parts = [Text(overview.text)]
    elif overview.is_new:
        parts = _welcome()
    else:
        parts = _sections(overview)
    return {"type": "home", "blocks": slack_blocks(parts)}


def _welcome() -> list[CardBlock]:
    return [
        Headline("Find out whether fine-tuning pays, before you pay for it"),
        Text(
            "Give me labelled examples. I measure what prompts and free models already get right, estimate "
            "what a tuned model would cost and save, train it once your team has approved the cost, and show whether "
            "it is better. Nothing costs money until somebody has agreed to it."
        ),
        Text("*Begin with your examples*: a table with a text and a label column, or JSONL."),
        actions(button("Upload", help.UPLOAD, "home", style="primary"), _commands(), _notifications()),
        Lines(["*Five steps, and three commands for any time*", *help.first_lines()]),
    ]


def _sections(overview: HomeOverview) -> list[CardBlock]:
    parts = Parts()
    parts.add(Headline("Waiting for you"))
    parts.add(*_waiting(overview))
    parts.add(Headline("In progress"))
    if overview.open:
        parts.lines([_linked(overview, summary) for summary in overview.open])
    else:
        parts.text("Nothing is running.")
    if overview.deployments:
        parts.add(Headline("Billed by the hour"))
        parts.lines([*map(deployments.line, overview.deployments)])
    if overview.in_use.total:
        parts.add(Headline("In use"), models.in_use_lines(overview.in_use))
    if overview.watched:
        parts.add(Headline("Watched"))
        weeks = [_watched(overview, week) for week in overview.watched]
        parts.lines(first_lines(weeks, LINKED))
    if overview.recent:
        parts.add(Headline("Latest results"))
        parts.lines([*map(list_entry, overview.recent[:RECENT])])
    parts.buttons(button("Upload", help.UPLOAD, "home"), _commands(), _notifications())
    parts.add(*unchecked_notes(overview.unchecked))
    parts.note(f"Budget left: {budget_left(overview.budget)}")
    return parts


def _commands() -> Block:
    return button("All commands", help.ALL_COMMANDS, "home")


def _notifications() -> Block:
    return button("Messages to you", message_topics.OPEN_FORM, "home")


def _waiting(overview: HomeOverview) -> list[CardBlock]:
    """What waits for the person, with its card's buttons; beyond a limit, as a list."""
    parts = Parts()
    for run in overview.mine[:WITH_BUTTONS]:
        parts.text(_plan_text(overview, run))
        parts.add(plans.buttons(run.run, run.plan, run.pending))
    for summary in overview.to_confirm[:WITH_BUTTONS]:
        parts.text(_linked(overview, summary))
        if isinstance(summary, ComparisonSummary):
            parts.buttons(evaluations.measure_button(summary.measurement, summary.plan, summary.progress))
    rest = [*overview.mine[WITH_BUTTONS:], *overview.to_confirm[WITH_BUTTONS:]]
    parts.lines([*map(list_entry, rest)])
    if not parts:
        parts.text("Nothing is waiting for you.")
    return parts


def _plan_text(overview: HomeOverview, run: RunSummary) -> str:
    """What the plan would train and cost, its verdict, and the same money as on its card."""
    price = "at no charge"
    if run.plan.maximum_micros:
        price = f"for {at_most(run.plan.maximum_micros)}"
    wish = f"*Run {run.run.id}*: train {escape(plans.plan_title(run.plan))} {price}?"
    lines = [_with_link(overview, run, wish), plans.plan_verdict(run.plan)]
    foreseen = foreseen_text(run.plan)
    if foreseen:
        lines.append(f"{capitalize(foreseen)}.")
    return "\n".join(lines)


def _watched(overview: HomeOverview, week: WeekSummary) -> str:
    link = overview.links.get(weeks.card_name(week.dataset, week.facts.week))
    line = weeks.week_line(week)
    if not link:
        return line
    return f"{line} · <{link}|Open>"


def _linked(overview: HomeOverview, summary: RunSummary | EvaluationSummary) -> str:
    return _with_link(overview, summary, list_entry(summary))


def _with_link(overview: HomeOverview, summary: RunSummary | EvaluationSummary, text: str) -> str:
    return with_link(text, overview.links.get(card_name(summary)))
