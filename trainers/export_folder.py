"""The folder of an export: checks that it is empty and its disk has space, and renames it into place once the export is
checked. Also the two exceptions of an export. Imports nothing heavy."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class ExportRefused(Exception):
    """The export can't be made. The message may be shown to a user."""


class AnswersDiffer(ExportRefused):
    """The exported model answered differently from our server, so the export was deleted."""


SPARE_BYTES = 64 * 1024 * 1024  # for the tokenizer, the card, and other programs' files


def check_out(out: Path) -> None:
    """Raises ExportRefused if `out` can't become the export's folder."""
    if out.is_symlink() or out.is_file():
        raise ExportRefused(f"{out} is a file or a link. Name a folder that doesn't exist yet, with --out.")
    if out.exists() and any(out.iterdir()):
        raise ExportRefused(
            f"The folder {out} is not empty, and an export overwrites nothing. Name another with --out."
        )
    blocking = next(
        (folder for folder in out.resolve().parents if folder.exists() and not folder.is_dir()), None
    )
    if blocking:
        raise ExportRefused(
            f"{blocking} is a file, so {out} can't be created. Name another folder with --out."
        )
    above = nearest_existing_folder(out)
    if not os.access(above, os.W_OK):
        raise ExportRefused(f"The folder {above} is not writable. Name another folder with --out.")


def check_space(out: Path, needed: int) -> None:
    """Raises ExportRefused if the disk of `out` has less than `needed` bytes free."""
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
def folder_when_complete(out: Path, faults: tuple[type[Exception], ...] = (OSError,)) -> Iterator[Path]:
    """Yields a folder next to `out`, which is renamed to `out` at the end, or deleted if anything goes wrong. `faults`
    are the exceptions by which a library that writes reports a full disk."""
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        for path in temporary.rglob("*"):  # some libraries write files that only their owner may read
            path.chmod(path.stat().st_mode | 0o044)
        try:
            temporary.rename(out)
        except OSError as error:
            raise ExportRefused(
                f"{out} can't be replaced, perhaps it was filled meanwhile: {error.strerror}."
            ) from error
    except faults as error:
        raise ExportRefused(
            f"Writing the export next to {out}: {error}. If the disk is full, free some space, or name a folder on "
            "another disk with --out."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _gb(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
