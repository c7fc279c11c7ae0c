"""Tuned models that run on a vendor's machine by the hour: the plan's line about the cost, the card from start to bill,
a line for status and Home, and machines that nobody here started."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Facts,
    Headline,
    Message,
    Text,
    actions,
    button,
    code,
    confirm,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.general import text_message
from bot.cards.common.plan_money import an_hour
from bot.cards.common.words import capitalize, charge, duration, money, pluralize, shorten, utc_time
from bot.cards.models.token_serving import LOADED, STATES_BY_TOKEN, again_button
from bot.rules.models.deployments import StopReason
from storage.deployments import DeploymentRecord, DeploymentState
from trainers.deployments.port import Deployment
from trainers.money import usd

KEEP = "keep_deployment"
STOP = "stop_deployment"
START = "start_deployment"
STOP_STRAY = "stop_stray_deployment"
MOST_BUTTONS = 3
FROZEN = (
    "Its model is not started while spending is frozen. It starts automatically once the freeze is lifted."
)
MISSING = (
    "The vendor's list lacks its machine. Lists may be late, so it counts as gone only if it stays away for twelve "
    "minutes."
)
GOING_DOWN = "The vendor is stopping its machine, which nobody here asked for."
STATES: Mapping[DeploymentState, str] = {
    "starting": "is being started",
    "ready": "is running",
    "stopping": "is being stopped",
    "stopped": "is stopped",
}
REASONS: Mapping[StopReason, str] = {
    "idle": "nobody used it for {idle}",
    "frozen": "spending is frozen",
    "day": "the daily limit for running models is used up",
    "budget": "the month's budget is used up",
    "not ready": "it was not ready within half an hour",
    "run over": "its run ended",
    "measured too long": "measuring took longer than two hours",
    "deleted": "its dataset was deleted",
    "dearer": "the vendor now charges more per hour than was approved",
    "refused": "the vendor refused to start it",
    "failed": "it failed at the vendor",
    "gone": "the vendor no longer lists it",
    "unknown": "the vendor gave no clear answer",
}


@dataclass(frozen=True)
class DeploymentSummary:
    """A deployment with what its card shows. `title` is the vendor's. `run_micros` is the total cost of its run, None
    while the run is open. `hour_micros` is the current price of an hour; `today_micros` the cost since midnight UTC.
    `token_price` is the price in words of what is served by the token; `is_uploaded` is false if the vendor had its
    weights before, and `answers_here` true if its trainer answers while it is not served there."""

    record: DeploymentRecord
    title: str
    run_micros: int | None = None
    hour_micros: int | None = None
    today_micros: int = 0
    token_price: str = ""
    is_uploaded: bool = True
    answers_here: bool = False


def card(summary: DeploymentSummary) -> Message:
    record = summary.record
    headline = f"{shorten(record.model)} {_state(summary)} at {summary.title}"
    parts = Parts([Headline(headline), Facts(_facts(summary))])
    if record.state in ("stopping", "stopped") and record.reason is not None:
        parts.text(f"{capitalize(_reason(record))}.")
    if record.detail:
        parts.note(escape(record.detail))
    parts.add(*_buttons(summary))

    cost = f"{charge(record.micros)} so far"
    if record.state == "stopped":
        cost = f"{charge(record.micros)} in total"
    if record.by_token:
        cost = "billed by the token"
    return Message(f"{escape(headline)}, {cost}", tuple(parts))


def line(summary: DeploymentSummary) -> str:
    """A line in status and Home."""
    record = summary.record
    if record.by_token:
        return f"• *{escape(shorten(record.model))}* {_state(summary)} at {escape(summary.title)}"
    text = (
        f"• *{escape(shorten(record.model))}* {STATES[record.state]} at {escape(summary.title)}: "
        f"{an_hour(record.micros_per_hour)}, {charge(record.micros)} so far"
    )
    if record.kept_by:
        text += f", kept by <@{record.kept_by}>"
    return text


def listing(
    running: Sequence[DeploymentSummary],
    name_of: Callable[[str], str],
    unwatched_since: float | None,
) -> Message:
    """Everything that costs money by the hour, for a terminal. `unwatched_since` is the bot's last look if none is
    running."""
    if not running:
        return text_message("Nothing runs by the hour.")
    hour = sum(each.record.micros_per_hour for each in running)
    today = sum(each.today_micros for each in running)
    by_hour = [each for each in running if not each.record.by_token]
    headline = f"{pluralize(len(by_hour), 'machine')}: {an_hour(hour)}, {charge(today)} today"
    parts = Parts()
    parts.lines([_running_line(each, name_of) for each in running])
    if unwatched_since is not None:
        # Costs are counted up to the bot's last look at a machine.
        parts.note(
            f"Counted until {utc_time(unwatched_since)}. No bot has run since, so nothing stops them: run "
            "`finetune run`."
        )
    return parts.titled(headline)


def _running_line(summary: DeploymentSummary, name_of: Callable[[str], str]) -> str:
    record = summary.record
    if record.by_token:
        by = escape(name_of(record.person))
        return f"• *{escape(record.model)}* {_state(summary)} at {escape(summary.title)}, by {by}"
    text = (
        f"• *{escape(record.model)}* {STATES[record.state]} at {escape(summary.title)}, for "
        f"{escape(name_of(record.person))}: "
        f"{an_hour(record.micros_per_hour)}, {charge(summary.today_micros)} today"
    )
    if record.state == "ready":
        text += f", idle since {utc_time(record.used_at)}"
    if record.kept_by:
        text += f", kept by {escape(name_of(record.kept_by))}"
    return text


def waits_text(title: str, micros_per_hour: int) -> str:
    """A run's note until its model answers."""
    return f"Its model is starting at {title}, {an_hour(micros_per_hour)}. Measuring begins once it answers."


