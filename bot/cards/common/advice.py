"""The verdict in words: its headline, its reasons, and what to do next."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import assert_never

from bot.cards.common.blocks import Block, CardBlock, Text, button, confirm, cut, sentence
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import LONG_NAMES, candidate_name, cost_text
from bot.cards.common.payback import monthly_saving_text, swing_text
from bot.cards.common.prices import missing_price_text
from bot.cards.common.reasons import SHOWN_LABELS, because_text
from bot.cards.common.words import SLACK, Spelling, about_rows, capitalize, day, pluralize
from bot.rules import reasons
from bot.rules.advice import Verdict, is_against_today
from bot.rules.reasons import PlainTodo, Reason, Todo
from trainers.dataset.splits import HOLDOUT_MOST
from trainers.evaluation.results import Candidate
from trainers.money import usd

USE = "use_candidate"  # its value: a measurement, and the key of a candidate that it knows
USE_ENCODER = "use_encoder"  # on cards of older versions; its value: the dataset, and the encoder to train
MARKS = {"go": "For", "no_go": "Against", "unknown": "Unknown"}
MOST_CHARACTERS = 160  # two lines of a card
# Rules whose reason is on the card even if another one of its kind is stronger: the end of the model to train, a bar
# that hardly any model reaches, labels that can't be learnt, and measurements that couldn't be read.
NOTES = ("end date", "far bar", "labels", "newer version")
_FIRST_SENTENCE = re.compile(r"(?:“[^”]*”|[^“])*?\.(?=\s+[A-Z“`])")
NO_SAVING = "No saving is shown, because the verdict is against the tuned model whatever it would save."


@dataclass(frozen=True)
class Offered:
    """Whether a candidate that a card advises to use can be used: the measurement that measured it, if one click
    deploys it; or since when it is in use; or what it would replace, by name, None if nothing is in use."""

    measurement: int | None = None
    in_use_since: float | None = None
    replaces: str | None = None


NOT_OFFERED = Offered()


def headline(verdict: Verdict, spelling: Spelling = SLACK) -> str:
    """The verdict with its deciding reason, in one or two sentences."""
    match verdict.kind:
        case "no_go":
            return f"Not now. {because_text(verdict.deciding.because, spelling)}"
        case "unknown":
            return _undecided(verdict, spelling)
        case "go" if verdict.facts.evidence.trained is not None:
            estimate = verdict.facts.estimate
            if estimate is not None and estimate.saving_month > 0:
                return "Go: the tuned model is good enough, and it pays."
            return "Go: the tuned model is good enough."
        case "go":
            rows = pluralize(verdict.facts.n_holdout, "held-out row")
            return (
                f"Go: train it. A run costs {_cost(verdict.facts.run_usd)} and measures the tuned model on the "
                f"same {rows}. Nothing is deployed before that."
            )


def next_step(verdict: Verdict, spelling: Spelling = SLACK) -> str:
    """The step of the deciding reason; if it has none, the step after a go."""
    facts = verdict.facts
    if verdict.deciding.step:
        return _deciding_step(verdict, verdict.deciding.step.todo, spelling)
    if verdict.kind != "go":
        return ""
    if facts.evidence.trained is not None:
        return "Deploy the tuned model, and keep today's available until it has proved itself."
    return f"Start a run ({spelling.command('start', facts.dataset)})."


def _deciding_step(verdict: Verdict, todo: Todo, spelling: Spelling) -> str:
    """The step, except that nobody can simply stay with a model that will be shut down."""
    hint = _quality_hint(spelling)
    estimate = verdict.facts.estimate
    if todo == "stay" and estimate and estimate.succession and is_against_today(estimate):
        succession = estimate.succession
        until = f"Stay with today's model until it ends on {succession.ends}"
        if succession.successor and verdict.facts.is_measured(succession.successor):
            return f"{until}, and use its successor {succession.successor} from then on."
        return f"{until}, and measure its possible successors before then. {hint}"
    if verdict.kind == "no_go":
        stays = _until_the_end(todo, spelling)
        if stays:
            return f"{stays} {hint}"
    return todo_text(todo, spelling)


def _until_the_end(todo: Todo, spelling: Spelling) -> str | None:
    """The step to keep a model that will be shut down, and to measure its successor in time; None for other steps."""
    keys: tuple[str, ...] = ()
    measure = todo
    if isinstance(todo, reasons.SetUp):
        keys = todo.keys
        measure = todo.measure
    if not isinstance(measure, reasons.Measure) or measure.follows is None:
        return None
    end = measure.follows
    old = end.model.rpartition("/")[2]
    new = measure.models[0].rpartition("/")[2]
    how = _measuring_command(measure, spelling)
    if keys:
        how = f"{how}, once {' and '.join(keys)} is set where the bot runs"
    return f"Stay with {old} until it ends on {end.day}, and measure {new} before then ({how})."


def reason_text(verdict: Verdict, reason: Reason, spelling: Spelling = SLACK) -> str:
    """The reason with the step that would settle it. The deciding reason gets no step here, since the card shows it as
    the next step, nor does a gap, whose sentence names the step."""
    text = because_text(reason.because, spelling)
    if reason.step is None or reason is verdict.deciding or isinstance(reason.because, reasons.PriceGap):
        return text
    return f"{text} {todo_text(reason.step.todo, spelling)}"


def reason_blocks(verdict: Verdict, spelling: Spelling = SLACK, *, above: str = "") -> list[CardBlock]:
    """Every reason of the verdict except one that the sentence `above` contains, then the next step."""
    lines = [
        f"• _{MARKS[reason.kind]}_: {sentence(reason_text(verdict, reason, spelling))}"
        for reason in verdict.reasons
        if because_text(reason.because, spelling) not in above
    ]
    parts = Parts()
    parts.lines(lines)
    parts.text(f"*Next*: {sentence(next_step(verdict, spelling))}")
    return parts


def main_reasons(verdict: Verdict, spelling: Spelling = SLACK) -> list[str]:
    """The strongest reason for, the strongest against and the most important unknown, each in one sentence, then what a
    reader should know besides. Details has all reasons."""
    lines = []
    for reason in verdict.main_reasons:
        text = first_sentence(because_text(reason.because, spelling))
        lines.append(f"• {_mark(verdict, reason)}: {sentence(text)}")
    for rule in NOTES:
        others = (other for other in verdict.reasons if other.rule == rule)
        note = next((other for other in others if other not in verdict.main_reasons), None)
        if note:
            text = first_sentence(because_text(note.because, spelling))
            lines.append(f"• *Note*: {sentence(text)}")
    return lines


def _mark(verdict: Verdict, reason: Reason) -> str:
    """'*For*', with how many more there are of a kind of which the card shows only the strongest: '*For* (1 of 3)'."""
    if reason.rule in NOTES and not reason.weighs:
        return "*Note*"
    mark = f"*{MARKS[reason.kind]}*"
    same = sum(other.kind == reason.kind and other.weighs for other in verdict.reasons)
    if reason.weighs and same > 1:
        mark += f" (1 of {same})"
    return mark


def first_sentence(text: str) -> str:
    """The first sentence, cut to two lines of a card. A full stop inside quotation marks doesn't end a sentence."""
    first = _FIRST_SENTENCE.match(text)
    if first:
        text = first[0]
    return cut(text, MOST_CHARACTERS)


