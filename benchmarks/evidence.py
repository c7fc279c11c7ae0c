"""Checks that the evidence keeps the promises of docs/deciding.md: `python benchmarks/evidence.py [--short]`

It simulates teams that look at the same held-out rows ten times: false claims, also of who rewrites the best prompt or
follows the best model again and again, of trainings whose rows mend the wrong rows that people have read, false
promotions, and how often the stated number of further rows settles a case. It measures the precision and recall by line
of each finding of a check, in copies of real rows with planted faults, and compares the search for wrong labels with a
plain logistic regression, for 2 to 150 labels. With ../shared/data beside the repository it does so on banking77 and
Bitext too, and measures the error and coverage of curves on files drawn at random, the classical candidate and the
encoder on banking77, and the overlaps found in it. The numbers promised for looks and curves are read from the page
(_promises.py), so it returns 1 if the page promises more. Takes about seven minutes of CPU time on one core, the short
form one and a half. With --looks or --curves it only simulates the looks or measures the curves.
"""

from __future__ import annotations

import itertools
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import _looks  # noqa: E402
from benchmarks._encoder import accuracy_in_float32, measure, measure_full_training  # noqa: E402
from benchmarks._flawed import (  # noqa: E402
    Row,
    add_flaws,
    make_broken_lines,
    write,
)
from benchmarks._paraphrases import PARAPHRASES  # noqa: E402
from benchmarks._planted import (  # noqa: E402
    make_example,
    make_texts,
    mislabel,
    rank_by_margin,
)
from benchmarks._promises import Promises, read_promises  # noqa: E402
from bot.cards.training.result_details import SHOWN_CHANGES  # noqa: E402
from bot.services.datasets.dataset_worker import SEED  # noqa: E402
from trainers.dataset import (  # noqa: E402
    CheckSettings,
    Columns,
    Example,
    Limits,
    Report,
    check_file,
    read,
    split,
    store_chat,
)
from trainers.encoders.embedding import load_encoder  # noqa: E402
from trainers.evaluation.learning_curves import (  # noqa: E402
    classical_curve,
    stratified_order,
)
from trainers.evaluation.retrieval import Library, open_library  # noqa: E402
from trainers.evaluation.tfidf import classify_holdout, features  # noqa: E402

TICKETS = ROOT / "examples" / "support_tickets.csv"
DATA = ROOT.parent / "shared" / "data" / "banking77"
BITEXT = DATA.parent / "bitext-support"
COLUMNS = Columns("text", "category")
EVERY_LINE = Limits(listed=10_000)
DRAWS = 3
NEAR = ("near_duplicate", "near_contradiction", "near_overlap")


def main(options: Set[str]) -> int:
    """Returns 0 if everything is as expected, else 1. Without ../shared/data, the parts that need it are skipped."""
    is_short = "--short" in options
    promises = read_promises()
    if "--curves" in options:
        return 0 if check_curves_of_public_datasets(promises) else 1
    fits = check_looks(promises, is_short=is_short)
    if "--looks" in options:
        return 0 if fits else 1
    tickets = read(TICKETS, TICKETS.name, columns=Columns("text", "label")).examples
    fits &= check_findings("support tickets", tickets, of_each=21 if is_short else 30)
    fits &= check_retrieval([row.prompt[-1].content for row in tickets])
    fits &= check_encoder_on_tickets(tickets, is_short=is_short)
    synthetic = {(2, 250): 0.25, (6, 100): 0.25, (150, 10): 0.3, (20, 50): 0.25, (77, 30): 0.3}
    sets = [] if is_short else [("support tickets", tickets)]
    for (labels, of_each), own in list(synthetic.items())[: 1 if is_short else None]:
        sets.append((f"made texts, {labels} labels", make_texts(labels, of_each, seed=1, own=own)))
    for what, rows in sets:
        fits &= check_wrong_labels(what, rows)
    if not DATA.exists() or not BITEXT.exists():
        print("The rest is skipped: banking77 and bitext-support are not in ../shared/data.")
        return 0 if fits else 1
    return 0 if fits & check_public_datasets(promises, is_short=is_short) else 1


