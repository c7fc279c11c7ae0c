"""What a check found, beyond what the version's card shows: the list of findings in the card's thread, and its
*Details*.

The list goes wherever the card goes, so it never has labels or rows. Details are for one person, in one channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bot.cards.common.blocks import CardBlock, code
from bot.cards.common.terminal import terminal_text
from bot.cards.datasets import check_reports, findings
from bot.context import AppContext, CoreContext
from bot.rules.budgets import DuplicateCost, duplicate_cost
from bot.services.common import authorization
from bot.values.runs import Refusal
from storage.records import Dataset
from trainers.dataset import Report


def details(context: AppContext, dataset_id: int, person: str, channel: str) -> Sequence[CardBlock] | Refusal:
    """Returns the full report of the version with this id, without labels and rows where others may read them."""
    dataset = context.store.datasets.get(dataset_id)
    gone = Refusal("There is no such dataset any more.")
    refusal = authorization.button_refusal(context, dataset.name, person, gone)
    if refusal:
        return refusal
    report = _report_of(dataset)
    if report is None:
        return Refusal(f"{code(dataset.title)} is being checked again: its card will show the result.")
    shows_labels = authorization.may_show_rows(context, dataset, channel)
    return check_reports.full_report(report, _waste(context, report), shows_labels=shows_labels).parts


def write_findings(context: CoreContext, report: Report, folder: Path) -> tuple[Path, ...]:
    """Writes all findings into a file in `folder`, without customers' words, if the card has no room for them. Returns
    the file if it wrote one."""
    if not findings.need_file(report.findings):
        return ()
    path = folder / "findings.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    full = check_reports.full_report(report, _waste(context, report), most=None, shows_labels=False)
    path.write_text(f"{terminal_text(full.parts)}\n", encoding="utf-8")
    return (path,)


def _report_of(dataset: Dataset) -> Report | None:
    if not dataset.report:
        return None
    return Report.from_json(dataset.report)


def _waste(context: CoreContext, report: Report) -> DuplicateCost | None:
    """Returns what the copies in the file cost with the cheapest trainer that can be reached here."""
    reachable = [row for row in context.settings.providers if row.name in context.trainers]
    today = datetime.fromtimestamp(context.clock(), UTC).date()
    return duplicate_cost(report.duplicate_tokens, reachable, today)