def _undecided(verdict: Verdict, spelling: Spelling) -> str:
    facts = verdict.facts
    if facts.evidence.comparison is not None or facts.evidence.trained is not None:
        return f"Undecided. {because_text(verdict.deciding.because, spelling)}"
    cost = _cost(facts.run_usd)
    if facts.estimate is None:
        return f"Worth measuring: a run costs {cost}. What it would save is still unknown."
    return (
        f"Worth measuring: a run costs {cost} and would save {monthly_saving_text(facts.estimate)} "
        f"if the tuned model is good enough."
    )


def _cost(amount: Decimal | None) -> str:
    if amount is None:
        return "an unknown amount"
    if not amount:
        return "only the machine's time"
    cost = usd(amount)
    # "under 1 cent" is no amount that could be rounded.
    if not cost.startswith("$"):
        return cost
    return f"about {cost}"


def todo_text(todo: Todo, spelling: Spelling = SLACK) -> str:
    match todo:
        case str():
            return _plain_step(todo, spelling)
        case reasons.Measure():
            return _measure(todo, spelling)
        case reasons.SetUp():
            return _set_up(todo, spelling)
        case reasons.UseCandidate():
            return _use_candidate(todo, spelling)
        case reasons.WritePrice():
            return f'Add its price to finetune.toml ([prices."{todo.model}"]) and estimate again.'
        case reasons.HoldOut():
            return _hold_out(todo)
        case reasons.HoldOutAtLeast():
            return f"Hold out at least {todo.rows:,} more labelled rows."
        case reasons.LabelFirst():
            labels = ", ".join(f"“{label[:40]}”" for label in todo.labels[:SHOWN_LABELS])
            return f"Label more rows before you train again, starting with {labels}."
        case reasons.LabelRows():
            if todo.is_another_way:
                return f"Labelling {todo.rows:,} more rows is another option."
            rows = pluralize(todo.rows, "more row")
            return f"Label {rows}, or start a run anyway if it costs little."
        case reasons.LabelMore():
            return _label_more(todo)
        case reasons.PinDown():
            return _pin_down(todo, spelling)
        case reasons.FillGap():
            return missing_price_text(todo.missing, spelling)
    assert_never(todo)


