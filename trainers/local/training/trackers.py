"""Writes a run's curves for other tools: TensorBoard's files always, W&B and MLflow if the job names them.

The curves are train/loss, train/accuracy, train/learning_rate, train/tokens, valid/loss and valid/accuracy, by step. If
W&B or MLflow can't be reached, the training goes on without it, and an event says so.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from trainers.local.job_directory import Integration, append_event, read_json, replace_json


class Unreachable(Exception):
    """A service can't be reached. The message is its error."""


@contextmanager
def translate_errors(errors: tuple[type[Exception], ...]) -> Iterator[None]:
    try:
        yield
    except errors as error:
        raise Unreachable(str(error)) from error


class Tracker(Protocol):
    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def end(self, *, is_done: bool) -> None: ...


class Curves:
    """All trackers of the job in `folder`. A resumed run rewrites the steps after its checkpoint."""

    def __init__(self, folder: Path, integrations: Sequence[Integration]) -> None:
        self._folder = folder
        self._integrations = integrations
        self._board: TensorBoard | None = None
        self._services: dict[str, Tracker] = {}

    def begin(self, after: int) -> None:
        self._board = TensorBoard(self._folder / "tensorboard", after)
        for each in self._integrations:
            try:
                service: type[Wandb | Mlflow] = Mlflow
                if each.kind == "wandb":
                    service = Wandb
                self._services[each.kind] = service(self._folder, each)
            except Unreachable as error:
                self._warn_lost(each.kind, error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._board is not None:
            self._board.log(step, values)
        # A copy of the list, since an unreachable service is removed from it.
        for kind, service in list(self._services.items()):
            try:
                service.log(step, values)
            except Unreachable as error:
                del self._services[kind]
                self._warn_lost(kind, error)

    def end(self, *, is_done: bool) -> None:
        """Closes the trackers. `is_done` is False if the run was paused or failed; a resumed run continues its
        curves."""
        if self._board is not None:
            self._board.end(is_done=is_done)
        for kind, service in self._services.items():
            try:
                service.end(is_done=is_done)
            except Unreachable as error:
                self._warn_lost(kind, error)
        self._board = None
        self._services = {}

    def _warn_lost(self, kind: str, error: Unreachable) -> None:
        sentence = " ".join(str(error).split())[:300]
        text = f"{kind} could not be written to, so the training goes on without it: {sentence}"
        append_event(self._folder, text, level="warn")


class TensorBoard:
    """Writes event files in `folder`, each record at once. torch's SummaryWriter is not used, because it writes in a
    thread that a full disk kills with a traceback."""

    def __init__(self, folder: Path, after: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.6f}.{os.getpid()}"
        self._file = (folder / name).open("ab", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)  # hides an earlier process's values from this step on
        self._write(Event(wall_time=time.time(), step=after + 1, session_log=start))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        curves = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        event = Event(wall_time=time.time(), step=step, summary=Summary(value=curves))
        self._write(event)

    def end(self, *, is_done: bool) -> None:
        self._file.close()

    def _write(self, event: Event) -> None:
        self._records.write(event.SerializeToString())


class Wandb:
    """A run of W&B under the job's id, which a resumed job continues. Key and mode come from the environment."""

    def __init__(self, folder: Path, integration: Integration) -> None:
        import wandb

        self._errors = (wandb.Error, OSError)
        job = read_json(folder / "job.json") or {}
        # Not the folder's name, which is 01 for a trial of every sweep.
        identity = str(job.get("id", folder.name))
        base = str(job.get("base_name", ""))
        with translate_errors(self._errors):
            self._run = wandb.init(
                project=integration.project,
                entity=integration.entity,
                name=integration.name or identity,
                id=identity,
                resume="allow",
                tags=["finetune", base, identity, *integration.tags],
                config=job.get("settings"),
                dir=str(folder),
                settings=wandb.Settings(silent=True, console="off", save_code=False),
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        with translate_errors(self._errors):
            self._run.log(dict(values), step=step)

    def end(self, *, is_done: bool) -> None:
        exit_code = 1
        if is_done:
            exit_code = 0
        with translate_errors(self._errors):
            self._run.finish(exit_code=exit_code)


class Mlflow:
    """A run of MLflow. Its id is stored in the job's folder, so that a resumed job continues it."""

    def __init__(self, folder: Path, integration: Integration) -> None:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self._errors = (MlflowException, OSError)
        with translate_errors(self._errors):
            self._client = MlflowClient()
            stored = read_json(folder / "mlflow.json")
            if stored:
                self._run_id = str(stored["run_id"])
            else:
                self._run_id = self._create_run(folder, integration)
            # A pause has marked the run as killed.
            self._client.update_run(self._run_id, status="RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        with translate_errors(self._errors):
            for name, value in values.items():
                self._client.log_metric(self._run_id, name, value, step=step)

    def end(self, *, is_done: bool) -> None:
        status = "KILLED"
        if is_done:
            status = "FINISHED"
        with translate_errors(self._errors):
            self._client.set_terminated(self._run_id, status)

    def _create_run(self, folder: Path, integration: Integration) -> str:
        job: dict[str, Any] = read_json(folder / "job.json") or {}
        existing = self._client.get_experiment_by_name(integration.project)
        if existing:
            experiment = existing.experiment_id
        else:
            experiment = self._client.create_experiment(integration.project)
        identity = str(job.get("id", folder.name))
        tags = {"job": identity, "base": str(job.get("base_name", ""))}
        for number, tag in enumerate(integration.tags):
            tags[f"tag.{number}"] = tag
        run = self._client.create_run(experiment, tags=tags, run_name=integration.name or identity)
        for name, value in job.get("settings", {}).items():
            self._client.log_param(run.info.run_id, name, value)
        replace_json(folder / "mlflow.json", {"run_id": run.info.run_id})
        return str(run.info.run_id)
