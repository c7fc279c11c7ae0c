"""Before data goes to a provider: the waiver for personal data and the rules of [[policy.data]], asked in one place."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from bot.decisions import leaving as rules
from bot.decisions.leaving import Ruling
from bot.decisions.planning import Plan
from bot.decisions.policy import Data
from bot.decisions.waiving import PERSONAL_DATA, is_no_reason
from bot.results import Refusal
from bot.views import waivers as views
from bot.views.blocks import escape, sentence
from bot.workflows import datasets, scanning
from bot.workflows.desk import Desk
from storage.records import Dataset
from trainers.dataset import Report
from trainers.dataset.rules.sensitive import PERSONAL, SECRET, faults_in
from trainers.providers import ProviderRow


@dataclass(frozen=True)
class Leave:
    """It may go. `notes` are for the card, as plain text; `overridden` are names of rules that `reason` sets aside."""

    notes: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    reason: str = ""


def ask(
    desk: Desk, dataset: Dataset, report: Report, rows: Sequence[ProviderRow], reason: str | None
) -> Leave | Refusal:
    """`rows`: the providers that it shall go to."""
    nothing_said = is_no_reason(reason) if reason else None
    if nothing_said:
        return Refusal(f"`because=`: {nothing_said.reason}", "because")
    notes, overridden = list[str](), list[str]()
    for row in rows:
        refusal = datasets.needs_waiver(desk, dataset, report, row)
        ruled = _ruling(desk, dataset, report, row, reason)
        if refusal or ruled.refusal:
            return refusal or Refusal(sentence(str(ruled.refusal)))
        notes += [*ruled.notes, *([f"It trains on the Ray cluster at {row.cluster}."] if row.cluster else [])]
        overridden += ruled.overridden
    return Leave(
        tuple(dict.fromkeys(notes)), tuple(dict.fromkeys(overridden)), " ".join((reason or "").split())
    )


def with_secret(text: str, name: str) -> Refusal | None:
    """Why words that a person typed are sent to no model, or None. `name`: what they are."""
    secret = next((fault.said for fault in faults_in(text) if fault.rule == SECRET), None)
    if secret is None:
        return None
    return Refusal(
        f"{name} {secret}, so it is sent to no model. Take it out, and withdraw it where it was issued: it is in Slack "
        "by now."
    )


def question(desk: Desk, text: str, dataset_id: int, row: ProviderRow | None) -> Refusal | None:
    """Why a question that a person typed doesn't go to the provider of a model that was trained on that dataset."""
    refused = with_secret(text, "Your question")
    personal = next((fault.said for fault in faults_in(text) if fault.rule == PERSONAL), None)
    stays_here = row is not None and row.stays_here
    if refused or personal is None or stays_here or desk.store.waivers.of(dataset_id):
        return refused
    vendor = escape(row.title) if row else "this provider"
    return Refusal(
        f"Your question {personal}, and no approver has recorded why personal data of this dataset may leave for "
        f"{vendor}. Write a placeholder in its place."
    )


def still(desk: Desk, plan: Plan) -> str | None:
    """Why a plan's data may not go by the rules that are read now; None where it may. A rule that was set aside when
    it was asked for stays set aside."""
    return forbidden(desk, plan.dataset_id, [plan.provider], plan.overridden)


def not_looked_through(desk: Desk, dataset_id: int, providers: Collection[str]) -> str | None:
    """Why it has to wait for a look at the bytes that would leave; None once there was one."""
    dataset = desk.store.datasets.get(dataset_id)
    report = datasets.report_of(dataset)
    leaves = any(row.name in providers and not row.stays_here for row in desk.settings.providers)
    if report is None or not leaves or scanning.of(desk, report):
        return None
    return views.not_looked_through(dataset)


def unwaived(desk: Desk, dataset_id: int, providers: Collection[str]) -> str | None:
    """Why the bytes may not go by what was found in them; None where they may."""
    dataset = desk.store.datasets.get(dataset_id)
    report = datasets.report_of(dataset)
    rows = [row for row in desk.settings.providers if row.name in providers]
    refusals = [report and datasets.needs_waiver(desk, dataset, report, row) for row in rows]
    return next((refusal.text for refusal in refusals if refusal), None)


def forbidden(
    desk: Desk, dataset_id: int, providers: Collection[str], overridden: Collection[str]
) -> str | None:
    """As `still`, of a dataset and the providers that it goes to."""
    found = unwaived(desk, dataset_id, providers)
    if found:
        return found
    dataset = desk.store.datasets.get(dataset_id)
    report = datasets.report_of(dataset)
    for row in desk.settings.providers:
        if report is None or row.name not in providers:
            continue  # that there is no key, no file, is said elsewhere
        ruled = _ruling(desk, dataset, report, row, None)
        aside = _ruling(desk, dataset, report, row, "as recorded")
        if ruled.refusal and (aside.refusal or not set(aside.overridden) <= set(overridden)):
            return sentence(ruled.refusal)
    return None


def recorded(desk: Desk, subject: str) -> tuple[str, ...]:
    """The names of the rules that were set aside for it."""
    details = [one.detail for one in desk.store.audit.entries(subject) if one.action == "override"]
    names = [rule.name for rule in desk.settings.policy.data]
    return tuple(one for one in names if any(detail.startswith(f"{one}: ") for detail in details))


def record(desk: Desk, leave: Leave, person: str, subject: str) -> None:
    """In the audit log: call it in the transaction of what it lets go."""
    for name in leave.overridden:
        detail = f"{name}: {leave.reason}"
        desk.store.audit.add(at=desk.clock(), who=person, action="override", subject=subject, detail=detail)


def _ruling(desk: Desk, dataset: Dataset, report: Report, row: ProviderRow, reason: str | None) -> Ruling:
    is_personal = PERSONAL_DATA in datasets.codes_of(desk, report)
    data = Data(dataset.name, dataset.source_channels, is_personal)
    here = row.stays_here
    return rules.ruling(desk.settings.policy, data, row.name, stays_here=here, reason=reason)
