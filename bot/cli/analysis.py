"""Commands about a file or a model, which need no Slack: check, baseline, curve, estimate, import-traces, prices,
sunsets, plan-memory, calibrate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from bot.cards.common.terminal import Tone
from bot.cli.options import (
    EXIT_BLOCKED,
    FILE,
    JSON,
    NEW_FILE,
    SHEET,
    SHEET_HELP,
    create_data_folder,
    exit_on_storage_error,
    limited_memory,
    load,
    load_for_file,
    load_if_valid,
    refuse,
    resumable,
    utc_today,
    value_or_exit,
)
from bot.cli.output import Ticker, show, show_json, show_text, wants_text
from bot.command_options import (
    BAR,
    ESTIMATE_KEYS,
    KINDS,
    LABEL_USD,
    MAX_USD,
    MODEL_OR_FOLDER,
    OPTIMISE,
    PROMPT_NUMBER,
    SHOTS,
    TASK,
    build_question,
    current_option_name,
    question_options,
)
from bot.option_groups import GroupedCommand, grouped_option
from bot.rules.units import FEWEST_SEALED, MOST_SEALED

if TYPE_CHECKING:
    from decimal import Decimal

    from bot.rules.facts import TaskKind
    from bot.values.runs import Refusal
    from trainers.dataset import Report


@click.command()
@click.argument("file", type=FILE)
@click.option("--text", help="Column with the text, for a table (by default guessed from its name).")
@click.option("--label", help="Column with the label, for a table.")
@SHEET
@click.option("--against", metavar="PREVIOUS", type=FILE, help="Compare FILE with its earlier version.")
@click.option(
    "--holdout", metavar="TEST", type=FILE, help="Your own test set: finds rows of FILE that ask the same."
)
@click.option(
    "--fix",
    metavar="OUT",
    type=NEW_FILE,
    help="Write a cleaned copy to OUT, without rows that TEST asks too.",
)
@click.option(
    "--target",
    metavar="MODEL",
    type=MODEL_OR_FOLDER,
    help="The model to train, or its folder: rows are checked against its limits.",
)
@click.option("--quick", is_flag=True, help="Skip the search for near copies and for labels that look wrong.")
@click.option(
    "--presidio", is_flag=True, help="Also search for personal data with presidio (the extra 'pii')."
)
@click.option(
    "--sealed",
    type=click.IntRange(FEWEST_SEALED, MOST_SEALED),
    help="Set aside about this many rows, besides the test, for a promotion.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@limited_memory()
def check(
    file: Path,
    text: str | None,
    label: str | None,
    sheet: str | None,
    against: Path | None,
    holdout: Path | None,
    fix: Path | None,
    target: str | None,
    quick: bool,
    presidio: bool,
    sealed: int | None,
    as_json: bool,
) -> None:
    """Check a file of labelled examples, which is never changed.

    Exits with 1 if the file has a problem that must be fixed.
    """
    from bot.cli import datasets
    from trainers.dataset import Columns

    columns = Columns(text, label, sheet)
    # Before the check, which would be in vain if the copy can't be written.
    if fix:
        _check_new_file(fix)
    if against and holdout:
        refuse(
            "--against keeps the earlier version's test, so --holdout can't name another one: choose one of them."
        )
    if holdout and sealed:
        refuse(
            "--sealed sets aside rows of the file, but with --holdout all rows are for training: choose one of them."
        )
    if presidio:
        _check_presidio(is_quick=quick)
    rows = value_or_exit(datasets.find_row_limit(target, load_for_file))
    with Ticker() as ticker:
        how = datasets.CheckOptions(
            deep=not quick, presidio=presidio, rows=rows, on_progress=ticker, n_sealed=sealed or 0
        )
        checked: Report | Refusal
        if against:
            checked = datasets.check_against(against, file, columns, how)
        elif holdout:
            checked = datasets.check_with_holdout(holdout, file, columns, how)
        else:
            checked = datasets.check(file, columns, how=how)
    report = value_or_exit(checked)
    _show_report(file, report, target, as_json=as_json)
    if fix:
        copy = value_or_exit(datasets.fix(file, columns, fix, holdout))
        # With --json, stdout has the report only.
        click.echo(copy if as_json else f"\n{copy}", err=as_json)
    if report.is_blocked:
        sys.exit(EXIT_BLOCKED)


def _check_new_file(fix: Path) -> None:
    if fix.exists():
        refuse(f"{fix} exists already: --fix takes the name of a new file.")
    if not fix.parent.is_dir():
        refuse(f"There is no folder {fix.parent} to write {fix.name} into.")


def _show_report(file: Path, report: Report, target: str | None, *, as_json: bool) -> None:
    from bot.cli import datasets

    if report.pairs is not None:
        unknown = "memory and time are unknown"
        needs = datasets.training_needs(target, report.pairs, lambda: load_if_valid(unknown))
        if as_json:
            show_json(datasets.pairs_json(report, report.pairs, needs))
        if wants_text(as_json=as_json):
            show(datasets.pairs_parts(report, report.pairs, needs))
        return
    if as_json:
        click.echo(report.to_json())
    if wants_text(as_json=as_json):
        show(datasets.report_parts(report, load_if_valid(), file), datasets.tone_of(report))


def _check_presidio(*, is_quick: bool) -> None:
    from bot.settings import has_presidio, no_presidio

    if is_quick:
        refuse("--quick skips slow checks, and presidio is one: choose one of them.")
    if not has_presidio():
        refuse(f"--presidio: {no_presidio()}")


# Reads the earlier name of an option, too, which the help doesn't show.
@click.command(context_settings={"token_normalize_func": current_option_name})
@click.argument("file", type=FILE)
@click.option("--holdout", type=FILE, help="Rows to measure on; without it a part of FILE is set aside.")
@click.option(
    "--candidates",
    "kinds",
    type=KINDS,
    default=(),
    help="Some of classical,encoder,zero,kshot,retrieval (by default all).",
)
@click.option("--model", "models", multiple=True, help="A model to ask, like openai/gpt-4o-mini. Repeatable.")
@click.option(
    "--judge",
    help="A model that judges free text, like openai/gpt-4o-mini. Without it, answers are scored by shared words.",
)
@click.option(
    "--waive",
    help="Your reason why the file's personal data may be sent to a vendor; without one it is not sent.",
)
@click.option(
    "--patience",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    help="Give up after this many minutes without any answer; answers so far are kept.",
)
@click.option("--prompt", help="Your instructions, instead of the default ones.")
@click.option(
    "--optimise", type=OPTIMISE, help="Dollars to spend on a better prompt for the first model, like 2."
)
@click.option(
    "--shots", type=SHOTS, help="Examples in a prompt, like 20; auto tries several numbers on training rows."
)
@click.option("--writer", help="The model that writes better prompts (by default the first model).")
@click.option("--bar", type=BAR, help="The share of right answers that is good enough, like 90%.")
@click.option(
    "--max-usd", type=MAX_USD, help="Ask nothing if it could cost more than these dollars, like 0.50."
)
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@SHEET
@click.option("--json", "as_json", is_flag=True, help="Print JSON; `finetune estimate --baseline` reads it.")
def baseline(file: Path, patience: float, bar: float | None, as_json: bool, **question: Any) -> None:
    """Measure the alternatives to fine-tuning on held-out rows: free models, prompts, examples, retrieval."""
    from bot.cli import datasets, evaluations
    from bot.cli import evaluation_results as printed

    settings = load_for_file()
    wanted = evaluations.EvaluationRequest(
        file,
        bar=bar or settings.policy.promotion.bar,
        is_bar_set=bar is not None,
        patience_s=60 * patience,
        **question,
    )
    folders = settings.trainer.folders
    with (
        exit_on_storage_error(),
        resumable(),
        Ticker() as ticker,
        datasets.checked_rows(file, wanted.holdout, wanted.columns, folders, ticker) as evaluation_rows,
    ):
        rows = datasets.require_usable(file, evaluation_rows, ticker)
        measured = evaluations.evaluate(settings, wanted, rows, ticker)
        ticker.done()
        measured = value_or_exit(measured)
        if as_json:
            show_json(printed.baseline_json(measured, rows, file))
        if wants_text(as_json=as_json):
            tone: Tone = "good" if measured.comparison.cheapest else "warning"
            show(printed.baseline_parts(measured, rows, file), tone)


@click.command()
@click.argument("file", type=FILE)
@click.option("--holdout", type=FILE, help="Rows to measure on; without it a part of FILE is set aside.")
@click.option(
    "--predict",
    type=click.IntRange(1),
    multiple=True,
    help="Predict the score with this many rows. Repeatable.",
)
@click.option(
    "--label-usd",
    type=LABEL_USD,
    help="Cost of one labelled row, like 0.50; the cost of a point is printed too.",
)
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@SHEET
@click.option("--json", "as_json", is_flag=True, help="Print the curve as JSON.")
def curve(
    file: Path,
    holdout: Path | None,
    predict: tuple[int, ...],
    label_usd: Decimal | None,
    text: str | None,
    label: str | None,
    sheet: str | None,
    as_json: bool,
) -> None:
    """Draw the classical model's learning curve, which shows if more labelled rows are worth it."""
    from bot.cli import datasets, evaluations
    from bot.cli import evaluation_results as printed
    from trainers.dataset import Columns

    columns = Columns(text, label, sheet)
    with Ticker() as ticker, datasets.checked_rows(file, holdout, columns, {}, ticker) as rows:
        curve = evaluations.learning_curve(
            datasets.require_usable(file, rows, ticker), file.stem, predict, ticker
        )
        ticker.done()
        curve = value_or_exit(curve)
        if as_json:
            show_json(printed.curve_json(curve, label_usd))
        if wants_text(as_json=as_json):
            show(printed.curve_parts(curve, file, label_usd))


