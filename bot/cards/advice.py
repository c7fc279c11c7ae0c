"""The verdict in words: its headline, each reason with its numbers, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import assert_never

from bot.cards.candidates import (
    LONG_NAMES,
    candidate_name,
    cost_text,
    price_text,
    score_text,
    seconds_text,
)
from bot.cards.commands import SLACK, Spelling
from bot.cards.payback import (
    gap_text,
    monthly_saving_text,
    only_way_text,
    pays_text,
    price_of_better_text,
    swing_text,
)
from bot.cards.prices import missing_price_text
from bot.cards.words import capitalize, pluralize, share_text
from bot.rules import reasons
from bot.rules.advice import Verdict
from bot.rules.facts import ENOUGH_ROWS, FASTER, FEW_PER_LABEL, NOT_YET_ROWS, STYLE_PROMPTED, Facts
from bot.rules.fit import MISLEADING
from bot.rules.reasons import Because, PlainReason, PlainTodo, Reason, Todo
from trainers.evaluation.results import Rung
from trainers.money import usd

NO_SAVING = "No saving is shown: this verdict is against the tuned model, whatever it would save."
SHOWN_RUNGS, SHOWN_LABELS = 3, 5
FACTS_CHANGE = "facts change, and each change would need another run"
REASONS: Mapping[PlainReason, str] = {
    "nothing measured": "No cheaper way has been measured on your data yet: prompts, examples, retrieval.",
    "target ended": "The model to train has ended already.",
    "no volume": "At a volume of 0 tokens a month there is nothing to save.",
    "facts are looked up": f"Facts are looked up, not trained: {FACTS_CHANGE}, and a tuned model makes up what it was "
    "not taught.",
    "retrieval may serve better": f"Retrieval may serve better: {FACTS_CHANGE}.",
    "reasoning is not taught": "Fine-tuning does not teach a model to think better: a better base model does.",
    "reasoning was measured": "Fine-tuning seldom teaches reasoning; here it was measured to be good enough.",
}


def headline(verdict: Verdict, spelling: Spelling = SLACK) -> str:
    match verdict.kind:
        case "no_go":
            return f"Not now. {because_text(verdict.deciding.because, spelling)}"
        case "unknown":
            return _open(verdict, spelling)
        case "go":
            return _go(verdict.facts)


def next_step(verdict: Verdict, spelling: Spelling = SLACK) -> str:
    """The step of the reason that decides comes next."""
    step, facts = verdict.deciding.step, verdict.facts
    if step:
        return todo_text(step.todo, spelling)
    if verdict.kind != "go":
        return ""
    if facts.evidence.trained is not None:
        return "Put the tuned model to work, and keep today's at hand until it has proved itself."
    return f"Start a run ({spelling.command('start', facts.dataset)})."


def reason_text(verdict: Verdict, reason: Reason, spelling: Spelling = SLACK) -> str:
    """With what would settle it; the step of the reason that decides stands by itself."""
    text = because_text(reason.because, spelling)
    is_said = reason is verdict.deciding or isinstance(reason.because, reasons.Gap)
    return text if is_said or reason.step is None else f"{text} {todo_text(reason.step.todo, spelling)}"


def withheld_text(verdict: Verdict) -> str | None:
    return NO_SAVING if verdict.withholds_saving else None


def _open(verdict: Verdict, spelling: Spelling) -> str:
    facts = verdict.facts
    if facts.evidence.ladder is not None or facts.evidence.trained is not None:
        return f"Not decided yet. {because_text(verdict.deciding.because, spelling)}"
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
        f"{pluralize(facts.n_holdout, 'held-out row')}; nothing is switched before that."
    )


def _cost(amount: Decimal | None) -> str:
    if amount is None:
        return "an unknown sum"
    if not amount:
        return "nothing but your own machine's time"
    cost = usd(amount)
    return f"about {cost}" if cost.startswith("$") else cost


# Reasons.


def because_text(because: Because, spelling: Spelling = SLACK) -> str:  # one line a reason
    match because:
        case str():
            return REASONS[because]
        case reasons.Told():
            return because.text
        case reasons.SpeedUnknown():
            return _speed_unknown(because)
        case reasons.MachinesUnpriced():
            count = f"{because.machines:,}"
            return f"This volume takes about {count} machines like yours, and nobody has said what one costs."
        case reasons.Ends():
            return _ends(because)
        case reasons.OneLabel():
            return f"All {because.rows:,} rows have the same label: there is nothing to tell apart."
        case reasons.NotTrainedYet():
            rows = pluralize(because.n_holdout, "held-out row")
            return f"How good the tuned model will be is unknown until it has answered the {rows}."
        case reasons.NoAnswer():
            return _no_answer(because.rung)
        case reasons.OtherBar():
            before, now = share_text(because.measured_by), share_text(because.bar)
            return f"The measurement was judged by a bar of {before}; now it is {now}."
        case reasons.MeetsBar():
            return _meets_bar(because)
        case reasons.NotMeasured():
            return f"Not measured yet: {', '.join(LONG_NAMES[rung] for rung in because.rungs)}."
        case reasons.TodayNotMeasured():
            return (
                f"{because.model}, today's model, was not measured on these rows: it, or a cheaper one, may be good "
                "enough."
            )
        case reasons.TooClose():
            close = [f"{candidate_name(rung.arm)} has {score_text(rung)}" for rung in because.rungs]
            return f"Too close to the bar of {share_text(because.bar)} to say: {_first(close, SHOWN_RUNGS)}."
        case reasons.WaysMiss():
            return _ways_miss(because)
        case reasons.TunedStands():
            return _tuned_stands(because)
        case reasons.BesideBest():
            return _beside_best(because)
        case reasons.Unread():
            unread = [f"{candidate_name(rung.arm)}, {rung.unread:,} of {rung.n:,}" for rung in because.rungs]
            clearer = f" A clearer prompt ({spelling.option('prompt')}) may help more than training."
            more = clearer if because.is_settled else ""
            return f"Answers that could not be read: {_first(unread, SHOWN_RUNGS)}.{more}"
        case reasons.NeverAnswered():
            return _never_answered(because.labels)
        case reasons.RetrievalMissed():
            missed = score_text(because.rung)
            return f"Retrieval was tried and misses: {missed}. Training is defensible, but {FACTS_CHANGE}."
        case reasons.StyleReached():
            return _style_reached(because)
        case reasons.OwnClasses():
            return (
                "These are your own categories: a prompt can only describe them "
                f"({share_text(because.share)} at best), rows teach them, a good reason."
            )
        case reasons.Speeds():
            return _speeds(because)
        case reasons.RowCount():
            return _row_count(because)
        case reasons.RareLabels():
            return _rare_labels(because)
        case reasons.BarUnprovable():
            return f"No number of rows can show {share_text(because.bar)}."
        case reasons.HoldoutTooSmall():
            rows, bar = pluralize(because.rows, "held-out row"), share_text(because.bar)
            return f"Even with all {rows} right, {bar} could not be claimed: that takes {because.needed:,}."
        case reasons.HoldoutSmall():
            return f"With {pluralize(because.rows, 'held-out row')} only a large difference will show."
        case reasons.MoreRows():
            return _more_rows(because)
        case reasons.WrongLabels():
            return _wrong_labels(because)
        case reasons.Gap():
            return gap_text(because, spelling)
        case reasons.PriceOfBetter():
            return price_of_better_text(because)
        case reasons.Pays():
            return pays_text(because)
        case reasons.OnlyWay():
            return only_way_text(because)
    assert_never(because)


def _first(words: Sequence[str], most: int) -> str:
    more = f"; and {len(words) - most} more" if len(words) > most else ""
    return f"{'; '.join(words[:most])}{more}"


def _speed_unknown(speed: reasons.SpeedUnknown) -> str:
    unknown = [
        *(["how long training takes is only guessed"] if speed.of_training else []),
        *(["how many requests it can answer is not known"] if speed.of_serving else []),
    ]
    return f"The speed of your own machine is not measured: {', and '.join(unknown)}."


def unknown_successor(successor: str | None) -> str:
    """Where nothing is counted as saved after a model's end."""
    return f"what its successor {successor} costs is not known" if successor else "no successor is known"


