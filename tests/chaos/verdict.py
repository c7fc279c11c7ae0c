"""What became of everything that was approved, by the records of provider, people and Slack.

A plan is *due* once two approvers' forms for it were taken and nobody was told a no. Where a form counted though it was
not acked, its approver learns that by clicking again: which answers say so, the approvals on file tell. *lost*: due,
and no job.
*duplicates*: jobs beyond a plan's first, machines beyond a start's first. *left running*: machines. *unposted*:
messages that are missing of a trained model: its result in the channel, its card's end, its plots and its report.
*over budget*: what the provider bills beyond the month's limit. *twice*: messages and files that stand twice; none
may where the bot has the right to look.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from storage.driver import sqlite3
from tests.chaos.records import Line, read

Approval = tuple[str, str]
"""The plan's hash and the person."""

MEASURED, DATASET = re.compile(r"Result of run (\d+)\b"), re.compile(r" on (tickets\w+)")
NOT_MEASURED = "was trained and is kept as"
IN_THE_THREAD = ("Loss by training step", "Quality against price", "Report of run")
OF_MEASURED = ("is done:", *IN_THE_THREAD)
QUORUM = 2
USD_A_TOKEN = {"training": 8.0e-6, "prompt": 0.8e-6, "completion": 3.2e-6}


@dataclass(frozen=True)
class Verdict:
    due: int
    duplicates: int
    lost: int
    unposted: int
    over_budget_usd: float
    billed_usd: float
    twice: int
    may_read: bool
    left_running: int = 0

    @property
    def is_clean(self) -> bool:
        wrong = (
            self.duplicates,
            self.lost,
            self.unposted,
            self.over_budget_usd,
            self.left_running,
            self.may_read and self.twice,
        )
        return not any(wrong)


def judge(
    provider: Path,
    slack: Path,
    budget_usd: float,
    *,
    approvals: Collection[Approval],
    may_read: bool = False,
    excused: Sequence[str] = (),
) -> Verdict:
    """`approvals`: those on file. `excused`: what Slack refused to the end, in the words of `_unposted`."""
    created = read(provider, "created")
    calls = [line for line in read(slack, "called") if not line["error"]]
    due = _due(slack, approvals)
    started = Counter(line["plan"] for line in created)
    machines = read(provider, "machine")
    starts = Counter(line["name"] for line in machines)
    billed = _billed(read(provider))
    return Verdict(
        due=len(due),
        duplicates=sum(count - 1 for count in (*started.values(), *starts.values())),
        lost=sum(plan not in started for plan in due),
        unposted=sum(
            not any(one in missing for one in excused)
            for missing in _unposted(_trained(provider, created), calls)
        ),
        over_budget_usd=max(0.0, billed - budget_usd),
        billed_usd=billed,
        twice=sum(count - 1 for count in _posted(calls).values()),
        may_read=may_read,
        left_running=sum(line["runs"] for line in machines),
    )


def approvals_in(database: Path) -> set[Approval]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return set(connection.execute("SELECT plan_hash, person FROM approvals WHERE decision = 'approve'"))


def results(slack: Path) -> set[str]:
    """Names of the models whose result was posted, or that it could not be had."""
    posts = [_words(line) for line in read(slack, "called")]
    return _measured(posts) | _named(posts, NOT_MEASURED)


def _measured(posts: Sequence[str]) -> set[str]:
    """A run's number is also its model's."""
    found = [(DATASET.search(text), MEASURED.search(text)) for text in posts]
    return {f"{dataset[1]}-{run[1]}" for dataset, run in found if dataset and run}


def _named(posts: Sequence[str], words: str) -> set[str]:
    return {name for text in posts if words in text for name in re.findall(r"\btickets\w+-\d+\b", text)}


def _unposted(models: set[str], calls: Sequence[Line]) -> list[str]:
    """What is missing: the result of a model, or why there is none; its card's end, its plots and its report where
    there is one."""
    posts = [_words(line) for line in calls]
    measured = _measured(posts)
    missing = [f"the result of {model}" for model in models - measured - _named(posts, NOT_MEASURED)]
    for model in models & measured:
        place = f" on {model.rpartition('-')[0]}"
        missing += [
            f"{part}{place}"
            for part in OF_MEASURED
            if not any(part in post and place in post for post in posts)
        ]
    return missing


def _due(slack: Path, approvals: Collection[Approval]) -> set[str]:
    """By the people's own record: the twelve characters of a plan's hash that a job carries."""
    delivered, answered_at = (
        read(slack, "delivered"),
        {line["answer_at"] for line in read(slack, "whispered")},
    )
    clicks = [line for line in delivered if line["action"] == "approve_plan"]
    answered = [click for click in clicks if click["answer_at"] in answered_at]
    counted = [click for click in answered if (click["value"], click["user"]) in approvals]
    refused = {click["value"] for click in answered if click not in counted}
    approvers = defaultdict[str, set[str]](set)
    for approval in [*counted, *(line for line in delivered if line["action"] == "approve_form")]:
        if approval["acked"]:
            approvers[approval["value"]].add(approval["user"])
    return {plan[:12] for plan, people in approvers.items() if len(people) >= QUORUM and plan not in refused}


def _trained(provider: Path, created: Sequence[Line]) -> set[str]:
    """Names of the models of jobs that succeeded and were not cancelled."""
    models = {line["job"]: line["model"] for line in created}
    return {models[line["job"]] for line in read(provider, "succeeded")}


def _billed(lines: Sequence[Line]) -> float:
    tokens = Counter[str]()
    for line in lines:
        if line["what"] == "succeeded":
            tokens["training"] += line["tokens"]
        if line["what"] == "chatted":
            tokens["prompt"] += line["prompt_tokens"]
            tokens["completion"] += line["completion_tokens"]
    return sum(USD_A_TOKEN[kind] * count for kind, count in tokens.items())


def _posted(calls: Sequence[Line]) -> Counter[str]:
    """New messages and files by what they are and where."""
    facts = {
        "chat.postMessage": ("channel", "thread_ts", "text", "blocks"),
        "files.completeUploadExternal": ("channel_id", "thread_ts"),
    }
    return Counter(
        json.dumps([*(line["args"].get(name) for name in facts[line["method"]]), _titles(line)])
        for line in calls
        if line["method"] in facts
    )


def _titles(line: Line) -> list[str]:
    files = line["args"].get("files") or []
    return [one["title"] for one in (json.loads(files) if isinstance(files, str) else files)]


def _words(line: Line) -> str:
    return json.dumps(line["args"], sort_keys=True, ensure_ascii=False)