def check_public_datasets(promises: Promises, *, is_short: bool) -> bool:
    train, test = (read(DATA / name, name, columns=COLUMNS).examples for name in ("train.csv", "test.csv"))
    print(f"banking77: {len(train):,} rows to train on, {len(test):,} held out (the official test)")
    if is_short:
        few = classical_accuracy(sample_ten_per_label(train, 0), test)
        fits = print_result(
            "classical on 10 a label", f"{few:.1%}, one draw", "72.9% ± 3", abs(few - 0.729) <= 0.03
        )
        return fits & check_overlaps(count_overlaps(test))
    everything = classical_accuracy(train, test)
    fits = print_result(
        "classical on all rows", f"{everything:.1%}", "91.2% ± 0.8", abs(everything - 0.912) <= 0.008
    )
    few = sum(classical_accuracy(sample_ten_per_label(train, seed), test) for seed in range(5)) / 5
    fits &= print_result(
        "classical on 10 a label", f"{few:.1%}, mean of 5 draws", "72.9% ± 1.5", abs(few - 0.729) <= 0.015
    )
    fits &= check_encoder("encoder on 10 a label", sample_ten_per_label(train, 0), test, 0.84)
    fits &= check_encoder("encoder on all rows", train, test, 0.93)
    full = measure_full_training(sample_ten_per_label(train, 0), test)
    if isinstance(full, str):
        print(f"{'  all of it, 10 a label':34} {full}")
    else:
        fits &= print_result("  all of it, 10 a label", full.text, "86% or more", full.right >= 0.86)
    fits &= check_overlaps(count_overlaps(test))
    fits &= check_extrapolation(train, test, everything)
    messages = load_bitext()
    fits &= check_findings("banking77", test) & check_findings("bitext", messages[:3_000])
    for (name, rows), count in itertools.product((("banking77", train), ("bitext", messages)), (500, 2_000)):
        fits &= check_wrong_labels(name, stratified_order(rows, 1)[:count])
    return fits & check_curves(([*train, *test], messages), promises)


def check_curves_of_public_datasets(promises: Promises) -> bool:
    if not DATA.exists() or not BITEXT.exists():
        print("Curves are skipped: banking77 and bitext-support are not in ../shared/data.")
        return True
    train, test = (read(DATA / name, name, columns=COLUMNS).examples for name in ("train.csv", "test.csv"))
    return check_curves(([*train, *test], load_bitext()), promises)


def load_bitext() -> list[Example]:
    """Returns all three parts, shuffled."""
    columns = Columns("utterance", "intent")
    rows = [
        row
        for part in sorted(BITEXT.glob("*.csv"))
        for row in read(part, part.name, columns=columns).examples
    ]
    random.Random(0).shuffle(rows)
    return rows


def check_findings(what: str, rows: Sequence[Example], of_each: int = 30) -> bool:
    """Checks that every fault, planted or already in the rows, is reported on its line, and nothing else is."""
    plain = [(row.prompt[-1].content, row.answer) for row in rows]
    flawed = add_flaws(plain, 1, of_each)
    held = [make_example(text, label, line) for line, (text, label) in enumerate(flawed.held, 1)]
    reported = lines_of(check_rows(flawed.rows, held=held))
    reported["near copies"] = set().union(*(reported.get(code, set()) for code in NEAR))
    fits = [
        compare_lines(f"{what}: {code}", reported.get(code, set()), lines)
        for code, lines in flawed.lines.items()
    ]
    recall = len(flawed.reworded & reported["near copies"]) / len(flawed.reworded)
    fits.append(
        print_result(
            "a word or two changed", f"{recall:.0%} of them near copies", "75% or more", recall >= 0.75
        )
    )
    lines, wrong = make_broken_lines(plain[:200], 1)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "broken.jsonl"
        path.write_text("\n".join(lines), encoding="utf-8")
        reported = lines_of(check_file(path, path.name, Columns(), None, 7, CheckSettings(limits=EVERY_LINE)))
    fits += [
        compare_lines(f"{what}: {code}", reported.get(code, set()), where) for code, where in wrong.items()
    ]
    return all(fits)


