"""What 1,000 requests in production cost, given what they cost while they were measured."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from bot.rules.estimate_inputs import DEFAULT_BUSY
from bot.services.evidence.evidence import request_usd_at
from tests.bot.operations.test_settings import read
from tests.rules.builders import candidate
from trainers.evaluation.results import Candidate
from trainers.providers.pricing import PriceList, PriceRow
from trainers.types import Price

OURS = (
    '[providers.local]\nbase_url = "http://127.0.0.1:1"\n[providers.local.models.tiny]\nusd_per_hour = "2"\n'
)
TUNED = "local/ft:tiny:team:tickets:1"


@pytest.mark.parametrize(("served_by", "share"), [("", DEFAULT_BUSY), ("coreweave", Decimal(1))])
def test_a_machine_idles_for_part_of_its_hours_and_tokens_do_not(
    tmp_path: Path, served_by: str, share: Decimal
) -> None:
    settings = read(tmp_path, OURS)
    price = Price(training=None, input=Decimal("0.2"), cached_input=None, output=Decimal("0.2"))
    row = PriceRow(TUNED, "tuned", price, source="a list", usd_per_hour=Decimal(2))
    prices = PriceList((replace(row, served_by=served_by),), date(2026, 12, 1))
    measured = replace(
        candidate("tuned", "meets"), identity=Candidate("tuned", TUNED), usd_per_1000=Decimal("0.40")
    )

    assert request_usd_at(settings, prices, measured) == Decimal("0.40") / share
