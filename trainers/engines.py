"""Which version of another engine is installed in the trainer's data folder: read off its files, nothing is started."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = "engines"
"""In the trainer's data folder; engines/NAME/env is a virtual environment. Each engine's package has its name."""


def found_version(env: Path, package: str) -> str | None:
    """By the name of the folder that pip writes last."""
    folders = env.glob(f"lib/python3*/site-packages/{package}-*.dist-info")
    names = [re.fullmatch(rf"{package}-(.+)\.dist-info", folder.name) for folder in folders]
    return next((name[1] for name in names if name), None)
