"""Reasons for and against a fine-tune in words, each with its numbers: one function for each kind of reason in
bot/rules/reasons.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from bot.cards.candidates import (
    LONG_NAMES,
    candidate_name,
    price_in_sentence,
    score_text,
    seconds_text,
)
from bot.cards.payback import alternative_in_short, pays_text
from bot.cards.prices import missing_price_text
from bot.cards.words import SLACK, Spelling, capitalize, interval, listed, percent, pluralize, share_text
from bot.rules import reasons
from bot.rules.facts import ENOUGH_ROWS, FASTER, FEW_PER_LABEL, NOT_YET_ROWS, STYLE_PROMPTED
from bot.rules.fit import MISLEADING
from bot.rules.reasons import Because, MemoryShortage, PlainReason
from trainers.money import usd

SHOWN_RUNGS, SHOWN_LABELS = 3, 5
FACTS_CHANGE = "facts change, and each change would need another run"
PLAIN: Mapping[PlainReason, str] = {
    "nothing measured": "No cheaper way has been measured on your data yet: prompts, examples, retrieval.",
    "target ended": "The model to train has ended already.",
    "no volume": "At a volume of 0 tokens a month there is nothing to save.",
    "facts are looked up": f"Facts are looked up, not trained: {FACTS_CHANGE}, and a tuned model makes up what it was "
    "not taught.",
    "retrieval may serve better": f"Retrieval may serve better: {FACTS_CHANGE}.",
    "reasoning is not taught": "Fine-tuning does not teach a model to think better: a better base model does.",
    "reasoning was measured": "Fine-tuning seldom teaches reasoning; here it was measured to be good enough.",
}


def because_text(because: Because, spelling: Spelling = SLACK) -> str:
    if isinstance(because, str):
        return PLAIN[because]
    if isinstance(because, reasons.OfModel):
        return _of_model(because)
    if isinstance(because, reasons.OfMeasurement):
        return _of_measurement(because, spelling)
    if isinstance(because, reasons.OfTask):
        return _of_task(because)
    if isinstance(because, reasons.OfRows):
        return _of_rows(because)
    return _of_money(because, spelling)


def shortage_text(shortage: MemoryShortage) -> str:
    cure = ""
    if shortage.in_4_bits is not None:
        cure = f" With `quantization=nf4` it takes about {shortage.in_4_bits / 1e9:.1f} GB, which fits."
    return (
        f"The memory of {shortage.machine} {'is not' if shortage.is_certain else 'may not be'} enough: the training "
        f"takes about {shortage.needed / 1e9:.1f} GB. `finetune plan-memory` in a terminal says what would fit.{cure}"
    )


def unknown_successor(successor: str | None) -> str:
    """Why nothing is counted as saved after a model's end."""
    return f"what its successor {successor} costs is not known" if successor else "no successor is known"


def _of_model(because: reasons.OfModel) -> str:
    """The model to train, today's, and the machine."""
    match because:
        case reasons.Told():
            return because.text
        case reasons.MemoryShortage():
            return shortage_text(because)
        case reasons.SpeedUnknown():
            unknown = [
                *(["how long training takes is only guessed"] if because.of_training else []),
                *(["how many requests it can answer is not known"] if because.of_serving else []),
            ]
            return f"The speed of your own machine is not measured: {', and '.join(unknown)}."
        case reasons.MachinesUnpriced():
            count = f"{because.machines:,}"
            return f"This volume takes about {count} machines like yours, and what one costs is not given."
        case reasons.Ends():
            succession = because.succession
            ends, saving = f"{succession.model} ends on {succession.ends}", succession.saving_month
            successor = succession.successor
            if saving is None:
                return (
                    f"{ends}, and {unknown_successor(successor)}: nothing is counted as saved after that day."
                )
            compared = f"saves {usd(saving)}" if saving >= 0 else f"costs {usd(-saving)} more"
            unmeasured = "" if because.is_measured else " It is not measured yet."
            return (
                f"{ends}; against its successor {successor} the tuned model {compared} a month.{unmeasured}"
            )
    assert_never(because)


