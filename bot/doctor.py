"""Checks an installation and says how to fix each problem. Changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import URLError

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.cards.common.blocks import Block
from bot.cards.common.general import sample_card
from bot.cards.common.prices import where_to_add
from bot.cards.common.terminal import plain_text
from bot.cards.common.words import pluralize
from bot.cards.plain_questions import reading_record
from bot.cards.training.vendor_bills import key_refused
from bot.door_process import LOG_FILE, ask_door
from bot.embedded_trainer import missing_packages
from bot.outbox_sender import SCOPES, granted_scopes
from bot.process_health import seconds_since_tick
from bot.rules.permissions import Policy
from bot.rules.prices import missing_keys
from bot.services.common import candidates
from bot.settings import (
    BOT_TOKEN,
    CONFIG_FILE,
    HOST,
    LEAST_WATCHDOG_S,
    Blocks,
    Settings,
    SettingsProblems,
    load_settings,
)
from bot.slack.users import SlackDirectory
from bot.values.runs import Refusal
from storage.backup import check_integrity
from storage.database import StorageError, sqlite_version, wal_is_safe
from storage.deployments import deployment_names
from storage.questions import plain_counts_in
from trainers.client.client import find_key
from trainers.client.dialects import open_trainer
from trainers.client.vendor_bills import Billing, find_billing_key
from trainers.deployments import open_deployments
from trainers.deployments.coreweave import EXTRA, PACKAGE
from trainers.encoders import DEFAULT_ENCODER, MULTILINGUAL_ENCODER, EncoderError, multilingual
from trainers.encoders.embedding import find_encoder, is_hub_id
from trainers.errors import Refused, TrainerError
from trainers.models.base_models import why_not_served
from trainers.money import usd_micros
from trainers.packages import install_line, needs_extra
from trainers.providers.pricing import tuned_price
from trainers.providers.providers import ProviderRow
from trainers.recipes.folder import RecipeFolder

LEAST_FREE_GB = 5
MOST_SKEW_S = 30


@dataclass(frozen=True)
class Finding:
    """`text` describes what was found: if it is a problem, with its cure."""

    is_ok: bool
    subject: str
    text: str


def examine() -> list[Finding]:
    """Checks as much as possible, even if the settings have problems."""
    findings: list[Finding] = []
    path = Path(os.environ.get("FINETUNE_CONFIG", CONFIG_FILE))
    if not path.exists():
        findings.append(Finding(False, "settings", f"there is no {path} here: finetune init creates one"))
    settings: Settings | None = None
    try:
        settings = load_settings()
        if path.exists():
            findings.append(Finding(True, "settings", "no problems"))
    except SettingsProblems as error:
        findings += [Finding(False, "settings", problem) for problem in error.problems]
        # If only Slack's tokens are wrong, everything else can still be checked.
        with suppress(SettingsProblems):
            settings = load_settings(need_slack=False)
    findings.append(_check_database(settings))
    if settings:
        findings += _check_slack(settings)
        findings += _check_approvers_and_budget(settings)
        findings += _check_trainers(settings)
        findings += _check_machines(settings)
        findings += _check_bills(settings)
        findings += _check_prices(settings, datetime.now(UTC).date())
        findings += _check_assistant(settings, datetime.now(UTC).date())
        findings.append(_check_encoder(settings))
        findings.append(_check_door(settings))
        findings.append(_check_disk(settings))
        findings += _check_private_files(settings)
        findings.append(_check_bot(settings))
    return findings


def _check_database(settings: Settings | None) -> Finding:
    version = ".".join(map(str, sqlite_version()))
    is_safe = wal_is_safe(sqlite_version())
    if settings and _is_in_wal(settings.database) and not is_safe:
        cure = "the bot changes that when it next starts; don't open the file with other programs until then"
        text = f"{version} can corrupt a WAL database, and this one uses WAL: {cure}"
        return Finding(False, "SQLite", text)
    if settings and settings.data.exists() and not os.access(settings.data, os.X_OK):
        text = f"{settings.database} can't be read by this user: run this as the user who runs the bot"
        return Finding(False, "SQLite", text)
    if settings and settings.database.exists():
        try:
            check_integrity(settings.database)
        except StorageError as error:
            return Finding(False, "SQLite", str(error))
    journal = "WAL" if is_safe else "DELETE, since WAL can corrupt data in this version"
    return Finding(True, "SQLite", f"{version}, journal {journal}")


def _is_in_wal(path: Path) -> bool:
    """Reads the file's header (sqlite.org/fileformat2.html, 1.3.3), as opening it with SQLite would create files
    beside it."""
    try:
        with path.open("rb") as file:
            return file.read(19)[18:] == b"\x02"
    except OSError:
        return False


def _check_slack(settings: Settings) -> Iterator[Finding]:
    slack = settings.slack
    # What is wrong with the token is among the settings' problems; a placeholder can't even be sent.
    if not BOT_TOKEN.fullmatch(slack.bot_token):
        return
    client = WebClient(slack.bot_token, base_url=slack.api_url, timeout=10, retry_handlers=[])
    asked_at = time.time()
    try:
        answer = client.auth_test()
    except SlackApiError as error:
        if error.response.status_code != 200:
            text = f"{slack.api_url} answers with HTTP {error.response.status_code}. Try again later"
            yield Finding(False, "Slack", text)
            return
        text = f"refuses the bot token: {error.response.get('error')}. Copy it again into .env"
        yield Finding(False, "Slack", text)
        return
    except (URLError, OSError) as error:
        yield Finding(False, "Slack", f"could not be reached at {slack.api_url}: {error}")
        return
    yield Finding(True, "Slack", f"signed in to {answer.get('team')} as {answer.get('user')}")
    headers = {name.lower(): value for name, value in answer.headers.items()}
    yield _check_clock(str(headers.get("date", "")), asked_at, time.time())
    yield _check_scopes(granted_scopes(answer.headers))
    yield _check_blocks(client, slack.blocks)
    yield from _check_policy_ids(settings.policy, SlackDirectory(client, answer))


def _check_policy_ids(policy: Policy, directory: SlackDirectory) -> Iterator[Finding]:
    """Checks the people and groups that the policy names: a plan can wait in vain for a person who is a guest or
    gone."""
    users = set[str]()
    groups = set[str]()
    for named in policy.who.values():
        users |= named.users
        groups |= named.groups
    wrong = []
    for user in sorted(users):
        person = directory.person(user)
        if person is None or not person.is_member:
            wrong.append(user)
    gone = [group for group in sorted(groups) if directory.members(group) is None]
    if wrong:
        cure = "the rules that name them have no effect; correct the ids in finetune.toml"
        yield Finding(False, "policy", f"not full members of this workspace: {', '.join(wrong)}; {cure}")
    if gone:
        cure = "the group is disabled, its id is wrong, or the app lacks usergroups:read"
        yield Finding(False, "policy", f"can't read the members of the groups {', '.join(gone)}: {cure}")
    if not wrong and not gone:
        n_users = pluralize(len(users), "user")
        n_groups = pluralize(len(groups), "group")
        yield Finding(True, "policy", f"names {n_users} and {n_groups}, all known to Slack")


def _check_clock(text: str, asked_at: float, answered_at: float) -> Finding:
    """Compares this machine's clock with Slack's Date header `text`, which has whole seconds. The request was sent at
    `asked_at` and answered at `answered_at` (unix seconds)."""
    try:
        there = parsedate_to_datetime(text).timestamp()
    except ValueError:
        return Finding(True, "clock", "not checked, as Slack sent no time")
    # Slack wrote its time between the request and the answer, so this machine's clock is off by at least this much.
    behind = there - answered_at
    ahead = asked_at - (there + 1)
    skew = max(behind, ahead, 0.0)
    if skew <= MOST_SKEW_S:
        return Finding(True, "clock", "agrees with Slack's")
    way = "behind" if behind > ahead else "ahead of"
    cure = "let the network set it: timedatectl set-ntp true. Beyond 300 s, Slack's requests are refused"
    return Finding(False, "clock", f"is {skew:.0f} s {way} Slack's: {cure}")


def _check_scopes(names: frozenset[str]) -> Finding:
    if not names:
        return Finding(True, "scopes", "not checked, as this workspace doesn't report them")
    missing = SCOPES - names
    if missing:
        listed = ", ".join(sorted(missing))
        return Finding(False, "scopes", f"missing {listed}: reinstall the app from manifest.yml")
    text = "all granted"
    if names >= {"channels:history", "groups:history", "im:history"}:
        text += "; if Slack's answer to a message is lost, the bot finds the message and doesn't repeat it"
    return Finding(True, "scopes", text)


def _check_blocks(client: WebClient, form: Blocks) -> Finding:
    """Lets Slack validate a sample of every kind of block that cards use, in the form in which the bot sends them."""
    sample = sample_card()
    blocks = sample.newest if form == "newest" else sample.blocks
    classic = 'blocks = "classic" in finetune.toml under [slack]'
    try:
        client.api_call("blocks.validate", params={"blocks": json.dumps(blocks)})
    except SlackApiError as error:
        answer = error.response
        if answer.get("error") == "invalid_blocks":
            types = {_block_type_at(blocks, fault) for fault in answer.get("errors") or ()}
            refused = ", ".join(sorted(types)) or "a card"
            cure = f"set {classic}" if form == "newest" else "update the bot"
            return Finding(False, "blocks", f"Slack refuses {refused}: {cure}")
        text = f"not checked, as Slack answers {answer.get('error')}"
        return Finding(True, "blocks", f"{text}; if cards lack their tables or charts, set {classic}")
    except (URLError, OSError) as error:
        return Finding(True, "blocks", f"not checked: {error}")
    return Finding(True, "blocks", f"Slack accepts every block that cards use, in the {form} form")


def _block_type_at(blocks: Sequence[Block], fault: Mapping[str, Any]) -> str:
    """Returns the type of the block that a fault's JSON pointer names."""
    pointer = str(fault.get("pointer", ""))
    _, _, after = pointer.removeprefix("/blocks").partition("/")
    number, _, _ = after.partition("/")
    if not number.isdigit():
        return "a card"
    return str(blocks[int(number)]["type"])


