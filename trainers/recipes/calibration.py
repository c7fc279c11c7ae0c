"""Turns a classifier's scores into probabilities, and measures on rows that it has not seen how true they are. numpy is
imported inside functions, and scipy only to fit.

Margins of an SVM are no probabilities, and a regression with a penalty is too unsure. Two numbers mend both: each score
is put through one logistic curve, and a text's values are divided by their sum (Platt 1999; Zadrozny and Elkan 2002). A
curve that is far from its bend is softmax with a temperature, which is less true of SVMs with many labels: the error on
unseen rows of banking77 was 7.1 points with it and 3.4 with the curve. Neither changes which label is the likeliest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.dataset.near_duplicates import find_near_copies, question_text
from trainers.dataset.rows import Example, question_keys
from trainers.evaluation.out_of_fold import FOLDS, deal_folds
from trainers.evaluation.tfidf import label_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Indices = NDArray[np.intp]
    Scores = NDArray[np.float64]
    # Learns from rows and scores others: both by their numbers. Returns the labels of the columns with the scores.
    FitAndScore = Callable[[Indices, Indices], tuple[Sequence[str], Scores]]

# With fewer rows, the error that is stated is itself too uncertain. On new rows of three datasets it was 3 to 9 points,
# once 16, with 200 rows of 10 and more a label, where 2 to 9 were stated; with 200 rows of 77 labels it was 8 to 18
# where 3 to 6 were stated.
LEAST_ROWS = 200
LEAST_PER_LABEL = 10
MOST_JUDGED = 2_000  # rows: more tell a temperature no better, and each fold costs as much as the classifier
LEAST_IN_BIN = 50
MOST_BINS = 10
# A larger difference of probabilities from shares of right answers misleads people who set a threshold.
MOST_ERROR = 0.10
UNKNOWN_LABEL = -1.0  # the score of a label that a fold's classifier didn't know: an SVM's clear no
FIRST_CURVE = (1.0, -3.0)  # the logarithm of the slope, and the shift, from which the search starts


@dataclass(frozen=True)
class Curve:
    """A score counts as the logistic function of slope * score + shift."""

    slope: float
    shift: float


@dataclass(frozen=True)
class Calibration:
    """How scores become probabilities. `curve` is None if they don't, and `reason` is a sentence that says why.

    `error` is the expected calibration error on `rows` training rows, each judged by a classifier and a curve that were
    fitted without it: the mean difference between the probability of the likeliest label and the share of rows in which
    it is right. `error_before` is that of softmax of the scores as they are. Both are None without enough rows.
    """

    curve: Curve | None
    rows: int = 0
    error: float | None = None
    error_before: float | None = None
    reason: str = ""


NOTHING_LEARNT = Calibration(None, reason="It gives every text the same label.")


@dataclass(frozen=True)
class Judged:
    """Scores (rows x labels) by classifiers that had not seen the rows, and the column of each row's own label."""

    scores: Scores
    own: Indices


def calibrate(rows: Sequence[Example], seed: int, fit_and_score: FitAndScore) -> Calibration:
    """Fits a curve to rows that a classifier has not seen. Near copies of a question are in the same fold."""
    labels = {label_of(row) for row in rows}
    if len(labels) == 1:
        return NOTHING_LEARNT
    needed = max(LEAST_ROWS, LEAST_PER_LABEL * len(labels))
    if len(rows) < needed:
        return Calibration(
            None,
            reason=f"Probabilities of {len(labels)} labels need {needed} training rows; there are {len(rows)}.",
        )
    return measure(judge(rows, seed, fit_and_score))


