"""What is looked up about models before anything is decided: who trains the target and who is asked, at which prices,
and how much memory and time a training takes. services/common/targets.py, candidates.py and hardware.py look it up."""

from __future__ import annotations

from dataclasses import dataclass

from bot.rules.models.deployments import Hosting
from bot.rules.models.starting_models import StartingModel
from bot.rules.roi import Range
from trainers.providers.pricing import PriceRow
from trainers.providers.providers import ModelRow, ProviderRow
from trainers.types import Hyperparameter


@dataclass(frozen=True)
class Target:
    """The model to train, and who trains it. `start` is the tuned model from which the training goes on, None if it
    begins with the base model `model`."""

    row: ProviderRow
    model: ModelRow
    start: StartingModel | None = None

    @property
    def name(self) -> str:
        return f"{self.row.name}/{self.model.name}"

    @property
    def title(self) -> str:
        """Its name for people: the tuned model's if the training goes on from one."""
        if self.start is None:
            return self.name
        return self.start.name


@dataclass(frozen=True)
class PricedModel:
    """A model to ask, its provider's row and its price. `price.model` is the full name, 'provider/model'."""

    row: ProviderRow
    price: PriceRow

    @property
    def name(self) -> str:
        return self.price.model

    @property
    def thinks(self) -> bool:
        """True if it generates thinking tokens before its answer, which are billed too."""
        return self.row.thinks(self.name.split("/", 1)[1])


@dataclass(frozen=True)
class JudgeTerms:
    """The model that judges the tuned model's free text. A verdict has up to `verdict_tokens`, and the longest answer
    that it reads `answer_tokens`."""

    model: PricedModel
    verdict_tokens: int
    answer_tokens: int


@dataclass(frozen=True)
class MemoryShortage:
    """The training takes `needed` bytes, which is more than the machine's memory, or may be if not `is_certain`.
    `in_4_bits` are the bytes that it would take in 4 bits, None if that wouldn't fit either."""

    machine: str
    needed: int
    is_certain: bool
    in_4_bits: int | None = None


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


@dataclass(frozen=True)
class TrainingNeeds:
    """What training a target on a dataset takes, and the prices of asking the tuned model and its base.

    - `room` is the headroom in the training machine's memory, None at a vendor. `time` is None if it can't be
      estimated.
    - `tokens` are those of one epoch, summed over all trials of a sweep; `is_estimated` is true if they were counted
      with another model's tokenizer. An answer has up to `answer_tokens`, with those of thinking.
    - `hosting` are the terms of the machine that will answer, None if the bot starts none.
    """

    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    tuned: PriceRow
    base: PriceRow
    room: MemoryHeadroom | None
    time: TrainingTime | None
    tokens: int
    is_estimated: bool
    answer_tokens: int
    hosting: Hosting | None

    @property
    def epochs(self) -> int:
        """The passes over the rows: one for the method `head`, whose encoder stays frozen."""
        return int(dict(self.hyperparameters).get("n_epochs", 1))
