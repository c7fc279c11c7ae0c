"""Log lines: JSON with the reference that the user read, found by `finetune log`, and without secrets."""

from __future__ import annotations

import json
import logging
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot import logs
from bot.services import overview
from demo.people import BEN
from tests.bot.cli_runner import finetune, finetune_json
from tests.bot.slack.test_story_inbox import environment
from tests.bot.world import World
from tests.patience import wait_until
from trainers.log_lines import LENGTH, LETTERS, REDACTED, Redactor, TextLines

SECRET = "s3cret-of-the-test"
REFERENCE = re.compile(rf"Reference: ([{LETTERS}]{{8}})")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    logs.set_up(tmp_path, [SECRET], "json")
    yield tmp_path
    for handler in root.handlers:
        if handler not in before:
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)


def lines(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / logs.FILE).read_text().splitlines()]


def test_each_line_is_json_and_lines_of_one_action_share_a_reference(folder: Path) -> None:
    log = logging.getLogger("bot.test")
    with logs.referenced() as reference:
        log.warning("first\nwith a line's end")
        log.error("second")
    log.error("elsewhere")
    first, second, other = lines(folder)
    assert first["ref"] == second["ref"] == reference != other["ref"] and len(other["ref"]) == LENGTH
    assert (first["level"], first["logger"]) == ("warning", "bot.test")
    assert first["message"] == "first\nwith a line's end"
    assert first["at"].endswith("+00:00")
    assert [line["message"] for line in logs.find(folder, reference)] == [first["message"], "second"]


def test_our_keys_are_redacted_even_in_tracebacks(folder: Path) -> None:
    try:
        raise ValueError(f"Bearer {SECRET} refused")
    except ValueError:
        logging.getLogger("bot.test").exception("calling with %s and xoxb-123456789-abcdef", SECRET)
    text = (folder / logs.FILE).read_text()
    assert SECRET not in text and "xoxb-123" not in text and text.count(REDACTED) >= 3
    assert json.loads(text)["error"].startswith("Traceback")


@pytest.mark.parametrize("start", ["xapp-1-", "sk-", "hf_", "ghp_", "gho_", "github_pat_"])
def test_keys_that_are_not_in_our_settings_are_redacted_too(folder: Path, start: str) -> None:
    logging.getLogger("bot.test").error("cloning with %s", start + "a1B2c3D4e5F6")
    assert [line["message"] for line in lines(folder)] == [f"cloning with {REDACTED}"]


def test_a_line_that_a_kill_cut_off_is_skipped(folder: Path) -> None:
    logging.getLogger("bot.test").error("complete")
    (only,) = lines(folder)
    with (folder / logs.FILE).open("a") as file:
        file.write('{"ref": "' + only["ref"] + '", "mess')
    assert len(list(logs.find(folder, only["ref"]))) == 1


def test_a_reference_of_our_trainer_is_found_in_its_own_log(folder: Path) -> None:
    code = (
        "import asyncio, logging; from trainers.log_lines import write_log; write_log(('a-key-of-ours',))\n"
        "try: raise RuntimeError('no such luck with a-key-of-ours')\n"
        "except RuntimeError: logging.getLogger('t').exception('generating', extra={'ref': 'K7Q2M9XA'})\n"
        "print('a line of another program')\n"
        "try: raise asyncio.CancelledError\n"
        "except asyncio.CancelledError: logging.getLogger('uvicorn.error').exception('an answer that was cut off')"
    )
    (folder / "trainer").mkdir()
    with (folder / logs.TRAINERS_FILE).open("wb") as file:
        subprocess.run([sys.executable, "-c", code], stdout=file, stderr=file, check=True, timeout=60)
    (line,) = logs.find(folder, "K7Q2M9XA")
    assert line["message"] == "generating"
    assert "no such luck with [secret]" in str(line["error"])
    assert "cut off" not in (folder / logs.TRAINERS_FILE).read_text()


def test_lines_for_a_terminal_have_the_reference_too(tmp_path: Path) -> None:
    record = logging.LogRecord("bot.test", logging.INFO, "", 0, f"hello {SECRET}", None, None)
    record.ref = "K7Q2M9XA"
    text = TextLines(Redactor([SECRET])).format(record)
    assert "INFO K7Q2M9XA bot.test: hello [secret]" in text


def test_a_failed_command_shows_the_reference_of_its_cause_in_the_log(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overview, "status", _broken)
    text = world.type("/finetune status")
    reference = REFERENCE.search(text)
    assert reference and "nothing was changed" in text
    (line,) = logs.find(folder, reference[1])
    assert line["message"] == "a listener failed" and "no such luck" in str(line["error"])


def test_a_failed_button_shows_the_reference_to_the_person_who_clicked(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start()
    monkeypatch.setattr("bot.services.common.authorization.look_up", _broken)
    text = world.click_and_read(BEN, "approve_plan")
    assert REFERENCE.search(text) and "nothing was changed" in text


def test_a_click_that_fails_after_its_effect_doesnt_claim_that_nothing_changed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start_approved()
    world.tick_until_state("training")
    monkeypatch.setattr("bot.cards.common.general.answer", _broken)
    text = world.click_and_read(BEN, "cancel_run")
    run = world.store.runs.get(1)
    assert run and run.cancel_asked_by == BEN.id
    assert REFERENCE.search(text) and "nothing was changed" not in text


def test_a_failed_step_is_on_the_card_with_its_reference_and_is_repeated_once_fixed(
    world: World, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.start_approved()
    world.tick_until_state("training")
    with monkeypatch.context() as patch:
        patch.setattr("bot.services.training.training.follow", _broken)
        world.pass_time(60)
        world.tick(2)
    text = world.find_message("Something in the bot went wrong at this step")
    reference = REFERENCE.search(text)
    assert reference
    messages = [line["message"] for line in logs.find(folder, reference[1])]
    assert "run 1: its step failed" in messages
    world.pass_time(60)
    world.tick_until_state("evaluating")


def test_finetune_log_shows_the_lines_of_a_reference(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "finetune.toml"
    config.write_text('data = "."\n')
    monkeypatch.setenv("FINETUNE_CONFIG", str(config))
    with logs.referenced() as reference:
        logging.getLogger("bot.test").error("the cause")
    text = finetune("log", reference.lower())
    assert text.exit_code == 0 and "error bot.test: the cause" in text.stdout
    assert finetune_json("log", reference)["ref"] == reference
    missing = finetune("log", "NOSUCH22")
    assert missing.exit_code == 1 and "has the reference NOSUCH22" in missing.stderr


@pytest.mark.slow
def test_a_bot_without_a_terminal_logs_json_to_stderr_and_to_its_file(world: World) -> None:
    world.stop()
    with subprocess.Popen(
        [sys.executable, "-m", "bot", "run"],
        env=environment(world),
        cwd=world.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as bot:
        assert bot.stdout is not None and "is running" in bot.stdout.readline()
        file = (world.folder / "data") / logs.FILE
        wait_until(lambda: file.exists() and file.read_text(), "the first line of the log", seconds=30)
        bot.terminate()
        try:
            errors = bot.communicate(timeout=30)[1]
        finally:
            bot.kill()
    assert [json.loads(line)["ref"] for line in errors.splitlines()]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600 and file.read_text() == errors


def test_a_token_in_the_environment_causes_no_warning(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SLACK_BOT_TOKEN", "xoxb-of-the-test")
    caplog.clear()
    world.restart()
    assert "token" not in caplog.text


def _broken(*args: object, **kwargs: object) -> None:
    raise RuntimeError("no such luck")
