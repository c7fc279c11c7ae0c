"""Finds the target model that a person names, and refuses what it can't be trained with. Also finds the price of the
machine that it rents, and the longest row that it can be trained on. Its memory and time are in hardware.py."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from bot.cards.common.blocks import code
from bot.cards.decisions.plan_refusals import unswept_text
from bot.cards.decisions.starting_models import conflict_text
from bot.rules import plans
from bot.rules.estimate_inputs import Question, find_implausible_figure
from bot.rules.models.starting_models import StartingModel, find_start_conflict
from bot.settings import PACKAGED_TARGET, Settings
from bot.values.runs import Refusal
from bot.values.targets import Target
from trainers.client.payloads import PLAIN_HYPERPARAMETERS
from trainers.dataset import DEFAULT_LIMITS
from trainers.encoders import TORCH_WEIGHTS, TORCH_WEIGHTS_PIN
from trainers.errors import TrainerError
from trainers.methods import BUILTIN, METHODS, TINKER, VLLM, option_name, specs, suited_method
from trainers.models.tokens import (
    O200K,
    OUR_ROW_TOKENS,
    Encoding,
    encoding_of,
    local_encoding,
    training_limit,
)
from trainers.packages import install_line
from trainers.providers.providers import ProviderRow, find_rejected_value
from trainers.rentals.prices import PROVIDER as RENTED
from trainers.rentals.prices import Rental, fetch_rental
from trainers.types import Hyperparameter


def find_target(
    providers: Sequence[ProviderRow], wanted: str | None, start: StartingModel | None = None
) -> Target | Refusal:
    """Finds a target by a name like 'local/smollm2-135m', or by a bare model name. Without a name it is the first model
    that can be trained. `start` is the tuned model that the name stands for, if it is no base model's."""
    if start is not None:
        below = find_target(providers, f"{start.provider}/{start.base_model}")
        if isinstance(below, Refusal):
            return below
        return replace(below, start=start)
    targets: list[Target] = []
    for row in providers:
        if row.trains:
            targets += [Target(row, model) for model in row.models]
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
    if slash and provider == TINKER and named is None:
        return Refusal(
            "Training at Tinker is not set up here. Set `TINKER_API_KEY` where the bot runs, and name a base that "
            "Tinker trains under `[trainer.models]` in finetune.toml (docs/tinker.md).",
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


def find_trainable(
    providers: Sequence[ProviderRow], question: Question, start: StartingModel | None = None
) -> Target | Refusal:
    """Returns the question's target, or why the question makes no sense or the target can't do it."""
    misread = find_implausible_figure(question)
    if misread:
        return Refusal(misread.sentence)
    target = find_target(providers, question.target, start)
    if isinstance(target, Refusal):
        return target
    question = with_target_defaults(question, target)
    refusal = _wrong_kind_of_model(question, target)
    if refusal:
        return refusal
    unswept = plans.find_sweep_conflict(question, can_sweep=_sweeps(target.row))
    if unswept:
        return Refusal(unswept_text(unswept, target.row.title), "sweep")
    conflict = find_start_conflict(question, start) if start else None
    if start and conflict:
        return Refusal(conflict_text(conflict, start), conflict.option)
    return _unsupported(question, target) or target


def _sweeps(row: ProviderRow) -> bool:
    return row.provider.can("sweep") and row.engine is None


def with_target_defaults(question: Question, target: Target) -> Question:
    """Returns the question with the method that it means for this target."""
    method = suited_method(question.method, is_encoder=target.model.is_encoder)
    if method == question.method:
        return question
    return replace(question, method=method)


def _wrong_kind_of_model(question: Question, target: Target) -> Refusal | None:
    """Refuses to train an encoder as a chat model, or the other way round."""
    method = METHODS[question.method]
    name = code(target.name)
    if target.model.is_encoder and not method.is_for_encoders:
        return Refusal(
            f"{name} is an encoder, which learns labels: `method={method.option}` can't train it. Leave out `method=`.",
            "method",
        )
    if method.is_for_encoders and not target.model.is_encoder:
        return Refusal(
            f"{name} is not an encoder: `method={method.name}` can't train it. Leave it out, or choose an encoder as "
            "the target.",
            "method",
        )
    if method.leaves_model:
        return _misfit_for_all_weights(question, target)
    if not method.is_for_encoders:
        return None
    others = [option_name(option) for option in question.chosen if option not in specs(method.name)]
    others += [option for option in ("patience", "sweep") if getattr(question, option)]
    if not others:
        return None
    takes = "`, `".join(f"{option_name(option)}=" for option in specs("full"))
    return Refusal(
        f"`{others[0]}=` has no effect on {name} with `method={method.name}`: leave it out. `method=full` trains the "
        f"whole encoder, and takes `{takes}`.",
        others[0],
    )


def _misfit_for_all_weights(question: Question, target: Target) -> Refusal | None:
    """Refuses what has no effect if all weights of a model are trained, and a target whose model wouldn't stay
    there."""
    row = target.row
    if row.cluster is not None or row.rents:
        return Refusal(
            "`method=full` trains all weights and leaves a model of gigabytes, which has to stay where it was trained, "
            f"and {row.title} sends it elsewhere. Leave it out, or choose a target that starts with `local/`.",
            "method",
        )
    if target.start is not None:
        return Refusal(
            "`method=full` trains all weights of a base model, and this target is a model of yours. Leave it out, or "
            "choose its base as the target.",
            "method",
        )
    others = [option_name(option) for option in question.chosen if option not in specs("all_weights")]
    if not others:
        return None
    return Refusal(
        f"`{others[0]}=` has no effect with `method=full`, which trains all weights and no adapter: leave it out.",
        others[0],
    )


def _unsupported(question: Question, target: Target) -> Refusal | None:
    """Refuses what the target's trainer can't do. Our own trainer on another machine refuses the rest when the
    job is created."""
    row = target.row
    method = METHODS[question.method]
    if method.reads_pairs and not row.provider.can("dpo"):
        return Refusal(
            f"`method={method.option}` needs a trainer that takes preference pairs, which {row.title} does not. Leave "
            "it out, or choose a target that starts with `local/`.",
            "method",
        )
    if not (method.is_plain or method.reads_pairs or row.provider.can("sweep")):
        return Refusal(
            f"`method={method.option}` needs our own trainer, and {row.title} has its own way to train. Leave it out, "
            "or choose a target that starts with `local/`.",
            "method",
        )
    engine = engine_of(question, row)
    if row.engine is not None and method.name != "supervised":
        return Refusal(
            f"`method={method.option}` can't be trained at {row.title}. Leave it out, or choose a target that starts "
            "with `local/`.",
            "method",
        )
    if (engine == TINKER) != (row.engine == TINKER):
        return _wrong_engine(row)
    if engine not in method.engines:
        return Refusal(
            f"`engine={engine}` can't train with `method={method.option}`. Leave out one of the two.",
            "engine",
        )
    if engine == VLLM and _quantization(question, target) != "none":
        return Refusal(
            "`engine=vllm` loads the base without quantization, so it would answer otherwise than the model that is "
            "trained. Leave it out, or start from a base without `quantization=`.",
            "engine",
        )
    extra = [option_name(name) for name in question.chosen if name not in PLAIN_HYPERPARAMETERS]
    if extra and not row.provider.can("extra_hyperparameters"):
        return Refusal(
            f"{row.title} does not take `{extra[0]}=`: leave it out, or choose a model of our own trainer.",
            extra[0],
        )
    misfit = find_rejected_value(row.provider, question.chosen)
    if misfit:
        name = option_name(misfit.name)
        if not misfit.allowed:
            return Refusal(f"{row.title} doesn't take `{name}=`: leave it out.", name)
        return Refusal(
            f"{row.title} takes {misfit.allowed} for `{name}=`: choose one of those, or leave it out.", name
        )
    return _unpackaged(question, target)


def engine_of(question: Question, row: ProviderRow) -> str:
    """Returns the engine that the question names, or the target's own."""
    return str(question.chosen.get("engine", row.engine or BUILTIN))


def _quantization(question: Question, target: Target) -> Hyperparameter:
    """Returns how the base is quantised in the training; a tuned model that is trained further keeps its own way."""
    chosen = dict(question.chosen)
    if target.start is not None:
        chosen |= dict(target.start.shape)
    return chosen.get("quantization", "none")


def _wrong_engine(row: ProviderRow) -> Refusal:
    """Refuses an engine that trains at a vendor for a target that doesn't, or the other way round: the rules about data
    and the price are the target's."""
    if row.engine is not None:
        return Refusal(f"{row.title} is an engine of its own: leave out `engine=`.", "engine")
    return Refusal(
        f"`engine={TINKER}` sends the rows to a vendor: name it as the target, `target={TINKER}/…`, and leave out "
        "`engine=`.",
        "engine",
    )


def _unpackaged(question: Question, target: Target) -> Refusal | None:
    """Refuses what takes a Python package that isn't beside our trainer here."""
    row = target.row
    quantization = question.chosen.get("quantization", "none")
    if quantization != "none" and row.is_started_by_us and find_spec("bitsandbytes") is None:
        return Refusal(
            f"`quantization={quantization}` needs the package bitsandbytes beside our trainer. Leave it out, or ask "
            f"the bot's operator to run `{install_line('quantized')}`.",
            "quantization",
        )
    is_packaged = target.model.name == PACKAGED_TARGET and row.is_started_by_us
    if question.method == "full" and is_packaged and find_spec(TORCH_WEIGHTS) is None:
        return Refusal(
            f"`method=full` needs the PyTorch weights of {code(target.name)} beside our trainer. Use `method=head`, "
            f"which doesn't need them, or ask the bot's operator to run `pip install {TORCH_WEIGHTS_PIN}`.",
            "method",
        )
    return None


def with_rental_price(settings: Settings, target: Target) -> Settings | Refusal:
    """Returns the settings with the current price of the machine that the target rents, if it rents one."""
    renting = settings.trainer.renting
    if not target.row.rents or renting is None:
        return settings
    try:
        rental = fetch_rental(renting.hardware, renting.minutes)
    except TrainerError as trouble:
        return Refusal(f"{trouble} Nothing can be planned without the machine's price.", "target")
    return with_rental(settings, rental)


def with_rental(settings: Settings, rental: Rental) -> Settings:
    """Returns the settings in which the machines that are rented cost this much."""
    rows = []
    for row in settings.providers:
        if row.rents:
            row = replace(row, rental=rental)
        rows.append(row)
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
        tokens = model.context or training_limit(model.name)
        return RowLimit(tokens, encoding_of(model.name))
    most = target.row.defaults.get("max_length")
    if not isinstance(most, int):
        most = OUR_ROW_TOKENS
    if model.context:
        most = min(most, model.context)
    folder = folders.get(model.name)
    encoding = local_encoding(folder) if folder else encoding_of(model.name)
    return RowLimit(most, encoding)
