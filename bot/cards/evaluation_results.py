"""The result of an evaluation: the verdict, one table, and what this holdout can and cannot tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bot.cards.blocks import (
    CardBlock,
    Figure,
    Headline,
    Lines,
    Message,
    Note,
    Table,
    Text,
    actions,
    button,
    code,
    cut,
    cut_mrkdwn,
    escape,
)
from bot.cards.candidates import (
    MEASURED,
    STANDINGS,
    arm_name,
    bar_share,
    interval,
    price,
    price_in_sentence,
    quality,
    row_name,
    seconds,
    slowest,
)
from bot.cards.commands import SLACK, Spelling
from bot.cards.estimates import verdict_blocks
from bot.cards.judge_agreement import JUDGE_SOME, JUDGE_SOME_WORDS
from bot.cards.words import (
    at_most,
    capitalize,
    charge,
    p_value,
    percent,
    pluralize,
    points,
    points_range,
    shorten,
)
from bot.rules.advice import Verdict
from bot.rules.alternatives import is_cheaper
from trainers.evaluation.results import Candidate, Ladder, Pair, Rung, Standing

ESTIMATE = "estimate_after_ladder"
SHOWN_RUNGS, SHOWN_LABELS, SHOWN_ARMS = 16, 8, 6
NARROW_STANDINGS: Mapping[Standing, str] = {**STANDINGS, "undecided": "unsure"}
Row = tuple[str, str, str, str, str, str]


def card(
    ladder: Ladder,
    *,
    number: int | None = None,
    verdict: Verdict | None = None,
    spent_micros: int | None = None,
    estimated_micros: int | None = None,
    how_read: str | None = None,
    notes: Sequence[str] = (),
    for_people: bool = False,
    spelling: Spelling = SLACK,
) -> Message:
    """`number`: of a measurement that Slack knows. `verdict`: on a fine-tune, where the card says it as well.
    `how_read` says how labels were found in answers, `notes` are more sentences; unescaped both.
    `estimated_micros` is the most that it might have cost. `for_people`: they may compare answers here."""
    result = headline(ladder)
    if not ladder.rungs:
        return Message(escape(result), (Headline(result), *_list(escape(note) for note in notes)))
    version = f" version {ladder.version}" if ladder.version > 1 else ""
    rows = pluralize(ladder.n, "held-out row")
    which = f"Measurement m{number}: " if number is not None else ""
    subject = f"{which}{escape(shorten(ladder.dataset))}{version}, {rows}"
    top = (Headline(result), Note(subject))
    judge_some = []
    if for_people and number is not None:
        judge_some.append(button(JUDGE_SOME_WORDS, JUDGE_SOME, str(number)))
    end = (
        *_bullets(ladder, notes),
        *(verdict_blocks(verdict, spelling) if verdict else [Text(f"*Next*: {_next_step(ladder)}")]),
        actions(button("Estimate", ESTIMATE, ladder.dataset), *judge_some),
        Note(_method(ladder, how_read, _cost(spent_micros, estimated_micros))),
    )
    shown = [_heading(ladder), *(_row(rung) for rung in _shown(ladder))]
    every = [_heading(ladder, is_full=True), *(_row(rung, is_full=True) for rung in ladder.rungs[:100])]
    caption = f"{pluralize(ladder.n, 'held-out row')}, the same for all"
    n_hidden = len(_unshown(ladder))
    hidden = [Note(f"{n_hidden:,} more, with fewer right, in the thread.")] if n_hidden else []
    best = ladder.best
    in_short = f"Best: {_briefly(best)}" if best and _briefly(best) not in headline(ladder) else ""
    return Message(
        escape(f"{result}. {in_short}".strip()),
        (*top, Table(every, caption, otherwise=(Table(shown), *hidden)), *end),
    )


def details(ladder: Ladder) -> Message | None:
    """For the thread: the rungs that the card had no room for, and which rungs are surely worse than the best."""
    best, rest = ladder.best, _unshown(ladder)
    if best is None or not (rest or ladder.pairs):
        return None
    table = [Table([_heading(ladder), *(_row(rung) for rung in rest)])] if rest else []
    title = f"Against the best, {arm_name(best.arm)}"
    pairs = (
        (Text(f"*{escape(title)}*"), Lines([_pair(pair) for pair in ladder.pairs])) if ladder.pairs else ()
    )
    return Message(escape(title), (*table, *pairs, Note(_pairs_method(ladder))))


def headline(ladder: Ladder) -> str:
    """The verdict in one sentence, as plain text."""
    bar, best = bar_share(ladder.bar), ladder.best
    if best is None:
        return "Nothing was measured"
    rung = _rung_of(ladder, ladder.cheapest)
    if rung:
        return f"The cheapest that meets {bar}: {_briefly(rung)}, {price_in_sentence(rung.usd_per_1000)}"
    undecided = _nearest_to_tell(ladder)
    if undecided:
        return f"This holdout can't tell whether anything meets {bar}: {_more_rows(undecided)}"
    return f"Nothing meets {bar}: the best is {_briefly(best)}"


def alt_text(dataset: str) -> str:
    return f"Quality against price of each alternative, {shorten(dataset)}"


def _briefly(rung: Rung) -> str:
    return f"{arm_name(rung.arm, 40)}, {quality(rung)}"


def _more_rows(rung: Rung) -> str:
    """What would settle an undecided rung."""
    if rung.rows_to_decide is None:
        return f"{_briefly(rung)}, is too close to it"
    return f"about {pluralize(rung.rows_to_decide, 'more held-out row')} would"


def _heading(ladder: Ladder, *, is_full: bool = False) -> Row:
    measured, bar = MEASURED[ladder.rungs[0].scoring], f"{bar_share(ladder.bar)}?"
    if is_full:
        return "", measured, "95%", bar, "$ per 1,000", "p50 / p95"
    return "", measured, "95%", bar, "$/1k", "p95"


def _row(rung: Rung, *, is_full: bool = False) -> Row:
    right, cost = Figure(percent(rung.score), rung.score), price(rung.usd_per_1000)
    if rung.usd_per_1000 is not None:
        cost = Figure(cost, rung.usd_per_1000)
    if is_full:
        standing, times = STANDINGS[rung.standing], Figure(seconds(rung), rung.p50_s)
        return arm_name(rung.arm), right, interval(rung), standing, cost, times
    standing = NARROW_STANDINGS[rung.standing]
    return row_name(rung.arm), right, interval(rung), standing, cost, slowest(rung)


def _shown(ladder: Ladder) -> list[Rung]:
    """The rungs that the card shows, in climbing order; where there are too many, the cheapest that meets the bar
    and the best of the others."""
    ranked = sorted(ladder.rungs, key=lambda rung: (rung.arm != ladder.cheapest, -rung.score))
    candidates = {rung.arm for rung in ranked[:SHOWN_RUNGS]}
    return [rung for rung in ladder.rungs if rung.arm in candidates]


def _unshown(ladder: Ladder) -> list[Rung]:
    shown = {rung.arm for rung in _shown(ladder)}
    return [rung for rung in ladder.rungs if rung.arm not in shown]


def _bullets(ladder: Ladder, notes: Sequence[str]) -> list[CardBlock]:
    gap = []
    if ladder.detectable_gap is not None:
        rows = pluralize(ladder.n, "row")
        gap.append(
            f"The smallest difference that {rows} would show 4 times in 5: {100 * ladder.detectable_gap:.1f} points."
        )
    lines = [
        *_cheaper_undecided(ladder),
        *_not_told_apart(ladder),
        *gap,
        *_unread(ladder),
        *_silent(ladder),
        *_never_answered(ladder),
        *(escape(note) for note in notes),
    ]
    return _list(lines)


def _list(sentences: Iterable[str]) -> list[CardBlock]:
    lines = [f"• {cut_mrkdwn(sentence, 900)}" for sentence in sentences]
    return [Lines(lines)] if lines else []


def _cheaper_undecided(ladder: Ladder) -> list[str]:
    """A cheaper rung that may meet the bar as well: the verdict hangs on it."""
    rung, maybe = _rung_of(ladder, ladder.cheapest), _nearest_to_tell(ladder)
    if rung is None or maybe is None:
        return []
    text = _briefly(maybe)
    to_tell = "it is too close to the bar to tell"
    if maybe.rows_to_decide is not None:
        to_tell = f"about {pluralize(maybe.rows_to_decide, 'more held-out row')} would tell"
    return [f"{escape(capitalize(text))}, costs less and may meet it as well: {to_tell}."]


def _nearest_to_tell(ladder: Ladder) -> Rung | None:
    """The undecided rung that the fewest rows would settle; only cheaper ones, where one is known to meet the bar."""
    cheapest = _rung_of(ladder, ladder.cheapest)
    undecided = [rung for rung in ladder.rungs if rung.standing == "undecided"]
    if cheapest is not None:
        undecided = [rung for rung in undecided if is_cheaper(rung, cheapest)]
    return min(
        undecided, key=lambda rung: (rung.rows_to_decide is None, rung.rows_to_decide or 0), default=None
    )


def _not_told_apart(ladder: Ladder) -> list[str]:
    best = ladder.best
    close = [pair.worse for pair in ladder.pairs if not pair.is_told_apart]
    if best is None or not close:
        return []
    names = "; ".join(arm_name(arm, 40) for arm in close[:SHOWN_ARMS])
    more = f" and {len(close) - SHOWN_ARMS:,} more" if len(close) > SHOWN_ARMS else ""
    return [f"Not told apart from the best, {escape(arm_name(best.arm, 40))}: {escape(names)}{more}."]


def _unread(ladder: Ladder) -> list[str]:
    """Answers that could not be read count as wrong: a reader should know whose and how many."""
    rungs = [rung for rung in ladder.rungs if rung.unread or rung.empty]
    if not rungs:
        return []
    if ladder.rungs[0].scoring in ("f1", "judge"):
        empty = "; ".join(f"{escape(arm_name(rung.arm, 40))} {rung.empty:,}" for rung in rungs[:SHOWN_ARMS])
        return [f"Empty answers count as wrong, of {ladder.n:,}: {empty}."]
    unfit = "no JSON" if ladder.rungs[0].scoring == "json" else "none of the labels"
    worst = sorted(rungs, key=lambda rung: -(rung.unread + rung.empty))[:SHOWN_ARMS]
    named = "; ".join(f"{escape(arm_name(rung.arm, 40))} {_unread_of(rung)}" for rung in worst)
    more = f"; and {len(rungs) - SHOWN_ARMS:,} more" if len(rungs) > SHOWN_ARMS else ""
    return [f"Answers that were {unfit} count as wrong, of {ladder.n:,}: {named}{more}."]


def _silent(ladder: Ladder) -> list[str]:
    """A model that thinks before it answers may have spent all its room on that."""
    silent = [rung.arm.model for rung in ladder.rungs if rung.arm.model and 2 * rung.empty > rung.n]
    names = list(dict.fromkeys(silent))[:SHOWN_ARMS]
    if not names:
        return []
    models = (name.partition("/") for name in names)
    tables = ", ".join(code(f'[providers.{provider}.models."{model}"]') for provider, _, model in models)
    return [
        "More than half of some answers were empty. If the model thinks before it answers, it needs more room: put "
        f"{code('reasoning = true')} under {tables} in finetune.toml and measure again."
    ]


def _unread_of(rung: Rung) -> str:
    if not rung.unread:
        return f"{rung.empty:,} empty"
    return f"{rung.unread:,} and {rung.empty:,} empty" if rung.empty else f"{rung.unread:,}"


def _never_answered(ladder: Ladder) -> list[str]:
    labels = ladder.never_answered
    if not labels:
        return []
    named = ", ".join(code(cut(label, 40) or "(empty)") for label in labels[:SHOWN_LABELS])
    more = f" and {len(labels) - SHOWN_LABELS:,} more" if len(labels) > SHOWN_LABELS else ""
    return [f"Expected, and never answered by any of them: {named}{more}."]


def _next_step(ladder: Ladder) -> str:
    estimate = code(f"/finetune estimate {shorten(ladder.dataset)}")
    rung = _rung_of(ladder, ladder.cheapest)
    if rung and rung.arm.rung == "tuned":
        return f"Put the tuned model to work; {estimate} says when it pays."
    if rung:
        return f"Use it. {estimate} says whether a tuned model would still pay against it."
    if _nearest_to_tell(ladder):
        return "Upload more labelled rows under the same name: some of them join the held-out ones. Then measure again."
    return f"Improve the prompt and measure again, or see with {estimate} what a tuned model would cost and save."


def _cost(spent: int | None, most: int | None) -> str:
    if spent is None:
        return ""
    if not most and not spent:
        return "Measuring cost nothing but the machine's time."
    if not most:
        return f"Measuring cost {charge(spent)}."
    cost = charge(spent) if spent else "nothing"
    return f"Measuring cost {cost}, {at_most(most)} was agreed."


def _method(ladder: Ladder, how_read: str | None, cost: str) -> str:
    prices = "; ".join(dict.fromkeys(ladder.prices_said_by))
    sentences = (
        cost,
        escape(how_read) if how_read else "",
        "The 95% interval is each row's own; “meets” is said only where the one-sided 95% bound reaches the bar. "
        "“unsure”, or “can't tell”: only more held-out rows would show it. $/1k: for 1,000 requests. p95: 95% of "
        "the answers came within, p50: half, with several requests under way at a time (`callers` in finetune.toml).",
        f"Prices: {escape(cut(prices, 400))}." if prices else "",
    )
    return " ".join(filter(None, sentences))


def _pair(pair: Pair) -> str:
    apart = "surely worse" if pair.is_told_apart else "not told apart"
    difference = f"{points(-pair.difference)} ({points_range(-pair.high, -pair.low)})"
    return f"• {escape(arm_name(pair.worse))}: {apart}, {difference}, {p_value(pair.p)}"


def _pairs_method(ladder: Ladder) -> str:
    is_right_or_wrong = ladder.rungs[0].scoring in ("label", "judge")
    test = "McNemar's exact test" if is_right_or_wrong else "A paired bootstrap"
    return f"{test} on the same rows, corrected for {pluralize(len(ladder.pairs), 'comparison')} (Holm)."


def _rung_of(ladder: Ladder, arm: Candidate | None) -> Rung | None:
    return next((rung for rung in ladder.rungs if rung.arm == arm), None)
