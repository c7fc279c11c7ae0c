"""The result of an evaluation: the verdict, a table of the candidates that decide it, and its limits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from bot.cards.common.advice import encoder_button, verdict_blocks
from bot.cards.common.blocks import (
    Actions,
    CardBlock,
    Figure,
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
    arm_name,
    bar_share,
    bar_text,
    latency_text,
    limits_of,
    long_name,
    measure_title,
    p95_text,
    price,
    price_in_sentence,
    quality,
    read_rows_sentence,
    row_name,
)
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
)
from bot.cards.datasets.datasets import MEASURE, UPLOAD_AGAIN
from bot.cards.evidence.judge_checks import (
    CHECK_JUDGE_WORDS,
    judge_button,
    judge_step_text,
    uncheckable_notes,
)
from bot.rules.advice import Verdict
from bot.rules.alternatives import is_cheaper, is_mostly_unreadable
from bot.rules.judge_agreement import CheckedJudge
from trainers.dataset.splits import HOLDOUT_MOST
from trainers.encoders import DEFAULT_ENCODER
from trainers.evaluation.quality_threshold import rows_to_hold_out
from trainers.evaluation.results import Candidate, Ladder, Rung, Standing

ESTIMATE = "estimate_after_ladder"
DETAILS = "measurement_details"
SHOWN_RUNGS = 5
SHOWN_ARMS = 3
NARROW_STANDINGS: Mapping[Standing, str] = {**STANDINGS, "undecided": "unsure"}
# Fewer unreadable answers than this share can't change a decision: they stand in Details alone.
NOTEWORTHY_UNREAD = 0.03
Row = tuple[str, str, str, str, str, str]


def card(
    ladder: Ladder,
    *,
    own: Collection[Candidate] | None = None,
    number: int | None = None,
    verdict: Verdict | None = None,
    notes: Sequence[str] = (),
    for_people: bool = False,
    is_searched: bool = False,
    encoder: str | None = None,
    judge: CheckedJudge | None = None,
    spelling: Spelling = SLACK,
) -> Message:
    """The card. `ladder` has everything that is known on these rows; `own` are the candidates that this measurement
    measured, None if these are all. `number` is the measurement's; without it there are no buttons. `verdict` on a
    fine-tune replaces the next step. `notes` are further sentences that matter to the decision, unescaped. `for_people`
    is True if people may compare answers here. `is_searched` is True after a search for a better prompt. `encoder` is
    the target to train if the encoder is to be used. `judge` is the model whose verdicts are the scores."""
    result = headline(ladder)
    if not ladder.rungs:
        return Message.titled(result, *bullet_list(escape(note) for note in notes))
    measured_now = {rung.arm for rung in ladder.rungs} if own is None else set(own)
    shown = _shown(ladder, measured_now)
    bullets = [
        *_measured_before(ladder, measured_now),
        *(_after_several_looks(ladder) or _cheaper_undecided(ladder) or _close_to_best(ladder)),
        *_without_examples(ladder),
        *_encoder_note(ladder),
        *(_copied_note(ladder) or _unread_note(ladder)),
        *(escape(note) for note in notes),
        *uncheckable_notes(judge),
    ]

    parts = Parts()
    parts.note(_subject(ladder, number))
    parts.add(replace(table(ladder, shown), otherwise=(narrow_table(ladder, shown),)))
    parts.bullets(bullets)
    if verdict:
        parts.add(*verdict_blocks(verdict, spelling))
    else:
        parts.text(f"*Next*: {_next_step(ladder, judge, is_searched=is_searched)}")
    if number is not None:
        buttons = _buttons(
            ladder, number, encoder, judge=judge, for_people=for_people, is_searched=is_searched
        )
        parts.add(buttons)
    parts.note(_limits(ladder, hidden=len(ladder.rungs) - len(shown)))
    return parts.titled(result, notice=_notice(ladder, result))


def _subject(ladder: Ladder, number: int | None) -> str:
    subject = escape(shorten(ladder.dataset))
    if ladder.version > 1:
        subject += f" version {ladder.version}"
    subject += f", {pluralize(ladder.n, 'held-out row')}"
    if number is None:
        return subject
    return f"Measurement m{number}: {subject}"


def _notice(ladder: Ladder, result: str) -> str:
    """The best candidate for a notification, unless the headline names it already."""
    best = ladder.best
    if best is None or best.arm == ladder.cheapest:
        return ""
    text = _name_and_score(best)
    if text in result:
        return ""
    return f"Best: {escape(text)}."


def table(ladder: Ladder, rungs: Sequence[Rung], kind: str = "held-out row") -> Table:
    """`kind` is what the candidates answered."""
    rows = [_heading(ladder, is_full=True), *(_row(rung, is_full=True) for rung in rungs[:100])]
    return Table(rows, f"{pluralize(ladder.n, kind)}, the same for all")


def narrow_table(ladder: Ladder, rungs: Sequence[Rung]) -> Table:
    """For Slack's classic blocks."""
    return Table([_heading(ladder), *map(_row, rungs)])


