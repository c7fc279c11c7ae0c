"""The verdict on a fine-tune: go, no-go, or what to find out next. The rules on the target, the machine and the money
are here; those on scores are in quality.py, those on task and data in fit.py. Pure: reasons carry numbers, and
bot/cards/common/reasons.py has their sentences.

"Go" requires that every candidate was measured and that a saving is likely. Before training it means "train it": the
run then measures the tuned model on the same rows, and nothing is deployed before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Literal

from bot.rules.facts import LONGEST_PAYBACK_MONTHS, NOT_YET_ROWS, Evidence, Facts, TaskKind
from bot.rules.fit import (
    holdout_reasons,
    label_reasons,
    more_rows_reasons,
    row_reasons,
    task_reasons,
    wrong_label_reasons,
)
from bot.rules.forecast import LIKELY, UNLIKELY, Outlook
from bot.rules.plans import VerdictKind
from bot.rules.prices import MissingPrice
from bot.rules.quality import alternative_reasons, tuned_reasons
from bot.rules.reasons import (
    AimWords,
    AlternativeEnds,
    CheapModelUntried,
    FillGap,
    JudgeDistrusted,
    LabelRows,
    MachinesUnpriced,
    Measure,
    ModelEnd,
    OneLabel,
    OnlyWay,
    Payback,
    PinDown,
    PriceGap,
    PriceOfBetter,
    QuotedSentence,
    Reason,
    SetUp,
    SpeedUnknown,
    Step,
    StoredByNewerVersion,
    UseCandidate,
    answer_step,
    labelling_step,
)
from bot.rules.roi import Estimate, Succession
from bot.rules.swings import UNKNOWN_HOURS
from trainers.models.model_list import strip_effort

# Our own estimate of the least time that somebody spends on reading the verdict, approving and deploying.
LEAST_HOURS = Decimal("0.25")
_AIMS: Mapping[TaskKind | None, AimWords] = {"latency": "faster answers", "style": "answers in your tone"}
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
            is_deciding = reason is self.deciding
            return not is_tuned, not is_deciding, not reason.weighs

        strongest = []
        for kind in KINDS:
            of_kind = [reason for reason in self.reasons if reason.kind == kind]
            if of_kind:
                strongest.append(min(of_kind, key=strength))
        return tuple(strongest)


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
    reasons = (
        *reasons,
        *_successor_reasons(facts),
        *cheap_model_reasons(facts),
        *money_reasons(facts),
    )
    against = _weighing_reasons(reasons, "no_go")
    if against:
        return Verdict("no_go", reasons, against[0], facts)
    undecided = _weighing_reasons(reasons, "unknown")
    if undecided:
        most_urgent = min(undecided, key=lambda reason: _urgency(reason, facts))
        return Verdict("unknown", reasons, most_urgent, facts)
    in_favour = _weighing_reasons(reasons, "go")
    return Verdict("go", reasons, in_favour[0], facts)


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
    stored = StoredByNewerVersion(evidence.left_out)
    return (Reason("newer version", "unknown", stored, weighs=False),)


def rests_on_scores(verdict: Verdict) -> bool:
    """True if the deciding reason is what the measured scores say."""
    facts = verdict.facts
    by_scores = (*alternative_reasons(facts), *tuned_reasons(facts))
    return verdict.deciding in by_scores


NextAction = Literal["start", "check the judge", "use it", "do the step", "start anyway"]


def next_action(
    verdict: Verdict, *, can_check_judge: bool, can_use: bool, can_do_step: bool
) -> NextAction | None:
    """Returns what can be done about the verdict next; None if nothing can, or only against it. The judge is checked
    before anything that rests on its scores, except for the last measurements that the verdict lacks.

    `can_use` is true if one click deploys the candidate that the verdict names. `can_do_step` is true if the step that
    the verdict asks for can be done from where it is read."""
    is_trained = verdict.facts.evidence.trained is not None
    if verdict.kind == "go":
        # A trained model is deployed, not trained again.
        return None if is_trained else "start"
    step = verdict.deciding.step
    todo = None
    if step is not None:
        todo = step.todo
    if can_check_judge and rests_on_scores(verdict) and not isinstance(todo, Measure):
        return "check the judge"
    if can_use and isinstance(todo, UseCandidate):
        return "use it"
    if can_do_step:
        return "do the step"
    if verdict.kind == "no_go" or is_trained:
        return None
    return "start anyway"


def may_start_anyway(verdict: Verdict) -> bool:
    """True if the next step is to label more rows or else to start: then both are offered."""
    step = verdict.deciding.step
    if verdict.kind != "unknown" or step is None:
        return False
    return isinstance(step.todo, LabelRows)


def _weighing_reasons(reasons: tuple[Reason, ...], kind: VerdictKind) -> list[Reason]:
    return [reason for reason in reasons if reason.weighs and reason.kind == kind]


def _urgency(reason: Reason, facts: Facts) -> tuple[bool, bool, bool, Decimal]:
    """Orders open questions, the headline first: a loss, then what could still turn the verdict against training, and
    then the rest; in each group what can be done here, and then what costs least."""
    is_loss = reason.rule == "net value"
    can_be_done = reason.step is None or not isinstance(reason.step.todo, SetUp)
    cost = Decimal("Infinity")
    if reason.step:
        cost = reason.step.cost
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
        rule = "end date"
        if facts.target.is_closed:
            rule = "closed"
        if not sentences:
            return (Reason(rule, "no_go", "target ended", step=other),)
        first, *further = sentences
        rest = (Reason("end date", "no_go", QuotedSentence(text)) for text in further)
        return (Reason(rule, "no_go", QuotedSentence(first), step=other), *rest)
    if facts.estimate and facts.estimate.months_left == 0:
        return (Reason("end date", "no_go", "target ended", step=other),)
    notes = (*sentences, facts.target.way_out)
    reasons = []
    for text in filter(None, notes):
        reasons.append(Reason("end date", "unknown", QuotedSentence(text), weighs=False))
    return tuple(reasons)


def _machine_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Memory, speed and price of the team's own machine, and the speed of a vendor's. Memory is no question once the
    model has been trained."""
    machine = facts.machine
    is_trained = facts.evidence.trained is not None
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


