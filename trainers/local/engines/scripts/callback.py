"""Runs inside each engine's own environment: a callback of transformers' Trainer, by which all three train.

Beside what the config says it validates every $FINETUNE_EVAL_STEPS steps, keeps a checkpoint of each validation, and
ends with a validation and a checkpoint once the file STOP lies in the engine's folder. Before the first step it looks
whether the base was loaded as $FINETUNE_QUANTIZATION says. Imports nothing of this project.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

STOP = Path("STOP").absolute()
EVERY = int(os.environ.get("FINETUNE_EVAL_STEPS", "0"))
WANTED = os.environ.get("FINETUNE_QUANTIZATION", "none")


class NotQuantized(Exception):
    """An engine that can't quantise may load all weights, and say nothing."""


class JobCallback(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if WANTED == "none":
            return
        kinds = [kind(module.base_layer) for module in model.modules() if hasattr(module, "base_layer")]
        other = sorted({each for each in kinds if each != WANTED})
        if other or not kinds:
            raise NotQuantized(f"the base's layers are {', '.join(other) or 'not there'}, not {WANTED}")
        print(f"The base's layers under LoRA: {len(kinds)}, quantization {WANTED}", flush=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        has_rows = args.eval_strategy != "no"
        if has_rows and EVERY and state.global_step % EVERY == 0:
            control.should_evaluate = True
        if STOP.exists():
            control.should_evaluate, control.should_save, control.should_training_stop = has_rows, True, True
        if control.should_evaluate:
            control.should_save = True
        return control


def kind(layer: Any) -> str:
    """nf4, int8, or else what the layer calls itself."""
    name = type(layer).__name__
    if name == "Linear4bit":
        return str(layer.weight.quant_type)
    return "int8" if name == "Linear8bitLt" else name
