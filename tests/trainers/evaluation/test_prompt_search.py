"""The search for a better prompt: the same answers lead the same way, however often it is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from trainers.dataset import Example
from trainers.evaluation.prompt_search import (
    LONGEST_PROMPT,
    Prompt,
    PromptSearch,
    SearchTask,
    Unanswered,
    search_task,
    starting_prompt,
)
from trainers.types import Message

LABELS = ("billing", "refund", "shipping")
START = "Sort the message."
ROWS = tuple(
    Example(number, (Message("user", f"Case {number}: about {label}"), Message("assistant", label)))
    for number, label in enumerate(LABELS * 20)
)
Answer = Callable[[Prompt], str]


def rule(label: str) -> str:
    return f"What is about {label} is {label}."


def answer(prompt: Prompt) -> str:
    """A model that knows the labels of which its instructions have the rule, and else says 'billing'."""
    label = next(label for label in LABELS if label in prompt[-1].content)
    return label if rule(label) in prompt[0].content else "billing"


def add_a_rule(prompt: Prompt) -> str:
    """Reflects: adds the rule of a label that was answered wrongly."""
    text = prompt[0].content
    before = text.split("```")[1].strip()
    wrong = [
        label for label in LABELS if f"The right answer is: {label}" in text and rule(label) not in before
    ]
    return f"I looked at it.\n```\n{before} {' '.join(rule(label) for label in wrong[:1])}\n```"


def same_again(prompt: Prompt) -> str:
    return f"```\n{prompt[0].content.split('```')[1].strip()} Be careful.\n```"


class Model:
    """Answers what it was asked before; other questions stop the search, `at_once` of them together."""

    def __init__(self, speak: Answer) -> None:
        self.speak = speak
        self.stored: dict[Prompt, str] = {}
        self.open: list[Prompt] = []
        self.questions: list[Prompt] = []

    def ask(self, prompts: Sequence[Prompt]) -> list[str]:
        self.open = [prompt for prompt in prompts if prompt not in self.stored]
        if self.open:
            raise Unanswered
        return [self.stored[prompt] for prompt in prompts]

    def answer_open(self, most: int | None = None) -> None:
        for prompt in self.open[:most]:
            self.questions.append(prompt)
            self.stored[prompt] = self.speak(prompt)
        self.open = []


def run(task: SearchTask, reflect: Answer, most: int | None = None) -> tuple[PromptSearch, Model, Model]:
    """Searches, and is stopped whenever an answer is missing; `most` answers come between two stops."""
    model, thinker = Model(answer), Model(reflect)
    for _ in range(3_000):
        search = PromptSearch(task, model.ask, thinker.ask)
        try:
            search.run(7)
        except Unanswered:
            model.answer_open(most)
            thinker.answer_open(most)
        else:
            return search, model, thinker
    raise AssertionError("it never ends")


@pytest.fixture
def task() -> SearchTask:
    return search_task(START, ROWS, LABELS, 7)


def test_a_better_prompt_is_found_on_training_rows(task: SearchTask) -> None:
    search, _, _ = run(task, add_a_rule)
    assert search.shares[search.best] == 1.0 and search.shares[START] < 0.6
    assert rule("refund") in search.best and rule("shipping") in search.best
    assert not {row.line for row in task.learn} & {row.line for row in task.judge}


@pytest.mark.parametrize("most", [1, 7])
def test_a_search_that_is_stopped_at_every_question_goes_the_same_way(task: SearchTask, most: int) -> None:
    whole, model, thinker = run(task, add_a_rule)
    parts, model_again, thinker_again = run(task, add_a_rule, most)
    assert (parts.best, parts.shares, parts.tried) == (whole.best, whole.shares, whole.tried)
    for first, again in ((model, model_again), (thinker, thinker_again)):
        assert set(again.questions) == set(first.questions)
        assert len(again.questions) == len(set(again.questions)), "a question was asked twice"


def test_the_order_of_sets_in_a_process_does_not_matter() -> None:
    """Python salts the hashes of texts anew in each process."""
    script = (
        "import json\nfrom tests.trainers.evaluation import test_prompt_search as t\n"
        "search, model, _ = t.run(t.search_task(t.START, t.ROWS, t.LABELS, 7), t.add_a_rule)\n"
        "print(json.dumps([search.best, [q[-1].content for q in model.questions]]))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and json.loads(outputs.pop())[1]


def test_a_search_that_finds_nothing_ends(task: SearchTask) -> None:
    search, model, thinker = run(task, same_again)
    assert search.best == START, "of equal prompts the first one stays"
    assert len(thinker.questions) <= 20 and len(model.questions) < 400


def test_a_perfect_prompt_is_left_alone(task: SearchTask) -> None:
    perfect = " ".join(map(rule, LABELS))
    search, model, thinker = run(search_task(perfect, ROWS, LABELS, 7), add_a_rule)
    assert search.best == perfect and not thinker.questions
    assert len(model.questions) == len(task.judge)


@pytest.mark.parametrize(
    "worse",
    ["", "Ask ana.b@example.com. ", "x" * (LONGEST_PROMPT + 1)],
    ids=["empty", "an address", "too long"],
)
def test_a_prompt_that_can_not_be_used_is_not_asked(task: SearchTask, worse: str) -> None:
    search, model, _ = run(task, lambda _: f"```\n{worse}\n```")
    assert search.tried == [START] == list(search.shares)
    assert all(prompt[0].content.startswith(START) for prompt in model.questions)


def test_it_begins_with_the_team_s_prompt_else_that_of_most_rows() -> None:
    rows = [Example(1, (Message("system", text), *ROWS[0].messages)) for text in ("a", "b", "b")]
    assert starting_prompt(" Mine. ", rows, "labels") == "Mine."
    assert starting_prompt(None, rows, "labels") == "b"
    assert "label" in starting_prompt(None, ROWS, "labels")


def test_rows_that_ask_the_same_are_one_and_few_are_not_enough() -> None:
    assert search_task(START, ROWS[:20], LABELS, 7).has_enough_rows
    assert not search_task(START, (*ROWS[:19], *ROWS[:19]), LABELS, 7).has_enough_rows


def test_json_is_compared_by_its_fields() -> None:
    rows = tuple(
        Example(
            n, (Message("user", f"Order {n}"), Message("assistant", json.dumps({"order": n, "kind": "a"})))
        )
        for n in range(40)
    )
    task = search_task("Extract.", rows, (), 7)
    model = Model(lambda prompt: json.dumps({"order": int(prompt[-1].content.split()[1]), "kind": "b"}))
    search = PromptSearch(task, model.ask, Model(same_again).ask)
    for _ in range(2):
        try:
            search.run(7)
        except Unanswered:
            model.answer_open()
    assert search.shares == {"Extract.": 0.5}
