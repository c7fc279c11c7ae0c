"""What a check found, rule by rule, and the cleaned copy that it offers: lines, counts and cures, never words from the
file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import CardBlock, code, escape
from bot.cards.common.builder import Parts
from bot.cards.common.words import capitalize, pluralize
from bot.rules.budgets import DuplicateCost
from bot.rules.data_policy import NoDelivery, RowDelivery
from storage.records import Dataset
from trainers.dataset import Finding, Report, Severity
from trainers.dataset.checks import MINIMUM
from trainers.dataset.clean_copy import CleanedFile, CleaningRefusal, LeftOutRows
from trainers.dataset.slow_checks import ERRORS_UNKNOWN, LABEL_DOUBTED, LABEL_ERRORS
from trainers.money import usd

# In the order in which reports list them, the worst first.
WORDS: Mapping[Severity, str] = {"blocks": "must fix", "warns": "worth a look", "tells": "good to know"}
TITLES = {
    "findings": "All that the check found in",
    "lengths": "Tokens per row of",
    "labels": "Rows per label of",
}
CLEAN = "post_cleaned"
SPLIT_IT = "Upload fewer or shorter rows."
LISTED_PARTS = 8  # sentences of a rule
LISTED_REST = 24  # lines in a sentence
SHOWN_PAIRS = 10


@dataclass(frozen=True)
class Part:
    """One sentence of a rule. `lines` is empty if it concerns the whole file."""

    text: str
    lines: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """A broken rule. `rows` counts all its lines, including those beyond the listed ones."""

    code: str
    severity: Severity
    cure: str
    parts: tuple[Part, ...]
    rows: int

    @property
    def title(self) -> str:
        return capitalize(describe_code(self.code))


def describe_code(code: str) -> str:
    words = code.replace("_", " ")
    return words.replace("json", "JSON").replace("utf8", "UTF-8")


def group_findings(findings: Sequence[Finding]) -> tuple[Group, ...]:
    """The findings grouped by rule, in the same order, which is worst first."""
    by_code: dict[str, list[Finding]] = {}
    for finding in findings:
        by_code.setdefault(finding.code, []).append(finding)
    return tuple(_group(same) for same in by_code.values())


# Findings about the whole file that sum up findings about single lines: cards show one of those lines as an example.
SUMMARIES: Mapping[str, str] = {
    LABEL_ERRORS.code: LABEL_DOUBTED.code,
    ERRORS_UNKNOWN.code: LABEL_DOUBTED.code,
}


def summed_up(groups: Sequence[Group]) -> Mapping[str, Group]:
    """Returns the groups that another one sums up, by the code of that one."""
    by_code = {group.code: group for group in groups}
    examples = {}
    for summary, other in SUMMARIES.items():
        if summary in by_code and other in by_code:
            examples[summary] = by_code[other]
    return examples


def count_by_severity(findings: Sequence[Finding]) -> Mapping[Severity, int]:
    """The number of broken rules of each severity, however many lines break them."""
    groups = group_findings(findings)
    repeated = [group.code for group in summed_up(groups).values()]
    totals = Counter(group.severity for group in groups if group.code not in repeated)
    return {severity: totals[severity] for severity in WORDS if totals[severity]}


def counts_text(findings: Sequence[Finding]) -> str:
    """'3 problems to fix, 1 worth a look'; '' if nothing was found."""
    counts = []
    for severity, count in count_by_severity(findings).items():
        if severity == "blocks":
            counts.append(f"{pluralize(count, 'problem')} to fix")
        else:
            counts.append(f"{count:,} {WORDS[severity]}")
    return ", ".join(counts)


def need_file(findings: Sequence[Finding]) -> bool:
    """True if the findings need a file, because a card shows one example per rule."""
    count = 0
    for group in group_findings(findings):
        # What is only good to know needs no list of its lines.
        if group.severity != "tells":
            # A rule about the whole file has no rows, but each of its sentences is a finding.
            count += group.rows or len(group.parts)
    return count > 1


def line_ranges(lines: Iterable[int]) -> str:
    """'line 3', 'lines 3, 7, 9-12': neighbours become a range."""
    runs: list[list[int]] = []
    # Several findings may name the same line.
    for line in sorted(set(lines)):
        if runs and line == runs[-1][1] + 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    text = ", ".join(_range_text(first, last) for first, last in runs)
    is_single = text.isdecimal()
    if is_single:
        return f"line {text}"
    return f"lines {text}"


def part_sentence(part: Part, most: int | None = None) -> str:
    """A sentence without its full stop: 'line 7 holds an e-mail address', 'each of lines 3, 4 holds …'. Names at most
    the first `most` lines."""
    if not part.lines:
        return part.text
    lines = _first_lines(part.lines, most)
    if len(part.lines) > 1:
        return f"each of {lines} {part.text}"
    return f"{lines} {part.text}"


def _first_lines(lines: Sequence[int], most: int | None) -> str:
    if most is None or len(lines) <= most:
        return line_ranges(lines)
    hidden = len(lines) - most
    return f"{line_ranges(lines[:most])} and {hidden:,} more"


def file_title(stem: str, dataset: str) -> str:
    """The title of a file in the card's thread."""
    return f"{TITLES[stem]} {dataset}"


