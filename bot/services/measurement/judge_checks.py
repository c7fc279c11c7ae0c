"""Lets people judge answers that a judge model has judged, one at a time, in the thread of a result: is this answer
acceptable? They see the right answer, but neither the candidate nor the judge's verdict.

What they say counts for the judge and the dataset, in all measurements. Answers hold customers' words, so they are
shown only where human_preferences shows pairs of answers, which is what people compare if there was no judge.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bot.cards.common.words import pluralize
from bot.cards.evidence import judge_checks as views
from bot.context import AppContext
from bot.rules.judge_agreement import UNCHECKED
from bot.rules.plans import plan_from_json
from bot.services.evidence import checked_judges, judge_worker, notifications
from bot.services.evidence.judge_worker import AnswerForPeople
from bot.services.evidence.measured_candidates import folder_of, judge_of
from bot.services.measurement import human_preferences, measurements
from bot.services.measurement.human_preferences import AT_ONCE
from bot.values.runs import Refusal
from storage.records import HumanVerdict, Measurement

KEY_LENGTH = 16  # letters of an answer's hash in a button's value


def ask(context: AppContext, number: int, person: str) -> str | Refusal:
    """Posts this person's next answer in the thread of the result, unless it is there already. Without a judge, posts a
    pair of answers to compare."""
    measurement = human_preferences.measurement_to_judge(context, number, person)
    if isinstance(measurement, Refusal):
        return measurement
    answers = _answers(context, measurement)
    if not answers:
        return human_preferences.ask(context, number, person)
    with context.store.transaction():
        waiting = _waiting(context, measurement, answers, person)
        if not waiting:
            answered = pluralize(len(answers), "answer")
            return f"You have judged all {answered} of m{number}. Thank you."
        _post(context, measurement, answers, waiting, person)
    return f"Your next answer to judge is in the thread under the result of m{number}."


def choose(context: AppContext, button: str, value: str, person: str) -> Refusal | None:
    """Records a verdict, once, and shows it on the card. The next answer follows, with a pause after every ten. `value`
    is 'measurement answer person'."""
    number, key, whose = value.split(" ")
    # The card was made for one person, who has not seen others' verdicts.
    if whose != person:
        own = f"Press “{views.CHECK_JUDGE_WORDS}” on the result for answers of your own."
        return Refusal(f"This answer is for <@{whose}>. {own}")
    measurement = human_preferences.measurement_to_judge(context, int(number), person)
    if isinstance(measurement, Refusal):
        return measurement
    answers = _answers(context, measurement)
    matching = [answer for answer in answers if answer.key.startswith(key)]
    if not matching:
        return Refusal("This answer no longer belongs to the measurement.")
    answer = matching[0]
    dataset = context.store.datasets.get(measurement.dataset_id)
    verdict = HumanVerdict(
        dataset=dataset.name,
        judge=str(judge_of(measurement)),
        measurement_id=measurement.id,
        answer=answer.key,
        judged=answer.judged,
        person=person,
        verdict=views.VERDICTS[button],
        at=context.clock(),
    )
    with context.store.transaction():
        if not context.store.human_verdicts.add(verdict):
            return Refusal("You have judged this answer already; your first verdict stands.")
        message = views.verdict_card(answer.question, answer.expected, answer.answer, verdict.verdict, person)
        card = _card_name(measurement, answer, person)
        context.show(card, measurement.channel, message, private=True)
        waiting = _waiting(context, measurement, answers, person)
        done = len(answers) - len(waiting)
        is_pause = done % AT_ONCE == 0
        if waiting and not is_pause:
            _post(context, measurement, answers, waiting, person)
        _show_checks(context, measurement)
    return None


def _answers(context: AppContext, measurement: Measurement) -> tuple[AnswerForPeople, ...]:
    return judge_worker.read_answers(folder_of(context, measurement))


def _waiting(
    context: AppContext, measurement: Measurement, answers: Sequence[AnswerForPeople], person: str
) -> list[AnswerForPeople]:
    """Returns the answers that this person has not judged, those that fewest people have judged first: a second person
    who judges other answers says more about the judge than one who judges the same."""
    dataset = context.store.datasets.get(measurement.dataset_id)
    judge = str(judge_of(measurement))
    verdicts = context.store.human_verdicts.on(dataset.name, judge)
    mine = {verdict.answer for verdict in verdicts if verdict.person == person}
    judged = Counter(verdict.answer for verdict in verdicts)
    waiting = [answer for answer in answers if answer.key not in mine]
    waiting.sort(key=lambda answer: judged[answer.key])
    return waiting


def _post(
    context: AppContext,
    measurement: Measurement,
    answers: Sequence[AnswerForPeople],
    waiting: Sequence[AnswerForPeople],
    person: str,
) -> None:
    answer = waiting[0]
    done = len(answers) - len(waiting)
    next_pause = (done // AT_ONCE + 1) * AT_ONCE
    wanted = min(next_pause, len(answers))
    value = f"{measurement.id} {answer.key[:KEY_LENGTH]} {person}"
    message = views.answer_card(
        value,
        answer.question,
        answer.expected,
        answer.answer,
        done=done,
        wanted=wanted,
    )
    thread = measurements.result_card_of(context, measurement)
    card = _card_name(measurement, answer, person)
    context.show(card, measurement.channel, message, thread=thread, private=True)


def _show_checks(context: AppContext, measurement: Measurement) -> None:
    """From ten answers on, shows how far people agree on a card of its own and on the result's card."""
    judge = checked_judges.judge_of_measurement(context, measurement, may_show=True)
    checks = UNCHECKED
    if judge:
        checks = judge.checks
    if checks.answers < AT_ONCE or measurement.result is None:
        return
    channel = measurement.channel
    message = views.checks_card(measurement.id, str(judge_of(measurement)), checks)
    result_card = measurements.result_card_of(context, measurement)
    context.show(f"agreement {measurement.id}", channel, message, thread=result_card)
    result = measurements.result_card(context, measurement, measurement.result, for_people=True)
    context.show(result_card, channel, result)
    _update_runs(context, measurement)


def _update_runs(context: AppContext, measurement: Measurement) -> None:
    """Shows the new agreement on the results of runs that this judge has scored."""
    dataset = context.store.datasets.get(measurement.dataset_id)
    versions = context.store.datasets.versions(dataset.name)
    ids = tuple(version.id for version in versions)
    judge = judge_of(measurement)
    for run in context.store.runs.done(ids):
        plan = plan_from_json(run.plan)
        if plan.judge == judge:
            notifications.update_result(context, run)


def _card_name(measurement: Measurement, answer: AnswerForPeople, person: str) -> str:
    return f"answer {measurement.id} {answer.key[:KEY_LENGTH]} {person}"
