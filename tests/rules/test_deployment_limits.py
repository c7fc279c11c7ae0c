"""When a deployment is stopped, and what it costs while it runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot.rules.budgets import (
    MEASURED_WITHIN_S,
    READY_WITHIN_S,
    DeploymentFacts,
    Hosting,
    hourly_micros,
    stop_reason,
)

RUNS = DeploymentFacts(
    is_ready=True,
    is_kept=False,
    is_measuring=False,
    is_run_over=False,
    is_deleted=False,
    is_frozen=False,
    age_s=600,
    idle_s=60,
    idle_stop_s=1800,
    day_micros=900_000,
    day_limit=20_000_000,
    all_day_micros=900_000,
    all_day_limit=20_000_000,
    budget_left=1,
)


@pytest.mark.parametrize(
    ("differs", "reason"),
    [
        ({}, None),
        ({"idle_s": 1800}, "idle"),
        ({"idle_s": 1800, "is_kept": True}, None),
        ({"idle_s": 1800, "is_measuring": True}, None),
        ({"is_frozen": True}, "frozen"),
        ({"is_frozen": True, "is_kept": True}, "frozen"),
        ({"is_frozen": True, "is_measuring": True}, None),
        ({"budget_left": -1, "is_kept": True}, "budget"),
        ({"budget_left": -1, "is_measuring": True}, None),
        ({"day_micros": 20_000_000, "is_measuring": True}, "day"),
        ({"all_day_micros": 20_000_000, "is_kept": True}, "day"),
        ({"is_ready": False, "age_s": READY_WITHIN_S, "is_measuring": True}, "not ready"),
        ({"age_s": MEASURED_WITHIN_S, "is_measuring": True}, "measured too long"),
        ({"age_s": MEASURED_WITHIN_S, "is_kept": True}, None),
        ({"is_run_over": True}, "run over"),
        ({"is_deleted": True, "is_kept": True}, "deleted"),
    ],
    ids=str,
)
def test_what_stops_it(differs: dict[str, Any], reason: str | None) -> None:
    assert stop_reason(replace(RUNS, **differs)) == reason


def test_an_hour_by_the_second_is_the_hour() -> None:
    assert hourly_micros(5_500_000, 3600) == 5_500_000
    assert hourly_micros(5_500_000, 1) == 1528  # a part of a micro-dollar is one more


def test_no_measurement_is_planned_above_the_days_most() -> None:
    hosting = Hosting(30_000_000, 1800, 20_000_000)
    assert (hosting.expected_micros, hosting.most_micros) == (15_000_000, 20_000_000)
