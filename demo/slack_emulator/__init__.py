"""Our own small Slack on localhost: as strict as Slack, with injectable faults and a record of every call."""

from demo.slack_emulator.delivery import Delivery
from demo.slack_emulator.faults import Fault, broken, cut_off, refused, slow, too_many
from demo.slack_emulator.state import Call, SlackError
from demo.slack_emulator.workspace import SlackEmulator

__all__ = [
    "Call",
    "Delivery",
    "Fault",
    "SlackEmulator",
    "SlackError",
    "broken",
    "cut_off",
    "refused",
    "slow",
    "too_many",
]
