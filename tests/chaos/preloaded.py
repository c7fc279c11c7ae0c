"""What the fork server imports once, so that a process that it forks starts within milliseconds instead of a second."""

# ruff: noqa: F401

import gc

import matplotlib.figure
import openai
import scipy.stats

import bot.app
import bot.services.evidence.evaluation_worker
import bot.services.evidence.judge_worker
import bot.settings
import tests.chaos.bot_process
import tests.chaos.crash
import tests.chaos.own_trainer
import trainers.evaluation.comparison
import trainers.local.api.server

# The SDK imports a resource at its first use.
with openai.OpenAI(api_key="unused") as client:
    assert client.files and client.fine_tuning.jobs.checkpoints and client.chat.completions
gc.freeze()  # else each fork's first collection copies all these pages
