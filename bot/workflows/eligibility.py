"""Whether a provider trains for this account, and our trainer this base, asked before anybody spends time on a plan.

A service that has closed training to those who never used it lists jobs and takes uploads as ever, and says no only to
a create: after the approvals. That the list of jobs is empty tells it before.
"""

from __future__ import annotations

import logging

from bot.settings import Settings
from bot.workflows import telling
from bot.workflows.desk import Desk
from bot.workflows.targets import Target
from trainers import bases
from trainers.errors import TrainerError
from trainers.providers import ProviderRow

LOOK_S = 1.5  # a person waits for the answer to their command

log = logging.getLogger(__name__)


def closed_to_us(desk: Desk, row: ProviderRow) -> str | None:
    """The sentence for an account that is too late; None where it isn't, or where that can't be seen now."""
    trainer, since = desk.trainers.get(row.name), row.closed_to_new
    if trainer is None or since is None or telling.day(desk.clock()) < since:
        return None
    try:
        if trainer.has_jobs(LOOK_S):
            return None
    except TrainerError as trouble:
        log.warning("whether %s trains for us is not known: %s", row.name, trouble)
        return None
    return (
        f"Since {since} {row.title} trains only for organisations that had trained there before, and the account of "
        f"{row.provider.key_env} has no job there. Your own machine can train instead: choose a target that starts "
        "with `local/`."
    )


def untrainable(settings: Settings, target: Target) -> str | None:
    """The sentence for a base that lies on this machine and that our trainer can't train."""
    row, model = target.row, target.model
    if row.cluster or not row.keeps_models_here:
        return None
    place = settings.trainer.models.get(model.name) if row.is_started_by_us else None
    return bases.untrainable(place or model.base_name or model.name)
