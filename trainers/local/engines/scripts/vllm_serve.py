"""Runs in vLLM's environment: `python vllm_serve.py serve …` is vLLM's command line, which ends if our trainer is
killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:  # our trainer was killed before the call above
            sys.exit(143)
    from vllm.entrypoints.cli.main import main

    main()
