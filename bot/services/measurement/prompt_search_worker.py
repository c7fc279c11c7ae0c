"""Replays a search for a better prompt as far as the stored answers reach: what it would ask next, and what that costs
at most. Runs in a worker process and in the terminal; asks no model."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path

from bot.llm_client import Question, key_of
from bot.rules.budgets import max_judge_micros
from bot.services.datasets.dataset_worker import examples
from bot.services.evidence import evaluation_worker
from bot.services.evidence.candidate_prompts import answer_format_of
from bot.services.evidence.evaluation_worker import ASSUMED_SHARE, CandidateKeys, plan_max_tokens
from bot.values.evaluations import ComparisonPlan, SearchPlan, SearchProgress
from trainers.dataset import Example
from trainers.evaluation.prompt_search import Prompt, PromptSearch, SearchTask, Unanswered, search_task
from trainers.evaluation.prompts import zero_shot
from trainers.evaluation.results import Candidate
from trainers.json_values import JsonValue
from trainers.models.tokens import count_prompts, encoding_of

QUESTIONS = "search.jsonl"
REPLAY = "replay.jsonl"
MAX_TOKENS_PROMPT = 2_000  # for a new prompt and the text that the model writes before it


@dataclass(frozen=True)
class Replay(JsonValue):
    """How far a search gets with the stored answers.

    `keys` are the keys of all its questions so far to the model, `written` of those to the model that writes prompts.
    `open` are the ones without an answer, all of them to `model`; if there are none, the search is over. Each may take
    `max_tokens` (not counting thinking), has a prompt of at most the `tokens` and may cost the `micros` at the same
    position. `start_share` and `share` are the scores, on `rows` training rows, of the prompt at the `start` and of the
    best `prompt` so far. `holdout_micros` is the maximum cost of the held-out rows with the longest prompt so far.
    """

    keys: tuple[str, ...]
    written: tuple[str, ...]
    model: str
    open: tuple[str, ...]
    micros: tuple[int, ...]
    max_tokens: int
    start: str
    prompt: str
    start_share: float
    share: float
    tried: int
    rows: int
    holdout_micros: int
    tokens: tuple[int, ...] = ()

    @property
    def is_better(self) -> bool:
        return self.share > self.start_share

    @property
    def all_keys(self) -> tuple[str, ...]:
        return (*self.keys, *self.written)

    @property
    def candidate(self) -> Candidate:
        """The model that the open questions go to."""
        return Candidate("optimised", self.model)

    def keys_of(self, search: SearchPlan) -> Mapping[Candidate, tuple[str, ...]]:
        """Returns the keys of all questions, by the model that is asked."""
        if search.model == search.writer:
            return {Candidate("optimised", search.model): self.all_keys}
        return {
            Candidate("optimised", search.model): self.keys,
            Candidate("optimised", search.writer): self.written,
        }

    def stays_within(self, budget_micros: int, spent_micros: int, keys: Collection[str]) -> bool:
        """True if the budget covers the maximum cost of these open questions and of the held-out rows after them.
        gepa's own limit is no help: it is checked only between iterations, and overshot."""
        most = spent_micros + self.most_micros(keys) + self.holdout_micros
        return most <= budget_micros

    def progress(self, before: SearchProgress) -> SearchProgress:
        """Returns the search's progress; what was asked and spent is taken over from `before`."""
        return replace(
            before,
            answered=len(self.all_keys) - len(self.open),
            tried=self.tried,
            rows=self.rows,
            start=self.start,
            prompt=self.prompt,
            start_share=self.start_share,
            share=self.share,
        )

    def most_micros(self, keys: Collection[str]) -> int:
        """Returns the maximum cost of these open questions."""
        most = 0
        for key, micros in zip(self.open, self.micros, strict=True):
            if key in keys:
                most += micros
        return most


@dataclass
class _StoredAnswers:
    """Answers a search's questions to a model from the stored `texts`, by key. `open` are the questions without an
    answer, at which the search stops. An answer takes at most `max_tokens`, plus `room` for thinking."""

    model: str
    max_tokens: int
    room: int
    texts: Mapping[str, str]
    keys: dict[str, None] = field(default_factory=dict)
    open: dict[str, Prompt] = field(default_factory=dict)

    def ask(self, prompts: Sequence[Prompt]) -> list[str]:
        cap = self.max_tokens + self.room
        keys = [key_of(self.model, prompt, cap) for prompt in prompts]
        # A dict, so that each key is there once and in the order of the search.
        self.keys.update(dict.fromkeys(keys))
        self.open = {}
        for key, prompt in zip(keys, prompts, strict=True):
            if key not in self.texts:
                self.open[key] = prompt
        if self.open:
            raise Unanswered
        return [self.texts[key] for key in keys]


