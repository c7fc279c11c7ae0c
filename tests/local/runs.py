"""Jobs to train here or in processes of their own, which can be killed; and what a trained folder holds."""

from __future__ import annotations

import csv
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.local.preferences import QUESTIONS
from trainers.local.job_directory import TrainingJob, read_events, read_json, write_job
from trainers.methods import MethodName, Parameters

SIGKILLED = -9
WAIT_S = 120  # beside much other work


class Process:
    """A function in a process of its own, with the interface of `multiprocessing`; forked by tests/forked.py."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
        self._task = pickle.dumps((target, args)).hex()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.local.runs", self._task]
        self._process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def join(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def is_alive(self) -> bool:
        return self.exitcode is None

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()


def make_job(
    folder: Path,
    base: Path,
    training: Path,
    settings: Parameters,
    *,
    validation: Path | None = None,
    method: MethodName = "supervised",
    continues: str | None = None,
) -> Path:
    job = TrainingJob(
        id="ftjob-" + "0" * 24,
        base=str(base),
        base_name="tiny",
        training_file=str(training),
        validation_file=str(validation) if validation else None,
        seed=7,
        settings=settings,
        suffix=None,
        metadata={},
        created_at=0,
        method=method,
        continues=continues,
    )
    write_job(folder, job)
    return folder


def start_run(folder: Path, checkpoint_s: float = 60.0) -> Process:
    process = Process(target=_run, args=(folder, checkpoint_s))
    process.start()
    return process


def start_processes(
    folder: Path,
    count: int,
    checkpoint_s: float = 60.0,
    *,
    others: Path | None = None,
    target: Callable[[Path, float, int, int, int], None] | None = None,
) -> list[Process]:
    """Starts a distributed training as launch.py does, and returns its processes by rank. `others` is the job's folder
    for processes on other machines; `target` replaces run_one_process."""
    from tests.local.trainer_server import free_port  # not at the top: each process would import openai, too

    port = free_port()
    folders = [folder] + [others or folder] * (count - 1)
    processes = [
        Process(target=target or run_one_process, args=(folders[rank], checkpoint_s, rank, count, port))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def run_processes(
    folder: Path, count: int, checkpoint_s: float = 60.0, *, others: Path | None = None
) -> list[int]:
    """Returns the exit codes by rank."""
    return exit_codes(start_processes(folder, count, checkpoint_s, others=others))


def run_on_two_machines(folder: Path) -> Path:
    """Trains a job in two processes, of which the second sees only a copy of the folder, as on another machine."""
    elsewhere = folder.with_name("elsewhere")
    shutil.copytree(folder, elsewhere)
    assert run_processes(folder, 2, others=elsewhere) == [0, 0]
    return folder


def exit_codes(processes: Sequence[Process]) -> list[int]:
    for process in processes:
        process.join(WAIT_S)
        assert process.exitcode is not None, f"a process is still training after {WAIT_S} s"
    return [process.exitcode or 0 for process in processes]


def wait_for_first(processes: Sequence[Process]) -> int:
    """Returns the first process's exit code, after killing the others as the launcher does."""
    first, *others = processes
    first.join(WAIT_S)
    for process in others:
        process.kill()
        process.join(20)
    assert first.exitcode is not None, f"the first process is still training after {WAIT_S} s"
    return first.exitcode


def kill_one_process(folder: Path, rank: int, count_logged: Callable[[], int], steps: int) -> None:
    """Kills one of two processes once `steps` steps are logged; the other ends when it finds that it is gone."""
    processes = start_processes(folder, 2, checkpoint_s=0.0)
    deadline = time.monotonic() + WAIT_S
    while count_logged() < steps:
        assert all(process.is_alive() for process in processes), f"ended at step {count_logged()}"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    processes[rank].kill()
    for process in processes:
        process.join(WAIT_S)
    assert processes[rank].exitcode == SIGKILLED
    assert processes[1 - rank].exitcode == 1


def run_to_end(folder: Path, checkpoint_s: float = 60.0) -> int:
    process = start_run(folder, checkpoint_s)
    process.join(WAIT_S)
    assert process.exitcode is not None, f"{folder} is still training after {WAIT_S} s"
    return process.exitcode


def kill_after_step(folder: Path, step: int, checkpoint_s: float = 0.0) -> None:
    """Kills the training once results.csv has that step."""
    process = start_run(folder, checkpoint_s)
    wait_for_step(folder, step, process)
    process.kill()
    process.join(20)
    assert process.exitcode == SIGKILLED


def wait_for_step(folder: Path, step: int, process: Process) -> None:
    deadline = time.monotonic() + WAIT_S
    while count_steps(folder) < step:
        assert process.is_alive(), f"ended with {process.exitcode} at step {count_steps(folder)}"
        assert time.monotonic() < deadline
        time.sleep(0.005)


def count_steps(folder: Path) -> int:
    path = folder / "results.csv"
    return max(0, path.read_text().count("\n") - 1) if path.exists() else 0


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


def read_results(folder: Path) -> list[dict[str, str]]:
    """The rows of results.csv, one for each step."""
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def train_losses(folder: Path) -> list[float]:
    return [float(row["train_loss"]) for row in read_results(folder)]


def event_messages(folder: Path, level: str | None = None) -> list[str]:
    return [event["message"] for event in read_events(folder) if level in (None, event["level"])]


def read_done(folder: Path) -> dict[str, Any]:
    """DONE, without the seconds, which are never the same."""
    return {**(read_json(folder / "DONE") or {}), "seconds": 0}


def read_failure(folder: Path) -> dict[str, Any]:
    return read_json(folder / "FAILED") or {}


def assert_same_result(folder: Path, undisturbed: Path) -> None:
    """To the last byte, with the same steps, tokens and validations."""
    assert adapter_bytes(folder) == adapter_bytes(undisturbed)
    assert (folder / "results.csv").read_bytes() == (undisturbed / "results.csv").read_bytes()
    assert read_done(folder) == read_done(undisturbed)


def write_ticket_rows(path: Path, count: int, *, is_wrong: bool = False) -> Path:
    """Chats whose questions have alternating labels. `is_wrong`: each is answered with the other label."""
    lines = []
    for number in range(count):
        (_, question), (label, _) = (
            list(QUESTIONS.items())[index % 2] for index in (number, number + is_wrong)
        )
        turns = [("user", f"{question} ({number})"), ("assistant", label)]
        lines.append(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Writing more fails with EFBIG, the closest to a full disk that a test can get."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def set_launcher_environment(rank: int, processes: int, port: int) -> None:
    """Sets what a launcher tells a process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "FINETUNE_PROCESSES": str(processes)}


def run_one_process(folder: Path, checkpoint_s: float, rank: int, processes: int, port: int) -> None:
    set_launcher_environment(rank, processes, port)
    if rank == 0:
        _run(folder, checkpoint_s)
    os.environ["FINETUNE_DTYPE"] = "fp32"
    import torch

    from trainers.local.train import train_as_helper

    torch.set_num_threads(1)
    raise SystemExit(train_as_helper(folder))


def _run(folder: Path, checkpoint_s: float) -> None:
    """Exits as `python -m trainers.local.train` does."""
    os.environ["FINETUNE_DTYPE"] = "fp32"
    import torch

    from trainers.local.train import run_training

    torch.set_num_threads(1)
    raise SystemExit(run_training(folder, checkpoint_s))


if __name__ == "__main__":
    target, arguments = pickle.loads(bytes.fromhex(sys.argv[1]))  # noqa: S301 - written by `start`
    target(*arguments)
