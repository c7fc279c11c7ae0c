"""Every call of the door is answered in OpenAI's envelope, never with a 500 of its own, whatever is in use and whatever
its vendor answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.complaints import count_complaints
from tests.fuzz.door_calls import (
    LABELS,
    USUAL_CALLS,
    OddVendor,
    check_samples,
    odd_answers,
    odd_calls,
    running_door,
    wait_until_counted,
)
from tests.peers.chat_vendor import ChatVendor

CALLS = 150
ANSWERS = 60


@pytest.mark.deep
def test_no_call_causes_a_500_at_the_door(tmp_path: Path) -> None:
    with running_door(tmp_path, ChatVendor(answer=lambda body: LABELS[0])) as door:
        strategy, complaint = odd_calls(door)
        assert not count_complaints(strategy, complaint, CALLS)
    check_samples(door)


@pytest.mark.deep
def test_no_answer_of_a_vendor_causes_a_500_or_breaks_off(tmp_path: Path) -> None:
    vendor = OddVendor()
    with running_door(tmp_path, vendor) as door:
        strategy, complaint = odd_answers(door, vendor)
        assert not count_complaints(strategy, complaint, ANSWERS)
        wait_until_counted(door, ANSWERS * len(USUAL_CALLS))
    check_samples(door)
