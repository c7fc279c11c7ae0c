"""What the details of a measurement say of the alternatives that its plot leaves out."""

from __future__ import annotations

from bot.cards.common.terminal import terminal_text
from bot.cards.evidence.evaluation_details import details
from bot.rules.alternatives import find_dominated
from tests.cards import measurements


def test_one_that_the_plot_leaves_out_is_not_spoken_of_as_several() -> None:
    free = measurements.candidate("encoder", None, 190)
    worse = measurements.candidate("kshot", "openai/gpt-4o", 120)
    comparison = measurements.comparison((free, worse), pairs=(measurements.pair(free, worse),))
    assert find_dominated(comparison) == (worse,)
    assert "openai/gpt-4o. Another is clearly better, costs no more and is no slower." in terminal_text(
        details(comparison)
    )
