"""Tuned models that run at a vendor by the hour: the plan's line about it, the card from the start of a machine to its
bill, a line for status and Home, and what runs there that nobody here started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bot.cards.blocks import (
    Block,
    CardBlock,
    Facts,
    Headline,
    Lines,
    Message,
    Note,
    Text,
    actions,
    button,
    code,
    confirm,
    escape,
)
from bot.cards.general import text_message
from bot.cards.words import capitalize, charge, duration, money, pluralize, shorten, utc_time
from bot.rules.budgets import Hosting, StopReason
from storage.deployments import DeploymentRecord, DeploymentState
from trainers.deployments.port import Deployment
from trainers.money import usd, usd_micros

KEEP, STOP, START = "keep_deployment", "stop_deployment", "start_deployment"
STOP_STRAY = "stop_stray_deployment"
MOST_BUTTONS = 3
UNSEEN_S = 600.0  # a bot that runs looks every few seconds
FROZEN = (
    "Its model is not started while spending is frozen; that happens by itself once the freeze is lifted."
)
STATES: Mapping[DeploymentState, str] = {
    "starting": "is being started",
    "ready": "is running",
    "stopping": "is being stopped",
    "stopped": "is stopped",
}
REASONS: Mapping[StopReason, str] = {
    "idle": "nobody asked it for {idle}",
    "frozen": "spending is frozen",
    "day": "the most that running models may cost a day is used up",
    "budget": "the month's budget is used up",
    "not ready": "it was not ready within half an hour",
    "run over": "its run ended",
    "measured too long": "measuring was not done within two hours",
    "deleted": "its dataset was deleted",
    "dearer": "the vendor asks more for an hour than was approved",
    "refused": "the vendor refused to start it",
    "failed": "it failed at the vendor",
    "gone": "the vendor no longer lists it",
    "unknown": "the vendor gave no clear answer",
}


@dataclass(frozen=True)
class DeploymentSummary:
    """`title` is the vendor's; `run_micros`: what its run has cost in all, None while that is open. `hour_micros`: what
    an hour would cost now; `today_micros`: what it has cost since midnight, UTC."""

    record: DeploymentRecord
    title: str
    run_micros: int | None = None
    hour_micros: int | None = None
    today_micros: int = 0


def hosting_line(hosting: Hosting) -> str:
    """What approvers agree to."""
    what = "costs nothing" if hosting.scales_to_zero else "stopped"
    stops = f"{what} after {duration(hosting.idle_stop_s)} without a question"
    return f"{an_hour(hosting.micros_per_hour)} while it runs, {stops}, at most {money(hosting.day_micros)} a day"


def an_hour(micros_per_hour: int) -> str:
    return f"{usd_micros(micros_per_hour)} an hour"


def card(summary: DeploymentSummary) -> Message:
    record = summary.record
    headline = f"{shorten(record.model)} {STATES[record.state]} at {summary.title}"
    is_ending = record.state in ("stopping", "stopped") and record.reason is not None
    why = [Text(f"{capitalize(_reason(record))}.")] if is_ending else []
    detail = [Note(escape(record.detail))] if record.detail else []
    return Message(
        f"{escape(headline)}, {charge(record.micros)} {'in all' if record.state == 'stopped' else 'so far'}",
        (Headline(headline), Facts(_facts(summary)), *why, *detail, *_buttons(summary)),
    )


def line(summary: DeploymentSummary) -> str:
    """One line of a list."""
    record = summary.record
    keeper = f", kept by <@{record.kept_by}>" if record.kept_by else ""
    return (
        f"• *{escape(shorten(record.model))}* {STATES[record.state]} at {escape(summary.title)}: "
        f"{an_hour(record.micros_per_hour)}, {charge(record.micros)} so far{keeper}"
    )


def listing(running: Sequence[DeploymentSummary], name_of: Callable[[str], str], now: float) -> Message:
    """All that costs money by the hour, for a terminal."""
    if not running:
        return text_message("Nothing runs by the hour.")
    hour = sum(each.record.micros_per_hour for each in running)
    today = sum(each.today_micros for each in running)
    headline = f"{pluralize(len(running), 'machine')}: {an_hour(hour)}, {charge(today)} today"
    lines = [_running_line(each, name_of) for each in running]
    seen = min(each.record.updated_at for each in running)
    unseen = f"Counted until {utc_time(seen)}: no bot has looked since, and none stops them. Start it: `finetune run`."
    notes = [Note(unseen)] if now - seen > UNSEEN_S else []
    return Message.titled(headline, Lines(lines), *notes)


def _running_line(summary: DeploymentSummary, name_of: Callable[[str], str]) -> str:
    record = summary.record
    idle = f", idle since {utc_time(record.used_at)}" if record.state == "ready" else ""
    keeper = f", kept by {escape(name_of(record.kept_by))}" if record.kept_by else ""
    return (
        f"• *{escape(record.model)}* {STATES[record.state]} at {escape(summary.title)}, for "
        f"{escape(name_of(record.person))}: "
        f"{an_hour(record.micros_per_hour)}, {charge(summary.today_micros)} today{idle}{keeper}"
    )


def waits_text(title: str, micros_per_hour: int) -> str:
    """A run's note until its model answers."""
    return f"Its model is being started at {title}, {an_hour(micros_per_hour)}; measuring begins once it answers."


