"""Checks of a file as a whole, once all of its rows are read: each is a function, and CHECKS lists them.

A new check is a function here and its name in CHECKS. Checks see what `row_facts` keeps of each row, not its text;
what is wrong with one row alone is found while it is read (`jsonl`, `tables`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainers.dataset.checks import Fault, Findings, LabelCount, Rule, check_labels, check_size, says_nothing
from trainers.dataset.row_facts import Facts
from trainers.dataset.rows import Limits
from trainers.tokens import Encoding

NULL_LABEL = Rule(
    "null_label",
    "warns",
    "Fill in the label or delete the line; if it is meant as a label, give it another name.",
)
LONG_ROW = Rule(
    "row_too_long",
    "warns",
    "Shorten the row: vendors cut off what is beyond their limit, our own trainer leaves the row out.",
)
SOME_WITHOUT_INSTRUCTIONS = Rule(
    "some_without_instructions",
    "warns",
    "Give all rows a system message or none: the model is asked in one way only.",
)
CUT_OFF = Rule(
    "answers_cut_off",
    "warns",
    "Look how these answers end. Where a limit of tokens cut them off, get them whole or leave the rows out: "
    "the model learns to stop in the middle.",
)
CUT_OFF_ROWS, CUT_OFF_TOKENS, CUT_OFF_TIMES = 5, 64, 3


@dataclass(frozen=True)
class CheckedFile:
    """`labels` has the most frequent first and is empty for free text and preference pairs. `lengths`: tokens of
    each row as `encoding` counts them."""

    facts: Facts
    labels: Sequence[LabelCount]
    lengths: Sequence[int]
    encoding: Encoding
    limits: Limits


def check_amount(file: CheckedFile) -> Findings:
    findings = Findings(file.limits.listed)
    repeated = sum(finding.count for finding in file.facts.repeats.sorted())
    check_size(len(file.facts), findings, repeated)
    return findings


def check_repeats(file: CheckedFile) -> Findings:
    """Returns copies and contradictions, which the first pass has found."""
    return file.facts.repeats


def check_label_counts(file: CheckedFile) -> Findings:
    findings = Findings(file.limits.listed)
    if not file.labels:
        return findings
    check_labels(file.labels, len(file.facts), findings)
    empty = {place for place, answer in enumerate(file.facts.answers) if says_nothing(answer)}
    for line, place in zip(file.facts.lines, file.facts.labels, strict=True) if empty else ():
        if place in empty:
            findings.at(line, Fault(NULL_LABEL, "has a label that says that there is none"))
    return findings


def check_sensitive_texts(file: CheckedFile) -> Findings:
    """Returns secrets and personal data, which the first pass has found."""
    return file.facts.sensitive


def check_lengths(file: CheckedFile) -> Findings:
    findings, limit = Findings(file.limits.listed), file.limits.max_row_tokens
    unit = f" of {file.encoding.name}" if file.encoding.folder else ""
    if max(file.lengths, default=0) > limit:
        for line, tokens in zip(file.facts.lines, file.lengths, strict=True):
            if tokens > limit:
                findings.at(line, Fault(LONG_ROW, f"has {tokens:,} tokens{unit}, more than {limit:,}"))
    return findings


def check_instructions(file: CheckedFile) -> Findings:
    findings, rows = Findings(file.limits.listed), len(file.facts)
    without = file.facts.instructions[()]
    if 0 < without < rows:
        have = "row has" if without == 1 else "rows have"
        text = f"{without:,} of {rows:,} {have} no instructions (system message), the others have some."
        findings.about_file(SOME_WITHOUT_INSTRUCTIONS, text, without)
    return findings


def check_endings(file: CheckedFile) -> Findings:
    """A limit of tokens, as a model's answers often have, leaves many answers at one length and none beyond. Lengths
    down to half of it are compared, so that the same long answer given again and again is no cut where others are,
    too."""
    findings, answers = Findings(file.limits.listed), Counter(file.facts.answer)
    longest = max(answers, default=0)
    others = max((rows for tokens, rows in answers.items() if longest / 2 <= tokens < longest), default=0)
    rows = answers[longest]
    if not file.labels and longest >= CUT_OFF_TOKENS and rows >= max(CUT_OFF_ROWS, CUT_OFF_TIMES * others):
        text = f"{rows:,} answers are as long as the longest, {longest:,} tokens: they may be cut off."
        findings.about_file(CUT_OFF, text, rows)
    return findings


CHECKS: tuple[Callable[[CheckedFile], Findings], ...] = (
    check_amount,
    check_repeats,
    check_label_counts,
    check_sensitive_texts,
    check_lengths,
    check_instructions,
    check_endings,
)