def check_retrieval(messages: Sequence[str]) -> bool:
    """Measures how often a ticket is among the ten nearest, queried by a paraphrase and by a word that only it
    contains: with retrieval, with each of its two rankings, and with TF-IDF."""
    by_word = defaultdict(list)
    for place, text in enumerate(messages):
        for word in set(re.findall(r"[a-z]{6,}|[0-9]{4,}", text.lower())):
            by_word[word].append(place)
    rare = {word: places[0] for word, places in by_word.items() if len(places) == 1}
    words = random.Random(1).sample(sorted(rare), 100)
    paraphrases = {
        query: next(place for place, text in enumerate(messages) if text.startswith(start))
        for start, query in PARAPHRASES.items()
    }
    library = open_library(messages, load_encoder())
    fits = check_ten_nearest("in other words", library, messages, paraphrases, 0.6)
    return fits & check_ten_nearest(
        "by a rare word", library, messages, {f"what about {word}?": rare[word] for word in words}, 0.7
    )


def check_ten_nearest(
    what: str, library: Library, messages: Sequence[str], expected: Mapping[str, int], least: float
) -> bool:
    queries, vectors = list(expected), features(in_pieces=True)
    likeness = (vectors.fit_transform(messages) @ vectors.transform(queries).T).toarray()
    rankings = {
        "retrieval": library.search(queries),
        "by meaning alone": library._by_meaning(library.encoder.embed(queries)),
        "by words alone (BM25)": library._by_words(queries),
        "by TF-IDF": [tuple(order) for order in (-likeness.T).argsort(axis=1, kind="stable")],
    }
    hits = {
        name: sum(place in order[:10] for place, order in zip(expected.values(), orders, strict=True))
        / len(queries)
        for name, orders in rankings.items()
    }
    others = ", ".join(f"{share:.0%} {name}" for name, share in list(hits.items())[1:])
    print(f"tickets asked for {what}: {others}")
    return print_result(
        f"  {what}, by retrieval",
        f"{hits['retrieval']:.0%} in the ten nearest",
        f"{least:.0%} or more",
        hits["retrieval"] >= least,
    )


def check_rows(rows: Sequence[Row], held: Sequence[Example] | None = None) -> Report:
    with tempfile.TemporaryDirectory() as folder:
        path = write(rows, Path(folder) / "rows.csv")
        columns = Columns("text", "label")
        return check_file(
            path, path.name, columns, None, 7, CheckSettings(limits=EVERY_LINE, holdout=held, deep=True)
        )


def lines_of(report: Report) -> dict[str, set[int]]:
    lines = defaultdict(set)
    for finding in report.findings:
        if finding.line is not None:
            lines[finding.code].add(finding.line)
    return dict(lines)


def compare_lines(what: str, reported: set[int], wrong: Set[int]) -> bool:
    right = len(reported & wrong)
    precision, recall = right / max(len(reported), 1), right / max(len(wrong), 1)
    text = f"precision {precision:.2f}, recall {recall:.2f}"
    return print_result(what, text, f"1.00 of {len(wrong)} lines", precision == recall == 1)


def check_wrong_labels(what: str, rows: Sequence[Example]) -> bool:
    """With 5% wrong labels, checks that at least as many are reported as by logistic regression, and their number
    estimated well."""
    listed = right = by_regression = planted = 0
    off: list[float] = []
    plain = [make_example(" ".join(row.prompt[-1].content.split()), row.answer, 0) for row in rows]
    for seed in range(1, DRAWS + 1):
        mislabelled, wrong = mislabel(plain, 0.05, seed)
        report = check_rows([(row.prompt[-1].content, row.answer) for row in mislabelled])
        reported = lines_of(report).get("label_doubted", set())
        hits = sum(place + 2 in reported for place in wrong)  # the first line has the column names
        listed += len(reported)
        right += hits
        planted += len(wrong)
        by_regression += len(wrong & set(rank_by_margin(mislabelled)[: len(reported)]))
        errors = report.label_errors
        if errors and errors.is_told and reported:
            off.append(abs(errors.expected - hits) / len(reported))
    text = f"precision {right / max(listed, 1):.2f}, recall {right / planted:.2f}"
    expected = f"{by_regression / max(listed, 1):.2f}, {by_regression / planted:.2f} by regression"
    fits = print_result(f"wrong labels, {len(rows):,} {what}", text, expected, right >= by_regression)
    mean = sum(off) / max(len(off), 1)
    text = f"off by {mean:.0%}, stated in {len(off)} of {DRAWS}"
    return fits & print_result("  their estimated number", text, "25% of the list at most", mean <= 0.25)


