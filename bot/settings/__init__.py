"""The settings: finetune.toml and the environment, read once at the start.

tables      the keys, their defaults, and all settings together
policy      [people] and [policy]: who may do what
toml_file   a TOML file with the line of each key, for reports of mistakes
loader      reads the file and the environment, and checks what several keys say together
model_ends  what providers announced about their models' ends, kept in the data folder
"""

from bot.settings.loader import APP_TOKEN as APP_TOKEN
from bot.settings.loader import BOT_TOKEN as BOT_TOKEN
from bot.settings.loader import CONFIG_FILE as CONFIG_FILE
from bot.settings.loader import SettingsProblems as SettingsProblems
from bot.settings.loader import collect_secrets as collect_secrets
from bot.settings.loader import has_presidio as has_presidio
from bot.settings.loader import load_settings as load_settings
from bot.settings.loader import no_presidio as no_presidio
from bot.settings.model_ends import listed_models_of as listed_models_of
from bot.settings.model_ends import models_listed_before as models_listed_before
from bot.settings.model_ends import store_model_ends as store_model_ends
from bot.settings.model_ends import with_announced_ends as with_announced_ends
from bot.settings.tables import HOST as HOST
from bot.settings.tables import LEAST_WATCHDOG_S as LEAST_WATCHDOG_S
from bot.settings.tables import PACKAGED_TARGET as PACKAGED_TARGET
from bot.settings.tables import SLACK_API as SLACK_API
from bot.settings.tables import AssistantSettings as AssistantSettings
from bot.settings.tables import Blocks as Blocks
from bot.settings.tables import BudgetSettings as BudgetSettings
from bot.settings.tables import ServingSettings as ServingSettings
from bot.settings.tables import Settings as Settings
from bot.settings.tables import SlackSettings as SlackSettings
from bot.settings.tables import TrainerSettings as TrainerSettings
