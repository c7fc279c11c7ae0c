"""A job at a provider that should not be there, in words: what it is, what was done, what a person can do."""

from __future__ import annotations

from bot.views.blocks import Message, code, escape, section
from trainers.types import Job


def second(owner: str, provider: str, extra: Job) -> Message:
    """`owner`: 'Run 3'. It was cancelled."""
    return _said(
        f"*{owner} had a second job at {escape(provider)}*: {code(extra.id)} was cancelled. What it has cost until "
        f"then is on {escape(provider)}'s bill and not in the budget here: look at the bill."
    )


def wanted_no_more(owner: str, provider: str, job: Job) -> Message:
    """It was cancelled because a person had cancelled what it belongs to."""
    return _said(
        f"*{owner} was cancelled, and its job still ran at {escape(provider)}*: {code(job.id)} was cancelled there "
        f"now. What it has cost is on {escape(provider)}'s bill and not in the budget here."
    )


def runs_on(owner: str, provider: str, job: Job) -> Message:
    """Nothing was done about it."""
    return _said(
        f"*{owner} is over, and its job still runs at {escape(provider)}*: {code(job.id)}, {escape(job.status)}. "
        f"It costs on. Cancel it there, unless another bot with a copy of this database uses the same account."
    )


def unknown(provider: str, job: Job) -> Message:
    """Nothing was done about it: it may be another bot's."""
    about = ", ".join(
        f"{name} {value}" for name, value in sorted(job.metadata.items()) if name in ("run", "measurement")
    )
    return _said(
        f"*A job at {escape(provider)} carries a key of a Finetune, and no run here knows it*: {code(job.id)}, "
        f"{escape(job.model)}, {escape(job.status)}{f' (it names itself {escape(about)})' if about else ''}. After a "
        "restore it is a run that the backup doesn't know: it goes on and costs, and no budget here holds its money. "
        "Cancel it there, or let it end and take its model from there. If another Finetune uses this account, it is "
        "that one's."
    )


def _said(text: str) -> Message:
    return Message(text, (section(text),))
