"""Early stopping on our trainer: validation rows are set aside, the holdout stays unseen, a pause is shown."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from bot.rules.plans import plan_from_json
from tests.bot.own_trainer import assert_trains_on, own
from tests.bot.own_trainer import sleeping_trainer as sleeping_trainer
from tests.bot.world import START, MakeWorld, Rules, World
from tests.local.trainer_server import TrainerServer, examples, wait_for
from trainers.dataset.splits import split_validation

LOCAL = "/finetune start tickets target=local/tiny"


def test_early_stopping_sets_validation_rows_aside_and_a_pause_is_shown(
    make_world: MakeWorld, sleeping_trainer: TrainerServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.local.jobs.job_queue.PAUSE_S", 0.2)
    world = make_world(Rules(more=own(sleeping_trainer.url, "0")))
    world.seed_dataset(rows=240)
    assert world.type(f"{LOCAL} patience=2") == ""
    world.send()
    card = world.plan_details()
    stop = plan_from_json(world.run().plan).stopping
    assert stop is not None
    assert (
        f"{stop.n_fitted} to train on, {stop.n_validation} to decide when to stop (after 2 validations"
        in card
    )
    world.approve()
    world.tick_until_state("training")
    with sleeping_trainer.client() as client:
        job = client.fine_tuning.jobs.retrieve(str(world.run().job_id))
        assert (job.hyperparameters.model_extra or {})["patience"] == 2
        assert_trains_on(client, job, stop)
        wait_for(lambda: client.fine_tuning.jobs.retrieve(job.id).status, lambda status: status == "running")
        client.fine_tuning.jobs.pause(job.id)
        world.tick_until(lambda: "once somebody resumes it" in (world.run().progress or ""), "the pause")
        assert "its place on the machine is free" in str(world.run().progress)
        client.fine_tuning.jobs.resume(job.id)
        world.tick_until(
            lambda: "once somebody resumes it" not in (world.run().progress or ""), "the end of the pause"
        )
        client.fine_tuning.jobs.cancel(job.id)
        world.tick_until_state("cancelled")


def test_patience_is_refused_by_a_trainer_that_cannot_stop_early(world: World) -> None:
    world.seed_dataset()
    assert "needs a trainer that can stop early, and Acme Tuning can't" in world.type(f"{START} patience=2")
    assert world.store.runs.newest(1) == []
    assert "should be a whole number from 1 to 20" in world.type(f"{START} patience=0")


def test_validation_rows_are_the_same_each_time_and_share_no_question_with_the_rest(tmp_path: Path) -> None:
    rows = examples(300).splitlines()
    content = b"".join(row + b"\n" for row in [*rows, *rows[:50]])  # 50 questions occur twice
    train = hashlib.sha256(content).hexdigest()
    (tmp_path / f"{train}.jsonl").write_bytes(content)
    split = split_validation(tmp_path, train, seed=1)
    assert split is not None
    assert split == split_validation(tmp_path, train, seed=1) != split_validation(tmp_path, train, seed=2)
    fitted, validation = (
        (tmp_path / f"{name}.jsonl").read_bytes().splitlines()
        for name in (split.fitted_sha256, split.validation_sha256)
    )
    assert (len(fitted), len(validation)) == (split.n_fitted, split.n_validation)
    assert 35 <= len(validation) <= 36  # a tenth, and perhaps the repetition of the last one drawn
    assert not set(fitted) & set(validation)
    assert sorted([*fitted, *validation]) == sorted([*rows, *rows[:50]])


def test_fewer_than_100_rows_give_no_validation_rows(tmp_path: Path) -> None:
    (tmp_path / "few.jsonl").write_bytes(examples(99))
    assert split_validation(tmp_path, "few", seed=1) is None
