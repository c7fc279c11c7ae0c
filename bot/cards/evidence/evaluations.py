"""An evaluation before its result: the question about its cost, its progress, its end, and the form to request it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Lines,
    Message,
    Steps,
    Task,
    TaskStatus,
    button,
    code,
    confirm,
    cut,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import FORM_NAMES, bar_share, short_name, table_name
from bot.cards.common.forms import modal
from bot.cards.common.general import text_message
from bot.cards.common.judge_agreement import bias_warning, judged_models, max_judge_questions
from bot.cards.common.plan_money import budget_left
from bot.cards.common.words import (
    at_most,
    booked,
    charge,
    percent,
    percent_done,
    pluralize,
    progress_bar,
    share_text,
    shorten,
    time_left,
)
from bot.cards.evidence import prompt_search
from bot.rules.budgets import Budget
from bot.rules.facts import TASK_KINDS, Standard
from bot.values.evaluations import CandidateProgress, ComparisonPlan, ComparisonProgress, ShotsTried, Stage
from storage.records import Measurement, MeasurementState
from trainers.evaluation.results import DEFAULT_QUALITY_THRESHOLD

MEASURE = "measure"
CANCEL = "cancel_measurement"
FORM = "baseline_form"
# Form fields under which their own refusals are shown.
ANSWERED_BELOW = ("judge", "because", "prompt", "optimise")
STAGES: dict[Stage, str] = {
    "preparing": "is preparing its questions",
    "pricing": "is preparing its questions",
    "asking": "is waiting for confirmation",
    "choosing": "is choosing examples",
    "searching": "is optimising the prompt",
    "measuring": "is running",
    "consulting": "is being judged by a model",
    "judging": "is being scored",
}
ENDED: dict[MeasurementState, str] = {
    "asked": "is waiting",
    "running": "is running",
    "done": "is done",
    "failed": "failed",
    "cancelled": "was cancelled",
}
# More are only counted: a card has no room for more tasks and lines.
SHOWN_CANDIDATES = 30
SHOWN_OPEN = 4
LEAST_SECONDS = 20
EXPIRY = "Expires in 24 hours if nobody confirms."
LONGEST_REASON = 300


@dataclass(frozen=True)
class BaselineChoices:
    """What the form offers. `dataset` is preselected. `may_overrule` is True if the team has data rules that a reason
    can override."""

    datasets: Sequence[str]
    models: Sequence[str]
    dataset: str | None = None
    may_overrule: bool = False


def request_card(
    measurement: Measurement, plan: ComparisonPlan, progress: ComparisonProgress, budget: Budget
) -> Message:
    """What will be asked and the maximum cost, before anything is spent."""
    title = shorten(plan.title)
    what = f"Measure {pluralize(len(plan.candidates), 'alternative')} on {title}"
    if plan.teaches:
        teacher = shorten(str(plan.candidates[0].model))
        what = f"Let {teacher} label {pluralize(plan.n_holdout, 'row')} of {title}"

    parts = Parts()
    parts.facts(_facts(plan, progress, budget))
    parts.add(Lines(_asked_lines(progress.candidates)))
    warning = bias_warning(plan.judge, judged_models(plan))
    if warning:
        parts.note(f"⚠ {escape(warning)}")
    parts.buttons(
        measure_button(measurement, plan, progress),
        button("Cancel", CANCEL, str(measurement.id)),
    )
    parts.note(f"Measurement m{measurement.id}, requested by <@{measurement.requested_by}>. {EXPIRY}")
    return parts.titled(f"{what} {price_text(progress)}?")


def price_text(progress: ComparisonProgress) -> str:
    """The end of a question whether to spend it: 'for up to $0.12'."""
    if not progress.most_micros:
        return "at no charge"
    return f"for {at_most(progress.most_micros)}"


def measure_button(measurement: Measurement, plan: ComparisonPlan, progress: ComparisonProgress) -> Block:
    words = "Measure"
    sure = _sure(plan, progress)
    if plan.teaches:
        words = "Label the rows"
    elif plan.promotes:
        words = "Open the rows"
        sure = _sure_to_open(plan, plan.promotes, progress)
    return button(words, MEASURE, str(measurement.id), style="primary", confirm=sure)


def progress_card(
    measurement: Measurement, plan: ComparisonPlan, progress: ComparisonProgress, now: float
) -> Message:
    """The card that is edited in place."""
    headline = _headline(measurement, plan, STAGES[progress.stage])
    done = _time_left(progress, now)
    if progress.stage != "searching":
        # Nobody knows how many prompts a search will try, so it has no bar.
        done = f"{progress_bar(_share(progress))}, {done}"
    stop = confirm(
        f"Cancel measurement m{measurement.id}?",
        "Answers so far are kept, and their cost stays. The same measurement would continue from them.",
        "Cancel it",
        "Keep it running",
    )

    parts = Parts(_steps(progress))
    if progress.candidates:
        parts.text(done)
        parts.facts(_spent(progress))
    if progress.note:
        parts.note(escape(cut(progress.note, 900)))
    parts.buttons(button("Cancel", CANCEL, str(measurement.id), style="danger", confirm=stop))
    return parts.titled(headline)


def closed_card(
    measurement: Measurement, plan: ComparisonPlan, progress: ComparisonProgress, why: str = ""
) -> Message:
    """The same card after the end, without buttons. `why` is our own mrkdwn."""
    again = "Answers so far are kept. Measuring again asks only the remaining questions."
    if plan.promotes:
        again = "Nobody saw a score on the sealed rows. Answers so far are kept."
    cost = booked(measurement.actual_micros or 0, progress.lost_micros)

    parts = Parts()
    parts.text(why)
    parts.add(*_candidates(progress, is_over=True))
    if progress.candidates:
        parts.facts([_answers(progress), ("Cost", cost)])
    if progress.answered:
        parts.note(again)
    return parts.titled(_headline(measurement, plan, ENDED[measurement.state]), notice=why)


def unknown_kind(plan: ComparisonPlan) -> list[str]:
    """Why no free candidate was measured on answers whose kind an older version of the bot has not recorded."""
    if plan.labels or plan.scoring is not None:
        return []
    return [
        "Free candidates were left out, because this dataset was checked by an older version of the bot. If its "
        "answers are JSON, upload it again under the same name, and they are measured too."
    ]


def left_out(candidates: Sequence[CandidateProgress]) -> list[str]:
    """Lines that say which candidates a result leaves out, and why; unescaped."""
    # One reason often concerns several candidates, so it is given once.
    names_by_reason: dict[str, list[str]] = {}
    for candidate in candidates:
        if candidate.failed:
            names_by_reason.setdefault(candidate.failed, []).append(table_name(candidate.identity, 40))
    return [f"Left out: {'; '.join(names)}: {reason}" for reason, names in names_by_reason.items()]


def fewer_examples(plan: ComparisonPlan) -> list[str]:
    """A line that says that the prompts hold fewer examples than were asked for; unescaped."""
    there = max((candidate.examples for candidate in plan.candidates if candidate.kind == "kshot"), default=0)
    if not there or there >= plan.shots_asked:
        return []
    could = f"{there:,} training rows can be shown as examples"
    if there == 1:
        could = "1 training row can be shown as an example"
    return [f"{plan.shots_asked} examples were asked for, but only {could}."]


def shots_notes(tried: Sequence[ShotsTried]) -> list[str]:
    """Lines that give the score of each number of examples; unescaped."""
    lines = []
    for model in dict.fromkeys(each.candidate.model for each in tried):
        mine = [each for each in tried if each.candidate.model == model]
        rows = pluralize(mine[0].rows, "training row")
        shares = ", ".join(f"{each.candidate.shots}: {percent(each.share)}" for each in mine)
        lines.append(f"Examples for {model}, on {rows}: {shares}")
    return lines


def declined(candidates: Sequence[CandidateProgress]) -> list[str]:
    """Lines about candidates whose questions were declined, which their scores include; unescaped."""
    lines = []
    for candidate in candidates:
        if candidate.failed or not candidate.declined:
            continue
        count = f"{len(candidate.declined):,} of {candidate.of:,} questions"
        line = f"{table_name(candidate.identity)}: {count} got no answer and count as wrong"
        if candidate.why_declined:
            lines.append(f"{line}: {cut(candidate.why_declined, 300)}")
        else:
            lines.append(f"{line}.")
    return lines


def stored_by_newer_version(number: int) -> str:
    """The answer to a question about a measurement that this version can't read, or to a wish to change it."""
    return (
        f"m{number} was stored by a newer version of the bot, which this version can't read. Start the newer version "
        "to see it or to cancel it."
    )