def judge(rows: Sequence[Example], seed: int, fit_and_score: FitAndScore) -> Judged:
    """Scores up to about MOST_JUDGED rows, one fold after the other. A row whose label occurs only in its own fold is
    left out: its classifier didn't know the label."""
    import numpy as np

    names = [label_of(row) for row in rows]
    column = {label: index for index, label in enumerate(sorted(set(names)))}
    own = np.array([column[name] for name in names], dtype=np.intp)  # rows
    texts = [question_text(row) for row in rows]
    copies = find_near_copies(texts, question_keys(rows)).groups
    fold = np.array(deal_folds(rows, copies, seed))
    scores = []
    judged = []
    for number in range(FOLDS):
        learned = np.flatnonzero(fold != number)
        is_trained = np.isin(own, own[learned])
        inside = np.flatnonzero((fold == number) & is_trained)
        if not len(inside) or len(set(own[learned])) < 2:
            continue
        trained, of_fold = fit_and_score(learned, inside)
        of_all = np.full((len(inside), len(column)), UNKNOWN_LABEL)  # inside x labels
        trained_columns = [column[label] for label in trained]
        of_all[:, trained_columns] = of_fold
        scores.append(of_all)
        judged.append(inside)
        if sum(map(len, judged)) >= MOST_JUDGED:
            break
    if not scores:
        return Judged(np.zeros((0, len(column))), own[:0])
    rows_judged = np.concatenate(judged)
    return Judged(np.concatenate(scores), own[rows_judged])


def measure(judged: Judged) -> Calibration:
    """Fits the curve of all judged rows. Its error is measured with curves that were fitted to the other half of the
    rows."""
    import numpy as np

    rows = len(judged.own)
    if rows < LEAST_ROWS:
        return Calibration(
            None,
            rows,
            reason=f"Probabilities need {LEAST_ROWS} rows to be checked on; only {rows} have a label of several rows.",
        )
    halves = np.arange(rows) % 2
    shares = np.empty_like(judged.scores)
    for half in (0, 1):
        inside = halves == half
        curve = fit_curve(judged.scores[~inside], judged.own[~inside])
        shares[inside] = probabilities(judged.scores[inside], curve)
    error = calibration_error(shares, judged.own)
    before = calibration_error(_softmax(judged.scores), judged.own)
    if error > MOST_ERROR:
        reason = (
            f"On {rows} rows that it had not seen, probabilities would differ by {100 * error:.0f} points from the "
            "share of right answers."
        )
        return Calibration(None, rows, error, before, reason)
    curve = fit_curve(judged.scores, judged.own)
    return Calibration(curve, rows, error, before)


def fit_curve(scores: Scores, own: Indices) -> Curve:
    """Returns the curve with the least log loss. A row's own label is expected with a little less than certainty, as in
    Platt's method, so that the slope is finite even if all rows are right."""
    import numpy as np
    from scipy.optimize import minimize

    rows = np.arange(len(own))
    doubt = 1 / (len(own) + 2)

    def loss(terms: Sequence[float]) -> float:
        log_slope, shift = terms
        slope = float(np.exp(log_slope))
        logs = _log_probabilities(scores, Curve(slope, shift))
        of_own = logs[rows, own]
        of_any = logs.mean(axis=1)
        expected = (1 - doubt) * of_own + doubt * of_any
        return -float(expected.mean())

    best = minimize(loss, FIRST_CURVE, method="Nelder-Mead")
    log_slope, shift = best.x
    slope = float(np.exp(log_slope))  # the search is for its logarithm, so that it stays positive
    return Curve(slope, float(shift))


def probabilities(scores: Scores, curve: Curve) -> Scores:
    """Returns rows x labels; each row adds up to 1."""
    import numpy as np

    result: Scores = np.exp(_log_probabilities(scores, curve))
    return result


def _log_probabilities(scores: Scores, curve: Curve) -> Scores:
    import numpy as np

    values = curve.slope * scores + curve.shift
    logistic = -np.logaddexp(0, -values)
    total = np.logaddexp.reduce(logistic, axis=1, keepdims=True)
    result: Scores = logistic - total
    return result


def _softmax(scores: Scores) -> Scores:
    import numpy as np

    total = np.logaddexp.reduce(scores, axis=1, keepdims=True)
    result: Scores = np.exp(scores - total)
    return result


def calibration_error(shares: Scores, own: Indices) -> float:
    """Returns the expected calibration error of the likeliest label, in bins of equally many rows: with 50 rows in a
    bin, chance alone gives about 4 points."""
    import numpy as np

    best = shares.argmax(axis=1)
    confidence = shares.max(axis=1)
    is_right = best == own
    wanted = max(len(own) // LEAST_IN_BIN, 1)
    bins = min(wanted, MOST_BINS)
    total = 0.0
    by_confidence = np.argsort(confidence, kind="stable")
    for inside in np.array_split(by_confidence, bins):
        difference = confidence[inside].mean() - is_right[inside].mean()
        total += len(inside) * abs(float(difference))
    return total / len(own)
