"""The slower second stage of a check: near copies, labels that are probably wrong, and presidio if asked
for. Reads rows again by their position; numpy and scikit-learn are imported at use.

How many labels are wrong is estimated from out-of-fold scores of a classifier: a label that is wrong by accident can
be any label, while a right one that is hard to tell has a score that is close behind the best.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.near_duplicates import check_near, find_near_copies, question_text, sketches
from trainers.dataset.rows import Example, question_keys, shown
from trainers.dataset.sensitive_data import check_presidio
from trainers.dataset.stored_rows import StoredRows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.floating[Any]]

FEWEST_ROWS_OF_LABEL = 5
MOST_ROWS_JUDGED = 8_000  # about four seconds
RIVALS = 20  # labels that compete with a row's own one by one; those further behind are taken together
NEARLY = {"maxiter": 120, "xatol": 0.02, "fatol": 1e-6}
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
    """The rows to ask about, by place and in order. `rare` rows have a label with fewer than FEWEST rows."""

    rows: tuple[int, ...]
    rare: int
    sampled_from: int | None


@dataclass(frozen=True, slots=True)
class SuspectLabel:
    """`chance` that the given label is wrong, from 0 to 1; `likely` is the label of rows like it."""

    row: int
    given: str
    likely: str
    chance: float


@dataclass(frozen=True)
class LabelErrors:
    """Of the labels of `judged` rows about the share `wrong` is wrong; `listed` of them were listed, of which about
    `expected` are really wrong. `agreed`: the share of labels that a classifier says that has not seen their rows.
    Where `is_told` is False the texts don't tell labels apart well enough, and the estimates are not to be trusted."""

    judged: int
    listed: int
    expected: float
    wrong: float
    agreed: float
    is_told: bool


def sample_rows(
    labels: Sequence[str], keys: Sequence[bytes], seed: int, most: int = MOST_ROWS_JUDGED
) -> RowSample:
    """Of more than `most` rows a sample, by a hash of seed and question: the same in any order of the rows."""
    counts = Counter(labels)
    rows = [row for row, label in enumerate(labels) if counts[label] >= FEWEST_ROWS_OF_LABEL]
    rare = len(labels) - len(rows)
    if len(rows) <= most:
        return RowSample(tuple(rows), rare, None)
    salt = str(seed).encode()[:64]
    drawn = sorted(rows, key=lambda row: hashlib.blake2b(keys[row], key=salt, digest_size=16).digest())[:most]
    counts = Counter(labels[row] for row in drawn)
    values = tuple(sorted(row for row in drawn if counts[labels[row]] >= FEWEST_ROWS_OF_LABEL))
    return RowSample(values, rare + most - len(values), len(rows))


def suspect_labels(
    labels: Sequence[str], names: Sequence[str], scores: Numbers
) -> tuple[tuple[SuspectLabel, ...], LabelErrors]:
    """The worst margin first. `scores` has a row for each label given and a column for each name; a label that nobody
    can judge has inf."""
    import numpy as np

    number = {name: place for place, name in enumerate(names)}
    value, rows = np.array([number[label] for label in labels]), np.arange(len(labels))
    own, others = scores[rows, value], np.array(scores)
    others[rows, value] = -np.inf
    likely = others.argmax(axis=1)
    margins = own - others[rows, likely]
    chances = _chances(own, others)
    worst = np.argsort(margins, kind="stable")[: round(float(chances.sum()))]
    suspect_labels = tuple(
        SuspectLabel(int(row), names[value[row]], names[likely[row]], float(chances[row]))
        for row in worst
        if margins[row] < 0
    )
    return suspect_labels, _errors(suspect_labels, value, margins > 0, chances)


def _errors(
    labels: Sequence[SuspectLabel], value: NDArray[np.intp], agreed: NDArray[np.bool_], chances: Numbers
) -> LabelErrors:
    import numpy as np

    usual = np.bincount(value).max() / len(value)  # who always says the most frequent label agrees so often
    share, expected = float(agreed.mean()), sum(doubt.chance for doubt in labels)
    is_told = share - usual >= LEAST_AGREED * (1 - usual) and expected >= LEAST_PRECISION * len(labels)
    return LabelErrors(len(value), len(labels), expected, float(chances.mean()), share, bool(is_told))


def _chances(own: Numbers, others: Numbers) -> Numbers:
    """Each label's chance to be wrong. A label is taken to be right with chance 1 - w, and is then as likely as a
    softmax of the scores at a temperature says; or wrong, and any other label. w and the temperature are those of the
    greatest likelihood."""
    import numpy as np
    from scipy.optimize import minimize

    labels, judged = others.shape[1], np.isfinite(own)
    chances = np.zeros(len(own))
    if labels < 2 or not judged.any():
        return chances
    among = np.sort(others[judged], axis=1)[:, 1:]  # without the label's own -inf
    rest, rivals = among[:, :-RIVALS], among[:, -RIVALS:]
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
    best = min(
        (minimize(loss, start, method="Nelder-Mead", options=NEARLY) for start in starts), key=lambda o: o.fun
    )
    right, wrong = parts(best.x)
    chances[judged] = wrong / np.maximum(right + wrong, 1e-300)
    return chances


