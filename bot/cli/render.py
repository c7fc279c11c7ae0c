"""Results as text for the terminal, and as JSON: audit log, backups, models and their ends, policy."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from bot.cards.blocks import UNSEEN
from bot.cards.deployments import DeploymentSummary
from bot.cards.permissions import limits_text, verdict_text
from bot.cards.runs import STATE_WORDS
from bot.cards.words import capitalize, money, pluralize
from bot.rules.data_policy import EgressDecision
from bot.rules.permissions import (
    BUILT_IN,
    RULES,
    Action,
    Caller,
    NamedPeople,
    Policy,
    Request,
    rule_verdicts,
)
from bot.rules.plans import plan_from_json
from bot.values.sunsets import ModelUse
from storage.actuals import ActualMonth, ModelInUse
from storage.audit import BrokenLog, IntactLog
from storage.backup import Backup, Restored
from storage.records import AuditEntry, Run
from trainers.money import usd_micros

# What makes a spreadsheet read a cell as a formula, or split it (OWASP, CSV injection); the last four are full-width.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
# A terminal obeys some of these; the JSON has them all, escaped.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
UNSEEN_BY_IT = (
    "What this can't see by itself: entries cut off at the end, or a chain written again. "
    "Note the head elsewhere and give it next time: --head HASH."
)


def audit_summary(log: IntactLog | BrokenLog) -> str:
    """For people, on a terminal: nothing out of the log can move its cursor."""
    if isinstance(log, BrokenLog):
        broken = "the next can't be named."
        if log.entry is not None:
            subject = _one_line(log.entry.subject)
            broken = f"entry {_one_line(log.entry.id)}, {format_time(log.entry.at)}, about {subject}."
        return f"{pluralize(log.before, 'entry', 'entries')} fit, then: {broken}\n{log.why}"
    text = f"{pluralize(log.entries, 'entry', 'entries')}, whole. Head: {log.head}"
    if log.earlier is None:
        return f"{text}\n{UNSEEN_BY_IT}"
    earlier = f"The earlier head is entry {log.earlier.id} of {format_time(log.earlier.at)}"
    return f"{text}\n{earlier}: nothing before it was cut off."


def log_json(log: IntactLog | BrokenLog) -> dict[str, Any]:
    """`entries` fit; `broken` is the first that doesn't, null where it can't be read."""
    if isinstance(log, BrokenLog):
        broken = log.entry and asdict(log.entry)
        return {"intact": False, "entries": log.before, "why": log.why, "broken": broken}
    earlier = log.earlier.id if log.earlier else None
    return {"intact": True, "entries": log.entries, "head": log.head, "earlier_head_is_entry": earlier}


def audit_json(entries: Iterable[AuditEntry]) -> str:
    return json.dumps([asdict(entry) | {"time": format_time(entry.at)} for entry in entries], indent=1)


def audit_csv(entries: Iterable[AuditEntry]) -> str:
    """Every cell quoted, and none that a spreadsheet would take for a formula."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, quoting=csv.QUOTE_ALL)
    writer.writerow([*(field.name for field in fields(AuditEntry)), "time"])
    for entry in entries:
        writer.writerow(
            [escape_formula(str(value)) for value in (*asdict(entry).values(), format_time(entry.at))]
        )
    return sheet.getvalue()


def escape_formula(cell: str) -> str:
    """An apostrophe before it makes a spreadsheet show text as text."""
    # Half characters are replaced: a file can't take them.
    clean = CONTROL.sub("", cell.encode("utf-8", "replace").decode())
    return f"'{clean}" if clean.startswith(FORMULA_STARTS) else clean