# Money.


def money_reasons(facts: Facts) -> tuple[Reason, ...]:
    """An unknown saving is an open question. Returns nothing for a model that has ended, and nothing if money is not
    the aim and the costs are unknown too."""
    estimate = facts.estimate
    if not facts.is_for_money:
        # The cost of better or faster answers doesn't weigh: the people who want them decide whether they are worth it.
        if estimate is None or estimate.months_left == 0:
            return ()
        aim = PriceOfBetter(estimate, _AIMS.get(facts.task_kind, "better answers"))
        return (Reason("price", "unknown", aim, weighs=False),)
    if estimate is None:
        missing = facts.missing or MissingPrice("today")
        gap = PriceGap(missing, is_free=facts.run_usd == 0)
        return (Reason("cost", "unknown", gap, step=answer_step(FillGap(missing))),)
    if estimate.months_left == 0:
        # The rule on the end date reports it.
        return ()
    if estimate.monthly_input_tokens == 0:
        return (Reason("cost", "no_go", "no volume", step=answer_step("say the volume")),)
    if facts.outlook is not None:
        by_money = _reason_by_chance(estimate, facts.outlook, facts)
    else:
        by_money = _reason_by_expected_payback(estimate, facts)
    return (_excuse_only_way(by_money, facts),)


def _excuse_only_way(by_money: Reason, facts: Facts) -> Reason:
    """Turns a no because of money into an open question if only the tuned model is shown to meet the bar. Its cost is
    no reason against it until somebody has said what a wrong answer costs."""
    evidence = facts.evidence
    estimate = facts.estimate
    others_meet = any(candidate.standing == "meets" for candidate in evidence.alternatives)
    is_priced = estimate is not None and estimate.errors_avoided_usd != 0
    if by_money.kind != "no_go" or not evidence.is_good or others_meet or is_priced:
        return by_money
    if not isinstance(by_money.because, Payback):
        return by_money
    step = answer_step("say what a wrong answer costs")
    if not facts.is_today_measured:
        # Today's model may meet the bar too, and then the tuned one is not the only way.
        today = Measure("today alone", facts.dataset, models=facts.to_measure, today=facts.current)
        step = facts.measure_step(today)
    return Reason("only way", "unknown", OnlyWay(by_money.because, evidence.bar), step=step)


def _rule(estimate: Estimate) -> str:
    """'cost' if it would cost more than it saves, 'payback' if it saves too little to pay back in time."""
    if estimate.saving_month > 0:
        return "payback"
    return "cost"


def _reason_by_chance(estimate: Estimate, outlook: Outlook, facts: Facts) -> Reason:
    rule = _rule(estimate)
    pays = Payback(estimate, outlook, facts.evidence.is_good)
    if outlook.p_payback <= UNLIKELY:
        return Reason(rule, "no_go", replace(pays, caveat="unlikely"), step=stay_step(facts))
    if outlook.npv.p50 is not None and outlook.npv.p50 < 0:
        return _later_loss_reason(pays, outlook, facts)
    if estimate.bearable_hours is not None and estimate.bearable_hours < LEAST_HOURS:
        # Uses the expected hours, not the likely ones, because the sentence is about the expected saving on the card.
        little = replace(pays, caveat="too little at stake")
        return Reason("people's time", "no_go", little, step=stay_step(facts))
    if outlook.p_payback >= LIKELY:
        return _reason_if_likely(rule, pays, outlook)
    widest = max(outlook.swings, key=lambda swing: swing.width, default=None)
    name = "volume"
    if widest:
        name = widest.name
    look = PinDown(name, facts.dataset, widest)
    return Reason(rule, "unknown", pays, step=answer_step(look))