def headline(ladder: Ladder) -> str:
    """The verdict in one sentence, as plain text."""
    bar = bar_text(ladder.bar, ladder.is_bar_set)
    best = ladder.best
    if best is None:
        return "Nothing was measured"
    rung = _rung_of(ladder, ladder.cheapest)
    if rung:
        return _enough(ladder, rung, bar)
    undecided = _nearest_to_tell(ladder)
    if _lacks_a_capable_model(ladder) and is_mostly_unreadable(best):
        count = f"{best.unread + best.empty:,} of {pluralize(best.n, 'answer')}"
        return f"No usable answers: even of the best, {short_arm_name(best.arm)}, {count} could not be read"
    if undecided is None:
        return f"No measured alternative meets {bar}: the best is {_name_and_score(best)}"
    what_would_tell = f"The closest is {_name_and_score(undecided)}"
    more = rows_to_hold_out(undecided)
    if more is not None:
        rows = capitalize(about_rows(more, "more held-out row"))
        what_would_tell = f"{rows} would tell in four of five cases"
    return f"Undecided: no alternative clearly meets {bar}. {what_would_tell}"


def _enough(ladder: Ladder, rung: Rung, bar: str) -> str:
    """That the cheapest candidate which meets the bar is good enough."""
    numbers = f"{quality(rung)}, {price_in_sentence(rung.usd_per_1000)}"
    if rung.arm.rung == "optimised":
        model = shorten(str(rung.arm.model), 40)
        return f"A better prompt is enough: with it, {model} meets {bar}: {numbers}"
    name = capitalize(short_arm_name(rung.arm))
    is_only = sum(other.standing == "meets" for other in ladder.rungs) == 1
    if not is_only:
        return f"{name} is the cheapest that meets {bar}: {numbers}"
    if rung.arm.rung == "tuned":
        return f"{name} meets {bar}: {numbers}"
    return f"{name} meets {bar} without training: {numbers}"


def alt_text(dataset: str) -> str:
    return f"Quality against price of each alternative, {shorten(dataset)}"


def _name_and_score(rung: Rung) -> str:
    return f"{short_arm_name(rung.arm)}, {quality(rung)}"


def short_arm_name(arm: Candidate, longest: int = 40) -> str:
    name = long_name(arm)
    if arm.model is None:
        return name
    return f"{name} on {shorten(arm.model, longest)}"


def _heading(ladder: Ladder, *, is_full: bool = False) -> Row:
    measured = measure_title(ladder, is_full=is_full)
    bar = f"{bar_share(ladder.bar)}?"
    if is_full:
        return "", measured, "95%", bar, "$ per 1,000", "p50 / p95"
    return "", measured, "95%", bar, "$/1k", "p95"


