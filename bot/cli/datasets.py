"""Computes and prints `finetune check`, for labelled examples and preference pairs. Also prepares the checked rows for
evaluations: a file that is split, or a file with the user's own holdout. Stores nothing but the file of --fix."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from bot.cards.common.blocks import CardBlock, Table, Text
from bot.cards.common.reasons import shortage_text
from bot.cards.common.terminal import Tone
from bot.cards.common.words import duration, duration_range, pluralize
from bot.cards.datasets import findings
from bot.cards.datasets.check_reports import full_report
from bot.cards.datasets.dataset_columns import even_rows, has_choices
from bot.cards.datasets.findings import counts_text, finding_blocks, line_ranges
from bot.cli.options import EXIT_UNUSABLE, refuse, value_or_exit
from bot.cli.output import Ticker, show, text_block
from bot.rules.budgets import duplicate_cost
from bot.services.common.hardware import (
    local_base,
    memory_headroom_for_pairs,
    training_time_for_pairs,
)
from bot.services.common.targets import (
    DEFAULT_ROW_LIMIT,
    RowLimit,
    find_target,
    row_limit_of,
    row_limit_of_folder,
)
from bot.services.datasets.dataset_worker import FULL_LIST, SEED, SHOWN_ROWS, shown_cells
from bot.settings import Settings
from bot.values.runs import Refusal
from bot.values.targets import MemoryHeadroom, TrainingTime
from trainers.client.client import find_key
from trainers.dataset import (
    NO_MODELS,
    CheckSettings,
    Columns,
    Example,
    Finding,
    Limits,
    Report,
    check_file,
    overlap,
    read,
    store_chat,
    with_system,
)
from trainers.dataset.checks import Findings
from trainers.dataset.clean_copy import CleaningRefusal, clean
from trainers.dataset.near_duplicates import find_near_copies, question_text
from trainers.dataset.preference_pairs import PairsReport
from trainers.dataset.reader import read_first_rows
from trainers.dataset.rows import ignore_message, question_keys
from trainers.dataset.sensitive_data import check_sensitive
from trainers.dataset.tables import EMPTY_LABEL
from trainers.dataset.versions import Previous
from trainers.evaluation.statistics import normalise
from trainers.models.base_models import Base, find_base
from trainers.sizing.architecture import UnknownSize


@dataclass(frozen=True)
class CheckOptions:
    """How a file is checked. `deep` adds the slow checks for near copies and for labels that look wrong; `presidio`
    adds its search for personal data. `rows` is the limit of the model to train. `on_progress` receives the progress as
    text. `n_sealed` rows are set aside besides the test."""

    deep: bool = False
    presidio: bool = False
    rows: RowLimit = DEFAULT_ROW_LIMIT
    on_progress: Callable[[str], None] = ignore_message
    n_sealed: int = 0

    @property
    def limits(self) -> Limits:
        return replace(FULL_LIST, max_row_tokens=self.rows.tokens)

    def check(self, file: Path, columns: Columns, out_dir: Path | None = None, **beside: Any) -> Report:
        """`beside` are `check_file`'s arguments for what the file is compared with."""
        return check_file(
            file,
            file.name,
            columns,
            out_dir,
            SEED,
            CheckSettings(
                limits=self.limits,
                encoding=self.rows.encoding,
                deep=self.deep,
                presidio=self.presidio,
                on_progress=self.on_progress,
                n_sealed=self.n_sealed,
                **beside,
            ),
        )


QUICK_CHECK = CheckOptions()
SHOWN_LINES = 20


def find_row_limit(wanted: str | None, settings: Callable[[], Settings]) -> RowLimit | Refusal:
    """Returns the row limit of a model: a folder, or a target that the settings know. For None, the limit of vendors'
    newest models."""
    if wanted is None:
        return DEFAULT_ROW_LIMIT
    if Path(wanted).is_dir():
        return row_limit_of_folder(Path(wanted))
    return row_limit_of(settings(), wanted)


def check(
    file: Path,
    columns: Columns,
    local_models: Mapping[str, Path] = NO_MODELS,
    how: CheckOptions = QUICK_CHECK,
) -> Report:
    """Checks a file. The split files are written only to count a local model's tokens in them, and then deleted."""
    with tempfile.TemporaryDirectory() as folder:
        out_dir = Path(folder) if local_models else None
        return how.check(file, columns, out_dir, local_models=local_models)