def _check_approvers_and_budget(settings: Settings) -> Iterator[Finding]:
    yield _check_approvers(settings.policy)
    budget = settings.budget.monthly_usd
    text = f"${budget} a month" if budget else "none: only runs that cost nothing can start"
    yield Finding(True, "budget", text)


def _check_approvers(policy: Policy) -> Finding:
    named = policy.named("approve")
    if named.is_nobody:
        cure = 'name them in finetune.toml: [people] approvers = ["U…"]; until then nothing can be trained'
        return Finding(False, "approvers", f"nobody: {cure}")
    if named.anyone:
        who = "any member"
    else:
        who = pluralize(len(named.users) + len(named.groups), "person or group", "people or groups")
    numbers = sorted({tier.approvers for tier in policy.tiers})
    needed = " or ".join(map(str, numbers))
    text = f"{who}, {needed} needed for a run"
    most = policy.tiers[-1].up_to_micros
    if most is not None:
        text += f"; runs above {usd_micros(most)} are refused"
    return Finding(True, "approvers", text)


def _check_trainers(settings: Settings) -> Iterator[Finding]:
    """Asks all trainers at once, as one that doesn't answer takes seconds to time out."""
    with ThreadPoolExecutor() as asking:
        yield from filter(None, asking.map(partial(_check_trainer, settings), settings.providers))