def format_time(at: object) -> str:
    """'2026-11-25 14:03:07 UTC'; what is no time, as it stands there."""
    try:
        return datetime.fromtimestamp(float(str(at)), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return ascii(at)


def _one_line(value: object) -> str:
    """Bytes of any kind, on one line."""
    text = value if isinstance(value, str) else ascii(value)
    return UNSEEN.sub("", text.encode("utf-8", "replace").decode())[:80]


NOT_IN_IT = (
    "Not in it: settings and .env, models and jobs of our own trainer (DATA/trainer), what can be made again."
)


def backup_summary(backup: Backup, *, has_files: bool) -> str:
    size = f"{backup.path.stat().st_size / 1e6:,.1f} MB"
    lines = [
        f"{backup.path}: the database, {size}, read back whole.",
        f"Audit log: {audit_summary(backup.audit)}",
    ]
    if has_files:
        files = pluralize(backup.files, "file of datasets", "files of datasets")
        lines.append(
            f"{files}, each under its sha256, beside it in files/; {backup.copied:,} of them new there."
        )
    else:
        lines.append(
            "The files of datasets stay where they are; give a folder on another disk to take them along."
        )
    lines += [f"Left out, since its content no longer fits its name: {name}" for name in backup.spoilt]
    return "\n".join([*lines, NOT_IN_IT])


def backup_json(backup: Backup) -> dict[str, Any]:
    """`left_out`: files whose content no longer fits their name."""
    return {
        "database": str(backup.path),
        "bytes": backup.path.stat().st_size,
        "intact": is_intact(backup),
        "audit": log_json(backup.audit),
        "files": backup.files,
        "files_new": backup.copied,
        "left_out": list(backup.spoilt),
    }


def restore_summary(restored: Restored, backup: Path, files: Path) -> str:
    lines = [
        f"{backup} is the database now. Audit log: {pluralize(restored.audit.entries, 'entry', 'entries')}, whole."
    ]
    if restored.kept:
        lines.append(f"The replaced database lies at {restored.kept}.")
    if restored.files:
        lines.append(f"{pluralize(restored.files, 'file')} of datasets copied beside it.")
    lines += [f"Not copied, since its content does not fit its name: {name}" for name in restored.spoilt]
    lines += [*_open_runs_text(restored.open), *_missing_files(restored.open, files)]
    lines.append(
        "Forgotten is what came after the backup: approvals, money booked, messages sent. "
        "A message that waited then may be posted a second time."
    )
    return "\n".join(lines)


def _open_runs_text(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return ["No run is open."]
    text = ", ".join(f"run {run.id} {STATE_WORDS[run.state]}" for run in runs)
    after = "At its next ticks the bot looks for their jobs by key, and takes over what it finds."
    return [f"{pluralize(len(runs), 'run')} open: {text}. {after}"]


def _missing_files(runs: Sequence[Run], files: Path) -> list[str]:
    lines = []
    for run in runs:
        plan = plan_from_json(run.plan)
        gone = [
            name
            for name in (plan.train_sha256, plan.holdout_sha256)
            if not (files / f"{name}.jsonl").exists()
        ]
        lines += [f"Run {run.id} needs {files / name}.jsonl, which is not there." for name in gone]
    return lines


def models_text(in_use: Sequence[ModelInUse]) -> str:
    """A line for each model in use, and one for each month of its dataset."""
    lines = []
    for model in in_use:
        expected = (
            ""
            if model.expected_micros is None
            else f", planned to save {money(model.expected_micros)} a month"
        )
        lines.append(f"{model.dataset}: {model.model} ({model.provider_model} at {model.provider}){expected}")
        lines += [f"  {_month_text(month)}" for month in model.months] or ["  no calls are known"]
    return "\n".join(lines) or "No model is in use: /finetune promote MODEL deploys one."


def _month_text(month: ActualMonth) -> str:
    text = f"{month.month} {month.model}: {month.calls:,} calls, {month.tokens:,} tokens, cost {money(month.micros)}"
    if month.alternative is None:
        return text
    return f"{text}; {money(month.alternative_micros)} with {month.alternative}: saved {money(month.saving_micros)}"


def models_json(in_use: Sequence[ModelInUse]) -> list[dict[str, Any]]:
    """Money in micro-dollars."""
    return [
        {**asdict(model), "months": [{**asdict(m), "saving_micros": m.saving_micros} for m in model.months]}
        for model in in_use
    ]


def deployments_json(running: Sequence[DeploymentSummary]) -> list[dict[str, Any]]:
    """Money in micro-dollars, times in seconds since 1970."""
    return [
        {
            "model": each.record.model,
            "name": each.record.name,
            "vendor": each.record.provider,
            "run": each.record.run_id,
            "person": each.record.person,
            "state": each.record.state,
            "micros_per_hour": each.record.micros_per_hour,
            "today_micros": each.today_micros,
            "micros": each.record.micros,
            "idle_since": each.record.used_at if each.record.state == "ready" else None,
            "kept_by": each.record.kept_by,
            "seen_at": each.record.updated_at,
        }
        for each in running
    ]


def uses_json(uses: Sequence[ModelUse], today: date) -> list[dict[str, Any]]:
    """One object a use, in the order of their ends. `use`: in use, planned, today's, target (it can be trained) or
    price (it has a price of its own in finetune.toml)."""
    return [
        {
            "use": use.kind,
            "dataset": use.dataset or None,
            "model": use.model,
            "name": use.name,
            "ends": use.ends.isoformat() if use.ends else None,
            "days_left": use.days_left(today),
            "has_ended": use.has_ended(today),
            "successor": use.successor,
            "said_by": use.said_by,
        }
        for use in sorted(uses, key=lambda use: (use.ends or date.max, use.model))
    ]


def is_intact(backup: Backup) -> bool:
    return not backup.spoilt and not isinstance(backup.audit, BrokenLog)


@dataclass(frozen=True)
class PolicyAnswer:
    """`because` and `place` are of the rule that decides; `rules` are all that were asked: whether each allows it, its
    place, its reason."""

    is_allowed: bool
    because: str
    place: str
    rules: tuple[tuple[bool, str, str], ...]


def explain_policy(
    asking: Caller, action: Action, request: Request, permission: tuple[EgressDecision, str] | None
) -> PolicyAnswer:
    """`permission`: what is decided on the data that would go to a provider, and its words."""
    verdicts = rule_verdicts(asking, action, request)
    rules = [(verdict.is_allowed, verdict.rule, verdict_text(verdict.because)) for verdict in verdicts]
    if permission:
        ruled, text = permission
        place = ruled.where or f"{BUILT_IN}: without [[policy.data]] any provider"
        rules.append((not ruled.refused, place, text))
    written = [rule for rule in rules if not rule[1].startswith(BUILT_IN)]
    # Of many that say yes, the last one of the file decides.
    is_allowed, place, text = next((rule for rule in rules if not rule[0]), (written or rules)[-1])
    because = f"{_plain(capitalize(text)).rstrip('.')}."
    return PolicyAnswer(
        is_allowed, because, place, tuple((is_yes, where, _plain(why)) for is_yes, where, why in rules)
    )


def policy_answer_text(answer: PolicyAnswer) -> str:
    lines = [f"  {'yes' if is_yes else 'NO '}  {where}: {why}" for is_yes, where, why in answer.rules]
    first = f"{'Yes' if answer.is_allowed else 'No'}. {answer.because}"
    return "\n".join([first, f"Decided by {answer.place}", "", *lines])


def policy_answer_json(answer: PolicyAnswer) -> dict[str, Any]:
    return {
        "allowed": answer.is_allowed,
        "because": answer.because,
        "decided_by": answer.place,
        "rules": [{"allowed": is_yes, "rule": where, "because": why} for is_yes, where, why in answer.rules],
    }


def policy_table(policy: Policy) -> str:
    """Who may what, what it takes, where data may go."""
    who = [
        f"{rule:<9} {', '.join(_people(policy.named(rule))) or 'nobody'}{_in_brackets(policy.named(rule).where)}"
        for rule in RULES
    ]
    limits = policy.promotion
    promotion = [
        f"promotion {limits_text(limits)}{_in_brackets(limits.where)}",
        f"a quality bar that nobody set is {100 * limits.bar:g}%",
        f"an upload seals {limits.sealed or 'no'} rows for a promotion where nobody types a number",
    ]
    return "\n".join([*who, "", *_approvals(policy), "", *promotion, "", *_data(policy)])


def policy_json(policy: Policy) -> dict[str, Any]:
    """Without a rule about data, it may go to any provider; personal data then needs a recorded waiver."""
    return {
        "who": {
            rule: {"may": _people(policy.named(rule)), "rule": policy.named(rule).where} for rule in RULES
        },
        "approvals": [
            {
                "up_to_usd": None if tier.up_to_micros is None else tier.up_to_micros / 1e6,
                "approvers": tier.approvers,
                "rule": tier.where,
            }
            for tier in policy.tiers
        ],
        "plan_expires_hours": policy.expires_s / 3600,
        "promotion": {
            "margin": policy.promotion.margin,
            "floor": policy.promotion.floor,
            "floor_rows": policy.promotion.floor_rows,
            "bar": policy.promotion.bar,
            "sealed_rows": policy.promotion.sealed,
            "rule": policy.promotion.where,
        },
        "data": [
            {
                "name": rule.name,
                "level": rule.level,
                "providers": None if rule.providers is None else sorted(rule.providers),
                "rule": rule.where,
            }
            for rule in policy.data
        ],
    }


def _people(named: NamedPeople) -> list[str]:
    return [
        *(["any full member"] if named.anyone else []),
        *(["who asked for it"] if named.requester else []),
        *sorted(named.users),
        *sorted(named.groups),
    ]


def _plain(text: str) -> str:
    """The text without backticks and mentions, which are for Slack."""
    return text.replace("`", "").replace("<@", "").replace("<#", "").replace(">", "")


def _approvals(policy: Policy) -> Iterator[str]:
    for tier in policy.tiers:
        most = "any cost" if tier.up_to_micros is None else f"up to {usd_micros(tier.up_to_micros)}"
        yield f"{most}: {tier.approvers} to approve{_in_brackets(tier.where)}"
    if policy.tiers[-1].up_to_micros is not None:
        yield "above: refused"
    reminders = ", ".join(f"{value / 3600:g} h" for value in policy.remind_s)
    reminded = f", reminders {reminders} before" if reminders else ""
    yield f"a plan expires after {policy.expires_s / 3600:g} h{reminded}"


def _data(policy: Policy) -> Iterator[str]:
    if not policy.data:
        yield "data may go to any provider; personal data only with a recorded waiver"
    for rule in policy.data:
        where = "any provider" if rule.providers is None else ", ".join(sorted(rule.providers)) or "nowhere"
        yield f"{rule.level} “{rule.name}”: to {where}{_in_brackets(rule.where)}"
    if policy.data:
        yield "data that no rule covers: stays on this machine"


def _in_brackets(where: str) -> str:
    return f"   ({where})"