def check_against(previous: Path, file: Path, columns: Columns, how: CheckOptions) -> Report | Refusal:
    """Checks `file` as the next version of `previous`, which keeps its test; the report says what changed."""
    with tempfile.TemporaryDirectory() as result:
        folder = Path(result)
        # As deep as the check of FILE, since near copies change the split.
        before = check_file(
            previous, previous.name, without_sheet(columns), folder, SEED, CheckSettings(deep=how.deep)
        )
        if before.is_blocked:
            worst = f"{before.findings[0].message} {before.findings[0].cure}"
            return Refusal(f"{previous} can't be used, so there is nothing to compare with. {worst}")
        train = folder / f"{before.train_sha256}.jsonl"
        holdout = folder / f"{before.holdout_sha256}.jsonl"
        return how.check(file, columns, previous=Previous(train, holdout))


def check_with_holdout(holdout: Path, file: Path, columns: Columns, how: CheckOptions) -> Report | Refusal:
    """Checks `file` with all its rows for training and all rows of `holdout` for testing, and finds what they share."""
    test = _test_rows(holdout, columns)
    if isinstance(test, Refusal):
        return test
    return how.check(file, columns, holdout=test)


def without_sheet(columns: Columns) -> Columns:
    """Returns the columns for another file, whose sheets have other names."""
    return replace(columns, sheet=None)


def _test_rows(holdout: Path, columns: Columns) -> tuple[Example, ...] | Refusal:
    test = read(holdout, holdout.name, columns=without_sheet(columns))
    # A test without some of its answers would be another test.
    has_gaps = any(finding.code == EMPTY_LABEL.code for finding in test.findings)
    if test.is_refused or has_gaps or not test.examples:
        why = "It has no rows."
        if test.findings:
            why = f"{test.findings[0].message} {test.findings[0].cure}"
        return Refusal(f"{holdout} can't be used as the test. {why}")
    return test.examples


def tone_of(report: Report) -> Tone:
    if report.is_blocked:
        return "bad"
    if any(finding.severity == "warns" for finding in report.findings):
        return "warning"
    return "good"


def report_parts(
    report: Report, settings: Settings | None = None, file: Path | None = None
) -> tuple[CardBlock, ...]:
    """Returns the report for a terminal. If somebody has to choose columns, the first rows of `file` are shown. With
    `settings` it includes the cost of training on copies, for trainers that charge by the token and whose key is
    set."""
    rows = []
    if settings:
        rows = [row for row in settings.providers if find_key(os.environ, row.provider)]
    waste = duplicate_cost(report.duplicate_tokens, rows, datetime.now(UTC).date())
    parts = list(full_report(report, waste).parts)
    if any(not sheet.is_read for sheet in report.sheets):
        parts.append(Text("Name another sheet with --sheet."))
    if has_choices(report):
        if file:
            parts += _first_rows(report, file)
        parts.append(Text("Name the columns with --text and --label."))
    return tuple(parts)


def _first_rows(report: Report, file: Path) -> list[Table]:
    """Returns the first rows of the table or, of a workbook, of the first sheet that was read."""
    # The only table of a CSV file has an empty name.
    names = [sheet.name for sheet in report.sheets if sheet.is_read] or [""]
    tables = []
    for table in read_first_rows(file, SHOWN_ROWS):
        if table.sheet == names[0]:
            cells = [shown_cells(record) for record in table.records]
            tables.append(Table(even_rows(cells)))
    return tables


def fix(file: Path, columns: Columns, out: Path, holdout: Path | None = None) -> str | Refusal:
    """Writes a cleaned copy to `out`, without rows that `holdout` asks too. Returns lines that say what was left out
    and why."""
    test: tuple[Example, ...] | Refusal = ()
    if holdout:
        test = _test_rows(holdout, columns)
    if isinstance(test, Refusal):
        return test
    cleaned = clean(file, file.name, columns, out, limits=FULL_LIST, held=question_keys(test))
    if isinstance(cleaned, CleaningRefusal):
        return Refusal(f"No cleaned copy was written. {cleaned.reason}")
    return "\n".join([f"{out}: {cleaned.rows:,} rows", *findings.left_out_lines(cleaned)])


# Findings that apply to chats, which are split and trained on, but not to pairs, which are only checked here.
CHAT_ONLY_CODES = frozenset(
    {"preference_pairs", "not_yet", "worth_a_try", "enough_rows", "near_duplicate", "near_not_all_compared"}
)
TRAIN_ON_PAIRS = (
    "In Slack, `/finetune start NAME method=dpo` trains on them; docs/preferences.md shows the request to the "
    "trainer's API."
)


def pair_findings(report: Report) -> tuple[Finding, ...]:
    return tuple(finding for finding in report.findings if finding.code not in CHAT_ONLY_CODES)


@dataclass(frozen=True)
class TrainingNeeds:
    """The memory and time for training the pairs on this machine. `time` is None if its speed was not measured."""

    model: str
    room: MemoryHeadroom
    time: TrainingTime | None


