"""The kinds of task that a person chooses from."""

from typing import get_args

import pytest

from bot.rules.facts import TASK_KINDS, TaskKind, task_kind


def test_each_kind_has_its_own_phrase_that_fits_a_select_option() -> None:
    assert tuple(TASK_KINDS) == get_args(TaskKind)
    assert len(set(TASK_KINDS.values())) == len(TASK_KINDS)
    assert all(0 < len(phrase) <= 75 for phrase in TASK_KINDS.values())


@pytest.mark.parametrize(
    ("word", "kind"),
    [("style", "style"), (" Latency ", "latency"), ("COST", "cost"), ("", None), ("styles", None)],
)
def test_a_typed_word_is_a_kind_or_none(word: str, kind: TaskKind | None) -> None:
    assert task_kind(word) == kind
