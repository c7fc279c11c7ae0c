"""How cards write a measured candidate: its name, score, price and speed. Plain text; the card that shows it escapes
it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import assert_never

from bot.cards.common.blocks import code, escape
from bot.cards.common.words import capitalize, interval, percent, pluralize, share_text, shorten
from bot.rules.alternatives import Alternative
from bot.rules.facts import Looks
from bot.values.evaluations import promoted_candidate
from storage.records import Promotable
from trainers.dataset import Report
from trainers.evaluation.results import (
    Candidate,
    CandidateKind,
    Comparison,
    MeasuredCandidate,
    Scoring,
    Standing,
)
from trainers.money import usd

# In a sentence.
LONG_NAMES: Mapping[CandidateKind, str] = {
    "classical": "the classical model",
    "encoder": "the encoder",
    "zero": "the prompt alone",
    "optimised": "the optimised prompt",
    "kshot": "the prompt with ten examples",
    "retrieval": "retrieval",
    "tuned": "the tuned model",
}
# In a table or a plot.
SHORT_NAMES: Mapping[CandidateKind, str] = {
    "classical": "classical",
    "encoder": "encoder",
    "zero": "prompt alone",
    "optimised": "optimised",
    "kshot": "ten examples",
    "retrieval": "retrieval",
    "tuned": "tuned",
}
# For the form in which a person chooses what to measure.
FORM_NAMES: Mapping[CandidateKind, str] = {
    "classical": "Classical: word counts and linear classifiers, free",
    "encoder": "Encoder: a small model's vectors and linear classifiers, free",
    "zero": "Prompt alone: instructions and labels",
    "optimised": "Optimised prompt: searched for on your rows",
    "kshot": "Ten examples: your rows in the prompt",
    "retrieval": "Retrieval: the most similar rows, or your documents",
    "tuned": "Tuned",
}
# Characters of a model's name in a table, so that a line has at most 72.
NARROW = 17
LEAST_PRICE = Decimal("0.01")
STANDINGS: Mapping[Standing, str] = {"meets": "meets", "misses": "misses", "undecided": "can't tell"}
MEASURED: Mapping[Scoring, str] = {
    "label": "Right",
    "json": "Fields",
    "calls": "Calls",
    "f1": "F1",
    "judge": "Judged",
}
# After a share, in short.
SHORT_MEANINGS: Mapping[Scoring, str] = {
    "label": "right",
    "json": "of fields right",
    "calls": "right calls",
    "f1": "F1",
    "judge": "acceptable",
}
# After a share, in a sentence.
MEANINGS: Mapping[Scoring, str] = {
    "label": "right",
    "json": "of the JSON fields right",
    "calls": "right calls, by name and arguments",
    "f1": "F1, the words shared with the expected answer",
    "judge": "acceptable to the judging model",
}
# In front of a share, as the name of a fact.
FACT_NAMES: Mapping[Scoring, str] = {
    "label": "Right",
    "json": "Fields right",
    "calls": "Right calls",
    "f1": "F1",
    "judge": "Acceptable to the judging model",
}
# What counts as right when base and tuned model are compared row by row.
COUNTED: Mapping[Scoring, str] = {
    "label": "exactly right",
    "json": "right in every field",
    "calls": "right in name and arguments",
    "f1": "exactly the expected text",
    "judge": "acceptable to the judge",
}
# The heading of the scores of a set that expects calls and texts.
MIXED = "Calls and words"
LOWER_COST = "Fresh or sealed rows in the next version lower this."
FRESH_ROWS = "After this many looks, the best score is probably too high: upload a version with fresh rows."


def measure_title(comparison: Comparison) -> str:
    """The name of the scores' column."""
    if is_mixed(comparison):
        return MIXED
    return MEASURED[comparison.scoring]


def short_meaning(candidate: MeasuredCandidate) -> str:
    """What a share means; follows it."""
    if _is_mixed(candidate.scoring, candidate.calls):
        return "right calls and words"
    return SHORT_MEANINGS[candidate.scoring]


def fact_name(candidate: MeasuredCandidate) -> str:
    """What a share means, as the name of a fact."""
    if _is_mixed(candidate.scoring, candidate.calls):
        return "Right calls and shared words"
    return FACT_NAMES[candidate.scoring]


def meaning(candidate: MeasuredCandidate) -> str:
    """What a share means, for a sentence; follows it. The part before the first comma can stand alone."""
    if not _is_mixed(candidate.scoring, candidate.calls):
        return MEANINGS[candidate.scoring]
    calls = pluralize(candidate.calls, "call")
    texts = pluralize(candidate.n - candidate.calls, "text")
    return f"right calls and shared words, with {calls} compared exactly and {texts} by F1"


