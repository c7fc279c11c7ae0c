"""The result of an evaluation: the verdict, a table of the candidates that decide it, and its limits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bot.cards.common.advice import NOT_OFFERED, USE, Offered, in_use_text, use_button, verdict_blocks
from bot.cards.common.blocks import (
    TABLE_ROWS,
    Actions,
    Block,
    CardBlock,
    Figure,
    Lines,
    Message,
    Table,
    actions,
    button,
    code,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import (
    STANDINGS,
    bar_share,
    bar_text,
    candidate_name,
    latency_text,
    limits_of,
    measure_title,
    p95_text,
    price,
    price_in_sentence,
    promote_command,
    quality,
    read_rows_sentence,
    row_name,
    short_meaning,
    table_name,
)
from bot.cards.common.general import Attachment
from bot.cards.common.judge_agreement import JUDGE_SOME, JUDGE_SOME_WORDS
from bot.cards.common.words import (
    SLACK,
    Spelling,
    about_rows,
    capitalize,
    interval,
    listed,
    percent,
    pluralize,
    shorten,
    versioned,
)
from bot.cards.datasets.datasets import MEASURE, UPLOAD_AGAIN
from bot.cards.evidence.judge_checks import (
    CHECK_JUDGE_WORDS,
    judge_button,
    judge_step_text,
    uncheckable_notes,
)
from bot.cards.evidence.wrong_rows import wrong_rows_button
from bot.rules.advice import Verdict
from bot.rules.alternatives import is_cheaper, is_mostly_unreadable, with_many_unread
from bot.rules.judge_agreement import CheckedJudge
from bot.values.evaluations import promotable_candidate
from trainers.dataset.splits import HOLDOUT_MOST
from trainers.encoders import DEFAULT_ENCODER
from trainers.evaluation.quality_threshold import rows_to_hold_out
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate, Standing

ESTIMATE = "estimate_after_ladder"  # cards that were posted earlier have this name
DETAILS = "measurement_details"
SHOWN_IN_TABLE = 5
SHOWN_IN_SENTENCE = 3
STANDINGS_IN_LINES: Mapping[Standing, str] = {
    "meets": "meets the bar",
    "misses": "misses the bar",
    "undecided": "can't tell",
}
Row = tuple[str, str, str, str, str, str]


def card(
    comparison: Comparison,
    *,
    own: Collection[Candidate] | None = None,
    number: int | None = None,
    verdict: Verdict | None = None,
    notes: Sequence[str] = (),
    for_people: bool = False,
    is_searched: bool = False,
    offered: Offered = NOT_OFFERED,
    judge: CheckedJudge | None = None,
    spelling: Spelling = SLACK,
) -> Message:
    """The card. `comparison` has everything that is known on these rows; `own` are the candidates that this measurement
    measured, None if these are all. `number` is the measurement's; without it there are no buttons. `verdict` on a
    fine-tune replaces the next step. `notes` are further sentences that matter to the decision, unescaped. `for_people`
    is True if people may compare answers here. `is_searched` is True after a search for a better prompt. `offered`
    says whether the cheapest candidate that meets the bar can be used. `judge` is the model whose verdicts are the
    scores."""
    result = headline(comparison)
    if not comparison.candidates:
        return Message.titled(result, *bullet_list(escape(note) for note in notes))
    measured_now = {candidate.identity for candidate in comparison.candidates}
    if own is not None:
        measured_now = set(own)
    shown = _shown(comparison, measured_now)
    # Of the doubts about the result, and of those about the scores, only the strongest: a reader has ten seconds.
    doubt = _after_several_looks(comparison) or _cheaper_undecided(comparison) or _close_to_best(comparison)
    about_scores = _copied_note(comparison) or _unread_note(comparison)
    bullets = [
        *_measured_before(comparison, measured_now),
        *doubt,
        *_without_examples(comparison),
        *_encoder_note(comparison),
        *about_scores,
        *(escape(note) for note in notes),
        *uncheckable_notes(judge),
    ]

    parts = Parts()
    parts.note(_subject(comparison, number))
    lines = candidate_lines(comparison, shown)
    parts.add(replace(table(comparison, shown), otherwise=(lines,)))
    parts.bullets(bullets)
    if verdict:
        parts.add(*verdict_blocks(verdict, spelling))
    else:
        parts.text(f"*Next*: {_next_step(comparison, judge, offered, is_searched=is_searched)}")
    if number is not None:
        buttons = _buttons(
            comparison, number, offered, judge=judge, for_people=for_people, is_searched=is_searched
        )
        parts.add(buttons)
    hidden = len(comparison.candidates) - len(shown)
    parts.note(_limits(comparison, hidden=hidden))
    return parts.titled(result, notice=_notice(comparison, result))


def _subject(comparison: Comparison, number: int | None) -> str:
    dataset = versioned(escape(shorten(comparison.dataset)), comparison.version)
    subject = f"{dataset}, {pluralize(comparison.n, 'held-out row')}"
    if number is None:
        return subject
    return f"Measurement m{number}: {subject}"


def _notice(comparison: Comparison, result: str) -> str:
    """The best candidate for a notification, unless the headline names it already."""
    best = comparison.best
    if best is None or best.identity == comparison.cheapest:
        return ""
    text = _name_and_score(best)
    if text in result:
        return ""
    return f"Best: {escape(text)}."


def table(
    comparison: Comparison, candidates: Sequence[MeasuredCandidate], kind: str = "held-out row"
) -> Table:
    """`kind` is what the candidates answered."""
    # Slack refuses a table with more rows.
    rows = [_row(candidate) for candidate in candidates[:TABLE_ROWS]]
    return Table([_heading(comparison), *rows], f"{pluralize(comparison.n, kind)}, the same for all")


def candidate_lines(comparison: Comparison, candidates: Sequence[MeasuredCandidate]) -> Lines:
    """For Slack's classic blocks, in which a table would be too wide for a phone."""
    lines = []
    for candidate in candidates:
        name = escape(row_name(candidate.identity))
        score = quality(candidate)
        # That a label is right goes without saying; a share of fields, or a judge's opinion, doesn't.
        if candidate.scoring != "label":
            score = f"{score} {short_meaning(candidate)}"
        cost = price(candidate.usd_per_1000)
        if candidate.usd_per_1000:
            cost = f"{cost} per 1,000"
        parts = (
            score,
            STANDINGS_IN_LINES[candidate.standing],
            escape(cost),
            escape(p95_text(candidate)),
        )
        lines.append(f"• *{name}*: {', '.join(parts)}")
    return Lines(lines)


