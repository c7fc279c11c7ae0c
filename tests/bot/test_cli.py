"""`finetune …` in the terminal: what it prints, as text and as JSON, and with which exit code it ends."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from benchmarks._flawed import add_flaws, write
from benchmarks._planted import make_texts, mislabel
from bot.cli import datasets, main
from bot.embedded_trainer import free_port
from demo.people import BEN
from demo.slack_emulator import SlackEmulator, refused
from storage.database import Database

ROOT = Path(__file__).parents[2]
TICKETS = ROOT / "examples" / "support_tickets.csv"
FLAWED = ROOT / "examples" / "support_tickets_flawed.jsonl"
NOISY = ROOT / "examples" / "support_tickets_copied_and_mislabelled.csv"
SECOND = ROOT / "examples" / "support_tickets_v2.csv"


@pytest.fixture(autouse=True)
def nobody_s_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder without finetune.toml and .env, an environment without tokens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("FINETUNE_CONFIG", "SLACK_BOT_TOKEN", "SLACK_APP_TOKEN", "SLACK_SIGNING_SECRET"):
        monkeypatch.delenv(name, raising=False)


def finetune(*arguments: str | Path) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def estimated(*arguments: str) -> dict[str, Any]:
    result = finetune("estimate", TICKETS, *arguments, "--json")
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


# check


def test_a_file_in_order_is_checked_with_exit_code_0() -> None:
    result = finetune("check", TICKETS)
    assert result.exit_code == 0
    assert result.stdout.startswith("support_tickets.csv is ready: ")


def test_the_json_of_a_check_lists_findings_by_line() -> None:
    result = finetune("check", FLAWED, "--json")
    assert result.exit_code == 1, "something in it blocks"
    findings = json.loads(result.stdout)["findings"]
    assert findings
    for finding in findings:
        assert {"line", "severity", "code", "message", "cure", "count"} == set(finding)
        assert finding["line"] is None or finding["line"] >= 1
        assert finding["severity"] in ("blocks", "warns", "tells")
        assert finding["code"].replace("_", "").isalpha()
        assert finding["message"].endswith(".")
    blocking = [finding for finding in findings if finding["severity"] == "blocks"]
    assert any(finding["line"] for finding in blocking)


def test_a_file_that_only_warns_has_exit_code_0(tmp_path: Path) -> None:
    rows = TICKETS.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "twice.csv").write_text("".join([*rows[:60], rows[5]]), encoding="utf-8")
    result = finetune("check", "twice.csv", "--json")
    severities = {finding["severity"] for finding in json.loads(result.stdout)["findings"]}
    assert "warns" in severities
    assert (result.exit_code, "blocks" in severities) == (0, False)


def test_a_blocked_file_says_so_for_people() -> None:
    result = finetune("check", FLAWED)
    assert result.exit_code == 1
    assert "can't be used yet: 8 problems to fix\n" in result.stdout


def test_the_columns_can_be_named(tmp_path: Path) -> None:
    rows = TICKETS.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "a.csv").write_text("".join(["words,kind\n", *rows[1:80]]), encoding="utf-8")
    result = finetune("check", "a.csv", "--text", "words", "--label", "kind", "--json")
    report = json.loads(result.stdout)
    assert (result.exit_code, report["columns"]) == (0, {"text": "words", "label": "kind"})


def test_a_check_counts_first_then_goes_rule_by_rule_with_the_cure_once(tmp_path: Path) -> None:
    rows = TICKETS.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "copies.csv").write_text("".join([*rows[:60], *rows[5:9], *rows[5:6]]), encoding="utf-8")
    said = finetune("check", "copies.csv", "--quick").stdout
    assert "\nFound: 3 worth a look" in said
    assert "Duplicate, 5 rows" in said and said.count("Delete the copies") == 1
    assert "each of lines 61, 65 repeats line 6" in said
    assert "tokens per epoch are copies" in said and "$" not in said, "no trainer by the token has its key"


def test_copies_have_a_price_where_a_trainer_by_the_token_has_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = TICKETS.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "copies.csv").write_text("".join([*rows, *rows[1:]]), encoding="utf-8")
    monkeypatch.setenv("ACME_KEY", "a key")
    (tmp_path / "finetune.toml").write_text(
        '[providers.acme]\nbase_url = "https://tuning.example/v1"\nkey_env = "ACME_KEY"\n'
        '[providers.acme.models.small]\ntraining = "20.00"\n'
    )
    tokens = json.loads(finetune("check", "copies.csv", "--quick", "--json").stdout)["duplicate_tokens"]
    said = finetune("check", "copies.csv", "--quick").stdout
    assert f"{tokens:,} tokens per epoch are copies, ${tokens * 20 / 1e6:.2f} on acme/small" in said


def test_settings_that_are_wrong_stop_no_check(tmp_path: Path) -> None:
    (tmp_path / "finetune.toml").write_text("[people]\nquorum = 0\n")
    result = finetune("check", TICKETS, "--quick")
    assert result.exit_code == 0
    assert "copies have no price" in result.stderr and "is ready" in result.stdout


def test_near_copies_and_wrong_labels_are_found_unless_it_must_be_quick() -> None:
    codes = [
        {
            finding["code"]
            for finding in json.loads(finetune("check", NOISY, *quick, "--json").stdout)["findings"]
        }
        for quick in ([], ["--quick"])
    ]
    assert {"near_duplicate", "label_doubted"} <= codes[0]
    assert not {"near_duplicate", "label_doubted"} & codes[1]


def test_each_planted_fault_is_named_by_its_line(tmp_path: Path) -> None:
    """Keys, personal data, copies, near copies, contradictions, odd labels, planted in copies of the tickets."""
    with TICKETS.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    made = add_flaws(rows, seed=3, of_each=21)
    write(made.held, tmp_path / "test.csv")
    result = finetune("check", write(made.rows, tmp_path / "rows.csv"), "--holdout", "test.csv", "--json")
    assert result.exit_code == 1, "keys block"
    named: dict[str, set[int]] = defaultdict(set)
    for finding in json.loads(result.stdout)["findings"]:
        if finding["line"] is not None:
            assert finding["message"].startswith(f"Line {finding['line']} ")
            named["near copies" if finding["code"].startswith("near_") else finding["code"]].add(
                finding["line"]
            )
    assert len(made.lines) == 10 and {code: named[code] for code in made.lines} == made.lines


def test_wrong_labels_are_named_by_their_lines(tmp_path: Path) -> None:
    made, wrong = mislabel(make_texts(6, 60, seed=1, own=0.5), 0.05, seed=1)
    path = write([(row.prompt[-1].content, row.answer) for row in made], tmp_path / "rows.csv")
    report = json.loads(finetune("check", path, "--json").stdout)
    doubted = {one["line"] for one in report["findings"] if one["code"] == "label_doubted"}
    assert doubted == {place + 2 for place in wrong}, "a first line has the columns' names"
    assert round(report["label_errors"]["expected"]) == len(wrong)


def test_a_check_says_how_far_it_is() -> None:
    said: list[str] = []
    datasets.check(NOISY, None, None, how=datasets.CheckOptions(deep=True, on_progress=said.append))
    assert said[-3].endswith(" rows read") and said[-2].startswith("Looking for near copies among")
    assert said[-1] == "Looking for labels that are probably wrong"


def test_every_near_copy_of_the_example_is_found() -> None:
    findings = json.loads(finetune("check", NOISY, "--json").stdout)["findings"]
    near = [finding for finding in findings if finding["code"] == "near_duplicate"]
    assert sum(finding["count"] for finding in near) == 14


def test_the_next_version_says_what_changed() -> None:
    result = finetune("check", SECOND, "--against", TICKETS, "--quick")
    assert result.exit_code == 0
    lines = {" ".join(line.split()) for line in result.stdout.splitlines()}
    assert {"Added: 59 rows", "Removed: 15 rows", "Relabelled: 8 rows"} <= lines
    diff = json.loads(finetune("check", SECOND, "--against", TICKETS, "--quick", "--json").stdout)["diff"]
    assert (diff["added"], diff["removed"], diff["relabelled"]) == (59, 15, 8)


def test_nothing_is_the_next_version_of_a_file_that_cannot_be_used() -> None:
    result = finetune("check", TICKETS, "--against", FLAWED, "--quick")
    assert result.exit_code == 2
    assert "there is nothing to compare with" in result.stderr and result.stdout == ""


def test_a_fix_writes_a_cleaned_copy_and_says_what_it_left_out(tmp_path: Path) -> None:
    original = FLAWED.read_bytes()
    result = finetune("check", FLAWED, "--quick", "--fix", "fixed.jsonl")
    assert result.exit_code == 1, "the file that was checked can't be used, whatever the copy is like"
    assert "fixed.jsonl: 50 rows" in result.stdout and "secret: line 36" in result.stdout
    assert "lines 8 and 43" in result.stdout, "what only a person can decide stays"
    assert FLAWED.read_bytes() == original
    again = finetune("check", "fixed.jsonl", "--quick", "--json")
    assert again.exit_code == 0
    assert not [one for one in json.loads(again.stdout)["findings"] if one["code"] == "duplicate"]


def test_a_fix_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("precious")
    result = finetune("check", TICKETS, "--quick", "--fix", "mine.csv")
    assert result.exit_code == 2
    assert "exists already" in result.stderr and result.stdout == ""
    assert (tmp_path / "mine.csv").read_text() == "precious"


def test_a_fix_into_a_folder_that_is_not_there_is_refused() -> None:
    result = finetune("check", TICKETS, "--quick", "--fix", "nowhere/fixed.csv")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "no folder nowhere" in result.stderr


def test_a_test_set_of_ones_own_may_not_be_asked_in_the_file(tmp_path: Path) -> None:
    rows = TICKETS.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "test.csv").write_text("".join([rows[0], *rows[3:5]]), encoding="utf-8")
    result = finetune("check", TICKETS, "--holdout", "test.csv", "--quick", "--json")
    overlaps = [one for one in json.loads(result.stdout)["findings"] if one["code"] == "overlap"]
    assert result.exit_code == 1
    assert [one["line"] for one in overlaps] == [4, 5]
    assert overlaps[0]["message"] == "Line 4 asks what the holdout asks in line 2."


def test_a_fix_beside_a_test_set_leaves_out_what_the_test_asks(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("text,label\n" + "\n".join(TICKETS.read_text().splitlines()[3:5]))
    result = finetune("check", TICKETS, "--holdout", "test.csv", "--quick", "--fix", "fixed.csv")
    assert "2 × same question as a held-out row: lines 4, 5" in result.stdout
    again = finetune("check", "fixed.csv", "--holdout", "test.csv", "--quick", "--json")
    assert "overlap" not in {one["code"] for one in json.loads(again.stdout)["findings"]}


def test_presidio_where_it_is_missing_is_refused_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bot.settings.find_spec", lambda _: None)
    result = finetune("check", TICKETS, "--presidio")
    assert result.exit_code == 2
    assert "presidio is not installed: pip install presidio-analyzer" in result.stderr
    both = finetune("check", TICKETS, "--presidio", "--quick")
    assert (both.exit_code, both.stderr) == (
        2,
        "--quick skips slow checks, and presidio is one: choose one of them.\n",
    )


def test_a_test_set_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("hello")
    result = finetune("check", TICKETS, "--holdout", "test.csv")
    assert result.exit_code == 2
    assert "test.csv can't be used as the test." in result.stderr


def test_no_label_of_one_row_alone_is_printed_and_no_control_character(tmp_path: Path) -> None:
    rows = [f"question {i} on {i * 77 % 91},{'ab'[i % 2]}\x1b[31m" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows, "hello you,my name is Ana"]))
    said = finetune("check", "a.csv", "--quick").stdout
    assert "… and 1 more, with a single row" in said
    assert "Ana" not in said and "\x1b" not in said


def test_three_kinds_of_personal_data_in_one_row_are_one_row(tmp_path: Path) -> None:
    rows = [f"question {i} on {i * 77 % 91},{'ab'[i % 2]}" for i in range(40)]
    held = "mail ana@example.org card 4111 1111 1111 1111,a"
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows, held, "mail ben@example.org now,b"]))
    assert "Personal data, 2 rows" in finetune("check", "a.csv", "--quick").stdout


def test_a_fix_beside_json_keeps_the_json_clean(tmp_path: Path) -> None:
    result = finetune("check", FLAWED, "--quick", "--json", "--fix", "fixed.jsonl")
    assert json.loads(result.stdout)["rows"] == 52
    assert "Left out: 10 lines." in result.stderr


def test_a_file_without_a_row_to_keep_has_no_cleaned_copy(tmp_path: Path) -> None:
    (tmp_path / "photo.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    result = finetune("check", "photo.csv", "--fix", "fixed.csv")
    assert result.exit_code == 2
    assert "No cleaned copy was written" in result.stderr
    assert not (tmp_path / "fixed.csv").exists()


def test_a_check_leaves_nothing_behind(tmp_path: Path) -> None:
    finetune("check", TICKETS)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_not_there_is_said() -> None:
    result = finetune("check", "gone.csv")
    assert result.exit_code == 2
    assert "'gone.csv' does not exist" in result.stderr


# estimate


def test_ten_million_tokens_of_gpt_4o_cost_25_dollars_a_month() -> None:
    answer = estimated("--current", "gpt-4o", "--volume", "10M")
    assert answer["monthly_input_tokens"] == 10_000_000
    assert answer["monthly_before_usd"] == 25.0
    assert answer["monthly_before_total_usd"] == pytest.approx(
        answer["monthly_before_usd"] + answer["monthly_before_output_usd"]
    )
    assert (answer["dataset"], answer["current"]) == ("support_tickets", "gpt-4o")
    assert answer["target"].startswith("local/")
    assert answer["verdict"]["headline"]
    assert all(one["why"] for one in answer["assumptions"])


def test_twice_the_volume_is_twice_the_bill() -> None:
    once, twice = (estimated("--current", "gpt-4o", "--volume", volume) for volume in ("10M", "20M"))
    assert twice["monthly_before_usd"] == 50.0
    assert twice["monthly_before_total_usd"] == pytest.approx(2 * once["monthly_before_total_usd"])
    assert twice["training_tokens"] == once["training_tokens"]


def test_without_today_s_model_the_saving_is_unknown_not_zero() -> None:
    answer = estimated()
    assert answer["monthly_before_usd"] is answer["saving_month_usd"] is None
    assert answer["training_tokens"] > 0
    assert any("is unknown" in reason["text"] for reason in answer["verdict"]["reasons"])


def test_an_estimate_for_people_shows_the_same_figure() -> None:
    result = finetune("estimate", TICKETS, "--current", "gpt-4o", "--volume", "10M", "--why")
    assert result.exit_code == 0
    assert "$25" in result.stdout
    assert "Assumptions" in result.stdout
    assert "`" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--current", "gpt-4o", "--volume", "lots"], "I can't read “lots” as a volume. Write "),
        (["--current", "gpt-4oo", "--volume", "10M"], "No price is known for “gpt-4oo”. Did you mean gpt-4o"),
        (["--target", "local/smollm2-135n"], "Did you mean local/smollm2-135m?"),
    ],
)
def test_what_cannot_be_understood_is_said_with_the_nearest(arguments: list[str], sentence: str) -> None:
    result = finetune("estimate", TICKETS, *arguments, "--json")
    assert result.exit_code == 2
    assert sentence in result.stderr
    assert result.stdout == ""


def test_a_flawed_file_is_not_estimated() -> None:
    result = finetune("estimate", FLAWED, "--json")
    assert result.exit_code == 2
    assert "first; then training on it can be estimated" in result.stderr
    assert result.stdout == ""


def test_settings_that_are_wrong_stop_an_estimate(tmp_path: Path) -> None:
    (tmp_path / "finetune.toml").write_text("[people]\nquorum = 0\n[budget]\nmonthly_usd = 2.5\n")
    result = finetune("estimate", TICKETS)
    assert result.exit_code == 2
    assert result.stderr.count("• finetune.toml, line ") == 2


# doctor, help


def test_the_doctor_lists_problems_and_ends_with_1() -> None:
    result = finetune("doctor")
    assert result.exit_code == 1
    assert "problem  settings: SLACK_BOT_TOKEN is not set" in result.stdout
    assert "ok       SQLite: " in result.stdout


def test_the_demo_of_0_1_0_is_told_where_it_is_now() -> None:
    result = finetune("demo", "--model", "some")
    assert result.exit_code == 2 and "make demo" in result.stderr


# run


def settings_for(slack: SlackEmulator, folder: Path) -> dict[str, str]:
    """Settings with a trainer that is somewhere else, so that none is started here."""
    config = folder / "finetune.toml"
    config.write_text(
        f'[slack]\nmode = "http"\nport = {free_port()}\napi_url = "{slack.access.api_url}"\n'
        f'[people]\napprovers = ["{BEN.id}"]\n'
        '[providers.local]\nbase_url = "http://127.0.0.1:9/v1"\n'
    )
    return {
        **os.environ,
        "FINETUNE_CONFIG": str(config),
        "SLACK_BOT_TOKEN": slack.access.bot_token,
        "SLACK_SIGNING_SECRET": slack.access.signing_secret,
    }


@pytest.fixture
def slack() -> Iterator[SlackEmulator]:
    with SlackEmulator() as slack:
        yield slack


@contextmanager
def running(environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-m", "bot", "run"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONPATH": str(ROOT)},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_second_run_on_the_same_data_is_refused_and_the_first_goes_on(
    slack: SlackEmulator, tmp_path: Path
) -> None:
    environment = settings_for(slack, tmp_path)
    with running(environment) as first:
        assert first.stdout is not None
        assert first.stdout.readline().startswith("finetune is running · http://127.0.0.1:")
        asked = len(slack.calls())
        with running(environment) as second:
            said, why = second.communicate(timeout=30)
        assert second.returncode == 2
        assert f"already uses {tmp_path}/data/finetune.db" in why
        assert "Traceback" not in why
        assert said == ""
        assert len(slack.calls()) == asked, "the second did not even ask Slack"
        assert first.poll() is None
        first.send_signal(signal.SIGTERM)
        assert first.wait(timeout=30) == 0
    Database(tmp_path / "data" / "finetune.db").close()


def test_a_run_with_a_refused_token_says_so(slack: SlackEmulator, tmp_path: Path) -> None:
    slack.fail("auth.test", refused("invalid_auth"))
    with running(settings_for(slack, tmp_path)) as process:
        _, why = process.communicate(timeout=30)
    assert process.returncode == 2
    assert why.strip() == "Slack refuses the bot's token: invalid_auth. Check SLACK_BOT_TOKEN in .env."


def test_a_run_whose_app_token_is_refused_says_so_and_leaves_nothing_running(
    slack: SlackEmulator, tmp_path: Path
) -> None:
    slack.fail("apps.connections.open", refused("invalid_auth"))
    environment = settings_for(slack, tmp_path) | {"SLACK_APP_TOKEN": "xapp-1"}
    config = tmp_path / "finetune.toml"
    config.write_text(config.read_text().replace('mode = "http"', 'mode = "socket"'))
    with running(environment) as process:
        said, why = process.communicate(timeout=30)
    assert (process.returncode, said) == (2, "")
    assert "Slack refuses the app's token: invalid_auth. Check SLACK_APP_TOKEN in .env" in why
    assert "Traceback" not in why
    assert not (tmp_path / "data" / "heartbeat").exists()


def test_a_run_whose_port_is_taken_names_the_setting(slack: SlackEmulator, tmp_path: Path) -> None:
    environment, config = settings_for(slack, tmp_path), tmp_path / "finetune.toml"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        config.write_text(re.sub(r"port = \d+", f"port = {port}", config.read_text()))
        with running(environment) as process:
            _, why = process.communicate(timeout=30)
    assert process.returncode == 2
    assert f"[slack] host = '127.0.0.1', port = {port}: " in why and "in use" in why
    config.write_text(config.read_text().replace("[slack]", '[slack]\nhost = "no host"'))
    with running(environment) as process:
        _, why = process.communicate(timeout=30)
    assert process.returncode == 2 and "[slack] host = 'no host', " in why


def test_a_run_on_a_database_that_cannot_be_opened_says_so(slack: SlackEmulator, tmp_path: Path) -> None:
    environment = settings_for(slack, tmp_path)
    data = tmp_path / "data"
    for folder, part in (
        (data / "finetune.db.lock", "[Errno 21]"),
        (data / "finetune.db-wal", "can't be opened: "),
    ):
        folder.mkdir(parents=True)
        with running(environment) as process:
            _, why = process.communicate(timeout=30)
        folder.rmdir()
        assert process.returncode == 2 and part in why and "Traceback" not in why, why
        assert "Slack" not in why


def test_a_run_without_tokens_names_them_all() -> None:
    result = finetune("run")
    assert result.exit_code == 2
    assert "• SLACK_BOT_TOKEN is not set" in result.stderr
    assert "• SLACK_APP_TOKEN is not set" in result.stderr
    assert "finetune doctor checks everything" in result.stderr


def test_of_a_dot_env_only_names_that_are_ours_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {
        "SLACK_BOT_TOKEN": "xoxb-1",
        "ACME_KEY": "sk-1",
        "HF_TOKEN": "hf-1",
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
    result = finetune("prices")
    assert {name: os.environ.get(name) for name in (*ours, *others)} == {**ours, **dict.fromkeys(others)}
    assert "ignoring HTTPS_PROXY, LD_PRELOAD, PYTHONPATH" in result.stderr
    assert str(tmp_path) not in result.stderr, "names, no values"


def test_a_dot_env_that_is_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"SLACK_BOT_TOKEN=xoxb-\xe9\n")
    result = finetune("prices")
    assert result.exit_code == 2 and ".env can't be read: 'utf-8' codec" in result.stderr


def test_tokens_may_stand_in_a_dot_env(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("SLACK_BOT_TOKEN=xoxb-from-dot-env\n")
    monkeypatch.setenv("SLACK_BOT_TOKEN", "for monkeypatch to take back")
    monkeypatch.delenv("SLACK_BOT_TOKEN")
    result = finetune("run")
    assert "SLACK_BOT_TOKEN" not in result.stderr
    assert "• SLACK_APP_TOKEN is not set" in result.stderr


def test_what_takes_long_to_load_is_not_loaded_at_the_start() -> None:
    code = "import sys, bot.cli, bot.app; print(sorted(sys.modules.keys() & set(sys.argv[1:])))"
    heavy = ["openai", "pydantic", "scipy", "sklearn", "numpy", "pyarrow", "matplotlib", "torch"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
