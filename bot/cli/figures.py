"""The options of `finetune estimate` for what only a person can know: each reads its figure within its bounds."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any, TypeVar

import click

from bot.decisions.amounts import Misread
from bot.decisions.worth import question
from bot.decisions.worth.question import Figure

_Command = TypeVar("_Command", bound=Callable[..., Any])

# option, field of Question, what it is, help
_FIGURES = (
    ("--hours", "people_hours", question.PEOPLE_HOURS, "Hours that people will spend on it, once."),
    ("--rate", "people_rate", question.PEOPLE_RATE, "Dollars for an hour of theirs (75 where not said)."),
    ("--labels", "label_count", question.LABEL_COUNT, "Rows that must still be labelled."),
    ("--label-usd", "label_usd", question.LABEL_USD, "Dollars for one of these labels."),
    ("--wrong-usd", "wrong_usd", question.WRONG_USD, "Dollars that one wrong answer costs."),
    ("--prompt-tokens", "prompt_tokens", question.PROMPT_TOKENS, "Tokens of one request to today's model."),
    ("--batch", "batch_share", question.BATCH_SHARE, "Share of the requests that can wait a day, like 30%."),
    ("--runs", "runs", question.RUNS, "Training runs until one is good enough."),
    ("--retrain-months", "retrain_months", question.RETRAIN_MONTHS, "Train again every so many months."),
    ("--monitoring-usd", "monitoring_usd", question.MONITORING_USD, "Dollars a month for monitoring."),
    ("--hosting-hours", "hosting_hours", question.HOSTING_HOURS, "Hours a month that your machine is up."),
    ("--serving-speed", "serving_speed", question.SERVING_SPEED, "Tokens a second of a machine paid by use."),
    ("--utilisation", "utilisation", question.UTILISATION, "Share of its time that it is busy, like 20%."),
)


class FigureType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks than we ask for
    name = "number"

    def __init__(self, figure: Figure) -> None:
        self._figure = figure

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Decimal | int:
        read = self._figure.read(str(value))
        if isinstance(read, Misread):
            self.fail(read.sentence, param, ctx)
        return int(read) if self._figure.is_whole else read


def figures(command: _Command) -> _Command:
    """Each of the options, as a keyword named after the field of Question."""
    for option, field, figure, text in reversed(_FIGURES):
        command = click.option(option, field, type=FigureType(figure), help=text)(command)
    return command
