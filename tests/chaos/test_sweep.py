"""The crash sweep's short form: every state that a death in a create can leave, found by halving, and lived on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.bot.world import VENDORS, Rules, World
from tests.chaos.fork_host import ForkHost
from tests.chaos.sweep import STEPS, Step, Sweep
from tests.peers.vendors import Vendor
from trainers.types import Dialect


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkHost]:
    with ForkHost() as made:
        yield made


@pytest.mark.parametrize("step", [one for one in STEPS if one.is_quick], ids=lambda step: step.name)
def test_a_death_at_any_line_loses_and_doubles_nothing(
    step: Step,
    forks: ForkHost,
    make_world: Callable[[Rules], World],
) -> None:
    found = Sweep(make_world(step.rules), forks, step).halving()
    assert found.lines > 50 and found.states > 1
    assert not found.wrong, "\n".join(found.wrong)


@pytest.mark.parametrize("vendor", VENDORS)
@pytest.mark.parametrize(
    "step",
    [
        pytest.param(
            one, marks=[pytest.mark.slow] if one.is_quick or one.act == "cancel" else [], id=one.name
        )
        for one in STEPS
        if one.is_of_dialects
    ],
)
def test_a_death_loses_and_doubles_nothing_at_a_vendor_with_an_api_of_its_own(
    step: Step,
    vendor: Dialect,
    forks: ForkHost,
    make_world: Callable[[Rules], World],
) -> None:
    world = make_world(Rules(vendor=vendor))
    found = Sweep(world, forks, step).halving()
    assert found.lines > 20 and found.deaths > 1
    assert not found.wrong, "\n".join(found.wrong)
    assert isinstance(world.provider.service, Vendor)
    assert world.provider.service.ledger.jobs <= step.created
