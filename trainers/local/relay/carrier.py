"""Brings what a training process writes into its folder back to the trainer, piece by piece, the end mark last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from trainers.local.relay.link import Link
from trainers.local.relay.paths import changing, complete_folders, hidden
from trainers.local.spool import read_events, replace_json
from trainers.local.training.pauses import MARK

END_MARKS = ("DONE", "FAILED")
POSITION = "checkpoint.json"  # a checkpoint's, to which a validation adds
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
        self._folders = set(complete_folders(folder))
        self._stamps = {path: _stamp(folder / path) for path in self._changing()}

    def carry(self, *, is_over: bool) -> None:
        """Marks the folder where the trainer wants a pause. `is_over`: the process has ended, its result can go too.

        Raises Away, NotWanted. A second call goes on where the first broke off.
        """
        for folder in complete_folders(self._folder):
            if folder not in self._folders:
                self._send_checkpoint(folder)
        for path in self._changing():
            self._send_changed(path)
        if self._tell() and not self._is_paused:
            self._is_paused = True
            replace_json(self._folder / MARK, {"at": None})
        if is_over:
            self._send_end()

    def _changing(self) -> list[str]:
        positions = [f"{folder}/{POSITION}" for folder in self._folders]
        return [path for path in positions if (self._folder / path).exists()] + changing(self._folder)

    def _send_changed(self, path: str) -> None:
        try:
            stamp = _stamp(self._folder / path)
            if self._stamps.get(path) != stamp:
                self._link.upload(path, self._folder / path)
                self._stamps[path] = stamp
        except FileNotFoundError:  # taken away meanwhile
            return

    def _send_checkpoint(self, folder: str) -> None:
        try:
            self._send_folder(folder)
        except FileNotFoundError:  # replaced by newer ones meanwhile
            return
        self._folders.add(folder)

    def _send_folder(self, folder: str) -> None:
        for path in sorted((self._folder / folder).iterdir()):
            self._link.upload(f"{hidden(folder)}/{path.name}", self._content(path))
        self._link.complete(folder, keep=complete_folders(self._folder))

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