def replay(plan: ComparisonPlan, texts: Mapping[str, str], files: Path, folder: Path, seed: int) -> Replay:
    """Replays the search as far as `texts`, the answers by key, reach, and writes the questions to ask next into
    `folder`. The held-out rows take no part in the search; only the cost of asking about them is computed."""
    budget = plan.search
    assert budget is not None  # noqa: S101 - without one there is nothing to replay
    model = _StoredAnswers(budget.model, plan_max_tokens(plan), plan.room(budget.model), texts)
    writer = _StoredAnswers(budget.writer, MAX_TOKENS_PROMPT, plan.room(budget.writer), texts)
    fields = answer_format_of(plan, files)
    task = _load_task(files, plan.train_sha256, plan.prompt, plan.labels, seed, fields)
    search = PromptSearch(task, model.ask, writer.ask)
    if task.has_enough_rows:
        with suppress(Unanswered):  # `model` and `writer` hold the questions that are missing
            search.run(seed)
    # The search stops at the first question without an answer, so at most one of the two waits.
    waits = model
    if writer.open:
        waits = writer
    tokens = _count_tokens(waits.model, list(waits.open.values()))
    result = Replay(
        keys=tuple(model.keys),
        written=tuple(writer.keys),
        model=waits.model,
        open=tuple(waits.open),
        micros=_max_micros_each(plan, waits.model, tokens, waits.max_tokens),
        max_tokens=waits.max_tokens,
        start=task.start,
        prompt=search.best,
        start_share=search.shares.get(task.start, 0.0),
        share=search.shares.get(search.best, 0.0),
        tried=len(search.tried),
        rows=len(task.judge),
        holdout_micros=_holdout_micros(plan, budget.model, search, files),
        tokens=tuple(tokens),
    )
    questions = [(key, waits.model, prompt, "") for key, prompt in waits.open.items()]
    folder.mkdir(parents=True, exist_ok=True)
    evaluation_worker.write_prompts(folder / QUESTIONS, questions)
    # Last: its presence means that all is written.
    evaluation_worker.replace_lines(folder / REPLAY, [result.to_json()])
    return result


def read_replay(folder: Path) -> Replay | None:
    """Returns the last replay that was written, None if there is none."""
    path = folder / REPLAY
    if not path.exists():
        return None
    return Replay.from_json(path.read_text(encoding="utf-8"))


def read_questions(
    folder: Path, plan: ComparisonPlan, replay: Replay, keys: frozenset[str]
) -> list[Question]:
    """Returns the open questions with these keys."""
    tokens = dict(zip(replay.open, replay.tokens, strict=False))  # an older version didn't store them
    return evaluation_worker.read_questions_file(folder / QUESTIONS, plan, keys, replay.max_tokens, tokens)


def candidate_of(plan: ComparisonPlan) -> Candidate:
    """Returns the candidate that asks the model with the prompt that the search finds."""
    model = None
    if plan.search is not None:
        model = plan.search.model
    return Candidate("optimised", model)


def max_micros(plan: ComparisonPlan) -> int:
    """Returns the maximum cost of the plan's search in micro-dollars: 0 if no model in it charges by the token."""
    if plan.search is None:
        return 0
    for name in (plan.search.model, plan.search.writer):
        price = plan.price_of[name].price
        if price.input or price.output:
            return plan.search.most_micros
    return 0


def with_prompt(plan: ComparisonPlan, prompt: str) -> ComparisonPlan:
    """Returns the plan with one more candidate, which uses this prompt."""
    candidates = (*plan.candidates, candidate_of(plan))
    return replace(plan, candidates=candidates, optimised=prompt)


@lru_cache(maxsize=1)  # a search is replayed some hundred times
def _load_task(
    files: Path,
    train_sha256: str,
    prompt: str | None,
    labels: tuple[str, ...],
    seed: int,
    answer_format: str,
) -> SearchTask:
    train = examples(files, train_sha256)
    return search_task(prompt, train, labels, seed, answer_format)


@lru_cache(maxsize=1)
def _load_holdout(files: Path, sha256: str) -> tuple[Example, ...]:
    return examples(files, sha256)


def _max_micros_each(plan: ComparisonPlan, model: str, counts: Sequence[int], most: int) -> tuple[int, ...]:
    """Returns the maximum cost in micro-dollars of each question, by the tokens of its prompt."""
    price = plan.price_of[model]
    cap = most + plan.room(model)
    micros = []
    for count in counts:
        question = CandidateKeys(("",), (count,))
        micros.append(max_judge_micros(price, question, (), cap))
    return tuple(micros)


def _holdout_micros(plan: ComparisonPlan, model: str, search: PromptSearch, files: Path) -> int:
    holdout = _load_holdout(files, plan.holdout_sha256)
    tried = search.tried or [search.task.start]
    # Every row gets the same prompt, so the first row tells which of them is the longest.
    lengths = _count_tokens(model, [zero_shot(holdout[0], plan.labels, prompt) for prompt in tried])
    dearest = tried[lengths.index(max(lengths))]
    prompts = [zero_shot(row, plan.labels, dearest) for row in holdout]
    counts = _count_tokens(model, prompts)
    return sum(_max_micros_each(plan, model, counts, plan_max_tokens(plan)))


def _count_tokens(model: str, prompts: Sequence[Prompt]) -> list[int]:
    _, own_name = model.split("/", 1)
    encoding = encoding_of(own_name)
    more = 1 + ASSUMED_SHARE * encoding.assumed
    # Rounded up, because the most that people agree to pay is computed from it.
    return [int(count * more) + 1 for count in count_prompts(prompts, encoding)]
