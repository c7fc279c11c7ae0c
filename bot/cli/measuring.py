"""`finetune baseline` and `finetune curve`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot.cli.common import FILE, Ticker, goes_on_later, load, refuse

if TYPE_CHECKING:
    from bot.results import Refusal
    from bot.terminal.held import Rows


@click.command()
@click.argument("file", type=FILE)
@click.option("--holdout", type=FILE, help="Rows to measure on; without it a part of FILE is set aside.")
@click.option("--rungs", default="", help="classical,zero,kshot,retrieval; all where not said.")
@click.option(
    "--model", "models", multiple=True, help="A model to ask, like openai/gpt-4o-mini; may be said again."
)
@click.option(
    "--judge", help="A model that judges free text, like openai/gpt-4o-mini; without it, shared words count."
)
@click.option(
    "--waive", help="Why the file's personal data may leave for a vendor; without it, it stays here."
)
@click.option(
    "--patience",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    help="Minutes without any answer after which it gives up; what came is kept.",
)
@click.option("--prompt", help="Your instructions, instead of the usual ones.")
@click.option("--bar", help="The share right that is good enough, like 90%.")
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; `finetune estimate --baseline` reads it.")
def baseline(
    file: Path,
    holdout: Path | None,
    rungs: str,
    models: tuple[str, ...],
    judge: str | None,
    waive: str | None,
    patience: float,
    prompt: str | None,
    bar: str | None,
    text: str | None,
    label: str | None,
    as_json: bool,
) -> None:
    """Measure the alternatives to fine-tuning on held-out rows: classical, prompt alone, ten examples, retrieval."""
    from bot.options import Answer, read_bar, read_rungs
    from bot.results import Refusal
    from bot.terminal import held, measuring
    from bot.terminal import measured as printed
    from bot.terminal.words import in_terminal
    from trainers.measuring.values import DEFAULT_BAR

    wanted_rungs, wanted_bar = read_rungs(rungs), read_bar(bar)
    if isinstance(wanted_rungs, Answer):
        refuse(in_terminal(wanted_rungs.text, str(file)))
    if isinstance(wanted_bar, Answer):
        refuse(in_terminal(wanted_bar.text, str(file)))
    settings = load()
    bar_share = wanted_bar or DEFAULT_BAR
    wanted = measuring.Wanted(
        file, holdout, text, label, wanted_rungs, models, prompt, bar_share, judge, waive, 60 * patience
    )
    ticker = Ticker()
    with goes_on_later(), held.checked(file, holdout, wanted.columns, settings.trainer.folders) as found:
        rows = _usable(file, found)
        measured = measuring.measure(settings, wanted, rows, ticker)
        ticker.done()
        if isinstance(measured, Refusal):
            refuse(in_terminal(measured.text, str(file)))
        if as_json:
            click.echo(json.dumps(printed.baseline_json(measured, rows, file), indent=2))
        else:
            click.echo(printed.baseline_text(measured, rows, file))


@click.command()
@click.argument("file", type=FILE)
@click.option("--holdout", type=FILE, help="Rows to measure on; without it a part of FILE is set aside.")
@click.option("--predict", type=click.IntRange(1), multiple=True, help="Rows to predict the score for.")
@click.option(
    "--label-usd", help="What one labelled row costs, like 0.50: what a point costs is printed too."
)
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the curve as JSON.")
def curve(
    file: Path,
    holdout: Path | None,
    predict: tuple[int, ...],
    label_usd: str | None,
    text: str | None,
    label: str | None,
    as_json: bool,
) -> None:
    """Is more data worth it? The classical rung's learning curve, and what more rows would bring."""
    from bot.decisions.amounts import Misread
    from bot.decisions.worth.question import LABEL_USD
    from bot.results import Refusal
    from bot.terminal import held, measuring
    from bot.terminal import measured as printed
    from trainers.dataset import Columns

    a_label = LABEL_USD.read(label_usd) if label_usd is not None else None
    if isinstance(a_label, Misread):
        refuse(a_label.sentence)
    with held.checked(file, holdout, Columns(text, label), {}) as given:
        found = measuring.learn(_usable(file, given), file.stem, predict)
        if isinstance(found, Refusal):
            refuse(found.text)
        if as_json:
            click.echo(json.dumps(printed.curve_json(found, a_label), indent=2))
        else:
            click.echo(printed.curve_text(found, a_label))


def _usable(file: Path, rows: Rows | Refusal) -> Rows:
    from bot.results import Refusal
    from bot.terminal import checking

    if isinstance(rows, Refusal):
        refuse(rows.text)
    if rows.report.blocked:
        click.echo(checking.report_text(rows.report), err=True)
        refuse(f"{file} must be mended before anything can be measured on it.")
    return rows
