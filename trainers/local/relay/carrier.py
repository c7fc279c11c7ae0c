"""Brings what a training process writes into its folder back to the trainer, piece by piece, the end mark last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainers.local.relay.link import Link
from trainers.local.relay.paths import CHECKPOINT, hidden
from trainers.local.spool import read_events, replace_json
from trainers.local.training.pauses import MARK

SMALL = ("base.json", "progress.json", "results.csv", "mlflow.json")
END_MARKS = ("DONE", "FAILED")
EVENTS_AT_ONCE = 500


class Carrier:
    """Of one attempt. `base`: the base model's name on the trainer, which adapters tell instead of the node's folder.

    What lies in `folder` already came from the trainer.
    """

    def __init__(self, link: Link, folder: Path, base: str) -> None:
        self._link = link
        self._folder = folder
        self._base = base
        self._events = 0
        self._is_paused = False
        self._checkpoints = set(self._complete())
        self._stamps = {path: _stamp(path) for path in self._files()}

    def carry(self, *, is_over: bool) -> None:
        """Marks the folder where the trainer wants a pause. `is_over`: the process has ended, its result can go too.

        Raises Away, NotWanted. A second call goes on where the first broke off.
        """
        for name in self._complete():
            if name not in self._checkpoints:
                self._send_checkpoint(name)
        for path in self._files():
            self._send_changed(path)
        if self._tell() and not self._is_paused:
            self._is_paused = True
            replace_json(self._folder / MARK, {"at": None})
        if is_over:
            self._send_end()

    def _complete(self) -> list[str]:
        found = self._folder.glob("checkpoints/step-*")
        return sorted(path.name for path in found if CHECKPOINT.fullmatch(path.name))

    def _files(self) -> list[Path]:
        """What is small and changes: also a checkpoint's position, which a validation adds to."""
        named = [self._folder / name for name in SMALL if (self._folder / name).exists()]
        positions = [self._folder / "checkpoints" / name / "checkpoint.json" for name in self._checkpoints]
        return [
            *(path for path in positions if path.exists()),
            *named,
            *sorted(self._folder.glob("tensorboard/events.out.tfevents.*")),
        ]

    def _send_changed(self, path: Path) -> None:
        try:
            stamp = _stamp(path)
            if self._stamps.get(path) != stamp:
                self._link.upload(path.relative_to(self._folder).as_posix(), path)
                self._stamps[path] = stamp
        except FileNotFoundError:  # a checkpoint that was replaced by newer ones meanwhile
            return

    def _send_checkpoint(self, name: str) -> None:
        try:
            self._send_folder(f"checkpoints/{name}")
        except FileNotFoundError:  # replaced by newer ones meanwhile
            return
        self._checkpoints.add(name)
        path = self._folder / "checkpoints" / name / "checkpoint.json"
        self._stamps.pop(path, None)  # it may have changed since

    def _send_folder(self, folder: str) -> None:
        for path in sorted((self._folder / folder).iterdir()):
            self._link.upload(f"{hidden(folder)}/{path.name}", self._content(path))
        self._link.complete(folder, keep=self._complete())

    def _content(self, path: Path) -> Path | bytes:
        if path.name != "adapter_config.json":
            return path
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return json.dumps({**config, "base_model_name_or_path": self._base}, indent=2).encode()

    def _tell(self) -> bool:
        events = read_events(self._folder)
        while True:
            batch = events[self._events : self._events + EVENTS_AT_ONCE]
            self._events, wants_pause = self._link.tick(batch, self._events)
            if self._events >= len(events):
                return wants_pause

    def _send_end(self) -> None:
        if (self._folder / "DONE").exists():
            self._send_folder("adapter")
        own = (
            END_MARKS if self._is_paused else (*END_MARKS, MARK)
        )  # the process pauses by itself on a full disk
        for name in own:
            if (self._folder / name).exists():
                self._link.upload(name, self._folder / name)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size
