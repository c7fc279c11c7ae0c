"""Commands that work on a file or a model without Slack: check, baseline, curve, estimate, prices,
plan-memory, calibrate, export."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bot.cli.options import (
    EXIT_BLOCKED,
    FILE,
    JSON,
    NEW_FILE,
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
from bot.cli.output import Ticker, Tone, show, show_json, show_text
from bot.command_options import (
    BAR,
    ESTIMATE_KEYS,
    LABEL_USD,
    OPTIMISE,
    RUNGS,
    SHOTS,
    TASK,
    build_question,
    question_options,
)
from bot.rules.units import FEWEST_SEALED, MOST_SEALED
from trainers.export_formats import DTYPES, FORMATS
from trainers.host import HUB_KEYS, child_environment

if TYPE_CHECKING:
    from decimal import Decimal

    from bot.cli.datasets import EvaluationRows
    from bot.rules.facts import TaskKind
    from bot.values.runs import Refusal
    from trainers.dataset import Report


@click.command()
@click.argument("file", type=FILE)
@click.option("--text", help="Column with the text, for a table (by default found by its name).")
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
@click.option(
    "--sealed",
    type=click.IntRange(FEWEST_SEALED, MOST_SEALED),
    help="Set about so many rows aside beside the test, for a promotion.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@limited_memory()
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
    sealed: int | None,
    as_json: bool,
) -> None:
    """Check a file of labelled examples. Exits with 1 when it has a problem to fix.

    The file itself is never changed.
    """
    from bot.cli import datasets

    if fix and fix.exists():
        refuse(f"{fix} exists already: --fix takes the name of a new file.")
    if fix and not fix.parent.is_dir():
        refuse(f"There is no folder {fix.parent} to write {fix.name} into.")
    if against and holdout:
        refuse(
            "--against keeps the test of the earlier version, so --holdout can't name another: choose one."
        )
    if holdout and sealed:
        refuse("--sealed sets rows of the file aside, and with --holdout all are for training: choose one.")
    if presidio:
        _check_presidio(is_quick=quick)
    rows = value_or_exit(datasets.find_row_limit(target, load_for_file))
    with Ticker() as ticker:
        how = datasets.CheckOptions(
            deep=not quick, presidio=presidio, rows=rows, on_progress=ticker, n_sealed=sealed or 0
        )
        checked: Report | Refusal
        if against:
            checked = datasets.check_against(against, file, text, label, how)
        elif holdout:
            checked = datasets.check_with_holdout(holdout, file, text, label, how)
        else:
            checked = datasets.check(file, text, label, how=how)
    report = value_or_exit(checked)
    if report.pairs is not None:
        unknown = "memory and time are not known"
        needs = datasets.training_needs(target, report.pairs, lambda: load_if_valid(unknown))
        if as_json:
            show_json(datasets.pairs_json(report, report.pairs, needs))
        else:
            show(datasets.pairs_parts(report, report.pairs, needs))
    elif as_json:
        click.echo(report.to_json())
    else:
        show(datasets.report_parts(report, load_if_valid()), datasets.tone_of(report))
    if fix and report.pairs is None:
        copy = value_or_exit(datasets.fix(file, text, label, fix, holdout))
        click.echo(copy if as_json else f"\n{copy}", err=as_json)
    if report.blocked:
        sys.exit(EXIT_BLOCKED)


def _check_presidio(*, is_quick: bool) -> None:
    from bot.settings import NO_PRESIDIO, has_presidio

    if is_quick:
        refuse("--quick leaves out what takes long, presidio too: choose one.")
    if not has_presidio():
        refuse(f"--presidio: {NO_PRESIDIO}")


@click.command()
@click.argument("file", type=FILE)
@click.option("--holdout", type=FILE, help="Rows to measure on; without it a part of FILE is set aside.")
@click.option(
    "--rungs", type=RUNGS, default=(), help="Of classical,encoder,zero,kshot,retrieval (by default all)."
)
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
@click.option(
    "--optimise", type=OPTIMISE, help="Dollars to look for a better prompt with, for the first model, like 2."
)
@click.option(
    "--shots", type=SHOTS, help="Examples in a prompt, like 20; auto: as many as do best on training rows."
)
@click.option("--writer", help="The model that writes better prompts (by default the first model).")
@click.option("--bar", type=BAR, help="The share right that is good enough, like 90%.")
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; `finetune estimate --baseline` reads it.")
def baseline(file: Path, patience: float, bar: float | None, as_json: bool, **question: Any) -> None:
    """Measure the alternatives to fine-tuning on held-out rows: free models, prompts, examples, retrieval."""
    from bot.cli import datasets, evaluations
    from bot.cli import evaluation_results as printed

    settings = load_for_file()
    bar = bar or settings.policy.promotion.bar
    wanted = evaluations.EvaluationRequest(file, bar=bar, patience_s=60 * patience, **question)
    folders = settings.trainer.folders
    with (
        resumable(),
        Ticker() as ticker,
        datasets.checked_rows(file, wanted.holdout, wanted.columns, folders, ticker) as evaluation_rows,
    ):
        rows = _require_usable(file, evaluation_rows, ticker)
        measured = evaluations.evaluate(settings, wanted, rows, ticker)
        ticker.done()
        measured = value_or_exit(measured)
        if as_json:
            show_json(printed.baseline_json(measured, rows, file))
        else:
            tone: Tone = "good" if measured.ladder.cheapest else "warning"
            show(printed.baseline_parts(measured, rows, file), tone)


@click.command()
@click.argument("file", type=FILE)
@click.option("--holdout", type=FILE, help="Rows to measure on; without it a part of FILE is set aside.")
@click.option("--predict", type=click.IntRange(1), multiple=True, help="Rows to predict the score for.")
@click.option(
    "--label-usd",
    type=LABEL_USD,
    help="What one labelled row costs, like 0.50: what a point costs is printed too.",
)
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the curve as JSON.")
def curve(
    file: Path,
    holdout: Path | None,
    predict: tuple[int, ...],
    label_usd: Decimal | None,
    text: str | None,
    label: str | None,
    as_json: bool,
) -> None:
    """Is more data worth it? The classical model's learning curve, and what more rows would bring."""
    from bot.cli import datasets, evaluations
    from bot.cli import evaluation_results as printed
    from trainers.dataset import Columns

    columns = Columns(text, label)
    with Ticker() as ticker, datasets.checked_rows(file, holdout, columns, {}, ticker) as rows:
        curve = evaluations.learning_curve(_require_usable(file, rows, ticker), file.stem, predict, ticker)
        ticker.done()
        curve = value_or_exit(curve)
        if as_json:
            show_json(printed.curve_json(curve, label_usd))
        else:
            show(printed.curve_parts(curve, file, label_usd))


