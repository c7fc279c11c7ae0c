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
from operator import itemgetter
from typing import TYPE_CHECKING

from trainers.dataset.near_duplicates import find_near_copies, question_text
from trainers.dataset.rows import Example, question_keys
from trainers.evaluation.out_of_fold import FOLDS
from trainers.evaluation.results import Candidate, Curve, CurvePoint, LabelNeed, Prediction
from trainers.evaluation.statistics import exact_match
from trainers.evaluation.tfidf import classify, fit_classifier, is_short_enough, label_of, text_of

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
_BAND = (0.025, 0.975)


@dataclass(frozen=True)
class Fit:
    """A fitted curve err / (1 - err) = b·n^(-c), with 0 < b and 0 ≤ c."""

    b: float
    c: float
    predicted: tuple[Prediction, ...]

    def score(self, rows: float) -> float:
        odds = self.b * rows**-self.c
        return float(1 / (1 + odds))


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
    gain = fitted.score(rows + 100) - fitted.score(rows)
    # The gain can't exceed what the last point lacks to 100%, even if the fitted curve is below that point.
    gain = min(gain, 1 - points[-1].score)
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


def fit_curve(
    points: Sequence[CurvePoint],
    predict: Sequence[int],
    *,
    held: int,
    seed: int = 0,
) -> Fit:
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
    sizes = np.array([point.rows for point in points], dtype=np.float64)  # points
    scores = np.array([point.score for point in points])
    errors = 1 - scores

    generator = np.random.default_rng(seed)
    draws = np.array([len(point.draws) for point in points])
    own_error = _spread_of_draws(points, held, sizes) / np.sqrt(draws)
    own = generator.standard_normal((BOOTSTRAPS, len(points))) * own_error
    shared_error = np.sqrt(errors * (1 - errors) / held)
    shared = generator.standard_normal((BOOTSTRAPS, 1)) * shared_error
    moved = np.clip(errors + own + shared, 0.0, 1.0)  # samples x points
    samples = np.vstack([errors, moved])  # the first row are the points themselves

    odds = _odds(sizes, samples, held)
    flatter = _least_squares(sizes, samples)
    now = 1 - samples[:, -1]
    predictions = _predictions(odds, flatter, now, points, predict, held, seed)
    log_b, minus_c = odds[0]
    return Fit(
        b=float(np.exp(log_b)),
        c=-float(minus_c),
        predicted=predictions,
    )


def find_label_needs(
    train: Sequence[Example],
    holdout: Sequence[Example],
    answers: Sequence[str],
) -> tuple[LabelNeed, ...]:
    """Returns at most ten labels that need more rows, because they have errors on the holdout or fewer than 10 rows.
    Labels for which one more row removes most errors come first."""

    def errors_a_row(need: LabelNeed) -> float:
        # By the power law, one more row removes errors in proportion to errors / rows. Half an error is added, because
        # a label that is rare in the holdout may still be wrong.
        errors = need.held - need.right
        return (errors + 0.5) / (need.rows + 1)

    rows = Counter(map(label_of, train))
    held = Counter(map(label_of, holdout))
    right: Counter[str] = Counter()
    for example, answer in zip(holdout, answers, strict=True):
        if exact_match(example.answer, answer):
            right[label_of(example)] += 1

    needs = []
    for label in rows.keys() | held.keys():
        need = LabelNeed(label, rows[label], held[label], right[label])
        has_errors = need.right < need.held
        if has_errors or need.rows < FEW_ROWS:
            needs.append(need)
    needs.sort(key=lambda need: (-errors_a_row(need), need.label))
    return tuple(needs[:MOST_NEEDS])


