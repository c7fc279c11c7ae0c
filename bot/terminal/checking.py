"""What `finetune check` computes and prints; no Slack, no store, nothing kept but the file that --fix names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bot.decisions.waste import waste_of
from bot.results import Refusal
from bot.settings import Settings
from bot.views import cleaning, findings
from bot.work.checking import LISTED
from bot.workflows.datasets import SEED
from bot.workflows.row_limits import USUAL, RowLimit, limit_of, limit_of_folder
from trainers.connection import key_in
from trainers.dataset import NO_MODELS, Columns, Example, Limits, Report, check_file, read
from trainers.dataset.cleaning import NotCleaned, clean
from trainers.dataset.holdout.versions import Previous
from trainers.dataset.values import question_keys, unheard


@dataclass(frozen=True)
class How:
    """`deep`: near copies and labels that look wrong, too. `presidio`: what it finds, too.
    `rows`: what the model takes that is to be trained.
    `tell` hears how far it is."""

    deep: bool = False
    presidio: bool = False
    rows: RowLimit = USUAL
    tell: Callable[[str], None] = unheard

    @property
    def limits(self) -> Limits:
        return replace(LISTED, max_row_tokens=self.rows.tokens)


QUICKLY = How()


def rows_of_target(wanted: str | None, settings: Callable[[], Settings]) -> RowLimit | Refusal:
    """`wanted` is a folder with a model or what `settings` know; None: as long as vendors' newest models take."""
    if wanted is None:
        return USUAL
    return limit_of_folder(Path(wanted)) if Path(wanted).is_dir() else limit_of(settings(), wanted)


def check(
    file: Path,
    text: str | None,
    label: str | None,
    local_models: Mapping[str, Path] = NO_MODELS,
    how: How = QUICKLY,
) -> Report:
    """The split files are made only where a local model's tokens are to be counted in them, and thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return check_file(
            file,
            file.name,
            Columns(text, label),
            Path(folder) if local_models else None,
            SEED,
            limits=how.limits,
            encoding=how.rows.encoding,
            deep=how.deep,
            presidio=how.presidio,
            tell=how.tell,
            local_models=local_models,
        )


def check_against(
    previous: Path, file: Path, text: str | None, label: str | None, how: How
) -> Report | Refusal:
    """`file` as the next version of `previous`: its test stays the test, and the report says what changed."""
    columns = Columns(text, label)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        before = check_file(previous, previous.name, columns, folder, SEED, deep=how.deep)
        if before.blocked:
            return Refusal(f"{previous} can't be used, so nothing can be its next version. {_worst(before)}")
        train, holdout = (folder / f"{sha}.jsonl" for sha in (before.train_sha256, before.holdout_sha256))
        return check_file(
            file,
            file.name,
            columns,
            None,
            SEED,
            limits=how.limits,
            encoding=how.rows.encoding,
            deep=how.deep,
            presidio=how.presidio,
            tell=how.tell,
            previous=Previous(train, holdout),
        )


def check_beside(
    holdout: Path, file: Path, text: str | None, label: str | None, how: How
) -> Report | Refusal:
    """Every row of `file` is to train on and every row of `holdout` to test with: what do they share?"""
    columns = Columns(text, label)
    held = _test_rows(holdout, columns)
    if isinstance(held, Refusal):
        return held
    return check_file(
        file,
        file.name,
        columns,
        None,
        SEED,
        limits=how.limits,
        encoding=how.rows.encoding,
        deep=how.deep,
        presidio=how.presidio,
        tell=how.tell,
        holdout=held,
    )


def _test_rows(holdout: Path, columns: Columns) -> tuple[Example, ...] | Refusal:
    held = read(holdout, holdout.name, columns=columns)
    if held.refused or not held.examples:
        why = f"{held.findings[0].message} {held.findings[0].cure}" if held.findings else "It has no rows."
        return Refusal(f"{holdout} can't be used as the test. {why}")
    return held.examples


def report_text(report: Report, settings: Settings | None = None) -> str:
    """With `settings`, what copies cost is said in dollars where a trainer by the token has its key here."""
    rows = [row for row in (settings.providers if settings else ()) if key_in(os.environ, row.provider)]
    waste = waste_of(report.duplicate_tokens, rows, datetime.now(UTC).date())
    return findings.terminal_text(report, waste)


def fix(
    file: Path, text: str | None, label: str | None, out: Path, holdout: Path | None = None
) -> str | Refusal:
    """Write a cleaned copy to `out`, without what `holdout` asks; what was left out and why, as lines."""
    columns = Columns(text, label)
    held = _test_rows(holdout, columns) if holdout else ()
    if isinstance(held, Refusal):
        return held
    cleaned = clean(file, file.name, columns, out, limits=LISTED, held=question_keys(held))
    if isinstance(cleaned, NotCleaned):
        return Refusal(f"No cleaned copy was written. {cleaned.said}")
    return "\n".join([f"{out}: {cleaned.kept:,} rows", *cleaning.left_out(cleaned)])


def _worst(report: Report) -> str:
    return f"{report.findings[0].message} {report.findings[0].cure}"
