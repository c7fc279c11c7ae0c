"""`finetune plan-memory` and `finetune calibrate`."""

from __future__ import annotations

import json

import click

from bot.cli.common import Ticker, load, refuse


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
    "--answer", type=click.IntRange(1, 131_072), help="Tokens learnt a row; a quarter of it where not said."
)
@click.option(
    "--pairs", is_flag=True, help="Preference pairs (DPO): --length is a prompt with the longer answer."
)
@click.option("--checkpointing", is_flag=True, help="Compute activations again instead of keeping them.")
@click.option("--gpu", metavar="GB|NAME", help="Like 24 or h100; this machine where not said.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON, in bytes.")
def plan_memory(
    model: str,
    method: str,
    length: int,
    batch: int,
    rank: int,
    answer: int | None,
    pairs: bool,
    checkpointing: bool,
    gpu: str | None,
    as_json: bool,
) -> None:
    """What training MODEL (a hub id, a short name, a folder) takes in memory, part by part, and whether it fits."""
    from bot.results import Refusal
    from bot.terminal import planning_memory
    from trainers.sizing.memory import METHODS, Work

    (chosen,) = (one for one in METHODS if one == method)
    learnt = min(answer or max(1, length // 4), length)
    work = Work(chosen, length, batch, rank, learnt, checkpoints=checkpointing, pairs=pairs)
    planned = planning_memory.plan(model, work, gpu)
    if isinstance(planned, Refusal):
        refuse(planned.text)
    if as_json:
        click.echo(json.dumps(planning_memory.as_json(planned), indent=2))
    else:
        click.echo(planning_memory.text(planned))


@click.command()
@click.option(
    "--seconds", type=click.FloatRange(2, 600), default=28, show_default=True, help="How long, about."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON.")
def calibrate(seconds: float, as_json: bool) -> None:
    """Measure how fast this machine trains, so that estimates of time rest on it. Best while nothing else runs."""
    from bot.results import Refusal
    from bot.terminal import calibrating

    settings, ticker = load(), Ticker()
    found = calibrating.calibrate(settings.data, seconds, ticker)
    ticker.done()
    if isinstance(found, Refusal):
        refuse(found.text)
    click.echo(found.to_json() if as_json else calibrating.text(found))
