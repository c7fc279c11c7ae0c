"""What to type instead of a word that is no command here: the line for the other place, Slack or the terminal, if it is
a command there, or else the nearest command of either.

`in_slack` are the names of Slack's commands, none where its packages aren't installed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bot.command_options import did_you_mean, plain, shown
from bot.values.terminal_commands import TERMINAL_COMMANDS, is_subcommand

LONGEST_ECHO = 200
# Other words that cards and people use for a command.
_SYNONYMS = {"train": "start", "deploy": "promote", "measure": "baseline"}


def explain_in_slack(in_slack: Sequence[str], word: str, line: str) -> str:
    """`word` was typed after `/finetune`, and `line` after that."""
    typed = word.lower()
    if typed not in TERMINAL_COMMANDS:
        near = _nearest(typed, in_slack, TERMINAL_COMMANDS, "in a terminal")
        return f"I don't know `{shown(typed)}`.{near} `/finetune help all` lists all commands."
    # Slack turns two dashes into a long one.
    words = re.sub(r"(?<!\S)[—–](?=\w)", "--", line)
    in_terminal = plain(f"finetune {typed} {words}").strip()[:LONGEST_ECHO]
    name = _with_subcommand(typed, line)
    where = f"`{name}` is a command of the terminal, not of Slack."
    return f"{where} In a terminal, in the bot's folder: `{in_terminal}`."


def explain_in_terminal(in_slack: Sequence[str], words: Sequence[str]) -> str:
    """`words` were typed after `finetune`."""
    typed = words[0].lower()
    meant = _SYNONYMS.get(typed, typed)
    if meant in in_slack and meant not in TERMINAL_COMMANDS:
        line = " ".join(["/finetune", meant, *words[1:]])
        where = f"{typed} is a command of Slack, not of the terminal."
        return f"{where} In a channel with the bot: {line}"
    near = _nearest(typed, TERMINAL_COMMANDS, in_slack, "in Slack")
    return f"There is no command {typed}.{near} `finetune --help` lists all commands."


def _with_subcommand(typed: str, line: str) -> str:
    """'audit verify' for `audit` with `verify` behind it; other words are arguments."""
    following = line.lower().split(maxsplit=1)
    if following and is_subcommand(typed, following[0]):
        return f"{typed} {following[0]}"
    return typed


def _nearest(typed: str, here: Sequence[str], elsewhere: Sequence[str], where: str) -> str:
    """Suggests the nearest command of both places, and says where to type it if it isn't a command here."""
    meant = _SYNONYMS.get(typed, typed)
    near = did_you_mean(meant, [*here, *elsewhere])
    near_here = did_you_mean(meant, here)
    if near == near_here:
        return near
    return near.replace("`?", f"` {where}?")
