"""Chat JSONL → rows of token ids, each marked whether the model is to learn it. Knows no model, only a tokenizer.

A conversation is written out with the model's own chat template. Learnt are the assistant's turns whose
`weight` is not 0: from where generation would begin up to the token that ends the turn.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, disable_progress_bars
from jinja2 import TemplateError

from trainers.local.failures import TrainingFailed

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True)
class Row:
    """`supervised[i]`: token i is to be predicted. `line` counts from 1 in the file."""

    line: int
    ids: Sequence[int]
    supervised: Sequence[bool]

    @property
    def first_target(self) -> int:
        return self.supervised.index(True)

    @property
    def last_target(self) -> int:
        return len(self.supervised) - 1 - self.supervised[::-1].index(True)