def _ends(end: reasons.Ends) -> str:
    succession = end.succession
    ends = f"{succession.model} ends on {succession.ends}"
    saving = succession.saving_month
    if saving is None:
        unknown = unknown_successor(succession.successor)
        return f"{ends}, and {unknown}: nothing is counted as saved after that day."
    compared = f"saves {usd(saving)}" if saving >= 0 else f"costs {usd(-saving)} more"
    unmeasured = "" if end.is_measured else " It is not measured yet."
    successor = succession.successor
    return f"{ends}; against its successor {successor} the tuned model {compared} a month.{unmeasured}"


def _no_answer(rung: Rung) -> str:
    rows = f"{rung.empty:,} of {rung.n:,} held-out rows" if rung.n else "any row"
    return f"{capitalize(candidate_name(rung.arm))} gave no answer to {rows}: that says nothing about how good it is."


def _meets_bar(meets: reasons.MeetsBar) -> str:
    name, bar = capitalize(candidate_name(meets.rung.arm)), share_text(meets.bar)
    text = f"{name} meets the bar of {bar}: {score_text(meets.rung)}, {price_text(meets.rung)}."
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
    is_all = ways.missing == ways.measured
    if not is_all:
        miss = f"{ways.missing} of {ways.measured} measured ways surely {'misses' if ways.missing == 1 else 'miss'}"
    else:
        miss = f"All {ways.missing} measured ways miss" if ways.missing > 1 else "The one measured way misses"
    best = f"{candidate_name(ways.best.arm)}: {score_text(ways.best)}, {price_text(ways.best)}"
    return f"{miss} the bar of {share_text(ways.bar)}. The best{'' if is_all else ' of those'} is {best}."


