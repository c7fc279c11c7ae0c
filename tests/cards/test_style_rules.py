"""style_rules.py finds what our cards never say, and counts the lines that Slack draws."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cards.style_rules import drawn_lines, length_faults, style_faults


@pytest.mark.parametrize(
    "text",
    [
        *(
            "Done!",
            "loss 0.123456",
            "took None",
            "Decimal(3)",
            "up to $0.00",
            "pays back in 0 minutes",
            "1 rows",
        ),
        *("from 0 input tokens", "job 3f9a61c2b7d43f9a61c2b7d4", "an error occurred", "it failed to start"),
        *("*Cost*\n ", "the end..", "two  blanks"),
    ],
)
def test_each_fault_of_style_is_found_in_both_forms(text: str) -> None:
    for form in ("blocks", "newest"):
        assert style_faults({"text": "a", form: [section(text)]})


@pytest.mark.parametrize("text", ["$0.12, 11 rows, 0.42", "ask <@U1> for 1 row", "`volume=1 rows`", "Run 7"])
def test_our_own_style_is_accepted(text: str) -> None:
    assert style_faults({"text": "a", "blocks": [section(text)]}) == []


def test_four_buttons_are_too_many() -> None:
    button = {"type": "button", "text": {"type": "plain_text", "text": "Go"}}
    assert style_faults({"text": "a", "blocks": [{"type": "actions", "elements": [button] * 4}]}) == [
        "4 buttons"
    ]


def section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text}}


def fields(*values: str) -> dict[str, Any]:
    return {"type": "section", "fields": [{"type": "mrkdwn", "text": value} for value in values]}


def note(text: str) -> dict[str, Any]:
    return {"type": "context", "elements": [{"type": "mrkdwn", "text": text}]}


@pytest.mark.parametrize(
    ("block", "lines"),
    [
        ({"type": "header", "text": {"type": "plain_text", "text": "a" * 150}}, 1),
        ({"type": "actions", "elements": [{}, {}]}, 1),
        ({"type": "divider"}, 0),
        (section("a" * 90), 1),
        (section("a" * 91), 2),
        (section("one\n\ntwo"), 2),
        (section(f"<https://example.com/{'a' * 90}|here>"), 1),
        (section(f"*{'&amp;' * 90}*"), 1),
        (section(f"```\n{'a' * 100}\nb\n```"), 2),
        (fields("*Cost*\n$1", "*Each month*\n$2"), 2),
        (fields("*Cost*\n$1", f"*Each month*\n{'a' * 45}", "*Left*\n$9"), 5),
        (note("a" * 121), 2),
        ({"type": "data_table", "rows": [[], [], []]}, 3),
    ],
)
def test_lines_are_counted_as_slack_draws_them(block: dict[str, Any], lines: int) -> None:
    assert drawn_lines({"blocks": [block]}) == lines


def test_a_long_note_is_found_in_a_message() -> None:
    assert length_faults("other", {"blocks": [note("word " * 26)]}) == ["a note of 26 words"]
    assert length_faults("other", {"blocks": [note("word " * 25), section("a\n" * 50)]}) == []
    assert length_faults("other", {"type": "modal", "blocks": [note("word " * 26)]}) == []
