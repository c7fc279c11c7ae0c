"""Threads for the cores that other work leaves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from trainers.local.training import devices
from trainers.local.training.devices import CpuSeconds, CpuThreads, choose_threads, cores_allowed, cpu_seconds


@pytest.mark.parametrize(
    ("others", "most", "threads"),
    [
        pytest.param(0.0, 8, 8, id="quiet"),
        pytest.param(0.4, 8, 8, id="less than half a core is not worth one of our own"),
        pytest.param(0.6, 8, 7, id="a core is taken"),
        pytest.param(5.0, 8, 3, id="five are"),
        pytest.param(8.0, 8, 1, id="all are: never none"),
        pytest.param(0.0, 2, 2, id="never more than allowed"),
        pytest.param(-0.2, 8, 8, id="the clocks' ticks are uneven"),
    ],
)
def test_others_keep_what_they_took(others: float, most: int, threads: int) -> None:
    seen = CpuSeconds(wall=2.0, busy=6.0 + 2 * others, own=6.0)
    assert choose_threads(seen, cores=8, most=most) == threads


def test_torch_follows_what_others_take_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
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
        room = CpuThreads()
        with room.shared():  # others keep two cores busy
            assert torch.get_num_threads() == 4
        assert torch.get_num_threads() == 2
        with room.shared():  # what they did in between counts for nothing; now all are free
            assert torch.get_num_threads() == 2
        assert torch.get_num_threads() == 4
        with room.shared():  # too short to tell
            pass
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_use_grows_with_what_this_process_does() -> None:
    before = cpu_seconds()
    while time.process_time() - before.own < 0.2:
        pass
    seen = cpu_seconds() - before
    assert seen.own >= 0.2
    assert seen.wall >= 0.2
    assert seen.busy >= 0
    assert devices.count_cores() >= 1


@pytest.mark.parametrize(
    ("said", "allowed"),
    [("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("max 100000", None), (None, None)],
)
def test_a_container_may_keep_fewer_busy(tmp_path: Path, said: str | None, allowed: int | None) -> None:
    quota = tmp_path / "cpu.max"
    if said is not None:
        quota.write_text(said + "\n")
    assert cores_allowed(quota) == (allowed or devices.psutil.cpu_count())
