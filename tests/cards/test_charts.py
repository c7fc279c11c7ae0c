"""Charts are drawn without a warning whatever the data, and no wider than Slack shows them."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from bot.cards.common.payback import break_even, cash_flow_note, payback_title
from bot.cards.training.results import TRAINING_CHARTS
from bot.charts import curves as loss_plot
from bot.charts import datasets, forecast
from bot.charts import training as training_charts
from bot.charts.confusion import draw_confusion
from bot.charts.evaluations import draw_comparison
from bot.charts.label_layout import Box, Label, place_labels
from bot.charts.style import dollars, percent, shorten_name, spread_apart
from bot.charts.training import charts, draw_training
from bot.values.runs import RunResult, points, stretch_means, training_curves
from tests.cards import builders, measurements
from tests.cards.evidence import curve_cards
from trainers.dataset import LabelCount
from trainers.evaluation.results import CANDIDATE_KINDS, CurvePoint, Prediction
from trainers.evaluation.statistics import compare, confusion
from trainers.types import Metric

METRICS = [
    Metric(step, 2.5 / step, valid_loss=2.0 / step if step % 50 == 0 else None) for step in range(1, 151)
]
DPO = [
    Metric(
        step,
        0.7 - step / 400,
        valid_loss=0.6 if step % 50 == 0 else None,
        train_preference_accuracy=0.4 if step <= 10 else 0.9,
        valid_preference_accuracy=0.85 if step % 50 == 0 else None,
        train_reward_margin=step / 50 - 0.1,
        valid_reward_margin=1.5 if step % 50 == 0 else None,
    )
    for step in range(1, 101)
]
GRPO = [
    Metric(step, 0.0, train_reward=step / 60, valid_reward=0.7 if step == 40 else None)
    for step in range(1, 41)
]
MAX_WIDTH = (
    2.1 * 360
)  # twice what Slack shows in a thread: letters of 11 points are then about 10 pixels high


def assert_drawn(path: Path | None, max_width: float = MAX_WIDTH) -> None:
    assert path is not None
    png = path.read_bytes()
    assert png.startswith(b"\x89PNG") and len(png) > 5_000
    assert int.from_bytes(png[16:20], "big") <= max_width


def drawn_names(metrics: list[Metric], title: str, folder: Path) -> list[str]:
    paths = draw_training(metrics, title, folder)
    for path in paths:
        assert_drawn(path)
    return [path.stem for path in paths]


def assert_confusion_drawn(
    names: list[str], answers: list[str], path: Path, max_width: float = MAX_WIDTH
) -> None:
    right = [name == answer for name, answer in zip(names, answers, strict=True)]
    verdict = compare([False] * len(names), right)
    drawn = draw_confusion(confusion(names, answers), verdict, "tickets-7", path)
    assert_drawn(drawn, max_width)


def test_a_loss_curve_is_drawn_with_and_without_validation(tmp_path: Path) -> None:
    assert drawn_names(METRICS, "ft:" + "x" * 60, tmp_path) == ["loss"]
    assert drawn_names(METRICS[:40], "costs $5 or $10", tmp_path) == ["loss"]
    assert drawn_names(METRICS[:1], "tickets-7", tmp_path) == []


def test_the_end_of_a_loss_chart_is_that_of_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last_batch_of_a_single_row = [*(Metric(step, 0.2) for step in range(1, 20)), Metric(20, 0.0)] * 5
    metrics = [replace(line, step=step) for step, line in enumerate(last_batch_of_a_single_row, 1)]
    legends = []

    def read_legend(drawn: Figure, path: Path) -> Path:
        legends.append(drawn.axes[0].get_legend().get_texts()[0].get_text())
        return path

    monkeypatch.setattr(training_charts, "save_figure", read_legend)
    draw_training(metrics, "tickets-7", tmp_path)
    assert legends == [f"training, {training_curves(metrics).loss[-1][1]:.2f} at the end"]
    assert legends != ["training, 0.00 at the end"]


@pytest.mark.deep
def test_each_number_of_a_method_has_a_chart_of_its_own(tmp_path: Path) -> None:
    assert drawn_names(DPO, "tickets-7", tmp_path) == ["loss", "preference-accuracy", "reward-margin"]
    # GRPO's loss is near 0 by construction
    assert drawn_names(GRPO, "tickets-7", tmp_path) == ["reward"]
    assert set(TRAINING_CHARTS) == {chart.stem for chart in (*charts(DPO), *charts(GRPO))}


def test_a_result_keeps_the_numbers_that_a_method_improves() -> None:
    assert [name for name, curve in vars(training_curves(GRPO)).items() if curve] == ["reward"]
    curves = training_curves(DPO)
    assert (curves.preference_accuracy[0], curves.preference_accuracy[-1]) == ((5, 0.4), (100, 0.9))
    assert RunResult.from_json(builders.result(margin_curve=curves.reward_margin).to_json()).margin_curve


def test_a_confusion_matrix_is_drawn_with_odd_and_with_many_labels(tmp_path: Path) -> None:
    odd = ["refund of $5 to $10", "a_b", "x" * 200]
    assert_confusion_drawn(odd, [odd[0], "something", odd[2]], tmp_path / "a.png")
    many = [f"label {number}" for number in range(77)] * 3
    assert_confusion_drawn(many, [*reversed(many[:60]), *many[60:]], tmp_path / "b.png", max_width=2_000)


@pytest.mark.parametrize(("steps", "points"), [(0, 0), (1, 1), (20, 20), (21, 11), (150, 19), (4_000, 20)])
def test_slack_s_loss_chart_has_at_most_20_points_and_ends_at_the_last_step(steps: int, points: int) -> None:
    curve = stretch_means(tuple((step, 1.0) for step in range(1, steps + 1)))
    assert len(curve) == points
    assert not curve or curve[-1] == (steps, 1.0)


def test_each_point_of_slack_s_loss_chart_is_a_mean() -> None:
    measured = points(
        [Metric(1, 4.0), Metric(2, 2.0), Metric(3, None), Metric(4, 1.0)], lambda line: line.train_loss
    )
    assert stretch_means(measured, most=2) == ((2, 3.0), (4, 1.0))


@pytest.mark.deep
def test_every_comparison_is_drawn(tmp_path: Path) -> None:
    same = [
        measurements.candidate(kind, f"p/model {n}", 170, "0.30")
        for n, kind in enumerate(CANDIDATE_KINDS * 2)
    ]
    extremes = [
        measurements.candidate("zero", "שלום/عالم", 0, "0.000001"),
        measurements.candidate("kshot", "$/$5", 200, "9000000"),
        measurements.candidate("tuned", "😀" * 90, 200, None),
        measurements.candidate("classical", None, 200),
        measurements.candidate("zero", "a/b", 34, n=40, rows_to_decide=160, standing="undecided"),
    ]
    many = replace(measurements.comparison_of_many(40, "x" * 200), dataset="問い合わせの分類データ" * 4)
    comparisons = {
        "no price": measurements.comparison([measurements.candidate("zero", "a/b", 180, None)]),
        "same": measurements.comparison(same),
        "extremes": measurements.comparison(extremes),
        "many": many,
    }
    for name, comparison in comparisons.items():
        assert_drawn(draw_comparison(comparison, tmp_path / f"{name}.png"))
    assert draw_comparison(measurements.comparison(()), tmp_path / "none.png") is None


def test_every_learning_curve_is_drawn(tmp_path: Path) -> None:
    points = tuple(CurvePoint(rows, 1.0, (1.0, 1.0)) for rows in (20, 40, 80))
    perfect = measurements.curve(
        points=points, a=0.0, b=0.0, c=1.0, predicted=(Prediction(160, 1.0, 1.0, 1.0),)
    )
    draw = loss_plot.draw_learning_curve
    assert_drawn(draw(curve_cards.tuned_curve(), tmp_path / "a.png"))
    assert_drawn(draw(measurements.curve(predicted=()), tmp_path / "b.png"))
    assert_drawn(draw(perfect, tmp_path / "c.png"))
    assert draw(measurements.curve(points=points[:1]), tmp_path / "d.png") is None


@pytest.mark.parametrize("scale", ["0.000001", "90000000000"])
def test_every_outlook_is_drawn(scale: str, tmp_path: Path) -> None:
    assert_drawn(forecast.draw_cash_flow(measurements.outlook(scale), tmp_path / "costs.png"))


def test_an_outlook_with_nothing_to_show_is_not_drawn(tmp_path: Path) -> None:
    one_month = measurements.outlook(months=measurements.outlook().months[:1])
    assert forecast.draw_cash_flow(one_month, tmp_path / "a.png") is None


def test_chinese_japanese_and_korean_letters_are_not_drawn_as_boxes(tmp_path: Path) -> None:
    """Boxes would make all four pictures equal."""
    pictures = set()
    for names in ("返金 退款 환불", "問合 退款 환불", "返金 账单 환불", "返金 退款 문의"):
        labels = [LabelCount(name, 30) for name in names.split()]
        path = datasets.draw_label_counts(labels, tmp_path / "labels.png")
        assert path
        pictures.add(path.read_bytes())
    assert len(pictures) == 4


@pytest.mark.deep
def test_row_lengths_and_label_counts_are_drawn(tmp_path: Path) -> None:
    long = [LabelCount(f"{'label ' * 30}{n}", 10_000 // (n + 1)) for n in range(41)]
    odd = [LabelCount("מדוע", 0), LabelCount("$5 to $10", 3)]
    path = tmp_path / "a.png"
    for lengths, limit in (([7] * 12, None), ([*range(5, 900)], 512), ([100, 200], 65_536)):
        assert_drawn(datasets.draw_row_lengths(lengths, limit, path))
    assert_drawn(datasets.draw_label_counts(long, path))
    assert_drawn(datasets.draw_label_counts(odd, path))
    assert datasets.draw_row_lengths([], 512, path) is None
    assert datasets.draw_label_counts([], path) is None


def test_break_even_is_where_the_median_last_crosses_zero() -> None:
    assert break_even(measurements.outlook().months) == pytest.approx(450 / 280)
    assert break_even(measurements.outlook("-1").months) is None


@pytest.mark.parametrize(
    ("amount", "text"),
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
def test_dollars_on_an_axis(amount: float, text: str) -> None:
    assert dollars(amount) == text.replace("$", r"\$")


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0%"), (0.915, "91.5%"), (1, "100%"), (1.02, ""), (-0.1, "")]
)
def test_a_share_on_an_axis_lies_between_0_and_100_percent(share: float, text: str) -> None:
    assert percent(share) == text


def test_a_name_on_a_chart_is_one_short_line() -> None:
    assert shorten_name("a\nb\u202e") == "a b"
    assert shorten_name("x" * 40 + "end", 20) == "x" * 10 + "…" + "x" * 6 + "end"


def test_labels_at_the_ends_of_lines_keep_apart_and_stay_inside() -> None:
    moved = spread_apart([1.0, 1.0, 0.99, 0.2], 0.1, 0.0, 1.0)
    assert moved == pytest.approx([0.9, 1.0, 0.8, 0.2])
    assert spread_apart([], 0.1, 0.0, 1.0) == []
    assert spread_apart([0.5] * 21, 0.1, 0.0, 1.0) == pytest.approx([n / 20 for n in range(21)])


def test_no_label_covers_another_label_or_a_point() -> None:
    crowd = [Label(100 + 3 * n, 100 + n, 60, 10) for n in range(8)]
    points = [Box(label.x - 5, label.y - 5, label.x + 5, label.y + 5) for label in crowd]
    placed = place_labels(crowd, points, Box(0, 0, 400, 300))
    for at, box in enumerate(placed):
        assert not any(box.overlap(other) for other in [*points, *placed[:at]])


def test_the_payback_chart_says_when_the_money_is_back() -> None:
    outlook = measurements.outlook()
    assert payback_title(outlook.months) == "Pays back after 1.6 months at the median"
    assert payback_title(measurements.outlook("-1").months) == "Not paid back within 12 months at the median"
    assert cash_flow_note(replace(outlook, target_months=Decimal("1.6438"), p_payback=0.007)) == (
        "Back within 50 days in 1% of 10,000 simulations"
    )
    nothing = Decimal(0)
    free = replace(outlook.months[0], p5=nothing, p50=nothing, p95=nothing)
    assert cash_flow_note(replace(outlook, months=(free, *outlook.months[1:]))).startswith("Saves money in ")