def _use_candidate(todo: reasons.UseCandidate, spelling: Spelling) -> str:
    name = candidate_name(todo.candidate)
    if todo.instead_of_worse:
        return f"Use {name}, and look at the rows that the tuned model got wrong."
    if todo.end:
        follows = "what could follow it"
        if todo.end.successor:
            follows = f"its successor {todo.end.successor}"
        return f"Use {name} until its model ends on {todo.end.day}, and measure {follows} before then."
    bar = spelling.option("bar")
    return f"Use {name}. If that is not good enough for you, raise the bar ({bar}) and estimate again."


def _hold_out(todo: reasons.HoldOut) -> str:
    """How many rows settle the question. Of new rows, an upload holds out only a fifth, hence both numbers."""
    rows = about_rows(todo.rows, "more labelled row")
    new = about_rows(todo.new, "new one")
    settles = f"in four of five cases that settles whether {candidate_name(todo.candidate)} meets the bar"
    if todo.beside is not None:
        other = candidate_name(todo.beside)
        settles = f"if the tuned model is as good as {other}, that shows it in four of five cases"
    return f"Hold out {rows}, a fifth of {new}: {settles}."


def _label_more(todo: reasons.LabelMore) -> str:
    if not todo.lacking:
        return f"Label at least {pluralize(todo.rarest, 'more row')} of the rarest label."
    labels = [f"“{label[:40]}” ({lacks} more)" for label, lacks in todo.lacking[:SHOWN_LABELS]]
    shown = ", ".join(labels)
    hidden = len(todo.lacking) - SHOWN_LABELS
    if hidden > 0:
        shown += f" and {hidden:,} other labels"
    return f"Label more rows for {shown}."


def _quality_hint(spelling: Spelling) -> str:
    return f"To aim for better answers instead, add {spelling.option('task', 'quality')}."


def _plain_step(todo: PlainTodo, spelling: Spelling) -> str:
    option = spelling.option
    quality = _quality_hint(spelling)
    sentences: Mapping[PlainTodo, str] = {
        "calibrate": "Run `finetune calibrate` on it; it takes half a minute, best while nothing else runs.",
        "train something smaller": "Choose a smaller model, 4-bit weights "
        f"(`{option('quantization', 'nf4')}`), shorter rows or a larger machine.",
        "say the machine's price": "Set what a machine costs per hour (usd_per_hour of the model in finetune.toml).",
        "say the serving speed": "Ask the vendor how many tokens a second its machine handles, and add that "
        f"({option('serving_speed')}).",
        "choose another target": "Choose another target: models that start with `local/` have no end date, and "
        "services such as `crusoe/llama-3.1-8b` train open weights.",
        "add rows of other labels": f"Add rows of the other labels and {spelling.again}.",
        "see why it does not answer": "Find out why the tuned model gives no answer, then measure it again.",
        "measure speed by a run": "Start a run: it measures how fast the tuned model answers.",
        "say model and volume": f"Add {option('current')} (today's model) and {option('volume')}, so that the two can "
        "be compared.",
        "look at wrong rows": "Stay with today's model, and look at the rows that the tuned one got wrong before you "
        "train again.",
        "measure another model": f"Measure another model ({option('models')}), or find out why this one does not "
        "answer.",
        "clearer prompt": f"Measure a clearer prompt ({option('prompt')}) or another model ({option('models')}).",
        "collect rows": f"Collect more labelled rows and {spelling.again}. Until then, put ten good examples into "
        "the prompt.",
        "say the task": f"Add the kind of task ({option('task')}): a style, a format or your own categories need "
        "fewer rows.",
        "lower the bar": f"Set a lower bar ({option('bar')}).",
        "decide by the score": f"More than the {HOLDOUT_MOST:,} rows that a dataset may hold out would be needed to "
        f"settle this. Set a lower bar ({option('bar')}) if the score is good enough, else measure another model "
        f"({option('models')}).",
        "decide by the difference": "More held-out rows are unlikely to settle this. Stay with what you have, or "
        "deploy the tuned model anyway: that asks for your reason.",
        "another judge": f"Measure again with another judge ({option('judge', 'MODEL')}).",
        "check labels": "Have a person check 20 of the rows that the file's check lists. That shows how many "
        "labels are wrong.",
        "correct rows": f"Correct the rows that the file's check lists, and {spelling.again}.",
        "stay": f"Stay with today's model. {quality}",
        "use what is cheaper": f"Use the cheaper alternative. {quality}",
        "say the volume": f"Add the requests per month ({option('volume')}).",
        "say what a wrong answer costs": f"Add what a wrong answer costs ({option('wrong_usd')}). {quality}",
        "say the hours": f"How many hours of work will this take? Add {option('hours')}.",
    }
    return sentences[todo]


