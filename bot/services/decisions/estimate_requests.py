"""Estimates that people ask for. A mistake in the question is answered at once; the estimate follows in a message that
only they see, and can be shared in the channel later. It may try out another bar or kind of task, which changes nothing
for others until somebody makes it the team's (`adopt`).

An ephemeral message can't carry files, so the plots come with the shared message. Only the question is stored: when the
estimate is shared, it is computed again from what is known by then.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path

from bot import logs
from bot.cards.common import general
from bot.cards.common.advice import NOT_OFFERED, Offered
from bot.cards.common.blocks import Message, code
from bot.cards.common.candidates import alternative_name
from bot.cards.common.candidates import candidate_name as kind_name
from bot.cards.common.general import text_message
from bot.cards.common.payback import forecast_chart
from bot.cards.common.prices import price_mark, tried_text
from bot.cards.common.reasons import because_text
from bot.cards.decisions import estimates as views
from bot.cards.decisions.aims import aim_facts
from bot.cards.decisions.estimate_form import AskedEstimate, EstimateChoices
from bot.cards.decisions.estimates import TriedOut
from bot.charts import forecast as drawing
from bot.command_parser import format_estimate, format_question, parse_estimate, parse_question
from bot.context import AppContext
from bot.rules.estimate_inputs import Question
from bot.rules.estimates import EstimateResult
from bot.rules.facts import TaskKind
from bot.rules.fit import aim_numbers
from bot.rules.forecast import Outlook
from bot.rules.judge_agreement import CheckedJudge
from bot.rules.models.starting_models import StartingModel
from bot.rules.plans import BestCandidate, NetValue, OtherModel, Plan, PlanVerdict, Prediction
from bot.rules.reasons import Measure, UseCandidate
from bot.services.common import authorization, candidates, messages, starting_models
from bot.services.common.starting_models import find_start
from bot.services.common.targets import find_target, with_rental_price
from bot.services.datasets import datasets, row_labels, trained_rows
from bot.services.datasets.datasets import CheckedDataset
from bot.services.datasets.row_labels import RowsToLabel
from bot.services.decisions import estimates
from bot.services.evidence import checked_judges, promotion_evidence
from bot.services.evidence.evidence import load_evidence
from bot.services.measurement import evaluations
from bot.values.requests import Baseline, Estimate
from bot.values.row_labels import USUAL_ROWS
from bot.values.runs import Refusal
from storage.records import Draft, Measurement, StoredEstimate
from trainers.evaluation.results import MeasuredCandidate, find_best
from trainers.money import to_micros
from trainers.providers.pricing import tuned_price
from trainers.providers.providers import model_verdict

log = logging.getLogger(__name__)
GONE = Refusal(
    "This estimate is no longer stored: it is over a month old, or its dataset was deleted. `/finetune estimate` makes "
    "a new one."
)


def may_ask(context: AppContext, command: Estimate, person: str, channel: str) -> Refusal | None:
    """Returns the refusal if there is one that can be found within the three seconds that Slack waits."""
    refusal = authorization.refusal(context, person, "estimate", channel)
    if refusal:
        return refusal
    checked = datasets.load_usable(context, command.dataset, person, channel)
    if isinstance(checked, Refusal):
        return checked
    start = find_start(context, command.question.target, person, channel)
    if isinstance(start, Refusal):
        return start
    return estimates.question_refusal(context.settings, command.question, context.today(), start)


def answer(
    context: AppContext, command: Estimate, person: str, channel: str, thread: str | None = None
) -> Refusal | None:
    """Computes what training would cost and save, and sends it to the person, in the thread if there is one. Returns a
    refusal if it sent that instead.

    Its thousands of draws take over a second at a cold start, so call it after the ack.
    """
    tell = partial(messages.tell_person, context, None, person, channel, topic="answers", thread_ts=thread)
    checked = datasets.load_usable(context, command.dataset, person, channel)
    if isinstance(checked, Refusal):  # the dataset has changed since `may_ask`
        tell(general.text_message(checked.text))
        return checked
    result = estimate_for_person(
        context, checked, command.question, person, channel, bar=command.bar, task=command.task
    )
    if isinstance(result, Refusal):
        tell(general.text_message(result.text))
        return result
    judge = checked_judges.judge_of_evidence(context, result.name, result.evidence)
    with context.store.transaction():
        estimate = context.store.estimates.keep(
            checked.dataset.name,
            format_estimate(command),
            channel=channel,
            person=person,
            now=context.clock(),
        )
        tell(_card(context, result, estimate, judge))
    return None


def _card(
    context: AppContext, result: EstimateResult, estimate: StoredEstimate, judge: CheckedJudge | None
) -> Message:
    return views.card(
        result,
        result.target.title,
        number=estimate.id,
        shared_by=estimate.person if estimate.state != "shown" else None,
        offered=_find_offered(context, result),
        judge=judge,
        tried=_tried_out(context, estimate),
    )


def _find_offered(context: AppContext, result: EstimateResult) -> Offered:
    """Returns whether the candidate that the verdict says to use can be used."""
    step = result.verdict.deciding.step
    if step is None or not isinstance(step.todo, UseCandidate):
        return NOT_OFFERED
    holdout = str(result.report.holdout_sha256)
    return promotion_evidence.find_offered(context, result.name, holdout, step.todo.candidate)


def _tried_out(context: AppContext, estimate: StoredEstimate) -> TriedOut | None:
    """Returns the bar and the kind of task that an estimate tries out; None if both are the team's own."""
    request = parse_estimate(estimate.dataset, estimate.asked)
    if isinstance(request, Refusal):
        return None
    standard = datasets.standard_of(context, estimate.dataset)
    bar = request.bar
    if bar == standard.bar:
        bar = None
    task = request.task
    if task == standard.task:
        task = None
    if bar is None and task is None:
        return None
    return TriedOut(bar, task, standard)


