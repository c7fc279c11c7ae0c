"""Reasons for and against a fine-tune as sentences with their numbers: one function for each kind of reason in
bot/rules/reasons.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import assert_never

from bot.cards.common.candidates import (
    LONG_NAMES,
    candidate_name,
    price_in_sentence,
    read_rows_sentence,
    score_text,
    seconds_text,
)
from bot.cards.common.payback import alternative_in_short, pays_text
from bot.cards.common.prices import missing_price_text
from bot.cards.common.words import (
    SLACK,
    Spelling,
    about_usd,
    capitalize,
    interval,
    listed,
    percent,
    pluralize,
    share_text,
    signed,
)
from bot.rules import reasons
from bot.rules.facts import ENOUGH_ROWS, FASTER, FEW_PER_LABEL, NOT_YET_ROWS
from bot.rules.fit import MISLEADING
from bot.rules.reasons import Because, PlainReason
from bot.values.targets import MemoryShortage
from trainers.money import usd

# A reason is a sentence, which nobody reads to the end if it lists more than that.
SHOWN_NAMES = 3
SHOWN_LABELS = 5
FACTS_CHANGE = "facts change, and each change would need another training run"
PLAIN: Mapping[PlainReason, str] = {
    "nothing measured": "No cheaper alternative (prompts, examples, retrieval) has been measured on your data yet.",
    "target ended": "The model to train is no longer offered.",
    "no volume": "At 0 requests a month there is nothing to save.",
    "facts are looked up": f"Facts should be looked up, not trained: {FACTS_CHANGE}, and a tuned model makes up what "
    "it was not taught.",
    "retrieval may serve better": f"Retrieval may work better: {FACTS_CHANGE}.",
    "reasoning is not taught": "Fine-tuning does not teach a model to reason better; a better base model does.",
    "reasoning was measured": "Fine-tuning seldom teaches reasoning, but this model was measured to be good enough.",
}


def because_text(because: Because, spelling: Spelling = SLACK) -> str:
    if isinstance(because, str):
        return PLAIN[because]
    if isinstance(because, reasons.ModelReason):
        return _of_model(because)
    if isinstance(because, reasons.MeasurementReason):
        return _of_measurement(because, spelling)
    if isinstance(because, reasons.TaskReason):
        return _of_task(because)
    if isinstance(because, reasons.RowReason):
        return _of_rows(because)
    return _of_money(because, spelling)


def shortage_text(shortage: MemoryShortage) -> str:
    is_short = "may not be"
    if shortage.is_certain:
        is_short = "is not"
    text = (
        f"The memory of {shortage.machine} {is_short} enough: the training needs about {_gigabytes(shortage.needed)}. "
        "`finetune plan-memory` in a terminal shows what would fit."
    )
    if shortage.in_4_bits is not None:
        text += f" With `quantization=nf4` it needs about {_gigabytes(shortage.in_4_bits)}, which fits."
    return text


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


def unknown_successor(successor: str | None) -> str:
    """Why no saving is counted after a model's end."""
    if successor:
        return f"the price of its successor {successor} is unknown"
    return "no successor is known"


def _of_model(because: reasons.ModelReason) -> str:
    """Reasons about the model to train, today's model, and the machine."""
    match because:
        case reasons.QuotedSentence():
            return because.text
        case MemoryShortage():
            return shortage_text(because)
        case reasons.SpeedUnknown() if because.of_vendor:
            return "How many of the vendor's machines this volume needs is unknown, because nobody knows their speed."
        case reasons.SpeedUnknown():
            unknown = []
            if because.of_training:
                unknown.append("the training time is only a guess")
            if because.of_serving:
                unknown.append("the number of requests that it can answer is unknown")
            return f"The speed of your own machine is not measured, so {' and '.join(unknown)}."
        case reasons.MachinesUnpriced():
            count = f"{because.machines:,}"
            return f"This volume needs about {count} machines like yours, whose price is not given."
        case reasons.AlternativeEnds():
            if because.succession.ends_too:
                return _both_end(because)
            return _alternative_ends(because)
        case reasons.CheapModelUntried():
            return _cheap_model(because)
    assert_never(because)


