"""The rule on the model that the saving is held against: it ends, and another one takes its place."""

from __future__ import annotations

from bot.decisions.verdict.facts import Facts, Reason, Step, baseline
from trainers.money import usd


def about_successor(facts: Facts) -> tuple[Reason, ...]:
    """Weighed while nobody has measured the successor: before training, since it may do without; afterwards only
    where it costs less than the tuned model."""
    made = facts.estimate
    if made is None or made.succession is None:
        return ()
    one = made.succession
    ends = f"{one.model} ends on {one.ends}"
    if one.saving_month is None:
        unknown = (
            f"what its successor {one.successor} costs is not known"
            if one.successor
            else "no successor is known"
        )
        text = f"{ends}, and {unknown}: nothing is counted as saved after that day."
        return (Reason("successor", "unknown", text, weighs=False),)
    compared = (
        f"saves {usd(one.saving_month)}" if one.saving_month >= 0 else f"costs {usd(-one.saving_month)} more"
    )
    text = f"{ends}; against its successor {one.successor} the tuned model {compared} a month."
    if _is_measured(facts, str(one.successor)):
        return (Reason("successor", "unknown", text, weighs=False),)
    weighs = facts.evidence.trained is None or one.saving_month < 0
    seller = facts.full_current.partition("/")[0] if facts.full_current else None
    name = f"{seller}/{one.successor}" if seller else str(one.successor)
    step = Step(f"Measure it ({baseline(facts.dataset, models=[name])}).", usd=None)
    return (Reason("successor", "unknown", f"{text} It is not measured yet.", weighs=weighs, step=step),)


def _is_measured(facts: Facts, successor: str) -> bool:
    models = {rung.arm.model for rung in facts.evidence.alternatives}
    return any(model is not None and successor in (model, model.partition("/")[2]) for model in models)
