"""`python vllm_serve.py serve …` inside vLLM's own environment: its command line, ended when our trainer is killed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2)

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == 1:  # killed before that
            sys.exit(143)
    from vllm.entrypoints.cli.main import main

    main()