def _check_trainer(settings: Settings, row: ProviderRow) -> Finding | None:
    if row.is_started_by_us:
        return _check_own_trainer(settings)
    key = find_key(os.environ, row.provider)
    if not key:
        return None
    try:
        with open_trainer(row.provider, key) as trainer:
            refused = trainer.probe()
    except TrainerError as error:
        # A keyless provider that only answers questions, like Ollama, need not be running.
        is_missed = row.trains or row.provider.key_env is not None
        return Finding(False, row.title, str(error)) if is_missed else None
    # Some providers that only answer questions refuse to list their models.
    if refused and (row.trains or refused.status in (401, 403)):
        return Finding(False, row.title, str(refused))
    if row.takes_uploads and find_spec(PACKAGE) is None:
        missing = needs_extra("Uploading adapters", EXTRA, ["doctor"])
        return Finding(False, row.title, f"answers, and serves adapters by the token. {missing}")
    if not row.trains:
        return Finding(True, row.title, "answers; for asking models only, not for training")
    closing = f"; {row.closes} is the last day on which it accepts new jobs" if row.closes else ""
    return Finding(True, row.title, f"answers, and reports nothing that prevents training there{closing}")


def _check_machines(settings: Settings) -> Iterator[Finding]:
    """Reports machines at vendors that cost money by the hour and are not in the database. That may be a new one."""
    for row in settings.providers:
        key = find_key(os.environ, row.provider)
        vendor = open_deployments(row.provider, key) if key and not row.provider.can("adapters") else None
        if vendor is None:
            continue
        try:
            names = [deployment.name for deployment in vendor.list_running()]
            recorded = deployment_names(settings.database, row.name) if settings.database.exists() else set()
        except (TrainerError, StorageError) as error:
            yield Finding(False, f"machines at {row.title}", str(error))
            continue
        finally:
            vendor.close()
        unknown = [name for name in names if name not in recorded]
        if unknown:
            runs = pluralize(len(unknown), "machine runs", "machines run")
            text = f"{runs} by the hour that the database doesn't know: {', '.join(unknown)}. Stop them there"
            yield Finding(False, f"machines at {row.title}", text)
        else:
            text = f"{pluralize(len(names), 'machine runs', 'machines run')} by the hour, none unknown"
            yield Finding(True, f"machines at {row.title}", text)


