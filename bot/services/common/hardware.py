"""Finds the target model that a person names, its longest row, and the memory and time that its training takes on this
machine or on a rented one. Times come from the measured speed (`finetune calibrate`) or are guessed.

Sizes are known only for models that train here and whose dimensions are known without asking a service.
"""

from __future__ import annotations

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from bot.cards.common.blocks import code
from bot.rules.bills import Capacity
from bot.rules.reasons import MemoryShortage
from bot.rules.roi import Range
from bot.settings import PACKAGED_TARGET, Settings
from bot.values.runs import Refusal
from trainers.base_models import Base, find_base
from trainers.dataset import DEFAULT_LIMITS, Report
from trainers.dataset.preference_pairs import PairsReport
from trainers.dataset.splits import validation_rows
from trainers.dataset.token_counts import tokens_of_system
from trainers.encoders import multilingual
from trainers.errors import TrainerError
from trainers.hyperparameters import (
    Sweep,
    batch_for,
    combinations,
    halving_rungs,
    halving_total,
    hosted_epochs_for,
)
from trainers.providers import ModelRow, ProviderRow
from trainers.rentals.prices import PROVIDER as RENTED
from trainers.rentals.prices import Rental, fetch_rental
from trainers.sizing.architecture import UnknownSize
from trainers.sizing.encoders import PARAMETERS, READS_A_SECOND, WRITES_A_SECOND, EncoderWork
from trainers.sizing.hardware import Fit, Machine, adapt_to_memory, check_fit, read_gpu, this_machine
from trainers.sizing.memory import (
    Method,
    Work,
    loaded_parameters,
    trainable_parameters,
    with_forced_checkpoints,
)
from trainers.sizing.training_time import (
    CALIBRATION_FILE,
    Calibration,
    InvalidCalibration,
    PairLengths,
    RowLengths,
    guess_calibration,
    guess_serving_speed,
    pair_seconds,
    read_calibration,
    serving_speed,
    training_seconds,
    weights_at_work,
)
from trainers.tokens import O200K, OUR_ROW_TOKENS, Encoding, encoding_of, local_encoding, training_limit
from trainers.types import Hyperparameter

MAX_LENGTH = 1024  # of a row at our own trainer, unless the plan sets it
METHOD_BY_QUANTIZATION: Mapping[Hyperparameter, Method] = {"none": "lora", "nf4": "qlora", "int8": "8bit"}
TURN_TOKENS = 7  # that a chat template puts around the instructions
# A measured time is accurate within 20%, but training takes twice as long beside another busy program.
SHORTEST, LONGEST = Decimal("0.8"), Decimal(2)
LOADING_MINUTES = 5  # of a rented machine before the first step; a rule of thumb
GUESS_FACTOR = 3  # a guess is right within this factor in either direction
START_UP_S = 20
# Weights of the chat model that comes with our trainer, SmolLM2-135M, and how many times as large a model may be to
# train at about the same speed.
PACKAGED_WEIGHTS, LIKE_PACKAGED = 134_515_008, 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MemoryHeadroom:
    """Whether a training fits into memory. `line` is the text for cards; `shortage` is set if it may not fit."""

    line: str
    shortage: MemoryShortage | None


@dataclass(frozen=True)
class TrainingTime:
    """`measured` is the day on which the machine's speed was measured, like 2026-11-25. `is_guess` is true if it was
    neither measured nor given by a person; the maximum cost at which a paid run is stopped must not rely on a guess."""

    minutes: Range
    measured: str | None = None
    is_guess: bool = False


def local_base(settings: Settings, row: ProviderRow, model: ModelRow) -> Base | None:
    """Returns the base model, None if it trains elsewhere or its dimensions are not on this machine."""
    return None if row.cluster or not row.keeps_models_here else known_base(settings, row, model)


def known_base(settings: Settings, row: ProviderRow, model: ModelRow) -> Base | None:
    """Returns the base model by its folder or as a preset, wherever it trains; None for encoders, whose sizes are
    computed differently."""
    if model.is_encoder:
        return None
    place = settings.trainer.models.get(model.name) if row.is_started_by_us else None
    base = find_base(place or model.base_name or model.name, ask_the_hub=False)
    return None if isinstance(base, UnknownSize) else base


