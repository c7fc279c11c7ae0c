"""Training runs as processes of their own that can be killed."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.local.trainer_server import free_port
from trainers.local.job_directory import TrainingJob, write_job
from trainers.methods import MethodName, Parameters

SIGKILLED = -9
WAIT_S = 120  # beside much other work


class Process:
    """A function in a process of its own, with the names of `multiprocessing`. It is forked as tests/forked.py says."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
        self._order = pickle.dumps((target, args)).hex()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.local.runs", self._order]
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
    processes: int,
    checkpoint_s: float = 60.0,
    *,
    others: Path | None = None,
    member: Callable[[Path, float, int, int, int], None] | None = None,
) -> list[Process]:
    """As launch.py does, without the seconds that its imports take; the first process first. `others`: the folder of
    those that are on other machines. `member` is what each does, run_one_process as a rule."""
    port = free_port()
    folders = [folder] + [others or folder] * (processes - 1)
    team: list[Process] = [
        Process(target=member or run_one_process, args=(folders[rank], checkpoint_s, rank, processes, port))
        for rank in range(processes)
    ]
    for each in team:
        each.start()
    return team


def run_processes(
    folder: Path, processes: int, checkpoint_s: float = 60.0, *, others: Path | None = None
) -> list[int]:
    """The exit codes, the first process's first."""
    return exit_codes(start_processes(folder, processes, checkpoint_s, others=others))


def exit_codes(team: Sequence[Process]) -> list[int]:
    for each in team:
        each.join(WAIT_S)
        assert each.exitcode is not None, f"A process still trains after {WAIT_S} s"
    return [each.exitcode or 0 for each in team]


def wait_for_first(team: Sequence[Process]) -> int:
    """Its exit code; then the others are killed, as the launcher does."""
    first, *others = team
    first.join(WAIT_S)
    for each in others:
        each.kill()
        each.join(20)
    assert first.exitcode is not None, f"The first process still trains after {WAIT_S} s"
    return first.exitcode


def kill_one_process(folder: Path, rank: int, told: Callable[[], int], steps: int) -> None:
    """SIGKILL for one of two processes once `steps` are told; the other ends as it finds it gone."""
    team = start_processes(folder, 2, checkpoint_s=0.0)
    deadline = time.monotonic() + WAIT_S
    while told() < steps:
        assert all(each.is_alive() for each in team), f"ended at step {told()}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    team[rank].kill()
    for each in team:
        each.join(WAIT_S)
    assert team[rank].exitcode == SIGKILLED
    assert team[1 - rank].exitcode == 1


def run_to_end(folder: Path, checkpoint_s: float = 60.0) -> int:
    process = start_run(folder, checkpoint_s)
    process.join(120)
    assert process.exitcode is not None, f"{folder} still trains after 120 s"
    return process.exitcode


def kill_after_step(folder: Path, step: int, checkpoint_s: float = 0.0) -> None:
    """SIGKILL, once results.csv tells of that step."""
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
        time.sleep(0.002)


def count_steps(folder: Path) -> int:
    path = folder / "results.csv"
    return max(0, path.read_text().count("\n") - 1) if path.exists() else 0


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "adapter" / "adapter_model.safetensors").read_bytes()


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """A write beyond it fails with EFBIG, the nearest to a full disk that a test can make by itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def set_launcher_environment(rank: int, processes: int, port: int) -> None:
    """What a launcher tells a process."""
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
    work, arguments = pickle.loads(bytes.fromhex(sys.argv[1]))  # noqa: S301 - what `start` has written
    work(*arguments)
