"""Finds the target model that a person names, the price of the machine that it rents, and the longest row that it can
be trained on. Its memory and time are in hardware.py."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bot.cards.common.blocks import code
from bot.settings import Settings
from bot.values.runs import Refusal
from trainers.dataset import DEFAULT_LIMITS
from trainers.errors import TrainerError
from trainers.providers import ModelRow, ProviderRow
from trainers.rentals.prices import PROVIDER as RENTED
from trainers.rentals.prices import fetch_rental
from trainers.tokens import O200K, OUR_ROW_TOKENS, Encoding, encoding_of, local_encoding, training_limit


@dataclass(frozen=True)
class Target:
    row: ProviderRow
    model: ModelRow

    @property
    def name(self) -> str:
        return f"{self.row.name}/{self.model.name}"


def find_target(providers: Sequence[ProviderRow], wanted: str | None) -> Target | Refusal:
    """Finds a target by a name like 'local/smollm2-135m', or by a bare model name. Without a name it is the first model
    that can be trained."""
    targets = [Target(row, model) for row in providers if row.trains for model in row.models]
    if wanted is None and not targets:
        return Refusal("No model to train is configured.", "target")
    if wanted is None:
        return targets[0]
    provider, slash, _ = wanted.partition("/")
    for target in targets:
        bare = wanted.removeprefix(f"{target.row.name}/")
        is_meant = not slash or provider == target.row.name or wanted == target.model.name
        if is_meant and bare in (target.model.name, *target.model.aliases):
            return target
    named = None
    if slash:
        named = next((row for row in providers if row.name == provider), None)
    if named and not named.trains:
        return Refusal(
            f"{named.title} can be asked, but doesn't train models. {_targets_hint(targets)}", "target"
        )
    if slash and provider == RENTED and named is None:
        return Refusal(
            "Renting a GPU by the minute is not set up here. Add `hardware` and `image` under `[hf]` in finetune.toml, "
            "and `HF_TOKEN` (docs/rented-gpu.md).",
            "target",
        )
    names = [target.name for target in targets]
    names += [target.model.name for target in targets]
    near = difflib.get_close_matches(wanted, names, n=1, cutoff=0.5)
    hint = _targets_hint(targets)
    if near:
        hint = f"Did you mean `{near[0]}`?"
    return Refusal(f"I know no model to train named {code(wanted[:60])}. {hint}", "target")


def _targets_hint(targets: Sequence[Target]) -> str:
    return "There are " + ", ".join(f"`{target.name}`" for target in targets) + "."


def with_rental_price(settings: Settings, target: Target) -> Settings | Refusal:
    """Returns the settings with the current price of the machine that the target rents, if it rents one."""
    renting = settings.trainer.renting
    if not target.row.rents or renting is None:
        return settings
    try:
        rental = fetch_rental(renting.hardware, renting.minutes)
    except TrainerError as trouble:
        return Refusal(f"{trouble} Nothing can be planned without the machine's price.", "target")
    rows = (replace(row, rental=rental) if row.rents else row for row in settings.providers)
    return replace(settings, providers=tuple(rows))


@dataclass(frozen=True)
class RowLimit:
    """A row may have at most `tokens`, as counted by `encoding`."""

    tokens: int
    encoding: Encoding

    @property
    def own(self) -> Encoding | None:
        """The encoding if its tokenizer is on this machine, otherwise None."""
        if self.encoding.folder is None:
            return None
        return self.encoding


DEFAULT_ROW_LIMIT = RowLimit(DEFAULT_LIMITS.max_row_tokens, O200K)


def default_row_limit(settings: Settings) -> RowLimit | None:
    """Returns the row limit of the default target, None if there is no target."""
    target = find_target(settings.providers, None)
    if isinstance(target, Refusal):
        return None
    return _limit_of(target, settings.trainer.folders)


def row_limit_of(settings: Settings, wanted: str) -> RowLimit | Refusal:
    """Returns the row limit of a model, named as in `finetune estimate --target`."""
    target = find_target(settings.providers, wanted)
    if isinstance(target, Refusal):
        return target
    return _limit_of(target, settings.trainer.folders)


def row_limit_of_folder(folder: Path) -> RowLimit | Refusal:
    """Returns the row limit of a model in a folder on this machine, which need not be configured."""
    encoding = local_encoding(folder)
    if encoding.folder is None:
        return Refusal(f"{folder} has no tokenizer.json, so the model's tokens can't be counted.")
    config = folder / "config.json"
    try:
        takes = json.loads(config.read_text(encoding="utf-8")).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        takes = None  # the folder may have only a tokenizer; our trainer's own limit applies in any case
    most = OUR_ROW_TOKENS
    if isinstance(takes, int) and takes > 0:
        most = min(takes, OUR_ROW_TOKENS)
    return RowLimit(most, encoding)


def _limit_of(target: Target, folders: Mapping[str, Path]) -> RowLimit:
    model = target.model
    if not target.row.is_started_by_us:
        return RowLimit(model.context or training_limit(model.name), encoding_of(model.name))
    most = target.row.defaults.get("max_length")
    if not isinstance(most, int):
        most = OUR_ROW_TOKENS
    if model.context:
        most = min(most, model.context)
    folder = folders.get(model.name)
    encoding = local_encoding(folder) if folder else encoding_of(model.name)
    return RowLimit(most, encoding)
