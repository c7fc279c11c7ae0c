"""The verdict in words: its headline, its reasons, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import assert_never

from bot.cards.blocks import CardBlock, Lines, Text, cut, sentence
from bot.cards.candidates import LONG_NAMES, candidate_name, cost_text
from bot.cards.payback import monthly_saving_text, swing_text
from bot.cards.prices import missing_price_text
from bot.cards.reasons import SHOWN_LABELS, because_text
from bot.cards.words import SLACK, Spelling, pluralize
from bot.rules import reasons
from bot.rules.advice import Verdict
from bot.rules.payback import is_against_today
from bot.rules.reasons import PlainTodo, Reason, Todo
from trainers.money import usd

MARKS = {"go": "For", "no_go": "Against", "unknown": "Unknown"}
MOST_IN_SHORT = 160  # two lines of a card
_FIRST_SENTENCE = re.compile(r"(?:“[^”]*”|[^“])*?\.(?=\s+[A-Z“`])")
NO_SAVING = "No saving is shown: this verdict is against the tuned model, whatever it would save."


def headline(verdict: Verdict, spelling: Spelling = SLACK) -> str:
    match verdict.kind:
        case "no_go":
            return f"Not now. {because_text(verdict.deciding.because, spelling)}"
        case "unknown":
            return _undecided(verdict, spelling)
        case "go" if verdict.facts.evidence.trained is not None:
            pays = verdict.facts.estimate is not None and verdict.facts.estimate.saving_month > 0
            return f"Go: the tuned model is good enough{', and it pays' if pays else ''}."
        case "go":
            rows = pluralize(verdict.facts.n_holdout, "held-out row")
            return (
                f"Go: train it. A run costs {_cost(verdict.facts.run_usd)} and measures the tuned model on the "
                f"same {rows}; nothing is switched before that."
            )


def next_step(verdict: Verdict, spelling: Spelling = SLACK) -> str:
    """The step of the reason that decides; where it has none, what a go leads to."""
    step, facts = verdict.deciding.step, verdict.facts
    if step:
        estimate = facts.estimate
        if step.todo == "stay" and estimate and estimate.succession and is_against_today(estimate):
            until = f"Stay with today's model until it ends on {estimate.succession.ends}"
            return f"{until}, and measure before that what can follow it. {_for_quality(spelling)}"
        return todo_text(step.todo, spelling)
    if verdict.kind != "go":
        return ""
    if facts.evidence.trained is not None:
        return "Deploy the tuned model, and keep today's at hand until it has proved itself."
    return f"Start a run ({spelling.command('start', facts.dataset)})."


def reason_text(verdict: Verdict, reason: Reason, spelling: Spelling = SLACK) -> str:
    """The reason with the step that would settle it. The step of the reason that decides stands by itself on the
    card, and a gap's sentence names its step already."""
    text = because_text(reason.because, spelling)
    if reason.step is None or reason is verdict.deciding or isinstance(reason.because, reasons.Gap):
        return text
    return f"{text} {todo_text(reason.step.todo, spelling)}"


def reason_blocks(verdict: Verdict, spelling: Spelling = SLACK, *, above: str = "") -> list[CardBlock]:
    """Every reason of the verdict, but for one that the sentence right `above` has given; and what comes next."""
    lines = [
        f"• _{MARKS[reason.kind]}_: {sentence(reason_text(verdict, reason, spelling))}"
        for reason in verdict.reasons
        if because_text(reason.because, spelling) not in above
    ]
    next_line = Text(f"*Next*: {sentence(next_step(verdict, spelling))}")
    return [Lines(lines), next_line] if lines else [next_line]


def main_reasons(verdict: Verdict, spelling: Spelling = SLACK) -> list[str]:
    """The strongest reason for, against and open, each in a sentence, and when the model to train ends; the details
    have them all."""
    lines = []
    for reason in verdict.main_reasons:
        same = sum(other.kind == reason.kind and other.weighs for other in verdict.reasons)
        more = f" (1 of {same})" if reason.weighs and same > 1 else ""
        text = in_short(because_text(reason.because, spelling))
        lines.append(f"• *{MARKS[reason.kind]}*{more}: {sentence(text)}")
    ends = (other for other in verdict.reasons if other.rule == "end date")
    end = next((other for other in ends if other not in verdict.main_reasons), None)
    return [*lines, f"• *Mind*: {sentence(in_short(because_text(end.because, spelling)))}"] if end else lines


def in_short(text: str) -> str:
    """The first sentence; a stop between quotes ends none."""
    first = _FIRST_SENTENCE.match(text)
    return cut(first[0] if first else text, MOST_IN_SHORT)