def adopt(context: AppContext, number: int, person: str) -> str | Refusal:
    """Handles the button that makes the bar and the kind of task which an estimate tried out the team's."""
    estimate = load_estimate_for(context, number, person)
    if isinstance(estimate, Refusal):
        return estimate
    refusal = authorization.refusal(context, person, "bar", estimate.channel)
    if refusal:
        return refusal
    dataset = context.store.datasets.newest(estimate.dataset)
    tried = _tried_out(context, estimate)
    if dataset is None:
        return GONE
    if tried is None:
        return Refusal(f"That is what the team requires of {code(estimate.dataset)} already.")
    with context.store.transaction():
        datasets.change_settings(context, dataset, person, bar=tried.bar, task=tried.task)
    again = f"/finetune estimate {estimate.dataset} "
    question = parse_question(estimate.asked)
    if isinstance(question, Question):
        again += format_question(question)
    return views.adopted_text(tried, dataset.channel, again)


def form_choices(context: AppContext, person: str, channel: str) -> EstimateChoices:
    """Returns the choices that the form offers."""
    day = context.today()
    targets = []
    marks = {}
    tried_with = {}
    for row in context.settings.providers:
        for model in row.models:
            if not row.trains or not model_verdict(row, model, day).may_train:
                continue
            name = f"{row.name}/{model.name}"
            targets.append(name)
            tried_with[name] = tried_text(row.tried_with)
            mark = price_mark(tuned_price(row, model), day)
            if mark:
                marks[name] = mark
    cheapest = candidates.cheapest_capable(context.settings, context.trainers, day)
    names = datasets.usable_names(context, person, channel)
    targets += starting_models.names(context, names)
    return EstimateChoices(names, targets, cheapest.model if cheapest else None, marks, tried_with)


def share(context: AppContext, number: int, person: str) -> str | Refusal:
    """Records the request to share; a tick posts the estimate. Returns the text for the person who clicked."""
    estimate = load_estimate_for(context, number, person)
    if isinstance(estimate, Refusal):
        return estimate
    refusal = authorization.dataset_refusal(
        context, estimate.dataset, person, estimate.channel, is_posted=True
    )
    if refusal:
        return refusal
    with context.store.transaction():
        if not context.store.estimates.request_share(number):
            return Refusal("This estimate was shared already. `/finetune estimate` makes a new one.")
        context.audit(person, "share", f"estimate {number}")
    return "The estimate will appear in the channel in a moment, with its plots in the thread."


