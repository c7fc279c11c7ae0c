"""The stories' world, for payloads."""

from tests.bot.conftest import kept_workers, make_world, world

__all__ = ["kept_workers", "make_world", "world"]
