"""Threads for the cores that other work leaves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from trainers.local import cores
from trainers.local.cores import Cores, Reading, cores_allowed, read, threads_for

START = Reading(at=10.0, busy=100.0, own=50.0, cores=8)


@pytest.mark.parametrize(
    ("others", "most", "threads"),
    [
        pytest.param(0.0, 8, 8, id="quiet"),
        pytest.param(0.4, 8, 8, id="half a core is not worth one of ours"),
        pytest.param(0.6, 8, 7, id="a core is taken"),
        pytest.param(5.0, 8, 3, id="five are"),
        pytest.param(8.0, 8, 1, id="all are: never none"),
        pytest.param(0.0, 2, 2, id="never more than allowed"),
        pytest.param(-0.2, 8, 8, id="the clocks' ticks are uneven"),
    ],
)
def test_others_keep_what_they_took(others: float, most: int, threads: int) -> None:
    own = 2 * 3.0
    now = Reading(at=12.0, busy=START.busy + own + 2 * others, own=START.own + own, cores=8)
    assert threads_for(START, now, most) == threads


def test_torch_follows_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    readings = iter(
        [
            Reading(time.monotonic() - 60, 0.0, 0.0, 4),
            Reading(time.monotonic() - 30, 60.0, 0.0, 4),  # two cores are taken
            Reading(time.monotonic(), 60.0, 0.0, 4),  # and free again
        ]
    )
    monkeypatch.setattr(cores, "read", lambda: next(readings))
    monkeypatch.setattr(cores, "cores_allowed", lambda quota: 4)
    torch.set_num_threads(4)
    try:
        room = Cores()
        room.fit()
        assert torch.get_num_threads() == 2
        room.fit()
        assert torch.get_num_threads() == 4
        room.fit()  # too soon for another reading: there is none
    finally:
        torch.set_num_threads(before)


def test_a_reading_grows_with_what_this_process_does() -> None:
    before = read()
    while time.process_time() - before.own < 0.2:
        pass
    now = read()
    assert now.own - before.own >= 0.2
    assert now.busy >= before.busy
    assert now.cores == before.cores >= 1


@pytest.mark.parametrize(
    ("said", "allowed"),
    [("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("max 100000", None), (None, None)],
)
def test_a_container_may_keep_fewer_busy(tmp_path: Path, said: str | None, allowed: int | None) -> None:
    quota = tmp_path / "cpu.max"
    if said is not None:
        quota.write_text(said + "\n")
    assert cores_allowed(quota) == (allowed or cores.psutil.cpu_count())
