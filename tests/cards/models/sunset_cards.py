"""Cards of models that end, before and after, and lists of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from decimal import Decimal

from bot.cards import status
from bot.cards.common.blocks import Message
from bot.cards.decisions import estimates
from bot.cards.models import sunsets
from bot.cards.models.sunsets import Sunset
from bot.cards.status import Status
from bot.rules.facts import Evidence
from bot.values.sunsets import ModelUse
from tests.cards import builders, measurements
from tests.cards.builders import HOSTED, MINI

TODAY = date(2026, 12, 20)
SOURCE = "OpenAI's pages, as litellm 1.110.2 has them, 2026-11-27"
TARGET = "acme/acme-small"
GPT_4O = ModelUse("today's", "tickets", "gpt-4o", None, date(2027, 1, 14), "gpt-6-luna", SOURCE)
IN_USE = replace(
    GPT_4O, kind="in use", model="openai/gpt-4o-mini-2024-07-18", name="tickets-7", is_tuned=True
)
PLANNED = replace(
    IN_USE, kind="planned", name="run 8", dataset="mails", ends=date(2026, 12, 24), successor=None
)
PROMPTED = replace(IN_USE, name="ten examples on openai/gpt-4o-mini-2024-07-18", is_tuned=False)
STANDS_IN = replace(PROMPTED, kind="fallback")
LOCAL = ModelUse("target", "", "local/smollm2-135m", said_by="the weights are on your own machine")
CLASSICAL = Evidence(comparison=measurements.comparison())
OFFERED = builders.CHEAP_MODEL


def sunset(use: ModelUse = GPT_4O) -> Sunset:
    return Sunset(
        use=use,
        today=TODAY,
        version=2,
        n_holdout=77,
        costs_usd=Decimal("251.63"),
        successor_usd=Decimal("10.19"),
        retuned=builders.estimate_summary(training=HOSTED, tuned=MINI),
        target=TARGET,
    )


def cards() -> dict[str, Message]:
    alone = replace(sunset(), retuned=None, target=None, costs_usd=None, successor_usd=None)
    ended = replace(sunset(), today=TODAY + timedelta(days=40))
    return {
        "sunset": sunsets.card(sunset()),
        "sunset-in-use": sunsets.card(sunset(IN_USE)),
        "sunset-fallback": sunsets.card(sunset(STANDS_IN)),
        "sunset-prompt-in-use": sunsets.card(sunset(PROMPTED)),
        "sunset-planned": sunsets.card(replace(sunset(PLANNED), costs_usd=None)),
        "sunset-dear-successor": sunsets.card(replace(sunset(), successor_usd=Decimal("120"))),
        "sunset-against": sunsets.card(
            replace(sunset(), retuned=builders.estimate_summary(evidence=CLASSICAL))
        ),
        "sunset-ended": sunsets.card(ended),
        "sunset-gone": sunsets.card(replace(sunset(), gone_from="OpenAI", costs_usd=None)),
        "sunset-without-a-target": sunsets.card(alone),
        "sunset-list": sunsets.listing([GPT_4O, IN_USE, PLANNED, STANDS_IN, LOCAL], TODAY),
        "sunset-list-short": sunsets.listing(
            [GPT_4O, LOCAL, replace(LOCAL, model="openai/gpt-4.1-nano", ends=TODAY)],
            TODAY,
            "finetune sunsets --all",
        ),
        "status-ending": status.card(Status([], [], [], ending=[PLANNED, GPT_4O, IN_USE], today=TODAY)),
        "estimate-offers-a-cheaper-model": estimates.card(
            replace(builders.estimate_summary(training=HOSTED, tuned=MINI), offered=OFFERED), TARGET, number=4
        ),
    }
