"""Where a file with customers' words may go."""

from __future__ import annotations

from bot.decisions.approval import Denied
from bot.decisions.sharing import place_of_rows

MEMBER = "U1"


def test_members_of_a_private_channel_share_what_is_posted_there() -> None:
    assert place_of_rows(MEMBER, "U2", is_private=True) == "thread"


def test_where_everybody_reads_it_goes_to_who_brought_it_alone() -> None:
    assert place_of_rows(MEMBER, "U1", is_private=False) == "direct"


def test_nobody_else_gets_it_in_public_and_is_told_who_does() -> None:
    denied = place_of_rows(MEMBER, "U2", is_private=False)
    assert isinstance(denied, Denied)
    assert "customers' words" in denied.reason and "<@U2>" in denied.reason
