"""The questions about a dataset's held-out rows to a base model and to a tuned one, with the keys of their answers. A
measurement asks a base model the same, so that stored answers are reused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from bot.context import AppContext
from bot.llm_client import Question, key_of
from bot.services.datasets import dataset_worker, datasets
from bot.services.evidence.evaluation_worker import max_tokens
from trainers.dataset import Example
from trainers.evaluation import prompts
from trainers.evaluation.results import Candidate
from trainers.models.chat_parameters import thinking_tokens
from trainers.types import Message


def tuned_candidate(provider: str, model: str) -> Candidate:
    """Returns the candidate for a tuned model; `model` is its name at the provider. Its prompts are those of the
    training, without a list of labels."""
    return Candidate("tuned", f"{provider}/{model}")


def questions_of(
    context: AppContext,
    candidates: Sequence[Candidate],
    *,
    labels: tuple[str, ...],
    holdout_sha256: str,
    longest: int,
    answer_format: str = "",
) -> tuple[Mapping[Candidate, Sequence[str]], Callable[[frozenset[str]], Sequence[Question]]]:
    """Returns the keys of each candidate's answers, in the order of the held-out rows, and a function that builds the
    questions for given keys. The prompt of a base model ("zero") lists the labels, or has the `answer_format` if the
    row has no instructions; a tuned model knows them. `longest` is the most tokens of an answer without thinking."""
    files = context.settings.files
    most = {  # tokens of an answer, including those for thinking
        candidate: longest + thinking_tokens(context.settings.thinks(str(candidate.model)))
        for candidate in candidates
    }
    keys = {
        candidate: _keys(files, holdout_sha256, candidate, labels, most[candidate], answer_format)
        for candidate in candidates
    }

    def questions(wanted: frozenset[str]) -> Sequence[Question]:
        holdout = dataset_worker.examples(files, holdout_sha256)
        return [
            Question(
                key,
                str(candidate.model),
                str(candidate.model).split("/", 1)[1],
                _prompt(candidate, row, labels, answer_format),
                most[candidate],
                tools=prompts.tools_of(row),
            )
            for candidate in candidates
            for key, row in zip(keys[candidate], holdout, strict=True)
            if key in wanted
        ]

    return keys, questions


def longest_answer(context: AppContext, dataset_id: int, labels: Sequence[str]) -> int:
    """Returns the most tokens of an answer without thinking, the same as in a measurement of this version."""
    report = datasets.report_of(context.store.datasets.get(dataset_id))
    if report is None:  # it was deleted
        return max_tokens(labels, 0, None)
    return max_tokens(labels, report.tokens.answer_most, report.scoring)


@lru_cache(maxsize=64)
def _keys(
    files: Path,
    holdout_sha256: str,
    candidate: Candidate,
    labels: tuple[str, ...],
    most: int,
    answer_format: str,
) -> tuple[str, ...]:
    """Returns the keys of the questions about each held-out row. Cached, since computing them reads all rows."""
    keys = []
    for row in dataset_worker.examples(files, holdout_sha256):
        prompt = _prompt(candidate, row, labels, answer_format)
        keys.append(key_of(str(candidate.model), prompt, most, prompts.tools_of(row)))
    return tuple(keys)


def _prompt(
    candidate: Candidate, row: Example, labels: Sequence[str], answer_format: str
) -> tuple[Message, ...]:
    if candidate.kind == "zero":
        return prompts.zero_shot(row, labels, None, answer_format)
    return prompts.trained_prompt(row)
