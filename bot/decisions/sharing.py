"""Where customers' words may be shown: among the members of a private channel, or to who brought them. Pure."""

from __future__ import annotations

from typing import Literal

from bot.decisions.approval import Denied

Place = Literal["thread", "direct"]


def place_of_rows(person: str, uploader: str, *, is_private: bool) -> Place | Denied:
    """Where a file of rows goes when `person`, who may see it, asks for it: into the thread, to them alone, or
    nowhere."""
    if is_private:
        return "thread"
    if person == uploader:
        return "direct"
    return Denied(
        "The file holds customers' words and everybody can read this channel, so it is not posted here. "
        f"<@{uploader}>, who uploaded it, gets it as a direct message by pressing the button."
    )