def memory_headroom(
    base: Base,
    report: Report,
    chosen: Mapping[str, Hyperparameter],
    sweep: Sweep = (),
    machine: Machine | None = None,
) -> MemoryHeadroom:
    """Returns whether training fits, sized with the longest row and the largest values of a sweep, whose trials train
    one at a time. `machine` is this one by default."""
    work, machine = _work(base, report, chosen, sweep), machine or this_machine()
    done = adapt_to_memory(base.architecture, work, machine)
    memory_fit = check_fit(base.architecture, done, machine)
    trained = trainable_parameters(base.architecture, work)
    sizes = f"{_count(loaded_parameters(base.architecture))} parameters, {_count(trained)} trained"
    by_itself = " with checkpointing" if done.checkpoints and not work.checkpoints else ""
    shortage = _shortage(memory_fit, _in_4_bits(base, work, machine))
    return MemoryHeadroom(f"{_memory_text(memory_fit, by_itself)}; {sizes}", shortage)


def encoder_needs(
    model: str, report: Report, tokens: int, chosen: Mapping[str, Hyperparameter], *, is_here: bool
) -> tuple[MemoryHeadroom | None, Range]:
    """Returns whether an encoder's training fits into memory (None if it doesn't train here), and its minutes. `tokens`
    are those of one epoch. The range is wide, three times a speed measured elsewhere, but trainings are short."""
    mean = tokens / max(report.n_train, 1)
    epochs = _whole_number(chosen, "n_epochs", 0)
    chooses = is_here and not epochs and model == PACKAGED_TARGET and multilingual.is_installed()
    work = EncoderWork(report.n_train, mean, len(report.labels), epochs, chooses)
    expected = Decimal(round(work.seconds, 1)) / 60
    minutes = Range(expected / GUESS_FACTOR, expected, expected * GUESS_FACTOR)
    if not is_here:
        return None, minutes
    machine = this_machine()
    fits = work.bytes < machine.memory
    about = f"about {work.bytes / 1e9:.1f} of {machine.memory / 1e9:.0f} GB"
    most = "up to " if work.can_use_words else ""
    sizes = f"; {_count(PARAMETERS)} parameters, {most}{work.trained:,} trained"
    if model != PACKAGED_TARGET:
        sizes = ""  # those of other encoders are unknown here
    shortage = None if fits else MemoryShortage(machine.name, work.bytes, True, None)
    return MemoryHeadroom(f"{'fits' if fits else 'does not fit'}, {about}{sizes}", shortage), minutes


def capacity_of(settings: Settings, name: str, busy: Decimal) -> Capacity | None:
    """Returns this machine's capacity with a model named 'provider/model', None if its speed was not measured or the
    model runs elsewhere."""
    provider, _, model = name.partition("/")
    row = settings.provider(provider)
    model_row = row.model(model) if row else None
    if model_row and model_row.is_encoder:
        return Capacity(READS_A_SECOND, WRITES_A_SECOND, busy)
    base = local_base(settings, row, model_row) if row and model_row else None
    machine = _calibration(settings) if base else None
    speed = serving_speed(base.architecture, machine) if base and machine else None
    if speed is None:
        return None
    reads, writes = (Decimal(str(round(value, 3))) for value in speed)
    return Capacity(reads, writes, busy)


def guess_vendor_capacity(settings: Settings, target: Target, busy: Decimal) -> Capacity | None:
    """Guesses the throughput of a vendor's machine from the size of the model; None if that is unknown."""
    base = known_base(settings, target.row, target.model)
    if base is not None:
        speed = guess_serving_speed(weights_at_work(base.architecture), loaded_parameters(base.architecture))
    elif target.model.size is not None:
        weights = target.model.size * 1e9
        speed = guess_serving_speed(weights, weights)
    else:
        return None
    reads, writes = (Decimal(round(value)) for value in speed)
    return Capacity(reads, writes, busy, "guessed", Decimal(GUESS_FACTOR))