def lost_text(summary: DeploymentSummary) -> str:
    """A run's note when measuring needs a person to start its model again."""
    again = _again(summary)
    return (
        f"Its model is not running at {summary.title}: {_reason(summary.record)}. Press {again} on its card to "
        "continue measuring. Otherwise the run ends after a day, and the model is kept."
    )


def expired_text(title: str, why: str) -> str:
    """Why a run ends if its machine runs but doesn't answer for the model."""
    return (
        f"Its machine at {escape(title)} runs but doesn't answer for the model, which may have expired there. Train it "
        f"again with `/finetune start`. The vendor's answer: {escape(why)}"
    )


def stopped_refusal(model: str, title: str, machine: str = "its card") -> str:
    """`machine` is the link to the machine's card."""
    return (
        f"`{model}` is not running at {escape(title)}, where it costs money by the hour. Press *Start again* on "
        f"{machine}."
    )


def in_use_stopped(summary: DeploymentSummary, dataset: str, machine: str) -> str:
    """A message about a model in use whose machine has stopped. `machine` is the link to the machine's card."""
    record = summary.record
    if record.by_token:
        return (
            f"{code(record.model)}, in use for {code(dataset)}, is not served at {escape(summary.title)} any more: "
            f"{_reason(record)}. If its trainer doesn't answer either, press *{_again(summary)}* on {machine}, or go "
            f"back with `/finetune rollback {dataset}`."
        )
    return (
        f"{code(record.model)}, in use for {code(dataset)}, is not running at {escape(summary.title)}: "
        f"{_reason(record)}. Programs that call it get no answer. Press *Start again* on {machine}, and *Keep it "
        f"running* if programs need it, or go back with `/finetune rollback {dataset}`."
    )


def unused_card(summary: DeploymentSummary, successor: str | None) -> Message:
    """A daily message about a machine that is kept for a model that is not in use. `successor` is the model that
    replaced it, None if it never was in use."""
    record = summary.record
    headline = (
        f"{shorten(record.model)} is not in use, and its machine costs {an_hour(record.micros_per_hour)}"
    )
    spent = f"{charge(summary.today_micros)} today and {charge(record.micros)} so far"
    keeper = f"<@{record.kept_by}> keeps it running at {escape(summary.title)}"
    text = f"{keeper}: {spent}. Stop it if no program calls it any more."
    if successor:
        text = f"{code(successor)} has replaced it. {text}"
    return Message.titled(
        headline, Text(text), actions(button("Stop it", STOP, str(record.id), style="danger"))
    )


def strays_card(title: str, provider: str, strays: Sequence[Deployment], prefix: str) -> Message:
    """Models that run there without this bot. Only those whose name begins with our `prefix` can be stopped here."""
    headline = f"{pluralize(len(strays), 'model')} at {title} that nobody here started"
    ours = [stray.name for stray in strays if stray.name.startswith(prefix)]
    lines = []
    for stray in strays:
        text = f"• {code(stray.name)}"
        if stray.usd_per_hour:
            text += f", {usd(stray.usd_per_hour)} an hour"
        if stray.name not in ours:
            text += ": not started by a Finetune bot"
        lines.append(text)
    buttons = [
        button(f"Stop {shorten(name, 30)}", STOP_STRAY, f"{provider} {name}") for name in ours[:MOST_BUTTONS]
    ]

    parts = Parts()
    parts.lines(lines)
    parts.text(
        "They cost money by the hour and are in no budget here. Stop those you don't know, here or at the vendor."
    )
    parts.buttons(*buttons)
    return parts.titled(headline, notice="They cost money by the hour.")


