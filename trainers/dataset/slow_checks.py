"""The slower second stage of a check: near copies, labels that are probably wrong, and presidio on request. Reads rows
again by number; numpy and scikit-learn are imported when needed.

The number of wrong labels is estimated from out-of-fold scores of a classifier. An accidentally wrong label could be
any label, while a right label of a difficult row scores only slightly below the best one.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
RIVALS = 20  # labels that compete individually with a row's own; all others are averaged
SMALLEST_STEP = 0.02
# Of 90 clean support tickets 19 were listed, and of 120 and 200 up to 44: a classifier needs rows to learn from.
FEWEST_ROWS_JUDGED = 200
# The share of the right labels, beyond what guessing the most frequent label gets, with which a classifier has to
# agree before its doubts count. With less, clean rows were listed by the dozen.
LEAST_AGREED = 0.5
# A classifier can't agree with wrong labels. But if it agrees with hardly any, it is more likely unable to judge.
MOST_WRONG = 0.3
# Of a list of which fewer are wrong, the estimated number was up to twice too high.
LEAST_PRECISION = 0.5

LABEL_ERRORS = Rule("label_errors", "warns", "Have a person check some of these lines.")
ERRORS_UNKNOWN = Rule("label_errors_unknown", "tells", "Look at these lines.")
LABELS_UNCLEAR = Rule("labels_not_told_apart", "tells", "Have a person check 50 random rows.")
TOO_FEW_ROWS = Rule("too_few_rows_to_judge", "tells", "Have a person read the labels once.")
LABEL_DOUBTED = Rule("label_doubted", "warns", "Look at the row, and correct its label if it is wrong.")
FEW_TO_JUDGE = Rule("labels_not_judged", "tells", "Add rows for these labels, or check them by hand.")
SAMPLE_JUDGED = Rule(
    "labels_sampled", "tells", "Correct the listed rows and check again, or check a part of the file."
)


@dataclass(frozen=True)
class RowSample:
    """The numbers of the rows whose labels are judged, in order. `rare` rows are left out because their label has fewer
    than FEWEST_ROWS_OF_LABEL rows. `sampled_from` is the number of eligible rows, if only a sample is judged."""

    rows: tuple[int, ...]
    rare: int
    sampled_from: int | None


@dataclass(frozen=True, slots=True)
class SuspectLabel:
    """A label that is probably wrong, with probability `chance`. `likely` is the label of similar rows."""

    row: int
    given: str
    likely: str
    chance: float


@dataclass(frozen=True)
class LabelErrors:
    """An estimate of label errors. Of `judged` labels, `listed` look different from those of similar rows; about
    `expected` of them, the share `wrong` of all, are really wrong. `agreed` is the share of labels with which a
    classifier agrees that has not seen their rows.

    If `is_told` is False, the list is too short or too unclear for a number. If `is_judged` is False, there are too few
    rows, or the classifier agrees with too few labels, to doubt any of them: then nothing is listed.
    """

    judged: int
    listed: int
    expected: float
    wrong: float
    agreed: float
    is_told: bool
    is_judged: bool = True

    @property
    def counts(self) -> bool:
        """True if the number can be relied on. Reports of earlier versions told one for any number of rows."""
        return self.is_told and self.judged >= FEWEST_ROWS_JUDGED


def sample_rows(
    labels: Sequence[str], keys: Sequence[bytes], seed: int, most: int = MOST_ROWS_JUDGED
) -> RowSample:
    """Selects at most `most` rows, by a hash of seed and question, so that the order of the rows doesn't matter."""
    counts = Counter(labels)
    rows = [row for row, label in enumerate(labels) if counts[label] >= FEWEST_ROWS_OF_LABEL]
    rare = len(labels) - len(rows)
    if len(rows) <= most:
        return RowSample(tuple(rows), rare, None)
    # blake2b takes keys of at most 64 bytes.
    salt = str(seed).encode()[:64]

    def salted(row: int) -> bytes:
        return hashlib.blake2b(keys[row], key=salt, digest_size=16).digest()

    shuffled = sorted(rows, key=salted)
    drawn = shuffled[:most]
    # A label may have enough rows in the file, but not in the sample.
    counts = Counter(labels[row] for row in drawn)
    sample = sorted(row for row in drawn if counts[labels[row]] >= FEWEST_ROWS_OF_LABEL)
    rare += most - len(sample)
    return RowSample(tuple(sample), rare, len(rows))


