"""Forks child processes from one that has already imported torch, transformers, peft, TRL and tinker.

Those imports take seconds of CPU time, and tests start a trainer or a training some hundred times. After
`fork_children`, `subprocess.Popen` starts the modules of FORKED, the benchmarks and pytest-xdist's workers through a
fork server, and so do the processes that were forked. The parent notices no difference: the process is its own child
(pid, exit status, signals, group or session) with the requested arguments, environment, folder, umask, limits and
streams. Two things differ: /proc/PID/environ is the fork server's, and heavy modules are loaded before they are needed.
Tests of those, and of the start itself, use the fixture `real_processes`. A child whose environment would change what
is imported is started for real.

pytest-xdist's workers each import all tests, 5 s of CPU time a worker: the fork server imports them first, once.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import importlib.util
import inspect
import json
import os
import resource
import runpy
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import util
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
FORKED = (
    "bot",
    "tests.bot.operations.debugging_trainer",
    "tests.bot.quick_calibrate",
    "tests.bot.slack.dying_bot",
    "tests.local.sizing.peaks",
    "tests.local.runs",
    "tests.peers.tinker_server",
    "trainers.door",
    "trainers.door.worker",
    "trainers.local",
    "trainers.local.architecture",
    "trainers.local.calibrate",
    "trainers.local.export",
    "trainers.local.train",
)
# These start no processes, so they need no fork server of their own.
WITHOUT_CHILDREN = ("tests.peers.tinker_server", "trainers.door.worker", "trainers.local.train")
XDIST_WORKER = ["-u", "-c", "import sys;exec(eval(sys.stdin.readline()))"]  # as execnet starts it
SPAWNED = "--multiprocessing-fork"  # the last argument of a process that multiprocessing spawns
READ_AT_IMPORT = ("HF_", "HUGGINGFACE_", "LD_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "TRANSFORMERS_")
LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)
MADV_COLLAPSE = 25  # madvise(2)
HUGE_PAGE_BYTES = 2 << 20
MESSAGE_BYTES, MESSAGE_FILES = 1 << 17, 32
FREE_FILES, MOST_FILES = 1 << 9, 1 << 16
ROOM = " " * 4096
"""The fork server's last argument, over which its children write their own arguments."""
_CURRENT = subprocess.Popen._execute_child  # type: ignore[attr-defined]
UNCHANGED = getattr(_CURRENT, "unchanged", _CURRENT)
SIGNATURE = inspect.signature(UNCHANGED)
PIPE_ENDS = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


class ForkServer:
    """Is reached through `link`, and ends with the process that it forks children for."""

    def __init__(self, link: socket.socket, process: subprocess.Popen[bytes] | None = None) -> None:
        self._link = link
        self._process = process
        self._lock = threading.Lock()

    def start(self, call: Mapping[str, Any]) -> int:
        """Returns the child's pid."""
        ends = (call["p2cread"], call["c2pwrite"], call["errwrite"])
        files = {number: number if end == -1 else end for number, end in enumerate(ends)}
        files |= {file: file for file in call["pass_fds"]}
        return self.fork(
            call["args"],
            files,
            call["env"],
            call["cwd"],
            has_own_session=call["start_new_session"],
            has_own_group=call["process_group"] == 0,
        )

    def fork(
        self,
        args: Sequence[object],
        files: Mapping[int, int],
        environment: Mapping[str, str] | None = None,
        folder: object = None,
        *,
        has_own_session: bool = False,
        has_own_group: bool = False,
    ) -> int:
        """Returns the pid of a child in which each key of `files` is the file that its value is here. The fork server's
        child forks it and ends, so that it becomes ours."""
        order = {
            "args": [str(argument) for argument in args[1:]],
            "environment": dict(os.environ if environment is None else environment),
            "files": list(files),
            "folder": str(folder or Path.cwd()),
            "has_own_group": has_own_group,
            "has_own_session": has_own_session,
            "limits": [resource.getrlimit(limit) for limit in LIMITS],
            "umask": _umask(),
        }
        with self._lock:
            _adopt_orphans(True)
            try:
                socket.send_fds(self._link, [json.dumps(order).encode()], list(files.values()))
                return int(self._link.recv(MESSAGE_BYTES))
            finally:
                _adopt_orphans(False)


