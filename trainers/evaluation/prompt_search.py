"""Searches for a better prompt with gepa, on training rows only. Asks no model itself: if answers are missing, the
search stops and returns the questions, and is later repeated with their answers.

With a fixed seed and the same answers gepa always takes the same steps, so only the answers need to be stored. gepa's
own folder would contain rows and a pickle, and an interrupted iteration would be paid for twice. gepa is imported when
needed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainers.dataset.rows import Example, default_system, has_own_instructions, question_key
from trainers.dataset.sensitive_data import faults_in
from trainers.evaluation.prompts import LONGEST_SHOT, question_of, zero_shot
from trainers.evaluation.results import Scoring
from trainers.evaluation.scores import score, scoring_of, task_of
from trainers.types import Message

if TYPE_CHECKING:
    from gepa.core.adapter import EvaluationBatch

LEAST_ROWS = 20  # different questions; with fewer, prompts would be fitted to single rows
MOST_JUDGED = 60
MOST_LEARNT = 240
MINIBATCH = 5  # rows per reflection
MOST_ANSWERS = 1_500  # per search, whatever its budget: our own models are free but take time
PATIENCE = 15  # stop after this many prompts in a row without improvement
LONGEST_PROMPT = 6_000  # characters
ADVICE = (
    "\n\nThe instruction is sent before each single input, so keep it short: under 400 words. State general rules; do "
    "not copy inputs, names, addresses or numbers of people out of the examples."
)
_COMPONENT = "instructions"

Prompt = tuple[Message, ...]
Ask = Callable[[Sequence[Prompt]], Sequence[str]]
"""Returns the answers to these questions. Raises Unanswered if some are missing."""


class Unanswered(BaseException):
    """The search must stop because answers are missing. Derives from BaseException because gepa catches every
    Exception."""


@dataclass(frozen=True)
class SearchTask:
    """A search for better instructions than `start`. Reflections see the rows in `learn`; prompts are compared on the
    rows in `judge`. `labels` is empty for free text."""

    start: str
    learn: tuple[Example, ...]
    judge: tuple[Example, ...]
    labels: tuple[str, ...]
    scoring: Scoring

    @property
    def has_enough_rows(self) -> bool:
        return len(self.learn) + len(self.judge) >= LEAST_ROWS


@dataclass
class PromptSearch:
    """Runs a search. `shares` has the mean score, from 0 to 1, of each prompt that was tried on all rows of
    `task.judge`, in order; `tried` has all prompts that were tried on any rows."""

    task: SearchTask
    ask: Ask
    reflect: Ask
    shares: dict[str, float] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    propose_new_texts = None  # gepa requires this attribute of adapters

    @property
    def best(self) -> str:
        """The best prompt so far; the first of equally good ones."""
        return max(self.shares, key=lambda prompt: self.shares[prompt], default=self.task.start)

    def run(self, seed: int) -> None:
        """Searches as far as there are answers. If it raises Unanswered, `shares` and `tried` keep what was found."""
        from gepa.api import optimize
        from gepa.strategies.instruction_proposal import InstructionProposalSignature
        from gepa.utils import NoImprovementStopper

        optimize(
            seed_candidate={_COMPONENT: self.task.start},
            trainset=list(self.task.learn),
            valset=list(self.task.judge),
            adapter=self,  # type: ignore[arg-type]  # the protocol has its own types for rows and traces
            reflection_lm=self._reflect,
            reflection_prompt_template=InstructionProposalSignature.default_prompt_template + ADVICE,
            reflection_minibatch_size=MINIBATCH,
            max_metric_calls=MOST_ANSWERS,
            stop_callbacks=[NoImprovementStopper(PATIENCE), self._is_perfect],
            logger=_NoLog(),
            seed=seed,
        )

    def _reflect(self, prompt: object) -> str:
        question = (Message("user", str(prompt)),)
        [answer] = self.reflect([question])
        return answer

    def _is_perfect(self, gepa_state: object) -> bool:
        return self.shares[self.best] >= 1

    def evaluate(
        self, batch: Sequence[Example], candidate: Mapping[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        """Evaluates a prompt. gepa requires this name and signature."""
        from gepa.core.adapter import EvaluationBatch

        prompt = candidate[_COMPONENT]
        texts: Sequence[str] = [""] * len(batch)
        # A prompt is sent with every request, so one that repeats personal data or a secret is not used.
        is_usable = bool(prompt.strip()) and len(prompt) <= LONGEST_PROMPT and not faults_in(prompt)
        if is_usable or prompt == self.task.start:
            if prompt not in self.tried:
                self.tried.append(prompt)
            prompts = [zero_shot(row, self.task.labels, prompt) for row in batch]
            texts = self.ask(prompts)
        scores = []
        for row, text in zip(batch, texts, strict=True):
            right = score(self.task.scoring, row.answer, text, self.task.labels)
            scores.append(right)
        if tuple(batch) == self.task.judge:
            self.shares[prompt] = sum(scores) / len(scores)
        traces = None
        if capture_traces:
            traces = list(zip(batch, texts, scores, strict=True))
        return EvaluationBatch(outputs=list(texts), scores=scores, trajectories=traces)

    def make_reflective_dataset(
        self, candidate: Mapping[str, str], answered: EvaluationBatch[Any, Any], components: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, str]]]:
        """Returns the answers with the right ones, for reflection. gepa requires this name and signature."""
        lessons = []
        for row, text, right in answered.trajectories or ():
            feedback = "Right."
            if right < 1:
                feedback = f"The right answer is: {_cut(row.answer)}"
            lesson = {
                "Inputs": _cut(question_of(row)),
                "Generated Outputs": _cut(text),
                "Feedback": feedback,
            }
            lessons.append(lesson)
        return dict.fromkeys(components, lessons)


class _NoLog:
    """Discards gepa's log, which would contain rows."""

    def log(self, message: str) -> None:
        """Does nothing."""


def search_task(
    prompt: str | None, train: Sequence[Example], labels: tuple[str, ...], seed: int, answer_format: str = ""
) -> SearchTask:
    """Draws the rows of a search. They have different questions and no tools, which not every model supports.
    `answer_format` is our default instruction for answers in JSON, "" for others."""
    task = task_of(labels)
    by_question = {question_key(row): row for row in train if not row.uses_tools}
    drawn = list(by_question.values())
    random.Random(seed).shuffle(drawn)  # noqa: S311
    judged = min(MOST_JUDGED, len(drawn) // 2)
    ours = answer_format or default_system(task)
    return SearchTask(
        start=starting_prompt(prompt, train, ours),
        learn=tuple(drawn[judged : judged + MOST_LEARNT]),
        judge=tuple(drawn[:judged]),
        labels=labels,
        scoring=scoring_of(train, task),
    )


def starting_prompt(prompt: str | None, train: Sequence[Example], ours: str) -> str:
    """Returns the team's prompt, or else the most frequent instructions of the rows, or else `ours`."""
    if prompt is not None and prompt.strip():
        return prompt.strip()
    systems = [row.system for row in train if has_own_instructions(row)]
    # Each once, in their order: of equally frequent ones, the first.
    distinct = dict.fromkeys(systems)
    return max(distinct, key=systems.count, default=ours)


def _cut(text: str) -> str:
    if len(text) <= LONGEST_SHOT:
        return text
    return f"{text[: LONGEST_SHOT - 1]}…"
