"""Stands in for LLaMA-Factory in tests of its driver. $FINETUNE_FAKE_ENGINE says how it behaves:

(nothing)    trains to the end
crash        crashes after its second checkpoint, once, and can be resumed from there
key          does not know a key of its config
full-weights loads the base without quantizing it
loads        never gets to its first step
nan          has a training loss that is not finite
nan-valid    has a validation loss that is not finite
broken       saves weights that are not finite
worse        has its lowest validation loss after the first epoch
disk         finds the disk full
slow         is slow, and trains one more step after it is told to stop
deaf         is slow, ignores requests to stop, and saves only one checkpoint
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors.numpy import save_file

OUTPUT = Path("output")


class NotQuantized(Exception):
    """As scripts/callback.py raises it."""


def main() -> None:
    how = os.environ.get("FINETUNE_FAKE_ENGINE", "")
    config = yaml.safe_load(Path("config.yml").read_text())
    if how == "key":
        raise ValueError("Some keys are not used by the HfArgumentParser: ['lora_rank']")
    if how == "full-weights":
        raise NotQuantized("the base's layers are Linear, not nf4")
    if how == "loads":
        time.sleep(60)
    rows = len(Path("rows/train.jsonl").read_text().splitlines())
    total = math.ceil(rows / config["per_device_train_batch_size"]) * config["num_train_epochs"]
    done = max((int(path.name[11:]) for path in OUTPUT.glob("checkpoint-*")), default=0)
    is_stop_requested = False
    for step in range(done + 1, total + 1):
        loss = "nan" if how == "nan" and step == 2 else f"{3 - step / total:.3f}"
        print({"loss": loss, "grad_norm": "1.5", "learning_rate": "0.01", "epoch": "0"}, flush=True)
        was_stop_requested, is_stop_requested = is_stop_requested, how != "deaf" and Path("STOP").exists()
        is_stopped = is_stop_requested and (was_stop_requested or how != "slow")
        is_validated = "eval_steps" in config and (
            is_stopped or is_validation_due(step, config["eval_steps"])
        )
        if is_validated:
            valid = 2 + step / 100 if how == "worse" else 3 - step / 100
            valid = math.nan if how == "nan-valid" else valid
            print({"eval_loss": f"{valid}", "eval_runtime": "1", "epoch": "1"}, flush=True)
        if (is_stop_requested or is_validated or step % config["save_steps"] == 0) and not (
            how == "deaf" and done
        ):
            save(OUTPUT / f"checkpoint-{step}", config, math.inf if how == "broken" else float(step))
            done = done or step if how == "deaf" else done
            time.sleep(0.1)  # until the driver has seen it
        if is_stopped:
            break
        if how in ("slow", "deaf"):
            time.sleep(0.3)
        if how == "disk" and step == 8:
            raise OSError(28, os.strerror(28))
        if how == "crash" and done == 0 and step == 2 * config["save_steps"]:
            (OUTPUT / "checkpoint-999").mkdir()  # cut off
            sys.exit("the card fell off the bus")
    save(OUTPUT, config, 99.0)


def is_validation_due(step: int, eval_steps: int) -> bool:
    """True if the config or scripts/callback.py asks for a validation after this step."""
    every = int(os.environ["FINETUNE_EVAL_STEPS"])
    return step % eval_steps == 0 or (every > 0 and step % every == 0)


def save(folder: Path, config: dict[str, Any], number: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weight = np.full((config["lora_rank"], 64), number, np.float16)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: weight}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": config["lora_rank"]}))
    (folder / "trainer_state.json").write_text("{}")


if __name__ == "__main__":
    main()