def _both_end(end: reasons.AlternativeEnds) -> str:
    succession = end.succession
    both = f"{succession.model} and the model to train both end on {succession.ends}"
    if not succession.successor:
        return f"{both}. No successor is known."
    follows = f"The successor of {succession.model} is {succession.successor}"
    if not end.is_measured:
        follows += ", which is not measured yet"
    return f"{both}. {follows}."


def _alternative_ends(end: reasons.AlternativeEnds) -> str:
    """What the tuned model saves after the day on which the successor's price takes over."""
    succession = end.succession
    successor = succession.successor
    saving = succession.saving_month
    ends = f"{succession.model} ends on {succession.ends}"
    if saving is None:
        return f"{ends}, and {unknown_successor(successor)}, so no saving is counted after that day."
    compared = f"saves {usd(saving)}"
    if saving < 0:
        compared = f"costs {usd(-saving)} more"
    text = f"{ends}; against its successor {successor} the tuned model {compared} a month."
    if not end.is_measured:
        text += f" {successor} is not measured yet."
    return text


def _cheap_model(untried: reasons.CheapModelUntried) -> str:
    name = untried.model.rpartition("/")[2]
    costs = f"{name} is not measured, and would cost {about_usd(untried.monthly_usd, per='a month')}."
    saving = usd(abs(untried.saving_month))
    left = usd(abs(untried.left_month))
    if untried.left_month > 0:
        return f"{costs} If it is good enough, training saves {left} a month instead of {saving}."
    instead = "saves nothing"
    if untried.left_month:
        instead = f"costs {left} a month more"
    return f"{costs} If it is good enough, a tuned model {instead}, instead of saving {saving}."


def _of_measurement(because: reasons.MeasurementReason, spelling: Spelling) -> str:
    match because:
        case reasons.NotTrainedYet():
            rows = pluralize(because.n_holdout, "held-out row")
            return f"How good the tuned model will be is unknown until it answers the {rows}."
        case reasons.NoAnswer(candidate):
            name = capitalize(candidate_name(candidate.identity))
            rows = "any row"
            if candidate.n:
                rows = f"{candidate.empty:,} of {candidate.n:,} held-out rows"
            return f"{name} gave no answer to {rows}, so its quality is unknown."
        case reasons.NotMeasurable(candidate, why):
            return f"{capitalize(candidate_name(candidate))} could not be measured: {why}"
        case reasons.MeetsBar():
            return _meets_bar(because)
        case reasons.NotMeasured():
            return f"Not measured yet: {', '.join(LONG_NAMES[kind] for kind in because.kinds)}."
        case reasons.TodayNotMeasured(model):
            return f"{model}, today's model, was not measured on these rows; it or a cheaper model may be good enough."
        case reasons.TooCloseToBar():
            close = [
                f"{candidate_name(candidate.identity)} has {score_text(candidate)}"
                for candidate in because.candidates
            ]
            return f"Too close to the bar of {share_text(because.bar)} to call: {listed(close, SHOWN_NAMES, '; ')}."
        case reasons.AllMissBar():
            return _ways_miss(because)
        case reasons.BarFar(best):
            return (
                f"The bar of {share_text(because.bar)} is far above every alternative: the best gets "
                f"{share_text(best.score)} right, so a tuned model would have to avoid most of its errors."
            )
        case reasons.TunedScore():
            return _tuned_score(because)
        case reasons.TunedVersusBest():
            return _beside_best(because)
        case reasons.UnreadableAnswers():
            unread = [
                f"{candidate_name(candidate.identity)}, {candidate.unread:,} of {candidate.n:,}"
                for candidate in because.candidates
            ]
            text = f"Answers that could not be read: {listed(unread, SHOWN_NAMES, '; ')}."
            if because.is_settled:
                text += f" A clearer prompt ({spelling.option('prompt')}) may help more than training."
            return text
        case reasons.NeverAnswered(labels):
            shown = listed([f"“{label[:40]}”" for label in labels], SHOWN_LABELS)
            return f"No alternative ever answers {shown}: check that these rows are labelled as you intend."
        case reasons.StoredByNewerVersion(numbers):
            return _left_out(numbers)
        case reasons.JudgeDistrusted(judge, agreed, answers):
            return (
                f"People agree with {judge} on only {agreed:,} of {pluralize(answers, 'answer')}, so its scores say "
                "little."
            )
    assert_never(because)