def recompute(context: AppContext, number: int, person: str) -> EstimateResult | Refusal:
    """Computes a stored estimate again for the person who clicked on its card."""
    estimate = load_estimate_for(context, number, person)
    if isinstance(estimate, Refusal):
        return estimate
    # As the person who clicked: the one who asked may be allowed to see more.
    return _recompute(context, replace(estimate, person=person))


def load_estimate_for(context: AppContext, number: int, person: str) -> StoredEstimate | Refusal:
    """Returns the stored question of an estimate, or why this person may not see its answer. For somebody outside its
    channel it doesn't exist: a button carries only its number, and may be pressed elsewhere."""
    estimate = context.store.estimates.get(number)
    refusal = authorization.refusal(context, person, "estimate", estimate.channel if estimate else None)
    if refusal:
        return refusal
    if estimate is None or not _may_act_on(context, estimate, person):
        return GONE
    refusal = authorization.dataset_refusal(context, estimate.dataset, person, estimate.channel)
    return refusal or estimate


def _may_act_on(context: AppContext, estimate: StoredEstimate, person: str) -> bool:
    if estimate.channel.startswith("D"):  # a direct conversation, which has no other person
        return estimate.person == person
    return authorization.may_act_in(context, estimate.channel, person)


def measure_next(context: AppContext, number: int, person: str) -> Measurement | Refusal:
    """Handles the button on an estimate's card: measures what the verdict asks for now, since what the card offered may
    have been measured in the meantime."""
    estimate = load_estimate_for(context, number, person)
    if isinstance(estimate, Refusal):
        return estimate
    result = _recompute(context, replace(estimate, person=person))
    if isinstance(result, Refusal):
        return result
    step = result.verdict.deciding.step
    todo = step.todo if step else None
    if not isinstance(todo, Measure) or not todo.is_command:
        return outdated_step_refusal(estimate.dataset)
    command = Baseline(todo.dataset, todo.models, todo.kinds, judge=todo.judge)
    return evaluations.ask(context, command, person, estimate.channel)


def outdated_step_refusal(dataset: str) -> Refusal:
    """Refuses a button on an estimate's card whose step is out of date."""
    return Refusal(
        "This is no longer the next step, because more has been measured since. "
        f"`/finetune estimate {dataset}` says what comes next."
    )


def load_asked_estimate(context: AppContext, number: int, person: str) -> AskedEstimate | Refusal:
    """Returns the values of a stored question, to fill in a form that changes them."""
    estimate = load_estimate_for(context, number, person)
    if isinstance(estimate, Refusal):
        return estimate
    return _asked(estimate)


def newest_question(context: AppContext, dataset: str, person: str) -> AskedEstimate | None:
    """Returns this person's newest question about a dataset, to fill in the form of the next one; None if there is
    none."""
    for estimate in context.store.estimates.newest(dataset):
        if estimate.person == person:
            return _asked(estimate)
    return None


def _asked(estimate: StoredEstimate) -> AskedEstimate:
    typed = dict(word.split("=", 1) for word in estimate.asked.split())
    question = parse_question(estimate.asked)
    if isinstance(question, Question) and question.volume:
        typed["volume"] = question.volume.text
    return AskedEstimate(estimate.id, estimate.dataset, typed)


def check_labels(context: AppContext, number: int, person: str) -> str | Refusal:
    """Handles the button of an estimate whose next step is to check doubted labels: begins a batch of them."""
    estimate = load_estimate_for(context, number, person)
    if isinstance(estimate, Refusal):
        return estimate
    return row_labels.begin(context, RowsToLabel(estimate.dataset, estimate.channel, person, USUAL_ROWS))


def step(context: AppContext, estimate: StoredEstimate) -> None:
    """Has a worker process draw the plots of a shared estimate, then posts it with the plots in its thread."""
    result = _recompute(context, estimate)
    if isinstance(result, Refusal):
        with context.store.transaction():
            if context.store.estimates.mark_shared(estimate.id):
                text = f"The estimate of {estimate.dataset} could not be shared. {result.text}"
                body = text_message(text).body()
                context.send(Draft("direct", estimate.channel, body, person=estimate.person, topic="answers"))
        return
    folder = context.settings.data / "plots" / f"estimate-{estimate.id}"
    plots = draw_outlook(context, f"estimate {estimate.id}", result.outlook, folder)
    if plots is None:
        return
    card = f"estimate {estimate.id}"
    judge = checked_judges.judge_of_evidence(context, result.name, result.evidence)
    message = _card(context, result, estimate, judge)
    with context.store.transaction():
        # In one transaction with the card, so that a kill makes it appear neither twice nor never.
        if not context.store.estimates.mark_shared(estimate.id):
            return
        context.show(card, estimate.channel, message, concerns=estimate.person)
        put_plots(context, estimate.channel, card, plots, estimate.dataset, result.outlook)


