"""The short form of `make chaos`: a few kills in bad weather, after which the peers' records show no duplicate and no
loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bot.world import VENDORS
from tests.chaos.calls import CallStorm
from tests.chaos.dialects import DialectStorm, MuteStorm
from tests.chaos.fork_host import ForkHost
from tests.chaos.hosting import RoadStorm
from tests.chaos.own_trainer import VICTIMS, OwnStorm
from tests.chaos.rented_machines import RentedStorm
from tests.chaos.storm import Orders, Storm
from tests.peers.roads import ROADS, RoadVendor
from trainers.types import Dialect


@pytest.mark.slow  # `make chaos` has it with hundreds of kills
def test_kills_in_bad_weather_duplicate_lose_and_overspend_nothing(tmp_path: Path, forks: ForkHost) -> None:
    orders = Orders(kills=6, runs=6, budget_usd="0.28", may_read=True, lasting=True)
    storm = Storm(tmp_path, orders, forks)
    verdict = storm.run()
    assert sum(storm.kills.values()) == 6
    assert verdict.due >= 3, "the budget is enough for five, and some clicks count without being acked"
    assert verdict.is_clean, verdict


@pytest.mark.deep
def test_kills_of_bot_trainer_and_training_duplicate_and_lose_nothing(
    tmp_path: Path, forks: ForkHost, tiny_model_dir: Path
) -> None:
    storm = OwnStorm(tmp_path, Orders(kills=3, runs=2), forks, model=tiny_model_dir)
    verdict = storm.run()
    assert storm.kills.keys() == set(VICTIMS)
    assert verdict.due == 2
    assert verdict.is_clean, verdict


@pytest.mark.deep
def test_kills_of_doors_and_the_trainer_answer_no_program_wrongly(tmp_path: Path) -> None:
    storm = CallStorm(tmp_path, kills=4)
    verdict = storm.run()
    assert sum(storm.kills.values()) == 4
    assert verdict.answered > 100
    assert verdict.is_clean, verdict


@pytest.mark.slow
def test_kills_leave_labels_whole_and_nothing_of_a_deleted_dataset(tmp_path: Path, forks: ForkHost) -> None:
    storm = Storm(tmp_path, Orders(kills=10, runs=4, may_read=True, has_other_work=True), forks)
    verdict = storm.run()
    assert sum(storm.kills.values()) == 10
    assert verdict.is_clean, verdict
    assert not storm.problems


@pytest.mark.slow
@pytest.mark.parametrize("dialect", VENDORS)
def test_kills_duplicate_and_lose_nothing_at_a_vendor_with_its_own_api(
    tmp_path: Path, forks: ForkHost, dialect: Dialect
) -> None:
    storm = DialectStorm(tmp_path, Orders(kills=10, runs=6), forks, dialect=dialect)
    verdict = storm.run()
    assert sum(storm.kills.values()) == 10 and verdict.due >= 4  # some clicks count without being acked
    assert verdict.is_clean, verdict
    assert storm.provider.service.ledger.live == storm.provider.service.ledger.files == 0


@pytest.mark.slow
@pytest.mark.parametrize("vendor", ROADS)
def test_kills_leave_no_machine_running_and_start_none_twice(
    tmp_path: Path, forks: ForkHost, vendor: RoadVendor
) -> None:
    orders = Orders(kills=10, runs=4, budget_usd="1000000", may_read=True, has_other_work=True)
    storm = RoadStorm(tmp_path, orders, forks, vendor=vendor)
    verdict = storm.run()
    assert sum(storm.kills.values()) == 10 and verdict.due >= 2
    assert verdict.is_clean, verdict
    assert not storm.problems
    service = storm.provider.service
    assert service.machines and not service.running and service.ledger.live == service.ledger.files == 0


@pytest.mark.slow
def test_kills_duplicate_and_lose_nothing_where_only_a_jobs_file_tells_whose_it_is(
    tmp_path: Path, forks: ForkHost
) -> None:
    storm = MuteStorm(tmp_path, Orders(kills=10, runs=6), forks)
    verdict = storm.run()
    assert sum(storm.kills.values()) == 10 and verdict.due >= 4
    assert verdict.is_clean, verdict
    service = storm.provider.service
    assert not [file for file in service.files.values() if file.purpose == "fine-tune"]


@pytest.mark.slow
def test_kills_and_lost_machines_leave_no_rented_machine_running(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    storm = RentedStorm(tmp_path, Orders(kills=8, runs=3), model=tiny_model_dir)
    verdict = storm.run()
    assert sum(storm.kills.values()) >= 8 and verdict.due == 3
    assert verdict.is_clean, verdict
    assert storm.machines is not None and storm.machines.started >= 3
    assert storm.machines.is_clean, storm.machines