def headline(comparison: Comparison) -> str:
    """The verdict in one sentence, as plain text."""
    bar = bar_text(comparison.bar, comparison.is_bar_set)
    best = comparison.best
    if best is None:
        return "Nothing was measured"
    candidate = _candidate_of(comparison, comparison.cheapest)
    if candidate:
        return _enough(comparison, candidate, bar)
    undecided = _nearest_to_tell(comparison)
    if _lacks_a_capable_model(comparison) and is_mostly_unreadable(best):
        count = f"{best.unread + best.empty:,} of {pluralize(best.n, 'answer')}"
        return f"No usable answers: even of the best, {candidate_name(best.identity, 40)}, {count} could not be read"
    if undecided is None:
        return f"No measured alternative meets {bar}: the best is {_name_and_score(best)}"
    what_would_tell = f"The closest is {_name_and_score(undecided)}"
    # None if it would take more rows than a dataset may hold out.
    more = rows_to_hold_out(undecided)
    if more is not None:
        rows = capitalize(about_rows(more, "more held-out row"))
        what_would_tell = f"{rows} would tell in four of five cases"
    return f"Undecided: no alternative clearly meets {bar}. {what_would_tell}"


def _enough(comparison: Comparison, candidate: MeasuredCandidate, bar: str) -> str:
    """That the cheapest candidate which meets the bar is good enough."""
    numbers = f"{quality(candidate)}, {price_in_sentence(candidate.usd_per_1000)}"
    if candidate.kind == "optimised":
        model = shorten(str(candidate.model), 40)
        return f"A better prompt is enough: with it, {model} meets {bar}: {numbers}"
    name = capitalize(candidate_name(candidate.identity, 40))
    is_only = sum(other.standing == "meets" for other in comparison.candidates) == 1
    if not is_only:
        return f"{name} is the cheapest that meets {bar}: {numbers}"
    if candidate.kind == "tuned":
        return f"{name} meets {bar}: {numbers}"
    return f"{name} meets {bar} without training: {numbers}"


