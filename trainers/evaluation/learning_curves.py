"""Is more data worth it? The odds of being wrong fall as a power of the rows, which is fitted here and extrapolated.

err / (1 - err) = b·n^(-c). With many rows that is the power law of Hestness and others (Deep learning scaling is
predictable, empirically, 2017); with few rows a label it also holds, where a power law of the error is 5 to 10 points
too low at twice the rows. The band has both laws in it. For worker processes and the terminal: scikit-learn and numpy
are imported at use.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.dataset.near_duplicates import find_near_copies, question_text
from trainers.dataset.rows import Example, question_keys
from trainers.evaluation.results import Candidate, Curve, CurvePoint, LabelNeed, Prediction
from trainers.evaluation.statistics import exact_match
from trainers.evaluation.tfidf import classify, deal_folds, fit_classifier, is_short, label_of, text_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

FEWEST_ROWS = 12
MOST_ROWS = 20_000  # half a minute of training; what lies beyond is predicted like the rest
SEEDS = 3
FEW_HELD, CROSSED = 250, 2
FEW_ROWS = 10
MOST_NEEDS = 10
BOOTSTRAPS = 1_000
C_LOW, C_HIGH, C_STEPS = 0.05, 2.0, 79


@dataclass(frozen=True)
class Fit:
    """err / (1 - err) = b·n^(-c), with 0 < b and 0 ≤ c."""

    b: float
    c: float
    predicted: tuple[Prediction, ...]

    def score(self, rows: float) -> float:
        return float(1 / (1 + self.b * rows**-self.c))


def classical_curve(
    train: Sequence[Example],
    holdout: Sequence[Example],
    seed: int,
    predict: Sequence[int],
    *,
    dataset: str = "",
    version: int = 1,
    holdout_sha256: str = "",
) -> Curve:
    """Measures rung 0 on a quarter, half and all of the rows, three draws each, every larger one holding the smaller,
    all on the same holdout. `predict`: sizes to extrapolate to. At most 20,000 rows are trained on.

    A holdout of fewer than 250 rows is off by more than the next rows bring. Then each fifth of all rows, those held
    out among them, is asked of classifiers that were trained on the others. No model is chosen by that: what the curve
    trains is thrown away, and the holdout stays one for whatever is trained on `train`.

    Raises ValueError with fewer than 12 rows, or without a holdout.
    """
    if len(train) < FEWEST_ROWS or not holdout:
        raise ValueError(
            f"a curve of {len(train)} rows on {len(holdout)} held-out ones: "
            f"it needs {FEWEST_ROWS} and 1 at least"
        )
    is_crossed = len(holdout) < FEW_HELD
    questions = [*train, *holdout] if is_crossed else holdout
    points, answers = _cross(train, questions, seed) if is_crossed else _measure(train, holdout, seed)
    return build_curve(
        Candidate("classical"),
        points,
        predict,
        rows=len(train),
        held=len(questions),
        seed=seed,
        needs=find_label_needs(train, questions, answers),
        dataset=dataset,
        version=version,
        holdout_sha256=holdout_sha256,
        is_crossed=is_crossed,
    )


def build_curve(
    arm: Candidate,
    points: Sequence[CurvePoint],
    predict: Sequence[int],
    *,
    rows: int,
    held: int,
    seed: int,
    needs: Sequence[LabelNeed],
    dataset: str,
    version: int,
    holdout_sha256: str,
    is_crossed: bool = False,
) -> Curve:
    """Makes the curve of any arm's points, a tuned model's too. `rows`: how many there are to train on now."""
    fitted = fit_curve(points, predict, held=held, seed=seed)
    # The gain is no more than what the last point lacks, however far off the fitted line is from it.
    gain = min(fitted.score(rows + 100) - fitted.score(rows), 1 - points[-1].score)
    return Curve(
        dataset=dataset,
        version=version,
        holdout_sha256=holdout_sha256,
        arm=arm,
        points=tuple(points),
        a=0.0,
        b=fitted.b,
        c=fitted.c,
        predicted=fitted.predicted,
        points_per_100=100 * gain,
        needs=tuple(needs),
        is_crossed=is_crossed,
    )


def fit_curve(points: Sequence[CurvePoint], predict: Sequence[int], *, held: int, seed: int = 0) -> Fit:
    """Fits the logarithm of the odds by least squares.

    The band (95%) of a prediction: 1,000 times the points are moved by what the draws of rows differ (fewer
    rows differ more) and, all together, by what a holdout of `held` rows may be off; the predicted draw differs
    itself too. Half of it is that of a + b·n^(-c), which flattens where no number of rows makes all right.
    Where each size was drawn once, draws are taken to differ as two models do that err on rows of
    their own. Raises ValueError with fewer than three sizes, or 0 rows to predict.
    """
    import numpy as np

    if len({point.rows for point in points}) < 3:
        raise ValueError("fitting a curve: it needs three sizes at least")
    if any(rows < 1 for rows in predict):
        raise ValueError(f"predicting the score of {min(predict)} rows: there must be 1 at least")
    sizes = np.array([point.rows for point in points], dtype=np.float64)
    errors = 1 - np.array([point.score for point in points])

    generator = np.random.default_rng(seed)
    draws = np.array([len(point.draws) for point in points])
    own_error = _spread_of_draws(points, held, sizes) / np.sqrt(draws)
    own = generator.standard_normal((BOOTSTRAPS, len(points))) * own_error
    shared = generator.standard_normal((BOOTSTRAPS, 1)) * np.sqrt(errors * (1 - errors) / held)
    samples = np.vstack([errors, np.clip(errors + own + shared, 0.0, 1.0)])

    odds, flatter = _odds(sizes, samples, held), _least_squares(sizes, samples)
    log_b, minus_c = (float(value) for value in odds[0])
    predictions = _predictions(odds, flatter, 1 - samples[:, -1], points, predict, held, seed)
    return Fit(float(np.exp(log_b)), -minus_c, predictions)


def find_label_needs(
    train: Sequence[Example], holdout: Sequence[Example], answers: Sequence[str]
) -> tuple[LabelNeed, ...]:
    """Returns the labels to label next: with errors on the holdout or fewer than 10 rows; at most ten, those first
    where one more row takes away most errors."""

    def errors_a_row(need: LabelNeed) -> float:
        # By the power law one more row takes away errors by rows. Half an error is added for each label: one that the
        # holdout hardly has may be wrong all the same.
        return (need.held - need.right + 0.5) / (need.rows + 1)

    rows = Counter(map(label_of, train))
    held = Counter(map(label_of, holdout))
    right = Counter(
        label_of(example)
        for example, answer in zip(holdout, answers, strict=True)
        if exact_match(example.answer, answer)
    )
    needs = [LabelNeed(label, rows[label], held[label], right[label]) for label in rows.keys() | held.keys()]
    needs = [need for need in needs if need.right < need.held or need.rows < FEW_ROWS]
    return tuple(sorted(needs, key=lambda need: (-errors_a_row(need), need.label))[:MOST_NEEDS])


def _measure(
    train: Sequence[Example], holdout: Sequence[Example], seed: int
) -> tuple[list[CurvePoint], Sequence[str]]:
    """Returns the points, and the answers to the holdout of the largest size."""
    most = min(len(train), MOST_ROWS)
    orders = [stratified_order(train, seed + number) for number in range(SEEDS)]
    in_pieces = is_short(text_of(example) for example in orders[0][:most])  # the same features for all sizes
    points, answers = list[CurvePoint](), list[Sequence[str]]()
    for rows in (most // 4, most // 2, most):
        # all rows are the same rows in any order
        draws = [order[:rows] for order in (orders[:1] if rows == len(train) else orders)]
        answers = [classify(fit_classifier(draw, seed, in_pieces=in_pieces), holdout) for draw in draws]
        points.append(_point(rows, holdout, answers))
    return points, answers[0]


def _cross(
    train: Sequence[Example], examples: Sequence[Example], seed: int
) -> tuple[list[CurvePoint], Sequence[str]]:
    """Asks each of `examples`, which are all rows, once a draw, of a classifier that has seen neither it nor a near
    copy."""
    in_pieces = is_short(map(text_of, examples))
    texts = [question_text(example) for example in examples]
    groups = find_near_copies(texts, question_keys(examples)).groups
    folds = [deal_folds(examples, groups, seed + draw) for draw in range(CROSSED)]
    most = min(len(train), *(len(examples) - max(Counter(fold).values()) for fold in folds))
    points, answers = list[CurvePoint](), list[Sequence[str]]()
    for rows in (most // 4, most // 2, most):
        answers = [
            _cross_answers(examples, fold, rows, seed + draw, in_pieces) for draw, fold in enumerate(folds)
        ]
        points.append(_point(rows, examples, answers))
    return points, answers[0]


def _cross_answers(
    examples: Sequence[Example], fold: Sequence[int], rows: int, seed: int, in_pieces: bool
) -> list[str]:
    answers = [""] * len(examples)
    for number in set(fold):
        inside = [place for place, of_row in enumerate(fold) if of_row == number]
        outside = [example for example, of_row in zip(examples, fold, strict=True) if of_row != number]
        classifier = fit_classifier(stratified_order(outside, seed)[:rows], seed, in_pieces=in_pieces)
        labels = classify(classifier, [examples[place] for place in inside])
        for place, answer in zip(inside, labels, strict=True):
            answers[place] = answer
    return answers


def stratified_order(train: Sequence[Example], seed: int) -> list[Example]:
    """Returns an order whose every beginning has each label in its share, as far as whole rows allow."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in train:
        by_label[label_of(example)].append(example)
    generator = random.Random(seed)  # noqa: S311
    placed: list[tuple[float, str, Example]] = []
    for label in sorted(by_label):
        same = by_label[label]
        generator.shuffle(same)
        placed += [((rank + 0.5) / len(same), label, example) for rank, example in enumerate(same)]
    return [example for _, _, example in sorted(placed, key=lambda place: place[:2])]


