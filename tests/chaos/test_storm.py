"""Ten kills in bad weather, the short form of `make chaos`: by both peers' records nothing is doubled or lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bot.world import VENDORS
from tests.chaos.dialects import DialectStorm, MuteStorm
from tests.chaos.own import OwnStorm
from tests.chaos.rented import RentedStorm
from tests.chaos.roads import RoadStorm
from tests.chaos.storm import Orders, Storm
from tests.peers.roads import ROADS, RoadVendor
from trainers.types import Dialect


def test_ten_kills_in_bad_weather_double_lose_and_overspend_nothing(tmp_path: Path) -> None:
    storm = Storm(tmp_path, Orders(kills=10, runs=12, budget_usd="0.56", may_read=True, lasting=True))
    verdict = storm.blow()
    assert sum(storm.kills.values()) == 10
    assert verdict.due >= 6, "the budget has room for ten, and some clicks count that were not acked"
    assert verdict.is_clean, verdict


@pytest.mark.slow
@pytest.mark.parametrize("dialect", VENDORS)
def test_kills_double_and_lose_nothing_at_a_vendor_with_an_api_of_its_own(
    tmp_path: Path, dialect: Dialect
) -> None:
    storm = DialectStorm(tmp_path, Orders(kills=10, runs=6), dialect=dialect)
    verdict = storm.blow()
    assert sum(storm.kills.values()) == 10 and verdict.due >= 4  # some clicks count that were not acked
    assert verdict.is_clean, verdict
    assert storm.provider.service.ledger.live == storm.provider.service.ledger.files == 0


@pytest.mark.slow
@pytest.mark.parametrize("vendor", ROADS)
def test_kills_leave_no_machine_running_and_start_none_twice(tmp_path: Path, vendor: RoadVendor) -> None:
    storm = RoadStorm(tmp_path, Orders(kills=10, runs=4, budget_usd="1000000", may_read=True), vendor=vendor)
    verdict = storm.blow()
    assert sum(storm.kills.values()) == 10 and verdict.due >= 2
    assert verdict.is_clean, verdict
    service = storm.provider.service
    assert service.machines and not service.running and service.ledger.live == service.ledger.files == 0


@pytest.mark.slow
def test_kills_double_and_lose_nothing_where_a_jobs_file_alone_tells_whose_it_is(tmp_path: Path) -> None:
    storm = MuteStorm(tmp_path, Orders(kills=10, runs=6))
    verdict = storm.blow()
    assert sum(storm.kills.values()) == 10 and verdict.due >= 4
    assert verdict.is_clean, verdict
    service = storm.provider.service
    assert not [file for file in service.files.values() if file.purpose == "fine-tune"]


def test_kills_of_bot_trainer_and_training_double_and_lose_nothing(
    tmp_path: Path,
    tiny_model_dir: Path,
) -> None:
    storm = OwnStorm(tmp_path, Orders(kills=4, runs=2), model=tiny_model_dir)
    verdict = storm.blow()
    assert sum(storm.kills.values()) == 4
    assert verdict.due == 2
    assert verdict.is_clean, verdict


@pytest.mark.slow
def test_kills_of_bot_and_trainer_and_lost_machines_leave_nothing_running_that_is_rented(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    storm = RentedStorm(tmp_path, Orders(kills=8, runs=3), model=tiny_model_dir)
    verdict = storm.blow()
    assert sum(storm.kills.values()) == 8 and verdict.due == 3
    assert verdict.is_clean, verdict
    assert storm.machines is not None and storm.machines.started >= 3
    assert storm.machines.is_clean, storm.machines
