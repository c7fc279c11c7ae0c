"""The longest row that a model to train takes, and whose tokens count: for the check, in Slack and in the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bot.results import Refusal
from bot.settings import Settings
from bot.workflows.targets import Target, find_target
from trainers.dataset import DEFAULT_LIMITS
from trainers.tokens import O200K, OUR_ROW_TOKENS, Encoding, encoding_of, local_encoding, training_limit


@dataclass(frozen=True)
class RowLimit:
    """At most that many `tokens` a row, as `encoding` counts them."""

    tokens: int
    encoding: Encoding

    @property
    def own(self) -> Encoding | None:
        """A tokenizer that lies on this machine."""
        return self.encoding if self.encoding.folder else None


USUAL = RowLimit(DEFAULT_LIMITS.max_row_tokens, O200K)


def usual_limit(settings: Settings) -> RowLimit | None:
    """Of the model that is trained where nobody names another."""
    target = find_target(settings.providers, None)
    return None if isinstance(target, Refusal) else _limit_of(target, settings.trainer.folders)


def limit_of(settings: Settings, wanted: str) -> RowLimit | Refusal:
    """`wanted` is a model as `finetune estimate --target` takes it."""
    target = find_target(settings.providers, wanted)
    return target if isinstance(target, Refusal) else _limit_of(target, settings.trainer.folders)


def limit_of_folder(folder: Path) -> RowLimit | Refusal:
    """Of a model on this machine that need not be configured."""
    encoding, config = local_encoding(folder), folder / "config.json"
    if encoding.folder is None:
        return Refusal(f"{folder} has no tokenizer.json, so rows can't be counted as that model counts them.")
    try:
        known = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        known = None  # many a tokenizer lies alone; what our trainer takes holds in any case
    takes = known if isinstance(known, int) and known > 0 else OUR_ROW_TOKENS
    return RowLimit(min(takes, OUR_ROW_TOKENS), encoding)


def _limit_of(target: Target, folders: Mapping[str, Path]) -> RowLimit:
    model = target.model
    if not target.row.is_started_by_us:
        return RowLimit(model.context or training_limit(model.name), encoding_of(model.name))
    takes = target.row.defaults.get("max_length")
    most = takes if isinstance(takes, int) else OUR_ROW_TOKENS
    folder = folders.get(model.name)
    encoding = local_encoding(folder) if folder else encoding_of(model.name)
    return RowLimit(min(most, model.context or most), encoding)
