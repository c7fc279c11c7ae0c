"""An encoder's training, from its rows to the folder that is served: by a head, as a whole, after a kill, refused."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from tests.local.encoders import tiny_encoder_dir as tiny_encoder_dir
from tests.local.labelled_tickets import encoder_job, tickets
from tests.local.runs import SIGKILLED, start_run
from trainers.encoders.classifier import load_classifier
from trainers.encoders.embedding import EncoderError
from trainers.local.checks import file_refusal, labels_refusal
from trainers.local.job_directory import read_events, read_json, replace_json
from trainers.local.train import PAUSED, run_training
from trainers.local.training.methods.head import ROWS_A_PART
from trainers.methods import Parameters

CALL = (
    b'{"messages": [{"role": "user", "content": "hi"}, '
    b'{"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}]}\n'
)
QUICK = Parameters(n_epochs=6, batch_size=8, learning_rate=2e-3)


def head_of(folder: Path) -> bytes:
    with np.load(folder / "adapter" / "head.npz") as arrays:
        return arrays["weights"].tobytes() + arrays["biases"].tobytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = encoder_job(tmp_path_factory.mktemp("head") / "job")
    assert run_training(folder) == 0
    return folder


def test_a_head_learns_the_labels_in_one_reading(trained: Path) -> None:
    classifier = load_classifier(trained / "adapter")
    (answer,) = classifier.classify(["Someone else used my credit card"])
    assert answer.label == "billing"
    assert 0.34 < answer.probability < 1
    assert answer.probability + sum(share for _, share in answer.others) == pytest.approx(1, abs=1e-5)
    done = read_json(trained / "DONE")
    assert done and done["trainable_parameters"] == 3 * 385 and done["trained_tokens"] > 60 * 5
    header, line = (trained / "results.csv").read_text().splitlines()
    assert header.startswith("step,train_loss,train_accuracy") and line.startswith("1,")
    assert "Fitting 3 labels on 60 rows" in read_events(trained)[1]["message"]


def test_a_kill_between_two_parts_costs_no_part_and_ends_alike(tmp_path: Path) -> None:
    rows = tickets(ROWS_A_PART + 40)
    folder, other = encoder_job(tmp_path / "killed", rows=rows), encoder_job(tmp_path / "whole", rows=rows)
    process, deadline = start_run(folder), time.monotonic() + 120
    while not list((folder / "rows").glob("*.npy")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join(20)
    assert process.exitcode == SIGKILLED and not (folder / "DONE").exists()
    parts = {path: path.stat().st_mtime_ns for path in (folder / "rows").glob("*.npy")}
    assert run_training(folder) == run_training(other) == 0
    assert all(path.stat().st_mtime_ns == made_at for path, made_at in parts.items())
    assert head_of(folder) == head_of(other)


def test_a_pause_is_obeyed_and_what_was_read_stays(tmp_path: Path) -> None:
    folder = encoder_job(tmp_path / "job")
    replace_json(folder / "PAUSED", {"at": 0})
    assert run_training(folder) == PAUSED
    (folder / "PAUSED").unlink()
    assert run_training(folder) == 0


def test_an_encoder_learns_as_a_whole_and_is_served_as_onnx(tiny_encoder_dir: Path, tmp_path: Path) -> None:
    head = encoder_job(tmp_path / "head", base=str(tiny_encoder_dir))
    full = encoder_job(tmp_path / "full", "full", base=str(tiny_encoder_dir), settings=QUICK)
    assert run_training(head) == run_training(full) == 0
    texts = [f"Order {number}: the courier lost my package" for number in range(5)]
    frozen, learnt = (load_classifier(each / "adapter") for each in (head, full))
    assert frozen.encoder.sha256 != learnt.encoder.sha256, "its own ONNX lies with the head"
    assert {answer.label for answer in learnt.classify(texts)} == {"shipping"}
    losses = [float(line.split(",")[1]) for line in (full / "results.csv").read_text().splitlines()[1:]]
    assert len(losses) == 6 * 8 and np.mean(losses[-8:]) < np.mean(losses[:8]) / 2


def test_a_whole_training_goes_on_where_it_was_paused(tiny_encoder_dir: Path, tmp_path: Path) -> None:
    folder = encoder_job(tmp_path / "paused", "full", base=str(tiny_encoder_dir), settings=QUICK)
    whole = encoder_job(tmp_path / "whole", "full", base=str(tiny_encoder_dir), settings=QUICK)
    process, deadline = start_run(folder), time.monotonic() + 120
    while int((read_json(folder / "progress.json") or {}).get("step", 0)) < 10:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.005)
    replace_json(folder / "PAUSED", {"at": 0})
    process.join(60)
    assert process.exitcode == PAUSED
    (folder / "PAUSED").unlink()
    assert run_training(folder) == run_training(whole) == 0
    assert any(event["message"].startswith("Resuming from step") for event in read_events(folder))
    steps = [line.split(",")[0] for line in (folder / "results.csv").read_text().splitlines()[1:]]
    assert steps == [str(step) for step in range(1, 49)]
    with np.load(folder / "adapter" / "head.npz") as one, np.load(whole / "adapter" / "head.npz") as other:
        np.testing.assert_allclose(one["weights"], other["weights"], atol=1e-3)


def test_an_encoder_that_is_not_there_fails_the_job_with_the_cure(tmp_path: Path) -> None:
    folder = encoder_job(tmp_path / "job", base=str(tmp_path / "nowhere"))
    assert run_training(folder) == 1
    failed = read_json(folder / "FAILED")
    assert failed and failed["param"] == "model" and "There is no encoder" in failed["message"]


def test_a_head_is_not_used_over_another_encoder(
    trained: Path, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    described = read_json(trained / "adapter" / "classifier.json") or {}
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "head.npz").write_bytes((trained / "adapter" / "head.npz").read_bytes())
    replace_json(folder / "classifier.json", {**described, "encoder": str(tiny_encoder_dir)})
    with pytest.raises(EncoderError, match="have changed since this classifier was trained"):
        load_classifier(folder)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (tickets(1) * 12, "All its answers are the same"),
        (
            b"".join(tickets(3).replace(b"billing", b"b%d" % n) for n in range(501)),
            "an encoder learns at most 500",
        ),
        (tickets(3) + CALL, "don't end with a plain-text answer"),
    ],
)
def test_rows_that_are_no_labels_are_refused(rows: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(rows)
    refused = labels_refusal(path)
    assert refused and sentence in refused


def test_a_line_with_nothing_but_a_byte_order_mark_is_blank(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n" + tickets(12))
    assert file_refusal(path, 10) is None
    assert labels_refusal(path) is None
