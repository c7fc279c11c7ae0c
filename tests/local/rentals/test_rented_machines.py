"""Jobs on rented machines: our trainer against a fake Hugging Face, whose machines are processes here."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
import openai
import pytest
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

from tests.local.trainer_server import (
    TrainerServer,
    close,
    examples,
    ready_url,
    serve_in_process,
    serve_in_thread,
    start_process,
    wait_for,
    wait_for_status,
)
from tests.peers.hf_jobs import ACCOUNT, TOKEN, HfPeer, PeerJob, hf_jobs
from trainers.errors import Refused
from trainers.local.job_directory import read_job
from trainers.local.rentals import backend as rented_backend
from trainers.local.rentals.machines import Machine, Machines, RentingOptions
from trainers.rentals.prices import fetch_rental, hub_api, read_rental

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's
IMAGE = f"docker.io/acme/finetune@sha256:{'0' * 64}"
TERMS = {"hf_hardware": "t4-small", "hf_usd_per_minute": "0.006667", "hf_minutes": "30"}
MORE = ("--hf-image", IMAGE)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[HfPeer]:
    with hf_jobs() as peer:
        monkeypatch.setenv("HF_ENDPOINT", peer.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", peer.url)
        template = f"{peer.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield peer


@contextmanager
def trainer(folder: Path, base: Path, *options: str) -> Iterator[tuple[TrainerServer, openai.OpenAI]]:
    with (
        serve_in_process(folder, f"tiny={base}", more=(*MORE, *options)) as served,
        served.client() as client,
    ):
        yield served, client


def create(
    client: openai.OpenAI, metadata: dict[str, str] = TERMS, *, rows: int = 12, **settings: Any
) -> Any:
    file = client.files.create(file=("rows.jsonl", examples(rows)), purpose="fine-tune")
    return client.fine_tuning.jobs.create(
        model="tiny",
        training_file=file.id,
        metadata=metadata,
        extra_body={
            "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 1, **settings}}}
        },
    )


@pytest.mark.slow  # the bot's story trains there too
def test_a_job_is_trained_on_a_rented_machine_and_its_model_answers_here(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    with trainer(tmp_path, tiny_model_dir) as (_, client):
        job = create(client)
        ended = wait_for_status(client, job.id, "succeeded", "failed", seconds=75)
        assert ended.status == "succeeded", ended.error
        (machine,) = peer.jobs.values()
        assert machine.stage == "COMPLETED" and machine.seconds == ended.billed_seconds
        assert machine.spec["timeoutSeconds"] == 1800 and machine.spec["dockerImage"] == IMAGE
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
        assert any("8 rows went well" in message for message in messages), messages
        answer = client.chat.completions.create(
            model=ended.fine_tuned_model, messages=[{"role": "user", "content": "hello"}], max_tokens=4
        )
        assert answer.choices[0].message.content is not None
        wait_for(lambda: list(peer.repositories), lambda left: not left, seconds=60)
    assert peer.ever == {f"{ACCOUNT}/finetune-{job.id}"} and not peer.running


DONE = {
    "result/DONE": b'{"step": 3, "trained_tokens": 12, "seconds": 1}',
    "result/progress.json": b'{"step": 3, "total_steps": 3, "trained_tokens": 12, "estimated_finish": null}',
    "result/adapter/adapter_config.json": b'{"base_model_name_or_path": "/tmp/base"}',
    "result/job.json": b"{}",  # the server's own file, which no machine writes
}


@contextmanager
def trainer_here(folder: Path, base: Path, *, poll_s: float = 0.2, **options: Any) -> Iterator[openai.OpenAI]:
    with (
        pytest.MonkeyPatch.context() as patch,
        serve_in_thread(folder, {"tiny": str(base)}, rented=RentingOptions(IMAGE, **options)) as served,
        served.client() as client,
    ):
        patch.setattr(rented_backend, "POLL_S", poll_s)
        yield client


def refuse(status: int, text: str) -> Callable[[HfPeer], None]:
    return lambda peer: setattr(peer, "refusal", (status, text))


@pytest.mark.deep
@pytest.mark.parametrize(
    ("fault", "code", "advice"),
    [
        (refuse(402, "Payment required"), "hf_402", "add some at huggingface.co/settings/billing"),
        (refuse(403, "Forbidden"), "hf_403", "rights to start Jobs"),
        (lambda peer: peer.micro_usd.update({"t4-small": 6_700}), "price_rose", "ask for a new plan"),
        (lambda peer: peer.micro_usd.pop("t4-small"), "unknown_hardware", "one of cpu-basic"),
        (lambda peer: setattr(peer, "pull_error", "Failed to pull image"), "machine_failed", "can be pulled"),
        pytest.param(
            lambda peer: setattr(peer, "files", {}),
            "machine_failed",
            "without a result",
            marks=pytest.mark.slow,  # trains first
        ),
    ],
    ids=["no-credit", "no-right", "dearer", "no-such-hardware", "no-image", "no-result"],
)
def test_a_machine_that_cannot_start_fails_its_job_with_advice(
    fault: Callable[[HfPeer], None],
    code: str,
    advice: str,
    peer: HfPeer,
    tmp_path: Path,
    tiny_model_dir: Path,
) -> None:
    fault(peer)
    with trainer_here(tmp_path, tiny_model_dir) as client:
        ended = wait_for_status(client, create(client).id, "failed", seconds=30)
        assert ended.error.code == code and advice in ended.error.message
        assert ended.model_extra["billed_seconds"] == sum(machine.seconds for machine in peer.jobs.values())
        wait_for(lambda: list(peer.repositories), lambda left: not left)
    assert not peer.running and len(peer.jobs) == (code == "machine_failed")


@pytest.mark.deep
def test_a_machine_whose_start_got_no_answer_is_found_by_its_label(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    peer.lost_answers = 1
    peer.list_lag_s = 2.0
    peer.files = DONE
    with trainer_here(tmp_path, tiny_model_dir) as client:
        job = create(client)
        ended = wait_for_status(client, job.id, "succeeded", "failed", seconds=30)
        assert ended.status == "succeeded" and ended.trained_tokens == 12
    assert len(peer.jobs) == 1
    folder = tmp_path / "jobs" / job.id
    assert read_job(folder).base == str(tiny_model_dir)
    adapter = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == str(tiny_model_dir)


@pytest.mark.deep
def test_a_machine_listed_late_is_waited_for_and_billed_for_the_time_observed(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    peer.files = DONE
    peer.stub_s = 2.0
    peer.ran_s = 60.0
    peer.unseen_looks, peer.forgets_time = 3, True
    with trainer_here(tmp_path, tiny_model_dir) as client:
        ended = wait_for_status(client, create(client).id, "succeeded", "failed", seconds=30)
    assert ended.status == "succeeded" and ended.billed_seconds >= 60 and len(peer.jobs) == 1


@pytest.mark.deep
def test_cancelling_a_job_ends_its_machine_and_bills_its_seconds(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    peer.files, peer.stub_s = DONE, 60.0
    with trainer_here(tmp_path, tiny_model_dir) as client:
        job = create(client)
        billed = lambda: client.fine_tuning.jobs.retrieve(job.id).model_extra["billed_seconds"]  # noqa: E731
        wait_for_status(client, job.id, "running")
        wait_for(billed, lambda seconds: seconds >= 1)
        with pytest.raises(openai.BadRequestError, match="Cancel it instead"):
            client.fine_tuning.jobs.pause(job.id)
        ended: Any = client.fine_tuning.jobs.cancel(job.id)
        (machine,) = peer.jobs.values()
        assert ended.status == "cancelled" and machine.stage == "CANCELED"
        assert ended.billed_seconds == machine.seconds >= 1
        wait_for(lambda: list(peer.repositories), lambda left: not left)


@pytest.mark.deep
def test_a_machine_that_reaches_its_time_limit_fails_its_job_and_is_billed(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    peer.files = DONE
    peer.stub_s = 60.0
    peer.ran_s = 30 * 60 - 1.0
    with trainer_here(tmp_path, tiny_model_dir) as client:
        ended = wait_for_status(client, create(client).id, "failed", seconds=30)
        assert ended.error.code == "time_was_up" and "Raise [hf] minutes" in ended.error.message
    assert ended.billed_seconds == 30 * 60 and len(peer.jobs) == 1 and not peer.running


@pytest.mark.slow  # a machine imports PyTorch
def test_a_job_whose_first_steps_fail_is_not_trained_and_its_machine_ends(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    with trainer_here(tmp_path, tiny_model_dir) as client:
        ended = wait_for_status(
            client, create(client, target_modules="no_proj").id, "failed", "succeeded", seconds=75
        )
        assert ended.error.code == "smoke_failed", ended
        assert ended.error.message.startswith("The first steps, on 8 rows, failed: ")
        assert "no_proj" in ended.error.message
    (machine,) = peer.jobs.values()
    assert machine.stage == "ERROR" and ended.billed_seconds == machine.seconds and not ended.trained_tokens


@pytest.mark.deep
def test_the_repository_is_kept_on_request(peer: HfPeer, tmp_path: Path, tiny_model_dir: Path) -> None:
    peer.files = DONE
    with trainer_here(tmp_path, tiny_model_dir, keeps_files=True) as client:
        job = create(client)
        wait_for_status(client, job.id, "succeeded", seconds=30)
        record = tmp_path / "jobs" / job.id / "rented.json"
        wait_for(lambda: json.loads(record.read_text())["is_cleaned"], bool)
    assert list(peer.repositories) == [f"{ACCOUNT}/finetune-{job.id}"]


def test_hardware_with_several_gpus_is_refused(peer: HfPeer) -> None:
    peer.micro_usd["t4-mediumx4"] = 20_000
    with pytest.raises(Refused, match=r"has 4 GPUs\. A job uses one GPU, billed by the minute"):
        fetch_rental("t4-mediumx4", 30)


def test_a_second_client_keeps_the_first_ones_connections_open(peer: HfPeer) -> None:
    hub_api()
    session = get_session()
    hub_api()
    assert get_session() is session and not session.is_closed


CHECKPOINT = {"resume/checkpoints/step-000002/state.pt": b"1"}


@pytest.mark.deep
@pytest.mark.parametrize(("losses", "status"), [(1, "succeeded"), (3, "failed")])
def test_a_lost_machine_is_replaced_within_the_remaining_time(
    losses: int, status: str, peer: HfPeer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    peer.files = DONE
    peer.checkpoint = CHECKPOINT
    peer.stub_s = 0.5
    peer.ran_s = 500.0
    peer.losses = losses
    with trainer_here(tmp_path, tiny_model_dir) as client:
        job = create(client)
        ended = wait_for_status(client, job.id, "succeeded", "failed", seconds=30)
        assert ended.status == status
        texts = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    machines = list(peer.jobs.values())
    assert ended.billed_seconds == sum(machine.seconds for machine in machines) <= 30 * 60
    limits = [machine.spec["timeoutSeconds"] for machine in machines]
    assert limits[0] == 1800 and limits[1] == 1800 - machines[0].seconds
    assert int(machines[1].spec["environment"]["FINETUNE_SECONDS"]) == limits[1]
    assert any("lost the machine (Node is gone). Another one continues" in text for text in texts), texts
    assert not peer.running and len(machines) == min(losses + 1, 3)


@pytest.mark.slow  # trains on two machines
def test_training_resumes_from_the_checkpoint_of_a_lost_machine(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Checkpoints are uploaded every 15 seconds, and the job has far more steps than 45 seconds allow."""
    few_minutes = {**TERMS, "hf_minutes": "3"}
    with trainer_here(tmp_path, tiny_model_dir) as client:
        job = create(client, few_minutes, rows=400, n_epochs=50, batch_size=1, max_seconds=45)
        (repository,) = wait_for(lambda: list(peer.repositories.values()), bool, seconds=30)
        has_checkpoint = lambda: any(path.startswith("resume/") for path in repository.commits[-1][1])  # noqa: E731
        wait_for(has_checkpoint, bool, seconds=90)
        peer.end(peer.running[0], "ERROR", "Node is gone")
        ended = wait_for_status(client, job.id, "succeeded", "failed", seconds=120)
        assert ended.status == "succeeded", ended.error
        texts = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
    assert any(text.startswith("Resuming from the checkpoint of step") for text in texts), texts
    assert len(peer.jobs) == 2 and len({*texts}) > 5
    assert len([text for text in texts if "8 rows went well" in text]) == 1


