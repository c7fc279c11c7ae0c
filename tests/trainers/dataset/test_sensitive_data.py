"""Secrets, personal data and special tokens are found in rows, and text that only resembles them is not."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from bot.cli import main
from tests.trainers.dataset.builders import BANKING77, chat_line, make_row, make_rows, needs_banking77
from trainers.dataset.checks import Findings
from trainers.dataset.sensitive_data import (
    PERSONAL,
    SECRET,
    Scan,
    check_sensitive,
    faults_in,
    scan_file,
    scanner_name,
)

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
LETTERS = "aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zA3bC5dE7fG9hJ1kL2mN4"
# Put together here, so that no scanner of this repository takes them for real.
SECRETS = {
    "AWS key": "AKIA" + "Q3EGRIVX7LMN4TUP",
    "AWS session key": "ASIA" + "ABCDEFGH12345678",
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
    "Slack app token": "xapp" + "-1-A0123456789-abc",
    "Slack webhook": "https://hooks.slack.com/" + "services/T0ABCDEF1/B0ABCDEF2/" + LETTERS[:24],
    "OpenAI key": "sk" + "-proj-" + LETTERS[:40],
    "npm token": "npm" + "_" + LETTERS[:36],
    "PyPI token": "pypi" + "-AgEIcHlwaS5vcmc" + LETTERS[:40],
    "JSON web token": "ey" + "JhbGciOiJIUzI1NiJ9.ey" + "JzdWIiOiIxMjM0NTYifQ." + LETTERS[:43],
    "private key": "-----BEGIN " + "PRIVATE KEY-----",
    "OpenSSH key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "password": "password: hunter2!",
    "quoted password": 'DB_PASSWORD="' + 'tr0ub4dor&3"',
    "password in JSON": '{"passwd": "' + 'correct-horse-9"}',
    "password in JSON in a string": '{\\"password\\": \\"' + 'correct-horse-9\\"}',
    "API key": "API key: " + LETTERS[:32],
    "client secret": "client_secret=" + LETTERS[:40],
    "bearer token": "auth-token: " + LETTERS[:40],
}
# A script without spaces, code with escaped line ends, and an address may surround a secret.
CONTEXTS = (
    *(("Hello, this is it: ", " and thanks."), ("密钥是", "，谢谢"), ("キーは", "です")),
    *(("x = 1\\n", "\\nprint(x)"), ("?k=", "&z=1")),
)
PERSONAL_DATA = {
    "e-mail": "ines.example@mail.example.com",
    "phone": "+49 170 1234567",
    "phone with brackets": "+1 (555) 010-9999",
    "phone in America": "(555) 234-5678",
    "phone in America with dashes": "555-234-5678",
    "phone in America with dots": "555.234.5678",
    "phone in America without a blank": "(555)234-5678",
    "phone in pasted code": "a\\n555-234-5678",
    "social security": "123-45-6789",
    "card": "4111 1111 1111 1111",
    "card with dashes": "5500-0000-0000-0004",
    "American Express": "378282246310005",
    "IBAN": "DE89 3704 0044 0532 0130 00",
    "compact IBAN": "NL91ABNA0417164300",
    "IBAN in capitals": "IBAN GB29 NWBK 6016 1331 9268 19 PLEASE",
}
ABOUT_SECRETS = (
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
    "sk-learn-is-a-library-for-machine-learning",
    "AKIA is a town",
    "task-force-one-of-the-eastern-region-2024-x",
    "ghp_short",
)
LIKE_PERSONAL_DATA = (
    *("4111 1111 1111 1112", "order 1234567890123456 of 2025", "DE89 3704 0044 0532 0130 01", "@example.com"),
    *("a <| b |> c", "price 29.99 at 10:30", "a surcharge of +1.50 or +20 in 2025", "1+12345678901"),
    *("order 555 234 5678", "order 555-134-5678", "part 155-234-5678", "version 555.234-5678"),
    *("batch A-555-234-5678", "000-45-6789", "666-45-6789", "923-45-6789", "123-00-6789", "123-45-0000"),
    *("123-45-67890", "1123-45-6789"),
)
HALF_PATTERNS = (
    *("a", "a@", "1 ", "+1", "+1 ", "A1", "<|", "sk-", "-----BEGIN A ", "AB12 CDEF ", "555-234-", "123-45-"),
    *("eyJ-", "gl-", "a:"),
)
TOOL = {"type": "function", "function": {"name": "mail", "description": "mails jo@example.com"}}


def rules_in(text: str) -> list[tuple[str, str]]:
    return [(fault.rule.code, fault.rule.severity) for fault in faults_in(text)]


@pytest.mark.parametrize("kind", SECRETS)
def test_a_secret_blocks_whatever_surrounds_it(kind: str) -> None:
    for before, after in CONTEXTS:
        rules = rules_in(f"{before}{SECRETS[kind]}{after}")
        assert ("secret", "blocks") in rules, before
    assert set(rules_in(f"x {SECRETS[kind]}")) == {("secret", "blocks")}


@pytest.mark.parametrize("kind", PERSONAL_DATA)
def test_personal_data_warns(kind: str) -> None:
    assert rules_in(f"it is {PERSONAL_DATA[kind]}, ok") == [("personal_data", "warns")]


@pytest.mark.parametrize(
    "text",
    ["邮箱jo@example.com谢谢", "电话+8613800138000谢谢", "to: jo@example.com\\ntel\\n+49 170 1234567\\n"],
)
def test_personal_data_is_found_in_scripts_without_spaces_and_in_pasted_code(text: str) -> None:
    kinds = {fault.text for fault in faults_in(text) if fault.rule == PERSONAL}
    assert len(kinds) == ("@" in text) + ("+" in text)


@pytest.mark.parametrize(
    "text",
    ["<|fim_suffix|>", "<|endoftext|>", "<|im_start|>", "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>"],
)
def test_the_text_of_a_special_token_warns(text: str) -> None:
    assert rules_in(f"a {text} b") == [("special_token", "warns")]


@pytest.mark.parametrize("text", [*ABOUT_SECRETS, *LIKE_PERSONAL_DATA])
def test_text_that_only_resembles_sensitive_data_has_no_fault(text: str) -> None:
    assert rules_in(text) == []


def test_each_kind_is_reported_once_a_row_without_its_value() -> None:
    rows = make_rows(450)
    address = PERSONAL_DATA["e-mail"]
    rows[320] = make_row(321, f"{address} and again {address}", SECRETS["AWS key"])
    findings = Findings(listed=20)
    check_sensitive(rows, findings)
    assert [(f.line, f.code) for f in findings.sorted()] == [(321, "secret"), (321, "personal_data")]
    assert not [f for f in findings.sorted() if "ines" in f.message or "AKIA" in f.message]


def test_a_check_names_the_line_of_each_secret_and_no_other(tmp_path: Path) -> None:
    texts = [text for pair in zip(SECRETS.values(), ABOUT_SECRETS * 3, strict=False) for text in pair]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(chat_line(text, "a") for text in texts), encoding="utf-8")
    run = CliRunner().invoke(main, ["check", str(path), "--json", "--quick"])
    lines = [f["line"] for f in json.loads(run.stdout)["findings"] if f["code"] == "secret"]
    assert lines == list(range(1, 2 * len(SECRETS), 2))


@pytest.mark.parametrize("part", HALF_PATTERNS)
def test_a_long_line_of_half_a_pattern_is_searched_in_linear_time_and_holds_nothing(part: str) -> None:
    """The search would take minutes if a pattern began again at every character."""
    assert faults_in(part * (200_000 // len(part))) == []


@pytest.mark.parametrize("part", ["eyJ" + "a" * 12 + ".", "password: ", "secret=", "token:a1" + "b" * 20])
def test_a_long_line_of_repeated_secrets_is_searched_in_linear_time(part: str) -> None:
    assert isinstance(faults_in(part * (200_000 // len(part))), list)


def read_cells(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return [" ".join(row) for row in csv.reader(file)]


def has_secret(text: str) -> bool:
    return any(fault.rule == SECRET for fault in faults_in(text))


def test_the_example_tickets_hold_only_the_planted_secret() -> None:
    chats = (EXAMPLES / "support_tickets_flawed.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [*[text for path in EXAMPLES.glob("*.csv") for text in read_cells(path)], *chats]
    (text,) = filter(has_secret, texts)
    assert "sk-" in text


@needs_banking77
def test_thirteen_thousand_messages_to_a_bank_hold_no_secret() -> None:
    texts = [text for part in ("train", "test") for text in read_cells(BANKING77 / f"{part}.csv")]
    assert not list(filter(has_secret, texts))


@pytest.mark.parametrize(
    "row",
    [
        chat_line("mail jo@example.com", "refund"),
        chat_line("mail jo@example.com", "refund").replace("@", r"\u0040"),
        chat_line("where is it", "refund", tools=[TOOL]),
        chat_line("where is it", "refund", **{"jo@example.com": 1}),  # type: ignore[arg-type]
    ],
    ids=["plain", "escaped", "in a tool", "in a key"],
)
def test_an_address_is_found_wherever_it_stands_in_the_row(tmp_path: Path, row: str) -> None:
    path = tmp_path / "part.jsonl"
    path.write_text(f"{chat_line('where is it', 'refund')}\n{row}\n", encoding="utf-8")
    scan = scan_file(path, presidio=False)
    assert (scan.personal, scan.secret) == ((("an e-mail address", 1),), ())


def test_a_scan_has_the_hash_of_the_file_and_survives_json(tmp_path: Path) -> None:
    path = tmp_path / "part.jsonl"
    path.write_text(chat_line(SECRETS["AWS key"], "refund"), encoding="utf-8")
    scan = scan_file(path, presidio=False)
    assert scan.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (scan.codes, scan.personal) == (frozenset({"secret"}), ())
    assert Scan.from_json(scan.to_json()) == scan


def test_scanners_with_other_patterns_have_another_name() -> None:
    assert scanner_name(presidio=True) != scanner_name(presidio=False)