def chart(path: Path, comparison: Comparison) -> Attachment:
    """The chart of quality against price, with what it shows of each alternative."""
    title = f"Quality against price of each alternative, {shorten(comparison.dataset)}"
    return Attachment(path, title, described(comparison))


def described(comparison: Comparison) -> str:
    """What the chart shows, in sentences: the answer, then each alternative as far as it was measured."""
    alternatives = []
    for candidate in comparison.candidates:
        if candidate.score is None:
            continue
        standing = STANDINGS[candidate.standing]
        if candidate.standing == "undecided":
            standing = "can't tell whether it meets"
        price = price_in_sentence(candidate.usd_per_1000)
        alternatives.append(f"{_name_and_score(candidate)}, {standing} the bar, {price}")
    return f"{headline(comparison)}. Measured: {'; '.join(alternatives)}"


def _name_and_score(candidate: MeasuredCandidate) -> str:
    return f"{candidate_name(candidate.identity, 40)}, {quality(candidate)}"


def _heading(comparison: Comparison) -> Row:
    measured = measure_title(comparison)
    return "", measured, "95%", f"{bar_share(comparison.bar)}?", "$ per 1,000", "p50 / p95"


def _row(candidate: MeasuredCandidate) -> Row:
    right = Figure(percent(candidate.score), candidate.score)
    between = interval(candidate.low, candidate.high)
    cost = price(candidate.usd_per_1000)
    if candidate.usd_per_1000 is not None:
        cost = Figure(cost, candidate.usd_per_1000)
    times = Figure(latency_text(candidate), candidate.p50_s)
    return table_name(candidate.identity), right, between, STANDINGS[candidate.standing], cost, times


def _shown(comparison: Comparison, own: Collection[Candidate]) -> list[MeasuredCandidate]:
    """The candidates that matter most, in the comparison's order: the cheapest that meets the bar and the best, then
    those that were measured now, the free ones, the undecided one that needs the fewest rows, and the best of the
    others."""
    first = {comparison.cheapest}
    if comparison.best:
        first.add(comparison.best.identity)
    deciding = {
        candidate.identity for candidate in (*comparison.of_kind("classical"), *comparison.of_kind("encoder"))
    }
    nearest = _nearest_to_tell(comparison)
    if nearest:
        deciding.add(nearest.identity)

    def rank(candidate: MeasuredCandidate) -> tuple[bool, bool, bool, float]:
        return (
            candidate.identity not in first,
            candidate.identity not in own,
            candidate.identity not in deciding,
            -candidate.score,
        )

    ranked = sorted(comparison.candidates, key=rank)
    shown = {candidate.identity for candidate in ranked[:SHOWN_IN_TABLE]}
    return [candidate for candidate in comparison.candidates if candidate.identity in shown]