def progress_line(progress: ComparisonProgress, now: float) -> str:
    """The progress of an open measurement; follows its name in a list."""
    words = STAGES[progress.stage].removeprefix("is ")
    if progress.stage == "asking":
        return f"{words}, {at_most(progress.most_micros)}"
    if progress.stage == "measuring":
        return f"{words}, {percent_done(_share(progress))}% done, {_time_left(progress, now)}"
    return words


def form(channel: str, choices: BaselineChoices) -> Block:
    # A budget in the form asks for the search, and a tuned model is measured by its own run.
    candidates = [(name, words) for name, words in FORM_NAMES.items() if name not in ("optimised", "tuned")]
    blocks = [
        forms.select_input("dataset", "Dataset", choices.datasets, initial=choices.dataset),
        forms.multi_select_input(
            "models",
            "Models to ask",
            choices.models,
            placeholder="Your own trainer's",
            hint="Each answers every held-out row, once per alternative. You see the cost before anything is sent.",
        ),
        forms.checkbox_input("candidates", "Alternatives to measure", candidates),
        forms.text_input(
            "judge",
            "Judge, if answers are free text",
            "openai/gpt-4o-mini",
            hint="A model that decides whether an answer is acceptable. Empty: F1, which counts shared words.",
        ),
        forms.text_input(
            "bar",
            "Quality bar",
            share_text(DEFAULT_QUALITY_THRESHOLD),
            hint="The share of right answers that you need. Empty: the dataset's bar.",
        ),
        forms.task_input("The advice depends on it: facts need retrieval, reasoning needs a better model."),
        forms.long_text_input(
            "prompt",
            "Your prompt today",
            "Sort this message into one of our categories …",
            hint="The instruction before each text. Empty: a plain one with the labels or the JSON fields.",
        ),
        forms.text_input(
            "shots",
            "Examples in a prompt",
            "auto",
            hint="A number from 1 to 50, or auto: the number that does best on training rows. Empty: ten.",
        ),
        forms.text_input(
            "optimise",
            "Budget to search for a better prompt",
            "$2",
            hint="Searches on training rows, for the first of the models. Empty: your prompt stays as it is.",
        ),
    ]
    if choices.may_overrule:
        because = forms.long_text_input(
            "because",
            "Why override a soft data rule?",
            "the customers agreed, ticket LEGAL-12",
            hint="Empty: the team's rules decide where these rows may go. A reason is kept in the audit log.",
            most=LONGEST_REASON,
        )
        blocks.append(because)
    return modal("Measure alternatives", FORM, blocks, submit="Continue", private=channel)


