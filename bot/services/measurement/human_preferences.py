"""Lets people compare the answers of the two best candidates, pair by pair, in the thread of the result, without seeing
which candidate gave which answer. For results without a judge; where a model judged, people check it (judge_checks.py).

The answers hold customers' words, so they are shown only in the dataset's own channel, if that is private. Each person
gets their own cards, so that nobody sees somebody else's choice, or the order of their answers, before choosing.
"""

from __future__ import annotations

import hashlib

from bot.cards.common import judge_agreement as views
from bot.cards.common.words import pluralize
from bot.context import AppContext
from bot.rules.judge_agreement import MIN_LABELS
from bot.services.common import authorization
from bot.services.evidence import checked_judges
from bot.services.evidence.judge_worker import PairForPeople, PairsForPeople
from bot.services.measurement import measurements
from bot.values.runs import Refusal
from storage.records import Measurement, Preference
from trainers.evaluation.scores import Choice

AT_ONCE = 10


def ask(context: AppContext, number: int, person: str) -> str | Refusal:
    """Posts this person's next pair in the thread of the result, unless it is there already."""
    opened = _load_pairs(context, number, person)
    if isinstance(opened, Refusal):
        return opened
    measurement, pairs = opened
    with context.store.transaction():
        rows = _remaining_pairs(context, measurement, pairs, person)
        if not rows:
            compared = pluralize(len(pairs.rows), "pair")
            return f"You have judged all {compared} of m{number}. Thank you."
        _post(context, measurement, pairs, rows, person)
    return f"Your next pair is in the thread under the result of m{number}."


def choose(context: AppContext, key: str, choice: Choice, person: str) -> Refusal | None:
    """Records a choice, once, and shows it on the card. The next pair follows, with a pause after every ten. `key` is
    'measurement row person'."""
    number, row, whose = key.split(" ")
    # The order of the answers was drawn for one person.
    if whose != person:
        own = f"Press “{views.JUDGE_SOME_WORDS}” on the result for pairs of your own."
        return Refusal(f"This pair is for <@{whose}>. {own}")
    opened = _load_pairs(context, int(number), person)
    if isinstance(opened, Refusal):
        return opened
    measurement, pairs = opened
    of_row = [pair for pair in pairs.rows if pair.row == int(row)]
    if not of_row:
        return Refusal("This pair no longer belongs to the measurement.")
    pair = of_row[0]
    with context.store.transaction():
        now = context.clock()
        first = pairs.first_candidate.key
        second = pairs.second_candidate.key
        if _is_swapped(measurement, pair, person):
            first, second = second, first
        preference = Preference(measurement.id, pair.row, first, second, person, choice, now)
        if not context.store.preferences.add(preference):
            return Refusal("You have judged this pair already; your first choice stands.")
        texts = _ordered_texts(measurement, pair, person)
        message = views.choice_card(pair.question, *texts, choice, person)
        card = _card_name(measurement, pair, person)
        context.show(card, measurement.channel, message, private=True)
        rows = _remaining_pairs(context, measurement, pairs, person)
        done = len(pairs.rows) - len(rows)
        is_pause = done % AT_ONCE == 0
        if rows and not is_pause:
            _post(context, measurement, pairs, rows, person)
        _show_agreement(context, measurement, pairs)
    return None


def measurement_to_judge(context: AppContext, number: int, person: str) -> Measurement | Refusal:
    """Returns the measurement if its answers may be shown in its channel, to be judged by this person."""
    measurement = context.store.measurements.get(number)
    channel = None
    if measurement is not None:
        channel = measurement.channel
    refusal = authorization.refusal(context, person, "measure", channel)
    if refusal:
        return refusal
    if measurement is None or measurement.state != "done":
        return measurements.state_refusal(number, measurement)
    unreadable = measurements.unreadable_refusal(measurement)
    if unreadable:
        return unreadable
    dataset = context.store.datasets.get(measurement.dataset_id)
    if not authorization.may_show_rows(context, dataset, measurement.channel):
        return Refusal(
            "The answers may hold customers' words, so they are shown only in the channel that the dataset belongs to, "
            "and only if that is private."
        )
    return measurement


def _load_pairs(
    context: AppContext, number: int, person: str
) -> tuple[Measurement, PairsForPeople] | Refusal:
    measurement = measurement_to_judge(context, number, person)
    if isinstance(measurement, Refusal):
        return measurement
    pairs = measurements.pairs_for_people(context, measurement)
    if pairs is None or not pairs.rows:
        return Refusal(
            f"The answers of m{number} are no longer on this machine, or no two of them differ. Measure again: stored "
            "answers cost nothing."
        )
    return measurement, pairs


def _remaining_pairs(
    context: AppContext, measurement: Measurement, pairs: PairsForPeople, person: str
) -> list[PairForPeople]:
    choices = context.store.preferences.of(measurement.id)
    done = {choice.row for choice in choices if choice.person == person}
    return [pair for pair in pairs.rows if pair.row not in done]


def _post(
    context: AppContext,
    measurement: Measurement,
    pairs: PairsForPeople,
    rows: list[PairForPeople],
    person: str,
) -> None:
    pair = rows[0]
    done = len(pairs.rows) - len(rows)
    next_pause = (done // AT_ONCE + 1) * AT_ONCE
    wanted = min(next_pause, len(pairs.rows))
    key = f"{measurement.id} {pair.row} {person}"
    texts = _ordered_texts(measurement, pair, person)
    message = views.question_card(key, pair.question, *texts, done=done, wanted=wanted)
    card = _card_name(measurement, pair, person)
    thread = measurements.result_card_of(context, measurement)
    context.show(card, measurement.channel, message, thread=thread, private=True)


def _show_agreement(context: AppContext, measurement: Measurement, pairs: PairsForPeople) -> None:
    """From ten choices on, shows the agreement on a card of its own and on the result's card."""
    agreement = checked_judges.preferences_of(context, measurement)
    if agreement.labels < MIN_LABELS or measurement.result is None:
        return
    first = pairs.first_candidate
    second = pairs.second_candidate
    message = views.agreement_card(measurement.id, agreement, first, second)
    result_card = measurements.result_card_of(context, measurement)
    channel = measurement.channel
    context.show(f"agreement {measurement.id}", channel, message, thread=result_card)
    result = measurements.result_card(context, measurement, measurement.result, for_people=True)
    context.show(result_card, channel, result)


def _ordered_texts(measurement: Measurement, pair: PairForPeople, person: str) -> tuple[str, str]:
    if _is_swapped(measurement, pair, person):
        return pair.second, pair.first
    return pair.first, pair.second


def _is_swapped(measurement: Measurement, pair: PairForPeople, person: str) -> bool:
    """True if this person sees the better candidate's answer second. A hash decides, so that it stays the same."""
    text = f"{measurement.id} {pair.row} {person}"
    drawn = hashlib.sha256(text.encode()).digest()
    return drawn[0] % 2 == 1


def _card_name(measurement: Measurement, pair: PairForPeople, person: str) -> str:
    return f"pair {measurement.id} {pair.row} {person}"