def counted_as_right(comparison: Comparison | None) -> str:
    """What counts as right when a tuned model and its base are compared row by row; follows a share."""
    if comparison is None:
        return COUNTED["label"]
    if is_mixed(comparison):
        return "exactly the expected call or text"
    return COUNTED[comparison.scoring]


def scoring_text(comparison: Comparison | None) -> str:
    """The end of a result's subject: how calls and texts were scored, or what the commonest JSON values alone get."""
    if comparison is None:
        return ""
    if is_mixed(comparison):
        calls = pluralize(comparison.calls, "call")
        texts = pluralize(comparison.n - comparison.calls, "text")
        return f". {calls} compared exactly, {texts} by shared words (F1)"
    if comparison.scoring != "json":
        return ""
    floor = floor_text("json", comparison.floor)
    if not floor:
        return ""
    return f". {floor}"


def mix_text(comparison: Comparison) -> str:
    """How the answers of a set are scored that expects calls and texts, and how many there are of each."""
    calls = f"{calls_text(comparison)}, right only with the same names and arguments"
    n_texts = comparison.n - comparison.calls
    texts = f"the other {n_texts:,} are texts"
    if n_texts == 1:
        texts = "the other is a text"
    return f"{calls}; {texts}, of which F1 counts the words shared with the expected answer."


def calls_text(comparison: Comparison) -> str:
    """'53 of 80 expected answers are function calls'."""
    answers = pluralize(comparison.n, "expected answer")
    if comparison.calls == 1:
        return f"1 of {answers} is a function call"
    return f"{comparison.calls:,} of {answers} are function calls"


def is_mixed(comparison: Comparison) -> bool:
    """True if the scores are of calls and of texts by shared words."""
    return _is_mixed(comparison.scoring, comparison.calls)


def _is_mixed(scoring: Scoring, calls: int) -> bool:
    return scoring == "f1" and calls > 0


def answers_name(report: Report) -> str:
    """What a dataset's answers are, for a sentence."""
    if report.task == "labels":
        return "labels"
    if report.scoring == "json":
        return "JSON objects"
    if report.scoring == "calls":
        return "function calls"
    if report.scoring == "f1" and report.n_calling:
        return "function calls and free text"
    return "free text"


def older_scoring_text(report: Report) -> str | None:
    """Says that a score by F1 is an older version's, as such answers are compared in another way since; None if they
    are texts, which still have that score."""
    if report.scoring == "json":
        answers = "The expected answers are JSON objects"
        compared = "compared field by field"
    elif report.scoring == "calls":
        answers = "The expected answers are function calls"
        compared = "compared by name and arguments"
    elif report.n_calling:
        answers = "Some of the expected answers are function calls"
        compared = "compared by name and arguments"
    else:
        return None
    return (
        f"{answers}, and an older version of the bot scored them as texts (F1). They are {compared} since: measure "
        "again for that."
    )


def whole_rows_text(candidate: MeasuredCandidate) -> str:
    """How many answers need no correction: beside a share of fields, which is higher."""
    n_right = sum(score == 1 for score in candidate.scores)
    return f"every field right in {percent(n_right / candidate.n)} of rows"


def several_labels_text(n_combined: int) -> str:
    """Says how answers that name several labels are scored, '' if each answer is one label."""
    if not n_combined:
        return ""
    return (
        f"Answers combine {pluralize(n_combined, 'label')}, and half of a combination counts as wrong. JSON with a "
        "field for each label is scored field by field."
    )


def floor_text(scoring: Scoring, floor: float | None) -> str:
    """What an answer that never changes would get, which shows how little a score may mean; '' if nobody knows."""
    if floor is None:
        return ""
    if scoring == "json":
        return f"The commonest values alone get {percent(floor)} of fields right."
    return f"The commonest label alone gets {percent(floor)} right."


def limits_of(comparison: Comparison) -> list[str]:
    """What the commonest answer gets, and the smallest difference that these rows can show."""
    sentences = []
    floor = floor_text(comparison.scoring, comparison.floor)
    if floor:
        sentences.append(floor)
    if comparison.detectable_gap is not None:
        rows = pluralize(comparison.n, "held-out row")
        gap = f"{100 * comparison.detectable_gap:.0f}"
        sentences.append(f"With {rows}, differences below about {gap} points may be chance.")
    return sentences


def short_name(candidate: Candidate) -> str:
    """The candidate's kind, without its model, for a table or a plot."""
    if candidate.shots:
        return pluralize(candidate.shots, "example")
    return SHORT_NAMES[candidate.kind]


def long_name(candidate: Candidate) -> str:
    """The candidate's kind, without its model, for a sentence."""
    if candidate.shots:
        return f"the prompt with {pluralize(candidate.shots, 'example')}"
    return LONG_NAMES[candidate.kind]


