"""Takes the pictures of README and docs/first-run.md: the demo's story with its real model, in local-slack in Chromium.

`python -m docs.screenshots` from the project's root; `make screenshots` installs what it needs. It takes as long as the
demo (6 to 12 minutes on two cores). The page's icons need a font with emoji: `apt-get install fonts-noto-color-emoji`.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from demo.local_slack import LocalSlack, find_local_slack
from demo.people import ANA, BEN, TICKETS
from demo.service import RunningBot
from demo.steps import REASON
from demo.story import ASKED, EXAMPLE, PASSES, PLAN
from demo.workspace import WorkspaceError, wait_until
from tests.peers.browser import Visitor, open_page

IMAGES = Path(__file__).parent / "images"
LARGEST = 300_000
STAGES = "›"
REQUEST = "deploy tickets-1 for tickets?"
HALF_WAY = 40
PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Studio:
    page: Visitor
    slack: LocalSlack
    bot: RunningBot
    out: Path

    def shot(self, name: str) -> None:
        """Takes a picture with 256 colours, which are enough for a page of text and need a third of the bytes."""
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
    options = parser.parse_args()
    binary = find_local_slack()
    if binary is None:
        raise SystemExit("local-slack is not installed: use `make screenshots`, or set FINETUNE_LOCAL_SLACK")
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalSlack(binary, Path(folder)) as slack,
        RunningBot(Path(folder), slack.access, options.model, approvers=(ANA.id, BEN.id), serves=True) as bot,
    ):
        slack.wait_for_bot()
        with open_page(slack.url, width=1440, height=1100, scale=1.25) as page:
            play(Studio(page, slack, bot, options.out))


def play(studio: Studio) -> None:
    page = studio.page
    page.act_as(ANA.real_name)
    page.go_to(TICKETS.name)
    upload(page, EXAMPLE)
    studio.shot("dataset")
    measure(studio)
    plan = f"{PLAN} epochs={PASSES}"
    page.ask(f"/finetune estimate tickets {plan}")
    studio.shot("estimate")
    page.ask(f"/finetune start tickets {plan}")
    page.act_as(BEN.real_name)
    page.wait_for("Needs one approver")
    studio.shot("approval")
    approve(studio)
    watch(studio)
    read_result(studio)
    put_to_work(studio)


def upload(page: Visitor, file: Path) -> None:
    page.type("/finetune upload")
    page.wait_for_modal("Use as training data")
    page.fill({"File: a table with text and label, or JSONL": file, "Dataset name": "tickets"})
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("tickets is ready", seconds=120)


def measure(studio: Studio) -> None:
    """Measures the demo's candidates from the form; takes pictures of the form and of the card's thread."""
    page = studio.page
    page.click("Measure", inside="tickets is ready")
    page.wait_for_modal("Measure alternatives")
    studio.shot("baseline-form")
    page.untick("Alternatives to measure", "Retrieval: the most similar rows, or your documents")
    page.submit()
    page.wait_for_no_modal()
    page.wait_for("differences below about", seconds=PATIENCE_S)
    wait_until(lambda: "comparison.png" in plots(studio.slack), "the comparison's chart", seconds=60)
    page.open_thread("differences below about")
    page.show("Quality against price")
    studio.shot("comparison")
    page.close_thread()


def approve(studio: Studio) -> None:
    """Approves with a reason, which is required because the verdict is not go."""
    page = studio.page
    page.click("Approve", inside="Needs one approver")
    page.wait_for_modal("Approve this plan")
    page.fill({"Why should it be trained anyway?": REASON})
    studio.shot("approve-form")
    page.submit()
    page.wait_for_no_modal()


def watch(studio: Studio) -> None:
    """Takes a picture half-way, then waits for the result."""
    page = studio.page
    end = time.monotonic() + PATIENCE_S
    is_taken = False
    page.wait_for(STAGES, seconds=60)
    while not page.sees("Try it"):
        studio.bot.check_alive()
        card = page.read(STAGES) if page.sees(STAGES) else "Run 1 failed"
        if "failed" in card or time.monotonic() > end:
            raise WorkspaceError(f"the run has no result; its card says: {card}")
        if not is_taken and share(card) >= HALF_WAY:
            page.show(STAGES)
            studio.shot("progress")
            is_taken = True
        time.sleep(1)


def share(card: str) -> int:
    """Returns the percentage on the card's bar."""
    match = re.search(r"(\d+)%", card)
    return int(match[1]) if match else 0


def read_result(studio: Studio) -> None:
    page = studio.page
    drawn = {"loss.png", "quality.png"}
    wait_until(lambda: drawn <= plots(studio.slack), "the plots in the thread", seconds=60)
    page.open_thread("Try it")
    page.wait_for("Quality against price")
    page.show("Quality against price")
    studio.shot("result")
    page.close_thread()


def put_to_work(studio: Studio) -> None:
    """Nothing meets the bar here, so deploying takes a reason and another person."""
    page = studio.page
    page.act_as(ANA.real_name)
    page.go_to(TICKETS.name)
    page.type(f"/finetune promote tickets-1 because={REASON}")
    page.wait_for(REQUEST, seconds=60)
    page.act_as(BEN.real_name)
    page.click("Approve", inside=REQUEST)
    page.confirm("Approve")
    page.wait_for("without a change", seconds=60)
    page.show("How to call it")
    studio.shot("promotion")
    page.act_as(ANA.real_name)
    page.type(f"/finetune try tickets {ASKED}")
    page.wait_for("It answers:", seconds=60)
    studio.shot("try")


def plots(slack: LocalSlack) -> set[str]:
    return {file.name for message in slack.messages(TICKETS.id) for file in message.files}


if __name__ == "__main__":
    main()
