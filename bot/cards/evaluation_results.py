"""The result of an evaluation: the verdict, a table of what decides, and what these test rows can't tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bot.cards.blocks import (
    Actions,
    CardBlock,
    Figure,
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
    long_name,
    price,
    price_in_sentence,
    quality,
    row_name,
    seconds,
    slowest,
)
from bot.cards.datasets import MEASURE, UPLOAD_AGAIN
from bot.cards.documents import passages_text
from bot.cards.estimates import encoder_button, verdict_blocks
from bot.cards.judge_agreement import JUDGE_SOME, JUDGE_SOME_WORDS
from bot.cards.words import (
    SLACK,
    Spelling,
    at_most,
    capitalize,
    charge,
    interval,
    listed,
    p_value,
    percent,
    pluralize,
    points,
    points_range,
    share_text,
    shorten,
)
from bot.rules.advice import Verdict
from bot.rules.alternatives import dominated, is_cheaper
from trainers.evaluation.results import Candidate, Ladder, Pair, Retrieval, Rung, Standing

ESTIMATE, DETAILS = "estimate_after_ladder", "measurement_details"
SHOWN_RUNGS, SHOWN_LABELS, SHOWN_ARMS = 5, 8, 3
LINES_A_BLOCK = 12  # of the details: together they are shorter than the most that a block holds
NARROW_STANDINGS: Mapping[Standing, str] = {**STANDINGS, "undecided": "unsure"}
Row = tuple[str, str, str, str, str, str]


def card(
    ladder: Ladder,
    *,
    number: int | None = None,
    verdict: Verdict | None = None,
    notes: Sequence[str] = (),
    for_people: bool = False,
    is_searched: bool = False,
    encoder: str | None = None,
    spelling: Spelling = SLACK,
) -> Message:
    """`number`: of a measurement that Slack knows. `verdict`: on a fine-tune, where the card says it as well. `notes`
    are more sentences that the decision hangs on, unescaped. `for_people`: they may compare answers here.
    `is_searched`: a better prompt was looked for. `encoder`: the target that is trained where it is to be used."""
    result = headline(ladder)
    if not ladder.rungs:
        return Message.titled(result, *_list(escape(note) for note in notes))
    version = f" version {ladder.version}" if ladder.version > 1 else ""
    which = f"Measurement m{number}: " if number is not None else ""
    subject = f"{which}{escape(shorten(ladder.dataset))}{version}, {pluralize(ladder.n, 'test row')}"
    shown = _shown(ladder)
    narrow = Table([_heading(ladder), *map(_row, shown)])
    best = ladder.best
    is_told = best is None or best.arm == ladder.cheapest or _briefly(best) in result
    in_short = "" if best is None or is_told else f"Best: {escape(_briefly(best))}."
    buttons = None
    if number is not None:
        buttons = _buttons(ladder, number, encoder, for_people=for_people, is_searched=is_searched)
    bullets = [
        *(_cheaper_undecided(ladder) or _not_told_apart(ladder)),
        *_without_examples(ladder),
        *_unread(ladder),
        *(escape(note) for note in notes),
    ]
    next_step = Text(f"*Next*: {_next_step(ladder, is_searched=is_searched)}")
    return Message.titled(
        result,
        Note(subject),
        replace(table(ladder, shown), otherwise=(narrow,)),
        *_list(bullets),
        *(verdict_blocks(verdict, spelling) if verdict else [next_step]),
        buttons,
        *_below(ladder),
        notice=in_short,
    )


def table(ladder: Ladder, rungs: Sequence[Rung]) -> Table:
    rows = [_heading(ladder, is_full=True), *(_row(rung, is_full=True) for rung in rungs[:100])]
    return Table(rows, f"{pluralize(ladder.n, 'test row')}, the same for all")


def details(
    ladder: Ladder,
    *,
    spent_micros: int | None = None,
    estimated_micros: int | None = None,
    how_read: str | None = None,
    notes: Sequence[str] = (),
) -> tuple[CardBlock, ...]:
    """Every rung beside the best, and how all was measured. `how_read` says how labels were found in answers; it and
    `notes` are unescaped. `estimated_micros` is the most that it might have cost."""
    best = ladder.best
    if best is None:
        return ()
    pairs = {pair.worse: pair for pair in ladder.pairs}
    rungs = sorted(ladder.rungs, key=lambda rung: -rung.score)
    lines = [f"• {escape(_in_full(ladder, rung))}{_pair(pairs.get(rung.arm))}" for rung in rungs]
    blocks = [Lines(lines[at : at + LINES_A_BLOCK]) for at in range(0, len(lines), LINES_A_BLOCK)]
    method = _method(ladder, how_read, _cost(spent_micros, estimated_micros))
    texts = [escape(text) for text in (*_searched(ladder), *notes)]
    bullets = _list([*_never_answered(ladder), *_dominated(ladder), *texts])
    return (*blocks, *bullets, Text(f"*How this was measured*: {method}"))


def headline(ladder: Ladder) -> str:
    """The verdict in one sentence, as plain text."""
    bar, best = bar_share(ladder.bar), ladder.best
    if best is None:
        return "Nothing was measured"
    rung = _rung_of(ladder, ladder.cheapest)
    if rung:
        is_only = sum(other.standing == "meets" for other in ladder.rungs) == 1
        untrained = "" if rung.arm.rung == "tuned" else " without training"
        meets = (
            f"meets your {bar} bar{untrained}" if is_only else f"is the cheapest that meets your {bar} bar"
        )
        numbers = f"{quality(rung)}, {price_in_sentence(rung.usd_per_1000)}"
        enough = f"{capitalize(_short_name(rung.arm))} {meets}: {numbers}"
        if rung.arm.rung == "optimised":
            model = shorten(str(rung.arm.model), 40)
            return f"A better prompt was enough: with it, {model} meets your {bar} bar: {numbers}"
        return enough
    undecided = _nearest_to_tell(ladder)
    if undecided is None:
        return f"No measured option reaches your {bar} bar: the best is {_briefly(best)}"
    what_would_tell = f"The closest is {_briefly(undecided)}"
    if undecided.rows_to_decide is not None:
        what_would_tell = f"About {pluralize(undecided.rows_to_decide, 'more test row')} would tell"
    return f"Undecided: no measured option clearly reaches your {bar} bar. {what_would_tell}"


def alt_text(dataset: str) -> str:
    return f"Quality against price of each alternative, {shorten(dataset)}"


def _briefly(rung: Rung) -> str:
    return f"{_short_name(rung.arm)}, {quality(rung)}"


def _short_name(arm: Candidate, longest: int = 40) -> str:
    name = long_name(arm)
    return name if arm.model is None else f"{name} on {shorten(arm.model, longest)}"


def _heading(ladder: Ladder, *, is_full: bool = False) -> Row:
    measured, bar = MEASURED[ladder.rungs[0].scoring], f"{bar_share(ladder.bar)}?"
    if is_full:
        return "", measured, "95%", bar, "$ per 1,000", "p50 / p95"
    return "", measured, "95%", bar, "$/1k", "p95"


def _row(rung: Rung, *, is_full: bool = False) -> Row:
    right, between = Figure(percent(rung.score), rung.score), interval(rung.low, rung.high)
    cost = price(rung.usd_per_1000)
    if rung.usd_per_1000 is not None:
        cost = Figure(cost, rung.usd_per_1000)
    if is_full:
        standing, times = STANDINGS[rung.standing], Figure(seconds(rung), rung.p50_s)
        return arm_name(rung.arm), right, between, standing, cost, times
    standing = NARROW_STANDINGS[rung.standing]
    return row_name(rung.arm), right, between, standing, cost, slowest(rung)


def _shown(ladder: Ladder) -> list[Rung]:
    """The rungs that decide, in climbing order: the cheapest that meets the bar, the best, the free ones, the one
    that is nearest to being told, and the best of the others."""
    nearest = _nearest_to_tell(ladder)
    deciding = (ladder.best, *ladder.rung("classical"), *ladder.rung("encoder"), nearest)
    first = [ladder.cheapest, *(rung.arm for rung in deciding if rung)]
    ranked = sorted(ladder.rungs, key=lambda rung: (rung.arm not in first, -rung.score))
    candidates = {rung.arm for rung in ranked[:SHOWN_RUNGS]}
    return [rung for rung in ladder.rungs if rung.arm in candidates]


def _buttons(
    ladder: Ladder, number: int, encoder: str | None, *, for_people: bool, is_searched: bool
) -> Actions:
    """The next step first."""
    steps = [button("Estimate", ESTIMATE, ladder.dataset)]
    if encoder and ladder.cheapest and ladder.cheapest.rung == "encoder":
        steps = [encoder_button(ladder.dataset, encoder), *steps]
    elif ladder.cheapest is None and _nearest_to_tell(ladder):
        steps = [button("Upload more rows", UPLOAD_AGAIN, ladder.dataset), *steps]
    elif not is_searched and _may_improve(ladder):
        steps = [button("Optimise the prompt", MEASURE, ladder.dataset), *steps]
    steps[0]["style"] = "primary"
    judge_some = [button(JUDGE_SOME_WORDS, JUDGE_SOME, str(number))] if for_people else []
    return actions(*[steps[0], *judge_some, *steps[1:]][:2], button("Details", DETAILS, str(number)))


def _may_improve(ladder: Ladder) -> bool:
    """Whether every prompt misses, and nobody has looked for a better one."""
    return ladder.cheapest is None and bool(ladder.rung("zero")) and not ladder.rung("optimised")


def _below(ladder: Ladder) -> list[CardBlock]:
    """What the table can't show."""
    hidden = len(ladder.rungs) - len(_shown(ladder))
    parts = [f"{hidden:,} more in Details."] if hidden else []
    if ladder.detectable_gap is not None:
        rows, gap = pluralize(ladder.n, "test row"), f"{100 * ladder.detectable_gap:.0f}"
        parts.append(f"With {rows}, only differences above about {gap} points can be told from chance.")
    return [Note(" ".join(parts))] if parts else []


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
        to_tell = f"about {pluralize(maybe.rows_to_decide, 'more test row')} would tell"
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
    names = listed([_short_name(arm, 30) for arm in close], SHOWN_ARMS, "; ")
    return [f"Not told apart from the best ({escape(_short_name(best.arm, 30))}): {escape(names)}."]