def _work(base: Base, report: Report, chosen: Mapping[str, Hyperparameter], sweep: Sweep) -> Work:
    if pairs := _pairs_of(report, chosen):
        return _work_on_pairs(base, pairs, chosen)
    numbers = {name: [value for value in values if not isinstance(value, str)] for name, values in sweep}
    chosen = {**chosen, **{name: max(values) for name, values in numbers.items() if values}}
    length = min(
        report.tokens.rows.max, _whole_number(chosen, "max_length", MAX_LENGTH), base.architecture.context
    )
    answer = min(max(1, round(report.tokens.answer_mean)), max(length, 1))
    samples = _whole_number(chosen, "samples", 0)
    if samples:  # a sampled answer may be as long as allowed, however short the right one is
        most = _whole_number(chosen, "max_new_tokens", answer)
        length, answer = min(length - answer + most, base.architecture.context), most
    rank, targets = (
        _whole_number(chosen, "lora_r", Work.rank),
        str(chosen.get("target_modules", Work.targets)),
    )
    batch = _whole_number(chosen, "batch_size", 8)
    return Work(_method(chosen), max(length, 1), batch, rank, answer, samples=samples, targets=targets)


def _pairs_of(report: Report, chosen: Mapping[str, Hyperparameter]) -> PairsReport | None:
    """Returns the pairs that DPO trains on, None if `chosen` belongs to another method. GRPO has a beta too, so
    `samples` tells them apart."""
    return report.pairs if "beta" in chosen and "samples" not in chosen else None


def _method(chosen: Mapping[str, Hyperparameter]) -> Method:
    """Returns how the base model is loaded. "auto", which a provider's defaults may have, means full precision."""
    return METHOD_BY_QUANTIZATION.get(chosen.get("quantization", "none"), "lora")


def _in_4_bits(base: Base, work: Work, machine: Machine) -> int | None:
    """Returns the bytes that training would take in 4 bits, None if that wouldn't fit either or is already chosen."""
    in_4_bits = adapt_to_memory(base.architecture, replace(work, method="qlora"), machine)
    packed = check_fit(base.architecture, in_4_bits, machine)
    if work.method == "qlora" or packed.standing != "fits":
        return None
    return packed.needed


def memory_headroom_for_pairs(base: Base, pairs: PairsReport) -> MemoryHeadroom:
    """Sizes the longest pair with our own trainer's defaults."""
    memory_fit = check_fit(base.architecture, _work_on_pairs(base, pairs, {}), this_machine())
    return MemoryHeadroom(_memory_text(memory_fit), _shortage(memory_fit))


def training_time_for_pairs(settings: Settings, base: Base, pairs: PairsReport) -> TrainingTime | None:
    """Returns the time to train on the pairs, None if this machine's speed, or TRL's on it, was not measured."""
    machine = _calibration(settings)
    if machine is None:
        return None
    taken = pair_seconds(base.architecture, _pair_lengths(base, pairs, pairs.pairs, {}), machine)
    return None if taken is None else _measured_time(taken, machine)


def _pair_lengths(
    base: Base, pairs: PairsReport, count: int, chosen: Mapping[str, Hyperparameter]
) -> PairLengths:
    """Describes `count` of the pairs. Each is padded to the longest of its batch, which is assumed to be midway between
    the mean and the 95th percentile."""
    work, longer = _work_on_pairs(base, pairs, chosen), pairs.longer
    mean, padded = (min(value, work.length) for value in (longer.mean, (longer.mean + longer.p95) / 2))
    epochs = _whole_number(chosen, "n_epochs", hosted_epochs_for(count))
    return PairLengths(count, mean, padded, work.batch, epochs, work.answer, work.rank)


def _work_on_pairs(base: Base, pairs: PairsReport, chosen: Mapping[str, Hyperparameter]) -> Work:
    most = _whole_number(chosen, "max_length", MAX_LENGTH)
    length = max(1, min(pairs.longer.max, most, base.architecture.context))
    answer = min(max(1, round(pairs.longer.mean - pairs.prompt.mean)), length)
    rank, targets = (
        _whole_number(chosen, "lora_r", Work.rank),
        str(chosen.get("target_modules", Work.targets)),
    )
    batch = _whole_number(chosen, "batch_size", batch_for(pairs.pairs))
    return Work(_method(chosen), length, batch, rank, answer, pairs=True, targets=targets)