def table_name(candidate: Candidate, longest: int = 60) -> str:
    """'classical', 'prompt alone, local/smollm2-135m'."""
    if not candidate.model:
        return short_name(candidate)
    return f"{short_name(candidate)}, {shorten(candidate.model, longest)}"


def row_name(candidate: Candidate) -> str:
    """For a narrow column: without the provider, and with the end of the model's name, which identifies it."""
    if candidate.model is None:
        return short_name(candidate)
    model = candidate.model.partition("/")[2] or candidate.model
    return f"{short_name(candidate)}, {shorten(model, NARROW)}"


def quality(candidate: MeasuredCandidate) -> str:
    """The score with its interval: '93.0% (89-97%)'."""
    return f"{percent(candidate.score)} ({interval(candidate.low, candidate.high)})"


def price(amount: Decimal | None) -> str:
    """The price of 1,000 requests, for a table's cell."""
    if amount is None:
        return "unknown"
    if not amount:
        return "free"
    if amount < LEAST_PRICE:
        return "<$0.01"
    return usd(amount)


def price_in_sentence(amount: Decimal | None) -> str:
    """The price of 1,000 requests, for a sentence."""
    if amount is None:
        return "at an unknown price"
    if not amount:
        return "free"
    return f"{usd(amount)} per 1,000 requests"


def latency_text(candidate: MeasuredCandidate) -> str:
    """p50 and p95 of an answer."""
    return f"{_seconds(candidate.p50_s)} / {_seconds(candidate.p95_s)} s"


def p50_text(candidate: MeasuredCandidate) -> str:
    """The median time of an answer, for a narrow column."""
    return f"{_seconds(candidate.p50_s)} s"


def p95_text(candidate: MeasuredCandidate) -> str:
    """p95 of an answer, for a narrow column."""
    return f"{_seconds(candidate.p95_s)} s"


def bar_share(bar: float) -> str:
    """85%, 92.5%."""
    return f"{round(100 * bar, 2):g}%"


def bar_text(bar: float, is_set: bool | None) -> str:
    """'your 85% bar', 'the usual bar of 85%' if nobody has set one, 'the bar of 85%' if that is not known."""
    if is_set is None:
        return f"the bar of {bar_share(bar)}"
    if is_set:
        return f"your {bar_share(bar)} bar"
    return f"the usual bar of {bar_share(bar)}"


def _seconds(count: float) -> str:
    if count < 0.1:
        return "<0.1"
    if count < 10:
        return f"{count:.1f}"
    return f"{count:,.0f}"


def candidate_name(candidate: Candidate, longest: int | None = None) -> str:
    """'the prompt with ten examples on openai/gpt-4o-mini', with up to `longest` characters of the model's name."""
    model = candidate.model
    if model is None:
        return long_name(candidate)
    if longest is not None:
        model = shorten(model, longest)
    return f"{long_name(candidate)} on {model}"


def promotable_name(what: Promotable) -> str:
    """'tickets-3', 'the encoder', 'the prompt alone on openai/gpt-4o-mini'."""
    candidate = promoted_candidate(what)
    if candidate is None:
        return str(what.model)
    return candidate_name(candidate)


def promotable_text(what: Promotable) -> str:
    """The name in mrkdwn: a tuned model's as code, as people type it."""
    if what.model:
        return code(what.model)
    return escape(promotable_name(what))


def promotable_title(what: Promotable) -> str:
    """The name at the beginning of a title."""
    if what.model:
        return what.model
    return capitalize(promotable_name(what))


def promote_command(dataset: str, what: Promotable) -> str:
    """'/finetune promote tickets-3', '/finetune promote tickets zero model=openai/gpt-4o-mini'."""
    candidate = promoted_candidate(what)
    if candidate is None:
        return f"/finetune promote {what.model}"
    return f"/finetune promote {_candidate_words(dataset, candidate)}"


def fallback_command(dataset: str, what: Promotable) -> str:
    """'/finetune fallback tickets zero model=openai/gpt-4o-mini'; '' for a tuned model, which can't be one."""
    candidate = promoted_candidate(what)
    if candidate is None:
        return ""
    return f"/finetune fallback {_candidate_words(dataset, candidate)}"


def _candidate_words(dataset: str, candidate: Candidate) -> str:
    """A candidate as people type it in a command."""
    words = [dataset, candidate.kind]
    if candidate.model:
        words.append(f"model={candidate.model}")
    if candidate.shots is not None:
        words.append(f"shots={candidate.shots}")
    return " ".join(words)


def score_text(candidate: MeasuredCandidate) -> str:
    """'91.2% right (90-92%) on 3,080 held-out rows'."""
    between = interval(candidate.low, candidate.high)
    rows = pluralize(candidate.n, "held-out row")
    return f"{percent(candidate.score)} {short_meaning(candidate)} ({between}) on {rows}"


