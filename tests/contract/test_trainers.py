"""The contract that the bot relies on: a provider whose server passes can be used."""

from __future__ import annotations

import hashlib
import json
import time
import urllib.request
import uuid
from codecs import BOM_UTF8
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml  # type: ignore[import-untyped]

from tests.contract.conftest import ROOT, Site
from trainers.client.dialects import open_trainer
from trainers.errors import Refused
from trainers.types import Ability, Job, JobSpec, Message

SCHEMA = ROOT.parent / "shared/data/openai-training-api.yaml"


@pytest.fixture(scope="module")
def file_id(site: Site, training_file: Path) -> str:
    return upload(site, training_file)


@pytest.fixture(scope="module")
def finished_job(site: Site, file_id: str) -> Job:
    """A job that has succeeded."""
    return finish(site, site.trainer.create(spec(site, file_id)))


def upload(site: Site, path: Path) -> str:
    return site.trainer.upload(path, hashlib.sha256(path.read_bytes()).hexdigest())


def spec(site: Site, file_id: str) -> JobSpec:
    key = f"contract-{uuid.uuid4()}"
    return JobSpec(key, site.model, file_id, site.hyperparameters, seed=1, suffix="contract.v1 " * 9)


def upload_spec(site: Site, path: Path) -> JobSpec:
    """As the bot does it: uploads the file with the job's key."""
    wanted = spec(site, "")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(wanted, training_file=site.trainer.upload(path, sha256, wanted.key))


def finish(site: Site, job: Job) -> Job:
    deadline = time.monotonic() + site.finish_s
    while not job.is_final and time.monotonic() < deadline:
        time.sleep(0.01 if site.finish_s < 10 else 0.3)
        job = site.trainer.job(job.id)
    assert job.status == "succeeded", job
    return job


def require(site: Site, ability: Ability) -> None:
    if not site.provider.can(ability):
        pytest.skip(f"{site.provider.name} does not claim {ability!r}")


def get_json(site: Site, path: str) -> Any:
    request = urllib.request.Request(site.provider.base_url + path)  # noqa: S310 (loopback)
    request.add_header("Authorization", f"Bearer {site.key}")
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return json.load(answer)


def test_the_base_model_is_listed_and_can_be_trained(site: Site) -> None:
    assert site.trainer.probe() is None
    assert site.model in [model.id for model in site.trainer.models()]


def test_a_wrong_key_is_refused(site: Site) -> None:
    with open_trainer(site.provider, "sk-wrong") as stranger, pytest.raises(Refused) as caught:
        stranger.models()
    assert caught.value.status in (401, 403)


def test_the_same_bytes_are_uploaded_once(site: Site, training_file: Path, file_id: str) -> None:
    assert upload(site, training_file) == file_id


def test_a_file_comes_back_byte_for_byte(site: Site, training_file: Path, file_id: str) -> None:
    content = site.trainer.download_file(file_id)
    assert content.removeprefix(BOM_UTF8 if site.provider.bom else b"") == training_file.read_bytes()


def test_a_deleted_file_is_missing_and_can_be_sent_again(
    site: Site, tmp_path: Path, training_file: Path
) -> None:
    path = tmp_path / "other.jsonl"
    path.write_bytes(training_file.read_bytes().replace(b"order", b"parcel"))
    first = upload(site, path)
    site.trainer.delete_file(first)
    with pytest.raises(Refused) as caught:
        site.trainer.download_file(first)
    assert caught.value.is_missing
    site.trainer.delete_file(upload(site, path))


def test_all_copies_of_a_file_are_deleted(site: Site, tmp_path: Path, training_file: Path) -> None:
    path = tmp_path / "again.jsonl"
    path.write_bytes(training_file.read_bytes().replace(b"order", b"letter"))
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    files = {site.trainer.upload(path, sha256, key) for key in (None, "run-1", "run-2")}
    assert site.trainer.delete_uploads({sha256}) == len(files)
    assert site.trainer.delete_uploads({sha256}) == 0


def test_an_estimate_creates_nothing(site: Site, file_id: str) -> None:
    require(site, "estimate")
    wanted = spec(site, file_id)
    estimate = site.trainer.estimate(wanted)
    assert estimate.usd is not None and estimate.usd >= 0
    assert site.trainer.find_jobs(wanted.key) == ()


def test_a_job_that_does_not_exist_is_missing(site: Site) -> None:
    with pytest.raises(Refused) as caught:
        site.trainer.job("ftjob-none")
    assert caught.value.is_missing


def test_an_unknown_model_is_refused_and_nothing_is_created(site: Site, file_id: str) -> None:
    wanted = replace(spec(site, file_id), model="no-such-model")
    with pytest.raises(Refused):
        site.trainer.create(wanted)
    assert site.trainer.find_jobs(wanted.key) == ()


def test_an_unknown_file_is_refused_and_nothing_is_created(site: Site) -> None:
    wanted = spec(site, "file-none")
    with pytest.raises(Refused):
        site.trainer.create(wanted)
    assert site.trainer.find_jobs(wanted.key) == ()


