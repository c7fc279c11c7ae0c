"""Which free candidate a learning curve is compared with."""

from __future__ import annotations

from dataclasses import replace

from bot.rules.fit import best_free_ahead
from tests.cards import measurements
from trainers.evaluation.results import Candidate

CURVE = measurements.curve(candidate=Candidate("tuned", "acme/small"))  # 88.1% with all rows
ENCODER = measurements.candidate("encoder", None, 178)


def test_a_later_lead_that_may_be_luck_does_not_make_the_best_free_candidate() -> None:
    lucky = replace(measurements.candidate("classical", None, 180), look=2)
    assert best_free_ahead(CURVE, [lucky, ENCODER]) == ENCODER
    ahead = replace(lucky, scores=(1.0,) * 190 + (0.0,) * 10, score=0.95)
    assert best_free_ahead(CURVE, [ahead, ENCODER]) == ahead


def test_a_candidate_that_gets_no_more_right_is_not_ahead() -> None:
    assert best_free_ahead(CURVE, [measurements.candidate("encoder", None, 176)]) is None
    assert best_free_ahead(replace(CURVE, candidate=ENCODER.identity), [ENCODER]) is None, "its own candidate"
