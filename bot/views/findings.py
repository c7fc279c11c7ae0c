"""All that a check found, as plain text for a terminal and a file: rule by rule, its lines together, its cure once.

Lines, counts and cures; never a word out of the file but the labels, and those only where they are asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bot.decisions.waste import Waste
from bot.views.words import counted
from trainers.dataset import Finding, LabelCount, Report, Severity
from trainers.dataset.holdout.versions import Diff
from trainers.dataset.values import shown
from trainers.money import usd

WORDS: Mapping[Severity, str] = {"blocks": "must be mended", "warns": "worth a look", "tells": "good to know"}
TITLES = {
    "findings": "All that the check found in",
    "lengths": "Tokens per row of",
    "labels": "Rows per label of",
}
LISTED_LABELS = 30
LISTED_PARTS, LISTED_REST = 8, 24


@dataclass(frozen=True)
class Part:
    """One sentence of a rule; `lines` are empty where it is about the whole file."""

    said: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """A rule that was broken. `rows` counts the lines; those beyond the listed ones too."""

    code: str
    severity: Severity
    cure: str
    parts: tuple[Part, ...]
    rows: int

    @property
    def title(self) -> str:
        words = in_words(self.code)
        return words[:1].upper() + words[1:]


def in_words(code: str) -> str:
    return code.replace("_", " ").replace("json", "JSON").replace("utf8", "UTF-8")


def groups(findings: Sequence[Finding]) -> tuple[Group, ...]:
    """In the findings' order, worst first."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    return tuple(_group(same) for same in by_code.values())


def counts(findings: Sequence[Finding]) -> Mapping[Severity, int]:
    """How many of each severity: lines, and sentences about the whole file."""
    totals: Counter[Severity] = Counter()
    for group in groups(findings):
        totals[group.severity] += group.rows or len(group.parts)
    return {severity: totals[severity] for severity in WORDS if totals[severity]}


def counts_text(findings: Sequence[Finding]) -> str:
    """'3 must be mended, 1 worth a look'; empty where nothing was found."""
    return ", ".join(f"{count:,} {WORDS[severity]}" for severity, count in counts(findings).items())


def fill_a_file(findings: Sequence[Finding]) -> bool:
    """Whether there is more to say than a card does."""
    return sum(group.rows or len(group.parts) for group in groups(findings) if group.severity != "tells") > 1


def compact(lines: Iterable[int]) -> str:
    """Neighbours become a range: lines 3, 7 and 9 to 12."""
    runs: list[list[int]] = []
    for line in sorted(set(lines)):
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    said = ", ".join(_run(first, last) for first, last in runs)
    is_one = len(runs) == 1 and runs[0][0] == runs[0][1]
    return f"{'line' if is_one else 'lines'} {said}"


def sentence(part: Part) -> str:
    """Without an end: 'line 7 holds an e-mail address', 'each of lines 3, 4 holds …'."""
    if not part.lines:
        return part.said
    return f"{'each of ' if len(part.lines) > 1 else ''}{compact(part.lines)} {part.said}"


def terminal_text(report: Report, waste: Waste | None = None) -> str:
    last = "It can't be used until this is mended." if report.blocked else "It can be used."
    parts = [
        _head(report, waste),
        diff_text(report.diff) if report.diff else "",
        "\n".join(_labels(report.labels)),
        body_text(report.findings, LISTED_PARTS),
        last,
    ]
    return "\n\n".join(part for part in parts if part)


def file_text(report: Report, waste: Waste | None = None) -> str:
    """Every finding, for a thread: no label, since a rare one may be a sentence in the wrong column."""
    return (
        "\n\n".join(part for part in (_head(report, waste), body_text(report.findings, None)) if part) + "\n"
    )


def diff_text(diff: Diff) -> str:
    """What changed since the version before, without a label: a rare one may be a sentence in the wrong column."""
    lines = [
        f"Since the version before: {diff.added:,} rows added, {diff.removed:,} removed, "
        f"{diff.relabelled:,} relabelled",
        f"The test of the version before stays: {diff.held_out_added:,} new rows joined it, "
        f"{diff.held_out_relabelled:,} of its rows have a new label, "
        f"{diff.held_out_missing:,} are no longer in the file and stay in it",
    ]
    if diff.held_out_dropped:
        lines.append(
            f"Dropped from the test, for personal data or a secret: {diff.held_out_dropped:,} rows that are no longer "
            "in the file, so results of both versions can't be compared"
        )
    return lines[0] if diff.is_empty else "\n".join(lines)


