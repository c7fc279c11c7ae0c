"""Checks of a file as a whole, after all rows are read. Each check is a function that is listed in CHECKS.

Checks see what `row_facts` keeps of each row, not its text. Problems of a single row are found while it is read (see
`jsonl` and `tables`).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import orjson

from trainers.dataset.checks import MINIMUM, Fault, Findings, LabelCount, Rule, sort_label_counts
from trainers.dataset.row_facts import RowFacts, StoredRows
from trainers.dataset.rows import REMOVE_INVISIBLE, Limits, Task, normalise_text, to_printable
from trainers.dataset.tables import Progress
from trainers.methods import MIN_TRAINING_EXAMPLES
from trainers.models.tokens import Encoding

TOO_FEW = Rule(
    "too_few_rows",
    "blocks",
    f"Collect more: trainers need at least {MIN_TRAINING_EXAMPLES} besides those held out as a test, so {MINIMUM} in "
    "all, and it takes about 200 to be worth it.",
)
NOT_YET_ENOUGH = Rule("not_yet", "warns", "Collect 200 rows first; until then, improve the prompt.")
WORTH_A_TRY = Rule("worth_a_try", "tells", "Nothing to do now; 1,000 rows would give a more reliable result.")
ENOUGH_ROWS = Rule("enough_rows", "tells", "Nothing to do.")
LABELS_ALIKE = Rule("labels_alike", "warns", "Write the label the same way everywhere.")
FEW_ROWS_OF_LABEL = Rule(
    "few_rows_of_label", "warns", "Add rows for each such label, or merge it with another."
)
ONE_LABEL = Rule(
    "one_label", "blocks", "Add rows with other labels: with a single one there is nothing to learn."
)
IMBALANCE = Rule(
    "imbalance", "tells", "Add rows for the rare labels, and look at their scores, not only at the average."
)

SEVERAL_LABELS = Rule(
    "several_labels",
    "warns",
    'Keep the most important one, or write JSON with a field for each label, {"billing": true, "refund": false}: '
    "its fields are scored one by one.",
)

NULL_LABEL = Rule(
    "null_label",
    "warns",
    "Fill in the label or delete the line; if it is a real label, rename it.",
)
LONG_ROW = Rule(
    "row_too_long",
    "warns",
    "Shorten the row: vendors truncate it at their limit, and our own trainer skips it.",
)
SOME_WITHOUT_INSTRUCTIONS = Rule(
    "some_without_instructions",
    "warns",
    "Give all rows a system message or none, since the model will be asked in one way only.",
)
ASSISTANT_FIRST = Rule(
    "assistant_first",
    "tells",
    "Keep the first message if the model will see it in use too. Our trainer learns it only where a model's chat "
    "template can ask for it; elsewhere it is context, or is left out.",
)
CUT_OFF = Rule(
    "answers_cut_off",
    "warns",
    "Look at how these answers end. If a token limit cut them off, complete them or remove the rows: otherwise the "
    "model learns to stop in the middle.",
)
NOT_YET = 200
ENOUGH = 1000
FEW_PER_LABEL = 10
UNEVEN = 10
CUT_OFF_ROWS = 5
CUT_OFF_TOKENS = 64
CUT_OFF_TIMES = 3
# What programs write for a missing value.
_NULLS = frozenset({"nan", "null", "none", "n/a", "#n/a", "<na>", "nat", "undefined", "(null)", "#value!"})


@dataclass(frozen=True)
class CheckedFile:
    """A file whose rows are all read. `labels` has the most frequent first, and is empty for free text and preference
    pairs. `lengths` are the tokens of each row, counted by `encoding`."""

    facts: RowFacts
    labels: Sequence[LabelCount]
    lengths: Sequence[int]
    encoding: Encoding
    limits: Limits


def check_amount(file: CheckedFile) -> Findings:
    findings = Findings(file.limits.listed)
    repeated = sum(finding.count for finding in file.facts.repeats.sorted())
    check_size(len(file.facts), findings, repeated)
    return findings


def check_size(rows: int, findings: Findings, repeated: int = 0) -> None:
    """Reports whether there are enough rows. `repeated` rows ask the same as an earlier one, so they don't count."""
    questions = rows - repeated
    counted = f"{rows:,} rows"
    if repeated:
        counted = f"{questions:,} different questions in {rows:,} rows"
    if rows < MIN_TRAINING_EXAMPLES:
        there = f"are {rows} usable rows"
        if rows == 1:
            there = "is 1 usable row"
        findings.add_for_file(TOO_FEW, f"There {there}; {MINIMUM} is the minimum.", rows)
    elif questions < NOT_YET:
        text = f"{counted} are too few for fine-tuning to be worth it; try it from {NOT_YET} on."
        findings.add_for_file(NOT_YET_ENOUGH, text, questions)
    elif questions < ENOUGH:
        text = f"{counted} are enough to try; {ENOUGH:,} or more are usually recommended."
        findings.add_for_file(WORTH_A_TRY, text, questions)
    else:
        findings.add_for_file(ENOUGH_ROWS, f"{counted} are enough to fine-tune with.", questions)


