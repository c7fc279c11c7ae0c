"""The rules for "auto" hyperparameters, and the schedule of a sweep. Pure; used by the bot and the trainer.

Supervised training on chats:
- n_epochs: as many passes as it takes to see 2,000 rows, at most 3. Our own trainer makes up to 10 passes over fewer
  than 200 rows, until 600 are seen. A third pass over 1,500 rows or more gained nothing that 200 held-out rows show.
- batch_size: 4 under 200 rows, so that an epoch has enough steps; 8 up to 8,000 rows (on 1,000 rows, 8 scored 93.5%
  and 16 scored 85.5%), 16 up to 16,000, then 32.
- learning_rate: 5e-4 x (2000 / hidden size of the base) ^ 0.781, at most 1e-3, rounded to two digits; for Qwen the
  power is 0.0775. If the hidden size is unknown: 3e-4. The formula is the Tinker cookbook's (hyperparam_utils.get_lr),
  fitted to LoRA on Llama and Qwen; the limit of 1e-3 was measured here on a 135M model.
- learning_rate for all weights instead of an adapter: a tenth of that (Schulman et al. 2025, "LoRA Without Regret").

Preference pairs (DPO):
- n_epochs: as many passes as it takes to see 2,000 pairs, at most 3. More passes over few pairs only push the rejected
  answers further down.
- learning_rate: a fortieth of the above. TRL's scripts train the same model with LoRA at 2e-4 on chats (sft.py) and at
  5e-6 on pairs (dpo.py). For 7B the rule gives 7e-6; the alignment handbook's zephyr-7b-dpo-qlora uses 5e-6. Few pairs
  need a higher rate: docs/preferences.md has the measurements.
- beta: 0.1, as in the paper (Rafailov et al. 2023, arXiv 2305.18290, appendix B) and in TRL.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

ROWS_SEEN = 2_000
MOST_PASSES = 3
FEW_ROWS = 200
FEW_ROWS_SEEN = 600
MOST_PASSES_OVER_FEW = 10
BATCH_SIZES = ((FEW_ROWS, 4), (8_000, 8), (16_000, 16))
LARGEST_BATCH_SIZE = 32
ROWS_A_GPU = 4  # if several share a step; with fewer there is little to pack
MOST_ROWS_A_STEP = 256
STEPS_AN_EPOCH = 20  # that a larger batch leaves at least
HIGHEST_RATE = 1e-3
RATE_OF_UNKNOWN = 3e-4
RATE_AT_2000 = 5e-4
RATE_POWERS = {"qwen": 0.0775}
RATE_POWER = 0.781
PAIRS_SHARE = 40
ALL_WEIGHTS_SHARE = 10
BETA = 0.1
ENCODER_RATE = 5e-5
ENCODER_BATCH = 16
ENCODER_ROWS_SEEN = 6_000
ENCODER_PASSES = (3, 20)  # at least and at most
FEWEST_TRIALS = 2
MOST_TRIALS = 16

Value = int | float | str
# Hyperparameters with several values each, in the given order. Every combination is a trial of the sweep. Which
# hyperparameters may be swept, and within which limits, is declared in trainers/methods.py.
Sweep = tuple[tuple[str, tuple[Value, ...]], ...]


def epochs_for(rows: int) -> int:
    """Returns the number of passes that our own trainer makes over `rows` chats."""
    over_few = min(MOST_PASSES_OVER_FEW, _passes(FEW_ROWS_SEEN, rows))
    return max(hosted_epochs_for(rows), over_few)


def hosted_epochs_for(rows: int) -> int:
    """Returns the number of passes for hosted services, which bill every token and choose batch size and learning rate
    themselves, and for our own methods other than supervised training on chats."""
    return min(MOST_PASSES, _passes(ROWS_SEEN, rows))


def encoder_epochs_for(rows: int) -> int:
    """Returns the number of passes when all of an encoder is trained."""
    least, most = ENCODER_PASSES
    passes = _passes(ENCODER_ROWS_SEEN, rows)
    return max(least, min(most, passes))


def batch_for(rows: int) -> int:
    """Returns the number of rows per training step."""
    for below, batch in BATCH_SIZES:
        if rows < below:
            return batch
    return LARGEST_BATCH_SIZE


def spread_batch(batch: int, rows: int, processes: int) -> int:
    """Returns a number of rows per step that gives each of several GPUs some to compute together, if an epoch keeps
    enough steps."""
    if processes == 1:
        return batch
    wanted = min(ROWS_A_GPU * processes, rows // STEPS_AN_EPOCH, MOST_ROWS_A_STEP)
    return max(batch, wanted)


def rate_for(hidden_size: int | None, family: str = "") -> float:
    """Returns LoRA's learning rate for a base with this hidden size. `family` is the model_type in its config."""
    if hidden_size is None:
        return RATE_OF_UNKNOWN
    power = RATE_POWER
    for name, family_power in RATE_POWERS.items():
        if family.startswith(name):
            power = family_power
    rate = RATE_AT_2000 * (2000 / hidden_size) ** power
    limited = min(HIGHEST_RATE, rate)
    return float(f"{limited:.2g}")


