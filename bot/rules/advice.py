"""The verdict on a fine-tune: go, no-go, or what to find out next, from what was measured, the data, the
hardware and the money."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from bot.rules.candidates import held_out_rows
from bot.rules.data_amount import about_holdout, about_labels, about_more_rows, about_rows, about_wrong_labels
from bot.rules.facts import (
    NOT_YET_ROWS,
    Evidence,
    Facts,
    Kind,
    Reason,
    Step,
    answer_step,
    baseline_command,
    labelling_step,
)
from bot.rules.payback import about_money, monthly_saving_text
from bot.rules.quality import about_alternatives, about_tuned
from bot.rules.task_fit import about_task
from trainers.money import usd

CALIBRATE = answer_step("Run `finetune calibrate` on it: half a minute, best while nothing else runs.")
SMALLER = answer_step(
    "Choose a smaller model, 4 bits (`quantization=nf4`), shorter rows or a larger machine."
)
PRICE = answer_step("Say what an hour of a machine costs (usd_per_hour of the model in finetune.toml).")


def about_machine(facts: Facts) -> tuple[Reason, ...]:
    """What was trained has fitted."""
    machine, is_trained = facts.machine, facts.evidence.trained is not None
    if machine is None:
        return ()
    found = []
    if machine.too_large and not is_trained:
        found.append(Reason("memory", "no_go", machine.too_large, step=SMALLER))
    unknown = [
        "how long training takes is only guessed" if not (machine.knows_training_time or is_trained) else "",
        "how many requests it can answer is not known" if not machine.knows_serving_speed else "",
    ]
    if any(unknown):
        text = f"The speed of your own machine is not measured: {', and '.join(filter(None, unknown))}."
        found.append(Reason("machine", "unknown", text, step=CALIBRATE))
    if machine.machines is not None and machine.machines > 1 and not machine.has_price:
        text = f"This volume takes about {machine.machines:,} machines like yours, and nobody has said what one costs."
        found.append(Reason("machine", "unknown", text, step=PRICE))
    return tuple(found)


# The rule on the model that the saving is held against: it ends, and another one takes its place.


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
    step = Step(f"Measure it ({baseline_command(facts.dataset, models=[name])}).", usd=None)
    return (Reason("successor", "unknown", f"{text} It is not measured yet.", weighs=weighs, step=step),)


def _is_measured(facts: Facts, successor: str) -> bool:
    models = {rung.arm.model for rung in facts.evidence.alternatives}
    return any(model is not None and successor in (model, model.partition("/")[2]) for model in models)


# The verdict: the article's ladder, walked with what was measured, and the money. Pure; each reason has
# its numbers.
#
# Go needs every rung measured and the saving likely. Before training it means "train it": the run
# measures the tuned model on the same rows, and nothing is switched before that.


__all__ = ["Evidence", "Facts", "Kind", "Reason", "Step", "Verdict", "advise"]


NO_SAVING = "No saving is shown: this verdict is against the tuned model, whatever it would save."


@dataclass(frozen=True)
class Verdict:
    """`rule` is that of the reason which decides. `withheld` says why no saving may stand beside the verdict."""

    kind: Kind
    headline: str
    reasons: tuple[Reason, ...]
    next_step: str
    rule: str = ""
    withheld: str | None = None

    @property
    def main(self) -> Reason | None:
        """The reason that decides."""
        weighing = [one for one in self.reasons if one.weighs and one.kind == self.kind]
        return next((one for one in weighing if one.rule == self.rule), weighing[0] if weighing else None)


def advise(facts: Facts) -> Verdict:
    """No where one reason that weighs says no, open where one is open, else go.

    Money comes last, and only where nothing else says no: what a model would save counts for nothing where it may
    not, or need not, be used.
    """
    reasons = (
        *_about_target(facts),
        *_about_one_label(facts),
        *about_wrong_labels(facts),
        *about_alternatives(facts),
        *about_tuned(facts),
        *about_task(facts),
        *about_rows(facts),
        *about_labels(facts),
        *about_holdout(facts),
        *about_more_rows(facts),
        *about_machine(facts),
    )
    against = _weighing(reasons, "no_go")
    if against:
        return replace(_no(against[0], reasons), withheld=NO_SAVING)  # nor is one weighed
    reasons = (*reasons, *about_successor(facts), *about_money(facts))
    against = _weighing(reasons, "no_go")
    if against:
        return _no(against[0], reasons)
    undecided = _weighing(reasons, "unknown")
    if undecided:
        settle = min(undecided, key=lambda reason: reason.step.cost if reason.step else Decimal("Infinity"))
        return _verdict("unknown", _open(facts, settle), reasons, settle)
    return _verdict("go", _go(facts), reasons, _weighing(reasons, "go")[0], _start(facts))


def _weighing(reasons: tuple[Reason, ...], kind: Kind) -> list[Reason]:
    return [reason for reason in reasons if reason.weighs and reason.kind == kind]


def _no(first: Reason, reasons: tuple[Reason, ...]) -> Verdict:
    return _verdict("no_go", f"Not now. {first.text}", reasons, first)


def _verdict(
    kind: Kind, headline: str, reasons: tuple[Reason, ...], deciding: Reason, otherwise: str = ""
) -> Verdict:
    """The step of the deciding reason comes next; the other reasons say theirs themselves."""
    told = tuple(reason if reason is deciding else _with_step(reason) for reason in reasons)
    step = deciding.step.text if deciding.step else otherwise
    return Verdict(kind, headline, told, step, deciding.rule)


def _with_step(reason: Reason) -> Reason:
    if reason.step is None:
        return reason
    if reason.text.endswith(reason.step.text):
        return replace(reason, step=None)
    return replace(reason, text=f"{reason.text} {reason.step.text}", step=None)


def _about_target(facts: Facts) -> tuple[Reason, ...]:
    other = Step("Choose another target: a model on your own machine has no end date.")
    sentences = facts.target.reasons
    if facts.target.level == "refuse":
        first = sentences[0] if sentences else "This model can't be trained any more."
        rest = (Reason("end date", "no_go", text) for text in sentences[1:])
        return (Reason("end date", "no_go", first, step=other), *rest)
    if facts.estimate and facts.estimate.months_left == 0:
        return (Reason("end date", "no_go", "The model to train has ended already.", step=other),)
    said = (*sentences, facts.target.way_out)
    return tuple(Reason("end date", "unknown", text, weighs=False) for text in said if text)


def _about_one_label(facts: Facts) -> tuple[Reason, ...]:
    if facts.n_labels != 1:
        return ()
    more = labelling_step(NOT_YET_ROWS, "Add rows of the other labels and upload again.")
    text = f"All {facts.rows:,} rows have the same label: there is nothing to tell apart."
    return (Reason("one label", "no_go", text, step=more),)


def _open(facts: Facts, first: Reason) -> str:
    if facts.evidence.ladder is not None or facts.evidence.trained is not None:
        return f"Not decided yet. {first.text}"
    cost = _cost(facts.training_usd)
    if facts.estimate is None:
        return f"Worth measuring: a run costs {cost}. What it saves is still unknown."
    return (
        f"Worth measuring: a run costs {cost} and would save {monthly_saving_text(facts.estimate)} "
        f"if the tuned model is good enough."
    )


def _go(facts: Facts) -> str:
    if facts.evidence.trained is not None:
        return "Go: the tuned model is good enough, and it pays."
    return (
        f"Go: train it. A run costs {_cost(facts.training_usd)} and measures the tuned model on the same "
        f"{held_out_rows(facts.n_holdout)}; nothing is switched before that."
    )


def _start(facts: Facts) -> str:
    if facts.evidence.trained is not None:
        return "Put the tuned model to work, and keep today's at hand until it has proved itself."
    return f"Start a run (`/finetune start {facts.dataset}`)."


def _cost(amount: Decimal | None) -> str:
    if amount is None:
        return "an unknown sum"
    if not amount:
        return "nothing but your own machine's time"
    said = usd(amount)
    return f"about {said}" if said.startswith("$") else said


# Go, no-go, or what to find out next: rules over what was measured, the data and the money.
