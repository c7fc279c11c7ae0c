"""TRL's DPOTrainer on tokenized preference pairs: loss, reference and loop are TRL's; micro-batches, pauses
and processes are ours."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from trainers.local.training import distributed
from trainers.local.training.devices import CpuThreads, is_learnable
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.memory import MicroBatcher
from trainers.local.training.metrics_logger import Scores
from trainers.local.training.pairs import PairRow

# TRL's DPOTrainer on pairs that pairs.py wrote: the loss, the reference and the loop are its; parts and
# pauses ours.
#
#     reward(answer) = beta * (log p(answer | asked) - log p0(answer | asked))
#     loss = -log sigmoid(reward(chosen) - reward(rejected))
#
# p is the model with its adapter, p0 the reference: the same model without it, or with the adapter that
# the training goes on from (Rafailov et al. 2023, arXiv 2305.18290, equation 7).


REWARDS = {
    "reward_accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
}


@dataclass(frozen=True)
class Part:
    """Of a batch: its mean loss over `pairs` pairs, its rewards as in REWARDS, and which share of `tokens` tokens of
    chosen answers was the likeliest."""

    pairs: int
    tokens: int
    loss: float
    accuracy: float
    rewards: dict[str, float]


class PairTrainer(DPOTrainer):
    """`room`, `look` and `scaler` are set before it trains; `look` raises TrainingPaused where somebody wants a pause.

    `scores` and `batch` are the last step's; None and empty before the first.
    """

    room: MicroBatcher[PairRow]
    look: Callable[[], None]
    cores: CpuThreads
    scaler: GradScaler
    scores: Scores | None = None
    batch: Sequence[PairRow] = ()

    def __init__(
        self,
        model: Any,
        rows: Sequence[PairRow],
        tokenizer: Any,
        config: DPOConfig,
        *,
        lora: LoraConfig | None,
        dtype: torch.dtype,
        callback: TrainerCallback,
    ) -> None:
        """`lora`: the adapter to make; None where the model has one to go on from."""
        super().__init__(
            model=model,
            args=config,
            data_collator=lambda places: {"pairs": [rows[each["row"]] for each in places]},
            train_dataset=Dataset.from_dict({"row": list(range(len(rows)))}),
            processing_class=tokenizer,
            callbacks=[callback],
            peft_config=lora,
        )
        self.remove_callback(PrinterCallback)
        self._dtype = dtype
        self._pad = DataCollatorForPreference(pad_token_id=tokenizer.pad_token_id)
        for weight in self.adapted.parameters():
            if weight.requires_grad:  # TRL turns those beside quantised weights into bfloat16
                weight.data = weight.data.float()

    @property
    def adapted(self) -> PeftModel:
        return cast(PeftModel, self.model)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """A batch's gradients, summed over all processes. What is random in a step follows from the seed and its
        number, so that a run that goes on draws the same. Raises TrainingFailed where they are no numbers."""
        model.train()
        step, pairs = self.state.global_step + 1, inputs["pairs"]

        def add_up(parts: list[list[PairRow]]) -> list[Part]:
            model.zero_grad()  # of parts for which memory was too small, here or in another process
            torch.manual_seed(self.args.seed + step)
            distributed.reseed(step)
            return [self._add_gradients(part, len(pairs)) for part in parts]

        assert self.optimizer is not None  # noqa: S101
        while True:
            scores = mean(self.room.try_out(distributed.share(pairs), add_up, f"at step {step}"))
            distributed.add_gradients(
                weight for group in self.optimizer.param_groups for weight in group["params"]
            )
            if not math.isfinite(scores.loss) or is_learnable(self.scaler, self.optimizer):
                break
        self._check_numbers(step, scores.loss)
        self.scores, self.batch = scores, pairs
        return torch.tensor(scores.loss, device=self.args.device)

    def evaluate_pairs(self, rows: Sequence[PairRow]) -> Scores:
        self.adapted.eval()

        def measure_all(parts: list[list[PairRow]]) -> list[Part]:
            with torch.no_grad():
                return [self._measure(part)[1] for part in parts]

        by_length = sorted(rows, key=lambda row: row.longer)
        return mean(self.room.try_out(distributed.share(by_length), measure_all, "while validating"))

    def _add_gradients(self, rows: Sequence[PairRow], of: int) -> Part:
        loss, part = self._measure(rows)
        self.accelerator.backward(self.scaler.scale(loss * (len(rows) / of)))
        return part

    def _measure(self, rows: Sequence[PairRow]) -> tuple[Tensor, Part]:
        self.look()
        padded = self._pad([_as_trl(row) for row in rows])
        device, is_mixed = self.args.device.type, self._dtype != torch.float32
        with self.cores.shared(), torch.autocast(device, self._dtype, enabled=is_mixed):
            loss: Tensor = self.compute_loss(self.adapted, self._prepare_inputs(padded))  # type: ignore[no-untyped-call]
        noted = self._metrics["train" if self.adapted.training else "eval"]
        part = Part(
            pairs=len(rows),
            tokens=sum(len(row.chosen) for row in rows),
            loss=loss.item(),
            accuracy=noted["mean_token_accuracy"][-1],
            rewards={ours: noted[theirs][-1] for ours, theirs in REWARDS.items()},
        )
        noted.clear()
        return loss, part

    def _check_numbers(self, step: int, loss: float) -> None:
        gradients = [weight.grad for weight in self.adapted.parameters() if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        if not math.isfinite(loss) or not math.isfinite(norm):
            text = f"At step {step} the loss became {loss} and its gradient {norm}. Set learning_rate lower."
            raise TrainingFailed("loss_not_finite", text, "learning_rate")

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """The pairs are token ids already, by the template options that the model is asked with."""
        return dataset

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """restore_checkpoint has done it."""

    def _send_telemetry(self) -> None:
        """TRL would tell the hub that somebody trains."""


def settle_rates(
    trainer: PairTrainer, optimizer: torch.optim.Optimizer, done: int, share: Callable[[int], float]
) -> None:
    """From step `done` on. `share`: of the highest rate, by the step's number."""
    trainer.optimizer = optimizer
    trainer.lr_scheduler = LambdaLR(optimizer, lambda before: share(before + 1), last_epoch=done - 1)