def _require_usable(file: Path, rows: EvaluationRows | Refusal, ticker: Ticker) -> EvaluationRows:
    from bot.cli import datasets

    ticker.done()

    rows = value_or_exit(rows)
    if rows.report.blocked:
        show(datasets.report_parts(rows.report), "bad", err=True)
        refuse(f"{file} has to be fixed before anything can be measured on it.")
    return rows


@click.command()
@click.argument("file", type=FILE, required=False)
@click.option("--dataset", type=FILE, hidden=True, help="Of 0.1.0: FILE, by its option.")
@question_options(*ESTIMATE_KEYS)
@click.option(
    "--baseline", type=FILE, help="What `finetune baseline FILE --json` printed: the measured alternatives."
)
@click.option(
    "--bar", type=BAR, help="The share right that is good enough, like 90% (by default the baseline's)."
)
@click.option("--task", type=TASK, help="The kind of task: classification, extraction, style, knowledge, …")
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--why", is_flag=True, help="With every reason, exact sums, and what they rest on.")
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
def estimate(
    file: Path | None,
    dataset: Path | None,
    baseline: Path | None,
    bar: float | None,
    task: TaskKind | None,
    text: str | None,
    label: str | None,
    why: bool,
    as_json: bool,
    **question: Any,
) -> None:
    """What training on FILE would cost and save, how likely it pays back, and what is still unknown."""
    from bot.cli import datasets, estimates
    from bot.values.runs import ModelEnded

    rows = file or dataset
    if rows is None:
        raise click.UsageError("Missing argument 'FILE'.")
    settings = load_for_file()
    evidence = value_or_exit(estimates.read_evidence(baseline, bar, task, settings.policy.promotion.bar))
    with Ticker() as ticker:
        # Deep: wrong labels weigh, and near copies move the split.
        how = datasets.CheckOptions(deep=True, on_progress=ticker)
        report = datasets.check(rows, text, label, settings.trainer.folders, how)
    if report.blocked:
        show(datasets.report_parts(report), "bad", err=True)
        refuse(f"{rows} has to be fixed before it can be estimated.")
    estimated = estimates.estimate(settings, rows.stem, report, build_question(question), evidence)
    if isinstance(estimated, ModelEnded):
        refuse(estimated.text, EXIT_BLOCKED)
    estimated = value_or_exit(estimated)
    if as_json:
        show_json(estimates.estimate_json(estimated, rows))
    else:
        parts = estimates.estimate_parts(estimated, rows, is_detailed=why)
        show(parts, estimates.TONES[estimated.verdict.kind])


