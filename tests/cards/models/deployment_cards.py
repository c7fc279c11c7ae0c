"""Cards of models that are hosted by the hour or served by the token, and of deployments that nobody here started."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from bot.cards import status
from bot.cards.common.blocks import Message
from bot.cards.decisions import plans
from bot.cards.models import deployments
from bot.cards.models.deployments import DeploymentSummary
from bot.cards.models.token_serving import TokenOffer
from bot.cards.status import Status
from bot.cards.training import results
from bot.rules.models.deployments import Hosting, TokenTerms
from storage.deployments import DeploymentRecord
from tests.cards import builders
from tests.cards.builders import ANA, BEN, BUDGET, NOW
from trainers.deployments.port import Deployment

HOSTING = Hosting(5_500_000, 1800, 20_000_000)
TERMS = TokenTerms(
    provider="coreweave",
    base_model="meta-llama/Llama-3.1-8B-Instruct",
    input="0.22",
    output="0.30",
    most_rank=16,
    data_terms="https://vendor.example/terms",
)
LOADED = replace(TERMS, is_uploaded=False)
OFFER = TokenOffer("coreweave", "Somebody's Inference", TERMS)
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


def _by_token(state: Any, **other: Any) -> DeploymentSummary:
    called = "wandb-artifact:///acme/serving/ft-run7-3f9a61c2-1:v0"
    served = summary(state, 0, by_token=True, micros_per_hour=0, chat_model=called, **other)
    return replace(served, token_price="$0.22 per million tokens in and $0.30 out")


def cards() -> dict[str, Message]:
    waiting, plan = builders.run("awaiting_approval"), replace(builders.plan(), hosting=HOSTING)
    to_zero = replace(plan, hosting=Hosting(8_000_000, 1800, 20_000_000, scales_to_zero=True))
    dearer = {"reason": "dearer", "detail": "It now costs $7.25 an hour."}
    by_token = replace(builders.plan(), hosting=Hosting.served_by_token(TERMS))
    no_offer = replace(
        OFFER, terms=None, why_not="it serves adapters up to rank 16, and this one has rank 32."
    )
    orphan = Deployment("1", "ft-run7-0ddba11c-1", "m", "ready", "m", Decimal("5.50"))
    orphans = [orphan, replace(orphan, name="somebody's *own*", usd_per_hour=None)]
    return {
        "plan-asked-hosted": plans.approval_card(waiting, plan, BUDGET, plans.ONE_APPROVER),
        "plan-asked-hosted-to-zero": plans.approval_card(waiting, to_zero, BUDGET, plans.ONE_APPROVER),
        "plan-asked-by-token": plans.approval_card(waiting, by_token, BUDGET, plans.ONE_APPROVER),
        "result-can-be-served-by-token": results.card(
            builders.run("done"), builders.plan(), builders.result(), by_token=OFFER
        ),
        "result-can-not-be-served-by-token": results.card(
            builders.run("done"), builders.plan(), builders.result(), by_token=no_offer
        ),
        "adapter-uploading": deployments.card(replace(_by_token("starting"), answers_here=True)),
        "adapter-served": deployments.card(replace(_by_token("ready"), answers_here=True)),
        "adapter-served-by-plan": deployments.card(_by_token("ready")),
        "adapter-taken-back": deployments.card(_by_token("stopped", reason="asked")),
        "result-can-be-loaded-by-token": results.card(
            builders.run("done"), builders.plan(), builders.result(), by_token=replace(OFFER, terms=LOADED)
        ),
        "model-loading": deployments.card(replace(_by_token("starting"), is_uploaded=False)),
        "model-loaded": deployments.card(replace(_by_token("ready"), is_uploaded=False)),
        "model-unloaded": deployments.card(replace(_by_token("stopped", reason="asked"), is_uploaded=False)),
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