def mean(parts: Sequence[Part]) -> Scores:
    """Over the pairs of all processes."""
    pairs, tokens, loss, right, *rewards = distributed.sum_all(
        sum(part.pairs for part in parts),
        sum(part.tokens for part in parts),
        sum(part.loss * part.pairs for part in parts),
        sum(part.accuracy * part.tokens for part in parts),
        *(sum(part.rewards[name] * part.pairs for part in parts) for name in REWARDS),
    )
    more = {name: reward / pairs for name, reward in zip(REWARDS, rewards, strict=True)}
    return Scores(loss / pairs, right / tokens, more)


def _as_trl(row: PairRow) -> dict[str, list[int]]:
    ids = {"prompt_ids": row.asked, "chosen_ids": row.chosen, "rejected_ids": row.rejected}
    return {name: list(each) for name, each in ids.items()}


# What TRL, transformers and accelerate see of a team: one process with one device, so that they share
# out, wrap and gather nothing. All that is done by us (team.py). A process that is alone sees them as
# they are.


SAID_BY_LAUNCHERS = ("LOCAL_RANK", "WORLD_SIZE")  # where accelerate looks whether there are others


class SingleProcessConfig(DPOConfig):
    @cached_property
    def _setup_devices(self) -> torch.device:
        """Else a process that thinks that it is alone takes the first GPU, and wants to use all that it sees."""
        if distributed.is_alone():
            return super()._setup_devices
        AcceleratorState._reset_state(reset_partial_state=True)
        with hidden_launcher():
            self.distributed_state = PartialState(cpu=self.use_cpu)
        self._n_gpu = 0 if self.use_cpu else 1
        device: torch.device = self.distributed_state.device
        return device


@contextmanager
def hidden_launcher() -> Iterator[None]:
    kept = {name: os.environ.pop(name) for name in SAID_BY_LAUNCHERS if name in os.environ}
    try:
        yield
    finally:
        os.environ |= kept
