"""TRL or Unsloth in the comparison of peers.py: `_peer_sft.py trl|unsloth PLAN.json`

Runs in the peer's own environment and imports nothing of this project. Trains the plan's rows in their order, from the
plan's adapter and with its learning rates, and prints a line of JSON with the loss and the seconds of each step, and
the peak of memory; or that memory ran out.

TRL is at its best: Liger's kernels, and the rows of a batch in one sequence without padding, if flash attention is
there; else padded. That is its packing, with the same rows in each step as ours. Unsloth gets its own loading, LoRA
and collator.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NAME = sys.argv[1]
if NAME == "unsloth":
    import unsloth  # type: ignore[import-not-found]  # first, since it patches transformers and trl on import

# isort: split
import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import PeftModel, set_peft_model_state_dict  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]  # noqa: E402

HAS_GPU = torch.cuda.is_available()
FLASH_HUB = "kernels-community/flash-attn2"  # what the package `kernels` downloads, already compiled


class Steps(TrainerCallback):
    """Notes the loss and the seconds of each step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._done_at = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if HAS_GPU:
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds.append(now - self._done_at)
        self._done_at = now

    def on_log(self, *_: Any, **values: Any) -> None:
        if "loss" in values["logs"]:
            self.losses.append(float(values["logs"]["loss"]))


def main(plan: dict[str, Any]) -> dict[str, object]:
    build = build_unsloth if NAME == "unsloth" else build_trl
    steps = Steps()
    try:
        trainer, how = build(plan)
        trainer.add_callback(steps)
        trainer.train()
    except torch.OutOfMemoryError:
        return {"out_of_memory": True}
    packages = [NAME, "torch", "transformers"]
    if find_spec("liger_kernel"):
        packages.append("liger-kernel")
    return {
        "how": how,
        "losses": steps.losses,
        "seconds": steps.seconds,
        "peak": peak_memory(),
        "recomputes": plan["recomputes"],
        "versions": {package: version(package) for package in packages},
    }


def build_trl(plan: dict[str, Any]) -> tuple[SFTTrainer, str]:
    attention = flash_attention()
    has_liger = HAS_GPU and find_spec("liger_kernel") is not None
    base = AutoModelForCausalLM.from_pretrained(
        plan["model"], dtype=getattr(torch, plan["dtype"]), attn_implementation=attention
    )
    model = PeftModel.from_pretrained(base, plan["first_adapter"], is_trainable=True)
    arguments = SFTConfig(
        **common_arguments(plan),
        padding_free=attention is not None,
        use_liger_kernel=has_liger,
        completion_only_loss=True,
        gradient_checkpointing=plan["recomputes"],
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=read_rows(plan["rows"], "completion_mask"),
        processing_class=AutoTokenizer.from_pretrained(plan["model"]),
        optimizers=optimizer_of(model, plan),
    )
    rows = f"packed, {attention}" if attention else "padded, no flash attention here"
    return trainer, f"{rows}, {'Liger' if has_liger else 'no Liger here'}"


def flash_attention() -> str | None:
    """Returns the implementation that keeps packed rows apart, None if there is none here."""
    if not HAS_GPU:
        return None
    if find_spec("flash_attn"):
        return "flash_attention_2"
    if find_spec("kernels"):
        return FLASH_HUB
    return None


def build_unsloth(plan: dict[str, Any]) -> tuple[SFTTrainer, str]:
    checkpointing = "unsloth" if plan["recomputes"] else False
    config = json.loads((Path(plan["first_adapter"]) / "adapter_config.json").read_text(encoding="utf-8"))
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        model_name=plan["model"],
        dtype=getattr(torch, plan["dtype"]),
        max_seq_length=plan["longest"],
        load_in_4bit=False,
        trust_remote_code=False,
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model,
        r=config["r"],
        lora_alpha=config["lora_alpha"],
        lora_dropout=0.0,
        target_modules=config["target_modules"],
        use_gradient_checkpointing=checkpointing,
    )
    set_peft_model_state_dict(model, load_file(Path(plan["first_adapter"]) / "adapter_model.safetensors"))
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**common_arguments(plan), packing=False),
        train_dataset=read_rows(plan["rows"], "labels"),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
        optimizers=optimizer_of(model, plan),
    )
    return trainer, "its own collator"


def common_arguments(plan: dict[str, Any]) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": plan["batch_size"],
        "num_train_epochs": 1,
        "train_sampling_strategy": "sequential",
        "max_grad_norm": plan["max_norm"],
        "bf16": plan["dtype"] == "bfloat16",
        "fp16": plan["dtype"] == "float16",
        "use_cpu": not HAS_GPU,
        "max_length": plan["longest"],
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def optimizer_of(model: Any, plan: dict[str, Any]) -> tuple[Any, Any]:
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=plan["learning_rate"], weight_decay=0.0, fused=True)
    shares = plan["shares"]
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: shares[min(step, len(shares) - 1)])
    return optimizer, rate


def read_rows(path: str, kind: str) -> Dataset:
    """`kind` is the column that says which tokens are learnt."""
    rows = []
    with Path(path).open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            rows.append({"input_ids": row["input_ids"], kind: row[kind]})
    return Dataset.from_list(rows)


def peak_memory() -> int:
    """Returns the bytes that a GPU had to have, or this process on a CPU."""
    if HAS_GPU:
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    print(json.dumps(main(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))), flush=True)
