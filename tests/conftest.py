"""For all tests: how many threads compute, where files lie, which examples property tests try."""

import gc
import os
import shutil
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import pytest
from hypothesis import settings

from tests import forked

MEMORY = Path("/dev/shm")  # noqa: S108 - a file system
ROOM = 4 << 30

gc.disable()  # until all modules are imported: a fifth of that time
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests of other processes take the other cores
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # where fsync takes no time
if sys.platform == "linux":
    forked_with = {**os.environ, "OMP_NUM_THREADS": "1"}
    forked.fork_children(forked_with, cache(partial(forked.start_server, forked_with)))

# At a landing property tests try the same examples each time, elsewhere new ones.
settings.register_profile("landing", derandomize=True, deadline=None)
settings.register_profile("anywhere", deadline=None)
settings.load_profile("landing" if os.environ.get("CI") else "anywhere")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture
def real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each started as users start it, none forked (tests/forked.py)."""
    monkeypatch.setattr(subprocess.Popen, "_execute_child", forked.UNCHANGED)
