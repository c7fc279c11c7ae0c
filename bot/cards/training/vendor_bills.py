"""What a run's thread reads of the vendor's bill: that it corrects what was booked, or why it can't be read. The figure
on the result's card is in results.py."""

from __future__ import annotations

from bot.cards.common.blocks import Message, code, escape
from bot.cards.common.general import text_message
from bot.cards.common.words import pluralize
from bot.rules.training.vendor_bills import VendorBill
from storage.records import Run
from trainers.money import from_micros

NOT_ALLOWED = (401, 403)


def corrected(title: str, run: Run, bill: VendorBill, booked_micros: int, spent_micros: int) -> Message:
    """`title` is the vendor's. The run was booked with `booked_micros` for its training, and has cost `spent_micros` in
    all now."""
    billed = f"{escape(title)}'s bill for run {run.id}: {exact(bill.micros)}{_parts(bill)}"
    booked = f"booked before: {exact(booked_micros)}"
    return text_message(f"{billed}, {booked}. In all the run has cost {exact(spent_micros)}.")


def audit_detail(bill: VendorBill, booked_micros: int) -> str:
    return f"{exact(bill.micros)}{_parts(bill)}, booked before: {exact(booked_micros)}"


def refused(title: str, run: Run, variable: str, status: int) -> Message:
    """`variable` holds the key that the vendor refused with this HTTP status."""
    return text_message(
        f"{escape(title)}'s bill for run {run.id} can't be read: {key_refused(title, variable, status)} Until then the "
        "run's cost is its tokens times the list price."
    )


def key_refused(title: str, variable: str, status: int) -> str:
    """Why an administrator's key is of no use, with the cure; mrkdwn."""
    if status in NOT_ALLOWED:
        return (
            f"{escape(title)} refuses the key in {code(variable)} (HTTP {status}). Reading bills takes the key of an "
            "administrator or billing administrator of the organization. Set one where the bot runs, and restart it."
        )
    return f"{escape(title)} refuses to list its bills (HTTP {status}). The bot asks again each day."


def given_up(title: str, run: Run, days: int) -> Message:
    return text_message(
        f"{escape(title)} has listed no final bill for run {run.id} within {pluralize(days, 'day')}, so its cost stays "
        f"what was booked: its tokens times the list price. Compare it with the bill in {escape(title)}'s console."
    )


def exact(micros: int) -> str:
    """An amount with four decimals, since a small training costs less than a cent: $0.4123."""
    return f"${from_micros(micros):,.4f}"


def _parts(bill: VendorBill) -> str:
    """What the bill consists of; '' if it is all training."""
    if bill.micros == bill.training_micros:
        return ""
    parts = {
        "training": bill.training_micros,
        "sampling": bill.sampling_micros,
        "checkpoints": bill.checkpoint_micros,
        "storage": bill.storage_micros,
        "other usage": bill.other_micros,
    }
    billed = [f"{name} {exact(micros)}" for name, micros in parts.items() if micros]
    return f" ({', '.join(billed)})"
