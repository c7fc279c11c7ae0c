"""A training loop in a separate process, driven by `training.py`: `_training_loop.py NAME MODEL ROWS STEPS`.

Reads lines and answers with JSON: "batches" returns TRL's batches as places in the rows, "step 4 17 …" trains on the
rows at these places, "score" measures the held-out rows and ends. All loops have the same base model, LoRA, optimizer,
rows and batches, tokenized by us, so that their losses can be compared step by step.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from trainers.local.kernels.fused_layers import trim_last_mlp
from trainers.local.training.base_model import add_lora, load_model, load_tokenizer
from trainers.local.training.data import Row, Rows, read_rows
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.loop import TrainState, train_step
from trainers.local.training.memory import MicroBatcher
from trainers.local.training.methods.sft import Sft
from trainers.local.training.packing import fill_packs, find_abilities, measure, pack_rows, pack_tokens, width
from trainers.local.training.schedule import UNREDUCED
from trainers.local.training.setup import TrainingSetup
from trainers.methods import Parameters

SETTINGS = Parameters()
SEED = 20261124
HELD_OUT = 100
PADDED_TO, OR_TO = 256, 512
IGNORED = -100  # transformers leaves such labels out of the loss

Batch = Sequence[Row]


@dataclass(frozen=True)
class Variant:
    """A training loop. `step` trains on a batch and returns its loss. `batches` are those of its own loader, if any."""

    model: Any
    dtype: torch.dtype
    step: Callable[[Batch], float]
    batches: Sequence[Batch] = ()


def main(name: str, source: Path, chats: Path, steps: int) -> None:
    torch.manual_seed(SEED)
    # A list, since rows are told apart by identity below.
    rows = list(read_rows(chats, load_tokenizer(str(source)), SETTINGS.max_length, "training_file").rows)
    held_out, train = rows[:HELD_OUT], rows[HELD_OUT:][: steps * SETTINGS.batch_size]
    variant = VARIANTS[name](source, train)
    send(
        {
            "dtype": str(variant.dtype).removeprefix("torch."),
            "linear_parameters": count_linear_parameters(variant.model),
        }
    )
    for line in sys.stdin:
        word, *places = line.split()
        if word == "batches":
            places_of = {id(row): place for place, row in enumerate(train)}
            send({"batches": [[places_of[id(row)] for row in batch] for batch in variant.batches]})
        elif word == "step":
            send(time_step(variant.step, [train[int(place)] for place in places]))
        else:
            send(
                {
                    **score(variant, held_out),
                    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
                }
            )
            return


def time_step(step: Callable[[Batch], float], batch: Batch) -> dict[str, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    loss = step(batch)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    tokens = sum(len(row.ids) for row in batch)
    return {
        "loss": loss,
        "rows": len(batch),
        "tokens": tokens,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
    }


@torch.no_grad()
def score(variant: Variant, rows: Batch) -> dict[str, float]:
    """Returns the mean loss per answer token, and the share of rows whose every answer token is the likeliest."""
    variant.model.eval()
    device = next(variant.model.parameters()).device
    base = variant.model.get_base_model()
    able = replace(
        find_abilities(base, max(len(row.ids) for row in rows)), kept_positions=trim_last_mlp(base)
    )
    with torch.autocast(device.type, variant.dtype, enabled=variant.dtype != torch.float32):
        losses = [measure(variant.model, pack_rows([row], device, variant.dtype), able) for row in rows]
    return {
        "held_out_loss": sum(loss.total.item() for loss in losses) / sum(loss.tokens for loss in losses),
        "held_out_right": sum(loss.right == loss.tokens for loss in losses) / len(rows),
    }


def count_linear_parameters(model: Any) -> int:
    """Counts the weights that every token passes through, without embeddings and head."""
    linear = (each for name, each in model.named_modules() if isinstance(each, torch.nn.Linear))
    return sum(each.weight.numel() for each in linear if each.weight.shape[0] < 40_000)


def ours(source: Path, rows: Batch) -> Variant:
    """loop.py's own step: rows packed, the head at supervised tokens only, the machine's best format."""
    device = best_device()
    dtype = best_dtype(device)
    longest = max(len(row.ids) for row in rows)
    base = load_model(str(source), device, dtype)
    able = replace(find_abilities(base, longest), kept_positions=trim_last_mlp(base))
    model = add_lora(base, SETTINGS)
    micro_batcher = MicroBatcher(
        pack_tokens(device), UNREDUCED, packs=able.packs, fill=fill_packs, width=width, tell=print
    )
    method = Sft(model, TrainingSetup(base, Rows(rows, 0, 0), None, able, device, dtype))
    state = TrainState(method, new_optimizer(model), micro_batcher, check_pause=lambda: None)

    def step(batch: Batch) -> float:
        return train_step(state, batch, SETTINGS.learning_rate, 1).loss

    return Variant(model, dtype, step)


def trl(source: Path, rows: Batch) -> Variant:
    """TRL's SFTTrainer at its best settings: batches of similar length, bf16, loss on the answers only."""
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    device = best_device()
    dtype = best_dtype(device)
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    table = Dataset.from_list(
        [{"input_ids": list(row.ids), "completion_mask": [int(s) for s in row.supervised]} for row in rows]
    )
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=SETTINGS.batch_size,
        learning_rate=SETTINGS.learning_rate,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        bf16=dtype == torch.bfloat16,
        use_cpu=device.type == "cpu",
        train_sampling_strategy="group_by_length",
        completion_only_loss=True,
        gradient_checkpointing=False,
        max_length=SETTINGS.max_length,
        report_to="none",
        seed=SEED,
        disable_tqdm=True,
        logging_strategy="no",
    )
    lora = LoraConfig(
        r=SETTINGS.lora_r, lora_alpha=SETTINGS.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer: Any = SFTTrainer(
        model=model,
        args=settings,
        train_dataset=table,
        peft_config=lora,
        processing_class=load_tokenizer(str(source)),
    )
    trainer.current_gradient_accumulation_steps = 1  # what its own loop sets before the first step
    optimizer, loaded = new_optimizer(trainer.model), list(trainer.get_train_dataloader())
    inputs = iter(loaded)

    def step(batch: Batch) -> float:
        loss = trainer.training_step(trainer.model, next(inputs))
        clip_and_step(trainer.model, optimizer)
        return float(loss)

    return Variant(trainer.model, dtype, step, rows_of_batches(loaded, rows))


def rows_of_batches(loaded: Sequence[dict[str, Any]], rows: Batch) -> list[list[Row]]:
    """Returns the rows of each loaded batch."""
    by_ids = {tuple(row.ids): row for row in rows}
    return [
        [
            by_ids[tuple(ids[seen].tolist())]
            for ids, seen in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True)
        ]
        for batch in loaded
    ]


