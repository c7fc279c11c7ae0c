"""Our plain instruction for a dataset whose answers are JSON objects.

A measurement, a search for a better prompt and the result of a run all read it here, from the same training rows, so
that they ask a model the same and stored answers are reused.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from pathlib import Path

from bot.values.evaluations import LadderPlan
from trainers import payloads
from trainers.dataset import DEFAULT_LIMITS
from trainers.dataset.checks import Fault
from trainers.dataset.jsonl import parse_row
from trainers.evaluation.answer_format import MOST_ANSWERS, answer_format


def answer_format_of(plan: LadderPlan, files: Path) -> str:
    """Returns the instruction for the plan's answers, "" if they are not JSON objects."""
    return read_answer_format(files, plan.train_sha256) if plan.has_objects else ""


@lru_cache(maxsize=16)  # a run and a search need it at each step
def read_answer_format(files: Path, train_sha256: str) -> str:
    """Returns the instruction for answers like those of the first training rows; more are not read, because a run's
    result reads them while others wait. Raises FileChanged if the file no longer has this hash."""
    path = files / f"{train_sha256}.jsonl"
    payloads.check_sha256(path, train_sha256)
    with path.open("rb") as file:
        lines = list(islice(file, MOST_ANSWERS))
    rows = [parse_row(number, line.strip(), DEFAULT_LIMITS) for number, line in enumerate(lines, 1)]
    return answer_format([row[1].answer for row in rows if not isinstance(row, Fault)])
