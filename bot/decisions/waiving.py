"""Personal data on its way to a vendor: when it takes somebody's recorded word, and what such a word is. Pure."""

from __future__ import annotations

from collections.abc import Collection

from bot.decisions.approval import LEAST_WORDS, Denied, says_something

PERSONAL_DATA, SECRET = (
    "personal_data",
    "secret",
)  # codes of findings, as in trainers/dataset/rules/sensitive.py


def needs_waiver(codes: Collection[str], *, stays_here: bool) -> bool:
    """`codes` of a report's findings. `stays_here`: it goes to our own trainer on this machine and no further."""
    return PERSONAL_DATA in codes and not stays_here


def is_no_reason(reason: str) -> Denied | None:
    """None where `reason` says why the data may leave."""
    if says_something(reason):
        return None
    return Denied(
        f"Say in at least {LEAST_WORDS} words why this data may leave, "
        f"like: the customers agreed, ticket LEGAL-12."
    )