def suspect_labels(
    labels: Sequence[str], names: Sequence[str], scores: Numbers
) -> tuple[tuple[SuspectLabel, ...], LabelErrors]:
    """Returns the labels that are probably wrong, the worst margin first, and an estimate of how many are wrong.
    `scores` has a row for each of `labels` and a column for each of `names`; inf marks a label that can't be judged."""
    import numpy as np

    column = {name: index for index, name in enumerate(names)}
    columns = np.array([column[label] for label in labels])
    rows = np.arange(len(labels))
    own = scores[rows, columns]  # rows
    others = np.array(scores)  # rows x names, without each row's own
    others[rows, columns] = -np.inf
    likely = others.argmax(axis=1)
    margins = own - others[rows, likely]  # rows
    chances = _chances(own, others)  # rows
    expected_wrong = round(float(chances.sum()))
    worst = np.argsort(margins, kind="stable")[:expected_wrong]
    suspects: list[SuspectLabel] = []
    for row in worst:
        if margins[row] >= 0:
            continue
        suspect = SuspectLabel(
            row=int(row),
            given=names[columns[row]],
            likely=names[likely[row]],
            chance=float(chances[row]),
        )
        suspects.append(suspect)

    count = len(columns)
    # The share of labels with which a classifier would agree that always answers the most frequent label.
    rows_of_label = np.bincount(columns)
    usual = float(rows_of_label.max() / count)
    agreed = float((margins > 0).mean())
    # Wrong labels count against neither, or else a classifier that always answers the most frequent label could pass.
    wrong = min(float(chances.mean()), MOST_WRONG)
    agreed_of_right = agreed / (1 - wrong)
    usual_of_right = min(usual / (1 - wrong), 1.0)
    beyond_usual = agreed_of_right - usual_of_right
    is_able = beyond_usual >= LEAST_AGREED * (1 - usual_of_right)
    is_judged = is_able and count >= FEWEST_ROWS_JUDGED
    expected = sum(suspect.chance for suspect in suspects)
    return tuple(suspects), LabelErrors(
        judged=count,
        listed=len(suspects),
        expected=expected,
        wrong=expected / count,
        agreed=agreed,
        is_told=is_judged and expected >= LEAST_PRECISION * len(suspects),
        is_judged=is_judged,
    )


def _chances(own: Numbers, others: Numbers) -> Numbers:
    """Returns the probability that each label is wrong.

    In this model a label is right with probability 1 - w, and is then as likely as a softmax of the scores at some
    temperature says. Otherwise it is wrong and could be any other label. w and the temperature maximise the likelihood.
    """
    import numpy as np

    labels = others.shape[1]
    judged = np.isfinite(own)
    chances = np.zeros(len(own))
    if labels < 2 or not judged.any():
        return chances

    ranked = np.sort(others[judged], axis=1)[
        :, 1:
    ]  # judged rows x other labels: without the label's own -inf
    rivals = ranked[:, -RIVALS:]
    times = np.ones(rivals.shape[1])  # how many labels each column stands for
    rest = ranked[:, :-RIVALS]
    n_rest = rest.shape[1]
    if n_rest:
        rivals = np.column_stack([rivals, rest.mean(axis=1)])
        times = np.append(times, float(n_rest))
    behind = (rivals - own[judged, None]).astype(np.float64)
    distance = float(np.abs(behind).mean())
    scale = max(distance, 1e-9)

    def parts(guess: Numbers) -> tuple[Numbers, Numbers]:
        """Returns the likelihood of each label together with its being right, and with its being wrong. A guess is the
        logarithms of the temperature and of the odds of w."""
        log_temperature, log_odds = guess
        temperature = scale * np.exp(log_temperature)
        exponents = np.minimum(behind / temperature, 500)  # exp would overflow at 710
        right = 1 / (1 + np.exp(exponents) @ times)
        wrong = 1 / (1 + np.exp(-log_odds))
        any_other = (1 - right) / (labels - 1)
        return (1 - wrong) * right, wrong * any_other

    def loss(guess: Numbers) -> float:
        right, wrong = parts(guess)
        likelihood = right + wrong + 1e-12
        penalty = 1e-4 * (guess**2).sum()  # keeps a guess finite that the data doesn't determine
        return float(-np.log(likelihood).mean() + penalty)

    # Two starts, since the search may end in a local minimum.
    starts = [np.array([-1.5, log_odds]) for log_odds in (-4.0, -1.5)]
    guesses = [_descend(loss, start) for start in starts]
    best = min(guesses, key=loss)
    right, wrong = parts(best)
    chances[judged] = wrong / np.maximum(right + wrong, 1e-300)
    return chances


