"""Our own small Slack on localhost: strict like Slack, with faults to order and a record of every call."""

from bot.demo.stand_in.delivery import Delivery
from bot.demo.stand_in.faults import Fault, broken, cut_off, refused, slow, too_many
from bot.demo.stand_in.state import Call, SlackError
from bot.demo.stand_in.workspace import StandIn

__all__ = [
    "Call",
    "Delivery",
    "Fault",
    "SlackError",
    "StandIn",
    "broken",
    "cut_off",
    "refused",
    "slow",
    "too_many",
]
