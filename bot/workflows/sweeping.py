"""What a plan that sweeps keeps back of its training rows, and the steps of all its arms. The holdout is never seen."""

from __future__ import annotations

import math
from decimal import Decimal

from bot.decisions.planning import Plan, Swept
from bot.results import Refusal
from bot.workflows.desk import Desk
from bot.workflows.estimating import Estimated
from trainers.dataset.validation import LEAST_ROWS, carve
from trainers.sizing.halving import most_steps
from trainers.sweeps import combinations
from trainers.types import Hyperparameter

LEAST_USD = Decimal("0.0001")  # that our trainer takes for a ceiling or a price


def sweeping(desk: Desk, plan: Plan, estimated: Estimated) -> Swept | Refusal | None:
    """None where it isn't asked for. Writes both parts into the folder of files."""
    sweep = estimated.question.sweep
    if not sweep:
        return None
    carved = carve(desk.settings.files, plan.train_sha256, plan.seed)
    if carved is None:
        return Refusal(
            f"`sweep=` chooses by a tenth of the training rows, kept back for that, and needs {LEAST_ROWS} or more "
            f"that differ; `{plan.dataset}` has {plan.n_train}. Leave it out, or add rows.",
            "sweep",
        )
    single = dict(plan.hyperparameters)
    courses = [_course(carved.n_fitted, {**single, **chosen}) for chosen in combinations(sweep)]
    price = round((estimated.training.usd_per_hour if estimated.training else None) or Decimal(0), 6)
    return Swept(
        sweep,
        carved.fitted_sha256,
        carved.validation_sha256,
        carved.n_fitted,
        carved.n_validation,
        most_steps(courses),
        f"{price.normalize():f}" if price >= LEAST_USD else None,
    )


def _course(rows: int, chosen: dict[str, Hyperparameter]) -> int:
    """Steps of one arm's full course."""
    return math.ceil(rows / int(chosen["batch_size"])) * int(chosen["n_epochs"])
