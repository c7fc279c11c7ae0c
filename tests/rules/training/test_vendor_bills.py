"""When a vendor's list of usage is a run's bill, and what it comes to."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from bot.rules.training.vendor_bills import NotYet, VendorBill, bill_of, corrected_micros
from trainers.types import BilledUsage, UsageKind, UsageList

JOB = "ftjob-1"
DAY_S = 24 * 3600.0
ENDED_AT = 10 * DAY_S + 7 * 3600
HOUR_END = 10 * DAY_S + 8 * 3600
DAY_END = 11 * DAY_S
METADATA = {"ours": {"finetune_job": JOB}, "theirs": {"finetune_job": "ftjob-2"}, "untagged": {}}


def used(kind: UsageKind, usd: str | None, session: str | None = "ours", at: float = HOUR_END) -> BilledUsage:
    return BilledUsage(kind, session, at, None if usd is None else Decimal(usd))


def listed(*usage: BilledUsage, until: float | None = DAY_END) -> UsageList:
    return UsageList(usage, METADATA, until)


TRAINED = used("training", "0.4123")


def test_the_parts_are_summed_apart_and_others_usage_is_left_out() -> None:
    bill = bill_of(
        listed(
            TRAINED,
            used("training", "0.0000004"),
            used("sampling", "0.01"),
            used("storage", "0.002"),
            used("checkpoint", None),
            used("other", "0.0003"),
            used("training", "9", "theirs"),
            used("training", "9", "untagged"),
            used("storage", "9", None),
        ),
        JOB,
        ENDED_AT,
    )
    assert bill == VendorBill(412_301, 10_000, 0, 2_000, 300)
    assert bill.micros == 424_601


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (listed(until=None), "not invoiced"),
        (listed(TRAINED, until=None), "not invoiced"),
        (listed(TRAINED, until=10 * DAY_S), "not invoiced"),
        (listed(TRAINED, used("training", "1", at=DAY_END + 3600)), "not invoiced"),
        (listed(), "not listed"),
        (listed(used("training", "9", "theirs")), "not listed"),
        (listed(TRAINED, used("training", None)), "not priced"),
        (listed(TRAINED, used("storage", None)), "not priced"),
        (listed(TRAINED, used("other", None)), "not priced"),
    ],
)
def test_a_bill_waits_until_all_of_it_is_priced_by_an_invoice(usage: UsageList, expected: NotYet) -> None:
    assert bill_of(usage, JOB, ENDED_AT) == expected


def test_others_may_lack_their_prices() -> None:
    usage = listed(TRAINED, used("training", None, "theirs"), used("storage", None, None))
    assert bill_of(usage, JOB, ENDED_AT) == VendorBill(412_300)


def test_free_usage_is_a_bill_of_nothing() -> None:
    assert bill_of(listed(used("training", "0")), JOB, ENDED_AT) == VendorBill()


def test_only_what_was_booked_for_the_training_is_replaced() -> None:
    bill = VendorBill(412_300)
    assert corrected_micros(500_000, 410_000, bill) == 502_300
    assert corrected_micros(410_000, 410_000, bill) == 412_300
    assert corrected_micros(0, 0, bill) == 412_300
    assert corrected_micros(0, 410_000, replace(bill, storage_micros=100)) == 412_400
