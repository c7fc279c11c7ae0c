"""The demo's last lines: every alternative on the same rows, the tuned model, and the verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from demo.summary import Summary
from tests.cards.builders import result
from tests.cards.measurements import comparison_beside_classical
from trainers.evaluation.results import Comparison


def test_the_last_lines_show_the_measured_and_the_tuned_model_and_the_verdict() -> None:
    with_tuned = Comparison.from_json(comparison_beside_classical(61, 70))
    measured = replace(with_tuned, candidates=with_tuned.candidates[:1])
    tuned = result(beside=with_tuned.to_json())
    summary = Summary(measured, tuned, "Not now", "delivery", "404", Path("a.db"), Path("adapter"))

    lines = summary.lines({"first card": 9.6, "measured": 71.0, "all": 424.4})

    assert lines[0] == f"Right on the same {measured.n} held-out rows:"
    assert "85%" in lines[1] and "tuned" in lines[2] and "%" in lines[2]
    assert lines[3] == "verdict:         Not now"
    assert not any("&" in line for line in lines), "no escaped characters in a terminal"
    assert "a program got:   delivery" in lines and "after rollback:  404" in lines
    assert lines[-3] == "timeline:        first card 0:09, measured 1:11, all 7:04"