@pytest.mark.slow  # trains twice
def test_a_job_whose_repository_or_machine_disappears_fails(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rented_backend, "SETTLE_S", 5.0)
    peer.files, peer.stub_s = DONE, 2.0
    with trainer_here(tmp_path, tiny_model_dir) as client:
        job = create(client)
        wait_for_status(client, job.id, "running")
        peer.repositories.clear()
        ended = wait_for_status(client, job.id, "failed", seconds=30)
        assert ended.error.code == "hf_404" and "fetching a job's result" in ended.error.message
        job = create(client)
        wait_for_status(client, job.id, "running")
        peer.jobs.clear()
        ended = wait_for_status(client, job.id, "failed", seconds=rented_backend.SETTLE_S + 30)
        assert ended.error.code == "hf_404" and "asking for a machine" in ended.error.message


@pytest.mark.deep
def test_a_job_whose_hardware_stays_sold_out_fails(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.schedule_s = 3600.0
    with trainer_here(tmp_path, tiny_model_dir, wait_minutes=0) as client:
        ended = wait_for_status(client, create(client).id, "failed", seconds=30)
        assert ended.error.code == "hardware_sold_out" and "no t4-small free" in ended.error.message
        assert ended.billed_seconds == 0
    assert not peer.running


@pytest.mark.deep
def test_a_waiting_machine_is_polled_only_every_few_seconds_and_one_404_is_not_its_end(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rented_backend, "SETTLE_S", 1.0)
    peer.schedule_s, polled = 3600.0, []
    get = Machines.get

    def get_with_one_404(machines: Machines, machine_id: str) -> Machine:
        polled.append(time.monotonic())
        if len(polled) == 2:
            raise Refused("asking for a machine: HTTP 404", code=rented_backend.NOT_FOUND, status=404)
        return get(machines, machine_id)

    monkeypatch.setattr(Machines, "get", get_with_one_404)
    with trainer_here(tmp_path, tiny_model_dir, poll_s=rented_backend.POLL_S) as client:
        job = create(client)
        wait_for(lambda: polled, lambda times: times and time.monotonic() - times[0] > 8.0, seconds=30)
        assert client.fine_tuning.jobs.retrieve(job.id).status != "failed"
    assert 2 <= len(polled) <= 5, [round(at - polled[0], 1) for at in polled]


@pytest.mark.deep
def test_a_trainer_killed_repeatedly_rents_one_machine_per_job_and_leaves_none_running(
    peer: HfPeer, tmp_path: Path, tiny_model_dir: Path
) -> None:
    peer.files = DONE
    peer.stub_s = 2.0
    peer.schedule_s = 1.0
    peer.list_lag_s = 0.5
    ids: list[str] = []
    pauses = (0.0, 0.4, 1.0, 1.7)  # before, during and after the start of a machine
    for pause_s in pauses:
        process = start_process(tmp_path, f"tiny={tiny_model_dir}", more=MORE)
        try:
            with TrainerServer(ready_url(process), process).client() as client:
                ids.append(create(client).id)
                time.sleep(pause_s)
                if pause_s == pauses[-1]:  # a busy computer may have started none in all that time
                    wait_for(lambda: list(peer.jobs), bool)
        finally:
            process.kill()
            process.wait()
            close(process)
    orphan = PeerJob(
        "orphan", next(iter(peer.jobs.values())).spec, time.time() - 9, 6_667, "RUNNING", started=1.0
    )
    orphan.spec = {**orphan.spec, "labels": {**orphan.spec["labels"], "finetune-job": "ftjob-unknown"}}
    peer.jobs[orphan.id] = orphan
    with trainer_here(tmp_path, tiny_model_dir) as client:
        for job_id in ids:
            assert wait_for_status(client, job_id, "succeeded", "failed", seconds=240).status == "succeeded"
        wait_for(lambda: (peer.running, list(peer.repositories)), lambda left: left == ([], []))
    started = [job.spec["labels"]["finetune-job"] for job in peer.jobs.values() if job is not orphan]
    assert sorted(started) == sorted(ids) and orphan.stage == "CANCELED"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"hf_usd_per_minute": "NaN"}, "numbers above 0"),
        ({"hf_usd_per_minute": "cheap"}, "numbers above 0"),
        ({"hf_minutes": "-5"}, "numbers above 0"),
        ({"hf_minutes": None}, "given together"),
    ],
)
def test_invalid_rental_terms_are_refused(changes: dict[str, str | None], reason: str) -> None:
    terms = {name: value for name, value in {**TERMS, **changes}.items() if value is not None}
    with pytest.raises(ValueError, match=reason):
        read_rental(terms)
