"""Instructions around a question: the short ones to train with, the longer ones an untuned model needs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from trainers.dataset.values import Example, Task, normalised
from trainers.types import Message

CLASSIFY = "Classify the customer's message. Answer with the label only."
REPLY = "Answer the customer's message."


def default_system(task: Task) -> str:
    return CLASSIFY if task == "labels" else REPLY


def with_system(examples: Iterable[Example], system: str) -> tuple[Example, ...]:
    """Put `system` in front of the rows that have no instructions. Others keep their own, and rows with tools
    stay as they came."""
    first = Message("system", system)
    return tuple(
        e if e.system or e.row is not None else replace(e, messages=(first, *e.messages)) for e in examples
    )


def prompted(example: Example, labels: Sequence[str]) -> tuple[Message, ...]:
    """What an untuned model is asked, to be fair: the same, and the labels where they aren't listed yet."""
    if lists_labels(example.system, labels):
        return example.prompt
    listed = "Labels:\n" + "\n".join(labels)
    for number, message in enumerate(example.prompt):
        if message.role in ("system", "developer"):
            longer = replace(message, content=f"{message.content}\n{listed}")
            return (*example.prompt[:number], longer, *example.prompt[number + 1 :])
    return (Message("system", f"{CLASSIFY}\n{listed}"), *example.prompt)


def lists_labels(system: str, labels: Sequence[str]) -> bool:
    """Each as a word of its own. True also where there are none to list."""
    said = normalised(system)
    return all(re.search(rf"(?<!\w){re.escape(normalised(label))}(?!\w)", said) for label in labels)
