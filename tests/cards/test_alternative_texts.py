"""The text alternatives of charts: what a chart shows, for who can't see it or has it read aloud."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.cards.common.candidates import candidate_name
from bot.cards.common.general import LONGEST_ALT, Attachment, files_body
from bot.cards.common.payback import forecast_chart
from bot.cards.datasets.check_reports import attachment
from bot.cards.evidence import evaluation_results, learning_curves
from bot.cards.training.results import chart
from tests.cards import builders, measurements

PLOT = Path("plot.png")


def test_a_file_is_posted_with_its_title_and_with_what_it_shows() -> None:
    (upload,) = files_body([Attachment(PLOT, "Loss by step", "From 3 to 1")])["file_uploads"]
    assert upload == {
        "file": "plot.png",
        "filename": "plot.png",
        "title": "Loss by step",
        "alt_txt": "Loss by step. From 3 to 1",
    }
    assert len(Attachment(PLOT, "Loss", "word " * 1000).alt) <= LONGEST_ALT
    assert Attachment(PLOT, "Loss").alt == "Loss"


def test_the_chart_of_a_measurement_is_described_with_each_alternative() -> None:
    comparison = measurements.comparison()
    alt = evaluation_results.chart(PLOT, comparison).alt
    assert evaluation_results.headline(comparison) in alt
    for candidate in comparison.candidates:
        assert candidate_name(candidate.identity, 40) in alt


def test_a_curve_a_forecast_and_a_dataset_are_described() -> None:
    curve = measurements.curve()
    assert learning_curves.headline(curve) in learning_curves.chart(PLOT, curve).alt
    outlook = measurements.outlook()
    assert forecast_chart(PLOT, "tickets", outlook).finding == (
        "Pays back after 1.6 months at the median. Back within 3 months in 87% of 10,000 simulations"
    )
    assert forecast_chart(PLOT, "tickets").alt == "Savings minus costs, month by month, tickets"
    report = builders.report()
    lengths = attachment(Path("lengths.png"), "tickets", report)
    assert (
        lengths.finding
        == f"{report.tokens.rows.mean:,.0f} on average, {report.tokens.rows.max:,} at most, over {report.rows} rows"
    )
    labels = attachment(Path("labels.png"), "tickets", report)
    assert labels.finding.startswith(f"{len(report.labels)} labels: {report.labels[0].rows}")
    assert attachment(Path("findings.txt"), "tickets", report).finding == ""


@pytest.mark.parametrize(
    ("stem", "finding"),
    [
        ("loss", "From 2.4 to 0.126 after 114 steps"),
        ("reward", "From 0.25 to 0.75 after 20 steps"),
        ("preference-accuracy", ""),  # it has no such curve
        ("quality", "Tuned model: 85.7% right; 62 points above the prompted base model, on 77 held-out rows"),
        ("confusion", "85.7% of 77 rows are right"),
    ],
)
def test_the_charts_of_a_run_are_described(stem: str, finding: str) -> None:
    result = builders.result(reward_curve=((1, 0.25), (20, 0.75)))
    shown = chart(Path(f"{stem}.png"), builders.plan(), result)
    assert "smollm2-135m on tickets" in shown.title
    assert shown.finding == finding
