"""Finds secrets and personal data, by anchored patterns and optionally by presidio's recognisers, in texts and in
stored files. Reports the kind, never the value.

Only presidio's pattern recognisers are used, without a language model: nothing is downloaded, and names and places are
not found. Results below PRESIDIO_MIN_SCORE are ignored. Rows, text lengths and seconds are limited, and the report says
how much was searched. presidio takes seconds to import, so it is imported when needed. Stored files are scanned as well
as uploads, because they also have rows of earlier holdouts.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import orjson

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.rows import Example, JoinedTexts, ShownRow, join_texts, shown_row
from trainers.dataset.splits import chat_row
from trainers.json_values import JsonValue

SECRET = Rule("secret", "blocks", "Revoke the secret where it was issued, and remove it from the file.")
PERSONAL = Rule(
    "personal_data",
    "warns",
    "Replace it with a placeholder, or make sure that it may be sent to the trainer.",
)
SPECIAL_TOKEN = Rule(
    "special_token",
    "warns",
    "Remove the markers of chat templates (<|…|>, [INST]), because hosted trainers refuse them.",
)

_ROWS_AT_ONCE = 200
MOST_TRIED_AS_EXAMPLE = 50  # rows


def check_sensitive(examples: Sequence[Example], findings: Findings) -> None:
    """Reports each kind once per row."""
    for start in range(0, len(examples), _ROWS_AT_ONCE):
        chunk = examples[start : start + _ROWS_AT_ONCE]
        messages = [(example.line, message) for example in chunk for message in example.messages]
        texts = [message.content for _, message in messages]
        faults_by_text = faults_of_texts(join_texts(texts), texts)
        faults_by_line = []
        for index, faults in sorted(faults_by_text.items()):
            line, _ = messages[index]
            faults_by_line.append((line, faults))
        for line, fault in deduplicate_by_row(faults_by_line):
            findings.add_for_line(line, fault)


def faults_of_texts(joined: JoinedTexts, texts: Sequence[str]) -> dict[int, list[Fault]]:
    """Returns the faults of texts by index; `joined` has the same texts. The joined text is searched for hints first,
    since most texts have none."""
    hints_by_text: dict[int, list[_Hint]] = defaultdict(list)
    views = {"as it is": joined.data, "kinds": joined.data.translate(_KINDS)}
    for hint in _HINTS:
        view = views[hint.view]
        if not hint.may_be_in(view):
            continue
        for text in joined.indices_with(partial(hint.next_in, view)):
            hints_by_text[text].append(hint)

    faults_by_text = {}
    for text, hints in hints_by_text.items():
        patterns = [pattern for pattern in _PATTERNS if pattern.hint in hints]
        faults = _faults(texts[text], patterns)
        if faults:
            faults_by_text[text] = faults
    return faults_by_text


def deduplicate_by_row(faults_by_text: Iterable[tuple[int, list[Fault]]]) -> Iterator[tuple[int, Fault]]:
    """Yields each kind of fault once per row. The input has the row of each text, in the order of the rows."""
    for row, texts in groupby(faults_by_text, itemgetter(0)):
        by_kind: dict[str, Fault] = {}
        for _, faults in texts:
            for fault in faults:
                by_kind[fault.text] = fault
        for fault in by_kind.values():
            yield row, fault


def faults_in(text: str) -> list[Fault]:
    return _faults(text, _PATTERNS)


@dataclass(frozen=True)
class Span:
    """A place in a text, text[start:end], that has sensitive data. `kind` completes "holds …"."""

    start: int
    end: int
    rule: Rule
    kind: str


def find_spans(text: str) -> list[Span]:
    """Returns where the faults are that `faults_in` reports, in the order of the patterns. A secret's span may end
    before the secret does; that of an e-mail address begins with its name."""
    spans = []
    for pattern in _PATTERNS:
        for match in pattern.matches_in(text):
            start = _first_letter(pattern, match)
            spans.append(Span(start, match.end(), pattern.rule, pattern.kind))
    return spans


def _first_letter(pattern: _Pattern, match: re.Match[str]) -> int:
    """Returns where what a match belongs to begins: the pattern of an address matches only its name's last letter."""
    start = match.start()
    if pattern.hint is _AT:
        earliest = max(0, start - LONGEST_MAIL_NAME)
        while start > earliest and _is_in_mail_name(match.string[start - 1]):
            start -= 1
    return start