def _tuned_stands(stands: reasons.TunedStands) -> str:
    score, bar = score_text(stands.rung), share_text(stands.bar)
    match stands.rung.standing:
        case "meets":
            return f"The tuned model meets the bar of {bar}: {score}, {price_text(stands.rung)}."
        case "misses":
            return f"The tuned model misses the bar of {bar}: {score}."
        case "undecided":
            return f"The tuned model is too close to the bar of {bar} to say: {score}."


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


def _never_answered(labels: Sequence[str]) -> str:
    shown = ", ".join(f"“{label[:40]}”" for label in labels[:SHOWN_LABELS])
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    return f"No way ever answers {shown}{more}: look whether these rows are labelled as you mean it."


def _style_reached(style: reasons.StyleReached) -> str:
    reached = f"Prompting gets the {style.of} right {share_text(style.share)} of the time"
    least = share_text(STYLE_PROMPTED)
    if style.share >= STYLE_PROMPTED:
        return f"{reached}, which is {least} or more: training makes it steady, a good reason."
    return f"{reached}; from {least} on it is a good reason."


def _speeds(speeds: reasons.Speeds) -> str:
    text = f"The fastest prompted way answers within {seconds_text(speeds.prompted)} (p95)"
    if speeds.classical is not None:
        text += f", the classical model within {seconds_text(speeds.classical)}"
    if speeds.tuned is None:
        return f"{text}; the tuned model's speed is not measured."
    slower = "" if speeds.tuned * FASTER <= speeds.prompted else f" That is not {FASTER} times as fast."
    return f"{text}; the tuned model within {seconds_text(speeds.tuned)}.{slower}"


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
            text = f"{rows} are worth a try; {ENOUGH_ROWS:,} and more are what usually carries a fine-tune."
            own = f" For own categories fewer do, if each has {FEW_PER_LABEL}."
            return f"{text}{own}" if count.few_of_a_label else text


def _rare_labels(rare: reasons.RareLabels) -> str:
    if rare.labels is None:
        return f"The rarest label has {rare.rarest} rows: it will hardly be learnt, and can't be judged."
    has = "1 label has" if rare.labels == 1 else f"{rare.labels:,} labels have"
    return f"{has} fewer than {FEW_PER_LABEL} rows and will hardly be learnt, nor can they be judged."


def _more_rows(more: reasons.MoreRows) -> str:
    whose, there = LONG_NAMES[more.rung], more.there
    if more.points_per_100 is None:
        gain = f"Whether more rows bring {whose} anything can't be told yet."
    else:
        points = f"{max(more.points_per_100, 0):.1g}"
        gain = f"100 more rows are predicted to bring {whose} about {points} points."
    if there is None:
        return gain
    between = f"{share_text(there.low)} to {share_text(there.high)}"
    return f"{gain} It gets to {share_text(there.score)} ({between}) with {there.rows:,} rows."


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


# Steps.


def todo_text(todo: Todo, spelling: Spelling = SLACK) -> str:
    match todo:
        case str():
            return _plain_step(todo, spelling)
        case reasons.Measure():
            return _measure(todo, spelling)
        case reasons.Use():
            name = candidate_name(todo.arm)
            if todo.instead_of_worse:
                return f"Use {name}, and look at the rows that the tuned model got wrong."
            bar = spelling.option("bar")
            return f"Use {name}. If that is not good enough, raise the bar ({bar}) and ask again."
        case reasons.WritePrice():
            return f'Write its price into finetune.toml ([prices."{todo.model}"]) and ask again.'
        case reasons.HoldOut():
            if todo.arm is None:
                return "Hold out more labelled rows: twice as many may still not decide it."
            rows = pluralize(todo.rows, "more labelled row")
            return f"Hold out {rows}: that would probably decide on {candidate_name(todo.arm)}."
        case reasons.HoldOutAtLeast():
            return f"Hold out at least {todo.rows:,} more labelled rows."
        case reasons.LabelFirst():
            labels = ", ".join(f"“{label[:40]}”" for label in todo.labels[:SHOWN_LABELS])
            return f"Label more rows before you train again, first of {labels}."
        case reasons.LabelRows():
            if todo.is_another_way:
                return f"Labelling {todo.rows:,} more rows is another way."
            rows = pluralize(todo.rows, "more row")
            return f"Label {rows}, or start a run all the same if it costs little."
        case reasons.LabelMore():
            if not todo.lacking:
                return f"Label at least {todo.rarest} more of the rarest label."
            shown = ", ".join(
                f"“{label[:40]}” ({lacks} more)" for label, lacks in todo.lacking[:SHOWN_LABELS]
            )
            hidden = len(todo.lacking) - SHOWN_LABELS
            return f"Label more rows for {shown}{f' and {hidden:,} other labels' if hidden > 0 else ''}."
        case reasons.PinDown():
            return _pin_down(todo, spelling)
        case reasons.FillGap():
            return missing_price_text(todo.missing, spelling)
    assert_never(todo)


