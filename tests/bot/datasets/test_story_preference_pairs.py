"""Preference pairs from the upload to an evaluated model: what is stored, sent, shown and deleted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from bot.rules.plans import plan_from_json
from bot.services.datasets import datasets
from bot.values.runs import RunResult
from demo.people import BEN
from tests.bot import canaries
from tests.bot.datasets.test_story_deletion import delete
from tests.bot.datasets.test_story_row_deletion import delete_lines, is_erased, report_of
from tests.bot.own_trainer import assert_trains_on, own, train_to_the_end
from tests.bot.own_trainer import sleeping_trainer as sleeping_trainer
from tests.bot.props import LABELS
from tests.bot.world import DORA, START, MakeWorld, Rules, World
from tests.local.conftest import tiny_model_dir  # noqa: F401 - a fixture
from tests.local.trainer_server import KEY, TrainerServer, serve_in_process
from trainers.dataset import Report

LOCAL = "/finetune start tickets target=local/tiny method=dpo epochs=1"
REJECTED = "quuxkestrel"
WORD = {"a rejected answer's word": REJECTED}


def pair(number: int, rejected: str = REJECTED) -> dict[str, Any]:
    label = LABELS[number % 3]
    question = f"Order {number * 37}: a question about {label}, and {number} more words"
    return {
        "input": {"messages": [{"role": "user", "content": question}]},
        "preferred_output": [{"role": "assistant", "content": label}],
        "non_preferred_output": [{"role": "assistant", "content": f"{rejected} of {number}."}],
    }


def pairs_jsonl(rows: int = 60, **others: str) -> str:
    """`others` are the rejected answers of single rows, as `row_NUMBER`."""
    return "\n".join(json.dumps(pair(n, others.get(f"row_{n}", REJECTED))) for n in range(rows))


def upload(world: World, content: str) -> Report:
    ready = world.upload_and_check(content, file="pairs.jsonl")
    assert ready.state == "ready", ready.refusal
    return report_of(ready)


@pytest.fixture
def trains_by_dpo(world: World) -> World:
    world.abilities += ', "dpo"'
    world.restart()
    return world


def stored(world: World, sha: str | None) -> str:
    return (world.service.settings.files / f"{sha}.jsonl").read_text()


def held_out_rejected(world: World, report: Report) -> list[str]:
    """The rejected answers of the held-out rows."""
    trained = stored(world, report.pairs_sha256)
    answers = [f"{REJECTED} of {number}." for number in range(report.rows)]
    return [answer for answer in answers if f'"{answer}"' not in trained]


@pytest.mark.deep
def test_a_dpo_run_sends_only_training_pairs_and_deleting_its_dataset_erases_them(
    trains_by_dpo: World,
) -> None:
    world = trains_by_dpo
    report = upload(world, pairs_jsonl())
    assert "trains on both answers" in world.find_message("tickets is readable", "method=dpo")
    assert report.pairs is not None
    assert (report.n_train, report.n_holdout, report.pairs.pairs) == (42, 18, 60)
    world.provider.service.stages = ("running",) * 3 + ("succeeded",)
    world.provider.service.results_csv = (
        "step,train_loss,train_reward_accuracy,train_reward_margin\n1,0.69,0,0\n2,0.4,0.75,1.5\n"
    )
    world.start(f"{START} method=dpo beta=0.2")
    assert "method dpo" in world.plan_details()
    plan = plan_from_json(world.run().plan)
    assert (plan.method, plan.train_sha256) == ("dpo", report.pairs_sha256)
    assert dict(plan.hyperparameters)["beta"] == 0.2
    assert plan.training_tokens == pytest.approx(84 * report.pairs.longer.mean * 3, rel=0.01)
    world.approve()
    world.tick_until_state("training")
    (create,) = [sent for sent in world.provider.requests if sent.route == "POST /fine_tuning/jobs"]
    assert create.body["method"] == {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 3}}}
    (file,) = world.provider.service.files.values()
    assert file.name == f"{report.pairs_sha256}.jsonl" and REJECTED in str(file.content)

    world.tick_until_state("done")
    result = RunResult.from_json(str(world.run().result))
    assert (result.tuned.correct, result.tuned.n) == (18, 18), "the preferred answer is the right one"
    assert result.preference_curve == ((1, 0.0), (2, 0.75))
    world.tick_until_file("reward-margin.png")
    assert {"loss.png", "preference-accuracy.png"} <= set(world.files())
    held_out = {f"held {number}": text for number, text in enumerate(held_out_rejected(world, report))}
    assert len(held_out) == 18
    requests = str([sent.body for sent in world.provider.requests])
    assert canaries.in_text(requests + str(file.content), held_out) == set()
    assert canaries.in_text("\n".join(world.texts()), WORD) == set(), "nothing of them is shown in Slack"
    assert world.files_at_provider() == []

    data = world.service.settings.data
    assert {name for _, name in canaries.in_files(data.rglob("*"), WORD)} == set(WORD)
    assert delete(world, DORA).accepted
    world.tick_until(lambda: not world.store.deletions.open(), "the end of the deletion")
    assert canaries.in_files(data.rglob("*"), WORD) == set()
    assert canaries.in_database(world.service.settings.database, WORD) == set()


def test_without_dpo_pairs_train_on_the_preferred_answers_only(world: World) -> None:
    report = upload(world, pairs_jsonl())
    refusal = world.type(f"{START} method=dpo")
    assert "which Acme Tuning does not" in refusal and "`local/`" in refusal
    world.seed_dataset(called="chats")
    refusal = world.type("/finetune start chats target=local/smollm2-135m method=dpo")
    assert "`chats` have one answer each" in refusal and "non_preferred_output" in refusal
    assert world.store.runs.newest(1) == []
    world.start(START)
    assert "trains only on the preferred answers" in world.find_message("preference pairs", "Cost")
    assert plan_from_json(world.run().plan).train_sha256 == report.train_sha256
    assert REJECTED not in stored(world, report.train_sha256) + stored(world, report.holdout_sha256)


@pytest.mark.deep
def test_rejected_answers_are_scanned_before_they_may_leave(make_world: MakeWorld) -> None:
    world = make_world(Rules(provider_is_remote=True))
    world.abilities += ', "dpo"'
    world.restart()
    mails = {f"row_{n}": "Write to anna.quux@quux-mail.org" for n in range(0, 60, 3)}
    report = upload(world, pairs_jsonl(60, **mails))
    scans = datasets.scans_of(world.service.context, report)
    assert scans is not None
    assert {scan.sha256 for scan in scans} == set(report.stored_files) and len(scans) == 3
    assert [bool(scan.personal) for scan in scans] == [False, False, True]
    assert "approver" in world.type(f"{START} method=dpo")
    assert world.store.runs.newest(1) == []
    secret = world.upload_and_check(pairs_jsonl(row_1="My key is sk-proj-" + "a1B2" * 12), file="pairs.jsonl")
    assert secret.state == "refused"


@pytest.mark.deep
def test_rows_are_deleted_with_their_rejected_answers_and_the_others_stay_pairs(world: World) -> None:
    report = upload(world, pairs_jsonl())
    held_out = {int(answer[:-1].rpartition(" ")[2]) for answer in held_out_rejected(world, report)}
    rows = [min(held_out), min(set(range(60)) - held_out)]
    upload(world, pairs_jsonl(60, **{f"row_{number}": "quuxnightjar" for number in rows}))
    assert "deleted" in delete_lines(world, rows[0] + 1, also=(rows[1] + 1,))
    after = report_of(world.dataset())
    assert after.pairs is not None and after.pairs.pairs == 58
    assert (after.n_train, after.n_holdout) == (41, 17)
    assert is_erased(world)
    assert len(stored(world, after.pairs_sha256).splitlines()) == after.n_train


@pytest.mark.deep
def test_a_row_is_deleted_from_a_file_that_was_converted_to_be_read(world: World) -> None:
    pairs = [pair(number, "quuxnightjar" if number == 7 else REJECTED) for number in range(60)]
    ready = world.upload_and_check(json.dumps(pairs, indent=2), file="pairs.json")
    assert ready.state == "ready", ready.refusal
    assert "is deleted" in delete_lines(world, 8)
    after = report_of(world.dataset())
    assert after.pairs is not None and after.pairs.pairs == 59 and is_erased(world)


@pytest.mark.deep
def test_our_trainer_gets_pairs_and_validation_pairs_for_early_stopping(
    make_world: MakeWorld, sleeping_trainer: TrainerServer
) -> None:
    world = make_world(Rules(more=own(sleeping_trainer.url, "0")))
    upload(world, pairs_jsonl(200))
    assert world.type(f"{LOCAL} patience=2") == ""
    world.send()
    stopping = plan_from_json(world.run().plan).stopping
    assert stopping is not None
    world.approve(BEN)
    world.tick_until_state("training")
    with openai.OpenAI(base_url=sleeping_trainer.url, api_key=KEY) as client:
        job = client.fine_tuning.jobs.retrieve(str(world.run().job_id))
        assert job.method is not None and str(job.method.type) == "dpo"
        assert_trains_on(client, job, stopping)
        assert REJECTED in stored(world, stopping.validation_sha256)
        client.fine_tuning.jobs.cancel(job.id)
        world.tick_until_state("cancelled")


@pytest.mark.slow
def test_a_real_dpo_run_goes_on_from_a_tuned_model(
    make_world: MakeWorld,
    tmp_path: Path,
    tiny_model_dir: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FINETUNE_TRAINER_KEY", KEY)
    with serve_in_process(tmp_path / "trainer", f"tiny={tiny_model_dir}") as served:
        world = make_world(Rules(more=own(served.url, "0")))
        upload(world, pairs_jsonl(90))
        first = train_to_the_end(world, LOCAL.replace(" method=dpo", " lora_r=4"))
        assert first.before == "base"
        result = train_to_the_end(world, LOCAL.replace("local/tiny", "tickets-1"))
        assert result.steps > 0 and result.tuned.n == plan_from_json(world.newest_run().plan).n_holdout > 10
        assert (result.before, result.base.correct) == ("start", first.tuned.correct)
        assert dict(plan_from_json(world.newest_run().plan).hyperparameters)["lora_r"] == 4, "the adapter's"
        with openai.OpenAI(base_url=served.url, api_key=KEY) as client:
            job = client.fine_tuning.jobs.retrieve(str(world.newest_run().job_id))
            tuned = world.store.model("tickets-1")
            assert tuned is not None and job.model == tuned.provider_model
        refusal = world.type(LOCAL.replace("local/tiny", "tickets-1") + " lora_r=8")
        assert "`tickets-1` has `lora_r=4`, which training it further can't change" in refusal
