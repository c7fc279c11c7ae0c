"""Runs in unsloth's environment: `python train.py config.json`.

Trains LoRA on tokenized rows, from the newest checkpoint in the output folder. Prints a line of JSON for every step and
every validation. Imports nothing of this project.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import unsloth  # must be first, since it patches transformers and trl on import

# isort: split
import torch
from callback import JobCallback
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, PrinterCallback, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import SFTConfig, SFTTrainer


class Lines(TrainerCallback):
    """Prints each log entry as a line of JSON."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
        print(json.dumps({"step": state.global_step, "total_steps": state.max_steps, **logs}), flush=True)


def rows(path: str) -> Dataset:
    with Path(path).open(encoding="utf-8") as file:
        return Dataset.from_list([json.loads(line) for line in file])


def main(config: dict[str, Any]) -> None:
    output = config["arguments"]["output_dir"]
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[
        config["model"]["dtype"]
    ]
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(**{**config["model"], "dtype": dtype})
    model = unsloth.FastLanguageModel.get_peft_model(model, **config["lora"])
    trainer = SFTTrainer(
        model=model,
        processing_class=tokenizer,
        args=SFTConfig(**config["arguments"]),
        train_dataset=rows(config["train"]),
        eval_dataset=rows(config["valid"]) if config["valid"] else None,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        callbacks=[Lines(), JobCallback()],
    )
    trainer.remove_callback(PrinterCallback)  # would print the same without the step
    trainer.train(resume_from_checkpoint=get_last_checkpoint(output))
    model.save_pretrained(output)


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
