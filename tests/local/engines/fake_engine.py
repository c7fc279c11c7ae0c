"""Stands in for LLaMA-Factory where a test is about what its driver does. `$FINETUNE_FAKE_ENGINE` says how it goes.

(nothing)  trains to its end      crash     dies after its second checkpoint, once; goes on from there
nan        loses its numbers      key       doesn't know a key of its config
broken     saves numbers that aren't finite   worse   is at its best after the first epoch
disk       finds the disk full               slow    takes its time, also after it was told to stop
loads      never comes to its first step     deaf    takes its time, hears no stop, saves only once
whole      loads the base without quantising it  nan-valid  loses its numbers in a validation
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

import numpy as np
import yaml  # type: ignore[import-untyped]
from safetensors.numpy import save_file

OUTPUT = Path("output")


class NotQuantized(Exception):
    """As scripts/callback.py raises it."""


def main() -> None:
    how = os.environ.get("FINETUNE_FAKE_ENGINE", "")
    config = yaml.safe_load(Path("config.yml").read_text())
    if how == "key":
        raise ValueError("Some keys are not used by the HfArgumentParser: ['lora_rank']")
    if how == "whole":
        raise NotQuantized("the base's layers are Linear, not nf4")
    if how == "loads":
        time.sleep(60)
    rows = len(Path("rows/train.jsonl").read_text().splitlines())
    total = math.ceil(rows / config["per_device_train_batch_size"]) * config["num_train_epochs"]
    done = max((int(each.name[11:]) for each in OUTPUT.glob("checkpoint-*")), default=0)
    is_told = False
    for step in range(done + 1, total + 1):
        loss = "nan" if how == "nan" and step == 2 else f"{3 - step / total:.3f}"
        print({"loss": loss, "grad_norm": "1.5", "learning_rate": "0.01", "epoch": "0"}, flush=True)
        was_told, is_told = is_told, how != "deaf" and Path("STOP").exists()
        is_stopped = is_told and (was_told or how != "slow")
        is_validated = "eval_steps" in config and (
            is_stopped or is_validation_due(step, config["eval_steps"])
        )
        if is_validated:
            valid = 2 + step / 100 if how == "worse" else 3 - step / 100
            valid = math.nan if how == "nan-valid" else valid
            print({"eval_loss": f"{valid}", "eval_runtime": "1", "epoch": "1"}, flush=True)
        if (is_told or is_validated or step % config["save_steps"] == 0) and not (how == "deaf" and done):
            save(OUTPUT / f"checkpoint-{step}", config, math.inf if how == "broken" else float(step))
            done = done or step if how == "deaf" else done
            time.sleep(0.3)  # the driver looks every 0.2 s
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
    """What the config says and what scripts/callback.py adds."""
    every = int(os.environ["FINETUNE_EVAL_STEPS"])
    return step % eval_steps == 0 or (every > 0 and step % every == 0)


def save(folder: Path, config: dict[str, object], number: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weight = np.full((config["lora_rank"], 64), number, np.float16)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: weight}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": config["lora_rank"]}))
    (folder / "trainer_state.json").write_text("{}")


if __name__ == "__main__":
    main()