def new_standard(name: str, person: str, before: Standard, after: Standard) -> Message:
    """Tells the channel that verdicts on a dataset now use another bar or another aim."""
    changes = []
    if after.bar != before.bar:
        changes.append(f"the bar to {bar_share(after.bar)} ({_was(before)})")
    if after.task != before.task and after.task:
        was = "none was set"
        if before.task:
            was = f"it was {TASK_KINDS[before.task]}"
        changes.append(f"the kind of task to “{TASK_KINDS[after.task]}” ({was})")
    return text_message(
        f"<@{person}> set {' and '.join(changes)} for {code(shorten(name))}. Its verdicts use that from now on."
    )


def _was(before: Standard) -> str:
    if before.is_bar_set:
        return f"it was {bar_share(before.bar)}"
    return f"it was the usual {bar_share(before.bar)}"


def _headline(measurement: Measurement, plan: ComparisonPlan, words: str) -> str:
    what = f"{pluralize(len(plan.candidates), 'alternative')} on {shorten(plan.title)}"
    if plan.teaches:
        what = f"{pluralize(plan.n_holdout, 'row')} of {shorten(plan.title)}, labelled by a model"
    elif plan.promotes:
        what = sealed_subject(plan, plan.promotes)
    return f"Measurement m{measurement.id} {words}: {what}"


def sealed_subject(plan: ComparisonPlan, model: str) -> str:
    """What a measurement on sealed rows is about, for headlines and lists; unescaped."""
    rows = pluralize(plan.n_holdout, "sealed row")
    return f"{rows} of {shorten(plan.title)}, to decide on {shorten(model, 40)}"