def _buttons(
    comparison: Comparison,
    number: int,
    offered: Offered,
    *,
    judge: CheckedJudge | None,
    for_people: bool,
    is_searched: bool,
) -> Actions:
    """At most three buttons, the next step first; four if something can be used, since an estimate may advise against
    it."""
    about_judge = judge.next_step if judge else None
    steps = [
        *_first_step(comparison, offered, is_searched=is_searched),
        button("Estimate", ESTIMATE, comparison.dataset),
    ]
    if judge and about_judge:
        # Every other step would rest on its scores.
        first = judge_button(judge, about_judge, comparison.dataset)
        steps = [first, *(step for step in steps if step["action_id"] != first["action_id"])]
    elif for_people:
        words = CHECK_JUDGE_WORDS if judge else JUDGE_SOME_WORDS
        steps.insert(1, button(words, JUDGE_SOME, str(number)))
    steps[0]["style"] = "primary"
    details = button("Details", DETAILS, str(number))
    if len(steps) < 2:
        return actions(*steps, wrong_rows_button(f"m{number}"), details)
    shown = 2
    if any(step["action_id"] == USE for step in steps):
        shown = 3
    return actions(*steps[:shown], details)


def _first_step(comparison: Comparison, offered: Offered, *, is_searched: bool) -> list[Block]:
    """What to do before an estimate; none if an estimate comes first."""
    nearest = _nearest_to_tell(comparison)
    if comparison.cheapest and offered.measurement:
        return [use_button(comparison.cheapest, offered.measurement)]
    if comparison.cheapest is None and nearest:
        if rows_to_hold_out(nearest) is None:
            # It would take more rows than a dataset may hold out.
            return []
        return [button("Upload more rows", UPLOAD_AGAIN, comparison.dataset)]
    if _lacks_a_capable_model(comparison):
        return [button("Ask a capable model", MEASURE, comparison.dataset)]
    if not is_searched and _may_improve(comparison):
        return [button("Optimise the prompt", MEASURE, comparison.dataset)]
    return []


def _may_improve(comparison: Comparison) -> bool:
    """True if every prompt misses the bar and no better prompt was searched for."""
    return (
        comparison.cheapest is None
        and bool(comparison.of_kind("zero"))
        and not comparison.of_kind("optimised")
    )


def _lacks_a_capable_model(comparison: Comparison) -> bool:
    """True if nothing meets the bar, and no model gave answers to the prompt alone that could be read: a better prompt
    would not help it, even if it repeats a label once it is shown some."""
    if comparison.cheapest is not None:
        return False
    paid = tuple(candidate for candidate in comparison.candidates if not candidate.is_free)
    prompted = comparison.of_kind("zero") or paid
    return bool(prompted) and all(map(is_mostly_unreadable, prompted))


def _limits(comparison: Comparison, *, hidden: int) -> str:
    sentences = limits_of(comparison)
    if hidden:
        sentences = [f"{hidden:,} more in Details.", *sentences]
    return " ".join(sentences)


def bullet_list(sentences: Iterable[str]) -> list[CardBlock]:
    parts = Parts()
    parts.bullets(sentences)
    return parts


def _measured_before(comparison: Comparison, own: Collection[Candidate]) -> list[str]:
    """Which candidates this measurement added to those that were known. Nothing if it measured all of them."""
    now = [candidate.identity for candidate in comparison.candidates if candidate.identity in own]
    if len(now) == len(comparison.candidates):
        return []
    return [f"Measured now: {_listed_names(now)}. The others were measured before, on the same rows."]


def _cheaper_undecided(comparison: Comparison) -> list[str]:
    """A cheaper candidate that may meet the bar as well, which would change the verdict."""
    maybe = _nearest_to_tell(comparison)
    if maybe is None or _candidate_of(comparison, comparison.cheapest) is None:
        return []
    text = _name_and_score(maybe)
    to_tell = "it is too close to call"
    more = rows_to_hold_out(maybe)
    if more is not None:
        rows = about_rows(more, "more held-out row")
        to_tell = f"{rows} would tell in four of five cases"
    return [f"{escape(capitalize(text))}, costs less and may meet the bar as well: {to_tell}."]


