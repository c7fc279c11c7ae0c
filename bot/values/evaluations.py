"""The plan and the progress of an evaluation: frozen values, stored as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from storage.records import Promotable
from trainers.dataset.rows import Task
from trainers.evaluation.results import Candidate, Scoring
from trainers.evaluation.scores import Choice
from trainers.json_values import JsonValue, from_object, stored_as, to_object
from trainers.models.chat_parameters import thinking_tokens
from trainers.providers.pricing import PriceList, PriceRow

Stage = Literal[
    "preparing", "pricing", "asking", "choosing", "searching", "measuring", "consulting", "judging"
]


@dataclass(frozen=True)
class SearchPlan:
    """A search for a better prompt for `model`, with prompts proposed by the model `writer` (names are
    'provider/model'). It may cost `most_micros` micro-dollars, including the measurement of the new prompt on the
    held-out rows."""

    model: str
    writer: str
    most_micros: int


class VersionPlan:
    """A plan for one version of a dataset."""

    dataset: str
    version: int

    @property
    def title(self) -> str:
        return self.dataset if self.version == 1 else f"{self.dataset} (version {self.version})"


@dataclass(frozen=True)
class ComparisonPlan(VersionPlan, JsonValue):
    """Everything that a comparison depends on. Models are named 'provider/model'.

    `labels` is empty for free text. `documents` are the sha256 of texts for retrieval. `prices` is a PriceList as JSON
    with a row for each model that is asked. `withheld_from` are the models that see no passage with personal data,
    because they run elsewhere and there is no waiver. `judge` is the model that scores free text. `thinking` are the
    models that think before they answer, and need room for it.

    `teaches` is the number of a labelling: the only candidate then labels that batch's rows, which take the holdout's
    place, and nothing is scored. `optimised` is the prompt of the candidate `optimised`: from an earlier measurement,
    or the one that `search` has found. With `chooses_shots` the number of examples is chosen on training rows first.
    `shots_asked` is the number that was asked for, if the training rows have fewer; 0 if they have enough. `promotes`
    is the tuned model that is deployed if it turns out better; the rows are then the sealed ones. `encoder` is the one
    that the candidates `encoder` and `retrieval` use. `longest_answer` is the tokens of the dataset's longest answer.
    `scoring` and `floor` are those of the dataset's report. `is_bar_set` is False if `bar` is the usual one, because
    nobody has set another; None in older plans. `asked_on` is the day ('2026-12-07') on which the models are asked
    again although answers of theirs are stored, '' if stored answers count.
    """

    dataset: str
    version: int
    task: Task
    train_sha256: str
    holdout_sha256: str
    n_holdout: int
    labels: tuple[str, ...]
    # Older versions called candidates arms, and stored them so.
    candidates: tuple[Candidate, ...] = field(metadata=stored_as("arms"))
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
    shots_asked: int = 0
    scoring: Scoring | None = None
    floor: float | None = None
    is_bar_set: bool | None = None
    asked_on: str = ""

    @property
    def has_objects(self) -> bool:
        """True if answers are JSON objects of which each field is scored, and not a few that stand for labels."""
        return self.scoring == "json" and not self.labels

    def built_as(self, candidates: Iterable[Candidate]) -> ComparisonPlan:
        """Returns the plan with the candidates as they could be built."""
        built = tuple(candidates)
        if set(built) == set(self.candidates):
            return self
        wanted = [candidate.examples for candidate in self.candidates if candidate.kind == "kshot"]
        return replace(self, candidates=built, shots_asked=max(wanted, default=0))

    def room(self, model: str) -> int:
        """Tokens that this model may spend on thinking, on top of its longest answer."""
        return thinking_tokens(model in self.thinking)

    @property
    def price_of(self) -> Mapping[str, PriceRow]:
        return {row.model: row for row in PriceList.from_json(self.prices).rows}


@dataclass(frozen=True)
class CurvePlan(VersionPlan, JsonValue):
    """The plan of a classical model's learning curve. `predict` are the numbers of rows to extrapolate to. `label_usd`
    is the price of one labelled row as text, None if nobody has stated it."""

    dataset: str
    version: int
    train_sha256: str
    holdout_sha256: str
    predict: tuple[int, ...]
    label_usd: str | None = None


@dataclass(frozen=True)
class CandidateProgress:
    """How far one candidate is: `answered` of `of` rows have a reply. `declined` are the keys of questions that the
    provider refuses to answer, which count as empty answers; `why_declined` is its reason for the first. `failed` says
    why the candidate is left out. `work` is how long one of its answers takes relative to other candidates'."""

    identity: Candidate = field(metadata=stored_as("arm"))
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
    """The judge's choice between the answers of the two best candidates, for each held-out row. None if it chose
    differently when the two answers were swapped, or if its verdict could not be read."""

    first: Candidate
    second: Candidate
    choices: tuple[Choice | None, ...]

    def count(self, choice: Choice | None) -> int:
        return self.choices.count(choice)