def _without_examples(ladder: Ladder) -> list[str]:
    models = [shorten(rung.arm.model, 40) for rung in ladder.rungs if rung.arm.shots == 0 and rung.arm.model]
    text = f"Examples did not help {escape(', '.join(models))}: on training rows the prompt alone did at least as well."
    return [text] if models else []


def _unread(ladder: Ladder) -> list[str]:
    """Answers that could not be read count as wrong: a reader should know of the worst."""
    rungs = sorted(ladder.rungs, key=lambda rung: -(rung.unread + rung.empty))
    count = rungs[0].unread + rungs[0].empty
    if not count:
        return []
    others = sum(rung.unread + rung.empty > 0 for rung in rungs[1:])
    more = (
        f" {others:,} more {'option has' if others == 1 else 'options have'} such answers." if others else ""
    )
    of = f"{count:,} of {pluralize(rungs[0].n, 'answer')}"
    text = f"{of} ({escape(arm_name(rungs[0].arm, 40))}) {_unfit(rungs[0])} and count as wrong."
    return [f"{text}{_silent(ladder) or more}"]


def _searched(ladder: Ladder) -> list[str]:
    """What retrieval looked through, and how much of it each question was shown; once for all models."""
    texts = []
    for about in dict.fromkeys(rung.retrieval for rung in ladder.rungs if rung.retrieval):
        rows = pluralize(about.texts, "training row")
        documents = f"{passages_text(about.texts)} from {pluralize(about.documents, 'document')}"
        text = (
            f"Retrieval showed each question {about.k} of {rows if about.kind == 'examples' else documents}, the "
            "nearest by words (BM25) and by meaning (an encoder). The number was chosen on training rows."
        )
        if about.read < about.texts:
            text += f" There was time to compare {about.read:,} of them by meaning."
        if about.copied:
            copied = pluralize(about.copied, "held-out question")
            text += f" Word for word in these documents: {copied}; on new ones retrieval may do worse."
        texts.append(text)
    return texts


