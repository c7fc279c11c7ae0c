"""The work of choosing how many examples a prompt gets: writes the questions with each number, and scores the answers.
Runs in a worker process and in the terminal; asks no model."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bot.services import evaluation_worker
from bot.services.evaluation_worker import ArmKeys, examples
from bot.values.evaluations import LadderPlan, ShotsTried
from trainers.dataset import Example
from trainers.dataset.rows import question_key
from trainers.evaluation import prompts
from trainers.evaluation.results import Candidate, Reply
from trainers.evaluation.scores import score, scoring_of

FOLDER = "shots"
TRIED = (0, 5, 10, 20)
MOST_ROWS = 40


def prepare(plan: LadderPlan, files: Path, folder: Path, seed: int) -> Mapping[Candidate, ArmKeys]:
    """Writes questions about some training rows into a folder of their own, with examples from the other rows."""
    rows, others = _split_rows(examples(files, plan.train_sha256), seed)
    shots_of = {count: prompts.balanced_shots(others, count, seed) for count in TRIED}
    messages = {
        replace(arm, shots=count): [prompts.k_shot(row, plan.labels, plan.prompt, shots) for row in rows]
        for arm in plan.arms
        if arm.rung == "kshot"
        for count, shots in shots_of.items()
    }
    tools = [prompts.tools_of(row) for row in rows]
    keys = evaluation_worker.keys_of_arms(plan, tuple(messages), messages, tools, seed)
    return evaluation_worker.write_arms(plan, keys, messages, tools, folder / FOLDER)


def choose(
    plan: LadderPlan, replies: Mapping[Candidate, Sequence[Reply]], files: Path, seed: int
) -> tuple[ShotsTried, ...]:
    """Returns the score of each number of examples, computed as the ladder does without a judge."""
    rows, _ = _split_rows(examples(files, plan.train_sha256), seed)
    scoring = scoring_of(rows, plan.task)
    return tuple(
        ShotsTried(
            arm,
            sum(
                score(scoring, row.answer, reply.text, plan.labels)
                for row, reply in zip(rows, theirs, strict=True)
            )
            / len(rows),
            len(rows),
        )
        for arm, theirs in replies.items()
    )


def with_shots(plan: LadderPlan, tried: Sequence[ShotsTried]) -> LadderPlan:
    """Returns the plan with the best number of examples for each model, the smallest of equally good ones. If no
    examples are best, the prompt alone replaces both candidates. A model that could not be asked keeps the usual
    ten."""
    best: dict[str | None, ShotsTried] = {}
    for each in tried:
        before = best.get(each.arm.model)
        if before is None or each.share > before.share:
            best[each.arm.model] = each

    def chosen(arm: Candidate) -> Candidate:
        tried = best.get(arm.model)
        if tried and tried.arm.shots == 0 and arm.rung in ("zero", "kshot"):
            return replace(tried.arm, rung="zero")
        return tried.arm if tried and arm.rung == "kshot" else arm

    return replace(plan, arms=tuple(dict.fromkeys(map(chosen, plan.arms))), chooses_shots=False)


def _split_rows(train: Sequence[Example], seed: int) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Returns the rows to ask about and the rows to draw examples from. No question is in both."""
    drawn = list({question_key(row): row for row in train}.values())
    random.Random(seed).shuffle(drawn)  # noqa: S311
    count = min(MOST_ROWS, len(drawn) // 2)
    return tuple(drawn[:count]), tuple(drawn[count:])