def _of_measurement(because: reasons.OfMeasurement, spelling: Spelling) -> str:
    match because:
        case reasons.NotTrainedYet():
            rows = pluralize(because.n_holdout, "held-out row")
            return f"How good the tuned model will be is unknown until it has answered the {rows}."
        case reasons.NoAnswer(rung):
            rows = f"{rung.empty:,} of {rung.n:,} held-out rows" if rung.n else "any row"
            name = capitalize(candidate_name(rung.arm))
            return f"{name} gave no answer to {rows}: that says nothing about how good it is."
        case reasons.OtherBar():
            before, now = share_text(because.measured_by), share_text(because.bar)
            return f"The measurement was judged by a bar of {before}; now it is {now}."
        case reasons.MeetsBar():
            return _meets_bar(because)
        case reasons.NotMeasured():
            return f"Not measured yet: {', '.join(LONG_NAMES[rung] for rung in because.rungs)}."
        case reasons.TodayNotMeasured(model):
            return f"{model}, today's model, was not measured on these rows: it, or a cheaper one, may be good enough."
        case reasons.TooClose():
            close = [f"{candidate_name(rung.arm)} has {score_text(rung)}" for rung in because.rungs]
            return f"Too close to the bar of {share_text(because.bar)} to say: {listed(close, SHOWN_RUNGS, '; ')}."
        case reasons.WaysMiss():
            return _ways_miss(because)
        case reasons.TunedStands(rung):
            score, bar = score_text(rung), share_text(because.bar)
            if rung.standing == "meets":
                return f"The tuned model meets the bar of {bar}: {score}, {price_in_sentence(rung.usd_per_1000)}."
            if rung.standing == "misses":
                return f"The tuned model misses the bar of {bar}: {score}."
            return f"The tuned model is too close to the bar of {bar} to say: {score}."
        case reasons.BesideBest():
            return _beside_best(because)
        case reasons.Unread():
            unread = [f"{candidate_name(rung.arm)}, {rung.unread:,} of {rung.n:,}" for rung in because.rungs]
            clearer = f" A clearer prompt ({spelling.option('prompt')}) may help more than training."
            shown = listed(unread, SHOWN_RUNGS, "; ")
            return f"Answers that could not be read: {shown}.{clearer if because.is_settled else ''}"
        case reasons.NeverAnswered(labels):
            shown = listed([f"“{label[:40]}”" for label in labels], SHOWN_LABELS)
            return f"No way ever answers {shown}: look whether these rows are labelled as you mean it."
    assert_never(because)


def _meets_bar(meets: reasons.MeetsBar) -> str:
    name, bar = candidate_name(meets.rung.arm), share_text(meets.bar)
    is_enough = meets.rung.arm.rung == "optimised" and meets.tuned == "is not needed"
    name = f"A better prompt was enough: {name}" if is_enough else capitalize(name)
    price = price_in_sentence(meets.rung.usd_per_1000)
    text = f"{name} meets the bar of {bar}: {score_text(meets.rung)}, {price}."
    match meets.tuned:
        case "is right more often":
            why = ", which is the aim"
            if meets.worth_usd is not None:
                why = f": {usd(meets.worth_usd)} a month, by what you say that a wrong answer costs"
            return f"{text} The tuned model is shown to be right more often{why}."
        case "is faster":
            return f"{text} A tuned model answers faster and can learn from its answers: a good reason."
        case "is cheaper":
            return f"{text} A tuned model costs less and can learn from its answers: a good reason."
        case "is not needed":
            return f"{text} It needs no training."
        case "may be faster":
            return f"{text} Whether a tuned model is faster is not known."
        case "may be cheaper":
            return f"{text} Whether a tuned one costs less is not known."


def _ways_miss(ways: reasons.WaysMiss) -> str:
    ways_miss = (
        f"All {ways.measured} measured ways miss" if ways.measured > 1 else "The one measured way misses"
    )
    miss, hopeful = f"{ways_miss} the bar of {share_text(ways.bar)}.", ways.measured - ways.missing
    price = price_in_sentence(ways.best.usd_per_1000)
    best = f"{candidate_name(ways.best.arm)}: {score_text(ways.best)}, {price}"
    if not hopeful:
        return f"{miss} The best is {best}."
    return f"{miss} If unread answers were right, {hopeful} might meet it. The best of the others is {best}."


def _beside_best(beside: reasons.BesideBest) -> str:
    name = candidate_name(beside.best.arm)
    scores = f"{share_text(beside.tuned.score)} against {share_text(beside.best.score)}"
    match beside.tuned_is:
        case "not shown to be better":
            gap = beside.gap
            shows = f" This holdout shows differences from {100 * gap:.1f} points on." if gap else ""
            return f"The tuned model is not shown to be better than {name}: {scores}.{shows}"
        case "worse":
            return f"The tuned model is worse than {name}: {scores}."
        case "worse and costs as much":
            return f"The tuned model is worse than {name}: {scores}, and that costs no more."
        case "not worse and cheaper":
            at_worst = f"{100 * beside.low:+.1f}".replace("-", "−")
            now, before = (price_in_sentence(rung.usd_per_1000) for rung in (beside.tuned, beside.best))
            return (
                f"The tuned model is cheaper and not worse than {name}: {scores}, {at_worst} points at worst, where "
                f"{100 * beside.margin:g} are allowed; {now} instead of {before}."
            )


def _of_task(because: reasons.OfTask) -> str:
    """What the model should get better at."""
    match because:
        case reasons.RetrievalMissed(rung):
            return f"Retrieval was tried and misses: {score_text(rung)}. Training is defensible, but {FACTS_CHANGE}."
        case reasons.StyleReached():
            reached = f"Prompting gets the {because.of} right {share_text(because.share)} of the time"
            least = share_text(STYLE_PROMPTED)
            if because.share >= STYLE_PROMPTED:
                return f"{reached}, which is {least} or more: training makes it steady, a good reason."
            return f"{reached}; from {least} on it is a good reason."
        case reasons.OwnClasses():
            return (
                "These are your own categories: a prompt can only describe them "
                f"({share_text(because.share)} at best), rows teach them, a good reason."
            )
        case reasons.Speeds(prompted, free, tuned):
            text = f"The fastest prompted way answers within {seconds_text(prompted)} (p95)"
            if free is not None:
                text += f", {LONG_NAMES[free.arm.rung]} within {seconds_text(free.p95_s)}"
            if tuned is None:
                return f"{text}; the tuned model's speed is not measured."
            slower = "" if tuned * FASTER <= prompted else f" That is not {FASTER} times as fast."
            return f"{text}; the tuned model within {seconds_text(tuned)}.{slower}"
    assert_never(because)


