"""Commands are spelled as they are typed in Slack and in the terminal."""

from __future__ import annotations

import pytest

from bot.cards.common.advice import todo_text
from bot.cards.common.words import SLACK, TerminalSpelling
from bot.rules.reasons import Measure, Todo

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
