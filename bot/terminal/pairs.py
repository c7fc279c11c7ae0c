"""What `finetune check` says of a file of preference pairs: its pairs, and how they are trained. Nothing is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.results import Refusal
from bot.settings import Settings
from bot.terminal.checking import How
from bot.views.findings import LISTED_PARTS, body_text, counts_text
from bot.views.words import counted, duration, duration_range
from bot.work.checking import LISTED
from bot.workflows.machine import Room, Timed, base_of, room_for_pairs, time_for_pairs
from bot.workflows.targets import find_target
from trainers.bases import Base, find_base
from trainers.dataset import Finding, Report
from trainers.dataset.findings import in_order
from trainers.dataset.pairs import PairsReport, look_at_pairs
from trainers.sizing.configs import Unsized

# What is asked of rows that are split, labelled and trained on as chats
OF_CHATS = {
    *("preference_pairs", "no_holdout", "not_yet", "worth_a_try", "enough_rows", "imbalance", "one_label"),
    *("duplicate", "contradiction", "near_duplicate", "near_contradiction", "near_not_all_compared"),
    *(
        "labels_alike",
        "few_rows_of_label",
        "null_label",
        "label_doubted",
        "label_errors",
        "label_errors_unknown",
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


@dataclass(frozen=True)
class Takes:
    """What training the pairs on `model` takes of this machine. `timed` None: its speed was not measured."""

    model: str
    room: Room
    timed: Timed | None


def taken_by(target: str | None, pairs: PairsReport, settings: Callable[[], Settings | None]) -> Takes | None:
    """`target` is a folder with a model or what `settings` know. None where it trains elsewhere, or where nothing
    says how large it is."""
    known = settings() if target else None
    if not target or known is None:
        return None
    base = _base_in(Path(target)) if Path(target).is_dir() else _base_of(known, target)
    if base is None:
        return None
    return Takes(base.name, room_for_pairs(base, pairs), time_for_pairs(known, base, pairs))


def _base_in(folder: Path) -> Base | None:
    found = find_base(str(folder), ask_the_hub=False)
    return None if isinstance(found, Unsized) else found


def _base_of(settings: Settings, wanted: str) -> Base | None:
    target = find_target(settings.providers, wanted)
    return None if isinstance(target, Refusal) else base_of(settings, target.row, target.model)


def pairs_text(report: Report, pairs: PairsReport, takes: Takes | None = None) -> str:
    found = findings_of(report, pairs)
    last = "They can't be used until this is mended." if is_blocked(report, pairs) else "They can be used."
    said = [f"{last} {HOW}", *([_takes_text(takes)] if takes else [])]
    parts = [_head(report, pairs, found), body_text(found, LISTED_PARTS), "\n".join(said)]
    return "\n\n".join(part for part in parts if part)


def _takes_text(takes: Takes) -> str:
    time = "finetune calibrate measures how fast this machine is, and then this says how long"
    if takes.timed is not None:
        minutes = takes.timed.minutes
        least, most = float(minutes.low) * 60, float(minutes.high) * 60
        time = f"{duration_range(least, most)}, {duration(float(minutes.expected) * 60)} if nothing else runs"
    warning = f" {takes.room.warning.replace('`', '')}" if takes.room.warning else ""
    return f"Training them on {takes.model} here: {takes.room.line}; {time}.{warning}"


def pairs_json(report: Report, pairs: PairsReport, takes: Takes | None = None) -> Mapping[str, Any]:
    own: dict[str, Any] = {"name": report.name, "format": report.format, "blocked": is_blocked(report, pairs)}
    if takes is not None:
        minutes = float(takes.timed.minutes.expected) if takes.timed else None
        own["takes"] = {"model": takes.model, "memory": takes.room.line, "minutes": minutes}
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
