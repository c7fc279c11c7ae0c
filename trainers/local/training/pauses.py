"""Does somebody want this run to pause? The server's mark PAUSED in the job's folder says so."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainers.local.spool import append_event, replace_json

MARK = "PAUSED"


class TrainingPaused(Exception):
    """The run stands where a later one goes on."""


@dataclass(frozen=True)
class Pauses:
    folder: Path

    def look(self) -> None:
        """Raises TrainingPaused. Asked at every part of a step: 2 microseconds each."""
        if self.is_wanted:
            raise TrainingPaused

    @property
    def is_wanted(self) -> bool:
        return (self.folder / MARK).exists()


def pause_for_disk(folder: Path, error: OSError) -> None:
    """A full disk costs no work: the job waits for space and for being resumed. Raises OSError where even the mark
    finds no room."""
    replace_json(folder / MARK, {"at": None})
    text = (
        f"The disk is full: {error}. The job is paused: free some space and resume it, from its checkpoint."
    )
    append_event(folder, text, level="error", state="paused")