@click.command(cls=GroupedCommand)
@click.argument("file", type=FILE, required=False)
@click.option("--dataset", type=FILE, hidden=True, help="FILE, as 0.1.0 took it.")
@question_options(*ESTIMATE_KEYS)
@grouped_option(
    "data",
    "--baseline",
    "baselines",
    type=FILE,
    multiple=True,
    help="The measured alternatives, as `finetune baseline FILE --json` printed them; repeat it for several.",
)
@grouped_option(
    "data",
    "--bar",
    type=BAR,
    help="The share of right answers that is good enough, like 90% (by default the baseline's).",
)
@grouped_option(
    "data",
    "--task",
    type=TASK,
    help="The kind of task: classification, extraction, style, knowledge, …",
)
@grouped_option("data", "--text", help="Column with the text, for CSV.")
@grouped_option("data", "--label", help="Column with the label, for CSV.")
@grouped_option("data", "--sheet", help=SHEET_HELP)
@click.option("--why", is_flag=True, help="Add every reason, exact sums, and their assumptions.")
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
def estimate(
    file: Path | None,
    dataset: Path | None,
    baselines: tuple[Path, ...],
    bar: float | None,
    task: TaskKind | None,
    text: str | None,
    label: str | None,
    sheet: str | None,
    why: bool,
    as_json: bool,
    **question: Any,
) -> None:
    """Estimate what training on FILE would cost and save, how likely it pays back, and what is still unknown."""
    from bot.cli import datasets, estimates
    from bot.values.runs import ModelEnded
    from trainers.dataset import Columns

    rows = file or dataset
    if rows is None:
        raise click.UsageError("Missing argument 'FILE'.")
    settings = load_for_file()
    evidence = value_or_exit(estimates.read_evidence(baselines, bar, task, settings.policy.promotion.bar))
    with Ticker() as ticker:
        # Deep: wrong labels matter to the verdict, and near copies change the split.
        how = datasets.CheckOptions(deep=True, on_progress=ticker)
        report = datasets.check(rows, Columns(text, label, sheet), settings.trainer.folders, how)
    if report.is_blocked:
        datasets.refuse_blocked(rows, report, "training on it can be estimated")
    estimated = estimates.estimate(settings, rows.stem, report, build_question(question), evidence)
    if isinstance(estimated, ModelEnded):
        # The question was in order and the answer is no, so it is not the exit code of a misuse.
        refuse(estimated.text, EXIT_BLOCKED)
    estimated = value_or_exit(estimated)
    if as_json:
        show_json(estimates.estimate_json(estimated, rows))
    if wants_text(as_json=as_json):
        parts = estimates.estimate_parts(estimated, rows, is_detailed=why)
        show(parts, estimates.TONES[estimated.verdict.kind])