def _is_in_mail_name(letter: str) -> bool:
    return letter.isalnum() or letter in ".!#$%&'*+/=?^_`{|}~-"


def find_presidio_spans(text: str) -> list[Span]:
    """Returns where presidio is sure enough that there is something personal. Its first call takes seconds."""
    spans = []
    for recogniser in _recognisers():
        for result in recogniser.analyze(text, recogniser.supported_entities):
            if result.score >= PRESIDIO_MIN_SCORE:
                kind = f"what presidio calls {result.entity_type}"
                spans.append(Span(result.start, result.end, PERSONAL, kind))
    return spans


def find_harmless_row(rows: Sequence[Example]) -> ShownRow | None:
    """Returns the first row, of the first ones, that has no personal data or secret."""
    count = min(len(rows), MOST_TRIED_AS_EXAMPLE)
    for index in range(count):
        example = rows[index]
        faults = [faults_in(message.content) for message in example.messages]
        if not any(faults):
            return shown_row(example)
    return None


def _faults(text: str, patterns: Sequence[_Pattern]) -> list[Fault]:
    kinds = {pattern.kind: pattern.rule for pattern in patterns if pattern.is_in(text)}
    return [Fault(rule, f"holds {kind}") for kind, rule in kinds.items()]


@dataclass(frozen=True)
class _Hint:
    """Something that can be found quickly and is part of every match of a pattern. Each match has one of `parts`; rare
    and long ones are the fastest to rule out.

    In the view "kinds", A stands for any capital, 0 for any digit, and - for characters that may separate digits.
    """

    view: Literal["as it is", "kinds"]
    parts: tuple[bytes, ...]
    shape: re.Pattern[bytes]

    def may_be_in(self, text: bytes) -> bool:
        # bytes.rfind takes two thirds of the time of bytes.find
        return any(text.rfind(part) >= 0 for part in self.parts)

    def next_in(self, text: bytes, start: int) -> int:
        """Returns the position of the next match, or -1."""
        match = self.shape.search(text, start)
        if match is None:
            return -1
        return match.start()


@dataclass(frozen=True)
class _Pattern:
    """A pattern of sensitive data. Every match has the text `fixed`; `is_real` checks a match further."""

    rule: Rule
    kind: str
    hint: _Hint
    fixed: str
    shape: re.Pattern[str]
    is_real: Callable[[re.Match[str]], bool] | None = None

    def is_in(self, text: str) -> bool:
        if self.fixed not in text:
            return False
        if self.is_real is None:
            return self.shape.search(text) is not None
        return any(map(self.is_real, self.shape.finditer(text)))

    def matches_in(self, text: str) -> Iterator[re.Match[str]]:
        if self.fixed not in text:
            return
        for match in self.shape.finditer(text):
            if self.is_real is None or self.is_real(match):
                yield match


# Lengths in the ISO 13616 registry for the countries whose accounts European support desks are likely to see.
_IBAN_LENGTHS = {
    "AT": 20, "BE": 16, "BG": 22, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "EE": 20, "ES": 24,
    "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IS": 26, "IT": 27, "LI": 21,
    "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24,
    "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26, "AE": 23, "IL": 23,
}  # fmt: skip
_CARD = re.compile(r"4\d{15}|5[1-5]\d{14}|2[2-7]\d{14}|3[47]\d{13}|6011\d{12}|65\d{14}")


def _is_card(match: re.Match[str]) -> bool:
    """Checks a network's prefix and length, and the Luhn digit of ISO/IEC 7812-1."""
    digits = match[0].replace(" ", "").replace("-", "")
    if not _CARD.fullmatch(digits):
        return False
    backwards = [int(digit) for digit in reversed(digits)]
    # Of the digits that are doubled, a result of two digits counts as their sum.
    doubled = [sum(divmod(2 * digit, 10)) for digit in backwards[1::2]]
    total = sum(backwards[::2]) + sum(doubled)
    return total % 10 == 0


