"""`finetune check`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot.cli.common import EXIT_BLOCKED, FILE, NEW_FILE, Ticker, load, load_if_sound, refuse, within_memory

if TYPE_CHECKING:
    from trainers.dataset import Report
    from trainers.dataset.pairs import PairsReport


@click.command()
@click.argument("file", type=FILE)
@click.option("--text", help="Column with the text, for a table; found by its name where not said.")
@click.option("--label", help="Column with the label, for a table.")
@click.option("--against", metavar="PREVIOUS", type=FILE, help="An earlier version of FILE: what changed?")
@click.option(
    "--holdout", metavar="TEST", type=FILE, help="A test set of your own: does FILE ask what it asks?"
)
@click.option(
    "--fix", metavar="OUT", type=NEW_FILE, help="Write a cleaned copy there, without what TEST asks."
)
@click.option(
    "--target",
    metavar="MODEL",
    help="The model to train, or its folder: its longest row and its tokenizer count.",
)
@click.option("--quick", is_flag=True, help="Don't look for near copies and for labels that look wrong.")
@click.option("--presidio", is_flag=True, help="Let presidio look for personal data, too (the extra 'pii').")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@within_memory()
def check(
    file: Path,
    text: str | None,
    label: str | None,
    against: Path | None,
    holdout: Path | None,
    fix: Path | None,
    target: str | None,
    quick: bool,
    presidio: bool,
    as_json: bool,
) -> None:
    """Check a file of labelled examples. Exits with 1 when something in it must be mended first.

    The file itself is never changed.
    """
    from bot.results import Refusal
    from bot.settings import NO_PRESIDIO, has_presidio
    from bot.terminal import checking
    from bot.terminal import pairs as preferences

    report: Report | Refusal
    if fix and fix.exists():
        refuse(f"{fix} exists already: --fix takes the name of a new file.")
    if fix and not fix.parent.is_dir():
        refuse(f"There is no folder {fix.parent} to write {fix.name} into.")
    if against and holdout:
        refuse(
            "--against keeps the test of the earlier version, so --holdout can't name another: choose one."
        )
    if presidio and quick:
        refuse("--quick leaves out what takes long, presidio too: choose one.")
    if presidio and not has_presidio():
        refuse(f"--presidio: {NO_PRESIDIO}")
    rows = checking.rows_of_target(target, load)
    if isinstance(rows, Refusal):
        refuse(rows.text)
    ticker = Ticker()
    how = checking.How(deep=not quick, presidio=presidio, rows=rows, tell=ticker)
    if against:
        report = checking.check_against(against, file, text, label, how)
    elif holdout:
        report = checking.check_beside(holdout, file, text, label, how)
    else:
        report = checking.check(file, text, label, how=how)
    ticker.done()
    if isinstance(report, Refusal):
        refuse(report.text)
    if (pairs := preferences.pairs_of(file, report, how)) is not None:
        return _say_pairs(report, pairs, target, as_json)
    click.echo(report.to_json() if as_json else checking.report_text(report, load_if_sound()))
    if fix:
        fixed = checking.fix(file, text, label, fix, holdout)
        if isinstance(fixed, Refusal):
            refuse(fixed.text)
        click.echo(fixed if as_json else f"\n{fixed}", err=as_json)
    if report.blocked:
        sys.exit(EXIT_BLOCKED)


def _say_pairs(report: Report, pairs: PairsReport, target: str | None, as_json: bool) -> None:
    import json

    from bot.terminal import pairs as preferences

    takes = preferences.taken_by(target, pairs, lambda: load_if_sound("memory and time are not said"))
    said = (
        json.dumps(preferences.pairs_json(report, pairs, takes))
        if as_json
        else preferences.pairs_text(report, pairs, takes)
    )
    click.echo(said)
    if preferences.is_blocked(report, pairs):
        sys.exit(EXIT_BLOCKED)
