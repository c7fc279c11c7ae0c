"""Chooses how many examples a prompt gets, before a comparison is measured: the engine tries each number on training
rows, and the best one becomes the comparison's candidate. A kill loses nothing, because all answers are stored.

The questions are written, and the answers scored, in a worker process or in the terminal."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bot.rules.budgets import max_evaluation_micros
from bot.services.datasets.dataset_worker import SEED, examples
from bot.services.evidence import evaluation_worker
from bot.services.evidence.candidate_prompts import answer_format_of
from bot.services.evidence.evaluation_worker import SHOTS_FOLDER, CandidateKeys
from bot.services.measurement import evaluation_engine
from bot.services.measurement.evaluation_engine import EngineContext, Evaluation
from bot.services.measurement.evaluation_progress import ComparisonStep
from bot.values.evaluations import CandidateProgress, ComparisonPlan, ShotsTried
from trainers.dataset import Example
from trainers.dataset.rows import question_key
from trainers.evaluation import prompts
from trainers.evaluation.results import Candidate, Reply
from trainers.evaluation.scores import score, scoring_of
from trainers.types import Message

TRIED = (0, 5, 10, 20)
MOST_ROWS = 40


def load_keys(step: ComparisonStep) -> Mapping[Candidate, CandidateKeys] | None:
    """Returns the keys of the questions with each number of examples, None while a worker writes them."""
    work = f"shots {step.owner}"
    workers = step.context.workers
    if not workers.has(work):  # a worker that is at work may have written a part of them
        keys = evaluation_worker.read_keys(step.folder / SHOTS_FOLDER)
        if keys:
            return keys
    files = step.context.settings.files
    return workers.poll(work, prepare, step.plan, files, step.folder, SEED)


def most_micros(context: EngineContext, plan: ComparisonPlan, keys: Mapping[Candidate, CandidateKeys]) -> int:
    """Returns the maximum cost in micro-dollars of the questions without an answer."""
    all_keys: list[str] = []
    for its_keys in keys.values():
        all_keys += its_keys.keys
    answered = context.store.answers.answered(all_keys)
    most = evaluation_worker.plan_max_tokens(plan)
    return max_evaluation_micros(plan.price_of, keys, answered, most, plan.thinking)


def take_step(step: ComparisonStep) -> None:
    """Asks the questions without an answer; once there are none, the best number of examples goes into the
    comparison."""
    context = step.context
    plan = step.plan
    progress = step.progress

    keys = load_keys(step)
    if keys is None:
        return
    answer_keys = evaluation_worker.keys_by_candidate(keys)
    questions = partial(evaluation_worker.read_questions, step.folder / SHOTS_FOLDER, plan)
    evaluation = Evaluation(step.owner, answer_keys, questions)
    answers = evaluation_engine.collect(context, evaluation, progress.shot_candidates)

    since = progress.started_at or 0.0
    spent = evaluation_engine.spent_micros(context, plan.price_of, answer_keys, since)
    waiting_models = []
    for candidate, missing in answers.missing.items():
        if missing:
            waiting_models.append(str(candidate.model))
    note = evaluation_engine.waiting_note(context, waiting_models)
    after = replace(
        progress,
        shot_candidates=answers.candidates,
        shots_micros=spent,
        spent_micros=spent,
        note=note,
    )
    step = step.with_progress(after)
    if not answers.all_missing:
        _choose(step, answer_keys)
        return
    step.save()
    step.ask(evaluation, answers.unasked)


def _choose(step: ComparisonStep, answer_keys: Mapping[Candidate, tuple[str, ...]]) -> None:
    """Puts the best number of examples into the comparison, once a worker has scored the answers."""
    context = step.context
    progress = step.progress
    replies = evaluation_engine.replies(context, answer_keys, progress.shot_candidates)
    files = context.settings.files
    shots = context.workers.poll(f"choose {step.owner}", score_shots, step.plan, replies, files, SEED)
    if shots is None:
        return
    chosen = replace(step, plan=with_shots(step.plan, shots))
    keys = chosen.rewrite_keys()
    if keys is None:
        return
    before = {candidate.identity: candidate for candidate in progress.candidates}
    candidates = []
    for candidate, its_keys in keys.items():
        # A candidate that stays as it was keeps the answers that it has.
        fresh = CandidateProgress(candidate, len(its_keys.keys), work=its_keys.work)
        candidates.append(before.get(candidate, fresh))
    after = replace(
        progress,
        candidates=tuple(candidates),
        shots=shots,
        note=None,
    )
    chosen.with_progress(after.after_shots()).save()


def prepare(plan: ComparisonPlan, files: Path, folder: Path, seed: int) -> Mapping[Candidate, CandidateKeys]:
    """Writes questions about some training rows into a folder of their own, with examples from the other rows."""
    train = examples(files, plan.train_sha256)
    rows, others = _split_rows(train, seed)
    shots_by_count = {}
    for count in TRIED:
        # If there are fewer rows, several numbers draw the same ones, which are tried once.
        shots = prompts.balanced_shots(others, count, seed)
        shots_by_count[len(shots)] = shots

    fields = answer_format_of(plan, files)
    messages: dict[Candidate, list[tuple[Message, ...]]] = {}
    for candidate in plan.candidates:
        if candidate.kind != "kshot":
            continue
        for count, shots in shots_by_count.items():
            tried = replace(candidate, shots=count)
            prompts_of_rows = []
            for row in rows:
                prompts_of_rows.append(prompts.k_shot(row, plan.labels, plan.prompt, shots, fields))
            messages[tried] = prompts_of_rows
    tools = [prompts.tools_of(row) for row in rows]
    keys = evaluation_worker.keys_of_candidates(plan, tuple(messages), messages, tools, seed)
    return evaluation_worker.write_candidates(plan, keys, messages, tools, folder / SHOTS_FOLDER)


def score_shots(
    plan: ComparisonPlan, replies: Mapping[Candidate, Sequence[Reply]], files: Path, seed: int
) -> tuple[ShotsTried, ...]:
    """Returns the score of each number of examples, computed as the comparison does without a judge."""
    train = examples(files, plan.train_sha256)
    rows, _ = _split_rows(train, seed)
    scoring = scoring_of(rows, plan.task)
    tried = []
    for candidate, its_replies in replies.items():
        scores = []
        for row, reply in zip(rows, its_replies, strict=True):
            scores.append(score(scoring, row.answer, reply.text, plan.labels))
        share = sum(scores) / len(rows)
        tried.append(ShotsTried(candidate, share, len(rows)))
    return tuple(tried)


def with_shots(plan: ComparisonPlan, tried: Sequence[ShotsTried]) -> ComparisonPlan:
    """Returns the plan with the best number of examples for each model, the smallest of equally good ones. If no
    examples are best, the prompt alone replaces both candidates. A model that could not be asked keeps the usual
    ten."""
    best_by_model: dict[str | None, ShotsTried] = {}
    for shots in tried:
        model = shots.candidate.model
        before = best_by_model.get(model)
        if before is None or shots.share > before.share:
            best_by_model[model] = shots

    candidates: list[Candidate] = []
    for candidate in plan.candidates:
        chosen = _with_best_shots(candidate, best_by_model.get(candidate.model))
        if chosen not in candidates:  # the prompt alone may be there already
            candidates.append(chosen)
    return replace(plan, candidates=tuple(candidates), chooses_shots=False)


def _with_best_shots(candidate: Candidate, best: ShotsTried | None) -> Candidate:
    """Returns what replaces a candidate, given the best number of examples for its model."""
    if best is None:
        return candidate
    if best.candidate.shots == 0 and candidate.kind in ("zero", "kshot"):
        return replace(best.candidate, kind="zero")
    if candidate.kind == "kshot":
        return best.candidate
    return candidate


def _split_rows(train: Sequence[Example], seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Returns the rows to ask about and the rows to draw examples from. No question is in both."""
    one_each = {question_key(row): row for row in train}
    drawn = list(one_each.values())
    random.Random(seed).shuffle(drawn)  # noqa: S311
    count = min(MOST_ROWS, len(drawn) // 2)
    return tuple(drawn[:count]), tuple(drawn[count:])
