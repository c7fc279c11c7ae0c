"""What the fork server imports once, so that a life of the bot begins in a fifth of a second instead of in one."""

import inspect

import matplotlib.pyplot  # noqa: F401
import openai
import scipy.stats  # noqa: F401

import bot.app
import bot.settings
import bot.work.judging
import bot.work.verdicts
import trainers.measuring.ladder  # noqa: F401

inspect.stack()  # Bolt's App asks for it: a quarter of a second the first time, and cached from then on
openai.DefaultHttpxClient().close()  # imports its transport
