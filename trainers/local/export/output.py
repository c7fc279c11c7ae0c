"""The folder of an export: checks that it is empty and has space on its disk, fills it beside its place and renames it
once it is checked. Also the two exceptions of an export."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ExportRefused(Exception):
    """The export can't be made. The message can be shown to a user."""


class AnswersDiffer(ExportRefused):
    """The export was written, loaded again and answered otherwise than our server; nothing of it was kept."""


SPARE_BYTES = 64 * 1024 * 1024  # for the tokenizer, the card, and what else is written to the disk meanwhile


def check_out(out: Path) -> None:
    """Raises ExportRefused."""
    if out.is_symlink() or out.is_file():
        raise ExportRefused(f"{out} is a file or a link. Name a folder that doesn't exist yet, with --out.")
    if out.exists() and any(out.iterdir()):
        raise ExportRefused(
            f"The folder {out} is not empty, and nothing in it is overwritten. Name another with --out."
        )
    blocking = next(
        (folder for folder in out.resolve().parents if folder.exists() and not folder.is_dir()), None
    )
    if blocking:
        raise ExportRefused(f"{blocking} is a file, so {out} can't be made. Name another folder with --out.")
    above = nearest_existing_folder(out)
    if not os.access(above, os.W_OK):
        raise ExportRefused(f"Nothing may be written in {above}. Name another folder with --out.")


def check_space(out: Path, needed: int) -> None:
    """`needed` in bytes. Raises ExportRefused."""
    free = shutil.disk_usage(nearest_existing_folder(out)).free
    if free < needed + SPARE_BYTES:
        raise ExportRefused(
            f"The export needs {_gb(needed + SPARE_BYTES)} on the disk of {out}, and {_gb(free)} are free. Free some "
            "space, or name a folder on another disk with --out."
        )


def nearest_existing_folder(out: Path) -> Path:
    """Returns `out` itself, or the nearest folder above it that exists."""
    return next(folder for folder in (out, *out.resolve().parents) if folder.is_dir())


@contextmanager
def folder_when_complete(out: Path) -> Iterator[Path]:
    """Yields a folder beside `out` that is renamed to it at the end, and deleted where something goes wrong."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        try:
            temporary.rename(out)
        except OSError as error:
            raise ExportRefused(f"{out} was filled by somebody else meanwhile: {error.strerror}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
