"""The crash sweep's short form: bisection finds every state that a death in a create can leave, and each is recovered
from."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.bot.world import VENDORS, Rules, World
from tests.chaos.fork_host import ForkHost
from tests.chaos.sweep import STEPS, Step, Sweep
from tests.peers.vendors import Vendor
from trainers.types import Dialect

MakeWorld = Callable[[Rules], World]


@pytest.mark.deep
@pytest.mark.parametrize("step", [step for step in STEPS if step.is_quick], ids=lambda step: step.name)
def test_a_death_at_any_line_loses_and_duplicates_nothing(
    step: Step, forks: ForkHost, make_world: MakeWorld
) -> None:
    result = Sweep(make_world(step.rules), forks, step).bisect()
    assert result.lines > 50 and result.states > 1
    assert not result.wrong, "\n".join(result.wrong)


@pytest.mark.deep
@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(
            step, id=step.name, marks=[pytest.mark.slow] if step.is_quick or step.act == "cancel" else []
        )
        for step in STEPS
        if step.is_of_dialects
    ],
)
def test_a_death_loses_and_duplicates_nothing_at_a_vendor_with_its_own_api(
    step: Step, vendor: Dialect, forks: ForkHost, make_world: MakeWorld
) -> None:
    world = make_world(Rules(vendor=vendor))
    result = Sweep(world, forks, step).bisect()
    assert result.lines > 20 and result.deaths > 1
    assert not result.wrong, "\n".join(result.wrong)
    assert isinstance(world.provider.service, Vendor)
    assert world.provider.service.ledger.jobs <= step.created
