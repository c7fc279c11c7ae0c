"""Renders results as text for the terminal and as JSON: audit log, backups, models and their ends, policy."""

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

from bot.cards.common.blocks import INVISIBLE
from bot.cards.common.permissions import limits_text, verdict_text
from bot.cards.common.plan_money import foreseen_text
from bot.cards.common.words import capitalize, money, pluralize
from bot.cards.models.deployments import DeploymentSummary
from bot.cards.training.runs import STATE_WORDS
from bot.rules.data_policy import EgressDecision
from bot.rules.permissions import (
    BUILT_IN,
    RULES,
    Action,
    Caller,
    DataRule,
    NamedPeople,
    Policy,
    Request,
    Tier,
    rule_verdicts,
)
from bot.rules.plans import plan_from_json
from bot.values.runs import RunResult
from bot.values.sunsets import ModelUse
from storage.actuals import ActualMonth, ModelInUse
from storage.audit import BrokenLog, IntactLog
from storage.backup import Backup, RestoreResult
from storage.records import AuditEntry, Run
from trainers.dataset.clean_copy import FORMULA_STARTS
from trainers.money import usd_micros

# Control characters, some of which a terminal would obey. The JSON has them all, escaped.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
UNSEEN_BY_IT = (
    "This alone can't detect entries cut off at the end, or a chain that was rewritten. Keep the head in another place "
    "and give it next time: --head HASH."
)


def audit_summary(log: IntactLog | BrokenLog) -> str:
    """Returns a summary that is safe to print: no text from the log can control the terminal."""
    if isinstance(log, BrokenLog):
        broken = "the next one, which can't be read."
        if log.entry is not None:
            subject = _one_line(log.entry.subject)
            broken = f"entry {_one_line(log.entry.id)}, {format_time(log.entry.at)}, about {subject}."
        return f"The log is broken after {pluralize(log.before, 'intact entry', 'intact entries')}: {broken}\n{log.why}"
    text = f"{pluralize(log.entries, 'entry', 'entries')}, all intact. Head: {log.head}"
    if log.earlier is None:
        return f"{text}\n{UNSEEN_BY_IT}"
    earlier = f"The earlier head is entry {log.earlier.id} of {format_time(log.earlier.at)}"
    return f"{text}\n{earlier}: nothing up to it was cut off or rewritten."


def log_json(log: IntactLog | BrokenLog) -> dict[str, Any]:
    """`entries` is the number of intact ones; `broken` is the first broken one, null if it can't be read."""
    if isinstance(log, BrokenLog):
        broken = log.entry and asdict(log.entry)
        return {"intact": False, "entries": log.before, "why": log.why, "broken": broken}
    earlier = None
    if log.earlier:
        earlier = log.earlier.id
    return {"intact": True, "entries": log.entries, "head": log.head, "earlier_head_is_entry": earlier}


def audit_json(entries: Iterable[AuditEntry]) -> str:
    return json.dumps([asdict(entry) | {"time": format_time(entry.at)} for entry in entries], indent=1)


