"""What a check reports (rules, faults, findings), and the checks of all rows together: how many there are, repeats,
contradictions and uneven labels. Shows labels at most, never another value out of the file, and changes nothing."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from trainers.dataset.rows import Task, normalised, shown

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
    """Why a row can't be used; `text` completes the sentence "Line 7 …"."""

    rule: Rule
    text: str


class Findings:
    """Collects findings. Of each rule the first `listed` lines are listed; the rest are counted in one finding more."""

    def __init__(self, listed: int) -> None:
        self._listed = listed
        self._lines: Counter[Rule] = Counter()
        self._findings: list[Finding] = []

    def about_file(self, rule: Rule, message: str, count: int = 1) -> None:
        self._findings.append(Finding(None, rule.severity, rule.code, message, rule.cure, count))

    def at(self, line: int, fault: Fault) -> None:
        rule = fault.rule
        self._lines[rule] += 1
        if self._lines[rule] <= self._listed:
            message = f"Line {line} {fault.text}."
            self._findings.append(Finding(line, rule.severity, rule.code, message, rule.cure))

    def sorted(self) -> tuple[Finding, ...]:
        unlisted = []
        for rule, lines in self._lines.items():
            rest = lines - self._listed
            if rest > 0:
                message = f"{rest:,} more {'line has' if rest == 1 else 'lines have'} the same fault."
                unlisted.append(Finding(None, rule.severity, rule.code, message, rule.cure, rest))
        return in_order([*self._findings, *unlisted])


