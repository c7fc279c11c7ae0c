"""Who may know of a dataset, and where customers' words may go."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from bot.rules.data_policy import DatasetChannel, choose_row_delivery, may_post, may_show_rows, may_use

MEMBER = "U1"
PRIVATE, PUBLIC = DatasetChannel("C_HR", True, True), DatasetChannel("C_ALL", False, None)


@pytest.mark.parametrize(
    ("is_private", "is_member", "may"),
    [
        (True, True, True),
        (True, False, False),
        (True, None, False),
        (False, None, True),
        (None, None, False),
        (None, True, True),
    ],
)
def test_what_belongs_to_a_private_channel_exists_for_its_members(
    is_private: bool | None, is_member: bool | None, may: bool
) -> None:
    assert may_use(DatasetChannel("C_HR", is_private, is_member)) == may


def test_cards_of_a_private_channel_stand_in_it_alone() -> None:
    assert may_post(PRIVATE, "C_HR") and not may_post(PRIVATE, "C_ALL") and not may_post(PRIVATE, "C_OTHER")
    assert may_post(PUBLIC, "C_OTHER") and not may_post(DatasetChannel("C_HR", None, None), "C_OTHER")


@pytest.mark.parametrize(
    ("channel", "sources", "is_private", "is_shared", "may"),
    [
        ("C_HR", {"C_HR"}, True, False, True),
        ("C_OWN", {"C_HR"}, True, False, False),
        ("C_HR", {"C_HR", "C_ALL"}, True, False, False),
        ("C_HR", {"C_HR"}, False, False, False),
        ("C_HR", {"C_HR"}, None, False, False),
        ("C_HR", {"C_HR"}, True, True, False),
        ("C_HR", {"C_HR"}, True, None, False),
    ],
)
def test_rows_are_shown_where_they_came_from_if_that_is_private(
    channel: str, sources: Collection[str], is_private: bool | None, is_shared: bool | None, may: bool
) -> None:
    assert may_show_rows("C_HR", sources, channel, is_private=is_private, is_shared=is_shared) == may


def test_members_of_a_private_channel_share_what_is_posted_there() -> None:
    assert choose_row_delivery(PRIVATE, MEMBER, "U2", in_thread=True) == "thread"


def test_where_everybody_reads_it_goes_to_who_brought_it_alone() -> None:
    assert choose_row_delivery(PUBLIC, MEMBER, "U1", in_thread=False) == "direct"


def test_nobody_else_gets_it_in_public() -> None:
    assert choose_row_delivery(PUBLIC, MEMBER, "U2", in_thread=False) == "others read here"


def test_who_brought_it_and_left_the_channel_gets_it_no_more() -> None:
    gone = DatasetChannel("C_HR", True, False)
    assert choose_row_delivery(gone, "U1", "U1", in_thread=True) == "not in the channel"
