"""Where a plan is carried out, as it is now: held against what was approved before a job is created."""

from __future__ import annotations

from importlib.metadata import version

from bot.decisions.planning import Destination, Plan
from bot.tuned_curves import TunedCurvePlan
from bot.views.blocks import code, escape
from bot.workflows.desk import Desk
from trainers.engines import FOLDER, found_version
from trainers.providers import ProviderRow
from trainers.weights import fingerprint

BUILTIN = "builtin"


def of(desk: Desk, row: ProviderRow, base_model: str, engine: str = BUILTIN) -> Destination:
    """The trainer that we start gets another port each time; what counts is the machine or cluster that trains."""
    trainer = desk.trainers.get(row.name)
    place = desk.settings.trainer.models.get(base_model) if row.is_started_by_us else None
    return Destination(
        base_url=(row.cluster or "") if row.is_started_by_us else row.provider.base_url,
        account=trainer.account if trainer else None,
        weights=fingerprint(place) if place else None,
        engine=_engine(desk, engine) if row.is_started_by_us and row.cluster is None else None,
    )


def changed(desk: Desk, plan: Plan | TunedCurvePlan) -> str | None:
    """What is not as it was approved, as a sentence. A plan of an older release is compared by what it has."""
    before, row = plan.destination, desk.settings.provider(plan.provider)
    if before is None or row is None:
        return None
    now = of(desk, row, plan.base_model, (before.engine or BUILTIN).split()[0])
    name = escape(row.title)
    if before.base_url != now.base_url:
        there, here = (code(one or "this machine") for one in (before.base_url, now.base_url))
        return f"What trains for {name} was {there} when the plan was made, and is {here} now."
    if None not in (before.account, now.account) and before.account != now.account:
        return f"The key for {name} is another than when the plan was made, perhaps of another account."
    if before.weights is not None and before.weights != now.weights:
        return f"The files of {code(plan.base_model)} are not those of when the plan was made."
    if before.engine is not None and before.engine != now.engine:
        here = code(now.engine) if now.engine else "not installed"
        return f"The engine that trains was {code(before.engine)} when the plan was made, and is {here} now."
    return None


def _engine(desk: Desk, name: str) -> str | None:
    """Its name and version; None where it is not installed."""
    if name == BUILTIN:
        return f"{BUILTIN} {version('finetune-bot')}"
    found = found_version(desk.settings.data / "trainer" / FOLDER / name / "env", name)
    return f"{name} {found}" if found else None