def _measuring_command(measure: reasons.Measure, spelling: Spelling) -> str:
    options: dict[str, Sequence[str]] = {"candidates": measure.kinds, "models": measure.models}
    if measure.judge:
        options["judge"] = (measure.judge,)
    return spelling.command("baseline", measure.dataset, options)


def _measure(measure: reasons.Measure, spelling: Spelling) -> str:
    command = _measuring_command(measure, spelling)
    models = spelling.option("models")
    match measure.what:
        case "successor":
            return f"Measure it ({command})."
        case "cheap model":
            name = measure.models[0].rpartition("/")[2]
            return f"Measure {name} ({command}): {cost_text(measure.usd)}."
        case "prompts":
            return f"Measure prompts and retrieval ({command}). You see the cost before anything is spent."
        case "free":
            return f"Measure the free models ({command}); it takes a few seconds."
        case "kind":
            names = " and ".join(LONG_NAMES[kind] for kind in measure.kinds) or "all alternatives"
            return f"Measure {names} ({command}): {cost_text(measure.usd)}."
        case "today":
            what = measure.today
            if len(measure.models) != 1:
                what = f"{what} and a cheap model beside it"
            if not measure.models:
                # Nothing here tells which models can be asked, so the reader completes the option.
                command = f"{command} with {models}"
            return f"Measure {what}: {command}."
        case "today alone":
            return f"Measure today's model: {command}."
        case "knowledge":
            documents = "the documents"
            if measure.has_knowledge:
                documents = "better or more documents"
            return f"Upload {documents} as knowledge and measure retrieval ({command})."
        case "stronger base":
            return f"Measure a stronger base model: {command} with it as {models}."


def _set_up(todo: reasons.SetUp, spelling: Spelling) -> str:
    measure = todo.measure
    if todo.keys:
        return f"Set {' and '.join(todo.keys)} where the bot runs. {_measure(measure, spelling)}"
    if measure.today and measure.is_of_today:
        return (
            f"No provider here has {measure.today}. To measure it, add a provider that does to finetune.toml."
        )
    return (
        "No model can be asked here: set a provider's key where the bot runs, or add a model of your own to "
        "finetune.toml under [trainer.models]."
    )


def _pin_down(todo: reasons.PinDown, spelling: Spelling) -> str:
    """How to find out more about an input of the forecast."""
    baseline = spelling.command("baseline", todo.dataset)
    ways: Mapping[str, str] = {
        "volume": "Take last month's number of requests from the vendor's usage page and add it "
        f"({spelling.option('volume')})",
        "staff time": f"Agree on the hours of staff time that this takes, and add them ({spelling.option('hours')})",
        "price of the alternative": f"Check whether a cheaper model does as well today ({baseline})",
        "training runs": "Train on part of the rows first to see whether one run is enough",
        "training time": "Train on part of the rows first to see how long a run takes",
        "quality": "Hold out more labelled rows and measure both again",
        "serving speed": "Ask the vendor how many tokens a second its machine handles, and add that "
        f"({spelling.option('serving_speed')})",
    }
    way = ways.get(todo.name, f"Find out more about the {todo.name}")
    if todo.swing is None:
        return f"{way}."
    return f"{way}. It matters most: {swing_text(todo.swing)}."


def use_button(candidate: Candidate, measurement: int, *, is_named: bool = False) -> Block:
    """The button that deploys a candidate as it was known when that measurement ended. `is_named` adds its name, for a
    card about something else."""
    words = "Use it"
    if is_named:
        words = f"Use {candidate_name(candidate, 30)}"
    sure = confirm(
        f"Use {candidate_name(candidate, 40)}?",
        "It answers programs from now on, exactly as it was measured. What is in use for the dataset is kept for a "
        "rollback.",
        "Use it",
        "Not yet",
    )
    return button(words, USE, f"{measurement} {candidate.key}", style="primary", confirm=sure)


def in_use_text(candidate: Candidate, since: float) -> str:
    """Takes the place of the advice to use a candidate, and of its button."""
    return f"{capitalize(candidate_name(candidate))} has been in use since {day(since)}."


def verdict_blocks(verdict: Verdict, spelling: Spelling = SLACK) -> list[CardBlock]:
    """The verdict, for a card with another headline."""
    title = headline(verdict, spelling)
    reasons = reason_blocks(verdict, spelling, above=title)
    return [Text(f"*Verdict*: {sentence(title)}"), *reasons]