def training_time(
    settings: Settings,
    base: Base,
    report: Report,
    tokens: int,
    chosen: Mapping[str, Hyperparameter],
    sweep: Sweep = (),
    rented: Machine | None = None,
) -> TrainingTime | None:
    """Returns the time to train on `tokens` per epoch, as counted by the model's own tokenizer; None if nothing is
    known about the speed.

    It is a guess if the machine's speed was not measured, or if the base model is loaded in 4 or 8 bits. The time of a
    sweep is that of all trials in the rungs of trainers/hyperparameters.py, with the validations of each rung.
    """
    measured, place = None if rented else _calibration(settings), rented or this_machine()
    machine = measured or guess_calibration(place)
    if machine is None or not report.n_train:
        return None
    is_guess = measured is None or _method(chosen) != "lora"
    pairs = _pairs_of(report, chosen)
    if pairs or "samples" in chosen:
        lengths = (
            _pair_lengths(base, pairs, report.n_train, chosen)
            if pairs
            else _sample_lengths(report, tokens, chosen)
        )
        # TRL's passes over the logits count as 0 if they were not measured.
        timed = replace(machine, word_s=machine.word_s or 0.0, trl_s=machine.trl_s or 0.0)
        taken_s = pair_seconds(base.architecture, lengths, timed)
        assert taken_s is not None  # noqa: S101 - word_s and trl_s are set
        return (
            _guessed_time(taken_s) if is_guess or machine.word_s is None else _measured_time(taken_s, machine)
        )
    done = adapt_to_memory(base.architecture, _work(base, report, chosen, sweep), place)
    recomputes = with_forced_checkpoints(base.architecture, done).checkpoints
    arms = [{**chosen, **arm} for arm in combinations(sweep)] if sweep else [chosen]
    rows = [
        replace(_row_lengths(report, tokens / report.n_train, arm), recomputes=recomputes) for arm in arms
    ]
    courses = [training_seconds(base.architecture, each, machine) - machine.startup_s for each in rows]
    in_all = sum(courses)
    if sweep:
        epoch_s = max(course / each.epochs for course, each in zip(courses, rows, strict=True))
        # Each rung ends with a validation of all its trials. A forward pass takes a third of the time of training.
        validations = sum(rung.arms for rung in halving_rungs(len(arms)))
        validation_epochs = validations * validation_rows(report.n_train) / report.n_train / 3
        in_all = halving_total(courses) + validation_epochs * epoch_s
    taken_s = machine.startup_s + in_all
    return _guessed_time(taken_s) if is_guess else _measured_time(taken_s, machine)


def stated_training_time(
    settings: Settings, target: Target, tokens: int, by_size: TrainingTime | None
) -> TrainingTime | None:
    """Returns the time to train on `tokens` in all, by the speed that a person stated; `by_size`, what was measured or
    guessed from the model's size, if none was stated for such a model.

    `tokens_per_second` of a model is believed. That of the trainer is believed for models like the one that comes with
    it: a model of fifty times the size takes fifty times as long, and one of unknown size an unknown time."""
    if target.model.tokens_per_second:
        return _stated_time(tokens, Decimal(target.model.tokens_per_second), by_size)
    if settings.trainer.tokens_per_second is None:
        return by_size
    speed = Decimal(settings.trainer.tokens_per_second)
    weights = _weights(settings, target)
    if weights is None:
        return by_size
    if weights <= LIKE_PACKAGED * PACKAGED_WEIGHTS:
        return _stated_time(tokens, speed, by_size)
    if by_size is not None:
        return by_size
    scaled = speed * PACKAGED_WEIGHTS / Decimal(weights)
    return replace(_stated_time(tokens, scaled, None), is_guess=True)


def _weights(settings: Settings, target: Target) -> int | None:
    base = known_base(settings, target.row, target.model)
    if base is not None:
        return loaded_parameters(base.architecture)
    place = settings.trainer.models.get(target.model.name) or target.model.base_name or target.model.name
    size = target.model.size or replace(target.model, name=place).size
    return round(size * 1e9) if size else None


def _stated_time(tokens: int, speed: Decimal, by_size: TrainingTime | None) -> TrainingTime:
    """A stated speed never shortens the longest time, after which a paid run is stopped."""
    expected = (tokens / speed + START_UP_S) / 60
    longest = by_size.minutes.high if by_size else expected * GUESS_FACTOR
    return TrainingTime(Range(expected / 2, expected, max(longest, expected * 2)))