def draw_outlook(
    context: AppContext, key: str, outlook: Outlook | None, folder: Path
) -> Sequence[Path] | Refusal | None:
    """Returns the plots, none if there is no outlook. Returns None while a worker draws them, a refusal if it can't."""
    if outlook is None:
        return ()
    try:
        return context.workers.poll(f"draw {key}", drawing.draw_forecast, outlook, folder)
    except Exception:
        # Whatever went wrong, the card says in words what the plots would show, so it is posted without them.
        log.exception("drawing the plots of %s", key)
        return Refusal(
            "The plots could not be drawn because of an error of the bot. The card's numbers are complete without "
            f"them. {logs.sorry()}"
        )


def put_plots(
    context: AppContext,
    channel: str,
    card: str,
    plots: Sequence[Path] | Refusal,
    dataset: str,
    outlook: Outlook | None,
) -> None:
    """Posts the plots in the card's thread, in one message, or why they are missing."""
    once = f"plots of {card}"
    if isinstance(plots, Refusal):
        messages.put_files(context, card, channel, (), topic="cards", once=once, comment=plots.text)
        return
    files = [forecast_chart(path, dataset, outlook) for path in plots]
    messages.put_files(context, card, channel, files, topic="cards", once=once)


def estimate_for_person(
    context: AppContext,
    checked: CheckedDataset,
    question: Question,
    person: str,
    channel: str,
    *,
    bar: float | None = None,
    task: TaskKind | None = None,
) -> EstimateResult | Refusal:
    """Like `estimate_for`, for a question whose target may be a tuned model, if this person may act on it."""
    start = find_start(context, question.target, person, channel)
    if isinstance(start, Refusal):
        return start
    if start is not None:
        refusal = trained_rows.overlap_refusal(context, checked.dataset, checked.report, start)
        if refusal:
            return refusal
    return estimate_for(context, checked, question, bar=bar, task=task, start=start)


def estimate_for(
    context: AppContext,
    checked: CheckedDataset,
    question: Question,
    *,
    bar: float | None = None,
    task: TaskKind | None = None,
    is_new_model: bool = False,
    start: StartingModel | None = None,
) -> EstimateResult | Refusal:
    """Makes an estimate from everything that was measured on the dataset. `bar` and `task` default to the dataset's own
    settings. With `is_new_model` the scores of models that were tuned before are left out. `start` is the tuned model
    that the question names as its target; whether somebody may name it was checked before."""
    target = find_target(context.settings.providers, question.target, start)
    if isinstance(target, Refusal):
        return target
    settings = with_rental_price(context.settings, target)
    if isinstance(settings, Refusal):
        return settings
    evidence = load_evidence(context, checked.dataset, checked.report, target, bar=bar, task=task)
    if is_new_model:
        evidence = replace(evidence, tuned=None)
    day = context.today()
    return estimates.make_estimate(
        settings,
        checked.dataset.name,
        checked.report,
        question,
        day,
        evidence,
        reachable=context.trainers,
        start=start,
    )


def question_of(plan: Plan) -> Question:
    """Returns the question of the estimate that a plan was made from. A plan without one gives a question with its
    target and epochs."""
    if plan.predicted:
        question = parse_question(plan.predicted.asked)
        if isinstance(question, Question):
            return question
    target = f"{plan.provider}/{plan.base_model}"
    if plan.starts_from is not None:
        target = plan.starts_from.name
    epochs = dict(plan.hyperparameters)["n_epochs"]
    return Question(current=plan.current, target=target, hyperparameters=(("n_epochs", epochs),))