def check_curves(sets: Sequence[Sequence[Example]], promises: Promises) -> bool:
    """Compares the predicted with the real score at twice the rows, for files of 300 to 1,500 rows that are drawn at
    random, as a team's file is, and split like uploads. The real score is that of the same classifier on unseen rows.
    """
    forecasts = [
        _forecast(rows, count, seed)
        for rows, count, seed in itertools.product(sets, (300, 600, 1_000, 1_500), (0, 1, 2))
    ]
    gains = sum(forecast.is_gain_certain for forecast in forecasts)
    false_gains = 0
    for seed in range(6):
        rows = make_texts(2, 150, seed, own=0.0)  # there is nothing to learn, so more rows don't help
        curve = classical_curve(rows[100:], rows[:100], seed, [400])
        false_gains += curve.farthest is not None and curve.farthest.is_certain

    count = len(forecasts)
    off = statistics.mean(abs(forecast.error) for forecast in forecasts)
    off_gain = statistics.mean(abs(forecast.gain_error) for forecast in forecasts)
    bias = statistics.mean(forecast.error for forecast in forecasts)
    inside = sum(forecast.is_inside for forecast in forecasts)
    fits = fits_promises(promises, count, off, bias, off_gain, inside, gains)
    text = f"stated in {false_gains} of 6"
    return fits & print_result("  with nothing to learn", text, "1 at most", false_gains <= 1)


def fits_promises(
    promises: Promises, count: int, off: float, bias: float, off_gain: float, inside: int, gains: int
) -> bool:
    """Compares curves of `count` files with what the page promises about them. Errors are in points."""
    most = promises.curve_error
    text = f"off by {off:.2f} points on average"
    fits = print_result("curve at twice the rows", text, f"{most:g} or less", off <= most)

    most = promises.curve_bias
    text = f"too high by {bias:+.2f} points"
    fits &= print_result("", text, f"within {most:g}", abs(bias) <= most)

    most = promises.gain_error
    text = f"its gain off by {off_gain:.2f} points"
    fits &= print_result("", text, f"{most:g} or less", off_gain <= most)

    least = promises.inside_band
    text = f"{inside} of {count} inside the band"
    fits &= print_result("", text, f"{10 * least:g} in 10", inside >= least * count)

    least = promises.gain_found
    text = f"a gain stated in {gains} of {count}"
    return fits & print_result("", text, f"{10 * least:g} in 10", gains >= least * count)


@dataclass(frozen=True)
class Forecast:
    """How far a predicted score and gain are from the real ones, in points."""

    error: float
    gain_error: float
    is_inside: bool
    is_gain_certain: bool


def _forecast(rows: Sequence[Example], count: int, seed: int) -> Forecast:
    drawn = list(rows)
    random.Random(100 * count + seed).shuffle(drawn)
    parts = split(drawn[:count], seed=SEED)
    trained = len(parts.train)
    more, unseen = drawn[count : count + trained], drawn[count + trained : count + trained + 2_000]
    curve = classical_curve(parts.train, parts.holdout, seed, [2 * trained])
    (predicted,) = curve.predicted
    now = classical_accuracy(parts.train, unseen)
    real = classical_accuracy([*parts.train, *more], unseen)
    gain = predicted.score - curve.points[-1].score
    return Forecast(
        error=100 * (predicted.score - real),
        gain_error=100 * (gain - (real - now)),
        is_inside=predicted.low <= real <= predicted.high,
        is_gain_certain=curve.farthest is not None and curve.farthest.is_certain,
    )


