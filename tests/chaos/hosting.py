"""The storm over hosted models: a tuned model answers only on an hourly machine, which is started, asked and stopped
while the bot is killed. The vendor's own ledger tells whether one was started twice or is still running."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from demo.people import BEN
from demo.workspace import WorkspaceError
from tests.bot.hosting import CATALOGUE_ABILITIES, road_row
from tests.bot.world import ABILITIES, DIALECTS, MODEL, PRIVATE
from tests.chaos.dialects import RecordedMute, RecordedVendor, StormySigning, owner_finder, provider_row
from tests.chaos.other_work import LABELLED
from tests.chaos.records import Record
from tests.chaos.storm import CLOSED, Storm
from tests.chaos.stormy_peers import StormyHosted
from tests.peers.roads import CrusoeRoad, FireworksRoad, RoadVendor, TogetherRoad, road_settings

SPEED = 120.0  # the two hours in which a run has to be measured take a minute
QUIET_S = 9.0  # waiting for SETTLE makes no noise for six seconds
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
    _restarted: set[str] = field(default_factory=set)

    def _start_provider(self, record: Record) -> Any:
        service = CLASSES[self.vendor](
            **road_settings(self.vendor, MODEL, Decimal(8)),
            **self._service_settings(record),
            find_owner=owner_finder(self.folder / "data" / "finetune.db"),
            clock=self._bot_clock,
        )
        hosted = StormyHosted if self.vendor == "crusoe" else StormySigning
        return hosted(service, weather=self._weather)

    def _bot_clock(self) -> float:
        """The vendor bills by the bot's clock, so that both count the same hours."""
        born: float = self._arguments["born"]
        return born - float(self._arguments["late_s"]) + (time.time() - born) * self.speed

    def _provider_row(self) -> str:
        is_crusoe, company = self.vendor == "crusoe", self.provider
        abilities = CATALOGUE_ABILITIES if is_crusoe else ABILITIES[self.vendor]
        lines = "" if is_crusoe else DIALECTS[self.vendor].format(chat=company.url.removesuffix("/v1"))
        lines += road_row(self.vendor, IDLE_S).replace("PROVIDER_URL", company.url + company.service.path)
        row = provider_row(company, abilities.replace('"chat"', '"deploy"'), lines)
        return f'hosting_usd_per_day = "1000000"\n{row}'

    @property
    def _points(self) -> tuple[str, ...]:
        start = STARTS[self.vendor]
        return (*super()._points, *4 * (f"{start} arrived", f"{start} done"))

    def _other_work(self) -> list[Callable[[], None]]:
        """Nobody can ask the base here, so it labels no rows. The machine whose dataset is deleted is kept."""
        if not self.orders.has_other_work:
            return []
        return [self._team.label_and_delete, self._team.keep_machine]

    @property
    def _grown(self) -> tuple[str, ...]:
        return (LABELLED,)

    def _find_unbooked(self) -> list[str]:
        """The vendors' ledgers count machines too, and test_story_hosting.py compares them with the budgets."""
        return []

    def _is_quiet(self) -> bool:
        return not self._restart_machine() and super()._is_quiet()

    def _restart_machine(self) -> bool:
        """Clicks once on each card that says that a machine wasn't ready in time. Returns whether there was one."""
        for channel in (PRIVATE, CLOSED):
            for card in self.slack.messages(channel.id):
                blocks = json.dumps(card.blocks)
                is_late = "not ready within" in blocks and '"start_deployment"' in blocks
                if is_late and card.ts not in self._restarted:
                    with suppress(WorkspaceError):  # a bot that has just started; the click is repeated
                        self.slack.click(BEN.id, channel.id, card.ts, "start_deployment")
                        self._restarted.add(card.ts)
                    return True
        return False

    def _count_running(self) -> int:
        return len(self.provider.service.running)

    def _record_machines(self, provider: Record) -> None:
        for machine in self.provider.service.machines:
            provider.add("machine", name=machine.name, runs=machine.ended is None)