def in_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Sorts by severity, then by code (the one that occurs first, first), then by line; those without a line last."""
    first = {code: i for i, code in reversed(list(enumerate(f.code for f in findings)))}
    return tuple(
        sorted(findings, key=lambda f: (_ORDER[f.severity], first[f.code], f.line is None, f.line or 0))
    )


MINIMUM, NOT_YET, ENOUGH = 10, 200, 1000
FEW_PER_LABEL = 10
UNEVEN = 10
MAX_LABELS, MAX_LABEL_LENGTH = 500, 60

TOO_FEW = Rule(
    "too_few_rows", "blocks", "Collect more: 10 is the least any trainer takes, 200 the least that pays."
)
NOT_YET_ENOUGH = Rule("not_yet", "warns", "Collect 200 rows first; until then improve the prompt.")
WORTH_A_TRY = Rule("worth_a_try", "tells", "Nothing to do now; 1,000 rows would make the result steadier.")
ENOUGH_ROWS = Rule("enough_rows", "tells", "Nothing to do.")
DUPLICATE = Rule("duplicate", "warns", "Delete the copies: they teach nothing and cost tokens.")
CONTRADICTION = Rule("contradiction", "warns", "Decide which answer is right, and correct the other line.")
LABELS_ALIKE = Rule("labels_alike", "warns", "Write the label the same way everywhere.")
FEW_ROWS_OF_LABEL = Rule(
    "few_rows_of_label", "warns", "Add rows for each such label, or merge it with another."
)
ONE_LABEL = Rule("one_label", "blocks", "Add rows with other labels: there is nothing to tell apart.")
IMBALANCE = Rule(
    "imbalance", "tells", "Add rows for the rare labels; look at their scores, not at the mean alone."
)

_NULLS = frozenset({"nan", "null", "none", "n/a", "#n/a", "<na>", "nat", "undefined", "(null)", "#value!"})


@dataclass(frozen=True)
class LabelCount:
    label: str
    rows: int


def task_of_counts(counts: Counter[str], rows: int) -> Task:
    """Returns 'labels' where at least nine of `rows` in ten have a short answer that another row has too, and there are
    no more than 500 such answers; else 'free_text'. `counts` are of the short answers."""
    shared = [count for count in counts.values() if count > 1]
    enough = sum(shared) >= 0.9 * rows
    return "labels" if rows and enough and len(shared) <= MAX_LABELS else "free_text"


def is_short(answer: str) -> bool:
    """Says whether an answer may be a label: one line of 60 characters at most."""
    return len(answer) <= MAX_LABEL_LENGTH and "\n" not in answer


def in_order_of_rows(counts: Counter[str]) -> tuple[LabelCount, ...]:
    return tuple(LabelCount(label, n) for label, n in sorted(counts.items(), key=lambda c: (-c[1], c[0])))


def check_size(rows: int, findings: Findings, repeated: int = 0) -> None:
    """Judges the number of rows; `repeated` of them ask what an earlier row asks and are no more data."""
    questions = rows - repeated
    counted = f"{questions:,} different questions in {rows:,} rows" if repeated else f"{rows:,} rows"
    if rows < MINIMUM:
        findings.about_file(TOO_FEW, f"There are {rows} usable rows; {MINIMUM} is the minimum.", rows)
    elif questions < NOT_YET:
        text = f"{counted} are too few for fine-tuning to pay; from {NOT_YET} on it is worth trying."
        findings.about_file(NOT_YET_ENOUGH, text, questions)
    elif questions < ENOUGH:
        text = f"{counted} are enough to try; {ENOUGH:,} or more is the usual advice."
        findings.about_file(WORTH_A_TRY, text, questions)
    else:
        findings.about_file(ENOUGH_ROWS, f"{counted} are enough to fine-tune with.", questions)


class Repeats:
    """Finds rows that have the instructions and the question of an earlier row: duplicates where the answer is the same
    too, else contradictions.

    Questions come as question_keys, instructions and answers as hashes of their normalised texts.
    """

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._first: dict[int, dict[bytes, int]] = defaultdict(dict)
        self._lines, self._answers = array("I"), array("q")
        self._lines_by_answer: dict[tuple[int, bytes], dict[int, int]] = {}

    def add_all(
        self, lines: Sequence[int], systems: Sequence[int], keys: Sequence[bytes], answers: Sequence[int]
    ) -> list[int]:
        """Adds rows and returns which of them are duplicates, by their place among those added."""
        begin = len(self._lines)
        self._lines.extend(lines)
        self._answers.extend(answers)
        return [
            row - begin
            for row in self._repeating(systems, keys, begin)
            if self._report(row, systems[row - begin], keys[row - begin])
        ]

    def _repeating(self, systems: Sequence[int], keys: Sequence[bytes], begin: int) -> list[int]:
        """Returns the rows from `begin` on whose instructions and question an earlier row has."""
        if systems and systems.count(systems[0]) == len(systems):
            first = self._first[systems[0]]
            if len(set(keys)) == len(keys) and first.keys().isdisjoint(keys):
                first.update(zip(keys, range(begin, begin + len(keys)), strict=True))
                return []
        return [
            row
            for row, (system, key) in enumerate(zip(systems, keys, strict=True), begin)
            if self._first[system].setdefault(key, row) != row
        ]

    def _report(self, row: int, system: int, key: bytes) -> bool:
        """Reports a repeating row and returns whether it is a duplicate."""
        first, line, answer = self._first[system][key], self._lines[row], self._answers[row]
        lines = self._lines_by_answer.setdefault((system, key), {self._answers[first]: self._lines[first]})
        if answer in lines:
            self._findings.at(line, Fault(DUPLICATE, f"repeats line {lines[answer]}"))
            return True
        text = f"asks the same as line {self._lines[first]} and has another answer"
        self._findings.at(line, Fault(CONTRADICTION, text))
        lines[answer] = line
        return False


def check_labels(counts: Sequence[LabelCount], rows: int, findings: Findings) -> None:
    """Checks the labels of a task of labels. `counts` are sorted by in_order_of_rows and cover all `rows`."""
    if len(counts) == 1:
        findings.about_file(ONE_LABEL, "All rows have the same label.", rows)
        return

    spellings: dict[str, list[LabelCount]] = defaultdict(list)
    for count in counts:
        spellings[normalised(count.label)].append(count)
    alike = [same[0] for same in spellings.values() if len(same) > 1]
    if alike:
        are = "label is" if len(alike) == 1 else "labels are"
        text = f"{len(alike)} {are} written in more than one way{_named(alike)}."
        findings.about_file(LABELS_ALIKE, text, len(alike))

    rare = [count for count in counts if count.rows < FEW_PER_LABEL]
    if rare:
        has = "has" if len(rare) == 1 else "have"
        text = f"{len(rare)} of {len(counts)} labels {has} fewer than {FEW_PER_LABEL} rows{_named(rare)}."
        findings.about_file(FEW_ROWS_OF_LABEL, text, len(rare))

    most, least = counts[0], counts[-1]
    if most.rows >= UNEVEN * least.rows:
        text = f"The most frequent label has {most.rows:,} rows, the rarest {least.rows:,}."
        findings.about_file(IMBALANCE, text, len(counts))


def says_nothing(label: str) -> bool:
    """Says whether the label is what programs write where a value is missing, such as NaN."""
    return normalised(label) in _NULLS


def _named(counts: Sequence[LabelCount]) -> str:
    """Lists up to ten labels. One that occurs once is left out: it may be a customer's sentence in the wrong column."""
    names = [f"{shown(c.label, 40)} ({c.rows})" for c in counts if c.rows > 1]
    more = ", …" if len(names) > 10 else ""
    return f": {', '.join(names[:10])}{more}" if names else ""