def still_running(name: str, title: str) -> str:
    return f"{code(name)} was stopped but still runs at {escape(title)}. It is being stopped again."


def found_again(model: str, title: str) -> str:
    return f"{code(model)} runs at {escape(title)} after all: the vendor lists its machine again."


def _again(summary: DeploymentSummary) -> str:
    if not summary.record.by_token:
        return "Start again"
    return again_button(is_uploaded=summary.is_uploaded)


def _state(summary: DeploymentSummary) -> str:
    state = summary.record.state
    if not summary.record.by_token:
        return STATES[state]
    if state == "starting" and not summary.is_uploaded:
        return LOADED
    return STATES_BY_TOKEN[state]


def _facts(summary: DeploymentSummary) -> list[tuple[str, str]]:
    record = summary.record
    if record.by_token:
        return _facts_by_token(summary)
    is_over = record.state == "stopped"
    name = "Cost" if is_over else "Cost so far"
    amount = charge(record.micros)
    # One that never ran had no price that anybody paid.
    if record.micros or not is_over:
        amount += f" at {an_hour(record.micros_per_hour)}"
    cost = [(name, amount)]
    if summary.run_micros is not None:
        cost.append((f"Run {record.run_id} in total", charge(summary.run_micros)))
    if record.state in ("starting", "ready"):
        limit = f"at {money(record.day_micros)} a day"
        stops = f"after {duration(record.idle_stop_s)} without a question, or {limit}"
        if record.kept_by:
            stops = f"only {limit}: kept by <@{record.kept_by}>"
        cost.append(("Stops", stops))
    return cost


def _facts_by_token(summary: DeploymentSummary) -> list[tuple[str, str]]:
    record = summary.record
    facts = []
    if summary.token_price:
        facts.append(("Price", f"{summary.token_price}, nothing while nobody asks"))
    if record.chat_model and record.state == "ready":
        facts.append(("Called there", code(record.chat_model)))
    return facts


def _reason(record: DeploymentRecord) -> str:
    text = "somebody stopped it"
    for reason, known_text in REASONS.items():
        if reason == record.reason:
            text = known_text
    return text.format(idle=duration(record.idle_stop_s))


def _buttons_by_token(summary: DeploymentSummary) -> list[CardBlock]:
    record = summary.record
    number = str(record.id)
    parts = Parts()
    if record.state in ("starting", "ready"):
        sure = confirm("Take it back?", _taken_back_means(summary), "Take it back", "Not now")
        parts.buttons(button("Take it back", STOP, number, style="danger", confirm=sure))
    elif record.state == "stopped" and record.run_id is not None and record.reason != "deleted":
        parts.buttons(button(_again(summary), START, number))
    return parts


def _taken_back_means(summary: DeploymentSummary) -> str:
    if not summary.is_uploaded:
        return "What was trained there stays there. Programs get no answer until it is served again."
    if summary.answers_here:
        return "The adapter is deleted there. Programs get its answers from its trainer again, if that can answer."
    return "The adapter is deleted there. Programs get no answer until it is uploaded again."


def _buttons(summary: DeploymentSummary) -> list[CardBlock]:
    record = summary.record
    if record.by_token:
        return _buttons_by_token(summary)
    number = str(record.id)
    price = an_hour(record.micros_per_hour)
    buttons: list[Block] = []
    if record.state in ("starting", "ready"):
        sure = confirm(
            "Keep it running?",
            f"It costs {price} until somebody stops it, or until a day's cost reaches {money(record.day_micros)}, a "
            "freeze or the end of the budget. Then it has to be started again.",
            "Keep it running",
            "Not now",
        )
        if not record.kept_by:
            buttons.append(button("Keep it running", KEEP, number, confirm=sure))
        # Without a confirmation, as it costs nothing and Start again undoes it.
        buttons.append(button("Stop it", STOP, number, style="danger"))
    elif record.state == "stopped" and record.run_id is not None and record.reason != "deleted":
        # The price may have changed since it last ran.
        costs = f"It costs {an_hour(summary.hour_micros or record.micros_per_hour)} until it is stopped."
        sure = confirm("Start it again?", costs, "Start it", "Not now")
        buttons.append(button("Start again", START, number, confirm=sure))
    parts = Parts()
    parts.buttons(*buttons)
    return parts
