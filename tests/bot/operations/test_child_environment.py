"""What the child processes of `finetune run` have in their environment, as the system reports it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.people import ANA, TICKETS
from demo.service import RunningBot
from demo.slack_emulator import SlackEmulator
from tests.bot.operations.test_embedded_trainer import base
from tests.patience import wait_until
from trainers.host import trainer_environment

__all__ = ["base"]
KEYS = ("SLACK_APP_TOKEN", "OPENAI_API_KEY", "NEBIUS_API_KEY", "AWS_SECRET_ACCESS_KEY", "DATABASE_URL")
ROWS = "text,label\n" + "\n".join(f"question {n} about {n * 7 % 90},{'ab'[n % 2]}" for n in range(60))


@pytest.fixture
def bot(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[RunningBot, SlackEmulator]]:
    for name in KEYS:
        monkeypatch.setenv(name, f"canary-{name}")
    monkeypatch.setenv("HF_TOKEN", "opens bases")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("WANDB_API_KEY", "keeps curves")
    with SlackEmulator() as slack, RunningBot(tmp_path, slack.access, base) as bot:
        slack.deliver_to(bot.request_url)
        yield bot, slack


@pytest.mark.deep
def test_no_key_of_slack_or_a_vendor_is_in_a_childs_environment(
    bot: tuple[RunningBot, SlackEmulator], tmp_path: Path
) -> None:
    running, slack = bot
    upload_tickets(slack, tmp_path / "tickets.csv")
    worker = wait_until(
        lambda: environment_of_child(running.pid, "multiprocessing.spawn"), "the worker's start"
    )
    trainer = wait_until(lambda: environment_of_child(running.pid, "trainers.local"), "the trainer's start")

    for environment in (worker, trainer):
        assert "PATH=" in environment
        assert "canary" not in environment
        assert slack.access.bot_token not in environment
        assert slack.access.signing_secret not in environment
    assert "WANDB_API_KEY=keeps curves" in trainer
    assert "ONEDNN_MAX_CPU_ISA=AVX2" in trainer  # simulates another machine
    assert "WANDB_API_KEY" not in worker
    assert "FINETUNE_TRAINER_KEY" not in worker


def upload_tickets(slack: SlackEmulator, path: Path) -> None:
    path.write_text(ROWS)
    slack.upload(ANA.id, path, channel=TICKETS.id)
    (message,) = [message for message in slack.messages(TICKETS.id) if message.files]
    slack.message_shortcut(ANA.id, TICKETS.id, message.ts, "use_as_training_data")
    wait_until(lambda: slack.view(ANA.id), "the form")
    assert slack.submit_modal(ANA.id, {"name": "a", "text": "", "label": ""}).accepted


def environment_of_child(parent: int, command: str) -> str:
    """Returns the environment of the child with this in its command line; '' while there is none."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            is_child = f"PPid:\t{parent}\n" in (folder / "status").read_text()
            if is_child and command in (folder / "cmdline").read_text():
                return (folder / "environ").read_text()
        except OSError:  # it has ended
            continue
    return ""


@pytest.mark.parametrize(
    ("arguments", "gets_key"),
    [((), False), (("--storage", "s3://bucket/x"), True), (("--storage=s3://bucket/x",), True)],
)
def test_a_storages_keys_go_only_to_a_trainer_that_uses_one(
    arguments: tuple[str, ...], gets_key: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "opens the bucket")
    monkeypatch.setenv("SLACK_APP_TOKEN", "xapp-1")
    environment = trainer_environment(arguments)
    assert ("AWS_SECRET_ACCESS_KEY" in environment) == gets_key
    assert "SLACK_APP_TOKEN" not in environment
