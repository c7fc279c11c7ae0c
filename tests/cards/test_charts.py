"""The plots: drawn without a warning whatever the data are, and the loss curve for Slack's own chart."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest

from bot.cards.results import card
from bot.charts import curves as loss_plot
from bot.charts import datasets, forecast
from bot.charts import evaluations as confusion_plot
from bot.charts.forecast import break_even, cash_flow_note, payback_title
from bot.charts.label_layout import Box, Label, place_labels
from bot.charts.style import dollars, percent, shorten_name, spread_apart
from bot.services.run_worker import loss_curve
from tests.cards import builders, curve_cards, measurements
from trainers.dataset import LabelCount
from trainers.evaluation.results import RUNG_NAMES, CurvePoint, Prediction
from trainers.evaluation.statistics import compare, confusion
from trainers.types import Metric

METRICS = [
    Metric(step, 2.5 / step, valid_loss=2.0 / step if step % 50 == 0 else None) for step in range(1, 151)
]
RIGHT = [True, False, True]


def is_png(path: Path | None) -> bool:
    return path is not None and path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000


def test_the_loss_is_drawn_with_and_without_validation(tmp_path: Path) -> None:
    assert is_png(loss_plot.draw_loss_curve(METRICS, "tickets-7", tmp_path / "a.png"))
    assert is_png(loss_plot.draw_loss_curve(METRICS[:40], "costs $5 or $10", tmp_path / "b.png"))
    assert loss_plot.draw_loss_curve(METRICS[:1], "tickets-7", tmp_path / "c.png") is None


def test_the_confusion_is_drawn_with_odd_labels(tmp_path: Path) -> None:
    names = ["refund of $5 to $10", "a_b", "x" * 200]
    matrix = confusion(names, [names[0], "something", names[2]])
    assert is_png(
        confusion_plot.draw_confusion(matrix, compare([False] * 3, RIGHT), "tickets-7", tmp_path / "a.png")
    )


@pytest.mark.parametrize("wrong", [0, 1, 60])
def test_of_many_labels_the_worst_pairs_and_the_labels_found_least_are_drawn(
    tmp_path: Path, wrong: int
) -> None:
    names = [f"label {number}" for number in range(77)] * 3
    answers = [*reversed(names[:wrong]), *names[wrong:]]
    right = [one == other for one, other in zip(names, answers, strict=True)]
    verdict = compare([False] * len(names), right)
    assert is_png(confusion_plot.draw_confusion(confusion(names, answers), verdict, "t", tmp_path / "a.png"))


@pytest.mark.parametrize(("steps", "points"), [(0, 0), (1, 1), (20, 20), (21, 11), (150, 19), (4_000, 20)])
def test_the_curve_has_twenty_points_at_most_and_ends_at_the_last_step(steps: int, points: int) -> None:
    curve = loss_curve([Metric(step, 1.0) for step in range(1, steps + 1)])
    assert len(curve) == points
    assert not curve or curve[-1] == (steps, 1.0)


def test_each_point_of_the_curve_is_a_mean() -> None:
    assert loss_curve([Metric(1, 4.0), Metric(2, 2.0), Metric(3, None), Metric(4, 1.0)], most=2) == (
        (2, 3.0),
        (4, 1.0),
    )


def test_without_a_curve_there_is_no_chart() -> None:
    without = card(builders.run("done"), builders.plan(), builders.result(loss_curve=()))
    assert "data_visualization" not in [block["type"] for block in without.newest]


def test_every_ladder_is_drawn(tmp_path: Path) -> None:
    same = [measurements.rung(rung, f"p/model {n}", 170, "0.30") for n, rung in enumerate(RUNG_NAMES * 2)]
    ends = [
        measurements.rung("zero", "שלום/عالم", 0, "0.000001"),
        measurements.rung("kshot", "$/$5", 200, "9000000"),
        measurements.rung("tuned", "😀" * 90, 200, None),
    ]
    cases = {
        "seven": measurements.ladder(),
        "one": measurements.ladder([measurements.rung("classical", None, 184)]),
        "nobody knows a price": measurements.ladder([measurements.rung("zero", "a/b", 180, None)]),
        "same": measurements.ladder(same),
        "ends": measurements.ladder([*ends, measurements.rung("classical", None, 200)]),
        "undecided": measurements.undecided_ladder(),
        "many": measurements.ladder_of_many(40, "x" * 200),
    }
    for case, value in cases.items():
        assert is_png(confusion_plot.draw_ladder(value, tmp_path / f"{case}.png")), case
    assert confusion_plot.draw_ladder(measurements.ladder(()), tmp_path / "none.png") is None


def test_every_curve_is_drawn(tmp_path: Path) -> None:
    points = tuple(CurvePoint(rows, 1.0, (1.0, 1.0)) for rows in (20, 40, 80))
    perfect = measurements.curve(
        points=points, a=0.0, b=0.0, c=1.0, predicted=(Prediction(160, 1.0, 1.0, 1.0),)
    )
    assert is_png(loss_plot.draw_learning_curve(measurements.curve(), tmp_path / "a.png"))
    assert is_png(loss_plot.draw_learning_curve(measurements.curve(predicted=()), tmp_path / "b.png"))
    assert is_png(loss_plot.draw_learning_curve(perfect, tmp_path / "c.png"))
    assert loss_plot.draw_learning_curve(measurements.curve(points=points[:1]), tmp_path / "d.png") is None
    assert is_png(
        loss_plot.draw_learning_curve(curve_cards.tuned_curve(), tmp_path / "e.png", measurements.curve())
    )


@pytest.mark.parametrize("scale", ["0.000001", "1", "90000000000"])
def test_every_outlook_is_drawn(scale: str, tmp_path: Path) -> None:
    assert is_png(forecast.draw_cash_flow(measurements.outlook(scale), tmp_path / "costs.png"))
    assert is_png(forecast.draw_sensitivity(measurements.outlook(scale), tmp_path / "tornado.png"))


def test_an_outlook_with_nothing_to_show_is_not_drawn(tmp_path: Path) -> None:
    one_month = measurements.outlook(months=measurements.outlook().months[:1])
    still = tuple(replace(swing, at_high=swing.at_low) for swing in measurements.outlook().tornado)
    assert forecast.draw_cash_flow(one_month, tmp_path / "a.png") is None
    assert forecast.draw_sensitivity(measurements.outlook(tornado=still), tmp_path / "b.png") is None


def test_a_picture_is_at_most_twice_as_wide_as_slack_shows_it(tmp_path: Path) -> None:
    """Letters of 11 points are then about 10 pixels high in a thread."""
    ladder = replace(measurements.ladder_of_many(40, "x" * 200), dataset="問い合わせの分類データ" * 4)
    outlook = measurements.outlook()
    matrix = [LabelCount("고객 문의 " * 20, 3_000), LabelCount("退款", 3)]
    drawn = (
        confusion_plot.draw_ladder(ladder, tmp_path / "a.png"),
        forecast.draw_cash_flow(outlook, tmp_path / "b.png"),
        forecast.draw_sensitivity(outlook, tmp_path / "c.png"),
        loss_plot.draw_loss_curve(METRICS, "ft:" + "x" * 60, tmp_path / "d.png"),
        loss_plot.draw_learning_curve(curve_cards.tuned_curve(), tmp_path / "e.png", measurements.curve()),
        datasets.draw_label_counts(matrix, tmp_path / "f.png"),
        datasets.draw_row_lengths([*range(5, 900)], 512, tmp_path / "g.png"),
    )
    assert [path.name for path in drawn if path and width_of(path) > 2.1 * 360] == []


def width_of(png: Path) -> int:
    return int.from_bytes(png.read_bytes()[16:20], "big")


@pytest.mark.parametrize("pair", [("返金", "問合"), ("退款", "账单"), ("환불", "문의")])
def test_letters_of_the_east_are_drawn_and_not_boxes(pair: tuple[str, str], tmp_path: Path) -> None:
    one, other = (
        datasets.draw_label_counts([LabelCount(name, 30)], tmp_path / f"{name}.png") for name in pair
    )
    assert one and other and one.read_bytes() != other.read_bytes()


def test_lengths_and_labels_are_drawn(tmp_path: Path) -> None:
    long = [LabelCount(f"{'label ' * 30}{n}", 10_000 // (n + 1)) for n in range(77)]
    assert is_png(datasets.draw_row_lengths([7] * 12, None, tmp_path / "a.png"))
    assert is_png(datasets.draw_row_lengths([*range(5, 900)], 512, tmp_path / "b.png"))
    assert is_png(datasets.draw_row_lengths([100, 200], 65_536, tmp_path / "c.png"))
    assert is_png(datasets.draw_label_counts(long, tmp_path / "d.png"))
    assert is_png(
        datasets.draw_label_counts([LabelCount("מדוע", 0), LabelCount("$5 to $10", 3)], tmp_path / "e.png")
    )
    assert datasets.draw_row_lengths([], 512, tmp_path / "f.png") is None
    assert datasets.draw_label_counts([], tmp_path / "g.png") is None


def test_the_break_even_is_where_the_median_crosses_zero_for_the_last_time() -> None:
    assert break_even(measurements.outlook().months) == pytest.approx(450 / 280)
    assert break_even(measurements.outlook("-1").months) is None


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (0, "$0"),
        (0.00001, "$0.00001"),
        (0.02, "$0.02"),
        (250, "$250"),
        (999.7, "$1k"),
        (3_000, "$3k"),
        (999_700, "$1M"),
        (-1.2e6, "−$1.2M"),
    ],
)
def test_dollars_on_an_axis(amount: float, said: str) -> None:
    assert dollars(amount) == said.replace("$", r"\$")


@pytest.mark.parametrize(
    ("share", "said"), [(0, "0%"), (0.915, "91.5%"), (1, "100%"), (1.02, ""), (-0.1, "")]
)
def test_no_share_beyond_all_and_nothing(share: float, said: str) -> None:
    assert percent(share) == said


def test_a_name_on_a_plot_is_one_short_line() -> None:
    assert shorten_name("a\nb\u202e") == "a b"
    assert shorten_name("x" * 40 + "end", 20) == "x" * 10 + "…" + "x" * 6 + "end"


def test_labels_at_lines_ends_keep_apart_and_stay_inside() -> None:
    moved = spread_apart([1.0, 1.0, 0.99, 0.2], 0.1, 0.0, 1.0)
    assert moved == pytest.approx([0.9, 1.0, 0.8, 0.2])
    assert spread_apart([], 0.1, 0.0, 1.0) == []
    assert spread_apart([0.5] * 21, 0.1, 0.0, 1.0) == pytest.approx([n / 20 for n in range(21)])


def test_no_label_covers_another_or_a_point() -> None:
    crowd = [Label(100 + 3 * n, 100 + n, 60, 10) for n in range(8)]
    points = [Box(label.x - 5, label.y - 5, label.x + 5, label.y + 5) for label in crowd]
    placed = place_labels(crowd, points, Box(0, 0, 400, 300))
    for at, box in enumerate(placed):
        assert not any(box.overlap(other) for other in [*points, *placed[:at]])


def test_the_payback_curve_says_when_the_money_is_back() -> None:
    outlook = measurements.outlook()
    assert payback_title(outlook.months) == "Pays back after 1.6 months at the median"
    assert payback_title(measurements.outlook("-1").months) == "Not paid back within 12 months at the median"
    assert cash_flow_note(replace(outlook, target_months=Decimal("1.6438"), p_payback=0.007)) == (
        "Back within 50 days in 1% of 10,000 simulations"
    )
    nothing = Decimal(0)
    free = replace(outlook.months[0], p5=nothing, p50=nothing, p95=nothing)
    assert cash_flow_note(replace(outlook, months=(free, *outlook.months[1:]))).startswith("Saves money in ")
