"""`finetune import-traces`: the card, the estimate that it names, the rows that it writes, and what it refuses."""

from __future__ import annotations

import json
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest

from bot.command_parser import parse
from bot.slack.commands import finetune as slack_commands
from bot.values.runs import Refusal
from tests.bot.cli_runner import TICKETS, finetune, finetune_json
from tests.trainers.dataset.test_sensitive_data import SECRETS
from tests.trainers.traces.exports import BEGIN, COMPLETION, MESSAGES, SYSTEM, write_lines
from trainers.dataset import read
from trainers.dataset.reader import Questions, read_questions
from trainers.traces.facts import DAY_S


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)


def pair(number: int, *, model: str = "gpt-4o", system: str = SYSTEM, question: str = "") -> dict[str, Any]:
    """A request and its answer, ten a day."""
    text = question or f"Where is parcel {number}?"
    return {
        "request": {
            "model": model,
            "messages": [{"role": "system", "content": system}, {**MESSAGES[1], "content": text}],
        },
        "response": {
            **COMPLETION.to_dict(),
            "id": f"chatcmpl-{number}",
            "created": BEGIN + number * DAY_S / 10,
        },
    }


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """150 calls of 15 days, of which 30 are about another task and 10 of another model."""
    usual = [pair(number) for number in range(110)]
    translations = [pair(number, system="Translate it.") for number in range(110, 140)]
    small = [pair(number, model="gpt-4o-mini") for number in range(140, 151)]
    return write_lines(tmp_path / "calls.jsonl", *usual, *translations, *small)


@pytest.mark.deep
def test_the_card_names_an_estimate_that_both_places_understand(export: Path) -> None:
    result = finetune("import-traces", export)
    assert result.exit_code == 0
    assert result.stdout.startswith("calls.jsonl: 151 recorded calls of 2 models\n")
    assert "What follows is about gpt-4o with instructions 1: 110 of 151 calls." in result.stdout
    assert (
        "Left out: 30 of gpt-4o with instructions 2, 11 of gpt-4o-mini with instructions 1." in result.stdout
    )
    command = shlex.split(result.stdout.splitlines()[-1])
    assert command == [
        *("finetune", "estimate", "FILE", "current=gpt-4o", "volume=307requests", "prompt_tokens=120"),
    ]
    estimate = finetune(*command[1:2], TICKETS, *command[3:])
    assert estimate.exit_code == 0
    assert "307 requests" in estimate.stdout
    assert not isinstance(parse(slack_commands, f"estimate tickets {' '.join(command[3:])}"), Refusal)


def test_another_group_can_be_chosen(export: Path) -> None:
    small = finetune_json("import-traces", export, "--model", "gpt-4o-mini")["group"]
    assert (small["model"], small["prompt"], small["facts"]["calls"]) == ("gpt-4o-mini", 1, 11)
    translated = finetune_json("import-traces", export, "--prompt", "2")["group"]
    assert (translated["model"], translated["facts"]["calls"]) == ("gpt-4o", 30)
    everything = finetune_json("import-traces", export, "prompt=all")["group"]
    assert (everything["prompt"], everything["facts"]["calls"]) == (None, 140)
    unknown = finetune("import-traces", export, "--model", "gpt-9")
    assert unknown.exit_code == 2
    assert unknown.stderr == (
        "The file has no calls of the model gpt-9. Its models are gpt-4o, gpt-4o-mini; its instructions have the "
        "numbers 1 to 2.\n"
    )
    assert "or all" in finetune("import-traces", export, "--prompt", "second").stderr


def test_rows_without_labels_are_written_for_this_user_alone(export: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    printed = finetune_json("import-traces", export, "--out", out)
    assert printed["rows"]["lines"] == 110
    assert printed["command"].startswith("finetune estimate FILE current=gpt-4o")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    questions = read_questions(out, out.name, None)
    assert isinstance(questions, Questions)
    assert len(questions.examples) == 110
    assert b"delivery" not in out.read_bytes()

    before = out.read_bytes()
    again = finetune("import-traces", export, "--out", out)
    assert (again.exit_code, again.stderr) == (2, f"{out} exists already: name a new file.\n")
    assert out.read_bytes() == before
    elsewhere = finetune("import-traces", export, "--out", tmp_path / "none" / "rows.jsonl")
    assert elsewhere.exit_code == 2
    assert "can't be written" in elsewhere.stderr


def test_answers_are_labels_only_on_request_and_said_to_be_unchecked(export: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    result = finetune("import-traces", export, "--out", out, "--label-with-answers")
    assert result.exit_code == 0
    assert "Nobody has checked these answers: they are not labels by people." in result.stdout
    assert f"finetune estimate {out} current=gpt-4o" in result.stdout
    assert {example.answer for example in read(out, out.name).examples} == {"delivery"}
    without = finetune("import-traces", export, "--label-with-answers")
    assert (without.exit_code, without.stdout) == (2, "")
    assert "name their file with --out" in without.stderr


def test_personal_data_is_counted_or_masked_and_secrets_left_out(tmp_path: Path) -> None:
    export = write_lines(
        tmp_path / "calls.jsonl",
        pair(1, question="Write to anna@example.com"),
        pair(2, question=f"My key {SECRETS['OpenAI key']} fails"),
        pair(3),
    )
    unmasked = finetune("import-traces", export, "--out", "rows.jsonl")
    assert "Left out: 1 with what looks like a secret." in unmasked.stdout
    assert "1 row with personal data: an e-mail address in 1. With --mask" in unmasked.stdout
    assert "anna@example.com" in (tmp_path / "rows.jsonl").read_text()
    masked = finetune("import-traces", export, "--out", "masked.jsonl", "--mask")
    assert "1 row had personal data, and placeholders stand for it." in masked.stdout
    texts = [json.loads(line)["text"] for line in (tmp_path / "masked.jsonl").read_text().splitlines()]
    assert sorted(texts) == ["Where is parcel 3?", "Write to [e-mail address]"]


def test_other_files_are_refused_with_what_can_be_read() -> None:
    result = finetune("import-traces", TICKETS)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "holds no recorded calls of models" in result.stderr
    assert "LiteLLM's logging payloads" in result.stderr
