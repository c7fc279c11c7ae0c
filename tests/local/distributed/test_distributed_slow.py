"""A distributed training as the trainer starts it: paused, killed and resumed, with no process left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from tests.local.distributed.test_distributed import largest_difference
from tests.local.preferences import write_pairs
from tests.local.runs import (
    Process,
    adapter_bytes,
    count_steps,
    event_messages,
    make_job,
    read_failure,
    run_to_end,
    set_launcher_environment,
    write_ticket_rows,
)
from tests.local.sweeps import count_trial_steps, make_sweep, read_table
from tests.local.trainer_server import (
    TrainerServer,
    close,
    examples,
    free_port,
    ready_url,
    start_process,
    upload,
    wait_for,
    wait_for_status,
)
from trainers.hyperparameters import Sweep
from trainers.local.launch import PAUSED, SHORT_OF_MEMORY, train_command
from trainers.methods import Parameters

pytestmark = pytest.mark.slow
SETTINGS = Parameters(n_epochs=30, batch_size=4, lora_dropout=0.1)  # of 40 rows: 300 steps
ENVIRONMENT = {**os.environ, "FINETUNE_DTYPE": "fp32", "OMP_NUM_THREADS": "1"}


def job(root: Path, base: Path) -> Path:
    root.mkdir(exist_ok=True)
    (root / "rows.jsonl").write_bytes(examples(40))
    return make_job(root / "job", base, root / "rows.jsonl", SETTINGS)


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*train_command(2), str(folder)], env=ENVIRONMENT, start_new_session=True)


def find_processes(folder: Path) -> list[int]:
    """The training processes, without their launcher."""
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"trainers.local.train" in words and str(folder).encode() in words:
            processes.append(int(path.parent.name))
    return processes


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    folder = job(tmp_path_factory.mktemp("undisturbed"), tiny_model_dir)
    assert start(folder).wait(120) == 0
    return folder


def test_a_paused_distributed_run_exits_with_76_and_resumes_to_the_same_bytes(
    undisturbed: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = job(tmp_path, tiny_model_dir)
    process = start(folder)
    wait_for(lambda: count_steps(folder), lambda step: step > 20)
    (folder / "PAUSED").touch()
    assert process.wait(20) == PAUSED
    assert find_processes(folder) == []
    assert list(folder.glob("checkpoints/step-*"))
    (folder / "PAUSED").unlink()
    assert start(folder).wait(120) == 0
    assert any(message.startswith("Resuming from") for message in event_messages(folder))
    assert adapter_bytes(folder) == adapter_bytes(undisturbed)


@pytest.mark.parametrize("who", ["member", "launcher"])
def test_a_killed_process_ends_all_and_the_next_start_resumes(
    who: str, undisturbed: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = job(tmp_path, tiny_model_dir)
    process = start(folder)
    wait_for(lambda: list(folder.glob("checkpoints/step-*")), bool)
    os.kill(find_processes(folder)[-1] if who == "member" else process.pid, signal.SIGKILL)
    assert process.wait(20) != 0
    wait_for(lambda: find_processes(folder), lambda left: left == [], seconds=20)
    assert start(folder).wait(120) == 0
    assert adapter_bytes(folder) == adapter_bytes(undisturbed)


def start_sweep(root: Path, base: Path) -> Path:
    """40 rows in batches of 5, 8 times: 64 steps for a trial, 128 for all four, with a dropout of their own."""
    training, validation = (
        write_ticket_rows(root / "train.jsonl", 40),
        write_ticket_rows(root / "valid.jsonl", 8),
    )
    settings = Parameters(n_epochs=8, batch_size=5, lora_r=4, lora_dropout=0.1)
    tried: Sweep = (("lora_r", (2, 4)), ("learning_rate", (1e-3, 1e-2)))
    return make_sweep(root / "job", base, training, validation, settings, tried)


def test_a_sweep_whose_processes_and_launcher_are_killed_ends_with_the_same_bytes(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    undisturbed, killed = (start_sweep(tmp_path / name, tiny_model_dir) for name in ("undisturbed", "killed"))
    assert start(undisturbed).wait(120) == 0
    for who, steps in (("0", 5), ("launcher", 60), ("1", 100)):
        process = start(killed)
        wait_for(lambda: count_trial_steps(killed), lambda done, least=steps: done >= least)
        victims = [each for each in find_processes(killed) if rank_of(each) == who]
        os.kill(process.pid if who == "launcher" else victims[0], signal.SIGKILL)
        assert process.wait(20) != 0
        wait_for(lambda: find_processes(killed), lambda left: left == [], seconds=20)
    assert start(killed).wait(120) == 0
    assert adapter_bytes(killed) == adapter_bytes(undisturbed)
    assert read_table(killed) == read_table(undisturbed)
    assert count_trial_steps(killed) == 128


def start_pairs(root: Path, base: Path) -> Path:
    """40 pairs in batches of 4: 300 steps, with a dropout of their own."""
    training = write_pairs(root / "train.jsonl", 40)
    settings = replace(SETTINGS, learning_rate=1e-3)
    return make_job(root / "job", base, training, settings, method="dpo")


def test_pairs_that_are_paused_and_killed_end_with_the_same_bytes(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
    undisturbed, disturbed = (
        start_pairs(tmp_path / name, tiny_model_dir) for name in ("undisturbed", "disturbed")
    )
    assert start(undisturbed).wait(120) == 0
    process = start(disturbed)
    wait_for(lambda: count_steps(disturbed), lambda step: step > 20)
    (disturbed / "PAUSED").touch()
    assert process.wait(20) == PAUSED
    (disturbed / "PAUSED").unlink()
    for who, steps in (("1", 80), ("0", 160)):
        process = start(disturbed)
        wait_for(lambda: count_steps(disturbed), lambda done, least=steps: done >= least)
        os.kill(next(each for each in find_processes(disturbed) if rank_of(each) == who), signal.SIGKILL)
        assert process.wait(20) != 0
        wait_for(lambda: find_processes(disturbed), lambda left: left == [], seconds=20)
    assert start(disturbed).wait(120) == 0
    assert adapter_bytes(disturbed) == adapter_bytes(undisturbed)
    assert (disturbed / "results.csv").read_bytes() == (undisturbed / "results.csv").read_bytes()


def rank_of(process: int) -> str:
    words = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    return next(word.partition(b"=")[2].decode() for word in words if word.startswith(b"RANK="))


def test_the_trainer_gives_a_job_two_processes_and_cancels_both(tmp_path: Path, tiny_model_dir: Path) -> None:
    process = start_process(tmp_path, f"tiny={tiny_model_dir}", more=("--gpus-per-job", "2"))
    try:
        with TrainerServer(ready_url(process), process).client() as client:
            file = upload(client, examples(40))
            body = {"hyperparameters": {"n_epochs": 1, "sharding": "fsdp"}}
            job = client.fine_tuning.jobs.create(model="tiny", training_file=file, extra_body=body)
            assert wait_for_status(client, job.id, "succeeded", "failed", seconds=120).status == "succeeded"
            body = {"hyperparameters": {"n_epochs": 50, "batch_size": 1}}
            job = client.fine_tuning.jobs.create(model="tiny", training_file=file, extra_body=body)
            folder = tmp_path / "jobs" / job.id
            wait_for(lambda: count_steps(folder), bool)
            assert len(find_processes(folder)) == 2
            assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
            assert find_processes(folder) == []
    finally:
        process.terminate()
        process.wait(20)
        close(process)


def test_training_without_the_launcher_is_refused(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = job(tmp_path, tiny_model_dir)
    command = [sys.executable, "-m", "trainers.local.train", str(folder)]
    process = subprocess.run(
        command, env={**ENVIRONMENT, "FINETUNE_PROCESSES": "2"}, capture_output=True, text=True
    )
    assert process.returncode == 1
    assert "its launcher started 1. Check the launcher." in process.stderr


def run_until_one_hangs(rank: int, port: int) -> None:
    """First the others wait for process 0 longer than a step may take, as for a download; then process 1 hangs."""
    from trainers.local.training import distributed

    set_launcher_environment(rank, 2, port)
    distributed.STEP_TIMEOUT = timedelta(seconds=10)
    distributed.join(seed=7)
    with distributed.rank_zero_first():
        time.sleep(12 if rank == 0 else 0)
    if rank == 1:
        time.sleep(600)
    try:
        distributed.any_process(False)
    except RuntimeError:
        raise SystemExit(9) from None


def test_a_process_that_hangs_in_a_step_is_given_up() -> None:
    port = free_port()
    first, other = (Process(target=run_until_one_hangs, args=(rank, port)) for rank in (0, 1))
    for each in (first, other):
        each.start()
    first.join(120)
    assert (first.exitcode, other.exitcode) == (9, None)
    other.kill()
    other.join(20)


def short_job(root: Path, base: Path, settings: Parameters) -> Path:
    root.mkdir()
    (root / "rows.jsonl").write_bytes(examples(9))
    return make_job(root / "job", base, root / "rows.jsonl", settings)


def launch_short_of_memory(folder: Path, rows: int) -> int:
    """Returns the launcher's exit code."""
    script = (
        "import sys; from trainers.local import launch; "
        "launch.TRAIN_COMMAND = (sys.executable, '-m', 'tests.local.distributed.short_of_memory'); "
        "sys.exit(launch.launch(2, None, sys.argv[1]))"
    )
    command = [sys.executable, "-c", script, str(folder)]
    environment = {**ENVIRONMENT, "ROWS": str(rows)}
    return subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, timeout=120).returncode


def test_a_divided_base_restarts_with_less_when_one_process_is_short_of_memory(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = short_job(tmp_path / "divided", tiny_model_dir, Parameters(batch_size=4, sharding="fsdp"))
    single = short_job(tmp_path / "single", tiny_model_dir, Parameters(batch_size=4))
    assert run_to_end(single) == 0
    codes = [launch_short_of_memory(folder, rows=1) for _ in range(3)]
    assert codes == [SHORT_OF_MEMORY, SHORT_OF_MEMORY, 0]
    recomputes, smaller = event_messages(folder, "warn")
    assert "activations are recomputed" in recomputes
    assert "activations are recomputed" not in smaller
    assert "gradients added up" in smaller
    assert largest_difference(single, folder) < 1e-4


def test_a_divided_base_fails_if_one_row_is_too_large_for_one_process(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = short_job(tmp_path / "divided", tiny_model_dir, Parameters(batch_size=2, sharding="fsdp"))
    assert [launch_short_of_memory(folder, rows=0) for _ in range(2)] == [SHORT_OF_MEMORY, 1]
    failure = read_failure(folder)
    assert failure["code"] == "out_of_memory"
    assert "CUBLAS_STATUS_ALLOC_FAILED" in failure["message"]
