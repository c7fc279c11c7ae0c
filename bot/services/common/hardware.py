"""The memory and time that training a target takes on this machine or on a rented one, and how fast it answers. Times
come from the measured speed (`finetune calibrate`) or are guessed.

Sizes are known only for models that train here and whose dimensions are known without asking a service.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from bot.rules.bills import Capacity
from bot.rules.roi import Range
from bot.settings import PACKAGED_TARGET, Settings
from bot.values.targets import MemoryHeadroom, MemoryShortage, Target, TrainingTime
from trainers.dataset import Report
from trainers.dataset.preference_pairs import PairsReport
from trainers.dataset.splits import validation_rows
from trainers.dataset.token_counts import tokens_of_system
from trainers.encoders import multilingual
from trainers.hyperparameters import (
    Sweep,
    batch_for,
    combinations,
    halving_rounds,
    halving_total,
    hosted_epochs_for,
)
from trainers.models.base_models import Base, find_base
from trainers.models.tokens import O200K
from trainers.providers.providers import ModelRow, ProviderRow
from trainers.rentals.prices import Rental
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
from trainers.types import Hyperparameter

MAX_LENGTH = 1024  # of a row at our own trainer, unless the plan sets it
METHOD_BY_QUANTIZATION: Mapping[Hyperparameter, Method] = {"none": "lora", "nf4": "qlora", "int8": "8bit"}
TURN_TOKENS = 7  # that a chat template puts around the instructions
# A measured time is accurate within 20%, but training takes twice as long beside another busy program.
SHORTEST = Decimal("0.8")
LONGEST = Decimal(2)
LOADING_MINUTES = 5  # of a rented machine before the first step; a rule of thumb
GUESS_FACTOR = 3  # a guess is right within this factor in either direction
START_UP_S = 20
PACKAGED_WEIGHTS = 134_515_008  # of the chat model that comes with our trainer, SmolLM2-135M
LIKE_PACKAGED = 2  # how many times as large a model may be to train at about the same speed

log = logging.getLogger(__name__)


def local_base(settings: Settings, row: ProviderRow, model: ModelRow) -> Base | None:
    """Returns the base model, None if it trains elsewhere or its dimensions are not on this machine."""
    if row.cluster or not row.keeps_models_here:
        return None
    return known_base(settings, row, model)


def known_base(settings: Settings, row: ProviderRow, model: ModelRow) -> Base | None:
    """Returns the base model by its folder or as a preset, wherever it trains; None for encoders, whose sizes are
    computed differently."""
    if model.is_encoder:
        return None
    folder = None
    if row.is_started_by_us:
        folder = settings.trainer.models.get(model.name)
    base = find_base(folder or model.base_name or model.name, ask_the_hub=False)
    if isinstance(base, UnknownSize):
        return None
    return base


def memory_headroom(
    base: Base,
    report: Report,
    chosen: Mapping[str, Hyperparameter],
    sweep: Sweep = (),
    machine: Machine | None = None,
    *,
    learns_all: bool = False,
) -> MemoryHeadroom:
    """Returns whether training fits, sized with the longest row and the largest values of a sweep, whose trials train
    one at a time. `machine` is this one by default."""
    machine = machine or this_machine()
    work = _work(base, report, chosen, sweep, learns_all=learns_all)
    adapted = adapt_to_memory(base.architecture, work, machine)
    memory_fit = check_fit(base.architecture, adapted, machine)
    by_itself = ""
    if adapted.checkpoints and not work.checkpoints:
        by_itself = " with checkpointing"
    loaded = loaded_parameters(base.architecture)
    trained = trainable_parameters(base.architecture, work)
    sizes = f"{_count(loaded)} parameters, {_count(trained)} trained"
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
    verdict = "fits"
    shortage = None
    if work.bytes >= machine.memory:
        verdict = "does not fit"
        shortage = MemoryShortage(machine.name, work.bytes, True, None)
    line = f"{verdict}, about {work.bytes / 1e9:.1f} of {machine.memory / 1e9:.0f} GB"
    if model == PACKAGED_TARGET:  # the sizes of other encoders are unknown here
        most = "up to " if work.can_use_words else ""
        line += f"; {_count(PARAMETERS)} parameters, {most}{work.trained:,} trained"
    return MemoryHeadroom(line, shortage), minutes


def capacity_of(settings: Settings, name: str, busy: Decimal) -> Capacity | None:
    """Returns this machine's capacity with a model named 'provider/model', None if its speed was not measured or the
    model runs elsewhere."""
    provider, _, model = name.partition("/")
    row = settings.provider(provider)
    if row is None:
        return None
    model_row = row.model(model)
    if model_row is None:
        return None
    if model_row.is_encoder:
        return Capacity(READS_A_SECOND, WRITES_A_SECOND, busy)
    base = local_base(settings, row, model_row)
    if base is None:
        return None
    machine = _calibration(settings)
    if machine is None:
        return None
    speed = serving_speed(base.architecture, machine)
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


def _work(
    base: Base,
    report: Report,
    chosen: Mapping[str, Hyperparameter],
    sweep: Sweep,
    *,
    learns_all: bool = False,
) -> Work:
    pairs = _pairs_of(report, chosen)
    if pairs:
        return _work_on_pairs(base, pairs, chosen)
    chosen = {**chosen, **_largest_values(sweep)}
    context = base.architecture.context
    most = _whole_number(chosen, "max_length", MAX_LENGTH)
    length = min(report.tokens.rows.max, most, context)
    answer = max(1, round(report.tokens.answer_mean))
    answer = min(answer, max(length, 1))
    samples = _whole_number(chosen, "samples", 0)
    if samples:  # a sampled answer may be as long as allowed, however short the right one is
        prompt = length - answer
        answer = _whole_number(chosen, "max_new_tokens", answer)
        length = min(prompt + answer, context)
    method = _method(chosen)
    if learns_all:
        method = "full"
    return Work(
        method,
        max(length, 1),
        batch=_whole_number(chosen, "batch_size", 8),
        rank=_whole_number(chosen, "lora_r", Work.rank),
        answer=answer,
        samples=samples,
        targets=str(chosen.get("target_modules", Work.targets)),
    )


def _largest_values(sweep: Sweep) -> dict[str, Hyperparameter]:
    """Returns the largest value of each number that is swept: the trial that takes the most memory."""
    largest: dict[str, Hyperparameter] = {}
    for name, values in sweep:
        numbers = [value for value in values if not isinstance(value, str)]
        if numbers:
            largest[name] = max(numbers)
    return largest


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
    if work.method in ("qlora", "full") or packed.standing != "fits":
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
    taken_s = pair_seconds(base.architecture, _pair_lengths(base, pairs, pairs.pairs, {}), machine)
    if taken_s is None:
        return None
    return _measured_time(taken_s, machine)


def _pair_lengths(
    base: Base, pairs: PairsReport, count: int, chosen: Mapping[str, Hyperparameter]
) -> PairLengths:
    """Describes `count` of the pairs. Each is padded to the longest of its batch, which is assumed to be midway between
    the mean and the 95th percentile."""
    work = _work_on_pairs(base, pairs, chosen)
    mean = pairs.longer.mean
    midway = (mean + pairs.longer.p95) / 2
    return PairLengths(
        count,
        longer=min(mean, work.length),
        padded=min(midway, work.length),
        batch=work.batch,
        epochs=_whole_number(chosen, "n_epochs", hosted_epochs_for(count)),
        answer=work.answer,
        rank=work.rank,
    )


def _work_on_pairs(base: Base, pairs: PairsReport, chosen: Mapping[str, Hyperparameter]) -> Work:
    most = _whole_number(chosen, "max_length", MAX_LENGTH)
    length = max(1, min(pairs.longer.max, most, base.architecture.context))
    answer = max(1, round(pairs.longer.mean - pairs.prompt.mean))
    return Work(
        _method(chosen),
        length,
        batch=_whole_number(chosen, "batch_size", batch_for(pairs.pairs)),
        rank=_whole_number(chosen, "lora_r", Work.rank),
        answer=min(answer, length),
        pairs=True,
        targets=str(chosen.get("target_modules", Work.targets)),
    )


def training_time(
    settings: Settings,
    base: Base,
    report: Report,
    tokens: int,
    chosen: Mapping[str, Hyperparameter],
    sweep: Sweep = (),
    rented: Machine | None = None,
    *,
    learns_all: bool = False,
) -> TrainingTime | None:
    """Returns the time to train on `tokens` per epoch, as counted by the model's own tokenizer; None if nothing is
    known about the speed.

    It is a guess if the machine's speed was not measured, if the base model is loaded in 4 or 8 bits, or if all its
    weights are trained, since the speed is measured with an adapter. The time of a sweep is that of all trials in the
    rounds of trainers/hyperparameters.py, with the validations of each round.
    """
    measured = None
    if rented is None:
        measured = _calibration(settings)
    trains_on = rented or this_machine()
    speed = measured or guess_calibration(trains_on)
    if speed is None or not report.n_train:
        return None

    pairs = _pairs_of(report, chosen)
    is_guess = measured is None or learns_all or _method(chosen) != "lora"
    if pairs:
        taken_s = _trl_seconds(base, _pair_lengths(base, pairs, report.n_train, chosen), speed)
        is_guess = is_guess or speed.word_s is None
    elif "samples" in chosen:
        taken_s = _trl_seconds(base, _sample_lengths(report, tokens, chosen), speed)
        is_guess = is_guess or speed.word_s is None
    else:
        work = _work(base, report, chosen, sweep, learns_all=learns_all)
        adapted = adapt_to_memory(base.architecture, work, trains_on)
        recomputes = with_forced_checkpoints(base.architecture, adapted).checkpoints
        taken_s = _row_seconds(
            base, report, tokens, chosen, sweep, speed, recomputes=recomputes, learns_all=learns_all
        )

    if is_guess:
        return _guessed_time(taken_s)
    return _measured_time(taken_s, speed)


def _trl_seconds(base: Base, lengths: PairLengths, speed: Calibration) -> float:
    """Returns the seconds to train on pairs or on samples. TRL's passes over the logits count as 0 if they were not
    measured."""
    timed = replace(speed, word_s=speed.word_s or 0.0, trl_s=speed.trl_s or 0.0)
    taken_s = pair_seconds(base.architecture, lengths, timed)
    assert taken_s is not None  # noqa: S101 - word_s and trl_s are set
    return taken_s


def _row_seconds(
    base: Base,
    report: Report,
    tokens: int,
    chosen: Mapping[str, Hyperparameter],
    sweep: Sweep,
    speed: Calibration,
    *,
    recomputes: bool,
    learns_all: bool,
) -> float:
    """Returns the seconds to train on the rows, by one set of hyperparameters or by each of a sweep."""
    trials: list[Mapping[str, Hyperparameter]] = [chosen]
    if sweep:
        trials = [{**chosen, **trial} for trial in combinations(sweep)]
    mean = tokens / report.n_train
    rows = []
    for trial in trials:
        lengths = _row_lengths(report, mean, trial)
        rows.append(replace(lengths, recomputes=recomputes, learns_all=learns_all))
    courses = [training_seconds(base.architecture, each, speed) - speed.startup_s for each in rows]
    if not sweep:
        return speed.startup_s + sum(courses)

    # The slowest trial's, so that the validations are not underrated.
    of_trials = zip(courses, rows, strict=True)
    epoch_s = max(course / trial.epochs for course, trial in of_trials)
    # Each round ends with a validation of all its trials. A forward pass takes a third of the time of training.
    validations = sum(planned.trials for planned in halving_rounds(len(trials)))
    validation_epochs = validations * validation_rows(report.n_train) / report.n_train / 3
    in_all = halving_total(courses) + validation_epochs * epoch_s
    return speed.startup_s + in_all


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
    model = target.model
    name = settings.trainer.models.get(model.name) or model.base_name or model.name
    size = model.size or replace(model, name=name).size  # many a name says the size, like 'llama-3.1-8b'
    if not size:
        return None
    return round(size * 1e9)


def _stated_time(tokens: int, speed: Decimal, by_size: TrainingTime | None) -> TrainingTime:
    """A stated speed never shortens the longest time, after which a paid run is stopped."""
    expected = (tokens / speed + START_UP_S) / 60
    longest = by_size.minutes.high if by_size else expected * GUESS_FACTOR
    return TrainingTime(Range(expected / 2, expected, max(longest, expected * 2)))


def _sample_lengths(report: Report, tokens: int, chosen: Mapping[str, Hyperparameter]) -> PairLengths:
    """Describes GRPO's samples, assuming that the model's answers are as long as the right ones."""
    samples = _whole_number(chosen, "samples", 1)
    # `tokens` has every sample of a question.
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
    shared = 0
    if report.system:
        # Counting them here costs the first estimate 0.6 s, in which the vocabulary is loaded.
        counted = report.tokens.system or tokens_of_system(report.system, O200K)
        shared = counted + TURN_TOKENS
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
    if fit.standing == "tight":
        return f"may just fit, {about}"
    return f"does not fit, {about}"


def _shortage(fit: Fit, in_4_bits: int | None = None) -> MemoryShortage | None:
    if fit.standing == "fits":
        return None
    return MemoryShortage(fit.machine.name, fit.needed, fit.standing == "too large", in_4_bits)


def _count(parameters: int) -> str:
    if parameters >= 1e9:
        return f"{parameters / 1e9:.2f}B"
    return f"{parameters / 1e6:.1f}M"


def _whole_number(chosen: Mapping[str, Hyperparameter], name: str, default: int) -> int:
    value = chosen.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int):
        return default
    return value


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
    base = known_base(settings, target.row, target.model)
    limit = Decimal(rental.minutes)
    loading = min(limit, Decimal(LOADING_MINUTES))
    unknown = Range(loading, (loading + limit) / 2, limit)
    machine = read_gpu(rental.gpu) or read_gpu(rental.memory)
    if base is None or machine is None:
        return None, unknown
    room = memory_headroom(base, report, chosen, sweep, machine)
    timed = training_time(settings, base, report, tokens, chosen, sweep, machine)
    if timed is None:
        return room, unknown
    low = min(limit, loading + timed.minutes.low)
    expected = min(limit, loading + timed.minutes.expected)
    # The vendor stops the machine at the limit, so it can't take longer.
    return room, Range(low, expected, limit)
