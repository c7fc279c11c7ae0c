"""A card in the terminal: the same sentences without Slack's markup and buttons."""

from __future__ import annotations

from io import StringIO

import pytest

from bot.cards.common.blocks import (
    Chart,
    Divider,
    Facts,
    Headline,
    Lines,
    Note,
    Table,
    Text,
    actions,
    button,
    escape,
)
from bot.cards.common.terminal import plain_text, terminal_text
from bot.cards.datasets.findings import counts_text, finding_blocks
from bot.cli.rich_cards import print_card
from trainers.dataset.checks import Fault, Findings
from trainers.dataset.slow_checks import ERRORS_UNKNOWN, LABEL_DOUBTED


@pytest.mark.parametrize("text", ["*a* _b_ ~c~", "> quoted", "card_arrival, 2 < 3 & 5 > 4"])
def test_text_escaped_for_slack_is_restored(text: str) -> None:
    assert plain_text(escape(text)) == text


def test_our_markup_is_reduced_to_its_words() -> None:
    mrkdwn = "*Next*: ask <@U1>, see <https://a.b|the plan>, by <!date^1^{time}|14:03 UTC>: `finetune check`"
    assert plain_text(mrkdwn) == "Next: ask @U1, see the plan (https://a.b), by 14:03 UTC: finetune check"


def test_a_list_says_how_many_lines_it_leaves_out_with_and_without_colours() -> None:
    card = [Lines(["tickets", "faq"], left_out=1_041)]
    coloured = StringIO()
    print_card(card, "good", coloured)
    assert terminal_text(card) == "tickets\nfaq\n… and 1,041 more"
    assert coloured.getvalue().split("\n") == ["tickets", "faq", "… and 1,041 more", ""]


def test_a_card_becomes_paragraphs_without_buttons() -> None:
    table = Table([("model", "right"), ("small", "70%")], "Scores", otherwise=(Text("never shown"),))
    chart = Chart("Loss", "training", [("1", 2.0)], "step", "nats", otherwise=(Lines(["1: 2.0"]),))
    card = (
        Headline("Ready"),
        Facts([("Cost", "$1.00"), ("Rows", "12")]),
        table,
        chart,
        Divider(),
        actions(button("Go", "go", "1")),
        Note("Two rows."),
    )
    assert terminal_text(card) == (
        "Ready\n\n  Cost: $1.00\n  Rows: 12\n\nmodel  right\nsmall    70%\n\n1: 2.0\n\nTwo rows."
    )


def test_the_lines_that_a_summary_stands_for_are_listed_below_it() -> None:
    findings = Findings(listed=10)
    findings.add_for_line(7, Fault(LABEL_DOUBTED, "is labelled 'cancel', but similar rows are 'refund'"))
    findings.add_for_file(ERRORS_UNKNOWN, "1 label looks different.")
    text = terminal_text(finding_blocks(findings.sorted()))
    assert counts_text(findings.sorted()) == "1 good to know"
    assert "Worth a look" not in text
    assert text.index("1 label looks different.") < text.index("line 7 is labelled 'cancel'")
