"""The meaning of lines in the engines' logs, as the engine versions that we install print them."""

from __future__ import annotations

import math

import pytest

from trainers.local.engines.log_parser import LogPosition, TrainedStep, Trouble, ValidatedStep, read_line

UNSLOTH_STEP = (
    '{"step": 17, "total_steps": 30, "loss": 2.721, "grad_norm": 1.78, "learning_rate": 0.01, '
    '"num_tokens": 2851.0, "epoch": 2.8333333333333335}'
)
UNSLOTH_VALID = (
    '{"step": 18, "total_steps": 30, "eval_loss": 2.614, "eval_runtime": 1.6, '
    '"eval_mean_token_accuracy": 0.516, "epoch": 3.0}'
)
LLAMAFACTORY_STEP = "{'loss': '2.738', 'grad_norm': '0.5898', 'learning_rate': '0.01071', 'epoch': '2.667'}"
AXOLOTL_STEP = (
    " 60%|██████    | 18/30 [00:07<00:03]      {'loss': '2.692', 'grad_norm': '0.578', 'learning_rate': "
    "'0.009286', 'ppl': '14.76', 'memory/max_active (GiB)': '0', 'tokens/train_per_sec_per_gpu': '9', 'epoch': '3'}"
)
AXOLOTL_VALID = "        {'eval_loss': '2.611', 'eval_runtime': '0.08', 'eval_ppl': '13.61', 'epoch': '3'}"
OLDER_STEP = "{'loss': nan, 'grad_norm': inf, 'learning_rate': 2e-05, 'epoch': 0.5}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (UNSLOTH_STEP, TrainedStep(17, 2.721, 0.01, 1.78)),
        (LLAMAFACTORY_STEP, TrainedStep(None, 2.738, 0.01071, 0.5898)),
        (AXOLOTL_STEP, TrainedStep(None, 2.692, 0.009286, 0.578)),
        (UNSLOTH_VALID, ValidatedStep(2.614, 0.516)),
        (AXOLOTL_VALID, ValidatedStep(2.611, None)),
    ],
)
def test_steps_and_validations_are_parsed(line: str, expected: object) -> None:
    assert read_line(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "",
        " 43%|████▎     | 13/30 [00:06<00:12,  1.33it/s]",
        "{'train_runtime': '17.85', 'train_loss': '3.235', 'epoch': '5'}",
        "{'task': {'name': 'Causal Language Modeling', 'type': 'text-generation'}}",
        LLAMAFACTORY_STEP[:40],
        "[WARNING] [axolotl.utils] Auto-enabling LoRA kernel optimizations for faster training.",
    ],
)
def test_other_lines_are_ignored(line: str) -> None:
    assert read_line(line) is None


def test_a_bare_nan_of_older_versions_is_not_finite() -> None:
    step = read_line(OLDER_STEP)
    assert isinstance(step, TrainedStep)
    assert math.isnan(step.loss)
    assert not step.is_finite


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        (
            "ValueError: Some keys are not used by the HfArgumentParser: ['lora_rank']",
            Trouble("engine_config_changed", "lora_rank"),
        ),
        (
            "TypeError: SFTConfig.__init__() got an unexpected keyword argument 'max_length'",
            Trouble("engine_config_changed", "max_length"),
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", Trouble("out_of_memory")),
        ("OSError: [Errno 28] No space left on device", Trouble("disk_full")),
        (
            "callback.NotQuantized: the base's layers are Linear, not nf4",
            Trouble("engine_cannot", message="the base's layers are Linear, not nf4"),
        ),
    ],
)
def test_errors_that_would_repeat_are_recognised(line: str, trouble: Trouble) -> None:
    assert read_line(line) == trouble


def test_steps_without_a_number_are_counted_from_the_checkpoint() -> None:
    position = LogPosition(12).after(TrainedStep(None, 2.7, 0.01, 1.0))
    assert position.step == 13
    assert position.after(TrainedStep(17, 2.7, 0.01, 1.0)).step == 17


def test_a_validation_is_new_once_and_only_after_a_step() -> None:
    step, valid = TrainedStep(None, 2.7, 0.01, 1.0), ValidatedStep(2.5, None)
    at_start = LogPosition(6, validated=6)
    assert not at_start.is_new_validation(valid)
    after_step = at_start.after(step)
    assert after_step.is_new_validation(valid)
    assert not after_step.after(valid).is_new_validation(valid)
