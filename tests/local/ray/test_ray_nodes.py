"""A job over several nodes, without a real Ray: what is submitted, when it runs, and what is refused."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest

from tests.local.api.test_server_process import refuse_to_start
from tests.local.trainer_server import TrainerServer, serve_in_thread, upload, wait_for, wait_for_status
from tests.peers.ray_head import Head, ray_head
from trainers.local.jobs.backends import backend_refusal
from trainers.local.launch import Meeting, add_meeting, read_meeting, train_command
from trainers.local.ray import backend, wait_events
from trainers.local.ray.backend import RayBackend, RayOptions
from trainers.local.ray.head import RayHead
from trainers.local.ray.launcher import find_interface
from trainers.local.ray.wait_events import Machines, Need, why_waiting
from trainers.methods import DpoParameters, Parameters

BIG = {"CPU": 8.0, "GPU": 4.0}


@contextmanager
def trainer(data: Path, head: Head) -> Iterator[TrainerServer]:
    """Its jobs take 4 GPUs on each of two nodes."""
    options = RayOptions(head.address, None, python="/opt/our python", gpus=8, nodes=2)
    with serve_in_thread(data, {"local/toy": "/nowhere"}, ray=options, slots=4) as served:
        yield served


def messages(client: openai.OpenAI, job_id: str) -> list[str]:
    """Oldest first."""
    return [event.message for event in client.fine_tuning.jobs.list_events(job_id, limit=100)][::-1]


def create(client: openai.OpenAI) -> str:
    return client.fine_tuning.jobs.create(model="local/toy", training_file=upload(client)).id


def test_one_submission_requests_both_nodes_and_no_gpu_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "POLL_S", 0.05)
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        head.nodes = [BIG, BIG]
        job_id = create(client)
        wait_for(lambda: head.bodies, bool)
        (body,) = head.bodies
        client.fine_tuning.jobs.cancel(job_id)
    assert body["entrypoint"] == (
        "exec '/opt/our python' -m trainers.local.ray.launcher --nodes 2 --gpus 4 "
        f"--python '/opt/our python' --name {job_id}-1"
    )
    assert not {"entrypoint_num_cpus", "entrypoint_num_gpus"} & body.keys()
    assert body["runtime_env"]["env_vars"]["FINETUNE_PROCESSES"] == "4"


def test_a_job_is_queued_until_it_has_its_nodes_and_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "POLL_S", 0.05)
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        head.nodes = [BIG, BIG]
        first, second = create(client), create(client)
        wait_for(lambda: head.bodies, lambda bodies: len(bodies) == 2)
        assert head.jobs[f"{first}-1"]["status"] == "RUNNING"
        assert client.fine_tuning.jobs.retrieve(first).status == "queued"
        head.placed.append(f"{first}-1")
        wait_for_status(client, first, "running")
        assert client.fine_tuning.jobs.retrieve(second).status == "queued"
        for job_id in (second, first):
            assert client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
        wait_for(lambda: head.stops, lambda stops: set(stops) == {f"{first}-1", f"{second}-1"})


def test_events_report_a_cluster_that_shrinks_while_a_job_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((backend, "POLL_S"), (wait_events, "REPORT_WAIT_S"), (wait_events, "RECOUNT_S")):
        monkeypatch.setattr(module, name, 0.05)
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        head.nodes = [BIG, BIG]
        job_id = create(client)
        wait_for(
            lambda: messages(client, job_id),
            lambda log: any("2 machines with 4 GPUs" in message for message in log),
        )
        head.nodes = [BIG]
        shortage_message = "The job needs 2 machines with 4 GPUs each, and the Ray cluster has 1."
        wait_for(lambda: messages(client, job_id)[-1], lambda message: message.startswith(shortage_message))
        assert client.fine_tuning.jobs.retrieve(job_id).status == "queued"
        head.nodes = [BIG, BIG]
        head.placed.append(f"{job_id}-1")
        wait_for(
            lambda: messages(client, job_id)[-1], lambda message: "has room for the job, after" in message
        )
        assert sum(message.startswith(shortage_message) for message in messages(client, job_id)) == 1
        client.fine_tuning.jobs.cancel(job_id)


@pytest.mark.parametrize(
    ("need", "machines", "sentence"),
    [
        (
            Need(1, 1),
            Machines(3, False),
            "The job is queued until one is free: the Ray cluster has 3 machines with a GPU.",
        ),
        (
            Need(1, 2),
            Machines(0, False),
            "The job needs a machine with 2 GPUs, and the Ray cluster has none. It is queued until machines are "
            "added: add them, or cancel it.",
        ),
        (
            Need(4, 8),
            Machines(1, True),
            "The job needs 4 machines with 8 GPUs each, and the Ray cluster has 1. It is queued; the cluster's "
            "autoscaler may add what is missing.",
        ),
        (
            Need(2, 0),
            Machines(2, False),
            "The job is queued until 2 are free: the Ray cluster has 2 machines with a CPU.",
        ),
    ],
    ids=["taken", "too small", "grows", "cpus"],
)
def test_the_reason_for_waiting_has_the_clusters_numbers(
    need: Need, machines: Machines, sentence: str
) -> None:
    assert why_waiting(need, machines) == sentence


def test_a_job_for_more_nodes_than_the_cluster_has_is_refused(tmp_path: Path) -> None:
    with ray_head() as head, trainer(tmp_path, head) as served, served.client() as client:
        head.nodes = [BIG, {"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0}, {"GPU": 8.0}]
        with pytest.raises(openai.BadRequestError) as caught:
            create(client)
        assert (
            f"This trainer trains each job on 2 nodes with 4 GPUs each, and the Ray cluster at {head.address} has 1. "
            "Add nodes, or start the trainer with a lower --nodes-per-job."
        ) in str(caught.value)
        assert caught.value.code == "too_few_nodes"
        assert head.bodies == []
        head.grows = True
        client.fine_tuning.jobs.cancel(create(client))


def shortage(address: str, nodes: int) -> str | None:
    backend = RayBackend(RayHead(address), RayOptions(address, None, gpus=0, nodes=nodes), Path("/nowhere"))
    try:
        return backend.shortage()
    finally:
        backend.close()


def test_an_unreachable_head_or_a_one_node_job_is_no_shortage() -> None:
    with ray_head() as head:
        assert "2 nodes with a CPU each" in (shortage(head.address, 2) or "")
        head.nodes = []
        assert shortage(head.address, 1) is None
    assert shortage(head.address, 2) is None


@pytest.mark.deep
@pytest.mark.parametrize(
    ("settings", "param"),
    [
        (Parameters(sharding="fsdp"), None),
        (Parameters(sweep=(("lora_r", (8, 16)),)), None),
        (Parameters(sharding="fsdp", sweep=(("lora_r", (8, 16)),)), "sharding"),
        (DpoParameters(), None),
        (DpoParameters(sharding="fsdp"), "sharding"),
        (Parameters(engine="unsloth"), "engine"),
    ],
)
def test_several_nodes_refuse_the_jobs_that_several_gpus_refuse(
    settings: Parameters, param: str | None
) -> None:
    backend = RayBackend(
        RayHead("http://127.0.0.1:9"), RayOptions("", None, gpus=0, nodes=2), Path("/nowhere")
    )
    refusal = backend_refusal(backend, settings)
    assert (refusal and refusal.param) == param


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--nodes-per-job 2",
            "--nodes-per-job 2 needs --executor ray: without it jobs run on this machine alone.",
        ),
        (
            "--storage s3://bucket/finetune",
            "--storage needs --executor ray: without it jobs run on this machine",
        ),
        (
            "--executor ray --nodes-per-job 2 --gpus-per-job 3",
            "3 can't be divided evenly among --nodes-per-job 2: it counts all GPUs of a job. Set it to 4.",
        ),
    ],
)
def test_contradictory_options_are_refused_with_advice(arguments: str, message: str, tmp_path: Path) -> None:
    assert message in refuse_to_start("--data", str(tmp_path), "--port", "0", *arguments.split())


def test_each_node_gets_its_rank_and_the_first_ones_address() -> None:
    meeting = Meeting(3, 1, "10.0.0.1:29400")
    parser = argparse.ArgumentParser()
    add_meeting(parser)
    assert read_meeting(parser.parse_args(meeting.arguments)) == meeting
    assert read_meeting(parser.parse_args([])) is None
    command = train_command(4, meeting)
    assert command[2:5] == ("trainers.local.launch", "--processes", "4")
    assert command[5:] == meeting.arguments
    assert train_command(1)[1:] == ("-m", "trainers.local.train")


def test_an_address_of_this_machine_has_a_network_interface() -> None:
    assert find_interface("127.0.0.1") == "lo"
    assert find_interface("192.0.2.1") is None
