"""The prompts of a measurement's candidates, and our plain instruction for answers that are JSON objects.

A measurement, a search for a better prompt and the result of a run all read the instruction here, from the same
training rows, so that they ask a model the same and stored answers are reused.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path

from bot.values.evaluations import ComparisonPlan
from trainers.client import uploads
from trainers.dataset import DEFAULT_LIMITS, Example
from trainers.dataset.checks import Fault
from trainers.dataset.jsonl import parse_row
from trainers.evaluation import prompts
from trainers.evaluation.answer_format import MOST_ANSWERS, answer_format
from trainers.evaluation.results import Candidate
from trainers.evaluation.retrieval import Nearest
from trainers.types import Message

MOST_INSTRUCTIONS = 500  # rows that are compared; where they differ, these do


def build_prompts(
    candidate: Candidate,
    plan: ComparisonPlan,
    files: Path,
    train: Sequence[Example],
    holdout: Sequence[Example],
    nearest: Nearest | None,
    seed: int,
) -> list[tuple[Message, ...]]:
    """Returns the candidate's prompt for each held-out row. `nearest` is what a candidate with retrieval looks up."""
    fields = answer_format_of(plan, files)
    match candidate.kind:
        case "zero":
            return [prompts.zero_shot(row, plan.labels, plan.prompt, fields) for row in holdout]
        case "optimised":
            return [prompts.zero_shot(row, plan.labels, plan.optimised) for row in holdout]
        case "kshot":
            shots = prompts.balanced_shots(train, candidate.examples, seed)
            return [prompts.k_shot(row, plan.labels, plan.prompt, shots, fields) for row in holdout]
        case "retrieval" if nearest:
            if nearest.passages:
                both = zip(holdout, nearest.passages, strict=True)
                return [
                    prompts.with_passages(row, plan.labels, plan.prompt, shown, fields) for row, shown in both
                ]
            pairs = zip(holdout, nearest.rows, strict=True)
            return [prompts.k_shot(row, plan.labels, plan.prompt, shots, fields) for row, shots in pairs]
        case "tuned":
            return [prompts.trained_prompt(row) for row in holdout]
        case "classical" | "encoder" | "retrieval":
            raise ValueError(f"the candidate {candidate.kind} has no prompts")


def answer_format_of(plan: ComparisonPlan, files: Path) -> str:
    """Returns the instruction for the plan's answers, "" if they are not JSON objects."""
    return read_answer_format(files, plan.train_sha256) if plan.has_objects else ""


@lru_cache(maxsize=16)  # a run and a search need it at each step
def read_answer_format(files: Path, train_sha256: str) -> str:
    """Returns the instruction for answers like those of the first training rows; more are not read, because a run's
    result reads them while others wait. Raises FileChanged if the file no longer has this hash."""
    return answer_format([row.answer for row in _first_rows(files, train_sha256, MOST_ANSWERS)])


def read_instructions(files: Path, holdout_sha256: str) -> str | None:
    """Returns the instructions of the first held-out rows, "" if they have none, None if they differ. Raises
    FileChanged if the file no longer has this hash."""
    systems = {row.system for row in _first_rows(files, holdout_sha256, MOST_INSTRUCTIONS)}
    if len(systems) != 1:
        return None
    return systems.pop()


def _first_rows(files: Path, sha256: str, most: int) -> list[Example]:
    path = files / f"{sha256}.jsonl"
    uploads.check_sha256(path, sha256)
    with path.open("rb") as file:
        lines = list(islice(file, most))
    rows = [parse_row(number, line.strip(), DEFAULT_LIMITS) for number, line in enumerate(lines, 1)]
    return [row[1] for row in rows if not isinstance(row, Fault)]