def _measure(
    train: Sequence[Example],
    holdout: Sequence[Example],
    seed: int,
) -> tuple[list[CurvePoint], Sequence[str]]:
    """Returns the points, and the answers to the holdout at the largest size."""
    most = min(len(train), MOST_ROWS)
    orders = [stratified_order(train, seed + number) for number in range(SEEDS)]
    # Use the same features for all sizes.
    largest = orders[0][:most]
    in_pieces = is_short_enough(map(text_of, largest))
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
    train: Sequence[Example],
    examples: Sequence[Example],
    seed: int,
) -> tuple[list[CurvePoint], Sequence[str]]:
    """Returns the points, and the answers at the largest size. In each draw, every one of `examples`, which are all
    rows, is answered by a classifier that has seen neither it nor a near copy."""
    in_pieces = is_short_enough(map(text_of, examples))
    texts = [question_text(example) for example in examples]
    near = find_near_copies(texts, question_keys(examples))
    seeds = [seed + draw for draw in range(CROSS_DRAWS)]
    folds = [_deal_at_random(near.groups, draw_seed) for draw_seed in seeds]
    largest_folds = [max(Counter(fold).values()) for fold in folds]
    largest_fold = max(largest_folds)
    most = min(len(train), len(examples) - largest_fold)
    points: list[CurvePoint] = []
    answers: list[Sequence[str]] = []
    for rows in (most // 4, most // 2, most):
        answers = []
        for draw_seed, fold in zip(seeds, folds, strict=True):
            of_draw = _cross_answers(examples, fold, rows, draw_seed, in_pieces)
            answers.append(of_draw)
        points.append(_point(rows, examples, answers))
    return points, answers[0]


def _deal_at_random(groups: Sequence[int], seed: int) -> list[int]:
    """Returns the fold of each row; rows of a group are in the same one.

    Not label by label: then nearly all other rows of a row's label are in the other folds, more than a new row of that
    label would find. With three rows a label, that made the score 7 points too high.
    """
    firsts = sorted(set(groups))
    random.Random(seed).shuffle(firsts)  # noqa: S311
    fold_of = {first: number % FOLDS for number, first in enumerate(firsts)}
    return [fold_of[group] for group in groups]


def _cross_answers(
    examples: Sequence[Example],
    fold: Sequence[int],
    rows: int,
    seed: int,
    in_pieces: bool,
) -> list[str]:
    answers = [""] * len(examples)
    for number in set(fold):
        inside: list[int] = []
        unseen: list[Example] = []
        outside: list[Example] = []
        for row, example in enumerate(examples):
            if fold[row] == number:
                inside.append(row)
                unseen.append(example)
            else:
                outside.append(example)
        drawn = stratified_order(outside, seed)[:rows]
        classifier = fit_classifier(drawn, seed, in_pieces=in_pieces)
        labels = classify(classifier, unseen)
        for row, answer in zip(inside, labels, strict=True):
            answers[row] = answer
    return answers


def stratified_order(train: Sequence[Example], seed: int) -> list[Example]:
    """Returns the rows in an order of which every prefix has the labels in proportion, as far as whole rows allow."""
    by_label: dict[str, list[Example]] = defaultdict(list)
    for example in train:
        by_label[label_of(example)].append(example)
    generator = random.Random(seed)  # noqa: S311
    spread: list[tuple[float, str, Example]] = []
    for label in sorted(by_label):
        same = by_label[label]
        generator.shuffle(same)
        for rank, example in enumerate(same):
            share = (rank + 0.5) / len(same)  # spreads a label's rows evenly over the whole order
            spread.append((share, label, example))
    spread.sort(key=itemgetter(0, 1))  # rows can't be compared
    return [example for _, _, example in spread]


def _point(
    rows: int,
    examples: Sequence[Example],
    answers: Sequence[Sequence[str]],
) -> CurvePoint:
    """Scores the answers to `examples` of each draw."""
    expected = [example.answer for example in examples]
    scores = []
    for of_draw in answers:
        pairs = zip(expected, of_draw, strict=True)
        right = sum(exact_match(wanted, answer) for wanted, answer in pairs)
        scores.append(right / len(expected))
    mean = sum(scores) / len(scores)
    return CurvePoint(rows, mean, tuple(scores))


def _odds(sizes: Numbers, errors: Numbers, held: int) -> Numbers:
    """Returns log b and -c for each row of errors, which are kept at least half a held-out row away from 0 and 1."""
    import numpy as np

    half_a_row = 0.5 / held
    inside = np.clip(errors, half_a_row, 1 - half_a_row)
    x = np.log(sizes)  # sizes
    y = np.log(inside / (1 - inside))  # rows x sizes; the logarithms of the odds
    centred = x - x.mean()
    squares = centred @ centred
    slopes = (y @ centred) / squares
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
        predicted = a[:, None] + b[:, None] * x  # rows x sizes
        residuals = predicted - errors
        squares = (residuals**2).sum(axis=1)
        closer = squares < best
        best = np.where(closer, squares, best)
        fitted[closer, 0] = a[closer]
        fitted[closer, 1] = b[closer] * scale**c
        fitted[closer, 2] = c
    return fitted


def _line(x: Numbers, errors: Numbers) -> tuple[Numbers, Numbers]:
    """Fits a + b·x by least squares with a, b ≥ 0: if one would be negative, it is set to 0 and the other is fitted
    alone."""
    import numpy as np

    middle = x.mean()
    mean = errors.mean(axis=1)
    centred = x - middle
    centred_errors = errors - mean[:, None]
    b = (centred_errors @ centred) / (centred**2).sum()
    a = mean - b * middle
    a_alone = np.maximum(mean, 0.0)
    through_zero = errors @ x / (x @ x)
    b_alone = np.maximum(through_zero, 0.0)
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
    log_b, minus_c = odds.T
    a, b, c = flatter.T
    predictions = []
    for rows in predict:
        log_odds = log_b + minus_c * np.log(rows)
        scores = 1 / (1 + np.exp(log_odds))
        above_a = b * float(rows) ** -c
        flatter_scores = np.clip(1 - a - above_a, 0.0, 1.0)
        # The first row is the fit to the points themselves, the others are those to samples of them.
        score = float(scores[0])
        gain = float(scores[0] - now[0])

        # The band covers 95% of both laws' scores together, since both are considered equally likely.
        laws = np.column_stack([scores, flatter_scores])[1:]
        spread = _spread_of_draws(points, held, rows)
        noise = generator.standard_normal(len(laws)) * spread
        noisy = laws + noise[:, None]
        gains = noisy - now[1:, None]
        low, high = np.quantile(noisy, _BAND).tolist()
        least, most = np.quantile(gains, _BAND).tolist()
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

    squares: list[float] = []
    freedom = 0
    for point in points:
        for draw in point.draws:
            squares.append(point.rows * (draw - point.score) ** 2)
        freedom += len(point.draws) - 1
    variance: Numbers | float
    if freedom:
        variance = sum(squares) / freedom / rows
    else:
        # No size was drawn twice, so held-out rows are assumed to err independently: the mean of e(1-e)/held over all
        # sizes. Real draws err on the same hard rows, so this is too wide rather than too narrow.
        products = [point.score * (1 - point.score) for point in points]
        variance = sum(products) / len(products) / held
    spread: Numbers = np.maximum(np.sqrt(variance), 0.5 / held)
    return spread