def check_trained(rows: int, trained: int, findings: Findings) -> None:
    """Reports whether enough of the `rows` are left to train on after the split. `check_size` reports fewer rows than
    that would take even without a split."""
    if trained < MIN_TRAINING_EXAMPLES <= rows:
        text = f"{trained} of the {rows} rows are left to train on; {MIN_TRAINING_EXAMPLES} is the minimum."
        findings.add_for_file(TOO_FEW, text, rows)


def check_repeats(file: CheckedFile) -> Findings:
    """Returns the copies and contradictions that the first pass found."""
    return file.facts.repeats


def check_label_counts(file: CheckedFile) -> Findings:
    findings = Findings(file.limits.listed)
    _check_combinations(file.facts, findings)
    if not file.labels:
        return findings
    _check_spread(file.labels, len(file.facts), findings)
    empty = set()
    for index, answer in enumerate(file.facts.answers):
        if normalise_text(answer) in _NULLS:
            empty.add(index)
    if not empty:
        return findings
    for line, index in zip(file.facts.lines, file.facts.labels, strict=True):
        if index in empty:
            findings.add_for_line(line, Fault(NULL_LABEL, "has a label that stands for a missing value"))
    return findings


def _check_combinations(facts: RowFacts, findings: Findings) -> None:
    """Reports answers that list several labels each."""
    rows_by_index = Counter(facts.labels)
    rows = {answer.strip(): rows_by_index[index] for index, answer in enumerate(facts.answers)}
    combined = combined_labels(rows)
    if not combined:
        return
    count = sum(rows[combination] for combination in combined.combinations)
    most = max(combined.combinations, key=lambda combination: rows[combination])
    example = ""
    if rows[most] > 1:  # that of a single row may be a customer's sentence
        example = f", such as '{to_printable(most, 40)}'"
    text = (
        f"{count:,} of {len(facts):,} rows have several labels in one answer{example}: {len(rows):,} combinations of "
        f"{combined.labels:,} labels. Each combination counts as a label of its own, so half of one counts as wrong."
    )
    findings.add_for_file(SEVERAL_LABELS, text, count)


@dataclass(frozen=True)
class CombinedLabels:
    """Answers that list several labels each, and the number of different labels in all answers."""

    combinations: tuple[str, ...]
    labels: int


def combined_labels(answers: Collection[str]) -> CombinedLabels | None:
    """Returns the answers that combine labels, or None if they don't. `answers` are the different short answers.

    Parts of combinations are labels if they come up in other answers too: in "wrong size, too small" as a label of its
    own, neither part does. The commas of a JSON object separate fields, not labels.
    """
    texts = [answer for answer in answers if not _is_object(answer)]
    for separator in _SEPARATORS:
        parts = {answer: _split_answer(answer, separator) for answer in texts}
        combinations = tuple(answer for answer, its in parts.items() if len(its) > 1)
        if len(combinations) < _FEWEST_COMBINATIONS:
            continue
        times = Counter(part for its in parts.values() for part in its)
        listed = {part for answer in combinations for part in parts[answer]}
        shared = sum(times[part] > 1 for part in listed)
        are_fewer = len(times) < len(parts)
        if are_fewer and shared >= _MOST_PARTS * len(listed):
            return CombinedLabels(combinations, len(times))
    return None


def _is_object(answer: str) -> bool:
    """True if the answer is a JSON object."""
    if not answer.startswith("{"):
        return False
    try:
        return isinstance(orjson.loads(answer), dict)
    except orjson.JSONDecodeError:
        return False


def _split_answer(answer: str, separator: str) -> frozenset[str]:
    parts = [part for part in answer.split(separator) if part.strip()]
    return frozenset(map(normalise_text, parts))


_SEPARATORS = (",", ";", "|", "+", "/")
_FEWEST_COMBINATIONS = 3
_MOST_PARTS = 0.8  # share of the parts that other answers have too


def _check_spread(counts: Sequence[LabelCount], rows: int, findings: Findings) -> None:
    """Checks the spelling and frequency of labels. `counts` has the most frequent label first."""
    if len(counts) == 1:
        findings.add_for_file(ONE_LABEL, "All rows have the same label.", rows)
        return

    spellings: dict[str, list[LabelCount]] = defaultdict(list)
    for count in counts:
        visible = count.label.translate(REMOVE_INVISIBLE)
        spellings[normalise_text(visible)].append(count)
    alike = [same[0] for same in spellings.values() if len(same) > 1]
    if alike:
        are = "labels are"
        if len(alike) == 1:
            are = "label is"
        text = f"{len(alike)} {are} written in more than one way{_named(alike)}."
        findings.add_for_file(LABELS_ALIKE, text, len(alike))

    rare = [count for count in counts if count.rows < FEW_PER_LABEL]
    if rare:
        has = "have"
        if len(rare) == 1:
            has = "has"
        text = f"{len(rare)} of {len(counts)} labels {has} fewer than {FEW_PER_LABEL} rows{_named(rare)}."
        findings.add_for_file(FEW_ROWS_OF_LABEL, text, len(rare))

    most = counts[0]
    least = counts[-1]
    if most.rows >= UNEVEN * least.rows:
        text = f"The most frequent label has {most.rows:,} rows, the rarest {least.rows:,}."
        findings.add_for_file(IMBALANCE, text, len(counts))


