"""PyTorch uses as many threads as other programs leave cores."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
import torch

from trainers.local.training import devices
from trainers.local.training.devices import CpuSeconds, CpuThreads, choose_threads, cores_allowed, cpu_seconds


@pytest.mark.parametrize(
    ("others", "most", "threads"),
    [
        pytest.param(0.0, 8, 8, id="quiet"),
        pytest.param(0.4, 8, 8, id="less than half a core"),
        pytest.param(0.6, 8, 7, id="a core"),
        pytest.param(5.0, 8, 3, id="five cores"),
        pytest.param(8.0, 8, 1, id="all cores: one thread"),
        pytest.param(0.0, 2, 2, id="no more than allowed"),
        pytest.param(-0.2, 8, 8, id="uneven clock ticks"),
    ],
)
def test_threads_leave_other_programs_the_cores_they_use(others: float, most: int, threads: int) -> None:
    used = CpuSeconds(wall=2.0, busy=6.0 + 2 * others, own=6.0)
    assert choose_threads(used, cores=8, most=most) == threads


def test_torchs_threads_follow_what_others_use_while_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    uses = iter(
        [
            CpuSeconds(0),
            CpuSeconds(1, 3, 1),
            CpuSeconds(100, 500, 1),
            CpuSeconds(101, 502, 3),
            CpuSeconds(102, 504, 5),
            CpuSeconds(102.1, 504, 5),
        ]
    )
    monkeypatch.setattr(devices, "cpu_seconds", lambda: next(uses))
    monkeypatch.setattr(devices, "count_cores", lambda: 4)
    monkeypatch.setattr(devices, "cores_allowed", lambda quota: 4)
    torch.set_num_threads(4)
    try:
        threads = CpuThreads()
        with threads.shared():  # other programs use two cores
            assert torch.get_num_threads() == 4
        assert torch.get_num_threads() == 2
        with threads.shared():  # use in between does not count; now all cores are free
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 4
        with threads.shared():  # too short to measure
            pass
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_measured_use_includes_this_process() -> None:
    before = cpu_seconds()
    while time.process_time() - before.own < 0.2:
        pass
    used = cpu_seconds() - before
    assert used.own >= 0.2
    assert used.wall >= 0.2
    assert used.busy >= 0
    assert devices.count_cores() >= 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("max 100000", None), (None, None)],
)
def test_a_containers_quota_limits_the_cores(
    tmp_path: Path, content: str | None, expected: int | None
) -> None:
    quota = tmp_path / "cpu.max"
    if content is not None:
        quota.write_text(content + "\n")
    assert cores_allowed(quota) == (expected or psutil.cpu_count())