def _unfit(rung: Rung) -> str:
    """What was wrong with a rung's answers, as the end of a sentence."""
    named = {"json": "were no JSON", "calls": "called no function"}.get(rung.scoring, "named no label")
    return " or ".join([*([named] if rung.unread else []), *(["were empty"] if rung.empty else [])])


def _silent(ladder: Ladder) -> str:
    """A model that thinks before it answers may have spent all its room on that."""
    silent = [rung.arm.model for rung in ladder.rungs if rung.arm.model and 2 * rung.empty > rung.n]
    names = list(dict.fromkeys(silent))[:SHOWN_ARMS]
    if not names:
        return ""
    models = (name.partition("/") for name in names)
    tables = ", ".join(code(f'[providers.{provider}.models."{model}"]') for provider, _, model in models)
    return (
        f" If the model thinks before it answers, it needs more room: put {code('reasoning = true')} under {tables} in "
        "finetune.toml and measure again."
    )


def _never_answered(ladder: Ladder) -> list[str]:
    labels = ladder.never_answered
    if not labels:
        return []
    named = listed([code(cut(label, 40) or "(empty)") for label in labels], SHOWN_LABELS)
    return [f"Expected, and never answered by any of them: {named}."]


def _dominated(ladder: Ladder) -> list[str]:
    worse = [_short_name(rung.arm, 30) for rung in dominated(ladder)]
    if not worse:
        return []
    names = escape(listed(worse, SHOWN_LABELS, "; "))
    return [f"Left out of the plot: {names}. Another is surely better, costs no more and is no slower."]


