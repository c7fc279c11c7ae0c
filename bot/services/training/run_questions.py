"""What answers a run's held-out rows: the tuned model and what it is compared with, their questions and the keys of the
answers. A measurement asks a base model the same, so that stored answers are reused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from bot.context import AppContext
from bot.llm_client import Question, key_of
from bot.rules.plans import Plan
from bot.services.datasets import dataset_worker, datasets
from bot.services.datasets.dataset_worker import SEED
from bot.services.evidence import evaluation_worker
from bot.services.evidence.candidate_prompts import read_answer_format
from bot.services.measurement import free_encoder
from bot.services.measurement.evaluation_engine import Evaluation
from bot.services.measurement.judgements import ResultStep
from bot.values.runs import Before
from trainers.dataset import Example
from trainers.dataset.rows import has_own_instructions
from trainers.evaluation import prompts
from trainers.evaluation.results import CLASSICAL, ENCODER, Candidate
from trainers.methods import METHODS
from trainers.models.chat_parameters import thinking_tokens
from trainers.types import Message


def before_training(step: ResultStep) -> Before:
    """Returns what the tuned model is compared with."""
    method = step.plan.method
    if step.progress.is_base_unasked:
        return "classical"
    if step.plan.starts_from is not None:
        return "start"
    if not METHODS[method].is_for_encoders:
        return "base"
    if method == "head":  # what it trains is the free encoder itself
        return "classical"
    if step.progress.no_encoder:
        return "classical"
    return "encoder"


def evaluation_of(step: ResultStep) -> Evaluation:
    """Returns the evaluation of what answered before the training and of the tuned model, in this order. The free
    encoder has no keys before they were loaded."""
    run = step.run
    plan = step.plan
    before = before_training(step)
    tuned = _tuned_candidate(run.provider, tuned_model(step))
    models_to_ask = [tuned]
    answer_format = ""
    if before in ("base", "start"):
        models_to_ask = [asked_before(plan), tuned]
    if before == "base":
        answer_format = _answer_format(step)
    keys, questions = _questions_of(
        step.context,
        models_to_ask,
        labels=plan.labels,
        holdout_sha256=plan.holdout_sha256,
        longest=_longest_answer(step.context, run.dataset_id, plan.labels),
        answer_format=answer_format,
    )
    if before == "encoder":
        keys = {ENCODER: free_encoder.stored_keys(step), **keys}
    elif before == "classical":
        rows = len(keys[tuned])
        classical = evaluation_worker.classical_keys(plan.train_sha256, plan.holdout_sha256, rows, SEED)
        keys = {CLASSICAL: classical, **keys}
    return Evaluation(step.owner, keys, questions, since=run.state_since)


def asked_before(plan: Plan) -> Candidate:
    """Returns the model that is asked as what answered before the training: the tuned model from which it went on, else
    the untuned base."""
    if plan.starts_from is not None:
        return _tuned_candidate(plan.provider, plan.starts_from.provider_model)
    if plan.hosting is not None and plan.hosting.by_token is not None:
        # Our own trainer may have no machine that could answer for it.
        terms = plan.hosting.by_token
        return Candidate("zero", f"{terms.provider}/{terms.base_model}")
    return Candidate("zero", f"{plan.provider}/{plan.base_model}")


def names_fields(step: ResultStep) -> bool:
    """True if the base model's prompt names the fields of the answer where the tuned model's does not."""
    if before_training(step) != "base" or not _answer_format(step):
        return False
    rows = dataset_worker.examples(step.context.settings.files, step.plan.holdout_sha256)
    return not all(map(has_own_instructions, rows))


def tuned_model(step: ResultStep) -> str:
    """Returns the name of the tuned model at the provider."""
    model = step.context.store.model(str(step.run.model))
    if model is None:
        raise KeyError(step.run.model)
    return model.provider_model


def _answer_format(step: ResultStep) -> str:
    """Returns the default instruction of the base model, the same as in a measurement of this version, so that its
    answers are not paid for twice. It is read from the version's own training rows: those of a run may be pairs."""
    context = step.context
    report = datasets.report_of(context.store.datasets.get(step.run.dataset_id))
    if report is None or report.scoring != "json" or step.plan.labels:
        return ""
    return read_answer_format(context.settings.files, str(report.train_sha256))


def _tuned_candidate(provider: str, model: str) -> Candidate:
    """Returns the candidate for a tuned model; `model` is its name at the provider. Its prompts are those of the
    training, without a list of labels."""
    return Candidate("tuned", f"{provider}/{model}")


def _questions_of(
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
    most = {}  # tokens of an answer, including those for thinking
    for candidate in candidates:
        thinks = context.settings.thinks(str(candidate.model))
        most[candidate] = longest + thinking_tokens(thinks)
    keys = {
        candidate: _keys(files, holdout_sha256, candidate, labels, most[candidate], answer_format)
        for candidate in candidates
    }

    def questions(wanted: frozenset[str]) -> Sequence[Question]:
        holdout = dataset_worker.examples(files, holdout_sha256)
        result = []
        for candidate in candidates:
            model = str(candidate.model)
            _, _, at_provider = model.partition("/")
            for key, row in zip(keys[candidate], holdout, strict=True):
                if key not in wanted:
                    continue
                question = Question(
                    key,
                    model,
                    at_provider,
                    messages=_prompt(candidate, row, labels, answer_format),
                    max_tokens=most[candidate],
                    tools=prompts.tools_of(row),
                )
                result.append(question)
        return result

    return keys, questions


def _longest_answer(context: AppContext, dataset_id: int, labels: Sequence[str]) -> int:
    """Returns the most tokens of an answer without thinking, the same as in a measurement of this version."""
    report = datasets.report_of(context.store.datasets.get(dataset_id))
    if report is None:  # it was deleted
        return evaluation_worker.max_tokens(labels, 0, None)
    return evaluation_worker.max_tokens(labels, report.tokens.answer_most, report.scoring)


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
