"""What the fork server of runs.py has imported before it forks."""

from __future__ import annotations

import gc

from trainers.local.launch import quick_imports

with quick_imports():
    import trainers.local.job_directory
    import trainers.local.training.methods.dpo  # noqa: F401 - a fixture
gc.freeze()
