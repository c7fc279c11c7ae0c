"""What a vendor's list of usage bills for one run, once that is final. Sums of the list only; what a run is booked with
is corrected in bot/services/training/vendor_bills.py.

A run's sessions are found by the metadata that they were created with, which has the id of the run's job. Whatever has
no session, such as the storage of states, belongs to no run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from trainers.json_values import JsonValue
from trainers.methods import HOSTED_JOB
from trainers.money import to_micros
from trainers.types import BilledUsage, UsageKind, UsageList

NotYet = Literal["not invoiced", "not priced", "not listed"]
"""Why a bill isn't final: a day of the run has no invoice yet, the list has no price for some of its usage, or the list
doesn't have its usage."""


@dataclass(frozen=True)
class VendorBill(JsonValue):
    """What a run was billed, in micro-dollars, by what it was for."""

    training_micros: int = 0
    sampling_micros: int = 0
    checkpoint_micros: int = 0
    storage_micros: int = 0
    other_micros: int = 0

    @property
    def micros(self) -> int:
        return (
            self.training_micros
            + self.sampling_micros
            + self.checkpoint_micros
            + self.storage_micros
            + self.other_micros
        )


def bill_of(listed: UsageList, job_id: str, ended_at: float) -> VendorBill | NotYet:
    """Returns the bill of the job, which ended at `ended_at` (unix seconds), or why it isn't final. Prices follow from
    an invoice only for whole days, so the last day of the run has to be over."""
    usage = usage_of(listed, job_id)
    last = max([ended_at, *(event.ends_at for event in usage)])
    if listed.invoiced_until is None or listed.invoiced_until < last:
        return "not invoiced"
    if not usage:
        return "not listed"
    by_kind: defaultdict[UsageKind, Decimal] = defaultdict(Decimal)
    for event in usage:
        if event.usd is not None:
            by_kind[event.kind] += event.usd
        elif event.kind != "checkpoint":
            # The vendor never prices checkpoint operations, so no bill would wait long enough for them.
            return "not priced"
    return VendorBill(
        training_micros=to_micros(by_kind["training"]),
        sampling_micros=to_micros(by_kind["sampling"]),
        checkpoint_micros=to_micros(by_kind["checkpoint"]),
        storage_micros=to_micros(by_kind["storage"]),
        other_micros=to_micros(by_kind["other"]),
    )


def usage_of(listed: UsageList, job_id: str) -> Sequence[BilledUsage]:
    """Returns the usage of the sessions that this job has created, also those after a kill."""
    sessions = {
        session for session, metadata in listed.metadata.items() if metadata.get(HOSTED_JOB) == job_id
    }
    return [event for event in listed.usage if event.session in sessions]


def corrected_micros(settled: int, booked: int, bill: VendorBill) -> int:
    """Returns what a run has cost without its machines. `settled` is what its ledger has so far, of which `booked` was
    counted for the training; the rest are answers, which the bill doesn't have."""
    return max(settled - booked, 0) + bill.micros


def window(spans: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Returns the shortest time that has all of these (unix seconds)."""
    starts = [start for start, _ in spans]
    ends = [end for _, end in spans]
    return min(starts), max(ends)
