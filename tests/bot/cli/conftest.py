"""A fixture for commands that check a file before they do what is tested."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bot.cli import datasets
from trainers.dataset import CheckSettings, Columns, Report, check_file
from trainers.dataset.rows import ignore_message

_checked: dict[tuple[object, ...], tuple[Report, dict[str, bytes]]] = {}


@pytest.fixture
def checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is checked by the first command that reads it. Later ones get copies of its report and its parts."""
    monkeypatch.setattr(datasets, "check_file", _check_once)


def _check_once(
    path: Path, name: str, columns: Columns, out_dir: Path | None, seed: int, settings: CheckSettings
) -> Report:
    if settings.local_models or settings.previous or settings.holdout:
        return check_file(path, name, columns, out_dir, seed, settings)
    options = repr(replace(settings, on_progress=ignore_message))
    key = (path.read_bytes(), name, columns, out_dir is None, seed, options)
    if key not in _checked:
        report = check_file(path, name, columns, out_dir, seed, settings)
        _checked[key] = (report, _contents(out_dir))
    report, parts = _checked[key]
    if out_dir is not None:
        for part, content in parts.items():
            (out_dir / part).write_bytes(content)
    return report


def _contents(folder: Path | None) -> dict[str, bytes]:
    if folder is None:
        return {}
    return {file.name: file.read_bytes() for file in folder.iterdir()}
