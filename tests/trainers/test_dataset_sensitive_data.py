"""Secrets in a file: each kind that companies issue is found on its line, and ordinary words of customers
are not."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot.cli import main
from trainers.dataset.sensitive_data import PERSONAL, SECRET, faults_in

ROOT = Path(__file__).resolve().parents[2]
BANKING = ROOT.parent / "shared" / "data" / "banking77"
LETTERS = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA3bC5dE7fG9hJ1kL2mN4"
# Put together here, so that no scanner of this repository takes them for real.
PLANTED = {
    "AWS key": "AKIA" + "Q3EGRIVX7LMN4TUP",
    "AWS secret key": "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzSAMPLEK9",
    "GitHub token": "ghp" + "_" + LETTERS[:36],
    "GitHub fine-grained token": "github" + "_pat_" + LETTERS[:30],
    "GitLab token": "gl" + "pat-" + LETTERS[:20],
    "GitLab deploy token": "gl" + "dt-" + LETTERS[:20],
    "Hugging Face token": "hf" + "_" + LETTERS[:34],
    "Google API key": "AI" + "za" + LETTERS[:35],
    "Google client secret": "GOC" + "SPX-" + LETTERS[:28],
    "Stripe key": "sk" + "_live_" + LETTERS[:24],
    "Stripe test key": "rk" + "_test_" + LETTERS[:24],
    "Stripe webhook secret": "wh" + "sec_" + LETTERS[:32],
    "Slack token": "xox" + "b-1234567890-" + LETTERS[:24],
    "Slack webhook": "https://hooks.slack.com/" + "services/T0ABCDEF1/B0ABCDEF2/" + LETTERS[:24],
    "OpenAI key": "sk" + "-proj-" + LETTERS[:40],
    "npm token": "npm" + "_" + LETTERS[:36],
    "PyPI token": "pypi" + "-AgEIcHlwaS5vcmc" + LETTERS[:40],
    "JSON web token": "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0NTYifQ." + LETTERS[:43],
    "private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "password": "password: hunter2!",
    "quoted password": 'DB_PASSWORD="' + 'tr0ub4dor&3"',
    "password in JSON": '{"passwd": "' + 'correct-horse-9"}',
    "password in JSON in a string": '{\\"password\\": \\"' + 'correct-horse-9\\"}',
    "API key": "API key: " + LETTERS[:32],
    "client secret": "client_secret=" + LETTERS[:40],
    "bearer token": "auth-token: " + LETTERS[:40],
}
HARMLESS = (
    "I forgot my password: what now?",
    "Password: ********",
    "password = {{password}}",
    "New password: <redacted>",
    "the secret: never give up",
    "My token: none came by mail",
    "The API key: where do I find it?",
    "Key: value, password: unchanged",
    "see https://example.com/services/team",
    "hf_token is the variable's name, and sk_live is a prefix",
    "pwd: Berlin",
)


@pytest.mark.parametrize("kind", PLANTED)
def test_each_kind_of_secret_is_found(kind: str) -> None:
    said = [fault.text for fault in faults_in(f"Hello, this is it: {PLANTED[kind]} and thanks.")]

    assert [fault.rule for fault in faults_in(f"x {PLANTED[kind]}")] == [SECRET] * len(said) and said


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize(
    ("before", "after"),
    [("密钥是", "，谢谢"), ("キーは", "です"), ("x = 1\\n", "\\nprint(x)"), ("?k=", "&z=1")],
)
def test_it_is_found_whatever_it_is_written_against(kind: str, before: str, after: str) -> None:
    """Between signs of a script without spaces, in code with its line ends escaped, in an address."""
    assert SECRET in {fault.rule for fault in faults_in(f"{before}{PLANTED[kind]}{after}")}


@pytest.mark.parametrize(
    "text",
    ["邮箱jo@example.com谢谢", "电话+8613800138000谢谢", "to: jo@example.com\\ntel\\n+49 170 1234567\\n"],
)
def test_addresses_and_numbers_too(text: str) -> None:
    kinds = {fault.text for fault in faults_in(text) if fault.rule == PERSONAL}

    assert len(kinds) == ("@" in text) + ("+" in text)


def test_a_check_names_the_line_of_each_and_no_other(tmp_path: Path) -> None:
    texts = [text for pair in zip(PLANTED.values(), HARMLESS * 3, strict=False) for text in pair]
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "a"}]}
        for text in texts
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    run = CliRunner().invoke(main, ["check", str(path), "--json", "--quick"])

    found = [one for one in json.loads(run.stdout)["findings"] if one["code"] == "secret"]
    assert [one["line"] for one in found] == list(range(1, 2 * len(PLANTED), 2))


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_speaks_of_secrets_is_none(text: str) -> None:
    assert [fault.text for fault in faults_in(text)] == []


def secrets_in(texts: list[str]) -> list[str]:
    return [text for text in texts if any(fault.rule == SECRET for fault in faults_in(text))]


def cells(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [" ".join(row) for row in csv.reader(file)]


def test_support_tickets_hold_one_secret_which_was_planted() -> None:
    examples = ROOT / "examples"
    chats = (examples / "support_tickets_flawed.jsonl").read_text(encoding="utf-8").splitlines()
    found = secrets_in([*[text for path in examples.glob("*.csv") for text in cells(path)], *chats])

    assert len(found) == 1 and "sk-" in found[0]


@pytest.mark.skipif(not BANKING.exists(), reason="needs ../shared/data/banking77")
def test_thirteen_thousand_messages_to_a_bank_hold_none() -> None:
    assert secrets_in([text for name in ("train", "test") for text in cells(BANKING / f"{name}.csv")]) == []


def test_a_line_made_to_be_slow_is_not(tmp_path: Path) -> None:
    """Each would take minutes if a pattern began again at every character."""
    for piece in (
        "eyJ-",
        "eyJ" + "a" * 12 + ".",
        "password: ",
        "secret=",
        "token:a1" + "b" * 20,
        "gl-",
        "a:",
    ):
        assert isinstance(faults_in(piece * (1_000_000 // len(piece))), list)
