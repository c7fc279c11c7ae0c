"""`finetune doctor`: what is in order, what is not, and how to fix it, with Slack and a provider over HTTP."""

from __future__ import annotations

import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from io import StringIO
from pathlib import Path
from typing import get_args

import pytest
from dotenv import dotenv_values

from bot import embedded_trainer
from bot.app import _open_embedded_trainer
from bot.cards.common.blocks import CardBlock
from bot.cards.common.general import sample_card
from bot.doctor import Finding, _check_clock, examine
from bot.outbox_sender import SCOPES
from bot.resources import read_resource
from bot.settings import load_settings
from demo.slack_emulator import SlackEmulator, broken, cut_off, refused
from demo.slack_emulator import blocks as emulator_blocks
from demo.slack_emulator.state import ALL_SCOPES
from storage.database import sqlite_version, wal_is_safe
from storage.store import Store
from tests.bot.world import Rules, World
from tests.cards.all_cards import messages
from tests.local.engines.tinker_peer import ADMIN_KEY, KEY, start_bare_peer
from tests.peers.hosted import NOT_AVAILABLE, Hosted
from trainers.packages import install_line

GOOD = """
data = "data"
[slack]
mode = "http"
api_url = "{api}"
[people]
approvers = ["U0BEN"]
approver_groups = ["S1"]
quorum = 2
[budget]
monthly_usd = "200"
[trainer.models]
tiny = "models/tiny"
"""


