"""Commands are spelled as they are typed in Slack and in the terminal."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import bot
from bot.cards.common.advice import todo_text
from bot.cards.common.words import SLACK, TerminalSpelling
from bot.rules.reasons import Measure, Todo
from bot.slack.commands import finetune

TERMINAL = TerminalSpelling("t.csv")


@pytest.mark.parametrize(
    ("todo", "slack", "terminal"),
    [
        (
            Measure("prompts", "tickets", ("zero", "kshot"), models=("a/b", "c/d")),
            "Measure prompts and retrieval (`/finetune baseline tickets candidates=zero,kshot models=a/b,c/d`). You "
            "see the cost before anything is spent.",
            "Measure prompts and retrieval (finetune baseline t.csv --candidates zero,kshot --model a/b --model c/d). "
            "You see the cost before anything is spent.",
        ),
        (
            Measure("stronger base", "tickets"),
            "Measure a stronger base model: `/finetune baseline tickets` with it as models=.",
            "Measure a stronger base model: finetune baseline t.csv with it as --model.",
        ),
        (
            "say what a wrong answer costs",
            "Add what a wrong answer costs (wrong_usd=). To aim for better answers instead, add task=quality.",
            "Add what a wrong answer costs (--wrong-usd). To aim for better answers instead, add --task quality.",
        ),
    ],
)
def test_a_step_is_spelled_for_slack_and_for_the_terminal(todo: Todo, slack: str, terminal: str) -> None:
    assert (todo_text(todo, SLACK), todo_text(todo, TERMINAL)) == (slack, terminal)


def test_a_command_that_only_slack_has_is_marked_in_the_terminal() -> None:
    assert SLACK.command("start", "tickets") == "`/finetune start tickets`"
    assert TERMINAL.command("start", "tickets") == "/finetune start tickets in Slack"


@pytest.mark.deep
def test_texts_name_only_options_that_a_command_takes() -> None:
    takes = {name for command in finetune.commands.values() for name in command.options}
    assert spelled_options() - takes == set()


def spelled_options() -> set[str]:
    """The names that the bot's texts have spelled for where they are read, like `spelling.option("bar")`."""
    names: set[str] = set()
    for path in Path(str(bot.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("option", "spelling.option"):
                names |= {str(each.value) for each in node.args[:1] if isinstance(each, ast.Constant)}
    assert "bar" in names
    return names
