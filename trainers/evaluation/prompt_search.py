"""Looks for a better prompt with gepa, on training rows alone. Asks nobody: where answers are missing the search stops
and names the questions; with their answers it begins again and goes the same way.

With a fixed seed and the same answers gepa goes the same way each time. So the answers are all that has to be stored:
gepa's own folder would hold rows and a pickle, and a killed iteration would be paid twice. gepa is imported at use.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from trainers.dataset.rows import Example, Task, default_system, question_key
from trainers.dataset.sensitive_data import faults_in
from trainers.evaluation.prompts import LONGEST_SHOT, question_of, zero_shot
from trainers.evaluation.results import Scoring
from trainers.evaluation.scores import score, scoring_of
from trainers.types import Message

if TYPE_CHECKING:
    from gepa.core.adapter import EvaluationBatch

LEAST_ROWS = 20  # different questions: with fewer, a prompt is fitted to single rows
MOST_JUDGED, MOST_LEARNT = 60, 240
MINIBATCH = 5  # rows of one reflection
MOST_ANSWERS = 1_500  # of a search, whatever its budget: models of our own charge nothing, and take time
PATIENCE = 15  # prompts in a row that are no better
LONGEST_PROMPT = 6_000  # characters
ADVICE = (
    "\n\nThe instruction is sent before each single input, so keep it short: under 400 words. State general rules; do "
    "not copy inputs, names, addresses or numbers of people out of the examples."
)
_COMPONENT = "instructions"

Prompt = tuple[Message, ...]
Ask = Callable[[Sequence[Prompt]], Sequence[str]]
"""Returns the answers to these questions. Raises Unanswered where some are missing."""


class Unanswered(BaseException):
    """The search has to stop here. No Exception: gepa goes on after those."""


@dataclass(frozen=True)
class SearchTask:
    """What is searched: better instructions than `start`. Reflections `learn` from some training rows, and prompts are
    compared on the others, which `judge` them. `labels` is empty for free text."""

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
    """`shares`: how good each prompt that was tried on all rows of `task.judge` is, from 0 to 1, the first one first;
    `tried` are all prompts that were asked at all."""

    task: SearchTask
    ask: Ask
    reflect: Ask
    shares: dict[str, float] = field(default_factory=dict)
    tried: list[str] = field(default_factory=list)
    propose_new_texts = None  # gepa's adapters have to say so

    @property
    def best(self) -> str:
        """The first of equal ones."""
        return max(self.shares, key=lambda prompt: self.shares[prompt], default=self.task.start)

    def run(self, seed: int) -> None:
        """Goes as far as the answers reach. Raises Unanswered, and what it tried so far stays."""
        from gepa.api import optimize
        from gepa.strategies.instruction_proposal import InstructionProposalSignature
        from gepa.utils import NoImprovementStopper

        optimize(
            seed_candidate={_COMPONENT: self.task.start},
            trainset=list(self.task.learn),
            valset=list(self.task.judge),
            adapter=self,  # type: ignore[arg-type]  # its protocol names its own types for rows and traces
            reflection_lm=lambda text: self.reflect([(Message("user", str(text)),)])[0],
            reflection_prompt_template=InstructionProposalSignature.default_prompt_template + ADVICE,
            reflection_minibatch_size=MINIBATCH,
            max_metric_calls=MOST_ANSWERS,
            stop_callbacks=[NoImprovementStopper(PATIENCE), lambda state: self.shares[self.best] >= 1],
            logger=_Silent(),
            seed=seed,
        )

    def evaluate(
        self, batch: Sequence[Example], candidate: Mapping[str, str], capture_traces: bool = False
    ) -> EvaluationBatch[Any, Any]:
        """Answers gepa, which calls it by this name."""
        from gepa.core.adapter import EvaluationBatch

        prompt = candidate[_COMPONENT]
        texts: Sequence[str] = [""] * len(batch)
        # A prompt is sent with each request, wherever: what repeats personal data or a secret is none.
        is_usable = bool(prompt.strip()) and len(prompt) <= LONGEST_PROMPT and not faults_in(prompt)
        if is_usable or prompt == self.task.start:
            if prompt not in self.tried:
                self.tried.append(prompt)
            texts = self.ask([zero_shot(row, self.task.labels, prompt) for row in batch])
        scores = [
            score(self.task.scoring, row.answer, text, self.task.labels)
            for row, text in zip(batch, texts, strict=True)
        ]
        if tuple(batch) == self.task.judge:
            self.shares[prompt] = sum(scores) / len(scores)
        traces = list(zip(batch, texts, scores, strict=True)) if capture_traces else None
        return EvaluationBatch(outputs=list(texts), scores=scores, trajectories=traces)

    def make_reflective_dataset(
        self, candidate: Mapping[str, str], answered: EvaluationBatch[Any, Any], components: list[str]
    ) -> Mapping[str, Sequence[Mapping[str, str]]]:
        """Shows gepa, which calls it by this name, what was answered and what would have been right."""
        lessons = [
            {
                "Inputs": _cut(question_of(row)),
                "Generated Outputs": _cut(text),
                "Feedback": "Right." if right >= 1 else f"The right answer is: {_cut(row.answer)}",
            }
            for row, text, right in answered.trajectories or ()
        ]
        return dict.fromkeys(components, lessons)


class _Silent:
    """gepa's log would hold rows."""

    def log(self, message: str) -> None:
        """Logs nothing."""


def search_task(
    prompt: str | None, train: Sequence[Example], labels: tuple[str, ...], seed: int
) -> SearchTask:
    """Draws the rows of a search: questions that differ, without tools, which not every model can be shown."""
    task: Task = "labels" if labels else "free_text"
    drawn = list({question_key(row): row for row in train if row.row is None}.values())
    random.Random(seed).shuffle(drawn)  # noqa: S311
    judged = min(MOST_JUDGED, len(drawn) // 2)
    return SearchTask(
        start=starting_prompt(prompt, train, task),
        learn=tuple(drawn[judged : judged + MOST_LEARNT]),
        judge=tuple(drawn[:judged]),
        labels=labels,
        scoring=scoring_of(train, task),
    )


def starting_prompt(prompt: str | None, train: Sequence[Example], task: Task) -> str:
    """Returns the team's prompt, else the instructions that most rows have, else ours."""
    if prompt is not None and prompt.strip():
        return prompt.strip()
    systems = [row.system for row in train if row.system]
    return max(dict.fromkeys(systems), key=systems.count, default=default_system(task))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_SHOT else f"{text[: LONGEST_SHOT - 1]}…"
