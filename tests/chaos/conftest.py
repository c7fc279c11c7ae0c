"""The worlds of the bot's stories, and a toy model for our own trainer."""

from tests.bot.conftest import make_world, shared_workers, world
from tests.local.conftest import tiny_model_dir

__all__ = ["make_world", "shared_workers", "tiny_model_dir", "world"]
