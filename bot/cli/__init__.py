"""`finetune …` in the terminal: thin, each command hands over to the room that does the work."""

from __future__ import annotations

from pathlib import Path

import click

from bot.cli.auditing import audit
from bot.cli.backing import backup, restore
from bot.cli.checking import check
from bot.cli.common import load_dot_env
from bot.cli.engines import engines
from bot.cli.estimating import estimate, prices
from bot.cli.exporting import export
from bot.cli.forgetting import forget
from bot.cli.logged import log
from bot.cli.measuring import baseline, curve
from bot.cli.policy import policy
from bot.cli.serving import demo, doctor, run, trainer
from bot.cli.sizing import calibrate, plan_memory
from bot.cli.using import current


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finetune-bot")
def main() -> None:
    """From labelled examples to a better model, decided on evidence by a team in Slack."""
    load_dot_env(Path(".env"))


for command in (
    run,
    trainer,
    engines,
    check,
    baseline,
    curve,
    estimate,
    prices,
    plan_memory,
    calibrate,
    export,
    current,
    audit,
    log,
    backup,
    restore,
    forget,
    policy,
    doctor,
    demo,
):
    main.add_command(command)
