"""What free candidates cost once they are frozen, and how true their probabilities are.

`python benchmarks/free_candidates.py [PART …] [--train FILE --test FILE] [--short]`. Parts, all by default:

    alone         answers a second on one core, one text at a time; of the encoder at 32 and at 128 tokens
    memory        what a process with numpy needs in addition to import and load a candidate
    calibration   the calibration error that is stored, and that on rows held out from the file
    threads       how long the encoder takes to read the training rows with two threads: with a text each, as we do, and
                  with both on one text, as onnxruntime does; as shares of the time of one thread, in three rounds

`python benchmarks/door.py free` measures the same through the door."""

from __future__ import annotations

import argparse
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402

from trainers.dataset import Example, read  # noqa: E402
from trainers.encoders import DEFAULT_ENCODER  # noqa: E402
from trainers.encoders.embedding import TextEncoder, find_encoder, load_encoder  # noqa: E402
from trainers.evaluation.tfidf import label_of, text_of  # noqa: E402
from trainers.recipes.calibration import calibration_error  # noqa: E402
from trainers.recipes.classical import freeze_classical  # noqa: E402
from trainers.recipes.encoder import freeze_encoder  # noqa: E402
from trainers.recipes.folder import RecipeFolder  # noqa: E402
from trainers.recipes.free import FreeAnswer, FreeAnswerer, open_free  # noqa: E402
from trainers.recipes.frozen import ARRAYS, DESCRIPTION, FrozenClassifier  # noqa: E402
from trainers.recipes.values import Recipe  # noqa: E402

