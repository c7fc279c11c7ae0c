"""Looks over an installation: what works, what doesn't, and the cure for it. Changes nothing."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.error import URLError

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.settings import Settings, SettingsProblems, load_settings
from storage.database import sqlite_version, wal_is_safe
from trainers.client import Trainer
from trainers.errors import TrainerError
from trainers.providers import ProviderRow

LEAST_FREE_GB = 5
SCOPES = frozenset(
    {
        "app_mentions:read",
        "channels:read",
        "chat:write",
        "commands",
        "files:read",
        "files:write",
        "groups:read",
        "im:write",
        "usergroups:read",
        "users:read",
    }
)


@dataclass(frozen=True)
class Finding:
    """`said` is what is there, or what is wrong with its cure."""

    is_well: bool
    what: str
    said: str


def examine() -> list[Finding]:
    """Everything that can be looked at, also where the settings have problems."""
    findings: list[Finding] = []
    settings: Settings | None
    try:
        settings = load_settings()
        findings.append(Finding(True, "settings", "read, nothing wrong"))
    except SettingsProblems as found:
        findings += [Finding(False, "settings", problem) for problem in found.problems]
        settings = _settings_without_slack()
    findings.append(_database())
    if settings:
        findings += [*_slack(settings), *_people(settings), *_trainers(settings), _disk(settings)]
    return findings


def _settings_without_slack() -> Settings | None:
    try:
        return load_settings(need_slack=False)
    except SettingsProblems:
        return None


def _database() -> Finding:
    version = ".".join(map(str, sqlite_version()))
    journal = "WAL" if wal_is_safe(sqlite_version()) else "DELETE, since WAL can corrupt data in this version"
    return Finding(True, "SQLite", f"{version}, journal {journal}")


def _slack(settings: Settings) -> Iterator[Finding]:
    slack = settings.slack
    if not slack.bot_token:
        return
    client = WebClient(slack.bot_token, base_url=slack.api_url, timeout=10, retry_handlers=[])
    try:
        answer = client.auth_test()
    except SlackApiError as error:
        if error.response.status_code != 200:
            said = (
                f"is unwell: {slack.api_url} answers with HTTP {error.response.status_code}. Try again later"
            )
            yield Finding(False, "Slack", said)
            return
        yield Finding(
            False, "Slack", f"refuses the bot token: {error.response.get('error')}. Copy it again into .env"
        )
        return
    except (URLError, OSError) as error:
        yield Finding(False, "Slack", f"could not be reached at {slack.api_url}: {error}")
        return
    yield Finding(True, "Slack", f"signed in to {answer.get('team')} as {answer.get('user')}")
    headers = {name.lower(): value for name, value in answer.headers.items()}
    yield _scopes(str(headers.get("x-oauth-scopes", "")))


def _scopes(granted: str) -> Finding:
    if not granted:
        return Finding(True, "scopes", "not told by this workspace")
    missing = SCOPES - {scope.strip() for scope in granted.split(",")}
    if missing:
        return Finding(
            False, "scopes", f"missing {', '.join(sorted(missing))}: reinstall the app from manifest.yml"
        )
    return Finding(True, "scopes", "all granted")


def _people(settings: Settings) -> Iterator[Finding]:
    people = settings.people
    if not people.approvers and not people.approver_groups:
        cure = 'name them in finetune.toml: [people] approvers = ["U…"]; until then nothing can be trained'
        yield Finding(False, "approvers", f"nobody: {cure}")
    else:
        count = len(people.approvers) + len(people.approver_groups)
        yield Finding(True, "approvers", f"{count} people or groups, {people.quorum} needed for a run")
    budget = settings.monthly_budget_usd
    yield Finding(
        True, "budget", f"${budget} a month" + ("" if budget else ": only runs that cost nothing fit")
    )


def _trainers(settings: Settings) -> Iterator[Finding]:
    for row in settings.providers:
        if row.is_started_by_us:
            yield _own_trainer(settings)
        elif os.environ.get(row.provider.key_env or ""):
            yield _provider(row)


def _own_trainer(settings: Settings) -> Finding:
    missing = [
        name
        for name in ("torch", "transformers", "peft", "datasets")
        if importlib.util.find_spec(name) is None
    ]
    if missing:
        return Finding(
            False, "own trainer", f"{', '.join(missing)} missing: pip install 'finetune-bot[local]'"
        )
    if not settings.trainer.models:
        return Finding(
            False, "own trainer", 'no base model: [trainer.models] NAME = "folder or hub id" in finetune.toml'
        )
    return Finding(True, "own trainer", f"starts with {', '.join(settings.trainer.models)}")


def _provider(row: ProviderRow) -> Finding:
    try:
        with Trainer(row.provider, os.environ[str(row.provider.key_env)]) as trainer:
            refused = trainer.probe()
    except TrainerError as error:
        return Finding(False, row.title, str(error))
    if refused:
        return Finding(False, row.title, str(refused))
    closing = f"; takes new jobs until {row.closes}" if row.closes else ""
    return Finding(True, row.title, f"answers, nothing speaks against training there so far{closing}")


def _disk(settings: Settings) -> Finding:
    data = settings.data.resolve()
    folder = next(place for place in (data, *data.parents) if place.exists())
    free = shutil.disk_usage(folder).free / 1e9
    said = f"{free:,.0f} GB free in {folder}"
    return Finding(
        free >= LEAST_FREE_GB,
        "disk",
        said if free >= LEAST_FREE_GB else f"{said}: training needs {LEAST_FREE_GB}",
    )
