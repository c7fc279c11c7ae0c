"""Stands in for llamafactory-cli where a test is about what its driver does. `$STAND_IN` says how it goes.

(nothing)  trains to its end      crash     dies after its second checkpoint, once; goes on from there
nan        loses its numbers      key       doesn't know a key of its config
broken     saves numbers that aren't finite   worse   is at its best after the first epoch
disk       finds the disk full               slow    takes its time
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


def main() -> None:
    how = os.environ.get("STAND_IN", "")
    config = yaml.safe_load(Path("config.yml").read_text())
    if how == "key":
        raise ValueError("Some keys are not used by the HfArgumentParser: ['lora_rank']")
    rows = len(Path("rows/train.jsonl").read_text().splitlines())
    total = math.ceil(rows / config["per_device_train_batch_size"]) * config["num_train_epochs"]
    done = max((int(each.name[11:]) for each in OUTPUT.glob("checkpoint-*")), default=0)
    for step in range(done + 1, total + 1):
        loss = "nan" if how == "nan" and step == 2 else f"{3 - step / total:.3f}"
        print({"loss": loss, "grad_norm": "1.5", "learning_rate": "0.01", "epoch": "0"}, flush=True)
        if "eval_steps" in config and step % config["eval_steps"] == 0:
            valid = 2 + step / 100 if how == "worse" else 3 - step / 100
            print({"eval_loss": f"{valid}", "eval_runtime": "1", "epoch": "1"}, flush=True)
        if step % config["save_steps"] == 0:
            save(OUTPUT / f"checkpoint-{step}", config, float(step))
            time.sleep(0.3)  # the driver looks every 0.2 s
        if how == "slow":
            time.sleep(0.3)
        if how == "disk" and step == 8:
            raise OSError(28, os.strerror(28))
        if how == "crash" and done == 0 and step == 2 * config["save_steps"]:
            (OUTPUT / "checkpoint-999").mkdir()  # cut off
            sys.exit("the card fell off the bus")
    save(OUTPUT, config, math.inf if how == "broken" else 99.0)


def save(folder: Path, config: dict[str, object], number: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    weight = np.full((config["lora_rank"], 64), number, np.float16)
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({name: weight}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": config["lora_rank"]}))
    (folder / "trainer_state.json").write_text("{}")


if __name__ == "__main__":
    main()
