"""What the bot counts and times for Prometheus. `/metrics` (server.py) shows it together with what is read from the
database; docs/operations.md lists both.

Everything counts from the process' start. No label names a person, a channel, a dataset or a model, so that the number
of series doesn't grow with a workspace.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any, TypeVar

import click
from prometheus_client import Counter, Histogram, Info, disable_created_metrics

from bot.values.runs import Refusal
from trainers.client.calls import ERROR_KINDS, ProviderCall

Result = TypeVar("Result")

disable_created_metrics()  # a second series for each counter, which nothing here reads

ANSWERED = "answered"
REFUSED = "refused"
MISREAD = "misread"
FAILED = "failed"
MESSAGE_TROUBLES = ("postponed", "waits_for_a_person", "posted_again", "sent_elsewhere", "given_up")

Info("finetune_build", "The bot's version, and Python's.").info(
    {"version": version("finetune-bot"), "python": platform.python_version()}
)
COMMANDS = Counter(
    "finetune_commands",
    "Commands, by name and by how they ended: answered, refused, misread, failed.",
    ["command", "outcome"],
)
CLICKS = Counter(
    "finetune_clicks",
    "Clicks, by button and by how they ended: answered, refused, failed.",
    ["button", "outcome"],
)
FORMS = Counter(
    "finetune_forms",
    "Submitted forms, by form and by how they ended: answered, refused, failed.",
    ["form", "outcome"],
)
LOOK_UPS_REFUSED = Counter(
    "finetune_slack_lookups_refused",
    "Look-ups in Slack that the bot didn't make, to stay within Slack's limits, by Slack's method.",
    ["method"],
)
RATE_LIMITED = Counter(
    "finetune_slack_rate_limited", "Calls that Slack answered with 429, by Slack's method.", ["method"]
)
MESSAGES_SENT = Counter("finetune_messages_sent", "Messages that Slack accepted, by kind.", ["kind"])
MESSAGE_FAILURES = Counter(
    "finetune_message_failures",
    "Tries to send a message that failed, by what follows from that.",
    ["outcome"],
)
PROVIDER_ERRORS = Counter(
    "finetune_provider_errors", "Requests to providers of models that failed, by kind.", ["provider", "kind"]
)
# Slack shows people an error after three seconds without an ack.
ACK_S = Histogram(
    "finetune_ack_duration_seconds",
    "Time until one of Slack's deliveries was acked.",
    ["delivery"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3),
)
ANSWER_S = Histogram(
    "finetune_answer_duration_seconds",
    "Time from one of Slack's deliveries to the end of what the bot does for it at once.",
    ["delivery"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
TICK_S = Histogram(
    "finetune_tick_duration_seconds",
    "Time that a tick took.",
    ["tick"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15, 60, 300),
)
PROVIDER_S = Histogram(
    "finetune_provider_request_duration_seconds",
    "Time that a request to a provider of models took, failed ones included.",
    ["provider"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
)

_DELIVERIES: Mapping[str, str] = {
    "block_actions": "click",
    "view_submission": "form",
    "shortcut": "shortcut",
    "message_action": "shortcut",
    "event_callback": "event",
}

# A rate needs a series' beginning, so whatever can be counted is there from the start with 0.
for _outcome in MESSAGE_TROUBLES:
    MESSAGE_FAILURES.labels(_outcome)


def watch_provider(provider: str) -> None:
    """Shows the provider's counters from the start."""
    PROVIDER_S.labels(provider)
    for kind in ERROR_KINDS:
        PROVIDER_ERRORS.labels(provider, kind)


def note_provider_call(call: ProviderCall) -> None:
    PROVIDER_S.labels(call.provider).observe(call.seconds)
    if call.error_kind:
        PROVIDER_ERRORS.labels(call.provider, call.error_kind).inc()


def delivery_kind(body: Mapping[str, Any]) -> str:
    """Returns what one of Slack's deliveries is, for the label `delivery`."""
    if "command" in body:
        return "command"
    return _DELIVERIES.get(str(body.get("type")), "other")


def count_misread(command: click.Command | None) -> None:
    """Counts a line that could not be read. `command` is the one that it begins with, if there is one of that name."""
    name = str(command.name) if command else "unknown"
    COMMANDS.labels(name, MISREAD).inc()


def counted(counter: Counter, name: str, act: Callable[[], Result]) -> Result:
    """Does what somebody asked for, and counts how it ended."""
    with counting_failures(counter, name):
        result = act()
    count(counter, name, result)
    return result


@contextmanager
def counting_failures(counter: Counter, name: str) -> Iterator[None]:
    """Counts an exception, and passes it on."""
    try:
        yield
    except Exception:  # of any kind: whatever ends the block is a failure to the person who asked
        counter.labels(name, FAILED).inc()
        raise


def count(counter: Counter, name: str, result: object) -> None:
    outcome = REFUSED if isinstance(result, Refusal) else ANSWERED
    counter.labels(name, outcome).inc()