def _row(rung: Rung, *, is_full: bool = False) -> Row:
    right = Figure(percent(rung.score), rung.score)
    between = interval(rung.low, rung.high)
    cost = price(rung.usd_per_1000)
    if rung.usd_per_1000 is not None:
        cost = Figure(cost, rung.usd_per_1000)
    if is_full:
        standing = STANDINGS[rung.standing]
        times = Figure(latency_text(rung), rung.p50_s)
        return arm_name(rung.arm), right, between, standing, cost, times
    standing = NARROW_STANDINGS[rung.standing]
    return row_name(rung.arm), right, between, standing, cost, p95_text(rung)


def _shown(ladder: Ladder, own: Collection[Candidate]) -> list[Rung]:
    """The candidates that matter most, in the ladder's order: the cheapest that meets the bar and the best, then those
    that were measured now, the free ones, the undecided one that needs the fewest rows, and the best of the others."""
    first = {ladder.cheapest}
    if ladder.best:
        first.add(ladder.best.arm)
    deciding = {rung.arm for rung in (*ladder.rung("classical"), *ladder.rung("encoder"))}
    nearest = _nearest_to_tell(ladder)
    if nearest:
        deciding.add(nearest.arm)

    def rank(rung: Rung) -> tuple[bool, bool, bool, float]:
        return rung.arm not in first, rung.arm not in own, rung.arm not in deciding, -rung.score

    ranked = sorted(ladder.rungs, key=rank)
    candidates = {rung.arm for rung in ranked[:SHOWN_RUNGS]}
    return [rung for rung in ladder.rungs if rung.arm in candidates]


def _buttons(
    ladder: Ladder,
    number: int,
    encoder: str | None,
    *,
    judge: CheckedJudge | None,
    for_people: bool,
    is_searched: bool,
) -> Actions:
    """At most three buttons, the next step first."""
    about_judge = judge.next_step if judge else None
    steps = [button("Estimate", ESTIMATE, ladder.dataset)]
    nearest = _nearest_to_tell(ladder)
    if encoder and ladder.cheapest and ladder.cheapest.rung == "encoder":
        steps = [encoder_button(ladder.dataset, encoder), *steps]
    elif ladder.cheapest is None and nearest:
        if rows_to_hold_out(nearest) is not None:
            steps = [button("Upload more rows", UPLOAD_AGAIN, ladder.dataset), *steps]
    elif _lacks_a_capable_model(ladder):
        steps = [button("Ask a capable model", MEASURE, ladder.dataset), *steps]
    elif not is_searched and _may_improve(ladder):
        steps = [button("Optimise the prompt", MEASURE, ladder.dataset), *steps]
    if judge and about_judge:
        # Every other step would rest on its scores.
        first = judge_button(judge, about_judge, ladder.dataset)
        steps = [first, *(step for step in steps if step["action_id"] != first["action_id"])]
    elif for_people:
        words = CHECK_JUDGE_WORDS if judge else JUDGE_SOME_WORDS
        steps.insert(1, button(words, JUDGE_SOME, str(number)))
    steps[0]["style"] = "primary"
    return actions(*steps[:2], button("Details", DETAILS, str(number)))


def _may_improve(ladder: Ladder) -> bool:
    """True if every prompt misses the bar and no better prompt was searched for."""
    return ladder.cheapest is None and bool(ladder.rung("zero")) and not ladder.rung("optimised")


def _lacks_a_capable_model(ladder: Ladder) -> bool:
    """True if nothing meets the bar, and no model gave answers to the prompt alone that could be read: a better prompt
    would not help it, even if it repeats a label once it is shown some."""
    prompted = ladder.rung("zero") or tuple(rung for rung in ladder.rungs if not rung.arm.is_free)
    return ladder.cheapest is None and bool(prompted) and all(map(is_mostly_unreadable, prompted))


def _limits(ladder: Ladder, *, hidden: int) -> str:
    sentences = limits_of(ladder)
    if hidden:
        sentences = [f"{hidden:,} more in Details.", *sentences]
    return " ".join(sentences)


def bullet_list(sentences: Iterable[str]) -> list[CardBlock]:
    parts = Parts()
    parts.bullets(sentences)
    return parts


