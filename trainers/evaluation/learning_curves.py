"""Learning curves, which predict whether more data is worth it. They assume that the odds of being wrong fall as a
power of the number of rows: err / (1 - err) = b·n^(-c).

With many rows this is the power law of Hestness and others (Deep learning scaling is predictable, empirically, 2017).
It also holds with few rows per label, where a power law of the error itself is 5 to 10 points too low at twice the
rows. The band covers both laws. For worker processes and the terminal; scikit-learn and numpy are imported when needed.
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
from trainers.evaluation.tfidf import FOLDS, classify, fit_classifier, is_short_enough, label_of, text_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

FEWEST_ROWS = 12
MOST_ROWS = 20_000  # half a minute of training; larger sizes are predicted
SEEDS = 3
FEW_HELD = 250
CROSS_DRAWS = 2
FEW_ROWS = 10
MOST_NEEDS = 10
BOOTSTRAPS = 1_000
# The exponents that are tried: 0.05 to 2 in steps of 0.025.
C_LOW = 0.05
C_HIGH = 2.0
C_STEPS = 79


@dataclass(frozen=True)
class Fit:
    """A fitted curve err / (1 - err) = b·n^(-c), with 0 < b and 0 ≤ c."""

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
    """Measures the classical model on a quarter, half and all of the rows, with three draws each, where larger draws
    contain the smaller ones. At most 20,000 rows are trained on. `predict` are the sizes to extrapolate to.

    The error of a holdout of fewer than 250 rows exceeds the gain of the next rows. Then cross-validation is used: each
    fifth of all rows, including the held-out ones, is answered by classifiers that were trained on the others. That
    doesn't spoil the holdout, because the classifiers are discarded and no model is chosen by them.

    Raises ValueError if there are fewer than 12 rows or no holdout.
    """
    if len(train) < FEWEST_ROWS or not holdout:
        raise ValueError(
            f"a curve of {len(train)} rows on {len(holdout)} held-out ones: "
            f"it needs at least {FEWEST_ROWS} and 1"
        )
    is_crossed = len(holdout) < FEW_HELD
    questions: Sequence[Example]
    if is_crossed:
        questions = [*train, *holdout]
        points, answers = _cross_validate(train, questions, seed)
    else:
        questions = holdout
        points, answers = _measure(train, holdout, seed)
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
    candidate: Candidate,
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
    """Builds the curve through a candidate's points. `rows` is the current number of training rows."""
    fitted = fit_curve(points, predict, held=held, seed=seed)
    # The gain can't exceed what the last point lacks to 100%, even if the fitted curve is below that point.
    gain = min(fitted.score(rows + 100) - fitted.score(rows), 1 - points[-1].score)
    return Curve(
        dataset=dataset,
        version=version,
        holdout_sha256=holdout_sha256,
        candidate=candidate,
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
    """Fits the logarithm of the odds by least squares and predicts the scores of other sizes.

    The 95% band of a prediction comes from 1,000 bootstrap samples. In each, every point moves by the random difference
    between draws of rows (larger for fewer rows), all points together move by the error of a holdout of `held` rows,
    and the predicted draw varies as well. Half of the samples follow a + b·n^(-c) instead, which flattens out if no
    amount of data makes all answers right. If each size was drawn only once, draws are assumed to differ as if two
    models erred independently. Raises ValueError for fewer than three sizes, or for a prediction of fewer than 1 row.
    """
    import numpy as np

    if len({point.rows for point in points}) < 3:
        raise ValueError("fitting a curve: it needs at least three sizes")
    if any(rows < 1 for rows in predict):
        raise ValueError(f"predicting the score of {min(predict)} rows: there must be at least 1")
    sizes = np.array([point.rows for point in points], dtype=np.float64)
    errors = 1 - np.array([point.score for point in points])

    generator = np.random.default_rng(seed)
    draws = np.array([len(point.draws) for point in points])
    own_error = _spread_of_draws(points, held, sizes) / np.sqrt(draws)
    own = generator.standard_normal((BOOTSTRAPS, len(points))) * own_error
    shared_error = np.sqrt(errors * (1 - errors) / held)
    shared = generator.standard_normal((BOOTSTRAPS, 1)) * shared_error
    moved = np.clip(errors + own + shared, 0.0, 1.0)
    samples = np.vstack([errors, moved])  # the first row are the points themselves

    odds = _odds(sizes, samples, held)
    flatter = _least_squares(sizes, samples)
    now = 1 - samples[:, -1]
    predictions = _predictions(odds, flatter, now, points, predict, held, seed)
    log_b, minus_c = (float(value) for value in odds[0])
    return Fit(float(np.exp(log_b)), -minus_c, predictions)


def find_label_needs(
    train: Sequence[Example], holdout: Sequence[Example], answers: Sequence[str]
) -> tuple[LabelNeed, ...]:
    """Returns at most ten labels that need more rows, because they have errors on the holdout or fewer than 10 rows.
    Labels for which one more row removes most errors come first."""

    def errors_a_row(need: LabelNeed) -> float:
        # By the power law, one more row removes errors in proportion to errors / rows. Half an error is added, because
        # a label that is rare in the holdout may still be wrong.
        return (need.held - need.right + 0.5) / (need.rows + 1)

    rows = Counter(map(label_of, train))
    held = Counter(map(label_of, holdout))
    right: Counter[str] = Counter()
    for example, answer in zip(holdout, answers, strict=True):
        if exact_match(example.answer, answer):
            right[label_of(example)] += 1

    needs = []
    for label in rows.keys() | held.keys():
        need = LabelNeed(label, rows[label], held[label], right[label])
        if need.right < need.held or need.rows < FEW_ROWS:
            needs.append(need)
    needs.sort(key=lambda need: (-errors_a_row(need), need.label))
    return tuple(needs[:MOST_NEEDS])


def _measure(
    train: Sequence[Example], holdout: Sequence[Example], seed: int
) -> tuple[list[CurvePoint], Sequence[str]]:
    """Returns the points, and the answers to the holdout at the largest size."""
    most = min(len(train), MOST_ROWS)
    orders = [stratified_order(train, seed + number) for number in range(SEEDS)]
    # Use the same features for all sizes.
    in_pieces = is_short_enough(text_of(example) for example in orders[0][:most])
    points: list[CurvePoint] = []
    answers: list[Sequence[str]] = []
    for rows in (most // 4, most // 2, most):
        if rows == len(train):
            orders = orders[:1]  # with all rows, the draws don't differ
        answers = []
        for order in orders:
            classifier = fit_classifier(order[:rows], seed, in_pieces=in_pieces)
            answers.append(classify(classifier, holdout))
        points.append(_point(rows, holdout, answers))
    return points, answers[0]


def _cross_validate(
    train: Sequence[Example], examples: Sequence[Example], seed: int
) -> tuple[list[CurvePoint], Sequence[str]]:
    """Returns the points, and the answers at the largest size. In each draw, every one of `examples`, which are all
    rows, is answered by a classifier that has seen neither it nor a near copy."""
    in_pieces = is_short_enough(map(text_of, examples))
    texts = [question_text(example) for example in examples]
    groups = find_near_copies(texts, question_keys(examples)).groups
    folds = [_deal_at_random(groups, seed + draw) for draw in range(CROSS_DRAWS)]
    largest_folds = [max(Counter(fold).values()) for fold in folds]
    most = min(len(train), len(examples) - max(largest_folds))
    points: list[CurvePoint] = []
    answers: list[Sequence[str]] = []
    for rows in (most // 4, most // 2, most):
        answers = []
        for draw, fold in enumerate(folds):
            answers.append(_cross_answers(examples, fold, rows, seed + draw, in_pieces))
        points.append(_point(rows, examples, answers))
    return points, answers[0]


def _deal_at_random(groups: Sequence[int], seed: int) -> list[int]:
    """Returns the fold of each row; rows of a group are in the same one.

    Not label by label: then nearly all other rows of a row's label are in the other folds, more than a new row of that
    label would find. With three rows a label, that made the score 7 points too high.
    """
    firsts = sorted(set(groups))
    random.Random(seed).shuffle(firsts)  # noqa: S311
    folds = {first: number % FOLDS for number, first in enumerate(firsts)}
    return [folds[group] for group in groups]


def _cross_answers(
    examples: Sequence[Example], fold: Sequence[int], rows: int, seed: int, in_pieces: bool
) -> list[str]:
    answers = [""] * len(examples)
    for number in set(fold):
        inside = [place for place, of_row in enumerate(fold) if of_row == number]
        outside = [example for example, of_row in zip(examples, fold, strict=True) if of_row != number]
        drawn = stratified_order(outside, seed)[:rows]
        classifier = fit_classifier(drawn, seed, in_pieces=in_pieces)
        labels = classify(classifier, [examples[place] for place in inside])
        for place, answer in zip(inside, labels, strict=True):
            answers[place] = answer
    return answers


def stratified_order(train: Sequence[Example], seed: int) -> list[Example]:
    """Returns the rows in an order of which every prefix has the labels in proportion, as far as whole rows allow."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in train:
        by_label[label_of(example)].append(example)
    generator = random.Random(seed)  # noqa: S311
    placed: list[tuple[float, str, Example]] = []
    for label in sorted(by_label):
        same = by_label[label]
        generator.shuffle(same)
        for rank, example in enumerate(same):
            share = (rank + 0.5) / len(same)  # spreads a label's rows evenly over the whole order
            placed.append((share, label, example))
    placed.sort(key=lambda place: place[:2])
    return [example for _, _, example in placed]


def _point(rows: int, examples: Sequence[Example], answers: Sequence[Sequence[str]]) -> CurvePoint:
    """Scores the answers to `examples` of each draw."""
    scores = []
    for of_draw in answers:
        right = sum(exact_match(e.answer, answer) for e, answer in zip(examples, of_draw, strict=True))
        scores.append(right / len(examples))
    return CurvePoint(rows, sum(scores) / len(scores), tuple(scores))


def _odds(sizes: Numbers, errors: Numbers, held: int) -> Numbers:
    """Returns log b and -c for each row of errors, which are kept at least half a held-out row away from 0 and 1."""
    import numpy as np

    inside = np.clip(errors, 0.5 / held, 1 - 0.5 / held)
    x = np.log(sizes)
    y = np.log(inside / (1 - inside))
    centred = x - x.mean()
    slopes = (y @ centred) / (centred @ centred)
    slopes = np.minimum(slopes, 0.0)  # more rows never make answers worse
    intercepts = y.mean(axis=1) - slopes * x.mean()
    return np.column_stack([intercepts, slopes])


def _least_squares(sizes: Numbers, errors: Numbers) -> Numbers:
    """Fits a + b·n^(-c) to each row of errors (rows x sizes) and returns a, b and c."""
    import numpy as np

    best = np.full(len(errors), np.inf)
    fitted = np.zeros((len(errors), 3))
    scale = sizes.min()  # keeps the column for b near 1
    for c in np.linspace(C_LOW, C_HIGH, C_STEPS):
        x = (sizes / scale) ** -c
        a, b = _line(x, errors)
        residuals = a[:, None] + b[:, None] * x - errors
        squares = (residuals**2).sum(axis=1)
        closer = squares < best
        best = np.where(closer, squares, best)
        parameters = np.column_stack([a, b * scale**c, np.full(len(errors), c)])
        fitted[closer] = parameters[closer]
    return fitted


def _line(x: Numbers, errors: Numbers) -> tuple[Numbers, Numbers]:
    """Fits a + b·x by least squares with a, b ≥ 0: if one would be negative, it is set to 0 and the other is fitted
    alone."""
    import numpy as np

    middle = x.mean()
    mean = errors.mean(axis=1)
    centred = x - middle
    b = ((errors - mean[:, None]) @ centred) / (centred**2).sum()
    a = mean - b * middle
    a_alone = np.maximum(mean, 0.0)
    b_alone = np.maximum(errors @ x / (x @ x), 0.0)
    a = np.where(b < 0, a_alone, a)
    b = np.maximum(b, 0.0)
    b = np.where(a < 0, b_alone, b)
    return np.maximum(a, 0.0), b


def _predictions(
    odds: Numbers,
    flatter: Numbers,
    now: Numbers,
    points: Sequence[CurvePoint],
    predict: Sequence[int],
    held: int,
    seed: int,
) -> tuple[Prediction, ...]:
    """Predicts scores with both laws, each fitted to the points and to all bootstrap samples of them. `now` has the
    last point's score in each. In gains the error of the holdout cancels out, since both scores are on the same
    rows."""
    import numpy as np

    generator = np.random.default_rng(seed + 1)
    a, b, c = flatter.T
    predictions = []
    for rows in predict:
        scores = 1 / (1 + np.exp(odds[:, 0] + odds[:, 1] * np.log(rows)))
        flatter_scores = np.clip(1 - a - b * float(rows) ** -c, 0.0, 1.0)
        score = float(scores[0])
        gain = float(scores[0] - now[0])

        # The band covers 95% of both laws' scores together, since both are considered equally likely.
        laws = np.column_stack([scores, flatter_scores])[1:]
        noise = generator.standard_normal(len(laws)) * _spread_of_draws(points, held, rows)
        noisy = laws + noise[:, None]
        low, high = (float(value) for value in np.quantile(noisy, [0.025, 0.975]))
        least, most = (float(value) for value in np.quantile(noisy - now[1:, None], [0.025, 0.975]))
        # The prediction itself is always inside its band.
        prediction = Prediction(
            rows,
            score,
            low=min(max(low, 0.0), score),
            high=max(min(high, 1.0), score),
            least=min(least, gain),
            most=max(most, gain),
        )
        predictions.append(prediction)
    return tuple(predictions)


def _spread_of_draws(points: Sequence[CurvePoint], held: int, rows: Numbers | float) -> Numbers:
    """Returns the standard deviation between draws of `rows` rows, at least half a held-out row. The variance is
    assumed to be proportional to 1 / rows, and is pooled over all sizes."""
    import numpy as np

    squares = sum(point.rows * (draw - point.score) ** 2 for point in points for draw in point.draws)
    freedom = sum(len(point.draws) - 1 for point in points)
    # If no size was drawn twice, held-out rows are assumed to err independently: the mean of e(1-e)/held over all
    # sizes. Real draws err on the same hard rows, so this is too wide rather than too narrow.
    variance: Numbers | float = sum(point.score * (1 - point.score) for point in points) / len(points) / held
    if freedom:
        variance = squares / freedom / rows
    spread: Numbers = np.maximum(np.sqrt(variance), 0.5 / held)
    return spread