def training_needs(
    target: str | None, pairs: PairsReport, settings: Callable[[], Settings | None]
) -> TrainingNeeds | None:
    """`target` is a model's folder, or a target that the settings know. Returns None if it is trained elsewhere or its
    size is unknown."""
    if not target:
        return None
    loaded = settings()
    if loaded is None:
        return None
    base = _base_of(loaded, target)
    if base is None or isinstance(base, UnknownSize):
        return None
    time = training_time_for_pairs(loaded, base, pairs)
    return TrainingNeeds(base.name, memory_headroom_for_pairs(base, pairs), time)


def _base_of(settings: Settings, target: str) -> Base | UnknownSize | None:
    """Returns the base model of a folder or of a target that is trained here; None for one that is trained
    elsewhere."""
    if Path(target).is_dir():
        return find_base(target, ask_the_hub=False)
    offer = find_target(settings.providers, target)
    if isinstance(offer, Refusal):
        return None
    return local_base(settings, offer.row, offer.model)


def pairs_parts(
    report: Report, pairs: PairsReport, needs: TrainingNeeds | None = None
) -> tuple[CardBlock, ...]:
    findings = pair_findings(report)
    may_be_used = "They can be used."
    if report.is_blocked:
        may_be_used = "They can't be used until this is fixed."
    lines = [f"{may_be_used} {TRAIN_ON_PAIRS}"]
    if needs:
        lines.append(_needs_text(needs))
    return (
        text_block(_summarize_pairs(report, pairs, findings)),
        *finding_blocks(findings),
        text_block("\n".join(lines)),
    )


def _needs_text(needs: TrainingNeeds) -> str:
    time = "time unknown: run finetune calibrate to measure how fast this machine is"
    if needs.time is not None:
        minutes = needs.time.minutes
        between = duration_range(float(minutes.low) * 60, float(minutes.high) * 60)
        time = f"{between}, {duration(float(minutes.expected) * 60)} if nothing else runs"
    text = f"Training them on {needs.model} here: {needs.room.line}; {time}."
    if needs.room.shortage:
        text += f" {shortage_text(needs.room.shortage).replace('`', '')}"
    return text


def pairs_json(report: Report, pairs: PairsReport, needs: TrainingNeeds | None = None) -> Mapping[str, Any]:
    own: dict[str, Any] = {"name": report.name, "format": report.format, "blocked": report.is_blocked}
    if needs is not None:
        minutes = None
        if needs.time:
            minutes = float(needs.time.minutes.expected)
        own["takes"] = {"model": needs.model, "memory": needs.room.line, "minutes": minutes}
    findings = [vars(finding) for finding in pair_findings(report)]
    return {**own, **asdict(pairs), "findings": findings}


def _summarize_pairs(report: Report, pairs: PairsReport, findings: tuple[Finding, ...]) -> str:
    prompt = pairs.prompt
    longer = pairs.longer
    counted_by = report.tokens.encoding
    if report.tokens.assumed:
        counted_by += ", assumed"
    counts = f"{pluralize(pairs.pairs, 'preference pair')}, {pluralize(pairs.prompts, 'prompt')}"
    lines = [
        f"{report.name}: {counts}",
        counts_text(findings) or "nothing to fix",
        f"A prompt has {prompt.mean:.0f} tokens on average, {prompt.max:,} at most; with its longer answer "
        f"{longer.mean:.0f} and {longer.max:,} ({counted_by})",
        # A model that learns from such pairs may learn to write more, and nothing else.
        f"The preferred answer is the longer one in {pairs.preferred_longer:.0%} of the pairs",
    ]
    return "\n".join(lines)


@dataclass(frozen=True)
class EvaluationRows:
    """Checked rows in the folder `files`. With the user's own holdout: `left_out` rows of the file ask the same as the
    holdout and are not trained on; rows at the lines `near` ask nearly the same and are trained on; `foreign` rows of
    the holdout have a label that the file lacks, so that no model can get them right."""

    report: Report
    files: Path
    left_out: int = 0
    foreign: int = 0
    near: tuple[int, ...] = ()


@contextmanager
def checked_rows(
    file: Path,
    holdout: Path | None,
    columns: Columns,
    local_models: Mapping[str, Path],
    on_progress: Callable[[str], None] = ignore_message,
) -> Iterator[EvaluationRows | Refusal]:
    """Yields the checked rows, in temporary files. Yields a refusal if the given holdout can't be used."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        # Deep, as in Slack: near copies stay on one side.
        report = check_file(
            file,
            file.name,
            columns,
            files,
            SEED,
            CheckSettings(local_models=local_models, deep=True, on_progress=on_progress),
        )
        if holdout is None or report.is_blocked:
            yield EvaluationRows(report, files)
        else:
            yield _split_by_holdout(file, holdout, columns, report, files)


def require_usable(file: Path, rows: EvaluationRows | Refusal, ticker: Ticker) -> EvaluationRows:
    """Returns rows that can be measured on. Prints what is wrong with others, and exits."""
    ticker.done()
    rows = value_or_exit(rows)
    if rows.report.is_blocked:
        refuse_blocked(file, rows.report, "it can be measured")
    return rows


def refuse_blocked(file: Path, report: Report, then: str) -> NoReturn:
    """Prints why the rows of a file can't be used, and exits. `then` says what is possible once they can."""
    show(report_parts(report), "bad", err=True)
    if has_choices(report):
        # The report ends in how to name the columns.
        sys.exit(EXIT_UNUSABLE)
    refuse(f"Fix {file} first; then {then}.")