def check_looks(promises: Promises, *, is_short: bool) -> bool:
    """Simulates teams that look at the same held-out rows ten times. An observed share may exceed the promise by what
    chance allows in so many histories: two standard errors."""
    histories = 1_000 if is_short else 4_000
    settings = [
        _looks.Setting(bar, rows, correlation, of_look)
        for bar, rows, correlation, of_look in itertools.product((0.5, 0.85), (200, 500), (0.0, 0.5), (1, 3))
    ]
    shares = {str(each): _looks.false_meets(each, histories, seed=1) for each in settings}
    most = promises.false_meets
    fits = print_share('false "meets", ten looks', shares, most, histories)
    climbing = {
        f"{rows} rows, first {first} models": _looks.false_meets_when_climbing(
            rows, 0.85, first, histories, seed=2
        )
        for rows, first in ((200, 1), (200, 6), (500, 1), (500, 6))
    }
    fits &= print_share("  rewriting the best prompt", climbing, most, histories)
    fresh = {
        f"{rows} rows": _looks.false_meets_on_fresh_rows(rows, 0.85, histories, 3) for rows in (100, 200)
    }
    fits &= print_share("  fitting it to wrong rows", fresh, most, histories)
    followed = {
        f"{rows} rows, first {first} models": _looks.false_meets_when_following_the_best(
            rows, first, histories, seed=7
        )
        for rows, first in ((200, 6), (500, 6), (200, 12), (500, 12))
    }
    fits &= print_share("  following the best model", followed, most, histories)
    fits &= check_trainings(promises, histories // 4)
    return fits & check_stated_rows(promises, histories // 2)


def check_stated_rows(promises: Promises, cases: int) -> bool:
    """Simulates undecided cases, and a team that follows the stated number of further rows five times."""
    fits = True
    for mean, deviation in ((0.86, 0.04), (0.8, 0.08)):
        settled, stated = _looks.settled_by_stated_rows(200, mean, deviation, 0.85, cases, seed=5)
        wanted = promises.settled
        least = wanted - 2 * (wanted * (1 - wanted) / max(stated, 1)) ** 0.5
        text = f"{settled:.0%} of {stated:,} cases"
        expected = f"{wanted:.0%} or more"
        fits &= print_result(f"settled by the stated rows ({mean:.0%})", text, expected, settled >= least)
    following = {"200 rows": _looks.false_meets_when_following(200, 0.85, cases, seed=6)}
    return fits & print_share("  following it five times", following, promises.false_meets, cases)


def check_trainings(promises: Promises, histories: int) -> bool:
    """Simulates ten trainings in a row: each by itself, each with almost the settings of the best before it, and each
    with training rows that mend the wrong rows that people have read."""
    fits = True
    sizes = ((200, 0.6), (200, 0.85), (500, 0.85), (1_000, 0.6), (1_000, 0.85))
    for what, redrawn, shown in (
        ("ten trainings", 1.0, 0),
        ("following the best", 0.5, 0),
        ("mending read rows", 1.0, SHOWN_CHANGES),
    ):
        meets: dict[str, float] = {}
        promoted: dict[str, float] = {}
        uncorrected: list[float] = []
        for (rows, score), margin in itertools.product(sizes, (0.0, 0.03)):
            trainings = _looks.Trainings(rows, score, margin, redrawn, shown)
            claims = _looks.false_claims_of_trainings(trainings, histories, seed=4)
            meets[str(trainings)] = claims.meets
            promoted[str(trainings)] = claims.promotions
            uncorrected.append(claims.uncorrected)
        fits &= print_share(f"{what}: meets", meets, promises.false_meets, histories)
        fits &= print_share("  promotions", promoted, promises.false_promotions, histories)
        if shown:
            print(f"  without the correction: {min(uncorrected):.0%} to {max(uncorrected):.0%} false meets")
    return fits


def print_share(what: str, shares: Mapping[str, float], most: float, histories: int) -> bool:
    worst = max(shares, key=lambda name: shares[name])
    allowed = most + 2 * (most * (1 - most) / histories) ** 0.5
    text = f"{shares[worst]:.1%} at worst ({worst})"
    return print_result(what, text, f"{most:.1%} at most", shares[worst] <= allowed)


def classical_accuracy(train: Sequence[Example], test: Sequence[Example]) -> float:
    replies = classify_holdout(train, test, seed=0)
    return sum(reply.text == row.answer for reply, row in zip(replies, test, strict=True)) / len(test)


def check_encoder_on_tickets(rows: Sequence[Example], *, is_short: bool) -> bool:
    """Measures the encoder on the demo's 200 held-out tickets, and on six other splits."""
    parts = split(rows, seed=SEED)
    print(f"support tickets: {len(parts.train):,} rows to train on, {len(parts.holdout):,} held out")
    fits = check_encoder("encoder on the demo's tickets", parts.train, parts.holdout, 0.75)
    if not is_short:
        draws = [split(rows, seed) for seed in range(1, 7)]
        right = [measure(draw.train, draw.holdout).right for draw in draws]
        mean, text = statistics.mean(right), f"{min(right):.1%} to {max(right):.1%}"
        fits &= print_result(
            "  on six other draws", f"{mean:.1%} on average, {text}", "75% or more", mean >= 0.75
        )
        full = accuracy_in_float32(parts.train, parts.holdout)
        text = full if isinstance(full, str) else f"{full:.1%} in 32 bits"
        print(f"{'  the same weights':34} {text}")
    return fits


def check_encoder(what: str, train: Sequence[Example], test: Sequence[Example], least: float) -> bool:
    measurement = measure(train, test)
    return print_result(what, measurement.text, f"{least:.0%} or more", measurement.right >= least)


def sample_ten_per_label(train: Sequence[Example], seed: int) -> list[Example]:
    by_label = defaultdict(list)
    for row in train:
        by_label[row.answer].append(row)
    chance = random.Random(seed)
    return [row for label in sorted(by_label) for row in chance.sample(by_label[label], 10)]


def count_overlaps(test: Sequence[Example]) -> tuple[int, int]:
    """Returns the overlaps and duplicates that the check finds in train.csv, with the official test as its holdout."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        holdout = folder / f"{store_chat(folder, test)}.jsonl"
        report = check_file(
            DATA / "train.csv", "train.csv", COLUMNS, folder, 0, CheckSettings(holdout=holdout)
        )
    overlaps, duplicates = (
        sum(finding.count for finding in report.findings if finding.code == code)
        for code in ("overlap", "duplicate")
    )
    return overlaps, duplicates


def check_overlaps(counts: tuple[int, int]) -> bool:
    overlaps, duplicates = counts
    fits = print_result("overlaps of train and test", str(overlaps), "7", overlaps == 7)
    return fits & print_result("duplicates inside train", str(duplicates), "4", duplicates == 4)


def check_extrapolation(train: Sequence[Example], test: Sequence[Example], actual: float) -> bool:
    half = stratified_order(train, seed=0)[:5_001]
    started = time.perf_counter()
    curve = classical_curve(half, test, 0, [len(train)])
    seconds = time.perf_counter() - started
    (predicted,) = curve.predicted
    measured = ", ".join(f"{point.rows:,}: {point.score:.1%}" for point in curve.points)
    print(f"curve: {measured}; {curve.points_per_100:.2f} points per 100 more labels; {seconds:.1f} s")
    text = f"{predicted.score:.1%} ({predicted.low:.1%} to {predicted.high:.1%})"
    print("to label next: " + ", ".join(f"{need.label} ({need.rows} rows)" for need in curve.needs[:5]))
    expected = f"91.2% ± 1.5, here {actual:.1%}"
    return print_result(
        f"predicted for {predicted.rows:,} rows", text, expected, abs(predicted.score - 0.912) <= 0.015
    )


def print_result(what: str, text: str, expected: str, fits: bool) -> bool:
    print(f"{what:34} {text:28} expected {expected:26} {'as expected' if fits else 'NOT AS EXPECTED'}")
    return fits


if __name__ == "__main__":
    sys.exit(main(frozenset(sys.argv[1:])))