@click.command()
@click.argument("file", type=FILE)
@click.option("--model", help="Only calls of this model. Default: the one with the most calls.")
@click.option(
    "--prompt",
    type=PROMPT_NUMBER,
    help="Only calls with the instructions of this number, or all. Default: the most frequent ones.",
)
@click.option("--out", type=NEW_FILE, help="Write the questions as rows without labels into this new file.")
@click.option(
    "--label-with-answers",
    is_flag=True,
    help="With --out: write the model's own answers as labels, which nobody has checked.",
)
@click.option("--mask", is_flag=True, help="With --out: put placeholders in the place of personal data.")
@JSON
@limited_memory()
def import_traces(
    file: Path,
    model: str | None,
    prompt: int | Literal["all"] | None,
    out: Path | None,
    label_with_answers: bool,
    mask: bool,
    as_json: bool,
) -> None:
    """Read calls of a model that other tools recorded in FILE: today's model, calls a month and tokens for an estimate,
    and questions as rows.

    FILE is OTLP JSON, an export of Langfuse, logs of LiteLLM, stored completions of OpenAI, or lines with request and
    response, also as gzip. Instructions are quoted; nothing is stored but OUT.
    """
    from bot.cli import estimates
    from bot.services.datasets.traces import TraceChoice, import_traces, write_rows

    if out is None and (label_with_answers or mask):
        refuse("--label-with-answers and --mask say how rows are written: name their file with --out.")
    wanted = TraceChoice(
        model,
        None if prompt == "all" else prompt,
        all_prompts=prompt == "all",
        with_answers=label_with_answers,
        masks=mask,
    )
    imported = value_or_exit(import_traces(file, file.name, wanted))
    if out is not None:
        value_or_exit(write_rows(imported, out))
    if as_json:
        show_json(estimates.traces_json(imported, out))
    else:
        show(estimates.traces_parts(imported, out), "warning" if imported.file.findings else "good")


