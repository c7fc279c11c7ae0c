"""Direct preference optimisation on preference pairs: TRL's loss and reference in the loop of all methods.

    reward(answer) = beta * (log p(answer | asked) - log p0(answer | asked))
    loss = -log sigmoid(reward(chosen) - reward(rejected))

p is the model with its adapter, p0 the reference: the same model without it, or with the adapter that the training goes
on from (Rafailov et al. 2023, arXiv 2305.18290, equation 7).
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
from datasets import Dataset
from torch import Tensor
from transformers import PrinterCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DataCollatorForPreference, DPOTrainer
from trl.trainer.utils import disable_dropout_in_model

from trainers.local.job_directory import TrainingJob
from trainers.local.kernels.liger import choose_kernels
from trainers.local.peft import LoraConfig, PeftModel
from trainers.local.training import distributed, loop
from trainers.local.training.base_files import fetch_base, remember_base
from trainers.local.training.base_model import load_config, load_model, load_tokenizer, lora_config
from trainers.local.training.checkpoints import CHECKPOINT_S, resume_from_adapter
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.errors import Pauses
from trainers.local.training.loop import TrainingMethod, TrainState
from trainers.local.training.metrics_logger import MetricsLogger, Scores
from trainers.local.training.packing import pack_tokens
from trainers.local.training.pairs import PairRow, Pairs, fill_parts, read_pairs, width
from trainers.local.training.setup import is_divided, report_kernels, tell_team, undivided, within_context
from trainers.methods import DpoParameters, Parameters

REWARDS = {
    "reward_accuracy": "rewards/accuracies",
    "reward_margin": "rewards/margins",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
}


def train(folder: Path, job: TrainingJob, checkpoint_s: float = CHECKPOINT_S) -> None:
    """Ends with adapter/ and DONE. Raises TrainingFailed where it cannot, TrainingPaused where it must wait."""
    with warnings.catch_warnings():
        # TRL 1.16 and peft 0.21 use names of settings that transformers 5 has replaced
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        loop.train(folder, job, prepare, Dpo.metrics, checkpoint_s)


def prepare(folder: Path, job: TrainingJob, journal: MetricsLogger, pauses: Pauses) -> Dpo:
    """Raises TrainingFailed, TrainingPaused."""
    torch.manual_seed(job.seed)
    device = best_device()
    with distributed.rank_zero_first():
        source = fetch_base(job.base, journal.say)
        remember_base(folder, source, job.base_name)
    dtype = distributed.decide(best_dtype(device, load_config(job.base).model_type))
    tokenizer = load_tokenizer(job.base)
    settings = within_context(job.settings, job.base, journal)
    training = _read_file(job.training_file, tokenizer, settings, "training_file")
    validation = None
    if job.validation_file is not None:
        validation = _read_file(job.validation_file, tokenizer, settings, "validation_file")
    distributed.look(pauses)
    if is_divided(settings, source, device):
        raise undivided("preference pairs")
    base = load_model(job.base, device, dtype, settings.quantization)
    kernels = choose_kernels(base, device)
    disable_dropout_in_model(base)  # the reference would answer otherwise each time; the adapter's own stays
    trainer = PairLoss(
        model=resume_from_adapter(folder, base, settings) if job.continues else base,
        tokenizer=tokenizer,
        config=_trl_config(folder, job, settings, device, dtype),
        lora=None if job.continues else lora_config(base, settings),
        dtype=dtype,
    )
    where = f"on {device.type} in {str(dtype).removeprefix('torch.')}"
    journal.say(f"Training {job.base_name} on preference pairs {where}, with TRL's loss")
    report_kernels(folder, kernels, journal)
    _tell_pairs(journal, "Training", training, settings)
    if validation:
        _tell_pairs(journal, "Validation", validation, settings)
    tell_team(journal, is_sharded=False)
    return Dpo(trainer, training, validation, job.seed, device, dtype)


def _read_file(file: str, tokenizer: Any, settings: Parameters, param: str) -> Pairs:
    return read_pairs(Path(file), tokenizer, settings.max_length, param, settings.too_long)


def _tell_pairs(journal: MetricsLogger, what: str, pairs: Pairs, settings: Parameters) -> None:
    journal.say(
        f"{what} pairs: {len(pairs.rows):,} with {pairs.tokens:,} tokens, what was asked counted twice"
    )
    if pairs.same:
        journal.warn(f"{what} pairs left out, both answers are the same to this model: {pairs.same:,}")
    if pairs.too_long:
        journal.warn(f"{what} pairs left out, longer than max_length: {pairs.too_long:,}")
    if pairs.cut:
        text = (
            f"{what} pairs cut to max_length {settings.max_length} tokens, so that an answer may end early: "
        )
        journal.warn(f"{text}{pairs.cut:,}")


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

    def __init__(
        self,
        trainer: PairLoss,
        training: Pairs,
        validation: Pairs | None,
        seed: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.model, self.rows = trainer.adapted, training.rows
        self.validation = validation.rows if validation else ()
        self.device, self.dtype, self.usual_tokens = device, dtype, pack_tokens(device)
        self._trainer, self._seed = trainer, seed

    def tokens(self, rows: Sequence[PairRow]) -> int:
        return sum(pair.tokens for pair in rows)

    def width(self, rows: Sequence[PairRow]) -> int:
        return width(rows)

    def fill(self, rows: Sequence[PairRow], limit: int) -> list[list[PairRow]]:
        return fill_parts(rows, limit)

    def seed_step(self, step: int) -> None:
        torch.manual_seed(self._seed + step)
        super().seed_step(step)

    def add_gradients(
        self, state: TrainState[PairRow, list[Part]], parts: list[list[PairRow]], batch: Sequence[PairRow]
    ) -> list[Part]:
        measured = []
        for pairs in parts:
            state.look()
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
                state.look()
                with state.cores.shared(), torch.no_grad():
                    measured.append(self._trainer.measure(pairs)[1])
            return measured

        by_length = sorted(self.validation, key=lambda row: row.longer)
        return self.total(state.room.try_out(distributed.share(by_length), measure_all, "while validating"))


class PairLoss(DPOTrainer):
    """TRL's trainer for its loss and its reference alone: it never trains. `lora`: the adapter to make; None where the
    model has one to go on from."""

    def __init__(
        self, model: Any, tokenizer: Any, config: DPOConfig, *, lora: LoraConfig | None, dtype: torch.dtype
    ) -> None:
        super().__init__(
            model=model,
            args=config,
            train_dataset=Dataset.from_dict({"row": [0]}),  # it wants one
            processing_class=tokenizer,
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

    def measure(self, pairs: Sequence[PairRow]) -> tuple[Tensor, Part]:
        """The mean loss of these pairs, to go backward from, and what TRL noted beside it."""
        padded = self._pad([_as_trl(pair) for pair in pairs])
        device, is_mixed = self.args.device.type, self._dtype != torch.float32
        with torch.autocast(device, self._dtype, enabled=is_mixed):
            loss: Tensor = self.compute_loss(self.adapted, self._prepare_inputs(padded))  # type: ignore[no-untyped-call]
        noted = self._metrics["train" if self.adapted.training else "eval"]
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

    def _send_telemetry(self) -> None:
        """TRL would tell the hub that somebody trains."""


def _as_trl(pair: PairRow) -> dict[str, list[int]]:
    ids = {"prompt_ids": pair.asked, "chosen_ids": pair.chosen, "rejected_ids": pair.rejected}
    return {name: list(each) for name, each in ids.items()}


def _trl_config(
    folder: Path, job: TrainingJob, settings: Parameters, device: torch.device, dtype: torch.dtype
) -> DPOConfig:
    """What the loss depends on. All that TRL and transformers would write, log and send is switched off."""
    assert isinstance(settings, DpoParameters)  # noqa: S101 - read_job goes by the job's method
    return SingleProcessConfig(
        output_dir=str(folder / "checkpoints"),
        beta=settings.beta,
        max_length=None,  # pairs.py has seen to it
        disable_dropout=False,
        gradient_checkpointing=False,
        seed=job.seed,
        use_cpu=device.type == "cpu",
        bf16=dtype == torch.bfloat16,
        remove_unused_columns=False,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
    )


class SingleProcessConfig(DPOConfig):
    """What TRL, transformers and accelerate see of a team: one process with one device, so that they share out, wrap
    and gather nothing. All that is done by training/distributed.py."""

    @cached_property
    def _setup_devices(self) -> torch.device:
        """Else a process that thinks that it is alone takes the first GPU, and wants to use all that it sees."""
        if distributed.is_alone():
            return super()._setup_devices
        AcceleratorState._reset_state(reset_partial_state=True)
        with _hidden_launcher():
            self.distributed_state = PartialState(cpu=self.use_cpu)
        self._n_gpu = 0 if self.use_cpu else 1
        device: torch.device = self.distributed_state.device
        return device


LAUNCHER_VARIABLES = ("LOCAL_RANK", "WORLD_SIZE")  # where accelerate looks whether there are others


@contextmanager
def _hidden_launcher() -> Iterator[None]:
    hidden = {name: os.environ.pop(name) for name in LAUNCHER_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ |= hidden
