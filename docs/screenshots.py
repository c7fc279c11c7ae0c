"""README's pictures: the demo's story with its real model, photographed in local-slack's page in Chromium.

`python -m docs.screenshots` from the project's root; `make screenshots` sets up what it needs. It takes as long as
the training (4 to 8 minutes on two cores). A font with emoji should be there, or the page's icons are boxes.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from bot.demo.cast import ANA, BEN, TICKETS
from bot.demo.local_slack import LocalSlack, find_local_slack
from bot.demo.service import RunningBot
from bot.demo.story import ASKED, EXAMPLE, TARGET
from bot.demo.workspace import WorkspaceError, wait_until
from tests.peers.browser import Visitor, open_page

IMAGES = Path(__file__).parent / "images"
LARGEST = 300_000
PLAN = f"current=gpt-4o volume=100M target={TARGET}"
STAGES = "›"
HALF_WAY = 40
PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Studio:
    page: Visitor
    slack: LocalSlack
    bot: RunningBot
    out: Path

    def shot(self, name: str) -> None:
        """256 colours are enough for a page of text, and a third of the bytes."""
        path = self.out / f"{name}.png"
        self.page.screenshot(path)
        Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
        size = path.stat().st_size
        print(f"{path}: {size / 1000:.0f} kB")
        if size > LARGEST:
            raise SystemExit(f"{path} has {size:,} bytes, the limit is {LARGEST:,}: lower the scale")


def main() -> None:
    parser = argparse.ArgumentParser(description="Take README's pictures.")
    parser.add_argument("--model", type=Path, default=Path(".cache/smollm2-135m"))
    parser.add_argument("--out", type=Path, default=IMAGES)
    asked = parser.parse_args()
    binary = find_local_slack()
    if binary is None:
        raise SystemExit(
            "local-slack is not installed: `make screenshots` does it, or set FINETUNE_LOCAL_SLACK"
        )
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalSlack(binary, Path(folder)) as slack,
        RunningBot(Path(folder), slack.door, asked.model) as bot,
    ):
        slack.wait_for_bot()
        with open_page(slack.url, width=1280, height=900, scale=1.5) as page:
            play(Studio(page, slack, bot, asked.out))


def play(studio: Studio) -> None:
    page = studio.page
    page.act_as(ANA.real_name)
    page.go_to(TICKETS.name)
    upload(page)
    page.ask(f"/finetune estimate tickets {PLAN}")
    studio.shot("estimate")
    page.ask(f"/finetune start tickets {PLAN}")
    page.act_as(BEN.real_name)
    page.wait_for("approver is needed")
    studio.shot("approval")
    page.click("Approve", inside="approver is needed")
    page.confirm_yes()
    watch(studio)
    read_result(studio)


def upload(page: Visitor) -> None:
    page.type("/finetune upload")
    page.wait_for_modal("Use as training data")
    page.fill({"File: CSV with text and label, or JSONL": EXAMPLE, "Name": "tickets"})
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("tickets is ready", seconds=60)


def watch(studio: Studio) -> None:
    """A picture half-way; then until the result is there."""
    page, end, is_taken = studio.page, time.monotonic() + PATIENCE_S, False
    page.wait_for(STAGES, seconds=60)
    while not page.sees("Rows that changed"):
        studio.bot.check_alive()
        card = page.read(STAGES) if page.sees(STAGES) else "Run 1 failed"
        if "failed" in card or time.monotonic() > end:
            raise WorkspaceError(f"the run did not come to a result; its card says: {card}")
        if not is_taken and share(card) >= HALF_WAY:
            studio.shot("progress")
            is_taken = True
        time.sleep(1)


def share(card: str) -> int:
    """Per cent, as the card's bar says."""
    found = re.search(r"(\d+)%", card)
    return int(found[1]) if found else 0


def read_result(studio: Studio) -> None:
    page = studio.page
    wait_until(lambda: plots(studio.slack) >= 2, "the plots in the thread", seconds=60)
    page.open_thread("Rows that changed")
    page.wait_for("Expected labels against")
    page.show("Expected labels against")
    studio.shot("result")
    page.close_thread()
    page.act_as(ANA.real_name)
    page.type(f"/finetune try tickets-1 {ASKED}")
    page.wait_for("It answers:", seconds=60)
    studio.shot("try")


def plots(slack: LocalSlack) -> int:
    return sum(len(one.files) for one in slack.messages(TICKETS.id))


if __name__ == "__main__":
    main()
