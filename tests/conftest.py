"""For all tests: how many threads compute, where files lie, which examples property tests try."""

import gc
import os
import shutil
from pathlib import Path

from hypothesis import settings

MEMORY = Path("/dev/shm")  # noqa: S108 - a file system
ROOM = 4 << 30

gc.disable()  # until all modules are imported: a fifth of that time
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the tests of other processes take the other cores
if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM and not os.statvfs(MEMORY).f_flag & os.ST_NOEXEC:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))  # where fsync takes no time

# At a landing property tests try the same examples each time, elsewhere new ones.
settings.register_profile("landing", derandomize=True, deadline=None)
settings.register_profile("anywhere", deadline=None)
settings.load_profile("landing" if os.environ.get("CI") else "anywhere")


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()