def _later_loss_reason(pays: Payback, outlook: Outlook, facts: Facts) -> Reason:
    """Returns the reason if the fine-tune may pay back in time, and loses money over the horizon all the same."""
    kind: VerdictKind = "unknown"
    if outlook.p_gain <= UNLIKELY:
        kind = "no_go"
    step = answer_step(PinDown("price of the alternative", facts.dataset))
    if pays.estimate.loss_cause == "successor" or kind == "no_go":
        step = stay_step(facts)
    return Reason("net value", kind, replace(pays, caveat="loses later"), step=step)


def _reason_if_likely(rule: str, pays: Payback, outlook: Outlook) -> Reason:
    """Returns the reason if the fine-tune is likely to pay back in time. It is still open if a week of uncounted work
    would change the answer."""
    hours = outlook.bearable_hours
    if hours is None:
        hours = pays.estimate.bearable_hours
    if hours is None or hours >= UNKNOWN_HOURS:
        return Reason(rule, "go", pays)
    unsaid = replace(pays, caveat="hours are not said", hours=hours)
    return Reason("people's time", "unknown", unsaid, step=answer_step("say the hours"))


def _reason_by_expected_payback(estimate: Estimate, facts: Facts) -> Reason:
    """Returns the reason if nothing was simulated, by the expected time to pay back."""
    months = estimate.payback_months
    pays = Payback(estimate, None, facts.evidence.is_good)
    if months is None:
        return Reason(_rule(estimate), "no_go", pays, step=stay_step(facts))
    if months > LONGEST_PAYBACK_MONTHS:
        longest = replace(pays, caveat="longer than a year")
        return Reason("payback", "no_go", longest, step=stay_step(facts))
    if months > estimate.payback_target_months:
        longer = replace(pays, caveat="longer than the target")
        step = answer_step(PinDown("volume", facts.dataset))
        return Reason("payback", "unknown", longer, step=step)
    return Reason("payback", "go", pays)


def stay_step(facts: Facts) -> Step:
    """Returns the step to leave everything as it is. If the model that the saving is compared with will be shut down,
    its successor has to be measured before that."""
    measure = successor_step(facts)
    if measure is not None:
        return measure
    if facts.estimate is not None and is_against_today(facts.estimate):
        return Step("stay")
    return Step("use what is cheaper")


def successor_step(facts: Facts) -> Step | None:
    """Returns the step that measures the successor of the model that the saving is compared with. None if that has no
    near end, or no known successor, or if the successor was measured."""
    if facts.estimate is None or facts.estimate.succession is None:
        return None
    succession = facts.estimate.succession
    name = succession.successor
    if name is None or facts.is_measured(name):
        return None
    if facts.full_current:
        seller, _, _ = facts.full_current.partition("/")
        name = f"{seller}/{name}"
    follows = ModelEnd(succession.ends, succession.model)
    measure = Measure("successor", facts.dataset, models=(name,), follows=follows)
    return facts.measure_step(measure)


def is_successor(name: str, succession: Succession | None) -> bool:
    if succession is None or succession.successor is None:
        return False
    _, _, bare = name.partition("/")
    return succession.successor in (name, bare)


def cheap_model_reasons(facts: Facts) -> tuple[Reason, ...]:
    """A model that nobody measured costs so little that it would take more than half of the saving, if it is good
    enough. It is measured before anything is trained; once the tuned model is there, only if keeping it would lose
    that much."""
    estimate = facts.estimate
    offered = facts.offered
    if estimate is None or offered is None or not facts.is_for_money or estimate.saving_month <= 0:
        return ()
    if is_successor(offered.name, estimate.succession):
        # The rule on successors asks for the same measurement.
        return ()
    left = offered.monthly.total - estimate.monthly_after.total
    # Then the tuned model would save at least half as much even against that one.
    if 2 * left >= estimate.saving_month:
        return ()
    because = CheapModelUntried(offered.name, offered.monthly.total, estimate.saving_month, left)
    is_trained = facts.evidence.trained is not None
    loss = -left
    weighs = not is_trained or 2 * loss > estimate.saving_month
    # The team may have named it with an effort of reasoning, which is then measured.
    names = [name for name in facts.to_measure if strip_effort(name) == offered.name]
    if not names:
        names = [offered.name]
    measure = Measure("cheap model", facts.dataset, models=tuple(names), usd=offered.measuring_usd)
    step = facts.measure_step(measure, offered.measuring_usd)
    return (Reason("cheap model", "unknown", because, weighs=weighs, step=step),)


def is_against_today(estimate: Estimate) -> bool:
    """True if the saving is compared with today's model, and false if with the cheapest candidate that meets the
    bar."""
    return estimate.monthly_alternative == estimate.monthly_before


def enough_volume(estimate: Estimate, outlook: Outlook | None) -> int | None:
    """Returns the input tokens per month that are likely to pay back in time, or without a simulation those that are
    expected to; None if no volume is enough."""
    if outlook:
        return outlook.likely_from
    return estimate.break_even_tokens_per_month