def _of_rows(because: reasons.OfRows) -> str:
    match because:
        case reasons.OneLabel():
            return f"All {because.rows:,} rows have the same label: there is nothing to tell apart."
        case reasons.RowCount():
            return _row_count(because)
        case reasons.RareLabels(labels, rarest):
            if labels is None:
                return f"The rarest label has {rarest} rows: it will hardly be learnt, and can't be judged."
            has = "1 label has" if labels == 1 else f"{labels:,} labels have"
            return f"{has} fewer than {FEW_PER_LABEL} rows and will hardly be learnt, nor can they be judged."
        case reasons.BarUnprovable():
            return f"No number of rows can show {share_text(because.bar)}."
        case reasons.HoldoutTooSmall():
            rows, bar = pluralize(because.rows, "held-out row"), share_text(because.bar)
            return f"Even with all {rows} right, {bar} could not be claimed: that takes {because.needed:,}."
        case reasons.HoldoutSmall():
            return (
                f"With {pluralize(because.rows, 'test row')}, only large differences can be told from chance."
            )
        case reasons.MoreRows(rung, points_per_100, reached):
            gain = f"Whether more rows bring {LONG_NAMES[rung]} anything can't be told yet."
            if points_per_100 is not None:
                points = f"{max(points_per_100, 0):.1g}"
                gain = f"100 more rows are predicted to bring {LONG_NAMES[rung]} about {points} points."
            if reached is None:
                return gain
            between = interval(reached.low, reached.high)
            return f"{gain} It gets to {percent(reached.score)} ({between}) with {reached.rows:,} rows."
        case reasons.WrongLabels():
            return _wrong_labels(because)
    assert_never(because)


def _row_count(count: reasons.RowCount) -> str:
    rows = f"{count.rows:,} rows"
    if count.questions != count.rows:
        question = "1 question" if count.questions == 1 else f"{count.questions:,} different questions"
        rows = f"{question} in {count.rows:,} rows"
    match count.are:
        case "enough":
            return f"{rows} are enough to fine-tune with."
        case "few, and it is good":
            return f"{rows} are few, yet the tuned model was measured to be good enough."
        case "too few":
            text = f"{rows} are too few: below {NOT_YET_ROWS} a better prompt with examples gains more."
            style = " What is inconsistent on a few examples needs clearer instructions first."
            return f"{text}{style}" if count.is_style else text
        case "enough for the task":
            return f"{rows} do for this kind of task: {NOT_YET_ROWS} and a good reason are enough."
        case "worth a try":
            text = f"{rows} are enough to try; {ENOUGH_ROWS:,} and more are the usual recommendation."
            own = f" For own categories fewer do, if each has {FEW_PER_LABEL}."
            return f"{text}{own}" if count.few_of_a_label else text


def _wrong_labels(wrong: reasons.WrongLabels) -> str:
    doubted = "About 1 label is" if wrong.doubted == 1 else f"About {wrong.doubted:,} labels are"
    same = "1 row contradicts" if wrong.contradicting == 1 else f"{wrong.contradicting:,} rows contradict"
    counts = [
        *([f"{doubted} wrong"] if wrong.doubted or not wrong.contradicting else []),
        *([f"{same} another row that asks the same"] if wrong.contradicting else []),
    ]
    text = f"{', and '.join(counts)}: {share_text(wrong.share)} of {wrong.rows:,} rows."
    match wrong.effect:
        case "none":
            return text
        case "misleads":
            return (
                f"{text} From {share_text(MISLEADING)} on, the worse of two models can seem the better one."
            )
        case "hides the bar":
            miss = f"even a model that is always right would miss the bar of {share_text(wrong.bar)}"
            return f"{text} Against such labels {miss}."


def _of_money(because: reasons.OfMoney, spelling: Spelling) -> str:
    match because:
        case reasons.Gap():
            free = "A run costs nothing but your own machine's time. " if because.is_free else ""
            return f"{free}{missing_price_text(because.missing, spelling)}"
        case reasons.PriceOfBetter(estimate, aim):
            does = "saves" if estimate.saving_month >= 0 else "costs another"
            return (
                f"Against {alternative_in_short(estimate)}, the tuned model {does} {usd(abs(estimate.saving_month))} a "
                f"month. Your aim is {aim}, so this decides nothing."
            )
        case reasons.Pays():
            return pays_text(because)
        case reasons.OnlyWay():
            only = f"Yet only the tuned model is shown to meet the bar of {share_text(because.bar)}."
            return f"{pays_text(because.money)} {only}"
    assert_never(because)