def _is_password(match: re.Match[str]) -> bool:
    """True if the value is neither a word of a sentence nor a placeholder."""
    value = match[1].strip(".!?)]}")
    if len(value) < 6 or value.isalpha():
        return False
    # A template's ${…}, <…> or %s.
    if value[0] in "{[<$%*(":
        return False
    # Few different characters, as in xxxx1111, stand for a password that was removed.
    return len(set(value)) > 3


def _is_credential(match: re.Match[str]) -> bool:
    value = match[1]
    has_letters = any(map(str.isalpha, value))
    has_digits = any(map(str.isdigit, value))
    return has_letters and has_digits and len(set(value)) > 6


def _is_iban(match: re.Match[str]) -> bool:
    """Checks the country's length and the check digits: mod 97 is 1 (ISO 13616)."""
    compact = match[0].replace(" ", "")
    length = _IBAN_LENGTHS.get(compact[:2])
    if length is None or len(compact) < length:
        return False
    account = compact[:length]
    moved = account[4:] + account[:4]  # country and check digits go to the end
    numbers = [str(int(character, 36)) for character in moved]  # A is 10, Z is 35
    digits = "".join(numbers)
    return int(digits) % 97 == 1


# The start of a token: not inside a word of ASCII letters. \b is not used because it finds no boundary in scripts
# without spaces. The n of a "\\n" in pasted code doesn't count as a letter.
_ESCAPED = r"(?<=\\[nrt])"
_STARTS = rf"(?:(?<![0-9A-Za-z])|{_ESCAPED})"
_WORD_STARTS = rf"(?:(?<![a-z])|{_ESCAPED})"
_EMAIL = r"[0-9A-Za-z]@[0-9A-Za-z-]{1,63}(?:\.[0-9A-Za-z-]{1,63}){0,5}\.[A-Za-z]{2,24}(?![0-9A-Za-z_])"
LONGEST_MAIL_NAME = 64  # characters, by RFC 5321
_IBAN = r"[A-Z]{2}[0-9]{2}(?: ?[0-9A-Z]{4}){2,7}(?: ?[0-9A-Z]{1,3})?"
# E.164: 8 to 15 digits after the plus
_PHONE = rf"(?:(?<![0-9A-Za-z_+])|{_ESCAPED})\+[1-9](?:[ ().-]{{0,2}}[0-9]){{7,14}}(?![0-9])"
# A number of the North American plan as people there write it, without a plus: neither the area nor the exchange begins
# with 0 or 1.
_AMERICAN_PHONE = (
    rf"(?:(?<![0-9A-Za-z_.-])|{_ESCAPED})(?:\([2-9][0-9]{{2}}\) ?|[2-9][0-9]{{2}}([-.]))"
    r"[2-9][0-9]{2}(?(1)\1|-)[0-9]{4}(?![0-9A-Za-z_-])"
)
# The Social Security Administration gives out no area 000, 666 or 900 to 999, no group 00 and no serial number 0000.
_SOCIAL_SECURITY = (
    rf"(?:(?<![0-9A-Za-z_-])|{_ESCAPED})"
    r"(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9A-Za-z_-])"
)
# Forms that are documented by their issuers or listed by gitleaks. detect-secrets is not used because it runs about
# twenty plugins in Python on each line, which would make a check many times slower.
_ASSIGNED = r"\\{0,2}[\"'`]?[ \t]{0,3}(?:=|:)[=>]?[ \t]{0,3}\\{0,2}[\"'`]?"
_PASSWORD = rf"(?i){_WORD_STARTS}(?:passw(?:or)?d|passphrase|pwd){_ASSIGNED}([^\s\"'`,;<>]{{6,200}})"
_CREDENTIAL = (
    rf"(?i){_WORD_STARTS}(?:(?:api|access|secret|private|auth|account)[ _-]?key|(?:client|app|api)[ _-]?secret|secret|"
    rf"(?:access|auth|api|refresh|bearer)[ _-]?token|token){_ASSIGNED}([\w+/=.~-]{{16,200}})"
)
_JSON_WEB = rf"(?:(?<![0-9A-Za-z_-])|{_ESCAPED})eyJ[\w-]{{10,2000}}\.eyJ[\w-]{{10,4000}}\.[\w-]{{10}}"
_API_KEY = rf"{_STARTS}sk-(?=[A-Za-z_-]{{0,40}}[0-9])[A-Za-z0-9_-]{{20}}"


