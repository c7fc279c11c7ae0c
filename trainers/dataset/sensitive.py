"""Secrets and personal data in a text, by anchored patterns. Says that there is one, never what it is.

Each pattern runs only where a cheap look finds its fixed part, and none can backtrack far: a line of a
million letters costs milliseconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.values import Example

SECRET = Rule("secret", "blocks", "Withdraw that secret where it was issued, and take it out of the file.")
PERSONAL = Rule(
    "personal_data", "warns", "Replace it by a placeholder, or be sure that it may leave for the trainer."
)
SPECIAL_TOKEN = Rule("special_token", "warns", "Take the <|…|> marks out: hosted trainers refuse the file.")

_ROWS_AT_ONCE = 200


def check_sensitive(examples: Sequence[Example], found: Findings) -> None:
    """One finding for each kind and row. Many rows are looked at as one text first: most hold nothing."""
    for start in range(0, len(examples), _ROWS_AT_ONCE):
        chunk = examples[start : start + _ROWS_AT_ONCE]
        texts = ["\n".join([message.content for message in example.messages]) for example in chunk]
        suspected = _present("\n".join(texts), _PATTERNS)
        for example, text in zip(chunk, texts, strict=True) if suspected else ():
            for fault in _faults(text, suspected):
                found.at(example.line, fault)


def faults_in(text: str) -> list[Fault]:
    return _faults(text, _PATTERNS)


def _faults(text: str, patterns: Sequence[_Pattern]) -> list[Fault]:
    return list({p.what: Fault(p.rule, f"holds {p.what}") for p in _present(text, patterns)}.values())


def _present(text: str, patterns: Sequence[_Pattern]) -> list[_Pattern]:
    return [pattern for pattern in patterns if pattern.is_in(text)]


def _anything(_: str) -> bool:
    return True


@dataclass(frozen=True)
class _Pattern:
    """`fixed` is a part that every match has; `is_real` looks closer at a match."""

    rule: Rule
    what: str
    fixed: str
    shape: re.Pattern[str]
    is_real: Callable[[str], bool] = _anything

    def is_in(self, text: str) -> bool:
        return self.fixed in text and any(self.is_real(m.group()) for m in self.shape.finditer(text))


# Registered lengths (ISO 13616 registry) of the countries whose accounts support desks in Europe meet.
_IBAN_LENGTHS = {
    "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20, "ES": 24,
    "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IS": 26, "IT": 27, "LI": 21,
    "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24,
    "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26, "AE": 23, "IL": 23,
}  # fmt: skip
_CARD = re.compile(r"4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6011\d{12}|65\d{14}")


def _is_card(match: str) -> bool:
    """A network's prefix and length, and the Luhn check of ISO/IEC 7812-1."""
    digits = match.replace(" ", "").replace("-", "")
    if not _CARD.fullmatch(digits):
        return False
    doubled = [int(d) if i % 2 == 0 else sum(divmod(2 * int(d), 10)) for i, d in enumerate(reversed(digits))]
    return sum(doubled) % 10 == 0


def _is_iban(match: str) -> bool:
    """The country's length, and the check digits: mod 97 is 1 (ISO 13616)."""
    compact = match.replace(" ", "")
    length = _IBAN_LENGTHS.get(compact[:2])
    if length is None or len(compact) < length:
        return False
    account = compact[:length]
    return int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1


_EMAIL = r"[0-9A-Za-z]@[0-9A-Za-z-]{1,63}(?:\.[0-9A-Za-z-]{1,63}){0,5}\.[A-Za-z]{2,24}\b"
_IBAN = r"[A-Z]{2}[0-9]{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?"
_API_KEY = r"\bsk-(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{20}"
_PATTERNS = (
    _Pattern(SECRET, "what looks like an AWS key", "AKIA", re.compile(r"\bAKIA[0-9A-Z]{16}\b")),
    _Pattern(SECRET, "what looks like an AWS key", "ASIA", re.compile(r"\bASIA[0-9A-Z]{16}\b")),
    _Pattern(SECRET, "a private key", "-----BEGIN ", re.compile(r"-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY")),
    _Pattern(SECRET, "what looks like an API key (sk-…)", "sk-", re.compile(_API_KEY)),
    _Pattern(SECRET, "what looks like a Stripe key", "k_live_", re.compile(r"\b[rs]k_live_[0-9A-Za-z]{16}")),
    _Pattern(SECRET, "what looks like a Slack token", "xox", re.compile(r"\bxox[abeoprs]-[0-9A-Za-z-]{10}")),
    _Pattern(SECRET, "what looks like a Slack token", "xapp-", re.compile(r"\bxapp-[0-9]-[0-9A-Za-z-]{10}")),
    _Pattern(SECRET, "what looks like a GitHub token", "gh", re.compile(r"gh[opusr]_[0-9A-Za-z]{36}")),
    _Pattern(SECRET, "what looks like a GitHub token", "github_pat_", re.compile(r"\bgithub_pat_\w{22}")),
    _Pattern(SECRET, "what looks like a Google API key", "AIza", re.compile(r"\bAIza[0-9A-Za-z_-]{35}")),
    _Pattern(SPECIAL_TOKEN, "the text of a special token", "<|", re.compile(r"<\|[a-z0-9_]{2,40}\|>")),
    _Pattern(PERSONAL, "an e-mail address", "@", re.compile(_EMAIL)),
    _Pattern(
        PERSONAL, "what looks like a payment card", "", re.compile(r"[0-9](?:[ -]?[0-9]){12,}"), _is_card
    ),
    _Pattern(PERSONAL, "what looks like a bank account (IBAN)", "", re.compile(_IBAN), _is_iban),
)
