"""One step of a training and one validation, by one process or by each of a team's (team.py)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from torch.amp.grad_scaler import GradScaler

from trainers.local.cores import Cores
from trainers.local.training import team
from trainers.local.training.checkpoints import random_states, restore_random
from trainers.local.training.data import Row
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.journal import Scores
from trainers.local.training.loss_scale import is_learnable
from trainers.local.training.memory import Room
from trainers.local.training.packing import Abilities, Loss, measure, pack_rows
from trainers.local.training.sharding import in_step

MAX_NORM = 1.0


@dataclass
class Trainee:
    """The model with all that a step on it takes. `look` raises TrainingPaused where somebody wants a pause;
    in a team that is asked between steps."""

    model: PeftModel
    optimizer: torch.optim.Optimizer
    able: Abilities
    room: Room[Row]
    look: Callable[[], None]
    cores: Cores = field(default_factory=Cores)
    scaler: GradScaler = field(default_factory=lambda: GradScaler(enabled=False))


def learn(trainee: Trainee, batch: Sequence[Row], rate: float, step: int) -> Scores:
    """One step on the mean loss of the batch's supervised tokens. One that is paused leaves no trace."""
    model, optimizer = trainee.model, trainee.optimizer
    model.train()
    targets = sum(sum(row.supervised) for row in batch)
    team.reseed(step)
    random = random_states()

    def forget() -> None:
        optimizer.zero_grad()
        restore_random(random)

    def add_all(parts: list[list[Row]]) -> Scores:
        if not team.is_alone():  # another process may have had no room for what this one has computed
            forget()
        try:
            return add_gradients(trainee, parts, targets, spare=batch[0])
        except BaseException:  # memory full or paused: nothing of this step has happened
            forget()
            raise

    learnt = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    while True:
        mine = trainee.room.try_out(team.share(batch), add_all, f"at step {step}")
        team.add_gradients(learnt)
        loss, accuracy = team.add_up(mine.loss, mine.accuracy or 0.0)
        if not math.isfinite(loss) or is_learnable(trainee.scaler, optimizer):
            break
        forget()
    scores = Scores(loss, accuracy)
    norm = torch.nn.utils.clip_grad_norm_(learnt, MAX_NORM).item()
    if not math.isfinite(scores.loss) or not math.isfinite(norm):
        wider = (
            " In float32 numbers may be larger: FINETUNE_DTYPE=fp32." if trainee.scaler.is_enabled() else ""
        )
        text = (
            f"At step {step} the loss became {scores.loss} and its gradient {norm}. Set learning_rate lower."
            f"{wider}"
        )
        raise TrainingFailed("loss_not_finite", text, "learning_rate")
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad()
    return scores


def add_gradients(trainee: Trainee, parts: Sequence[Sequence[Row]], targets: int, spare: Row) -> Scores:
    """This process's share of the batch's mean loss and of its accuracy."""
    loss, right = 0.0, 0
    for rows, counts in in_step(trainee.model, parts, spare):
        trainee.look()
        with trainee.cores.shared():
            part = measure_rows(trainee.model, rows, trainee.able)
            trainee.scaler.scale(part.total * counts / targets).backward()  # type: ignore[no-untyped-call]
        loss, right = loss + counts * part.total.item() / targets, right + counts * part.right
    return Scores(loss, right / targets)


def evaluate(trainee: Trainee, rows: Sequence[Row]) -> Scores:
    trainee.model.eval()
    by_length = sorted(rows, key=lambda row: len(row.ids))

    def measure_all(parts: list[list[Row]]) -> list[Loss]:
        losses = []
        for part, counts in in_step(trainee.model, parts, by_length[0]):
            trainee.look()
            with trainee.cores.shared(), torch.no_grad():
                loss = measure_rows(trainee.model, part, trainee.able)
            losses += [loss] * counts
        return losses

    losses = trainee.room.try_out(team.share(by_length), measure_all, "while validating")
    total, right, targets = team.add_up(
        sum(loss.total.item() for loss in losses),
        sum(loss.right for loss in losses),
        sum(loss.tokens for loss in losses),
    )
    return Scores(total / targets, right / targets)


def measure_rows(model: PeftModel, rows: Sequence[Row], able: Abilities) -> Loss:
    """Frozen weights in bfloat16 meet LoRA's in float32: autocast multiplies both in bfloat16."""
    weight = next(model.parameters())
    ways = {"by_rows": able.by_rows, "by_blocks": able.by_blocks}
    pack = pack_rows(rows, weight.device, weight.dtype, **ways)
    with torch.autocast(weight.device.type, weight.dtype, enabled=weight.dtype != torch.float32):
        return measure(model, pack, able)