def _kind_of(byte: int) -> str:
    """Returns the letter for a byte in the view "kinds"."""
    character = chr(byte)
    if character in "0123456789":
        return "0"
    if "A" <= character <= "Z":
        return "A"
    if character in " -":
        return "-"
    return "a"


_KINDS = "".join(map(_kind_of, range(256))).encode()
_CAPITAL = _Hint("as it is", (b"A",), re.compile(rb"A(?:KIA|SIA|Iza)"))
_DASH = _Hint(
    "as it is",
    (b"-",),
    re.compile(
        rb"-(?:(?<=sk-)|(?<=xox[abeoprs]-)|(?<=xapp-)|(?<=-----)|(?<=gl[a-z]{2}-)|(?<=gl[a-z]{3}-)|(?<=gl[a-z]{4}-)"
        rb"|(?<=GOCSPX-)|(?<=pypi-)AgE)"
    ),
)
_UNDERSCORE = _Hint(
    "as it is",
    (b"_",),
    re.compile(
        rb"_(?:(?<=k_)(?:live|test)_|(?<=whsec_)|(?<=gh[opusr]_)|(?<=github_)pat_|(?<=hf_)|(?<=npm_))"
    ),
)
_JWT = _Hint("as it is", (b"J",), re.compile(rb"J(?<=eyJ)"))
_COLON = _Hint(
    "as it is",
    (b":",),
    re.compile(
        rb":(?<=[DENTYdentys\"'` \t]:)(?:(?<=[Oo][Rr][Dd]:)|(?<=[SsPp][Ww][Dd]:)|(?<=[Aa][Ss][Ee]:)|(?<=[Kk][Ee][Yy]:)"
        rb"|(?<=[Rr][Ee][Tt]:)|(?<=[Kk][Ee][Nn]:)|(?<=https:)|(?<=[\"'` \t]:))"
    ),
)
_EQUALS = _Hint("as it is", (b"=",), re.compile(rb"="))
_ANGLE = _Hint("as it is", (b"<",), re.compile(rb"<(?:\||<SYS>>|(?:start|end)_of_turn>)"))
_BRACKET = _Hint("as it is", (b"[",), re.compile(rb"\[/?INST\]"))
_AT = _Hint("as it is", (b"@",), re.compile(rb"@"))
_PLUS = _Hint("as it is", (b"+",), re.compile(rb"\+[1-9][0-9 ().-]"))
_ACCOUNT = _Hint("kinds", (b"AA00",), re.compile(rb"AA00(?:-?[A0]{4}){2}"))
_AMERICAN = _Hint("kinds", (b"000-0000", b"000a0000"), re.compile(rb"000(?:a?-|a)000[-a]0000"))
_SOCIAL = _Hint("kinds", (b"000-00-0000",), re.compile(rb"000-00-0000"))
_DIGITS = _Hint("kinds", (b"0" * 13, b"0-0"), re.compile(rb"0" + rb"-?0" * 12))
_HINTS = (
    _CAPITAL, _DASH, _UNDERSCORE, _JWT, _COLON, _EQUALS, _ANGLE, _BRACKET, _AT, _PLUS, _ACCOUNT, _AMERICAN, _SOCIAL,
    _DIGITS,
)  # fmt: skip

