"""What `finetune baseline` and `finetune curve` do: the ladder without Slack, here and now."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import partial
from getpass import getuser
from pathlib import Path

from bot.commands import Baseline
from bot.decisions.spending import most_micros
from bot.decisions.verdict.facts import Evidence
from bot.decisions.waiving import is_no_reason, needs_waiver
from bot.decisions.worth.question import Question
from bot.measured import ArmProgress, CurvePlan, JudgeProgress, LadderPlan
from bot.results import Refusal
from bot.settings import Settings
from bot.terminal import judged
from bot.terminal.asking import PATIENCE_S, Reach, Say, Silence, reach, until_answered
from bot.terminal.held import Rows
from bot.work import climbing, verdicts
from bot.work.climbing import ArmKeys
from bot.workflows.datasets import SEED
from bot.workflows.estimating import Estimated, make_estimate
from bot.workflows.measuring import counting
from bot.workflows.measuring.contestants import Contestant, arms_of, contestants, judge_of
from storage.records import KeptReply
from trainers.dataset import Columns
from trainers.dataset.rules.written import scan
from trainers.measuring.values import DEFAULT_BAR, NO_ANSWER, Arm, Curve, Ladder, Reply, RungName
from trainers.money import to_micros, usd_micros
from trainers.pricing import PriceList


@dataclass(frozen=True)
class Wanted:
    """`holdout` None: a part of `file` is set aside, as the bot does it. `models`: 'provider/model'. `patience_s`: it
    ends when nothing was answered for so long."""

    file: Path
    holdout: Path | None
    text: str | None
    label: str | None
    rungs: tuple[RungName, ...] = ()
    models: tuple[str, ...] = ()
    prompt: str | None = None
    bar: float = DEFAULT_BAR
    judge: str | None = None
    waive: str | None = None
    patience_s: float = PATIENCE_S

    @property
    def columns(self) -> Columns:
        return Columns(self.text, self.label)


@dataclass(frozen=True)
class Measured:
    """`arms`: how far each one came that asks a model. `judge` is None where there was none."""

    plan: LadderPlan
    ladder: Ladder
    estimated: Estimated
    arms: tuple[ArmProgress, ...]
    judge: JudgeProgress | None = None


def measure(settings: Settings, wanted: Wanted, rows: Rows, say: Say) -> Measured | Refusal:
    """The ladder on these rows. `say` hears how far it is."""
    try:
        return _measured(settings, wanted, rows, say)
    except Silence as silence:
        return Refusal(str(silence))


def _measured(settings: Settings, wanted: Wanted, rows: Rows, say: Say) -> Measured | Refusal:
    with reach(settings, own=_asks_own(wanted), patience_s=wanted.patience_s) as reached:
        plan = _plan(reached, wanted, rows)
        if isinstance(plan, Refusal):
            return plan
        questions = rows.files / "questions"
        keys = climbing.prepare(plan, rows.files, questions, SEED)
        refusal = _too_dear(reached, plan, keys, rows, say)
        if refusal:
            return refusal
        arms = _ask(reached, plan, keys, questions, say)
        failed = {one.arm: one.failed for one in arms if one.failed is not None}
        if len(failed) == len(plan.arms):
            return Refusal(" ".join(dict.fromkeys(failed.values())))
        replies = _replies(reached, plan, keys, rows, failed)
        texts = {arm: [one.text for one in said] for arm, said in replies.items()}
        heard = judged.listen(reached, plan, texts, rows.files, questions, say)
    found = verdicts.conclude(plan, replies, heard, rows.files, questions, time.time())
    estimated = make_estimate(
        settings, plan.dataset, rows.report, Question(), _today(), Evidence(bar=plan.bar, ladder=found.ladder)
    )
    if isinstance(estimated, Refusal):
        return estimated
    return Measured(plan, found.ladder, estimated, arms, found.judge)


def learn(rows: Rows, name: str, predict: tuple[int, ...]) -> Curve | Refusal:
    """The classical rung's learning curve. `predict`: numbers of rows; none: twice as many as there are."""
    report = rows.report
    if report.task != "labels":
        return Refusal("A curve is drawn for labels, and the answers in this file are free text.")
    plan = CurvePlan(
        dataset=name,
        version=1,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        predict=predict or (2 * report.n_train,),
    )
    try:
        return climbing.judge_curve(plan, rows.files, rows.files / "curve", SEED).curve
    except ValueError as few:
        return Refusal(f"{few}.")


def _asks_own(wanted: Wanted) -> bool:
    if (wanted.judge or "").startswith("local/"):
        return True
    if wanted.rungs == ("classical",):
        return False
    return not wanted.models or any(name.startswith("local/") or "/" not in name for name in wanted.models)