def _next_step(ladder: Ladder, *, is_searched: bool) -> str:
    rung = _rung_of(ladder, ladder.cheapest)
    if rung and rung.arm.rung == "tuned":
        return "Deploy the tuned model; an estimate says when it pays."
    if rung:
        return "Use it. An estimate says whether a tuned model would still pay against it."
    if _nearest_to_tell(ladder):
        return "Upload more labelled rows under the same name and measure again: some become test rows."
    if not is_searched and _may_improve(ladder):
        return "Optimise the prompt (`optimise=$2`), or estimate what a tuned model would bring."
    return "Estimate what a tuned model would bring."


def _cost(spent: int | None, most: int | None) -> str:
    if spent is None:
        return ""
    if not most and not spent:
        return "Measuring cost nothing but the machine's time."
    agreed = f", {at_most(most)} was agreed" if most else ""
    return f"Measuring cost {charge(spent) if spent else 'nothing'}{agreed}."


def _method(ladder: Ladder, how_read: str | None, cost: str) -> str:
    prices = "; ".join(dict.fromkeys(ladder.prices_said_by))
    is_right_or_wrong = ladder.rungs[0].scoring in ("label", "judge")
    test = "McNemar's exact test" if is_right_or_wrong else "a paired bootstrap"
    sentences = (
        cost,
        escape(how_read) if how_read else "",
        "The 95% interval is each row's own; “meets” is said only where the one-sided 95% bound reaches the bar. "
        "“can't tell”, or “unsure”: only more test rows would show it. Prices are for 1,000 requests. p95: 95% of "
        "the answers came within, p50: half, with several requests under way at a time (`callers` in finetune.toml).",
        f"Each is compared with the best by {test} on the same rows, corrected for "
        f"{pluralize(len(ladder.pairs), 'comparison')} (Holm)."
        if ladder.pairs
        else "",
        f"Prices: {escape(cut(prices, 400))}." if prices else "",
        "The encoder reads the first 128 tokens of a text; a linear rule on its vectors, and on the words where folds "
        "of the training rows say so, is learnt from the training rows. Each test row is answered by itself. The usual "
        "one is made for English: `model` under [encoder] in finetune.toml names one for other languages."
        if ladder.rung("encoder")
        else "",
        f"Licences of the weights: {escape(cut('; '.join(ladder.weights), 400))}." if ladder.weights else "",
    )
    return " ".join(filter(None, sentences))


def _in_full(ladder: Ladder, rung: Rung) -> str:
    standing = STANDINGS[rung.standing]
    text = f"{arm_name(rung.arm)}: {quality(rung)}, {standing}, {price(rung.usd_per_1000)}, {seconds(rung)}"
    unfit = f"; {rung.unread + rung.empty:,} {_unfit(rung)}" if rung.unread or rung.empty else ""
    return f"{text}{_hit_rate(rung.retrieval)}{unfit}"


def _hit_rate(about: Retrieval | None) -> str:
    """How often retrieval came up with what the answer needs, beside how often the answer was right."""
    if about is None or not about.asked:
        return ""
    share = share_text(about.hits / about.asked)
    if about.kind == "examples":
        return f"; the right label was among the {about.k} nearest rows for {share}"
    of = f"{pluralize(about.asked, 'question')} whose answer the documents hold"
    return f"; the answer was in one of the {about.k} nearest passages for {share} of {of}"


def _pair(pair: Pair | None) -> str:
    """How far below the best."""
    if pair is None:
        return ""
    apart = "surely worse than the best" if pair.is_told_apart else "not told apart from the best"
    difference = f"{points(-pair.difference)} ({points_range(-pair.high, -pair.low)})"
    return f"; {apart}, {difference}, {p_value(pair.p)}"


def _rung_of(ladder: Ladder, arm: Candidate | None) -> Rung | None:
    return next((rung for rung in ladder.rungs if rung.arm == arm), None)