def _point(rows: int, examples: Sequence[Example], answers: Sequence[Sequence[str]]) -> CurvePoint:
    """Scores each draw's answers to `examples`."""
    scores = []
    for of_draw in answers:
        right = sum(exact_match(e.answer, answer) for e, answer in zip(examples, of_draw, strict=True))
        scores.append(right / len(examples))
    return CurvePoint(rows, sum(scores) / len(scores), tuple(scores))


def _odds(sizes: Numbers, errors: Numbers, held: int) -> Numbers:
    """Returns log b and -c for each row of errors. No score is surer than half a held-out row."""
    import numpy as np

    inside = np.clip(errors, 0.5 / held, 1 - 0.5 / held)
    x, y = np.log(sizes), np.log(inside / (1 - inside))
    centred = x - x.mean()
    slopes = np.minimum((y @ centred) / (centred @ centred), 0.0)
    return np.column_stack([y.mean(axis=1) - slopes * x.mean(), slopes])


def _least_squares(sizes: Numbers, errors: Numbers) -> Numbers:
    """Returns a, b and c of a + b·n^(-c) for each row of errors (rows x sizes)."""
    import numpy as np

    best = np.full(len(errors), np.inf)
    fitted = np.zeros((len(errors), 3))
    scale = sizes.min()  # so that b's column is about 1
    for c in np.linspace(C_LOW, C_HIGH, C_STEPS):
        x = (sizes / scale) ** -c
        a, b = _line(x, errors)
        squares = ((a[:, None] + b[:, None] * x - errors) ** 2).sum(axis=1)
        closer = squares < best
        best = np.where(closer, squares, best)
        fitted[closer] = np.column_stack([a, b * scale**c, np.full(len(errors), c)])[closer]
    return fitted


