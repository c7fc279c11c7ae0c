"""A recipe: everything that a candidate's answer depends on, as it was when the candidate was measured.

A promotion freezes it, so that a later measurement of the same name changes nothing that is in use. Its hash covers
every part, also the files beside it, such as a classifier's weights.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Literal

from trainers.dataset.rows import Task
from trainers.evaluation.results import CandidateKind, Scoring
from trainers.json_values import JsonValue, to_object


@dataclass(frozen=True)
class Shot:
    """An earlier question with its right answer, which the prompt shows."""

    question: str
    answer: str


@dataclass(frozen=True)
class RecipeFile:
    """A file in a recipe's folder."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Recipe(JsonValue):
    """How a question about `dataset` is answered by a candidate of this kind.

    - `provider` and `model` say who is asked: the provider's name in our settings, and the model's name there. Both are
      None for the free kinds, which answer from their `files`. A model on a machine by the hour changes its name with
      each machine, so its current name is in `Published`.
    - `labels` are those that an answer may be, empty for free text and for JSON; `scoring` tells the two apart.
    - `prompt` replaces the instructions of the request; None leaves them. A request without any gets `instructions`,
      those with which the measured rows came: "" if they had none, None (our usual ones) if they differed.
      `answer_format` is our instruction for answers in JSON, "" for others.
    - `shots` are examples that every prompt shows. A recipe that looks examples or passages up for each question has
      `retrieved` and shows the `nearest` of them, found among its files by the `encoder`.
    - `max_tokens` is the cap on an answer with which the candidate was measured, without the room to think that a
      model with `is_thinking` gets. A request that names its own cap keeps it.
    """

    kind: CandidateKind
    dataset: str
    version: int
    task: Task
    scoring: Scoring
    labels: tuple[str, ...] = ()
    provider: str | None = None
    model: str | None = None
    prompt: str | None = None
    instructions: str | None = None
    answer_format: str = ""
    shots: tuple[Shot, ...] = ()
    retrieved: Literal["examples", "passages"] | None = None
    nearest: int = 0
    encoder: str = ""
    max_tokens: int | None = None
    is_thinking: bool = False
    files: tuple[RecipeFile, ...] = ()

    @property
    def is_free(self) -> bool:
        """True if no model is asked."""
        return self.model is None

    @property
    def sha256(self) -> str:
        """The hash of every part, by which the recipe is stored and a promotion names it."""
        canonical = json.dumps(to_object(self), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Unavailable:
    """Why nothing answers under a name now. `message` is a sentence for the program's author, `code` a word for the
    program, `status` that of HTTP: 404 if nothing is in use, 503 if it may answer again."""

    status: int
    code: str
    message: str


@dataclass(frozen=True)
class Sampling:
    """Which answered calls are stored as evidence (trainers/recipes/samples.py).

    `share` is the probability, from 0 to 1, with which each of them is drawn. One with personal data is stored with a
    placeholder in its place ("mask") or not at all ("drop"). `presidio`: its recognisers search the texts too.
    """

    share: float
    personal: Literal["mask", "drop"]
    presidio: bool = False


@dataclass(frozen=True)
class PublishedTest:
    """A candidate that is tried on live calls, with its `number`.

    `recipe` is its hash; `model`, `address` and `provider` are as those of `Published`. With `asks_sampled`, calls that
    were sampled are put to it too, and its answers are stored beside theirs (trainers/recipes/shadow_answers.py), which
    no program sees. It answers a `share` of the conversations itself (none unless more than 0 and less than 1), always
    the same ones, until it errs more than what is in use (trainers/recipes/canary_events.py). No answer within `slow_s`
    seconds counts as an error.
    """

    number: int
    recipe: str
    slow_s: float
    model: str | None = None
    address: str | None = None
    provider: str | None = None
    asks_sampled: bool = False
    share: float = 0.0


@dataclass(frozen=True)
class Published(JsonValue):
    """What programs get under a name such as 'team/tickets'.

    `recipe` is the hash of the one in use. `promotion` is the number of the promotion that chose it; calls are counted
    for it. `model` is the name by which a deployed model is called now, `address` the own address of a machine by the
    hour, and `provider` who serves it, if that isn't the recipe's; all are None for others. `fallback` is the hash of
    another recipe that answers if the first can't, or has given no answer after `fallback_after_s` seconds, if somebody
    chose that. `sampling` is None if no call is stored, and `live_test` if no candidate is tried.
    """

    name: str
    recipe: str | None = None
    promotion: int | None = None
    model: str | None = None
    address: str | None = None
    provider: str | None = None
    fallback: str | None = None
    fallback_after_s: float | None = None
    unavailable: Unavailable | None = None
    sampling: Sampling | None = None
    live_test: PublishedTest | None = None


@dataclass(frozen=True)
class Upstream:
    """Where a provider is called: its address, ending in /v1 or the like, and where its key is: a variable of the
    environment, or a file; neither if it needs none. `chat_extra` is a JSON object whose keys are added to each
    question, as they were while candidates were measured; "" adds none. `headers` are sent with each question.
    `has_responses`: it answers OpenAI's Responses too; for others they are translated into chats."""

    name: str
    base_url: str
    key_variable: str | None = None
    key_file: str | None = None
    chat_extra: str = ""
    has_responses: bool = False
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Upstreams(JsonValue):
    """All providers that recipes may ask."""

    upstreams: tuple[Upstream, ...] = ()