_AWS = "what looks like an AWS key"
_SLACK = "what looks like a Slack token"
_GITHUB = "what looks like a GitHub token"
_STRIPE = "what looks like a Stripe key"
_GOOGLE = "what looks like a Google API key"
_HUB = "what looks like a Hugging Face token"
_GITLAB = "what looks like a GitLab token"
_PACKAGES = "what looks like a package registry's token"
_TOKEN = "what looks like a JSON web token"  # noqa: S105 - a description
_WORD = "what looks like a password"
_KEY = "what looks like a key or token"
_OPENAI = "what looks like an API key (sk-…)"
_MARK = "the text of a special token"
_CARD_NUMBER = "what looks like a payment card"
_BANK = "what looks like a bank account (IBAN)"
_TELEPHONE = "what looks like a phone number"
_SSN = "what looks like a US social security number"
_PATTERNS = (
    _Pattern(SECRET, _AWS, _CAPITAL, "AKIA", re.compile(rf"{_STARTS}AKIA[0-9A-Z]{{16}}(?![0-9A-Za-z])")),
    _Pattern(SECRET, _AWS, _CAPITAL, "ASIA", re.compile(rf"{_STARTS}ASIA[0-9A-Z]{{16}}(?![0-9A-Za-z])")),
    _Pattern(
        SECRET, "a private key", _DASH, "-----BEGIN ", re.compile(r"-----BEGIN (?:[A-Z]+ ){0,3}PRIVATE KEY")
    ),
    _Pattern(SECRET, _OPENAI, _DASH, "sk-", re.compile(_API_KEY)),
    _Pattern(
        SECRET, _STRIPE, _UNDERSCORE, "k_", re.compile(rf"{_STARTS}[rs]k_(?:live|test)_[0-9A-Za-z]{{16}}")
    ),
    _Pattern(SECRET, _STRIPE, _UNDERSCORE, "whsec_", re.compile(rf"{_STARTS}whsec_[0-9A-Za-z]{{24}}")),
    _Pattern(SECRET, _SLACK, _DASH, "xox", re.compile(rf"{_STARTS}xox[abeoprs]-[0-9A-Za-z-]{{10}}")),
    _Pattern(SECRET, _SLACK, _DASH, "xapp-", re.compile(rf"{_STARTS}xapp-[0-9]-[0-9A-Za-z-]{{10}}")),
    _Pattern(SECRET, _GITHUB, _UNDERSCORE, "gh", re.compile(r"gh[opusr]_[0-9A-Za-z]{36}")),
    _Pattern(SECRET, _GITHUB, _UNDERSCORE, "github_pat_", re.compile(rf"{_STARTS}github_pat_\w{{22}}")),
    _Pattern(
        SECRET, _SLACK, _COLON, "hooks.slack.com", re.compile(r"https://hooks\.slack\.com/services/T\w{6}")
    ),
    _Pattern(SECRET, _HUB, _UNDERSCORE, "hf_", re.compile(rf"{_STARTS}hf_[0-9A-Za-z]{{30}}")),
    _Pattern(
        SECRET,
        _GITLAB,
        _DASH,
        "gl",
        re.compile(rf"{_STARTS}gl(?:pat|dt|rt|ptt|cbt|ft|imt|oas|soat)-[\w-]{{20}}"),
    ),
    _Pattern(SECRET, _PACKAGES, _UNDERSCORE, "npm_", re.compile(rf"{_STARTS}npm_[0-9A-Za-z]{{36}}")),
    _Pattern(SECRET, _PACKAGES, _DASH, "pypi-AgE", re.compile(rf"{_STARTS}pypi-AgE[\w-]{{40}}")),
    _Pattern(SECRET, _TOKEN, _JWT, "eyJ", re.compile(_JSON_WEB)),
    _Pattern(SECRET, _GOOGLE, _DASH, "GOCSPX-", re.compile(rf"{_STARTS}GOCSPX-[\w-]{{24}}")),
    _Pattern(SECRET, _WORD, _COLON, ":", re.compile(_PASSWORD), _is_password),
    _Pattern(SECRET, _WORD, _EQUALS, "=", re.compile(_PASSWORD), _is_password),
    _Pattern(SECRET, _KEY, _COLON, ":", re.compile(_CREDENTIAL), _is_credential),
    _Pattern(SECRET, _KEY, _EQUALS, "=", re.compile(_CREDENTIAL), _is_credential),
    _Pattern(SECRET, _GOOGLE, _CAPITAL, "AIza", re.compile(rf"{_STARTS}AIza[0-9A-Za-z_-]{{35}}")),
    _Pattern(SPECIAL_TOKEN, _MARK, _ANGLE, "<|", re.compile(r"<\|[a-z0-9_]{2,40}\|>")),
    _Pattern(SPECIAL_TOKEN, _MARK, _ANGLE, "<", re.compile(r"<(?:<SYS>>|(?:start|end)_of_turn>)")),
    _Pattern(SPECIAL_TOKEN, _MARK, _BRACKET, "INST]", re.compile(r"\[/?INST\]")),
    _Pattern(PERSONAL, "an e-mail address", _AT, "@", re.compile(_EMAIL)),
    _Pattern(PERSONAL, _TELEPHONE, _PLUS, "+", re.compile(_PHONE)),
    _Pattern(PERSONAL, _TELEPHONE, _AMERICAN, "", re.compile(_AMERICAN_PHONE)),
    _Pattern(PERSONAL, _SSN, _SOCIAL, "-", re.compile(_SOCIAL_SECURITY)),
    _Pattern(PERSONAL, _CARD_NUMBER, _DIGITS, "", re.compile(r"[0-9](?:[ -]?[0-9]){12,}"), _is_card),
    _Pattern(PERSONAL, _BANK, _ACCOUNT, "", re.compile(_IBAN), _is_iban),
)


