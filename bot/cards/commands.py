"""How sentences spell our commands and their options: as they are typed into Slack or into a terminal. A card that
both show takes the spelling of the place where it is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Options = Mapping[str, Sequence[str]]  # several values of an option, as several models
NO_OPTIONS: Options = {}


class SlackSpelling:
    """Commands as `bot/command_parser.py` reads them. `again`: what a person does with a file that has changed."""

    again = "upload the file again"

    def option(self, name: str, value: str = "") -> str:
        """'bar=', 'task=quality'."""
        return f"{name}={value}"

    def command(self, name: str, dataset: str, options: Options = NO_OPTIONS) -> str:
        """The command in backticks: '`/finetune baseline tickets models=openai/gpt-4o,openai/gpt-4o-mini`'."""
        typed = [self.option(option, ",".join(values)) for option, values in options.items() if values]
        return f"`{' '.join([f'/finetune {name} {dataset}', *typed])}`"


# What the terminal does with a file, and options that it names otherwise.
WITH_A_FILE = ("baseline", "curve")
TERMINAL_NAMES = {"models": "model"}  # said once for each; other options take a list
TERMINAL_AGAIN = "run this again"


@dataclass(frozen=True)
class TerminalSpelling:
    """`file` stands for the dataset."""

    file: str
    again: str = TERMINAL_AGAIN

    def option(self, name: str, value: str = "") -> str:
        """'--bar', '--task quality'."""
        return f"--{TERMINAL_NAMES.get(name, name).replace('_', '-')} {value}".rstrip()

    def command(self, name: str, dataset: str, options: Options = NO_OPTIONS) -> str:
        """'finetune baseline t.csv --model openai/gpt-4o'. What only Slack has stays a command of Slack's."""
        if name not in WITH_A_FILE:
            return f"{SLACK.command(name, dataset, options).strip('`')} in Slack"
        typed = []
        for option, values in options.items():
            each = values if option in TERMINAL_NAMES else [",".join(values)] if values else []
            typed += [self.option(option, value) for value in each]
        return " ".join(["finetune", name, self.file, *typed])


Spelling = SlackSpelling | TerminalSpelling
SLACK = SlackSpelling()