def _sample_lengths(report: Report, tokens: int, chosen: Mapping[str, Hyperparameter]) -> PairLengths:
    """Describes GRPO's samples, assuming that the model's answers are as long as the right ones."""
    samples = _whole_number(chosen, "samples", 1)
    mean = tokens / report.n_train / samples
    return PairLengths(
        count=report.n_train,
        longer=mean,
        padded=(mean + report.tokens.rows.max) / 2,
        batch=_whole_number(chosen, "batch_size", 8),
        epochs=_whole_number(chosen, "n_epochs", 1),
        answer=min(report.tokens.answer_mean + 1, mean),
        rank=_whole_number(chosen, "lora_r", Work.rank),
        samples=samples,
        has_reference=bool(chosen.get("beta")),
    )


def _guessed_time(taken_s: float) -> TrainingTime:
    expected = Decimal(round(taken_s, 1)) / 60
    return TrainingTime(Range(expected / GUESS_FACTOR, expected, expected * GUESS_FACTOR), is_guess=True)


def _measured_time(taken_s: float, machine: Calibration) -> TrainingTime:
    expected = Decimal(round(taken_s, 1)) / 60
    day = datetime.fromtimestamp(machine.measured_at, UTC).date().isoformat()
    return TrainingTime(Range(expected * SHORTEST, expected, expected * LONGEST), day)


def _row_lengths(report: Report, mean: float, chosen: Mapping[str, Hyperparameter]) -> RowLengths:
    shared = tokens_of_system(report.system, O200K) + TURN_TOKENS if report.system else 0
    return RowLengths(
        count=report.n_train,
        tokens=mean,
        batch=_whole_number(chosen, "batch_size", 8),
        epochs=_whole_number(chosen, "n_epochs", 1),
        shared=min(shared, mean / 2),
        answer=report.tokens.answer_mean + 1,
        rank=_whole_number(chosen, "lora_r", Work.rank),
    )


def _calibration(settings: Settings) -> Calibration | None:
    try:
        return read_calibration(settings.data / CALIBRATION_FILE)
    except InvalidCalibration as problem:
        log.warning("%s", problem)
        return None


def _memory_text(fit: Fit, by_itself: str = "") -> str:
    about = f"about {fit.needed / 1e9:.1f} of {fit.machine.memory / 1e9:.0f} GB"
    if fit.standing == "fits":
        return f"fits{by_itself}, {about}"
    return f"may just fit, {about}" if fit.standing == "tight" else f"does not fit, {about}"


def _shortage(fit: Fit, in_4_bits: int | None = None) -> MemoryShortage | None:
    if fit.standing == "fits":
        return None
    return MemoryShortage(fit.machine.name, fit.needed, fit.standing == "too large", in_4_bits)


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.2f}B" if parameters >= 1e9 else f"{parameters / 1e6:.1f}M"


def _whole_number(chosen: Mapping[str, Hyperparameter], name: str, default: int) -> int:
    value = chosen.get(name, default)
    return value if isinstance(value, int) and not isinstance(value, bool) else default


@dataclass(frozen=True)
class Target:
    row: ProviderRow
    model: ModelRow

    @property
    def name(self) -> str:
        return f"{self.row.name}/{self.model.name}"


def find_target(providers: Sequence[ProviderRow], wanted: str | None) -> Target | Refusal:
    """Finds a target by a name like 'local/smollm2-135m', or by a bare model name. Without a name it is the first model
    that can be trained."""
    targets = [Target(row, model) for row in providers if row.trains for model in row.models]
    if wanted is None:
        return targets[0] if targets else Refusal("No model to train is configured.", "target")
    provider, slash, _ = wanted.partition("/")
    for target in targets:
        bare = wanted.removeprefix(f"{target.row.name}/")
        is_meant = not slash or provider == target.row.name or wanted == target.model.name
        if is_meant and bare in (target.model.name, *target.model.aliases):
            return target
    chats = (
        next((row for row in providers if row.name == provider and not row.trains), None) if slash else None
    )
    if chats:
        return Refusal(
            f"{chats.title} can be asked, but doesn't train models. {_targets_hint(targets)}", "target"
        )
    if slash and provider == RENTED and all(row.name != RENTED for row in providers):
        return Refusal(
            "Renting a GPU by the minute is not set up here. Add `hardware` and `image` under `[hf]` in finetune.toml, "
            "and `HF_TOKEN` (docs/rented-gpu.md).",
            "target",
        )
    names = [target.name for target in targets]
    near = difflib.get_close_matches(wanted, [*names, *(t.model.name for t in targets)], n=1, cutoff=0.5)
    hint = f"Did you mean `{near[0]}`?" if near else _targets_hint(targets)
    return Refusal(f"I know no model to train named {code(wanted[:60])}. {hint}", "target")


