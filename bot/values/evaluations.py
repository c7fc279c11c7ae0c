"""What an evaluation was asked to do and how far it is: frozen values, stored as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from trainers.chat_parameters import thinking_tokens
from trainers.dataset.rows import Task
from trainers.evaluation.results import Candidate
from trainers.evaluation.scores import Choice
from trainers.json_values import JsonValue
from trainers.pricing import PriceList, PriceRow

Stage = Literal[
    "preparing", "pricing", "asking", "choosing", "searching", "measuring", "consulting", "judging"
]


@dataclass(frozen=True)
class SearchPlan:
    """A better prompt is looked for, for `model`, 'provider/model', and written by the model `writer`. It may cost
    `most_micros`, measuring the prompt on the held-out rows included."""

    model: str
    writer: str
    most_micros: int


@dataclass(frozen=True)
class LadderPlan(JsonValue):
    """Everything that a ladder rests on. `labels` is empty for free text; `documents` are the sha256 of texts
    given as knowledge; `prices` (a PriceList as JSON) has a row for each model that is asked, by its name
    'provider/model'. Passages with personal data are `withheld_from` models on other machines without a waiver.
    `judge` is the model, by such a name, that judges free text. Those that are `thinking` before they answer get
    room for it. `teaches`: the number of the labelling whose rows the one candidate labels: they stand in the holdout's
    place, and nothing is measured. `optimised` is the prompt of the candidates with that rung: from an earlier
    measurement, or, once the `search` is over, what it brought. `chooses_shots`: on training rows first. `promotes`:
    the tuned model that is deployed if it is the better one; then the rows are the sealed ones. `encoder`: which one,
    where that rung is measured. `longest_answer`: the tokens of the dataset's longest."""

    dataset: str
    version: int
    task: Task
    train_sha256: str
    holdout_sha256: str
    n_holdout: int
    labels: tuple[str, ...]
    arms: tuple[Candidate, ...]
    prompt: str | None
    bar: float
    documents: tuple[str, ...]
    prices: str
    withheld_from: tuple[str, ...] = ()
    judge: str | None = None
    thinking: tuple[str, ...] = ()
    teaches: int | None = None
    search: SearchPlan | None = None
    optimised: str | None = None
    promotes: str | None = None
    chooses_shots: bool = False
    encoder: str = ""
    longest_answer: int = 0

    def room(self, model: str) -> int:
        """Tokens that an answer of this model, 'provider/model', may take on top of its longest text."""
        return thinking_tokens(model in self.thinking)

    @property
    def price_of(self) -> Mapping[str, PriceRow]:
        return {row.model: row for row in PriceList.from_json(self.prices).rows}

    @property
    def title(self) -> str:
        return self.dataset if self.version == 1 else f"{self.dataset} (version {self.version})"


@dataclass(frozen=True)
class CurvePlan(JsonValue):
    """`label_usd` is what one labelled row costs, as text, where somebody has said so."""

    dataset: str
    version: int
    train_sha256: str
    holdout_sha256: str
    predict: tuple[int, ...]
    label_usd: str | None = None

    @property
    def title(self) -> str:
        return self.dataset if self.version == 1 else f"{self.dataset} (version {self.version})"


@dataclass(frozen=True)
class ArmProgress:
    """`answered` of `of` rows have a reply; `declined` are the keys of questions that get none: they count as
    empty answers, and `why_declined` is what the provider said of the first. `failed` says why an arm is left out.
    `work` is how long one of its answers takes beside those of the other arms; only the ratios count.
    """

    arm: Candidate
    of: int
    answered: int = 0
    declined: tuple[str, ...] = ()
    failed: str | None = None
    why_declined: str | None = None
    work: float = 1.0

    @property
    def is_complete(self) -> bool:
        return self.failed is not None or self.answered + len(self.declined) >= self.of


@dataclass(frozen=True)
class JudgedPair:
    """The two best arms, row by row of the holdout: whose answer the judge finds better. None where it said
    something else once the two answers had changed places, or nothing that could be read."""

    first: Candidate
    second: Candidate
    choices: tuple[Choice | None, ...]

    def count(self, choice: Choice | None) -> int:
        return self.choices.count(choice)


