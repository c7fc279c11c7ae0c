"""A world whose provider serves a tuned model only on a machine that is paid by the hour."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from tests.bot.props import answer
from tests.bot.world import MODEL, MakeWorld, Rules, World
from tests.peers.deployments import HostingService
from tests.peers.roads import CLASSES, Road, RoadVendor, road_settings
from tests.peers.vendors import Vendor
from trainers.types import Dialect

PRICES = {"crusoe": "5.50", "fireworks": "8", "together": "4.25"}
GPU_PRICES = """gpu_usd_per_hour = { NVIDIA_H100_80GB = "8" }
"""
IDLE_S = 30 * 60
CATALOGUE_ABILITIES = '"extra_hyperparameters", "method", "suffix", "checkpoints", "estimate", "chat"'
CATALOGUE = """model_lookup = "catalogue"
chat_base_url = "PROVIDER_URL/inference"
hyperparameter_names = { lora_r = "lora_rank" }
hyperparameter_limits = { batch_size = [16, 32, 64], lora_alpha = [16, 32, 64], seed = [] }
"""


def hosting_rules(api: str = "crusoe", *, price: str = "", idle_s: int = IDLE_S) -> Rules:
    path = "/projects/p1" if api == "together" else ""
    row = f"""serving = "dedicated"
serving_usd_per_hour = "{price or PRICES[api]}"
idle_stop_s = {idle_s}
deploy_api = "{api}"
deploy_base_url = "PROVIDER_URL{path}"
{GPU_PRICES}"""
    return Rules(provider_row=row, budget="100")


def road_row(vendor: RoadVendor, idle_s: int = IDLE_S) -> str:
    """The lines of the provider's row; PROVIDER_URL stands for its address."""
    base_url = "PROVIDER_URL/projects/p1" if vendor == "together" else "PROVIDER_URL"
    return f"""{CATALOGUE if vendor == "crusoe" else ""}
serving = "dedicated"
serving_usd_per_hour = "8.00"
idle_stop_s = {idle_s}
deploy_api = "{vendor}"
deploy_base_url = "{base_url}"
{GPU_PRICES}"""


def road_world(make_world: MakeWorld, vendor: RoadVendor) -> tuple[World, Road]:
    """A world that trains and hosts at one vendor, whose clock is the world's."""
    dialect: Dialect = "openai" if vendor == "crusoe" else vendor
    world = make_world(Rules(vendor=dialect, training="5000.00", budget="500", provider_row=road_row(vendor)))
    abilities = CATALOGUE_ABILITIES if vendor == "crusoe" else world.abilities
    world.abilities = abilities.replace('"chat"', '"deploy"')
    settings = road_settings(vendor, MODEL, Decimal(5000))
    service = CLASSES[vendor](**settings, answer=answer, clock=lambda: world.clock)
    world.provider.service = service
    if isinstance(service, Vendor):
        service.address = world.provider.url
    world.restart()
    return world, service


def host(world: World, api: Any = "crusoe") -> HostingService:
    """Gives the world's provider machines to host models on. Their clock is the world's."""
    world.abilities += ', "deploy"'
    service = HostingService(
        models=(MODEL,), answer=answer, api=api, usd_per_hour=Decimal(PRICES[api]), clock=lambda: world.clock
    )
    world.provider.service = service
    world.restart()
    return service


def hosted(make_world: MakeWorld, api: str = "crusoe", *, price: str = "") -> World:
    world = make_world(hosting_rules(api, price=price))
    host(world, api)
    return world


def company(world: World) -> HostingService:
    assert isinstance(world.provider.service, HostingService)
    return world.provider.service
