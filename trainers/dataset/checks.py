"""What a check reports: rules, faults and findings. Also finds rows that repeat or contradict another while rows are
read. Messages may contain labels, but no other values from the file."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.dataset.rows import Task
from trainers.methods import MIN_TRAINING_EXAMPLES

Severity = Literal["blocks", "warns", "tells"]
_ORDER = {"blocks": 0, "warns": 1, "tells": 2}


@dataclass(frozen=True)
class Rule:
    """A kind of problem. `code` is stable, so programs may rely on it."""

    code: str
    severity: Severity
    cure: str


@dataclass(frozen=True)
class Finding:
    """A problem in a file. `line` is None if it concerns the whole file or sums up further lines. `count` is the number
    of rows that it concerns."""

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
    """A problem of one row. `text` completes the sentence "Line 7 …"."""

    rule: Rule
    text: str


class Findings:
    """Collects findings. For each rule the first `listed` lines get a finding each; one more finding counts the
    rest."""

    def __init__(self, listed: int) -> None:
        self._listed = listed
        self._lines: Counter[Rule] = Counter()
        self._findings: list[Finding] = []

    def add_for_file(self, rule: Rule, message: str, count: int = 1) -> None:
        self._findings.append(_finding(rule, message, count=count))

    def add_for_line(self, line: int, fault: Fault) -> None:
        rule = fault.rule
        self._lines[rule] += 1
        if self._lines[rule] <= self._listed:
            message = f"Line {line} {fault.text}."
            self._findings.append(_finding(rule, message, line))

    def sorted(self) -> tuple[Finding, ...]:
        unlisted = []
        for rule, lines in self._lines.items():
            rest = lines - self._listed
            if rest <= 0:
                continue
            message = f"{rest:,} more lines have the same problem."
            if rest == 1:
                message = "1 more line has the same problem."
            unlisted.append(_finding(rule, message, count=rest))
        return sort_findings([*self._findings, *unlisted])


def _finding(rule: Rule, message: str, line: int | None = None, count: int = 1) -> Finding:
    return Finding(
        line=line,
        severity=rule.severity,
        code=rule.code,
        message=message,
        cure=rule.cure,
        count=count,
    )


def sort_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Sorts by severity, then by code in order of first occurrence, then by line; findings without a line come last."""
    first: dict[str, int] = {}
    for index, finding in enumerate(findings):
        first.setdefault(finding.code, index)

    def order(finding: Finding) -> tuple[int, int, bool, int]:
        severity = _ORDER[finding.severity]
        occurrence = first[finding.code]
        has_no_line = finding.line is None
        return (severity, occurrence, has_no_line, finding.line or 0)

    return tuple(sorted(findings, key=order))


def _fewest_rows() -> int:
    """Returns how many rows leave enough to train on when a third of them, rounded down, is held out."""
    rows = MIN_TRAINING_EXAMPLES
    while rows - rows // 3 < MIN_TRAINING_EXAMPLES:
        rows += 1
    return rows


MINIMUM = _fewest_rows()
MAX_LABELS = 500
MAX_LABEL_LENGTH = 60

DUPLICATE = Rule("duplicate", "warns", "Delete the copies: they teach nothing new and cost tokens.")
CONTRADICTION = Rule("contradiction", "warns", "Decide which answer is right, and correct the other line.")


@dataclass(frozen=True)
class LabelCount:
    label: str
    rows: int


def task_of_counts(counts: Counter[str], rows: int) -> Task:
    """Returns 'labels' if at least 90% of the rows have a short answer that another row has too, and there are at most
    500 different ones; else 'free_text'. `counts` counts the short answers."""
    shared = [count for count in counts.values() if count > 1]
    enough = sum(shared) >= 0.9 * rows
    if rows and enough and len(shared) <= MAX_LABELS:
        return "labels"
    return "free_text"


def may_be_label(answer: str) -> bool:
    """True if an answer may be a label: a single line of at most 60 characters."""
    return len(answer) <= MAX_LABEL_LENGTH and "\n" not in answer


def sort_label_counts(counts: Counter[str]) -> tuple[LabelCount, ...]:
    """Returns the labels and their numbers of rows, the most frequent first."""
    labels = [LabelCount(label, rows) for label, rows in counts.items()]
    labels.sort(key=lambda label: (-label.rows, label.label))
    return tuple(labels)


class RepeatFinder:
    """Finds rows with the same instructions and question as an earlier row. They are duplicates if the answer is the
    same too, otherwise contradictions.

    Questions are given as question_keys, instructions and answers as hashes of their normalised texts.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._first: dict[int, dict[bytes, int]] = defaultdict(dict)
        self._lines = array("I")
        self._answers = array("q")
        self._lines_by_answer: dict[tuple[int, bytes], dict[int, int]] = {}

    def add_all(
        self,
        lines: Sequence[int],
        systems: Sequence[int],
        keys: Sequence[bytes],
        answers: Sequence[int],
    ) -> list[int]:
        """Adds rows and returns the positions, among these rows, of the duplicates."""
        begin = len(self._lines)
        self._lines.extend(lines)
        self._answers.extend(answers)
        duplicates: list[int] = []
        for row in self._repeating(systems, keys, begin):
            position = row - begin
            if self._report(row, systems[position], keys[position]):
                duplicates.append(position)
        return duplicates

    def _repeating(self, systems: Sequence[int], keys: Sequence[bytes], begin: int) -> list[int]:
        """Returns the rows from `begin` on that have the instructions and question of an earlier row."""
        rows = range(begin, begin + len(keys))
        # In most files all rows have the same instructions and few repeat a question; then one update is fastest.
        if systems and systems.count(systems[0]) == len(systems):
            first = self._first[systems[0]]
            are_different = len(set(keys)) == len(keys)
            if are_different and first.keys().isdisjoint(keys):
                first.update(zip(keys, rows, strict=True))
                return []
        repeating: list[int] = []
        for row, system, key in zip(rows, systems, keys, strict=True):
            if self._first[system].setdefault(key, row) != row:
                repeating.append(row)
        return repeating

    def _report(self, row: int, system: int, key: bytes) -> bool:
        """Reports a repeating row and returns whether it is a duplicate."""
        line = self._lines[row]
        answer = self._answers[row]
        first = self._first[system][key]
        first_line = self._lines[first]
        first_answer = self._answers[first]
        lines = self._lines_by_answer.setdefault((system, key), {first_answer: first_line})
        if answer in lines:
            repeats = Fault(DUPLICATE, f"repeats line {lines[answer]}")
            self._findings.add_for_line(line, repeats)
            return True
        contradicts = Fault(CONTRADICTION, f"asks the same as line {first_line} but has another answer")
        self._findings.add_for_line(line, contradicts)
        lines[answer] = line
        return False
