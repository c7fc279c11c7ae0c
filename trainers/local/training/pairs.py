"""Turns preference pairs into token ids: the prompt, the better answer and the worse one, by the template of data.py.

An answer extends from the point where generation would begin to the token that ends the turn; only these tokens count
in DPO.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainers.local.chat_renderer import chat_for_template, message_for_template, tools_for_template
from trainers.local.training.data import (
    Chat,
    Row,
    Template,
    check_tokenizer,
    common_prefix_length,
    describe_file,
    filter_by_length,
    translate_template_errors,
)
from trainers.local.training.errors import TrainingFailed
from trainers.methods import TooLong

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class PairRow:
    """Token ids of a pair. `line` is the line in the file, from 1."""

    line: int
    prompt: Sequence[int]
    chosen: Sequence[int]
    rejected: Sequence[int]

    @property
    def length(self) -> int:
        """The number of tokens of the prompt with the longer answer."""
        longer = max(len(self.chosen), len(self.rejected))
        return len(self.prompt) + longer

    @property
    def is_learnable(self) -> bool:
        return self.chosen != self.rejected

    def cut_to(self, max_length: int) -> PairRow:
        """Cuts both answers, so that prompt and answer have at most `max_length` tokens. If the answers differ only
        after that, nothing is left to learn."""
        room = max(0, max_length - len(self.prompt))
        return PairRow(self.line, self.prompt, self.chosen[:room], self.rejected[:room])

    @property
    def tokens(self) -> int:
        answers = len(self.chosen) + len(self.rejected)
        return 2 * len(self.prompt) + answers  # each answer is read after the prompt


@dataclass(frozen=True)
class Pairs:
    """The pairs to learn from. `same` pairs, whose answers are equal after rendering, and `too_long` ones were left
    out; `cut` pairs were shortened to max_length. The job's setting too_long decides between the last two."""

    rows: Sequence[PairRow]
    same: int
    too_long: int
    cut: int = 0

    @property
    def tokens(self) -> int:
        return sum(row.tokens for row in self.rows)

    @property
    def largest_id(self) -> int:
        largest = 0
        for row in self.rows:
            largest = max(largest, *row.prompt, *row.chosen, *row.rejected)
        return largest


def read_pairs(
    path: Path, tokenizer: PreTrainedTokenizerFast, max_length: int, param: str, too_long: TooLong
) -> Pairs:
    """Raises TrainingFailed for an invalid line, with its number, and if no pair is left. `param` is the API parameter
    that names the file."""
    check_tokenizer(tokenizer)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        text = f"Reading {path.name}: {error}. Upload it again."
        raise TrainingFailed("unreadable_file", text, param) from error
    template = Template.of(tokenizer)
    pairs = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            pairs.append(read_pair(number, line, template, param))
    return filter_pairs(pairs, max_length, param, too_long)


def filter_pairs(pairs: Iterable[PairRow], max_length: int, param: str, too_long: TooLong) -> Pairs:
    every = list(pairs)
    learnable = [pair for pair in every if pair.is_learnable]
    if not learnable:
        text = (
            f"No pair of the {describe_file(param)} has two different answers after this model's chat template has "
            "rendered them. Write answers that differ."
        )
        raise TrainingFailed("nothing_to_learn", text, param)
    fitting, left_out, cut = filter_by_length(learnable, "pair", max_length, param, too_long)
    return Pairs(fitting, len(every) - len(learnable), left_out, cut)


def width(pairs: Sequence[PairRow]) -> int:
    """Returns the number of tokens computed for a group of pairs: each prompt with both its answers, all padded to the
    longest."""
    longest = max(pair.length for pair in pairs)
    return 2 * len(pairs) * longest


def read_pair(line: int, text: str, template: Template, param: str) -> PairRow:
    """Reads one line of the file. Raises TrainingFailed."""
    try:
        raw = json.loads(text)
        entries = chat_for_template(raw["input"]["messages"])
        answers = []
        for name in ("preferred_output", "non_preferred_output"):
            answers.append(message_for_template(raw[name][-1]))
        tools = tools_for_template(raw["input"])
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        sentence = (
            f'Line {line} is not a preference pair: {error!r}. Write {{"input": {{"messages": […]}}, …}}.'
        )
        raise TrainingFailed("invalid_row", sentence, param) from error
    with translate_template_errors(line, param):
        question = Chat.of(template, entries, tools)
        if question.opening and not question.can_render(len(entries), asks=True):
            _, entries = question.without_opening(entries)
        chats = [Chat.of(template, [*entries, answer], tools) for answer in answers]
        written = [chat.answer(len(entries)) for chat in chats]
    better, worse = [template.row(line, answer.text, [answer]) for answer in written]
    prompt, chosen = _split(better)
    other_prompt, rejected = _split(worse)
    # The last token of a prompt may include the beginning of the answer, so the two prompts may differ.
    shared = common_prefix_length(prompt, other_prompt)
    # Arrays, since lists take 36 bytes or more for each token, in every process.
    parts = (prompt[:shared], chosen[shared:], rejected[shared:])
    return PairRow(line, *(array("i", part) for part in parts))


def _split(row: Row) -> tuple[Sequence[int], Sequence[int]]:
    """Returns the token ids before the answer, and all of them up to its end."""
    if not any(row.supervised):
        return row.ids, row.ids
    return row.ids[: row.first_target], row.ids[: row.length]