def _nearest_to_tell(comparison: Comparison) -> MeasuredCandidate | None:
    """The undecided candidate that needs the fewest rows to decide. If a candidate meets the bar, only cheaper ones."""
    cheapest = _candidate_of(comparison, comparison.cheapest)
    undecided = [candidate for candidate in comparison.candidates if candidate.standing == "undecided"]
    if cheapest is not None:
        undecided = [candidate for candidate in undecided if is_cheaper(candidate, cheapest)]
    return min(
        undecided,
        key=lambda candidate: (
            # Last are those that no known number of rows would decide.
            candidate.rows_to_decide is None,
            candidate.rows_to_decide or 0,
            -candidate.score,
        ),
        default=None,
    )


def _after_several_looks(comparison: Comparison) -> list[str]:
    """What was fitted to these rows has to show more, or on other rows; the highest score may be luck."""
    undecided = [candidate for candidate in comparison.candidates if candidate.standing == "undecided"]
    fitted = [candidate for candidate in undecided if candidate.fresh is not None]
    if fitted:
        names = _listed_names(candidate.identity for candidate in fitted)
        return [
            f"Written after wrong rows were shown, so only fresh rows can show that it meets the bar: {names}."
        ]
    taught = [candidate for candidate in undecided if candidate.read]
    if taught:
        names = _listed_names(candidate.identity for candidate in taught)
        return [f"{read_rows_sentence(taught[0])} That concerns {names}."]
    rewritten = [candidate for candidate in undecided if candidate.choices > 1]
    if rewritten:
        names = _listed_names(candidate.identity for candidate in rewritten)
        return [f"Rewritten or chosen after scores on these rows were seen, so it has to show more: {names}."]
    leader = comparison.unproven_leader
    best = comparison.best
    if leader is None or best is None:
        return []
    ahead = escape(capitalize(candidate_name(leader.identity, 30)))
    other = escape(candidate_name(best.identity, 30))
    lead = f"{ahead} is not shown to be better than {other}"
    return [f"{lead}: after several looks at the same rows, such a lead may be luck."]


def _listed_names(candidates: Iterable[Candidate]) -> str:
    """Their names with their models, as mrkdwn. The rest is counted."""
    names = [candidate_name(candidate, 30) for candidate in candidates]
    return escape(listed(names, SHOWN_IN_SENTENCE, "; "))


def _close_to_best(comparison: Comparison) -> list[str]:
    """The candidates without a clear difference from the best."""
    best = comparison.best
    close = [pair.worse for pair in comparison.pairs if not pair.is_significant]
    if best is None or not close:
        return []
    name = escape(candidate_name(best.identity, 30))
    return [f"No clear difference from the best ({name}): {_listed_names(close)}."]


def _without_examples(comparison: Comparison) -> list[str]:
    models = [
        shorten(candidate.model, 40)
        for candidate in comparison.candidates
        if candidate.shots == 0 and candidate.model
    ]
    if not models:
        return []
    names = escape(", ".join(models))
    return [f"Examples did not help {names}: on training rows the prompt alone did at least as well."]


def _encoder_note(comparison: Comparison) -> list[str]:
    """Which of two encoders the training rows chose, or that the only one there is for another language."""
    use = comparison.encoder
    if use is None or not comparison.of_kind("encoder"):
        return []
    if use.rows and use.right == use.other_right:
        share = percent(use.right / use.rows)
        return [f"The encoder is {use.name}; on the training rows {use.other} does as well ({share} right)."]
    if use.rows:
        shares = f"{percent(use.right / use.rows)} right, {use.other} {percent(use.other_right / use.rows)}"
        return [f"The training rows chose the encoder {use.name}: on parts of them it gets {shares}."]
    if use.is_english or use.name != DEFAULT_ENCODER:
        return []
    return [
        "The encoder is for English, and these rows seem to be in another language. The extra "
        f"{code('[multilingual]')} adds one for 94 languages."
    ]