@click.command()
@click.argument("models", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the prices as JSON.")
def prices(models: tuple[str, ...], as_json: bool) -> None:
    """What models cost, who says so and since when: of those named, or of all that can be tuned.

    Exits with 1 when a name has no price.
    """
    from bot.cli import estimates
    from trainers.pricing import UnknownPrice

    rows = estimates.prices(load(), models)
    if as_json:
        show_json(estimates.prices_json(rows))
    else:
        show(estimates.prices_parts(rows))
    if any(isinstance(row, UnknownPrice) for row in rows):
        sys.exit(EXIT_BLOCKED)


@click.command()
@JSON
def sunsets(as_json: bool) -> None:
    """When models end, what follows them, and who says so: of all that are in use, planned, prompted today or set.

    Exits with 1 when one that a dataset relies on has ended.
    """
    from bot.cards.sunsets import listing
    from bot.cli.render import uses_json
    from bot.services import sunsets as ends
    from storage.backup import opened_copy

    today, settings = utc_today(), load()
    uses = tuple(ends.list_configured(settings, today))
    if settings.database.exists():
        with exit_on_storage_error(), opened_copy(settings.database) as store:
            uses = (*ends.list_uses(store, settings, today), *uses)
    ended = any(use.dataset and use.has_ended(today) for use in uses)
    if as_json:
        show_json(uses_json(uses, today))
    else:
        show(listing(uses, today).parts, "warning" if ended else "plain")
    if ended:
        sys.exit(EXIT_BLOCKED)


@click.command("plan-memory")
@click.argument("model")
@click.option(
    "--method", type=click.Choice(["lora", "qlora", "8bit", "full"]), default="lora", show_default=True
)
@click.option(
    "--length", type=click.IntRange(16, 131_072), default=1024, show_default=True, help="Tokens a row."
)
@click.option(
    "--batch", type=click.IntRange(1, 256), default=8, show_default=True, help="Rows or pairs a step."
)
@click.option("--rank", type=click.IntRange(1, 512), default=16, show_default=True, help="LoRA's r.")
@click.option(
    "--target-modules",
    default="all-linear",
    show_default=True,
    help="Layers with LoRA's matrices, like q_proj,v_proj.",
)
@click.option(
    "--answer", type=click.IntRange(1, 131_072), help="Tokens learnt a row (by default a quarter of it)."
)
@click.option(
    "--pairs", is_flag=True, help="Preference pairs (DPO): --length is a prompt with the longer answer."
)
@click.option(
    "--samples",
    type=click.IntRange(2, 64),
    help="Answers sampled to each question (GRPO): --length is a question with the longest.",
)
@click.option("--checkpointing", is_flag=True, help="Compute activations again instead of keeping them.")
@click.option("--gpu", metavar="GB|NAME", help="Like 24 or h100 (by default this machine).")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, in bytes.")
def plan_memory(
    model: str,
    method: str,
    length: int,
    batch: int,
    rank: int,
    target_modules: str,
    answer: int | None,
    pairs: bool,
    samples: int | None,
    checkpointing: bool,
    gpu: str | None,
    as_json: bool,
) -> None:
    """What training MODEL (a hub id, a short name, a folder) takes in memory, part by part, and whether it fits."""
    from bot.cli import hardware
    from trainers.sizing.memory import METHODS, Work

    if samples and (pairs or method == "full"):
        refuse("--samples go with LoRA, and not with --pairs: leave one of them out.")
    (chosen,) = (name for name in METHODS if name == method)
    learnt = min(answer or max(1, length // 4), length)
    work = Work(
        chosen,
        length,
        batch,
        rank,
        learnt,
        checkpoints=checkpointing,
        pairs=pairs,
        samples=samples or 0,
        targets=target_modules,
    )
    planned = value_or_exit(hardware.plan_memory(model, work, gpu))
    if as_json:
        show_json(hardware.memory_json(planned))
    else:
        show_text(hardware.memory_text(planned))


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(2, 600), default=28, show_default=True, help="How long, about."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON.")
def calibrate(seconds: float, as_json: bool) -> None:
    """Measure how fast this machine trains, so that estimates of time rest on it. Best while nothing else runs."""
    from bot.cli import hardware

    settings = load_for_file()
    with Ticker() as ticker:
        calibration = hardware.calibrate(settings.data, seconds, ticker)
    calibration = value_or_exit(calibration)
    if as_json:
        click.echo(calibration.to_json())
    else:
        show_text(hardware.calibration_text(calibration))


FOLDER = click.Path(path_type=Path)
FORMS = "; ".join(f"{row.name}: {row.writes.replace('`', '')}" for row in FORMATS.values())


@click.command()
@click.argument("model")
@click.option("--to", type=click.Choice(list(FORMATS)), required=True, help=FORMS)
@click.option(
    "--out", type=FOLDER, help="A folder that doesn't exist yet, or is empty. Default: MODEL-FORM, here."
)
@click.option(
    "--data", type=FOLDER, multiple=True, help="The data folder of a trainer that was started by hand."
)
@click.option(
    "--dtype",
    type=click.Choice(DTYPES),
    help="Number format of merged and GGUF weights. Default: the base's, in GGUF float16 for bfloat16.",
)
@click.option("--rows", type=FOLDER, help="Chat JSONL to check the export with. Default: the job's own rows.")
@click.option("--base-id", help="The base model's id on the hub, where it is a folder here.")
@click.option("--licence", help="The base model's licence, where its folder doesn't say it.")
@click.option("--repo", help="ORG/NAME to upload to, with --to hub; needs HF_TOKEN.")
@click.option("--public", is_flag=True, help="Everybody may read the repo.")
def export(
    model: str,
    to: str,
    out: Path | None,
    data: tuple[Path, ...],
    public: bool,
    **options: Any,
) -> None:
    """Write a tuned model for other programs: MODEL is tickets-7, ft:…, a checkpoint or a job's folder."""
    from bot.cli.exports import find_model

    if importlib.util.find_spec("torch") is None:
        refuse("Exporting needs the extra [local]: pip install '.[local]' in a checkout")
    settings = load_for_file()
    source = value_or_exit(find_model(settings, model))
    roots = [*data, settings.data / "trainer", settings.data / "terminal-trainer"]
    name = source.name or model
    if "/" in name and not name.startswith("ft:"):
        name = Path(name).name
    out = out or Path(re.sub(r"[^\w.-]+", "-", name) + f"-{to}")
    arguments = [source.model, "--to", to, "--out", str(out), "--tools", str(settings.data / "tools")]
    arguments += [part for root in roots for part in ("--data", str(root))]
    for option, value in options.items():  # the exporter's own, under the same names
        arguments += [f"--{option.replace('_', '-')}", str(value)] if value else []
    arguments += ["--public"] * public + ["--facts"] * (source.facts is not None)
    export = subprocess.run(
        [sys.executable, "-m", "trainers.local.export", *arguments],
        input=json.dumps(source.facts) if source.facts is not None else "",
        text=True,
        env=child_environment(*HUB_KEYS, "PIP_"),
        check=False,
    )
    sys.exit(export.returncode)
