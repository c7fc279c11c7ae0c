"""A whole training run on a model small enough for it: results, going on after a kill, failures."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.local.runs import limit_file_size, start_run
from trainers.local.job_directory import TrainingJob, lock_job, read_events, read_json, write_job
from trainers.local.train import PAUSED, run_training
from trainers.local.training.data import Row
from trainers.local.training.loop import batches, new_optimizer
from trainers.local.training.schedule import learning_rate_share
from trainers.methods import Parameters

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "FINETUNE_DTYPE": "fp32"}
QUICK = Parameters(n_epochs=3, batch_size=4, learning_rate=1e-2, lora_r=4, lora_alpha=8, lora_dropout=0.1)
STEPS = 30
QUESTIONS = {"billing": "my card was charged twice", "shipping": "the parcel has not arrived"}


@pytest.fixture(autouse=True)
def _exact_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number in range(40):
            label = ("billing", "shipping")[number % 2]
            question = {"role": "user", "content": f"{QUESTIONS[label]} ({number})"}
            answer = {"role": "assistant", "content": label}
            file.write(json.dumps({"messages": [question, answer]}) + "\n")
    return path


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a job that ran to its end without a break."""
    folder = make_job(tmp_path_factory.mktemp("job"), tiny_model_dir, rows_file, validation=rows_file)
    process = subprocess.run(
        [sys.executable, "-m", "trainers.local.train", str(folder)],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0, process.stderr
    return folder


def make_job(
    folder: Path,
    base: Path,
    training: Path,
    *,
    validation: Path | None = None,
    settings: Parameters = QUICK,
) -> Path:
    job = TrainingJob(
        id="ftjob-" + "0" * 24,
        base=str(base),
        base_name="tiny",
        training_file=str(training),
        validation_file=str(validation) if validation else None,
        seed=7,
        settings=settings,
        suffix=None,
        metadata={},
        created_at=0,
    )
    write_job(folder, job)
    return folder


def results(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def messages(folder: Path) -> list[str]:
    return [event["message"] for event in read_events(folder)]


def test_the_run_ends_with_what_it_took(trained: Path) -> None:
    done = read_json(trained / "DONE") or {}
    assert (done["step"], done["result_step"], done["stopped"]) == (STEPS, STEPS, None)
    assert done["trainable_parameters"] == sum(
        tensor.numel() for tensor in load_file(trained / "adapter" / "adapter_model.safetensors").values()
    )
    first = next(message for message in messages(trained) if message.startswith("Training rows"))
    assert first == f"Training rows: 40 with {done['trained_tokens'] // 3:,} tokens"
    assert not (trained / "FAILED").exists()


def test_the_loss_falls(trained: Path) -> None:
    losses = [float(row["train_loss"]) for row in results(trained)]
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    valid = [float(row["valid_loss"]) for row in results(trained) if row["valid_loss"]]
    assert valid == sorted(valid, reverse=True)
    assert len(valid) == 3


def test_the_events_tell_the_machine_the_sizes_and_each_epoch(trained: Path) -> None:
    told = messages(trained)
    assert told[0] in ("Training tiny on cpu in float32", "Training tiny on cuda in float32")
    assert any(message.startswith("trainable params: ") for message in told)
    assert "Epoch 3/3 finished after step 30/30" in told
    metrics = [event["data"] for event in read_events(trained) if event["type"] == "metrics"]
    last = metrics[-1]
    assert (last["step"], last["total_steps"]) == (STEPS, STEPS)
    assert last["valid_loss"] == pytest.approx(float(results(trained)[-1]["valid_loss"]), rel=1e-4)
    assert {"train_loss", "train_mean_token_accuracy", "learning_rate"} <= set(last)
    assert [each["step"] for each in metrics if "valid_loss" in each] == [10, 20, 30]


def test_progress_stands_at_the_last_step(trained: Path) -> None:
    progress = read_json(trained / "progress.json") or {}
    assert (progress["step"], progress["total_steps"]) == (STEPS, STEPS)
    assert progress["trained_tokens"] == (read_json(trained / "DONE") or {})["trained_tokens"]
    assert abs(progress["estimated_finish"] - (trained / "DONE").stat().st_mtime) < 10


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_loads_the_adapter_and_it_changes_what_the_model_says(
    trained: Path, tiny_model_dir: Path
) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids = torch.tensor([[1, 20, 30, 40]])
    before = base(input_ids=ids).logits.detach().clone()
    tuned = PeftModel.from_pretrained(base, str(trained / "adapter"))
    assert not torch.allclose(before, tuned(input_ids=ids).logits)


def test_the_last_three_checkpoints_stay(trained: Path) -> None:
    names = sorted(folder.name for folder in (trained / "checkpoints").iterdir())
    assert names == ["step-000010", "step-000020", "step-000030"]


def test_a_killed_run_goes_on_and_ends_as_if_it_had_not_been(
    trained: Path, tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file, validation=rows_file)
    end_at_step(folder, 13, signal.SIGKILL)
    (folder / "checkpoints" / ".step-000099").mkdir()  # what a kill in the middle of a checkpoint leaves
    assert run_training(folder) == 0
    assert any(message.startswith("Resuming from the checkpoint of step 1") for message in messages(folder))
    same = load_file(trained / "adapter" / "adapter_model.safetensors")
    for name, tensor in load_file(folder / "adapter" / "adapter_model.safetensors").items():
        torch.testing.assert_close(tensor, same[name], rtol=1e-4, atol=1e-6)
    steps = [row["step"] for row in results(folder)]
    assert steps == [str(number) for number in range(1, STEPS + 1)]
    assert [float(row["train_loss"]) for row in results(folder)] == pytest.approx(
        [float(row["train_loss"]) for row in results(trained)], rel=1e-3
    )
    assert (read_json(folder / "DONE") or {})["trained_tokens"] == (read_json(trained / "DONE") or {})[
        "trained_tokens"
    ]
    assert not list((folder / "checkpoints").glob(".*"))


def test_sigterm_ends_it_quickly_and_marks_nothing(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file)
    assert end_at_step(folder, 2, signal.SIGTERM) < 3
    assert not (folder / "DONE").exists()
    assert not (folder / "FAILED").exists()


def end_at_step(folder: Path, step: int, number: signal.Signals) -> float:
    """Seconds from the signal, sent when that step's checkpoint is there, to the end."""
    process = start_run(folder, checkpoint_s=0.0)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "checkpoints" / f"step-{step:06d}").exists():
            assert process.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        sent = time.monotonic()
        process.join(10)
        assert process.exitcode == -number
        return time.monotonic() - sent
    finally:
        process.kill()
        process.join(10)


def test_a_second_process_leaves_the_job_alone_with_exit_code_75(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file)
    with lock_job(folder):
        process = subprocess.run(
            [sys.executable, "-m", "trainers.local.train", str(folder)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert process.returncode == 75
    assert "another process is training this job" in process.stderr
    assert not read_events(folder)


def test_nothing_heavy_is_imported_before_there_is_something_to_train() -> None:
    code = "import sys, trainers.local.train; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30).returncode == 0


def test_a_job_that_has_ended_is_not_trained_again(trained: Path) -> None:
    before = read_events(trained)
    assert run_training(trained) == 0
    assert read_events(trained) == before


def failure_of(folder: Path) -> dict[str, Any]:
    """Runs the job in this process, which must fail as expected failures do."""
    assert run_training(folder) == 1
    assert not (folder / "DONE").exists()
    failed = read_json(folder / "FAILED") or {}
    assert messages(folder)[-1] == f"The job failed: {failed['message']}"
    return failed


def test_an_unreadable_row_fails_the_job_with_its_line(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    lines = rows_file.read_text(encoding="utf-8").splitlines()
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join([*lines[:6], "oops", *lines[6:]]), encoding="utf-8")
    failed = failure_of(make_job(tmp_path / "a", tiny_model_dir, broken))
    assert (failed["code"], failed["param"]) == ("invalid_row", "training_file")
    assert failed["message"].startswith("Line 7 ")
    job = make_job(tmp_path / "b", tiny_model_dir, rows_file, validation=broken)
    assert failure_of(job)["param"] == "validation_file"


def test_answers_of_weight_0_alone_leave_nothing_to_learn(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in rows_file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["messages"][1]["weight"] = 0
    muted = tmp_path / "muted.jsonl"
    muted.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert failure_of(make_job(tmp_path / "job", tiny_model_dir, muted))["code"] == "nothing_to_learn"


def test_rows_too_long_are_left_out_and_said(tiny_model_dir: Path, rows_file: Path, tmp_path: Path) -> None:
    lines = rows_file.read_text(encoding="utf-8").splitlines()[:4]
    long = json.dumps(
        {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y " * 200}]}
    )
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join([*lines, long]), encoding="utf-8")
    settings = Parameters(n_epochs=1, lora_r=4, max_length=150)
    folder = make_job(tmp_path / "job", tiny_model_dir, path, settings=settings)
    assert run_training(folder) == 0
    warned = [event["message"] for event in read_events(folder) if event["level"] == "warn"]
    assert warned == ["Training rows left out because they are longer than max_length: 1"]


def test_a_loss_that_is_no_number_fails_the_job(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = Parameters(n_epochs=3, learning_rate=1e30)
    failed = failure_of(make_job(tmp_path, tiny_model_dir, rows_file, settings=settings))
    assert (failed["code"], failed["param"]) == ("loss_not_finite", "learning_rate")


def test_a_full_disk_pauses_the_job_and_leaves_no_half_checkpoint(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file)
    with limit_file_size(10_000):
        assert run_training(folder) == PAUSED
    assert messages(folder)[-1].startswith("The disk is full: ")
    assert not list((folder / "checkpoints").iterdir())
    assert run_training(folder) == PAUSED
    (folder / "PAUSED").unlink()
    assert run_training(folder) == 0


def test_target_modules_that_are_not_there_fail_the_job(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = Parameters(target_modules="q_proj,qkv_proj")
    failed = failure_of(make_job(tmp_path, tiny_model_dir, rows_file, settings=settings))
    assert (failed["code"], failed["param"]) == ("target_modules_not_found", "target_modules")
    assert "no linear layer 'qkv_proj'" in failed["message"]
    assert "q_proj" in failed["message"].partition("some of")[2]


def test_a_base_that_is_not_there_fails_the_job(
    tmp_path: Path, rows_file: Path, tiny_model_dir: Path
) -> None:
    failed = failure_of(make_job(tmp_path / "job", tmp_path / "nowhere", rows_file))
    assert (failed["code"], failed["param"]) == ("base_not_loaded", "model")


def test_a_base_with_pickled_weights_is_not_opened(
    tmp_path: Path, rows_file: Path, tiny_model_dir: Path
) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_model_dir, pickled)
    weights = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    failed = failure_of(make_job(tmp_path / "job", pickled, rows_file))
    assert (failed["code"], failed["param"]) == ("base_not_safetensors", "model")


def test_the_order_is_the_seeds_and_the_epochs_and_has_every_row_once() -> None:
    rows = [Row(line, [1, 2], [False, True]) for line in range(10)]
    lines = [[row.line for row in batch] for batch in batches(rows, 4, seed=1, epoch=0)]
    assert [len(batch) for batch in lines] == [4, 4, 2]
    assert sorted(line for batch in lines for line in batch) == list(range(10))
    assert batches(rows, 4, seed=1, epoch=0) == batches(rows, 4, seed=1, epoch=0)
    assert batches(rows, 4, seed=1, epoch=0) != batches(rows, 4, seed=1, epoch=1)


def test_weight_decay_shrinks_the_weights_by_its_share_of_the_rate() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2)
    new_optimizer([weight], Parameters(learning_rate=0.5, weight_decay=0.1)).step()
    assert weight.tolist() == pytest.approx([0.95, 0.95])


def test_the_learning_rate_warms_up_and_falls_and_is_never_0() -> None:
    shares = [learning_rate_share(step, 100) for step in range(1, 101)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert 0 < shares[-1] < 0.02
    assert learning_rate_share(1, 1) == 1.0
