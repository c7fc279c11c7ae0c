"""Who writes the answers that a GRPO training samples: the model that learns, or another program with a copy of it
(serving/vllm_sampler.py).

Another program computes the same probabilities only about: its kernels round in another order. As in TRL, an answer
that is more than three times as likely here as there does not count, and the loss of the others is multiplied by that
ratio (Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from trainers.local.job_directory import TrainingJob
from trainers.local.training.memory import METHODS_OF_SIZING, usable_memory
from trainers.local.training.metrics_logger import MetricsLogger
from trainers.methods import GrpoParameters
from trainers.sizing.architecture import UnknownSize, read_config
from trainers.sizing.hardware import needed_bytes
from trainers.sizing.memory import Device, Work


@dataclass(frozen=True)
class SampledAnswer:
    """The tokens of an answer, with the one that ends the turn, and their log probabilities where they were drawn; None
    if the model that learns drew them, or if they are the likeliest ones."""

    tokens: list[int]
    logprobs: list[float] | None = None


class SamplerFailed(Exception):
    """The sampler can't go on. The text is a sentence that says why."""


class Sampler(Protocol):
    """`takes_a_step`: it is quickest with all questions of a step at once."""

    takes_a_step: bool

    def answer(self, prompts: Sequence[list[int]], most: int, *, is_sampled: bool) -> list[SampledAnswer]:
        """Answers each prompt with at most `most` tokens, the likeliest unless `is_sampled`. Raises SamplerFailed."""
        ...

    def close(self) -> None:
        """Ends what it has started."""
        ...


@dataclass(frozen=True)
class SamplerSetup:
    """What another program needs to write the answers of the training in `folder`. `model` is the one that learns, a
    PeftModel. `ends` are the tokens that end a turn. `spare` is the memory in bytes that the GPU has beside the
    training, None on other devices."""

    folder: Path
    job: TrainingJob
    settings: GrpoParameters
    model: Any
    ends: Sequence[int]
    device: torch.device
    dtype: torch.dtype
    spare: int | None
    logger: MetricsLogger


@dataclass(frozen=True)
class Importance:
    """Of sampled answers: `ratio` is the probability of each where the model learns, divided by that where it was
    drawn, (answers, 1), and 0 for those that differ too much to count. `gap` is the mean difference of a token's log
    probabilities in nats, and `left_out` counts the answers that don't count."""

    ratio: Tensor
    gap: float
    left_out: int


class Agreement:
    """Reports how well a sampler's probabilities agree with those of the model that learns."""

    def __init__(self, logger: MetricsLogger) -> None:
        self._logger = logger
        self._is_reported = False
        self._is_warned = False

    def add(self, gap: float, left_out: int, answers: int) -> None:
        """Reports the first step, and warns of the first one of which most answers don't count."""
        if not self._is_reported:
            self._is_reported = True
            self._logger.log(
                f"The log probabilities of the sampled answers' tokens differ by {gap:.2g} nats on average from those "
                f"of the model that learns. {left_out} of {answers} answers differ too much to count.",
                data={"sampled_gap_nats": gap, "left_out": left_out, "answers": answers},
            )
        if left_out > answers / 2 and not self._is_warned:
            self._is_warned = True
            self._logger.warn(
                f"{left_out} of this step's {answers} answers differ too much from the model that learns to count. "
                "Without engine=vllm all of them would."
            )


NewSampler = Callable[[SamplerSetup], Sampler]


def spare_memory(
    base: Any, settings: GrpoParameters, longest: int, device: torch.device, dtype: torch.dtype
) -> int | None:
    """Returns the bytes that a GPU has beside a training by the estimate of plan-memory, at least 0. None on other
    devices, or if the model's size can't be told. `longest` are the tokens of the longest prompt."""
    usable = usable_memory(device)
    model = read_config(base.config.to_dict(), settings.quantization)
    if usable is None or isinstance(model, UnknownSize):
        return None
    work = Work(
        METHODS_OF_SIZING[settings.quantization],
        longest + settings.max_new_tokens,
        settings.batch_size,
        rank=settings.lora_r,
        answer=settings.max_new_tokens,
        samples=settings.samples,
        targets=settings.target_modules,
    )
    needed = needed_bytes(model, work, Device("gpu", dtype.itemsize))
    return max(0, usable - needed)
