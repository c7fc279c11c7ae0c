"""Direct preference optimisation on preference pairs: TRL's loss and reference in the loop of all methods.

    reward(answer) = beta * (log p(answer | asked) - log p0(answer | asked))
    loss = -log sigmoid(reward(chosen) - reward(rejected))

p is the model with its adapter, p0 the reference: the same model without it, or with the adapter that the training goes
on from (Rafailov et al. 2023, arXiv 2305.18290, equation 7).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer

from trainers.local.job_directory import TrainingJob
from trainers.local.training import distributed
from trainers.local.training.checkpoints import CHECKPOINT_S
from trainers.local.training.errors import Pauses
from trainers.local.training.loop import TrainingMethod, TrainState
from trainers.local.training.methods import trl_setup
from trainers.local.training.methods.trl_setup import (
    LossOnly,
    SingleProcess,
    TrlBase,
    prepare_base,
    silent_options,
)
from trainers.local.training.metrics_logger import MetricsLogger, Scores
from trainers.local.training.packing import pack_tokens
from trainers.local.training.pairs import PairRow, Pairs, read_pairs, width
from trainers.methods import DpoParameters, Parameters

REWARDS = {
    "reward_accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
}


def train(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Ends with adapter/ and DONE. Raises TrainingFailed where it cannot, TrainingPaused where it must wait."""
    trl_setup.train(folder, job, prepare, Dpo.metrics, checkpoint_s)


def prepare(folder: Path, job: TrainingJob, logger: MetricsLogger, pauses: Pauses) -> Dpo:
    """Raises TrainingFailed, TrainingPaused."""

    def read(file: Path, tokenizer: Any, settings: Parameters, param: str) -> Pairs:
        return read_pairs(file, tokenizer, settings.max_length, param, settings.too_long)

    setup = prepare_base(folder, job, logger, pauses, read)
    for what, pairs in (("Training", setup.training), ("Validation", setup.validation)):
        if pairs:
            _report_pairs(logger, what, pairs, setup.settings)
    assert isinstance(setup.settings, DpoParameters)  # noqa: S101 - read_job goes by the job's method
    config = DpoSettings(
        beta=setup.settings.beta,
        max_length=None,  # pairs.py has seen to it
        **silent_options(folder, job, setup),
    )
    return Dpo(PairLoss(setup, config), setup, job.seed)


def _report_pairs(logger: MetricsLogger, what: str, pairs: Pairs, settings: Parameters) -> None:
    logger.log(
        f"{what} pairs: {len(pairs.rows):,} with {pairs.tokens:,} tokens, what was asked counted twice"
    )
    if pairs.same:
        logger.warn(f"{what} pairs left out, both answers are the same to this model: {pairs.same:,}")
    if pairs.too_long:
        logger.warn(f"{what} pairs left out, longer than max_length: {pairs.too_long:,}")
    if pairs.cut:
        text = (
            f"{what} pairs cut to max_length {settings.max_length} tokens, so that an answer may end early: "
        )
        logger.warn(f"{text}{pairs.cut:,}")


@dataclass(frozen=True)
class Part:
    """Of a batch: its mean loss over `pairs` pairs, its rewards as in REWARDS, and which share of `tokens` tokens of
    chosen answers was the likeliest."""

    pairs: int
    tokens: int
    loss: float
    accuracy: float
    rewards: dict[str, float]


class Dpo(TrainingMethod[PairRow, list[Part]]):
    metrics = tuple(REWARDS)
    forward_share = 1 / 2  # the reference, which has no way back, is asked in both

    def __init__(self, trainer: PairLoss, setup: TrlBase[Pairs], seed: int) -> None:
        self.model, self.rows = trainer.peft_model, setup.training.rows
        self.validation = setup.validation.rows if setup.validation else ()
        self.device, self.dtype, self.usual_tokens = setup.device, setup.dtype, pack_tokens(setup.device)
        self._trainer, self.seed = trainer, seed

    def tokens(self, rows: Sequence[PairRow]) -> int:
        return sum(pair.tokens for pair in rows)

    def width(self, rows: Sequence[PairRow]) -> int:
        return width(rows)

    def add_gradients(
        self, state: TrainState[PairRow, list[Part]], parts: list[list[PairRow]], batch: Sequence[PairRow]
    ) -> list[Part]:
        measured = []
        for pairs in parts:
            state.check_pause()
            with state.cores.shared():
                loss, part = self._trainer.measure(pairs)
            state.scaler.scale(loss * (len(pairs) / len(batch))).backward()  # type: ignore[no-untyped-call]
            measured.append(part)
        return measured

    def total(self, computed: list[Part]) -> Scores:
        """Over the pairs of all processes."""
        pairs, tokens, loss, right, *rewards = distributed.sum_all(
            sum(part.pairs for part in computed),
            sum(part.tokens for part in computed),
            sum(part.loss * part.pairs for part in computed),
            sum(part.accuracy * part.tokens for part in computed),
            *(sum(part.rewards[name] * part.pairs for part in computed) for name in REWARDS),
        )
        more = {name: reward / pairs for name, reward in zip(REWARDS, rewards, strict=True)}
        return Scores(loss / pairs, right / tokens, more)

    def evaluate(self, state: TrainState[PairRow, list[Part]]) -> Scores:
        self.model.eval()

        def measure_all(parts: list[list[PairRow]]) -> list[Part]:
            measured = []
            for pairs in parts:
                state.check_pause()
                with state.cores.shared(), torch.no_grad():
                    measured.append(self._trainer.measure(pairs)[1])
            return measured

        by_length = sorted(self.validation, key=lambda row: row.length)
        return self.total(
            state.batcher.compute_in_parts(distributed.share(by_length), measure_all, "while validating")
        )


class DpoSettings(SingleProcess, DPOConfig):
    """TRL's."""


class PairLoss(LossOnly, DPOTrainer):
    """TRL's trainer for its loss and its reference alone."""

    def __init__(self, setup: TrlBase[Pairs], config: DpoSettings) -> None:
        super().__init__(
            model=setup.model,
            args=config,
            train_dataset=Dataset.from_dict({"row": [0]}),  # it wants one
            processing_class=setup.tokenizer,
            peft_config=setup.lora,
        )
        self.finish_setup(setup.dtype)
        self._pad = DataCollatorForPreference(pad_token_id=setup.tokenizer.pad_token_id)

    def measure(self, pairs: Sequence[PairRow]) -> tuple[Tensor, Part]:
        """The mean loss of these pairs, to go backward from, and what TRL noted beside it."""
        rows = [
            {
                "prompt_ids": list(pair.prompt),
                "chosen_ids": list(pair.chosen),
                "rejected_ids": list(pair.rejected),
            }
            for pair in pairs
        ]
        padded = self._pad(rows)
        with self.autocast():
            loss: Tensor = self.compute_loss(self.peft_model, self._prepare_inputs(padded))  # type: ignore[no-untyped-call]
        noted = self._metrics["train" if self.peft_model.training else "eval"]
        part = Part(
            pairs=len(pairs),
            tokens=sum(len(pair.chosen) for pair in pairs),
            loss=loss.item(),
            accuracy=noted["mean_token_accuracy"][-1],
            rewards={ours: noted[theirs][-1] for ours, theirs in REWARDS.items()},
        )
        noted.clear()
        return loss, part

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Pairs are token ids already, by the template options that the model is asked with."""
        return dataset
