"""`finetune …` in the terminal. Commands import the code they run only when called, so that the program
starts quickly."""

from __future__ import annotations

from pathlib import Path

import click

from bot.cli.admin import audit, backup, current, engines, forget, log, restore
from bot.cli.analysis import baseline, calibrate, check, curve, estimate, export, plan_memory, prices
from bot.cli.options import load_dot_env
from bot.cli.policy import policy
from bot.cli.server import demo, doctor, init, run, trainer


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finetune-bot")
def main() -> None:
    """From labelled examples to a better model, decided on evidence by a team in Slack."""
    load_dot_env(Path(".env"))


for command in (
    init,
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


# What the commands of the terminal compute and print: no Slack, and nothing kept but paid answers.
