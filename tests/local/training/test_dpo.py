"""Training on preference pairs through TRL on a tiny model: what it learns, measures, and survives."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer import base_trainer

from tests.local.faults import limit_memory, limit_memory_of_kept_layers, pause_in_forward
from tests.local.preferences import pair, write_pairs
from tests.local.runs import (
    adapter_bytes,
    assert_same_result,
    event_messages,
    kill_after_step,
    limit_file_size,
    make_job,
    read_done,
    read_failure,
    read_results,
    run_to_end,
    write_ticket_rows,
)
from trainers.local.job_directory import read_events, read_json
from trainers.local.launch import PAUSED
from trainers.local.train import run_training
from trainers.local.training.base_model import silence_peft_warning
from trainers.local.training.checkpoints import checkpoint_folder
from trainers.local.training.pairs import read_pairs
from trainers.methods import Parameters

SETTINGS = Parameters(
    n_epochs=2,
    batch_size=4,
    learning_rate=1e-2,
    lora_r=4,
    lora_alpha=8,
    lora_dropout=0.1,
    eval_steps=4,
)
STEPS = 10
pytestmark = pytest.mark.usefixtures("exact_numbers")


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "train.jsonl", 20)


@pytest.fixture(scope="module")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data") / "valid.jsonl", 10, start=100)


def make_dpo_job(
    folder: Path, base: Path, training: Path, validation: Path | None = None, **changes: Any
) -> Path:
    settings = replace(SETTINGS, **changes)
    if validation is None:
        settings = replace(settings, eval_steps=None)
    return make_job(folder, base, training, settings, validation=validation, method="dpo")


@pytest.fixture(scope="module")
def undisturbed(
    exact_numbers: None,
    tiny_model_dir: Path,
    pairs_file: Path,
    held_out: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A job with dropout that was trained without interruption."""
    folder = make_dpo_job(tmp_path_factory.mktemp("undisturbed"), tiny_model_dir, pairs_file, held_out)
    assert run_training(folder) == 0
    return folder


@pytest.fixture
def same_job(tiny_model_dir: Path, pairs_file: Path, held_out: Path, tmp_path: Path) -> Path:
    """The job of `undisturbed`, not yet started."""
    return make_dpo_job(tmp_path / "job", tiny_model_dir, pairs_file, held_out)


def log_probabilities(model: Any, base: Path, file: Path) -> list[tuple[float, float]]:
    """Of each pair's chosen and rejected answer, one after the other without padding."""
    rows = read_pairs(file, AutoTokenizer.from_pretrained(base), 2048, "x", "refuse").rows
    return [
        (log_probability(model, row.prompt, row.chosen), log_probability(model, row.prompt, row.rejected))
        for row in rows
    ]


def log_probability(model: Any, prompt: Any, answer: Any) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
    picked = logits.log_softmax(-1)[range(len(answer)), list(answer)]
    return float(picked.sum())


def with_adapter(base: Any, folder: Path) -> PeftModel:
    with silence_peft_warning():
        return PeftModel.from_pretrained(base, str(folder / "adapter")).eval()


