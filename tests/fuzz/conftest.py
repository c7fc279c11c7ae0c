"""The stories' world, for payloads."""

from tests.bot.conftest import make_world, shared_workers, world

__all__ = ["make_world", "shared_workers", "world"]
