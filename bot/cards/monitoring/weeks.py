"""The card of a week of calls: what they cost and saved, whether the answers are still right, and what has changed. At
most seven lines, each only if there is something to say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date

from bot.cards.common.blocks import Block, Message, button, code, escape
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import quality
from bot.cards.common.general import text_message
from bot.cards.common.words import (
    about_usd,
    charge,
    day,
    interval,
    money,
    p_value,
    percent,
    pluralize,
    shorten,
)
from bot.cards.monitoring.live_tests import judge_button, week_text
from bot.cards.monitoring.monthly_measurements import month_text
from bot.rules.models.promotion import alias_for
from bot.rules.monitoring.proposals import WeekLine, choose_lines, saved_percent
from bot.values.monitoring import (
    USUAL_LABELS,
    LiveAnswers,
    LiveTestSummary,
    MonthlyScore,
    NewModel,
    NewModelScore,
    Repetition,
    WeekFacts,
    WeekShift,
)
from storage.monitoring.watches import Watch
from trainers.money import from_micros
from trainers.recipes.samples import SampleCounts

LABEL = "label_calls"
LABEL_UNUSUAL = "label_unusual_calls"
MEASURE_NEW = "measure_new_model"
MEASURE_AGAIN = "measure_in_use_again"
PLAN_AGAIN = "plan_training_again"
LONGEST_NAME = 40
MOST_BUTTONS = 3  # of any card
WEEKS_A_MONTH = 365 / 12 / 7


@dataclass(frozen=True)
class ModelEnding:
    """A model that answers now and whose end is near. `ends` is the first day without an answer."""

    model: str
    ends: date
    days_left: int


@dataclass(frozen=True)
class WeekSummary:
    """A week of a watched dataset with what its card shows. `is_over` is False for the week so far. `live` is what
    people's labels say, None if no call can be labelled. `to_label` counts the calls that wait for a label. `new` is a
    model that is proposed, `again` says why what is in use should be trained or measured again, `month` is the
    measurement of what is in use that is due this month, and `tried` is what is tried on live calls."""

    watch: Watch
    facts: WeekFacts
    is_over: bool
    live: LiveAnswers | None = None
    to_label: int = 0
    ending: ModelEnding | None = None
    new: NewModel | None = None
    again: Repetition | None = None
    month: MonthlyScore | None = None
    tried: LiveTestSummary | None = None

    @property
    def dataset(self) -> str:
        return self.watch.dataset


def week_card(summary: WeekSummary) -> Message:
    """Posted on Monday, and edited as people label calls."""
    texts = _texts(summary)
    shown = choose_lines(texts)
    parts = Parts()
    for line, text in texts.items():
        if line in shown and line == "sample":
            parts.note(text)
        elif line in shown:
            parts.text(text)
    parts.buttons(*_buttons(summary, shown))
    return parts.titled(f"{summary.dataset} {_when(summary)}: {_money_text(summary.facts)}")


def _texts(summary: WeekSummary) -> Mapping[WeekLine, str]:
    """The lines that have something to say, from top to bottom."""
    facts = summary.facts
    texts: dict[WeekLine, str] = {}
    if facts.failed:
        texts["failed"] = f"*Failed*: {facts.failed:,} of {pluralize(facts.calls, 'call')}{_by_name(facts)}"
    if summary.live is not None:
        texts["live"] = live_text(summary.live)
    if summary.again is not None:
        texts["again"] = again_text(summary.again)
    if summary.month is not None:
        texts["month"] = month_text(summary.month)
    if facts.shift is not None and facts.shift.is_shown:
        texts["shift"] = _shift_text(facts.shift)
    if summary.tried is not None:
        texts["tried"] = week_text(summary.tried)
    if facts.thumbs_up or facts.thumbs_down:
        texts["feedback"] = (
            f"*Feedback from programs*: {facts.thumbs_up:,} good, {facts.thumbs_down:,} bad. Annoyed people "
            "answer more often, so this is no measure of accuracy."
        )
    if summary.ending is not None:
        texts["ending"] = _ending_text(summary.ending)
    if summary.new is not None:
        texts["new"] = new_model_text(summary.new)
    texts["sample"] = _sample_text(summary)
    return texts


def _buttons(summary: WeekSummary, shown: Collection[WeekLine]) -> list[Block]:
    """What people can do about the lines that are shown, the most important first."""
    buttons = []
    if summary.to_label:
        count = min(summary.to_label, USUAL_LABELS)
        buttons.append(button(f"Label {count}", LABEL, summary.dataset))
    again = summary.again
    if again is not None and again.is_tuned and "again" in shown:
        buttons.append(button("Plan", PLAN_AGAIN, summary.dataset))
    if _offers_measurement(summary, shown):
        buttons.append(button("Measure again", MEASURE_AGAIN, summary.dataset))
    if summary.tried is not None and summary.tried.to_label and "tried" in shown:
        buttons.append(judge_button(summary.tried))
    shift = summary.facts.shift
    if summary.is_over and shift is not None and shift.unusual:
        buttons.append(button("Label unusual calls", LABEL_UNUSUAL, summary.dataset))
    if summary.new is not None and summary.new.measured is None and "new" in shown:
        buttons.append(button("Measure", MEASURE_NEW, str(summary.new.proposal)))
    return buttons[:MOST_BUTTONS]


def _offers_measurement(summary: WeekSummary, shown: Collection[WeekLine]) -> bool:
    again = summary.again
    if again is not None and "again" in shown and again.has_button and not again.is_tuned:
        return True
    month = summary.month
    return month is not None and "month" in shown and month.has_button


def card_name(dataset: str, week: str) -> str:
    return f"week {dataset} {week}"


def week_line(summary: WeekSummary) -> str:
    """The last week in a line, for a list of watched datasets."""
    name = f"{code(summary.dataset)}, week of {day(date.fromisoformat(summary.facts.week))}"
    if not summary.facts.calls:
        return f"{name}: no calls"
    figures = [_money_text(summary.facts)]
    live = summary.live
    if live is not None and live.labelled:
        figures.append(f"{percent(live.right / live.labelled)} right live")
    waiting = _waiting(summary)
    if waiting:
        figures.append(f"*waits*: {', '.join(waiting)}")
    return f"{name}: {' · '.join(figures)}"


def _waiting(summary: WeekSummary) -> list[str]:
    """What the card's buttons ask people for."""
    waiting = []
    if summary.to_label:
        waiting.append(f"{pluralize(min(summary.to_label, USUAL_LABELS), 'call')} to label")
    if summary.again is not None and summary.again.is_tuned:
        waiting.append("a training to plan")
    elif _offers_measurement(summary, ("again", "month")):
        waiting.append("a measurement")
    shift = summary.facts.shift
    if shift is not None and shift.unusual:
        waiting.append("unusual calls to label")
    if summary.new is not None and summary.new.measured is None:
        waiting.append("a new model to measure")
    return waiting