def _facts(plan: ComparisonPlan, progress: ComparisonProgress, budget: Budget) -> list[tuple[str, str]]:
    rows = pluralize(plan.n_holdout, "held-out row")
    if plan.teaches:
        # A teacher labels new rows, of which none is held out.
        rows = pluralize(plan.n_holdout, "row")
    # Answers that are known already are not asked for again, so they are not counted.
    pairs = [
        ("Cost", at_most(progress.most_micros)),
        ("Budget left", budget_left(budget)),
        ("Questions", f"{progress.of - progress.answered:,}, on {rows}"),
        ("Quality bar", bar_share(plan.bar)),
        ("Prompt", _prompt(plan)),
    ]
    if plan.documents:
        pairs.append(("Knowledge", pluralize(len(plan.documents), "document")))
    if plan.chooses_shots:
        pairs.append(("Examples", "0, 5, 10 or 20, chosen on training rows"))
    if plan.search is not None:
        pairs.append(prompt_search.budget(plan.search))
    if plan.judge is not None:
        questions = pluralize(max_judge_questions(plan), "question")
        judge = escape(shorten(plan.judge, 60))
        pairs.append(("Judge", f"{judge}, up to {questions}"))
    return pairs


def _prompt(plan: ComparisonPlan) -> str:
    if plan.prompt:
        return "your own"
    if plan.labels:
        return "a plain instruction with the labels"
    if plan.has_objects:
        return "a plain instruction with the fields"
    return "a plain instruction"


def _asked_lines(candidates: Sequence[CandidateProgress]) -> list[str]:
    """A line for each model with its alternatives."""
    lines = []
    for model in dict.fromkeys(candidate.identity.model for candidate in candidates):
        mine = [candidate for candidate in candidates if candidate.identity.model == model]
        names = ", ".join(short_name(candidate.identity) for candidate in mine if not candidate.failed)
        if model is None:
            lines.append(f"• {names}: trained on this machine from your rows, free")
        elif names:
            line = f"• {escape(shorten(model, 60))}: {names}"
            # Known answers are free, which explains a price that seems too low.
            answers = sum(candidate.answered for candidate in mine)
            if answers:
                line += f"; {pluralize(answers, 'answer')} already known"
            lines.append(line)
    lines += [f"• {escape(cut(text, 300))}" for text in left_out(candidates)]
    return lines


def _sure(plan: ComparisonPlan, progress: ComparisonProgress) -> Block:
    most = progress.most_micros
    title = "Measure now?"
    spends = "It costs only the machine's time."
    if most:
        title = f"Spend {at_most(most)}?"
        spends = f"It reserves {charge(most)} of this month's budget; what is not spent becomes free again."
    questions = f"{pluralize(progress.of - progress.answered, 'question')} will be answered"
    if plan.judge:
        questions += f", and up to {max_judge_questions(plan):,} more by the judge"
    yes = "Measure"
    if plan.teaches:
        yes = "Label them"
    return confirm(title, f"{questions}. {spends}", yes, "Not now")


def _sure_to_open(plan: ComparisonPlan, model: str, progress: ComparisonProgress) -> Block:
    rows = pluralize(plan.n_holdout, "sealed row")
    decides = f"They decide on {shorten(model, 40)}: if it passes, it is deployed at once."
    text = f"{decides} Opened rows can't be sealed again."
    if progress.most_micros:
        text += f" It costs {at_most(progress.most_micros)}."
    return confirm(f"Open the {rows}?", text, "Open them", "Not now")


def _candidates(progress: ComparisonProgress, *, is_over: bool = False) -> list[CardBlock]:
    """A line for each candidate in progress, and counts of those done and waiting. `is_over`: the measurement ended."""
    done = [candidate for candidate in progress.candidates if not candidate.failed and candidate.is_complete]
    waits = [candidate for candidate in progress.candidates if _status(candidate) == "pending"]
    open_ones = [candidate for candidate in progress.candidates if _status(candidate) == "in_progress"]
    begun = "in progress"
    not_begun = "waiting"
    if is_over:
        begun = "started"
        not_begun = "not started"

    lines = []
    if done:
        lines.append(f"✓ {len(done):,} of {pluralize(len(progress.candidates), 'alternative')} answered")
    lines += [
        f"• {escape(table_name(candidate.identity))}: {_answered(candidate)}"
        for candidate in open_ones[:SHOWN_OPEN]
    ]
    more = len(open_ones) - SHOWN_OPEN
    if more > 0:
        lines.append(f"• {more:,} more {begun}")
    if waits:
        lines.append(f"• {len(waits):,} {not_begun}")
    lines += [f"• {escape(cut(text, 300))}" for text in left_out(progress.candidates)]
    parts = Parts()
    parts.lines(lines)
    return parts


