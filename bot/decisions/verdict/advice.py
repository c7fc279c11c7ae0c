"""The verdict: the article's ladder, walked with what was measured, and the money. Pure; each reason has its numbers.

Go needs every rung measured and the saving likely. Before training it means "train it": the run measures the tuned
model on the same rows, and nothing is switched before that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from bot.decisions.verdict.amount_of_data import about_holdout, about_labels, about_more_rows, about_rows
from bot.decisions.verdict.facts import NOT_YET_ROWS, Evidence, Facts, Kind, Reason, Step, labelling
from bot.decisions.verdict.machine import about_machine
from bot.decisions.verdict.paying import about_money, saving_a_month
from bot.decisions.verdict.purpose import about_task
from bot.decisions.verdict.quality import about_alternatives, about_tuned
from bot.decisions.verdict.rungs import held_out
from bot.decisions.verdict.successor import about_successor
from bot.decisions.verdict.wrong_labels import about_wrong_labels
from trainers.money import usd

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
    more = labelling(NOT_YET_ROWS, "Add rows of the other labels and upload again.")
    text = f"All {facts.rows:,} rows have the same label: there is nothing to tell apart."
    return (Reason("one label", "no_go", text, step=more),)


def _open(facts: Facts, first: Reason) -> str:
    if facts.evidence.ladder is not None or facts.evidence.trained is not None:
        return f"Not decided yet. {first.text}"
    cost = _cost(facts.training_usd)
    if facts.estimate is None:
        return f"Worth measuring: a run costs {cost}. What it saves is still unknown."
    return (
        f"Worth measuring: a run costs {cost} and would save {saving_a_month(facts.estimate)} "
        f"if the tuned model is good enough."
    )


def _go(facts: Facts) -> str:
    if facts.evidence.trained is not None:
        return "Go: the tuned model is good enough, and it pays."
    return (
        f"Go: train it. A run costs {_cost(facts.training_usd)} and measures the tuned model on the same "
        f"{held_out(facts.n_holdout)}; nothing is switched before that."
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
