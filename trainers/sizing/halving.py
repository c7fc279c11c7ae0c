"""Successive halving: which share of its course each arm of a sweep trains, and what all arms take together. Pure.

All n arms train to the first rung; of each rung the better half (rounded up) goes on to twice the share of its course,
until one arm is left, which trains to the end:

    rungs       ceil(log2 n) + 1
    arms        ceil(n / 2^(k - 1)) in rung k, counted from 1
    share       2^(k - rungs) of an arm's course at the end of rung k
    all arms    course * (1 + log2(n) / 2) for n = 2, 4, 8, 16: twice a single course for 4 arms, not 4 times

Jamieson & Talwalkar 2016, Non-stochastic Best Arm Identification (arXiv 1502.07943), algorithm 1; that the last arm
alone trains to the end is Hyperband's (Li et al. 2018, arXiv 1603.06560, section 3). A course that 2^k doesn't divide
is rounded up to whole steps at each rung.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

FEWEST_ARMS, MOST_ARMS = 2, 16


@dataclass(frozen=True)
class Rung:
    """`arms` train until `share` of their course is done."""

    arms: int
    share: Fraction

    def steps(self, course: int) -> int:
        """Of an arm whose course has so many, when this rung is over."""
        return math.ceil(course * self.share)


def rungs(arms: int) -> tuple[Rung, ...]:
    """From the first, in which all arms train, to the last, in which one does."""
    halvings = (arms - 1).bit_length()
    return tuple(
        Rung(-(-arms // 2**done), Fraction(1, 2 ** (halvings - done))) for done in range(halvings + 1)
    )


def most_steps(courses: Sequence[int]) -> int:
    """Steps of all arms together. Where courses differ, as with several batch sizes: the most that it can be."""
    ladder, before, total = rungs(len(courses)), [0] * len(courses), 0
    for rung in ladder:
        after = [rung.steps(course) for course in courses]
        total += sum(sorted((b - a for a, b in zip(before, after, strict=True)), reverse=True)[: rung.arms])
        before = after
    return total


def at_most(courses: Sequence[float]) -> float:
    """The same of what isn't counted in whole steps: seconds or tokens of each arm's full course."""
    before, total = Fraction(0), 0.0
    for rung in rungs(len(courses)):
        dearest = sorted(courses, reverse=True)[: rung.arms]
        total += float(rung.share - before) * sum(dearest)
        before = rung.share
    return total