def _plan(reached: Reach, wanted: Wanted, rows: Rows) -> LadderPlan | Refusal:
    report, today = rows.report, _today()
    command = Baseline(wanted.file.stem, wanted.models, wanted.rungs, wanted.prompt, wanted.bar, None)
    models: tuple[Contestant, ...] | Refusal = ()
    if wanted.rungs != ("classical",):
        models = contestants(reached.settings, reached.trainers, wanted.models, today)
    if isinstance(models, Refusal):
        return models
    arms = arms_of(command, report, models)
    if isinstance(arms, Refusal):
        return arms
    judge = judge_of(reached.settings, reached.trainers, wanted.judge, report, today)
    if isinstance(judge, Refusal):
        return judge
    everybody = models if judge is None or judge in models else (*models, judge)
    refusal = _must_stay(reached, wanted, rows, everybody)
    if refusal:
        return refusal
    return LadderPlan(
        dataset=wanted.file.stem,
        version=1,
        task=report.task,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        n_holdout=report.n_holdout,
        labels=tuple(sorted(count.label for count in report.labels)),
        arms=arms,
        prompt=wanted.prompt,
        bar=wanted.bar,
        documents=(),
        prices=PriceList(tuple(model.price for model in everybody), today).to_json(),
        judge=judge.name if judge else None,
        thinking=tuple(model.name for model in everybody if model.thinks),
    )


def _must_stay(reached: Reach, wanted: Wanted, rows: Rows, asked: Sequence[Contestant]) -> Refusal | None:
    """Personal data leaves for a vendor only with somebody's word, and that is recorded."""
    report = rows.report
    parts = [rows.files / f"{sha256}.jsonl" for sha256 in (report.train_sha256, report.holdout_sha256)]
    codes = {finding.code for finding in report.findings}.union(
        *(scan(part, presidio=False).codes for part in parts)
    )
    vendors = [one.row.title for one in asked if needs_waiver(codes, stays_here=one.row.stays_here)]
    if not vendors:
        return None
    if wanted.waive is None:
        return Refusal(
            f"{wanted.file} holds personal data, so it leaves for {vendors[0]} only once somebody has said why it "
            'may: --waive "the customers agreed, ticket LEGAL-12". That word is kept beside the answers. Models of '
            "your own trainer (local/…) need none."
        )
    denied = is_no_reason(wanted.waive)
    if denied:
        return Refusal(denied.reason)
    reached.store.audit.add(
        at=time.time(),
        who=getuser(),
        action="waive",
        subject=f"file {wanted.file.name}",
        detail=f"to {', '.join(dict.fromkeys(vendors))}: {wanted.waive}",
    )
    return None


def _too_dear(
    reached: Reach, plan: LadderPlan, keys: Mapping[Arm, ArmKeys], rows: Rows, say: Say
) -> Refusal | None:
    found = reached.store.replies.found([key for one in keys.values() for key in one.keys])
    most = most_micros(plan.price_of, keys, frozenset(found), climbing.max_tokens(plan.labels), plan.thinking)
    most += judged.most(reached, plan, keys, found, rows.files, rows.files / "questions")
    limit = to_micros(reached.settings.measurement_usd)
    if most > limit:
        return Refusal(
            f"It could cost up to {usd_micros(most)}, and one measurement may cost {usd_micros(limit)}. Name fewer "
            "models or rungs, or raise `measurement_usd` under [budget] in finetune.toml."
        )
    if most:
        say.keep(f"This costs {usd_micros(most)} at most; answers that were given before are free.")
    return None


def _ask(
    reached: Reach, plan: LadderPlan, keys: Mapping[Arm, ArmKeys], folder: Path, say: Say
) -> tuple[ArmProgress, ...]:
    """Every question, until it is answered or declined."""
    wanted = {key: str(arm.model) for arm, one in keys.items() if arm.model for key in one.keys}
    declined = until_answered(reached, wanted, partial(climbing.read_questions, folder, plan), say)
    found = reached.store.replies.found(sorted(wanted))
    return tuple(
        counting.counted(ArmProgress(arm, len(one.keys)), one, found, declined)
        for arm, one in keys.items()
        if arm.model
    )


def _replies(
    reached: Reach, plan: LadderPlan, keys: Mapping[Arm, ArmKeys], rows: Rows, failed: Mapping[Arm, str]
) -> dict[Arm, Sequence[Reply]]:
    """A question that was declined counts as an empty answer."""
    replies: dict[Arm, Sequence[Reply]] = {}
    for arm, one in keys.items():
        if arm in failed:
            continue
        if arm.model is None:
            replies[arm] = climbing.classical(plan, rows.files, SEED)
        else:
            found = reached.store.replies.found(one.keys)
            replies[arm] = [_reply(found.get(key)) for key in one.keys]
    return replies


def _reply(kept: KeptReply | None) -> Reply:
    if kept is None:
        return NO_ANSWER
    return Reply(kept.text, kept.prompt_tokens, kept.completion_tokens, kept.seconds, kept.at)


def _today() -> date:
    return datetime.now(UTC).date()