def prediction_of(result: EstimateResult) -> Prediction:
    """Returns the predictions that a plan stores, to be compared with the actual outcome."""
    measured = [
        (kind_name(candidate.identity), round(candidate.score, 6)) for candidate in result.evidence.candidates
    ]
    prediction = Prediction(
        asked=format_question(result.question),
        is_speed_guessed=result.is_guess,
        memory=result.memory,
        measured=tuple(measured),
        advised=_verdict(result),
        volume=result.volume,
    )
    if result.evidence.tuned:
        prediction = replace(prediction, quality=result.evidence.tuned.score)
    if result.alternative:
        prediction = replace(prediction, alternative=alternative_name(result.alternative))
    if result.minutes:
        prediction = replace(prediction, seconds=round(result.minutes.expected * 60))
    outlook = result.outlook
    if outlook:
        target = f"{outlook.target_months:.4g}"
        prediction = replace(prediction, p_payback=outlook.p_payback, target_months=target)
    sums = result.estimate
    if sums:
        prediction = replace(
            prediction,
            alternative_micros=to_micros(sums.monthly_alternative.total),
            saving_micros=to_micros(sums.saving_month),
        )
    return prediction


def _verdict(result: EstimateResult) -> PlanVerdict:
    """Returns the verdict to be frozen in the plan, so that it can't change after approvers have read it."""
    decided = result.verdict
    evidence = result.evidence
    facts = decided.facts
    numbers = aim_facts(aim_numbers(facts))
    verdict = PlanVerdict(
        kind=decided.kind,
        rule=decided.rule,
        reason=because_text(decided.deciding.because),
        bar=evidence.bar,
        unmeasured=_unmeasured(result),
        task=evidence.task_kind or "",
        aim="".join(text for _, text in numbers),
    )
    best = find_best(evidence.alternatives)
    if best:
        verdict = replace(verdict, best=_best_candidate(best), scoring=best.scoring)
    if facts.has_objects and facts.floor is not None:
        verdict = replace(verdict, floor=round(facts.floor, 6))
    if evidence.is_judged:
        verdict = replace(verdict, judge=str(evidence.judge))
    sums = result.estimate
    if sums and result.outlook:
        verdict = _with_outlook(verdict, result.outlook, sums.yearly_price_fall)
    if sums:
        verdict = replace(
            verdict,
            people_micros=to_micros(sums.people_usd),
            labels_micros=to_micros(sums.labels_usd),
            machine_micros=to_micros(sums.monthly_after.hosting),
            saves_until=str(sums.saving_ends or ""),
        )
    return verdict


def _with_outlook(verdict: PlanVerdict, outlook: Outlook, price_fall: Decimal) -> PlanVerdict:
    if outlook.bearable_hours:
        verdict = replace(verdict, bearable_hours=f"{outlook.bearable_hours:f}")
    points = outlook.net_points
    if points is None:
        return verdict
    low, middle, high = map(to_micros, points)
    net = NetValue(f"{outlook.horizon_months:.4g}", low, middle, high)
    if price_fall:
        net = replace(net, price_fall=f"{price_fall:.4g}")
    return replace(verdict, net=net)


def _unmeasured(result: EstimateResult) -> OtherModel | None:
    other = result.offered
    if other is None:
        return None
    return OtherModel(other.name, to_micros(other.monthly.total))


def _best_candidate(best: MeasuredCandidate) -> BestCandidate:
    score, low, high = (round(bound, 6) for bound in (best.score, best.low, best.high))
    return BestCandidate(kind_name(best.identity), score, low, high, best.standing)


def _recompute(context: AppContext, estimate: StoredEstimate) -> EstimateResult | Refusal:
    checked = datasets.load_usable(
        context, estimate.dataset, estimate.person, estimate.channel, is_posted=True
    )
    if isinstance(checked, Refusal):
        return checked
    request = parse_estimate(estimate.dataset, estimate.asked)
    if isinstance(request, Refusal):
        return Refusal(
            f"The stored question about `{estimate.dataset}` can't be read any more. "
            f"`/finetune estimate {estimate.dataset}` makes a new estimate."
        )
    return estimate_for_person(
        context,
        checked,
        request.question,
        estimate.person,
        estimate.channel,
        bar=request.bar,
        task=request.task,
    )