def lost_text(summary: DeploymentSummary) -> str:
    """A run's note: it can't be measured until a person starts its model again."""
    return (
        f"Its model does not run at {summary.title}: {_reason(summary.record)}. Press Start again on its card and "
        "measuring goes on from where it was; after a day without that the run ends, and the model is kept."
    )


def expired_text(title: str, why: str) -> str:
    """Why a run ends, whose machine runs and does not answer for its model."""
    return (
        f"{escape(title)} has its machine and does not answer for the model: it may have expired there. Train it again "
        f"with `/finetune start`. It said: {escape(why)}"
    )


def stopped_refusal(model: str, title: str) -> str:
    return (
        f"`{model}` answers only while it runs at {escape(title)}, which costs money by the hour, and it does not run "
        "now. Press *Start again* on its card."
    )


def strays_card(title: str, provider: str, strays: Sequence[Deployment], prefix: str) -> Message:
    """Our names begin with `prefix`; what else runs there is stopped where it was started."""
    headline = f"{pluralize(len(strays), 'model')} at {title} that nobody here started"
    ours = [stray.name for stray in strays if stray.name.startswith(prefix)]
    lines = []
    for stray in strays:
        price = f", {usd(stray.usd_per_hour)} an hour" if stray.usd_per_hour else ""
        whose = "" if stray.name in ours else ": not by a bot like this one"
        lines.append(f"• {code(stray.name)}{price}{whose}")
    buttons = [
        button(f"Stop {shorten(name, 30)}", STOP_STRAY, f"{provider} {name}") for name in ours[:MOST_BUTTONS]
    ]
    text = (
        "They cost money by the hour, and are in no budget here. Stop what you don't know, or stop it there."
    )
    return Message.titled(
        headline,
        Lines(lines),
        Text(text),
        actions(*buttons) if buttons else None,
        notice="They cost money by the hour.",
    )


def still_running(name: str, title: str) -> str:
    return f"{code(name)} was stopped and still ran at {escape(title)}: it is being stopped again."


def _facts(summary: DeploymentSummary) -> list[tuple[str, str]]:
    record = summary.record
    is_over = record.state == "stopped"
    price = "" if is_over and not record.micros else f" at {an_hour(record.micros_per_hour)}"
    cost = [("Cost" if is_over else "Cost so far", f"{charge(record.micros)}{price}")]
    if summary.run_micros is not None:
        cost.append((f"Run {record.run_id} in all", charge(summary.run_micros)))
    if record.state in ("starting", "ready"):
        idle = f"after {duration(record.idle_stop_s)} without a question"
        stops = f"not by itself: kept by <@{record.kept_by}>" if record.kept_by else idle
        cost.append(("Stops", f"{stops}; at {money(record.day_micros)} a day"))
    return cost


def _reason(record: DeploymentRecord) -> str:
    text = next((text for reason, text in REASONS.items() if reason == record.reason), "somebody stopped it")
    return text.format(idle=duration(record.idle_stop_s))


def _buttons(summary: DeploymentSummary) -> list[CardBlock]:
    record, number = summary.record, str(summary.record.id)
    price = an_hour(record.micros_per_hour)
    buttons: list[Block] = []
    if record.state in ("starting", "ready"):
        sure = confirm(
            "Keep it running?", f"It costs {price} until somebody stops it.", "Keep it running", "Not now"
        )
        buttons += [] if record.kept_by else [button("Keep it running", KEEP, number, confirm=sure)]
        buttons.append(button("Stop it", STOP, number, style="danger"))
    elif record.state == "stopped" and record.run_id is not None and record.reason != "deleted":
        costs = f"It costs {an_hour(summary.hour_micros or record.micros_per_hour)} until it is stopped."
        sure = confirm("Start it again?", costs, "Start it", "Not now")
        buttons.append(button("Start again", START, number, confirm=sure))
    return [actions(*buttons)] if buttons else []