def check_suspect_labels(
    lines: Sequence[int],
    labels: Sequence[str],
    rows: RowSample,
    names: Sequence[str],
    scores: Numbers,
    findings: Findings,
) -> LabelErrors:
    """`lines` and `labels` are of the rows judged, in their order. Shows labels, which FEWEST rows share, and
    no texts."""
    listed, errors = suspect_labels(labels, names, scores)
    _report_errors(errors, findings)
    for doubt in listed:
        text, likely = shown(doubt.given, 40), shown(doubt.likely, 40)
        sentence = f"is labelled '{text}', but rows like it are '{likely}'"
        findings.at(lines[doubt.row], Fault(LABEL_DOUBTED, sentence))
    report_unjudged(rows, findings)
    return errors


def _report_errors(errors: LabelErrors, findings: Findings) -> None:
    """How many of those listed are really wrong, or that it can't be told."""
    listed, about = errors.listed, max(round(errors.expected), 1)
    if not errors.is_told:
        are = "is" if about == 1 else "are"
        most = (
            f" The {listed:,} least likely are listed; perhaps {about:,} of them {are} wrong."
            if listed
            else ""
        )
        text = (
            "How many labels are wrong can't be told from these texts: a classifier that has not seen a row agrees "
            f"with {errors.agreed:.0%} of the labels.{most}"
        )
        findings.about_file(ERRORS_UNKNOWN, text, max(listed, 1))
    elif listed:
        those = (
            f"About {about:,} of the {listed:,} labels below are"
            if listed > 1
            else "The label below is probably"
        )
        text = f"{those} really wrong; of all {errors.judged:,} labels judged it is about {errors.wrong:.1%}."
        findings.about_file(LABEL_ERRORS, text, listed)


def report_unjudged(rows: RowSample, findings: Findings) -> None:
    """Which rows nobody judged."""
    if rows.rare:
        have = "row has a label" if rows.rare == 1 else "rows have labels"
        text = (
            f"{rows.rare:,} {have} with fewer than {FEWEST_ROWS_OF_LABEL} rows: too few to tell "
            "whether they are right."
        )
        findings.about_file(FEW_TO_JUDGE, text, rows.rare)
    if rows.sampled_from is not None:
        text = f"The labels of {len(rows.rows):,} of {rows.sampled_from:,} rows were judged, a fixed sample."
        findings.about_file(SAMPLE_JUDGED, text, len(rows.rows))


@dataclass(frozen=True)
class SlowFindings:
    """`groups[i]` is the first row that row i nearly repeats, itself where there is none; None: nobody looked.
    `label_errors` is None where there are no labels to judge."""

    found: tuple[Findings, ...] = ()
    groups: tuple[int, ...] | None = None
    label_errors: LabelErrors | None = None


NO_SLOW_FINDINGS = SlowFindings()


def run_slow_checks(
    rows: StoredRows,
    labels: Sequence[str],
    holdout: Sequence[Example],
    seed: int,
    listed: int,
    tell: Callable[[str], None],
    *,
    presidio: bool,
) -> SlowFindings:
    """`labels` has one for each row, all empty for free text. Rows near those of a frozen `holdout` are found,
    too."""
    if not len(rows):
        return NO_SLOW_FINDINGS
    near, doubted, personal = Findings(listed), Findings(listed), Findings(listed)
    tell(f"Looking for near copies among {len(rows):,} rows")
    groups = _near(rows, labels, holdout, near)
    tell("Looking for labels that are probably wrong")
    errors = _label_noise(rows, labels, seed, doubted) if len(set(labels)) > 1 else None
    if presidio:
        tell("Presidio looks for personal data")
        check_presidio(rows, rows.facts.lines, seed, personal)
    return SlowFindings((near, doubted, personal), groups, errors)


def _near(
    rows: StoredRows, labels: Sequence[str], held: Sequence[Example], findings: Findings
) -> tuple[int, ...]:
    texts = _Questions(held, rows)
    sketched = [sketches(map(question_text, held))] if held else []
    sketched.append(rows.facts.take_sketches())
    near = find_near_copies(texts, [*question_keys(held), *rows.facts.keys], sketched)
    answers = [*(example.answer.strip() for example in held), *labels] if any(labels) else None
    check_near(
        near, [*(example.line for example in held), *rows.facts.lines], answers, findings, held=len(held)
    )
    return tuple(group - len(held) for group in near.groups[len(held) :])


def _label_noise(
    rows: StoredRows, labels: Sequence[str], seed: int, findings: Findings
) -> LabelErrors | None:
    """What the rest of the rows say of each row's label."""
    from trainers.evaluation.tfidf import out_of_fold

    sample = sample_rows(labels, rows.facts.keys, seed)
    if len({labels[row] for row in sample.rows}) < 2:
        report_unjudged(sample, findings)
        return None
    names, scores = out_of_fold([rows[row] for row in sample.rows], seed)
    lines = [rows.facts.lines[row] for row in sample.rows]
    return check_suspect_labels(lines, [labels[row] for row in sample.rows], sample, names, scores, findings)


class _Questions(Sequence[str]):
    """What each row asks, read when it is wanted: those held out, then the file's."""

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