class Installation:
    """A folder with finetune.toml, and an environment without any other keys."""

    def __init__(self, folder: Path, slack: SlackEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.slack = slack
        self._patch = monkeypatch
        for row in load_settings({}, need_slack=False).providers:
            monkeypatch.delenv(row.provider.key_env or "NO_SUCH_KEY", raising=False)
        monkeypatch.setenv("FINETUNE_CONFIG", str(folder / "finetune.toml"))
        self.set_environment(SLACK_BOT_TOKEN=slack.access.bot_token, SLACK_SIGNING_SECRET="s")
        monkeypatch.delenv("SLACK_APP_TOKEN", raising=False)
        self.write_settings()

    def write_settings(self, *changes: tuple[str, str], more: str = "") -> None:
        text = GOOD.format(api=self.slack.access.api_url)
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (self.folder / "finetune.toml").write_text(text + more)

    def set_environment(self, **values: str) -> None:
        for name, value in values.items():
            self._patch.setenv(name, value)

    def __getitem__(self, subject: str) -> Finding:
        (finding,) = [finding for finding in examine() if finding.subject == subject]
        return finding


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator(groups={"S1": ("U0BEN",)}) as slack:
        yield slack


@pytest.fixture
def installation(tmp_path: Path, slack: SlackEmulator, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.chdir(tmp_path)
    return Installation(tmp_path, slack, monkeypatch)


def test_an_installation_in_order(installation: Installation) -> None:
    findings = {finding.subject: finding for finding in examine()}
    assert list(findings) == [
        *("settings", "SQLite", "Slack", "clock", "scopes", "blocks", "policy"),
        *("approvers", "budget", "own trainer", "encoder", "programs", "disk", "bot"),
    ]
    assert all(finding.is_ok for subject, finding in findings.items() if subject != "disk"), findings
    assert findings["Slack"].text == "signed in to Emulator as finetune"
    assert findings["scopes"].text == "all granted"
    assert findings["blocks"].text == "Slack accepts every block that cards use, in the newest form"
    assert findings["approvers"].text == "2 people or groups, 2 needed for a run"
    assert findings["budget"].text == "$200 a month"
    assert findings["own trainer"].text == "can start, with tiny"
    assert "journal " in findings["SQLite"].text
    assert findings["clock"].text == "agrees with Slack's"
    assert findings["bot"].text == "not running"


def test_with_the_right_to_read_it_says_that_lost_messages_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    history = {"channels:history", "groups:history", "im:history"}
    monkeypatch.chdir(tmp_path)
    with SlackEmulator(groups={"S1": ("U0BEN",)}, scopes=ALL_SCOPES | history) as slack:
        text = Installation(tmp_path, slack, monkeypatch)["scopes"].text
    assert (
        text
        == "all granted; if Slack's answer to a message is lost, the bot finds the message and doesn't repeat it"
    )


@pytest.mark.deep
def test_blocks_that_slack_refuses_are_named_with_the_setting_that_avoids_them(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(emulator_blocks._KNOWN, "data_table", frozenset())
    monkeypatch.setitem(emulator_blocks._KNOWN, "plan", frozenset())
    blocks = installation["blocks"]
    assert not blocks.is_ok and 'refuses data_table, plan: set blocks = "classic"' in blocks.text
    installation.write_settings(("[slack]", '[slack]\nblocks = "classic"'))
    assert installation["blocks"] == Finding(
        True, "blocks", "Slack accepts every block that cards use, in the classic form"
    )
    installation.write_settings()
    installation.slack.fail("blocks.validate", refused("unknown_method"))
    unjudged = installation["blocks"]
    assert unjudged.is_ok and "unknown_method; if cards lack their tables" in unjudged.text


def test_every_block_is_in_the_sample_that_slack_judges() -> None:
    card = sample_card()
    assert {type(part) for part in card.parts} == set(get_args(CardBlock))
    kinds = {block["type"] for message in messages().values() for block in (*message.blocks, *message.newest)}
    assert kinds <= {block["type"] for block in (*card.newest, *card.blocks)}


@pytest.mark.deep
def test_a_read_only_folder_is_a_problem(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # as on a read-only file system
    assert (
        not installation["disk"].is_ok
        and f"{installation.folder} can't be written to" in installation["disk"].text
    )


@pytest.mark.deep
def test_a_damaged_database_is_a_problem_with_its_fix(installation: Installation) -> None:
    path = installation.folder / "data" / "finetune.db"
    store = Store(path)
    for number in range(200):
        store.audit.add(at=1.0, who="U1", action="ask", subject=f"run {number}", detail="x" * 200)
    store.database.change("PRAGMA wal_checkpoint(TRUNCATE)")
    store.close()
    assert installation["SQLite"].is_ok
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 6 * 4096)
        file.write(os.urandom(4 * 4096))
    assert not installation["SQLite"].is_ok and "finetune restore" in installation["SQLite"].text


@pytest.mark.deep
def test_people_of_the_policy_who_are_unknown_to_slack_are_named(installation: Installation) -> None:
    assert installation["policy"].text == "names 1 user and 1 group, all known to Slack"
    installation.slack.set_kind("U0BEN", "guest")
    assert "not full members of this workspace: U0BEN" in installation["policy"].text
    installation.write_settings(('["U0BEN"]', '["U0ANA"]'), ('["S1"]', '["S2"]'))
    assert (
        not installation["policy"].is_ok and "groups S2: the group is disabled" in installation["policy"].text
    )


def test_the_doctor_changes_nothing(installation: Installation) -> None:
    examine()
    assert [path.name for path in installation.folder.iterdir()] == ["finetune.toml"]
    assert {call.method for call in installation.slack.calls()} == {
        "auth.test",
        "blocks.validate",
        "users.info",
        "usergroups.users.list",
    }


def test_every_problem_of_the_settings_is_listed_and_the_rest_is_checked(
    installation: Installation,
) -> None:
    installation.write_settings(("quorum = 2", "quorum = 0"), ('monthly_usd = "200"', "monthly_usd = 2.5"))
    findings = [finding for finding in examine() if finding.subject == "settings"]
    assert [finding.is_ok for finding in findings] == [False, False]
    assert "[people] quorum" in findings[0].text
    assert installation["SQLite"].is_ok


@pytest.mark.deep
def test_without_tokens_the_rest_is_checked(installation: Installation) -> None:
    installation.set_environment(SLACK_BOT_TOKEN="")
    assert "SLACK_BOT_TOKEN is not set" in installation["settings"].text
    assert installation["approvers"].is_ok
    assert installation.slack.calls() == ()


def test_the_placeholders_of_the_example_are_named_and_never_sent(
    installation: Installation,
) -> None:
    installation.write_settings(('mode = "http"', 'mode = "socket"'))
    example = dotenv_values(stream=StringIO(read_resource("env.example")))
    assert set(example) == {"SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"}
    installation.set_environment(**example)
    problems = [finding.text for finding in examine() if finding.subject == "settings"]
    assert [text.split()[0] for text in problems] == ["SLACK_BOT_TOKEN", "SLACK_APP_TOKEN"]
    assert all("is a placeholder or incomplete" in text for text in problems)
    assert installation["approvers"].is_ok, "the rest is checked"
    assert installation.slack.calls() == ()


def test_a_providers_key_that_is_a_placeholder_is_named(installation: Installation) -> None:
    installation.set_environment(OPENAI_API_KEY="sk-…")
    text = installation["settings"].text
    assert text.startswith("OPENAI_API_KEY is a placeholder or was cut off") and "sk-" not in text


@pytest.mark.deep
def test_a_refused_token_is_reported_with_its_fix(installation: Installation) -> None:
    installation.set_environment(SLACK_BOT_TOKEN="xoxb-canary")
    finding = installation["Slack"]
    assert not finding.is_ok
    assert finding.text == "refuses the bot token: invalid_auth. Copy it again into .env"
    installation.slack.fail("auth.test", refused("account_inactive"))
    assert "account_inactive" in installation["Slack"].text


def test_an_unreachable_slack_is_reported_with_its_address(installation: Installation) -> None:
    installation.slack.fail("auth.test", cut_off())
    finding = installation["Slack"]
    assert not finding.is_ok
    assert finding.text.startswith(f"could not be reached at {installation.slack.access.api_url}")


def test_a_broken_slack_is_not_blamed_on_the_token(installation: Installation) -> None:
    installation.slack.fail("auth.test", broken(503))
    finding = installation["Slack"]
    assert not finding.is_ok
    assert "token" not in finding.text
    assert "HTTP 503" in finding.text


def test_missing_scopes_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with SlackEmulator(scopes=SCOPES - {"files:read", "im:write"}) as slack:
        finding = Installation(tmp_path, slack, monkeypatch)["scopes"]
    assert not finding.is_ok
    assert finding.text == "missing files:read, im:write: reinstall the app from manifest.yml"


def test_the_manifest_has_every_scope_that_the_doctor_checks() -> None:
    manifest = (Path(__file__).parents[3] / "manifest.yml").read_text()
    assert all(f"- {scope}\n" in manifest for scope in SCOPES)


@pytest.mark.deep
def test_missing_approvers_and_budget_are_reported(installation: Installation) -> None:
    installation.write_settings(
        ('approvers = ["U0BEN"]', ""), ('approver_groups = ["S1"]', ""), ('monthly_usd = "200"', "")
    )
    assert not installation["approvers"].is_ok
    assert '[people] approvers = ["U…"]' in installation["approvers"].text
    assert "only runs that cost nothing can start" in installation["budget"].text


def test_a_trainer_without_a_model_is_a_problem(installation: Installation) -> None:
    installation.write_settings(("[trainer.models]\ntiny", "[prices.x]\ninput = '1'\noutput = '1'\nsource"))
    finding = installation["own trainer"]
    assert not finding.is_ok
    assert "no base model: [trainer.models] NAME" in finding.text


@pytest.mark.deep
def test_without_the_extra_local_hosted_training_works_and_no_trainer_starts(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_trainer, "find_spec", lambda name: None if name == "torch" else name)
    assert not installation["own trainer"].is_ok
    assert f"torch missing): {install_line('local')}" in installation["own trainer"].text
    installation.set_environment(OPENAI_API_KEY="key")
    assert installation["own trainer"].is_ok
    assert installation["own trainer"].text.endswith("; not needed to train at OpenAI")
    assert _open_embedded_trainer(load_settings(os.environ, installation.folder / "finetune.toml")) is None


def test_every_base_model_that_is_left_out_is_reported_in_the_trainers_words(
    installation: Installation,
) -> None:
    installation.write_settings(('"models/tiny"', '".cache/tiny"\n"my model" = "org/name"'))
    finding = installation["own trainer"]
    assert not finding.is_ok
    assert "[trainer.models] tiny: .cache/tiny is neither a folder here nor a hub id" in finding.text
    assert "[trainer.models] my model: a name has at most 128 letters" in finding.text


@pytest.mark.deep
def test_only_providers_with_a_key_are_checked(installation: Installation) -> None:
    with Hosted() as company:
        installation.write_settings(more=f'[providers.openai]\nbase_url = "{company.url}"\n')
        assert "OpenAI" not in [finding.subject for finding in examine()]
        installation.set_environment(OPENAI_API_KEY=company.key)
        finding = installation["OpenAI"]
        assert finding.is_ok, finding
        assert finding.text.startswith("answers, and reports nothing that prevents training there")
        assert "2027-01-06 is the last day on which it accepts new jobs" in finding.text
        assert {seen.route.split()[0] for seen in company.requests} == {"GET"}


@pytest.mark.deep
def test_a_providers_refusal_is_reported_without_its_key(installation: Installation) -> None:
    with Hosted() as company:
        installation.write_settings(more=f'[providers.openai]\nbase_url = "{company.url}"\n')
        installation.set_environment(OPENAI_API_KEY="sk-canary")
        finding = installation["OpenAI"]
        assert not finding.is_ok
        assert "canary" not in finding.text
        company.fail("GET /fine_tuning/jobs", NOT_AVAILABLE)
        installation.set_environment(OPENAI_API_KEY=company.key)
        assert not installation["OpenAI"].is_ok


@pytest.mark.deep
def test_the_doctor_says_whether_a_vendors_bill_can_be_read(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Tinker's bills" not in [finding.subject for finding in examine()]
    with start_bare_peer(tmp_path / "peer", monkeypatch) as peer:
        tinker = f'[providers.tinker]\nbilling_base_url = "{peer.address}/api/v1"\n'
        installation.write_settings(('"models/tiny"', '"Qwen/Qwen3-8B"'), more=tinker)
        assert installation["Tinker's bills"].is_ok
        assert "as TINKER_ADMIN_KEY is not set" in installation["Tinker's bills"].text
        installation.set_environment(TINKER_ADMIN_KEY=ADMIN_KEY)
        assert installation["Tinker's bills"].text.startswith("can be read")
        installation.set_environment(TINKER_ADMIN_KEY=KEY)
        finding = installation["Tinker's bills"]
        assert not finding.is_ok
        assert "Tinker refuses the key in TINKER_ADMIN_KEY (HTTP 403)" in finding.text
        assert KEY not in finding.text
        installation.set_environment(TINKER_ADMIN_KEY="tml-…")
        assert "TINKER_ADMIN_KEY is a placeholder" in " ".join(finding.text for finding in examine())


def test_the_model_that_reads_questions_needs_a_key_and_a_price(installation: Installation) -> None:
    installation.write_settings(more='[assistant]\nmodel = "openai/gpt-4o-mini"\ndaily_usd = "0.50"\n')
    finding = installation["questions"]
    assert not finding.is_ok and "OPENAI_API_KEY" in finding.text and "`" not in finding.text
    with Hosted() as company:
        address = f'[providers.openai]\nbase_url = "{company.url}"\n'
        installation.write_settings(more=f'{address}[assistant]\nmodel = "openai/gpt-4o-mini"\n')
        installation.set_environment(OPENAI_API_KEY=company.key)
        finding = installation["questions"]
        assert finding.is_ok and finding.text.endswith("for up to $1 a day")
        Store(load_settings(need_slack=False).database).close()
        assert "has read 0 questions; nobody has said yet" in installation["questions"].text
        unknown = f'{address}[assistant]\nmodel = "openai/gpt-x-unheard"\n'
        installation.write_settings(more=unknown)
        assert "I know no price" in installation["questions"].text


def test_the_disk_of_a_future_data_folder_is_measured(installation: Installation) -> None:
    installation.write_settings(('data = "data"', 'data = "not/yet/there"'))
    assert f"GB free in {installation.folder}" in installation["disk"].text


@pytest.mark.parametrize(
    ("error_s", "text"),
    [
        (400, "is (399|400) s ahead of Slack's: let the network set it"),
        (-400, "is (399|400) s behind Slack's"),
    ],
)
def test_a_wrong_clock_is_reported_with_its_fix(error_s: float, text: str) -> None:
    now = time.time()
    finding = _check_clock(formatdate(now, usegmt=True), now + error_s, now + error_s)
    assert not finding.is_ok
    assert re.match(text, finding.text)


def test_a_slow_answer_is_not_taken_for_a_wrong_clock() -> None:
    assert _check_clock(formatdate(1_000_000, usegmt=True), 1_000_000 - 40, 1_000_000 + 40).is_ok
    assert _check_clock("", 0, 0).text == "not checked, as Slack sent no time"


@pytest.mark.deep
def test_files_that_others_can_read_are_reported_with_the_command_that_fixes_it(
    installation: Installation,
) -> None:
    (installation.folder / ".env").write_text("")
    (installation.folder / ".env").chmod(0o644)
    (installation.folder / "data").mkdir(mode=0o700)
    findings = [finding for finding in examine() if finding.subject == "permissions"]
    assert [finding.is_ok for finding in findings] == [True, False]
    assert findings[1].text == "other users can access .env (644): chmod 600 .env"
    (installation.folder / ".env").chmod(0o600)
    assert all(finding.is_ok for finding in examine() if finding.subject == "permissions")


@pytest.mark.deep
def test_a_data_folder_of_another_user_is_a_problem_and_the_rest_is_checked(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    (installation.folder / "data").mkdir()
    stat = Path.stat

    def refuse(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if "data" in path.parts[:-1]:
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refuse)
    monkeypatch.setattr(os, "access", lambda path, mode: "data" not in Path(path).parts)
    assert "can't be read by this user" in installation["SQLite"].text
    assert installation["approvers"].is_ok


@pytest.mark.deep
def test_a_running_bot_is_recognized_by_its_heartbeat(installation: Installation) -> None:
    (installation.folder / "data").mkdir()
    beat = installation.folder / "data" / "heartbeat"
    beat.write_text(f"{os.getpid()}\n")
    assert re.match(r"running, last step \d s ago", installation["bot"].text)
    os.utime(beat, (time.time() - 90, time.time() - 90))
    finding = installation["bot"]
    assert not finding.is_ok
    assert re.match(r"running, but took no step for (89|9\d) s: restart it", finding.text)


@pytest.mark.deep
@pytest.mark.skipif(not wal_is_safe(sqlite_version()), reason="the journal is never WAL here")
def test_wal_under_an_sqlite_that_can_corrupt_it_is_a_problem(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store(installation.folder / "data" / "finetune.db").close()
    assert installation["SQLite"].is_ok
    monkeypatch.setattr("bot.doctor.sqlite_version", lambda: (3, 46, 1))
    finding = installation["SQLite"]
    assert not finding.is_ok
    assert "can corrupt a WAL database, and this one uses WAL" in finding.text


def test_the_folders_of_a_new_bot_are_private(make_world: Callable[[Rules], World]) -> None:
    before = os.umask(0o022)
    try:
        settings = make_world(Rules()).service.settings
    finally:
        os.umask(before)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (settings.data, settings.files)} == {0o700}
