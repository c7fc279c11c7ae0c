"""The memory that is foreseen beside the peaks of our own engine, in processes of their own: within 15%."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.local.conftest import make_tokenizer
from trainers.base_models import Base, find_base
from trainers.local.job_directory import TrainingJob, write_job
from trainers.methods import Parameters
from trainers.sizing.memory import CPU_TOKENS, GPU_TOKENS, Device, Work, estimate_memory

ROOT = Path(__file__).parents[2]
TOLERANCE = 0.15
STEPS = 3
SMOLLM = ROOT / ".cache" / "smollm2-135m"


@dataclass(frozen=True)
class Case:
    """`words` a row; `batch` rows a step."""

    words: int
    batch: int
    number: str = "bf16"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_toy(tmp_path_factory.mktemp("toy"))


def make_toy(folder: Path) -> Path:
    """A Llama of 8 layers, hidden size 256, with random weights: 8 million parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    make_tokenizer(folder)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_job(folder: Path, base: Path, case: Case) -> Path:
    folder.mkdir()
    rows = [
        {
            "messages": [
                {"role": "user", "content": one + " x" * case.words},
                {"role": "assistant", "content": "y"},
            ]
        }
        for one in "abcdefghijklmnopqrstuvwxyz"[: case.batch * STEPS]
    ]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = Parameters(n_epochs=1, batch_size=case.batch, max_length=4096)
    job = TrainingJob(
        "ftjob-1", str(base), "toy", str(folder / "train.jsonl"), None, 1, settings, None, {}, created_at=0
    )
    write_job(folder, job)
    return folder


def peaks(folders: Sequence[Path], number: str) -> list[int]:
    """Bytes that each training grew by."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.local.peaks", *map(str, folders)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "FINETUNE_DTYPE": number},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line)["grown"] for line in done.stdout.splitlines()]


def foreseen(base: Path, folder: Path, case: Case) -> int:
    """For rows as long as the model's own tokenizer writes them."""
    from trainers.local.training.base_model import load_tokenizer
    from trainers.local.training.data import read_rows
    from trainers.local.training.packing import shared_prefix_length

    found = find_base(str(base))
    assert isinstance(found, Base)
    rows = read_rows(folder / "train.jsonl", load_tokenizer(str(base)), 4096, "training_file").rows
    answer = sum(rows[0].supervised)
    work = Work("lora", len(rows[0].ids), case.batch, answer=answer, shared=shared_prefix_length(rows))
    return estimate_memory(found.architecture, work, Device("cpu", 2 if case.number == "bf16" else 4)).total


def check(base: Path, cases: Sequence[Case], folder: Path) -> None:
    folders = [make_job(folder / f"{one.words}x{one.batch}", base, one) for one in cases]
    for case, job, grown in zip(cases, folders, peaks(folders, cases[0].number), strict=True):
        expected = foreseen(base, job, case)
        assert expected == pytest.approx(grown, rel=TOLERANCE), (
            f"{case}: foreseen {expected:,}, measured {grown:,}"
        )


@pytest.mark.usefixtures("real_processes")  # a forked one begins with free memory of its parent's
@pytest.mark.parametrize("number", [pytest.param("bf16", marks=pytest.mark.slow), "fp32"])
def test_toy_trainings_take_the_memory_that_was_foreseen(toy: Path, tmp_path: Path, number: str) -> None:
    check(toy, [Case(90, 4, number), Case(450, 1, number)], tmp_path)


@pytest.mark.slow
@pytest.mark.usefixtures("real_processes")
@pytest.mark.parametrize("number", ["bf16", "fp32"])
def test_smollm2_135m_takes_the_memory_that_was_foreseen(tmp_path: Path, number: str) -> None:
    assert SMOLLM.exists(), "make it with: python -m trainers.local.demo_model .cache/smollm2-135m"
    check(SMOLLM, [Case(80, 3, number), Case(280, 1, number)], tmp_path)


def test_as_many_tokens_are_computed_at_a_time_as_the_engine_does() -> None:
    import torch

    from trainers.local.training.packing import pack_tokens

    assert pack_tokens(torch.device("cpu")) == CPU_TOKENS
    assert pack_tokens(torch.device("cuda")) == GPU_TOKENS