def _descend(loss: Callable[[Numbers], float], start: Numbers) -> Numbers:
    """Minimises the loss by steps along the axes, which are halved when none helps. scipy.optimize is not used because
    importing it takes longer than checking a small file."""
    import numpy as np

    axes = np.eye(len(start))
    moves = [move for axis in axes for move in (axis, -axis)]
    at = start
    least = loss(start)
    step = 1.0
    while step >= SMALLEST_STEP:
        tried = [at + step * move for move in moves]
        losses = list(map(loss, tried))
        smallest = min(losses)
        if smallest < least:
            least = smallest
            at = tried[losses.index(smallest)]
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
    """Reports the labels that are probably wrong. `lines` and `labels` have an entry for each judged row. Messages show
    labels, each of which has at least FEWEST_ROWS_OF_LABEL rows, but no texts."""
    suspects, errors = suspect_labels(labels, names, scores)
    if not errors.is_judged:
        findings.add_for_file(*_why_not_judged(errors))
        return replace(errors, listed=0, expected=0.0, wrong=0.0, is_told=False)
    if suspects:
        report_suspects(suspects, errors, lines, findings)
    report_unjudged(rows, findings)
    return errors


def report_suspects(
    suspects: Sequence[SuspectLabel], errors: LabelErrors, lines: Sequence[int], findings: Findings
) -> None:
    rule = ERRORS_UNKNOWN
    if errors.is_told:
        rule = LABEL_ERRORS
    findings.add_for_file(rule, _doubt_text(errors), errors.listed)
    for suspect in suspects:
        label = to_printable(suspect.given, 40)
        likely = to_printable(suspect.likely, 40)
        text = f"is labelled '{label}', but similar rows are '{likely}'"
        findings.add_for_line(lines[suspect.row], Fault(LABEL_DOUBTED, text))


def _why_not_judged(errors: LabelErrors) -> tuple[Rule, str, int]:
    if errors.judged < FEWEST_ROWS_JUDGED:
        text = (
            f"Wrong labels were not looked for: that takes {FEWEST_ROWS_JUDGED} rows whose label has "
            f"{FEWEST_ROWS_OF_LABEL} rows or more, and there are {errors.judged:,}."
        )
        return TOO_FEW_ROWS, text, errors.judged
    text = (
        f"Wrong labels can't be found by these texts: a classifier agrees with only {errors.agreed:.0%} of the labels "
        "of rows that it has not seen."
    )
    return LABELS_UNCLEAR, text, errors.judged


def _doubt_text(errors: LabelErrors) -> str:
    if errors.listed == 1:
        start = "1 label looks different from those of similar rows"
    else:
        start = f"{errors.listed:,} labels look different from those of similar rows"
    if not errors.is_told:
        return f"{start}. They are too few or too unclear to say how many are wrong."
    if errors.listed == 1:
        return f"{start} and is probably wrong."
    expected = max(round(errors.expected), 1)
    # Of the rounded number, so that the two agree, as they do on the estimate's cards.
    share = expected / errors.judged
    return f"{start}; about {expected:,} of them are probably wrong ({share:.1%} of {errors.judged:,})."


