"""The use cases, one module for each subject: the only code that holds both the store and a trainer. A step
gathers, decides, records the intent, acts, records the outcome and returns a result."""

from __future__ import annotations


# Measurements before a run: the ladder and its judge, learning curves, documents, and what is known by
# now.


# What runs in worker processes: checking files, prompts, rung 0, judgements, plots.


# Asks models in threads, within the limits of each provider, and keeps every answer as it comes.
