"""A job that Tinker trains: the real package against a stand-in of its HTTP API, with kills."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
from safetensors.torch import load_file

from tests.local.engines.tinker_peer import KEY, ROOT, TinkerPeer, install, start_peer
from tests.local.trainer_server import examples, serve_in_thread, upload, wait_for
from trainers.local.engines.attempt import EngineCrashed
from trainers.local.engines.catalog import TINKER
from trainers.local.engines.vendor_jobs import delete_at_vendor
from trainers.local.engines.vendor_runner import train_hosted
from trainers.local.job_directory import TrainingJob, read_events, read_job, read_json, write_job
from trainers.local.training.errors import TrainingFailed
from trainers.methods import HOSTED_BASE, Parameters

pytestmark = pytest.mark.deep
BASE = "Qwen/Qwen3-8B"
STEPS = 12  # 2 epochs of 6 steps


@pytest.fixture
def peer(tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TinkerPeer]:
    with start_peer(tmp_path / "peer", tiny_model_dir, 8, monkeypatch) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path, tiny_model_dir: Path) -> Path:
    install(tmp_path / "engines")
    (tmp_path / "train.jsonl").write_bytes(examples(24))
    job = TrainingJob(
        id="ftjob-1",
        base=str(tiny_model_dir),
        base_name="local/tiny",
        training_file=str(tmp_path / "train.jsonl"),
        validation_file=None,
        seed=3,
        settings=Parameters(n_epochs=2, batch_size=4, lora_r=8, lora_alpha=16, engine="tinker"),
        suffix=None,
        metadata={HOSTED_BASE: BASE},
        created_at=1,
    )
    write_job(tmp_path / "jobs" / "ftjob-1", job)
    return tmp_path / "jobs" / "ftjob-1"


def train(folder: Path) -> None:
    train_hosted(TINKER, folder, read_job(folder))


def change(folder: Path, **changes: Any) -> None:
    write_job(folder, replace(read_job(folder), **changes))


def kill_once(folder: Path, is_reached: Callable[[], bool]) -> None:
    """Trains in a process of its own and kills it, with all that it has started, once `is_reached`."""
    command = [sys.executable, "-m", "trainers.local.train", str(folder)]
    with (folder / "train.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_for(is_reached, bool, 120)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def losses(folder: Path) -> dict[int, float]:
    with (folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    by_step = {int(row["step"]): float(row["train_loss"]) for row in rows}
    assert len(by_step) == len(rows)
    return by_step


def messages(folder: Path) -> list[str]:
    return [event["message"] for event in read_events(folder)]


def done(folder: Path) -> dict[str, Any]:
    content = read_json(folder / "DONE")
    assert content is not None
    return content


def fail(folder: Path) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as caught:
        train(folder)
    return caught.value


def test_a_job_is_trained_and_its_adapter_comes_back(folder: Path, peer: TinkerPeer) -> None:
    train(folder)
    by_step = losses(folder)
    assert list(by_step) == list(range(1, STEPS + 1))
    assert by_step[1] == 3.0
    assert sorted(by_step.values(), reverse=True) == list(by_step.values())
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert weights
    assert read_json(folder / "adapter" / "adapter_config.json")["r"] == 8
    state = peer.state
    assert done(folder)["trained_tokens"] == state["trained"]
    assert done(folder)["step"] == STEPS
    [run] = state["runs"]
    assert (run["base"], run["rank"], run["metadata"]) == (BASE, 8, {"finetune_job": "ftjob-1"})
    # Nothing stays there once the adapter is here.
    assert run["checkpoints"] == []
    assert len(state["deleted"]) == 3  # two states and the export
    assert delete_at_vendor(folder) is None


def test_each_step_has_the_rate_and_decay_of_our_own_loop(folder: Path, peer: TinkerPeer) -> None:
    change(folder, settings=replace(read_job(folder).settings, learning_rate=0.01, weight_decay=0.1))
    train(folder)
    sent = peer.state["optimizer"]
    rates = [step["learning_rate"] for step in sent]
    assert rates[0] == pytest.approx(0.01)  # one step of warm-up
    assert rates[-1] == pytest.approx(0.01 / 12)
    assert {(step["beta2"], step["eps"], step["weight_decay"], step["grad_clip_norm"]) for step in sent} == {
        (0.999, 1e-8, 0.1, 1.0)
    }


def test_the_key_is_in_no_file_of_the_job(folder: Path, peer: TinkerPeer) -> None:
    train(folder)
    texts = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert len(texts) > 10
    assert not any(KEY.encode() in text for text in texts)


def test_a_create_whose_answer_is_lost_makes_no_second_run(folder: Path, peer: TinkerPeer) -> None:
    peer.break_down(lose=["/create_model"])
    kill_once(folder, lambda: bool(peer.state["runs"]))
    peer.break_down()
    train(folder)
    [run] = peer.state["runs"]
    assert run["steps"] == STEPS
    assert done(folder)["trained_tokens"] == peer.state["trained"]


def test_a_run_that_ended_with_its_session_is_replaced(folder: Path, peer: TinkerPeer) -> None:
    peer.break_down(lose=["/create_model"])
    kill_once(folder, lambda: bool(peer.state["runs"]))
    peer.break_down(gone=[run["id"] for run in peer.state["runs"]])
    train(folder)
    assert [run["steps"] for run in peer.state["runs"]] == [0, STEPS]


def test_without_credit_the_job_waits_and_says_so(folder: Path, peer: TinkerPeer) -> None:
    peer.break_down(refuse={"/forward_backward": 402})
    command = [sys.executable, "-m", "trainers.local.train", str(folder)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        warning = "tinker has stopped for billing: add credit to the account, and the job goes on by itself."
        wait_for(lambda: warning in messages(folder), bool, 120)
        peer.break_down()
        assert process.wait(120) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert messages(folder).count(warning) == 1
    assert done(folder)["step"] == STEPS


def test_a_kill_within_a_step_goes_on_from_the_newest_state(folder: Path, peer: TinkerPeer) -> None:
    kill_once(folder, lambda: any(run["steps"] >= 6 and run["checkpoints"] for run in peer.state["runs"]))
    peer.break_down(lose=["/optim_step"])
    kill_once(folder, lambda: any(run["steps"] > 6 for run in peer.state["runs"]))
    peer.break_down()
    train(folder)
    by_step = losses(folder)
    assert list(by_step) == list(range(1, STEPS + 1))
    assert sorted(by_step.values(), reverse=True) == list(by_step.values())
    assert peer.state["runs"][-1]["steps"] == STEPS
    assert "Resuming from the state of step 6/12" in messages(folder)
    # What was sent twice is billed twice.
    assert done(folder)["trained_tokens"] == peer.state["trained"]


def test_a_state_whose_answer_is_lost_is_found_and_nothing_is_trained_twice(
    folder: Path, peer: TinkerPeer
) -> None:
    peer.break_down(lose=["/save_weights"])
    kill_once(folder, lambda: any(run["checkpoints"] for run in peer.state["runs"]))
    peer.break_down()
    train(folder)
    assert list(losses(folder)) == list(range(1, STEPS + 1))
    assert len(peer.state["optimizer"]) == STEPS
    assert read_json(folder / "engine" / "output" / "checkpoint-6" / "state.json")["step"] == 6


def test_an_export_that_was_cut_off_is_repeated_without_training(folder: Path, peer: TinkerPeer) -> None:
    peer.break_down(lose=["/save_weights_external"])
    kill_once(
        folder, lambda: any("external_weights/result" in run["checkpoints"] for run in peer.state["runs"])
    )
    peer.break_down()
    train(folder)
    assert len(peer.state["optimizer"]) == STEPS
    assert (folder / "adapter" / "adapter_model.safetensors").exists()
    assert done(folder)["trained_tokens"] == peer.state["trained"]
    assert all(run["checkpoints"] == [] for run in peer.state["runs"])


def test_states_that_could_not_be_deleted_are_deleted_with_the_job(folder: Path, peer: TinkerPeer) -> None:
    peer.break_down(refuse={"/training_runs/": 403})
    train(folder)
    [warning] = [event["message"] for event in read_events(folder) if event["level"] == "warn"]
    assert "could not be deleted at tinker" in warning
    assert "deleting the job tries again" in warning
    assert "could not be deleted" in str(delete_at_vendor(folder))
    peer.break_down()
    assert delete_at_vendor(folder) is None
    assert all(run["checkpoints"] == [] for run in peer.state["runs"])


def test_a_job_is_cancelled_between_steps_and_its_states_are_deleted_with_it(
    tmp_path: Path, tiny_model_dir: Path, peer: TinkerPeer
) -> None:
    install(tmp_path / "trainer" / "engines")
    peer.break_down(lose=["/save_weights"])
    command = (sys.executable, "-m", "trainers.local.train")
    with (
        serve_in_thread(tmp_path / "trainer", {"tiny": str(tiny_model_dir)}, command) as served,
        served.client() as client,
    ):
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=upload(client, examples(24)),
            metadata={HOSTED_BASE: BASE},
            extra_body={"hyperparameters": {"engine": "tinker", "n_epochs": 2, "batch_size": 4}},
        )
        wait_for(lambda: any(run["checkpoints"] for run in peer.state["runs"]), bool, 120)
        assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
        trained = peer.state["trained"]
        peer.break_down(refuse={"/training_runs/": 403})
        with pytest.raises(openai.APIStatusError, match="could not be deleted"):
            client.delete(f"/fine_tuning/jobs/{job.id}", cast_to=object, options={"max_retries": 0})
        peer.break_down()
        client.delete(f"/fine_tuning/jobs/{job.id}", cast_to=object)
    assert all(run["checkpoints"] == [] for run in peer.state["runs"])
    assert peer.state["trained"] == trained


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"metadata": {HOSTED_BASE: "acme/own"}}, "Tinker doesn't train acme/own. It trains Qwen/Qwen3-8B"),
        ({"metadata": {}}, "its name at Tinker is unknown"),
        ({"validation_file": "valid.jsonl"}, "no validations"),
        ({"settings": Parameters(engine="tinker", lora_r=64, lora_alpha=128)}, "rank 64 is above 32"),
        ({"settings": Parameters(engine="tinker", lora_dropout=0.1)}, "does not support lora_dropout"),
        ({"settings": Parameters(engine="tinker", max_seconds=60)}, "does not support max_seconds"),
    ],
)
def test_what_tinker_cant_train_is_refused_before_rows_are_sent(
    folder: Path, peer: TinkerPeer, changes: dict[str, Any], sentence: str
) -> None:
    change(folder, **changes)
    assert sentence in fail(folder).message
    assert "POST /forward_backward" not in peer.state["calls"]


def test_a_refusal_of_a_step_ends_the_job_with_the_vendors_words(folder: Path, peer: TinkerPeer) -> None:
    peer.break_down(refuse={"/forward_backward": 400})
    assert "refused, as the test wants it" in fail(folder).message


def test_a_run_that_ends_while_it_trains_only_ends_the_attempt(folder: Path, peer: TinkerPeer) -> None:
    peer.break_down(refuse={"/save_weights": 410})
    with pytest.raises(EngineCrashed, match="tinker ended with exit code 1"):
        train(folder)
    peer.break_down()
    train(folder)
    assert list(losses(folder)) == list(range(1, STEPS + 1))
    assert peer.state["runs"][-1]["steps"] == STEPS


def test_a_wrong_key_is_named_without_being_quoted(
    folder: Path, peer: TinkerPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-wrong")
    message = fail(folder).message
    assert "Tinker refused the job" in message
    assert "tml-wrong" not in message + json.dumps(messages(folder))


def test_without_a_key_nothing_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    assert "set TINKER_API_KEY in the trainer's environment" in fail(folder).message