def fork_children(environment: Mapping[str, str], server: Callable[[], ForkServer]) -> None:
    """Makes `subprocess.Popen` fork from now on. `environment` is the one in which the server imports. A forked worker
    of pytest-xdist already has its own server."""
    if subprocess.Popen._execute_child is not UNCHANGED:  # type: ignore[attr-defined]
        return

    def execute(self: Any, *arguments: Any) -> None:
        call = SIGNATURE.bind(self, *arguments).arguments
        if not _can_be_forked(call, environment):
            UNCHANGED(self, *arguments)
            return
        self.pid = server().start(call)
        self._child_created = True
        self._close_pipe_fds(*(call[name] for name in PIPE_ENDS))

    execute.unchanged = UNCHANGED  # type: ignore[attr-defined]
    execute.server = server  # type: ignore[attr-defined]
    subprocess.Popen._execute_child = execute  # type: ignore[attr-defined]


@contextmanager
def forked_spawns() -> Iterator[None]:
    """In the block, what multiprocessing spawns is forked too. Only in workers of pytest-xdist: they have a fork server
    anyway, while to start one takes longer than to spawn."""
    server: Callable[[], ForkServer] | None = getattr(subprocess.Popen._execute_child, "server", None)  # type: ignore[attr-defined]
    if server is None or "PYTEST_XDIST_WORKER" not in os.environ:
        yield
        return
    spawn: Callable[..., int] = util.spawnv_passfds  # type: ignore[attr-defined]

    def fork(path: bytes, args: Sequence[str], files: Sequence[int]) -> int:
        if args[-1] != SPAWNED or max(files) >= FREE_FILES:
            return spawn(path, args, files)
        return server().fork(args, {file: file for file in (0, 1, 2, *files)})

    with patch.object(util, "spawnv_passfds", fork):
        yield


def start_server(environment: Mapping[str, str], tests: Sequence[str] = ()) -> ForkServer:
    """`tests` are pytest's arguments for the tests to import, if it is to fork workers that run them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        number, null = theirs.fileno(), subprocess.DEVNULL
        command = [sys.executable, "-m", "tests.forked", str(number), *tests, ROOM]
        process = subprocess.Popen(
            command, pass_fds=[number], cwd=ROOT, env=environment, stdin=null, stdout=null
        )
    return ForkServer(ours, process)


def main(link: socket.socket, tests: Sequence[str]) -> None:
    servers: list[ForkServer] = []
    fork_children(dict(os.environ), lambda: servers[0])
    _import(tests)
    order = _serve(link)
    while _starts_processes(order["args"]):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork():  # this child gets its own fork server as long as it has no threads
            theirs.close()
            servers.append(ForkServer(ours))
            break
        ours.close()
        # What the program closes, such as a lock, isn't to stay open here.
        os.closerange(3, theirs.fileno())
        os.closerange(theirs.fileno() + 1, MOST_FILES)
        order = _serve(theirs)
    _run(order["args"])


def _starts_processes(args: Sequence[str]) -> bool:
    return args[0] != "-m" or args[1] not in WITHOUT_CHILDREN


def _import(tests: Sequence[str]) -> None:
    from trainers.local.launch import quick_imports

    with quick_imports():
        import trainers.local.api.server
        import trainers.local.architecture
        import trainers.local.training.methods.dpo
        import trainers.local.training.methods.grpo
        import trainers.local.training.sweeps.sweep  # noqa: F401

        _prepare_loading()
        if tests:
            import pytest
            import scipy.stats  # noqa: F401
            import sklearn.svm  # noqa: F401 - imported in functions, which most workers call

            from trainers.models.tokens import count_texts

            count_texts([""])  # loads the vocabulary, a third of a second
            if importlib.util.find_spec("tinker"):
                import tinker  # noqa: F401 - which takes three seconds, in each test with its stand-in
            # What can't be collected is reported by the workers, which try again.
            pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider", "-p", "no:faulthandler", *tests])
    gc.collect()
    gc.freeze()
    _use_huge_pages()


def _use_huge_pages() -> None:
    """Moves this process's memory into pages of 2 MB, so that a fork copies three hundred entries instead of 150,000,
    which takes a third of the time. A kernel that can't do it (Linux before 6.1) refuses, and forks only take longer.
    """
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        addresses, rights, *_ = line.split()
        start, end = (int(address, 16) for address in addresses.split("-"))
        first = -(-start // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES
        bytes_in_pages = end // HUGE_PAGE_BYTES * HUGE_PAGE_BYTES - first
        if rights == "rw-p" and bytes_in_pages > 0:
            advise(first, bytes_in_pages, MADV_COLLAPSE)


def _prepare_loading() -> None:
    """Does here what every child would do when it first loads a model: transformers compiles a thousand patterns for
    weights' names, which takes a tenth of a second, and imports the model's code."""
    import transformers.models.llama.modeling_llama  # noqa: F401 - the toys' family
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("llama")


def _serve(link: socket.socket) -> dict[str, Any]:
    """Returns only in a child, with its order."""
    # From Python 3.12 on, a fork warns of threads. Those here are PyTorch's idle ones, which each child starts itself.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    while True:
        message, files, _, _ = socket.recv_fds(link, MESSAGE_BYTES, MESSAGE_FILES)
        if not message:
            os._exit(0)
        reader, writer = os.pipe()
        between = os.fork()
        if between == 0:
            forker = os.getpid()
            if os.fork():
                os._exit(0)
            link.close()
            order: dict[str, Any] = json.loads(message)
            if order["has_own_session"]:  # before anybody knows its pid and may end its group
                os.setsid()
            elif order["has_own_group"]:
                os.setpgid(0, 0)
            os.write(writer, str(os.getpid()).encode())
            # It goes on once its parent has adopted it, or init has, if the parent was killed meanwhile.
            while os.getppid() == forker:
                time.sleep(0.0005)
            _become(order, files)
            return order
        pid = os.read(reader, MESSAGE_BYTES)
        os.waitpid(between, 0)
        for number in (reader, writer, *files):
            os.close(number)
        link.send(pid)


def _become(order: Mapping[str, Any], files: Sequence[int]) -> None:
    moved = [
        fcntl.fcntl(file, fcntl.F_DUPFD, FREE_FILES) for file in files
    ]  # out of the way of their new numbers
    os.closerange(0, FREE_FILES)
    for number, file in zip(order["files"], moved, strict=True):
        os.dup2(file, number)
    os.closerange(FREE_FILES, MOST_FILES)
    for limit, numbers in zip(LIMITS, order["limits"], strict=True):
        resource.setrlimit(limit, numbers)
    os.umask(order["umask"])
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    _show_arguments([sys.executable, *order["args"]])


def _show_arguments(arguments: Sequence[str]) -> None:
    """Writes them where /proc/PID/cmdline reads them."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end of proc(5)
    written = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    if 0 < start < end:  # both are 0 where the kernel doesn't say
        ctypes.memmove(start, written[: end - start - 1].ljust(end - start, b"\0"), end - start)