TICKETS = ROOT / "examples" / "support_tickets.csv"
SEED = 20261124
HELD_OUT = 200
FREE = Recipe(kind="classical", dataset="tickets", version=1, task="labels", scoring="label")
PARTS = ("alone", "memory", "calibration", "threads")
ROUNDS = 3
TARGETS = {"classical": "1,000/s", "encoder, 32 tokens": "110/s", "encoder, 128 tokens": "40/s"}
MEASURES_MEMORY = """
import os, sys
from pathlib import Path
import numpy
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.free import open_free

def megabytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

before = megabytes()
folder = RecipeFolder(Path(sys.argv[1]))
open_free(folder, folder.read(sys.argv[2])).answer(["My card was charged twice"])
print(f"{before:.0f} MB before, {megabytes() - before:.0f} MB more")
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--train", type=Path, default=TICKETS)
    parser.add_argument("--test", type=Path, help="default: 200 rows of the training file, held out")
    parser.add_argument("--rows", type=int, help="of the training file, drawn at random; default: all")
    parser.add_argument("--short", action="store_true", help="few rows and texts")
    arguments = parser.parse_args()
    train, test = read_rows(arguments.train, arguments.test, arguments.rows)
    if arguments.short:
        train, test = train[:240], test[:20]
    parts = arguments.parts or PARTS
    frozen = {
        "classical": freeze_classical(train, SEED, has_labels=True),
        "encoder": freeze_encoder(load_encoder(), train, SEED, has_labels=True),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = RecipeFolder(Path(name))
        recipes = {kind: folder.add(FREE, files) for kind, files in frozen.items()}
        opened = {kind: open_free(folder, recipe) for kind, recipe in recipes.items()}
        if "alone" in parts:
            measure_alone(opened, [text_of(row) for row in test], 20 if arguments.short else 1_000)
        if "memory" in parts:
            for kind, recipe in recipes.items():
                print(f"memory, {kind}: {measure_memory(folder, recipe)}")
        if "calibration" in parts:
            measure_calibration(opened, frozen, len(train), test)
    if "threads" in parts:
        read_again = train[:40] if arguments.short else train
        measure_threads([text_of(row) for row in read_again])


def read_rows(
    train: Path, test: Path | None, rows: int | None
) -> tuple[Sequence[Example], Sequence[Example]]:
    drawn = list(read(train, train.name).examples)
    random.Random(SEED).shuffle(drawn)
    if test is not None:
        return drawn[:rows], read(test, test.name).examples
    return drawn[HELD_OUT:][:rows], drawn[:HELD_OUT]


def measure_alone(opened: Mapping[str, FreeAnswerer], texts: Sequence[str], calls: int) -> None:
    report("classical", opened["classical"], [texts[number % len(texts)] for number in range(calls)])
    words = " ".join(texts).split()
    encoder = load_encoder()
    for tokens in (32, 128):
        length = tokens
        while encoder.count_tokens([" ".join(words[:length])]) > tokens:
            length -= 1
        # Other words each time, about as many tokens
        several = [" ".join(words[start : start + length]) for start in range(max(calls // 5, 10))]
        report(f"encoder, {tokens} tokens", opened["encoder"], several)


def report(name: str, answerer: FreeAnswerer, texts: Sequence[str]) -> None:
    answerer.answer(texts[:5])
    began = time.process_time()
    for text in texts:
        answerer.answer([text])
    each = (time.process_time() - began) / len(texts)
    print(f"alone, {name}: {1_000 * each:.2f} ms CPU, {1 / each:,.0f}/s (our target {TARGETS[name]})")


def measure_memory(folder: RecipeFolder, recipe: Recipe) -> str:
    command = [sys.executable, "-c", MEASURES_MEMORY, str(folder.root), recipe.sha256]
    process = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return process.stdout.strip()


def measure_calibration(
    opened: Mapping[str, FreeAnswerer],
    frozen: Mapping[str, Mapping[str, bytes]],
    rows: int,
    test: Sequence[Example],
) -> None:
    for kind, files in frozen.items():
        described = FrozenClassifier.from_json(files[DESCRIPTION])
        calibration = described.calibration
        size = len(files[ARRAYS]) / 1e6
        head = f"calibration, {kind}: learnt from {rows:,} rows with {len(described.labels)} labels, {size:.2f} MB"
        if calibration is None or calibration.curve is None:
            print(f"{head}: {calibration and calibration.reason}")
            continue
        answers = opened[kind].answer([text_of(row) for row in test])
        error = error_of(answers, described.labels, test)
        print(
            f"{head}: {percentage(calibration.error_before)} with softmax, {percentage(calibration.error)} stored, "
            f"measured on {calibration.rows:,} rows; {percentage(error)} on {len(test):,} new rows"
        )


def error_of(answers: Sequence[FreeAnswer], labels: Sequence[str], test: Sequence[Example]) -> float:
    shares = np.zeros((len(answers), len(labels) + 1))  # the last column is for labels that it doesn't know
    place = {label: number for number, label in enumerate(labels)}
    for row, answer in zip(shares, answers, strict=True):
        for label, share in answer.probabilities or ():
            row[place[label]] = share
    own = np.array([place.get(label_of(row), len(labels)) for row in test], dtype=np.intp)
    return calibration_error(shares, own)


def measure_threads(texts: Sequence[str]) -> None:
    """All take turns in each round, since a machine's speed changes meanwhile."""
    ways = {
        "one thread": load_encoder(threads=1),
        "two threads, a text each": load_encoder(threads=2),
        "two threads on one text": with_shared_texts(load_encoder(threads=1)),
    }
    rounds = [
        {name: seconds_to_read(encoder, texts) for name, encoder in ways.items()} for _ in range(ROUNDS)
    ]
    for name in ways:
        wall = statistics.median(each[name] for each in rounds)
        share = statistics.median(each[name] / each["one thread"] for each in rounds)
        print(f"threads, {name}: {len(texts):,} texts in {wall:.1f} s, {share:.2f} of one thread's time")


def with_shared_texts(encoder: TextEncoder) -> TextEncoder:
    """Returns the same encoder in a session of onnxruntime that reads each text with two threads."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    path = str(find_encoder(DEFAULT_ENCODER).model)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    model = replace(encoder._model, session=session)  # type: ignore[type-var]
    return replace(encoder, _model=model)


def seconds_to_read(encoder: TextEncoder, texts: Sequence[str]) -> float:
    encoder.embed(texts[:5])
    began = time.perf_counter()
    encoder.embed(texts)
    return time.perf_counter() - began


def percentage(error: float | None) -> str:
    return f"{100 * (error or 0):.1f} points"


if __name__ == "__main__":
    main()
