"""Where customers' words may be shown: among the members of a private channel, or to who brought them. Pure."""

from __future__ import annotations

from typing import Literal

from bot.decisions.approval import Denied, Person, may_take_part

Place = Literal["thread", "direct"]


def place_of_rows(person: Person | None, uploader: str, *, is_private: bool) -> Place | Denied:
    """Where a file of rows goes when `person` asks for it: into the thread, to them alone, or nowhere."""
    denied = may_take_part(person)
    if denied or person is None:
        return denied or Denied("Slack didn't tell who you are, so nothing was done.")
    if is_private:
        return "thread"
    if person.id == uploader:
        return "direct"
    return Denied(
        "The file holds customers' words and everybody can read this channel, so it is not posted here. "
        f"<@{uploader}>, who uploaded it, gets it as a direct message by pressing the button."
    )
