"""What a check found, as sentences with a line, a severity and a cure. Never a value out of the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Severity = Literal["blocks", "warns", "tells"]
_ORDER = {"blocks": 0, "warns": 1, "tells": 2}


@dataclass(frozen=True)
class Rule:
    """Something that can be wrong with a file. `code` is stable: programs may look for it."""

    code: str
    severity: Severity
    cure: str


@dataclass(frozen=True)
class Finding:
    """`line` is None for the whole file, and for lines beyond those listed. `count` rows are meant by it."""

    line: int | None
    severity: Severity
    code: str
    message: str
    cure: str
    count: int = 1

    @property
    def blocks(self) -> bool:
        return self.severity == "blocks"


@dataclass(frozen=True)
class Fault:
    """Why a row can't be used; `said` completes the sentence "Line 7 …"."""

    rule: Rule
    said: str


class Findings:
    """Collects, and lists only so many lines for each rule."""

    def __init__(self, listed: int) -> None:
        self._listed = listed
        self._lines: Counter[Rule] = Counter()
        self._all: list[Finding] = []

    def about_file(self, rule: Rule, message: str, count: int = 1) -> None:
        self._all.append(Finding(None, rule.severity, rule.code, message, rule.cure, count))

    def at(self, line: int, fault: Fault) -> None:
        rule = fault.rule
        self._lines[rule] += 1
        if self._lines[rule] <= self._listed:
            message = f"Line {line} {fault.said}."
            self._all.append(Finding(line, rule.severity, rule.code, message, rule.cure))

    def sorted(self) -> tuple[Finding, ...]:
        return in_order([*self._all, *self._unlisted()])

    def _unlisted(self) -> list[Finding]:
        return [
            Finding(
                None, rule.severity, rule.code, _more(total - self._listed), rule.cure, total - self._listed
            )
            for rule, total in self._lines.items()
            if total > self._listed
        ]


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Worst first; within a severity by code as first met, then by line, the unlisted rest last."""
    met = {code: i for i, code in reversed(list(enumerate(f.code for f in findings)))}
    return tuple(sorted(findings, key=lambda f: (_ORDER[f.severity], met[f.code], f.line or _LAST)))


_LAST = 1 << 62


def _more(count: int) -> str:
    return f"{count:,} more {'line has' if count == 1 else 'lines have'} the same fault."