def _split_by_holdout(
    file: Path, holdout: Path, columns: Columns, report: Report, files: Path
) -> EvaluationRows | Refusal:
    """Returns rows for training on the whole file, except what the holdout asks, and for measuring on the holdout."""
    columns = Columns()
    # The columns that were found in the file, so that both files mean the same by them.
    if report.format != "chat":
        columns = report.columns
    test = read(holdout, holdout.name, columns=without_sheet(columns))
    # Held-out rows are sent to models too, so they are searched for secrets and personal data.
    sensitive = Findings(SHOWN_LINES)
    check_sensitive(test.examples, sensitive)
    findings = (*test.findings, *sensitive.sorted())
    faults = [finding for finding in findings if finding.blocks]
    if faults:
        why = f"{faults[0].message} {faults[0].cure}"
        if len(faults) > 1:
            why += f" And {len(faults) - 1:,} more."
        return Refusal(f"{holdout} can't be measured on. {why}")
    if not test.examples:
        return Refusal(f"{holdout} can't be measured on: there are no rows in it.")
    # The whole file again, as rows that the check held out are trained on here.
    train = read(file, file.name, columns=columns).examples
    shared = overlap(train, test.examples)
    examples = [example for example in train if example.line not in shared]
    if not examples:
        return Refusal(f"{holdout} asks everything that {file} asks, so no row is left to learn from.")
    foreign = _count_foreign(report, test.examples)
    if foreign == len(test.examples):
        return Refusal(f"{holdout} can't be measured on: none of its answers is a label of {file}.")
    changed = replace(
        report,
        findings=(*report.findings, *findings),
        train_sha256=_store_side(files, examples, report),
        holdout_sha256=_store_side(files, test.examples, report),
        n_train=len(examples),
        n_holdout=len(test.examples),
    )
    return EvaluationRows(changed, files, len(shared), foreign, _find_near_rows(examples, test.examples))


def _count_foreign(report: Report, test: Sequence[Example]) -> int:
    """Counts held-out rows with a label that the training rows lack; 0 if the answers are texts."""
    if report.task != "labels":
        return 0
    labels = {normalise(count.label) for count in report.labels}
    return sum(normalise(example.answer) not in labels for example in test)


def _store_side(files: Path, side: Sequence[Example], report: Report) -> str:
    """Stores the rows, with the system message that the file's rows have in common. Returns their sha256."""
    if report.system:
        return store_chat(files, with_system(side, report.system))
    return store_chat(files, tuple(side))


def _find_near_rows(examples: Sequence[Example], test: Sequence[Example]) -> tuple[int, ...]:
    """Returns the lines of training rows that ask nearly the same as a held-out row."""
    both = [*test, *examples]
    texts = [question_text(example) for example in both]
    near = find_near_copies(texts, question_keys(both))
    lines = []
    for pair in near.pairs:
        is_held_out = pair.earlier < len(test)
        is_trained_on = pair.later >= len(test)
        if is_held_out and is_trained_on:
            lines.append(both[pair.later].line)
    return tuple(lines)


def holdout_notes(rows: EvaluationRows) -> list[str]:
    """Returns sentences on how the user's own holdout affected the rows."""
    sentences = []
    if rows.left_out:
        left_out = pluralize(rows.left_out, "row")
        were = "was" if rows.left_out == 1 else "were"
        sentences.append(f"{left_out} asked the same as the holdout, and {were} not learnt from.")
    if rows.near:
        near = pluralize(len(rows.near), "row")
        were = "was" if len(rows.near) == 1 else "were"
        lines = line_ranges(rows.near[:SHOWN_LINES])
        hidden = len(rows.near) - SHOWN_LINES
        if hidden > 0:
            lines += f" and {hidden:,} more"
        sentences.append(
            f"{near} asked nearly the same as the holdout, and {were} learnt from, so the scores may be too good: "
            f"{lines}."
        )
    if rows.foreign:
        foreign = pluralize(rows.foreign, "held-out row")
        have = "has" if rows.foreign == 1 else "have"
        sentences.append(f"{foreign} {have} a label that the file does not have, so no answer can be right.")
    return sentences
