"""What a plan that asks for early stopping keeps back of its training rows. The holdout is never looked at for it."""

from __future__ import annotations

from bot.decisions.planning import Plan, Stopping
from bot.results import Refusal
from bot.workflows.desk import Desk
from bot.workflows.estimating import Estimated
from trainers.dataset.validation import LEAST_ROWS, carve


def stopping_early(desk: Desk, plan: Plan, estimated: Estimated) -> Stopping | Refusal | None:
    """None where it isn't asked for. Writes both parts into the folder of files."""
    patience = estimated.question.patience
    if patience is None:
        return None
    if not estimated.target.row.provider.can("early_stopping"):
        title = estimated.target.row.title
        return Refusal(
            f"`patience=` needs a trainer that can stop early, which {title} can't. Leave it out, or choose a target "
            "that starts with `local/`.",
            "patience",
        )
    carved = carve(desk.settings.files, plan.train_sha256, plan.seed)
    if carved is None:
        return Refusal(
            f"`patience=` keeps a tenth of the training rows back and needs {LEAST_ROWS} or more that differ; "
            f"`{plan.dataset}` has {plan.n_train}. Leave it out, or add rows.",
            "patience",
        )
    return Stopping(
        patience, carved.fitted_sha256, carved.validation_sha256, carved.n_fitted, carved.n_validation
    )
