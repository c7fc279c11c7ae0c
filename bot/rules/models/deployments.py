"""What a tuned model on a machine by the hour costs, and when that machine is stopped; and the terms of one that is
served by the token instead. Money is in micro-dollars, time in seconds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from trainers.money import to_micros

# Deployments of adapters were ready in under 6 minutes; the rest is for measuring and for somebody to decide.
EXPECTED_S = 30 * 60
# Time limits while a run is measured: until the machine is ready, and in total.
READY_WITHIN_S = 30 * 60
MEASURED_WITHIN_S = 2 * 3600
DEFAULT_IDLE_S = 30 * 60  # used if the vendor doesn't stop idle machines itself
MOST_STARTS = 2  # per measurement: if the machine dies, it is restarted once
UNSEEN_S = 600.0  # a running bot looks at its machines every few seconds

StopReason = Literal[
    "asked",
    "idle",
    "frozen",
    "day",
    "budget",
    "not ready",
    "run over",
    "measured too long",
    "deleted",
    "dearer",
    "refused",
    "failed",
    "gone",
    "unknown",
]


@dataclass(frozen=True)
class TokenTerms:
    """A vendor that serves a tuned model by the token, whose tokens are all that costs money.

    `provider` is its name in the settings, and `base_model` its name for the base. `input` and `output` are USD per
    million tokens, as decimal texts. `most_rank` is the largest rank of an adapter that it serves, None if there is no
    limit. `data_terms` is the address of its terms on data, '' if the settings name none. `account` is the account or
    project to which the adapter goes. `is_uploaded` is false if the vendor has trained the model, and so has its
    weights."""

    provider: str
    base_model: str
    input: str
    output: str
    most_rank: int | None = None
    data_terms: str = ""
    account: str = ""
    is_uploaded: bool = True


@dataclass(frozen=True)
class Hosting:
    """Where a plan's model will answer. A machine costs `micros_per_hour`, at most `day_micros` per day, until it is
    stopped `idle_stop_s` after the last question. `scales_to_zero` is true if it is free while idle. With `by_token`
    there is no machine, these are 0, and it is served by a vendor that bills tokens."""

    micros_per_hour: int
    idle_stop_s: int
    day_micros: int
    scales_to_zero: bool = False
    by_token: TokenTerms | None = None

    @staticmethod
    def served_by_token(terms: TokenTerms) -> Hosting:
        return Hosting(0, 0, 0, by_token=terms)

    @property
    def expected_micros(self) -> int:
        """The expected cost of measuring the run and of waiting until somebody decides."""
        return self._cost(EXPECTED_S)

    @property
    def most_micros(self) -> int:
        """The maximum cost until the run is measured."""
        return self._cost(MEASURED_WITHIN_S)

    def _cost(self, seconds: int) -> int:
        return min(hourly_micros(self.micros_per_hour, seconds), self.day_micros)


def hourly_micros(micros_per_hour: int, seconds: float) -> int:
    # Whole milliseconds, so that the sum stays exact: 3.6 million an hour, at a millionth of a dollar.
    return to_micros(Decimal(micros_per_hour) * round(seconds * 1000) / 3_600_000_000_000)


@dataclass(frozen=True)
class DeploymentFacts:
    """The state of a deployment now. `is_by_token`: it costs nothing while nobody asks. `age_s` is the time since its
    start, `idle_s` since its last question. `is_measuring` is true while a run is measured on it, which has reserved
    the money; `is_run_over` if its run has failed or was cancelled. `day_micros` is its cost today, `all_day_micros`
    that of all deployments together."""

    is_ready: bool
    is_kept: bool
    is_by_token: bool
    is_measuring: bool
    is_run_over: bool
    is_deleted: bool
    is_frozen: bool
    age_s: float
    idle_s: float
    idle_stop_s: int
    day_micros: int
    day_limit: int
    all_day_micros: int
    all_day_limit: int
    budget_left: int


def stop_reason(facts: DeploymentFacts) -> StopReason | None:
    """Returns why the deployment has to be stopped now; None if it may continue. A freeze or an exhausted budget
    doesn't interrupt a measurement."""
    if facts.is_deleted:
        return "deleted"
    if facts.is_by_token:
        return _stop_reason_by_token(facts)
    if facts.day_micros >= facts.day_limit or facts.all_day_micros >= facts.all_day_limit:
        return "day"
    if not facts.is_ready and facts.age_s >= READY_WITHIN_S:
        return "not ready"
    if facts.is_measuring and facts.age_s >= MEASURED_WITHIN_S:
        return "measured too long"
    # What stops a machine from here on has to wait for the measurement, whose money is reserved.
    if facts.is_measuring:
        return None
    if facts.is_run_over:
        return "run over"
    if facts.is_frozen:
        return "frozen"
    if facts.budget_left < 0:
        return "budget"
    if facts.is_kept or facts.idle_s < facts.idle_stop_s:
        return None
    return "idle"


def _stop_reason_by_token(facts: DeploymentFacts) -> StopReason | None:
    """Neither time nor a freeze or the budget stops what costs nothing while nobody asks."""
    if not facts.is_ready and facts.age_s >= READY_WITHIN_S:
        return "not ready"
    if facts.is_run_over and not facts.is_measuring:
        return "run over"
    return None


def find_unwatched_since(looks: Collection[float], now: float) -> float | None:
    """Returns when a bot last looked at the machines, if that is so long ago that none is running; else None. `looks`
    has the time of the last look at each machine."""
    earliest = min(looks, default=now)
    if now - earliest <= UNSEEN_S:
        return None
    return earliest