if TYPE_CHECKING:
    from presidio_analyzer import PatternRecognizer

PRESIDIO_MIN_SCORE = 0.5
PRESIDIO_MOST_ROWS = 20_000
PRESIDIO_MOST_SECONDS = 60.0
PRESIDIO_MOST_LETTERS = 10_000  # of a text
PRESIDIO_CHECKED = Rule("presidio_looked", "tells", "Nothing to do. Names and places were not searched for.")

_LANGUAGES = ("en", "es", "it", "pl")  # the languages for which presidio enables own recognisers by default
# Dates, links and ids are not personal by themselves. E-mail addresses are found by our own pattern; presidio's would
# download a list of top-level domains.
_LEFT_OUT = frozenset({"DATE_TIME", "URL", "UUID", "EMAIL_ADDRESS"})
_OWN_KINDS = {"CREDIT_CARD": "payment card", "IBAN_CODE": "IBAN"}


def check_presidio(
    rows: Sequence[Example],
    lines: Sequence[int],
    seed: int,
    findings: Findings,
    *,
    most_rows: int = PRESIDIO_MOST_ROWS,
    seconds: float = PRESIDIO_MOST_SECONDS,
) -> None:
    """Reports each kind once per row. Rows are searched in random order, so that a search that ran out of time has
    still seen a sample of the file."""

    def texts_of(row: int) -> list[str]:
        example = rows[row]
        texts = [message.content for message in example.messages]
        if example.row is not None:
            texts.append(example.row.decode())
        return texts

    faults = _presidio_faults(texts_of, len(rows), seed, most_rows, seconds)
    for row in sorted(faults):
        for fault in faults[row]:
            findings.add_for_line(lines[row], fault)

    searched = f"{len(faults):,} rows"
    if len(faults) < len(rows):
        searched = f"{len(faults):,} of {len(rows):,} rows, drawn at random within the limit of {seconds:.0f} seconds"
    elif len(faults) == 1:
        searched = "1 row"
    text = f"presidio searched {searched}; matches of which it is less than {PRESIDIO_MIN_SCORE:.0%} sure don't count."
    findings.add_for_file(PRESIDIO_CHECKED, text, len(faults))


def _presidio_faults(
    texts_of: Callable[[int], Sequence[str]],
    rows: int,
    seed: int,
    most_rows: int = PRESIDIO_MOST_ROWS,
    seconds: float = PRESIDIO_MOST_SECONDS,
) -> dict[int, list[Fault]]:
    """Returns presidio's findings for each searched row, by row number from 0."""
    recognisers = _recognisers()
    # The same system message may be in every row.
    kinds_in = lru_cache(2000)(lambda text: _kinds_in(text, recognisers))
    count = min(rows, most_rows)
    sample = random.Random(seed).sample(range(rows), count)  # noqa: S311 - no secret
    deadline = time.monotonic() + seconds
    faults: dict[int, list[Fault]] = {}
    for row in sample:
        if time.monotonic() > deadline:
            break
        kinds: set[str] = set()
        for text in texts_of(row):
            kinds |= kinds_in(text[:PRESIDIO_MOST_LETTERS])
        faults[row] = [Fault(PERSONAL, f"holds what presidio calls {kind}") for kind in sorted(kinds)]
    return faults