def _unread_note(comparison: Comparison) -> list[str]:
    """Unreadable answers count as wrong, so the card names the candidate with the most of them, if they are many."""
    many = with_many_unread(comparison)
    if not many:
        return []
    worst, *others = many
    count = f"{worst.unread + worst.empty:,} of {pluralize(worst.n, 'answer')}"
    name = escape(table_name(worst.identity, 40))
    text = f"{count} ({name}) {unfit_text(worst)} and count as wrong."
    hint = _reasoning_hint(comparison)
    if hint:
        return [f"{text}{hint}"]
    more = len(others)
    if not more:
        return [text]
    if more == 1:
        return [f"{text} 1 more alternative has such answers."]
    return [f"{text} {more:,} more alternatives have such answers."]


def _copied_note(comparison: Comparison) -> list[str]:
    """Retrieval looks better than it is if the documents contain the held-out questions."""
    copied = max(
        (candidate.retrieval.copied for candidate in comparison.candidates if candidate.retrieval), default=0
    )
    if not copied:
        return []
    questions = pluralize(copied, "held-out question")
    return [f"The documents contain {questions} word for word, so retrieval may do worse on new questions."]


def unfit_text(candidate: MeasuredCandidate) -> str:
    """What was wrong with a candidate's answers, as the end of a sentence."""
    if not candidate.unread:
        return "were empty"
    unread = {"json": "were not JSON", "calls": "called no function"}.get(candidate.scoring, "named no label")
    if candidate.empty:
        return f"{unread} or were empty"
    return unread


def _reasoning_hint(comparison: Comparison) -> str:
    """What to do if most answers of a model are empty: a reasoning model may have used up its tokens on thinking."""
    silent = [
        candidate.model
        for candidate in comparison.candidates
        if candidate.model and 2 * candidate.empty > candidate.n
    ]
    names = list(dict.fromkeys(silent))[:SHOWN_IN_SENTENCE]
    if not names:
        return ""
    tables = []
    for name in names:
        provider, _, model = name.partition("/")
        tables.append(code(f'[providers.{provider}.models."{model}"]'))
    setting = code("reasoning = true")
    return (
        f" If the model reasons before it answers, it needs more tokens: put {setting} under {', '.join(tables)} in "
        "finetune.toml and measure again."
    )


def _next_step(
    comparison: Comparison, judge: CheckedJudge | None, offered: Offered, *, is_searched: bool
) -> str:
    about_judge = judge.next_step if judge else None
    if judge and about_judge:
        return judge_step_text(judge, about_judge)
    candidate = _candidate_of(comparison, comparison.cheapest)
    if candidate:
        return _use_of_cheapest(comparison, candidate, offered)
    nearest = _nearest_to_tell(comparison)
    if nearest and rows_to_hold_out(nearest) is not None:
        return "Upload more labelled rows under the same name and measure again; a fifth of them is held out."
    if nearest:
        return (
            "Decide whether that score is good enough, or estimate a tuned model. Settling it would take more than "
            f"the {HOLDOUT_MOST:,} rows that a dataset may hold out."
        )
    if _lacks_a_capable_model(comparison):
        if comparison.of_kind("zero"):
            return "Ask a capable model: most answers to the prompt alone could not be read."
        return "Ask a capable model: most answers of the models that were asked could not be read."
    if not is_searched and _may_improve(comparison):
        return "Optimise the prompt (`optimise=$2`), or estimate the cost and saving of a tuned model."
    return "Estimate the cost and saving of a tuned model."


def _use_of_cheapest(comparison: Comparison, candidate: MeasuredCandidate, offered: Offered) -> str:
    estimate = "An estimate shows whether a tuned model would still pay in comparison."
    if offered.in_use_since is not None:
        return f"{in_use_text(candidate.identity, offered.in_use_since)} {estimate}"
    if offered.measurement or not offered.replaces:
        return f"Use it. {estimate}"
    what = promotable_candidate(candidate.identity, 0)
    command = code(promote_command(comparison.dataset, what))
    used = escape(shorten(offered.replaces, 60))
    return f"It is not shown to be better than {used}, which is in use: {command} says why. {estimate}"


def _candidate_of(comparison: Comparison, identity: Candidate | None) -> MeasuredCandidate | None:
    return next((candidate for candidate in comparison.candidates if candidate.identity == identity), None)
