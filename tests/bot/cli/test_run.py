"""`finetune run`: why it doesn't start, and what it reads from a .env file."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bot.embedded_trainer import free_port
from demo.people import BEN
from demo.slack_emulator import SlackEmulator, refused
from storage.database import Database
from tests.bot.cli_runner import ROOT, finetune


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("FINETUNE_CONFIG", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "SLACK_SIGNING_SECRET"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator() as slack:
        yield slack


@pytest.fixture
def environment(slack: SlackEmulator, tmp_path: Path) -> dict[str, str]:
    """Settings in finetune.toml, with a trainer at another address, so that none is started here."""
    config = tmp_path / "finetune.toml"
    config.write_text(
        f'[slack]\nmode = "http"\nport = {free_port()}\napi_url = "{slack.access.api_url}"\n'
        f'[people]\napprovers = ["{BEN.id}"]\n'
        '[providers.local]\nbase_url = "http://127.0.0.1:9/v1"\n'
        '[serving]\naddress = ""\n'
    )
    return {
        **os.environ,
        "FINETUNE_CONFIG": str(config),
        "SLACK_BOT_TOKEN": slack.access.bot_token,
        "SLACK_SIGNING_SECRET": slack.access.signing_secret,
        "PYTHONPATH": str(ROOT),
    }


@contextmanager
def start_bot(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command, pipe = [sys.executable, "-m", "bot", "run"], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment) as process:
        try:
            yield process
        finally:
            process.kill()


def run_in_vain(environment: dict[str, str]) -> str:
    """Returns the sentence with which a bot that can't start ends, with exit code 2 and without a traceback."""
    with start_bot(environment) as process:
        output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (2, ""), error
    assert "Traceback" not in error
    return error


def test_a_second_bot_on_the_same_data_is_refused_and_the_first_goes_on(
    slack: SlackEmulator, environment: dict[str, str], tmp_path: Path
) -> None:
    with start_bot(environment) as first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("finetune is running · http://127.0.0.1:")
        calls = len(slack.calls())
        assert f"already uses {tmp_path}/data/finetune.db" in run_in_vain(environment)
        assert len(slack.calls()) == calls, "the second one didn't even call Slack"
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=30) == 0
    Database(tmp_path / "data" / "finetune.db").close()


def test_a_refused_bot_token_is_named(slack: SlackEmulator, environment: dict[str, str]) -> None:
    slack.fail("auth.test", refused("invalid_auth"))
    error = run_in_vain(environment)
    assert error.strip() == "Slack refuses the bot's token: invalid_auth. Check SLACK_BOT_TOKEN in .env."


def test_a_refused_app_token_is_named_and_nothing_keeps_running(
    slack: SlackEmulator, environment: dict[str, str], tmp_path: Path
) -> None:
    slack.fail("apps.connections.open", refused("invalid_auth"))
    config = tmp_path / "finetune.toml"
    config.write_text(config.read_text().replace('mode = "http"', 'mode = "socket"'))
    error = run_in_vain(environment | {"SLACK_APP_TOKEN": "xapp-1"})
    assert "Slack refuses the app's token: invalid_auth. Check SLACK_APP_TOKEN in .env" in error
    assert not (tmp_path / "data" / "heartbeat").exists()


def test_a_port_in_use_is_reported_with_its_setting(environment: dict[str, str], tmp_path: Path) -> None:
    config = tmp_path / "finetune.toml"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config.write_text(re.sub(r"port = \d+", f"port = {port}", config.read_text()))
        error = run_in_vain(environment)
    assert f"[slack] host = '127.0.0.1', port = {port}: " in error and "in use" in error


@pytest.mark.parametrize(
    ("in_the_way", "reason"),
    [("finetune.db.lock", "[Errno 21]"), ("finetune.db-wal", "can't be opened: ")],
)
def test_a_database_that_cannot_be_opened_is_reported(
    environment: dict[str, str], tmp_path: Path, in_the_way: str, reason: str
) -> None:
    (tmp_path / "data" / in_the_way).mkdir(parents=True)
    error = run_in_vain(environment)
    assert reason in error and "Slack" not in error


def test_all_missing_tokens_are_named() -> None:
    result = finetune("run")
    assert result.exit_code == 2
    assert "• SLACK_BOT_TOKEN is not set" in result.stderr
    assert "• SLACK_APP_TOKEN is not set" in result.stderr
    assert "finetune doctor checks everything" in result.stderr


def test_a_dot_env_sets_only_our_own_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {
        "SLACK_BOT_TOKEN": "xoxb-1",
        "ACME_KEY": "sk-1",
        "HF_TOKEN": "hf-1",
        "TINKER_ADMIN_KEY": "tml-1",
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:2",
    }
    others = {"PYTHONPATH": str(tmp_path), "LD_PRELOAD": "x.so", "HTTPS_PROXY": "http://127.0.0.1:1"}
    for name in {**ours, **others}:
        monkeypatch.setenv(name, "for monkeypatch to take back")
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in {**ours, **others}.items()))
    (tmp_path / "finetune.toml").write_text(
        '[providers.acme]\ntitle = "Acme"\nbase_url = "https://acme.example/v1"\nkey_env = "ACME_KEY"\n'
    )
    result = finetune("run")
    assert {name: os.environ.get(name) for name in (*ours, *others)} == {**ours, **dict.fromkeys(others)}
    assert "ignoring HTTPS_PROXY, LD_PRELOAD, PYTHONPATH" in result.stderr
    assert str(tmp_path) not in result.stderr, "names, no values"
    assert "SLACK_BOT_TOKEN" not in result.stderr and "• SLACK_APP_TOKEN is not set" in result.stderr


def test_a_dot_env_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"SLACK_BOT_TOKEN=xoxb-\xe9\n")
    result = finetune("prices")
    assert result.exit_code == 2 and ".env can't be read: 'utf-8' codec" in result.stderr


@pytest.mark.deep
def test_slow_imports_are_not_loaded_at_the_start() -> None:
    code = "import sys, bot.cli, bot.app; print(sorted(sys.modules.keys() & set(sys.argv[1:])))"
    heavy = ["openai", "pydantic", "scipy", "sklearn", "numpy", "pyarrow", "matplotlib", "torch"]
    process = subprocess.run([sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True)
    assert process.stdout.strip() == "[]"
