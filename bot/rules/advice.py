"""The verdict on a fine-tune: go, no-go, or what to find out next. It follows from the measurements, the data, the
hardware and the money. Pure: reasons carry numbers, and bot/cards/common/reasons.py has their sentences.

"Go" requires that every candidate was measured and that a saving is likely. Before training it means "train it": the
run then measures the tuned model on the same rows, and nothing is deployed before that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal

from bot.rules.facts import NOT_YET_ROWS, Evidence, Facts
from bot.rules.fit import (
    holdout_reasons,
    label_reasons,
    more_rows_reasons,
    row_reasons,
    task_reasons,
    wrong_label_reasons,
)
from bot.rules.payback import cheap_model_reasons, money_reasons, successor_step
from bot.rules.plans import VerdictKind
from bot.rules.quality import alternative_reasons, tuned_reasons
from bot.rules.reasons import (
    AlternativeEnds,
    Because,
    JudgeDistrusted,
    MachinesUnpriced,
    OneLabel,
    QuotedSentence,
    Reason,
    SetUp,
    SpeedUnknown,
    Step,
    StoredByNewerVersion,
    answer_step,
    labelling_step,
)

KINDS: tuple[VerdictKind, ...] = ("go", "no_go", "unknown")


@dataclass(frozen=True)
class Verdict:
    """`deciding` is the reason that settled the verdict. `withholds_saving` is true if the verdict is against the tuned
    model whatever it would save, so that no saving is shown beside it."""

    kind: VerdictKind
    reasons: tuple[Reason, ...]
    deciding: Reason
    facts: Facts
    withholds_saving: bool = False

    @property
    def rule(self) -> str:
        return self.deciding.rule

    @property
    def main_reasons(self) -> tuple[Reason, ...]:
        """The strongest reason of each kind: the deciding one, or else the first that weighs. A measured score of the
        tuned model comes before everything else that speaks for it."""

        def strength(reason: Reason) -> tuple[bool, bool, bool]:
            is_tuned = reason.rule == "tuned" and reason.kind == "go"
            return not is_tuned, reason is not self.deciding, not reason.weighs

        by_kind = [[reason for reason in self.reasons if reason.kind == kind] for kind in KINDS]
        return tuple(min(reasons, key=strength) for reasons in by_kind if reasons)


def advise(facts: Facts) -> Verdict:
    """Returns no-go if any weighing reason says no, unknown if one is open, and go otherwise.

    Money is considered last, and only if nothing else says no: the saving of a model that must not or need not be used
    is irrelevant.
    """
    one_label: tuple[Reason, ...] = ()
    if facts.n_labels == 1:
        more = labelling_step(NOT_YET_ROWS, "add rows of other labels")
        one_label = (Reason("one label", "no_go", OneLabel(facts.rows), step=more),)
    reasons = (
        *_target_reasons(facts),
        *one_label,
        *wrong_label_reasons(facts),
        *_measured_reasons(facts),
        *_left_out_reasons(facts.evidence),
        *task_reasons(facts),
        *row_reasons(facts),
        *label_reasons(facts),
        *holdout_reasons(facts),
        *more_rows_reasons(facts),
        *_machine_reasons(facts),
    )
    against = _weighing_reasons(reasons, "no_go")
    if against:
        return Verdict("no_go", reasons, against[0], facts, withholds_saving=True)
    reasons = (*reasons, *_successor_reasons(facts), *cheap_model_reasons(facts), *money_reasons(facts))
    against = _weighing_reasons(reasons, "no_go")
    if against:
        return Verdict("no_go", reasons, against[0], facts)
    undecided = _weighing_reasons(reasons, "unknown")
    if undecided:
        return Verdict("unknown", reasons, min(undecided, key=lambda each: _urgency(each, facts)), facts)
    return Verdict("go", reasons, _weighing_reasons(reasons, "go")[0], facts)


def _measured_reasons(facts: Facts) -> tuple[Reason, ...]:
    """What the scores say. If people disagree with the judge that gave them, they don't weigh."""
    evidence = facts.evidence
    measured = (*alternative_reasons(facts), *tuned_reasons(facts))
    if not evidence.is_judge_distrusted:
        return measured
    checks = evidence.judge_checks
    distrusted = JudgeDistrusted(str(evidence.judge), checks.agreed, checks.answers)
    return (
        Reason("judge", "unknown", distrusted, step=answer_step("another judge")),
        *(replace(reason, weighs=False) for reason in measured),
    )


