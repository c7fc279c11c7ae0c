"""The stories' world, for deliveries from Slack."""

from tests.bot.conftest import make_world, shared_workers, world

__all__ = ["make_world", "shared_workers", "world"]
