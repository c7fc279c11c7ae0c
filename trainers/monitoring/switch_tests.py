"""Whether a candidate should answer instead of what is in use, from live calls that both answered, and whether a canary
errs more. All tests may be looked at after each call.

Each is a bet against what it may refute, at odds that are fair if that is true: capital that starts at 1 is at least 20
at any time with a probability of 5% at most (J. Ville, Étude critique de la notion de collectif, 1939; G. Shafer,
Testing by betting, Journal of the Royal Statistical Society A 184 (2021) 407-431). The capital is the e-value. As
nobody knows the best stake, it is divided among several.

`judge_superiority` asks whether a candidate that costs as much or more is better. Only pairs in which one of the two is
right say anything about that. `judge_non_inferiority` asks whether a cheaper candidate is not worse by more than a
margin, and reads all calls: that the answers are the same speaks for it, and needs no label. Superiority would be the
wrong question there, as two equally good models would never settle it.

Figures are in docs/watching.md; `python benchmarks/watch.py` measures them. numpy is imported when needed, and never
for a canary.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.float64]

CallVerdict = Literal["same", "candidate", "incumbent", "tie", "unlabelled"]
"""What is known of a call that both answered. "same": the answers are the same. Otherwise they differ, and people say
who was right: only the candidate, only the incumbent, or "tie", both or neither. "unlabelled": nobody has said yet."""
Outcome = Literal["better", "not_worse", "worse", "cannot_tell", "open"]

DECISIVE = 20.0  # the e-value that decides; its inverse is the probability of being wrong
MOST_PAIRS = 100  # that people are asked to label
MOST_WEEKS = 4
MARGIN = 0.05
_LABELLED = ("candidate", "incumbent", "tie")
_WORST_FOR = -1  # what a call without a label counts for what is to be shown
_WORST_AGAINST = 1
_STAKES = (0.12, 0.24, 0.48, 0.95)  # shares of the stake that could lose everything
_RATE_RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)  # how many times more a canary may err
_HIGHEST_LOG = 600.0  # beyond, exp overflows
_FEWEST_TO_FORECAST = 5
_MOST_AS_LONG = 50.0  # times what was seen, for a forecast


@dataclass(frozen=True)
class SwitchTest:
    """Where a test of a candidate against the incumbent stands.

    "better" and "worse" are the answers of `judge_superiority`, "not_worse" and "worse" those of
    `judge_non_inferiority`, there with "by more than the margin". "cannot_tell" is a test that ended without an answer,
    "open" one that goes on. `e_for` speaks for the candidate and `e_against` for the incumbent; one of them has reached
    DECISIVE, or neither has. `calls` were read for that, among them `pairs` that differ and have a label and
    `unlabelled` that differ and have none. `expected_calls` is roughly how many more are needed if all goes on as it
    did; None if the test is over, or if too little was seen or too much would be needed.
    """

    outcome: Outcome
    e_for: float
    e_against: float
    calls: int
    pairs: int
    unlabelled: int
    expected_calls: int | None


@dataclass(frozen=True)
class CanaryTest:
    """Whether a canary errs more than the incumbent. The answer is "worse", which should stop it, or "open", as a
    canary is never proven good by it. `events` were read, of which `of_candidate` are the candidate's."""

    outcome: Literal["worse", "open"]
    e_against: float
    events: int
    of_candidate: int


def judge_superiority(calls: Sequence[CallVerdict], weeks: float) -> SwitchTest:
    """Judges whether a candidate that costs as much or more is right more often than the incumbent ("better") or less
    often ("worse"). `calls` are all random calls that both answered, in order of arrival; `weeks` have passed since the
    first. Equal answers and ties say nothing about who is better.

    A call without a label counts against what is to be shown, so that nobody can decide the test by choosing what to
    label; those after the last labelled one do no harm. So labels are best asked for in order of arrival, and a person
    who can't say who is right says "tie".

    Raises ValueError if `weeks` is negative.
    """
    read = _until_enough_pairs(calls, weeks)
    e_for = _superiority(read, "candidate", "incumbent")
    e_against = _superiority(read, "incumbent", "candidate")
    test = _decide(read, e_for, e_against, weeks, "better")
    if test.outcome != "open":
        return test
    return replace(test, expected_calls=_calls_until_superiority(read))