def report_unjudged(rows: RowSample, findings: Findings) -> None:
    """Reports how many rows were not judged."""
    if rows.rare:
        have = "row has a label" if rows.rare == 1 else "rows have labels"
        text = f"{rows.rare:,} {have} with fewer than {FEWEST_ROWS_OF_LABEL} rows, too few to judge them."
        findings.add_for_file(FEW_TO_JUDGE, text, rows.rare)
    if rows.sampled_from is not None:
        text = f"The labels of {len(rows.rows):,} of {rows.sampled_from:,} rows were judged, always the same sample."
        findings.add_for_file(SAMPLE_JUDGED, text, len(rows.rows))


@dataclass(frozen=True)
class SlowFindings:
    """The results of the slow checks. `groups[i]` is the first row of row i's group of near copies, or i itself;
    `groups` is None if this was not checked. `label_errors` is None if there are no labels to judge."""

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
    """Runs the slow checks. `labels` has one label per row, all empty for free text. Near copies of rows of a frozen
    `holdout` are reported too."""
    if not len(rows):
        return NO_SLOW_FINDINGS
    near_findings = Findings(listed)
    label_findings = Findings(listed)
    personal = Findings(listed)
    on_progress(f"Looking for near copies among {len(rows):,} rows")
    groups = _check_near_copies(rows, labels, holdout, near_findings)

    on_progress("Looking for labels that are probably wrong")
    errors = None
    if len(set(labels)) > 1:
        errors = _check_labels(rows, labels, seed, label_findings)

    if presidio:
        on_progress("Searching for personal data with presidio")
        check_presidio(rows, rows.facts.lines, seed, personal)
    return SlowFindings((near_findings, label_findings, personal), groups, errors)


def _check_near_copies(
    rows: StoredRows, labels: Sequence[str], holdout: Sequence[Example], findings: Findings
) -> tuple[int, ...]:
    """Reports near copies among the rows and of rows of the holdout, and returns the rows' groups."""
    facts = rows.facts
    held = len(holdout)
    sketched = []
    if held:
        sketched.append(compute_sketches(map(question_text, holdout)))
    sketched.append(facts.take_sketches())
    keys = [*question_keys(holdout), *facts.keys]
    near = find_near_copies(_Questions(holdout, rows), keys, sketched)

    answers: list[str] | None = None  # of free text, two right answers may differ
    if any(labels):
        answers = [example.answer.strip() for example in holdout]
        answers += labels
    lines = [example.line for example in holdout]
    lines += facts.lines
    report_near_pairs(near, lines, answers, findings, held=held)
    return tuple(group - held for group in near.groups[held:])


def _check_labels(
    rows: StoredRows, labels: Sequence[str], seed: int, findings: Findings
) -> LabelErrors | None:
    from trainers.evaluation.out_of_fold import out_of_fold

    facts = rows.facts
    sample = sample_rows(labels, facts.keys, seed)
    judged = [labels[row] for row in sample.rows]
    if len(set(judged)) < 2:  # a classifier needs two labels
        report_unjudged(sample, findings)
        return None
    examples = [rows[row] for row in sample.rows]
    names, scores = out_of_fold(examples, seed)
    lines = [facts.lines[row] for row in sample.rows]
    return check_suspect_labels(lines, judged, sample, names, scores, findings)


class _Questions(Sequence[str]):
    """The question of each row, read when needed: first the held-out rows, then the file's rows."""

    def __init__(self, held: Sequence[Example], rows: StoredRows) -> None:
        self._held = held
        self._rows = rows

    def __len__(self) -> int:
        return len(self._held) + len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = index - len(self._held)
        if row < 0:
            return question_text(self._held[index])
        return question_text(self._rows[row])