def looks_text(looks: Looks) -> str:
    """How often somebody has seen scores on held-out rows: 'looked at 3 times'."""
    times = {0: "not looked at yet", 1: "looked at once", 2: "looked at twice"}
    return times.get(looks.count, f"looked at {looks.count:,} times")


def looks_suffix(looks: Looks | None) -> str:
    """The end of a dataset's line in a list; '' if nobody has looked yet."""
    if looks is None or not looks.count:
        return ""
    suffix = f". Held-out rows {looks_text(looks)}"
    if looks.are_spent:
        suffix += ": upload fresh rows"
    return suffix


def looks_sentence(looks: Looks) -> str:
    """The looks as a sentence, with what a claim about something new costs now and what to do."""
    text = f"The {pluralize(looks.rows, 'held-out row')} were {looks_text(looks)}."
    if not looks.count:
        return text
    cure = LOWER_COST
    if looks.are_spent:
        cure = FRESH_ROWS
    return f"{text} {_cost_of_a_claim(looks)} {cure}"


def read_rows_sentence(candidate: MeasuredCandidate) -> str:
    """Which rows count as wrong because people had read them, and what to do. The candidate has at least one."""
    rows = f"{len(candidate.read):,} held-out rows count as wrong, because people read them"
    if len(candidate.read) == 1:
        rows = "1 held-out row counts as wrong, because people read it"
    return f"{rows} before they made the training rows; sealed rows avoid that."


def _cost_of_a_claim(looks: Looks) -> str:
    bar = bar_share(looks.bar)
    if looks.needed_now is None:
        return f"They are too few to show that something new meets {bar}, even with every answer right."
    needs = f"needs {_needed_text(looks, looks.needed_now)} to show {bar}"
    # Each look is another chance to find a high score by luck, so the bar for a claim rises with them.
    if looks.needed_now == looks.needed_at_first:
        return f"Something new {needs}, as at first."
    if not looks.needed_at_first:
        return f"Something new now {needs}."
    at_first = _bare_needed(looks, looks.needed_at_first)
    return f"Something new now {needs} ({at_first} at first)."


def _needed_text(looks: Looks, right: int) -> str:
    """In what is counted: rows that are right or wrong, or a share where rows can be partly right."""
    needed = _bare_needed(looks, right)
    match looks.scoring:
        case "json":
            return f"up to {needed} of fields"
        case "f1":
            return f"a score of up to {needed}"
        case "label" | "calls" | "judge":
            return f"at least {needed} right"
        case _:
            assert_never(looks.scoring)


def _bare_needed(looks: Looks, right: int) -> str:
    if looks.scoring in ("json", "f1"):
        return percent(right / looks.rows)
    return f"{right:,}"


def seconds_text(count: float) -> str:
    if count < 1:
        return f"{1000 * count:.0f} ms"
    return f"{count:.1f} s"


def cost_text(price: Decimal | None) -> str:
    """The cost of a measurement: 'free', 'about $1.20', 'under 1 cent'. None if only the measurement can tell."""
    if price is None:
        return "you see the cost before anything is spent"
    if not price:
        return "free"
    text = usd(price)
    # "under 1 cent" is no amount that could be rounded.
    if not text.startswith("$"):
        return text
    return f"about {text}"


def alternative_name(alternative: Alternative) -> str:
    if alternative.why == "cheapest that meets the bar" and alternative.candidate:
        return candidate_name(alternative.candidate.identity)
    return f"today's model, {alternative.rates.model}"


def alternative_text(alternative: Alternative) -> str:
    return f"Compared with {alternative_name(alternative)}: {why_alternative(alternative)}."


def why_alternative(alternative: Alternative) -> str:
    """Why the saving is compared with this alternative; follows its name."""
    measured = alternative.measured
    candidate = alternative.candidate
    bar = share_text(measured.bar)
    match alternative.why:
        case "cheapest that meets the bar":
            cost = usd(alternative.monthly_usd)
            cheapest = f"the cheapest measured alternative that meets the bar of {bar}, for {cost} a month"
            if candidate is None:
                return cheapest
            return f"{score_text(candidate)}, {cheapest}"
        case "today's costs less":
            name = "any"
            if measured.cheapest:
                name = candidate_name(measured.cheapest.identity)
            return f"it costs less than {name}, the cheapest measured alternative that meets the bar"
        case "nothing measured":
            return "nothing else has been measured; a cheaper model or a better prompt may do as well"
        case "price unknown":
            return "others meet the bar, but their price is unknown"
        case "nothing meets the bar":
            return f"no measured alternative clearly meets the bar of {bar}"


def opened_before(times: int) -> str:
    """A caution about sealed rows that were opened before."""
    return (
        f"These rows were already opened {pluralize(times, 'time')}, so they prove less: upload a version with new "
        "rows to seal."
    )