def audit_csv(entries: Iterable[AuditEntry]) -> str:
    """Returns CSV in which every cell is quoted and no cell can act as a formula."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, quoting=csv.QUOTE_ALL)
    writer.writerow([*(field.name for field in fields(AuditEntry)), "time"])
    for entry in entries:
        values = (*asdict(entry).values(), format_time(entry.at))
        writer.writerow([escape_formula(str(value)) for value in values])
    return sheet.getvalue()


def escape_formula(cell: str) -> str:
    """Puts an apostrophe before a cell that looks like a formula, so that spreadsheets show it as text."""
    # Lone surrogates are replaced, as they can't be encoded.
    clean = CONTROL.sub("", cell.encode("utf-8", "replace").decode())
    if not clean.startswith(FORMULA_STARTS):
        return clean
    return f"'{clean}"


def format_time(at: object) -> str:
    """Returns a time like '2026-11-25 14:03:07 UTC'. A value that is not a time is returned as ASCII text."""
    try:
        return datetime.fromtimestamp(float(str(at)), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return ascii(at)


def _one_line(value: object) -> str:
    """Returns any value as one line of at most 80 printable characters."""
    # Somebody may have written anything into the database, such as bytes where a name should be.
    text = value if isinstance(value, str) else ascii(value)
    printable = text.encode("utf-8", "replace").decode()
    return INVISIBLE.sub("", printable)[:80]


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


def models_text(in_use: Sequence[ModelInUse]) -> str:
    """Returns a line for each model in use, and one for each month of its dataset."""
    if not in_use:
        return "No model is in use: /finetune promote MODEL deploys one."
    lines = []
    for model in in_use:
        line = f"{model.dataset}: {model.model} ({model.provider_model} at {model.provider})"
        foreseen = _foreseen(model)
        if foreseen:
            line += f"; planned: {foreseen}"
        lines.append(line)
        lines += [f"  {_month_text(month)}" for month in model.months]
        if not model.months:
            lines.append("  no calls known")
    return "\n".join(lines)


def _foreseen(model: ModelInUse) -> str:
    """What the plan expected to save; '' if the model turned out not to be good enough for that."""
    if not model.result:
        return ""
    comparison = RunResult.from_json(model.result).comparison
    if comparison is None or not comparison.of_kind("tuned"):
        return ""
    (tuned,) = comparison.of_kind("tuned")
    if tuned.standing == "misses":
        return ""
    return foreseen_text(plan_from_json(model.plan))


def _month_text(month: ActualMonth) -> str:
    text = f"{month.month} {month.model}: {month.calls:,} calls, {month.tokens:,} tokens, cost {money(month.micros)}"
    if month.alternative is None:
        return text
    return f"{text}; {money(month.alternative_micros)} with {month.alternative}: saved {money(month.saving_micros)}"


def models_json(in_use: Sequence[ModelInUse]) -> list[dict[str, Any]]:
    """Money is in micro-dollars. `net_value` is what the plan expected to gain or lose over its horizon, null if it is
    older than that."""
    return [_model_json(model) for model in in_use]


def _model_json(model: ModelInUse) -> dict[str, Any]:
    fields = asdict(model)
    # All their prices and scores would hide these few figures.
    del fields["plan"]
    del fields["result"]
    fields["net_value"] = None
    advised = plan_from_json(model.plan).advised
    if advised and advised.net:
        fields["net_value"] = asdict(advised.net)
    fields["months"] = [{**asdict(month), "saving_micros": month.saving_micros} for month in model.months]
    return fields


def deployments_json(running: Sequence[DeploymentSummary]) -> list[dict[str, Any]]:
    """Money is in micro-dollars, times are in unix seconds."""
    return [_deployment_json(each) for each in running]


def _deployment_json(running: DeploymentSummary) -> dict[str, Any]:
    record = running.record
    idle_since = None
    if record.state == "ready":
        idle_since = record.used_at
    return {
        "model": record.model,
        "name": record.name,
        "vendor": record.provider,
        "run": record.run_id,
        "person": record.person,
        "state": record.state,
        "micros_per_hour": record.micros_per_hour,
        "today_micros": running.today_micros,
        "micros": record.micros,
        "idle_since": idle_since,
        "kept_by": record.kept_by,
        "seen_at": record.updated_at,
    }


def uses_json(uses: Sequence[ModelUse], today: date) -> list[dict[str, Any]]:
    """Returns one object per use, ordered by the models' ends. `use` is in use, planned, today's, target (it can be
    trained) or price (finetune.toml has a price for it)."""
    ordered = sorted(uses, key=lambda use: (use.ends or date.max, use.model))
    return [_use_json(use, today) for use in ordered]


def _use_json(use: ModelUse, today: date) -> dict[str, Any]:
    ends = None
    if use.ends:
        ends = use.ends.isoformat()
    return {
        "use": use.kind,
        "dataset": use.dataset or None,
        "model": use.model,
        "name": use.name,
        "ends": ends,
        "days_left": use.days_left(today),
        "has_ended": use.has_ended(today),
        "successor": use.successor,
        "said_by": use.said_by,
    }


def is_intact(backup: Backup) -> bool:
    return not backup.corrupt and not isinstance(backup.audit, BrokenLog)


@dataclass(frozen=True)
class CheckedRule:
    """A rule of the policy: whether it allows what somebody wants to do, its `place`, and its reason."""

    is_allowed: bool
    place: str
    why: str


@dataclass(frozen=True)
class PolicyAnswer:
    """`because` and `place` are the reason and the place of the rule that decides. `rules` are all that were
    checked."""

    is_allowed: bool
    because: str
    place: str
    rules: tuple[CheckedRule, ...]


def explain_policy(
    asking: Caller, action: Action, request: Request, permission: tuple[EgressDecision, str] | None
) -> PolicyAnswer:
    """`permission` is the decision on sending the data to a provider, and its text; None if no provider is named."""
    rules = []
    for verdict in rule_verdicts(asking, action, request):
        rules.append(CheckedRule(verdict.is_allowed, verdict.rule, _plain(verdict_text(verdict.because))))
    if permission:
        ruled, text = permission
        place = ruled.where or f"{BUILT_IN}: without [[policy.data]] any provider"
        rules.append(CheckedRule(not ruled.refused, place, _plain(text)))
    written = [rule for rule in rules if not rule.place.startswith(BUILT_IN)]
    # If all rules say yes, the last one in the file decides.
    last = (written or rules)[-1]
    deciding = next((rule for rule in rules if not rule.is_allowed), last)
    because = f"{capitalize(deciding.why).rstrip('.')}."
    return PolicyAnswer(deciding.is_allowed, because, deciding.place, tuple(rules))


def policy_answer_text(answer: PolicyAnswer) -> str:
    word = "Yes" if answer.is_allowed else "No"
    lines = [f"{word}. {answer.because}", f"Decided by {answer.place}", ""]
    for rule in answer.rules:
        mark = "yes" if rule.is_allowed else "NO "
        lines.append(f"  {mark}  {rule.place}: {rule.why}")
    return "\n".join(lines)


def policy_answer_json(answer: PolicyAnswer) -> dict[str, Any]:
    return {
        "allowed": answer.is_allowed,
        "because": answer.because,
        "decided_by": answer.place,
        "rules": [
            {"allowed": rule.is_allowed, "rule": rule.place, "because": rule.why} for rule in answer.rules
        ],
    }


def policy_table(policy: Policy) -> str:
    """Returns who may do what, how many approvals a run needs, and where data may go."""
    who = []
    for rule in RULES:
        named = policy.named(rule)
        people = ", ".join(_people(named)) or "nobody"
        who.append(f"{rule:<9} {people}{_in_brackets(named.where)}")
    limits = policy.promotion
    promotion = [
        f"promotion {limits_text(limits)}{_in_brackets(limits.where)}",
        f"quality bar, unless somebody sets one: {100 * limits.bar:g}%",
        f"rows that an upload seals for a promotion, unless somebody types a number: {limits.sealed or 'none'}",
    ]
    return "\n".join([*who, "", *_approvals(policy), "", *promotion, "", *_data(policy)])


def policy_json(policy: Policy) -> dict[str, Any]:
    """If `data` is empty, data may go to any provider; personal data then needs a recorded waiver."""
    who = {}
    for rule in RULES:
        named = policy.named(rule)
        who[rule] = {"may": _people(named), "rule": named.where}
    return {
        "who": who,
        "approvals": [_tier_json(tier) for tier in policy.tiers],
        "plan_expires_hours": policy.expires_s / 3600,
        "promotion": {
            "margin": policy.promotion.margin,
            "floor": policy.promotion.floor,
            "floor_rows": policy.promotion.floor_rows,
            "bar": policy.promotion.bar,
            "sealed_rows": policy.promotion.sealed,
            "rule": policy.promotion.where,
        },
        "data": [_data_rule_json(rule) for rule in policy.data],
    }


def _tier_json(tier: Tier) -> dict[str, Any]:
    up_to_usd = None
    if tier.up_to_micros is not None:
        up_to_usd = tier.up_to_micros / 1e6
    return {"up_to_usd": up_to_usd, "approvers": tier.approvers, "rule": tier.where}


def _data_rule_json(rule: DataRule) -> dict[str, Any]:
    providers = None
    if rule.providers is not None:
        providers = sorted(rule.providers)
    return {"name": rule.name, "level": rule.level, "providers": providers, "rule": rule.where}


def _people(named: NamedPeople) -> list[str]:
    people = []
    if named.anyone:
        people.append("any full member")
    if named.requester:
        people.append("who asked for it")
    return [*people, *sorted(named.users), *sorted(named.groups)]


def _plain(text: str) -> str:
    """Removes Slack's backticks and mentions."""
    return text.replace("`", "").replace("<@", "").replace("<#", "").replace(">", "")


def _approvals(policy: Policy) -> Iterator[str]:
    for tier in policy.tiers:
        most = "any cost"
        if tier.up_to_micros is not None:
            most = f"up to {usd_micros(tier.up_to_micros)}"
        yield f"{most}: {pluralize(tier.approvers, 'approver')}{_in_brackets(tier.where)}"
    if policy.tiers[-1].up_to_micros is not None:
        yield "above: refused"
    expires = f"a plan expires after {policy.expires_s / 3600:g} h"
    if policy.remind_s:
        reminders = ", ".join(f"{seconds / 3600:g} h" for seconds in policy.remind_s)
        expires += f", reminders {reminders} before"
    yield expires


def _data(policy: Policy) -> Iterator[str]:
    if not policy.data:
        yield "data may go to any provider; personal data only with a recorded waiver"
        return
    for rule in policy.data:
        where = "any provider"
        if rule.providers is not None:
            where = ", ".join(sorted(rule.providers)) or "nowhere"
        yield f"{rule.level} “{rule.name}”: to {where}{_in_brackets(rule.where)}"
    yield "data that no rule covers: stays on this machine"


def _in_brackets(where: str) -> str:
    return f"   ({where})"
