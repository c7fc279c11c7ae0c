"""Vendors where a run goes the whole road: they train a model and then rent out machines for it, on one bill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

from tests.peers.crusoe import Crusoe
from tests.peers.deployments import HostingService
from tests.peers.fireworks import Fireworks
from tests.peers.fireworks_serverless import FireworksServerless
from tests.peers.service import Query, Reply
from tests.peers.together import Together

RoadVendor = Literal["crusoe", "together", "fireworks"]
ROADS: tuple[RoadVendor, ...] = ("crusoe", "together", "fireworks")


@dataclass
class CrusoeRoad(HostingService, Crusoe):
    serves_adapters: bool = True  # on its machines


@dataclass
class TogetherRoad(HostingService, Together):
    """Questions to a machine cost nothing beyond its hours."""


@dataclass
class FireworksRoad(FireworksServerless, HostingService, Fireworks):
    def answer_to(
        self, method: str, path: str, query: Query, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply:
        is_machine = path.startswith(f"{self.path}/deployments")
        place = path.removeprefix(self.path) if is_machine else path
        return super().answer_to(method, place, query, headers, body)


Road = CrusoeRoad | TogetherRoad | FireworksRoad
CLASSES: Mapping[RoadVendor, type[Road]] = {
    "crusoe": CrusoeRoad,
    "together": TogetherRoad,
    "fireworks": FireworksRoad,
}


def road_settings(vendor: RoadVendor, model: str, usd_per_million: Decimal) -> dict[str, Any]:
    """Returns the arguments of a vendor that trains `model` at that price. A machine costs $8 an hour."""
    shared = {"models": (model,), "api": vendor, "usd_per_hour": Decimal(8)}
    if vendor == "crusoe":
        return {**shared, "usd_per_million": {model: usd_per_million}}
    free = {"usd_in": Decimal(0), "usd_out": Decimal(0)}
    return {**shared, "usd_per_million": usd_per_million, **free}
