"""What becomes of a run that is killed, paused, stopped early, too long or too big; on a model made in
process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.local.runs import (
    adapter_bytes,
    count_steps,
    kill_after_step,
    make_job,
    run_to_end,
    start_run,
    wait_for_step,
)
from trainers.local.job_directory import read_events, read_json, replace_json
from trainers.local.train import PAUSED, run_training
from trainers.local.training.checkpoints import checkpoint_folder
from trainers.methods import Parameters

SETTINGS = Parameters(n_epochs=3, batch_size=4, learning_rate=1e-2, lora_r=4, lora_alpha=8, lora_dropout=0.1)
STEPS = 30
LABELS = ("billing", "shipping")
QUESTIONS = {"billing": "my card was charged twice", "shipping": "the parcel has not arrived"}


@pytest.fixture(autouse=True)
def _exact_numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("FINETUNE_DTYPE", "fp32")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def write_rows(path: Path, count: int, *, is_wrong: bool = False) -> Path:
    lines = []
    for number in range(count):
        label = LABELS[number % 2]
        told = LABELS[(number + is_wrong) % 2]
        question = {"role": "user", "content": f"{QUESTIONS[label]} ({number})"}
        lines.append(json.dumps({"messages": [question, {"role": "assistant", "content": told}]}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", 40)


@pytest.fixture(scope="module")
def undisturbed(tiny_model_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    settings = replace(SETTINGS, eval_steps=4)
    make_job(folder, tiny_model_dir, rows_file, settings, validation=rows_file)
    assert run_to_end(folder) == 0
    return folder


@pytest.fixture
def same_job(tiny_model_dir: Path, rows_file: Path, tmp_path: Path) -> Path:
    """The job of `undisturbed`, not begun."""
    settings = replace(SETTINGS, eval_steps=4)
    return make_job(tmp_path / "job", tiny_model_dir, rows_file, settings, validation=rows_file)


def messages(folder: Path) -> list[str]:
    return [event["message"] for event in read_events(folder)]


def warnings(folder: Path) -> list[str]:
    return [event["message"] for event in read_events(folder) if event["level"] == "warn"]


def results(folder: Path) -> str:
    return (folder / "results.csv").read_text(encoding="utf-8")


def test_a_run_killed_at_many_points_ends_with_the_same_bytes(undisturbed: Path, same_job: Path) -> None:
    for step in (1, 9, 10, 28):
        kill_after_step(same_job, step)
    assert run_to_end(same_job) == 0
    assert adapter_bytes(same_job) == adapter_bytes(undisturbed)
    assert results(same_job) == results(undisturbed)
    done, other = read_json(same_job / "DONE") or {}, read_json(undisturbed / "DONE") or {}
    assert {**done, "seconds": 0} == {**other, "seconds": 0}


def test_a_paused_run_saves_a_checkpoint_ends_in_seconds_and_goes_on_to_the_same_bytes(
    undisturbed: Path, same_job: Path
) -> None:
    process = start_run(same_job)  # without checkpoints within an epoch
    wait_for_step(same_job, 13, process)
    (same_job / "PAUSED").write_text("{}")
    process.join(3)
    assert process.exitcode == PAUSED
    progress = read_json(same_job / "progress.json") or {}
    assert 13 <= progress["step"] < STEPS
    assert checkpoint_folder(same_job, progress["step"]).exists()
    assert progress["estimated_finish"] is None
    assert run_to_end(same_job) == PAUSED
    (same_job / "PAUSED").unlink()
    assert run_to_end(same_job) == 0
    assert adapter_bytes(same_job) == adapter_bytes(undisturbed)
    assert results(same_job) == results(undisturbed)


def test_a_pause_in_the_middle_of_a_validation_or_a_step_loses_neither(
    undisturbed: Path, same_job: Path
) -> None:
    for is_training, forwards in ((False, 4), (True, 7), (False, 1)):
        with pause_in_forward(same_job, forwards, is_training=is_training):
            assert run_training(same_job) == PAUSED
        (same_job / "PAUSED").unlink()
    assert run_training(same_job) == 0
    assert adapter_bytes(same_job) == adapter_bytes(undisturbed)
    assert results(same_job) == results(undisturbed)


@contextmanager
def pause_in_forward(folder: Path, number: int, *, is_training: bool) -> Iterator[None]:
    """Somebody pauses while the model computes its `number`-th part of training or of validating."""
    seen = 0

    def look(module: torch.nn.Module, inputs: Any) -> None:
        nonlocal seen
        if type(module).__name__ == "LlamaForCausalLM" and module.training == is_training:
            seen += 1
            if seen == number:
                (folder / "PAUSED").write_text("{}")

    hook = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        hook.remove()


def test_a_run_stops_when_validation_gets_no_better_and_its_best_checkpoint_is_the_result(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    contrary = write_rows(tmp_path / "valid.jsonl", 8, is_wrong=True)
    settings = replace(SETTINGS, n_epochs=20, patience=3, eval_steps=5)
    folder = make_job(tmp_path / "job", tiny_model_dir, rows_file, settings, validation=contrary)
    assert run_training(folder) == 0
    done = read_json(folder / "DONE") or {}
    validations = [e["data"] for e in read_events(folder) if "valid_loss" in e["data"]]
    assert [each["step"] for each in validations] == list(range(5, done["step"] + 1, 5))
    lowest = min(validations, key=lambda each: each["valid_loss"])
    assert done["result_step"] == lowest["step"] == done["step"] - 15
    assert done["stopped"] == warnings(folder)[-1]
    assert done["stopped"].startswith(f"Stopped at step {done['step']}/200: 3 validations in a row had no")
    best_weights = checkpoint_folder(folder, lowest["step"]) / "adapter_model.safetensors"
    assert adapter_bytes(folder) == best_weights.read_bytes()
    assert any(
        said.startswith(f"The result is the checkpoint of step {lowest['step']}/200")
        for said in messages(folder)
    )


def test_a_ceiling_of_time_stops_a_run_before_it_is_passed_and_keeps_what_was_reached(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, n_epochs=50, batch_size=1, max_usd_micros=1_000, usd_per_hour_micros=600_000)
    assert settings.ceiling_s == 6.0
    folder = make_job(tmp_path, tiny_model_dir, rows_file, settings)
    assert run_training(folder) == 0
    done = read_json(folder / "DONE") or {}
    assert 0 < done["step"] < 2000
    assert done["seconds"] <= 6.0
    said = f"Stopped at step {done['step']}/2000: the ceiling of under 1 cent at $0.60 an hour (6 s)"
    assert done["stopped"].startswith(said)
    assert adapter_bytes(folder)


def test_time_that_a_killed_run_took_counts_against_its_ceiling(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file, replace(SETTINGS, max_seconds=3000))
    (folder / "progress.json").write_text(
        '{"step": 0, "total_steps": 30, "trained_tokens": 0, "seconds": 4000}'
    )
    assert run_training(folder) == 1
    failed = read_json(folder / "FAILED") or {}
    assert (failed["code"], failed["param"]) == ("ceiling_reached", "max_seconds")


def test_a_run_that_goes_on_takes_no_step_for_which_its_ceiling_leaves_no_time(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file, replace(SETTINGS, max_seconds=3000))
    kill_after_step(folder, 3)
    step = count_steps(folder)
    progress = read_json(folder / "progress.json") or {}
    replace_json(folder / "progress.json", {**progress, "seconds": 2900.0, "step_s": 200.0})
    assert run_training(folder) == 0
    assert (read_json(folder / "DONE") or {})["step"] <= step


def test_memory_that_is_too_small_is_answered_by_smaller_parts_of_the_same_batch(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, n_epochs=1, lora_dropout=0.0)
    roomy = make_job(tmp_path / "roomy", tiny_model_dir, rows_file, settings, validation=rows_file)
    assert run_training(roomy) == 0
    narrow = make_job(tmp_path / "narrow", tiny_model_dir, rows_file, settings, validation=rows_file)
    with limit_memory(60):
        assert run_training(narrow) == 0
    told = [said for said in warnings(narrow) if said.startswith("Memory was full at step 1 with ")]
    assert len(told) == 2
    assert "activations are recomputed" in told[0]  # a half would be single rows here and there
    assert "A step still learns from as many rows" in told[1]
    assert losses(narrow) == pytest.approx(losses(roomy), rel=1e-3)


def test_a_run_that_goes_on_keeps_to_the_smaller_parts(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file, SETTINGS)
    with limit_memory(60), pause_in_forward(folder, 30, is_training=True):
        assert run_training(folder) == PAUSED
    (folder / "PAUSED").unlink()
    assert run_training(folder) == 0
    newest = max((folder / "checkpoints").iterdir())
    kept = read_json(newest / "checkpoint.json") or {}
    assert (kept["room"] < 60, kept["recomputes"]) == (True, True)
    assert len([said for said in warnings(folder) if said.startswith("Memory was full")]) == 2


def test_a_row_that_alone_is_too_much_for_the_memory_fails_the_job_with_its_length(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file, SETTINGS)
    with limit_memory(5):
        assert run_training(folder) == 1
    failed = read_json(folder / "FAILED") or {}
    assert failed["code"] == "out_of_memory"
    assert failed["message"].startswith("Memory is too small for a single row of ")


@contextmanager
def limit_memory(tokens: int) -> Iterator[None]:
    """torch's own error in the model's forward, where more tokens than that come in at once."""

    def weigh(module: torch.nn.Module, inputs: Any) -> None:
        if type(module).__name__ == "Embedding" and inputs[0].numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = register_module_forward_pre_hook(weigh)
    try:
        yield
    finally:
        hook.remove()


def losses(folder: Path) -> list[float]:
    return [float(line.split(",")[1]) for line in results(folder).splitlines()[1:]]


def test_tensorboard_draws_each_step_once_over_a_kill(same_job: Path) -> None:
    kill_after_step(same_job, 13, checkpoint_s=60)
    assert run_to_end(same_job) == 0
    board = EventAccumulator(str(same_job / "tensorboard")).Reload()
    curve = board.Scalars("train/loss")
    assert [point.step for point in curve] == list(range(1, STEPS + 1))
    assert [point.value for point in curve] == pytest.approx(losses(same_job), rel=1e-4)
    assert [p.step for p in board.Scalars("valid/loss")] == [4, 8, 10, 12, 16, 20, 24, 28, 30]


def test_rows_that_were_cut_are_counted_in_an_event(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, n_epochs=1, too_long="truncate", max_length=16)
    long = tmp_path / "long.jsonl"
    answer = {"role": "assistant", "content": "y " * 200}
    question = {"role": "user", "content": "x"}
    long.write_text((json.dumps({"messages": [question, answer]}) + "\n") * 4, encoding="utf-8")
    folder = make_job(tmp_path / "job", tiny_model_dir, long, settings)
    assert run_training(folder) == 0
    assert warnings(folder) == [
        "Training rows cut to max_length 16 tokens, perhaps in the middle of an answer: 4"
    ]


def test_rows_beyond_the_bases_context_are_too_long_whatever_max_length_says(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, n_epochs=1, max_length=100_000)
    answer = {"role": "assistant", "content": "y " * 2100}
    long = tmp_path / "long.jsonl"
    row = json.dumps({"messages": [{"role": "user", "content": "x"}, answer]})
    long.write_text(rows_file.read_text(encoding="utf-8") + "\n" + row, encoding="utf-8")
    folder = make_job(tmp_path / "job", tiny_model_dir, long, settings)
    assert run_training(folder) == 0
    assert warnings(folder) == [
        "max_length 100000 exceeds the base's context: rows may have at most 2048 tokens",
        "Training rows left out because they are longer than max_length: 1",
    ]