def _tuned_score(tuned: reasons.TunedScore) -> str:
    candidate = tuned.candidate
    score = score_text(candidate)
    bar = share_text(tuned.bar)
    if candidate.standing == "meets":
        return (
            f"The tuned model meets the bar of {bar}: {score}, {price_in_sentence(candidate.usd_per_1000)}."
        )
    if candidate.standing == "misses":
        return f"The tuned model misses the bar of {bar}: {score}."
    too_close = f"The tuned model is too close to the bar of {bar} to call: {score}."
    if candidate.read:
        return f"{too_close} {read_rows_sentence(candidate)}"
    return too_close


def _left_out(numbers: tuple[int, ...]) -> str:
    names = listed([f"m{number}" for number in numbers], SHOWN_NAMES)
    if len(numbers) == 1:
        return (
            f"{names} isn't counted, as a newer version of the bot stored it: start that version to count it."
        )
    return f"{names} aren't counted, as a newer version of the bot stored them: start that version to count them."


def _meets_bar(meets: reasons.MeetsBar) -> str:
    candidate = meets.candidate
    name = capitalize(candidate_name(candidate.identity))
    if candidate.kind == "optimised" and meets.tuned == "is not needed":
        name = f"A better prompt was enough: {candidate_name(candidate.identity)}"
    bar = share_text(meets.bar)
    price = price_in_sentence(candidate.usd_per_1000)
    text = f"{name} meets the bar of {bar}: {score_text(candidate)}, {price}."
    match meets.tuned:
        case "is right more often":
            why = ", which is your aim"
            if meets.worth_usd is not None:
                why = f", worth {usd(meets.worth_usd)} a month at your cost of a wrong answer"
            return f"{text} The tuned model is right significantly more often{why}."
        case "is faster":
            return (
                f"{text} A tuned model answers faster and can learn from its answers: a good reason to train."
            )
        case "is cheaper":
            return f"{text} A tuned model costs less and can learn from its answers: a good reason to train."
        case "is not needed":
            return f"{text} It needs no training."
        case "may be faster":
            return f"{text} Whether a tuned model would be faster is unknown."
        case "may be cheaper":
            return f"{text} Whether a tuned model would cost less is unknown."


def _ways_miss(ways: reasons.AllMissBar) -> str:
    all_miss = f"All {ways.measured} measured alternatives miss"
    if ways.measured == 2:
        all_miss = "Both measured alternatives miss"
    elif ways.measured == 1:
        all_miss = "The only measured alternative misses"
    miss = f"{all_miss} the bar of {share_text(ways.bar)}."
    hopeful = ways.measured - ways.missing
    price = price_in_sentence(ways.best.usd_per_1000)
    best = f"{candidate_name(ways.best.identity)}: {score_text(ways.best)}, {price}"
    if not hopeful:
        return f"{miss} The best is {best}."
    return f"{miss} The best of the others is {best}; {hopeful:,} gave too many unreadable answers to count."


def _beside_best(beside: reasons.TunedVersusBest) -> str:
    name = candidate_name(beside.best.identity)
    scores = f"{share_text(beside.tuned.score)} against {share_text(beside.best.score)}"
    match beside.tuned_is:
        case "not shown to be better":
            text = f"The tuned model is not clearly better than {name}: {scores}."
            if beside.gap:
                text += f" These held-out rows can show differences from {100 * beside.gap:.1f} points."
            return text
        case "worse":
            return f"The tuned model is worse than {name}: {scores}."
        case "worse and costs as much":
            return f"The tuned model is worse than {name} and costs no less: {scores}."
        case "not worse and cheaper":
            now = price_in_sentence(beside.tuned.usd_per_1000)
            before = price_in_sentence(beside.best.usd_per_1000)
            return (
                f"The tuned model is cheaper and not worse than {name}: {scores}, {_at_worst(beside)}; {now} instead "
                f"of {before}."
            )
        case "cheaper and may be worse":
            return (
                f"The tuned model costs less than {name}, but may be worse by more than is allowed: {scores}, "
                f"{_at_worst(beside)}."
            )