def _measured_before(ladder: Ladder, own: Collection[Candidate]) -> list[str]:
    """Which candidates this measurement added to those that were known. Nothing if it measured all of them."""
    now = [short_arm_name(rung.arm, 30) for rung in ladder.rungs if rung.arm in own]
    if len(now) == len(ladder.rungs):
        return []
    names = escape(listed(now, SHOWN_ARMS, "; "))
    return [f"Measured now: {names}. The others were measured before, on the same rows."]


def _cheaper_undecided(ladder: Ladder) -> list[str]:
    """A cheaper candidate that may meet the bar as well, which would change the verdict."""
    maybe = _nearest_to_tell(ladder)
    if maybe is None or _rung_of(ladder, ladder.cheapest) is None:
        return []
    text = _name_and_score(maybe)
    to_tell = "it is too close to call"
    more = rows_to_hold_out(maybe)
    if more is not None:
        rows = about_rows(more, "more held-out row")
        to_tell = f"{rows} would tell in four of five cases"
    return [f"{escape(capitalize(text))}, costs less and may meet the bar as well: {to_tell}."]


def _nearest_to_tell(ladder: Ladder) -> Rung | None:
    """The undecided candidate that needs the fewest rows to decide. If a candidate meets the bar, only cheaper ones."""
    cheapest = _rung_of(ladder, ladder.cheapest)
    undecided = [rung for rung in ladder.rungs if rung.standing == "undecided"]
    if cheapest is not None:
        undecided = [rung for rung in undecided if is_cheaper(rung, cheapest)]
    return min(
        undecided,
        key=lambda rung: (rung.rows_to_decide is None, rung.rows_to_decide or 0, -rung.score),
        default=None,
    )


def _after_several_looks(ladder: Ladder) -> list[str]:
    """What was fitted to these rows has to show more, or on other rows; the highest score may be luck."""
    undecided = [rung for rung in ladder.rungs if rung.standing == "undecided"]
    fitted = [rung for rung in undecided if rung.fresh is not None]
    if fitted:
        names = escape(listed([long_name(rung.arm) for rung in fitted], SHOWN_ARMS, "; "))
        return [
            f"Written after wrong rows were shown, so only fresh rows can show that it meets the bar: {names}."
        ]
    taught = [rung for rung in undecided if rung.read]
    if taught:
        names = escape(listed([long_name(rung.arm) for rung in taught], SHOWN_ARMS, "; "))
        return [f"{read_rows_sentence(taught[0])} That concerns {names}."]
    rewritten = [rung for rung in undecided if rung.choices > 1]
    if rewritten:
        names = escape(listed([long_name(rung.arm) for rung in rewritten], SHOWN_ARMS, "; "))
        return [f"Rewritten or chosen after scores on these rows were seen, so it has to show more: {names}."]
    leader = ladder.unproven_leader
    best = ladder.best
    if leader is None or best is None:
        return []
    names = f"{capitalize(long_name(leader.arm))} is not shown to be better than {long_name(best.arm)}"
    return [f"{escape(names)}: after several looks at the same rows, such a lead may be luck."]


def _close_to_best(ladder: Ladder) -> list[str]:
    """The candidates without a clear difference from the best."""
    best = ladder.best
    close = [pair.worse for pair in ladder.pairs if not pair.is_significant]
    if best is None or not close:
        return []
    names = listed([short_arm_name(arm, 30) for arm in close], SHOWN_ARMS, "; ")
    return [f"No clear difference from the best ({escape(short_arm_name(best.arm, 30))}): {escape(names)}."]


def _without_examples(ladder: Ladder) -> list[str]:
    models = [shorten(rung.arm.model, 40) for rung in ladder.rungs if rung.arm.shots == 0 and rung.arm.model]
    if not models:
        return []
    names = escape(", ".join(models))
    return [f"Examples did not help {names}: on training rows the prompt alone did at least as well."]


