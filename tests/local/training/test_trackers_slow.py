"""The real W&B (offline) and MLflow (in a folder). Fails if the extra [curves] isn't installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.local.runs import event_messages, train_losses
from tests.local.trainer_server import examples, serve_in_process, upload, wait_for_status
from trainers.local.job_directory import Integration, read_json
from trainers.local.training.trackers import Curves

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _installed() -> None:
    missing = [name for name in ("wandb", "mlflow") if find_spec(name) is None]
    assert not missing, f"needs {' and '.join(missing)}: pip install -e '.[curves]'"


def test_a_jobs_curves_are_sent_to_both_trackers(
    tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path}/mlflow.db" if find_spec("sqlalchemy") else f"file://{tmp_path}/mlruns"
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    integrations = [
        {"type": "wandb", "wandb": {"project": "tickets", "tags": ["nightly"]}},
        {"type": "mlflow", "mlflow": {"experiment": "tickets", "name": "first"}},
    ]
    with serve_in_process(tmp_path / "data", f"tiny={tiny_model_dir}") as served, served.client() as client:
        job = client.fine_tuning.jobs.create(
            model="tiny",
            training_file=upload(client, examples(24)),
            validation_file=upload(client, examples(6), "valid.jsonl"),
            extra_body={"integrations": integrations, "hyperparameters": {"n_epochs": 2, "batch_size": 4}},
        )
        assert wait_for_status(client, job.id, "succeeded", "failed", seconds=200).status == "succeeded"
        messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
        integrations_shown = client.fine_tuning.jobs.retrieve(job.id).integrations or []
    assert [integration.type for integration in integrations_shown] == ["wandb", "mlflow"]
    assert not any("could not be written to" in message for message in messages)
    folder = tmp_path / "data" / "jobs" / job.id
    assert len(list(folder.glob("wandb/offline-run-*/*.wandb"))) == 1
    from mlflow import MlflowClient

    mlflow = MlflowClient(store)
    run = mlflow.get_run((read_json(folder / "mlflow.json") or {})["run_id"])
    assert (run.info.status, run.info.run_name, run.data.tags["job"]) == ("FINISHED", "first", job.id)
    curve = mlflow.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in curve] == list(range(1, 13))
    assert [point.value for point in curve] == pytest.approx(train_losses(folder), rel=1e-4)
    assert [point.step for point in mlflow.get_metric_history(run.info.run_id, "valid/loss")] == [6, 12]


def test_a_tracker_that_cannot_be_reached_only_adds_an_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    curves = Curves(tmp_path, [Integration("mlflow", "tickets")])
    curves.begin(after=0)
    curves.log(1, {"train/loss": 1.0})
    curves.end(is_done=True)
    (message,) = event_messages(tmp_path)
    assert message.startswith("mlflow could not be written to, so the training goes on without it: ")