@dataclass(frozen=True)
class JudgeProgress:
    """How far the judge is: `answered` of about `of` questions. `declined` are the keys of questions that its provider
    refuses to answer. `failed` says why its verdicts don't count, `unpaired` why the best two candidates were not
    compared. When it is done, `unread` of the `judged` answers have no readable verdict."""

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
    """The score, from 0 to 1, that a prompt with the candidate's number of examples reached on `rows` training rows."""

    candidate: Candidate = field(metadata=stored_as("arm"))
    share: float
    rows: int


@dataclass(frozen=True)
class SearchProgress:
    """How far the search for a better prompt is: `answered` questions, `tried` prompts. `start_share` and `share` are
    the scores of `start` and of `prompt`, the best so far, on `rows` training rows, from 0 to 1.

    Questions whose answers were lost may have been billed: `lost_micros` is their maximum, and counts against the
    budget. `declined` are the keys of questions that the provider refuses to answer. `ended` says why the search
    stopped early. `asked` was stored by older versions.
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
class SealedOutcome:
    """What the sealed rows decided: whether the model was deployed and, if not, why (our own mrkdwn)."""

    is_deployed: bool
    why: str = ""


@dataclass(frozen=True)
class ComparisonProgress(JsonValue):
    """How far a comparison is. In the stage `asking` it waits for a person to agree to `most_micros`; `agreed_by` is
    that person. `spent_micros` is the cost of the answers so far, and `lost_micros` the highest cost of questions whose
    answers were lost, which may have been paid for too. `note` is a sentence about a delay. `judge` is None until a
    judge is asked.

    The pace is measured from `paced_at`, when `paced_work` had been done: the time before the first new answers is
    left out, since a model loads then, and answers from earlier measurements take no time. `shots_micros` is the cost
    of choosing the number of examples. `opened_at` is when the first question about sealed rows was asked, and
    `outcome` what they decided; both are None for other comparisons.
    """

    stage: Stage = "preparing"
    candidates: tuple[CandidateProgress, ...] = field(default=(), metadata=stored_as("arms"))
    most_micros: int = 0
    spent_micros: int = 0
    started_at: float | None = None
    note: str | None = None
    judge: JudgeProgress | None = None
    paced_at: float | None = None
    paced_work: float = 0.0
    search: SearchProgress | None = None
    shot_candidates: tuple[CandidateProgress, ...] = field(default=(), metadata=stored_as("shot_arms"))
    shots: tuple[ShotsTried, ...] = ()
    shots_micros: int = 0
    agreed_by: str | None = None
    opened_at: float | None = None
    outcome: SealedOutcome | None = None
    lost_micros: int = 0

    @property
    def booked_micros(self) -> int:
        """What counts in the budgets: never less than was spent."""
        return self.spent_micros + self.lost_micros

    @property
    def answered(self) -> int:
        return sum(
            candidate.answered + len(candidate.declined)
            for candidate in self.candidates
            if candidate.failed is None
        )

    @property
    def of(self) -> int:
        return sum(candidate.of for candidate in self.candidates if candidate.failed is None)

    @property
    def share(self) -> float:
        """The share of the answers that are there, from 0 to 1: what the card counts beside it. The time left is
        estimated from the work instead, since answers take more or less of it."""
        if not self.of:
            return 0.0
        return self.answered / self.of

    @property
    def _work(self) -> float:
        return sum(candidate.of * candidate.work for candidate in self.candidates if candidate.failed is None)

    @property
    def _done(self) -> float:
        candidates = (candidate for candidate in self.candidates if candidate.failed is None)
        return sum(
            (candidate.answered + len(candidate.declined)) * candidate.work for candidate in candidates
        )

    def start(self, now: float, by: str | None = None) -> ComparisonProgress:
        """Returns the progress of a comparison that starts now, after this person agreed to its cost."""
        begun = replace(self, started_at=now, agreed_by=by)
        if self.shot_candidates:
            return replace(begun, stage="choosing")
        return begun.after_shots()

    def after_shots(self) -> ComparisonProgress:
        """Returns the progress once the number of examples is chosen."""
        if self.search:
            return replace(self, stage="searching")
        return replace(self, stage="measuring")

    @property
    def before_measuring_micros(self) -> int:
        """The cost of choosing the number of examples and of the prompt search."""
        if self.search is None:
            return self.shots_micros
        return self.shots_micros + self.search.spent_micros

    def start_pace(self, now: float) -> ComparisonProgress:
        """Returns the progress with the start of the pace, once there are answers."""
        if self.paced_at is not None or not self._done:
            return self
        return replace(self, paced_at=now, paced_work=self._done)

    def seconds_left(self, now: float) -> float | None:
        """Returns the seconds left at the pace so far, None if no answer has come since it began."""
        done = self._done
        done_since = done - self.paced_work
        if self.paced_at is None or done_since <= 0:
            return None
        seconds_each = (now - self.paced_at) / done_since
        return seconds_each * (self._work - done)


def promotable_candidate(candidate: Candidate, measurement: int) -> Promotable:
    """Returns a candidate as the measurement with that number measured it."""
    return Promotable(candidate=json.dumps(to_object(candidate)), measurement=measurement)


def promoted_candidate(what: Promotable) -> Candidate | None:
    """Returns the candidate that was chosen, None for a tuned model, which is chosen by its name."""
    if what.candidate is None:
        return None
    return from_object(Candidate, json.loads(what.candidate))