def no_unusual_calls(dataset: str) -> str:
    return (
        f"No unusual call of {code(dataset)} can be labelled for training any more: they were deleted by their age, or "
        "are among those that measure."
    )


def no_calls_yet(watch: Watch) -> Message:
    """The week so far, if nothing was called."""
    return text_message(
        f"No program has called {code(alias_for(watch.dataset))} this week. The card of a week is posted in "
        f"<#{watch.channel}> on the Monday after it, if anything was called."
    )


def live_text(live: LiveAnswers) -> str:
    """Live answers beside those on the held-out rows."""
    if not live.labelled:
        return "*Live*: no call is labelled yet, so whether answers are still right isn't known."
    share = percent(live.right / live.labelled)
    between = interval(live.interval.low, live.interval.high)
    calls = pluralize(live.labelled, "random call")
    text = f"*Live*: {share} right ({between}) of {calls} with labels"
    if live.accuracy is None or live.holdout is None:
        return f"{text}. The held-out rows' scores are no shares of right answers, so they don't compare."
    text += f"; {percent(live.holdout)} of the held-out rows."
    if live.is_alarm:
        return f"{text} *Answers are worse than measured*, and that is hardly chance."
    drop = live.accuracy.detectable_drop
    if drop is None:
        return f"{text} So few labels might not show even a drop of 30 points."
    return f"{text} A drop of {pluralize(drop, 'point')} would most likely show by now."


def again_text(again: Repetition) -> str:
    """Why what is in use should be trained or measured again, and on what."""
    why = "calls have changed"
    if again.reason == "worse":
        why = "answers are worse than measured"
    what = "Measure"
    if again.is_tuned:
        what = "Train"
    name = escape(shorten(again.name, 2 * LONGEST_NAME))
    text = f"*{what} again?* {name}: {why}"
    if again.new_rows:
        rows = pluralize(again.new_rows, "more row")
        return f"{text}, and the dataset has {rows} by now. Nothing starts by itself."
    upload = code("/finetune upload")
    return f"{text}, but no row was added since. {upload} a version with calls of these weeks first."


