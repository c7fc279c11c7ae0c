"""The method `head`: trains a linear classifier on the vectors of an unchanged encoder, which takes seconds on a CPU,
without torch. Also has the functions for rows, vectors and results that the method `full` shares.

Vectors are stored in the job's folder, 256 rows at a time, so that a kill or a pause loses at most one part: at 10 ms
per row, 10,000 rows take minutes.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.dataset import read
from trainers.encoders import EncoderError
from trainers.encoders.choice import choose_encoder
from trainers.encoders.classifier import LinearHead, head_inputs, learn, save_head
from trainers.encoders.embedding import TextEncoder, load_encoder
from trainers.evaluation.tfidf import label_of, text_of
from trainers.local.job_directory import (
    KEPT_ROWS,
    RESULTS_HEADER,
    TrainingJob,
    append_event,
    new_result_folder,
    read_json,
    replace_json,
)
from trainers.local.training.errors import Pauses, TrainingFailed, pause_on_full_disk

if TYPE_CHECKING:
    from trainers.encoders.embedding import Vectors

ROWS_A_PART = 256


def train(folder: Path, job: TrainingJob) -> None:
    """Trains the job in `folder` and ends with adapter/ and DONE. Raises TrainingFailed or TrainingPaused."""
    with pause_on_full_disk(folder):
        append_event(folder, f"Reading the rows with {job.base_name}")
        rows = read_labelled_rows(job)
        encoder = open_encoder(_choose_encoder(job.base, rows))
        log = EncoderLog(folder, total=count_parts(rows), trained_tokens=encoder.count_tokens(rows.texts))
        counts = f"{len(rows.names):,} labels on {len(rows.texts):,} rows"
        append_event(folder, f"Fitting {counts} with {encoder.name}, which is not changed")
        vectors = embed_rows(folder, encoder, rows, log.write_progress)
        head = learn(encoder, rows.texts, rows.labels, vectors, seed=job.seed).head
        columns = head_inputs(encoder, head, rows.texts, vectors)
        log.write_results([(log.total, *measure_fit(head, columns, rows))])
        with new_result_folder(folder) as temporary:
            save_head(temporary, head, encoder=encoder.name, sha256=encoder.sha256)
        log.finish(head.weights.size + head.biases.size)


def _choose_encoder(base: str, rows: LabelledRows) -> str:
    """Returns the encoder that a measurement of these rows uses too."""
    try:
        return choose_encoder(base, rows.texts, [rows.labels]).name
    except EncoderError as error:
        raise TrainingFailed("base_not_loaded", str(error), "model") from error


@dataclass(frozen=True)
class LabelledRows:
    texts: tuple[str, ...]
    labels: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels)))


def read_labelled_rows(job: TrainingJob) -> LabelledRows:
    path = Path(job.training_file)
    rows = read(path, path.name).examples
    return LabelledRows(tuple(map(text_of, rows)), tuple(map(label_of, rows)))


def open_encoder(source: str) -> TextEncoder:
    try:
        return load_encoder(source)
    except EncoderError as error:
        raise TrainingFailed("base_not_loaded", str(error), "model") from error


@dataclass
class EncoderLog:
    """Writes progress and results of a job of `total` steps. `seconds` includes earlier attempts of the job."""

    folder: Path
    total: int
    trained_tokens: int = 0
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        before = read_json(self.folder / "progress.json") or {}
        self._started -= float(before.get("seconds") or 0.0)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def write_progress(self, step: int) -> None:
        seconds = self.seconds
        step_s = None
        finish = None
        if step:
            step_s = seconds / step
            finish = round(time.time() + (self.total - step) * step_s)
        progress = {
            "step": step,
            "total_steps": self.total,
            "trained_tokens": self.trained_tokens,
            "estimated_finish": finish,
            "seconds": seconds,
            "step_s": step_s,
        }
        replace_json(self.folder / "progress.json", progress)

    def write_results(self, rows: list[tuple[int, float, float]]) -> None:
        """Writes results.csv. `rows` are step, training loss and training accuracy."""
        # The last two columns are for validation, which classifiers don't have.
        lines = [(step, f"{loss:.6g}", f"{right:.6g}", "", "") for step, loss, right in rows]
        temporary = self.folder / "results.tmp"
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(RESULTS_HEADER)
            writer.writerows(lines)
        temporary.replace(self.folder / "results.csv")

    def finish(self, parameters: int) -> None:
        self.write_progress(self.total)
        append_event(self.folder, f"Trained in {self.seconds:,.0f} s; the classifier is saved")
        done = {
            "trained_tokens": self.trained_tokens,
            "seconds": round(self.seconds, 1),
            "trainable_parameters": parameters,
            "step": self.total,
            "result_step": self.total,
            "stopped": None,
        }
        replace_json(self.folder / "DONE", done)


def count_parts(rows: LabelledRows) -> int:
    return math.ceil(len(rows.texts) / ROWS_A_PART)


def embed_rows(
    folder: Path, encoder: TextEncoder, rows: LabelledRows, tell: Callable[[int], None] = lambda parts: None
) -> Vectors:
    """Returns one vector per row. `tell` is called with the number of finished parts. Raises TrainingPaused between two
    parts."""
    import numpy as np

    stored = folder / KEPT_ROWS
    stored.mkdir(exist_ok=True)
    pauses = Pauses(folder)
    parts = []
    for number in range(count_parts(rows)):
        pauses.check_pause()
        # Another encoder's vectors, of an earlier attempt, are not read.
        path = stored / f"{encoder.sha256[:16]}-{number:05d}.npy"
        if not path.exists():
            start = number * ROWS_A_PART
            texts = rows.texts[start : start + ROWS_A_PART]
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                np.save(file, encoder.embed(texts))
            temporary.replace(path)
        parts.append(np.load(path))
        tell(number + 1)
    vectors: Vectors = np.concatenate(parts)
    if not np.isfinite(vectors).all():
        text = (
            f"{encoder.name} gives vectors with values that are not numbers (nan or infinite), so nothing can be "
            "learnt on them. Download its files again, or choose another encoder."
        )
        raise TrainingFailed("base_not_finite", text, "model")
    return vectors


def measure_fit(head: LinearHead, vectors: Vectors, rows: LabelledRows) -> tuple[float, float]:
    """Returns the mean loss in nats per row and the accuracy, on the rows that the head was fitted on."""
    import numpy as np

    numbers = {label: number for number, label in enumerate(head.labels)}
    wanted = np.array([numbers[label] for label in rows.labels])
    shares = head.probabilities(vectors)  # (rows, labels)
    wanted_shares = shares[np.arange(len(wanted)), wanted]
    loss = -np.log(np.maximum(wanted_shares, 1e-12)).mean()  # a share may be rounded to 0
    accuracy = (shares.argmax(axis=1) == wanted).mean()
    return float(loss), float(accuracy)
