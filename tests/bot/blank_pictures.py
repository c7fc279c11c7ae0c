"""Charts that are composed but not drawn, which took a tenth of all tests' time. No story looks at a picture.

tests/cards/test_charts.py draws every chart. This module is imported by worker processes, so it imports little.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar
from unittest.mock import patch

from matplotlib.figure import Figure
from PIL import Image

P = ParamSpec("P")
T = TypeVar("T")


def save_blank_pictures(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what `work` returns. Each figure that it saves is a blank PNG."""
    with (
        patch.object(Figure, "savefig", _save_blank),
        patch.object(Figure, "draw_without_rendering", lambda _: None),
    ):
        return work(*args, **kwargs)


def _save_blank(_: Figure, path: Path, **__: object) -> None:
    Image.new("RGB", (8, 8), "white").save(path)