def test_a_job_is_found_by_its_key_only(site: Site, training_file: Path) -> None:
    wanted, other = upload_spec(site, training_file), upload_spec(site, training_file)
    site.trainer.cancel(site.trainer.create(other).id)
    created = site.trainer.create(wanted)
    assert [job.id for job in site.trainer.find_jobs(wanted.key)] == [created.id]
    assert site.trainer.find_jobs(wanted.key + "x") == ()
    site.trainer.cancel(created.id)


def test_our_metadata_comes_back(site: Site, file_id: str) -> None:
    require(site, "metadata")
    wanted = replace(spec(site, file_id), metadata={"run": "7"})
    created = site.trainer.create(wanted)
    assert site.trainer.job(created.id).metadata == {"run": "7", "finetune_key": wanted.key}
    assert created.id in [job.id for jobs in site.trainer.jobs_by_key((), 0).values() for job in jobs]
    site.trainer.cancel(created.id)


def test_a_repeated_create_gives_the_same_job(site: Site, file_id: str) -> None:
    require(site, "idempotency")
    wanted = spec(site, file_id)
    first = site.trainer.create(wanted)
    assert site.trainer.create(wanted).id == first.id
    assert [job.id for job in site.trainer.find_jobs(wanted.key)] == [first.id]
    site.trainer.cancel(first.id)


def test_a_cancelled_job_stays_cancelled_and_is_still_found(site: Site, training_file: Path) -> None:
    longer = {**site.hyperparameters, "n_epochs": 20}  # so that the cancel comes before the end
    wanted = replace(upload_spec(site, training_file), hyperparameters=longer)
    created = site.trainer.create(wanted)
    site.trainer.cancel(created.id)
    deadline = time.monotonic() + 20
    while not site.trainer.job(created.id).is_final and time.monotonic() < deadline:
        time.sleep(0.1)
    assert site.trainer.job(created.id).status == "cancelled"
    assert [job.status for job in site.trainer.find_jobs(wanted.key)] == ["cancelled"]


def test_a_paused_job_stays_paused_until_it_is_resumed(site: Site, file_id: str) -> None:
    require(site, "pause")
    created = site.trainer.create(spec(site, file_id))
    assert site.trainer.pause(created.id).status == "paused"
    assert site.trainer.pause(created.id).status == site.trainer.job(created.id).status == "paused"
    assert site.trainer.resume(created.id).status != "paused"
    assert finish(site, created).status == "succeeded"
    with pytest.raises(Refused):
        site.trainer.pause(created.id)


def test_a_finished_job_reports_its_tokens_and_times(site: Site, finished_job: Job) -> None:
    assert finished_job.model == site.model
    assert finished_job.error_code is None
    assert (finished_job.trained_tokens or 0) > 0
    assert (finished_job.finished_at or 0) >= finished_job.created_at > 1_600_000_000


def test_progress_ends_at_the_last_step(site: Site, finished_job: Job) -> None:
    require(site, "progress")
    assert finished_job.trained_steps == finished_job.total_steps
    assert (finished_job.total_steps or 0) > 0


def test_events_are_newest_first(site: Site, finished_job: Job) -> None:
    if site.provider.dialect == "fireworks":
        pytest.skip("it lists no events")
    events = site.trainer.events(finished_job.id, limit=100)
    times = [event.created_at for event in events]
    assert len(events) >= 2
    assert times == sorted(times, reverse=True)
    assert len(site.trainer.events(finished_job.id, limit=1)) == 1


def test_the_result_file_has_a_loss_for_each_step(site: Site, finished_job: Job) -> None:
    lines = site.trainer.metrics(finished_job)
    steps = [line.step for line in lines]
    assert steps == sorted(set(steps))
    assert all(line.train_loss is not None and line.train_loss >= 0 for line in lines)


def test_the_tuned_model_answers(site: Site, finished_job: Job) -> None:
    require(site, "chat")
    assert finished_job.fine_tuned_model
    answer = site.trainer.chat(
        finished_job.fine_tuned_model, [Message("user", "where is order 3?")], max_tokens=4
    )
    assert answer.prompt_tokens > 0
    assert answer.seconds > 0


def test_an_unknown_model_does_not_answer(site: Site) -> None:
    require(site, "chat")
    with pytest.raises(Refused) as caught:
        site.trainer.chat("no-such-model", [Message("user", "hi")], max_tokens=4)
    assert caught.value.is_missing


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    if not SCHEMA.exists():
        pytest.skip("the API's schema is not beside this tree")
    components: dict[str, Any] = yaml.load(SCHEMA.read_text(encoding="utf-8"), yaml.CSafeLoader)["components"]
    return components


def test_every_body_is_valid_under_the_apis_schema(
    site: Site, finished_job: Job, schemas: dict[str, Any]
) -> None:
    require(site, "metadata")  # providers without it leave out more of the schema's required fields
    job = f"/fine_tuning/jobs/{finished_job.id}"
    for path, schema in (
        ("/models", "ListModelsResponse"),
        ("/files", "ListFilesResponse"),
        ("/fine_tuning/jobs", "ListPaginatedFineTuningJobsResponse"),
        (job, "FineTuningJob"),
        (f"{job}/events", "ListFineTuningJobEventsResponse"),
        (f"{job}/checkpoints", "ListFineTuningJobCheckpointsResponse"),
    ):
        rule = {"$ref": f"#/components/schemas/{schema}", "components": schemas}
        jsonschema.Draft202012Validator(rule).validate(get_json(site, path))