def _targets_hint(targets: Sequence[Target]) -> str:
    return "There are " + ", ".join(f"`{target.name}`" for target in targets) + "."


def with_rental_price(settings: Settings, target: Target) -> Settings | Refusal:
    """Returns the settings with the current price of the machine that the target rents, if it rents one."""
    renting = settings.trainer.renting
    if not target.row.rents or renting is None:
        return settings
    try:
        rental = fetch_rental(renting.hardware, renting.minutes)
    except TrainerError as trouble:
        return Refusal(f"{trouble} Nothing can be planned without the machine's price.", "target")
    rows = (replace(row, rental=rental) if row.rents else row for row in settings.providers)
    return replace(settings, providers=tuple(rows))


def rented_training(
    settings: Settings,
    target: Target,
    report: Report,
    tokens: int,
    chosen: Mapping[str, Hyperparameter],
    sweep: Sweep,
    rental: Rental,
) -> tuple[MemoryHeadroom | None, Range]:
    """Returns whether the training fits into the rented machine's GPU (None if unknown), and its minutes, which are
    guessed and end with the rental."""
    limit, base = Decimal(rental.minutes), known_base(settings, target.row, target.model)
    loading = min(limit, Decimal(LOADING_MINUTES))
    unknown = Range(loading, (loading + limit) / 2, limit)
    machine = read_gpu(rental.gpu) or read_gpu(rental.memory)
    if base is None or machine is None:
        return None, unknown
    room = memory_headroom(base, report, chosen, sweep, machine)
    timed = training_time(settings, base, report, tokens, chosen, sweep, machine)
    if timed is None:
        return room, unknown
    low, expected = (min(limit, loading + minutes) for minutes in (timed.minutes.low, timed.minutes.expected))
    return room, Range(low, expected, limit)


@dataclass(frozen=True)
class RowLimit:
    """A row may have at most `tokens`, as counted by `encoding`."""

    tokens: int
    encoding: Encoding

    @property
    def own(self) -> Encoding | None:
        """The encoding if its tokenizer is on this machine, otherwise None."""
        return self.encoding if self.encoding.folder else None


DEFAULT_ROW_LIMIT = RowLimit(DEFAULT_LIMITS.max_row_tokens, O200K)


def default_row_limit(settings: Settings) -> RowLimit | None:
    """Returns the row limit of the default target, None if there is no target."""
    target = find_target(settings.providers, None)
    return None if isinstance(target, Refusal) else _limit_of(target, settings.trainer.folders)


def row_limit_of(settings: Settings, wanted: str) -> RowLimit | Refusal:
    """Returns the row limit of a model, named as in `finetune estimate --target`."""
    target = find_target(settings.providers, wanted)
    return target if isinstance(target, Refusal) else _limit_of(target, settings.trainer.folders)


def row_limit_of_folder(folder: Path) -> RowLimit | Refusal:
    """Returns the row limit of a model in a folder on this machine, which need not be configured."""
    encoding, config = local_encoding(folder), folder / "config.json"
    if encoding.folder is None:
        return Refusal(f"{folder} has no tokenizer.json, so the model's tokens can't be counted.")
    try:
        existing = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        existing = None  # the folder may have only a tokenizer; our trainer's own limit applies in any case
    takes = existing if isinstance(existing, int) and existing > 0 else OUR_ROW_TOKENS
    return RowLimit(min(takes, OUR_ROW_TOKENS), encoding)


def _limit_of(target: Target, folders: Mapping[str, Path]) -> RowLimit:
    model = target.model
    if not target.row.is_started_by_us:
        return RowLimit(model.context or training_limit(model.name), encoding_of(model.name))
    takes = target.row.defaults.get("max_length")
    most = takes if isinstance(takes, int) else OUR_ROW_TOKENS
    folder = folders.get(model.name)
    encoding = local_encoding(folder) if folder else encoding_of(model.name)
    return RowLimit(min(most, model.context or most), encoding)