def _line(x: Numbers, errors: Numbers) -> tuple[Numbers, Numbers]:
    """Fits a + b·x by least squares with a and b not below 0: where one would be, it is 0 and the other fitted
    alone."""
    import numpy as np

    middle, mean = x.mean(), errors.mean(axis=1)
    b = ((errors - mean[:, None]) @ (x - middle)) / ((x - middle) ** 2).sum()
    a = mean - b * middle
    alone = np.maximum(errors @ x / (x @ x), 0.0)
    a_free, b_free = np.where(b < 0, np.maximum(mean, 0.0), a), np.maximum(b, 0.0)
    return np.where(a_free < 0, 0.0, a_free), np.where(a_free < 0, alone, b_free)


def _predictions(
    odds: Numbers,
    flatter: Numbers,
    now: Numbers,
    points: Sequence[CurvePoint],
    predict: Sequence[int],
    held: int,
    seed: int,
) -> tuple[Prediction, ...]:
    """Predicts by both laws, fitted to the points and then to the moved ones; `now`: the last point's score in each.
    In a gain what the holdout is off cancels, for it is the same rows."""
    import numpy as np

    generator = np.random.default_rng(seed + 1)
    a, b, c = flatter.T
    predictions = []
    for rows in predict:
        scores = 1 / (1 + np.exp(odds[:, 0] + odds[:, 1] * np.log(rows)))
        # 95% of both laws' scores together: each law is as likely as the other.
        laws = np.column_stack([scores, np.clip(1 - a - b * float(rows) ** -c, 0.0, 1.0)])[1:]
        noise = generator.standard_normal(len(laws)) * _spread_of_draws(points, held, rows)
        noisy = laws + noise[:, None]
        low, high = (float(value) for value in np.quantile(noisy, [0.025, 0.975]))
        least, most = (float(value) for value in np.quantile(noisy - now[1:, None], [0.025, 0.975]))
        score, gain = float(scores[0]), float(scores[0] - now[0])
        low, high = min(max(low, 0.0), score), max(min(high, 1.0), score)
        predictions.append(Prediction(rows, score, low, high, min(least, gain), max(most, gain)))
    return tuple(predictions)


def _spread_of_draws(points: Sequence[CurvePoint], held: int, rows: Numbers | float) -> Numbers:
    """Returns the standard deviation between draws of `rows` rows: its square falls as 1 / rows, and is pooled over the
    sizes by that; half a held-out row at least."""
    import numpy as np

    squares = sum(point.rows * (draw - point.score) ** 2 for point in points for draw in point.draws)
    freedom = sum(len(point.draws) - 1 for point in points)
    # Where no size was drawn twice: each held-out row errs by itself, the mean over the sizes of e(1-e)/held. Real
    # draws err on the same hard rows, so that is rather too wide.
    single = sum(point.score * (1 - point.score) for point in points) / len(points) / held
    variance = squares / freedom / rows if freedom else single
    spread: Numbers = np.maximum(np.sqrt(variance), 0.5 / held)
    return spread
