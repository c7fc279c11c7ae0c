"""Checks by simulation what monitoring promises in docs/watching.md: `python benchmarks/watch.py [PART …] [--short]`

    accuracy   false alarms of live accuracy in dataset-years, and the weeks until a drop is seen
    shift      false alarms of the weekly comparison of ten datasets in years, and new kinds of requests that are seen
    switch     false answers of tests of a candidate on live calls, and how many calls and labels they take
    canary     canaries that were stopped although they are as good, and how long it takes if they aren't

All parts by default. Seeds are fixed, so figures are the same on each run. It returns 1 if a target is not met. Takes
about six minutes of CPU time, the short form one. What taking samples costs a call is measured by
benchmarks/door.py.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks._monitoring import (  # noqa: E402
    Canaries,
    Labels,
    Share,
    alarm_weeks,
    embed_tickets,
    false_alarms_of_accuracy,
    false_alarms_of_labels,
    false_alarms_of_shift,
    new_requests_seen,
    non_inferiority_tests,
    run_canaries,
    superiority_tests,
)

SHARES = (0.6, 0.875, 0.97)
WEEKLY = (5, 20, 100)
DISAGREEMENTS = (0.1, 0.2, 0.3)
GAINS = (0.03, 0.05, 0.1)


def main(arguments: Sequence[str]) -> int:
    """Returns 0 if all targets are met, else 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--short", "--quick", action="store_true", help="few histories")
    options = parser.parse_args(arguments)
    print(f"{'':40} {'measured':52} target")
    met = [PARTS[part](options.short) for part in options.parts or PARTS]
    return 0 if all(met) else 1


def check_accuracy(is_short: bool) -> bool:
    histories = 400 if is_short else 4_000
    met = []
    for best_of, most in ((1, 0.05), (3, 0.07)):
        settings = [
            Labels(weekly, share, rows, best_of)
            for weekly, share, rows in itertools.product(WEEKLY, SHARES, (200, 500))
        ]
        shares = {str(each): false_alarms_of_accuracy(each, histories, seed=1) for each in settings}
        what = "live accuracy: false alarms a year" if best_of == 1 else "  if the holdout chose one of three"
        met.append(print_worst(what, shares, most, is_short))
    for rows, drop, weeks in ((200, 0.1, 14), (500, 0.1, 10), (200, 0.15, 6), (500, 0.15, 5)):
        alarms = alarm_weeks(Labels(20, 0.875, rows), drop, 52, 5 * histories, seed=2)
        seen = Share(int((alarms <= weeks).sum()), 5 * histories)
        middle, late = np.quantile(alarms, [0.5, 0.9], method="higher")
        text = f"{seen.value:.1%}; median {middle:.0f} weeks, 90% in {late:.0f}"
        what = f"  {100 * drop:.0f} points less, {rows} rows, {weeks} weeks"
        met.append(print_least(what, text, seen, 0.5, is_short))
    alarms = alarm_weeks(Labels(20, 0.875, 200), 0.05, 52, histories, seed=2)
    seen = Share(int(np.isfinite(alarms).sum()), histories)
    print_result("  5 points less, 200 rows, a year", str(seen), "none is promised", None)
    return all(met)


