"""A plugin that runs in axolotl's environment and adds our callback to its trainer. The config names it."""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin
from callback import JobCallback


class JobPlugin(BasePlugin):
    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        return [JobCallback()]