def _check_bills(settings: Settings) -> Iterator[Finding]:
    """Checks whether we may read what vendors bill, where one lists it."""
    now = time.time()
    for row in settings.providers:
        variable = row.provider.billing_key_env
        if variable is None:
            continue
        subject = f"{row.title}'s bills"
        key = find_billing_key(os.environ, row.provider)
        if key is None:
            text = f"not read, as {variable} is not set: a run there costs its tokens times the list price"
            yield Finding(True, subject, text)
            continue
        try:
            with closing(Billing(row.provider, key)) as billing:
                billing.usage(now, now)
        except Refused as refused:
            yield Finding(False, subject, plain_text(key_refused(row.title, variable, refused.status)))
        except TrainerError as error:
            yield Finding(False, subject, str(error))
        else:
            yield Finding(True, subject, "can be read: runs there are corrected to what they were billed")


def _check_prices(settings: Settings, today: date) -> Iterator[Finding]:
    """Reports models in finetune.toml that have ended, and models that can be trained but have no complete price."""
    for own in settings.prices:
        if own.has_ended(today):
            cure = f'correct `ends` under [prices."{own.model}"], or remove the model'
            yield Finding(False, "prices", f"{own.model} ended on {own.ends}, says finetune.toml: {cure}")
    for row in settings.providers:
        if not row.trains or not find_key(os.environ, row.provider):
            continue
        for model in row.models:
            price = tuned_price(row, model)
            if missing_keys(price) and not model.has_ended(today):
                text = f"the price of {price.model} is incomplete: {where_to_add(price)}"
                yield Finding(False, "prices", text)


def _check_own_trainer(settings: Settings) -> Finding:
    missing = missing_packages()
    if missing:
        text = f"not installed ({', '.join(missing)} missing): {install_line('local', ['doctor'])}"
        for row in settings.providers:
            if row.trains and not row.is_started_by_us and find_key(os.environ, row.provider):
                return Finding(True, "own trainer", f"{text}; not needed to train at {row.title}")
        return Finding(False, "own trainer", text)
    if not settings.trainer.models:
        text = 'no base model: [trainer.models] NAME = "folder or hub id" in finetune.toml'
        return Finding(False, "own trainer", text)
    faults = []
    for name, source in settings.trainer.models.items():
        why = why_not_served(name, source)
        if why:
            faults.append(f"[trainer.models] {name}: {why}")
    if faults:
        return Finding(False, "own trainer", f"starts, but leaves out {' '.join(faults)}")
    return Finding(True, "own trainer", f"can start, with {', '.join(settings.trainer.models)}")


def _check_encoder(settings: Settings) -> Finding:
    if is_hub_id(settings.encoder):
        text = f"{settings.encoder} from the hub, downloaded at the first measurement"
        return Finding(True, "encoder", text)
    try:
        files = [find_encoder(settings.encoder)]
        if settings.encoder == DEFAULT_ENCODER and multilingual.is_installed():
            files.append(find_encoder(MULTILINGUAL_ENCODER))
    except EncoderError as error:
        return Finding(False, "encoder", str(error))
    names = [f"{each.name}, licence: {each.licence or 'not stated'}" for each in files]
    return Finding(True, "encoder", "; ".join(names))


