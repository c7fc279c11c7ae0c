"""Requests that people make to the services, one class for each that takes more than a name or a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from bot.rules.estimate_inputs import Question
from bot.rules.facts import TaskKind
from bot.rules.plans import Continued, Retraining
from storage.records import Topic
from trainers.evaluation.results import CandidateKind

CHANNEL_TOPICS: tuple[Topic, ...] = ("results", "changes", "money", "ends", "weekly", "problems")
"""What a channel may switch off."""
PERSON_TOPICS: tuple[Topic, ...] = ("results", "approvals", "money", "problems")
"""What a person may switch off: direct messages about what they asked for, pay for or keep running."""
ALWAYS_ON: tuple[Topic, ...] = ("answers", "questions", "receipts", "cards")
"""What nobody may switch off; bot/cards/common/message_topics.py says why."""
TOPICS: tuple[Topic, ...] = tuple(dict.fromkeys((*CHANNEL_TOPICS, *PERSON_TOPICS, *ALWAYS_ON)))


@dataclass(frozen=True)
class Estimate:
    """`bar` and `task` default to the dataset's settings."""

    dataset: str
    question: Question
    bar: float | None = None
    task: TaskKind | None = None


@dataclass(frozen=True)
class Start:
    """`because` is the reason to override a soft rule about data, here and in the classes below. `retrains` is the
    reason if a model that ends is replaced, `continued` what the question took over from an earlier one, and `again`
    the number of the run that is repeated with changes."""

    dataset: str
    question: Question
    because: str | None = None
    retrains: Retraining | None = None
    continued: Continued | None = None
    again: int | None = None


@dataclass(frozen=True)
class Promote:
    """What to deploy: the tuned model `name`; or with a `kind` the candidate of the dataset `name`, which its model and
    number of `shots` may tell from others. `because` is the reason to deploy it against the evidence."""

    name: str
    kind: CandidateKind | None = None
    model: str | None = None
    shots: int | None = None
    because: str | None = None


@dataclass(frozen=True)
class ChooseFallback:
    """A candidate of a dataset to answer when what is in use can't, or has given no answer `after` so many seconds."""

    candidate: Promote
    after: int | None = None


@dataclass(frozen=True)
class BeginLiveTest:
    """Try something on the live calls of its dataset: sampled calls are put to it too, and with `canary` it answers
    this share (0 to 1) of the conversations itself."""

    what: Promote
    canary: float = 0.0


@dataclass(frozen=True)
class Baseline:
    """A measurement of candidates. Without `models` those of the bot's own trainer are asked, without `kinds` every
    candidate that fits is measured. `bar` and `task` default to the dataset's settings. `judge` None: no model judges.

    `shots` is the number of examples in a prompt: None for ten, 0 for the number that does best on training rows.
    `optimise` is the budget in USD of a search for a better prompt, which the model `writer` proposes; without a writer
    the first of the models does. `asks_again`: the models are asked although answers of theirs are stored, since a
    vendor may change a model under its name.
    """

    dataset: str
    models: tuple[str, ...] = ()
    kinds: tuple[CandidateKind, ...] = ()
    prompt: str | None = None
    bar: float | None = None
    task: TaskKind | None = None
    judge: str | None = None
    shots: int | None = None
    optimise: Decimal | None = None
    writer: str | None = None
    because: str | None = None
    asks_again: bool = False


@dataclass(frozen=True)
class Curve:
    """A learning curve of the classical model, which is free. `predict` are the numbers of rows to extrapolate to;
    empty means the usual ones. `label_usd` defaults to the last one in a shared estimate."""

    dataset: str
    predict: tuple[int, ...] = ()
    label_usd: Decimal | None = None


@dataclass(frozen=True)
class Delete:
    """Delete all versions of a dataset, or those that were uploaded before a day (UTC)."""

    dataset: str
    before: date | None = None


@dataclass(frozen=True)
class Notify:
    """Switches topics of messages on or off, for the channel or for the person who asks."""

    switches: Mapping[Topic, bool]
    is_for_channel: bool = False

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics that can be switched."""
        return CHANNEL_TOPICS if self.is_for_channel else PERSON_TOPICS