def _run(args: Sequence[str]) -> None:
    """Runs the program like the interpreter, without the half second in which it would tear down its modules."""
    code: Any = 0
    try:
        if args == XDIST_WORKER:
            sys.argv = ["-c"]
            exec(eval(sys.stdin.readline()), {"__name__": "__main__"})  # noqa: S102, S307 - execnet's own line
        elif args[-1] == SPAWNED:
            sys.argv = list(args[-2:])
            exec(args[-2], {"__name__": "__main__"})  # noqa: S102 - multiprocessing's own line
        elif args[0] == "-m":
            sys.argv = list(args[1:])
            for name in (args[1], f"{args[1]}.__main__"):
                sys.modules.pop(name, None)
            runpy.run_module(args[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv, sys.path[0] = list(args), str(Path(args[0]).resolve().parent)
            runpy.run_path(args[0], run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code & 0xFF)


def _can_be_forked(call: Mapping[str, Any], environment: Mapping[str, str]) -> bool:
    def imports_by(variables: Mapping[str, str]) -> dict[str, str]:
        read = {name: text for name, text in variables.items() if name.startswith(READ_AT_IMPORT)}
        if read.get("PYTHONPATH") == str(ROOT):  # where the server finds modules anyway
            del read["PYTHONPATH"]
        return read

    args = call["args"]
    if not isinstance(args, list | tuple) or args[0] != sys.executable or len(args) < 2:
        return False
    if call["preexec_fn"] or call["executable"] or call["shell"] or call["process_group"] > 0:
        return False
    if max(call["pass_fds"], default=0) >= FREE_FILES:
        return False
    is_named = (
        str(args[1]).startswith("benchmarks/")
        or (args[1] == "-m" and args[2] in FORKED)
        or list(args[1:]) == XDIST_WORKER
    )
    return is_named and imports_by(os.environ if call["env"] is None else call["env"]) == imports_by(
        environment
    )


def _adopt_orphans(adopts: bool) -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(adopts))


def _umask() -> int:
    """Reads the umask without changing it for other threads."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:-1])