def duplicate_cost_text(waste: DuplicateCost) -> str:
    text = f"{waste.tokens:,} tokens per epoch are copies"
    if waste.usd is None:
        return text
    return f"{text}, {usd(waste.usd)} on {waste.target}"


def _group(same: Sequence[Finding]) -> Group:
    lines_by_text: dict[str, list[int]] = {}
    for finding in same:
        if finding.line is None:
            lines_by_text.setdefault(finding.message, [])
        else:
            # Without the line's number, lines with the same problem share one sentence.
            text = finding.message.removeprefix(f"Line {finding.line} ").removesuffix(".")
            lines_by_text.setdefault(text, []).append(finding.line)
    listed = len({finding.line for finding in same if finding.line})
    unlisted = 0
    if listed:
        # A finding without a line counts those beyond the listed ones; alone, it concerns the whole file.
        unlisted = sum(finding.count for finding in same if not finding.line)
    first = same[0]
    parts = [Part(text, tuple(lines)) for text, lines in lines_by_text.items()]
    return Group(first.code, first.severity, first.cure, tuple(parts), listed + unlisted)


def _range_text(first: int, last: int) -> str:
    if first == last:
        return str(first)
    # A range of two would read as if there were lines in between.
    if last == first + 1:
        return f"{first}, {last}"
    return f"{first}–{last}"


def finding_blocks(findings: Sequence[Finding], most: int | None = LISTED_PARTS) -> list[CardBlock]:
    """All findings, one block per severity. Lists `most` sentences per rule with the first lines of each, all if
    None."""
    sections = _sections(group_findings(findings))
    parts = Parts()
    for severity, words in WORDS.items():
        lines: list[str] = []
        for group in sections[severity]:
            lines += map(escape, _lines(group, most))
        if lines:
            parts.lines([words.capitalize(), *lines])
    return parts


def _sections(groups: Sequence[Group]) -> Mapping[Severity, Sequence[Group]]:
    """Returns the groups by severity. A group that another one sums up comes right after that one, in its section: for
    doubted labels 'good to know', if nobody can tell how many of them are wrong."""
    examples = summed_up(groups)
    repeated = [group.code for group in examples.values()]
    sections: dict[Severity, list[Group]] = {severity: [] for severity in WORDS}
    for group in groups:
        if group.code in repeated:
            continue
        section = sections[group.severity]
        section.append(group)
        if group.code in examples:
            section.append(examples[group.code])
    return sections


def _lines(group: Group, most: int | None) -> list[str]:
    title = group.title
    if group.rows > 1:
        title += f", {group.rows:,} rows"
    shown = group.parts
    # A single part more is shown: a line that counts it would be as long.
    if most is not None and len(group.parts) > most + 1:
        shown = group.parts[:most]
    most_lines = None
    if most:
        most_lines = LISTED_REST
    sentences = [part_sentence(part, most_lines) for part in shown]
    hidden = group.parts[len(shown) :]
    rest: list[int] = []
    for part in hidden:
        rest += part.lines
    if rest:
        sentences.append(f"and similarly {_first_lines(rest, LISTED_REST)}")
    sentences += [part.text for part in hidden if not part.lines]
    indented = [f"    {text}" for text in sentences]
    return [f"  {title}", *indented, f"    → {group.cure}"]