def judge_non_inferiority(calls: Sequence[CallVerdict], weeks: float, margin: float = MARGIN) -> SwitchTest:
    """Judges whether a cheaper candidate is right less often than the incumbent by less than `margin` ("not_worse") or
    by more ("worse"). `calls`, their order, calls without a label, and `weeks` are those of `judge_superiority`.

    Raises ValueError if `weeks` is negative, or unless 0 < margin < 1.
    """
    if not 0 < margin < 1:
        raise ValueError(f"testing with a margin of {margin}: it is a share between 0 and 1, such as 0.05")
    read = _until_enough_pairs(calls, weeks)
    gains = _gains(read, _WORST_FOR)
    losses = -_gains(read, _WORST_AGAINST)
    e_for = _capital(gains, margin)
    e_against = _capital(losses, -margin)
    test = _decide(read, e_for, e_against, weeks, "not_worse")
    if test.outcome != "open":
        return test
    return replace(test, expected_calls=_calls_until_non_inferiority(read, margin))


def judge_canary(events: Sequence[bool], share: float) -> CanaryTest:
    """Judges whether a canary that answers a random `share` of conversations gets more negative events (thumbs down,
    errors) per conversation than the incumbent. `events` says of each, in order of arrival, whether it is the canary's.

    Under equal error rates each event is the canary's with probability `share`, however many calls there are and
    whatever the rate. Count a conversation once, since its events depend on each other. If the share of the canary is
    changed, begin with the events since then.

    If only the canary errs, it is stopped by its third event at a share of 10%, by its seventh at 50%.

    Raises ValueError unless 0 < share < 1.
    """
    of_candidate = 0
    e_against = 1.0
    for number, is_candidate in enumerate(events, 1):
        of_candidate += is_candidate
        e_against = canary_e(of_candidate, number - of_candidate, share)
        if e_against >= DECISIVE:
            return CanaryTest("worse", e_against, number, of_candidate)
    _check_share(share)
    return CanaryTest("open", e_against, len(events), of_candidate)


def canary_e(of_candidate: int, of_incumbent: int, share: float) -> float:
    """Returns the e-value of `judge_canary` after so many events of both, in whatever order they came.

    Each of _RATE_RATIOS is an assumption of how many times more the canary errs; the canary's share of events follows
    from it. An event multiplies the capital by its probability under the assumption, divided by that under equal rates.
    Written without numpy, which the door doesn't import.

    Raises ValueError unless 0 < share < 1.
    """
    _check_share(share)
    capital = 0.0
    for ratio in _RATE_RATIOS:
        mean_rate = share * ratio + 1 - share  # of both together, in that of the incumbent
        of_candidates = of_candidate * math.log(ratio / mean_rate)
        of_incumbents = of_incumbent * math.log(mean_rate)
        log = of_candidates - of_incumbents
        capital += math.exp(min(log, _HIGHEST_LOG))
    return capital / len(_RATE_RATIOS)


def _check_share(share: float) -> None:
    if not 0 < share < 1:
        raise ValueError(f"judging a canary with a share of {share}: it is between 0 and 1, such as 0.1")


@lru_cache(maxsize=20_000)
def superiority_e(wins: int, losses: int) -> float:
    """Returns the e-value of "right more often" from pairs in which one was right: the capital of a uniform mixture of
    stakes, the integral of 2 (2t)^wins (2 (1 - t))^losses from 1/2 to 1.

    It is the sum of C(n + 1, k) for k up to `wins`, divided by (n + 1) C(n, wins), with n = wins + losses: the
    incomplete beta function of whole numbers. Each term follows from the next one.
    """
    n = wins + losses
    term = 1 / (losses + 1)
    total = term
    for k in range(wins, 0, -1):
        term *= k / (n + 2 - k)
        total += term
    return total


def _until_enough_pairs(calls: Sequence[CallVerdict], weeks: float) -> Sequence[CallVerdict]:
    """Returns the calls up to the last pair that people are asked to label."""
    if weeks < 0:
        raise ValueError(f"judging a test after {weeks} weeks: the number of weeks can't be negative")
    pairs = 0
    for number, verdict in enumerate(calls, 1):
        pairs += verdict in _LABELLED
        if pairs == MOST_PAIRS:
            return calls[:number]
    return calls


def _superiority(calls: Sequence[CallVerdict], winner: CallVerdict, loser: CallVerdict) -> Numbers:
    """Returns the e-value after each call."""
    import numpy as np

    wins = 0
    losses = 0
    values = np.ones(len(calls))
    for number, verdict in enumerate(calls):
        wins += verdict == winner
        losses += verdict in {loser, "unlabelled"}
        values[number] = superiority_e(wins, losses)
    return values


