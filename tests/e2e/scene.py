"""What stories in a browser share: the page, the workspace behind it, and numbered screenshots."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from demo.local_slack import LocalSlack, find_local_slack
from demo.people import ANA, BEN
from demo.service import RunningBot
from tests.peers.browser import Visitor, open_page

SHOTS = Path(__file__).parents[1] / "screenshots"


@dataclass(frozen=True)
class Scene:
    page: Visitor
    slack: LocalSlack
    tickets: Path
    shots: Path
    numbers: Iterator[int]

    def shot(self, name: str) -> None:
        self.page.screenshot(self.shots / f"{next(self.numbers):02d}-{name}.png")


@contextmanager
def opened(story: str, folder: Path, model: Path, tickets: Path, *, serves: bool = False) -> Iterator[Scene]:
    """Opens a browser at a fresh workspace with the bot in it. `story` names the folder of the screenshots. If the bot
    `serves`, programs can call what is in use."""
    binary = find_local_slack()
    assert binary is not None, "local-slack is not installed: `make e2e` does it, or set FINETUNE_LOCAL_SLACK"
    shutil.rmtree(SHOTS / story, ignore_errors=True)
    with (
        LocalSlack(binary, folder) as slack,
        RunningBot(folder, slack.access, model, approvers=(ANA.id, BEN.id), serves=serves),
    ):
        slack.wait_for_bot()
        with open_page(slack.url, width=1280, height=1000) as page:
            yield Scene(page, slack, tickets, SHOTS / story, count(1))
