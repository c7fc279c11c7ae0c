"""Setup shared by DPO and GRPO: loads the base, and keeps TRL's trainers from doing more than computing losses.

Only loss, reference and sampling are TRL's; our loop handles rows, steps, checkpoints and reports. With several
processes, TRL sees a single one in each: training/distributed.py divides the rows and sums the gradients.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import torch
from accelerate.state import AcceleratorState, PartialState  # type: ignore[import-untyped]
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainingArguments
from trl.trainer.utils import disable_dropout_in_model

from trainers.local.base_download import fetch_base
from trainers.local.base_files import ensure_same_base
from trainers.local.job_directory import TrainingJob
from trainers.local.kernels.liger import choose_kernels
from trainers.local.kernels.state_layers import describe_slow_layers
from trainers.local.peft import LoraConfig, PeftModel
from trainers.local.training import distributed, loop
from trainers.local.training.base_model import (
    check_vocabulary,
    keep_trainable,
    load_config,
    load_model,
    load_tokenizer,
    lora_config,
)
from trainers.local.training.checkpoints import resume_from_adapter
from trainers.local.training.data import Rows
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.errors import Pauses
from trainers.local.training.metrics_logger import MetricsLogger
from trainers.local.training.new_adapter import base_logits, check_new_adapter
from trainers.local.training.pairs import Pairs
from trainers.local.training.setup import (
    cap_to_context,
    needs_sharding,
    report_kernels,
    report_processes,
    report_slow_layers,
    sharding_refusal,
)
from trainers.methods import METHODS, Parameters

D = TypeVar("D", Rows, Pairs)  # the rows of a file
# Reads a file with a tokenizer. The text is the API parameter that names the file.
Read = Callable[[Path, Any, Parameters, str], D]


def train(
    folder: Path, job: TrainingJob, prepare: loop.Prepare, metrics: Sequence[str], checkpoint_s: float
) -> None:
    """Calls loop.train without some warnings."""
    with warnings.catch_warnings():
        # TRL 1.16 and peft 0.21 use settings that transformers 5 has renamed.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
        loop.train(folder, job, prepare, metrics, checkpoint_s)


@dataclass
class TrlBase(Generic[D]):
    """If an adapter is trained further, `model` has it and `lora` is None. Otherwise `lora` is the adapter that TRL
    creates, and `expected` are the logits that the model must still have then."""

    model: Any
    lora: LoraConfig | None
    expected: Tensor | None
    tokenizer: Any
    settings: Parameters
    training: D
    validation: D | None
    device: torch.device
    dtype: torch.dtype


def prepare_base(
    folder: Path, job: TrainingJob, logger: MetricsLogger, pauses: Pauses, read: Read[D]
) -> TrlBase[D]:
    """Reads the files and loads the base. Raises TrainingFailed or TrainingPaused."""
    torch.manual_seed(job.seed)
    device = best_device()
    with distributed.rank_zero_first():
        source = fetch_base(job.base, logger.log)
        ensure_same_base(folder, source, job.base_name)
    dtype = distributed.broadcast(best_dtype(device, load_config(job.base).model_type))
    tokenizer = load_tokenizer(job.base)
    settings = cap_to_context(job.settings, job.base, logger)
    training = read(Path(job.training_file), tokenizer, settings, "training_file")
    validation = None
    if job.validation_file is not None:
        validation = read(Path(job.validation_file), tokenizer, settings, "validation_file")
    distributed.check_pause(pauses)
    if needs_sharding(settings, source, device):
        raise sharding_refusal(f"jobs of the method {job.method}")
    base = load_model(job.base, device, dtype, settings.quantization)
    check_vocabulary(base, job.base_name, training, validation)
    kernels = choose_kernels(base, device)
    disable_dropout_in_model(base)  # so that the reference is deterministic; the adapter keeps its dropout
    if job.continues:
        model = resume_from_adapter(folder, base, settings)
        lora = None
        expected = None
    else:
        model = base
        lora = lora_config(base, settings)
        keep_trainable(base)
        expected = base_logits(base)
    where = f"on {device.type} in {str(dtype).removeprefix('torch.')}"
    logger.log(f"Training {job.base_name} on {METHODS[job.method].examples} {where}, with TRL's loss")
    report_kernels(folder, kernels, logger)
    report_slow_layers(logger, describe_slow_layers(base, device), device)
    report_processes(logger, is_sharded=False)
    return TrlBase(model, lora, expected, tokenizer, settings, training, validation, device, dtype)


class LossOnly(Trainer):
    """A mixin, to be named before one of TRL's trainers: it adds helpers and turns reporting off."""

    def finish_setup(self, setup: TrlBase[Any]) -> None:
        """Must be called at the end of __init__. Raises TrainingFailed if the new adapter changes the model."""
        self.remove_callback(PrinterCallback)
        self._dtype = setup.dtype
        for weight in self.peft_model.parameters():
            if weight.requires_grad:  # TRL converts adapters of quantised models to bfloat16
                weight.data = weight.data.float()
        if setup.expected is not None:
            check_new_adapter(self.peft_model, setup.expected)

    @property
    def peft_model(self) -> PeftModel:
        return cast(PeftModel, self.model)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.args.device.type, self._dtype, enabled=self._dtype != torch.float32)

    def _send_telemetry(self) -> None:
        """Overrides TRL's report to the hub."""


def silent_options(folder: Path, job: TrainingJob, setup: TrlBase[Any]) -> dict[str, Any]:
    """Returns options for a TRL config that turn off everything that TRL and transformers would write, log or send."""
    return {
        "output_dir": str(folder / "checkpoints"),
        "disable_dropout": False,
        "gradient_checkpointing": False,
        "seed": job.seed,
        "use_cpu": setup.device.type == "cpu",
        "bf16": setup.dtype == torch.bfloat16,
        "remove_unused_columns": False,
        "report_to": [],
        "disable_tqdm": True,
        "log_level": "error",
    }


class SingleProcess(TrainingArguments):
    """A mixin, to be named before one of TRL's configs. TRL, transformers and accelerate then see one process with one
    device, so that they don't divide, wrap or gather anything."""

    @cached_property
    def _setup_devices(self) -> torch.device:
        """Hides the other processes. Unlike transformers' own code for one process, keeps this process's own GPU."""
        if distributed.is_alone():
            return super()._setup_devices
        AcceleratorState._reset_state(reset_partial_state=True)
        with _hide_launcher():
            self.distributed_state = PartialState(cpu=self.use_cpu)
        self._n_gpu = 0 if self.use_cpu else 1
        device: torch.device = self.distributed_state.device
        return device


LAUNCHER_VARIABLES = ("LOCAL_RANK", "WORLD_SIZE")  # by which accelerate detects other processes


@contextmanager
def _hide_launcher() -> Iterator[None]:
    hidden = {name: os.environ.pop(name) for name in LAUNCHER_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ |= hidden
