"""Writes the lock files for installations: the tested versions, with the sha256 of each file. `make lock`

    locks/bot.txt        the bot, which trains elsewhere
    locks/trainer.txt    the bot and its own trainer, with PyTorch's build from the package index, which is that for
                         CUDA on Linux, and with Liger's kernels there

Install with `pip install --require-hashes -r deploy/locks/bot.txt`, which refuses any other file, then the project
itself with `--no-deps --no-build-isolation`; its build requirements are in the locks too. The versions are those of
constraints.txt, and the installed one of PyTorch.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "deploy" / "locks"
EXTRAS: dict[str, tuple[str, ...]] = {"bot": ("slack",), "trainer": ("slack", "local", "liger")}


def main(uv: str) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    LOCKS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        pins, builds = Path(folder) / "pins.txt", Path(folder) / "builds.in"
        pins.write_text(f"torch=={version('torch').partition('+')[0]}\n", encoding="utf-8")
        builds.write_text("\n".join(project["build-system"]["requires"]), encoding="utf-8")
        for name, extras in EXTRAS.items():
            code = lock(uv, LOCKS / f"{name}.txt", extras, pins, builds)
            if code:
                return code
    return 0


def lock(uv: str, to: Path, extras: tuple[str, ...], pins: Path, builds: Path) -> int:
    """Locks the versions for every platform and Python that the project supports. Returns uv's exit code."""
    command = [uv, "pip", "compile", "pyproject.toml", str(builds), "--output-file", str(to)]
    command += [
        "--universal",
        "--python-version",
        "3.11",
        "--constraint",
        "constraints.txt",
        "--constraint",
        str(pins),
    ]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url", "--quiet"]
    command += [word for extra in extras for word in ("--extra", extra)]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