def test_trl_sends_no_telemetry(
    tiny_model_dir: Path, pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send(**values: Any) -> None:
        raise AssertionError(f"TRL would send {values}")

    monkeypatch.delenv("CI", raising=False)  # in CI TRL sends nothing anyway
    monkeypatch.setattr(base_trainer, "send_telemetry", send)
    folder = make_dpo_job(tmp_path, tiny_model_dir, pairs_file, n_epochs=1, batch_size=20)
    assert run_training(folder) == 0


@pytest.mark.deep
def test_the_model_prefers_the_chosen_answers_of_unseen_pairs(undisturbed: Path) -> None:
    first, last = read_results(undisturbed)[0], read_results(undisturbed)[-1]
    assert float(first["train_loss"]) == pytest.approx(
        math.log(2), abs=1e-4
    )  # the policy is still the reference
    assert float(last["valid_reward_accuracy"]) == 1.0
    assert float(last["valid_loss"]) < 0.4
    assert float(last["valid_reward_chosen"]) > 0 > float(last["valid_reward_rejected"])


def test_rewards_are_beta_times_the_change_of_the_answers_log_probabilities(
    undisturbed: Path, tiny_model_dir: Path, held_out: Path
) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    before = log_probabilities(base, tiny_model_dir, held_out)
    after = log_probabilities(with_adapter(base, undisturbed), tiny_model_dir, held_out)
    chosen, rejected = (
        [0.1 * (now[which] - then[which]) for now, then in zip(after, before, strict=True)]
        for which in (0, 1)
    )
    margins = [a - b for a, b in zip(chosen, rejected, strict=True)]
    result = read_results(undisturbed)[read_done(undisturbed)["result_step"] - 1]
    assert float(result["valid_reward_chosen"]) == pytest.approx(sum(chosen) / 10, rel=1e-3)
    assert float(result["valid_reward_rejected"]) == pytest.approx(sum(rejected) / 10, rel=1e-3)
    assert float(result["valid_reward_margin"]) == pytest.approx(sum(margins) / 10, rel=1e-3)
    loss = sum(math.log1p(math.exp(-margin)) for margin in margins) / 10
    assert float(result["valid_loss"]) == pytest.approx(loss, rel=1e-3)


def test_events_and_results_have_the_rewards(undisturbed: Path) -> None:
    measured = [event["data"] for event in read_events(undisturbed) if event["data"]]
    names = {"reward_accuracy", "reward_margin", "reward_chosen", "reward_rejected"}
    assert {f"train_{name}" for name in names} | {f"valid_{name}" for name in names} < measured[-1].keys()
    validated = [row["step"] for row in read_results(undisturbed) if row["valid_reward_margin"]]
    assert validated == ["4", "5", "8", "10"]
    progress = read_json(undisturbed / "progress.json") or {}
    assert (progress["step"], progress["total_steps"]) == (STEPS, STEPS)
    assert progress["estimated_finish"]


@pytest.mark.slow
def test_a_run_killed_several_times_ends_with_the_same_bytes(undisturbed: Path, same_job: Path) -> None:
    for step in (1, 4, 7):
        kill_after_step(same_job, step)
    assert run_to_end(same_job) == 0
    assert_same_result(same_job, undisturbed)


@pytest.mark.deep
def test_a_pause_within_a_step_or_a_validation_loses_neither(undisturbed: Path, same_job: Path) -> None:
    for is_training, forwards in ((True, 11), (False, 1), (True, 3)):
        with pause_in_forward(same_job, forwards, is_training=is_training):
            assert run_training(same_job) == PAUSED
        progress = read_json(same_job / "progress.json") or {}
        assert checkpoint_folder(same_job, progress["step"]).exists()
        assert progress["estimated_finish"] is None
        (same_job / "PAUSED").unlink()
    assert run_training(same_job) == 0
    assert_same_result(same_job, undisturbed)


def test_a_run_killed_after_its_last_checkpoint_only_writes_its_result(
    undisturbed: Path, same_job: Path
) -> None:
    for name in ("checkpoints", "results.csv", "progress.json"):
        copy = shutil.copytree if (undisturbed / name).is_dir() else shutil.copy
        copy(undisturbed / name, same_job / name)
    assert run_training(same_job) == 0
    assert_same_result(same_job, undisturbed)


def test_a_base_in_4_bits_is_trained_with_an_adapter_in_float32(
    tiny_model_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    folder = make_dpo_job(tmp_path, tiny_model_dir, pairs_file, quantization="nf4")
    assert run_training(folder) == 0
    assert float(read_results(folder)[0]["train_loss"]) == pytest.approx(math.log(2), abs=1e-3)
    assert float(read_results(folder)[-1]["train_reward_accuracy"]) == 1.0
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_pairs_left_out_are_counted_in_an_event(
    tiny_model_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    long = json.dumps(pair(question="charged twice " * 100))
    file = tmp_path / "pairs.jsonl"
    file.write_text(pairs_file.read_text() + "\n" + long, encoding="utf-8")
    folder = make_dpo_job(tmp_path / "job", tiny_model_dir, file, n_epochs=1, max_length=64)
    assert run_training(folder) == 0
    assert event_messages(folder, "warn") == [
        "Training pairs left out because they are longer than max_length: 1"
    ]


@pytest.mark.slow
def test_a_batch_too_large_for_memory_is_computed_in_smaller_parts(
    tiny_model_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    roomy, narrow = (
        make_dpo_job(tmp_path / name, tiny_model_dir, pairs_file, n_epochs=1, lora_dropout=0.0)
        for name in ("roomy", "narrow")
    )
    assert run_training(roomy) == 0
    with limit_memory(150):
        assert run_training(narrow) == 0
    recomputes, smaller = [
        warning
        for warning in event_messages(narrow, "warn")
        if warning.startswith("Memory was full at step 1 with ")
    ]
    assert "activations are recomputed" in recomputes
    assert "A step still learns from as many rows" in smaller
    for ours, theirs in zip(read_results(narrow), read_results(roomy), strict=True):
        assert float(ours["train_loss"]) == pytest.approx(float(theirs["train_loss"]), rel=1e-3)
        assert float(ours["train_reward_margin"]) == pytest.approx(
            float(theirs["train_reward_margin"]), abs=1e-3
        )


@pytest.mark.slow
def test_a_pair_too_large_for_memory_is_recomputed_in_the_backward_pass(
    tiny_model_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    roomy, narrow = (
        make_dpo_job(tmp_path / name, tiny_model_dir, pairs_file, n_epochs=1, lora_dropout=0.0)
        for name in ("roomy", "narrow")
    )
    assert run_training(roomy) == 0
    with limit_memory_of_kept_layers():
        assert run_training(narrow) == 0
    assert any("recomputed in the backward pass" in warning for warning in event_messages(narrow, "warn"))
    for ours, theirs in zip(read_results(narrow), read_results(roomy), strict=True):
        assert float(ours["train_reward_margin"]) == pytest.approx(
            float(theirs["train_reward_margin"]), abs=1e-3
        )


def failure_of(folder: Path) -> dict[str, Any]:
    assert run_training(folder) == 1
    return read_failure(folder)


def test_a_loss_that_is_not_finite_fails_the_job(
    tiny_model_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    failure = failure_of(make_dpo_job(tmp_path, tiny_model_dir, pairs_file, learning_rate=1e30))
    assert (failure["code"], failure["param"]) == ("loss_not_finite", "learning_rate")


@pytest.mark.slow
def test_a_full_disk_pauses_the_job_and_leaves_no_incomplete_checkpoint(
    tiny_model_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    folder = make_dpo_job(tmp_path, tiny_model_dir, pairs_file, n_epochs=1)
    with limit_file_size(10_000):
        assert run_training(folder) == PAUSED
    assert event_messages(folder)[-1].startswith("The disk is full: ")
    assert not list((folder / "checkpoints").iterdir())
    (folder / "PAUSED").unlink()
    assert run_training(folder) == 0


def test_time_before_a_kill_counts_against_the_ceiling(
    tiny_model_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    folder = make_dpo_job(tmp_path, tiny_model_dir, pairs_file, max_seconds=3000)
    progress = {"step": 0, "total_steps": STEPS, "trained_tokens": 0, "seconds": 4000}
    (folder / "progress.json").write_text(json.dumps(progress))
    assert failure_of(folder)["code"] == "ceiling_reached"


@pytest.mark.slow
def test_a_run_stops_at_its_ceiling_and_keeps_its_result(
    tiny_model_dir: Path, pairs_file: Path, held_out: Path, tmp_path: Path
) -> None:
    folder = make_dpo_job(
        tmp_path,
        tiny_model_dir,
        pairs_file,
        held_out,
        n_epochs=50,
        batch_size=1,
        max_seconds=4,
    )
    assert run_training(folder) == 0
    done = read_json(folder / "DONE") or {}
    assert 0 < done["step"] < 1000
    assert done["seconds"] <= 4.0
    assert done["stopped"].startswith(f"Stopped at step {done['step']}/1000: the ceiling of 4 s")
    assert read_results(folder)[-1]["valid_loss"]


@pytest.mark.slow
def test_a_run_stops_when_validation_gets_no_better_and_its_best_checkpoint_is_the_result(
    tiny_model_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    contrary = write_pairs(tmp_path / "valid.jsonl", 4, is_wrong=True)
    folder = make_dpo_job(
        tmp_path / "job", tiny_model_dir, pairs_file, contrary, n_epochs=20, patience=2, eval_steps=3
    )
    assert run_training(folder) == 0
    done = read_done(folder)
    assert done["step"] < 20
    assert done["stopped"].startswith(f"Stopped at step {done['step']}/100: 2 validations in a row had no")
    best = checkpoint_folder(folder, done["result_step"]) / "adapter_model.safetensors"
    assert adapter_bytes(folder) == best.read_bytes()


@pytest.mark.deep
def test_training_continues_from_a_tuned_model_which_is_the_reference(
    undisturbed: Path, tiny_model_dir: Path, pairs_file: Path, held_out: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, n_epochs=1, lora_dropout=0.0)
    folder = make_job(
        tmp_path / "job",
        tiny_model_dir,
        pairs_file,
        settings,
        validation=held_out,
        method="dpo",
        continues="ft:tiny",
    )
    shutil.copytree(undisturbed / "adapter", folder / "tuned")
    with pause_in_forward(
        folder, 6, is_training=True
    ):  # so that the resumed run must load the reference again
        assert run_training(folder) == PAUSED
    (folder / "PAUSED").unlink()
    assert run_training(folder) == 0
    first = read_results(folder)[0]
    assert float(first["train_loss"]) == pytest.approx(math.log(2), abs=1e-4)
    assert float(first["train_reward_margin"]) == pytest.approx(0, abs=1e-6)
    before, after = (
        load_file(each / "adapter" / "adapter_model.safetensors") for each in (undisturbed, folder)
    )
    assert before.keys() == after.keys()
    assert read_done(folder)["trainable_parameters"] == read_done(undisturbed)["trainable_parameters"]
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    model = with_adapter(base, undisturbed)
    then = log_probabilities(model, tiny_model_dir, held_out)
    model.load_adapter(str(folder / "adapter"), adapter_name="after")
    model.set_adapter("after")
    now = log_probabilities(model, tiny_model_dir, held_out)
    margins = [0.1 * ((a - c) - (b - d)) for (a, b), (c, d) in zip(now, then, strict=True)]
    assert float(read_results(folder)[-1]["valid_reward_margin"]) == pytest.approx(
        sum(margins) / 10, rel=1e-2, abs=1e-4
    )


def test_supervised_training_continues_from_a_tuned_model_too(
    undisturbed: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    chats = write_ticket_rows(tmp_path / "train.jsonl", 8)
    settings = replace(SETTINGS, n_epochs=1, learning_rate=1e-9, eval_steps=None)
    folder = make_job(tmp_path / "job", tiny_model_dir, chats, settings, continues="ft:tiny")
    shutil.copytree(undisturbed / "adapter", folder / "tuned")
    assert run_training(folder) == 0
    before, after = (
        load_file(each / "adapter" / "adapter_model.safetensors") for each in (undisturbed, folder)
    )
    assert all(torch.allclose(before[name], after[name], atol=1e-7) for name in before)


def test_a_tuned_model_with_other_target_modules_cannot_be_continued(
    undisturbed: Path, tiny_model_dir: Path, pairs_file: Path, tmp_path: Path
) -> None:
    folder = make_job(
        tmp_path / "job", tiny_model_dir, pairs_file, SETTINGS, method="dpo", continues="ft:tiny"
    )
    shutil.copytree(undisturbed / "adapter", folder / "tuned")
    config = json.loads((folder / "tuned" / "adapter_config.json").read_text())
    (folder / "tuned" / "adapter_config.json").write_text(
        json.dumps({**config, "target_modules": ["q_proj"]})
    )
    assert failure_of(folder)["code"] == "tuned_model_unfit"
