"""Who may know of a dataset, and where customers' words may be shown. Pure.

A dataset belongs to a channel. Where that is private, the dataset doesn't exist for anybody else.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from bot.decisions.approval import Denied

Place = Literal["thread", "direct"]


@dataclass(frozen=True)
class Home:
    """The channel that a dataset belongs to, and whether the person who asks is in it, as Slack said just now.
    None: it didn't tell, which never counts as a yes."""

    channel: str
    is_private: bool | None
    is_member: bool | None


def may_use(home: Home) -> bool:
    """Whether that person may know of its datasets: their states, figures and models."""
    return home.is_private is False or home.is_member is True


def may_post(home: Home, channel: str) -> bool:
    """Whether cards about its datasets may stand in `channel`."""
    return home.is_private is False or channel == home.channel


def may_show_rows(
    owner: str, sources: Collection[str], channel: str, *, is_private: bool | None, is_shared: bool | None
) -> bool:
    """Whether customers' words may be posted in `channel`, which is private and shared with another organisation or
    not: only in the channel that the dataset belongs to, and only where all its rows came from there."""
    return channel == owner and set(sources) == {owner} and is_private is True and is_shared is False


def place_of_rows(home: Home, person: str, uploader: str, *, in_thread: bool) -> Place | Denied:
    """Where a file of rows goes when `person` asks for it: into the thread of its card, to them alone, or nowhere."""
    if not may_use(home):
        return Denied(
            "The file holds customers' words of a channel that you are not in, so it is not sent to you."
        )
    if in_thread:
        return "thread"
    if person == uploader:
        return "direct"
    return Denied(
        "The file holds customers' words and others than the dataset's channel can read here, so it is not posted. "
        f"<@{uploader}>, who uploaded it, gets it as a direct message by pressing the button."
    )