def check_shift(is_short: bool) -> bool:
    tickets = embed_tickets()
    years = 4 if is_short else 400
    false = {"vectors": false_alarms_of_shift(tickets, years, seed=1)}
    met = [print_worst("shift, ten datasets: years with one", false, 0.06, is_short)]
    false = {"shares": false_alarms_of_labels(tickets, years // 2, seed=1)}
    met.append(print_worst("  of the shares of labels", false, 0.06, is_short))
    cases = 8 if is_short else 100
    seen = new_requests_seen(tickets, 0.2, cases, seed=1)
    met.append(print_least("  20% new, seen in 4 weeks of 200", str(seen), seen, 0.75, is_short))
    seen = new_requests_seen(tickets, 0.1, cases, seed=1)
    print_result("  10% new, seen in 4 weeks of 200", str(seen), "none is promised", None)
    return all(met)


def check_switch(is_short: bool) -> bool:
    histories = 200 if is_short else 2_000
    met = []
    equal = {each: superiority_tests(each, 0.0, histories, seed=1) for each in DISAGREEMENTS}
    false = {f"{each:.0%} disagree": test.better for each, test in equal.items()}
    met.append(print_worst('better? equal, but "better"', false, 0.05, is_short))
    false = {f"{each:.0%} disagree": test.worse for each, test in equal.items()}
    met.append(print_worst('  equal, but "worse"', false, 0.05, is_short))
    for gain, disagreement in itertools.product(GAINS, DISAGREEMENTS):
        test = superiority_tests(disagreement, gain, histories // 4, seed=2)
        what = f"  {100 * gain:.0f} points better, {disagreement:.0%} disagree"
        print_result(what, _length(test.better, test.calls, test.pairs), "", None)

    rates = (0.06, *DISAGREEMENTS)
    at_margin = {each: non_inferiority_tests(each, -0.05, histories, seed=1) for each in rates}
    false = {f"{each:.0%} disagree": test.better for each, test in at_margin.items()}
    met.append(print_worst('not worse? by 5 points, but "not worse"', false, 0.05, is_short))
    false = {f"{each:.0%} disagree": test.worse for each, test in at_margin.items()}
    met.append(print_worst('  by just 5 points, but "worse"', false, 0.05, is_short))
    for disagreement in (0.05, *DISAGREEMENTS):
        test = non_inferiority_tests(disagreement, 0.0, histories // 4, seed=2)
        is_met = None
        target = ""
        if disagreement == 0.05:
            is_met = test.calls <= 250 and test.pairs <= 12
            target = "250 calls, 12 labels or less"
            met.append(is_met)
        what = f"  equal, {disagreement:.0%} disagree"
        print_result(what, _length(test.better, test.calls, test.pairs), target, is_met)
    for gain, disagreement in ((0.03, 0.2), (-0.1, 0.2), (-0.15, 0.2)):
        test = non_inferiority_tests(disagreement, gain, histories // 4, seed=3)
        what = f"  {100 * gain:+.0f} points, {disagreement:.0%} disagree"
        share = test.better if gain > 0 else test.worse
        print_result(what, _length(share, test.calls, test.pairs), "", None)
    return all(met)


def _length(answered: Share, calls: float, pairs: float) -> str:
    return f"{answered.value:.0%} answered; median {calls:,.0f} calls, {pairs:.0f} labels"


def check_canary(is_short: bool) -> bool:
    histories = 200 if is_short else 2_000
    equal = {
        f"{share:.0%} canary, {rate:.0%} bad": run_canaries(share, rate, rate, 20_000, histories, 1).stopped
        for share, rate in ((0.1, 0.05), (0.1, 0.2), (0.5, 0.05))
    }
    met = print_worst("canary: as good, but stopped", equal, 0.05, is_short)
    for share, usual, canary in ((0.1, 0.05, 0.1), (0.1, 0.05, 0.2), (0.5, 0.05, 0.1), (0.1, 0.01, 0.03)):
        stopped = run_canaries(share, usual, canary, 20_000, histories // 4, seed=2)
        what = f"  {share:.0%} canary, {usual:.0%} bad, it {canary:.0%}"
        print_result(what, _delay(stopped, share), "", None)
    return met


def _delay(canaries: Canaries, share: float) -> str:
    own = share * canaries.conversations
    return f"{canaries.stopped.value:.0%} stopped; after {canaries.conversations:,.0f} conversations, {own:,.0f} its"


PARTS: Mapping[str, Callable[[bool], bool]] = {
    "accuracy": check_accuracy,
    "shift": check_shift,
    "switch": check_switch,
    "canary": check_canary,
}


def print_worst(what: str, shares: Mapping[str, Share], most: float, is_short: bool) -> bool:
    """Compares the largest share, and prints what it was measured in and its 95% interval."""
    name = max(shares, key=lambda each: shares[each].value)
    worst = shares[name]
    limit = most + _by_chance(worst, is_short)
    return print_result(what, f"{worst}, {name}", f"{most:.0%} at most", worst.value <= limit)


def print_least(what: str, text: str, share: Share, least: float, is_short: bool) -> bool:
    limit = least - _by_chance(share, is_short)
    return print_result(what, text, f"{least:.0%} or more", share.value >= limit)


def _by_chance(share: Share, is_short: bool) -> float:
    """Returns how far the few histories of the short form may miss a target by chance; the full form may not."""
    if not is_short:
        return 0.0
    return 2 * (share.value * (1 - share.value) / share.n) ** 0.5


def print_result(what: str, text: str, target: str, is_met: bool | None) -> bool:
    """Without `is_met` the figure has no target."""
    verdicts = {True: "met", False: "NOT MET", None: ""}
    print(f"{what:40} {text:52} {target:28} {verdicts[is_met]}".rstrip(), flush=True)
    return is_met is not False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
