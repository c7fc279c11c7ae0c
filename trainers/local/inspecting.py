"""Are the files of a job good enough to be trained on? Read once, before it may wait for a place."""

from __future__ import annotations

from pathlib import Path

from trainers.local.checks import MIN_TRAINING_EXAMPLES, refusal
from trainers.local.jobs import Failure, JobRecord


def file_failure(record: JobRecord) -> Failure | None:
    job = record.job
    pairs = job.method == "dpo"
    complaint = refusal(Path(job.training_file), MIN_TRAINING_EXAMPLES, pairs=pairs)
    if complaint is not None:
        return Failure(
            "invalid_training_file", f"The training file cannot be used. {complaint}", "training_file"
        )
    if job.validation_file is None:
        return None
    complaint = refusal(Path(job.validation_file), 1, pairs=pairs)
    if complaint is not None:
        text = f"The validation file cannot be used. {complaint}"
        return Failure("invalid_validation_file", text, "validation_file")
    return None
