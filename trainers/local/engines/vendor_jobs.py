"""Jobs that are trained at a vendor, Tinker: which can be, the environment of the process that calls it, and the
deletion of what a job has left there. Trains nothing and loads no torch; vendor_runner.py does."""

from __future__ import annotations

import subprocess
from pathlib import Path

from trainers.host import TINKER_SETTINGS, child_environment
from trainers.local.engines.catalog import TINKER, engines_folder, find_installation
from trainers.local.engines.compatibility import Refusal
from trainers.local.engines.plan import OUTPUT, SCRIPTS, engine_folder
from trainers.local.job_directory import TrainingJob
from trainers.methods import HOSTED_BASE
from trainers.models.base_models import HUB_ID

CONFIG = "config.json"
FORGOTTEN = "forgotten"  # in the output folder: nothing of the job is left at the vendor
STATE_DAYS = 7  # how long a state stays there that nobody deletes
DELETION_S = 300.0


def hosted_base(job: TrainingJob) -> str:
    """Returns the base's name at Tinker: that in the job's metadata, or else the hub id that our trainer loads."""
    return job.metadata.get(HOSTED_BASE, job.base)


def refuse_job(job: TrainingJob) -> Refusal | None:
    """Returns why Tinker can't train this job whatever its settings are, or None."""
    if job.validation_file is not None:
        text = (
            "The engine tinker has no validations: they would be billed as well. Leave 'validation_file' out, or set "
            "engine to builtin."
        )
        return Refusal("engine_cannot", text, "validation_file")
    if not HUB_ID.fullmatch(hosted_base(job)):
        text = (
            f"The base {job.base_name} is a folder, so its name at Tinker is unknown. Give it as '{HOSTED_BASE}' in "
            "the job's metadata, like Qwen/Qwen3-8B."
        )
        return Refusal("engine_cannot", text, "model")
    return None


def vendor_environment() -> dict[str, str]:
    """Returns the environment of a process that calls the vendor. The key is nowhere else."""
    inherited = child_environment(*TINKER_SETTINGS)
    for name in ("PYTHONPATH", "PYTHONHOME"):
        inherited.pop(name, None)
    return inherited | {"TINKER_TELEMETRY": "0"}


def may_have_states(home: Path) -> bool:
    """True if states of a job may be at the vendor. `home` is the job's engine folder."""
    return (home / CONFIG).exists() and not (home / OUTPUT / FORGOTTEN).exists()


def delete_at_vendor(folder: Path) -> str | None:
    """Deletes what a job has left at the vendor of its engine. Returns None, or a sentence that says why it can't.
    `folder` is the job's."""
    home = engine_folder(folder)
    if not may_have_states(home):
        return None
    installation = find_installation(engines_folder(folder), TINKER)
    if installation is None:
        return (
            "The job's states at Tinker can't be deleted, since the engine is not installed any more. Run `finetune "
            "engines install tinker`, then try again."
        )
    script = SCRIPTS / "tinker_runs.py"
    done = subprocess.run(
        [str(installation.env / "bin" / "python"), str(script), CONFIG],
        cwd=home,
        env=vendor_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=DELETION_S,
        check=False,
    )
    if done.returncode == 0:
        return None
    reason = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1][:200]
    return f"The job's states at Tinker could not be deleted: {reason}. Try again in a minute."