def _plain_step(todo: PlainTodo, spelling: Spelling) -> str:
    option = spelling.option
    quality = f"If better answers, not savings, are the aim, say so ({option('task', 'quality')})."
    sentences: Mapping[PlainTodo, str] = {
        "calibrate": "Run `finetune calibrate` on it: half a minute, best while nothing else runs.",
        "train something smaller": "Choose a smaller model, 4 bits "
        f"(`{option('quantization', 'nf4')}`), shorter rows or a larger machine.",
        "say the machine's price": "Say what an hour of a machine costs (usd_per_hour of the model in finetune.toml).",
        "choose another target": "Choose another target: a model on your own machine has no end date.",
        "add rows of other labels": "Add rows of the other labels and upload again.",
        "see why it does not answer": "See why the tuned model does not answer, then measure it again.",
        "measure speed by a run": "Start a run: it measures how fast the tuned model answers.",
        "say model and volume": f"Say {option('current')} (today's model) and {option('volume')}: then the two can be "
        "compared.",
        "look at wrong rows": "Look at the rows that it got wrong before you train again; stay with today's model.",
        "clearer prompt": f"Measure a clearer prompt ({option('prompt')}) or another model ({option('models')}).",
        "collect rows": "Collect labelled rows and upload again; until then put ten good examples into the prompt.",
        "say the task": f"Say what kind of task it is ({option('task')}): for a style, a format or own categories "
        "fewer rows do.",
        "lower the bar": f"Say a lower bar ({option('bar')}).",
        "correct rows": "Correct the rows that the check of the file lists, and upload it again.",
        "stay": f"Stay with today's model. {quality}",
        "use what is cheaper": f"Use what is cheaper. {quality}",
        "say the volume": f"Say how many input tokens a month it will be ({option('volume')}).",
        "say what a wrong answer costs": f"Say what a wrong answer costs ({option('wrong_usd')}). {quality}",
        "say the hours": f"Say the hours of people's time that it takes ({option('hours')}).",
    }
    return sentences[todo]


def _measure(measure: reasons.Measure, spelling: Spelling) -> str:
    rungs = [measure.rung] if measure.rung else []
    command = spelling.command("baseline", measure.dataset, {"rungs": rungs, "models": measure.models})
    models = spelling.option("models")
    match measure.what:
        case "successor":
            return f"Measure it ({command})."
        case "prompts":
            return f"Measure prompts and retrieval ({command}): it says its price first."
        case "classical":
            return f"Measure the classical model ({command}): free, and done in seconds."
        case "again":
            return f"Measure again ({command}): the answers are kept, so it costs nothing."
        case "rung":
            way = LONG_NAMES[measure.rung] if measure.rung else "all ways"
            return f"Measure {way} ({command}): {cost_text(measure.usd)}."
        case "today":
            beside = " and a cheap model beside it" if len(measure.models) != 1 else ""
            named = "" if measure.models else f" with {models}"
            return f"Measure {measure.today}{beside}: {command}{named}."
        case "today alone":
            return f"Measure today's model: {command}."
        case "knowledge":
            what = "better or more documents" if measure.has_knowledge else "the documents"
            return f"Upload {what} as knowledge and measure retrieval ({command})."
        case "stronger base":
            return f"Measure a stronger base model: {command} with it as {models}."


def _pin_down(todo: reasons.PinDown, spelling: Spelling) -> str:
    """How an input of the forecast becomes better known, by its name there."""
    baseline = spelling.command("baseline", todo.dataset)
    ways: Mapping[str, str] = {
        "volume": "Count last month's input tokens on the vendor's bill and say them "
        f"({spelling.option('volume')})",
        "people's time": "Agree on the hours of people's time that it takes, and say them",
        "price of the alternative": f"Look whether a cheaper model does as well today ({baseline})",
        "training runs": "Train on a part of the rows first: it shows whether one run is enough",
        "training time": "Train on a part of the rows first: it shows how long a run takes",
        "quality": "Hold out more labelled rows and measure both again",
    }
    matters = f": it matters most ({swing_text(todo.swing)})" if todo.swing else ""
    return f"{ways.get(todo.name, f'Find out more about {todo.name}')}{matters}."
