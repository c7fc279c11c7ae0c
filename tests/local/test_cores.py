"""Threads for the cores that other work leaves."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from trainers.local import cores
from trainers.local.cores import Cores, Use, cores_allowed, threads_for, used


@pytest.mark.parametrize(
    ("others", "most", "threads"),
    [
        pytest.param(0.0, 8, 8, id="quiet"),
        pytest.param(0.4, 8, 8, id="less than half a core is not worth one of ours"),
        pytest.param(0.6, 8, 7, id="a core is taken"),
        pytest.param(5.0, 8, 3, id="five are"),
        pytest.param(8.0, 8, 1, id="all are: never none"),
        pytest.param(0.0, 2, 2, id="never more than allowed"),
        pytest.param(-0.2, 8, 8, id="the clocks' ticks are uneven"),
    ],
)
def test_others_keep_what_they_took(others: float, most: int, threads: int) -> None:
    seen = Use(wall=2.0, busy=6.0 + 2 * others, own=6.0)
    assert threads_for(seen, cores=8, most=most) == threads


def test_torch_follows_what_others_take_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    uses = iter(
        [Use(0), Use(1, 3, 1), Use(100, 500, 1), Use(101, 502, 3), Use(102, 504, 5), Use(102.1, 504, 5)]
    )
    monkeypatch.setattr(cores, "used", lambda: next(uses))
    monkeypatch.setattr(cores, "count", lambda: 4)
    monkeypatch.setattr(cores, "cores_allowed", lambda quota: 4)
    torch.set_num_threads(4)
    try:
        room = Cores()
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
    before = used()
    while time.process_time() - before.own < 0.2:
        pass
    seen = used() - before
    assert seen.own >= 0.2
    assert seen.wall >= 0.2
    assert seen.busy >= 0
    assert cores.count() >= 1


@pytest.mark.parametrize(
    ("said", "allowed"),
    [("200000 100000", 2), ("150000 100000", 2), ("5000 100000", 1), ("max 100000", None), (None, None)],
)
def test_a_container_may_keep_fewer_busy(tmp_path: Path, said: str | None, allowed: int | None) -> None:
    quota = tmp_path / "cpu.max"
    if said is not None:
        quota.write_text(said + "\n")
    assert cores_allowed(quota) == (allowed or cores.psutil.cpu_count())