def can_be_cleaned(report: Report) -> bool:
    """True if a cleaned copy would leave lines out (copies, or rows that can't be used) and still be a usable file."""
    if report.pairs:
        return False
    groups = group_findings(report.findings)
    blocking = [group for group in groups if group.severity == "blocks"]
    if not all(group.rows for group in blocking):
        # A problem of the whole file stays, whichever lines are left out.
        return False
    # Rows with a secret were read, unlike the others that block.
    n_secret = sum(group.rows for group in blocking if group.code == "secret")
    if report.rows - n_secret < MINIMUM:
        return False
    # Of a file that can be used as it is, only copies are left out.
    for group in groups:
        is_left_out = group in blocking or group.code == "duplicate"
        if group.rows and is_left_out:
            return True
    return False


def cleaning_started(dataset: Dataset, delivery: RowDelivery, *, is_traced: bool) -> str:
    """`is_traced`: the file has recorded calls, of which a table of questions is written."""
    what = f"Writing a cleaned copy of {code(dataset.title)}"
    if is_traced:
        what = f"Writing the questions of {code(dataset.title)} into a table"
    match delivery:
        case "thread":
            return f"{what}; it will appear in the card's thread."
        case "direct":
            return (
                f"{what}. It contains customers' words and everybody can read this channel, so you get it as a direct "
                "message."
            )


def not_delivered(dataset: Dataset, why: NoDelivery) -> str:
    if why == "not in the channel":
        return (
            "The file contains customers' words from a channel that you are not in, so it is not sent to you."
        )
    return (
        "The file contains customers' words, and people outside the dataset's channel can read here, so it is not "
        f"posted. <@{dataset.uploaded_by}>, who uploaded it, can press the button to get it as a direct message."
    )


def cleaning_waits(dataset: Dataset) -> str:
    return f"A cleaned copy of {code(dataset.title)} is already being written for you."


def not_cleaned(dataset: Dataset, refused: CleaningRefusal) -> str:
    return f"There is no cleaned copy of {code(dataset.title)}: {escape(refused.reason)}"


def cleaned_title(dataset: Dataset) -> str:
    return f"{dataset.title}, cleaned"


def cleaned_filename(dataset: Dataset, cleaned: CleanedFile) -> str:
    return f"{dataset.name}-cleaned.{cleaned.written_as}"


def cleaned_summary(dataset: Dataset, cleaned: CleanedFile) -> str:
    """The text beside the file: what was left out and why, what stayed, and what to do with it."""
    lines = [
        f"{code(dataset.title)}, cleaned: {pluralize(cleaned.rows, 'row')}.",
        *map(escape, left_out_lines(cleaned)),
        f"Review it, then upload it as {code(dataset.name)} with `/finetune upload`.",
    ]
    return "\n".join(lines)


def left_out_lines(cleaned: CleanedFile) -> list[str]:
    """A sentence for each reason. Line numbers refer to the uploaded file, which stays unchanged."""
    remarks = [*_contradictions(cleaned), *_formulas(cleaned)]
    if not cleaned.left_out:
        return ["Nothing had to be left out.", *remarks]
    return [
        f"Left out: {pluralize(cleaned.n_left_out, 'line')}.",
        *map(_reason, cleaned.left_out),
        *remarks,
    ]


def _reason(reason: LeftOutRows) -> str:
    words = describe_code(reason.code)
    if reason.code == "overlap":
        words = "same question as a held-out row"
    line = f"• {reason.count:,} × {words}: {line_ranges(reason.lines)}"
    more = reason.count - len(reason.lines)
    if more > 0:
        line += f" and {more:,} more"
    return line


def _formulas(cleaned: CleanedFile) -> list[str]:
    if not cleaned.formulas:
        return []
    return [formula_warning(cleaned.formulas)]


def formula_warning(rows: int) -> str:
    return (
        f"{pluralize(rows, 'row')} with a cell that begins like a formula (=, +, -, @), kept as it is because it is "
        "training data: in a spreadsheet, import all columns as text."
    )


def _contradictions(cleaned: CleanedFile) -> list[str]:
    if not cleaned.contradicting:
        return []
    shown = cleaned.contradictions[:SHOWN_PAIRS]
    pairs = ", ".join(f"{pair.earlier} and {pair.later}" for pair in shown)
    if cleaned.contradicting > SHOWN_PAIRS:
        pairs += ", …"
    lines = pluralize(cleaned.contradicting, "line")
    return [
        f"Not removed, since only you can decide: {lines} with different answers to the same question (lines {pairs})."
    ]
