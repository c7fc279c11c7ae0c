"""The tuned model from which a training goes on, and which options of a question can't be combined with one."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from bot.rules.estimate_inputs import Question
from trainers.methods import ADAPTER_SETTINGS, BUILTIN, VLLM, option_name
from trainers.types import Hyperparameter


@dataclass(frozen=True)
class StartingModel:
    """A tuned model from which a training goes on.

    - `name` is what people call it, and `provider_model` what its `provider` calls it. `base_model` is the model below
      it, by which everything is priced and sized.
    - `run` trained it, by the plan with the hash `plan_hash`, on the version `version` of `dataset`.
    - `ancestors` are the tuned models from which it came itself, the nearest first.
    - `train_files` are the sha256 of the training rows of all of them, its own first.
    - `shape` are the hyperparameters that its adapter fixes; empty at a vendor.
    - `overridden` are the names of the data rules that somebody overrode when it was trained, and `teachers` the models
      that labelled some of its rows.
    """

    name: str
    provider: str
    provider_model: str
    base_model: str
    run: int
    plan_hash: str
    dataset: str
    version: int
    ancestors: tuple[str, ...] = ()
    train_files: tuple[str, ...] = ()
    shape: tuple[tuple[str, Hyperparameter], ...] = ()
    overridden: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()

    @property
    def lineage(self) -> tuple[str, ...]:
        """The tuned models whose training rows it has learnt from, itself first."""
        return (self.name, *self.ancestors)


@dataclass(frozen=True)
class StartConflict:
    """Why a question can't go on from a tuned model. `option` is at fault. `fixed` is the value of a hyperparameter
    that the model's adapter fixes."""

    why: Literal["sweep", "engine", "shape"]
    option: str
    fixed: Hyperparameter = ""


def adapter_shape(
    hyperparameters: Collection[tuple[str, Hyperparameter]],
) -> tuple[tuple[str, Hyperparameter], ...]:
    """Returns the hyperparameters that an adapter keeps for ever."""
    return tuple((name, value) for name, value in hyperparameters if name in ADAPTER_SETTINGS)


def find_start_conflict(question: Question, start: StartingModel) -> StartConflict | None:
    """Returns what the question asks for that a training from `start` can't do, None if nothing."""
    if question.sweep:
        return StartConflict("sweep", "sweep")
    if question.chosen.get("engine", BUILTIN) not in (BUILTIN, VLLM):
        return StartConflict("engine", "engine")
    fixed = dict(start.shape)
    for name, value in question.chosen.items():
        if name in ADAPTER_SETTINGS and fixed.get(name, value) != value:
            return StartConflict("shape", option_name(name), fixed[name])
    return None
