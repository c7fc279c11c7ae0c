"""Says why a model computes numbers that are not finite (nan or infinite): its weights, its number format, or a
row."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from trainers.local.training.errors import TrainingFailed


def number_format(model: Any) -> torch.dtype:
    """Returns the format in which the base computes. The model's first weight may be the adapter's, or packed."""
    kind: torch.dtype = model.get_input_embeddings().weight.dtype
    return kind


def broken_weight(model: nn.Module, *, learnt: bool = False) -> str | None:
    """Returns the name of the first weight with a value that isn't finite, among those of the base or, with `learnt`,
    of the adapter."""
    for name, weight in model.named_parameters():
        if weight.requires_grad is learnt and weight.is_floating_point() and not weight.isfinite().all():
            return name.removeprefix("base_model.model.").replace(".base_layer", "")
    return None


def explain_base(model: Any) -> TrainingFailed:
    """Explains why the base computes values that are not finite."""
    name = broken_weight(model)
    if name is not None:
        text = (
            f"The base model's weight {name} holds values that are not numbers (nan or infinite), so nothing can be "
            "learnt on it. Download its files again, or choose another base model."
        )
        return TrainingFailed("base_not_finite", text, "model")
    kind = number_format(model)
    text = (
        f"The base model computes values that are not numbers in {_name(kind)}, although its weights are finite. "
        f"{_cure(kind)}"
    )
    return TrainingFailed("base_not_finite", text, "model")


def explain_encoder_step(encoder: nn.Module, step: int, loss: float, norm: float) -> TrainingFailed:
    """Explains a loss or a gradient that isn't finite while all weights of an encoder are trained."""
    if step > 1:
        text = f"At step {step} the loss became {loss} and its gradient {norm}. Set learning_rate lower."
        return TrainingFailed("loss_not_finite", text, "learning_rate")
    # Nothing has been learnt yet, so the learning rate can't be the reason.
    name = broken_weight(encoder, learnt=True)
    if name is not None:
        text = (
            f"The encoder's weight {name} holds values that are not numbers (nan or infinite), so nothing can be "
            "learnt on it. Download its files again, or choose another encoder."
        )
    else:
        text = (
            "Before anything was learnt, the encoder's loss or its gradient was infinite or not a number, although "
            "all its weights are finite. Use method=head, or choose another encoder."
        )
    return TrainingFailed("base_not_finite", text, "model")


def explain_first_step(model: Any, line: int | None) -> TrainingFailed:
    """Explains why the first step isn't finite. `line` is that of a row which alone is to blame, if there is one."""
    name = broken_weight(model, learnt=True)
    if name is not None:
        text = (
            f"The tuned model's weight {name} holds values that are not numbers (nan or infinite), so it can't be "
            "trained further. Choose another model."
        )
        return TrainingFailed("base_not_finite", text, "model")
    if line is None or broken_weight(model) is not None:
        return explain_base(model)
    kind = number_format(model)
    text = (
        f"Before anything was learnt, line {line} of the training file made the loss infinite or not a number in "
        f"{_name(kind)}, although all weights of the base model are finite. Delete the line, or: {_cure(kind)}"
    )
    return TrainingFailed("row_not_finite", text, "training_file")


def _name(kind: torch.dtype) -> str:
    return str(kind).removeprefix("torch.")


def _cure(kind: torch.dtype) -> str:
    if kind == torch.float32:
        return "Choose another base model."
    return "Set FINETUNE_DTYPE=fp32 if there is memory for it, or choose another base model."