def _answered(progress: CandidateProgress) -> str:
    declined = len(progress.declined)
    text = f"{progress.answered + declined:,} of {progress.of:,}"
    if declined:
        text += f", {declined:,} without an answer"
    return text


def _steps(progress: ComparisonProgress) -> list[CardBlock]:
    if not progress.candidates:
        return []
    tasks = []
    for number, candidate in enumerate(progress.candidates[:SHOWN_CANDIDATES]):
        reached = _answered(candidate)
        if candidate.failed:
            reached = "left out"
        tasks.append(
            Task(f"candidate {number}", f"{table_name(candidate.identity)}: {reached}", _status(candidate))
        )
    title = "Alternatives"
    hidden = len(progress.candidates) - len(tasks)
    if hidden:
        title += f", {hidden:,} more not shown"
    return [Steps(title, tasks, otherwise=tuple(_candidates(progress)))]


def _status(progress: CandidateProgress) -> TaskStatus:
    # First, as a candidate may fail after some answers.
    if progress.failed:
        return "error"
    if progress.is_complete:
        return "complete"
    if progress.answered or progress.declined:
        return "in_progress"
    return "pending"


def _share(progress: ComparisonProgress) -> float:
    if progress.stage == "choosing":
        return _ratio(*_answers_to_choose(progress))
    if progress.stage != "consulting":
        return progress.share
    if progress.judge is None:
        return 0.0
    return _ratio(progress.judge.answered, progress.judge.of)


def _ratio(done: int, of: int) -> float:
    if not of:
        return 0.0
    return done / of


def _answers_to_choose(progress: ComparisonProgress) -> tuple[int, int]:
    """The answers that choose the number of examples: how many there are, and how many there will be."""
    done = sum(candidate.answered + len(candidate.declined) for candidate in progress.shot_candidates)
    return done, sum(candidate.of for candidate in progress.shot_candidates)


def _time_left(progress: ComparisonProgress, now: float) -> str:
    """The time left at the current pace, or what is being done instead."""
    judge = progress.judge
    if progress.stage == "consulting" and judge:
        return f"{judge.answered:,} of about {judge.of:,} verdicts"
    if progress.stage == "consulting":
        return "about to be judged"
    if progress.stage == "choosing":
        done, of = _answers_to_choose(progress)
        return f"{done:,} of {of:,} answers to training rows"
    if progress.stage == "searching":
        return prompt_search.progress_text(progress.search)
    if progress.stage in ("preparing", "pricing", "asking"):
        return "about to begin"
    if progress.stage != "measuring":
        return "calculating the result"
    left = progress.seconds_left(now)
    # The answers of so few seconds say little about the pace.
    is_early = progress.started_at is None or now - progress.started_at < LEAST_SECONDS
    if left is None or is_early:
        return "time left unknown yet"
    return time_left(left)


def _spent(progress: ComparisonProgress) -> list[tuple[str, str]]:
    cost = cost_so_far(progress.booked_micros, progress.most_micros, progress.lost_micros)
    # These stages have counts of their own beside the bar.
    if progress.stage in ("choosing", "searching", "consulting"):
        return [cost]
    return [_answers(progress), cost]


def _answers(progress: ComparisonProgress) -> tuple[str, str]:
    return ("Answers", f"{progress.answered:,} of {progress.of:,}")


def cost_so_far(booked_micros: int, most_micros: int, lost_micros: int) -> tuple[str, str]:
    """The fact about the cost. `most_micros` is the agreed maximum; 0 means free. `lost_micros` is the part that may
    have been paid for answers that were lost."""
    if not most_micros:
        return ("Cost", "no charge")
    return ("Cost so far", f"{booked(booked_micros, lost_micros)}, {at_most(most_micros)} agreed")
