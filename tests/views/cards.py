"""Every card in its typical states, by name: the golden files, the limits and the screenshots all use these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

from bot.results import Progress
from bot.views import datasets, estimates, general, home, models, plans, results, runs
from bot.views.blocks import Message
from bot.views.estimates import Choices
from bot.views.home import Overview
from tests.views import made
from tests.views.made import BEN, NOW
from trainers.dataset import LabelCount

Json = Mapping[str, Any]
TARGET = "local/smollm2-135m"


class Listed:
    """A dataset in a list, with its report where it has one."""

    def __init__(self, state: Any = "ready", **other: Any) -> None:
        self.dataset = made.dataset(state=state, **other)
        self.report = made.report() if state == "ready" else None


class Tried:
    ask, answer = made.ASK, made.ANSWER


def _datasets() -> dict[str, Message]:
    listed = [
        Listed(version=2),
        Listed("checking", name="faq"),
        Listed("refused", name="old", refusal="Line 7 is not JSON."),
    ]
    return {
        "dataset-received": datasets.received(made.dataset(state="received")),
        "dataset-ready": datasets.checked(
            made.dataset(version=2), made.report(made.DUPLICATE, made.WORTH_A_TRY)
        ),
        "dataset-clean": datasets.checked(
            made.dataset(), made.report(format="chat", labels=(), task="free_text")
        ),
        "dataset-blocked": datasets.checked(
            made.dataset(), made.blocked_report(made.NOT_JSON, made.DUPLICATE)
        ),
        "dataset-refused": datasets.refused(made.dataset(), "The file is a PNG image. Upload CSV or JSONL."),
        "dataset-list": datasets.listing(listed),
        "dataset-list-empty": datasets.listing([]),
        "dataset-unknown": general.sentence(datasets.no_such_dataset("tikets", ["tickets", "faq"])),
    }


def _estimates() -> dict[str, Message]:
    machine = replace(made.FREE, usd_per_hour=Decimal("0.10"))
    paid = replace(made.OWN, usd_per_hour=Decimal("0.10"))
    gap = "Whether it saves money is unknown: say current= (today's model) and volume= as well."
    cases = {
        "estimate-free-machine": made.estimated(),
        "estimate-paid-machine": made.estimated(tuned=machine, training=paid),
        "estimate-hosted": made.estimated(
            tuned=made.MINI, training=made.HOSTED, evaluation_usd=Decimal("0.02")
        ),
        "estimate-loss": made.estimated(tuned=machine, training=paid, volume=10_000_000),
        "estimate-few-rows": made.estimated(rows=120),
        "estimate-without-volume": made.estimated(volume=None, gaps=(gap,)),
    }
    return {name: estimates.card(case, TARGET) for name, case in cases.items()}


def _plans() -> dict[str, Message]:
    waiting = made.run("awaiting_approval")
    asked = (waiting, made.plan(), made.BUDGET)
    without = made.free_plan(monthly_before_micros=None, monthly_after_micros=None)
    return {
        "plan-asked": plans.approval_card(*asked, 1),
        "plan-asked-free": plans.approval_card(waiting, without, made.NO_BUDGET, 2),
        "plan-partly-approved": plans.partly_approved(*asked, made.APPROVALS, 2),
        "plan-approved": plans.decided_card(
            made.run("approved"), made.plan(), made.BUDGET, plans.approved_by(made.APPROVALS)
        ),
        "plan-rejected": plans.decided_card(
            made.run("rejected"),
            made.plan(),
            made.BUDGET,
            plans.rejected_by(BEN, "Collect 1,000 rows first."),
        ),
        "plan-expired": plans.decided_card(
            made.run("expired"), made.free_plan(), made.NO_BUDGET, "Nobody decided within 24 hours."
        ),
    }


def _runs() -> dict[str, Message]:
    plan, queued = made.plan(), Progress(note="Waiting for a free place on the trainer.")
    looks = [made.look(state) for state in ("training", "awaiting_approval", "done", "failed")]
    return {
        "run-approved": runs.card(made.run("approved"), plan, Progress(), NOW),
        "run-sent": runs.card(made.run("creating"), plan, Progress(), NOW),
        "run-queued": runs.card(made.run("training"), plan, queued, NOW, 0),
        "run-training": runs.card(made.run("training"), plan, made.TRAINING, NOW, 18_000),
        "run-measuring": runs.card(made.run("evaluating"), made.free_plan(), made.MEASURING, NOW, 0),
        "run-done": runs.card(made.run("done"), plan, made.MEASURING, NOW),
        "run-failed": runs.card(made.run("failed"), plan, made.TRAINING, NOW),
        "run-ended-failed": runs.ended(made.run("failed"), plan, "Training failed: out of memory."),
        "run-ended-cancelled": runs.ended(made.run("cancelled"), plan, f"Cancelled by <@{BEN}>."),
        "run-ended-needs-a-person": runs.ended(
            made.run("needs_human"), plan, "Creating the job stayed without a clear answer 5 times."
        ),
        "run-list": runs.listing(looks),
        "run-list-empty": runs.listing([]),
    }


def _results() -> dict[str, Message]:
    done, plan = made.run("done"), made.plan()
    free = made.result(actual_micros=0, estimated_micros=0)
    return {
        "result-better": results.card(done, plan, made.result()),
        "result-better-free": results.card(done, made.free_plan(), free),
        "result-equal": results.card(done, made.plan(monthly_before_micros=None), made.equal_result()),
        "result-worse": results.card(done, plan, made.worse_result()),
        "result-changed-rows": results.changed(made.changes(6)),
    }


def _models() -> dict[str, Message]:
    return {
        "try-thinking": models.thinking(made.ASK),
        "try-answered": models.answered(Tried()),
        "try-failed": models.failed(made.ASK, "The trainer is down. It is started with the bot: try again."),
        "help": general.help_text(),
        "file-hint": general.file_hint(),
    }


def _views() -> dict[str, Json]:
    looks = {state: [made.look(state)] for state in ("awaiting_approval", "training", "done")}
    return {
        "home": home.page(
            Overview(looks["awaiting_approval"], looks["training"], looks["done"], made.BUDGET)
        ),
        "home-empty": home.page(Overview([], [], [], made.NO_BUDGET)),
        "form-upload": datasets.upload_modal("C0TICKETS"),
        "form-upload-of-a-message": datasets.upload_modal("C0TICKETS", file_id="F1", filename="tickets.csv"),
        "form-estimate": estimates.form("C0TICKETS", Choices(["tickets", "faq"], [TARGET, "openai/gpt-4.1"])),
        "form-reject": plans.reject_modal(made.HASH),
        "form-notice": general.notice_modal("Use as training data", "This message has no file."),
    }


def messages() -> dict[str, Message]:
    return {**_datasets(), **_estimates(), **_plans(), **_runs(), **_results(), **_models()}


def views() -> dict[str, Json]:
    return _views()


def payloads() -> dict[str, Json]:
    """As they go to Slack; a message with its newest form beside it."""
    return {**{name: message.letter() for name, message in messages().items()}, **views()}


def many_labels(count: int, name: str) -> tuple[LabelCount, ...]:
    return tuple(LabelCount(f"{name} {number}", 10_000 // (number + 1)) for number in range(count))
