"""The verdict on a storm: what became of everything that was approved, by the records of provider, people and Slack.

due           plans for which two approvers' forms were accepted and nobody was told no; an approver whose form counted
              without being acked learns it by clicking again, and the stored approvals tell which answers mean that;
              a plan is not due if its requester, who saw no card in time, typed the command again and so replaced it
lost          due, but without a job
duplicates    jobs beyond a plan's first, machines beyond a start's first
left running  machines
unposted      missing messages about trained models: the result, the final state of the card, a plot, or the report
over budget   what the provider bills beyond the month's limit
twice         messages and files that were posted twice; must be 0 if the bot may look for its own
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

Approval = tuple[str, str]  # the plan's hash and the person

RESULT, DATASET = re.compile(r"Result of run (\d+)\b"), re.compile(r" on (tickets\w+)")
NO_RESULT = "was trained and is kept as"
IN_THREAD = ("Loss by training step", "Quality against price", "Report of run")
WITH_RESULT = ("is done:", *IN_THREAD)
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
        counts = (self.duplicates, self.lost, self.unposted, self.over_budget_usd, self.left_running)
        return not any(counts) and not (self.may_read and self.twice)


def judge(
    provider: Path,
    slack: Path,
    budget_usd: float,
    *,
    approvals: Collection[Approval],
    replaced: Collection[str] = (),
    may_read: bool = False,
    excused: Sequence[str] = (),
) -> Verdict:
    """`approvals` are the stored ones. `replaced` are the hashes of plans whose requester made another. `excused` is
    what Slack never accepted, in the words of `_find_unposted`."""
    created = read(provider, "created")
    calls = [line for line in read(slack, "called") if not line["error"]]
    due = _find_due(slack, approvals) - {plan[:12] for plan in replaced}
    jobs = Counter(line["plan"] for line in created)
    machines = read(provider, "machine")
    starts = Counter(line["name"] for line in machines)
    billed = _bill(read(provider))
    return Verdict(
        due=len(due),
        duplicates=sum(count - 1 for count in (*jobs.values(), *starts.values())),
        lost=sum(plan not in jobs for plan in due),
        unposted=sum(
            not any(part in missing for part in excused)
            for missing in _find_unposted(_trained_models(provider, created), calls)
        ),
        over_budget_usd=max(0.0, billed - budget_usd),
        billed_usd=billed,
        twice=sum(count - 1 for count in _count_posts(calls).values()),
        may_read=may_read,
        left_running=sum(line["runs"] for line in machines),
    )


def read_approvals(database: Path) -> set[Approval]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return set(connection.execute("SELECT plan_hash, person FROM approvals WHERE decision = 'approve'"))


def models_with_result(slack: Path) -> set[str]:
    """Returns the models whose result was posted, or the reason why there is none."""
    posts = [_text(line) for line in read(slack, "called")]
    return _with_result(posts) | _without_result(posts)


def read_replaced(database: Path, datasets: Collection[str]) -> set[str]:
    """Returns the hashes of the plans on these datasets that a later plan replaced."""
    query = (
        "SELECT datasets.name, runs.plan_hash FROM replacements JOIN runs ON runs.id = replacements.run_id"
        " JOIN datasets ON datasets.id = runs.dataset_id"
    )
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        rows = connection.execute(query).fetchall()
    return {plan for name, plan in rows if name in datasets}


def has_whole_result(slack: Path, dataset: str) -> bool:
    """True if everything about the result of a dataset's run was posted."""
    posts = [_text(line) for line in read(slack, "called") if not line["error"]]
    return not _missing_parts(posts, dataset)


def _with_result(posts: Sequence[str]) -> set[str]:
    matches = [(DATASET.search(text), RESULT.search(text)) for text in posts]
    return {f"{dataset[1]}-{run[1]}" for dataset, run in matches if dataset and run}


def _without_result(posts: Sequence[str]) -> set[str]:
    return {name for text in posts if NO_RESULT in text for name in re.findall(r"\btickets\w+-\d+\b", text)}


def _find_unposted(models: set[str], calls: Sequence[Line]) -> list[str]:
    posts = [_text(line) for line in calls]
    measured = _with_result(posts)
    missing = [f"the result of {model}" for model in models - measured - _without_result(posts)]
    for model in models & measured:
        missing += _missing_parts(posts, model.rpartition("-")[0])
    return missing


def _missing_parts(posts: Sequence[str], dataset: str) -> list[str]:
    place = f" on {dataset}"
    return [
        f"{part}{place}" for part in WITH_RESULT if not any(part in post and place in post for post in posts)
    ]


def _find_due(slack: Path, approvals: Collection[Approval]) -> set[str]:
    """Returns the twelve characters of each due plan's hash that a job carries."""
    delivered = read(slack, "delivered")
    answered_at = {line["answer_at"] for line in read(slack, "whispered")}
    clicks = [line for line in delivered if line["action"] == "approve_plan"]
    answered = [click for click in clicks if click["answer_at"] in answered_at]
    counted = [click for click in answered if (click["value"], click["user"]) in approvals]
    refused = {click["value"] for click in answered if click not in counted}
    approvers = defaultdict[str, set[str]](set)
    for approval in [*counted, *(line for line in delivered if line["action"] == "approve_form")]:
        if approval["acked"]:
            approvers[approval["value"]].add(approval["user"])
    return {plan[:12] for plan, people in approvers.items() if len(people) >= QUORUM and plan not in refused}


def _trained_models(provider: Path, created: Sequence[Line]) -> set[str]:
    models = {line["job"]: line["model"] for line in created}
    return {models[line["job"]] for line in read(provider, "succeeded")}


def _bill(lines: Sequence[Line]) -> float:
    tokens = Counter[str]()
    for line in lines:
        if line["what"] == "succeeded":
            tokens["training"] += line["tokens"]
        if line["what"] == "chatted":
            tokens["prompt"] += line["prompt_tokens"]
            tokens["completion"] += line["completion_tokens"]
    return sum(USD_A_TOKEN[kind] * count for kind, count in tokens.items())


def _count_posts(calls: Sequence[Line]) -> Counter[str]:
    """Counts new messages and files by content and place."""
    identity = {
        "chat.postMessage": ("channel", "thread_ts", "text", "blocks"),
        "files.completeUploadExternal": ("channel_id", "thread_ts"),
    }
    return Counter(
        json.dumps([*(line["args"].get(name) for name in identity[line["method"]]), _titles(line)])
        for line in calls
        if line["method"] in identity
    )


def _titles(line: Line) -> list[str]:
    files = line["args"].get("files") or []
    return [file["title"] for file in (json.loads(files) if isinstance(files, str) else files)]


def _text(line: Line) -> str:
    return json.dumps(line["args"], sort_keys=True, ensure_ascii=False)