@click.command()
@click.argument("models", nargs=-1)
@click.option(
    "--all", "is_full", is_flag=True, help="Also list models that have ended, or have no known price."
)
@click.option("--json", "as_json", is_flag=True, help="Print the prices of all as JSON.")
def prices(models: tuple[str, ...], is_full: bool, as_json: bool) -> None:
    """List what MODELS cost, with the source and date of each price; by default all models that can be tuned.

    The name of a provider, like together, stands for all of its models.

    Exits with 1 if a model's price is unknown.
    """
    from bot.cli import estimates
    from trainers.providers.pricing import UnknownPrice

    settings = load()
    rows = estimates.prices(settings, models)
    if as_json:
        show_json(estimates.prices_json(rows))
    if wants_text(as_json=as_json):
        shown_by = ""
        if not models and not is_full:
            shown_by = "finetune prices --all"
        show(estimates.prices_parts(settings, rows, shown_by))
    if any(isinstance(row, UnknownPrice) for row in rows):
        sys.exit(EXIT_BLOCKED)


@click.command()
@click.option(
    "--all",
    "is_full",
    is_flag=True,
    help="Also list configured models that have ended, or have no known end.",
)
@JSON
def sunsets(is_full: bool, as_json: bool) -> None:
    """List when models end, with their successors and sources: all that are in use, planned, prompted or configured.

    Exits with 1 if a model that a dataset relies on has ended.
    """
    from bot.cards.models.sunsets import listing
    from bot.cli.models import uses_json
    from bot.services.models import sunsets as ends
    from storage.backup import open_copy

    today = utc_today()
    settings = load()
    uses = tuple(ends.list_configured(settings, today))
    # Before the bot's first start, only the configured models are known.
    if settings.database.exists():
        with exit_on_storage_error(), open_copy(settings.database) as store:
            uses = (*ends.list_uses(store, settings, today), *uses)
    # Nothing depends on a model that is only configured.
    ended = any(use.dataset and use.has_ended(today) for use in uses)
    if as_json:
        show_json(uses_json(uses, today))
    if wants_text(as_json=as_json):
        shown_by = "" if is_full else "finetune sunsets --all"
        show(listing(uses, today, shown_by).parts, "warning" if ended else "plain")
    if ended:
        sys.exit(EXIT_BLOCKED)