def new_model_text(new: NewModel) -> str:
    """What a new model costs beside what is in use, and how it can be, or was, measured."""
    model = escape(shorten(new.model, LONGEST_NAME))
    saved = saved_percent(new.micros, new.in_use_micros)
    text = f"*New*: {model} answers for {saved}% less{_prices_text(new)}."
    if new.measured is not None:
        return f"{text} {_measured_text(new.measured)}"
    rows = pluralize(new.rows, "held-out row")
    if new.cost_micros is None:
        return f"{text} Nobody has measured it on the {rows} yet; you see the cost before anything is spent."
    cost = about_usd(from_micros(new.cost_micros))
    return f"{text} Measuring it on the {rows} costs {cost}."


def _prices_text(new: NewModel) -> str:
    """' ($0.12 instead of $0.20 per 1,000 calls)', if the two can be told apart."""
    now = money(new.in_use_micros)
    then = money(new.micros)
    if now == then:
        return f" ({now} per 1,000 calls)"
    return f" ({then} instead of {now} per 1,000 calls)"


def _measured_text(measured: NewModelScore) -> str:
    if not measured.is_over:
        return f"It is being measured: {measured.name}."
    if measured.score is None:
        return f"Its measurement, {measured.name}, ended without a result."
    text = f"Measured in {measured.name}"
    if measured.is_unasked:
        text += f" for {charge(measured.micros)}, as {code('[policy.watch]')} allows without asking"
    text += f": {quality(measured.score)} of the held-out rows"
    if measured.in_use is not None:
        text += f"; what is in use: {percent(measured.in_use)}"
    return f"{text}."


def _when(summary: WeekSummary) -> str:
    if summary.is_over:
        return "last week"
    return "this week so far"


def _money_text(facts: WeekFacts) -> str:
    """'12,480 calls for $3.10, saved $21.00 (planned $19.00)', as plain text."""
    text = pluralize(facts.calls, "call")
    if facts.micros is None:
        return f"{text}, cost unknown"
    if facts.micros:
        text += f" for {money(facts.micros)}"
    else:
        text += ", free"
    saving = facts.saving_micros
    if saving is None:
        return text
    if saving < 0:
        return f"{text}, {money(-saving)} more than before"
    text += f", saved {money(saving)}"
    if facts.planned_micros is not None:
        # Plans count what is saved in a month.
        planned = round(facts.planned_micros / WEEKS_A_MONTH)
        text += f" (planned {money(planned)})"
    return text


def _by_name(facts: WeekFacts) -> str:
    """Who failed, if several have answered."""
    if len(facts.uses) < 2:
        return "."
    parts = []
    for use in facts.uses:
        if use.failed:
            name = escape(shorten(use.name, LONGEST_NAME))
            parts.append(f"{name} {use.failed:,}")
    return f": {', '.join(parts)}."


def _shift_text(shift: WeekShift) -> str:
    words = ""
    if shift.words:
        quoted = [f"“{escape(shorten(word))}”" for word in shift.words[:3]]
        words = f", for instance {', '.join(quoted)}"
    about = "The measured scores are about calls as they were."
    if shift.texts is not None and shift.texts.is_alarm:
        return f"*Calls have changed* since the first weeks ({p_value(shift.texts.p)}){words}. {about}"
    p = p_value(shift.answers.p) if shift.answers else ""
    return f"*Labels are answered in other shares* than in the first weeks ({p}), by the same model. {about}"


def _ending_text(ending: ModelEnding) -> str:
    model = escape(shorten(ending.model, LONGEST_NAME))
    if ending.days_left <= 0:
        return f"*{model} has ended*: it no longer answers."
    return f"*{model} ends in {pluralize(ending.days_left, 'day')}*, on {day(ending.ends)}."


def _sample_text(summary: WeekSummary) -> str:
    """How many calls were sampled, and what is missing from them."""
    watch = summary.watch
    if watch.awaits_consent:
        return "No call is sampled yet: somebody who decides about the rows has to agree."
    if not watch.share:
        return f"No call is sampled: {code(f'/finetune watch {watch.dataset} sample=5%')} would show more."
    sampled = summary.facts.sampled
    text = f"{pluralize(sampled.stored, 'call')} sampled ({100 * watch.share:g}%)."
    if sampled.left_out:
        text += f" Left out: {_left_out(sampled)}."
    if summary.facts.is_uncompared:
        text += " Comparing them failed; the bot's log says why."
    return text


def _left_out(counts: SampleCounts) -> str:
    reasons = (
        (counts.personal + counts.secret, "with personal data or a secret"),
        (counts.too_long + counts.not_text, "too long or not text"),
        (counts.opted_out, "opted out"),
        (counts.no_room + counts.lost, "without room"),
    )
    return ", ".join(f"{count:,} {why}" for count, why in reasons if count)
