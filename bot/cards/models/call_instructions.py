"""How a program calls what is in use: five lines of Python, the same with curl, and where its key is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import CardBlock, Note, Text, code, code_block, escape

EXAMPLE = "A text like those in your rows"
NO_ADDRESS = (
    "Programs can't call it: `address` under [serving] in finetune.toml is empty. The operator can set it."
)


@dataclass(frozen=True)
class Calling:
    """`name` is what programs call, such as 'team/tickets', at `base_url` (None if there is no address), with the key
    in `key_file` on the bot's machine."""

    name: str
    base_url: str | None
    key_file: str


def python_lines(calling: Calling) -> str:
    """A program that prints an answer; it needs the package openai."""
    return "\n".join(
        [
            "from openai import OpenAI",
            f'key = open("{calling.key_file}").read().strip()',
            f'client = OpenAI(base_url="{calling.base_url}", api_key=key)',
            f'answer = client.chat.completions.create(model="{calling.name}", messages=[{{"role": "user", '
            f'"content": "{EXAMPLE}"}}])',
            "print(answer.choices[0].message.content)",
        ]
    )


def curl_line(calling: Calling) -> str:
    body = f'{{"model": "{calling.name}", "messages": [{{"role": "user", "content": "{EXAMPLE}"}}]}}'
    return (
        f'curl {calling.base_url}/chat/completions -H "Authorization: Bearer $(cat {calling.key_file})" '
        f"-H 'Content-Type: application/json' -d '{body}'"
    )


def calling_blocks(calling: Calling) -> Sequence[CardBlock]:
    """For the card of a promotion."""
    if calling.base_url is None:
        return [Note(NO_ADDRESS)]
    return [
        Text(f"*How to call it*: {code(calling.name)} at {escape(calling.base_url)}"),
        Text(code_block(f"{python_lines(calling)}\n\n{curl_line(calling)}")),
        Note("The key in that file can do nothing but call."),
    ]


def calling_line(base_url: str | None, *, is_answering: bool = True) -> str:
    """For a list of what is in use: one line for all of it. `is_answering` is False if nothing answers there."""
    if base_url is None:
        return NO_ADDRESS
    if not is_answering:
        return f"*Programs get no answer* at {escape(base_url)}. On the bot's machine, `finetune doctor` says why."
    return f"Programs call {code('team/DATASET')} at {escape(base_url)}: the card of each says how."


def calling_text(calling: Calling) -> str:
    """For the terminal."""
    if calling.base_url is None:
        return NO_ADDRESS.replace("`", "")
    return f"{python_lines(calling)}\n\n{curl_line(calling)}"