def _at_worst(beside: reasons.TunedVersusBest) -> str:
    points = signed(100 * beside.low, "+.1f")
    allowed = f"{100 * beside.margin:g}"
    return f"{points} points at worst ({allowed} allowed)"


def _of_task(because: reasons.TaskReason) -> str:
    """Reasons about what the model should get better at."""
    match because:
        case reasons.RetrievalMissed(candidate):
            missed = f"Retrieval was measured and misses the bar: {score_text(candidate)}."
            return f"{missed} Training may help, but {FACTS_CHANGE}."
        case reasons.StyleReached():
            reached = f"The best prompt is right {share_text(because.share)} of the time"
            least = share_text(because.needed)
            if because.is_enough:
                return f"{reached}; from {least}, making that reliable is a good reason to train."
            return f"{reached}; from {least}, making that reliable would be a good reason to train."
        case reasons.OwnClasses():
            return (
                "Training suits categories of your own: rows teach them, a prompt can only describe them "
                f"({share_text(because.share)} at best)."
            )
        case reasons.Speeds():
            return _speeds(because)
    assert_never(because)


def _speeds(speeds: reasons.Speeds) -> str:
    text = f"The fastest prompted model answers within {seconds_text(speeds.prompted)} (p95)"
    if speeds.free is not None:
        name = LONG_NAMES[speeds.free.kind]
        text += f", {name} within {seconds_text(speeds.free.p95_s)}"
    if speeds.tuned is None:
        return f"{text}. The tuned model's speed is not measured."
    text += f"; the tuned model within {seconds_text(speeds.tuned)}."
    if speeds.tuned * FASTER > speeds.prompted:
        text += f" That is less than {FASTER} times as fast."
    return text


def _of_rows(because: reasons.RowReason) -> str:
    match because:
        case reasons.OneLabel():
            return f"All {because.rows:,} rows have the same label, so there is nothing to learn."
        case reasons.RowCount():
            return _row_count(because)
        case reasons.RareLabels(labels, rarest):
            if labels is None:
                return f"The rarest label has {pluralize(rarest or 0, 'row')}: too few to learn it or to measure it."
            have = f"{labels:,} labels have"
            if labels == 1:
                have = "1 label has"
            return f"{have} fewer than {FEW_PER_LABEL} rows: too few to learn or to measure."
        case reasons.BarUnprovable():
            return f"No number of rows can show that a model reaches {share_text(because.bar)}."
        case reasons.HoldoutTooSmall():
            rows = pluralize(because.rows, "held-out row")
            bar = share_text(because.bar)
            return f"Even {rows}, all answered right, can't show {bar}: that takes {because.needed:,}."
        case reasons.HoldoutSmall():
            rows = pluralize(because.rows, "held-out row")
            return f"With {rows}, only large differences are reliable."
        case reasons.MoreRows():
            return _more_rows(because)
        case reasons.WrongLabels():
            return _wrong_labels(because)
    assert_never(because)


def _more_rows(more: reasons.MoreRows) -> str:
    name = LONG_NAMES[more.kind]
    gain = f"Whether more rows would improve {name} is not clear yet."
    if more.points_per_100 is not None:
        # More rows don't make a model worse: a slope below zero is noise.
        points = f"{max(more.points_per_100, 0):.1g}"
        gain = f"100 more rows should improve {name} by about {points} points."
    reached = more.reached
    if reached is None:
        return gain
    between = interval(reached.low, reached.high)
    return f"{gain} It should reach {percent(reached.score)} ({between}) with {reached.rows:,} rows."


