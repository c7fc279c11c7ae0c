"""To whom a measurement sends rows and prompts, and whether they may go there now.

It is asked when somebody agrees to the cost, and again before questions are sent: what was found in the rows, and the
team's rules, may have changed in between.
"""

from __future__ import annotations

from bot.context import AppContext
from bot.services.datasets import data_policy
from bot.services.datasets.data_policy import Forbidden, Unsure
from bot.values.evaluations import ComparisonPlan
from bot.values.runs import Refusal
from storage.records import COMPARISON, Measurement


def egress_refusal(context: AppContext, measurement: Measurement) -> Unsure | Forbidden | None:
    """Returns why the measurement's rows and prompts may not go to its providers now, by what was found in them and by
    today's rules; None if they may."""
    overridden = data_policy.overridden_rules(context, f"measurement {measurement.id}")
    return data_policy.egress_now(
        context, measurement.dataset_id, providers(measurement), overridden, prompts_of(measurement)
    )


def agreement_refusal(context: AppContext, measurement: Measurement) -> Refusal | None:
    """Returns why nobody can agree to the measurement's cost yet: its rows or its prompts may not go to its providers.
    None if they may."""
    overridden = data_policy.overridden_rules(context, f"measurement {measurement.id}")
    names = providers(measurement)
    refusal = data_policy.dataset_refusal(context, measurement.dataset_id, names, overridden)
    if refusal:
        return Refusal(refusal)
    prompts = prompts_of(measurement)
    return data_policy.prompts_refusal(context, prompts, measurement.dataset_id, names)


def providers(measurement: Measurement) -> set[str]:
    """Returns the names of the providers that its rows are sent to."""
    # Learning curves are computed on this machine.
    if measurement.kind != COMPARISON:
        return set()
    return {name.split("/", 1)[0] for name in ComparisonPlan.from_json(measurement.plan).price_of}


def prompts_of(measurement: Measurement) -> tuple[str, ...]:
    """Returns the prompts that it was asked with, which were in no file that was scanned: the one that a person typed,
    and the one that an earlier measurement found."""
    if measurement.kind != COMPARISON:
        return ()
    plan = ComparisonPlan.from_json(measurement.plan)
    # The prompt of its own search was written at these providers, from rows that may go there.
    is_found_earlier = plan.search is None and any(
        candidate.kind == "optimised" for candidate in plan.candidates
    )
    texts = []
    if plan.prompt:
        texts.append(plan.prompt)
    if plan.optimised and is_found_earlier:
        texts.append(plan.optimised)
    return tuple(texts)