def _left_out_reasons(evidence: Evidence) -> tuple[Reason, ...]:
    """Names the measurements that a newer version stored. That doesn't weigh, or a team that stays with this version
    could never decide anything on these rows."""
    if not evidence.left_out:
        return ()
    return (Reason("newer version", "unknown", StoredByNewerVersion(evidence.left_out), weighs=False),)


def rests_on_scores(verdict: Verdict) -> bool:
    """True if the deciding reason is what the measured scores say."""
    facts = verdict.facts
    return verdict.deciding in (*alternative_reasons(facts), *tuned_reasons(facts))


def _weighing_reasons(reasons: tuple[Reason, ...], kind: VerdictKind) -> list[Reason]:
    return [reason for reason in reasons if reason.weighs and reason.kind == kind]


def _urgency(reason: Reason, facts: Facts) -> tuple[bool, bool, bool, Decimal]:
    """Orders open questions, the headline first: a loss, then what could still turn the verdict against training, and
    then the rest; in each group what can be done here, and then what costs least."""
    is_loss = reason.rule == "net value"
    can_be_done = reason.step is None or not isinstance(reason.step.todo, SetUp)
    cost = reason.step.cost if reason.step else Decimal("Infinity")
    return not is_loss, not _could_turn_to_no(reason, facts), not can_be_done, cost


def _could_turn_to_no(reason: Reason, facts: Facts) -> bool:
    """True if an answer to the open question could be a reason against training.

    More rows than the minimum only make a go more certain, and the speed of a machine that costs nothing changes
    neither money nor quality."""
    step = reason.step
    if reason.rule == "rows":
        return step is not None and step.todo == "say the task"
    if isinstance(reason.because, SpeedUnknown):
        return facts.machine is None or not facts.machine.is_free
    return True


def _target_reasons(facts: Facts) -> tuple[Reason, ...]:
    other = Step("choose another target")
    sentences = facts.target.reasons
    if facts.target.level == "refuse":
        first: Because = QuotedSentence(sentences[0]) if sentences else "target ended"
        rule = "closed" if facts.target.is_closed else "end date"
        rest = (Reason("end date", "no_go", QuotedSentence(text)) for text in sentences[1:])
        return (Reason(rule, "no_go", first, step=other), *rest)
    if facts.estimate and facts.estimate.months_left == 0:
        return (Reason("end date", "no_go", "target ended", step=other),)
    notes = (*sentences, facts.target.way_out)
    return tuple(Reason("end date", "unknown", QuotedSentence(text), weighs=False) for text in notes if text)


def _machine_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Memory, speed and price of the team's own machine, and the speed of a vendor's. Memory is no question once the
    model has been trained."""
    machine, is_trained = facts.machine, facts.evidence.trained is not None
    if facts.is_vendor_speed_unknown and facts.is_for_money:
        of_vendor = SpeedUnknown(of_training=False, of_serving=True, of_vendor=True)
        return (Reason("machine", "unknown", of_vendor, step=answer_step("say the serving speed")),)
    if machine is None:
        return ()
    reasons = []
    if machine.too_large and not is_trained:
        smaller = answer_step("train something smaller")
        reasons.append(Reason("memory", "no_go", machine.too_large, step=smaller))
    unknown = SpeedUnknown(
        of_training=not (machine.knows_training_time or is_trained),
        of_serving=not machine.knows_serving_speed,
    )
    if unknown.of_training or unknown.of_serving:
        reasons.append(Reason("machine", "unknown", unknown, step=answer_step("calibrate")))
    if machine.machines is not None and machine.machines > 1 and not machine.has_price:
        price = answer_step("say the machine's price")
        reasons.append(Reason("machine", "unknown", MachinesUnpriced(machine.machines), step=price))
    return tuple(reasons)


def _successor_reasons(facts: Facts) -> tuple[Reason, ...]:
    """The model that the saving is compared with will be shut down and replaced by a successor.

    This weighs until the successor has been measured: before training, because the successor may make it unnecessary;
    after training, only if the successor costs less than the tuned model.
    """
    estimate = facts.estimate
    if estimate is None or estimate.succession is None:
        return ()
    succession = estimate.succession
    step = successor_step(facts)
    because = AlternativeEnds(succession, is_measured=step is None)
    is_comparable = succession.saving_month is not None or succession.ends_too
    if step is None or not is_comparable:
        return (Reason("successor", "unknown", because, weighs=False),)
    costs_less = succession.saving_month is not None and succession.saving_month < 0
    weighs = facts.evidence.trained is None or costs_less
    return (Reason("successor", "unknown", because, weighs=weighs, step=step),)