def _check_door(settings: Settings) -> Finding:
    """Checks whether programs that call team/NAME get an answer."""
    serving = settings.serving
    if not serving.address:
        return Finding(True, "programs", "[serving] address is empty, so none can call team/NAME")
    folder = RecipeFolder(settings.recipes)
    if ask_door(serving.host, serving.port):
        is_elsewhere = serving.host not in ("localhost", HOST, "::1")
        if is_elsewhere and not serving.url:
            cure = (
                'name the host that they use: [serving] url = "http://NAME:PORT/v1"; other names are refused'
            )
            return Finding(
                False, "programs", f"team/NAME answers at {serving.address} to this machine alone: {cure}"
            )
        return Finding(
            True, "programs", f"team/NAME answers at {serving.base_url}; their key is {folder.key_path}"
        )
    if seconds_since_tick(settings.data, time.time()) is None:
        return Finding(
            True, "programs", f"nothing answers at {serving.address} yet: finetune run starts that"
        )
    cure = f"{settings.recipes / LOG_FILE} says why"
    if not serving.start:
        cure = "start `finetune serve`, or remove `start = false` under [serving]"
    return Finding(False, "programs", f"nothing answers at {serving.address}: {cure}")


def _check_assistant(settings: Settings, today: date) -> Iterator[Finding]:
    """Checks whether the model that reads questions in plain words can be asked, and says how often it was right."""
    model = settings.assistant.model
    if not model:
        return
    reachable = [
        row.name
        for row in settings.providers
        if row.is_started_by_us or find_key(os.environ, row.provider) is not None
    ]
    priced = candidates.find_model(settings, reachable, model, today)
    if isinstance(priced, Refusal):
        yield Finding(False, "questions", plain_text(priced.text))
        return
    text = f"{model} reads those in plain words, for up to ${settings.assistant.daily_usd} a day"
    if settings.database.exists():
        try:
            counts = plain_counts_in(settings.database, model)
        except StorageError as error:
            yield Finding(False, "questions", str(error))
            return
        text += f". {plain_text(reading_record(counts, model))}"
    yield Finding(True, "questions", text.removesuffix("."))


def _check_disk(settings: Settings) -> Finding:
    data = settings.data.resolve()
    folder = next(parent for parent in (data, *data.parents) if parent.exists())
    if not os.access(folder, os.W_OK):
        cure = "mount it for writing, or let the bot's user own it"
        return Finding(False, "disk", f"{folder} can't be written to by this user: {cure}")
    free = shutil.disk_usage(folder).free / 1e9
    text = f"{free:,.0f} GB free in {folder}"
    if free < LEAST_FREE_GB:
        return Finding(False, "disk", f"{text}: training needs {LEAST_FREE_GB}")
    return Finding(True, "disk", text)


def _check_private_files(settings: Settings) -> Iterator[Finding]:
    """Checks the permissions of everything that holds customers' data or secrets."""
    trainer = settings.data / "trainer"
    mode_by_path = {
        settings.data: 0o700,
        Path(".env"): 0o600,
        trainer / "trainer.key": 0o600,
        trainer / "call.key": 0o600,
        settings.recipes: 0o700,
        RecipeFolder(settings.recipes).key_path: 0o600,
    }
    for path, mode in mode_by_path.items():
        # Path.exists raises PermissionError in a folder that this user can't enter.
        if os.access(path.parent, os.X_OK) and path.exists():
            yield _check_permissions(path, mode)


def _check_permissions(path: Path, mode: int) -> Finding:
    result = path.stat()
    if result.st_uid != os.geteuid():
        cure = f"run the bot as its owner, or: chown -R $(id -un) {path}"
        return Finding(False, "permissions", f"{path} belongs to user {result.st_uid}, not to you: {cure}")
    now = stat.S_IMODE(result.st_mode)
    if now & 0o077:
        text = f"other users can access {path} ({now:o}): chmod {mode:o} {path}"
        return Finding(False, "permissions", text)
    return Finding(True, "permissions", f"only its owner can access {path}")


def _check_bot(settings: Settings) -> Finding:
    age = seconds_since_tick(settings.data, time.time())
    if age is None:
        return Finding(True, "bot", "not running")
    if age > LEAST_WATCHDOG_S:
        cure = "restart it, and look in its log for what it was doing"
        return Finding(False, "bot", f"running, but took no step for {age:.0f} s: {cure}")
    return Finding(True, "bot", f"running, last step {age:.0f} s ago")