def _gains(calls: Sequence[CallVerdict], unlabelled: int) -> Numbers:
    """Returns what each call says: 1 if only the candidate was right, -1 if only the incumbent was, else 0."""
    import numpy as np

    values = {"same": 0, "tie": 0, "candidate": 1, "incumbent": -1, "unlabelled": unlabelled}
    return np.array([values[verdict] for verdict in calls], dtype=np.float64)


def _capital(gains: Numbers, margin: float) -> Numbers:
    """Returns the e-value of "the mean gain is above -margin" after each call. A. Waudby-Smith and A. Ramdas,
    Estimating means of bounded random variables by betting, Journal of the Royal Statistical Society B 86 (2024)
    1-27."""
    import numpy as np

    logs = np.cumsum(_log_factors(gains, margin), axis=0)  # calls x stakes
    capital: Numbers = np.exp(np.minimum(logs, _HIGHEST_LOG)).mean(axis=1)
    return capital


def _log_factors(gains: Numbers, margin: float) -> Numbers:
    """Returns the logarithm of what each call does to each stake, of which none can lose everything."""
    import numpy as np

    stakes = np.array(_STAKES) / (1 - margin)
    above = gains[:, None] + margin  # calls x 1
    factors: Numbers = np.log1p(stakes * above)
    return factors


def _decide(
    calls: Sequence[CallVerdict],
    e_for: Numbers,
    e_against: Numbers,
    weeks: float,
    success: Outcome,
) -> SwitchTest:
    """Ends the test at the first call after which one of the e-values is decisive, or at the latest allowed."""
    decided: list[tuple[int, Outcome]] = []
    for capital, answer in ((e_for, success), (e_against, "worse")):
        number = _first_decisive(capital)
        if number is not None:
            decided.append((number, answer))
    outcome: Outcome = "open"
    read = len(calls)
    if decided:
        read, outcome = min(decided)
    elif _count_pairs(calls) >= MOST_PAIRS or weeks >= MOST_WEEKS:
        outcome = "cannot_tell"
    last_for = 1.0
    last_against = 1.0
    if read:
        last_for = float(e_for[read - 1])
        last_against = float(e_against[read - 1])
    return SwitchTest(
        outcome=outcome,
        e_for=last_for,
        e_against=last_against,
        calls=read,
        pairs=_count_pairs(calls[:read]),
        unlabelled=sum(verdict == "unlabelled" for verdict in calls[:read]),
        expected_calls=None,
    )


def _count_pairs(calls: Sequence[CallVerdict]) -> int:
    """Counts those that differ and have a label."""
    return sum(verdict in _LABELLED for verdict in calls)


def _first_decisive(capital: Numbers) -> int | None:
    """Returns how many calls it took."""
    (decisive,) = (capital >= DECISIVE).nonzero()
    if not len(decisive):
        return None
    return int(decisive[0]) + 1


def _calls_until_superiority(calls: Sequence[CallVerdict]) -> int | None:
    """Returns how many more calls decide if wins, losses and ties go on in proportion."""
    counts = Counter(calls)
    wins = counts["candidate"]
    losses = counts["incumbent"]
    informative = wins + losses
    if informative < _FEWEST_TO_FORECAST:
        return None
    more = max(wins, losses)
    labelled_each = (informative + counts["tie"]) / informative
    most = math.floor(MOST_PAIRS / labelled_each)
    for n in range(informative + 1, most + 1):
        winning = round(n * more / informative)
        if superiority_e(winning, n - winning) >= DECISIVE:
            return math.ceil((n - informative) * len(calls) / informative)
    return None


def _calls_until_non_inferiority(calls: Sequence[CallVerdict], margin: float) -> int | None:
    """Returns how many more calls decide if all kinds of calls go on in proportion."""
    import numpy as np

    settled = [verdict for verdict in calls if verdict != "unlabelled"]
    if len(settled) < _FEWEST_TO_FORECAST:
        return None
    gains = _gains(settled, 0)
    logs_for = _log_factors(gains, margin).sum(axis=0)  # stakes
    logs_against = _log_factors(-gains, -margin).sum(axis=0)
    pairs = _count_pairs(settled)
    most = _MOST_AS_LONG
    if pairs:
        most = min(most, MOST_PAIRS / pairs)
    longer: list[float] = np.geomspace(1, max(most, 1), 200).tolist()
    for times in longer:
        for logs in (logs_for, logs_against):
            capital = np.exp(np.minimum(times * logs, _HIGHEST_LOG)).mean()
            if capital >= DECISIVE:
                more = math.ceil((times - 1) * len(calls))
                return max(more, 1)
    return None
