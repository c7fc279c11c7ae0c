"""`finetune estimate` and `finetune prices`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from bot.cli.common import EXIT_BLOCKED, FILE, Ticker, load, refuse
from bot.cli.figures import figures
from bot.decisions.worth.question import QUANTIZATIONS

BASELINE_HELP = "What `finetune baseline FILE --json` printed: the measured alternatives."


@click.command()
@click.option("--dataset", type=FILE, required=True)
@click.option("--current", help="The model that you prompt today, like gpt-4o.")
@click.option("--target", help="The model to train, like local/smollm2-135m or gpt-4.1-mini-2025-04-14.")
@click.option("--volume", help="Input tokens a month, like 10M.")
@click.option("--epochs", type=click.IntRange(1, 50), help="Passes over the data; by rule where not said.")
@click.option("--baseline", type=FILE, help=BASELINE_HELP)
@click.option("--bar", help="The share right that is good enough, like 90%; the baseline's where not said.")
@click.option("--task", help="The kind of task: classification, extraction, style, knowledge, …")
@click.option("--sweep", help="Values to choose between, like 'lora_r:8,16;learning_rate:0.0005,0.001'.")
@click.option("--quantization", type=click.Choice(QUANTIZATIONS), help="Bits of the base: nf4 is QLoRA.")
@figures
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
def estimate(
    dataset: Path,
    current: str | None,
    target: str | None,
    volume: str | None,
    epochs: int | None,
    baseline: Path | None,
    bar: str | None,
    task: str | None,
    sweep: str | None,
    text: str | None,
    label: str | None,
    as_json: bool,
    **said: Any,
) -> None:
    """What training would cost and save, how likely it pays back, and what is still unknown."""
    from bot.decisions.amounts import Misread, parse_volume
    from bot.decisions.sweeping import read_sweep
    from bot.decisions.worth.question import Question
    from bot.results import Ended, Refusal
    from bot.terminal import checking, estimating

    read = parse_volume(volume) if volume else None
    swept = read_sweep(sweep) if sweep else ()
    if isinstance(read, Misread):
        refuse(read.sentence)
    if isinstance(swept, Misread):
        refuse(swept.sentence)
    evidence = estimating.evidence(baseline, bar, task)
    if isinstance(evidence, Refusal):
        refuse(evidence.text.replace("`", ""))
    settings = load()
    ticker = Ticker()
    how = checking.How(deep=True, tell=ticker)  # wrong labels weigh, and near copies move the split
    report = checking.check(dataset, text, label, settings.trainer.folders, how)
    ticker.done()
    if report.blocked:
        click.echo(checking.report_text(report), err=True)
        refuse(f"{dataset} must be mended before it can be estimated.")
    question = Question(current, read, target, epochs, sweep=swept, **said)
    estimated = estimating.estimate(settings, dataset.stem, report, question, evidence)
    if isinstance(estimated, Ended):
        refuse(estimated.text, EXIT_BLOCKED)
    if isinstance(estimated, Refusal):
        refuse(estimated.text)
    if as_json:
        click.echo(json.dumps(estimating.as_json(estimated, dataset), indent=2))
    else:
        click.echo(estimating.text(estimated, dataset))


@click.command()
@click.argument("models", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the prices as JSON.")
def prices(models: tuple[str, ...], as_json: bool) -> None:
    """What models cost, who says so and since when: of those named, or of all that can be tuned.

    Exits with 1 when a name has no price.
    """
    from bot.terminal import estimating
    from trainers.pricing import UnknownPrice

    rows = estimating.prices(load(), models)
    if as_json:
        click.echo(json.dumps(estimating.prices_json(rows), indent=2))
    else:
        click.echo(estimating.prices_text(rows))
    if any(isinstance(row, UnknownPrice) for row in rows):
        sys.exit(EXIT_BLOCKED)
