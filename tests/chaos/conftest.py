"""The worlds of the bot's stories, and a toy model for our own trainer."""

from tests.bot.conftest import kept_workers, make_world, world
from tests.local.conftest import tiny_model_dir

__all__ = ["kept_workers", "make_world", "tiny_model_dir", "world"]
