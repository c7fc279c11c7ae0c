"""Which commands are offered for a question in plain words."""

from __future__ import annotations

import pytest

from bot.questions.cues import CUES
from bot.questions.nearest import MOST_OFFERED, Described, is_question, names_in, nearest
from bot.slack.commands import finetune, help_list
from bot.values.terminal_commands import TERMINAL_COMMANDS
from tests.questions.asked import ASKED, Asked

COMMANDS = [Described(command.name, command.what) for command in help_list()]
TYPED = {*finetune.commands, *TERMINAL_COMMANDS}
PLAIN = [question for question in ASKED if not question.is_hostile]


def test_there_are_sixty_questions_in_three_languages() -> None:
    assert len(ASKED) == 60
    assert len({question.text for question in ASKED}) == 60
    assert {name for question in ASKED for name in question.right} <= set(finetune.commands)


@pytest.mark.parametrize("question", PLAIN, ids=lambda question: question.text)
def test_the_right_command_is_among_those_offered(question: Asked) -> None:
    offered = nearest(question.text, COMMANDS)
    assert set(offered) & set(question.right)
    assert len(offered) <= MOST_OFFERED


def test_it_is_mostly_the_first() -> None:
    first = [question for question in PLAIN if nearest(question.text, COMMANDS)[0] in question.right]
    assert len(first) >= 48


def test_words_of_no_command_are_answered_with_none() -> None:
    assert nearest("what can you do for us?", COMMANDS) == ()


def test_every_command_has_cues() -> None:
    assert set(CUES) == set(finetune.commands)


@pytest.mark.parametrize(
    ("text", "is_asked"),
    [
        ("should we train it", True),
        ("estmate tickets now please", False),  # mistyped
        ("estimate the tickets dataset", False),
        ("export tickets-3 to gguf", False),  # of the terminal
        ("tickets current=gpt-4o volume=10M target=x", False),
        ("good morning", False),
    ],
)
def test_several_words_without_a_command_are_a_question(text: str, is_asked: bool) -> None:
    assert is_question(text, TYPED) == is_asked


def test_names_are_recognised_as_whole_words() -> None:
    names = ("tickets", "tickets-eu", "faq")
    assert names_in("should we tune Tickets, or the FAQ?", names) == ("tickets", "faq")
    assert names_in("what of tickets-eu?", names) == ("tickets-eu",)
