"""Direct preference optimisation on preference pairs, with TRL's loss and reference in the loop of all methods.

    reward(answer) = beta * (log p(answer | asked) - log p0(answer | asked))
    loss = -log sigmoid(reward(chosen) - reward(rejected))

p is the model with its adapter. p0 is the reference: the same model without an adapter, or with the adapter that is
trained further (Rafailov et al. 2023, arXiv 2305.18290, equation 7).
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
    """Trains the job in `folder` and ends with adapter/ and DONE. Raises TrainingFailed or TrainingPaused."""
    trl_setup.train(folder, job, prepare, Dpo.metrics, checkpoint_s)


def prepare(folder: Path, job: TrainingJob, logger: MetricsLogger, pauses: Pauses) -> Dpo:
    """Reads the pairs and loads the model. Raises TrainingFailed or TrainingPaused."""

    def read(file: Path, tokenizer: Any, settings: Parameters, param: str) -> Pairs:
        return read_pairs(file, tokenizer, settings.max_length, param, settings.too_long)

    setup = prepare_base(folder, job, logger, pauses, read)
    for what, pairs in (("Training", setup.training), ("Validation", setup.validation)):
        if pairs:
            _report_pairs(logger, what, pairs, setup.settings)
    assert isinstance(setup.settings, DpoParameters)  # noqa: S101 - read_job chooses the class by the method
    config = DpoSettings(
        beta=setup.settings.beta,
        max_length=None,  # filter_pairs has cut the rows
        **silent_options(folder, job, setup),
    )
    return Dpo(PairLoss(setup, config), setup, job.seed)


def _report_pairs(logger: MetricsLogger, what: str, pairs: Pairs, settings: Parameters) -> None:
    logger.log(f"{what} pairs: {len(pairs.rows):,} with {pairs.tokens:,} tokens, counting each prompt twice")
    if pairs.same:
        logger.warn(f"{what} pairs left out because both answers are the same to this model: {pairs.same:,}")
    if pairs.too_long:
        logger.warn(f"{what} pairs left out because they are longer than max_length: {pairs.too_long:,}")
    if pairs.cut:
        text = f"{what} pairs cut to max_length {settings.max_length} tokens, so an answer may end early: "
        logger.warn(f"{text}{pairs.cut:,}")


@dataclass(frozen=True)
class Part:
    """Scores of `pairs` pairs: their mean loss, their mean rewards as named in REWARDS, and the share of the `tokens`
    tokens of chosen answers that the model predicts as the likeliest."""

    pairs: int
    tokens: int
    loss: float
    accuracy: float
    rewards: dict[str, float]


class Dpo(TrainingMethod[PairRow, list[Part]]):
    metrics = tuple(REWARDS)
    forward_share = 1 / 2  # the reference, which has no backward pass, is computed in both

    def __init__(self, trainer: PairLoss, setup: TrlBase[Pairs], seed: int) -> None:
        self.model = trainer.peft_model
        self.rows = setup.training.rows
        self.validation: Sequence[PairRow] = ()
        if setup.validation:
            self.validation = setup.validation.rows
        self.device = setup.device
        self.dtype = setup.dtype
        self.usual_tokens = pack_tokens(setup.device)
        self.seed = seed
        self._trainer = trainer

    def tokens(self, rows: Sequence[PairRow]) -> int:
        return sum(pair.tokens for pair in rows)

    def line(self, row: PairRow) -> int | None:
        return row.line

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
            # By the pairs of all processes, so that their gradients add up to that of the mean.
            share = len(pairs) / len(batch)
            state.scaler.scale(loss * share).backward()  # type: ignore[no-untyped-call]
            measured.append(part)
        return measured

    def total(self, computed: list[Part]) -> Scores:
        """Returns the mean scores over the pairs of all processes."""
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
                    _, part = self._trainer.measure(pairs)
                measured.append(part)
            return measured

        # Pairs of similar length share a part, which is padded to its longest.
        by_length = sorted(self.validation, key=lambda row: row.length)
        own = distributed.share(by_length, lambda row: row.length)
        computed = state.batcher.compute_in_parts(
            own, measure_all, "while validating", keeps_activations=False
        )
        return self.total(computed)


class DpoSettings(SingleProcess, DPOConfig):
    """TRL's settings for a single process."""


class PairLoss(LossOnly, DPOTrainer):
    """TRL's trainer, used only for its loss and its reference."""

    def __init__(self, setup: TrlBase[Pairs], config: DpoSettings) -> None:
        super().__init__(
            model=setup.model,
            args=config,
            train_dataset=Dataset.from_dict({"row": [0]}),  # required but unused
            processing_class=setup.tokenizer,
            peft_config=setup.lora,
        )
        self.finish_setup(setup)
        self._pad = DataCollatorForPreference(pad_token_id=setup.tokenizer.pad_token_id)

    def measure(self, pairs: Sequence[PairRow]) -> tuple[Tensor, Part]:
        """Returns the mean loss of these pairs, for the backward pass, and the scores that TRL computed with it."""
        rows = []
        for pair in pairs:
            row = {
                "prompt_ids": list(pair.prompt),
                "chosen_ids": list(pair.chosen),
                "rejected_ids": list(pair.rejected),
            }
            rows.append(row)
        padded = self._pad(rows)
        with self.autocast():
            inputs = self._prepare_inputs(padded)
            loss: Tensor = self.compute_loss(self.peft_model, inputs)  # type: ignore[no-untyped-call]
        mode = "eval"
        if self.peft_model.training:
            mode = "train"
        noted = self._metrics[mode]
        part = Part(
            pairs=len(pairs),
            tokens=sum(len(pair.chosen) for pair in pairs),
            loss=loss.item(),
            accuracy=noted["mean_token_accuracy"][-1],
            rewards={ours: noted[theirs][-1] for ours, theirs in REWARDS.items()},
        )
        noted.clear()  # TRL would collect them until its own loop reports them
        return loss, part

    def _prepare_dataset(self, dataset: Dataset, *_: Any) -> Dataset:
        """Overrides TRL's tokenization: pairs are token ids already, rendered as in serving."""
        return dataset
