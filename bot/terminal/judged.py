"""Free text judged by a model, in the terminal: the same questions as the bot asks (bot/work/verdicts.py)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from bot.decisions.spending import most_of_judge
from bot.measured import JudgeProgress, LadderPlan
from bot.terminal.asking import Reach, Say, until_answered
from bot.work import climbing, verdicts
from bot.work.climbing import ArmKeys
from bot.work.verdicts import Heard, Questions, Texts
from bot.workflows.measuring import counting
from storage.records import KeptReply
from trainers.measuring.values import Arm


def most(
    reached: Reach,
    plan: LadderPlan,
    keys: Mapping[Arm, ArmKeys],
    found: Mapping[str, KeptReply],
    files: Path,
    folder: Path,
) -> int:
    """The most that the judge can cost, in micro-dollars: what was judged before is free."""
    if plan.judge is None:
        return 0
    if all(key in found for one in keys.values() for key in one.keys):
        texts: Texts = {arm: [found[key].text for key in one.keys] for arm, one in keys.items()}
        first = verdicts.ask_acceptable(plan, texts, files, folder)
        if first.wanted <= reached.store.replies.found(first.priced.keys).keys():
            heard = _heard(reached, plan, first, None)
            return _cost(reached, plan, verdicts.ask_better(plan, texts, heard, files, folder))
    return _worst(plan, files)


def listen(
    reached: Reach, plan: LadderPlan, texts: Texts, files: Path, folder: Path, say: Say
) -> Heard | None:
    """All that the judge says; None where there is none."""
    if plan.judge is None:
        return None
    agreed = _worst(plan, files)
    first = verdicts.ask_acceptable(plan, texts, files, folder)
    cost = _cost(reached, plan, first)
    why = _ask(reached, plan, first, folder / f"{verdicts.ACCEPTABLE}.jsonl", say, cost > agreed)
    heard = replace(_heard(reached, plan, first, None), failed=why)
    if why:
        return heard
    second = verdicts.ask_better(plan, texts, heard, files, folder)
    cost += _cost(reached, plan, second)
    why = _ask(reached, plan, second, folder / f"{verdicts.BETTER}.jsonl", say, cost > agreed)
    return replace(_heard(reached, plan, first, second), unpaired=why)


def _ask(
    reached: Reach, plan: LadderPlan, asked: Questions, prompts: Path, say: Say, is_too_dear: bool
) -> str | None:
    """Why it could not be asked, if it could not."""
    if is_too_dear:
        return f"Asking {plan.judge} could cost more than was foreseen."
    judge = str(plan.judge)
    read = partial(climbing.questions_in, prompts, plan, longest=verdicts.MAX_TOKENS)
    wanted = dict.fromkeys(asked.wanted, judge)
    declined = until_answered(reached, wanted, read, say, "verdicts given")
    found = reached.store.replies.found(sorted(wanted))
    return counting.of_judge(JudgeProgress(), asked.wanted, found, declined)[1]


def _heard(reached: Reach, plan: LadderPlan, first: Questions, second: Questions | None) -> Heard:
    keys = [key for one in (first, second) if one for key in one.priced.keys]
    said = {key: one.text for key, one in reached.store.replies.found(keys).items()}
    return Heard(str(plan.judge), said, first, second)


def _cost(reached: Reach, plan: LadderPlan, asked: Questions) -> int:
    known = reached.store.replies.found(asked.priced.keys)
    return most_of_judge(plan.price_of[str(plan.judge)], asked.priced, known, verdicts.cap(plan))


def _worst(plan: LadderPlan, files: Path) -> int:
    price = plan.price_of[str(plan.judge)]
    return most_of_judge(price, verdicts.most(plan, files), (), verdicts.cap(plan))
