"""The crash sweep's short form: every state that a death in a create can leave, found by halving, and lived on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bot.world import Rules, World
from tests.chaos.nursery import Nursery
from tests.chaos.sweep import STEPS, Step, Sweep


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as made:
        yield made


@pytest.mark.parametrize("step", [one for one in STEPS if one.is_quick], ids=lambda step: step.name)
def test_a_death_at_any_line_loses_and_doubles_nothing(
    step: Step,
    nursery: Nursery,
    make_world: Callable[[Rules], World],
) -> None:
    found = Sweep(make_world(Rules()), nursery, step).halving()
    assert found.lines > 50 and found.states > 1
    assert not found.wrong, "\n".join(found.wrong)
