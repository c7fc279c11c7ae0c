"""What a backup and a restore say in the terminal: what is in it, what is not, and what happens next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.decisions.planning import plan_from_json
from bot.terminal.audited import said as audit_said
from bot.tuned_curves import TunedCurvePlan, TunedCurveProgress, plan_of
from bot.views.runs import STATE_WORDS
from bot.views.words import counted
from storage.backups import Backup
from storage.chain import Broken
from storage.records import Measurement, Run
from storage.restoring import Restored

NOT_IN_IT = (
    "Not in it: settings and .env, models and jobs of our own trainer (DATA/trainer), what can be made anew."
)


def made(found: Backup, *, has_files: bool) -> str:
    size = f"{found.path.stat().st_size / 1e6:,.1f} MB"
    lines = [f"{found.path}: the database, {size}, read back whole.", f"Audit log: {audit_said(found.audit)}"]
    if has_files:
        there = counted(found.files, "file of datasets", "files of datasets")
        lines.append(
            f"{there}, each under its sha256, beside it in files/; {found.copied:,} of them new there."
        )
    else:
        lines.append(
            "The files of datasets stay where they are; give a folder on another disk to take them along."
        )
    lines += [f"Left out, since its content no longer fits its name: {name}" for name in found.spoilt]
    return "\n".join([*lines, NOT_IN_IT])


def restored(found: Restored, backup: Path, files: Path) -> str:
    lines = [
        f"{backup} is the database now. Audit log: {counted(found.audit.entries, 'entry', 'entries')}, whole."
    ]
    if found.kept:
        lines.append(f"The replaced database lies at {found.kept}.")
    if found.files:
        lines.append(f"{counted(found.files, 'file')} of datasets copied beside it.")
    lines += [f"Not copied, since its content does not fit its name: {name}" for name in found.spoilt]
    lines += [*_runs(found.open), *_missing(found.open, files)]
    lines.append(
        "Forgotten is what came after the backup: approvals, money booked, messages sent. "
        "A message that waited then may be posted a second time."
    )
    return "\n".join(lines)


def _runs(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["No run is open."]
    said = ", ".join(f"run {run.id} {STATE_WORDS[run.state]}" for run in runs)
    after = "At its next ticks the bot looks for their jobs by key, and takes over what it finds."
    return [f"{counted(len(runs), 'run')} open: {said}. {after}"]


def _missing(runs: Sequence[Run], files: Path) -> list[str]:
    lines = []
    for run in runs:
        plan = plan_from_json(run.plan)
        gone = [
            one for one in (plan.train_sha256, plan.holdout_sha256) if not (files / f"{one}.jsonl").exists()
        ]
        lines += [f"Run {run.id} needs {files / one}.jsonl, which is not there." for one in gone]
    return lines


def is_well(found: Backup) -> bool:
    return not found.spoilt and not isinstance(found.audit, Broken)


def curve_in_doubt(measurement: Measurement, now: float) -> str | None:
    """A curve trains a model a size, one after the other: of those not begun in the backup, any may have its job."""
    if measurement.state != "running" or measurement.kind != "curve" or not measurement.progress:
        return None
    if not isinstance(plan_of(measurement.plan), TunedCurvePlan):
        return None
    known = TunedCurveProgress.from_json(measurement.progress)
    for size in known.sizes:
        if size.state in ("waiting", "creating"):
            known = known.with_size(size.to("creating", now, tries=size.tries))
    return known.to_json()
