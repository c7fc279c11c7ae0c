"""What `finetune check` says of a file of preference pairs: its pairs, and how they are trained. Nothing is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bot.terminal.checking import How
from bot.views.findings import LISTED_PARTS, body_text, counts_text
from bot.views.words import counted
from bot.work.checking import LISTED
from trainers.dataset import Finding, Report
from trainers.dataset.findings import in_order
from trainers.dataset.pairs import PairsReport, look_at_pairs

# What is asked of rows that are split, labelled and trained on as chats
OF_CHATS = {
    *("preference_pairs", "no_holdout", "not_yet", "worth_a_try", "enough_rows", "imbalance", "one_label"),
    *("duplicate", "contradiction", "near_duplicate", "near_contradiction", "near_not_all_compared"),
    *(
        "labels_alike",
        "few_rows_of_label",
        "null_label",
        "label_doubted",
        "labels_not_judged",
        "labels_sampled",
    ),
}
HOW = (
    "Pairs are trained through our own trainer's API, with the method dpo: docs/preferences.md has the request. "
    "From Slack, chats are trained."
)


def pairs_of(file: Path, report: Report, how: How) -> PairsReport | None:
    """None where `report` is not of preference pairs."""
    return look_at_pairs(file, LISTED.listed, how.rows.encoding) if report.format == "preference" else None


def findings_of(report: Report, pairs: PairsReport) -> tuple[Finding, ...]:
    return in_order([*(each for each in report.findings if each.code not in OF_CHATS), *pairs.findings])


def is_blocked(report: Report, pairs: PairsReport) -> bool:
    return any(finding.blocks for finding in findings_of(report, pairs))


def pairs_text(report: Report, pairs: PairsReport) -> str:
    found = findings_of(report, pairs)
    last = "They can't be used until this is mended." if is_blocked(report, pairs) else "They can be used."
    parts = [_head(report, pairs, found), body_text(found, LISTED_PARTS), f"{last} {HOW}"]
    return "\n\n".join(part for part in parts if part)


def pairs_json(report: Report, pairs: PairsReport) -> Mapping[str, Any]:
    own = {"name": report.name, "format": report.format, "blocked": is_blocked(report, pairs)}
    return {**own, **pairs.to_dict(), "findings": [vars(each) for each in findings_of(report, pairs)]}


def _head(report: Report, pairs: PairsReport, found: tuple[Finding, ...]) -> str:
    prompt, longer, assumed = pairs.prompt, pairs.longer, ", assumed" if report.tokens.assumed else ""
    return "\n".join(
        [
            f"{report.name}: {counted(pairs.pairs, 'preference pair')}, {counted(pairs.prompts, 'prompt')}",
            counts_text(found) or "nothing to mend",
            f"A prompt has {prompt.mean:.0f} tokens on average, {prompt.max:,} at most; with its longer answer "
            f"{longer.mean:.0f} and {longer.max:,} ({report.tokens.encoding}{assumed})",
            f"The preferred answer is the longer one in {pairs.preferred_longer:.0%} of the pairs",
        ]
    )
