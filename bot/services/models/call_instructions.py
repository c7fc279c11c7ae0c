"""How programs call what is in use: its name, the address in the settings, and the file of their key. Calls nothing."""

from __future__ import annotations

from bot.cards.models.call_instructions import Calling
from bot.rules.models.promotion import alias_for
from bot.settings import Settings
from trainers.recipes.folder import RecipeFolder


def calling_of(settings: Settings, dataset: str) -> Calling:
    key_file = RecipeFolder(settings.recipes).key_path.resolve()
    return Calling(alias_for(dataset), settings.serving.base_url, str(key_file))
