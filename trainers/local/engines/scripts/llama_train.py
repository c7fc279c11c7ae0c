"""Runs in LLaMA-Factory's environment: `python train.py config.yml` is `llamafactory-cli train config.yml` with our
callback."""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from callback import JobCallback
from llamafactory.train.tuner import run_exp

if __name__ == "__main__":
    run_exp(yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8")), [JobCallback()])