def _encoder_note(ladder: Ladder) -> list[str]:
    """Which of two encoders the training rows chose, or that the only one there is for another language."""
    use = ladder.encoder
    if use is None or not ladder.rung("encoder"):
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


def _unread_note(ladder: Ladder) -> list[str]:
    """Unreadable answers count as wrong, so the card names the candidate with the most of them, if they are many."""

    def share(rung: Rung) -> float:
        return (rung.unread + rung.empty) / rung.n if rung.n else 0.0

    worst, *others = sorted(ladder.rungs, key=lambda rung: -(rung.unread + rung.empty))
    if share(worst) < NOTEWORTHY_UNREAD:
        return []
    count = f"{worst.unread + worst.empty:,} of {pluralize(worst.n, 'answer')}"
    text = f"{count} ({escape(arm_name(worst.arm, 40))}) {unfit_text(worst)} and count as wrong."
    hint = _reasoning_hint(ladder)
    if hint:
        return [f"{text}{hint}"]
    more = sum(share(rung) >= NOTEWORTHY_UNREAD for rung in others)
    if not more:
        return [text]
    have = "has" if more == 1 else "have"
    return [f"{text} {pluralize(more, 'more alternative')} {have} such answers."]


def _copied_note(ladder: Ladder) -> list[str]:
    """Retrieval looks better than it is if the documents contain the held-out questions."""
    copied = max((rung.retrieval.copied for rung in ladder.rungs if rung.retrieval), default=0)
    if not copied:
        return []
    questions = pluralize(copied, "held-out question")
    return [f"The documents contain {questions} word for word, so retrieval may do worse on new questions."]


def unfit_text(rung: Rung) -> str:
    """What was wrong with a candidate's answers, as the end of a sentence."""
    named = {"json": "were not JSON", "calls": "called no function"}.get(rung.scoring, "named no label")
    if rung.unread and rung.empty:
        return f"{named} or were empty"
    if rung.unread:
        return named
    return "were empty"


def _reasoning_hint(ladder: Ladder) -> str:
    """What to do if most answers of a model are empty: a reasoning model may have used up its tokens on thinking."""
    silent = [rung.arm.model for rung in ladder.rungs if rung.arm.model and 2 * rung.empty > rung.n]
    names = list(dict.fromkeys(silent))[:SHOWN_ARMS]
    if not names:
        return ""
    models = (name.partition("/") for name in names)
    tables = ", ".join(code(f'[providers.{provider}.models."{model}"]') for provider, _, model in models)
    return (
        f" If the model reasons before it answers, it needs more tokens: put {code('reasoning = true')} under {tables} "
        "in finetune.toml and measure again."
    )


def _next_step(ladder: Ladder, judge: CheckedJudge | None, *, is_searched: bool) -> str:
    about_judge = judge.next_step if judge else None
    if judge and about_judge:
        return judge_step_text(judge, about_judge)
    rung = _rung_of(ladder, ladder.cheapest)
    if rung:
        return "Use it. An estimate shows whether a tuned model would still pay in comparison."
    nearest = _nearest_to_tell(ladder)
    if nearest and rows_to_hold_out(nearest) is not None:
        return "Upload more labelled rows under the same name and measure again; a fifth of them is held out."
    if nearest:
        return (
            "Decide whether that score is good enough, or estimate a tuned model. Settling it would take more than "
            f"the {HOLDOUT_MOST:,} rows that a dataset may hold out."
        )
    if _lacks_a_capable_model(ladder):
        to_what = "to the prompt alone" if ladder.rung("zero") else "of the models that were asked"
        return f"Ask a capable model: most answers {to_what} could not be read."
    if not is_searched and _may_improve(ladder):
        return "Optimise the prompt (`optimise=$2`), or estimate the cost and saving of a tuned model."
    return "Estimate the cost and saving of a tuned model."


def _rung_of(ladder: Ladder, arm: Candidate | None) -> Rung | None:
    return next((rung for rung in ladder.rungs if rung.arm == arm), None)
