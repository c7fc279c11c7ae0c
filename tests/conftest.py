"""For all tests: the home, the number of computing threads, where temporary files are, and the examples of property
tests."""

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
from tests.deep_parts import leave_out_others, read_part
from tests.own_home import leave_home

MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - a file system
NEEDED_BYTES = 4 << 30

gc.disable()  # until all modules are imported, which takes a fifth less time so
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests in other processes use the other cores
if (
    MEMORY_DISK.is_dir()
    and shutil.disk_usage(MEMORY_DISK).free > NEEDED_BYTES
    and not os.statvfs(MEMORY_DISK).f_flag & os.ST_NOEXEC
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY_DISK))  # where fsync takes no time

# Before anything of the product is imported, since some packages read the home then.
leave_home(os.environ, MEMORY_DISK if os.environ.get("PYTEST_DEBUG_TEMPROOT") == str(MEMORY_DISK) else None)

# In CI property tests try the same examples each time, elsewhere new ones.
settings.register_profile("ci", derandomize=True, deadline=None)
settings.register_profile("anywhere", deadline=None)
settings.load_profile("ci" if os.environ.get("CI") else "anywhere")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--deep-part", metavar="K/N", help="run only part K of N of the tests with the marker deep"
    )


def pytest_configure(config: pytest.Config) -> None:
    if sys.platform == "linux":
        has_workers = config.getoption("numprocesses", None)
        tests = [str(config.invocation_params.dir / name) for name in config.args] if has_workers else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        forked.fork_children(environment, cache(partial(forked.start_server, environment, tests)))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    text = config.getoption("--deep-part")
    if text is None:
        return
    left_out = leave_out_others(read_part(text), items)
    config.hook.pytest_deselected(items=left_out)


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


@pytest.fixture
def real_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts processes as users do instead of forking them (tests/forked.py)."""
    monkeypatch.setattr(subprocess.Popen, "_execute_child", forked.UNCHANGED)
