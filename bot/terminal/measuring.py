"""What `finetune baseline` and `finetune curve` do and print: the ladder without Slack, here and now.

Answers are kept in a database of its own, so that a repeat is free and a stopped measurement goes on. Our own
trainer is started for as long as it takes where one of its models is asked.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

from bot import climbing
from bot.app import build_trainers
from bot.askers import Askers
from bot.askers import Question as AskerQuestion
from bot.climbing import ArmKeys
from bot.decisions.facts import Evidence
from bot.decisions.spending import most_micros
from bot.embedded import EmbeddedTrainer, with_address
from bot.measured import CurvePlan, LadderPlan
from bot.parsing import Baseline
from bot.results import Refusal
from bot.settings import Settings
from bot.workflows.contestants import Contestant, arms_of, contestants
from bot.workflows.datasets import SEED
from bot.workflows.estimating import Estimated, Question, make_estimate
from storage.records import KeptReply
from storage.store import Store
from trainers.client import Trainer
from trainers.dataset import Columns, Report, check_file, overlap, read, store_chat, with_system
from trainers.measuring.values import DEFAULT_BAR, Arm, Curve, Ladder, Reply, RungName
from trainers.money import to_micros, usd_micros
from trainers.pricing import PriceList

LOOK_S = 0.2
OWNER = "terminal"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Wanted:
    """`holdout` None: a part of `file` is set aside, as the bot does it. `models`: 'provider/model'."""

    file: Path
    holdout: Path | None
    text: str | None
    label: str | None
    rungs: tuple[RungName, ...] = ()
    models: tuple[str, ...] = ()
    prompt: str | None = None
    bar: float = DEFAULT_BAR


@dataclass(frozen=True)
class Rows:
    """`left_out` rows of the file ask what the given holdout asks, and were not trained on."""

    report: Report
    files: Path
    left_out: int = 0


@dataclass(frozen=True)
class Measured:
    """`failed`: arms that could not be measured, each with why."""

    ladder: Ladder
    estimated: Estimated
    failed: Mapping[Arm, str]


@dataclass(frozen=True)
class _Reach:
    """Who can be asked, and where answers are kept."""

    settings: Settings
    trainers: Mapping[str, Trainer]
    store: Store
    askers: Askers


@contextmanager
def checked(wanted: Wanted, local_models: Mapping[str, Path]) -> Iterator[Rows]:
    """The file, checked and split; what is written for it is thrown away afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        files, columns = Path(folder), Columns(wanted.text, wanted.label)
        report = check_file(wanted.file, wanted.file.name, columns, files, SEED, local_models=local_models)
        if wanted.holdout is None or report.blocked:
            yield Rows(report, files)
        else:
            yield _against(wanted, wanted.holdout, report, files)


def measure(settings: Settings, wanted: Wanted, rows: Rows, say: Say) -> Measured | Refusal:
    """The ladder on these rows. `say` hears how far it is."""
    with _reach(settings, wanted) as reach:
        plan = _plan(reach, wanted, rows)
        if isinstance(plan, Refusal):
            return plan
        questions = rows.files / "questions"
        keys = climbing.prepare(plan, rows.files, questions, SEED)
        refusal = _too_dear(reach, plan, keys, say)
        if refusal:
            return refusal
        failed = _ask(reach, plan, keys, questions, say)
        if len(failed) == len(plan.arms):
            return Refusal(" ".join(dict.fromkeys(failed.values())))
        replies = _replies(reach, plan, keys, rows, failed)
    ladder = climbing.judge_ladder(plan, replies, rows.files, questions, time.time()).ladder
    estimated = make_estimate(
        settings, plan.dataset, rows.report, Question(), _today(), Evidence(bar=plan.bar, ladder=ladder)
    )
    return estimated if isinstance(estimated, Refusal) else Measured(ladder, estimated, failed)


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


def _against(wanted: Wanted, holdout: Path, report: Report, files: Path) -> Rows:
    """Trained on the whole file, less what the given holdout asks; measured on that holdout."""
    columns = report.columns if report.format != "chat" else Columns()
    held = read(holdout, holdout.name, columns=columns)
    if held.refused:
        return Rows(replace(report, findings=held.findings), files)
    train = read(wanted.file, wanted.file.name, columns=columns).examples
    shared = {one.train_line for one in overlap(train, held.examples)}
    kept = [example for example in train if example.line not in shared]
    sides = [
        with_system(side, report.system) if report.system else tuple(side) for side in (kept, held.examples)
    ]
    changed = replace(
        report,
        train_sha256=store_chat(files, sides[0]),
        holdout_sha256=store_chat(files, sides[1]),
        n_train=len(kept),
        n_holdout=len(held.examples),
    )
    return Rows(changed, files, len(shared))


