"""What a tuned model's curve would train, and what that costs at most, before anything is sent anywhere."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from bot.decisions.worth.bills import MILLION
from bot.decisions.worth.question import Question
from bot.decisions.worth.quotes import Gap
from bot.results import Refusal
from bot.tuned_curves import FEWEST_ROWS, PlannedSize, TunedCurvePlan, sizes_of
from bot.work.climbing import max_tokens
from bot.workflows import datasets, destination, eligibility, estimating, plans
from bot.workflows.datasets import SEED, Checked
from bot.workflows.desk import Desk
from bot.workflows.estimating import Estimated
from bot.workflows.targets import Target, find_target
from trainers.chatting import room
from trainers.dataset import Report
from trainers.money import to_micros
from trainers.pricing import PriceList, tuned_price
from trainers.providers import model_verdict

# Rows drawn for a part may be longer than the rest, and a tokenizer that is not the model's own may count fewer.
UNEVEN = Decimal("1.25")


def make(
    desk: Desk,
    checked: Checked,
    report: Report,
    wanted: str,
    predict: tuple[int, ...],
    label_usd: Decimal | None,
) -> TunedCurvePlan | Refusal:
    """`wanted`: the model to train. The dataset has labels and a holdout."""
    target = find_target(desk.settings.providers, wanted)
    if isinstance(target, Refusal):
        return target
    refusal = _cannot_train(desk, checked, report, target)
    if refusal:
        return refusal
    planned: list[PlannedSize] = []
    for rows in sizes_of(report.n_train):
        made = _estimated(desk, checked, report, target, rows)
        if isinstance(made, Refusal):
            return made
        if isinstance(made.cost, Gap):
            return Refusal(f"A training whose cost is unknown can't be agreed to. {made.cost.sentence}")
        training = to_micros(made.cost.training.usd.high)
        planned.append(PlannedSize(rows, made.hyperparameters, training, _asking_micros(desk, report, made)))
    return TunedCurvePlan(
        dataset=checked.dataset.name,
        version=checked.dataset.version,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        n_holdout=report.n_holdout,
        labels=tuple(sorted(count.label for count in report.labels)),
        provider=target.row.name,
        base_model=target.model.name,
        sizes=tuple(planned),
        seed=SEED,
        prices=PriceList((tuned_price(target.row, target.model),), plans.today(desk)).to_json(),
        predict=predict,
        label_usd=None if label_usd is None else f"{label_usd:f}",
        destination=destination.of(desk, target.row, target.model.name),
    )


def _cannot_train(desk: Desk, checked: Checked, report: Report, target: Target) -> Refusal | None:
    row = target.row
    if report.n_train < FEWEST_ROWS:
        return Refusal(
            f"`{checked.dataset.name}` has {report.n_train} rows to train on; a curve of a tuned model needs "
            f"{FEWEST_ROWS} at least, since trainers ask for 10 and it trains on a quarter too."
        )
    if not row.provider.can("chat"):
        return Refusal(
            f"{row.title} trains a model but gives it no name to ask it by, so its curve can't be measured. "
            "Choose a target that starts with `local/`, or another trainer."
        )
    if row.name not in desk.trainers:
        return Refusal(f"There is no key for {row.title}: set {row.provider.key_env} where the bot runs.")
    verdict = model_verdict(row, target.model, plans.today(desk))
    if not verdict.may_train:
        return Refusal(" ".join(filter(None, (*verdict.reasons, verdict.way_out))))
    if closed := eligibility.closed_to_us(desk, row):
        return Refusal(closed)
    return datasets.needs_waiver(desk, checked.dataset, report, row)


def _estimated(
    desk: Desk, checked: Checked, report: Report, target: Target, rows: int
) -> Estimated | Refusal:
    """As a run on so many of the rows would be estimated, with its hyperparameters."""
    part = replace(
        report,
        n_train=rows,
        tokens=replace(report.tokens, train=_part(report.tokens.train, rows, report.n_train)),
        trained_tokens=tuple(
            (name, _part(tokens, rows, report.n_train)) for name, tokens in report.trained_tokens
        ),
    )
    question = Question(target=target.name)
    return estimating.make_estimate(desk.settings, checked.dataset.name, part, question, plans.today(desk))


def _part(tokens: int, rows: int, of: int) -> int:
    return int(UNEVEN * tokens * rows / of) + 1


def _asking_micros(desk: Desk, report: Report, made: Estimated) -> int:
    """The most that asking the model every held-out row can cost; nothing on a machine that is paid by the hour."""
    tuned, target = made.prices[0], made.target
    if tuned.usd_per_hour is not None:
        return 0
    labels = [count.label for count in report.labels]
    most = max_tokens(labels) + room(target.row.thinks(target.model.name))
    sent = UNEVEN * Decimal(report.tokens.prompt_mean) * (tuned.price.input or 0)
    return to_micros(report.n_holdout * (sent + most * (tuned.price.output or 0)) / MILLION)