def _passes(seen: int, rows: int) -> int:
    return -(-seen // max(rows, 1))  # rounded up


@dataclass(frozen=True)
class PlannedRound:
    """One round of successive halving: `trials` trials train until `share` of their full course is done."""

    trials: int
    share: Fraction

    def steps(self, course: int) -> int:
        """Returns the steps that a trial with `course` steps in all has done at the end of this round."""
        return math.ceil(course * self.share)


def halving_rounds(trials: int) -> tuple[PlannedRound, ...]:
    """Returns the rounds of successive halving, from the first, in which all trials train, to the last, in which one
    does.

    All n trials train to the first round; of each round the better half (rounded up) goes on to twice the share of its
    course, until one trial is left, which trains to the end:

        rounds      ceil(log2 n) + 1
        trials      ceil(n / 2^(k - 1)) in round k, counted from 1
        share       2^(k - rounds) of a trial's course at the end of round k
        all trials  course * (1 + log2(n) / 2) for n = 2, 4, 8, 16: twice a single course for 4 trials, not 4 times

    Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification (arXiv 1502.07943), algorithm 1; that the last
    trial alone trains to the end is Hyperband's (Li et al. 2018, arXiv 1603.06560, section 3). A course that 2^k
    doesn't divide is rounded up to whole steps at each round.
    """
    halvings = (trials - 1).bit_length()
    rounds = []
    for done in range(halvings + 1):
        left = -(-trials // 2**done)  # rounded up
        share = Fraction(1, 2 ** (halvings - done))
        rounds.append(PlannedRound(left, share))
    return tuple(rounds)


def halving_steps(courses: Sequence[int]) -> int:
    """Returns the steps of all trials together. If courses differ, as with several batch sizes, this is an upper
    bound."""
    before = [0] * len(courses)
    total = 0
    for planned in halving_rounds(len(courses)):
        after = [planned.steps(course) for course in courses]
        added = [later - earlier for earlier, later in zip(before, after, strict=True)]
        # Which trials are left is unknown: assume those with the most steps.
        added.sort(reverse=True)
        total += sum(added[: planned.trials])
        before = after
    return total


def halving_total(courses: Sequence[float]) -> float:
    """Like `halving_steps`, for amounts that are not whole steps: the seconds or tokens of each trial's full course."""
    before = Fraction(0)
    total = 0.0
    for planned in halving_rounds(len(courses)):
        dearest = sorted(courses, reverse=True)[: planned.trials]
        total += float(planned.share - before) * sum(dearest)
        before = planned.share
    return total


def combinations(sweep: Sweep) -> tuple[Mapping[str, Value], ...]:
    """Returns the swept values of each trial, in order. The values of the last hyperparameter change fastest."""
    names = [name for name, _ in sweep]
    values_of_each = [values for _, values in sweep]
    trials = []
    for chosen in itertools.product(*values_of_each):
        trials.append(dict(zip(names, chosen, strict=True)))
    return tuple(trials)


def count_full_trainings(sweep: Sweep) -> float:
    """Returns how many full trainings all trials amount to under successive halving; 1 without a sweep."""
    if not sweep:
        return 1.0
    n_trials = len(combinations(sweep))
    return halving_total([1.0] * n_trials)


def sweep_to_lists(sweep: Sweep) -> dict[str, list[Value]]:
    return {name: list(values) for name, values in sweep}


def sweep_from_lists(raw: Sequence[Sequence[Any]]) -> Sweep:
    """Reads a sweep from JSON, where tuples became lists."""
    return tuple((str(name), tuple(values)) for name, values in raw)


def sweep_size_problem(sweep: Sweep) -> str | None:
    """Returns a sentence if a sweep has too few or too many trials, else None."""
    if not sweep:
        trials = 0
        size = "The sweep is empty"
    else:
        counts = [len(values) for _, values in sweep]
        trials = math.prod(counts)
        size = f"The sweep has {trials} trials"
        if trials == 1:
            size = "The sweep has 1 trial"
    if FEWEST_TRIALS <= trials <= MOST_TRIALS:
        return None
    cure = "Leave some values out"
    if trials < FEWEST_TRIALS:
        cure = "Give more values"
    return f"{size}; it takes {FEWEST_TRIALS} to {MOST_TRIALS}, one for each combination of values. {cure}."