@contextmanager
def _reach(settings: Settings, wanted: Wanted) -> Iterator[_Reach]:
    """Our own trainer runs for as long as one of its models is asked."""
    embedded = _own_trainer(settings) if _asks_own(wanted) else None
    if embedded:
        settings = with_address(settings, embedded)
    trainers = build_trainers(settings, embedded)
    settings.data.mkdir(parents=True, exist_ok=True)
    store = Store(settings.data / "terminal.db")
    askers = Askers(store, trainers, settings.providers, time.time)
    try:
        if embedded:
            embedded.start()
        yield _Reach(settings, trainers, store, askers)
    finally:
        askers.close()
        if embedded:
            embedded.stop()
        store.close()


def _asks_own(wanted: Wanted) -> bool:
    if wanted.rungs == ("classical",):
        return False
    return not wanted.models or any(name.startswith("local/") or "/" not in name for name in wanted.models)


def _own_trainer(settings: Settings) -> EmbeddedTrainer | None:
    if not settings.trainer.models or not any(row.is_started_by_us for row in settings.providers):
        return None
    return EmbeddedTrainer(settings.data / "terminal-trainer", settings.trainer.models)


def _plan(reach: _Reach, wanted: Wanted, rows: Rows) -> LadderPlan | Refusal:
    report, today = rows.report, _today()
    command = Baseline(wanted.file.stem, wanted.models, wanted.rungs, wanted.prompt, wanted.bar, None)
    models: tuple[Contestant, ...] | Refusal = ()
    if wanted.rungs != ("classical",):
        models = contestants(reach.settings, reach.trainers, wanted.models, today)
    if isinstance(models, Refusal):
        return models
    arms = arms_of(command, report, models)
    if isinstance(arms, Refusal):
        return arms
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
        prices=PriceList(tuple(model.price for model in models), today).to_json(),
    )


def _too_dear(reach: _Reach, plan: LadderPlan, keys: Mapping[Arm, ArmKeys], say: Say) -> Refusal | None:
    found = reach.store.replies.found([key for one in keys.values() for key in one.keys])
    most = most_micros(plan.price_of, keys, frozenset(found), climbing.max_tokens(plan.labels))
    limit = to_micros(reach.settings.measurement_usd)
    if most > limit:
        return Refusal(
            f"It could cost up to {usd_micros(most)}, and one measurement may cost {usd_micros(limit)}. Name fewer "
            "models or rungs, or raise `measurement_usd` under [budget] in finetune.toml."
        )
    if most:
        say(f"This costs {usd_micros(most)} at most; answers that were given before are free.")
    return None


def _ask(
    reach: _Reach, plan: LadderPlan, keys: Mapping[Arm, ArmKeys], folder: Path, say: Say
) -> dict[Arm, str]:
    """Every question, until it is answered or declined. Returns the arms that can't be asked at all, with why."""
    failed: dict[Arm, str] = {}
    declined: set[str] = set()
    asked = {arm: one for arm, one in keys.items() if arm.model}
    while True:
        for one in reach.askers.collect(OWNER):
            declined.add(one.key)
            failed |= {arm: one.why for arm in asked if one.of_model and arm.model == one.model}
        wanted = {key for arm, one in asked.items() if arm not in failed for key in one.keys}
        missing = frozenset(wanted - set(reach.store.replies.found(sorted(wanted))) - declined)
        say(_how_far(reach, asked, len(wanted) - len(missing), len(wanted)))
        if not missing:
            return failed
        if len(missing) > reach.askers.waiting(OWNER):
            _hand_over(reach, climbing.read_questions(folder, plan, missing))
        time.sleep(LOOK_S)


def _how_far(reach: _Reach, asked: Mapping[Arm, ArmKeys], done: int, of: int) -> str:
    providers = sorted({str(arm.model).split("/", 1)[0] for arm in asked})
    troubles = [trouble for name in providers if (trouble := reach.askers.trouble(name))]
    return " ".join([f"{done:,} of {of:,} questions answered.", *troubles])


def _hand_over(reach: _Reach, questions: Sequence[AskerQuestion]) -> None:
    for provider in sorted({one.model.split("/", 1)[0] for one in questions}):
        theirs = [one for one in questions if one.model.startswith(f"{provider}/")]
        reach.askers.ask(OWNER, provider, theirs)


def _replies(
    reach: _Reach, plan: LadderPlan, keys: Mapping[Arm, ArmKeys], rows: Rows, failed: Mapping[Arm, str]
) -> dict[Arm, Sequence[Reply]]:
    """A question that was declined counts as an empty answer."""
    replies: dict[Arm, Sequence[Reply]] = {}
    for arm, one in keys.items():
        if arm in failed:
            continue
        if arm.model is None:
            replies[arm] = climbing.classical(plan, rows.files, SEED)
        else:
            found = reach.store.replies.found(one.keys)
            replies[arm] = [_reply(found.get(key)) for key in one.keys]
    return replies


def _reply(kept: KeptReply | None) -> Reply:
    if kept is None:
        return Reply("", 0, 0, 0.0)
    return Reply(kept.text, kept.prompt_tokens, kept.completion_tokens, kept.seconds)


def _today() -> date:
    return datetime.now(UTC).date()