@cache
def _recognisers() -> Sequence[PatternRecognizer]:
    from presidio_analyzer import PatternRecognizer, RecognizerRegistry

    registry = RecognizerRegistry(supported_languages=list(_LANGUAGES))
    registry.load_predefined_recognizers(languages=list(_LANGUAGES))
    # The registry has each recogniser once per language.
    by_kinds: dict[tuple[str, ...], PatternRecognizer] = {}
    for recogniser in registry.recognizers:
        if isinstance(recogniser, PatternRecognizer):
            kinds = tuple(recogniser.supported_entities)
            by_kinds[kinds] = recogniser
    return [recogniser for kinds, recogniser in by_kinds.items() if not _LEFT_OUT.intersection(kinds)]


def _kinds_in(text: str, recognisers: Sequence[PatternRecognizer]) -> frozenset[str]:
    """Returns presidio's names for the kinds that it finds and our own patterns don't."""
    kinds = set()
    for recogniser in recognisers:
        for result in recogniser.analyze(text, recogniser.supported_entities):
            if result.score >= PRESIDIO_MIN_SCORE:
                kinds.add(result.entity_type)
    if kinds & _OWN_KINDS.keys():
        own_faults = " ".join(fault.text for fault in faults_in(text))
        kinds -= {kind for kind, name in _OWN_KINDS.items() if name in own_faults}
    return frozenset(kinds)


# Increase this with each change of the patterns, so that files are scanned again.
_PATTERNS_VERSION = 3
_SEED = 20261124  # decides which rows presidio searches if there are too many


@dataclass(frozen=True)
class Scan(JsonValue):
    """The number of rows with each kind of data, whose names complete "holds …". `sha256` is that of the scanned
    bytes."""

    sha256: str
    personal: tuple[tuple[str, int], ...] = ()
    secret: tuple[tuple[str, int], ...] = ()

    @property
    def codes(self) -> frozenset[str]:
        """The codes of the findings that a check would report."""
        codes: set[str] = set()
        if self.personal:
            codes.add(PERSONAL.code)
        if self.secret:
            codes.add(SECRET.code)
        return frozenset(codes)


def scanner_name(*, presidio: bool) -> str:
    """Returns the version of the patterns that `scan_file` uses."""
    if presidio:
        return f"{_PATTERNS_VERSION} and presidio"
    return str(_PATTERNS_VERSION)


def scan_file(path: Path, *, presidio: bool) -> Scan:
    """Scans a file of JSON lines."""
    raw = path.read_bytes()
    rows = [row for row in raw.split(b"\n") if row]
    personal: Counter[str] = Counter()
    secret: Counter[str] = Counter()
    for faults in _faults_of_rows(rows, presidio=presidio):
        for fault in set(faults):  # a kind counts once a row
            kind = fault.text.removeprefix("holds ")
            if fault.rule == SECRET:
                secret[kind] += 1
            else:
                personal[kind] += 1
    sha256 = hashlib.sha256(raw).hexdigest()
    return Scan(sha256, tuple(personal.most_common()), tuple(secret.most_common()))


def find_sensitive_rows(examples: Sequence[Example], *, presidio: bool) -> frozenset[int]:
    """Returns the indices of rows with secrets or personal data."""
    rows = [chat_row(example) for example in examples]
    faults_by_row = _faults_of_rows(rows, presidio=presidio)
    return frozenset(row for row, faults in enumerate(faults_by_row) if faults)


def _faults_of_rows(rows: Sequence[bytes], *, presidio: bool) -> Iterator[list[Fault]]:
    """Yields the secrets and personal data of each row. Its parsed strings are searched, since JSON may escape
    characters."""
    values = map(orjson.loads, rows)
    texts = ["\n".join(strings_in(value)) for value in values]
    presidio_faults: dict[int, list[Fault]] = {}
    if presidio:
        presidio_faults = _presidio_faults(lambda row: [texts[row]], len(texts), _SEED)
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        batch = texts[start : start + _ROWS_AT_ONCE]
        own_faults = faults_of_texts(join_texts(batch), batch)
        for number in range(len(batch)):
            of_patterns = own_faults.get(number, [])
            of_presidio = presidio_faults.get(start + number, [])
            yield [fault for fault in (*of_patterns, *of_presidio) if fault.rule in (PERSONAL, SECRET)]


def strings_in(value: Any) -> Iterator[str]:
    """Yields all texts of a value of JSON, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from strings_in(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield key
            yield from strings_in(item)
