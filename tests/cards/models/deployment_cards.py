"""Cards of models that are hosted by the hour, and of deployments that the bot did not start."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from bot.cards import status
from bot.cards.common.blocks import Message
from bot.cards.decisions import plans
from bot.cards.models import deployments
from bot.cards.models.deployments import DeploymentSummary
from bot.cards.status import Status
from bot.cards.training import results
from bot.rules.models.deployments import Hosting
from storage.deployments import DeploymentRecord
from tests.cards import builders
from tests.cards.builders import ANA, BEN, BUDGET, NOW
from trainers.deployments.port import Deployment

HOSTING = Hosting(5_500_000, 1800, 20_000_000)
RESULT = replace(
    builders.result(), hosting_micros=1_375_000, actual_micros=1_415_000, estimated_micros=2_790_000
)


def summary(state: Any = "ready", micros: int = 1_375_000, **other: Any) -> DeploymentSummary:
    record = DeploymentRecord(
        id=4,
        run_id=7,
        provider="acme",
        model="tickets-7",
        name="ft-run7-3f9a61c2-1",
        state=state,
        channel="C1",
        person=ANA,
        micros_per_hour=5_500_000,
        idle_stop_s=1800,
        day_micros=20_000_000,
        chat_model="ft-run7-3f9a61c2-1",
        sent_at=NOW - 900,
        ready_at=NOW - 600,
        used_at=NOW - 60,
        billed_until=NOW,
        is_billed=True,
        ended_at=None,
        kept_by=None,
        reason=None,
        detail=None,
        tries=0,
        next_at=NOW,
        created_at=NOW - 900,
        updated_at=NOW,
        micros=micros,
    )
    return DeploymentSummary(replace(record, **other), "Acme & Sons", 1_795_000)


def cards() -> dict[str, Message]:
    waiting, plan = builders.run("awaiting_approval"), replace(builders.plan(), hosting=HOSTING)
    to_zero = replace(plan, hosting=Hosting(8_000_000, 1800, 20_000_000, scales_to_zero=True))
    dearer = {"reason": "dearer", "detail": "It now costs $7.25 an hour."}
    orphan = Deployment("1", "ft-run7-0ddba11c-1", "m", "ready", "m", Decimal("5.50"))
    orphans = [orphan, replace(orphan, name="somebody's *own*", usd_per_hour=None)]
    return {
        "plan-asked-hosted": plans.approval_card(waiting, plan, BUDGET, plans.ONE_APPROVER),
        "plan-asked-hosted-to-zero": plans.approval_card(waiting, to_zero, BUDGET, plans.ONE_APPROVER),
        "result-hosted": results.card(
            builders.run("done", actual_micros=1_415_000), plan, RESULT, machine="its card"
        ),
        "result-hosted-stopped": results.card(
            builders.run("done", actual_micros=5_290_000), plan, RESULT, machine="its card", is_stopped=True
        ),
        "deployment-starting": deployments.card(replace(summary("starting", 36_000), run_micros=None)),
        "deployment-ready": deployments.card(summary()),
        "deployment-kept": deployments.card(summary(kept_by=BEN)),
        "deployment-stopping": deployments.card(
            summary("stopping", reason="asked", detail="stopping it on acme: HTTP 503. Trying again.")
        ),
        "deployment-stopped": deployments.card(summary("stopped", reason="idle")),
        "deployment-dearer": deployments.card(
            replace(summary("stopped", 0, **dearer), run_micros=None, hour_micros=7_250_000)
        ),
        "deployment-unused": deployments.unused_card(
            replace(summary(kept_by=BEN), today_micros=880_000), "tickets-8"
        ),
        "deployments-strays": deployments.strays_card("Acme & Sons", "acme", orphans, "ft-run"),
        "status-running": status.card(Status([], [], [], deployments=[summary(), summary(kept_by=BEN)])),
    }
