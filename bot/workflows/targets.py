"""Which model is meant by what a person wrote, and who trains it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from bot.results import Refusal
from bot.views.blocks import code
from trainers.providers import ModelRow, ProviderRow


@dataclass(frozen=True)
class Target:
    row: ProviderRow
    model: ModelRow

    @property
    def name(self) -> str:
        return f"{self.row.name}/{self.model.name}"


def find_target(providers: Sequence[ProviderRow], wanted: str | None) -> Target | Refusal:
    """'local/smollm2-135m', or a model's name where one provider has it; nothing said: the first of our own."""
    targets = [Target(row, model) for row in providers for model in row.models]
    if wanted is None:
        return targets[0] if targets else Refusal("No model to train is configured.", "target")
    provider, slash, _ = wanted.partition("/")
    for target in targets:
        bare = wanted.removeprefix(f"{target.row.name}/")
        is_meant = not slash or provider == target.row.name or wanted == target.model.name
        if is_meant and bare in (target.model.name, *target.model.aliases):
            return target
    names = [target.name for target in targets]
    near = difflib.get_close_matches(wanted, [*names, *(t.model.name for t in targets)], n=1, cutoff=0.5)
    hint = (
        f"Did you mean `{near[0]}`?" if near else "There are " + ", ".join(f"`{one}`" for one in names) + "."
    )
    return Refusal(f"I know no model to train named {code(wanted[:60])}. {hint}", "target")
