"""The search for a better prompt: the same answers give the same result, however often it is stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from trainers.dataset import CLASSIFY, Example
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
    return f"Messages about {label} are {label}."


def answer(prompt: Prompt) -> str:
    """Answers as a model that knows the labels whose rules are in its instructions, and otherwise says 'billing'."""
    label = next(label for label in LABELS if label in prompt[-1].content)
    return label if rule(label) in prompt[0].content else "billing"


def add_rule(prompt: Prompt) -> str:
    """Answers a request for reflection: adds the rule of a label that was answered wrongly."""
    text = prompt[0].content
    before = text.split("```")[1].strip()
    wrong = [
        label for label in LABELS if f"The right answer is: {label}" in text and rule(label) not in before
    ]
    return f"I looked at it.\n```\n{before} {' '.join(rule(label) for label in wrong[:1])}\n```"


def repeat_prompt(prompt: Prompt) -> str:
    return f"```\n{prompt[0].content.split('```')[1].strip()} Be careful.\n```"


class Model:
    """Returns stored answers; a question without one stops the search."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
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
            self.stored[prompt] = self.answer(prompt)
        self.open = []


def run(task: SearchTask, reflect: Answer, most: int | None = None) -> tuple[PromptSearch, Model, Model]:
    """Runs a search to its end. It stops whenever answers are missing, and at most `most` are given per stop."""
    model, reflector = Model(answer), Model(reflect)
    for _ in range(3_000):
        search = PromptSearch(task, model.ask, reflector.ask)
        try:
            search.run(7)
        except Unanswered:
            model.answer_open(most)
            reflector.answer_open(most)
        else:
            return search, model, reflector
    raise AssertionError("the search never ends")


@pytest.fixture
def task() -> SearchTask:
    return search_task(START, ROWS, LABELS, 7)


def test_a_better_prompt_is_found_on_training_rows(task: SearchTask) -> None:
    search, _, _ = run(task, add_rule)
    assert search.shares[search.best] == 1.0 and search.shares[START] < 0.6
    assert rule("refund") in search.best and rule("shipping") in search.best
    assert not {row.line for row in task.learn} & {row.line for row in task.judge}


@pytest.mark.parametrize("most", [1, 7])
def test_a_search_that_is_stopped_at_every_question_gives_the_same_result(
    task: SearchTask, most: int
) -> None:
    search, *models = run(task, add_rule)
    resumed, *models_again = run(task, add_rule, most)
    assert (resumed.best, resumed.shares, resumed.tried) == (search.best, search.shares, search.tried)
    for model, again in zip(models, models_again, strict=True):
        assert set(again.questions) == set(model.questions)
        assert len(again.questions) == len(set(again.questions)), "a question was asked twice"


def test_the_order_of_sets_does_not_matter(task: SearchTask) -> None:
    """Python salts the hashes of strings differently in each process."""
    script = (
        "import json\nfrom tests.trainers.evaluation import test_prompt_search as t\n"
        "search, model, _ = t.run(t.search_task(t.START, t.ROWS, t.LABELS, 7), t.add_rule)\n"
        "print(json.dumps([search.best, [q[-1].content for q in model.questions]]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True)
    search, model, _ = run(task, add_rule)
    assert json.loads(done.stdout) == [search.best, [prompt[-1].content for prompt in model.questions]]


def test_a_search_that_finds_nothing_better_ends(task: SearchTask) -> None:
    search, model, reflector = run(task, repeat_prompt)
    assert search.best == START, "of equal prompts the first one stays"
    assert len(reflector.questions) <= 20 and len(model.questions) < 400


def test_a_perfect_prompt_is_not_changed(task: SearchTask) -> None:
    perfect = " ".join(map(rule, LABELS))
    search, model, reflector = run(search_task(perfect, ROWS, LABELS, 7), add_rule)
    assert search.best == perfect and not reflector.questions
    assert len(model.questions) == len(task.judge)


@pytest.mark.parametrize(
    "worse",
    ["", "Ask ana.b@example.com. ", "x" * (LONGEST_PROMPT + 1)],
    ids=["empty", "an address", "too long"],
)
def test_an_unusable_prompt_is_not_tried(task: SearchTask, worse: str) -> None:
    search, model, _ = run(task, lambda _: f"```\n{worse}\n```")
    assert search.tried == [START] == list(search.shares)
    assert all(prompt[0].content.startswith(START) for prompt in model.questions)


def test_a_search_starts_from_the_teams_prompt_or_else_that_of_most_rows() -> None:
    rows = [Example(1, (Message("system", text), *ROWS[0].messages)) for text in ("a", "b", "b")]
    assert starting_prompt(" Mine. ", rows, CLASSIFY) == "Mine."
    assert starting_prompt(None, rows, CLASSIFY) == "b"
    assert "label" in starting_prompt(None, ROWS, CLASSIFY)


def test_rows_with_the_same_question_count_once_and_a_few_are_not_enough() -> None:
    assert search_task(START, ROWS[:20], LABELS, 7).has_enough_rows
    assert not search_task(START, (*ROWS[:19], *ROWS[:19]), LABELS, 7).has_enough_rows


def test_json_answers_are_compared_by_their_fields() -> None:
    rows = tuple(
        Example(
            n, (Message("user", f"Order {n}"), Message("assistant", json.dumps({"order": n, "kind": "a"})))
        )
        for n in range(40)
    )
    task = search_task("Extract.", rows, (), 7)
    model = Model(lambda prompt: json.dumps({"order": int(prompt[-1].content.split()[1]), "kind": "b"}))
    search = PromptSearch(task, model.ask, Model(repeat_prompt).ask)
    for _ in range(2):
        try:
            search.run(7)
        except Unanswered:
            model.answer_open()
    assert search.shares == {"Extract.": 0.5}
