"""Both plots of an estimate, for a worker process."""

from __future__ import annotations

from pathlib import Path

from bot.decisions.worth.outlook import Outlook
from bot.drawings import costs, tornado

COSTS, TORNADO = "cumulative-cost.png", "tornado.png"


def draw(outlook: Outlook, folder: Path) -> tuple[Path, ...]:
    """Those that have something to show."""
    drawn = costs.draw(outlook, folder / COSTS), tornado.draw(outlook, folder / TORNADO)
    return tuple(path for path in drawn if path)
