"""A world whose provider answers for a tuned model only on a machine by the hour."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from tests.bot.props import answer
from tests.bot.world import MODEL, Rules, World
from tests.peers.deployments import HostingService

MakeWorld = Callable[[Rules], World]
PRICES = {"crusoe": "5.50", "fireworks": "8", "together": "4.25"}
IDLE_S = 30 * 60


def hosting_rules(api: str = "crusoe", *, price: str = "", idle_s: int = IDLE_S) -> Rules:
    path = "/projects/p1" if api == "together" else ""
    row = f"""serving = "dedicated"
serving_usd_per_hour = "{price or PRICES[api]}"
idle_stop_s = {idle_s}
deploy_api = "{api}"
deploy_base_url = "COMPANY{path}"
"""
    return Rules(company=row, budget="100")


def host(world: World, api: Any = "crusoe") -> HostingService:
    """Its provider becomes one with machines, whose clock is the world's."""
    world.abilities += ', "deploy"'
    service = HostingService(
        models=(MODEL,), answer=answer, api=api, usd_per_hour=Decimal(PRICES[api]), clock=lambda: world.clock
    )
    world.company.service = service
    world.restart()
    return service


def hosted(make_world: MakeWorld, api: str = "crusoe", *, price: str = "") -> World:
    world = make_world(hosting_rules(api, price=price))
    host(world, api)
    return world


def company(world: World) -> HostingService:
    assert isinstance(world.company.service, HostingService)
    return world.company.service