@dataclass(frozen=True)
class JudgeProgress:
    """How far the model that judges is: `answered` of about `of` questions; `declined` are keys of those that get
    no answer. `failed` says why its verdicts decide nothing, `unpaired` why the best two were not compared.

    Once it is through, `unread` of `judged` answers have no verdict that could be read.
    """

    of: int = 0
    answered: int = 0
    declined: tuple[str, ...] = ()
    failed: str | None = None
    unpaired: str | None = None
    judged: int = 0
    unread: int = 0
    pair: JudgedPair | None = None


@dataclass(frozen=True)
class ShotsTried:
    """How good a prompt with so many examples is on `rows` training rows, from 0 to 1."""

    arm: Candidate
    share: float
    rows: int


@dataclass(frozen=True)
class SearchProgress:
    """How far the search for a better prompt is: `answered` questions, `tried` prompts. `start_share` and `share`: how
    good `start` and `prompt`, the best so far, are on `rows` training rows, from 0 to 1.

    `asked` of its questions were asked by now. Where a restart forgot that some were under way, those may have been
    paid: `lost_micros`, which count against its budget. `declined` are keys of questions that get no answer. `ended`
    says why it stopped before it was through.
    """

    answered: int = 0
    tried: int = 0
    rows: int = 0
    start: str = ""
    prompt: str = ""
    start_share: float = 0.0
    share: float = 0.0
    spent_micros: int = 0
    asked: int = 0
    lost_micros: int = 0
    declined: tuple[str, ...] = ()
    ended: str | None = None
    is_over: bool = False

    @property
    def is_better(self) -> bool:
        return self.share > self.start_share


@dataclass(frozen=True)
class LadderProgress(JsonValue):
    """`asking` waits for a person's yes to `most_micros`. `note` is a sentence about a hiccup or a wait.
    `spent_micros` is what the answers so far have cost. `judge` is None before a model is asked to judge. The pace is
    taken from `paced_at`, when the first answers were there and `paced_work` was done: before that a model loads, and
    answers from earlier measurements cost no time."""

    stage: Stage = "preparing"
    arms: tuple[ArmProgress, ...] = ()
    most_micros: int = 0
    spent_micros: int = 0
    started_at: float | None = None
    note: str | None = None
    judge: JudgeProgress | None = None
    paced_at: float | None = None
    paced_work: float = 0.0
    search: SearchProgress | None = None
    shot_arms: tuple[ArmProgress, ...] = ()
    shots: tuple[ShotsTried, ...] = ()
    shots_micros: int = 0

    @property
    def answered(self) -> int:
        return sum(arm.answered + len(arm.declined) for arm in self.arms if arm.failed is None)

    @property
    def of(self) -> int:
        return sum(arm.of for arm in self.arms if arm.failed is None)

    @property
    def share(self) -> float:
        """How much of the work is done, 0 to 1."""
        return self._done / self._work if self._work else 0.0

    @property
    def _work(self) -> float:
        return sum(arm.of * arm.work for arm in self.arms if arm.failed is None)

    @property
    def _done(self) -> float:
        arms = (arm for arm in self.arms if arm.failed is None)
        return sum((arm.answered + len(arm.declined)) * arm.work for arm in arms)

    def begun(self, now: float, _by: str | None = None) -> LadderProgress:
        """Returns the progress at its start, once its cost is agreed to or there is none."""
        begun = replace(self, started_at=now)
        return replace(begun, stage="choosing") if self.shot_arms else begun.after_shots()

    def after_shots(self) -> LadderProgress:
        """Returns the progress once the number of examples is chosen."""
        return replace(self, stage="searching" if self.search else "measuring")

    @property
    def before_measuring_micros(self) -> int:
        """What choosing examples and looking for a prompt have cost."""
        return self.shots_micros + (self.search.spent_micros if self.search else 0)

    def paced(self, now: float) -> LadderProgress:
        """Notes when the pace begins, once there are answers."""
        if self.paced_at is not None or not self._done:
            return self
        return replace(self, paced_at=now, paced_work=self._done)

    def seconds_left(self, now: float) -> float | None:
        """Returns the seconds left by the pace so far, None if nothing has come since it began."""
        since = self._done - self.paced_work
        if self.paced_at is None or since <= 0:
            return None
        return (now - self.paced_at) * (self._work - self._done) / since