def _named(counts: Sequence[LabelCount]) -> str:
    """Lists up to ten labels. Labels of a single row are left out: such a "label" may be a customer's sentence in the
    wrong column."""
    names = [f"{to_printable(c.label, 40)} ({c.rows})" for c in counts if c.rows > 1]
    if not names:
        return ""
    if len(names) > 10:
        names = [*names[:10], "…"]
    return f": {', '.join(names)}"


def check_sensitive_texts(file: CheckedFile) -> Findings:
    """Returns the secrets and personal data that the first pass found."""
    return file.facts.sensitive


def check_lengths(file: CheckedFile) -> Findings:
    findings = Findings(file.limits.listed)
    limit = file.limits.max_row_tokens
    if max(file.lengths, default=0) <= limit:
        return findings
    unit = ""
    if file.encoding.folder:
        unit = f" of {file.encoding.name}"
    for line, tokens in zip(file.facts.lines, file.lengths, strict=True):
        if tokens > limit:
            text = f"has {tokens:,} tokens{unit}, more than the limit of {limit:,}"
            findings.add_for_line(line, Fault(LONG_ROW, text))
    return findings


def check_instructions(file: CheckedFile) -> Findings:
    findings = Findings(file.limits.listed)
    rows = len(file.facts)
    without = file.facts.instructions[()]
    if 0 < without < rows:
        have = "rows have"
        if without == 1:
            have = "row has"
        text = f"{without:,} of {rows:,} {have} no instructions (system message), but the others do."
        findings.add_for_file(SOME_WITHOUT_INSTRUCTIONS, text, without)
    return findings


def check_beginnings(file: CheckedFile) -> Findings:
    findings = Findings(file.limits.listed)
    first = file.facts.n_begun_by_assistant
    if first:
        begins = "rows begin"
        if first == 1:
            begins = "row begins"
        text = f"{first:,} of {len(file.facts):,} {begins} with a message of the assistant, before anybody has asked."
        findings.add_for_file(ASSISTANT_FIRST, text, first)
    return findings


def check_endings(file: CheckedFile) -> Findings:
    """Finds answers that were probably truncated by a token limit, which leaves many answers of the same, greatest
    length.

    That length must be far more frequent than any other down to half of it, so that a long answer that simply occurs
    often is not reported.
    """
    findings = Findings(file.limits.listed)
    answers = Counter(file.facts.answer)
    longest = max(answers, default=0)
    rows = answers[longest]
    nearly_as_long = [rows for tokens, rows in answers.items() if longest / 2 <= tokens < longest]
    suspicious = max(CUT_OFF_ROWS, CUT_OFF_TIMES * max(nearly_as_long, default=0))
    if not file.labels and longest >= CUT_OFF_TOKENS and rows >= suspicious:
        text = f"{rows:,} answers have exactly the greatest length, {longest:,} tokens, and may be cut off."
        findings.add_for_file(CUT_OFF, text, rows)
    return findings


CHECKS: tuple[Callable[[CheckedFile], Findings], ...] = (
    check_amount,
    check_repeats,
    check_label_counts,
    check_sensitive_texts,
    check_lengths,
    check_instructions,
    check_beginnings,
    check_endings,
)


@dataclass(frozen=True)
class ScannedFile:
    """A file after the first pass. `faults` has the faults of single rows, and the reason if the file was refused.
    `labels` has one label per row, all empty for free text."""

    faults: Findings
    progress: Progress
    rows: StoredRows
    task: Task
    labels: list[str]
    limits: Limits

    @property
    def is_pairs(self) -> bool:
        return self.progress.format == "preference"

    def raw_rows(self) -> Iterator[tuple[int, bytes]]:
        """Yields the line number and the original bytes of each row."""
        return ((line, self.rows.raw(row)) for row, line in enumerate(self.rows.facts.lines))

    @cached_property
    def label_counts(self) -> tuple[LabelCount, ...]:
        if self.task != "labels":
            return ()
        counts = Counter(self.labels)
        return sort_label_counts(counts)

    @property
    def n_combined(self) -> int:
        combined = combined_labels([count.label for count in self.label_counts])
        if combined is None:
            return 0
        return combined.labels

    def findings(self, lengths: Sequence[int], encoding: Encoding) -> tuple[Findings, ...]:
        """Returns the faults and, unless the file was refused, the findings of all checks. `lengths` are the tokens of
        each row, counted by `encoding`."""
        facts = self.rows.facts
        if not len(facts) and any(finding.blocks for finding in self.faults.sorted()):
            return (self.faults,)
        labels: tuple[LabelCount, ...] = ()
        if not self.is_pairs:
            labels = self.label_counts
        file = CheckedFile(facts, labels, lengths, encoding, self.limits)
        return (self.faults, *(check(file) for check in CHECKS))
