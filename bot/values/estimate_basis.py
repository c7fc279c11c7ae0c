"""Everything that an estimate is decided from, as services/decisions/estimates.py has looked it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from bot.rules.bills import Capacity, MonthlyCost
from bot.rules.estimate_inputs import Question
from bot.rules.facts import Evidence
from bot.rules.reasons import ModelEnd
from bot.values.targets import JudgeTerms, Target, TrainingNeeds
from trainers.dataset import Report
from trainers.providers.pricing import PriceRow


@dataclass(frozen=True, kw_only=True)
class EstimateBasis:
    """Everything that was looked up for an estimate.

    - `question` has the target's defaults filled in. `current` is the price of today's model, None if the question
      names none.
    - `evidence` is what was measured, with models that have ended since.
    - `prices` are the list prices of the measured and the suggested models and of the successors of all, by name;
      `ends` are the days on which measured models are shut down.
    - `capacities` are those of our own machine, by the model's name. `vendor_capacity` is a guess, None if a vendor
      bills by the token or the model's size is unknown.
    - `full_current`, `to_measure`, `providers_without_key` and `has_models` are as in `Facts`.
    - `by_token` is the price at which somebody would serve the model by the token, None if nobody would, or if it is
      not for a machine by the hour.
    - `is_trained` is true if the run is over: its costs are sunk, so only future costs count.
    """

    name: str
    report: Report
    question: Question
    target: Target
    today: date
    evidence: Evidence
    needs: TrainingNeeds
    current: PriceRow | None
    judge: JudgeTerms | None
    prices: Mapping[str, PriceRow]
    ends: Mapping[str, ModelEnd]
    capacities: Mapping[str, Capacity]
    vendor_capacity: Capacity | None
    by_token: PriceRow | None
    full_current: str | None
    to_measure: tuple[str, ...]
    providers_without_key: tuple[tuple[str, str], ...]
    has_models: bool
    is_trained: bool


@dataclass(frozen=True)
class ServedByToken:
    """What a month would cost if `provider` served the same tuned model by the token."""

    provider: str
    monthly: MonthlyCost
