"""`TRITON_INTERPRET=1 python -m tests.local.kernels.liger_comparison NAME …`: toy models with and without Liger.

They are compared on a CPU in float32, by Triton's interpreter. Prints one JSON line a model.

Packed rows with positions and a mask of their own, LoRA matrices beside all layers, the last layer trimmed: as on CUDA.
"""

from __future__ import annotations

import csv
import importlib
import json
import os
import sys
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import torch

from tests.local import families
from tests.local.conftest import make_model, make_tokenizer
from tests.local.preferences import write_pairs
from tests.local.runs import make_job
from tests.local.training.test_packing import ROWS, tiny
from trainers.local.job_directory import read_job, read_json
from trainers.local.kernels import liger
from trainers.local.kernels.fused_layers import fuse_norms, trim_last_mlp
from trainers.local.kernels.liger import replace_by_liger
from trainers.local.training.base_model import add_lora, recompute_activations
from trainers.local.training.methods import dpo
from trainers.local.training.packing import Abilities, measure, pack_rows
from trainers.methods import Parameters

LONG = {"rope_parameters": families.LONG_ROPE, "original_max_position_embeddings": 256}
CPU = torch.device("cpu")
PAIRS = "pairs"


def main() -> None:
    warnings.simplefilter("ignore")
    complete_interpreter()
    for name in sys.argv[1:]:
        child = os.fork()  # Liger also writes into transformers' modules, for good
        if child == 0:
            print(json.dumps(compare_pairs() if name == PAIRS else compare(name)), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"{name} could not be compared")


def complete_interpreter() -> None:
    """Adds what Liger's kernels need and Triton 3.9's interpreter lacks: Python's floats as float32, and functions of
    CUDA's library."""
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    language: Any = importlib.import_module("triton.language")
    convert = interpreter._implicit_cvt

    def convert_float(value: Any) -> Any:
        if not isinstance(value, float):
            return convert(value)
        handle = interpreter.TensorHandle(numpy.array([value], dtype=numpy.float32), language.float32)
        return language.tensor(handle, language.float32)

    interpreter._implicit_cvt = convert_float
    library: Any = importlib.import_module("triton.language.extra.libdevice")
    library.rsqrt = lambda x: language.rsqrt(x)  # looked up late: a kernel runs with others in its place
    library.tanh = lambda x: 2 * language.sigmoid(2 * x) - 1


def compare(name: str) -> dict[str, Any]:
    """The `_apart` values are relative: of the loss, and the largest of any gradient."""
    expected, gradients = loss_and_gradients(make_named_model(name), name)
    other = make_named_model(name)
    kernels = replace_by_liger(other)
    loss, theirs = loss_and_gradients(other, name)
    differences = [(a - b).norm() / a.norm() for a, b in zip(gradients, theirs, strict=True)]
    return {
        "name": name,
        "kernels": kernels.name,
        "why": kernels.why,
        "loss_apart": abs(loss - expected) / expected,
        "gradients": len(differences),
        "gradient_apart": max(differences).item(),
        "replaced": Counter(
            module._get_name() for module in other.modules() if module._get_name().startswith("Liger")
        ),
        "rotary": rotary(other),
    }


def compare_pairs() -> dict[str, Any]:
    """The curves of two steps of DPO on a tiny Llama, by the engine itself."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        make_tokenizer(folder / "tiny")
        make_model(folder / "tiny")
        own = train_pairs(folder, "own")
        liger.choose_kernels = lambda model, device, *, is_sharded=False: replace_by_liger(model)
        return {
            "name": PAIRS,
            "own": own,
            "theirs": train_pairs(folder, "theirs"),
            "kernels": (read_json(folder / "theirs" / "kernels.json") or {})["kernels"],
        }


def train_pairs(folder: Path, name: str) -> list[list[float]]:
    (folder / name).mkdir()
    file = write_pairs(folder / name / "train.jsonl", 4)
    settings = Parameters(n_epochs=1, batch_size=2, learning_rate=5e-3, lora_r=4)
    job = make_job(folder / name, folder / "tiny", file, settings, method="dpo")
    dpo.train(job, read_job(job))
    with (job / "results.csv").open() as lines:
        curves = csv.DictReader(lines)
        return [[float(each[column]) for column in ("train_loss", "train_reward_margin")] for each in curves]


def make_named_model(name: str) -> Any:
    """A model with fused norms, as load_model returns it."""
    torch.manual_seed(7)
    family = name.partition(" ")[0]
    model = tiny(family, "sdpa", **(LONG if name.endswith("longrope") else {}))
    for weight in model.parameters():
        weight.requires_grad_(False)
    fuse_norms(model)
    return model


def loss_and_gradients(model: Any, name: str) -> tuple[float, list[torch.Tensor]]:
    able = Abilities(packs=True, selects=True, kept_positions=trim_last_mlp(model))
    torch.manual_seed(11)
    adapted = add_lora(model, Parameters(lora_r=4))
    matrices = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    for matrix in matrices:  # B starts at 0, which makes A's gradient 0
        torch.nn.init.normal_(matrix.data, std=0.1)
    if name.endswith("recomputed"):
        recompute_activations(adapted)
    adapted.train()
    loss = measure(adapted, pack_rows([*ROWS, *ROWS], CPU, torch.float32), able).total
    return loss.item(), list(torch.autograd.grad(loss, matrices))


def rotary(model: Any) -> str:
    """Whose rotary embedding the model uses."""
    source = sys.modules[type(model).__module__]
    return str(source.apply_rotary_pos_emb.__module__).partition(".")[0]


if __name__ == "__main__":
    main()