def tutorial(source: Path, rows: Batch) -> Variant:
    """Every row padded to one length, float32, logits at every token, as in the usual article."""
    device = best_device()
    base: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    lora = LoraConfig(
        r=SETTINGS.lora_r, lora_alpha=SETTINGS.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    from peft import get_peft_model

    model: Any = get_peft_model(base.to(device), lora)
    optimizer = new_optimizer(model)
    length = PADDED_TO if all(len(row.ids) <= PADDED_TO for row in rows) else OR_TO

    def step(batch: Batch) -> float:
        model.train()
        loss = model(**pad(batch, length, device)).loss
        loss.backward()
        clip_and_step(model, optimizer)
        return float(loss.item())

    return Variant(model, torch.float32, step)


VARIANTS: dict[str, Callable[[Path, Batch], Variant]] = {"ours": ours, "trl": trl, "tutorial": tutorial}


def new_optimizer(model: torch.nn.Module) -> torch.optim.Optimizer:
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trainable, lr=SETTINGS.learning_rate, weight_decay=0.0, fused=True)


def clip_and_step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    optimizer.zero_grad()


def pad(batch: Batch, length: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Returns tensors of (rows, length), padded on the right with token 0, which is masked and not learned."""

    def fill(values: Sequence[int], filler: int) -> list[int]:
        return [*values, *[filler] * (length - len(values))]

    labels = [
        [
            token if is_supervised else IGNORED
            for token, is_supervised in zip(row.ids, row.supervised, strict=True)
        ]
        for row in batch
    ]
    return {
        "input_ids": torch.tensor([fill(row.ids, 0) for row in batch], device=device),
        "attention_mask": torch.tensor([fill([1] * len(row.ids), 0) for row in batch], device=device),
        "labels": torch.tensor([fill(row_labels, IGNORED) for row_labels in labels], device=device),
    }


def send(value: dict[str, object] | dict[str, float]) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
