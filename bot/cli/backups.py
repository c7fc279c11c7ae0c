"""Renders backups and what a restore has done, as text for the terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bot.cards.common.words import pluralize
from bot.cards.training.runs import STATE_WORDS
from bot.cli.audits import audit_summary, log_json
from bot.rules.plans import plan_from_json
from storage.audit import BrokenLog
from storage.backup import Backup, RestoreResult
from storage.records import Run

NOT_INCLUDED = (
    "Not included: settings, .env, our own trainer's data (DATA/trainer), and what can be recreated."
)


def backup_summary(backup: Backup, *, has_files: bool) -> str:
    size = f"{backup.path.stat().st_size / 1e6:,.1f} MB"
    lines = [
        f"{backup.path}: the database, {size}, checked.",
        f"Audit log: {audit_summary(backup.audit)}",
    ]
    if has_files:
        files = pluralize(backup.files, "file of datasets", "files of datasets")
        lines.append(f"{files}, named by their sha256, beside it in files/; {backup.copied:,} of them new.")
    else:
        lines.append(
            "The datasets' files are not included; name a folder on another disk to back them up too."
        )
    lines += [f"Left out, as its content no longer matches its name: {name}" for name in backup.corrupt]
    return "\n".join([*lines, NOT_INCLUDED])


def backup_json(backup: Backup) -> dict[str, Any]:
    """`left_out` are files whose content no longer matches their name."""
    return {
        "database": str(backup.path),
        "bytes": backup.path.stat().st_size,
        "intact": is_intact(backup),
        "audit": log_json(backup.audit),
        "files": backup.files,
        "files_new": backup.copied,
        "left_out": list(backup.corrupt),
    }


def is_intact(backup: Backup) -> bool:
    return not backup.corrupt and not isinstance(backup.audit, BrokenLog)


def restore_summary(restored: RestoreResult, backup: Path, files: Path) -> str:
    lines = [
        f"{backup} is the database now. Audit log: {pluralize(restored.audit.entries, 'entry', 'entries')}, all intact."
    ]
    if restored.replaced:
        lines.append(f"The replaced database is kept at {restored.replaced}.")
    if restored.files:
        lines.append(f"{pluralize(restored.files, 'file')} of datasets restored.")
    lines += [f"Not copied, as its content does not match its name: {name}" for name in restored.corrupt]
    lines += [*_open_runs_text(restored.open), *_missing_files(restored.open, files)]
    lines.append(
        "Everything after the backup is lost: approvals, spending, sent messages. "
        "A message that was waiting at the time of the backup may be posted a second time."
    )
    return "\n".join(lines)


def _open_runs_text(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["No run is open."]
    text = ", ".join(f"run {run.id} {STATE_WORDS[run.state]}" for run in runs)
    after = "When it runs, the bot looks for their jobs and takes them over."
    return [f"{pluralize(len(runs), 'run')} open: {text}. {after}"]


def _missing_files(runs: Sequence[Run], files: Path) -> list[str]:
    lines = []
    for run in runs:
        plan = plan_from_json(run.plan)
        for sha256 in (plan.train_sha256, plan.holdout_sha256):
            file = files / f"{sha256}.jsonl"
            if not file.exists():
                lines.append(f"Run {run.id} needs {file}, which is missing.")
    return lines
