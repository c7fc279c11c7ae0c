"""float16 has no numbers below 6e-8: the loss is multiplied before the way back, so that small gradients are not lost.

Where one becomes too large instead, the step is computed again at half the scale; none is left out. Micikevicius et al.
2018, Mixed Precision Training, section 3.2. In other formats all here is free.
"""

from __future__ import annotations

import math

import torch
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer


def new_scaler(device: torch.device, dtype: torch.dtype) -> GradScaler:
    scaler = GradScaler(device.type, enabled=dtype == torch.float16)
    scaler.scale(
        torch.zeros(1, device=device)
    )  # makes its tensors, also in a process that has no row at first
    return scaler


def is_learnable(scaler: GradScaler, optimizer: Optimizer) -> bool:
    """Takes the scale off the gradients. False where they overflowed and a smaller scale may help, which is set."""
    if not scaler.is_enabled():
        return True
    scaler.unscale_(optimizer)
    learnt = [one.grad for group in optimizer.param_groups for one in group["params"] if one.grad is not None]
    scale = scaler.get_scale()
    if math.isfinite(torch.nn.utils.get_total_norm(learnt).item()) or scale <= 1:
        scaler.update()
        return True
    scaler.update(scale / 2)
    return False
