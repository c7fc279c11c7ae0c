"""The storm over whole roads: what was trained answers only on a machine by the hour, which is started, asked and
stopped while the bot is killed. Whether one was started twice or runs on, the vendor's own ledger tells."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from demo.people import BEN
from demo.workspace import WorkspaceError
from tests.bot.hosting import CATALOGUE_ABILITIES, road_row
from tests.bot.world import ABILITIES, DIALECTS, MODEL, PRIVATE
from tests.chaos.dialects import RecordedMute, RecordedVendor, StormyFireworks, owner_in, row_of
from tests.chaos.peers import StormyHosted
from tests.chaos.records import Record
from tests.chaos.storm import CLOSED, Storm
from tests.peers.roads import CrusoeRoad, FireworksRoad, RoadVendor, TogetherRoad, road_settings

SPEED = 120.0  # two hours, in which a run has to be measured, are a minute
QUIET_S = 9.0  # what waits for SETTLE makes no noise for six
IDLE_S = 300
STARTS = {
    "crusoe": "POST /selfserve/deployments",
    "together": "POST /projects/p1/endpoints",
    "fireworks": "POST /accounts/acme/deployments",
}


@dataclass
class RecordedCrusoeRoad(RecordedMute, CrusoeRoad):
    pass


@dataclass
class RecordedTogetherRoad(RecordedVendor, TogetherRoad):
    pass


@dataclass
class RecordedFireworksRoad(RecordedVendor, FireworksRoad):
    pass


CLASSES = {
    "crusoe": RecordedCrusoeRoad,
    "together": RecordedTogetherRoad,
    "fireworks": RecordedFireworksRoad,
}


@dataclass
class RoadStorm(Storm):
    vendor: RoadVendor = "crusoe"
    speed: float = SPEED
    quiet_s: float = QUIET_S
    _started_again: set[str] = field(default_factory=set)

    def _hosted(self, record: Record) -> Any:
        service = CLASSES[self.vendor](
            **road_settings(self.vendor, MODEL, Decimal(8)),
            **self._service_settings(record),
            owner=owner_in(self.folder / "data" / "finetune.db"),
            clock=self._clock,
        )
        hosted = StormyFireworks if isinstance(service, RecordedFireworksRoad) else StormyHosted
        return hosted(service, weather=self._weather)

    def _clock(self) -> float:
        """The bot's: what a machine costs is counted by one clock."""
        born = float(self._body["born"])
        return born - float(self._body["late_s"]) + (time.time() - born) * self.speed

    def _provider_row(self) -> str:
        is_crusoe, company = self.vendor == "crusoe", self.provider
        abilities = CATALOGUE_ABILITIES if is_crusoe else ABILITIES[self.vendor]
        lines = "" if is_crusoe else DIALECTS[self.vendor].format(chat=company.url.removesuffix("/v1"))
        lines += road_row(self.vendor, IDLE_S).replace("PROVIDER_URL", company.url + company.service.path)
        row = row_of(company, abilities.replace('"chat"', '"deploy"'), lines)
        return f'hosting_usd_per_day = "1000000"\n{row}'

    @property
    def _points(self) -> tuple[str, ...]:
        start = STARTS[self.vendor]
        return (*super()._points, *4 * (f"{start} arrived", f"{start} done"))

    def _is_quiet(self) -> bool:
        return not self._start_again() and super()._is_quiet()

    def _start_again(self) -> bool:
        """As its requester is told to, where a machine wasn't ready in time: once a card. Returns whether one was."""
        for place in (PRIVATE, CLOSED):
            for card in self.slack.messages(place.id):
                waits = "not ready within" in str(card.blocks) and '"start_deployment"' in json.dumps(
                    card.blocks
                )
                if waits and card.ts not in self._started_again:
                    with suppress(WorkspaceError):  # the bot has just begun to live: the click is made again
                        self.slack.click(BEN.id, place.id, card.ts, "start_deployment")
                        self._started_again.add(card.ts)
                    return True
        return False

    def _left_running(self) -> int:
        return len(self.provider.service.running)

    def _look_back(self, provider: Record) -> None:
        for machine in self.provider.service.machines:
            provider.add("machine", name=machine.name, runs=machine.ended is None)
