"""Says which kernels are missing for linear attention, convolutions and state spaces.

transformers computes these layers by kernels of other packages (the extra [kernels]), and if one can't be imported, by
loops of PyTorch that are correct but much slower. It says so only in a log that isn't shown here. What each layer calls
is read from transformers' own wrappers, so that an installed package which doesn't fit its PyTorch is noticed too.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainers.packages import install_line

# By the name that is imported.
DISTRIBUTIONS = {
    "causal_conv1d": "causal-conv1d",
    "fla": "flash-linear-attention",
    "mamba_ssm": "mamba-ssm",
}


@dataclass(frozen=True)
class MissingKernel:
    """`package` is the name that is imported. `why` is the error of an installed package, or empty if there is none."""

    package: str
    why: str = ""

    def __str__(self) -> str:
        name = DISTRIBUTIONS[self.package]
        if self.why:
            return f"{name} (installed, but {self.why})"
        return name


def missing_kernels(model: nn.Module) -> list[MissingKernel]:
    """Returns the packages whose kernels a layer of `model` would call if they could be imported, by name."""
    kinds = {type(module) for module in model.modules()}
    packages = {package for kind in kinds for package in _slow_packages(kind)}
    return [_explain(package) for package in sorted(packages)]


def describe_slow_layers(model: nn.Module, device: torch.device) -> str | None:
    """Returns a sentence on what computes slowly on this device and how to change that, or None if nothing does."""
    missing = missing_kernels(model)
    if not missing:
        return None
    names = _join(str(kernel) for kernel in missing)
    slow = "PyTorch alone computes this model's linear attention, convolutions or state spaces, which is slow"
    if device.type != "cuda":
        return f"{slow}: the kernels for them ({names}) need an NVIDIA GPU"
    return f"{slow}. Missing: {names}. Install the extra [kernels]: {install_command()}"


def install_command() -> str:
    # They are compiled for the PyTorch that is installed, which an isolated build would not see.
    return install_line("kernels").replace("pip install", "pip install --no-build-isolation", 1)


def _slow_packages(kind: type[nn.Module]) -> Iterator[str]:
    """Yields the packages of functions that the layer's methods call and that transformers replaced by its own."""
    names = vars(sys.modules[kind.__module__])
    for method in vars(kind).values():
        if not inspect.isfunction(method):
            continue
        for name in inspect.unwrap(method).__code__.co_names:
            choice = _choice_of(names.get(name))
            if choice.get("package") in DISTRIBUTIONS and not choice.get("is_new_implementation", True):
                yield choice["package"]


def _choice_of(function: Any) -> dict[str, Any]:
    """Returns what transformers' wrapper of a function has stored: its package, and whether that is used."""
    if not inspect.isfunction(function) or not hasattr(function, "__wrapped__"):
        return {}
    return dict(inspect.getclosurevars(function).nonlocals)


def _explain(package: str) -> MissingKernel:
    if importlib.util.find_spec(package) is None:
        return MissingKernel(package)
    try:
        importlib.import_module(package)
    except Exception as error:  # a package compiled for another PyTorch may raise anything
        sentence, _, _ = str(error).strip().partition("\n")
        return MissingKernel(package, f"{type(error).__name__} {sentence[:200]}".strip())
    return MissingKernel(package, "it lacks what transformers calls")


def _join(words: Iterable[str]) -> str:
    *first, last = words
    if not first:
        return last
    return f"{', '.join(first)} and {last}"