def _undecided(verdict: Verdict, spelling: Spelling) -> str:
    facts = verdict.facts
    if facts.evidence.ladder is not None or facts.evidence.trained is not None:
        return f"Undecided. {because_text(verdict.deciding.because, spelling)}"
    cost = _cost(facts.run_usd)
    if facts.estimate is None:
        return f"Worth measuring: a run costs {cost}. What it saves is still unknown."
    return (
        f"Worth measuring: a run costs {cost} and would save {monthly_saving_text(facts.estimate)} "
        f"if the tuned model is good enough."
    )


def _cost(amount: Decimal | None) -> str:
    if amount is None:
        return "an unknown sum"
    if not amount:
        return "nothing but your own machine's time"
    cost = usd(amount)
    return f"about {cost}" if cost.startswith("$") else cost


def todo_text(todo: Todo, spelling: Spelling = SLACK) -> str:
    match todo:
        case str():
            return _plain_step(todo, spelling)
        case reasons.Measure():
            return _measure(todo, spelling)
        case reasons.SetUp():
            return _set_up(todo, spelling)
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


def _for_quality(spelling: Spelling) -> str:
    return f"If better answers, not savings, are the aim, say so ({spelling.option('task', 'quality')})."


def _plain_step(todo: PlainTodo, spelling: Spelling) -> str:
    option, quality = spelling.option, _for_quality(spelling)
    sentences: Mapping[PlainTodo, str] = {
        "calibrate": "Run `finetune calibrate` on it: half a minute, best while nothing else runs.",
        "train something smaller": "Choose a smaller model, 4 bits "
        f"(`{option('quantization', 'nf4')}`), shorter rows or a larger machine.",
        "say the machine's price": "Set what an hour of a machine costs (usd_per_hour of the model in finetune.toml).",
        "choose another target": "Choose another target: one that starts with `local/` has no end date, and open "
        "weights train at services like `crusoe/llama-3.1-8b`.",
        "add rows of other labels": f"Add rows of the other labels and {spelling.again}.",
        "see why it does not answer": "See why the tuned model does not answer, then measure it again.",
        "measure speed by a run": "Start a run: it measures how fast the tuned model answers.",
        "say model and volume": f"Give {option('current')} (today's model) and {option('volume')}: then the two can be "
        "compared.",
        "look at wrong rows": "Look at the rows that it got wrong before you train again; stay with today's model.",
        "clearer prompt": f"Measure a clearer prompt ({option('prompt')}) or another model ({option('models')}).",
        "collect rows": f"Collect labelled rows and {spelling.again}; until then put ten good examples into "
        "the prompt.",
        "say the task": f"Give the kind of task ({option('task')}): for a style, a format or own categories "
        "fewer rows do.",
        "lower the bar": f"Set a lower bar ({option('bar')}).",
        "correct rows": f"Correct the rows that the check of the file lists, and {spelling.again}.",
        "stay": f"Stay with today's model. {quality}",
        "use what is cheaper": f"Use what is cheaper. {quality}",
        "say the volume": f"Give the input tokens a month ({option('volume')}).",
        "say what a wrong answer costs": f"Give what a wrong answer costs ({option('wrong_usd')}). {quality}",
        "say the hours": f"How many hours of work will this take? Give {option('hours')}.",
    }
    return sentences[todo]


def _measure(measure: reasons.Measure, spelling: Spelling) -> str:
    command = spelling.command(
        "baseline", measure.dataset, {"rungs": measure.rungs, "models": measure.models}
    )
    models = spelling.option("models")
    match measure.what:
        case "successor":
            return f"Measure it ({command})."
        case "prompts":
            return f"Measure prompts and retrieval ({command}): it says its price first."
        case "free":
            return f"Measure the free models ({command}): done in seconds."
        case "again":
            return f"Measure again ({command}): the answers are kept, so it costs nothing."
        case "rung":
            way = " and ".join(LONG_NAMES[rung] for rung in measure.rungs) or "all ways"
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


def _set_up(todo: reasons.SetUp, spelling: Spelling) -> str:
    measure = todo.measure
    if todo.keys:
        return f"Set {' and '.join(todo.keys)} where the bot runs. {_measure(measure, spelling)}"
    if measure.today and measure.is_of_today:
        return f"No provider here has {measure.today}: put one that does into finetune.toml, to measure it."
    return (
        "There is no model to ask here: put a provider's key where the bot runs, or a model of your own into "
        "finetune.toml under [trainer.models]."
    )


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
