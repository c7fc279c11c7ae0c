"""What recorded calls say, as a card: facts for an estimate, the rows that were made of their questions, and what was
not read. For the terminal, and for such a file that somebody uploads in Slack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from bot.cards.common.blocks import NOTHING, Lines, Message, Table, button, code, cut, escape
from bot.cards.common.builder import Parts
from bot.cards.common.words import day, first_lines, listed, pluralize, share_text, shorten
from bot.cards.datasets.findings import CLEAN, finding_blocks, formula_warning
from bot.cards.datasets.row_labels import LABEL_UNLABELLED
from bot.rules.units import Volume, format_requests
from bot.values.row_labels import USUAL_ROWS
from storage.records import Dataset
from trainers.dataset.rows import to_printable
from trainers.traces.facts import (
    ENOUGH_DAYS,
    Amount,
    Group,
    LeftOut,
    ModelFacts,
    Month,
    PromptFacts,
    TraceFacts,
)
from trainers.traces.reader import TITLES, TraceFile
from trainers.traces.rows import TracedRows

SHOWN_PROMPTS = 5
SHOWN_GROUPS = 4
SHOWN_KINDS = 3
LONGEST_PROMPT = 100
UNKNOWN_SHARE = (
    "If the other tool recorded only a share of the calls, multiply the volume by hand: no file says so."
)


@dataclass(frozen=True)
class TraceImport:
    """What was read of a file: all calls, and the group of them that was chosen, with its own facts and rows."""

    file: TraceFile
    facts: TraceFacts
    group: Group
    group_facts: TraceFacts
    rows: TracedRows


@dataclass(frozen=True)
class TracedUpload:
    """What the calls of an uploaded file say, without any of their texts: a card without its next step, the number of
    questions that can become rows, and the options of an estimate."""

    facts: Message
    questions: int
    options: Mapping[str, str]


def facts_of_upload(imported: TraceImport) -> TracedUpload:
    facts = facts_card(imported, shows_texts=False)
    rows = rows_lines(imported.rows, "Its questions", imported.group.model)
    return TracedUpload(
        replace(facts, parts=(*facts.parts, rows)), len(imported.rows.lines), estimate_options(imported)
    )


def upload_card(dataset: Dataset, traced: TracedUpload, *, can_label: bool, days: int) -> Message:
    """In place of the report on rows. `can_label`: the dataset has a version with labels, so people can label the
    questions here. The file is deleted after `days`; 0 keeps it."""
    parts = Parts()
    parts.add(*traced.facts.parts)
    parts.text(f"*Next*: {_next_step(dataset, traced, can_label=can_label)}")
    table = button("Post the questions as a table", CLEAN, str(dataset.id))
    if traced.questions and can_label:
        count = min(traced.questions, USUAL_ROWS)
        words = f"Label {count:,} of {pluralize(traced.questions, 'question')}"
        parts.buttons(button(words, LABEL_UNLABELLED, str(dataset.id), style="primary"), table)
    elif traced.questions:
        parts.buttons({**table, "style": "primary"})
    about = (
        f"{escape(cut(dataset.filename, 120))}, from <@{dataset.uploaded_by}>. Nothing was sent to a vendor."
    )
    if days:
        about += f" The file is deleted here after {pluralize(days, 'day')}."
    parts.note(about)
    return Message(traced.facts.text, tuple(parts))


def upload_refusal(dataset: Dataset) -> str:
    """What lists and later commands say of such a version."""
    return f"'{dataset.filename}' has recorded calls, not rows with labels."


def _next_step(dataset: Dataset, traced: TracedUpload, *, can_label: bool) -> str:
    estimate = " ".join(f"{key}={value}" for key, value in traced.options.items())
    command = code(f"/finetune estimate {dataset.name} {estimate}")
    if can_label:
        return f"{command} takes these numbers; labelled questions make the next version better."
    if not traced.questions:
        return f"upload labelled rows as {code(dataset.name)}; {command} then takes these numbers."
    return (
        f"write labels into the table, for some of the questions at least, and upload it as {code(dataset.name)}; "
        f"people can label the others here then. {command} takes these numbers."
    )


def table_title(dataset: Dataset) -> str:
    return f"{dataset.title}, questions to label"


def table_filename(dataset: Dataset) -> str:
    return f"{dataset.name}-questions.csv"


def table_summary(dataset: Dataset, rows: int, formulas: int) -> str:
    """The text beside the table."""
    lines = [
        f"{code(dataset.title)}: {pluralize(rows, 'question')} of recorded calls, in random order, each once. "
        "Placeholders stand for personal data, and questions with a secret are left out.",
        f"Write labels into its second column, then upload it as {code(dataset.name)} with `/finetune upload`.",
    ]
    if formulas:
        lines.append(formula_warning(formulas))
    return "\n".join(lines)


def estimate_options(imported: TraceImport) -> Mapping[str, str]:
    """Returns what the calls say, as options of an estimate: today's model, its requests a month and their tokens. What
    was not recorded is left out."""
    options = {"current": imported.group.model}
    month = imported.group_facts.month
    if month is not None and month.calls:
        options["volume"] = Volume(_rounded(month.calls), "requests").word
    tokens = imported.group_facts.tokens_a_request
    if tokens is not None:
        options["prompt_tokens"] = str(tokens)
    return options


def _rounded(count: int) -> int:
    """Returns about three digits, as more are not known."""
    return int(Decimal(f"{Decimal(count):.2e}"))


def facts_card(imported: TraceImport, *, shows_texts: bool = True) -> Message:
    """Returns the card without its next step. `shows_texts`: instructions may be quoted where it is read."""
    facts = imported.facts
    parts = Parts()
    if imported.file.format:
        parts.text(f"Format: {escape(TITLES[imported.file.format])}.")
    parts.add(_models_table(facts.models))
    if len(facts.prompts) > 1:
        parts.lines(_prompt_lines(facts.prompts, shows_texts=shows_texts))
    parts.text(_group_text(imported.group, facts))
    parts.facts(_group_facts(imported.group_facts))
    parts.add(*finding_blocks(imported.file.findings))
    parts.note(UNKNOWN_SHARE)
    return parts.titled(_headline(imported))


def _headline(imported: TraceImport) -> str:
    facts = imported.facts
    of_models = pluralize(len(facts.models), "model")
    text = f"{imported.file.name}: {pluralize(facts.calls, 'recorded call')} of {of_models}"
    if facts.errors:
        text += f", {facts.errors:,} failed"
    return text


def _models_table(models: Sequence[ModelFacts]) -> Table:
    head = ("Model", "Calls", "Share", "Failed", "Input tokens", "Cached", "Output tokens", "Seconds")
    rows = [
        (
            shorten(model.model),
            f"{model.calls:,}",
            share_text(round(model.share, 3)),
            f"{model.errors:,}",
            _amount(model.prompt),
            _amount(model.cached),
            _amount(model.completion),
            _seconds(model),
        )
        for model in models
    ]
    return Table((head, *rows))


def _amount(amount: Amount | None) -> str:
    """The mean, and the median where it differs: '412 (median 398)'."""
    if amount is None:
        return NOTHING
    mean = f"{amount.mean:,.0f}"
    median = f"{amount.median:,.0f}"
    if mean == median:
        return mean
    return f"{mean} (median {median})"


def _seconds(model: ModelFacts) -> str:
    """Half of the calls take at most the first number, 95% the second one."""
    if model.seconds_p50 is None or model.seconds_p95 is None:
        return NOTHING
    return f"{model.seconds_p50:.2g}, 95%: {model.seconds_p95:.2g}"


def _prompt_lines(prompts: Sequence[PromptFacts], *, shows_texts: bool) -> list[str]:
    lines = []
    for prompt in prompts:
        line = f"{prompt.number}: {share_text(round(prompt.share, 3))} of the calls"
        if shows_texts:
            line += f", “{escape(_beginning(prompt.text))}”"
        lines.append(line)
    heading = f"{len(prompts):,} different instructions (system prompts):"
    return [heading, *first_lines(lines, SHOWN_PROMPTS)]


def _beginning(text: str) -> str:
    return to_printable(text, LONGEST_PROMPT) or "no instructions"


def _group_text(group: Group, facts: TraceFacts) -> str:
    calls = f"{len(group.calls):,} of {pluralize(facts.calls, 'call')}"
    text = f"What follows is about {code(group.model)}{_with_prompt(group, facts)}: {calls}."
    if group.left_out:
        left = [_left_out(each) for each in group.left_out]
        text += f" Left out: {listed(left, SHOWN_GROUPS)}. Choose others by their model or the number of instructions."
    return text


def _with_prompt(group: Group, facts: TraceFacts) -> str:
    if group.prompt is None and 2 * len(facts.prompts) > facts.calls:
        return " with all its instructions, since they differ in most calls"
    if group.prompt is None:
        return " with all its instructions"
    if group.prompt == 0:
        return " without recorded instructions"
    if len(facts.prompts) > 1:
        return f" with instructions {group.prompt}"
    return ""


def _left_out(left: LeftOut) -> str:
    what = f"instructions {left.prompt}" if left.prompt else "no recorded messages"
    return f"{left.calls:,} of {code(left.model)} with {what}"


def _group_facts(facts: TraceFacts) -> list[tuple[str, str]]:
    pairs = [("Calls a month", _month_text(facts.month))]
    if facts.first is not None and facts.last is not None:
        pairs.append(("Recorded", f"{day(facts.first)} to {day(facts.last)}"))
    if facts.questions:
        repeated = share_text(round(facts.repeated / facts.questions, 3))
        pairs.append(
            ("Questions", f"{facts.questions:,} of a single turn; {repeated} of them repeat another one")
        )
    return pairs


def _month_text(month: Month | None) -> str:
    if month is None:
        return "unknown: the calls cover less than a day, so give the volume yourself"
    text = (
        f"about {format_requests(month.calls)} ({format_requests(month.low)} to {format_requests(month.high)}), "
        f"from {month.days:.1f} days"
    )
    if month.is_uncertain:
        text += f"; uncertain, as weekdays and weekends differ: export at least {ENOUGH_DAYS} days"
    return text


def rows_lines(rows: TracedRows, name: str, model: str) -> Lines:
    """Says what was written as `name`, what was left out, and whose answers they are."""
    count = pluralize(len(rows.lines), "row")
    lines = [f"{escape(name)}: {count} without labels, in random order, each question once."]
    if rows.has_answers:
        lines = [
            f"{escape(name)}: {count} with the answers of {code(model)}, in random order, each question once.",
            f"Nobody has checked these answers: they are not labels by people. A model that learns from them learns "
            f"{code(model)}'s mistakes too, and a test on them measures how often it agrees with {code(model)}.",
        ]
    left = _left_out_rows(rows)
    if left:
        lines.append(f"Left out: {', '.join(left)}.")
    if rows.disagreeing:
        questions = pluralize(rows.disagreeing, "question")
        lines.append(f"{questions} got different answers; the most frequent one was written.")
    if rows.masked:
        lines.append(f"{pluralize(rows.masked, 'row')} had personal data, and placeholders stand for it.")
    if rows.personal:
        kinds = [f"{kind.removeprefix('holds ')} in {count:,}" for kind, count in rows.personal_kinds]
        lines.append(
            f"{pluralize(rows.personal, 'row')} with personal data: {listed(kinds, SHOWN_KINDS)}. With --mask, "
            "placeholders stand for it."
        )
    return Lines(lines)


def _left_out_rows(rows: TracedRows) -> list[str]:
    """Why calls gave no row, each with its number."""
    reasons = (
        (rows.failed, "failed"),
        (rows.without_question, "without a recorded question of a single turn"),
        (rows.without_answer, "without an answer in words"),
        (rows.repeated, "that repeat a question"),
        (rows.secret, "with what looks like a secret"),
    )
    return [f"{count:,} {why}" for count, why in reasons if count]
