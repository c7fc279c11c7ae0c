"""A callback of transformers' Trainer, which all three engines use. Runs in an engine's environment.

In addition to the config it validates every $FINETUNE_EVAL_STEPS steps, saves a checkpoint at each validation, and ends
with a validation and a checkpoint once the engine's folder has a file STOP. Before the first step it checks that the
base was loaded with $FINETUNE_QUANTIZATION. Imports nothing of this project.
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
    """The base's layers are not quantised as requested. An engine that can't quantise may silently load all weights."""


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
            control.should_evaluate = has_rows
            control.should_save = True
            control.should_training_stop = True
        if control.should_evaluate:
            control.should_save = True
        return control


def kind(layer: Any) -> str:
    """Returns nf4, int8, or the name of the layer's class."""
    name = type(layer).__name__
    if name == "Linear4bit":
        return str(layer.weight.quant_type)
    return "int8" if name == "Linear8bitLt" else name