def title_of(stem: str, dataset: str) -> str:
    """Of a file in the card's thread; it is what a screen reader says of a plot."""
    return f"{TITLES[stem]} {dataset}"


def waste_text(waste: Waste) -> str:
    said = f"{waste.tokens:,} tokens of every epoch go to copies"
    return said if waste.usd is None else f"{said}: {usd(waste.usd)} on {waste.target}"


def _group(same: Sequence[Finding]) -> Group:
    by_said: dict[str, list[int]] = {}
    for finding in same:
        by_said.setdefault(_said(finding), []).extend([finding.line] if finding.line else [])
    listed = len({finding.line for finding in same if finding.line})
    unlisted = sum(finding.count for finding in same if not finding.line) if listed else 0
    first = same[0]
    parts = tuple(Part(said, tuple(lines)) for said, lines in by_said.items())
    return Group(first.code, first.severity, first.cure, parts, listed + unlisted)


def _said(finding: Finding) -> str:
    """What is said of a line, without the line."""
    if finding.line is None:
        return finding.message
    return finding.message.removeprefix(f"Line {finding.line} ").removesuffix(".")


def _run(first: int, last: int) -> str:
    if first == last:
        return str(first)
    return f"{first}, {last}" if last == first + 1 else f"{first}–{last}"


def _head(report: Report, waste: Waste | None) -> str:
    size = [counted(report.rows, "row")] if report.rows else []
    labels = [counted(len(report.labels), "label")] if report.labels else []
    lines = [": ".join([report.name, ", ".join([*size, *labels])]) if size else report.name]
    lines.append(counts_text(report.findings) or "nothing to mend")
    if report.n_train:
        lines.append(f"{report.n_train:,} rows to train on, {report.n_holdout:,} held out as the test")
    if report.rows:
        spread, assumed = report.tokens.rows, ", assumed" if report.tokens.assumed else ""
        lines.append(
            f"{spread.total:,} tokens ({report.tokens.encoding}{assumed}), a row {spread.mean:.0f} on average, "
            f"{spread.max:,} at most"
        )
    return "\n".join([*lines, waste_text(waste)] if waste else lines)


def _labels(counts: Sequence[LabelCount]) -> list[str]:
    """None that one row alone has: that may be a customer's sentence in the wrong column."""
    shared = [count for count in counts if count.rows > 1]
    lines = [f"  {count.rows:>6,}  {shown(count.label)}" for count in shared[:LISTED_LABELS]]
    hidden, alone = len(counts) - len(lines), len(counts) - len(shared)
    of_one = f", {alone:,} of them with one row" if alone else ""
    return [*lines, f"          … and {hidden:,} more{of_one}"] if hidden else lines


def body_text(findings: Sequence[Finding], most: int | None) -> str:
    """A paragraph for each severity. `most` sentences of a rule are listed; None: all."""
    met = groups(findings)
    paragraphs = []
    for severity, words in WORDS.items():
        said = [line for group in met if group.severity == severity for line in _lines(group, most)]
        if said:
            paragraphs.append("\n".join([words.capitalize(), *said]))
    return "\n\n".join(paragraphs)


def _lines(group: Group, most: int | None) -> list[str]:
    rows = f", {group.rows:,} rows" if group.rows > 1 else ""
    shown = group.parts if most is None or len(group.parts) <= most + 1 else group.parts[:most]
    rest = [line for part in group.parts[len(shown) :] for line in part.lines]
    tail = [part.said for part in group.parts[len(shown) :] if not part.lines]
    said = [sentence(part) for part in shown]
    if rest:
        more = f" and {len(rest) - LISTED_REST:,} more" if len(rest) > LISTED_REST else ""
        said.append(f"the same kind of thing: {compact(rest[:LISTED_REST])}{more}")
    return [f"  {group.title}{rows}", *(f"    {one}" for one in [*said, *tail]), f"    → {group.cure}"]
