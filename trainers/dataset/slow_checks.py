"""The slower second stage of a check: near copies, labels that are probably wrong, and presidio if asked for. Reads
rows again by their position; numpy and scikit-learn are imported at use.

How many labels are wrong is estimated from out-of-fold scores of a classifier: a label that is wrong by accident can be
any label, while a right one that is hard to tell has a score that is close behind the best.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.near_duplicates import (
    compute_sketches,
    find_near_copies,
    question_text,
    report_near_pairs,
)
from trainers.dataset.row_facts import StoredRows
from trainers.dataset.rows import Example, question_keys, to_printable
from trainers.dataset.sensitive_data import check_presidio

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]

FEWEST_ROWS_OF_LABEL = 5
MOST_ROWS_JUDGED = 8_000  # about four seconds
RIVALS = 20  # labels that compete with a row's own one by one; those further behind are taken together
SMALLEST_STEP = 0.02
# Below these the estimate was up to twice too high on opinions about films, where words tell little.
LEAST_AGREED, LEAST_PRECISION = 0.25, 0.5

LABEL_ERRORS = Rule(
    "label_errors", "warns", "Look at the lines below, and correct the labels that are wrong."
)
ERRORS_UNKNOWN = Rule("label_errors_unknown", "tells", "Have a person look at 50 rows drawn at random.")
LABEL_DOUBTED = Rule("label_doubted", "warns", "Look at the row, and correct its label if it is wrong.")
FEW_TO_JUDGE = Rule("labels_not_judged", "tells", "Add rows for these labels, or check their rows by hand.")
SAMPLE_JUDGED = Rule("labels_sampled", "tells", "Correct what is listed and check again, or check a part.")


@dataclass(frozen=True)
class RowSample:
    """The rows whose labels are judged, by place and in order. `rare` rows have a label with fewer than
    FEWEST_ROWS_OF_LABEL rows."""

    rows: tuple[int, ...]
    rare: int
    sampled_from: int | None


@dataclass(frozen=True, slots=True)
class SuspectLabel:
    """A label that is wrong with a `chance` of 0 to 1; `likely` is the label of rows like it."""

    row: int
    given: str
    likely: str
    chance: float


@dataclass(frozen=True)
class LabelErrors:
    """Of the labels of `judged` rows about the share `wrong` is wrong; `listed` of them were listed, of which about
    `expected` are really wrong. `agreed`: the share of labels that a classifier agrees with that has not seen
    their rows. Where `is_told` is False the texts don't tell labels apart well enough, and the estimates are not
    to be trusted."""

    judged: int
    listed: int
    expected: float
    wrong: float
    agreed: float
    is_told: bool


def sample_rows(
    labels: Sequence[str], keys: Sequence[bytes], seed: int, most: int = MOST_ROWS_JUDGED
) -> RowSample:
    """Samples `most` rows where there are more, by a hash of seed and question: the same in any order of the rows."""
    counts = Counter(labels)
    rows = [row for row, label in enumerate(labels) if counts[label] >= FEWEST_ROWS_OF_LABEL]
    rare = len(labels) - len(rows)
    if len(rows) <= most:
        return RowSample(tuple(rows), rare, None)
    salt = str(seed).encode()[:64]
    drawn = sorted(rows, key=lambda row: hashlib.blake2b(keys[row], key=salt, digest_size=16).digest())[:most]
    counts = Counter(labels[row] for row in drawn)
    sample = tuple(sorted(row for row in drawn if counts[labels[row]] >= FEWEST_ROWS_OF_LABEL))
    return RowSample(sample, rare + most - len(sample), len(rows))


def suspect_labels(
    labels: Sequence[str], names: Sequence[str], scores: Numbers
) -> tuple[tuple[SuspectLabel, ...], LabelErrors]:
    """Returns the labels that are probably wrong, the worst margin first, and estimates of how many are. `scores` has a
    row for each of `labels` and a column for each of `names`; a label that nobody can judge has inf."""
    import numpy as np

    column = {name: place for place, name in enumerate(names)}
    columns, rows = np.array([column[label] for label in labels]), np.arange(len(labels))
    own, others = scores[rows, columns], np.array(scores)
    others[rows, columns] = -np.inf
    likely = others.argmax(axis=1)
    margins = own - others[rows, likely]
    chances = _chances(own, others)
    worst = np.argsort(margins, kind="stable")[: round(float(chances.sum()))]
    suspects = tuple(
        SuspectLabel(int(row), names[columns[row]], names[likely[row]], float(chances[row]))
        for row in worst
        if margins[row] < 0
    )

    # A classifier that always says the most frequent label agrees with `usual` of them.
    usual = np.bincount(columns).max() / len(columns)
    agreed, expected = float((margins > 0).mean()), sum(suspect.chance for suspect in suspects)
    is_told = agreed - usual >= LEAST_AGREED * (1 - usual) and expected >= LEAST_PRECISION * len(suspects)
    wrong = float(chances.mean())
    return suspects, LabelErrors(len(columns), len(suspects), expected, wrong, agreed, bool(is_told))


def _chances(own: Numbers, others: Numbers) -> Numbers:
    """Returns each label's chance to be wrong. A label is taken to be right with chance 1 - w, and is then as likely
    as a softmax of the scores at a temperature says; or wrong, and any other label. w and the temperature are
    those of the greatest likelihood."""
    import numpy as np

    labels, judged = others.shape[1], np.isfinite(own)
    chances = np.zeros(len(own))
    if labels < 2 or not judged.any():
        return chances
    ranked = np.sort(others[judged], axis=1)[:, 1:]  # without the label's own -inf
    rest, rivals = ranked[:, :-RIVALS], ranked[:, -RIVALS:]
    if rest.shape[1]:
        rivals = np.column_stack([rivals, rest.mean(axis=1)])
    times = np.array([1.0] * min(RIVALS, labels - 1) + [float(rest.shape[1])] * (rest.shape[1] > 0))
    behind = (rivals - own[judged, None]).astype(np.float64)
    scale = max(float(np.abs(behind).mean()), 1e-9)

    def parts(guess: Numbers) -> tuple[Numbers, Numbers]:
        right = 1 / (1 + np.exp(np.minimum(behind / (scale * np.exp(guess[0])), 500)) @ times)
        wrong = 1 / (1 + np.exp(-guess[1]))
        return (1 - wrong) * right, wrong * (1 - right) / (labels - 1)

    def loss(guess: Numbers) -> float:
        return float(-np.log(sum(parts(guess)) + 1e-12).mean() + 1e-4 * (guess**2).sum())

    starts = [np.array([-1.5, wrong]) for wrong in (-4.0, -1.5)]
    right, wrong = parts(min((_descend(loss, start) for start in starts), key=loss))
    chances[judged] = wrong / np.maximum(right + wrong, 1e-300)
    return chances


def _descend(loss: Callable[[Numbers], float], start: Numbers) -> Numbers:
    """Follows the loss down by steps along the axes, halved where none helps. scipy.optimize would do the same, and its
    import takes longer than a check of a small file."""
    import numpy as np

    at, least, step = start, loss(start), 1.0
    while step >= SMALLEST_STEP:
        tried = [at + step * move for axis in np.eye(len(at)) for move in (axis, -axis)]
        losses = list(map(loss, tried))
        if min(losses) < least:
            least = min(losses)
            at = tried[losses.index(least)]
        else:
            step /= 2
    return at


def check_suspect_labels(
    lines: Sequence[int],
    labels: Sequence[str],
    rows: RowSample,
    names: Sequence[str],
    scores: Numbers,
    findings: Findings,
) -> LabelErrors:
    """Reports the labels that are probably wrong. `lines` and `labels` are of the rows judged, in their order. Shows
    labels, which at least FEWEST_ROWS_OF_LABEL rows share, and no texts."""
    suspects, errors = suspect_labels(labels, names, scores)
    listed, expected = errors.listed, max(round(errors.expected), 1)
    if not errors.is_told:
        are = "is" if expected == 1 else "are"
        text = (
            "How many labels are wrong can't be told from these texts: a classifier that has not seen a row agrees "
            f"with {errors.agreed:.0%} of the labels."
        )
        if listed:
            text += f" The {listed:,} least likely are listed; perhaps {expected:,} of them {are} wrong."
        findings.add_for_file(ERRORS_UNKNOWN, text, max(listed, 1))
    elif listed:
        start = (
            f"About {expected:,} of the {listed:,} labels below are"
            if listed > 1
            else "The label below is probably"
        )
        text = f"{start} really wrong; of all {errors.judged:,} labels judged it is about {errors.wrong:.1%}."
        findings.add_for_file(LABEL_ERRORS, text, listed)

    for suspect in suspects:
        label, likely = to_printable(suspect.given, 40), to_printable(suspect.likely, 40)
        text = f"is labelled '{label}', but rows like it are '{likely}'"
        findings.add_for_line(lines[suspect.row], Fault(LABEL_DOUBTED, text))
    report_unjudged(rows, findings)
    return errors


def report_unjudged(rows: RowSample, findings: Findings) -> None:
    """Reports how many rows nobody judged."""
    if rows.rare:
        have = "row has a label" if rows.rare == 1 else "rows have labels"
        text = (
            f"{rows.rare:,} {have} with fewer than {FEWEST_ROWS_OF_LABEL} rows: too few to tell "
            "whether they are right."
        )
        findings.add_for_file(FEW_TO_JUDGE, text, rows.rare)
    if rows.sampled_from is not None:
        text = f"The labels of {len(rows.rows):,} of {rows.sampled_from:,} rows were judged, a fixed sample."
        findings.add_for_file(SAMPLE_JUDGED, text, len(rows.rows))


@dataclass(frozen=True)
class SlowFindings:
    """`groups[i]` is the first row that row i nearly repeats, itself where there is none; None where that was not
    checked. `label_errors` is None where there are no labels to judge."""

    findings: tuple[Findings, ...] = ()
    groups: tuple[int, ...] | None = None
    label_errors: LabelErrors | None = None


NO_SLOW_FINDINGS = SlowFindings()


def run_slow_checks(
    rows: StoredRows,
    labels: Sequence[str],
    holdout: Sequence[Example],
    seed: int,
    listed: int,
    on_progress: Callable[[str], None],
    *,
    presidio: bool,
) -> SlowFindings:
    """Runs the slow checks. `labels` has one for each row, all empty for free text. Rows near those of a frozen
    `holdout` are found, too."""
    if not len(rows):
        return NO_SLOW_FINDINGS
    from trainers.evaluation.tfidf import out_of_fold

    facts = rows.facts
    near_findings, label_findings, personal = Findings(listed), Findings(listed), Findings(listed)
    on_progress(f"Looking for near copies among {len(rows):,} rows")
    sketched = [compute_sketches(map(question_text, holdout))] if holdout else []
    sketched.append(facts.take_sketches())
    near = find_near_copies(_Questions(holdout, rows), [*question_keys(holdout), *facts.keys], sketched)
    answers = [*(example.answer.strip() for example in holdout), *labels] if any(labels) else None
    lines = [*(example.line for example in holdout), *facts.lines]
    report_near_pairs(near, lines, answers, near_findings, held=len(holdout))
    groups = tuple(group - len(holdout) for group in near.groups[len(holdout) :])

    on_progress("Looking for labels that are probably wrong")
    errors = None
    if len(set(labels)) > 1:
        sample = sample_rows(labels, facts.keys, seed)
        judged = [labels[row] for row in sample.rows]
        if len(set(judged)) > 1:
            names, scores = out_of_fold([rows[row] for row in sample.rows], seed)
            lines = [facts.lines[row] for row in sample.rows]
            errors = check_suspect_labels(lines, judged, sample, names, scores, label_findings)
        else:
            report_unjudged(sample, label_findings)

    if presidio:
        on_progress("Presidio looks for personal data")
        check_presidio(rows, facts.lines, seed, personal)
    return SlowFindings((near_findings, label_findings, personal), groups, errors)


class _Questions(Sequence[str]):
    """What each row asks, read when it is wanted: the rows held out, then the file's."""

    def __init__(self, held: Sequence[Example], rows: StoredRows) -> None:
        self._held, self._rows = held, rows

    def __len__(self) -> int:
        return len(self._held) + len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        row = place - len(self._held)
        return question_text(self._rows[row] if row >= 0 else self._held[place])