@click.command("plan-memory")
@click.argument("model", type=MODEL_OR_FOLDER)
@click.option(
    "--method", type=click.Choice(["lora", "qlora", "8bit", "full"]), default="lora", show_default=True
)
@click.option(
    "--length", type=click.IntRange(16, 131_072), default=1024, show_default=True, help="Tokens per row."
)
@click.option(
    "--batch", type=click.IntRange(1, 256), default=8, show_default=True, help="Rows or pairs per step."
)
@click.option("--rank", type=click.IntRange(1, 512), default=16, show_default=True, help="LoRA's r.")
@click.option(
    "--target-modules",
    "targets",
    default="all-linear",
    show_default=True,
    help="Layers that get LoRA matrices, like q_proj,v_proj.",
)
@click.option(
    "--answer",
    type=click.IntRange(1, 131_072),
    help="Tokens per row that are learnt (by default a quarter).",
)
@click.option(
    "--pairs", is_flag=True, help="Preference pairs (DPO): --length counts a prompt with its longer answer."
)
@click.option(
    "--samples",
    type=click.IntRange(2, 64),
    help="Answers sampled per question (GRPO): --length counts a question with its longest answer.",
)
@click.option(
    "--checkpointing", "checkpoints", is_flag=True, help="Recompute activations instead of storing them."
)
@click.option("--gpu", metavar="GB|NAME", help="A GPU, like 24 or h100 (by default this machine).")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, in bytes.")
def plan_memory(
    model: str,
    method: str,
    length: int,
    answer: int | None,
    samples: int | None,
    gpu: str | None,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Show how much memory training MODEL takes, part by part, and if it fits.

    MODEL is a hub id, a short name or a folder. Its weights are not loaded.
    """
    from bot.cli import hardware
    from trainers.sizing.memory import METHODS, Work

    if samples and (sizes["pairs"] or method == "full"):
        refuse("--samples works with LoRA only, and not with --pairs: leave one of them out.")
    # Gives the method its literal type, which Work takes.
    (chosen,) = (name for name in METHODS if name == method)
    learnt = min(answer or max(1, length // 4), length)
    work = Work(chosen, length, answer=learnt, samples=samples or 0, **sizes)
    planned = value_or_exit(hardware.plan_memory(model, work, gpu))
    if as_json:
        show_json(hardware.memory_json(planned))
    if wants_text(as_json=as_json):
        show_text(hardware.memory_text(planned))


@click.command()
@click.option(
    "--seconds",
    type=click.FloatRange(2, 600),
    default=28,
    show_default=True,
    help="About how long to measure.",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON.")
def calibrate(seconds: float, as_json: bool) -> None:
    """Measure how fast this machine trains, for later estimates of time. Best while nothing else runs."""
    from bot.cli import hardware

    settings = load_for_file()
    create_data_folder(settings.data)
    with Ticker() as ticker:
        calibration = hardware.calibrate(settings.data, seconds, ticker)
    calibration = value_or_exit(calibration)
    if as_json:
        click.echo(calibration.to_json())
    else:
        show_text(hardware.calibration_text(calibration))
