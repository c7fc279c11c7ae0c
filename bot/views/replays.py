"""What a person reads whose command or click was cut off by the bot's end."""

from __future__ import annotations

from collections.abc import Sequence

from bot.views.blocks import Message, code, cut, escape, section


def too_late(typed: str | None) -> Message:
    """`typed`: the command; None: a click or a form."""
    what = code(cut(typed, 200)) if typed else "What you clicked"
    return _said(
        f"{what} reached the bot as it was being ended, and was not carried out. Do it again if you still want it."
    )


def refused(complaints: Sequence[str]) -> Message:
    """Of a form that is closed by now."""
    return _said(
        "Your form reached the bot as it was being ended, and can't be taken as it is: "
        + " ".join(escape(one) for one in complaints)
    )


def _said(text: str) -> Message:
    return Message(text, (section(text),))
