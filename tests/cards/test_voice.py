"""The judge of how a card reads: it finds each thing that we never say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cards.voice import faults


def said(text: str) -> dict[str, Any]:
    return {"text": "a", "blocks": [{"type": "section", "text": {"type": "mrkdwn", "text": text}}]}


@pytest.mark.parametrize(
    "text",
    [
        "Done!",
        "loss 0.123456",
        "took None",
        "Decimal(3)",
        "up to $0.00",
        "pays back in 0 minutes",
        "from 0 input tokens",
        "job 3f9a61c2b7d43f9a61c2b7d4",
        "1 rows",
        "an error occurred",
        "it failed to start",
        "*Cost*\n ",
        "the end..",
        "two  blanks",
    ],
)
def test_what_we_never_say_is_found(text: str) -> None:
    assert faults(said(text))
    assert faults({"text": "a", "newest": said(text)["blocks"]})


@pytest.mark.parametrize("text", ["$0.12, 11 rows, 0.42", "ask <@U1> for 1 row", "`volume=1 rows`", "Run 7"])
def test_what_we_do_say_passes(text: str) -> None:
    assert faults(said(text)) == []


def test_four_buttons_are_one_too_many() -> None:
    button = {"type": "button", "text": {"type": "plain_text", "text": "Go"}}
    assert faults({"text": "a", "blocks": [{"type": "actions", "elements": [button] * 4}]}) == ["4 buttons"]
