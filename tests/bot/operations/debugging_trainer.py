"""`python -m tests.bot.operations.debugging_trainer`: `python -m trainers.local` with its log at DEBUG."""

from __future__ import annotations

import logging
import runpy
import sys

if __name__ == "__main__":
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    runpy.run_module("trainers.local", run_name="__main__", alter_sys=True)