def _row_count(count: reasons.RowCount) -> str:
    rows = f"{count.rows:,} rows"
    # A question that is asked again teaches little more than the first time, so both numbers are told apart.
    is_repeated = count.questions != count.rows
    if is_repeated and count.questions == 1:
        rows = f"1 question in {count.rows:,} rows"
    elif is_repeated:
        rows = f"{count.questions:,} different questions in {count.rows:,} rows"
    match count.standing:
        case "enough":
            return f"{rows} are enough to fine-tune with{_but_not_for(count)}."
        case "few, and it is good":
            return f"{rows} are few, but the tuned model was measured to be good enough."
        case "too few":
            text = f"{rows} are too few: below {NOT_YET_ROWS}, a better prompt with examples gains more."
            if count.is_style:
                text += " If the style varies even among a few examples, write clearer instructions first."
            return text
        case "enough for the task":
            needs = f"which needs {NOT_YET_ROWS} and a good reason"
            return f"{rows} are enough for this kind of task, {needs}{_but_not_for(count)}."
        case "worth a try":
            text = f"{rows} are enough to try; {ENOUGH_ROWS:,} or more are usually recommended."
            if count.few_of_a_label:
                text += f" Categories of your own need fewer, if each has {FEW_PER_LABEL}."
            return text


def _but_not_for(count: reasons.RowCount) -> str:
    """The labels that can't be learnt, so that enough rows in all are not read as enough of each label."""
    if not count.rare_labels:
        return ""
    labels = f"the {count.rare_labels:,} labels that have"
    if count.rare_labels == 1:
        labels = "the label that has"
    return f", but not for {labels} fewer than {FEW_PER_LABEL}"


def _wrong_labels(wrong: reasons.WrongLabels) -> str:
    counts = []
    if wrong.doubted or not wrong.contradicting:
        counts.append(_doubted_text(wrong))
    if wrong.contradicting == 1:
        counts.append("1 row contradicts another row that asks the same")
    elif wrong.contradicting:
        counts.append(f"{wrong.contradicting:,} rows contradict another row that asks the same")
    text = f"{', and '.join(counts)}: {share_text(wrong.share)} of {wrong.rows:,} rows."
    if wrong.checked:
        text += f" People checked {wrong.checked:,} doubted labels and found {wrong.found:,} wrong."
    elif wrong.doubted:
        text += " Nobody has checked them yet."
    match wrong.effect:
        case "none":
            return text
        case "misleads":
            return (
                f"{text} From {share_text(MISLEADING)}, the worse of two models can look like the better one."
            )
        case "hides the bar":
            bar = share_text(wrong.bar)
            return f"{text} Measured on such labels, even a perfect model would miss the bar of {bar}."


def _doubted_text(wrong: reasons.WrongLabels) -> str:
    is_one = wrong.doubted == 1
    if wrong.checked and is_one:
        return "About 1 label is wrong"
    if wrong.checked:
        return f"About {wrong.doubted:,} labels are wrong"
    if is_one:
        return "About 1 label looks wrong beside similar rows"
    return f"About {wrong.doubted:,} labels look wrong beside similar rows"


def _of_money(because: reasons.MoneyReason, spelling: Spelling) -> str:
    match because:
        case reasons.PriceGap():
            missing = missing_price_text(because.missing, spelling)
            if because.is_free:
                return f"A run costs only the machine's time. {missing}"
            return missing
        case reasons.PriceOfBetter(estimate, aim):
            difference = f"saves {usd(estimate.saving_month)} a month"
            if estimate.saving_month < 0:
                difference = f"costs {usd(-estimate.saving_month)} a month more"
            return (
                f"The tuned model {difference} compared with {alternative_in_short(estimate)}. Your aim is {aim}, so "
                "this doesn't decide."
            )
        case reasons.Payback():
            return pays_text(because)
        case reasons.OnlyWay():
            only = f"But only the tuned model clearly meets the bar of {share_text(because.bar)}."
            return f"{pays_text(because.money)} {only}"
    assert_never(because)
