"""Checks that a new adapter changes nothing. Its second matrix is zero, so the model must still compute what the base
computes as transformers wrote it, up to rounding. A difference means that a layer is computed wrongly here, and that an
adapter trained on it would be wrong everywhere else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from trainers.local.kernels.fused_layers import unfuse_norms, without_kept_positions
from trainers.local.peft import PeftModel
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.finite_numbers import explain_base, number_format

TOKENS = 16
# Shares of the logits' spread. On a CPU, rounding makes up to 3e-6 in float32, 0.004 in float16 and nothing in bfloat16
# (SmolLM2 and the toys of all families); a layer norm computed as an RMS norm makes 0.09 to 0.23 in toys.
TOLERANCE = 1e-3
TOLERANCE_NARROW = 0.05  # for bfloat16 and float16


def is_sharded(model: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in model.modules())


def base_logits(model: Any) -> Tensor:
    """Returns the logits (TOKENS, vocabulary) of the base as transformers computes it. Raises TrainingFailed if they
    are not numbers."""
    with unfuse_norms(model):
        logits = _logits(model)
    if logits.isnan().any() or logits.isposinf().any():  # -inf may be meant, for words that nobody may write
        raise explain_base(model)
    return logits


def check_new_adapter(model: PeftModel, expected: Tensor) -> None:
    """Raises TrainingFailed if the model with its new adapter computes something else than `expected`, the logits of
    the base without it."""
    difference = relative_difference(_logits(model), expected)
    limit = TOLERANCE
    if number_format(model) != torch.float32:
        limit = TOLERANCE_NARROW
    if difference <= limit:  # False for nan
        return
    base: Any = model.get_base_model()
    family = base.config.model_type
    text = (
        f"A new adapter must not change the model, but it changed this model's numbers by {difference:.0%}: a layer of "
        f"the family {family} is computed wrongly here. Nothing was trained. Choose another base model, and report "
        "this with the family's name."
    )
    raise TrainingFailed("adapter_changes_base", text, "model")


def check_sharded_adapter(model: PeftModel) -> None:
    """The same check for a base that is divided among processes, all of which must call this. Such a base can't
    compute before all of it is divided, so it is compared with itself while the adapter is off."""
    with model.disable_adapter():
        expected = base_logits(model)
    check_new_adapter(model, expected)


def relative_difference(logits: Tensor, expected: Tensor) -> float:
    """Returns the difference as a share of the logits' spread, at the median token. Not at the worst one, since a
    router of experts may choose another expert at one token because of rounding."""
    words = expected.isfinite().all(0)
    expected = expected[:, words]
    spread = (expected - expected.mean(-1, keepdim=True)).norm(dim=-1)
    shares = (logits[:, words] - expected).norm(dim=-1) / spread.clamp_min(1e-12)
    return float(shares.median())


def _logits(model: Any) -> Tensor:
    weight = model.get_input_embeddings().weight
    kind = number_format(model)
    words = weight.shape[0]
    # The middle half of the vocabulary: tokens that stand for pictures are near one of its ends.
    ids = torch.linspace(words // 4, 3 * words // 4, TOKENS).long()[None].to(weight.device)
    autocast = torch.autocast(weight.device.type, kind, enabled=kind != torch.float32)
    with _evaluating(model), without_kept_positions(model), torch.no_grad(), autocast:
        logits: Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits.float()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Turns dropout off."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
